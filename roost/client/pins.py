"""One model version for all messages of a call: the one that answered the first.

Several gateways behind one address load and drop versions some seconds apart, so a later message may reach one that has
not got the version; it is sent again for a while, and never to another version.
"""

import time
from collections.abc import Iterator
from typing import Any

from roost.client.responses import to_reference
from roost.errors import UnknownModel

PATIENCE_SECONDS = 10.0
"""Twice as long as gateways wait between two looks for versions, unless they are told otherwise."""
FIRST_PAUSE = 0.05  # seconds; the next gateway in turn may have the version
LONGEST_PAUSE = 1.0


def named(request: Any) -> bool:
    """Whether the caller named a model version, and not only a model."""
    return request is not None and "@" in request.model


def pin(request: Any, answer: Any) -> bool:
    """Have a request ask the model version that answered an earlier one, where the caller named none.

    Returns:
        Whether it does.
    """
    reference = to_reference(getattr(answer, "model", None))
    if request is None or not reference or named(request):
        return False
    request.model = reference
    return True


def pauses() -> Iterator[float]:
    """How long to wait, in seconds, before each time that a pinned request is sent again."""
    until, pause = time.monotonic() + PATIENCE_SECONDS, FIRST_PAUSE
    while time.monotonic() + pause < until:
        yield pause
        pause = min(LONGEST_PAUSE, 2 * pause)


def gone(request: Any, error: UnknownModel) -> UnknownModel:
    """The error of a version that answered a call's first message, and that no gateway has any more."""
    model = request.model
    return UnknownModel(
        f"{model} answered the first message of this call and is served no more: {error.message} Make the call again, "
        "and it asks the version that is in service now.",
        model=model,
    )
