"""Lines of JSON that runs leave, their means over seeds, and tables of them."""

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

Row = dict[str, Any]


def read(path: Path) -> list[Row]:
    """The rows of a file; none where there is no file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def means(rows: Iterable[Row], *, by: Sequence[str], columns: Iterable[str]) -> list[Row]:
    """One row for each group, in the order in which groups come first.

    Args:
        rows: Each of one seed.
        by: Keys that are equal in a group.
        columns: What is averaged, and has its standard deviation as `COLUMN_sd` where there are several seeds.
    """
    groups: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in rows:
        groups[tuple(row[key] for key in by)].append(row)
    found = []
    for values, group in groups.items():
        present = [column for column in columns if all(column in row for row in group)]
        figures = {column: mean(row[column] for row in group) for column in present}
        spread = {f"{column}_sd": stdev(row[column] for row in group) for column in present} if len(group) > 1 else {}
        found.append(dict(zip(by, values, strict=True)) | {"seeds": len(group)} | figures | spread)
    return found


def cell(row: Row, column: str, *, digits: int = 3) -> str:
    """A figure with its standard deviation over seeds, where it has one; empty where there is no figure."""
    if column not in row:
        return ""
    spread = f" ± {row[f'{column}_sd']:.{digits}f}" if f"{column}_sd" in row else ""
    return f"{row[column]:.{digits}f}{spread}"


def markdown(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table."""
    lines = [f"| {' | '.join(cells)} |" for cells in (headings, *rows)]
    return "\n".join([lines[0], "|---" * len(headings) + "|", *lines[1:]])
