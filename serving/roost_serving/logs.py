"""What the gateway logs: one event a line, as text or as JSON, with the call that it belongs to."""

import json
import logging
import os
import re
import sys
import time
from collections.abc import Iterable
from contextvars import ContextVar
from typing import Any, Literal

from roost_serving import callers

Format = Literal["text", "json"]

REQUEST_ID = "x-request-id"
"""Metadata by which a caller names its call, and by which the answer's trailer tells the name."""
VARIABLE = "ROOST_SERVE_LOG_FORMAT"
"""Tells processes that the gateway starts how to log."""
BREAKS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
"""What some reader of lines, or a terminal, would take for more than a character."""

_request: ContextVar[str] = ContextVar("request", default="")


def begin(metadata: Iterable[tuple[str, str | bytes]]) -> str:
    """Name the call under way as its caller does, or anew where it does not, or not in 1 to 64 plain characters."""
    given = next((value for name, value in metadata if name == REQUEST_ID), "")
    known = isinstance(given, str) and re.fullmatch(r"[A-Za-z0-9._:/+=@-]{1,64}", given)
    name = given if isinstance(given, str) and known else os.urandom(16).hex()
    _request.set(name)
    return name


def configure(level: str, form: Format) -> None:
    """Log to stderr, Python's warnings too, from this process and from those that it starts."""
    os.environ[VARIABLE] = form
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Json() if form == "json" else Text())
    logging.basicConfig(level=level.upper(), handlers=[handler])
    logging.getLogger("grpc._cython.cygrpc").addFilter(_shows_no_metadata)
    logging.captureWarnings(True)


def configure_as_parent() -> None:
    """Log to stderr in the form that the process which started this one was told."""
    configure("info", "json" if os.environ.get(VARIABLE) == "json" else "text")


def _shows_no_metadata(record: logging.LogRecord) -> bool:
    """Whether an event of gRPC's is not the one that shows metadata which is no UTF-8, and may be a mistyped key."""
    return not str(record.msg).startswith("Invalid encoding on")


class Text(logging.Formatter):
    """For a person: one line, whatever the message holds, and the traceback of an error below it, indented."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """The line; in a call with the call's name and the caller's."""
        request = _request.get()
        call = f" [request {request}, {callers.current().name}]" if request else ""
        return _plain(super().formatMessage(record)) + call

    def formatException(self, ei: Any) -> str:  # noqa: N802
        """The traceback; no line of it can be taken for an event."""
        return "\n".join(f"    {_plain(line)}" for line in super().formatException(ei).split("\n"))


class Json(logging.Formatter):
    """For a program: an object a line, whatever the message holds."""

    def format(self, record: logging.LogRecord) -> str:
        """`time`, `level`, `logger`, `message`; in a call `request` and `caller`; of an error its `traceback`."""
        whole, milliseconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)), int(record.msecs)
        event = {
            "time": f"{whole}.{milliseconds:03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if request := _request.get():
            event |= {"request": request, "caller": callers.current().name}
        if record.exc_info:
            event["traceback"] = self.formatException(record.exc_info)
        return BREAKS.sub(lambda found: f"\\u{ord(found[0]):04x}", json.dumps(event, ensure_ascii=False))


def _plain(text: str) -> str:
    return BREAKS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
