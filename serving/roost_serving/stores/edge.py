"""`edge://folder`: vectors in Qdrant's own engine on this disk, in a process of its own that this one starts and ends.

The engine's process speaks Qdrant's gRPC over a Unix socket, so that everything but its life is the `qdrant` store.
"""

import asyncio
import contextlib
import logging
import shutil
import tempfile
from asyncio.subprocess import Process
from pathlib import Path

from roost.errors import BadSettings, DeadlineExceeded, RoostError
from roost_serving.edge import process as processes
from roost_serving.stores import qdrant

FIRST_RESTART_SECONDS = 0.1
LAST_RESTART_SECONDS = 5.0
ALIVE_SECONDS = 2.0
"""A process that has not answered for so long when it is to end is not waited for."""
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
        """Let the engine write what is pending, and end its process; one that hangs is killed, and its log has all."""
        if self._supervisor is not None:
            self._supervisor.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._supervisor
            self._supervisor = None
        hangs = await self._hangs()
        await super().close()
        if self._process is not None:
            if hangs and self._process.returncode is None:
                self._process.kill()
            await processes.end(self._process)
            self._process = None
        self._remove_scratch()

    async def _hangs(self) -> bool:
        try:
            await self.ping(timeout=ALIVE_SECONDS)
        except DeadlineExceeded:
            return True
        except RoostError:
            return False
        return False

    def _remove_scratch(self) -> None:
        scratch, self._scratch = self._scratch, None
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)

    @property
    def pid(self) -> int | None:
        """The id of the engine's process; None while there is none."""
        return self._process.pid if self._process and self._process.returncode is None else None

    async def _start(self) -> Process:
        # Its own session, so that Ctrl-C reaches only the gateway, which drains first.
        arguments = [str(self.folder), "--listen", self.target]
        place = f"The index in {self.folder}"
        return (await processes.start("roost_serving.edge", arguments, place=place, new_session=True))[0]

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
