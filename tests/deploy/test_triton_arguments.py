"""A real Triton takes the chart's arguments, and keeps from strangers what the chart says it does."""

import os
import socket
import subprocess
import sysconfig
from pathlib import Path

import grpc
import numpy as np
import pytest
from google.protobuf.message import Message
from tritonclient.grpc import service_pb2, service_pb2_grpc

from roost import preprocess
from roost_serving.backends import Embedded
from roost_serving.backends.triton import Backend

KEY = "a-pods-uid"
ADMIN = (("triton-grpc-protocol-roost-admin", KEY),)


@pytest.fixture(scope="module")
def server(root: Path) -> Path:
    found = list(root.glob(".triton/lib/python3*/site-packages/pytriton/tritonserver/bin/tritonserver"))
    if not found:
        pytest.skip("there is no Triton server: `make triton` makes one")
    return found[0]


@pytest.fixture(scope="module")
def address(root, server, render, triton_repository, tmp_path_factory):
    """A Triton that runs with the chart's own arguments, on other ports, over an exported repository."""
    manifests = [doc for doc in render({}) if doc["metadata"]["name"] == "demo-roost-triton"]
    (pod,) = [doc["spec"]["template"]["spec"] for doc in manifests if doc["kind"] == "Deployment"]
    _, *arguments = pod["containers"][0]["args"]
    arguments = [a.replace("$(ADMIN_KEY)", KEY).replace("/models", str(triton_repository)) for a in arguments]
    ports = dict(zip(("http", "grpc", "metrics"), _free_ports(3), strict=True))
    arguments.append(f"--backend-directory={_link_stub(server, root)}")
    for name, port in ports.items():
        arguments += [f"--{name}-address=127.0.0.1", f"--{name}-port={port}"]
    log = tmp_path_factory.mktemp("server") / "triton.log"
    with log.open("wb") as stream:
        process = subprocess.Popen([server, *arguments], stdout=stream, stderr=stream, env=_environment(server))
    try:
        with grpc.insecure_channel(f"127.0.0.1:{ports['grpc']}") as channel:
            grpc.channel_ready_future(channel).result(timeout=60)
        yield f"127.0.0.1:{ports['grpc']}"
    finally:
        process.terminate()
        assert process.wait(timeout=60) == 0, log.read_text()


@pytest.fixture
def stub(address):
    with grpc.insecure_channel(address) as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


async def test_the_gateways_backend_works_over_it(address, triton_repository, photographs):
    backend = Backend(f"triton://{address}", repository=triton_repository, limits=preprocess.Limits(), workers=1)
    await backend.open()
    await backend.ping()
    (embedded,) = await backend.embed(backend.models[0].manifest, photographs[:1])
    await backend.close()
    assert isinstance(embedded, Embedded)
    assert float(np.linalg.norm(embedded.vector)) == pytest.approx(1, abs=1e-5)


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
    (model,) = stub.RepositoryIndex(_message("RepositoryIndexRequest"), metadata=ADMIN).models
    assert (model.name, model.state) == ("small", "READY")


def _message(name: str) -> Message:
    return getattr(service_pb2, name)()


def _link_stub(server: Path, root: Path) -> Path:
    """The folder of Triton's backends, with the Python backend's stub in it, as deploy/triton/run.py makes it."""
    folder = server.parents[1]
    link = f"import pathlib, runpy; runpy.run_path({str(root / 'deploy/triton/run.py')!r})['link_stub']"
    subprocess.run([_bin(server) / "python", "-c", f"{link}(pathlib.Path({str(folder)!r}))"], check=True)
    return folder / "backends"


def _environment(server: Path) -> dict[str, str]:
    library = sysconfig.get_config_var("LIBDIR")
    return {**os.environ, "PATH": f"{_bin(server)}:{os.environ['PATH']}", "LD_LIBRARY_PATH": library}


def _bin(server: Path) -> Path:
    return next(folder for folder in server.parents if folder.name == "lib").parent / "bin"


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [taken.getsockname()[1] for taken in sockets]
    for taken in sockets:
        taken.close()
    return ports
