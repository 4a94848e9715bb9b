"""Every method on the same images with the same encoder for the same processor time, beside lightly and baselines.

    python benchmarks/training/catalogue.py run --eurosat FOLDER --cifar10 FOLDER [--cpu-seconds 300] [--jobs 2]
    python benchmarks/training/catalogue.py table

A folder has `train/` and `test/`, each with a folder for each class. `run` does what `catalogue.jsonl` does not have
yet and adds a line for each run that ends, so that it may be stopped at any time; `--entries`, `--sets` and `--seeds`
choose. Every run has one thread of computation in a process of its own (lightly two more, its workers), and `--jobs` of
them run at a time. `table` prints Markdown; `--json` prints the lines with means over seeds.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from threading import Lock

import contenders
import tables
from contenders import SETS, Task
from scipy.stats import spearmanr
from tables import Row

RESULTS = Path(__file__).with_name("catalogue.jsonl")
COLUMNS = {"knn20": "kNN-20", "knn200": "kNN-200", "linear_probe": "linear probe", "nmi": "NMI", "rankme": "RankMe"}


def main() -> None:
    """Parse the command line and do what it says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS)
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run", help="train and measure what is missing")
    for name in SETS:
        running.add_argument(f"--{name}", type=Path, metavar="FOLDER")
    running.add_argument("--entries", nargs="+", choices=contenders.entries(), metavar="ENTRY")
    running.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    running.add_argument("--seeds", nargs="+", type=int, default=[0])
    running.add_argument("--cpu-seconds", type=float, default=300.0)
    running.add_argument("--jobs", type=int, default=2, help="runs at a time (default: 2)")
    running.add_argument("--cache", type=Path, default=Path(".roost-cache"))
    running.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    table = commands.add_parser("table", help="print what was measured")
    table.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if arguments.command == "table":
        means = tables.means(
            tables.read(arguments.results), by=("set", "cpu_seconds", "entry"), columns=(*COLUMNS, "images")
        )
        print(json.dumps(means, indent=2) if arguments.json else _markdown(means))
    elif arguments.here:
        _here(arguments)
    else:
        _run(arguments)


def _here(arguments: argparse.Namespace) -> None:
    """One task in this process; its figures go to stdout."""
    (name,), (entry,), (seed,) = arguments.sets, arguments.entries, arguments.seeds
    folder: Path = getattr(arguments, name)
    task = Task(set=name, entry=entry, seed=seed, cpu_seconds=arguments.cpu_seconds)
    figures = contenders.run(task, train_folder=folder / "train", test_folder=folder / "test", cache=arguments.cache)
    print(json.dumps(figures))


def _run(arguments: argparse.Namespace) -> None:
    def done() -> set[tuple[str, str, int, float]]:
        return {(row["set"], row["entry"], row["seed"], row["cpu_seconds"]) for row in tables.read(arguments.results)}

    wanted = [
        Task(set=name, entry=entry, seed=seed, cpu_seconds=arguments.cpu_seconds)
        for seed in arguments.seeds
        for name in arguments.sets
        for entry in arguments.entries or contenders.entries()
    ]
    before = done()
    missing = [task for task in wanted if task.key() not in before]
    lock, failed = Lock(), []

    def work(task: Task) -> None:
        if task.key() in done():  # by another process on the same results
            return
        folder: Path | None = getattr(arguments, task.set)
        if folder is None:
            sys.exit(f"Give --{task.set} FOLDER.")
        command = [
            *(sys.executable, __file__, "run", "--here", f"--{task.set}", str(folder), "--sets", task.set),
            *("--entries", task.entry, "--seeds", str(task.seed), "--cpu-seconds", str(task.cpu_seconds)),
            *("--cache", str(arguments.cache)),
        ]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        with lock:
            if ended.returncode:
                print(f"{task}: failed\n{ended.stderr[-2000:]}", file=sys.stderr)
                failed.append(task)
                return
            row = asdict(task) | json.loads(ended.stdout.splitlines()[-1])
            with arguments.results.open("a") as stream:
                stream.write(json.dumps(row) + "\n")
            print(
                f"{task.set:8} {task.entry:28} kNN-20 {row['knn20']:.3f}, probe {row['linear_probe']:.3f}", flush=True
            )

    print(f"{len(missing)} of {len(wanted)} runs to do.", file=sys.stderr)
    with ThreadPoolExecutor(arguments.jobs) as workers:
        list(workers.map(work, missing))
    if failed:
        sys.exit(f"{len(failed)} of {len(missing)} runs failed.")


def _markdown(means: Iterable[Row]) -> str:
    parts = []
    for name, budget in sorted({(row["set"], row["cpu_seconds"]) for row in means}, reverse=True):
        chosen = sorted(
            (row for row in means if (row["set"], row["cpu_seconds"]) == (name, budget)), key=lambda row: -row["knn20"]
        )
        parts += [f"## {name}, {budget:g} CPU-seconds", "", _table(chosen), "", _choice(chosen), ""]
    return "\n".join(parts)


def _table(rows: Sequence[Row]) -> str:
    by_entry = {row["entry"]: row for row in rows}
    lines = []
    for row in rows:
        begun = by_entry.get(contenders.untrained(row["entry"]), {})
        lines.append(
            [
                row["entry"],
                str(row["seeds"]),
                f"{row['images']:,.0f}" if "images" in row else "",
                *(tables.cell(row, column, digits=1 if column == "rankme" else 3) for column in COLUMNS),
                f"{begun['knn20']:.3f}, {begun['linear_probe']:.3f}" if begun else "",
            ]
        )
    return tables.markdown(["", "seeds", "images seen", *COLUMNS.values(), "untrained: kNN-20, probe"], lines)


def _choice(rows: Sequence[Row]) -> str:
    """How well RankMe, which needs no labels, orders Roost's runs of one encoder as the linear probe does."""
    trained = [row for row in rows if contenders.is_of_small_encoder(row["entry"])]
    if len(trained) < 3:
        return ""
    correlation, chance = spearmanr([row["rankme"] for row in trained], [row["linear_probe"] for row in trained])
    return (
        f"Spearman's rank correlation between RankMe and the linear probe over Roost's {len(trained)} methods with "
        f"resnet10w32: {correlation:.2f} (p = {chance:.2g})."
    )


if __name__ == "__main__":
    main()
