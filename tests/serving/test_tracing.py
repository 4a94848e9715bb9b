"""Spans of a real gateway, as a collector gets them."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

from roost.v1 import gateway_pb2 as pb
from roost.v1 import gateway_pb2_grpc

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SECRETS = ("canary-id", "canary-payload", "canary-metadata")


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Keeps what it is sent."""

    def __init__(self) -> None:
        self.sent: SimpleQueue = SimpleQueue()

    def Export(self, request, context):
        self.sent.put(request)
        return trace_service_pb2.ExportTraceServiceResponse()

    def wait_for(self, names: set[str]) -> list:
        """Every resource's spans, once spans of these names are among them."""
        requests = []
        while not names <= {span.name for span in spans(requests)}:
            requests.append(self.sent.get(timeout=30))
        return requests


def spans(requests):
    return [
        span
        for request in requests
        for resource in request.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]


@pytest.fixture
def collector(monkeypatch):
    """A collector that the environment names."""
    collector, server = Collector(), grpc.server(ThreadPoolExecutor(2))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
    yield collector
    server.stop(0).wait()


def test_a_caller_s_trace_goes_on_through_the_gateway_to_the_store(serve, repository, tmp_path, digits, collector):
    metadata = (("traceparent", f"00-{TRACE}-{PARENT}-01"), ("x-request-id", SECRETS[2]))
    with serve(
        "--backend", f"onnx://{repository}", "--store", f"edge://{tmp_path}/index", "--tracing", "true"
    ) as gateway:
        with grpc.insecure_channel(gateway.address) as channel:
            stub = gateway_pb2_grpc.GatewayServiceStub(channel)
            item = pb.Item(id=SECRETS[0], image=digits[0])
            item.payload["note"] = SECRETS[1]
            list(stub.IngestItems(iter([pb.IngestItemsRequest(model="digits", item=item)])))
            stub.SearchItems(pb.SearchItemsRequest(model="digits", item=item, limit=3), metadata=metadata)
        requests = collector.wait_for({"/roost.v1.GatewayService/SearchItems", "/qdrant.Points/Query"})
        assert gateway.stop() == 0
    found = {span.name: span for span in spans(requests)}
    call, query = found["/roost.v1.GatewayService/SearchItems"], found["/qdrant.Points/Query"]
    assert (call.trace_id.hex(), call.parent_span_id.hex()) == (TRACE, PARENT)
    assert (query.trace_id, query.parent_span_id) == (call.trace_id, call.span_id)
    resource = requests[0].resource_spans[0].resource
    assert {each.key: each.value.string_value for each in resource.attributes}["service.name"] == "roost-gateway"
    assert not [name for name in found if "Health" in name]
    sent = b"".join(request.SerializeToString() for request in requests)
    assert not [secret for secret in SECRETS if secret.encode() in sent]


def test_an_error_is_traced_with_its_status(serve, repository, collector):
    name = "/roost.v1.GatewayService/GetItem"
    with serve("--backend", f"onnx://{repository}", "--store", "memory://", "--tracing", "true") as gateway:
        with grpc.insecure_channel(gateway.address) as channel, pytest.raises(grpc.RpcError):
            gateway_pb2_grpc.GatewayServiceStub(channel).GetItem(pb.GetItemRequest(model="digits", id="none"))
        (span,) = [span for span in spans(collector.wait_for({name})) if span.name == name]
    attributes = {each.key: each.value.int_value for each in span.attributes}
    assert attributes["rpc.grpc.status_code"] == grpc.StatusCode.NOT_FOUND.value[0]
    assert not span.events  # an exception's would have its text and its traceback


def test_a_collector_that_is_away_delays_nobody(serve, repository, digits, monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    with serve("--backend", f"onnx://{repository}", "--store", "memory://", "--tracing", "true") as gateway:
        with grpc.insecure_channel(gateway.address) as channel:
            request = pb.EmbedItemsRequest(model="digits", items=[pb.Item(image=digits[0])])
            answer = gateway_pb2_grpc.GatewayServiceStub(channel).EmbedItems(request, timeout=20)
            assert len(answer.results) == 1
        assert gateway.stop() == 0


def test_without_the_packages_it_says_what_to_install(repository):
    code = "import sys; sys.modules['opentelemetry'] = None; from roost.cli import main; main()"
    command = [
        sys.executable,
        "-c",
        code,
        "serve",
        "--backend",
        f"onnx://{repository}",
        "--store",
        "memory://",
        "--tracing",
        "true",
    ]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    assert "--tracing needs opentelemetry" in done.stderr.replace("\n", " ")
    assert "pip install '.[serving,tracing]'" in done.stderr.replace("\n", " ")
