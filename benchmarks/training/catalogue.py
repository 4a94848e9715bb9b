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
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from statistics import mean, stdev
from threading import Lock
from typing import Any

import contenders
from contenders import BASELINES, LIGHTLY, SETS, Task
from scipy.stats import spearmanr

RESULTS = Path(__file__).with_name("catalogue.jsonl")
COLUMNS = {"knn20": "kNN-20", "knn200": "kNN-200", "linear_probe": "linear probe", "nmi": "NMI", "rankme": "RankMe"}

Row = dict[str, Any]


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
        rows = _read(arguments.results)
        print(json.dumps(_means(rows), indent=2) if arguments.json else _markdown(rows))
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
        return {(row["set"], row["entry"], row["seed"], row["cpu_seconds"]) for row in _read(arguments.results)}

    wanted = [
        Task(set=name, entry=entry, seed=seed, cpu_seconds=arguments.cpu_seconds)
        for seed in arguments.seeds
        for name in arguments.sets
        for entry in arguments.entries or contenders.entries()
    ]
    before = done()
    missing = [task for task in wanted if task.key() not in before]
    lock = Lock()

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


def _read(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _means(rows: Iterable[Row]) -> list[Row]:
    """A row for each set, budget and entry, with means and standard deviations over seeds."""
    groups: dict[tuple[str, float, str], list[Row]] = defaultdict(list)
    for row in rows:
        groups[row["set"], row["cpu_seconds"], row["entry"]].append(row)
    found = []
    for (name, budget, entry), group in groups.items():
        means = {column: mean(row[column] for row in group) for column in COLUMNS}
        spread = {f"{column}_sd": stdev(row[column] for row in group) for column in COLUMNS} if len(group) > 1 else {}
        images = {"images": mean(row["images"] for row in group)} if "images" in group[0] else {}
        found.append(
            {"set": name, "cpu_seconds": budget, "entry": entry, "seeds": len(group)} | means | spread | images
        )
    return found


def _markdown(rows: Sequence[Row]) -> str:
    parts = []
    means = _means(rows)
    for name, budget in sorted({(row["set"], row["cpu_seconds"]) for row in means}, reverse=True):
        chosen = sorted(
            (row for row in means if (row["set"], row["cpu_seconds"]) == (name, budget)), key=lambda row: -row["knn20"]
        )
        parts += [f"## {name}, {budget:g} CPU-seconds", "", _table(chosen), "", _choice(chosen), ""]
    return "\n".join(parts)


def _table(rows: Sequence[Row]) -> str:
    lines = [f"| | seeds | images seen | {' | '.join(COLUMNS.values())} |", "|---" * (3 + len(COLUMNS)) + "|"]
    for row in rows:
        cells = [_cell(row, column) for column in COLUMNS]
        seen = f"{row['images']:,.0f}" if "images" in row else ""
        lines.append(f"| {row['entry']} | {row['seeds']} | {seen} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(row: Row, column: str) -> str:
    digits = 1 if column == "rankme" else 3
    spread = f" ± {row[f'{column}_sd']:.{digits}f}" if f"{column}_sd" in row else ""
    return f"{row[column]:.{digits}f}{spread}"


def _choice(rows: Sequence[Row]) -> str:
    """How well RankMe, which needs no labels, orders Roost's runs as the linear probe does."""
    trained = [row for row in rows if row["entry"] not in BASELINES and not row["entry"].startswith(LIGHTLY)]
    if len(trained) < 3:
        return ""
    correlation, chance = spearmanr([row["rankme"] for row in trained], [row["linear_probe"] for row in trained])
    return (
        f"Spearman's rank correlation between RankMe and the linear probe over Roost's {len(trained)} methods: "
        f"{correlation:.2f} (p = {chance:.2g})."
    )


if __name__ == "__main__":
    main()
