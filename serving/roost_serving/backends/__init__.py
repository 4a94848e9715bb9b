"""Where embeddings are computed. `backends/SCHEME.py` serves `scheme://…` and holds one class, `Backend`.

| scheme | runs | for |
|---|---|---|
| `onnx://model_repository` | ONNX Runtime in this process, a few images to each core | one machine |
| `openvino://model_repository` | OpenVINO likewise | CPUs with bf16 or int8 |
| `triton://host`, `triton://host:8001` | a Triton server over the same repository | GPUs, many models, many gateways |
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from roost import plugins
from roost.artifact import Manifest
from roost.errors import BackendUnavailable, RoostError
from roost.preprocess import DEFAULT_LIMITS, Limits
from roost_serving.repository import Model

CLOSED = "The gateway is shutting down. Try another one."
"""What a backend that was closed says."""


@dataclass(frozen=True)
class Embedded:
    """One image's embedding."""

    vector: np.ndarray
    """Shape (dim,), float32, unit length."""
    seconds: dict[str, float] = field(default_factory=dict)
    """How long its stages took: `queue`, `decode`, `infer`."""


class ModelUnavailable(BackendUnavailable):
    """The server answers, and cannot embed with one of its models; the others may be well."""


class Backend(Protocol):
    """What every backend does."""

    repository: Path
    """Holds the model versions."""
    models: list[Model]
    """The model versions that it has loaded, by name and version; filled by `open`."""

    async def open(self) -> None:
        """Load every model version of the repository, check it on its golden images, and be ready to embed.

        Raises:
            BadArtifact: A file is missing or altered, or a model does not repeat its golden embeddings.
            BackendUnavailable: The model server cannot be reached.
        """
        ...

    async def load(self, model: Model) -> None:
        """Load one more model version beside those that are served, and check it on its golden images.

        Raises:
            BadArtifact: It cannot be loaded, or does not repeat its golden embeddings; the others are as they were.
            BackendUnavailable: The model server cannot be reached.
        """
        ...

    def drop(self, model: Model) -> None:
        """Let go of a model version once the images that are being embedded with it are done."""
        ...

    async def close(self) -> None:
        """Finish what is running and let go of everything."""
        ...

    async def ping(self, *, timeout: float | None = None) -> None:
        """Return if the backend can embed.

        Raises:
            BackendUnavailable: It cannot.
        """
        ...

    async def embed(
        self, manifest: Manifest, images: Sequence[bytes], *, timeout: float | None = None
    ) -> list[Embedded | RoostError]:
        """Decode and embed images; a bad one gives its error and leaves the others alone.

        Args:
            manifest: Of one of `models`.
            images: Encoded images.
            timeout: What is left of the caller's deadline, in seconds. Work past it is dropped.

        Raises:
            DeadlineExceeded: The deadline passed first.
            UnknownModel: The model version was dropped.
            BackendUnavailable: The model server cannot be reached.
        """
        ...


def connect(
    url: str, *, repository: Path, limits: Limits = DEFAULT_LIMITS, workers: int, key_file: Path | None = None
) -> Backend:
    """The backend that a URL names; not opened yet.

    Args:
        url: `onnx://`, `openvino://` and `triton://host`, whose port is 8001 unless it says another, read the models'
            manifests and clusters from `repository`; `onnx://folder` and `openvino://folder` from that folder.
        repository: The model repository that `roost export` wrote.
        limits: Refuse images beyond these.
        workers: Threads that decode and, in-process, infer.
        key_file: Holds the key of a server that restricts the loading of models.

    Raises:
        UnknownPlugin: No backend has the URL's scheme.
    """
    scheme = url.partition(":")[0]
    module = plugins.load(sys.modules[__name__], scheme, kind="backend")
    return module.Backend(url, repository=repository, limits=limits, workers=workers, key_file=key_file)


def folder(url: str) -> Path | None:
    """The folder that `scheme://relative/path` or `scheme:///absolute/path` names; None where it names none."""
    path = url.partition("://")[2]
    return Path(path) if path else None
