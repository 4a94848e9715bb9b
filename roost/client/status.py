"""A gRPC status back into the error class that the gateway raised."""

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from roost import errors

DETAILS = "grpc-status-details-bin"
LOCAL = "Internal error from Core"  # grpc.aio's status for a stream that ended while a request was being written
FACT = "retry_after_seconds"
GONE = {
    grpc.StatusCode.UNAVAILABLE: "No gateway answers at {target}. Start one with `roost serve`, or give its address.",
    grpc.StatusCode.UNIMPLEMENTED: "What answers at {target} is no Roost gateway, or an older one. Give its address.",
    grpc.StatusCode.CANCELLED: "The gateway at {target} ended the call. Try again.",
}
NEAREST = {
    grpc.StatusCode.INVALID_ARGUMENT: errors.BadRequest,
    grpc.StatusCode.OUT_OF_RANGE: errors.BadRequest,
    grpc.StatusCode.NOT_FOUND: errors.UnknownItem,
    grpc.StatusCode.RESOURCE_EXHAUSTED: errors.Overloaded,
    grpc.StatusCode.DEADLINE_EXCEEDED: errors.DeadlineExceeded,
    grpc.StatusCode.UNAVAILABLE: errors.GatewayUnavailable,
    grpc.StatusCode.INTERNAL: errors.Unexpected,
    grpc.StatusCode.UNKNOWN: errors.Unexpected,
    grpc.StatusCode.DATA_LOSS: errors.Unexpected,
}


def from_status(status: status_pb2.Status) -> errors.RoostError | None:
    """The error that a status was made from; None where it carries no reason that this version knows."""
    kind, facts = None, {}
    for detail in status.details:
        info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
        if detail.Unpack(info) and info.domain == errors.DOMAIN:
            kind = errors.by_reason().get(info.reason)
            facts |= dict(info.metadata)
        elif detail.Unpack(retry):
            facts.setdefault(FACT, str(retry.retry_delay.ToNanoseconds() / 1e9))
    if kind is None:
        return None
    error = kind(status.message)
    error.facts = facts
    return error


def from_item(status: status_pb2.Status) -> errors.RoostError:
    """The error of one item of an answer."""
    code = next((code for code in grpc.StatusCode if code.value[0] == status.code), grpc.StatusCode.UNKNOWN)
    return from_status(status) or _nearest(code, status.message)


def from_rpc(error: grpc.RpcError, *, target: str, timeout: float) -> errors.RoostError:
    """The error of a whole call.

    Args:
        error: As raised by a stub of `grpc` or `grpc.aio`.
        target: The gateway's address, for the message.
        timeout: The call's deadline, in seconds, for the message.
    """
    rebuilt = from_status(_details(error))
    if rebuilt is not None:
        return rebuilt
    code, text = error.code(), error.details() or ""  # type: ignore[attr-defined]  # every RpcError of a stub is a Call
    if code in GONE:
        return errors.GatewayUnavailable(GONE[code].format(target=target), target=target, details=text)
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return no_answer(target, timeout)
    if code is grpc.StatusCode.INTERNAL and text == LOCAL:
        return ended_early(target)
    return _nearest(code, text)


def no_answer(target: str, timeout: float) -> errors.DeadlineExceeded:
    """The error of a gateway that says nothing in time."""
    message = f"The gateway at {target} gave no answer within {timeout:g} s. Allow more time, or send less at once."
    return errors.DeadlineExceeded(message, target=target, timeout_seconds=timeout)


def ended_early(target: str) -> errors.GatewayUnavailable:
    """The error of a stream that ends well before every item has its answer."""
    return errors.GatewayUnavailable(
        f"The gateway at {target} ended the stream early. Send the rest again.", target=target
    )


def _details(error: grpc.RpcError) -> status_pb2.Status:
    for key, value in error.trailing_metadata() or ():  # type: ignore[attr-defined]
        if key == DETAILS:
            try:
                return status_pb2.Status.FromString(value)
            except DecodeError:  # a proxy's, then, and of no use
                break
    return status_pb2.Status()


def _nearest(code: grpc.StatusCode, text: str) -> errors.RoostError:
    """An error for a status without a known reason: from gRPC itself, a proxy, or a newer gateway."""
    if "larger than max" in text:  # gRPC's own words for its message limit
        return errors.TooLarge(f"The message is over the limit on its size: {text}. Send a smaller image.")
    return NEAREST.get(code, errors.RoostError)(f"{code.name}: {text or 'no further text'}")
