"""A Triton server over the same repository: `triton://host`, or `triton://host:port` where the port is not 8001.

This end decodes, on threads, and sends pixels; Triton queues, batches and runs the model.
"""

import asyncio
import logging
import math
import socket
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np

from roost import urls
from roost.artifact import Input, Manifest
from roost.errors import (
    BackendUnavailable,
    BadArtifact,
    BadSettings,
    DeadlineExceeded,
    Overloaded,
    RoostError,
    UnknownModel,
)
from roost.preprocess import Limits
from roost_serving import repository
from roost_serving.backends import CLOSED, Embedded, ModelUnavailable, _images
from roost_serving.backends._images import Decoded, Encoded
from roost_serving.backends._lane import Lane
from roost_serving.backends._triton_server import Restricted, Server, read_key
from roost_serving.backends._triton_versions import Versions
from roost_serving.fair import FairPool
from roost_serving.repository import Model

log = logging.getLogger(__name__)

T = TypeVar("T")

GROUP = 16
"""Images of one call that are decoded before the first of them is inferred."""
CALLS = 2
"""Calls to Triton under way for each of a model's instances: one is worked on, and the next is there."""
PORT = 8001
START_SECONDS = 600.0
"""A first start pulls the server's image and loads every model; a gateway that gave up would only be started again."""
SAY_SECONDS = 10.0
"""While the gateway waits, it says for what this often."""
LOAD_SECONDS = 300.0
PING_SECONDS = 5.0
RETRY_SECONDS = 0.1


