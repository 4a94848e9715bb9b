"""Where vectors live. `stores/SCHEME.py` serves `scheme://…` and holds one class, `Store`.

| scheme | keeps vectors | for |
|---|---|---|
| `edge://folder` | in Qdrant's engine, in a child process, on this disk | one machine |
| `qdrant://host:6334` | in a Qdrant server or cluster | a deployment that grows |
| `memory://` | in numpy arrays of this process | tests and trials |

Every point belongs to a collection, which is one model version: `digits@1`.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from roost import plugins
from roost.clusters import Placement

Payload = dict[str, Any]


@dataclass(frozen=True)
class Point:
    """A stored item."""

    id: str
    """As its caller knows it; `roost.ids.point_id` makes the store's key from it."""
    payload: Payload
    placement: Placement | None
    vector: np.ndarray | None
    """Shape (dim,), float32, unit length; None where it was not asked for."""


@dataclass(frozen=True)
class Hit:
    """A neighbour."""

    point: Point
    score: float
    """Cosine similarity, -1 to 1."""


@dataclass(frozen=True)
class Range:
    """A closed range; None does not bind."""

    min: float | None = None
    max: float | None = None


@dataclass(frozen=True)
class Condition:
    """A condition on the payload's value at `key`; a dot leads into a nested object, a list matches by any member."""

    key: str
    match: str | int | bool | Range


@dataclass(frozen=True)
class Filter:
    """Which points to consider: all conditions hold, the cluster is one of `clusters` (if any are given)."""

    payload: Sequence[Condition] = ()
    clusters: Sequence[int] = ()
    anomaly: bool | None = None


@dataclass(frozen=True)
class Page:
    """A page of points in the order of their keys."""

    points: list[Point] = field(default_factory=list)
    next_key: str | None = None
    """The key at which the next page starts; None on the last page."""


class Store(Protocol):
    """What every store does. `timeout` is what is left of the caller's deadline, in seconds; None: no deadline.

    Raises, from every method: `StoreUnavailable` where the store does not answer, `DeadlineExceeded` where the
    timeout passes first, `DiskFull` where it cannot write for want of space. A collection that was never ensured
    reads as empty.
    """

    async def open(self) -> None:
        """Connect, or start what has to run. Called once, before any other method."""
        ...

    async def close(self) -> None:
        """Write what is pending and let go of everything."""
        ...

    async def ping(self, *, timeout: float | None = None) -> None:
        """Return if the store answers."""
        ...

    async def ensure(self, collection: str, *, dim: int, alias: str | None = None) -> None:
        """Create a collection unless it exists, and point `alias` at it where one is given.

        Raises:
            BadArtifact: It exists with another vector length.
        """
        ...

    async def upsert(self, collection: str, points: Sequence[Point], *, timeout: float | None = None) -> None:
        """Write points; when this returns they survive the death of this process and are found by searches."""
        ...

    async def delete(self, collection: str, item_id: str, *, timeout: float | None = None) -> bool:
        """Delete a point; False if there was none."""
        ...

    async def get(
        self, collection: str, item_ids: Sequence[str], *, with_vectors: bool, timeout: float | None = None
    ) -> list[Point]:
        """The points of these ids that exist, in any order."""
        ...

    async def search(
        self,
        collection: str,
        vector: np.ndarray,
        *,
        limit: int,
        filter: Filter = Filter(),
        exclude: str | None = None,
        with_vectors: bool = False,
        timeout: float | None = None,
    ) -> list[Hit]:
        """The nearest points by cosine similarity, nearest first, without the item whose id is `exclude`."""
        ...

    async def scroll(
        self,
        collection: str,
        *,
        limit: int,
        start: str | None = None,
        filter: Filter = Filter(),
        with_vectors: bool = False,
        timeout: float | None = None,
    ) -> Page:
        """A page of points in the order of their keys, from the key `start` on."""
        ...

    async def count(self, collection: str, *, filter: Filter = Filter(), timeout: float | None = None) -> int:
        """How many points match, exactly."""
        ...

    async def count_clusters(self, collection: str, *, timeout: float | None = None) -> dict[int, int]:
        """How many points lie in each cluster; clusters without any are absent."""
        ...


def connect(url: str, *, api_key: str | None = None) -> Store:
    """The store that a URL names; not opened yet.

    Raises:
        UnknownPlugin: No store has the URL's scheme.
    """
    scheme = url.partition(":")[0]
    module = plugins.load(sys.modules[__name__], scheme, kind="store")
    return module.Store(url, api_key=api_key)
