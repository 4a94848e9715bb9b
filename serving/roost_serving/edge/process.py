"""Both ends of a process that serves a shard or a folder of them: who starts and ends it, and what it does itself.

The parent holds its standard input open for as long as it should live. The child says on its standard output, in one
line of JSON, that it can be called, or what prevents it.
"""

import asyncio
import contextlib
import ctypes
import json
import os
import signal
import sys
import threading
from asyncio.subprocess import PIPE, Process
from collections.abc import Awaitable, Callable, Sequence

from roost.errors import DiskFull, RoostError, StoreUnavailable, by_reason

START_SECONDS = 120.0
"""A log that was never flushed is replayed at the start, which takes longer than anything else there."""
CLOSE_SECONDS = 60.0
PR_SET_PDEATHSIG = 1


async def start(
    module: str,
    arguments: Sequence[str],
    *,
    place: str,
    pass_fds: Sequence[int] = (),
    new_session: bool = False,
    before: Callable[[], Awaitable[None]] | None = None,
) -> tuple[Process, str]:
    """Start a module of this package and wait until it can be called.

    Args:
        module: Its full name.
        arguments: Of its command line.
        place: What it serves, for messages.
        pass_fds: Descriptors that it keeps open.
        new_session: Ctrl-C in a terminal does not reach it.
        before: Awaited when it has imported all that it needs, and waits to be told to begin.

    Returns:
        The process, and the address that it said.

    Raises:
        RoostError: What it said prevents it.
        StoreUnavailable: It ended, or was not ready in two minutes; its words are in the log.
    """
    # -P: the working directory is no place to import from.
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", module, *arguments),
        stdin=PIPE,
        stdout=PIPE,
        pass_fds=pass_fds,
        start_new_session=new_session,
    )
    try:
        if before is not None:
            await _hear(process, place)
            await before()
            assert process.stdin is not None
            process.stdin.write(b"begin\n")
        return process, await _hear(process, place)
    except asyncio.CancelledError:  # whoever stops the gateway while a long log is replayed will not wait for it
        process.kill()
        await process.wait()
        raise
    except BaseException:
        await end(process)
        raise


async def _hear(process: Process, place: str) -> str:
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
            return answer["address"]
        reason, message = answer["reason"], answer["message"]
    except (ValueError, KeyError, TypeError):
        raise StoreUnavailable(f"{place} has a process that began with other words than its address. See the log.")
    error = by_reason().get(reason, StoreUnavailable)
    raise error(f"{place}: {message}" if error is DiskFull else message)


async def end(process: Process) -> None:
    """Let a process end by itself, by closing its standard input; kill it where it does not, or nobody waits for it."""
    if process.stdin is not None:
        process.stdin.close()
    try:
        async with asyncio.timeout(CLOSE_SECONDS):
            await process.wait()
    except TimeoutError:
        pass
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def die_with_parent() -> None:
    """Have the kernel kill this process when the one that started it is gone."""
    parent = os.getppid()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit("The process that started this one is gone")


def wait_to_begin() -> None:
    """Tell the parent that everything is imported, and wait until it says to go on."""
    say_address("")
    if not os.read(0, 16):
        sys.exit("The process that started this one is gone")


def say_address(address: str) -> None:
    """Tell the parent that calls are answered at an address."""
    _say(address=address)


def say_error(error: RoostError) -> None:
    """Tell the parent why no calls will be answered."""
    _say(reason=error.reason, message=error.message)


def _say(**words: str) -> None:
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.write(json.dumps(words) + "\n")
        sys.stdout.flush()


def stop_event() -> asyncio.Event:
    """Set by SIGTERM and SIGINT, and by the end of standard input, whose other end the parent holds while it lives."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)

    def watch() -> None:
        while os.read(0, 4096):
            pass
        with contextlib.suppress(RuntimeError):  # it stopped already
            loop.call_soon_threadsafe(stop.set)

    threading.Thread(target=watch, daemon=True, name="watch-parent").start()
    return stop
