"""How several sweeps share one cluster: each says in Ray's own store what it could use, and all reckon the same."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import ray
from ray._private.state import state as cluster_state
from ray.experimental.internal_kv import _internal_kv_del, _internal_kv_get, _internal_kv_list, _internal_kv_put

NAMESPACE = b"loco_sweep"


@dataclass(frozen=True)
class Claim:
    """What a sweep asks of a cluster.

    Attributes:
        priority: weight of its share.
        wanted: number of workers that it has work for.
        size: what one of them takes, in GPUs, or in CPUs where there are no GPUs.
    """

    priority: float
    wanted: int
    size: int


def shared_out(room: int, claims: Mapping[str, Claim]) -> dict[str, int]:
    """Returns how many workers each sweep gets: one by one to whoever has least for its weight, and one at least.

    Args:
        room: GPUs of the cluster, or CPUs where there are no GPUs.
        claims: what sweeps ask for, by name; what one does not want the others get.
    """
    given = dict.fromkeys(claims, 0)
    left = room
    while True:
        open_to = [name for name, c in claims.items() if given[name] < c.wanted and c.size <= left]
        if not open_to:
            return {name: max(1, count) for name, count in given.items()}
        name = min(open_to, key=lambda n: ((given[n] + 1) * claims[n].size / claims[n].priority, n))
        given[name] += 1
        left -= claims[name].size


class Sharing:
    """The claim of this driver, beside those of others that live.

    A claim has the name of its driver's job: of a driver that is dead, however it died, Ray says so.

    Args:
        priority: weight of this sweep.
    """

    def __init__(self, priority: float) -> None:
        self._priority = priority
        self._name = ray.get_runtime_context().get_job_id()

    def workers(self, wanted: int, room: int, size: int) -> int | None:
        """Claims, and returns how many workers there may be; None where nobody else is there.

        Args:
            wanted: number of workers that there is work for.
            room: as in `shared_out`.
            size: what one takes.
        """
        own = Claim(self._priority, wanted, size)
        _internal_kv_put(self._name, json.dumps(asdict(own)), overwrite=True, namespace=NAMESPACE)
        others = self._others()
        return shared_out(room, {**others, self._name: own})[self._name] if others else None

    def leave(self) -> None:
        """Takes the claim back."""
        _internal_kv_del(self._name, namespace=NAMESPACE)

    def _others(self) -> dict[str, Claim]:
        living = {job["JobID"] for job in cluster_state.job_table() if not job["IsDead"]}
        found = {}
        for key in _internal_kv_list("", namespace=NAMESPACE):
            name = key.decode()
            if name == self._name:
                continue
            if name not in living:
                _internal_kv_del(name, namespace=NAMESPACE)
            elif (text := _internal_kv_get(name, namespace=NAMESPACE)) is not None:
                found[name] = Claim(**json.loads(text))
        return found
