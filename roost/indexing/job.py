"""The bulk job itself: again and again until every file is stored or known to be bad."""

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import TypeVar

import numpy as np

from roost import ids
from roost.client import Client, Item, Outcome
from roost.client.batches import batches
from roost.errors import (
    BackendUnavailable,
    BadEmbedding,
    BadImage,
    BadRequest,
    BadVector,
    DeadlineExceeded,
    GatewayUnavailable,
    Overloaded,
    RateLimited,
    RoostError,
    StoreUnavailable,
    TooLarge,
    UnknownItem,
)
from roost.folder import File
from roost.indexing import shards
from roost.indexing.ledger import Ledger, Shard
from roost.indexing.shards import Row

PASSING = (Overloaded, RateLimited, GatewayUnavailable, BackendUnavailable, StoreUnavailable, DeadlineExceeded)
"""Errors that the same file may not meet again."""
OWN = (BadImage, BadEmbedding, BadVector, TooLarge, BadRequest)
"""Errors of one file; any other would meet every file."""
ROUNDS = 6
FIRST_PAUSE = 0.5  # seconds; doubles with each round that gets nothing done
LONGEST_PAUSE = 8.0  # seconds; about 24 in all, in which a gateway restarts
SHARD_IMAGES = 1000
GROUP = 256
"""Images that are read ahead and embedded together, at most: four messages."""
GROUP_BYTES = 64 * 1024 * 1024
AHEAD = 2
"""Groups in memory at once: one that is embedded, and one that is read."""

Pause = Callable[[float], object]
T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Failure:
    """A file that is not stored."""

    path: str
    error: RoostError


@dataclass
class Report:
    """What became of the files."""

    stored: int = 0
    existed: int = 0
    failed: list[Failure] = field(default_factory=list)

    def add(self, name: str, outcome: Outcome) -> None:
        """Count one file."""
        if outcome.error is not None:
            self.failed.append(Failure(name, outcome.error))
        elif outcome.kind == "existed":
            self.existed += 1
        else:
            self.stored += 1

    @property
    def done(self) -> int:
        """Files that are counted."""
        return self.stored + self.existed + len(self.failed)


def index(
    client: Client,
    root: Path,
    files: Sequence[File],
    *,
    ledger: Ledger,
    model: str,
    anew: bool = False,
    shard_images: int = SHARD_IMAGES,
    pause: Pause = time.sleep,
) -> Iterator[tuple[str, Outcome]]:
    """Store the images of a folder.

    Files that the ledger has as stored are left alone, unless they were changed or the store has lost them; in that
    case their vectors come from the shards. Where the gateway is full or gone, what it did not take is sent again
    after the pause that it asks for.

    Args:
        client: The gateway's.
        root: The folder.
        files: What `roost.folder.find` found in it. The payload keeps the name as `path`, and the first folder's name,
            if the file lies in one, as `label`.
        ledger: What was done before.
        model: `name@version`, whose encoder is the ledger's.
        anew: Embed and store everything again; where that was begun and not finished, what is left of it.
        shard_images: Files in a shard, at most.
        pause: Waits for some seconds.

    Yields:
        Each file's name and its final outcome.

    Raises:
        RoostError: One that would meet every file, such as `UnknownModel` or `DiskFull`, or `GatewayUnavailable` and
            its kind after several rounds that got nothing done.
    """
    job = _Run(client, root, ledger, model, skip_existing=not anew, pause=pause)
    left = {file.name: file for file in files}
    older = job.older(first=ledger.replace(model) if anew else 0)
    for shard, known in reversed(older):  # a file that was changed is in a later one too
        yield from job.take_up(shard, known, left)
    for group in batches(left.values(), size=lambda file: 0, most=shard_images):
        rows = list(job.embed(group))
        if all(job.failed_before(row) for row in rows):
            yield from ((row.file.name, _failed(row.error)) for row in rows if row.error)
        else:
            yield from job.store(ledger.write(rows, model=model), rows)
    ledger.complete(model)


