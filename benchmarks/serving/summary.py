"""Medians over rounds, the ratio to the bare limit, and tables of them."""

import json
import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from contenders import CONTENDERS

Row = dict[str, Any]
MEGABYTES = 2**20 / 1e6
"""In a MiB."""
LIMITS = {"fp32": "bare", "int8": "bare-int8"}
OURS = {name for name in CONTENDERS if name.startswith(("bare", "roost"))} | {"triton-pixels"}
"""Contenders that are no peers."""


def read(path: Path) -> list[Row]:
    """The rows of a file; none where there is no file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def line(row: Row) -> str:
    """A row in one line, for whoever waits."""
    said = (
        f"{row['callers']} callers: {row['images_per_second']:.1f} images/s, p50 {row['p50_ms']:.1f} ms, "
        f"p99 {row['p99_ms']:.1f} ms, {row['peak_mebibytes']:.0f} MiB, {row['cpu_ms']:.1f} processor ms an image"
    )
    return said + (f", {row['failures']} failures ({row['failure']})" if row["failures"] else "")


class Figures:
    """What was measured of one model under one kind of load."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = [row for row in rows if "error" not in row]
        self.failed = {row["contender"] for row in rows if "error" in row} - {row["contender"] for row in self.rows}
        self.callers = sorted({row["callers"] for row in self.rows})
        self.contenders = [name for name in CONTENDERS if any(row["contender"] == name for row in self.rows)]
        self.rounds = len({row["round"] for row in self.rows})

    def of(self, contender: str, callers: int, column: str) -> float:
        """The median over rounds; NaN where there is none."""
        found = [row[column] for row in self._rows(contender, callers)]
        return median(found) if found else math.nan

    def ratio(self, contender: str, callers: int, *, to: str) -> float:
        """Images/s over another's in the same round: the median over rounds, NaN where there is none."""
        others = {row["round"]: row["images_per_second"] for row in self._rows(to, callers)}
        found = [
            row["images_per_second"] / others[row["round"]]
            for row in self._rows(contender, callers)
            if others.get(row["round"])
        ]
        return median(found) if found else math.nan

    def share(self, contender: str, callers: int) -> float:
        """Images/s over those of the bare limit in the same precision."""
        return self.ratio(contender, callers, to=LIMITS[CONTENDERS[contender].precision])

    def cell(self, contender: str, *, callers: int, column: str, digits: int = 1) -> str:
        """A median as text; empty where there is none."""
        value = self.of(contender, callers, column)
        return "" if math.isnan(value) else f"{value:,.{digits}f}"

    def share_cell(self, contender: str, *, callers: int) -> str:
        """The share of the bare limit as text."""
        value = self.share(contender, callers)
        return "" if math.isnan(value) else f"{value:.0%}"

    def failures(self, contender: str) -> str:
        """Calls that failed, over all rounds and numbers of callers."""
        return str(sum(row["failures"] for row in self.rows if row["contender"] == contender))

    def _rows(self, contender: str, callers: int) -> list[Row]:
        return [row for row in self.rows if (row["contender"], row["callers"]) == (contender, callers)]


def markdown(rows: Sequence[Row]) -> str:
    """A table for each model and each kind of load, and the targets; a number in a heading is that of callers."""
    parts = []
    for model, cores, seconds, rate in dict.fromkeys(
        (row["model"], row["cores"], row["seconds"], row["rate"]) for row in rows
    ):
        same = (model, cores, seconds, rate)
        figures = Figures([row for row in rows if (row["model"], row["cores"], row["seconds"], row["rate"]) == same])
        load = "closed loop" if rate is None else f"open loop, {rate:g} images/s"
        heading = f"## {model}, {cores} cores, {load}, {figures.rounds} rounds of {seconds:g} s"
        parts += [heading, "", _table(figures), ""] if figures.rows else []
        if rate is None and figures.rows and (targets := _targets(figures)):
            parts += [_markdown(["target", "", "reached", ""], targets), ""]
        parts += [f"Did not start: {', '.join(sorted(figures.failed))}.", ""] if figures.failed else []
    return "\n".join(parts)


def _table(figures: Figures) -> str:
    most = figures.callers[-1]
    columns: list[tuple[str, Callable[[str], str]]] = []
    for callers in figures.callers:
        at = f", {callers}" if callers else ""
        columns += [
            (f"images/s{at}", partial(figures.cell, callers=callers, column="images_per_second")),
            (f"p50 ms{at}", partial(figures.cell, callers=callers, column="p50_ms")),
            (f"p99 ms{at}", partial(figures.cell, callers=callers, column="p99_ms")),
        ]
        if callers:  # an open loop asks for no more than its rate
            columns.append((f"of the limit{at}", partial(figures.share_cell, callers=callers)))
    columns += [
        ("processor ms an image", partial(figures.cell, callers=most, column="cpu_ms", digits=2)),
        ("the caller's", partial(figures.cell, callers=most, column="load_cpu_ms", digits=2)),
        ("MiB at rest", partial(figures.cell, callers=most, column="rest_mebibytes", digits=0)),
        ("MiB under load", partial(figures.cell, callers=most, column="peak_mebibytes", digits=0)),
        ("failures", figures.failures),
    ]
    lines = [[name, *(cell(name) for _, cell in columns)] for name in figures.contenders]
    return _markdown(["", *(heading for heading, _ in columns)], lines)


def _targets(figures: Figures) -> list[list[str]]:
    """What the gateway is meant to reach, and what it reached."""
    peers = [name for name in figures.contenders if name not in OURS]
    lines: list[tuple[str, float, float, str]] = []
    for callers in (number for number in figures.callers if number > 1):
        ratio = partial(figures.ratio, callers=callers)
        over_peers = [over for name in peers if not math.isnan(over := ratio("roost", to=name))]
        lines += [
            (f"fp32 / the limit, {callers} callers", ratio("roost", to="bare"), 0.95, "at least"),
            (f"int8 / the limit, {callers} callers", ratio("roost-int8", to="bare-int8"), 0.90, "at least"),
            (f"fp32 / the best peer, {callers} callers", min(over_peers, default=math.nan), 1.0, "at least"),
            (f"int8 / fp32, {callers} callers", ratio("roost-int8", to="roost"), 2.5, "at least"),
            (
                f"int8 in OpenVINO / fp32, {callers} callers",
                ratio("roost-openvino-int8", to="roost"),
                2.5,
                "at least",
            ),
            (
                f"triton:// / Triton alone, {callers} callers",
                ratio("roost-triton", to="triton-pixels"),
                0.9,
                "at least",
            ),
        ]
    added = figures.of("roost", 1, "p50_ms") - figures.of("bare", 1, "p50_ms")
    rest = max(figures.of("roost", number, "rest_mebibytes") for number in figures.callers) * MEGABYTES
    lines += [
        ("added p50 with one caller, ms", added, 1.5, "at most"),
        ("gateway at rest, MB", rest, 250, "at most"),
    ]
    return [
        [name, f"{bound} {target:g}", f"{value:.3g}", _verdict(value, target, bound)]
        for name, value, target, bound in lines
        if not math.isnan(value)
    ]


def _verdict(value: float, target: float, bound: str) -> str:
    return "yes" if (value >= target if bound == "at least" else value <= target) else "no"


def _markdown(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(cells)} |" for cells in (headings, *rows)]
    return "\n".join([lines[0], "|---" * len(headings) + "|", *lines[1:]])
