"""Roost's gateway beside other servers on the same work: JPEG bytes in, embedding out.

    python benchmarks/serving/compare.py run --images FOLDER --work FOLDER [--contenders NAME …] [--callers 1 8 32]
    python benchmarks/serving/compare.py run --images FOLDER --work FOLDER --rate 50
    python benchmarks/serving/compare.py table

`run` makes the models and each peer's virtual environment where they are missing, and then starts every contender in
turn, checks its answers, measures it and stops it, round after round. `results.jsonl` grows by a line for each figure;
what it has is not measured again, so that a run may be stopped at any time. `table` prints Markdown.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import measuring
import models
import summary
from contenders import CONTENDERS
from measuring import Failed, Load
from models import MODELS
from summary import Row

from roost.errors import RoostError

RESULTS = Path(__file__).with_name("results.jsonl")


def main() -> None:
    """Parse the command line and do what it says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS)
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run", help="measure what is missing")
    running.add_argument("--images", type=Path, required=True, help="folder of JPEG photographs, at any depth")
    running.add_argument("--work", type=Path, required=True, help="folder for models and logs, which is kept")
    running.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS), metavar="NAME")
    running.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    running.add_argument("--callers", nargs="+", type=int, default=[1, 8, 32])
    running.add_argument("--seconds", type=float, default=10.0, help="for one figure (default: 10)")
    running.add_argument("--warmup-seconds", type=float, default=3.0, help="before each figure (default: 3)")
    running.add_argument("--rounds", type=int, default=5, help="times that every contender has its turn (default: 5)")
    running.add_argument("--rate", type=float, help="images/s of an open loop, in place of callers that wait")
    commands.add_parser("table", help="print what was measured")
    arguments = parser.parse_args()
    if arguments.command == "table":
        print(summary.markdown(summary.read(arguments.results)))
        return
    if min(arguments.callers) < 1 or (arguments.rate is not None and arguments.rate <= 0):
        parser.error("--callers and --rate must be above 0")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # and not before what it started has ended
    try:
        failed = sum(run(arguments, name) for name in arguments.models)
    except RoostError as error:
        sys.exit(str(error))
    if failed:
        sys.exit(f"{failed} starts failed; the others were measured.")


def run(arguments: argparse.Namespace, name: str) -> int:
    """Measure what is missing of one model; returns how many starts failed."""
    load = Load(
        images=arguments.images.resolve(),
        callers=arguments.callers if arguments.rate is None else [0],
        seconds=arguments.seconds,
        warmup_seconds=arguments.warmup_seconds,
        rate=arguments.rate,
    )
    cores = len(os.sched_getaffinity(0))
    say(f"{name}: making what is missing of the model")
    made = models.make(name, images=load.images, work=arguments.work.resolve(), cores=cores)
    for precision in sorted({CONTENDERS[contender].precision for contender in arguments.contenders}):
        measuring.expect(made, precision, load)
    failed = 0
    for number in range(arguments.rounds):
        for contender in arguments.contenders:
            key = {"model": name, "contender": contender, "round": number, "cores": cores}
            key |= {"seconds": load.seconds, "rate": load.rate}
            callers = missing(summary.read(arguments.results), key, load.callers)
            if not callers or (load.rate is not None and CONTENDERS[contender].command is None):
                continue  # nothing arrives at a loop without a server
            say(f"{name}, round {number + 1} of {arguments.rounds}: {contender}")
            try:
                for row in measuring.measure(made, contender, replace(load, callers=callers)):
                    append(arguments.results, key | row)
                    say(f"    {summary.line(row)}")
            except (Failed, subprocess.CalledProcessError) as error:
                said = error.stderr if isinstance(error, subprocess.CalledProcessError) else str(error)
                append(arguments.results, key | {"error": said})
                say(f"    {contender} failed:\n{said}")
                failed += 1
    return failed


def missing(rows: list[Row], key: Row, callers: Sequence[int]) -> list[int]:
    """Which numbers of callers no row with these values has a figure for."""
    known = {row["callers"] for row in rows if "error" not in row and key.items() <= row.items()}
    return [number for number in callers if number not in known]


def append(results: Path, row: Row) -> None:
    """Write a line of results."""
    with results.open("a") as stream:
        stream.write(json.dumps(row) + "\n")


def say(text: str) -> None:
    """Words go to stderr."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
