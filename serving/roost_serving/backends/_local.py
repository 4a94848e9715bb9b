"""Models that run in this process: what `onnx://` and `openvino://` share, which is all but the runtime itself.

One worker per core takes an image from bytes to embedding on its own: two single-threaded sessions beat one of two
threads, and an image that stays with its worker needs no batching. Only an image that finds the gateway idle is
inferred by all cores at once. Both decoding and inference release the GIL.
"""

import asyncio
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar, Generic, TypeVar

import numpy as np

from roost import artifact, preprocess
from roost.artifact import Manifest
from roost.errors import BackendUnavailable, BadArtifact, DeadlineExceeded, RoostError, UnknownModel
from roost.preprocess import Limits
from roost_serving import backends, memory, repository
from roost_serving.backends import Embedded
from roost_serving.fair import FairPool
from roost_serving.repository import Model

log = logging.getLogger(__name__)

Graph = TypeVar("Graph")
Session = TypeVar("Session")


@dataclass(frozen=True)
class Loaded(Generic[Session]):
    """A model version in memory; it lasts as long as someone embeds with it."""

    model: Model
    free: list[Session]
    """One session of one thread for every worker, without those that are in use."""
    wide: list[Session]
    """One session that uses every core, unless it is in use; none where there is one worker."""

    @contextmanager
    def session(self, *, alone: bool) -> Iterator[Session]:
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


class LocalBackend(ABC, Generic[Graph, Session]):
    """Embeds on threads of this process; a runtime reads graphs, makes sessions of them and runs those."""

    runtime: ClassVar[str]
    """Its name, for errors."""
    scheme: ClassVar[str]
    """Of its URLs, for errors."""
    errors: ClassVar[tuple[type[Exception], ...]]
    """What it raises for a graph that it cannot load or run."""

    def __init__(self, url: str, *, repository: Path, limits: Limits, workers: int) -> None:
        self.repository = backends.folder(url) or repository
        self._limits = limits
        self._workers = workers
        self._pool = FairPool(workers, name="embed")
        self._loaded: dict[str, Loaded[Session]] = {}
        self._held = 0
        """Images of calls that wait for their answers."""
        self._closed = False

    @abstractmethod
    def read(self, content: bytes) -> Graph:
        """The graph in an ONNX file."""

    @abstractmethod
    def make(self, model: Model, graph: Graph, *, threads: int, callers: int) -> list[Session]:
        """A session of so many threads for each caller, who runs it while the others run theirs.

        It reads no file but the graph. Callers share what they can: a model's weights are most of the gateway's memory.
        """

    @abstractmethod
    def infer(self, session: Session, pixels: np.ndarray) -> np.ndarray:
        """Embeddings (n, dim) of uint8 pixels (n, size, size, 3)."""

    def check(self, model: Model, session: Session) -> None:
        """Run a model version on its golden images.

        Raises:
            BadArtifact: The runtime cannot run it, or it does not repeat its golden embeddings.
        """
        try:
            repository.check_golden(model, partial(self.infer, session))
        except self.errors as error:
            raise BadArtifact(
                f"{model.manifest.reference} cannot be run by {self.runtime}: {error}. Export it again.",
                model=model.manifest.reference,
            ) from error

    @property
    def models(self) -> list[Model]:
        """The model versions that are loaded, by name and version."""
        return repository.ordered(loaded.model for loaded in self._loaded.values())

    async def open(self) -> None:
        """Load every model version and check it on its golden images."""
        bad = []
        for model in await asyncio.to_thread(repository.scan, self.repository):
            try:
                await self.load(model)
            except BadArtifact as error:
                bad.append(error)
        if not self._loaded:
            raise bad[0]
        for error in bad:
            log.error("a model version is not served: %s", error.message)

    async def load(self, model: Model) -> None:
        """Load a model version, on a thread of its own, and check it on its golden images."""
        self._loaded[model.manifest.reference] = await asyncio.to_thread(self._load, model)

    def _load(self, model: Model) -> Loaded[Session]:
        try:
            graph = self.read(self._content(model))
            free = self.make(model, graph, threads=1, callers=self._workers)
            wide = self.make(model, graph, threads=self._workers, callers=1) if self._workers > 1 else []
        except self.errors as error:
            path = model.folder / artifact.MODEL
            raise BadArtifact(
                f"{path} cannot be loaded by {self.runtime}: {error}. Export it again.", path=path
            ) from error
        self.check(model, (wide or free)[0])
        del graph
        memory.give_back()  # loading takes a model's size several times over
        return Loaded(model, free, wide)

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
        self, loaded: Loaded[Session], image: bytes, *, arrival: float, deadline: float | None, alone: bool
    ) -> Embedded | RoostError:
        begun = time.monotonic()
        if deadline is not None and begun > deadline:
            return DeadlineExceeded("The deadline passed while the image waited for a worker.")
        given = loaded.model.manifest.input
        try:
            pixels = preprocess.decode(image, size=given.size, resize=given.resize, limits=self._limits)
            decoded = time.monotonic()
            with loaded.session(alone=alone) as session:
                vector = self.infer(session, pixels[np.newaxis])[0]
        except RoostError as error:
            return error
        seconds = {"queue": begun - arrival, "decode": decoded - begun, "infer": time.monotonic() - decoded}
        return Embedded(vector, seconds)

    def _content(self, model: Model) -> bytes:
        """The model's file: the bytes that its manifest vouches for, and not merely a file of that name."""
        reference = model.manifest.reference
        if artifact.MODEL not in model.manifest.files:
            raise BadArtifact(
                f"{reference} has no {artifact.MODEL}, which {self.scheme}:// runs. Export it with --format onnx, or "
                "serve it with Triton: --backend triton://host.",
                model=reference,
            )
        return artifact.check_file(model.folder, model.manifest, artifact.MODEL).read_bytes()
