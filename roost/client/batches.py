"""Many images or vectors as messages of a size that a gateway takes."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
from google.protobuf.message import Message

from roost.client.answers import Image, Item
from roost.client.requests import ENVELOPE_BYTES, from_vector, to_item
from roost.client.responses import to_result
from roost.errors import (
    BadImage,
    BadRequest,
    BadVector,
    Forbidden,
    GatewayUnavailable,
    RoostError,
    TooLarge,
    Unauthenticated,
    UnknownModel,
)
from roost.v1 import gateway_pb2 as pb

MAX_ITEMS = 64  # a quarter of what a message may have, as four are on their way together
MAX_VECTORS = 4096
BATCH_BYTES = 3 * 1024 * 1024  # below the 4 MiB that a gRPC server takes unless it is told otherwise

FRAME_BYTES = 12  # more than what surrounds an item or a vector in its message takes

OnError = Literal["raise", "return"]
COMMON = (Unauthenticated, Forbidden, UnknownModel, GatewayUnavailable)
"""What refuses one message would refuse all: it says nothing of their images."""
Entry = pb.Item | RoostError
"""An item to send, or why it cannot be sent."""

T = TypeVar("T")


def batches(
    things: Iterable[T], *, size: Callable[[T], int], most: int, most_bytes: int = BATCH_BYTES
) -> Iterator[list[T]]:
    """Cut a stream into lists of at most `most` things and `most_bytes` bytes; a larger thing goes alone."""
    batch: list[T] = []
    total = 0
    for thing in things:
        bytes_ = size(thing)
        if batch and (len(batch) == most or total + bytes_ > most_bytes):
            yield batch
            batch, total = [], 0
        batch.append(thing)
        total += bytes_
    if batch:
        yield batch


def image_batches(images: Iterable[Image], *, on_error: OnError, max_bytes: int) -> Iterator[list[Entry]]:
    """Read images, lazily, into batches that fit a message.

    Raises:
        BadImage: A file cannot be read, and `on_error` is "raise".
        BadRequest: Something is no image.
        TooLarge: An image alone is over `max_bytes`, and `on_error` is "raise".
    """
    if isinstance(images, bytes | str | Path):
        raise BadRequest("Give a list of images, even for one.")

    def entries() -> Iterator[Entry]:
        for image in images:
            try:
                yield to_item(Item(image), max_bytes=max_bytes)
            except (BadImage, TooLarge) as error:
                if on_error == "raise":
                    raise
                yield error

    def size(entry: Entry) -> int:
        return entry.ByteSize() + FRAME_BYTES if isinstance(entry, Message) else 0

    return batches(entries(), size=size, most=MAX_ITEMS, most_bytes=_room(max_bytes))


def embed_calls(
    images: Iterable[Image], *, model: str, on_error: OnError, max_bytes: int
) -> Iterator[tuple[list[Entry], pb.EmbedItemsRequest | None]]:
    """Batches, and for each the request for its readable images; None where there are none."""
    for batch in image_batches(images, on_error=on_error, max_bytes=max_bytes):
        items = [entry for entry in batch if isinstance(entry, Message)]
        request = pb.EmbedItemsRequest(model=model, items=items, allow_partial=on_error == "return")
        yield batch, request if items else None


def returns(error: RoostError, *, on_error: OnError, answered: bool) -> bool:
    """Whether a whole message's error takes the place of its images' embeddings, rather than be raised.

    Args:
        error: Of the message.
        on_error: As the caller wishes.
        answered: Whether an earlier message was: what it gave must not be lost.
    """
    return on_error == "return" and (answered or not isinstance(error, COMMON))


def embed_results(
    batch: Sequence[Entry], response: pb.EmbedItemsResponse | RoostError | None
) -> list[np.ndarray | RoostError]:
    """One vector or error per entry of the batch."""
    if isinstance(response, RoostError):
        return [response if isinstance(entry, Message) else entry for entry in batch]
    answers = iter(response.results if response else ())
    return [to_result(next(answers)) if isinstance(entry, Message) else entry for entry in batch]


def stack(results: list[np.ndarray | RoostError]) -> np.ndarray:
    """Embeddings as one array, shape (n, dim).

    Raises:
        BadRequest: There are none.
        RoostError: The first error among them.
    """
    for result in results:
        if isinstance(result, RoostError):
            raise result
    if not results:
        raise BadRequest("There is no image to embed. Give at least one.")
    return np.stack(results)  # type: ignore[arg-type]  # errors were raised above


def assign_calls(
    *, images: Iterable[Image] | None, vectors: np.ndarray | None, model: str, max_bytes: int
) -> Iterator[tuple[None, pb.AssignClustersRequest]]:
    """Requests that ask where images or vectors lie.

    Raises:
        BadRequest: Both were given, or neither.
        BadVector: The vectors' shape is not (n, dim).
    """
    if (images is None) == (vectors is None):
        raise BadRequest("Give images or vectors: exactly one of the two.")
    if images is not None:
        for batch in image_batches(images, on_error="raise", max_bytes=max_bytes):
            yield None, pb.AssignClustersRequest(model=model, items=batch)  # type: ignore[arg-type]  # no errors among them
        return
    rows = np.asarray(vectors)
    if rows.ndim != 2:
        raise BadVector(f"Vectors have shape {rows.shape}, not (n, dim).", shape=rows.shape)
    groups = batches(rows, size=lambda row: 4 * len(row) + FRAME_BYTES, most=MAX_VECTORS, most_bytes=_room(max_bytes))
    for rows_ in groups:
        yield None, pb.AssignClustersRequest(model=model, vectors=[from_vector(row) for row in rows_])


def _room(max_bytes: int) -> int:
    """Bytes that the items of a message may have together, where the message may have `max_bytes`."""
    return min(BATCH_BYTES, max_bytes - ENVELOPE_BYTES)
