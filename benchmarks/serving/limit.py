"""The bare limit: decoding and ONNX Runtime in a plain loop, without a server.

For one caller, a loop whose session uses every core. For more, a process for each core, each with a loop and a session
of one thread, which is the fastest that the cores can do it.
"""

import multiprocessing
import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime
import work
from work import Measured, Work

from roost import preprocess

START_SECONDS = 10.0
"""Within which every process has its session; until then those that have it warm up."""


@dataclass(frozen=True)
class Loop:
    """What one loop did."""

    seconds: list[float]
    """Of each image that counts."""
    calls: int
    """Images, with those of warming up."""
    cpu_seconds: float


def main(given: Work) -> None:
    """Do the work."""
    images = given.read()
    embed = encoder(given, threads=1)
    expected = Path(given.expected)
    beside = expected.with_name(f"{os.getpid()}.npy")
    np.save(beside, np.stack([embed(image) for image in images]))
    beside.replace(expected)
    work.say()
    for callers in given.callers:
        loops = [alone(given)] if callers == 1 else together(given)
        work.say(_figures(given, callers=callers, loops=loops))


def encoder(given: Work, *, threads: int) -> Callable[[bytes], np.ndarray]:
    """A function from an image's bytes to its embedding (dim,)."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(given.file, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def embed(image: bytes) -> np.ndarray:
        pixels = preprocess.decode(image, size=given.size, resize=given.resize)
        return np.asarray(session.run(["embedding"], {name: pixels[np.newaxis]})[0])[0]

    return embed


def alone(given: Work) -> Loop:
    """One image at a time, with all cores."""
    return loop(given, threads=_cores(), since=time.perf_counter() + given.warmup_seconds)


def together(given: Work) -> list[Loop]:
    """An image at a time on each core, in processes that count over the same seconds."""
    since = time.perf_counter() + START_SECONDS + given.warmup_seconds
    with ProcessPoolExecutor(_cores(), mp_context=multiprocessing.get_context("spawn")) as pool:
        return list(pool.map(partial(loop, threads=1, since=since), [given] * _cores()))


def loop(given: Work, *, threads: int, since: float) -> Loop:
    """Embed image after image until `given.seconds` after `since`, a time of the machine's `perf_counter`."""
    images, embed = given.read(), encoder(given, threads=threads)
    embed(images[0])
    if time.perf_counter() > since:
        raise RuntimeError(f"A process took more than {START_SECONDS:g} s to start. Measure on a machine that is idle.")
    before, until = time.process_time(), since + given.seconds
    seconds, calls = [], 0
    while (begun := time.perf_counter()) < until:
        embed(images[calls % len(images)])
        calls += 1
        ended = time.perf_counter()
        if since <= ended <= until:
            seconds.append(ended - begun)
    return Loop(seconds, calls, time.process_time() - before)


def _figures(given: Work, *, callers: int, loops: list[Loop]) -> Measured:
    seconds = [each for one in loops for each in one.seconds]
    p50, p99 = work.percentiles(seconds)
    return Measured(
        callers=callers,
        images_per_second=len(seconds) / given.seconds,
        p50_ms=p50,
        p99_ms=p99,
        failures=0,
        calls=sum(one.calls for one in loops),
        cpu_seconds=sum(one.cpu_seconds for one in loops),
    )


def _cores() -> int:
    return len(os.sched_getaffinity(0))


if __name__ == "__main__":
    main(work.given())
