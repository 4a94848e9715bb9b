"""An artifact is a folder with a manifest: what an encoder is, how to feed it, and the sha256 of every file.

Training writes the first manifest, export and clustering add to it, and the gateway believes nothing
that it has not hashed. The manifest is always written last and renamed into place, so a folder either
has a complete manifest or none.
"""

import hashlib
import json
import os
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, PositiveInt, ValidationError, model_validator

from roost.errors import BadArtifact

SCHEMA = 1
MANIFEST = "manifest.json"
MODEL = "model.onnx"
GOLDEN = "golden.npz"
"""Images' pixels and the embeddings that training gave them."""
TOLERANCE = 1e-3
"""A component of a golden embedding may differ by so much, wherever an fp32 model runs."""
LEAST_COSINE = 0.97
"""The mean over the golden images, to what training gave, for a model in bf16 or int8."""
NAME = r"^[a-z0-9][a-z0-9._-]{0,63}$"

Positive = Annotated[FiniteFloat, Field(gt=0)]
Channel = tuple[FiniteFloat, FiniteFloat, FiniteFloat]
Scale = tuple[Positive, Positive, Positive]


class Part(BaseModel):
    """A part of a manifest; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Input(Part):
    """How an encoder is fed: uint8 RGB pixels, shape (batch, size, size, 3)."""

    size: PositiveInt
    """Side of the square that the encoder sees, in pixels."""
    resize: PositiveInt
    """The image's central square is scaled to this many pixels before `size` is cut out; >= size."""
    mean: Channel
    """Subtracted per channel, on pixels scaled to 0..1."""
    std: Scale
    """Divided by, after the mean."""

    @model_validator(mode="after")
    def _resize_covers_size(self) -> "Input":
        if self.resize < self.size:
            raise ValueError(f"resize is {self.resize}, less than size {self.size}")
        return self


class Data(Part):
    """What an encoder was trained on."""

    fingerprint: str
    """sha256 over the sorted sha256 of the images' files."""
    images: PositiveInt
    classes: int = 0
    """Class names found in the folders; 0 where there are none. They score, they never train."""


class File(Part):
    """One file of an artifact."""

    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    size: Annotated[int, Field(ge=0)]
    """In bytes."""


