"""How the engine's process says no: with the status codes and words of a Qdrant server."""

from typing import Self

import grpc


class Refused(Exception):
    """A request that is answered with a status instead of a result.

    Args:
        code: The gRPC status.
        message: What is wrong, for a person.
    """

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message

    @classmethod
    def invalid(cls, message: str) -> Self:
        """A request that can never be served."""
        return cls(grpc.StatusCode.INVALID_ARGUMENT, message)

    @classmethod
    def missing(cls, collection: str) -> Self:
        """A collection that does not exist."""
        return cls(grpc.StatusCode.NOT_FOUND, f"Not found: Collection `{collection}` doesn't exist!")

    @classmethod
    def no_space(cls, *, free: int, needed: int) -> Self:
        """A write for which the disk has no room; sizes in bytes."""
        return cls(
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            f"No space left on device: {free >> 20} MiB are free and {needed >> 20} MiB are needed",
        )


class Lost(Exception):
    """Something that only a new process can mend."""


def translate(error: Exception) -> Refused:
    """The status of an error that nobody foresaw: the engine's have no types, so their words decide.

    The words themselves name files, and go to the log.
    """
    text = str(error)
    if "No space left" in text:
        return Refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "No space left on device")
    for words in _CALLERS_FAULTS:
        if words in text:
            return Refused.invalid(words)
    return Refused(grpc.StatusCode.INTERNAL, "Service internal error: the log of the engine's process says why")


_CALLERS_FAULTS = ("Vector dimension error", "Wrong input", "No appropriate index", "Not existing vector name")
