"""How commands print: data to stdout as a table or as JSON lines, words to stderr."""

import dataclasses
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import typer

from roost.errors import RoostError

PIPE_WIDTH = 200  # a table that goes into a pipe is not cut to the width of a terminal


@runtime_checkable
class Array(Protocol):
    """A numpy array or number, without importing numpy."""

    def tolist(self) -> Any:
        """The same as Python's own values."""
        ...


def say(words: str) -> None:
    """A line for a person."""
    typer.echo(words, err=True)


def say_failed(path: object, error: RoostError) -> None:
    """A line that says which file failed and why."""
    say(error.message if str(path) in error.message else f"{path}: {error.message}")


def emit(value: Any) -> None:
    """A line of JSON for a program."""
    typer.echo(json.dumps(plain(value), ensure_ascii=False))


def plain(value: Any) -> Any:
    """A value as JSON has it: dataclasses and errors as objects, arrays as lists, paths as text."""
    if isinstance(value, RoostError):
        return {"reason": value.reason, "message": value.message, "facts": value.facts}
    if dataclasses.is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    return value.tolist() if isinstance(value, Array) else value


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A table for a person; a column whose name begins with `#` holds numbers."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for name in columns:
        drawn.add_column(name.removeprefix("#"), justify="right" if name.startswith("#") else "left")
    for row in rows:
        drawn.add_row(*(Text(cell(value)) for value in row))
    Console(width=None if sys.stdout.isatty() else PIPE_WIDTH).print(drawn)


def cell(value: object) -> str:
    """One cell of a table."""
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.4g}"
        case _:
            return str(value)
