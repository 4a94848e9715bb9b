"""Images on their way from bytes to pixels: what every backend does first, on a worker's thread."""

import time
from dataclasses import dataclass

import numpy as np

from roost import preprocess
from roost.artifact import Input
from roost.errors import DeadlineExceeded, RoostError
from roost.preprocess import Limits


@dataclass(slots=True)
class Encoded:
    """An image that waits for a worker."""

    image: bytes
    arrival: float
    """When it came, by `time.monotonic`."""
    deadline: float | None
    """When its caller stops waiting; None: never."""


@dataclass(slots=True)
class Decoded:
    """An image that waits to be inferred."""

    pixels: np.ndarray
    """uint8 (size, size, 3)."""
    seconds: dict[str, float]
    """How long it took so far: `queue`, `decode`."""
    ended: float
    """When that was, by `time.monotonic`."""


def decode(encoded: Encoded, given: Input, limits: Limits) -> Decoded | RoostError:
    """An image's pixels as a model takes them, or its error."""
    begun = time.monotonic()
    if encoded.deadline is not None and begun > encoded.deadline:
        return DeadlineExceeded("The deadline passed while the image waited for a worker.")
    try:
        pixels = preprocess.decode(encoded.image, size=given.size, resize=given.resize, limits=limits)
    except RoostError as error:
        return error
    ended = time.monotonic()
    return Decoded(pixels, {"queue": begun - encoded.arrival, "decode": ended - begun}, ended)
