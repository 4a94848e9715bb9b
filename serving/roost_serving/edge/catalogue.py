"""All collections of a folder, the aliases that lead to them, and the lock that keeps the folder to one process."""

import asyncio
import fcntl
import json
import logging
import os
import re
import shutil
import time
from pathlib import Path

import grpc

from roost.artifact import replace_bytes
from roost.errors import BadSettings
from roost_serving.edge.collection import CONFIG, Collection, StartApart, is_unfinished
from roost_serving.edge.errors import Refused
from roost_serving.edge.hosts import Here
from roost_serving.edge.shard import Shard

LOCK = "lock"
ALIASES = "aliases.json"
COLLECTIONS = "collections"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,254}")
LOCK_PATIENCE_SECONDS = 3.0
"""A process whose gateway was killed needs a moment to flush and release the folder."""

_log = logging.getLogger(__name__)


class Catalogue:
    """The collections of one folder.

    Args:
        folder: Made where it does not exist.
        start: Starts a process for a shard.

    Raises:
        BadSettings: Another process has the folder open, or it cannot be written.
    """

    def __init__(self, folder: Path, *, start: StartApart) -> None:
        self.folder = folder
        self.start = start
        self.lock = _lock(folder)
        """The descriptor that locks the folder."""
        self.aliases: dict[str, str] = {}
        self.collections: dict[str, Collection] = {}

    async def open(self) -> None:
        """Open every collection, and remove what this program began and never finished; the rest is left alone."""
        path = self.folder / ALIASES
        self.aliases = json.loads(path.read_bytes()) if path.exists() else {}
        opening = {}
        for path in sorted((self.folder / COLLECTIONS).iterdir()):
            if is_unfinished(path):
                shutil.rmtree(path)
            elif NAME.fullmatch(path.name) and (path / CONFIG).is_file():
                opening[path.name] = Collection.open(path, self.start)
            else:
                _log.warning("%s is no collection, and is left alone", path)

        opened = await asyncio.gather(*opening.values())
        self.collections = dict(zip(opening, opened, strict=True))

    async def close(self) -> None:
        """Flush and close every collection, then release the folder."""
        closing = [collection.host.close() for collection in self.collections.values()]
        for error in await asyncio.gather(*closing, return_exceptions=True):
            if isinstance(error, Exception):
                _log.error("a collection was not closed, and stays in its log: %s", error)
        self.collections.clear()
        os.close(self.lock)

    def shards_here(self) -> list[Shard]:
        """The shards that this process has open."""
        hosts = [collection.host for collection in self.collections.values()]
        return [host.shard for host in hosts if isinstance(host, Here)]

    def find(self, name: str) -> Collection:
        """The collection of this name or alias.

        Raises:
            Refused: NOT_FOUND.
        """
        collection = self.collections.get(self.aliases.get(name, name))
        if collection is None:
            raise Refused.missing(name)
        return collection

    def create(self, name: str, *, dim: int) -> None:
        """Make a collection.

        Raises:
            Refused: ALREADY_EXISTS, or INVALID_ARGUMENT for a name that cannot be a folder's.
        """
        if not NAME.fullmatch(name):
            raise Refused.invalid(f"Wrong input: a collection cannot be called {name!r}")
        if name in self.collections or name in self.aliases:
            raise Refused(grpc.StatusCode.ALREADY_EXISTS, f"Wrong input: Collection `{name}` already exists!")
        self.collections[name] = Collection.create(self.folder / COLLECTIONS / name, dim=dim)

    def point(self, aliases: dict[str, str]) -> None:
        """Replace all aliases at once.

        Raises:
            Refused: NOT_FOUND for a target that is no collection, INVALID_ARGUMENT for an alias that is one.
        """
        for alias, target in aliases.items():
            if target not in self.collections:
                raise Refused.missing(target)
            if alias in self.collections:
                raise Refused.invalid(f"Wrong input: Can't create alias `{alias}`: a collection has that name")
        replace_bytes(self.folder / ALIASES, json.dumps(aliases, sort_keys=True).encode())
        self.aliases = aliases


def _lock(folder: Path) -> int:
    try:
        (folder / COLLECTIONS).mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise BadSettings(f"{folder} cannot hold an index: {error.strerror}.", folder=folder) from error
    give_up = time.monotonic() + LOCK_PATIENCE_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
        except BlockingIOError:
            if time.monotonic() > give_up:
                os.close(descriptor)
                raise BadSettings(
                    f"Another process has the index in {folder} open. Stop it, or give this one a folder of its own.",
                    folder=folder,
                )
        time.sleep(0.05)
