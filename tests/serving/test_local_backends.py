"""What backends in this process refuse to load, and what they say when a model is not run as one may expect."""

import asyncio
import io
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from roost import artifact, preprocess
from roost.errors import BadArtifact
from roost_serving import backends, cores
from roost_serving.backends import onnx as onnx_backend

MODEL, GOLDEN = "model.onnx", "golden.npz"


@pytest.fixture
def plain(repository, tmp_path) -> Path:
    """The folder of a `plain@1` of one's own."""
    folder = tmp_path / "repository" / "plain" / "1"
    shutil.copytree(repository / "plain" / "1", folder)
    return folder


def seal(folder: Path, *, without: str | None = None) -> None:
    """List the files of a version again, as they are now."""
    manifest = artifact.read(folder, verify=())
    artifact.write(folder, manifest, files=[name for name in manifest.files if name != without])


@pytest.fixture(params=["onnx", "openvino"])
def scheme(request) -> str:
    """Of each backend in this process."""
    return request.param


async def open_and_close(folder: Path, scheme: str = "onnx") -> None:
    backend = backends.connect(f"{scheme}://{folder.parent.parent}", repository=Path(), workers=2)
    try:
        await backend.open()
    finally:
        await backend.close()


async def test_a_graph_that_the_manifest_does_not_list_is_not_loaded(plain, scheme):
    seal(plain, without=MODEL)
    (plain / MODEL).unlink()
    with pytest.raises(BadArtifact, match=rf"plain@1 has no model\.onnx, which {scheme}://.*--format onnx.*triton://"):
        await open_and_close(plain, scheme)


@pytest.mark.parametrize("elsewhere", ["weights", "{folder}/weights", "../{folder.name}/weights"])
async def test_a_graph_whose_weights_lie_in_another_file_is_refused(plain, tmp_path, monkeypatch, scheme, elsewhere):
    graph = onnx.load(plain / MODEL)
    onnx.save_model(graph, plain / MODEL, save_as_external_data=True, location="weights", size_threshold=1024)
    (plain / "weights").rename(tmp_path / "weights")
    graph = onnx.load(plain / MODEL, load_external_data=False)
    for tensor in graph.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = elsewhere.format(folder=tmp_path)
    (plain / MODEL).write_bytes(graph.SerializeToString())
    seal(plain)
    monkeypatch.chdir(tmp_path)  # where a relative name would lead
    with pytest.raises(BadArtifact, match=r"(?i)external data"):
        await open_and_close(plain, scheme)


async def test_a_graph_with_an_unknown_operator_is_refused(plain, scheme):
    graph = onnx.load(plain / MODEL)
    next(node for node in graph.graph.node if node.op_type == "Relu").op_type = "Nonsense"  # crashes OpenVINO's reader
    onnx.save_model(graph, plain / MODEL)
    seal(plain)
    with pytest.raises(BadArtifact, match=r"model\.onnx cannot be loaded by"):
        await open_and_close(plain, scheme)


@pytest.mark.parametrize("content", [b"", b"no graph" * 9], ids=["empty", "junk"])
async def test_a_graph_that_cannot_be_parsed_is_a_bad_artifact(plain, content, scheme):
    (plain / MODEL).write_bytes(content)
    seal(plain)
    with pytest.raises(BadArtifact, match=r"model\.onnx cannot be loaded"):
        await open_and_close(plain, scheme)


async def test_a_graph_without_the_output_that_is_served_is_a_bad_artifact(plain, scheme):
    graph = onnx.load(plain / MODEL)
    (output,) = graph.graph.output
    for node in graph.graph.node:
        node.output[:] = ["other" if name == output.name else name for name in node.output]
    output.name = "other"
    onnx.save_model(graph, plain / MODEL)
    seal(plain)
    with pytest.raises(BadArtifact, match="plain@1 cannot be run"):
        await open_and_close(plain, scheme)


def npz(**arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


PIXELS = np.zeros((2, 32, 32, 3), np.uint8)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PK\x03\x04 no archive",
        npz(pixels=PIXELS),
        npz(pixels=PIXELS, embeddings=np.zeros((2, 3), np.float32)),
        npz(pixels=PIXELS[:0], embeddings=np.zeros((0, 256), np.float32)),
        npz(pixels=PIXELS[:, :16], embeddings=np.zeros((2, 256), np.float32)),
        npz(pixels=PIXELS.astype(np.float32), embeddings=np.zeros((2, 256), np.float32)),
        npz(pixels=PIXELS, embeddings=np.array([{}, {}])),
    ],
    ids=["empty", "broken", "no embeddings", "another length", "no images", "another size", "floats", "pickled"],
)
async def test_golden_images_that_cannot_be_compared_with_are_a_bad_artifact(plain, content):
    (plain / GOLDEN).write_bytes(content)
    seal(plain)
    with pytest.raises(BadArtifact, match=r"golden\.npz"):
        await open_and_close(plain)


@pytest.mark.filterwarnings("ignore:Specified provider")
async def test_a_gpu_that_was_asked_for_and_is_not_used_is_said_once(plain, monkeypatch, caplog):
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    await open_and_close(plain)
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert "plain@1 runs on the CPU" in warnings[0]
    assert "roost[serving-gpu]" in warnings[0]
    assert "do nothing" in warnings[0]


async def test_where_there_is_no_gpu_nothing_is_said_of_it(plain, caplog):
    await open_and_close(plain)
    assert "CPU" not in caplog.text


