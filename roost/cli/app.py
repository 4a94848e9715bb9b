"""What all commands share: the options before the command, and how an error leaves."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from roost.cli.output import say
from roost.errors import MissingDependency, RoostError

FAILED = 1
PARTLY_FAILED = 3


class Commands(TyperGroup):
    """Turns an error of the domain into one line on stderr and exit code 1."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except RoostError as error:
            say(f"roost: {error.message}")
            if ctx.params.get("verbose"):
                for name, value in sorted({"reason": error.reason, **error.facts}.items()):
                    say(f"  {name} = {value}")
            raise typer.Exit(FAILED)


def root(
    verbose: Annotated[int, typer.Option("-v", "--verbose", count=True, help="Say more; -vv says everything.")] = 0,
) -> None:
    """Roost turns a pile of unlabelled images into a running embedding service."""
    if verbose:  # else a command may decide for itself: `roost serve` has a log level of its own
        level = logging.INFO if verbose == 1 else logging.DEBUG
        logging.basicConfig(level=level, format="%(levelname)s %(name)s: %(message)s")


def how_to_install(extra: str) -> str:
    """What to do for an extra's libraries; Roost is on no package index, so its name alone would fetch another's."""
    return f"Install Roost with the extra `{extra}`; in its source folder: pip install '.[{extra}]'"


@contextmanager
def stage(extra: str) -> Iterator[None]:
    """Import and run a stage; a library that is not installed becomes one line that says how to get it.

    Args:
        extra: The extra of Roost that installs the stage's libraries.

    Raises:
        MissingDependency: A library is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0].startswith("roost"):
            raise
        raise MissingDependency(
            f"This command needs {error.name}, which is not installed. {how_to_install(extra)}", package=error.name
        ) from error
