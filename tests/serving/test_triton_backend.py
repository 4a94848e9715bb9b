import asyncio
import logging
import os
import shutil
import signal
import socket
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from tritonclient.grpc.aio import InferenceServerClient

from roost import artifact, preprocess
from roost.errors import BackendUnavailable, BadArtifact, BadImage, BadSettings, DeadlineExceeded, Overloaded
from roost_serving import repository
from roost_serving.backends import Embedded, ModelUnavailable, connect
from roost_serving.backends import triton as triton_module
from roost_serving.backends.triton import Backend

LIMITS = preprocess.Limits()
FILES = ("golden.npz", "model.onnx", "model.py")


def backend_of(server, **options) -> Backend:
    return Backend(server.url, repository=server.repository, limits=LIMITS, workers=2, **options)


@pytest.fixture
async def backend(triton):
    opened = backend_of(triton)
    await opened.open()
    yield opened
    await opened.close()


def run_onnx(folder: Path, images: list[bytes]) -> np.ndarray:
    """Embeddings by ONNX Runtime itself, one image at a time."""
    given = artifact.read(folder).input
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    pixels = [preprocess.decode(image, size=given.size, resize=given.resize) for image in images]
    return np.concatenate([session.run(None, {"image": each[np.newaxis]})[0] for each in pixels])


async def test_the_same_images_have_the_same_embeddings_through_triton_and_onnx_runtime(backend, digits, photographs):
    (model,) = backend.models
    images = [*photographs, *digits[:60]]
    embedded = await backend.embed(model.manifest, images)
    vectors = np.stack([each.vector for each in embedded])
    assert np.abs(vectors - run_onnx(model.folder, images)).max() < 1e-5
    assert np.abs(vectors[:-1] - vectors[1:]).max() > 1e-2  # or any answer would do


async def test_the_same_images_have_the_same_embeddings_through_triton_and_the_onnx_backend(backend, photographs):
    (model,) = backend.models
    onnx = connect(f"onnx://{model.folder.parent.parent}", repository=Path(), workers=1)
    await onnx.open()
    here = await onnx.embed(model.manifest, photographs)
    there = await backend.embed(model.manifest, photographs)
    await onnx.close()
    assert max(np.abs(a.vector - b.vector).max() for a, b in zip(here, there, strict=True)) < 1e-5


async def test_each_stage_of_an_image_is_timed(backend, photographs):
    (embedded,) = await backend.embed(backend.models[0].manifest, photographs[:1])
    assert set(embedded.seconds) == {"queue", "decode", "infer"}
    assert all(seconds >= 0 for seconds in embedded.seconds.values())
    assert embedded.seconds["infer"] > 0


async def test_a_bad_image_among_good_ones_gets_its_own_error(backend, photographs):
    manifest = backend.models[0].manifest
    images = [photographs[0], b"", photographs[1][:100], photographs[1]]
    first, empty, cut, last = await backend.embed(manifest, images)
    alone = await backend.embed(manifest, [photographs[1]])
    assert isinstance(empty, BadImage)
    assert isinstance(cut, BadImage)
    assert isinstance(first, Embedded)
    assert np.abs(last.vector - alone[0].vector).max() < 1e-5


async def test_only_bad_images_are_no_call_at_all(backend):
    results = await backend.embed(backend.models[0].manifest, [b"", b"no image"])
    assert [type(result) for result in results] == [BadImage, BadImage]


async def test_a_deadline_that_has_passed_is_an_error_of_the_call(backend, photographs):
    with pytest.raises(DeadlineExceeded):
        await backend.embed(backend.models[0].manifest, photographs, timeout=0)


async def test_a_stopped_server_costs_no_more_than_the_deadline(start_triton, triton_repository, photographs):
    server = start_triton(triton_repository)
    backend = backend_of(server)
    await backend.open()
    manifest = backend.models[0].manifest
    server.process.send_signal(signal.SIGSTOP)
    try:
        with pytest.raises(DeadlineExceeded):
            await backend.embed(manifest, photographs[:1], timeout=0.3)
        with pytest.raises(BackendUnavailable, match="does not answer"):
            await backend.ping(timeout=0.3)
    finally:
        server.process.send_signal(signal.SIGCONT)
    (embedded,) = await backend.embed(manifest, photographs[:1], timeout=30)
    await backend.close()
    assert isinstance(embedded, Embedded)


async def test_a_cancelled_call_leaves_the_backend_working(backend, photographs):
    manifest = backend.models[0].manifest
    call = asyncio.create_task(backend.embed(manifest, photographs * 20))
    await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert len(await backend.embed(manifest, photographs)) == len(photographs)


