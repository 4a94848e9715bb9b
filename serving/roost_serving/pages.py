"""Page tokens: opaque to callers, and refused anywhere but in the list that gave them."""

import base64
import binascii
import hashlib
from collections.abc import Iterable, Sequence
from typing import TypeVar

from google.protobuf.message import Message

from roost.errors import BadPageToken, BadRequest

T = TypeVar("T")
MOST = 1000
DIGEST = 8
FRAME_BYTES = 8
"""What one message costs inside another besides its own bytes, at most."""
FOREIGN = "The page token is not one that this list gave. Start again without a token."


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
    content = start.encode()
    return base64.urlsafe_b64encode(_digest(content, scope) + content).decode()


def start(page_token: str, *, scope: str) -> str | None:
    """The key that a token leads to; None for the first page.

    Raises:
        BadPageToken: This list did not give the token. Its digest has no secret, so whoever uses the key checks it too.
    """
    if not page_token:
        return None
    try:
        raw = base64.b64decode(page_token, altchars=b"-_", validate=True)
        digest, content = raw[:DIGEST], raw[DIGEST:]
        key = content.decode()
    except (ValueError, binascii.Error):
        raise BadPageToken(FOREIGN)
    if digest != _digest(content, scope):
        raise BadPageToken(FOREIGN)
    return key


def cut(everything: Sequence[T], asked: int, page_token: str, *, scope: str) -> tuple[Sequence[T], str]:
    """A page of a list that is in memory, and the token of the next page.

    Raises:
        BadPageToken: This list did not give the token, or has no such place.
    """
    place = start(page_token, scope=scope)
    place = "0" if place is None else place
    if place not in {str(number) for number in range(len(everything) + 1)}:
        raise BadPageToken(FOREIGN)
    first = int(place)
    last = first + size(asked, default=100)
    return everything[first:last], token(str(last) if last < len(everything) else None, scope=scope)


def fitting(messages: Iterable[Message], most_bytes: int) -> int:
    """How many of these messages, from the first on, an answer of so many bytes holds."""
    size = count = 0
    for message in messages:
        size += message.ByteSize() + FRAME_BYTES
        if size > most_bytes:
            break
        count += 1
    return count


def _digest(content: bytes, scope: str) -> bytes:
    return hashlib.blake2b(scope.encode() + b"\0" + content, digest_size=DIGEST).digest()
