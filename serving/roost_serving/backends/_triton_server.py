"""One Triton server, spoken to over gRPC: which models it has, what it embeds, and what its errors mean.

A server that was restarted has no models until it is told to load them, and one whose Python backend died refuses
everything until it loads the model again; both are done here, before a caller hears of it.

https://github.com/triton-inference-server/server/blob/main/docs/protocol/README.md
"""

import asyncio
import logging
import math
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tritonclient.grpc import InferInput, InferRequestedOutput
from tritonclient.grpc.aio import InferenceServerClient
from tritonclient.utils import InferenceServerException

from roost.artifact import Manifest
from roost.errors import BackendUnavailable, BadArtifact, BadSettings, DeadlineExceeded, Overloaded, RoostError
from roost_serving.admission import RETRY_AFTER_SECONDS
from roost_serving.backends import ModelUnavailable
from roost_serving.backends._triton_versions import Versions

log = logging.getLogger(__name__)

INPUT, OUTPUT = "image", "embedding"
RELOAD_SECONDS = 5.0
"""A model that is still missing after it was loaded is not loaded again before this."""

CHANNEL = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),  # gRPC's own two minutes would outlast a server's restart
    ("grpc.lb_policy_name", "round_robin"),  # a name that stands for several servers uses them all
]

# What Triton says, since its codes do not tell these apart.
QUEUE_FULL = "Exceeds maximum queue size"
QUEUE_TIMEOUT = "Request timeout expired"
PROCESS_DIED = "is not healthy"
NOT_READY = "Request for unknown model"  # also of one that it has and could not load
BY_ITSELF = "explicit model load / unload is not allowed"
CANNOT_LOAD = "is at UNAVAILABLE state"
RESTRICTED = "protocol is restricted"

KEY_HEADER = "triton-grpc-protocol-roost-admin"
"""What a server started with `--grpc-restricted-protocol=model-repository:roost-admin=KEY` wants its key in."""


class Restricted(ModelUnavailable):
    """The server loads models only for who has its key."""


class Capacity(NamedTuple):
    """What a model takes at once."""

    batch: int
    """Images in one call."""
    instances: int
    """Copies of it, each of which works on one batch."""