async def test_more_than_the_queue_holds_is_refused_with_a_time_to_come_back(
    start_triton, triton_repository, tmp_path, digits
):
    repository = tmp_path / "repository"
    shutil.copytree(triton_repository, repository)
    replace_text(repository / "small" / "config.pbtxt", "max_queue_size: 64", "max_queue_size: 1")
    server = start_triton(repository)
    gateways = [backend_of(server) for _ in range(6)]  # each of which sends but two calls at a time
    for backend in gateways:
        await backend.open()
    manifest = gateways[0].models[0].manifest
    calls = [backend.embed(manifest, digits[:8]) for _ in range(10) for backend in gateways]
    results = await asyncio.gather(*calls, return_exceptions=True)
    (embedded,) = await once_there_is_room(gateways[0], digits[:1])
    await asyncio.gather(*[backend.close() for backend in gateways])
    refused = [result for result in results if isinstance(result, Exception)]
    assert 0 < len(refused) < 60
    assert {type(error) for error in refused} == {Overloaded}
    assert float(refused[0].facts["retry_after_seconds"]) > 0
    assert isinstance(embedded, Embedded)


async def test_a_killed_server_is_unavailable_and_serves_again_once_it_is_back(
    start_triton, triton_repository, photographs
):
    server = start_triton(triton_repository)
    backend = backend_of(server)
    await backend.open()
    manifest = backend.models[0].manifest
    server.process.kill()
    server.process.wait()
    with pytest.raises(BackendUnavailable, match="cannot be reached"):
        await backend.embed(manifest, photographs[:1], timeout=10)
    with pytest.raises(BackendUnavailable, match="cannot be reached"):
        await backend.ping()
    start_triton(triton_repository, "--grpc-port", server.url.rpartition(":")[2])
    (embedded,) = await until_it_embeds(backend, photographs[:1])  # the new server has not loaded anything yet
    await backend.ping()
    await backend.close()
    assert np.abs(embedded.vector - run_onnx(backend.models[0].folder, photographs[:1])[0]).max() < 1e-5


async def test_a_model_whose_process_died_is_loaded_again_before_the_caller_hears_of_it(
    start_triton, triton_repository, photographs
):
    server = start_triton(triton_repository)
    backend = backend_of(server)
    await backend.open()
    kill_children(server.process.pid)
    (embedded,) = await backend.embed(backend.models[0].manifest, photographs[:1], timeout=30)
    await backend.close()
    assert isinstance(embedded, Embedded)


async def test_a_server_that_loads_models_by_itself_is_waited_for(start_triton, triton_repository, photographs):
    backend = backend_of(start_triton(triton_repository, "--model-control-mode", "none"))
    await backend.open()
    (embedded,) = await backend.embed(backend.models[0].manifest, photographs[:1])
    await backend.close()
    assert isinstance(embedded, Embedded)


async def test_a_server_over_other_files_than_the_gateways_is_refused(triton, triton_repository, tmp_path):
    ours = tmp_path / "repository"
    shutil.copytree(triton_repository, ours)
    folder = ours / "small" / "1"
    with np.load(folder / "golden.npz") as golden:
        np.savez(folder / "golden.npz", pixels=golden["pixels"], embeddings=golden["embeddings"][::-1])
    artifact.write(folder, artifact.read(folder, verify=()), files=FILES)
    backend = Backend(triton.url, repository=ours, limits=LIMITS, workers=1)
    with pytest.raises(BadArtifact, match="golden"):
        await backend.open()


async def test_a_model_that_the_server_has_not_got_is_named(triton, triton_repository, tmp_path):
    ours = tmp_path / "repository"
    shutil.copytree(triton_repository / "small" / "1", ours / "other" / "1")
    folder = ours / "other" / "1"
    other = artifact.read(folder).model_copy(update={"name": "other"})
    artifact.write(folder, other, files=other.files)
    backend = Backend(triton.url, repository=ours, limits=LIMITS, workers=1, start_seconds=0.5)
    with pytest.raises(BackendUnavailable, match="other@1"):
        await backend.open()


async def test_a_server_that_is_not_there_is_waited_for_and_then_named(triton_repository):
    url = f"triton://127.0.0.1:{unused_port()}"
    backend = Backend(url, repository=triton_repository, limits=LIMITS, workers=1, start_seconds=0.3)
    with pytest.raises(BackendUnavailable, match=r"not ready within 0\.3 s: The Triton server cannot be reached"):
        await backend.open()


async def test_a_new_version_is_loaded_over_the_old_one_which_never_stops(
    start_triton, triton_repository, photographs, tmp_path
):
    ours = tmp_path / "repository"
    shutil.copytree(triton_repository, ours)
    backend = backend_of(start_triton(ours))
    await backend.open()
    (old,) = backend.models
    over = asyncio.Event()

    async def keep_embedding() -> int:
        rounds = 0
        while not over.is_set():
            (embedded,) = await backend.embed(old.manifest, photographs[:1], timeout=30)
            assert isinstance(embedded, Embedded)
            rounds += 1
        return rounds

    embedding = asyncio.create_task(keep_embedding())
    for version in (2, 3):
        new = repository.read(copy_version(ours, version))
        await backend.load(new)
        (embedded,) = await backend.embed(new.manifest, photographs[:1])
        assert isinstance(embedded, Embedded)
    bad = repository.read(copy_version(ours, 4))
    (bad.folder / "model.py").write_text("no python")
    with pytest.raises(BadArtifact, match="Triton does not load small@4"):
        await backend.load(bad)
    await backend.ping()
    over.set()
    assert await embedding > 0
    assert [model.manifest.version for model in backend.models] == [1, 2, 3]
    await backend.close()


