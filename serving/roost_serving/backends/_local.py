"""Models that run in this process: what `onnx://` and `openvino://` share, which is all but the runtime itself.

One worker per core takes images from bytes to embeddings on its own: two single-threaded sessions beat one of two
threads. It takes its share of what waits, a few at once: see docs/decisions/0012. Only an image that finds the gateway
idle is inferred by all cores at once. Both decoding and inference release the GIL.
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

from roost import artifact
from roost.artifact import Manifest
from roost.errors import BackendUnavailable, BadArtifact, DeadlineExceeded, RoostError, UnknownModel
from roost.preprocess import Limits
from roost_serving import backends, cores, memory, repository
from roost_serving.backends import CLOSED, Embedded, _images
from roost_serving.backends._images import Decoded, Encoded
from roost_serving.fair import FairPool
from roost_serving.repository import Model

MOST = 4
"""Images that a worker infers at once: more gain nothing, and hold each other up."""
REST_SECONDS = 5.0
"""An idle gateway gives back the memory that its last images took."""

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
    def session(self, *, alone: bool) -> Iterator[tuple[Session, bool]]:
        """A session to run images on, back in its place afterwards, and whether it uses every core."""
        pool = self.wide if alone else self.free
        try:
            session = pool.pop()
        except IndexError:  # a call that was given up is still at it
            pool = self.free  # which is never empty: it has as many as there are threads
            session = pool.pop()
        try:
            yield session, pool is self.wide
        finally:
            pool.append(session)


@dataclass(slots=True)
class Job(Generic[Session]):
    """An image that waits for a worker."""

    loaded: Loaded[Session]
    encoded: Encoded
    alone: bool
    """Whether it found the gateway idle."""


class LocalBackend(ABC, Generic[Graph, Session]):
    """Embeds on threads of this process; a runtime reads graphs, makes sessions of them and runs those."""

    runtime: ClassVar[str]
    """Its name, for errors."""
    scheme: ClassVar[str]
    """Of its URLs, for errors."""
    errors: ClassVar[tuple[type[Exception], ...]]
    """What it raises for a graph that it cannot load or run."""

    def __init__(
        self, url: str, *, repository: Path, limits: Limits, workers: int, key_file: Path | None = None
    ) -> None:
        self.repository = backends.folder(url) or repository
        self._limits = limits
        self._workers = workers
        self.cores = cores.own(workers)
        """Where the threads that share an image stay; none where the system chooses."""
        self._pool = FairPool(self._embed, workers=workers, most=MOST, name="embed")
        self._loaded: dict[str, Loaded[Session]] = {}
        self._held = self._used = 0
        """Images of calls that wait for their answers; and all that leave memory behind: images, and dropped models."""
        self._resting: asyncio.Task[None] | None = None
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

    def rest(self, session: Session, pixels: np.ndarray) -> None:
        """Give back the memory that runs of a session took; others may run it meanwhile.

        Args:
            session: One that was made.
            pixels: uint8 (1, size, size, 3), for a runtime that gives memory back only after a run.
        """

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
        self._resting = asyncio.create_task(self._rest_when_idle())

    async def load(self, model: Model) -> None:
        """Load a model version, on a thread of its own, and check it on its golden images."""
        self._loaded[model.manifest.reference] = await asyncio.to_thread(self._load, model)

    def _load(self, model: Model) -> Loaded[Session]:
        try:
            graph = self.read(self._content(model))
            free = self.make(model, graph, threads=1, callers=self._workers)
            wide = self.make(model, graph, threads=self._workers, callers=1) if self._workers > 1 else []
            loaded = Loaded(model, free, wide)
            self.check(model, (wide or free)[0])
            del graph
            self._rest([loaded])  # loading takes a model's size several times over
        except self.errors as error:
            path = model.folder / artifact.MODEL
            raise BadArtifact(
                f"{path} cannot be loaded by {self.runtime}: {error}. Export it again.", path=path
            ) from error
        return loaded

    def drop(self, model: Model) -> None:
        """Forget a model version; its memory is free once the images that are on their way are done."""
        self._loaded.pop(model.manifest.reference, None)
        self._used += 1

    async def close(self) -> None:
        """Finish the images that are being worked on and drop the rest."""
        self._closed = True
        if self._resting is not None:
            self._resting.cancel()
        await asyncio.to_thread(self._pool.close)

    async def ping(self, *, timeout: float | None = None) -> None:
        """Return unless the backend was closed: there is no server that could be away."""
        if self._closed:
            raise BackendUnavailable(CLOSED)

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
        self._used += len(images)
        try:
            async with asyncio.timeout(timeout):
                answers = await self._pool.ask(
                    Job(loaded, Encoded(image, arrival, deadline), alone) for image in images
                )
        except TimeoutError:
            raise DeadlineExceeded(f"The deadline passed before {len(images)} images were embedded.")
        finally:
            self._held -= len(images)
        results: list[Embedded | RoostError] = []
        for answer in answers:
            if not isinstance(answer, (Embedded, RoostError)):
                raise answer
            results.append(answer)
        return results

    def _embed(self, jobs: Sequence[Job[Session]]) -> list[Embedded | Exception]:
        """Decode images, and infer those of one model together.

        Several calls' images meet here: an error is that of the image, or of the model, and no other's.
        """
        decoded = [self._decode(job) for job in jobs]
        embedded: dict[int, Embedded | Exception] = {}
        for loaded in {id(job.loaded): job.loaded for job in jobs}.values():
            own = {
                place: image
                for place, (job, image) in enumerate(zip(jobs, decoded, strict=True))
                if job.loaded is loaded and isinstance(image, Decoded)
            }
            if own:
                alone = len(jobs) == 1 and jobs[0].alone
                try:
                    embedded |= zip(own, self._infer(loaded, list(own.values()), alone=alone), strict=True)
                except Exception as error:  # whatever the runtime raises
                    embedded |= dict.fromkeys(own, error)
        return [image if isinstance(image, Exception) else embedded[place] for place, image in enumerate(decoded)]

    def _decode(self, job: Job[Session]) -> Decoded | Exception:
        try:
            return _images.decode(job.encoded, job.loaded.model.manifest.input, self._limits)
        except Exception as error:  # such as that memory is short
            return error

    def _infer(self, loaded: Loaded[Session], images: Sequence[Decoded], *, alone: bool) -> list[Embedded]:
        begun = time.monotonic()
        with loaded.session(alone=alone) as (session, wide), cores.first(self.cores if wide else ()):
            vectors = self.infer(session, np.stack([image.pixels for image in images]))
        infer = time.monotonic() - begun
        for image in images:  # those that were decoded first waited for the others
            image.seconds |= {"queue": image.seconds["queue"] + begun - image.ended, "infer": infer}
        return [Embedded(vector, image.seconds) for vector, image in zip(vectors, images, strict=True)]

    async def _rest_when_idle(self) -> None:
        before = rested = self._used
        while True:
            await asyncio.sleep(REST_SECONDS)
            if self._held == 0 and self._used == before != rested:
                rested = before
                try:
                    await asyncio.to_thread(self._rest, list(self._loaded.values()))
                except self.errors as error:
                    log.warning("memory could not be given back: %s", error)
            before = self._used

    def _rest(self, models: Sequence[Loaded[Session]]) -> None:
        for loaded in models:
            size = loaded.model.manifest.input.size
            for session in {id(session): session for session in (*loaded.free, *loaded.wide)}.values():
                self.rest(session, np.zeros((1, size, size, 3), np.uint8))
        memory.give_back()

    def _content(self, model: Model) -> bytes:
        """The model's file: the bytes that its manifest vouches for, and not merely a file of that name."""
        reference = model.manifest.reference
        if artifact.MODEL not in model.manifest.files:
            raise BadArtifact(
                f"{reference} has no {artifact.MODEL}, which {self.scheme}:// runs. Export it with --format onnx, or "
                "serve it with Triton: --backend triton://host.",
                model=reference,
            )
        return artifact.checked_bytes(model.folder, model.manifest, artifact.MODEL)