class _Run:
    def __init__(
        self, client: Client, root: Path, ledger: Ledger, model: str, *, skip_existing: bool, pause: Pause
    ) -> None:
        self._client, self._root, self._ledger, self._model = client, root, ledger, model
        self._skip_existing, self._pause = skip_existing, pause
        self._failed: dict[str, str] = {}
        self._part = GROUP

    def older(self, *, first: int) -> list[tuple[Shard, list[Row]]]:
        """The shards of earlier runs, from a number on, without vectors; those that the store has lost are unfinished.

        All of them are looked at before any is stored again: two may hold the same picture.
        """
        found = []
        for shard in self._ledger.shards(self._model, first=first):
            known = shards.read(shard.path, with_vectors=False)
            self._failed |= {row.file.name: row.error.reason for row in known if row.error}
            lost = shard.finished and self._is_lost([row for row in known if row.id])
            found.append((replace(shard, finished=False) if lost else shard, known, lost))
        for shard, _, lost in found:
            if lost:
                self._ledger.reopen(shard, model=self._model)
        return [(shard, known) for shard, known, _ in found]

    def failed_before(self, row: Row) -> bool:
        """Whether a file fails as it did in an earlier run, so that there is nothing to write down."""
        return row.error is not None and self._failed.get(row.file.name) == row.error.reason

    def take_up(self, shard: Shard, known: list[Row], left: dict[str, File]) -> Iterator[tuple[str, Outcome]]:
        """Settle the files of an older shard that are as they were, and take them from those that are left.

        Files that failed stay there: what was wrong may have been the gateway's settings, or a permission.
        """
        good = [row for row in known if row.id and row.file.name not in shard.failed]
        ours = {row.file.name for row in good if left.get(row.file.name) == row.file}
        for name in ours:
            del left[name]
        if shard.finished:
            yield from ((row.file.name, Outcome("existed", row.id)) for row in good if row.file.name in ours)
        else:
            rows = [row for row in shards.read(shard.path) if row.file.name in ours]
            yield from self.store(shard, rows)

    def embed(self, files: Sequence[File]) -> Iterator[Row]:
        """A row for each file, in any order; while one group is embedded the next is read."""
        groups = batches(files, size=lambda file: file.size, most=GROUP, most_bytes=GROUP_BYTES)
        with ThreadPoolExecutor(1) as reader:
            reading: deque[tuple[list[File], Future[list[bytes | RoostError]]]] = deque()
            for group in groups:
                reading.append((group, reader.submit(self._read, group)))
                if len(reading) == AHEAD:
                    first, contents = reading.popleft()
                    yield from self._embed(first, contents.result())
            for last, contents in reading:
                yield from self._embed(last, contents.result())

    def store(self, shard: Shard, rows: Sequence[Row]) -> Iterator[tuple[str, Outcome]]:
        """Store the vectors of a shard that is on disk, and then write it down."""
        report = Report()
        bad = [(row.file.name, _failed(row.error)) for row in rows if row.error]
        good = [row for row in rows if not row.error]
        for name, outcome in chain(bad, self._settled(good)):
            report.add(name, outcome)
            yield name, outcome
        failed = [failure.path for failure in report.failed]
        self._ledger.finish(shard, model=self._model, stored=report.stored, existed=report.existed, failed=failed)

    def _is_lost(self, rows: Sequence[Row]) -> bool:
        """Whether the store has none of three items of a shard; one alone may have been deleted on purpose."""
        for row in {rows[place].id: rows[place] for place in (len(rows) // 2, 0, -1)}.values() if rows else ():
            try:
                self._client.get(row.id, model=self._model)
            except UnknownItem:
                continue
            return False
        return bool(rows)

    def _read(self, files: Iterable[File]) -> list[bytes | RoostError]:
        contents: list[bytes | RoostError] = []
        for file in files:
            path = self._root / file.name
            try:
                contents.append(path.read_bytes())
            except OSError as error:
                contents.append(BadImage(f"{path} cannot be read: {error.strerror}.", path=path))
        return contents

    def _embed(self, files: Sequence[File], contents: Sequence[bytes | RoostError]) -> Iterator[Row]:
        readable: list[tuple[File, bytes]] = []
        for file, content in zip(files, contents, strict=True):
            name = os.fsencode(file.name).decode(errors="backslashreplace")
            if name != file.name:
                error = BadImage(f"{name} has a name that is no UTF-8. Rename it.", path=name)
                yield Row(replace(file, name=name), error=error)
            elif isinstance(content, bytes):
                readable.append((file, content))
            else:
                yield Row(file, error=content)

        def attempt(left: Sequence[tuple[File, bytes]]) -> Iterator[np.ndarray | RoostError]:
            return self._embed_parts([content for _, content in left])

        for (file, content), result in self._insist(readable, attempt):
            if isinstance(result, RoostError):
                yield Row(file, error=result)
            else:
                yield Row(file, ids.content_id(content), result)

    def _embed_parts(self, images: list[bytes]) -> Iterator[np.ndarray | RoostError]:
        """Embeddings, a part at a time: half as many images where the gateway, or the key's share of it, is too small.

        Raises:
            RoostError: One that passes, of a whole message; where it was for want of room, smaller ones may pass.
        """
        start = 0
        while start < len(images):
            part = images[start : start + self._part]
            results = self._client.embed(part, model=self._model, on_error="return")
            error = _of_message(results)
            if isinstance(error, (Overloaded, RateLimited, TooLarge)):
                self._part = max(1, len(part) // 2)
                if isinstance(error, TooLarge) and len(part) > 1:
                    continue
            elif error is None:
                self._part = min(GROUP, 2 * self._part)
            if isinstance(error, PASSING):
                raise error
            yield from results
            start += len(part)

    def _settled(self, rows: Sequence[Row]) -> Iterator[tuple[str, Outcome]]:
        def attempt(left: Sequence[Row]) -> Iterator[Outcome]:
            return self._client.ingest(map(item, left), model=self._model, skip_existing=self._skip_existing)

        for row, outcome in self._insist(rows, attempt):
            yield row.file.name, outcome

    def _insist(self, things: Sequence[T], attempt: Callable[[Sequence[T]], Iterator[R]]) -> Iterator[tuple[T, R]]:
        """What an attempt gives for each thing, after as many rounds as it takes; not in order."""
        left, idle = list(things), 0
        while left:
            again: list[T] = []
            answered, settled = 0, 0
            trouble: RoostError | None = None
            try:
                for thing, result in zip(left, attempt(left), strict=True):
                    answered += 1
                    error = result.error if isinstance(result, Outcome) else result
                    if isinstance(error, PASSING):
                        again.append(thing)
                        trouble = error
                    elif isinstance(error, RoostError) and not isinstance(error, OWN):
                        raise error
                    else:
                        settled += 1
                        yield thing, result
            except PASSING as error:
                trouble = error
            left = again + left[answered:]
            idle = 0 if settled else idle + 1
            if left and trouble is not None:
                if idle == ROUNDS:
                    raise trouble
                self._pause(_seconds(trouble, idle))


def item(row: Row) -> Item:
    """A row as an item: its file's path below the folder, and the folder's name as its label."""
    first, slash, _ = row.file.name.partition("/")
    payload = {"path": row.file.name} | ({"label": first} if slash else {})
    return Item(id=row.id, vector=row.vector, payload=payload)


def _failed(error: RoostError) -> Outcome:
    return Outcome("failed", "", error=error)


def _seconds(trouble: RoostError, idle: int) -> float:
    hint = trouble.facts.get("retry_after_seconds")
    return float(hint) if hint else min(LONGEST_PAUSE, FIRST_PAUSE * 2**idle)


def _of_message(results: Sequence[np.ndarray | RoostError]) -> RoostError | None:
    """The error of a whole message, which stands in the place of each of its images; None where there is none."""
    for result, next_ in zip(results, [*results[1:], *results[:1]], strict=True):
        if isinstance(result, (Overloaded, RateLimited)) or (isinstance(result, RoostError) and result is next_):
            return result
    return None
