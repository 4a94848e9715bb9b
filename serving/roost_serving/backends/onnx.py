"""ONNX Runtime in this process: `onnx://model_repository`.

One worker per core takes an image from bytes to embedding on its own: two single-threaded sessions beat one of two
threads, and an image that stays with its worker needs no batching. Only an image that finds the gateway idle is
inferred by all cores at once. Both decoding and inference release the GIL.
"""

import asyncio
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as ort  # pyright: ignore[reportAttributeAccessIssue]

from roost import artifact, preprocess
from roost.artifact import Manifest
from roost.errors import BackendUnavailable, BadArtifact, DeadlineExceeded, RoostError, UnknownModel
from roost.preprocess import Limits
from roost_serving import backends, repository
from roost_serving.backends import Embedded
from roost_serving.fair import FairPool
from roost_serving.repository import Model

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


@dataclass(frozen=True)
class Loaded:
    """A model version in memory; it lasts as long as someone embeds with it."""

    model: Model
    free: list[onnxruntime.InferenceSession]
    """One session of one thread for every worker, without those that are in use."""
    wide: list[onnxruntime.InferenceSession]
    """One session that uses every core, unless it is in use; none where there is one worker."""

    @contextmanager
    def session(self, *, alone: bool) -> Iterator[onnxruntime.InferenceSession]:
        """A session to run one image on, back in its place afterwards."""
        pool = self.wide if alone else self.free
        try:
            session = pool.pop()
        except IndexError:  # a call that was given up is still at it
            pool = self.free  # which is never empty: it has as many as there are threads
            session = pool.pop()
        try:
            yield session
        finally:
            pool.append(session)


class Backend:
    """Embeds with ONNX Runtime, on threads of this process."""

    def __init__(self, url: str, *, repository: Path, limits: Limits, workers: int) -> None:
        self.repository = backends.folder(url) or repository
        self._limits = limits
        self._workers = workers
        self._pool = FairPool(workers, name="embed")
        self._loaded: dict[str, Loaded] = {}
        self._held = 0
        """Images of calls that wait for their answers."""
        self._closed = False

    @property
    def models(self) -> list[Model]:
        """The model versions that are loaded, by name and version."""
        return repository.ordered(loaded.model for loaded in self._loaded.values())

    async def open(self) -> None:
        """Load every model version once per worker and check it on its golden images."""
        found = await asyncio.to_thread(repository.scan, self.repository)
        if GPU in onnxruntime.get_available_providers():
            onnxruntime.preload_dlls()  # CUDA and cuDNN as the packages of `roost[serving-gpu]` bring them
        bad = []
        for model in found:
            try:
                await self.load(model)
            except BadArtifact as error:
                bad.append(error)
        if not self._loaded:
            raise bad[0]
        for error in bad:
            log.error("a model version is not served: %s", error.message)

    async def load(self, model: Model) -> None:
        """Load a model version once per worker, on threads of its own, and check it on its golden images."""
        graph = await asyncio.to_thread(_graph, model)
        threads = [1] * self._workers + [self._workers] * (self._workers > 1)
        sessions = await asyncio.gather(*(asyncio.to_thread(_session, model, graph, threads=n) for n in threads))
        await asyncio.to_thread(_check, model, sessions[-1])
        self._loaded[model.manifest.reference] = Loaded(model, sessions[: self._workers], sessions[self._workers :])

    def drop(self, model: Model) -> None:
        """Forget a model version; its memory is free once the images that are on their way are done."""
        self._loaded.pop(model.manifest.reference, None)

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
        loaded = self._loaded.get(manifest.reference)
        if loaded is None:
            raise UnknownModel(f"{manifest.reference} is no longer served.", model=manifest.reference)
        arrival = time.monotonic()
        deadline = None if timeout is None else arrival + timeout
        alone = self._held == 0 and len(images) == 1
        self._held += len(images)
        work = partial(self._embed, loaded, arrival=arrival, deadline=deadline, alone=alone)
        try:
            async with asyncio.timeout(timeout):
                return list(await asyncio.gather(*(self._pool.submit(partial(work, image)) for image in images)))
        except TimeoutError:
            raise DeadlineExceeded(f"The deadline passed before {len(images)} images were embedded.")
        finally:
            self._held -= len(images)

    def _embed(
        self, loaded: Loaded, image: bytes, *, arrival: float, deadline: float | None, alone: bool
    ) -> Embedded | RoostError:
        begun = time.monotonic()
        if deadline is not None and begun > deadline:
            return DeadlineExceeded("The deadline passed while the image waited for a worker.")
        given = loaded.model.manifest.input
        try:
            pixels = preprocess.decode(image, size=given.size, resize=given.resize, limits=self._limits)
            decoded = time.monotonic()
            with loaded.session(alone=alone) as session:
                vector = _infer(session, pixels[np.newaxis])[0]
        except RoostError as error:
            return error
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


def _session(model: Model, graph: bytes, *, threads: int) -> onnxruntime.InferenceSession:
    path = model.folder / artifact.MODEL
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    # Threads that share an image wait for each other busily, but never between two images.
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if threads > 1 else "0")
    options.add_session_config_entry("session.force_spinning_stop", "1")
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
    if GPU in onnxruntime.get_available_providers() and GPU not in session.get_providers():
        log.warning(
            "%s runs on the CPU: ONNX Runtime found no GPU, or not the libraries that it needs. Install "
            "`roost[serving-gpu]` and NVIDIA's driver to use one; to stay on the CPU, do nothing.",
            model.manifest.reference,
        )


def _infer(session: onnxruntime.InferenceSession, pixels: np.ndarray) -> np.ndarray:
    """Embeddings (n, dim) of uint8 pixels (n, size, size, 3)."""
    (name,) = [node.name for node in session.get_inputs()]
    return np.asarray(session.run(["embedding"], {name: pixels})[0])
