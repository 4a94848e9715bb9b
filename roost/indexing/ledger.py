"""What a bulk job has done: `job.json`, a Parquet file for each shard, and a line for each that was stored.

A shard is written before its vectors go to the store, and its line after the store has them: whatever is killed in
between is stored again from the shard, and only a shard that was not written yet is embedded again. Where everything is
to be replaced, a line says so at the beginning and another at the end; in between only the shards since count.
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from roost.artifact import replace_bytes
from roost.errors import BadArtifact, BadSettings
from roost.indexing import shards
from roost.indexing.shards import Row, writing

JOB = "job.json"
LEDGER = "ledger.jsonl"
LOCK = "lock"
SCHEMA = 1


@dataclass(frozen=True)
class Job:
    """What is embedded, and by what."""

    folder: str
    """The images' folder, absolute."""
    model: str
    """The model's name, without its version: two versions with the same encoder are one job."""
    fingerprint: str
    """Of the encoder's files."""
    dim: int
    part: str = "1/1"
    """Which part of the folder this process does, and of how many."""

    def default_folder(self, jobs: Path) -> Path:
        """Where the job keeps its ledger unless it is told otherwise."""
        digest = hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()
        return jobs / f"{Path(self.folder).name or 'root'}-{self.model}-{digest[:8]}"


@dataclass(frozen=True)
class Shard:
    """A shard on disk."""

    path: Path
    finished: bool
    """Whether all of it was stored."""
    failed: frozenset[str] = frozenset()
    """Names of the files that the store did not take."""


class Ledger:
    """The job's folder, held by one process at a time; see `opened`.

    Whatever writes raises `DiskFull` where there is no space, and leaves what was written before as it was.
    """

    def __init__(self, folder: Path, job: Job) -> None:
        self.folder, self.job = folder, job
        self._lines: dict[tuple[str, str], dict[str, Any]] = {}
        """What was stored: the last line of each shard and model version."""
        self._replacing: dict[str, int] = {}
        """For which model versions everything is being stored again, and from which shard on."""
        self._read()

    @classmethod
    @contextmanager
    def opened(cls, folder: Path, job: Job) -> Iterator[Self]:
        """Open a job's folder, or make it.

        Raises:
            BadSettings: The folder is another job's, is in use, or cannot be written.
            DiskFull: There is no space in it.
        """
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            lock = (folder / LOCK).open("ab")
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise BadSettings(
                    f"Another `roost index` is at work with {folder}. Wait for it, or share the work: --part 1/2 and "
                    "--part 2/2.",
                    ledger=folder,
                )
            _check_job(folder, job)
            yield cls(folder, job)

    def replace(self, model: str) -> int:
        """Begin to store everything again for a model version, or go on with that; the number of its first shard."""
        if model not in self._replacing:
            self._add({"replacing": model, "first": self._next()})
        return self._replacing[model]

    def complete(self, model: str) -> None:
        """Say that every file was settled, so that nothing is left to be stored again."""
        if model in self._replacing:
            self._add({"replaced": model})

    def shards(self, model: str, *, first: int = 0) -> list[Shard]:
        """Every shard that was written, in order from a number on, and what is stored of it for a model version."""
        found = sorted(path for path in self.folder.glob("shard-*.parquet") if _number(path.name) >= first)
        lines = [self._lines.get((path.name, model)) for path in found]
        return [
            Shard(path, finished=line is not None, failed=frozenset(line["failed"] if line else ()))
            for path, line in zip(found, lines, strict=True)
        ]

    def write(self, rows: Sequence[Row], *, model: str) -> Shard:
        """Keep the embeddings of some files."""
        path = self.folder / f"shard-{self._next():06}.parquet"
        shards.write(path, rows, dim=self.job.dim, model=model)
        return Shard(path, finished=False)

    def finish(self, shard: Shard, *, model: str, stored: int, existed: int, failed: Sequence[str]) -> None:
        """Say that the store has all of a shard but the files that failed; that survives a power cut."""
        self._add({"shard": shard.path.name, "model": model, "stored": stored, "existed": existed, "failed": failed})

    def reopen(self, shard: Shard, *, model: str) -> None:
        """Say that the store has lost a shard, before it gets any of it again."""
        self._add({"shard": shard.path.name, "model": model, "lost": True})

    def _next(self) -> int:
        """The number of the shard that is written next."""
        taken = {path.name for path in self.folder.glob("shard-*.parquet")} | {name for name, _ in self._lines}
        return max(map(_number, taken), default=-1) + 1

    def _add(self, line: dict[str, Any]) -> None:
        path = self.folder / LEDGER
        # Without a buffer, which would be written all the same when it is closed.
        with writing(path), path.open("ab", buffering=0) as stream:
            whole = stream.tell()
            left = json.dumps(line).encode() + b"\n"
            try:
                while left:
                    left = left[stream.write(left) :]
                os.fsync(stream.fileno())
            except BaseException:
                stream.truncate(whole)
                raise
        self._take(line)

    def _take(self, line: dict[str, Any]) -> None:
        if "replacing" in line:
            self._replacing[line["replacing"]] = int(line["first"])
            return
        if "replaced" in line:
            self._replacing.pop(line["replaced"], None)
            return
        key = line["shard"], line["model"]
        if line.get("lost"):
            self._lines.pop(key, None)
        else:
            self._lines[key] = {"failed": list(line["failed"])}

    def _read(self) -> None:
        path = self.folder / LEDGER
        if not path.exists():
            return
        content = path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if whole != content:  # a line that was cut by a crash
            with writing(path):
                replace_bytes(path, whole)
        try:
            for line in whole.splitlines():
                self._take(json.loads(line))
        except (ValueError, KeyError, TypeError) as error:
            raise BadArtifact(
                f"{path} is damaged ({error}). Delete it, and its shards will be stored again.", path=path
            ) from error


def _number(name: str) -> int:
    return int(name.removeprefix("shard-").removesuffix(".parquet"))


def _check_job(folder: Path, job: Job) -> None:
    path = folder / JOB
    ours = {"schema": SCHEMA, **asdict(job)}
    if not path.exists():
        with writing(path):
            replace_bytes(path, json.dumps(ours, indent=2).encode() + b"\n")
        return
    try:
        found = json.loads(path.read_bytes())
    except ValueError as error:
        raise BadArtifact(f"{path} is damaged ({error}). Delete its folder to begin anew.", path=path) from error
    if found != ours:
        different = [name for name in ours if not isinstance(found, dict) or found.get(name) != ours[name]]
        raise BadSettings(
            f"{folder} belongs to another job: its {' and '.join(different)} differ. Name another folder with "
            "--ledger.",
            ledger=folder,
        )
