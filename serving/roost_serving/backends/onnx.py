"""ONNX Runtime in this process: `onnx://model_repository`.

One worker per core takes an image from bytes to embedding on its own: two single-threaded sessions beat one of two
threads, and an image that stays with its worker needs no batching. Both decoding and inference release the GIL.
"""

import asyncio
import logging
import queue
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as ort  # pyright: ignore[reportAttributeAccessIssue]

from roost import artifact, preprocess
from roost.artifact import Manifest
from roost.errors import BackendUnavailable, BadArtifact, DeadlineExceeded, RoostError
from roost.preprocess import Limits
from roost_serving import backends, repository
from roost_serving.backends import Embedded
from roost_serving.fair import FairPool
from roost_serving.repository import Model

Sessions = dict[str, onnxruntime.InferenceSession]
"""One session for every model version, by reference."""

GPU = "CUDAExecutionProvider"
"""Taken where it is there. TensorRT's is not: it builds its engines for minutes at every start."""
CPU = "CPUExecutionProvider"
ERRORS = (
    ort.EPFail,
    ort.Fail,
    ort.InvalidArgument,
    ort.InvalidGraph,
    ort.InvalidProtobuf,
    ort.NoModel,
    ort.NotImplemented,
    ort.RuntimeException,
    RuntimeError,
    ValueError,
)
"""What ONNX Runtime raises for a graph that it cannot load or run; its own have no common class but Exception."""

log = logging.getLogger(__name__)


class Backend:
    """Embeds with ONNX Runtime, on threads of this process."""

    def __init__(self, url: str, *, repository: Path, limits: Limits, workers: int) -> None:
        self.models: list[Model] = []
        self._repository = backends.folder(url) or repository
        self._limits = limits
        self._workers = workers
        self._pool = FairPool(workers, name="embed")
        self._free: queue.SimpleQueue[Sessions] = queue.SimpleQueue()
        self._closed = False

    async def open(self) -> None:
        """Load every model version once per worker and check it on its golden images."""
        self.models = await asyncio.to_thread(repository.scan, self._repository)
        if GPU in onnxruntime.get_available_providers():
            onnxruntime.preload_dlls()  # CUDA and cuDNN as the packages of `roost[serving-gpu]` bring them
        graphs = await self._pool.submit(self._read)
        loading = [self._pool.submit(partial(_load, graphs)) for _ in range(self._workers)]
        for sessions in await asyncio.gather(*loading):
            self._free.put(sessions)
        await self._pool.submit(self._check)

    async def close(self) -> None:
        """Finish the images that are being worked on and drop the rest."""
        self._closed = True
        await asyncio.to_thread(self._pool.close)

    async def ping(self, *, timeout: float | None = None) -> None:
        """Return unless the backend was closed: there is no server that could be away."""
        if self._closed:
            raise BackendUnavailable("The gateway is shutting down. Try another one.")

    async def embed(
        self, manifest: Manifest, images: Sequence[bytes], *, timeout: float | None = None
    ) -> list[Embedded | RoostError]:
        """Decode and embed images, each on whichever worker is free; callers take turns."""
        await self.ping()
        arrival = time.monotonic()
        deadline = None if timeout is None else arrival + timeout
        tasks = [self._pool.submit(partial(self._embed, manifest, image, arrival, deadline)) for image in images]
        try:
            async with asyncio.timeout(timeout):
                return list(await asyncio.gather(*tasks))
        except TimeoutError:
            raise DeadlineExceeded(f"The deadline passed before {len(images)} images were embedded.")

    def _read(self) -> list[tuple[Model, bytes]]:
        return [(model, _graph(model)) for model in self.models]

    def _check(self) -> None:
        sessions = self._free.get()
        try:
            for model in self.models:
                _check(model, sessions[model.manifest.reference])
        finally:
            self._free.put(sessions)
        if GPU in onnxruntime.get_available_providers():
            _say_where(sessions)

    def _embed(self, manifest: Manifest, image: bytes, arrival: float, deadline: float | None) -> Embedded | RoostError:
        begun = time.monotonic()
        if deadline is not None and begun > deadline:
            return DeadlineExceeded("The deadline passed while the image waited for a worker.")
        sessions = self._free.get()
        try:
            pixels = preprocess.decode(
                image, size=manifest.input.size, resize=manifest.input.resize, limits=self._limits
            )
            decoded = time.monotonic()
            vector = _infer(sessions[manifest.reference], pixels[np.newaxis])[0]
        except RoostError as error:
            return error
        finally:
            self._free.put(sessions)
        seconds = {"queue": begun - arrival, "decode": decoded - begun, "infer": time.monotonic() - decoded}
        return Embedded(vector, seconds)


def _graph(model: Model) -> bytes:
    """The model's graph: the bytes that its manifest vouches for, and not merely a file of that name."""
    reference = model.manifest.reference
    if artifact.MODEL not in model.manifest.files:
        raise BadArtifact(
            f"{reference} has no {artifact.MODEL}, which onnx:// runs. Export it with --format onnx, or serve it "
            "with Triton: --backend triton://host.",
            model=reference,
        )
    return artifact.check_file(model.folder, model.manifest, artifact.MODEL).read_bytes()


def _load(graphs: Sequence[tuple[Model, bytes]]) -> Sessions:
    return {model.manifest.reference: _session(model, graph) for model, graph in graphs}


def _session(model: Model, graph: bytes) -> onnxruntime.InferenceSession:
    path = model.folder / artifact.MODEL
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # A graph may name files that hold its weights, which no manifest vouches for. They would be looked for in the
    # working directory; inside a file, none is found, so that such a graph is refused.
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(path))
    options.log_severity_level = 3
    providers = [GPU, CPU] if GPU in onnxruntime.get_available_providers() else [CPU]
    try:
        return onnxruntime.InferenceSession(graph, options, providers=providers)
    except ERRORS as error:
        raise BadArtifact(f"{path} cannot be loaded by ONNX Runtime: {error}. Export it again.", path=path) from error


def _check(model: Model, session: onnxruntime.InferenceSession) -> None:
    try:
        repository.check_golden(model, partial(_infer, session))
    except ERRORS as error:
        raise BadArtifact(
            f"{model.manifest.reference} cannot be run by ONNX Runtime: {error}. Export it again.",
            model=model.manifest.reference,
        ) from error


def _say_where(sessions: Sessions) -> None:
    """Say so, once, where ONNX Runtime has quietly taken the CPU because the GPU's libraries did not load."""
    slow = [reference for reference, session in sessions.items() if GPU not in session.get_providers()]
    if slow:
        log.warning(
            "%s runs on the CPU: ONNX Runtime found no GPU, or not the libraries that it needs. Install "
            "`roost[serving-gpu]` and NVIDIA's driver to use one; to stay on the CPU, do nothing.",
            ", ".join(slow),
        )


def _infer(session: onnxruntime.InferenceSession, pixels: np.ndarray) -> np.ndarray:
    """Embeddings (n, dim) of uint8 pixels (n, size, size, 3)."""
    (name,) = [node.name for node in session.get_inputs()]
    return np.asarray(session.run(["embedding"], {name: pixels})[0])
