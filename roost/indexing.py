"""A folder of images into a gateway's store: again and again until every file is stored or known to be bad."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from roost.client import Client, Item, Outcome
from roost.errors import (
    BackendUnavailable,
    BadImage,
    BadRequest,
    DeadlineExceeded,
    GatewayUnavailable,
    Overloaded,
    RoostError,
    StoreUnavailable,
    TooLarge,
)

PASSING = (Overloaded, GatewayUnavailable, BackendUnavailable, StoreUnavailable, DeadlineExceeded)
"""Errors that the same file may not meet again."""
OWN = (BadImage, TooLarge, BadRequest)
"""Errors of one file; any other would meet every file."""
ROUNDS = 6
FIRST_PAUSE = 0.5  # seconds; doubles with each round that gets nothing done
LONGEST_PAUSE = 8.0  # seconds; about 24 in all, in which a gateway restarts


@dataclass(frozen=True)
class Failure:
    """A file that is not stored."""

    path: str
    error: RoostError


@dataclass
class Report:
    """What became of the files."""

    stored: int = 0
    existed: int = 0
    failed: list[Failure] = field(default_factory=list)

    def add(self, name: str, outcome: Outcome) -> None:
        """Count one file."""
        if outcome.error is not None:
            self.failed.append(Failure(name, outcome.error))
        elif outcome.kind == "existed":
            self.existed += 1
        else:
            self.stored += 1

    @property
    def done(self) -> int:
        """Files that are counted."""
        return self.stored + self.existed + len(self.failed)


def index(
    client: Client,
    root: Path,
    names: Sequence[str],
    *,
    model: str = "",
    skip_existing: bool = True,
    pause: Callable[[float], object] = time.sleep,
) -> Iterator[tuple[str, Outcome]]:
    """Store the images of a folder.

    Their ids are made from their content, so a run that was stopped is finished by another. Where the gateway is full
    or gone, the files that it did not take are sent again after the pause that it asks for.

    Args:
        client: The gateway's.
        root: The folder.
        names: Files below it, with forward slashes. The payload keeps the name as `path`, and the first folder's name,
            if the file lies in one, as `label`.
        model: Which model.
        skip_existing: Leave items alone that are stored already.
        pause: Waits for some seconds.

    Yields:
        Each file's name and its final outcome.

    Raises:
        RoostError: One that would meet every file, such as `UnknownModel` or `DiskFull`, or `GatewayUnavailable` and
            its kind after several rounds that got nothing done.
    """
    left, idle = list(names), 0
    while left:
        again: list[str] = []
        answered, settled = 0, 0
        trouble: RoostError | None = None
        outcomes = client.ingest((item(root, name) for name in left), model=model, skip_existing=skip_existing)
        try:
            for name, outcome in zip(left, outcomes, strict=True):
                answered += 1
                if isinstance(outcome.error, PASSING):
                    again.append(name)
                    trouble = outcome.error
                elif outcome.error is not None and not isinstance(outcome.error, OWN):
                    raise outcome.error
                else:
                    settled += 1
                    yield name, outcome
        except PASSING as error:
            trouble = error
        left = again + left[answered:]
        idle = 0 if settled else idle + 1
        if left and trouble is not None:
            if idle == ROUNDS:
                raise trouble
            pause(_seconds(trouble, idle))


def item(root: Path, name: str) -> Item:
    """A file as an item: its path below the folder, and the folder's name as its label."""
    first, slash, _ = name.partition("/")
    return Item(root / name, payload={"path": name} | ({"label": first} if slash else {}))


def _seconds(trouble: RoostError, idle: int) -> float:
    hint = trouble.facts.get("retry_after_seconds")
    return float(hint) if hint else min(LONGEST_PAUSE, FIRST_PAUSE * 2**idle)
