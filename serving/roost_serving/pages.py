"""Page tokens: opaque to callers, and refused anywhere but in the list that gave them."""

import base64
import binascii
import hashlib
import json
from collections.abc import Sequence
from typing import TypeVar

from roost.errors import BadPageToken, BadRequest

T = TypeVar("T")
MOST = 1000
DIGEST = 8


def size(asked: int, *, default: int) -> int:
    """How many a page, or a search, holds.

    Raises:
        BadRequest: Negative, or more than 1,000.
    """
    if not 0 <= asked <= MOST:
        raise BadRequest(f"The limit is {asked}; it must be 1 to {MOST}, or 0 for {default}.", limit=asked, most=MOST)
    return asked or default


def token(start: str | None, *, scope: str) -> str:
    """The token of the page that starts at a key; empty where there is no next page.

    Args:
        start: The key.
        scope: Everything that the list depends on, so that another list refuses the token.
    """
    if start is None:
        return ""
    content = json.dumps(start).encode()
    return base64.urlsafe_b64encode(_digest(content, scope) + content).decode()


def start(page_token: str, *, scope: str) -> str | None:
    """The key that a token leads to; None for the first page.

    Raises:
        BadPageToken: This list did not give the token.
    """
    if not page_token:
        return None
    foreign = BadPageToken("The page token is not one that this list gave. Start again without a token.")
    try:
        raw = base64.b64decode(page_token, altchars=b"-_", validate=True)
    except (ValueError, binascii.Error):
        raise foreign
    digest, content = raw[:DIGEST], raw[DIGEST:]
    if digest != _digest(content, scope):
        raise foreign
    return json.loads(content)


def cut(everything: Sequence[T], asked: int, page_token: str, *, scope: str) -> tuple[Sequence[T], str]:
    """A page of a list that is in memory, and the token of the next page."""
    first = int(start(page_token, scope=scope) or 0)
    last = first + size(asked, default=100)
    return everything[first:last], token(str(last) if last < len(everything) else None, scope=scope)


def _digest(content: bytes, scope: str) -> bytes:
    return hashlib.blake2b(scope.encode() + b"\0" + content, digest_size=DIGEST).digest()
