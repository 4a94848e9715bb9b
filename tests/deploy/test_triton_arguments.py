"""A real Triton takes the chart's arguments, and keeps from strangers what the chart says it does."""

import os
import socket
import subprocess
import sysconfig
from pathlib import Path

import grpc
import pytest
from google.protobuf.message import Message
from tritonclient.grpc import service_pb2, service_pb2_grpc

KEY = "a-pods-uid"
ADMIN = (("triton-grpc-protocol-roost-admin", KEY),)


@pytest.fixture(scope="module")
def server(root: Path) -> Path:
    found = list(root.glob(".triton/lib/python3*/site-packages/pytriton/tritonserver/bin/tritonserver"))
    if not found:
        pytest.skip("there is no Triton server: `make triton` makes one")
    return found[0]


@pytest.fixture(scope="module")
def channel(server, render, tmp_path_factory):
    """A channel to a Triton that runs with the chart's own arguments, on other ports and an empty repository."""
    folder = tmp_path_factory.mktemp("triton")
    (folder / "models").mkdir()
    (triton,) = [
        doc for doc in render({}) if doc["metadata"]["name"] == "demo-roost-triton" and doc["kind"] == "Deployment"
    ]
    _, *arguments = triton["spec"]["template"]["spec"]["containers"][0]["args"]
    arguments = [a.replace("$(ADMIN_KEY)", KEY).replace("/models", str(folder / "models")) for a in arguments]
    ports = dict(zip(("http", "grpc", "metrics"), _free_ports(3), strict=True))
    for name, port in ports.items():
        arguments += [f"--{name}-address=127.0.0.1", f"--{name}-port={port}"]
    environment = {**os.environ, "LD_LIBRARY_PATH": sysconfig.get_config_var("LIBDIR")}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([server, *arguments], stdout=log, stderr=log, env=environment)
    with grpc.insecure_channel(f"127.0.0.1:{ports['grpc']}") as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=60)
            yield channel
        finally:
            process.terminate()
            assert process.wait(timeout=60) == 0, (folder / "log").read_text()


@pytest.fixture
def stub(channel):
    return service_pb2_grpc.GRPCInferenceServiceStub(channel)


def test_what_the_gateway_needs_is_open(stub):
    assert stub.ServerLive(_message("ServerLiveRequest")).live
    assert stub.ServerReady(_message("ServerReadyRequest")).ready
    assert stub.ServerMetadata(_message("ServerMetadataRequest")).name == "triton"


@pytest.mark.parametrize(
    ("method", "request_type"),
    [
        ("RepositoryIndex", "RepositoryIndexRequest"),
        ("RepositoryModelLoad", "RepositoryModelLoadRequest"),
        ("RepositoryModelUnload", "RepositoryModelUnloadRequest"),
        ("ModelConfig", "ModelConfigRequest"),
        ("ModelStatistics", "ModelStatisticsRequest"),
        ("SystemSharedMemoryStatus", "SystemSharedMemoryStatusRequest"),
        ("TraceSetting", "TraceSettingRequest"),
        ("LogSettings", "LogSettingsRequest"),
    ],
)
def test_what_it_does_not_need_is_refused_without_the_key(method, request_type, stub):
    with pytest.raises(grpc.RpcError) as refused:
        getattr(stub, method)(_message(request_type))
    assert refused.value.code() == grpc.StatusCode.UNAVAILABLE
    assert "restricted" in (refused.value.details() or "")


def test_the_key_opens_it(stub):
    assert list(stub.RepositoryIndex(_message("RepositoryIndexRequest"), metadata=ADMIN).models) == []


def _message(name: str) -> Message:
    return getattr(service_pb2, name)()


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [taken.getsockname()[1] for taken in sockets]
    for taken in sockets:
        taken.close()
    return ports