class Server:
    """A connection; made inside a running event loop.

    Args:
        target: host:port of the server's gRPC service.
        versions: Those that it is told to load.
        key_file: Holds the key of a server that loads models only for who has it; read for each load.
    """

    def __init__(self, target: str, *, versions: Versions, key_file: Path | None = None) -> None:
        self._target = target
        self._key_file = key_file
        self._versions = versions
        self._client = InferenceServerClient(target, channel_args=CHANNEL)
        self._loading: dict[str, asyncio.Task[None]] = {}
        self._loaded: dict[str, float] = {}

    async def close(self) -> None:
        """Let go of the connection; calls that are under way end with an error."""
        for task in self._loading.values():
            task.cancel()
        await self._client.close()

    async def check(self, manifest: Manifest) -> None:
        """Return if the server has a model version, after having it load the model where it has not.

        Raises:
            BackendUnavailable: The server does not answer.
            ModelUnavailable: It has not got it.
        """
        if await self.has(manifest):
            return
        await self._load(manifest.name, unless_since=time.monotonic() - RELOAD_SECONDS)
        if not await self.has(manifest):
            raise self._without(manifest, f"has no {manifest.reference}. Start it over the same models")

    async def has(self, manifest: Manifest) -> bool:
        """Whether the server can embed with a model version.

        Raises:
            BackendUnavailable: The server does not answer.
        """
        try:
            return bool(await self._client.is_model_ready(manifest.name, str(manifest.version)))
        except InferenceServerException as error:
            raise self._translate(error, manifest=manifest)

    async def load(self, manifest: Manifest) -> None:
        """Have the server load a model's versions as its repository holds them now; it goes on with those that it has.

        A server that loads models by itself is left to do so.

        Raises:
            BadArtifact: One cannot be loaded; what the server had goes on.
            BackendUnavailable: The server does not answer.
            ModelUnavailable: It does not find the model.
            Restricted: It wants a key that the gateway has not got.
        """
        log.info("asking Triton at %s to load %s", self._target, manifest.reference)
        try:
            await self._ask_to_load(manifest.name)
        except InferenceServerException as error:
            text = error.message() or ""
            if BY_ITSELF in text:
                return
            if CANNOT_LOAD in text:
                raise BadArtifact(
                    f"Triton does not load {manifest.reference}: {text}. Export it again.", model=manifest.reference
                ) from error
            if error.status() == "StatusCode.UNAVAILABLE" and RESTRICTED not in text:
                raise self._translate(error)
            if RESTRICTED in text:
                raise Restricted(
                    f"Triton does not load {manifest.reference}: loading is restricted, and "
                    f"{'the gateway has no key' if self._key_file is None else 'it wants another key'}. Name the file "
                    "of the right one with --triton-key-file, or restart Triton over the same models.",
                    target=self._target,
                    model=manifest.reference,
                ) from error
            raise self._without(manifest, f"does not load {manifest.reference}: {text}") from error
        self._loaded[manifest.name] = time.monotonic()

    async def capacity(self, manifest: Manifest) -> Capacity:
        """What the model takes at once.

        Raises:
            BackendUnavailable: The server does not answer.
        """
        try:
            config = await self._client.get_model_config(manifest.name, str(manifest.version))
        except InferenceServerException as error:
            raise self._translate(error, manifest=manifest)
        settings: Any = config.config  # pyright: ignore[reportOptionalMemberAccess]
        instances = sum(group.count * max(1, len(group.gpus)) for group in settings.instance_group)
        return Capacity(batch=max(1, settings.max_batch_size), instances=max(1, instances))

    async def infer(self, manifest: Manifest, pixels: np.ndarray, *, deadline: float | None) -> np.ndarray:
        """Embed pixels.

        Args:
            manifest: Of the model version.
            pixels: uint8 (n, size, size, 3), n no more than its capacity's `batch`.
            deadline: On the clock of `time.monotonic`; past it, Triton drops the call from its queue.

        Returns:
            Embeddings, float32 (n, dim).

        Raises:
            DeadlineExceeded: The deadline passed first.
            Overloaded: The model's queue is full.
            BackendUnavailable: The server does not answer.
            ModelUnavailable: It answers, and cannot embed with this model.
        """
        begun = time.monotonic()
        try:
            return await self._infer(manifest, pixels, deadline)
        except InferenceServerException as error:
            text = error.message() or ""
            died, unknown = PROCESS_DIED in text, NOT_READY in text or error.status() == "StatusCode.NOT_FOUND"
            if not died and not unknown:
                raise self._translate(error, deadline, manifest)
        if died:
            await self._load(manifest.name, unless_since=begun, anew=True)
        else:
            await self._load(manifest.name, unless_since=begun - RELOAD_SECONDS)
        try:
            return await self._infer(manifest, pixels, deadline)
        except InferenceServerException as error:
            raise self._translate(error, deadline, manifest)

    async def _infer(self, manifest: Manifest, pixels: np.ndarray, deadline: float | None) -> np.ndarray:
        left = None if deadline is None else deadline - time.monotonic()
        if left is not None and left <= 0:
            raise DeadlineExceeded("The deadline passed before the image was sent to the model.")
        tensor = InferInput(INPUT, list(pixels.shape), "UINT8")
        tensor.set_data_from_numpy(pixels)
        result = await self._client.infer(
            manifest.name,
            [tensor],
            model_version=str(manifest.version),
            outputs=[InferRequestedOutput(OUTPUT)],
            timeout=None if left is None else max(1, int(left * 1e6)),
            client_timeout=left,
        )
        try:
            embeddings = result.as_numpy(OUTPUT)  # pyright: ignore[reportOptionalMemberAccess]
        except ValueError as error:  # fewer bytes than its shape says
            raise self._without(manifest, f"answered for {manifest.reference} with a broken tensor") from error
        if embeddings is None or embeddings.shape != (len(pixels), manifest.dim):
            raise self._without(manifest, f"did not answer with {len(pixels)} embeddings of {manifest.reference}")
        return embeddings

    async def _load(self, name: str, *, unless_since: float, anew: bool = False) -> None:
        """Have the server load a model, once however many ask, unless that was done since then."""
        task = self._loading.get(name)
        if task is None:
            if self._loaded.get(name, -math.inf) >= unless_since:
                return
            task = self._loading[name] = asyncio.create_task(self._load_once(name, anew=anew))
            task.add_done_callback(lambda _: self._loading.pop(name))
        await asyncio.shield(task)

    async def _load_once(self, name: str, *, anew: bool) -> None:
        log.info("asking Triton at %s to load %s", self._target, name)
        try:
            await self._ask_to_load(name, anew=anew)
        except InferenceServerException as error:  # also of a server that loads by itself: then it may be on its way
            log.warning("Triton at %s did not load %s: %s", self._target, name, error.message())
        except (BadArtifact, BackendUnavailable) as error:
            log.warning("%s", error.message)
        self._loaded[name] = time.monotonic()

    async def _ask_to_load(self, name: str, *, anew: bool = False) -> None:
        # Not by the server's index of its models: asked for that after a load that failed, Triton has crashed.
        others = await asyncio.to_thread(self._versions.others, name)
        ready = [version for version in others if await self._client.is_model_ready(name, str(version))]
        config = await asyncio.to_thread(self._versions.config, name, ready=ready, anew=anew)
        await self._client.load_model(name, headers=await asyncio.to_thread(self._headers), config=config)

    def _headers(self) -> dict[str, str]:
        if self._key_file is None:
            return {}
        try:
            return {KEY_HEADER: read_key(self._key_file)}
        except BadSettings as error:
            raise BackendUnavailable(error.message, target=self._target) from error

    def _translate(
        self, error: InferenceServerException, deadline: float | None = None, manifest: Manifest | None = None
    ) -> RoostError:
        """What one of Triton's errors means here; its text goes to the log, not to the caller."""
        status, text = str(error.status()).removeprefix("StatusCode."), error.message() or ""
        late = deadline is not None and time.monotonic() >= deadline
        if status == "DEADLINE_EXCEEDED" or (QUEUE_TIMEOUT in text and late):
            return DeadlineExceeded("The deadline passed before the model answered.")
        if QUEUE_FULL in text or QUEUE_TIMEOUT in text:
            return Overloaded(
                f"The model's queue is full. Try again in {RETRY_AFTER_SECONDS} s.",
                retry_after_seconds=RETRY_AFTER_SECONDS,
            )
        if status == "UNAVAILABLE" and NOT_READY not in text and PROCESS_DIED not in text:
            self._loaded.clear()  # it may come back without its models, and is then asked to load them at once
            return self._unavailable("cannot be reached")
        log.warning("Triton at %s: %s %s", self._target, status, text)
        if manifest is None:
            return self._unavailable(f"could not answer ({status}). Its log says why")
        return self._without(manifest, f"could not embed with {manifest.reference} ({status}). Its log says why")

    def _unavailable(self, what: str) -> BackendUnavailable:
        return BackendUnavailable(f"The Triton server {what}.", target=self._target)

    def _without(self, manifest: Manifest, what: str) -> ModelUnavailable:
        return ModelUnavailable(f"The Triton server {what}.", target=self._target, model=manifest.reference)


def read_key(path: Path) -> str:
    """The key in a file.

    Raises:
        BadSettings: The file cannot be read, or holds no key.
    """
    try:
        key = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise BadSettings(f"The key file of Triton cannot be read: {path}.", key="triton_key_file") from error
    if not key or not key.isprintable():
        raise BadSettings(f"The key file of Triton holds no key of one line: {path}.", key="triton_key_file")
    return key
