"""What the ONNX backend refuses to load, and what it says when a GPU is not used."""

import io
import logging
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from roost import artifact
from roost.errors import BadArtifact
from roost_serving import backends

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


async def open_and_close(folder: Path) -> None:
    backend = backends.connect(f"onnx://{folder.parent.parent}", repository=Path(), workers=2)
    try:
        await backend.open()
    finally:
        await backend.close()


async def test_a_graph_that_the_manifest_does_not_list_is_not_loaded(plain):
    seal(plain, without=MODEL)
    (plain / MODEL).unlink()
    with pytest.raises(BadArtifact, match=r"plain@1 has no model\.onnx.*--format onnx.*triton://"):
        await open_and_close(plain)


async def test_a_graph_whose_weights_lie_in_another_file_is_refused(plain, tmp_path, monkeypatch):
    graph = onnx.load(plain / MODEL)
    onnx.save_model(graph, plain / MODEL, save_as_external_data=True, location="weights", size_threshold=1024)
    (plain / "weights").rename(tmp_path / "weights")
    seal(plain)
    monkeypatch.chdir(tmp_path)  # where a relative name would lead
    with pytest.raises(BadArtifact, match="External data"):
        await open_and_close(plain)


@pytest.mark.parametrize("content", [b"", b"no graph" * 9], ids=["empty", "junk"])
async def test_a_graph_that_cannot_be_parsed_is_a_bad_artifact(plain, content):
    (plain / MODEL).write_bytes(content)
    seal(plain)
    with pytest.raises(BadArtifact, match=r"model\.onnx cannot be loaded"):
        await open_and_close(plain)


async def test_a_graph_without_the_output_that_is_served_is_a_bad_artifact(plain):
    graph = onnx.load(plain / MODEL)
    (output,) = graph.graph.output
    for node in graph.graph.node:
        node.output[:] = ["other" if name == output.name else name for name in node.output]
    output.name = "other"
    onnx.save_model(graph, plain / MODEL)
    seal(plain)
    with pytest.raises(BadArtifact, match="plain@1 cannot be run"):
        await open_and_close(plain)


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
