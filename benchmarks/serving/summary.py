"""Medians over rounds, the ratio to the bare limit, and tables of them."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from contenders import CONTENDERS

Row = dict[str, Any]


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

    def share(self, contender: str, callers: int, *, limit: str = "") -> float:
        """Images/s as a share of the bare limit's in the same round and precision: the median over rounds.

        Args:
            contender: Who.
            callers: How many called.
            limit: Another contender, to be compared with in the limit's place.
        """
        bare = limit or ("bare" if CONTENDERS[contender].precision == "fp32" else "bare-int8")
        rates = {row["round"]: row["images_per_second"] for row in self._rows(bare, callers)}
        ratios = [
            row["images_per_second"] / rates[row["round"]]
            for row in self._rows(contender, callers)
            if rates.get(row["round"])
        ]
        return median(ratios) if ratios else math.nan

    def _rows(self, contender: str, callers: int) -> list[Row]:
        return [row for row in self.rows if (row["contender"], row["callers"]) == (contender, callers)]


def markdown(rows: Sequence[Row]) -> str:
    """A table for each model and each kind of load, and the targets."""
    parts = []
    for model, cores, seconds, rate in dict.fromkeys(
        (row["model"], row["cores"], row["seconds"], row["rate"]) for row in rows
    ):
        same = (model, cores, seconds, rate)
        figures = Figures([row for row in rows if (row["model"], row["cores"], row["seconds"], row["rate"]) == same])
        load = "closed loop" if rate is None else f"open loop, {rate:g} images/s"
        heading = f"## {model}, {cores} cores, {load}, {figures.rounds} rounds of {seconds:g} s"
        parts += [heading, "", _table(figures), ""]
        if rate is None:
            parts += [_targets(figures), ""]
        parts += [f"Did not start: {', '.join(sorted(figures.failed))}.", ""] if figures.failed else []
    return "\n".join(parts)


def _table(figures: Figures) -> str:
    callers = figures.callers
    most = callers[-1] if callers else 0
    headings = [
        "",
        *(f"images/s, {number}" for number in callers),
        *(f"of the limit, {number}" for number in callers),
        *(f"p50, p99 ms, {number}" for number in callers),
        "MiB at rest",
        f"MiB, {most}",
        f"processor ms an image, {most}",
        "failures",
    ]
    lines = [
        [
            name,
            *(_number(figures.of(name, number, "images_per_second")) for number in callers),
            *(_percent(figures.share(name, number)) for number in callers),
            *(
                f"{_number(figures.of(name, number, 'p50_ms'))}, {_number(figures.of(name, number, 'p99_ms'))}"
                for number in callers
            ),
            _number(figures.of(name, most, "rest_mebibytes"), digits=0),
            _number(figures.of(name, most, "peak_mebibytes"), digits=0),
            _number(figures.of(name, most, "cpu_ms")),
            str(sum(row["failures"] for row in figures.rows if row["contender"] == name)),
        ]
        for name in figures.contenders
    ]
    return _markdown(headings, lines)


def _targets(figures: Figures) -> str:
    """What the gateway is meant to reach, and what it reached."""
    peers = [name for name in figures.contenders if "bare" not in name and "roost" not in name and "pixels" not in name]
    lines: list[tuple[str, float, float, str]] = []
    for callers in (number for number in figures.callers if number > 1):
        best = max((figures.of(name, callers, "images_per_second") for name in peers), default=math.nan)
        rate, int8 = (figures.of(name, callers, "images_per_second") for name in ("roost", "roost-int8"))
        lines += [
            (f"fp32, of the limit, {callers} callers", figures.share("roost", callers), 0.95, "at least"),
            (f"int8, of the limit, {callers} callers", figures.share("roost-int8", callers), 0.90, "at least"),
            (f"fp32 / the best peer, {callers} callers", rate / best, 1.0, "at least"),
            (f"int8 / fp32, {callers} callers", int8 / rate, 2.5, "at least"),
            (
                f"triton:// / Triton with tensors, {callers} callers",
                figures.share("roost-triton", callers, limit="triton-pixels"),
                0.90,
                "at least",
            ),
        ]
    added = figures.of("roost", 1, "p50_ms") - figures.of("bare", 1, "p50_ms")
    rest = max(
        (figures.of("roost", number, "rest_mebibytes") * 1.048576 for number in figures.callers), default=math.nan
    )
    lines += [
        ("added p50 with one caller, ms", added, 1.5, "at most"),
        ("gateway at rest, MB", rest, 250, "at most"),
    ]
    return _markdown(
        ["target", "", "reached", ""],
        [
            [name, f"{bound} {target:g}", f"{value:.3g}", _verdict(value, target, bound)]
            for name, value, target, bound in lines
            if not math.isnan(value)
        ],
    )


def _verdict(value: float, target: float, bound: str) -> str:
    return "yes" if (value >= target if bound == "at least" else value <= target) else "no"


def _number(value: float, *, digits: int = 1) -> str:
    return "" if math.isnan(value) else f"{value:,.{digits}f}"


def _percent(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.0%}"


def _markdown(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(cells)} |" for cells in (headings, *rows)]
    return "\n".join([lines[0], "|---" * len(headings) + "|", *lines[1:]])