class Manifest(Part):
    """What an encoder is."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    schema_version: Annotated[Literal[1], Field(alias="schema")] = SCHEMA
    name: Annotated[str, Field(pattern=NAME)]
    version: PositiveInt = 1
    method: str
    encoder: str
    input: Input
    dim: PositiveInt
    """Length of an embedding."""
    metric: Literal["cosine"] = "cosine"
    precision: Literal["fp32", "bf16", "int8"] = "fp32"
    """What the model is computed in; bf16 is made of fp32's file by who runs it. Golden embeddings are fp32's."""
    data: Data
    quality: dict[str, FiniteFloat] = {}
    """Figures measured by the stages, such as `knn20_accuracy` and `parity_max_abs_difference`."""
    files: dict[str, File] = {}

    def fingerprint(self, *, without: str) -> str:
        """sha256 over the names and hashes of all files but one."""
        listed = [f"{name} {file.sha256}" for name, file in sorted(self.files.items()) if name != without]
        return hashlib.sha256("\n".join(listed).encode()).hexdigest()

    @property
    def reference(self) -> str:
        """`name@version`: the model version's full name, and its collection's."""
        return f"{self.name}@{self.version}"


def hash_file(path: Path) -> File:
    """The size and sha256 of a file."""
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256")
    return File(sha256=digest.hexdigest(), size=path.stat().st_size)


def read(folder: Path, *, verify: Iterable[str] | None = None) -> Manifest:
    """Read an artifact's manifest and check its files.

    Args:
        folder: The artifact.
        verify: Names of the files to hash; all that the manifest lists by default.

    Raises:
        BadArtifact: The manifest is missing, malformed or of another schema, or a file is missing or altered.
    """
    path = folder / MANIFEST
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise BadArtifact(f"{folder} has no {MANIFEST}, so it is no artifact. Train or export it again.", path=folder)
    except (OSError, ValueError, RecursionError) as error:
        raise BadArtifact(f"{path} cannot be read ({error}). Train or export it again.", path=path) from error
    found = content.get("schema") if isinstance(content, dict) else None
    if found != SCHEMA:
        raise BadArtifact(f"{path} has schema {found}, not {SCHEMA}. Export it again.", path=path, found=found)
    try:
        manifest = Manifest.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise BadArtifact(f"{path} is malformed at {where}: {first['msg']}. Export it again.", path=path) from error
    for name in manifest.files if verify is None else verify:
        check_file(folder, manifest, name)
    return manifest


def check_file(folder: Path, manifest: Manifest, name: str) -> Path:
    """The path of one of the artifact's files, after hashing it.

    Raises:
        BadArtifact: The manifest does not list it, it is missing, it is a link, or its bytes have changed.
    """
    path, expected = _listed(folder, manifest, name)
    try:
        found = hash_file(path)
    except OSError as error:
        raise BadArtifact(f"{path} cannot be read ({error}).", path=folder, file=name) from error
    _compare(path, found, expected)
    return path


def checked_bytes(folder: Path, manifest: Manifest, name: str) -> bytes:
    """What one of the artifact's files holds: the very bytes that were hashed, however the file changes meanwhile.

    Raises:
        BadArtifact: As `check_file`.
    """
    path, expected = _listed(folder, manifest, name)
    try:
        with path.open("rb") as stream:
            there = os.fstat(stream.fileno()).st_size
            content = stream.read(min(there, expected.size) + 1)  # enough to tell a file that is longer
    except OSError as error:
        raise BadArtifact(f"{path} cannot be read ({error}).", path=folder, file=name) from error
    _compare(path, File(sha256=hashlib.sha256(content).hexdigest(), size=len(content)), expected)
    return content


def _listed(folder: Path, manifest: Manifest, name: str) -> tuple[Path, File]:
    """Where one of the artifact's files lies, and what it shall be."""
    expected = manifest.files.get(name)
    path = folder / name
    if expected is None:
        raise BadArtifact(f"{folder} has no file {name!r} in its manifest. Export it again.", path=folder, file=name)
    if Path(name).name != name or path.is_symlink():
        raise BadArtifact(f"{path} leads out of the artifact. Export it again.", path=folder, file=name)
    if not path.is_file():
        raise BadArtifact(f"{path} is missing. Restore it or export again.", path=folder, file=name)
    return path, expected


def _compare(path: Path, found: File, expected: File) -> None:
    if found != expected:
        raise BadArtifact(
            f"{path} is not the file that was written: its sha256 differs. Restore it or export again.",
            path=path.parent,
            file=path.name,
        )


def write(folder: Path, manifest: Manifest, *, files: Iterable[str]) -> Manifest:
    """Hash the named files of a folder and write its manifest, last and atomically.

    Returns:
        The manifest as written: the given one, with `files` replaced.

    Raises:
        BadArtifact: The manifest has a value that could not be read again, such as a figure that is not finite.
    """
    hashed = {name: hash_file(folder / name) for name in sorted(files)}
    manifest = manifest.model_copy(update={"files": hashed})
    try:
        # A copy with changes is not validated by pydantic, and JSON has no NaN.
        manifest = Manifest.model_validate(dict(manifest))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise BadArtifact(f"The manifest for {folder} has a bad {where}: {first['msg']}.", path=folder) from error
    replace_bytes(folder / MANIFEST, (manifest.model_dump_json(by_alias=True, indent=2) + "\n").encode())
    return manifest


def replace_bytes(path: Path, content: bytes) -> None:
    """Write a file so that a reader sees the old content or the new, never a part, even after a power cut."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        with beside.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
