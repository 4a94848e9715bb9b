"""Images per second of every version in a model repository, in each runtime that the gateway has inside it.

    python benchmarks/runtimes.py model_repository [--workers 2] [--seconds 1] [--rounds 7] [--json]

The sessions are the gateway's own, one of one thread a worker, and embed their version's golden images one by one;
nothing is decoded, sent or stored. The contenders take turns, and the medians of the rounds are compared, so that a
busy machine slows all alike; CPU time an image tells even there.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np

from roost import arrays, artifact
from roost.preprocess import DEFAULT_LIMITS
from roost_serving import repository
from roost_serving.backends import onnx, openvino
from roost_serving.repository import Model

BACKENDS = {"onnx": onnx.Backend, "openvino": openvino.Backend}


class Contender:
    """A model version in one of the runtimes, as the workers of a gateway would run it."""

    def __init__(self, model: Model, scheme: str, *, workers: int) -> None:
        self.name = (model.manifest.reference, model.manifest.precision, scheme)
        self.pixels = arrays.read(model.folder / artifact.GOLDEN, remedy="Export it again.")["pixels"]
        self.rounds: list[tuple[float, float]] = []
        backend = BACKENDS[scheme](f"{scheme}://", repository=model.folder, limits=DEFAULT_LIMITS, workers=workers)
        graph = backend.read((model.folder / artifact.MODEL).read_bytes())
        sessions = backend.make(model, graph, threads=1, callers=workers)
        for session in sessions:
            backend.check(model, session)
        self.embeds = [partial(backend.infer, session) for session in sessions]

    def measure(self, seconds: float) -> None:
        """Note the images per second of all workers, and the CPU milliseconds an image."""

        def work(embed: Callable[[np.ndarray], np.ndarray]) -> int:
            done = 0
            while time.monotonic() - begun < seconds:
                embed(self.pixels[done % len(self.pixels)][np.newaxis])
                done += 1
            return done

        with ThreadPoolExecutor(len(self.embeds)) as pool:
            begun, cpu = time.monotonic(), time.process_time()
            images = sum(pool.map(work, self.embeds))
        self.rounds.append((images / (time.monotonic() - begun), 1000 * (time.process_time() - cpu) / images))

    def figures(self) -> tuple[float, float]:
        """The medians of what was noted."""
        rates, costs = zip(*self.rounds, strict=True)
        return statistics.median(rates), statistics.median(costs)


def main() -> None:
    """Measure, and print a table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("repository", type=Path, help="holds versions that `roost export` wrote")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)), help="one a core by default")
    parser.add_argument("--seconds", type=float, default=1, help="for one contender in one round (default: 1)")
    parser.add_argument("--rounds", type=int, default=7, help="of all contenders (default: 7)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()
    models = repository.scan(arguments.repository)
    contenders = [Contender(model, scheme, workers=arguments.workers) for model in models for scheme in BACKENDS]
    for done in range(arguments.rounds):
        for contender in contenders:
            contender.measure(arguments.seconds)
        print(f"round {done + 1} of {arguments.rounds}", file=sys.stderr)
    rows = [(*contender.name, *contender.figures()) for contender in contenders]
    if arguments.json:
        names = ("model", "precision", "backend", "images_per_second", "cpu_milliseconds_per_image")
        print(json.dumps([dict(zip(names, row, strict=True)) for row in rows]))
        return
    print(f"{'version':24} {'precision':9} {'backend':9} {'images/s':>9} {'CPU ms':>8} {'to the first':>13}")
    for *name, rate, cost in rows:
        print("{:24} {:9} {:9}".format(*name), f"{rate:9,.0f} {cost:8.3f} {rows[0][-1] / cost:12.2f}x")


if __name__ == "__main__":
    main()
