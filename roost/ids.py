"""How an item is named: by its caller, or by its content."""

import hashlib
import uuid

NAMESPACE = uuid.UUID("6f0c9bd2-61a5-5e0c-9a39-7d3bb7f3a1f4")
MAX_LENGTH = 256


def content_id(data: bytes) -> str:
    """The id of an item whose caller gives none: uuid5 of its bytes' sha256, so sending again changes nothing."""
    return sha256_id(hashlib.sha256(data).hexdigest())


def sha256_id(digest: str) -> str:
    """The content id of bytes whose sha256 is known already, as 64 lower-case hexadecimal digits."""
    return str(uuid.uuid5(NAMESPACE, digest))


def point_id(item_id: str) -> str:
    """The key under which an item is stored: its id where that is a UUID, else the id's uuid5.

    Only the usual spelling counts as a UUID, 36 characters in lower case, so that two ids never share a key.
    """
    try:
        canonical = str(uuid.UUID(item_id))
    except ValueError:
        canonical = None
    return item_id if item_id == canonical else str(uuid.uuid5(NAMESPACE, item_id))
