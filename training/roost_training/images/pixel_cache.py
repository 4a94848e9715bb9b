"""Decoded pixels on disk: a finished cache is complete and content-addressed, an unfinished one is continued.

A cache folder holds, for each set of images and each kind of pixels (their side, the limits and the decoder's version),

- `KEY-KIND.pixels`: the raw rows, and beside it `.json` with the sha256 of each row's file. The key is the hash of the
  files' sha256, and both files are renamed into place when complete.
- `PLACE-KIND.partial` and `.journal`: the rows of a run that was stopped. A line of the journal is written after its
  row, so what it does not list is cut off.
- `PLACE-KIND.files`: size, modification time and sha256 of each file when it was last read.

PLACE is the hash of the folder's path. A lock lets one process at a time decode; others wait and find it done.
"""

import fcntl
import hashlib
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from roost.artifact import replace_bytes
from roost.errors import BadData, BadImage, RoostError
from roost.folder import File
from roost.preprocess import Limits, decode

MIN_SIDE = 8
"""Pixels: an image with a shorter side than this shows nothing, such as the one-pixel pictures of web pages."""
VERSION = 1
"""Of the decoder's result; a cache of another version is not opened."""
BLOCK = 256


@dataclass(frozen=True)
class Decoded:
    """The readable images of a folder."""

    pixels: np.ndarray
    """uint8 memory map of shape (n, side, side, 3)."""
    paths: list[str]
    sha256: list[str]
    skipped: list[tuple[str, str]]


@dataclass(frozen=True)
class Entry:
    """What reading one file gave."""

    file: File
    sha256: str
    reason: str
    """Why the file is skipped; empty where it has a row."""


def decode_once(
    path: Path,
    files: Sequence[File],
    *,
    side: int,
    cache: Path,
    limits: Limits,
    progress: Callable[[int, int], None] | None,
) -> Decoded:
    """Open a folder's pixels, decoding what is not in the cache yet.

    Args:
        path: The folder.
        files: Its files, as `folder.find` lists them.
        side: Height and width, in pixels.
        cache: The cache folder, made where missing.
        limits: Images beyond these are skipped.
        progress: Called with the files done and the files in all.
    """
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with _locked(cache / ".lock"):
            build = _Build(path, side=side, cache=cache, limits=limits)
            entries = build.remembered(files) or build.run(files, progress)
            return build.open(entries)
    except OSError as error:
        message = f"The cache {cache} cannot be used ({error}). Free some space, or choose another with --cache."
        raise BadData(message, cache=cache) from error


