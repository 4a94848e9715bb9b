"""ONNX Runtime in this process: `onnx://model_repository`.

One worker per core takes an image from bytes to embedding on its own: two single-threaded sessions beat one of two
threads, and an image that stays with its worker needs no batching. Both decoding and inference release the GIL.
"""

import asyncio
import queue
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import onnxruntime

from roost import preprocess
from roost.artifact import Manifest
from roost.errors import BackendUnavailable, BadArtifact, DeadlineExceeded, RoostError
from roost.preprocess import Limits
from roost_serving import backends, repository
from roost_serving.backends import Embedded
from roost_serving.repository import Model

T = TypeVar("T")
Sessions = dict[str, onnxruntime.InferenceSession]
"""One session for every model version, by reference."""

GPU = ("CUDAExecutionProvider", "TensorrtExecutionProvider")


class Backend:
    """Embeds with ONNX Runtime, on threads of this process."""

    def __init__(self, url: str, *, repository: Path, limits: Limits, workers: int) -> None:
        self.models: list[Model] = []
        self._repository = backends.folder(url) or repository
        self._limits = limits
        self._workers = workers
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="embed")
        self._free: queue.SimpleQueue[Sessions] = queue.SimpleQueue()
        self._closed = False

    async def open(self) -> None:
        """Load every model version once per worker and check it on its golden images."""
        self.models = await asyncio.to_thread(repository.scan, self._repository)
        if GPU[0] in onnxruntime.get_available_providers():
            onnxruntime.preload_dlls()  # CUDA and cuDNN as the packages of `roost[serving-gpu]` bring them
        for sessions in await asyncio.gather(*[self._submit(self._load) for _ in range(self._workers)]):
            self._free.put(sessions)
        await self._submit(self._check)

    async def close(self) -> None:
        """Finish the images that are being worked on and drop the rest."""
        self._closed = True
        await asyncio.to_thread(self._pool.shutdown, cancel_futures=True)

    async def ping(self, *, timeout: float | None = None) -> None:
        """Return unless the backend was closed: there is no server that could be away."""
        if self._closed:
            raise BackendUnavailable("The gateway is shutting down. Try another one.")

    async def embed(
        self, manifest: Manifest, images: Sequence[bytes], *, timeout: float | None = None
    ) -> list[Embedded | RoostError]:
        """Decode and embed images, each on whichever worker is free, first come, first served."""
        await self.ping()
        arrival = time.monotonic()
        deadline = None if timeout is None else arrival + timeout
        tasks = [self._submit(partial(self._embed, manifest, image, arrival, deadline)) for image in images]
        try:
            async with asyncio.timeout(timeout):
                return list(await asyncio.gather(*tasks))
        except TimeoutError:
            raise DeadlineExceeded(f"The deadline passed before {len(images)} images were embedded.")

    def _submit(self, work: Callable[[], T]) -> asyncio.Future[T]:
        return asyncio.get_running_loop().run_in_executor(self._pool, work)

    def _load(self) -> Sessions:
        return {model.manifest.reference: _session(model) for model in self.models}

    def _check(self) -> None:
        sessions = self._free.get()
        try:
            for model in self.models:
                repository.check_golden(model, partial(_infer, sessions[model.manifest.reference]))
        finally:
            self._free.put(sessions)

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


def _session(model: Model) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    available = onnxruntime.get_available_providers()
    providers = [*[name for name in GPU if name in available][:1], "CPUExecutionProvider"]
    path = model.folder / repository.MODEL
    try:
        return onnxruntime.InferenceSession(path.read_bytes(), options, providers=providers)
    except (OSError, RuntimeError, ValueError) as error:
        raise BadArtifact(f"{path} cannot be loaded by ONNX Runtime: {error}", path=path) from error


def _infer(session: onnxruntime.InferenceSession, pixels: np.ndarray) -> np.ndarray:
    """Embeddings (n, dim) of uint8 pixels (n, size, size, 3)."""
    (name,) = [node.name for node in session.get_inputs()]
    return np.asarray(session.run(["embedding"], {name: pixels})[0])
