"""What a client is given and gives back: plain frozen dataclasses with numpy arrays, never protobuf messages."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np

from roost.clusters import Placement
from roost.errors import RoostError

Image = bytes | Path | str
"""An encoded image's bytes, or the path of the file that holds them."""


@dataclass(frozen=True)
class Item:
    """Something to store."""

    image: Image | None = None
    """None where its vector is given."""
    id: str = ""
    """The caller's name for it; empty: made from the content, so that sending it again changes nothing."""
    payload: Mapping[str, Any] = field(default_factory=dict)
    """Facts to keep beside the vector and to filter by: what JSON can hold."""
    vector: np.ndarray | None = None
    """Its embedding, shape (dim,), where it was computed before; then it needs an id and no image."""


@dataclass(frozen=True)
class Range:
    """A closed range of numbers; None does not bind."""

    min: float | None = None
    max: float | None = None


@dataclass(frozen=True)
class Filter:
    """Which stored items to consider; all conditions hold at once."""

    payload: Mapping[str, str | bool | int | float | Range] = field(default_factory=dict)
    """What the payload's values must be; a dot in a key leads into a nested object."""
    clusters: Sequence[int] = ()
    """The item's cluster is one of these; empty: any."""
    anomaly: bool | None = None
    """The item is, or is not, an anomaly; None: either."""


@dataclass(frozen=True)
class StoredItem:
    """An item in the gateway's store."""

    id: str
    payload: dict[str, Any]
    placement: Placement | None
    """Where it lay when it was stored; None for a model without clusters."""
    vector: np.ndarray | None
    """Shape (dim,), float32, unit length; None where it was not asked for."""


@dataclass(frozen=True)
class Hit:
    """A neighbour."""

    item: StoredItem
    score: float
    """Cosine similarity, -1 to 1."""


@dataclass(frozen=True)
class Neighbours(Sequence[Hit]):
    """The answer to a search: a sequence of hits, nearest first."""

    model: str
    """`name@version` of the model that was searched."""
    hits: list[Hit]
    placement: Placement | None
    """Where the query lies; None for a model without clusters and for a query by id."""

    @overload
    def __getitem__(self, index: int) -> Hit: ...

    @overload
    def __getitem__(self, index: slice) -> list[Hit]: ...

    def __getitem__(self, index: int | slice) -> Hit | list[Hit]:
        return self.hits[index]

    def __len__(self) -> int:
        return len(self.hits)


@dataclass(frozen=True)
class Outcome:
    """What became of one item of `ingest`."""

    kind: Literal["stored", "existed", "failed"]
    id: str
    """Empty where the item failed before it had one."""
    placement: Placement | None = None
    error: RoostError | None = None
    """Why it failed; None otherwise."""
    model: str = ""
    """`name@version` of the model that embedded it."""


@dataclass(frozen=True)
class Model:
    """A served model version."""

    name: str
    version: int
    in_service: bool
    """Whether `name` alone means this version."""
    dim: int
    """Length of its embeddings."""
    input_size: int
    """Side of the square that it sees, in pixels."""
    method: str
    encoder: str
    clusters: int
    """How many it has; 0 where none were fitted."""
    items: int
    """How many are stored for it."""
    quality: dict[str, float]
    """Figures that training and export measured."""
    fingerprint: str
    """Of the encoder's files: another for another encoder, though name and version may be the same."""

    @property
    def reference(self) -> str:
        """`name@version`, as requests name it."""
        return f"{self.name}@{self.version}"


@dataclass(frozen=True)
class Reloaded:
    """What a look at the model repository changed; each model version as `name@version`."""

    added: list[str]
    """New ones; the newest of a name is what the name alone means from now on."""
    changed: list[str]
    """Have clusters, and had none."""
    dropped: list[str]
    """Gone from the repository, and no longer served."""
    refused: dict[str, RoostError]
    """Cannot be served as they are, and why; what was served before goes on."""


@dataclass(frozen=True)
class Cluster:
    """One of a model's clusters."""

    cluster: int
    fitted_images: int
    """How many of the images that it was fitted on lie in it."""
    items: int
    """How many stored items lie in it."""
    median_distance: float
    anomaly_distance: float
    """Past this distance to the centroid, an item of this cluster is an anomaly."""
    medoid_id: str
    """The id of the fitted image nearest to the centroid."""
    centroid: np.ndarray
    """Shape (dim,), float32."""
