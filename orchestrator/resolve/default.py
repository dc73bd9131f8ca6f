"""Models that the default family serves: what calling them tells, found out once, and what is said of them."""

from __future__ import annotations

import hashlib
import os
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from pydantic import TypeAdapter

from loco_core import plugins
from loco_core.diffusion import default
from loco_core.diffusion.checkpoints import class_of, named_class
from loco_core.diffusion.default.profile import Profile
from loco_core.diffusion.facts import DEFAULT, family_of_pipeline, left_out
from loco_core.diffusion.folders import INDEX, read_object
from loco_core.diffusion.hub import cached_folder
from loco_core.diffusion.weights import identity
from loco_core.types import Extras
from orchestrator.resolve.apart import LIBRARIES, apart
from orchestrator.resolve.checkpoints import Checkpoint
from orchestrator.spec import ModelSpec

_PROFILE = TypeAdapter(Profile)


def profile_of(found: Checkpoint, weights: str, dtype: str) -> Profile:
    """Returns what calling a pipeline tells of it; its user's cache folder remembers that.

    Workers find it out anew, and refuse a model that is not what is remembered.

    Args:
        found: where the weights are.
        weights: hash of them, see :func:`identity_of`.
        dtype: number format that it is swept in.

    Raises:
        ModelError: the default family cannot serve it.
    """
    versions = [f"{name} {version(name)}" for name in ("loco-sweep", *LIBRARIES)]
    # What finds it out may have changed since, in a clone too.
    own = b"".join(file.read_bytes() for file in sorted(Path(default.__file__).parent.glob("*.py")))
    said = [class_of(found.path, found.revision), weights, repr(found.extras), *versions]
    key = hashlib.sha256("\n".join(said).encode() + own).hexdigest()
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    file = Path(cache) / "loco-sweep" / "profiles" / f"{key}.json"
    try:
        return _PROFILE.validate_json(file.read_bytes())
    except (OSError, ValueError):
        # Not there, or of an earlier version.
        profile: Profile = apart(probed, found.path, found.revision, dtype, found.extras)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(_PROFILE.dump_json(profile))
    except OSError:
        # Found out again next time, that is all.
        pass
    return profile


def code_of(kind: str) -> str:
    """Returns a hash of the file of a pipeline class that a package brings; empty of a class of diffusers.

    The package is not imported for it: that may load torch.

    Args:
        kind: name of the class.
    """
    if (value := plugins.outside("pipelines").get(kind)) is None:
        return ""
    top, *rest = value.partition(":")[0].split(".")
    if (spec := find_spec(top)) is None:
        return ""
    places = spec.submodule_search_locations or ()
    files = [Path(spec.origin)] if spec.origin and not places else []
    for place in (Path(each).joinpath(*rest) for each in places):
        files += [place.with_suffix(".py"), *sorted(place.rglob("*.py"))]
    read = [file.read_bytes() for file in files if file.is_file()]
    return hashlib.sha256(b"\0".join(read)).hexdigest() if read else ""


def identity_of(found: Checkpoint) -> tuple[str, str | None]:
    """Returns a hash of all that a model is drawn from, and the commit of what of it comes from the hub.

    Of a class that a package brings the code is a part of it, as it is what draws.

    Raises:
        ModelError: something of it is missing or damaged, or the hub cannot be reached.
    """
    weights, pinned = identity(found.path, found.revision, left_out(found.family), found.extras)
    code = code_of(named_class(found.index, found.path)) if found.family == DEFAULT else ""
    return (hashlib.sha256(f"{weights}\ncode {code}".encode()).hexdigest() if code else weights), pinned


def probed(path: str, revision: str | None, dtype: str, extras: Extras) -> Profile:
    """Loads a pipeline on the CPU, and returns what calling it tells.

    Raises:
        ModelError: the default family cannot serve it.
    """
    from loco_core.diffusion.default.family import profile_in
    from loco_core.diffusion.model import load_model

    # Of half precision a CPU computes in bfloat16 alone.
    number = "bfloat16" if dtype == "float16" else dtype
    return profile_in(load_model(DEFAULT, path, revision, number, "cpu", extras=extras))


def default_class(spec: ModelSpec) -> str:
    """Returns the class of a model that the default family serves; empty of any other, or of one that is not here.

    Raises:
        ModelError: its index is none, or it is known why no family serves it.
    """
    if spec.path is None or spec.is_single_file or (folder := cached_folder(spec.path, spec.revision, INDEX)) is None:
        return ""
    if not (folder / INDEX).is_file():
        # Said where the model is looked up.
        return ""
    kind = named_class(read_object(folder / INDEX), spec.path)
    return kind if family_of_pipeline(kind, spec.path) == DEFAULT else ""
