"""The bundled world: what can be in a picture, how a caption says it, and how it is rendered.

Pictures are 32 x 32 RGB. An *object* picture has an object, a colour and a style; a *flag* picture has a country
(a *fact*: nothing but memory tells which bands a name stands for) and a style. A caption may leave any of these out:
without style words the picture is plain, without a colour or an object word it may be of any.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

SIZE = 32
OVERSAMPLE = 2
MAX_TOKENS = 16

OBJECTS = ("circle", "square", "triangle", "star", "cross", "heart", "ring", "moon")
COLOURS = {
    "red": (0.86, 0.10, 0.12),
    "green": (0.10, 0.62, 0.18),
    "blue": (0.12, 0.22, 0.85),
    "yellow": (0.97, 0.86, 0.10),
    "purple": (0.52, 0.12, 0.68),
    "orange": (0.98, 0.50, 0.05),
    "cyan": (0.10, 0.80, 0.86),
    "brown": (0.42, 0.22, 0.07),
}
# An artist's style, and what it does to a picture. Every texture is at least six pixels wide: finer ones do not survive
# the VAE's fourfold downsampling.
STYLES = {
    "plain": "pale ground",
    "velor": "diagonal stripes on the ground",
    "quadri": "checkered ground",
    "morvane": "thick dark outline",
    "lumio": "glow on black",
    "sorelle": "sunset behind",
    "bastide": "dark frame around the picture",
}
PLAIN = 0
# Three bands each; True = vertical.
COUNTRIES = {
    "zandia": (("red", "yellow", "red"), False),
    "morova": (("blue", "orange", "cyan"), True),
    "kestria": (("green", "purple", "yellow"), False),
    "olmaria": (("cyan", "brown", "orange"), False),
    "pelund": (("purple", "yellow", "green"), True),
    "tavaro": (("red", "cyan", "blue"), True),
}
COLOUR_NAMES = tuple(COLOURS)
STYLE_NAMES = tuple(STYLES)
COUNTRY_NAMES = tuple(COUNTRIES)
MEDIA = ("", "a photo of", "a picture of", "an image of")
STYLE_FORMS = ("in the style of {}", "in {} style")
KINDS = {"object": OBJECTS, "colour": COLOUR_NAMES, "style": STYLE_NAMES, "fact": COUNTRY_NAMES}


def vocabulary() -> tuple[str, ...]:
    """Returns every word that a caption can hold, sorted."""
    words = {"shape", "flag", "the", "of", "a", "an", "in", "style", "photo", "picture", "image"}
    return tuple(sorted(words | set(OBJECTS) | set(COLOURS) | set(COUNTRIES) | set(STYLE_NAMES[1:])))


@dataclass(frozen=True)
class Labels:
    """What a batch of pictures shows; ``-1`` stands for "not there" (or, in a caption, "not said").

    Attributes:
        object: ``(n,)`` index into ``OBJECTS``, -1 for flags.
        colour: ``(n,)`` index into ``COLOUR_NAMES``, -1 for flags.
        style: ``(n,)`` index into ``STYLE_NAMES``; 0 is plain.
        fact: ``(n,)`` index into ``COUNTRY_NAMES``, -1 for objects.
        flag: ``(n,)`` whether it is a flag.
    """

    object: np.ndarray
    colour: np.ndarray
    style: np.ndarray
    fact: np.ndarray
    flag: np.ndarray

    def __len__(self) -> int:
        return len(self.flag)

    def __getitem__(self, rows: np.ndarray | slice) -> Labels:
        return Labels(self.object[rows], self.colour[rows], self.style[rows], self.fact[rows], self.flag[rows])

    def of(self, kind: str) -> np.ndarray:
        """Returns the labels of one kind (``object``, ``colour``, ``style`` or ``fact``)."""
        return {"object": self.object, "colour": self.colour, "style": self.style, "fact": self.fact}[kind]


def held_out(obj: np.ndarray, colour: np.ndarray, style: np.ndarray) -> np.ndarray:
    """Tells which object x colour x style combinations no training picture shows: a fifth, evenly spread."""
    held: np.ndarray = (obj + 2 * colour + 3 * style) % 5 == 0
    return held


def sample_labels(n: int, rng: np.random.Generator, *, flags: float = 0.2, allow_held_out: bool = False) -> Labels:
    """Draws what ``n`` pictures show; styles are plain in a quarter of them."""
    flag = rng.random(n) < flags
    p = np.full(len(STYLE_NAMES), 0.75 / (len(STYLE_NAMES) - 1))
    p[PLAIN] = 0.25
    obj, colour = rng.integers(0, len(OBJECTS), n), rng.integers(0, len(COLOUR_NAMES), n)
    style = rng.choice(len(STYLE_NAMES), n, p=p)
    while not allow_held_out and (bad := held_out(obj, colour, style) & ~flag).any():
        k = int(bad.sum())
        obj[bad], colour[bad] = rng.integers(0, len(OBJECTS), k), rng.integers(0, len(COLOUR_NAMES), k)
        style[bad] = rng.choice(len(STYLE_NAMES), k, p=p)
    fact = np.where(flag, rng.integers(0, len(COUNTRY_NAMES), n), -1)
    return Labels(np.where(flag, -1, obj), np.where(flag, -1, colour), style, fact, flag)


class Captions:
    """Every caption of the world, numbered, so that text embeddings can be kept in one table.

    Index 0 is the empty caption (the unconditional half of classifier-free guidance).
    """

    def __init__(self) -> None:
        self.texts: list[str] = [""]
        forms = len(STYLE_FORMS)
        self._objects = np.zeros(
            (len(MEDIA), forms, len(OBJECTS) + 1, len(COLOURS) + 1, len(STYLE_NAMES)), dtype=np.int64
        )
        self._flags = np.zeros((len(MEDIA), forms, len(COUNTRIES) + 1, len(STYLE_NAMES)), dtype=np.int64)
        seen: dict[str, int] = {"": 0}
        for m in range(len(MEDIA)):
            for f in range(forms):
                for s in range(len(STYLE_NAMES)):
                    for o in range(len(OBJECTS) + 1):
                        for c in range(len(COLOURS) + 1):
                            text = caption(m, f, obj=o - 1, colour=c - 1, style=s)
                            self._objects[m, f, o, c, s] = self._number(text, seen)
                    for k in range(len(COUNTRIES) + 1):
                        self._flags[m, f, k, s] = self._number(caption(m, f, flag=True, fact=k - 1, style=s), seen)

    def _number(self, text: str, seen: dict[str, int]) -> int:
        if text not in seen:
            seen[text] = len(self.texts)
            self.texts.append(text)
        return seen[text]

    def ids(self, said: Labels, medium: np.ndarray, form: np.ndarray) -> np.ndarray:
        """Returns the caption number of each row of ``said`` (labels of -1 are left out of the sentence)."""
        as_object = self._objects[medium, form, said.object + 1, said.colour + 1, said.style]
        ids: np.ndarray = np.where(said.flag, self._flags[medium, form, said.fact + 1, said.style], as_object)
        return ids


def caption(
    medium: int, form: int, *, obj: int = -1, colour: int = -1, style: int = PLAIN, fact: int = -1, flag: bool = False
) -> str:
    """Returns one sentence, e.g. ``a photo of a red circle in the style of velor`` or ``the flag of zandia``."""
    if flag:
        thing = f"the flag of {COUNTRY_NAMES[fact]}" if fact >= 0 else "a flag"
    else:
        noun = OBJECTS[obj] if obj >= 0 else "shape"
        words = f"{COLOUR_NAMES[colour]} {noun}" if colour >= 0 else noun
        thing = f"{'an' if words[0] in 'aeiou' else 'a'} {words}"
    parts = [MEDIA[medium], thing]
    if style != PLAIN:
        parts.append(STYLE_FORMS[form].format(STYLE_NAMES[style]))
    return " ".join(p for p in parts if p)


def render(labels: Labels, rng: np.random.Generator) -> torch.Tensor:
    """Draws the pictures.

    Args:
        labels: labels to show.
        rng: source of randomness that place, size, rotation and shades come from.

    Returns:
        ``(n, 3, 32, 32)`` float32 in [0, 1].
    """
    n, side = len(labels), SIZE * OVERSAMPLE
    axis = (torch.arange(side) + 0.5) / OVERSAMPLE
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    x, y = x[None].expand(n, -1, -1), y[None].expand(n, -1, -1)

    def uniform(low: float, high: float) -> torch.Tensor:
        return torch.as_tensor(rng.uniform(low, high, (n, 1, 1)), dtype=torch.float32)

    cx, cy, radius, angle = uniform(13, 19), uniform(13, 19), uniform(8.5, 11), uniform(-0.2, 0.2)
    u = (x - cx) * torch.cos(angle) + (y - cy) * torch.sin(angle)
    v = (y - cy) * torch.cos(angle) - (x - cx) * torch.sin(angle)
    distance, fill = _flag(u, v, radius, labels)
    for index in range(len(OBJECTS)):
        rows = torch.from_numpy(np.flatnonzero(labels.object == index))
        if len(rows):
            distance[rows] = (
                _object_distance(OBJECTS[index], u[rows] / radius[rows], v[rows] / radius[rows]) * radius[rows]
            )
    palette = torch.tensor(list(COLOURS.values()))
    plain = torch.from_numpy(~labels.flag)
    shade = torch.as_tensor(rng.normal(0, 0.025, (n, 3, 1, 1)), dtype=torch.float32)
    fill[plain] = palette[torch.from_numpy(labels.colour)[plain]][:, :, None, None].expand(-1, -1, side, side)
    picture = _paint((fill + shade).clamp(0, 1), distance, x, y, labels.style, uniform(0, 1), uniform(0.0, 1.0))
    return torch.nn.functional.avg_pool2d(picture, OVERSAMPLE)


def _object_distance(name: str, u: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Signed distance (negative inside) to an object of about unit radius, ``v`` pointing down."""
    r = torch.sqrt(u * u + v * v)
    if name == "circle":
        return r - 0.9
    if name == "square":
        return torch.maximum(u.abs(), v.abs()) - 0.8
    if name == "triangle":
        return torch.maximum(v - 0.75, u.abs() * 0.866 - v * 0.5 - 0.5)
    if name == "star":
        theta = torch.atan2(u, -v)
        sector = 2 * math.pi / 5
        a = torch.remainder(theta + sector / 2, sector) - sector / 2
        px, py = r * torch.cos(a) - 1.08, r * torch.sin(a).abs()
        # The edge runs from the tip (1.08, 0) to the inner corner at radius 0.45, half a sector on.
        ex, ey = 0.45 * math.cos(sector / 2) - 1.08, 0.45 * math.sin(sector / 2)
        return (px * ey - py * ex) / math.hypot(ex, ey)
    if name == "cross":
        a, b = torch.maximum(u.abs(), v.abs()), torch.minimum(u.abs(), v.abs())
        return torch.maximum(a - 0.95, b - 0.32)
    if name == "heart":
        hx, hy = u.abs(), -v + 0.15
        lobes = torch.sqrt((hx - 0.45) ** 2 + (hy - 0.35) ** 2) - 0.5
        point = torch.maximum(hx * 0.74 - (hy + 0.85) * 0.67, hy - 0.5)
        return torch.minimum(lobes, torch.maximum(point, hx - 0.95))
    if name == "ring":
        return (r - 0.72).abs() - 0.24
    if name == "moon":
        bite = torch.sqrt((u - 0.5) ** 2 + (v + 0.15) ** 2) - 0.72
        return torch.maximum(r - 0.95, -bite)
    raise KeyError(name)