async def serve_in(precision: str, folder: Path, scheme: str, image: bytes) -> np.ndarray:
    """Say that a version is for a precision, serve it and embed an image."""
    manifest = artifact.read(folder).model_copy(update={"precision": precision})
    artifact.write(folder, manifest, files=manifest.files)
    backend = backends.connect(f"{scheme}://{folder.parent.parent}", repository=Path(), workers=2)
    await backend.open()
    (embedded,) = await backend.embed(manifest, [image])
    await backend.close()
    return embedded.vector


async def test_openvino_computes_in_bf16_only_where_the_version_is_for_that(plain, digits, caplog):
    expected = await serve_in("fp32", plain, "onnx", digits[0])
    exact = await serve_in("fp32", plain, "openvino", digits[0])
    rounded = await serve_in("bf16", plain, "openvino", digits[0])
    np.testing.assert_allclose(exact, expected, atol=1e-5)
    if "which this CPU cannot compute in" in caplog.text:
        np.testing.assert_allclose(rounded, expected, atol=1e-5)
    else:
        assert 1e-5 < np.abs(rounded - expected).max() < 0.02  # eight bits of mantissa
        assert rounded @ expected > 0.999


async def test_onnx_runtime_says_that_it_has_no_bf16(plain, digits, caplog):
    expected = await serve_in("fp32", plain, "onnx", digits[0])
    np.testing.assert_array_equal(await serve_in("bf16", plain, "onnx", digits[0]), expected)
    assert "plain@1 is for bf16, and ONNX Runtime runs it in fp32. Serve it with openvino://" in caplog.text


async def test_a_bf16_version_that_does_not_repeat_its_golden_images_is_refused(plain, digits):
    with np.load(plain / GOLDEN) as golden:
        np.savez(plain / GOLDEN, pixels=golden["pixels"], embeddings=-golden["embeddings"])
    seal(plain)
    with pytest.raises(BadArtifact, match=r"mean cosine .* 0\.97 is the least for bf16"):
        await serve_in("bf16", plain, "openvino", digits[0])


def test_importing_openvino_tells_nobody():
    code = "import roost_serving.backends.openvino, sys; print(sys.modules['openvino_telemetry'])"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "None\n"


def test_without_openvino_the_backend_says_what_to_install():
    code = "import sys; sys.modules['openvino'] = None; import roost_serving.backends.openvino"
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert "MissingDependency: openvino:// needs openvino" in done.stderr
    assert "pip install '.[openvino]'" in done.stderr


async def test_an_idle_backend_gives_memory_back_once_until_it_is_called_again(repository, digits, monkeypatch):
    loop, rests = asyncio.get_running_loop(), asyncio.Queue()
    give_back = onnx_backend.Backend.rest

    def rest(self, session, pixels):
        give_back(self, session, pixels)
        loop.call_soon_threadsafe(rests.put_nowait, session)

    monkeypatch.setattr("roost_serving.backends._local.REST_SECONDS", 0.05)
    backend = backends.connect(f"onnx://{repository}", repository=Path(), workers=2)
    await backend.open()
    monkeypatch.setattr(onnx_backend.Backend, "rest", rest)
    try:
        sessions = 2 * len(backend.models)
        await asyncio.sleep(0.3)
        assert rests.empty()  # nothing was embedded yet
        for _ in range(2):
            (before,) = await backend.embed(backend.models[0].manifest, digits[:1])
            async with asyncio.timeout(20):
                assert len({id(await rests.get()) for _ in range(sessions)}) == sessions
            await asyncio.sleep(0.3)
            assert rests.empty()
        (after,) = await backend.embed(backend.models[0].manifest, digits[:1])
        np.testing.assert_array_equal(before.vector, after.vector)
    finally:
        await backend.close()


def test_threads_stay_on_cores_of_their_own_where_the_process_has_as_many_as_workers():
    every = sorted(os.sched_getaffinity(0))
    assert cores.own(len(every)) == every
    assert cores.own(len(every) + 1) == []
    with cores.first(every):
        assert os.sched_getaffinity(0) == {every[0]}
    with cores.first([]):
        assert sorted(os.sched_getaffinity(0)) == every
    assert sorted(os.sched_getaffinity(0)) == every


async def test_an_error_of_one_model_or_image_is_no_other_s_that_was_taken_with_it(repository, digits, monkeypatch):
    backend = backends.connect(f"onnx://{repository}", repository=Path(), workers=1)
    await backend.open()
    digit, plain = (model.manifest for model in backend.models)
    infer, decode = onnx_backend.Backend.infer, preprocess.decode
    broken = backend._loaded[plain.reference].free[0]
    together: list[int] = []

    def fail_for_plain(self, session, pixels):
        if session is broken:
            raise RuntimeError("broken")
        together.append(len(pixels))
        return infer(self, session, pixels)

    def fail_for_one(image, **given):
        if image is digits[3]:
            raise MemoryError
        return decode(image, **given)

    monkeypatch.setattr(onnx_backend.Backend, "infer", fail_for_plain)
    monkeypatch.setattr(preprocess, "decode", fail_for_one)
    try:
        asked = [(digit, digits[0]), (plain, digits[1]), (digit, digits[2]), (digit, digits[3])] * 5
        found = await asyncio.gather(
            *[backend.embed(manifest, [image]) for manifest, image in asked], return_exceptions=True
        )
    finally:
        await backend.close()
    kinds = [type(each) for each in found[4:]]  # the first may have been alone
    assert kinds == [list, RuntimeError, list, MemoryError] * 4
    assert max(together) > 1


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="there is no choice of cores")
def test_a_core_that_was_taken_away_is_done_without(monkeypatch):
    before = os.sched_getaffinity(0)
    with cores.first([4095]):
        assert os.sched_getaffinity(0) == before