async def test_a_broken_model_does_not_count_against_the_server(start_triton, triton_repository, photographs, tmp_path):
    """One fails in every call, another is gone for good; the third embeds all the while."""
    ours = tmp_path / "repository"
    broken = tmp_path / "broken"
    shutil.copytree(triton_repository, ours)
    for name in ("moody", "gone"):
        shutil.copytree(ours / "small", ours / name)
        replace_text(ours / name / "config.pbtxt", '"small"', f'"{name}"')
        folder = ours / name / "1"
        replace_text(
            folder / "model.py",
            "    def execute(",
            f"    def execute(self, requests):\n        if os.path.exists({str(broken)!r}):\n"
            "            raise RuntimeError('broken')\n        return self.executed(requests)\n\n    def executed(",
        )
        (folder / "model.py").write_text("import os\n" + (folder / "model.py").read_text())
        artifact.write(folder, artifact.read(folder, verify=()).model_copy(update={"name": name}), files=FILES)
    server = start_triton(ours)
    backend = backend_of(server)
    await backend.open()
    gone, moody, small = (model.manifest for model in backend.models)
    broken.touch()
    shutil.rmtree(ours / "gone")
    async with InferenceServerClient(backend._target) as client:
        await client.unload_model("gone")
        while await client.is_model_ready("gone"):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    for manifest in (moody, gone, moody, gone):
        with pytest.raises(ModelUnavailable, match=manifest.reference):
            await backend.embed(manifest, photographs[:1], timeout=30)
        (embedded,) = await backend.embed(small, photographs[:1], timeout=30)
        assert isinstance(embedded, Embedded)
    with pytest.raises(ModelUnavailable, match="gone@1"):
        await backend.ping()
    await backend.close()


async def test_a_closed_backend_says_so(triton):
    backend = backend_of(triton)
    await backend.open()
    manifest = backend.models[0].manifest
    await backend.close()
    with pytest.raises(BackendUnavailable, match="shutting down"):
        await backend.embed(manifest, [b""])
    with pytest.raises(BackendUnavailable, match="shutting down"):
        await backend.ping()


@pytest.mark.parametrize("url", ["triton://", "triton://host:http", "triton://:8001", "triton://[::1"])
def test_a_url_without_a_host_or_with_a_port_that_is_none_is_refused(url, tmp_path):
    with pytest.raises(BadSettings, match="triton://host:8001"):
        connect(url, repository=tmp_path, workers=1)


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("triton://host", "host:8001"),
        ("triton://host:9000", "host:9000"),
        ("triton://[::1]", "[::1]:8001"),
        ("triton://[fd00::2]:9000", "[fd00::2]:9000"),
    ],
)
def test_a_url_gives_the_address_that_is_called(url, target, tmp_path):
    assert connect(url, repository=tmp_path, workers=1)._target == target


async def test_a_wait_is_said_again_and_again_and_can_be_called_off(triton_repository, monkeypatch, caplog):
    monkeypatch.setattr(triton_module, "SAY_SECONDS", 0.0)
    caplog.set_level(logging.INFO)
    url = f"triton://127.0.0.1:{unused_port()}"
    backend = Backend(url, repository=triton_repository, limits=LIMITS, workers=1)
    opening = asyncio.create_task(backend.open())
    async with asyncio.timeout(60):
        while True:
            if caplog.text.count("waiting for Triton") >= 3:
                break
            await asyncio.sleep(0.02)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    with pytest.raises(BackendUnavailable, match="shutting down"):
        await backend.ping()
    await backend.close()


async def test_an_opening_that_is_called_off_among_the_golden_images_lets_go(triton, monkeypatch):
    begun = asyncio.Event()
    loop = asyncio.get_running_loop()
    check = triton_module.repository.check_golden

    def say_and_check(model, embed):
        loop.call_soon_threadsafe(begun.set)
        return check(model, embed)

    monkeypatch.setattr(triton_module.repository, "check_golden", say_and_check)
    backend = backend_of(triton)
    opening = asyncio.create_task(backend.open())
    await begun.wait()
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    await backend.close()


def copy_version(ours: Path, version: int) -> Path:
    folder = ours / "small" / str(version)
    shutil.copytree(ours / "small" / "1", folder)
    manifest = artifact.read(folder).model_copy(update={"version": version})
    artifact.write(folder, manifest, files=manifest.files)
    return folder


def replace_text(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))


def kill_children(pid: int) -> None:
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        os.kill(int(child), signal.SIGKILL)


async def once_there_is_room(backend: Backend, images: list[bytes]):
    """Calls whose callers gave up may still be in the server's queue."""
    async with asyncio.timeout(60):
        while True:
            try:
                return await backend.embed(backend.models[0].manifest, images, timeout=10)
            except Overloaded:
                await asyncio.sleep(0.05)


async def until_it_embeds(backend: Backend, images: list[bytes]):
    async with asyncio.timeout(60):
        while True:
            try:
                return await backend.embed(backend.models[0].manifest, images, timeout=10)
            except BackendUnavailable:
                await asyncio.sleep(0.05)


def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
