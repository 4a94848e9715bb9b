"""What gRPC sends again for the client, and when it stops."""

import time

import grpc
import pytest
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from roost import errors
from roost.client.channel import SAFE, SERVICE
from roost.v1 import gateway_pb2 as pb


def refuse(context, kind, *, pushback: str) -> None:
    """Answer as a gateway does."""
    details = [error_details_pb2.ErrorInfo(reason=kind.reason, domain="roost")]
    if not pushback.startswith("-"):
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(int(pushback))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    packed = []
    for detail in details:
        packed.append(any_pb2.Any())
        packed[-1].Pack(detail)
    code = grpc.StatusCode[kind.code].value[0]
    status = rpc_status.to_status(status_pb2.Status(code=code, message="no", details=packed))
    context.set_trailing_metadata((*status.trailing_metadata, ("grpc-retry-pushback-ms", pushback)))
    context.abort(status.code, status.details)


def test_every_method_is_either_safe_or_known_not_to_be():
    methods = {method.name for method in pb.DESCRIPTOR.services_by_name["GatewayService"].methods}
    assert methods == {*SAFE, "IngestItems", "DeleteItem", "ReloadModels"}
    assert SERVICE == "roost.v1.GatewayService"


def test_a_call_that_meets_a_restart_is_sent_again(peer, call):
    def answer(request, context):
        if len(peer.requests) < 3:
            context.abort(grpc.StatusCode.UNAVAILABLE, "restarting")
        return pb.ListModelsResponse(models=[pb.Model(dim=7)])

    peer.answers["ListModels"] = answer
    assert [model.dim for model in call(peer.target, "models")] == [7]
    assert len(peer.requests) == 3


def test_an_overloaded_gateway_is_asked_again_when_it_said(peer, call):
    times = []

    def answer(request, context):
        times.append(time.monotonic())
        if len(times) == 1:
            refuse(context, errors.Overloaded, pushback="700")
        return pb.ListModelsResponse()

    peer.answers["ListModels"] = answer
    assert call(peer.target, "models") == []
    assert times[1] - times[0] >= 0.7


def test_what_will_never_be_taken_is_sent_once(peer, call):
    peer.answers["ListModels"] = lambda request, context: refuse(context, errors.TooLarge, pushback="-1")
    with pytest.raises(errors.TooLarge):
        call(peer.target, "models")
    assert len(peer.requests) == 1


def test_what_changes_something_is_sent_once(peer, call):
    peer.answers["DeleteItem"] = lambda request, context: context.abort(grpc.StatusCode.UNAVAILABLE, "restarting")
    with pytest.raises(errors.GatewayUnavailable):
        call(peer.target, "delete", "x")
    assert len(peer.requests) == 1


def test_in_an_outage_hardly_anything_is_sent_twice(peer):
    from roost.client import Client

    peer.answers["ListModels"] = lambda request, context: context.abort(grpc.StatusCode.UNAVAILABLE, "down")
    with Client(peer.target) as client:
        for _ in range(100):
            with pytest.raises(errors.GatewayUnavailable):
                client.models()
    assert len(peer.requests) <= 110


def test_calls_go_to_each_of_several_gateways(call):
    from concurrent.futures import ThreadPoolExecutor

    from roost.client import Client
    from roost.v1 import gateway_pb2_grpc

    asked, servers = [], []
    for number in range(2):

        class One(gateway_pb2_grpc.GatewayServiceServicer):
            def ListModels(self, request, context, number=number):
                asked.append(number)
                return pb.ListModelsResponse()

        server = grpc.server(ThreadPoolExecutor(2), options=[("grpc.so_reuseport", 0)])
        gateway_pb2_grpc.add_GatewayServiceServicer_to_server(One(), server)
        servers.append((server, server.add_insecure_port("127.0.0.1:0")))
        server.start()
    with Client("ipv4:" + ",".join(f"127.0.0.1:{port}" for _, port in servers)) as client:
        for _ in range(20):
            client.models()
    for server, _ in servers:
        server.stop(None).wait()
    assert 5 <= asked.count(0) <= 15