class Backend:
    """Embeds in a Triton server.

    Args:
        url: `triton://host` or `triton://host:port` of the server's gRPC service; `[…]` around an IPv6 address.
        repository: Holds the models of the server's own repository.
        limits: Refuse images beyond these.
        workers: Threads that decode.
        key_file: Holds the key of a server that restricts the loading of models.
        start_seconds: How long `open` waits for the server and its models.

    Raises:
        BadSettings: The URL has no host, a port that is no number, or more than these; or the file holds no key.
    """

    def __init__(
        self,
        url: str,
        *,
        repository: Path,
        limits: Limits,
        workers: int,
        key_file: Path | None = None,
        start_seconds: float = START_SECONDS,
    ) -> None:
        if key_file is not None:
            read_key(key_file)
        self.models: list[Model] = []
        self.repository = repository
        self._target = _target(url)
        self._limits = limits
        self._start_seconds = start_seconds
        self._pool = FairPool(self._decode, workers=workers, name="decode")
        self._key_file = key_file
        self._versions = Versions(repository)
        self._server: Server | None = None
        self._lanes: dict[str, Lane] = {}
        self._why = "it does not answer."
        """What a start last waited for."""

    async def open(self) -> None:
        """Wait for the server, have it load every model version, and check each on its golden images."""
        found = await asyncio.to_thread(repository.scan, self.repository)
        self._server = Server(self._target, versions=self._versions, key_file=self._key_file)
        try:
            self.models = await self._start(found)
        except BaseException:  # also where whoever waits for it is told to stop
            await self.close()
            raise

    async def load(self, model: Model) -> None:
        """Have the server load a model anew, with the version beside those that it serves, and check it."""
        server = self._connected()
        siblings = [each for each in self.models if each.manifest.name == model.manifest.name]
        self._versions.want(model.manifest)
        try:
            async with asyncio.timeout(LOAD_SECONDS):
                await server.load(model.manifest)
                await self._prepare(model.manifest)
                for each in siblings:  # which share one configuration, and so the largest batch
                    with suppress(ModelUnavailable):  # gone from the repository, and so from the server
                        await self._prepare(each.manifest)
                await self._check(model)
        except TimeoutError:
            self.drop(model)
            raise BackendUnavailable(
                f"Triton did not load {model.manifest.reference} within {LOAD_SECONDS:g} s.", target=self._target
            )
        except BadArtifact:
            self._refuse(model)
            raise
        except BaseException:
            self.drop(model)
            raise
        self.models = repository.ordered([*self.models, model])

    def drop(self, model: Model) -> None:
        """Ask no more for a model version; the server lets go of it when it loads the model anew."""
        reference = model.manifest.reference
        self.models = [each for each in self.models if each.manifest.reference != reference]
        self._lanes.pop(reference, None)
        self._versions.forget(model.manifest)

    def _refuse(self, model: Model) -> None:
        self.drop(model)
        self._versions.refuse(model.manifest)

    async def close(self) -> None:
        """Let go of the server; calls that are under way end with an error."""
        server, self._server = self._server, None
        if server is not None:
            await server.close()
        await asyncio.to_thread(self._pool.close)

    async def ping(self, *, timeout: float | None = None) -> None:
        """Return if the server answers and has every model, after having it load those that it lacks.

        Raises:
            BackendUnavailable: It does not answer, or has none of the models.
            ModelUnavailable: It lacks some of them.
        """
        server = self._connected()
        try:
            async with asyncio.timeout(PING_SECONDS if timeout is None else timeout):
                asked = await _all(_missing(server, model) for model in self.models)
        except TimeoutError:
            raise BackendUnavailable("The Triton server does not answer.", target=self._target)
        if missing := [error for error in asked if error is not None]:
            raise missing[0] if len(missing) < len(self.models) else BackendUnavailable(missing[0].message)

    async def embed(
        self, manifest: Manifest, images: Sequence[bytes], *, timeout: float | None = None
    ) -> list[Embedded | RoostError]:
        """Decode and embed images: while one group is inferred, the next is decoded."""
        arrival = time.monotonic()
        deadline = None if timeout is None else arrival + timeout
        groups = [images[start : start + GROUP] for start in range(0, len(images), GROUP)]
        work = [self._embed(manifest, group, arrival, deadline) for group in groups]
        try:
            async with asyncio.timeout(timeout):
                embedded = [await work[0]] if len(work) == 1 else await _all(work)
        except TimeoutError:
            raise DeadlineExceeded(f"The deadline passed before {len(images)} images were embedded.")
        return [result for group in embedded for result in group]

    async def _embed(
        self, manifest: Manifest, images: Sequence[bytes], arrival: float, deadline: float | None
    ) -> list[Embedded | RoostError]:
        self._connected()
        lane = self._lanes.get(manifest.reference)
        if lane is None:
            raise UnknownModel(f"{manifest.reference} is no longer served.", model=manifest.reference)
        decoded = await self._pool.ask((Encoded(image, arrival, deadline), manifest.input) for image in images)
        good = [image.pixels for image in decoded if isinstance(image, Decoded)]
        begun = time.monotonic()
        vectors = iter(await lane.infer(good, deadline=deadline))
        infer = {"infer": time.monotonic() - begun}
        return [
            Embedded(next(vectors), image.seconds | infer) if isinstance(image, Decoded) else image for image in decoded
        ]

    def _decode(self, waiting: Sequence[tuple[Encoded, Input]]) -> list[Decoded | RoostError]:
        return [_images.decode(encoded, given, self._limits) for encoded, given in waiting]

    async def _start(self, found: Sequence[Model]) -> list[Model]:
        """Those of the model versions that the server embeds with, once it does.

        Raises:
            BadArtifact: It embeds with none.
            BackendUnavailable: It was not ready in time.
        """
        good: list[Model] = []
        bad: list[RoostError] = []
        try:
            async with asyncio.timeout(self._start_seconds):
                for model in found:  # one at a time: a load that fails with several new ones has crashed Triton
                    try:
                        await self._begin(model)
                    except (BadArtifact, Restricted) as error:
                        bad.append(error)
                    else:
                        good.append(model)
        except TimeoutError:
            raise BackendUnavailable(
                f"Triton at {self._target} was not ready within {self._start_seconds:g} s: {self._why}",
                target=self._target,
            )
        if not good:
            raise bad[0]
        for error in bad:
            log.error("a model version is not served: %s", error.message)
        return good

    async def _begin(self, model: Model) -> None:
        self._versions.want(model.manifest)
        try:
            await self._patiently(partial(self._fetch, model))
            await self._patiently(partial(self._check_first, model))
        except BadArtifact:
            self._refuse(model)
            raise
        except Restricted:
            self.drop(model)
            raise

    async def _patiently(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do what may fail while the server is away, starts, or has its hands full, until it is done."""
        said = -math.inf
        while True:
            try:
                return await work()
            except Restricted:
                raise
            except (BackendUnavailable, Overloaded) as error:
                if error.message != self._why or time.monotonic() - said >= SAY_SECONDS:
                    log.info("waiting for Triton at %s: %s", self._target, error.message)
                    said = time.monotonic()
                self._why = error.message
                await asyncio.sleep(RETRY_SECONDS)

    async def _fetch(self, model: Model) -> None:
        server = self._connected()
        if not await server.has(model.manifest):
            await server.load(model.manifest)
        await self._prepare(model.manifest)

    async def _check_first(self, model: Model) -> None:
        try:
            await self._check(model)
        except ModelUnavailable as error:  # others may be well, and must not wait for it
            raise BadArtifact(error.message, model=model.manifest.reference) from error

    async def _check(self, model: Model) -> None:
        infer = partial(self._infer_from_thread, asyncio.get_running_loop(), model.manifest)
        await asyncio.to_thread(repository.check_golden, model, infer)

    async def _prepare(self, manifest: Manifest) -> None:
        server = self._connected()
        await server.check(manifest)
        capacity = await server.capacity(manifest)
        send, calls = partial(self._infer, manifest), CALLS * capacity.instances * await _servers(self._target)
        lane = self._lanes.setdefault(manifest.reference, Lane(send, calls=0, most=0))
        lane.send, lane.calls, lane.most = send, calls, capacity.batch  # the version may be another than it was

    async def _infer(self, manifest: Manifest, pixels: np.ndarray, *, deadline: float | None) -> np.ndarray:
        return await self._connected().infer(manifest, pixels, deadline=deadline)

    def _infer_from_thread(self, loop: asyncio.AbstractEventLoop, manifest: Manifest, pixels: np.ndarray) -> np.ndarray:
        size = self._lanes[manifest.reference].most
        groups = [pixels[start : start + size] for start in range(0, len(pixels), size)]
        infer = partial(self._connected().infer, deadline=None)
        calls = [asyncio.run_coroutine_threadsafe(infer(manifest, group), loop) for group in groups]
        return np.concatenate([call.result() for call in calls])

    def _connected(self) -> Server:
        if self._server is None:
            raise BackendUnavailable(CLOSED)
        return self._server


def _target(url: str) -> str:
    """host:port of a backend's URL, as gRPC writes them."""
    target = urls.target(url, port=PORT)
    if target is None or "?" in url:
        shown = urls.redacted(url)
        raise BadSettings(f"The backend {shown!r} names no server, or more. Write triton://host:{PORT}.", backend=shown)
    return target


async def _servers(target: str) -> int:
    """How many addresses gRPC spreads calls over now; 1 where that cannot be known."""
    host, _, port = target.rpartition(":")
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
    except OSError:
        return 1
    return len({address for *_, address in found})


async def _missing(server: Server, model: Model) -> ModelUnavailable | None:
    """The error of a model that a server which answers has not got."""
    try:
        await server.check(model.manifest)
    except ModelUnavailable as error:
        return error
    return None


async def _all(work: Iterable[Awaitable[T]]) -> list[T]:
    """What all of it gives; when one fails, the rest is cancelled."""
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