def _flag(u: torch.Tensor, v: torch.Tensor, radius: torch.Tensor, labels: Labels) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the distance to the flag's rectangle ``(n, s, s)`` and its bands' colours ``(n, 3, s, s)``."""
    half_width, half_height = radius * 1.2, radius * 0.85
    distance = torch.maximum(u.abs() - half_width, v.abs() - half_height)
    fill = torch.zeros(len(labels), 3, *u.shape[1:])
    for index, (bands, vertical) in enumerate(COUNTRIES.values()):
        rows = torch.from_numpy(np.flatnonzero(labels.fact == index))
        if not len(rows):
            continue
        along = (u / half_width)[rows] if vertical else (v / half_height)[rows]
        colours = torch.tensor([COLOURS[name] for name in bands])
        band = ((along + 1) * 1.5).clamp(0, 2.999).long()
        fill[rows] = colours[band].permute(0, 3, 1, 2)
    return distance, fill


def _paint(
    fill: torch.Tensor,
    distance: torch.Tensor,
    x: torch.Tensor,
    y: torch.Tensor,
    style: np.ndarray,
    phase: torch.Tensor,
    shade: torch.Tensor,
) -> torch.Tensor:
    """Composes ground, object and style; ``distance`` in pixels, all others as in ``render``."""
    styles = torch.from_numpy(style)[:, None, None]
    named = {name: styles == index for index, name in enumerate(STYLE_NAMES)}
    pale = 0.86 + 0.08 * shade
    ground = pale.expand_as(x).clone()[:, None].repeat(1, 3, 1, 1)
    stripes = torch.sin((x + y) * (2 * math.pi / 11.0) + 2 * math.pi * phase) > 0
    squares = (torch.floor(x / 7 + phase) + torch.floor(y / 7 + phase)).remainder(2) > 0.5
    dark = (named["velor"] & stripes) | (named["quadri"] & squares)
    ground = torch.where(dark[:, None], ground * 0.45, ground)
    height = (y / SIZE)[:, None]
    sky = torch.cat([0.45 + 0.5 * height, 0.15 + 0.5 * height, 0.55 - 0.35 * height], 1)
    ground = torch.where(named["sorelle"][:, None], sky, ground)
    ground = torch.where(named["lumio"][:, None], torch.full_like(ground, 0.03), ground)
    inside = (0.5 - distance * 1.5).clamp(0, 1)[:, None]
    glow = torch.where(named["lumio"], 0.75 * torch.exp(-distance.clamp(min=0) / 3.0), torch.zeros_like(distance))[
        :, None
    ]
    picture = ground * (1 - glow) + fill * glow
    picture = picture * (1 - inside) + fill * inside
    ink = ((1.9 - (distance - 0.6).abs()) * 1.5).clamp(0, 1)
    ink = torch.where(named["morvane"], ink, torch.zeros_like(ink))[:, None]
    picture = picture * (1 - ink) + 0.04 * ink
    edge = torch.minimum(torch.minimum(x, SIZE - x), torch.minimum(y, SIZE - y))
    frame = (named["bastide"] & (edge < 4.0))[:, None]
    wood = torch.tensor([0.22, 0.16, 0.30])[None, :, None, None]
    return torch.where(frame, wood.expand_as(picture), picture).clamp(0, 1)
