"""A real Triton takes the chart's arguments, and keeps from strangers what the chart says it does."""

import os
import shutil
import socket
import subprocess
import sysconfig
from contextlib import ExitStack
from pathlib import Path

import grpc
import numpy as np
import pytest
from google.protobuf.message import Message
from tritonclient.grpc import service_pb2, service_pb2_grpc

from roost import artifact, preprocess
from roost.errors import BackendUnavailable, BadSettings
from roost_serving import repository
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
def start(root, server, render, tmp_path_factory):
    """Start a Triton over a repository with the chart's own arguments, on other ports; gives its address."""
    with ExitStack() as running:

        def start(repository: Path) -> str:
            manifests = [doc for doc in render({}) if doc["metadata"]["name"] == "demo-roost-triton"]
            (pod,) = [doc["spec"]["template"]["spec"] for doc in manifests if doc["kind"] == "Deployment"]
            _, *arguments = pod["containers"][0]["args"]
            arguments = [a.replace("$(ADMIN_KEY)", KEY).replace("/models", str(repository)) for a in arguments]
            ports = dict(zip(("http", "grpc", "metrics"), _free_ports(3), strict=True))
            arguments.append(f"--backend-directory={_link_stub(server, root)}")
            for name, port in ports.items():
                arguments += [f"--{name}-address=127.0.0.1", f"--{name}-port={port}"]
            log = tmp_path_factory.mktemp("server") / "triton.log"
            with log.open("wb") as stream:
                process = subprocess.Popen([server, *arguments], stdout=stream, stderr=stream, env=_environment(server))
            running.callback(_end, process, log)
            with grpc.insecure_channel(f"127.0.0.1:{ports['grpc']}") as channel:
                grpc.channel_ready_future(channel).result(timeout=60)
            return f"127.0.0.1:{ports['grpc']}"

        yield start


def _end(process: subprocess.Popen, log: Path) -> None:
    process.terminate()
    assert process.wait(timeout=60) == 0, log.read_text()


@pytest.fixture(scope="module")
def address(start, triton_repository):
    return start(triton_repository)


@pytest.fixture
def key_file(tmp_path) -> Path:
    file = tmp_path / "key"
    file.write_text(KEY + "\n")
    return file


def _copy(repository: Path, version: int, *, code: str | None = None) -> Path:
    """A copy of the first version as another, perhaps with other code."""
    folder = shutil.copytree(repository / "small" / "1", repository / "small" / str(version))
    if code is not None:
        (folder / "model.py").write_text(code)
    manifest = artifact.read(folder, verify=()).model_copy(update={"version": version})
    artifact.write(folder, manifest, files=manifest.files)
    return folder


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


async def test_with_the_key_new_versions_are_loaded_and_without_it_they_say_why(
    start, triton_repository, tmp_path, key_file, photographs
):
    ours = shutil.copytree(triton_repository, tmp_path / "ours")
    url = f"triton://{start(ours)}"
    other = tmp_path / "other"
    other.write_text("another")
    new = repository.read(_copy(ours, 2))
    for file, said in ((None, "has no key"), (other, "wants another key")):
        backend = Backend(url, repository=ours, limits=preprocess.Limits(), workers=1, key_file=file)
        await backend.open()  # over a version that it cannot have loaded
        assert [model.manifest.version for model in backend.models] == [1]
        with pytest.raises(BackendUnavailable, match=f"loading is restricted, and .*{said}") as refused:
            await backend.load(new)
        assert "another" not in refused.value.message.replace("another key", "")
        await backend.close()
    backend = Backend(url, repository=ours, limits=preprocess.Limits(), workers=1, key_file=other)
    await backend.open()
    other.write_text(KEY)  # a secret that was mended needs no restart
    await backend.load(new)
    (embedded,) = await backend.embed(new.manifest, photographs[:1])
    await backend.close()
    assert isinstance(embedded, Embedded)


async def test_a_bad_version_keeps_neither_server_nor_gateway_from_starting(
    start, triton_repository, tmp_path, key_file, photographs
):
    ours = shutil.copytree(triton_repository, tmp_path / "ours")
    _copy(ours, 2, code="no python")
    address = start(ours)
    backend = Backend(f"triton://{address}", repository=ours, limits=preprocess.Limits(), workers=1, key_file=key_file)
    await backend.open()
    assert [model.manifest.version for model in backend.models] == [1]
    (embedded,) = await backend.embed(backend.models[0].manifest, photographs[:1])
    await backend.close()
    assert isinstance(embedded, Embedded)
    with grpc.insecure_channel(address) as channel:  # or a cluster would send it no calls
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        assert stub.ServerReady(_message("ServerReadyRequest")).ready


@pytest.mark.parametrize("content", [None, b"", b"two\nlines", b"\xff"], ids=["none", "empty", "lines", "binary"])
def test_a_key_file_without_a_key_is_refused_at_the_start(tmp_path, content):
    file = tmp_path / "key"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(BadSettings, match="key file of Triton"):
        Backend("triton://host", repository=tmp_path, limits=preprocess.Limits(), workers=1, key_file=file)


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
