"""`memory://`: vectors in numpy arrays of this process. Exact, and gone when the process ends."""

import uuid
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np

from roost.errors import BadArtifact, BadSettings, UnknownModel
from roost.ids import point_id
from roost_serving.stores import Condition, Filter, Hit, Page, Point, Range
from roost_serving.stores._points import (
    check_filter,
    check_key,
    check_limit,
    check_points,
    check_time,
    check_vector,
    key_parts,
)


class Collection:
    """Points and a matrix of their vectors, shape (capacity, dim), whose first rows are in use."""

    def __init__(self, dim: int) -> None:
        self.dim = dim
        self.keys: list[str] = []
        self.rows: dict[str, int] = {}
        self.points: dict[str, Point] = {}
        self.matrix = np.empty((64, dim), dtype=np.float32)

    def put(self, point: Point, vector: np.ndarray) -> None:
        """Write a point over the one of the same id."""
        key = point_id(point.id)
        row = self.rows.get(key)
        if row is None:
            row = self.rows[key] = len(self.keys)
            self.keys.append(key)
            if row == len(self.matrix):
                self.matrix = np.concatenate([self.matrix, np.empty_like(self.matrix)])
        self.matrix[row] = vector / np.linalg.norm(vector)
        placement = point.placement and replace(point.placement, responsibilities=None)
        self.points[key] = Point(point.id, deepcopy(point.payload), placement, vector=None)

    def remove(self, key: str) -> bool:
        """Delete a point; the last row takes its place."""
        row = self.rows.pop(key, None)
        if row is None:
            return False
        del self.points[key]
        last = self.keys.pop()
        if last != key:
            self.keys[row] = last
            self.rows[last] = row
            self.matrix[row] = self.matrix[len(self.keys)]
        return True

    def read(self, key: str, *, with_vectors: bool) -> Point:
        """A copy of a point."""
        point = self.points[key]
        vector = self.matrix[self.rows[key]].copy() if with_vectors else None
        return replace(point, payload=deepcopy(point.payload), vector=vector)

    def matching(self, filter: Filter) -> list[str]:
        """The keys of the points that a filter lets through, in the order of their rows."""
        if filter == Filter():
            return list(self.keys)
        return [key for key in self.keys if _matches(self.points[key], filter)]


class Store:
    """Keeps everything in this process; see `roost_serving.stores.Store` for what its methods do."""

    def __init__(self, url: str, *, api_key: str | None = None) -> None:
        if url not in ("memory", "memory:", "memory://"):
            raise BadSettings(f"{url!r} names a place; vectors in memory have none. Write memory://.", url=url)
        self._collections: dict[str, Collection] = {}
        self._aliases: dict[str, str] = {}

    async def open(self) -> None:
        """Nothing has to run."""

    async def close(self) -> None:
        """Forget everything."""
        self._collections.clear()
        self._aliases.clear()

    async def ping(self, *, timeout: float | None = None) -> None:
        """Memory always answers."""
        check_time(timeout)

    async def ensure(self, collection: str, *, dim: int, alias: str | None = None) -> None:
        """Create a collection unless it exists, and point `alias` at it."""
        if alias in self._collections or alias == collection:
            raise BadSettings(f"The alias {alias!r} is the name of a collection. Take another.", alias=alias)
        found = self._collections.setdefault(collection, Collection(dim))
        if found.dim != dim:
            raise BadArtifact(
                f"Collection {collection} holds vectors of {found.dim} values, not {dim}. Export under a new version.",
                collection=collection,
                dim=dim,
                found=found.dim,
            )
        if alias is not None:
            self._aliases[alias] = collection

    async def upsert(self, collection: str, points: Sequence[Point], *, timeout: float | None = None) -> None:
        """Write points: all of them, or none where one is refused."""
        check_time(timeout)
        found = self._find(collection)
        if found is None:
            raise UnknownModel(f"The store has no collection {collection!r}.", collection=collection)
        for point, vector in zip(points, check_points(points, dim=found.dim), strict=True):
            found.put(point, vector)

    async def delete(self, collection: str, item_id: str, *, timeout: float | None = None) -> bool:
        """Delete a point; False if there was none."""
        check_time(timeout)
        found = self._find(collection)
        return found is not None and found.remove(point_id(item_id))

    async def get(
        self, collection: str, item_ids: Sequence[str], *, with_vectors: bool, timeout: float | None = None
    ) -> list[Point]:
        """The points of these ids that exist."""
        check_time(timeout)
        found = self._find(collection)
        keys = dict.fromkeys(map(point_id, item_ids))
        return [found.read(key, with_vectors=with_vectors) for key in keys if key in found.rows] if found else []

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
        """The nearest points, nearest first."""
        check_time(timeout)
        check_limit(limit)
        check_filter(filter)
        found = self._find(collection)
        query = check_vector(vector, dim=found.dim if found else None)
        if found is None:
            return []
        rows = np.array([found.rows[key] for key in found.matching(filter)], dtype=np.intp)
        if exclude is not None:
            rows = rows[rows != found.rows.get(point_id(exclude), -1)]
        scores = (found.matrix[: len(found.keys)] @ (query / np.linalg.norm(query)))[rows]
        nearest = np.argsort(-scores, kind="stable")[:limit]
        return [
            Hit(found.read(found.keys[row], with_vectors=with_vectors), float(score))
            for row, score in zip(rows[nearest], scores[nearest], strict=True)
        ]

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
        """A page of points in the order of their keys."""
        check_time(timeout)
        check_limit(limit)
        check_key(start)
        check_filter(filter)
        found = self._find(collection)
        if found is None:
            return Page()
        keys = sorted((key for key in found.matching(filter) if start is None or key >= start), key=uuid.UUID)
        points = [found.read(key, with_vectors=with_vectors) for key in keys[:limit]]
        return Page(points, next_key=keys[limit] if len(keys) > limit else None)

    async def count(self, collection: str, *, filter: Filter = Filter(), timeout: float | None = None) -> int:
        """How many points match."""
        check_time(timeout)
        check_filter(filter)
        found = self._find(collection)
        return len(found.matching(filter)) if found else 0

    async def count_clusters(self, collection: str, *, timeout: float | None = None) -> dict[int, int]:
        """How many points lie in each cluster."""
        check_time(timeout)
        found = self._find(collection)
        counts: dict[int, int] = {}
        for point in found.points.values() if found else ():
            if point.placement is not None:
                counts[point.placement.cluster] = counts.get(point.placement.cluster, 0) + 1
        return counts

    def _find(self, name: str) -> Collection | None:
        return self._collections.get(self._aliases.get(name, name))


def _matches(point: Point, filter: Filter) -> bool:
    placement = point.placement
    if filter.clusters and (placement is None or placement.cluster not in filter.clusters):
        return False
    if filter.anomaly is not None and (placement is None or placement.anomaly != filter.anomaly):
        return False
    return all(_holds(point.payload, condition) for condition in filter.payload)


def _holds(payload: Any, condition: Condition) -> bool:
    value = payload
    for part in key_parts(condition):
        if not isinstance(value, dict) or part not in value:
            return False
        value = value[part]
    members = value if isinstance(value, list | tuple) else [value]
    return any(_equals(member, condition.match) for member in members)


def _equals(value: Any, match: str | int | bool | Range) -> bool:
    if isinstance(match, bool) or isinstance(value, bool):
        return value is match
    if isinstance(match, str):
        return isinstance(value, str) and value == match
    if not isinstance(value, int | float):
        return False
    if isinstance(match, Range):
        return (match.min is None or value >= match.min) and (match.max is None or value <= match.max)
    return value == match
