"""Faults, load and strangers' data, in a short form; `make soak` runs the long one and keeps its figures."""

import asyncio
import json
import re
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest

FIGURES = Path(__file__).parents[3] / "benchmarks" / "reliability" / "figures.jsonl"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """In the long form a test that cannot run here fails: otherwise its figure would be missing, and nobody told."""
    report = yield
    if report.skipped and item.config.getoption("--soak"):
        report.outcome = "failed"
        report.longrepr = f"The long form leaves nothing out. {report.longrepr[2]}"
    return report


@pytest.fixture
def figures(request, soak, seed) -> Iterator[dict[str, Any]]:
    """What a test measured; kept as a line of `benchmarks/reliability/figures.jsonl` where the run is the long one."""
    kept: dict[str, Any] = {}
    yield kept
    if soak and kept:
        line = {"test": request.node.name, "seed": seed, **kept}
        with FIGURES.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")


@dataclass
class Load:
    """What became of calls that were made at fixed times, however slow the answers were."""

    seconds: float
    good: list[float] = field(default_factory=list)
    """Latencies from the intended start, in seconds."""
    refused: list[float] = field(default_factory=list)
    in_time: int = 0
    """Good answers before those seconds were over."""
    codes: Counter[str] = field(default_factory=Counter)

    @property
    def goodput(self) -> float:
        """Good answers a second, without those that came when no more was asked."""
        return self.in_time / self.seconds

    def percentile(self, share: float) -> float:
        """Of the latencies of good answers, in seconds."""
        ordered = sorted(self.good)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("inf")


async def open_loop_(call: Callable[[], Awaitable[object]], *, rate: float, seconds: float) -> Load:
    """Begin `rate` calls a second for some seconds, and wait for all of them."""
    load = Load(seconds)
    begun = time.monotonic()

    async def one(intended: float) -> None:
        try:
            await call()
        except grpc.aio.AioRpcError as error:
            load.codes[error.code().name] += 1
            load.refused.append(time.monotonic() - intended)
        else:
            load.codes["OK"] += 1
            load.good.append(time.monotonic() - intended)
            load.in_time += time.monotonic() <= begun + seconds

    calls = []
    for number in range(int(rate * seconds)):
        intended = begun + number / rate
        await asyncio.sleep(max(0.0, intended - time.monotonic()))
        calls.append(asyncio.create_task(one(intended)))
    await asyncio.gather(*calls)
    return load


async def closed_loop_(call: Callable[[], Awaitable[object]], *, callers: int, seconds: float) -> float:
    """Good answers a second, where each of some callers waits for its answer before it calls again."""
    over = time.monotonic() + seconds

    async def caller() -> int:
        good = 0
        while time.monotonic() < over:
            await call()
            good += 1
        return good

    return sum(await asyncio.gather(*(caller() for _ in range(callers)))) / seconds


def family_(pid: int) -> list[int]:
    """A process and those that descend from it."""
    parents: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended
            parents.setdefault(int(path.read_text().rpartition(")")[2].split()[1]), []).append(int(path.parent.name))
    found = [pid]
    for process in found:
        found += parents.get(process, [])
    return found


def memory_(pid: int) -> int:
    """What a process and its descendants hold, in bytes: resident pages, but those of the files of a store.

    Those are the system's, which takes them back when it needs them: see `mapped`.
    """
    return sum(resident_(each, "RssAnon", "RssShmem") for each in family_(pid))


def mapped_(pid: int) -> int:
    """What a process and its descendants have of files in memory, in bytes."""
    return sum(resident_(each, "RssFile") for each in family_(pid))


def resident_(pid: int, *kinds: str) -> int:
    text = Path(f"/proc/{pid}/status").read_text()
    return sum(1024 * int(re.search(rf"^{kind}:\s+(\d+) kB", text, re.MULTILINE)[1]) for kind in kinds)


def held_(pid: int) -> dict[str, int]:
    """A process and its descendants: how many there are, with their threads and open files."""
    processes = family_(pid)
    return {
        "processes": len(processes),
        "threads": sum(len(list(Path(f"/proc/{each}/task").iterdir())) for each in processes),
        "files": sum(len(list(Path(f"/proc/{each}/fd").iterdir())) for each in processes),
    }


@pytest.fixture
def open_loop() -> Callable[..., Awaitable[Load]]:
    return open_loop_


@pytest.fixture
def closed_loop() -> Callable[..., Awaitable[float]]:
    return closed_loop_


@pytest.fixture
def memory() -> Callable[[int], int]:
    return memory_


@pytest.fixture
def mapped() -> Callable[[int], int]:
    return mapped_


@pytest.fixture
def held() -> Callable[[int], dict[str, int]]:
    return held_
