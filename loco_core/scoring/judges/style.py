"""Names the style of a picture by the pictures of a folder that it is nearest to, corrected for hubs.

The descriptor is built as that of CSD (Somepalli et al., "Measuring Style Similarity in Diffusion Models", ECCV 2024):
what a CLIP image tower sees, through a linear style head where the model's folder holds one (``style_head.safetensors``
with one tensor ``weight``, (out, hidden)), else through the projection of CLIP. It is CSD's where tower and head are:
CSD trained both, and its published checkpoint, a pickle, is never read here. A head is read from a folder only, not
from the hub.

Raw cosines mislead: some reference pictures are near everything, and drawn pictures are alike in what photographed
ones are not. CSLS (Conneau et al., ICLR 2018, section 2.3) corrects both: 2 cos(x, y) - r(x) - r(y), where r is the
mean cosine with the k nearest of the other domain. Of a picture x these are references; of a reference y drawn
pictures, of any class, which a folder ``_drawn`` beside the classes holds. Without it the references of other classes
stand for them, which is not the paper's r: the pictures of a sweep cannot, as a picture must be named alike in any
company. A class scores the mean of its k best.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import Field

from loco_core.errors import ModelError, SpecError, did_you_mean
from loco_core.scoring.base import JudgeSettings, JudgeTask, Kinds
from loco_core.scoring.probabilities import named_best
from loco_core.scoring.transformers_models import as_pictures, loading

if TYPE_CHECKING:
    import torch

MODEL_TYPES = ("clip", "clip_vision_model")
PICTURES = True
HEAD = "style_head.safetensors"
FILES = (HEAD,)
DRAWN = "_drawn"
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


class Settings(JudgeSettings):
    """Settings.

    Attributes:
        kinds: kinds that the pictures are of.
        neighbours: number k of nearest pictures that r, and the score of a class, are means over.
        abstain: least difference between the scores of the best class and of the second; below it a picture is
            ``unsure``.
    """

    kinds: Kinds = ("style",)
    neighbours: Annotated[int, Field(ge=1)] = 10
    abstain: Annotated[float, Field(ge=0, le=4)] = 0.02


def seen(task: JudgeTask, kind: str) -> tuple[str, ...]:
    """Returns the classes of a kind that there are pictures of."""
    return tuple(name for name in task.classes[kind].names if _files(Path(task.pictures) / name))


def check(task: JudgeTask) -> None:
    """Refuses a folder that does not hold pictures of two classes of each kind, or holds folders of none.

    Raises:
        SpecError: it does.
    """
    top = Path(task.pictures)
    if not top.is_dir():
        raise _wrong(f"no folder {top}; expected one with a folder of pictures per class")
    known = {name for found in task.classes.values() for name in found.names} | {DRAWN}
    for folder in sorted(path for path in top.iterdir() if path.is_dir()):
        if folder.name not in known and not folder.name.startswith("."):
            raise _wrong(f'{folder}: no class is called "{folder.name}"{did_you_mean(folder.name, known)}')
    for kind in task.classes:
        if len(seen(task, kind)) < 2:
            names = ", ".join(task.classes[kind].names)
            raise _wrong(f"{top} holds pictures of fewer than two classes of {kind}; expected folders of {names}")


def csls(cosines: np.ndarray, near: np.ndarray, neighbours: int) -> np.ndarray:
    """Returns the corrected similarities ``(n, references)`` (Conneau et al., ICLR 2018, equation 5).

    Args:
        cosines: of pictures and references, ``(n, references)``.
        near: r of each reference, ``(references,)``.
        neighbours: number k of nearest references that r of a picture is the mean over.
    """
    own = _nearest(cosines, neighbours)
    found: np.ndarray = 2 * cosines - own[:, None] - near[None, :]
    return found


class Judge:
    """See the module, and `loco_core.scoring.base.Judge`."""

    def __init__(self, path: str, revision: str | None, device: str, task: JudgeTask) -> None:
        """Loads the tower and describes the pictures of the classes.

        Raises:
            ModelError: it is no CLIP model, cannot be loaded, its head does not fit, or a picture cannot be read.
        """
        import torch
        from transformers import AutoConfig, CLIPImageProcessorPil, CLIPModel, CLIPVisionModelWithProjection

        from loco_core.diffusion.hub import local_scorer

        where, options = local_scorer(path, revision), {"trust_remote_code": False, "local_files_only": True}
        with loading(path, "a CLIP image tower"):
            kind = AutoConfig.from_pretrained(where, **options).model_type
            made = CLIPModel if kind == "clip" else CLIPVisionModelWithProjection
            self._model = made.from_pretrained(where, use_safetensors=True, dtype=torch.float32, **options)
            self._processor = CLIPImageProcessorPil.from_pretrained(where, **options)
        self._model.to(device).eval()
        self._device, self._task = device, task
        self._head = self._read_head(Path(where) / HEAD)
        top, self._references = Path(task.pictures), dict[str, list[tuple[str, np.ndarray]]]()
        drawn = self._described(top / DRAWN)
        for kind in task.classes:
            self._references[kind] = [(name, self._described(top / name)) for name in seen(task, kind)]
        self._near = {kind: self._nearness(found, drawn) for kind, found in self._references.items()}

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds that there are pictures of."""
        return tuple(self._references)

    def embed_images(self, images: torch.Tensor) -> np.ndarray:
        """Returns unit descriptors ``(n, width)``; of a picture that is not finite not-a-number."""
        pictures, finite = as_pictures(images)
        rows = np.stack([self._describe(picture) for picture in pictures])
        rows[~finite] = np.nan
        return rows

    def scores(self, embeddings: np.ndarray, kind: str) -> np.ndarray:
        """Returns a score per class ``(n, classes)`` that there are pictures of, in their order."""
        references, count = self._references[kind], self._task.settings.neighbours
        stacked, found = np.concatenate([rows for _, rows in references]), []
        ends = np.cumsum([len(rows) for _, rows in references])[:-1]
        # One picture at a time: a product with all of them rounds differently with their number.
        for row in embeddings.astype(np.float64):
            near = csls((stacked * row).sum(1)[None], self._near[kind], count)[0]
            found.append([_nearest(part[None], count)[0] for part in np.split(near, ends)])
        return np.array(found).reshape(len(embeddings), len(references))

    def name(self, embeddings: np.ndarray, kind: str) -> list[str]:
        """Names the class of the nearest pictures, or ``unsure``."""
        names = [name for name, _ in self._references[kind]]
        return named_best(self.scores(embeddings, kind), names, self._task.settings.abstain)

    def said(self, text: str, kind: str) -> str | None:
        """Returns the class that a prompt says, whether there are pictures of it or not."""
        return self._task.classes[kind].said(text)

    def _read_head(self, file: Path) -> torch.Tensor | None:
        if not file.is_file():
            return None
        from safetensors.torch import load_file

        with loading(str(file), "a style head"):
            found = load_file(file)
        hidden = self._model.vision_model.config.hidden_size
        weight = found.get("weight")
        if weight is None or weight.ndim != 2 or weight.shape[1] != hidden:
            shapes = ", ".join(f"{name} {tuple(each.shape)}" for name, each in found.items())
            raise ModelError(f"{file} holds {shapes or 'nothing'}; expected one tensor weight of shape (out, {hidden})")
        return weight.float().to(self._device)

    def _describe(self, picture: object) -> np.ndarray:
        import torch

        from loco_core.diffusion.engine import unrounded

        pixels = self._processor([picture], return_tensors="pt")["pixel_values"].to(self._device)
        with torch.no_grad(), unrounded():
            seen_ = self._model.vision_model(pixel_values=pixels).pooler_output
            found = self._model.visual_projection(seen_) if self._head is None else seen_ @ self._head.T
            unit: np.ndarray = torch.nn.functional.normalize(found, dim=-1)[0].cpu().numpy().astype(np.float32)
        return unit

    def _described(self, folder: Path) -> np.ndarray:
        from PIL import Image, UnidentifiedImageError

        rows = []
        for file in _files(folder):
            try:
                with Image.open(file) as picture:
                    rows.append(self._describe(picture.convert("RGB")))
            except (OSError, UnidentifiedImageError) as error:
                raise ModelError(f"{file} cannot be read as a picture: {type(error).__name__}") from None
        return np.array(rows, dtype=np.float64)

    def _nearness(self, references: list[tuple[str, np.ndarray]], drawn: np.ndarray) -> np.ndarray:
        """Returns r of each reference: among drawn pictures, or among the references of other classes."""
        parts = []
        for name, rows in references:
            others = drawn if len(drawn) else np.concatenate([each for other, each in references if other != name])
            parts.append(_nearest(rows @ others.T, self._task.settings.neighbours))
        return np.concatenate(parts)


def _nearest(cosines: np.ndarray, neighbours: int) -> np.ndarray:
    """Returns the mean of the largest values of each row."""
    found: np.ndarray = -np.sort(-cosines, axis=1)[:, :neighbours].mean(1)
    return found


def _files(folder: Path) -> list[Path]:
    return sorted(_pictures(folder)) if folder.is_dir() else []


def _pictures(folder: Path) -> Iterator[Path]:
    return (file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES)


def _wrong(message: str) -> SpecError:
    error = SpecError(f"style: {message}")
    error.loc = ("pictures",)
    return error
