"""`edge://folder`: vectors in Qdrant's own engine on this disk, in a process of its own that this one starts and ends.

The engine's process speaks Qdrant's gRPC over a Unix socket, so that everything but its life is the `qdrant` store.
"""

import asyncio
import contextlib
import json
import logging
import shutil
import sys
import tempfile
from asyncio.subprocess import PIPE, Process
from pathlib import Path

from roost.errors import BadSettings, DiskFull, RoostError, StoreUnavailable, by_reason
from roost_serving.stores import qdrant

START_SECONDS = 120.0
"""A log that was never flushed is replayed at the start, which takes longer than anything else there."""
CLOSE_SECONDS = 60.0
FIRST_RESTART_SECONDS = 0.1
LAST_RESTART_SECONDS = 5.0
SOCKET = "socket"
MAX_SOCKET_PATH = 100
"""Bytes; the kernel takes 107."""

_log = logging.getLogger(__name__)


class Store(qdrant.Store):
    """Keeps vectors on this disk; see `roost_serving.stores.Store` for what its methods do.

    Args:
        url: `edge://folder`, relative to the working directory, or `edge:///folder`, from the root.
        api_key: Not needed, since only this process can reach the engine's.

    Raises:
        BadSettings: The URL names no folder.
    """

    def __init__(self, url: str, *, api_key: str | None = None) -> None:
        name = url.partition("://")[2]
        if not name:
            raise BadSettings(f"{url!r} names no folder. Write edge://data/index.", url=url)
        self.folder = Path(name).absolute()
        self._scratch: Path | None = None
        self._process: Process | None = None
        self._supervisor: asyncio.Task[None] | None = None
        # Callers read the place in errors, and the folder is none of their business.
        self._setup(place="The index", target="", tls=False, api_key=None)

    async def open(self) -> None:
        """Start the engine's process and wait until it answers.

        Raises:
            BadSettings: The folder cannot be written, or another process has it open.
            DiskFull: There is no room to open it.
            StoreUnavailable: The process ended at its start; its words are in the log.
        """
        path = self.folder / SOCKET
        if len(bytes(path)) > MAX_SOCKET_PATH:
            self._scratch = Path(tempfile.mkdtemp(prefix="roost-"))
            path = self._scratch / SOCKET
        self.target = f"unix:{path}"
        try:
            self._process = await self._start()
        except BaseException:
            self._remove_scratch()
            raise
        await super().open()
        self._supervisor = asyncio.create_task(self._supervise(self._process), name="supervise-edge")

    async def close(self) -> None:
        """Let the engine write what is pending, and end its process."""
        if self._supervisor is not None:
            self._supervisor.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._supervisor
            self._supervisor = None
        await super().close()
        if self._process is not None:
            await _end(self._process)
            self._process = None
        self._remove_scratch()

    def _remove_scratch(self) -> None:
        scratch, self._scratch = self._scratch, None
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)

    @property
    def pid(self) -> int | None:
        """The id of the engine's process; None while there is none."""
        return self._process.pid if self._process and self._process.returncode is None else None

    async def _start(self) -> Process:
        # Its own session, so that Ctrl-C reaches only the gateway, which drains first. -P: the working directory is
        # no place to import from.
        command = [sys.executable, "-P", "-m", "roost_serving.edge", str(self.folder), "--listen", self.target]
        process = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE, start_new_session=True)
        try:
            await _wait_until_ready(process, f"The index in {self.folder}")
        except asyncio.CancelledError:  # whoever stops the gateway while a long log is replayed will not wait for it
            process.kill()
            await process.wait()
            raise
        except BaseException:
            await _end(process)
            raise
        return process

    async def _supervise(self, process: Process) -> None:
        """Start the process again whenever it dies; what it acknowledged is in its log."""
        while True:
            code = await process.wait()
            _log.error("The process of %s died with %s; starting it again", self.folder, code)
            process = self._process = await self._restart()

    async def _restart(self) -> Process:
        delay = FIRST_RESTART_SECONDS
        while True:
            await asyncio.sleep(delay)
            try:
                return await self._start()
            except (RoostError, OSError) as error:  # also of a machine that can start no process just now
                delay = min(2 * delay, LAST_RESTART_SECONDS)
                _log.error("%s Trying again in %.1f s", error, delay)


async def _wait_until_ready(process: Process, place: str) -> None:
    assert process.stdout is not None
    try:
        async with asyncio.timeout(START_SECONDS):  # `wait_for` of Python 3.11 may swallow a cancellation
            line = await process.stdout.readline()
    except TimeoutError:
        raise StoreUnavailable(f"{place} was not open after {START_SECONDS:.0f} s. Look for its process in the log.")
    except ValueError:  # a line without an end
        line = b"?"
    if not line:
        raise StoreUnavailable(f"{place} has a process that ended at its start. Its words are in the log.")
    try:
        answer = json.loads(line)
        if "address" in answer:
            return
        reason, message = answer["reason"], answer["message"]
    except (ValueError, KeyError, TypeError):
        raise StoreUnavailable(f"{place} has a process that began with other words than its address. See the log.")
    error = by_reason().get(reason, StoreUnavailable)
    raise error(f"{place}: {message}" if error is DiskFull else message)


async def _end(process: Process) -> None:
    """Let a process end by itself, by closing its standard input; kill it where it does not."""
    if process.stdin is not None:
        process.stdin.close()
    try:
        await asyncio.wait_for(process.wait(), CLOSE_SECONDS)
    except TimeoutError:
        process.kill()
        await process.wait()