def digest(parts: Iterable[str]) -> str:
    """sha256 over lines of text, in hexadecimal."""
    return hashlib.sha256("".join(part + "\n" for part in parts).encode()).hexdigest()


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock that the system takes back when the process ends, however it ends."""
    with path.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


class _Build:
    def __init__(self, path: Path, *, side: int, cache: Path, limits: Limits) -> None:
        self.path, self.side, self.cache, self.limits = path, side, cache, limits
        self.kind = f"{side}px-{digest([str(VERSION), str(limits)])[:8]}"
        place = f"{digest([str(path.resolve())])[:16]}-{self.kind}"
        self.table = cache / f"{place}.files"
        self.partial = cache / f"{place}.partial"
        self.journal = cache / f"{place}.journal"
        self.row_bytes = side * side * 3
        self.donors: dict[str, tuple[np.ndarray, int]] = {}

    def remembered(self, files: Sequence[File]) -> list[Entry] | None:
        """The entries of the last run, where no file has changed since and its pixels are still whole."""
        entries = _read_entries(self.table)
        if [entry.file for entry in entries] != list(files) or not self._whole(entries):
            return None
        return entries

    def run(self, files: Sequence[File], progress: Callable[[int, int], None] | None) -> list[Entry]:
        """Decode what no earlier cache holds, and put the finished cache in its place."""
        before = _read_entries(self.table)
        known = {entry.file: entry.sha256 for entry in before}
        self.donors = self._donors()
        entries = self._continued(files)
        with (
            self.partial.open("ab") as rows,
            self.journal.open("a", encoding="utf-8") as lines,
            ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool,
        ):
            while len(entries) < len(files):
                block = files[len(entries) : len(entries) + BLOCK]
                read = list(pool.map(lambda file: self._read(file, known.get(file, "")), block))
                rows.writelines(row.tobytes() for _, row in read if row is not None)
                rows.flush()
                os.fsync(rows.fileno())
                lines.writelines(_line(entry) for entry, _ in read)
                lines.flush()
                entries += [entry for entry, _ in read]
                if progress is not None:
                    progress(len(entries), len(files))
        self._finish(entries)
        if before and self._key(before) != self._key(entries):
            for suffix in (".json", ".pixels"):
                (self.cache / f"{self._key(before)}{suffix}").unlink(missing_ok=True)
        return entries

    def open(self, entries: Sequence[Entry]) -> Decoded:
        """Map a finished cache."""
        kept = [entry for entry in entries if not entry.reason]
        pixels = np.empty((0, self.side, self.side, 3), dtype=np.uint8)  # an empty file cannot be mapped
        if kept:
            pixels = _map(self._pixels(entries), self.side)
        return Decoded(
            pixels=pixels,
            paths=[entry.file.name for entry in kept],
            sha256=[entry.sha256 for entry in kept],
            skipped=[(entry.file.name, entry.reason) for entry in entries if entry.reason],
        )

    def _read(self, file: File, sha256: str) -> tuple[Entry, np.ndarray | None]:
        if sha256 in self.donors:
            store, row = self.donors[sha256]
            return Entry(file, sha256, ""), np.asarray(store[row])
        path = self.path / file.name
        try:
            if file.size > self.limits.max_bytes:  # hashed in pieces, so that it never fills the memory
                with path.open("rb") as stream:
                    sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
                return Entry(file, sha256, f"{file.size} bytes; the limit is {self.limits.max_bytes}."), None
            content = path.read_bytes()
        except OSError as error:
            reason = f"It cannot be read: {error.strerror}."
            # Permissions change without a trace in the modification time: ask again next time.
            file = file if file.size < 0 else replace(file, mtime_ns=-1)
            return Entry(file, digest([file.name, reason]), reason), None
        sha256 = hashlib.sha256(content).hexdigest()
        if sha256 in self.donors:
            store, row = self.donors[sha256]
            return Entry(file, sha256, ""), np.asarray(store[row])
        try:
            row = decode(content, size=self.side, resize=self.side, limits=self.limits)
            _refuse_tiny(content)
        except RoostError as error:
            return Entry(file, sha256, error.message), None
        return Entry(file, sha256, ""), row

    def _continued(self, files: Sequence[File]) -> list[Entry]:
        """Cut an unfinished cache back to the rows that are whole and still wanted."""
        entries = _read_entries(self.journal) if self.partial.exists() else []
        same = 0
        while same < min(len(entries), len(files)) and entries[same].file == files[same]:
            same += 1
        entries = entries[:same]
        rows = sum(not entry.reason for entry in entries)
        if not entries or self.partial.stat().st_size < rows * self.row_bytes:
            entries, rows = [], 0
        with self.partial.open("ab") as stream:
            stream.truncate(rows * self.row_bytes)
        replace_bytes(self.journal, "".join(map(_line, entries)).encode())
        return entries

    def _donors(self) -> dict[str, tuple[np.ndarray, int]]:
        """Rows of finished caches of the same side, by sha256."""
        donors = {}
        for index in self.cache.glob(f"*-{self.kind}.json"):
            rows = json.loads(index.read_bytes())
            pixels = index.with_suffix(".pixels")
            if rows and pixels.exists() and pixels.stat().st_size == len(rows) * self.row_bytes:
                store = _map(pixels, self.side)
                donors |= {sha256: (store, row) for row, sha256 in enumerate(rows)}
        return donors

    def _finish(self, entries: Sequence[Entry]) -> None:
        rows = [entry.sha256 for entry in entries if not entry.reason]
        self.partial.replace(self._pixels(entries))
        replace_bytes(self._pixels(entries).with_suffix(".json"), json.dumps(rows).encode())
        replace_bytes(self.table, "".join(map(_line, entries)).encode())
        self.journal.unlink()

    def _key(self, entries: Sequence[Entry]) -> str:
        return f"{digest(entry.sha256 + entry.reason for entry in entries)[:32]}-{self.kind}"

    def _pixels(self, entries: Sequence[Entry]) -> Path:
        return self.cache / f"{self._key(entries)}.pixels"

    def _whole(self, entries: Sequence[Entry]) -> bool:
        pixels = self._pixels(entries)
        rows = sum(not entry.reason for entry in entries)
        return bool(entries) and pixels.exists() and pixels.stat().st_size == rows * self.row_bytes


def _map(path: Path, side: int) -> np.ndarray:
    return np.memmap(path, dtype=np.uint8, mode="r").reshape(-1, side, side, 3)


def _refuse_tiny(content: bytes) -> None:
    with Image.open(io.BytesIO(content)) as image:
        width, height = image.size
    if min(width, height) < MIN_SIDE:
        raise BadImage(f"The image has {width} x {height} pixels; under {MIN_SIDE} it shows nothing.")


def _line(entry: Entry) -> str:
    return json.dumps(asdict(entry)) + "\n"


def _read_entries(path: Path) -> list[Entry]:
    """The entries of a table or a journal, as far as they are whole."""
    entries = []
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                content = json.loads(line)
                entries.append(Entry(File(**content["file"]), content["sha256"], content["reason"]))
            except (ValueError, TypeError, KeyError):
                break
    return entries
