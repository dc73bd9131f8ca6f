"""Changes of model folders as people meet them, for tests: each takes a whole folder and leaves another."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

Change = Callable[[Path], None]


def change(name: str, edit: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]], folder: Path) -> None:
    """Rewrites the weights of a component; ``.`` stands for the folder itself."""
    (file,) = (folder / name).glob("*.safetensors")
    weights = {key: value.clone() for key, value in edit(load_file(file)).items()}
    save_file(weights, file, metadata={"format": "pt"})


def lacking(part: str, *signs: str) -> Change:
    """Leaves out all keys that hold one of the signs; there must be some."""

    def edit(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        left = {key: value for key, value in weights.items() if not any(sign in key for sign in signs)}
        assert 0 < len(left) < len(weights)
        return left

    return partial(change, part, edit)


def renamed(part: str, old: str, new: str) -> Change:
    def edit(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        assert any(old in key for key in weights)
        return {key.replace(old, new): value for key, value in weights.items()}

    return partial(change, part, edit)


def prefixed(part: str, prefix: str) -> Change:
    return partial(change, part, lambda weights: {prefix + key: value for key, value in weights.items()})


def with_more(part: str, sign: str, name: str) -> Change:
    """Adds a key that the model has no place for beside one that it has."""

    def edit(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        near = next(key for key in weights if sign in key)
        return {**weights, near.replace(sign, name): torch.ones(2, 2)}

    return partial(change, part, edit)


def reshaped(part: str) -> Change:
    def edit(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        key = max(weights, key=lambda key: weights[key].numel())
        return {**weights, key: weights[key][1:]}

    return partial(change, part, edit)


def halved(part: str) -> Change:
    return partial(change, part, lambda weights: {key: value.half() for key, value in weights.items()})


def cut(part: str, size: int = -100) -> Change:
    def apply(folder: Path) -> None:
        (file,) = (folder / part).glob("*.safetensors")
        file.write_bytes(file.read_bytes()[:size])

    return apply


def sharded(part: str, name: str = "", **index: Any) -> Change:
    """Cuts the weights in two files and an index, whose keys may be replaced; ``name`` replaces that of one file."""

    def apply(folder: Path) -> None:
        (file,) = (folder / part).glob("*.safetensors")
        stem, weights = file.name.removesuffix(".safetensors"), load_file(file)
        places = {key: f"{stem}-0000{1 + number % 2}-of-00002.safetensors" for number, key in enumerate(weights)}
        for place in set(places.values()):
            held = {key: value.clone() for key, value in weights.items() if places[key] == place}
            save_file(held, folder / part / place, metadata={"format": "pt"})
        file.unlink()
        if name:
            first = min(places.values())
            wanted = name.format(folder=folder, name=first)
            if (folder / part / wanted) != folder / part / first and "gone" not in name:
                shutil.move(folder / part / first, folder / part / wanted)
            places = {key: wanted if place == first else place for key, place in places.items()}
        content = {"metadata": {"total_size": 1}, "weight_map": places, **index}
        (folder / part / f"{stem}.safetensors.index.json").write_text(json.dumps(content))

    return apply


def to_variant(word: str, *parts: str, keep: bool = False) -> Change:
    """Gives weights another name, as a variant; with ``keep`` there are both."""

    def apply(folder: Path) -> None:
        for part in parts:
            files = [
                file for file in (folder / part).glob("*.safetensors*") if "." not in file.name.partition(".safe")[0]
            ]
            # The index last, which names the others.
            for file in sorted(files, key=lambda file: file.suffix == ".json"):
                stem, _, rest = file.name.partition(".safetensors")
                if rest:
                    new = f"{stem}.safetensors.index.{word}.json"
                elif "-of-" in stem:
                    base, _, numbers = stem.partition("-")
                    new = f"{base}.{word}-{numbers}.safetensors"
                    index = folder / part / f"{base}.safetensors.index.json"
                    index.write_text(index.read_text().replace(file.name, new))
                else:
                    new = f"{stem}.{word}.safetensors"
                shutil.copy(file, file.with_name(new))
                if not keep:
                    file.unlink()

    return apply


def linked(part: str) -> Change:
    """Puts a component elsewhere, and a link in its place."""

    def apply(folder: Path) -> None:
        away = folder.parent / f"away-{folder.name}"
        shutil.move(folder / part, away)
        (folder / part).symlink_to(away, target_is_directory=True)

    return apply


def as_cached(folder: Path) -> None:
    """Every file a link to one that is named by its content's hash, as the cache of the hub has it."""
    blobs = folder.parent / f"blobs-{folder.name}"
    blobs.mkdir()
    for number, file in enumerate(sorted(file for file in folder.rglob("*") if file.is_file())):
        shutil.move(file, blobs / str(number))
        file.symlink_to(os.path.relpath(blobs / str(number), file.parent))


def dangling(file: str) -> Change:
    def apply(folder: Path) -> None:
        (folder / file).unlink()
        (folder / file).symlink_to("nowhere")

    return apply


def written(file: str, text: str) -> Change:
    def apply(folder: Path) -> None:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(text)

    return apply


def without(*files: str) -> Change:
    def apply(folder: Path) -> None:
        for file in files:
            path = folder / file
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    return apply


def said(file: str, **changes: Any) -> Change:
    """Changes keys of a configuration; Ellipsis removes one."""

    def apply(folder: Path) -> None:
        content = {**json.loads((folder / file).read_text()), **changes}
        content = {key: value for key, value in content.items() if value is not ...}
        (folder / file).write_text(json.dumps(content))

    return apply


def pickled(part: str) -> Change:
    def apply(folder: Path) -> None:
        (file,) = (folder / part).glob("*.safetensors")
        torch.save(load_file(file), file.with_suffix(".bin"))
        file.unlink()

    return apply


def in_two_files(folder: Path) -> None:
    """The vocabulary of CLIP as it was first published."""
    place = folder / "tokenizer"
    model = json.loads((place / "tokenizer.json").read_text())["model"]
    (place / "vocab.json").write_text(json.dumps(model["vocab"]))
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    (place / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
    (place / "tokenizer.json").unlink()


def then(*changes: Change) -> Change:
    def apply(folder: Path) -> None:
        for each in changes:
            each(folder)

    return apply
