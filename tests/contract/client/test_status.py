import socket
import threading

import grpc
import pytest
from google.protobuf import any_pb2, duration_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from roost import errors
from roost.client.status import from_status
from roost.v1 import gateway_pb2 as pb

KINDS = sorted(errors.by_reason().values(), key=lambda kind: kind.reason)


def packed(kind, message, facts, *, retry_seconds=None):
    details = [any_pb2.Any(), any_pb2.Any()]
    details[0].Pack(error_details_pb2.ErrorInfo(reason=kind.reason, domain="roost", metadata=facts))
    details[1].Pack(error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(nanos=250_000_000)))
    kept = details if retry_seconds else details[:1]
    return status_pb2.Status(code=code_pb2.Code.Value(kind.code), message=message, details=kept)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.reason)
def test_a_status_becomes_the_error_that_it_was_made_from(kind):
    error = from_status(packed(kind, "It happened.", {"path": "a.png", "message": "x"}))
    assert type(error) is kind
    assert error.message == "It happened."
    assert error.facts == {"path": "a.png", "message": "x"}


def test_a_call_raises_the_error_of_its_status_with_the_hint_when_to_try_again(peer, call):
    def refuse(request, context):
        status = packed(errors.Overloaded, "Full.", {"limit": "8"}, retry_seconds=0.25)
        context.abort_with_status(rpc_status.to_status(status))

    peer.answers["ListModels"] = refuse
    with pytest.raises(errors.Overloaded, match="Full") as caught:
        call(peer.target, "models")
    assert caught.value.facts == {"limit": "8", "retry_after_seconds": "0.25"}


@pytest.mark.parametrize(
    ("code", "text", "kind"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, "no", errors.BadRequest),
        (grpc.StatusCode.NOT_FOUND, "no", errors.UnknownItem),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "busy", errors.Overloaded),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "CLIENT: Sent message larger than max (9 vs. 8)", errors.TooLarge),
        (grpc.StatusCode.UNAVAILABLE, "no", errors.GatewayUnavailable),
        (grpc.StatusCode.UNIMPLEMENTED, "no", errors.GatewayUnavailable),
        (grpc.StatusCode.CANCELLED, "no", errors.GatewayUnavailable),
        (grpc.StatusCode.INTERNAL, "no", errors.Unexpected),
        (grpc.StatusCode.UNAUTHENTICATED, "no", errors.RoostError),
    ],
)
def test_a_status_without_a_reason_becomes_the_nearest_error(peer, call, code, text, kind):
    peer.answers["ListModels"] = lambda request, context: context.abort(code, text)
    with pytest.raises(errors.RoostError) as caught:
        call(peer.target, "models")
    assert type(caught.value) is kind


def test_where_nothing_listens_the_error_names_the_address_and_the_command(call):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: nobody else can answer there
        target = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(errors.GatewayUnavailable, match=f"{target}.*`roost serve`") as caught:
            call(target, "models")
    assert caught.value.facts["target"] == target


def test_a_gateway_that_does_not_answer_in_time_is_a_deadline_exceeded(peer, call):
    gone = threading.Event()

    def wait(request, context):
        context.add_callback(gone.set)
        gone.wait(10)
        return pb.ListModelsResponse()

    peer.answers["ListModels"] = wait
    with pytest.raises(errors.DeadlineExceeded, match=r"within 0\.2 s"):
        call(peer.target, "models", options={"timeout": 0.2})
    assert gone.wait(10)
