"""The model versions in a repository that `roost export` wrote: `<name>/<version>/manifest.json` and what it lists."""

import logging
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from roost import arrays, artifact, clusters
from roost.artifact import Manifest
from roost.errors import BadArtifact

log = logging.getLogger(__name__)

Stamp = tuple[tuple[str, int, int, int], ...]
"""Name, time, inode and size of each of a version's files; others once one was replaced."""
BEING_WRITTEN = re.compile(rf"\.({re.escape(artifact.MANIFEST)}|{re.escape(clusters.FILE)})\.\d+\.\d+")
"""What `roost cluster` replaces in a version, on its way there; see `artifact.replace_bytes`."""
BYTECODE = "__pycache__"  # Triton's Python backend leaves it beside model.py, and cannot be told not to


@dataclass(frozen=True)
class Model:
    """One model version on disk, every file hashed."""

    manifest: Manifest
    folder: Path
    clusters: clusters.Clusters | None
    stamp: Stamp
    """Of its files, when they were read."""


def stamps(repository: Path) -> dict[Path, Stamp]:
    """The folder of every model version that has a manifest, and its stamp; none where there is no repository.

    Raises:
        BadArtifact: The repository cannot be listed.
    """
    found = {}
    try:
        for model in sorted(_folders(repository)):
            for version in sorted(_folders(model)):
                if version.name[0].isdecimal() and (stamp := _stamp(version)):
                    found[version] = stamp
    except OSError as error:
        raise BadArtifact(f"{repository} cannot be listed ({error}).", path=repository) from error
    return found


def ordered(models: Iterable[Model]) -> list[Model]:
    """By name and then by version."""
    return sorted(models, key=lambda model: (model.manifest.name, model.manifest.version))


def scan(repository: Path) -> list[Model]:
    """Read and hash every model version, by name and then by version; bad ones are left out, and told in the log.

    Raises:
        BadArtifact: The repository holds no model, or none that is complete and unaltered.
    """
    folders = sorted(stamps(repository))
    if not folders:
        raise BadArtifact(f"{repository} holds no model. Run `roost export RUN --repository {repository}`.")
    good, bad = [], []
    for folder in folders:
        try:
            good.append(read(folder))
        except BadArtifact as error:
            bad.append(error)
    if not good:
        raise bad[0]
    for error in bad:
        log.error("a model version is not served: %s", error.message)
    return ordered(good)


def read(folder: Path) -> Model:
    """Read and hash one model version.

    Raises:
        BadArtifact: It is incomplete or altered, is a link, or lies under another name or version than its own.
    """
    for each in (folder, folder.parent):
        if each.is_symlink():
            raise BadArtifact(
                f"{each} is a link. Put the folder itself into the repository, which may be a link as a whole.",
                path=each,
            )
    stamp = _stamp(folder)  # of what is read next, or of something older
    manifest = artifact.read(folder)
    if (folder.parent.name, folder.name) != (manifest.name, str(manifest.version)):
        raise BadArtifact(f"{folder} holds {manifest.reference}. Export it again instead of moving it.", path=folder)
    _check_extra(folder, manifest)
    return Model(manifest, folder, _clusters(folder, manifest), stamp)


def _clusters(folder: Path, manifest: Manifest) -> clusters.Clusters | None:
    if clusters.FILE not in manifest.files:
        return None
    content = artifact.checked_bytes(folder, manifest, clusters.FILE)
    return clusters.load(folder / clusters.FILE, dim=manifest.dim, content=content)


def _check_extra(folder: Path, manifest: Manifest) -> None:
    """Refuse files that nobody vouches for; a model server might read them.

    Raises:
        BadArtifact: There is one.
    """
    known = {*manifest.files, artifact.MANIFEST, clusters.FILE}  # clusters are there before they are listed
    for path in sorted(folder.iterdir()):
        being_written = BEING_WRITTEN.fullmatch(path.name) and path.is_file() and not path.is_symlink()
        if path.name not in known and not being_written and not _is_bytecode(path, manifest):
            raise BadArtifact(
                f"{path} is not in the manifest of {manifest.reference}. Remove it, or export again.", path=path
            )


def _is_bytecode(path: Path, manifest: Manifest) -> bool:
    """Whether a path is a folder with bytecode of the manifest's Python files, and with nothing else."""
    sources = {Path(name).stem for name in manifest.files if name.endswith(".py")}
    if path.name != BYTECODE or path.is_symlink() or not path.is_dir() or not sources:
        return False
    # With a number behind it, it is being written.
    compiled = re.compile(rf"({'|'.join(map(re.escape, sources))})\.cpython-\d+\.pyc(\.\d+)?")
    return all(compiled.fullmatch(file.name) and file.is_file() and not file.is_symlink() for file in path.iterdir())


def check_golden(model: Model, embed: Callable[[np.ndarray], np.ndarray]) -> float:
    """Run a loaded model on its golden images.

    Args:
        model: The model version.
        embed: uint8 pixels (n, size, size, 3) to embeddings (n, dim).

    Returns:
        The largest absolute difference to the embeddings that training gave.

    Raises:
        BadArtifact: It is over the tolerance of its precision, or there are no golden images to compare with.
    """
    pixels, expected = _golden(model)
    found = embed(pixels)
    if found.shape != expected.shape:
        raise BadArtifact(
            f"{model.manifest.reference} gives embeddings of shape {found.shape}, not {expected.shape}. "
            "Export it again.",
            model=model.manifest.reference,
        )
    difference = float(np.abs(found - expected).max())
    if model.manifest.precision != "fp32":
        cosine = float(np.einsum("nd,nd->n", found, expected).mean())
        if not cosine >= artifact.LEAST_COSINE:
            raise BadArtifact(
                f"{model.manifest.reference} has a mean cosine of {cosine:.3g} to its golden embeddings; "
                f"{artifact.LEAST_COSINE:g} is the least for {model.manifest.precision}. Export it again.",
                model=model.manifest.reference,
                cosine=cosine,
            )
    elif not difference <= artifact.TOLERANCE:
        raise BadArtifact(
            f"{model.manifest.reference} differs by {difference:.2g} from its golden embeddings; "
            f"{artifact.TOLERANCE:g} is allowed. Export it again.",
            model=model.manifest.reference,
            difference=difference,
        )
    return difference


def _golden(model: Model) -> tuple[np.ndarray, np.ndarray]:
    """Golden pixels, uint8 (n, size, size, 3), and their embeddings, (n, dim)."""
    path = model.folder / artifact.GOLDEN
    content = artifact.checked_bytes(model.folder, model.manifest, artifact.GOLDEN)
    golden = arrays.read(path, remedy="Export it again.", content=content)
    nothing = np.empty(0)
    pixels, embeddings = golden.get("pixels", nothing), golden.get("embeddings", nothing)
    size, dim = model.manifest.input.size, model.manifest.dim
    whole = pixels.dtype == np.uint8 and pixels.shape[1:] == (size, size, 3) and len(pixels) > 0
    if not whole or embeddings.shape != (len(pixels), dim):
        raise BadArtifact(
            f"{path} holds pixels {pixels.shape} of {pixels.dtype} and embeddings {embeddings.shape}, not images of "
            f"{size} pixels and their {dim} values. Export it again.",
            path=path,
        )
    return pixels, embeddings


def _folders(folder: Path) -> list[Path]:
    try:
        return [path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")]
    except FileNotFoundError:  # it went away a moment ago
        return []


def _stamp(folder: Path) -> Stamp:
    """Of a version's files; empty where there is no manifest among them."""
    try:
        files = [(entry.name, entry.stat()) for entry in os.scandir(folder) if entry.name != BYTECODE]
    except FileNotFoundError:
        return ()
    if artifact.MANIFEST not in {name for name, _ in files}:
        return ()
    return tuple(sorted((name, status.st_mtime_ns, status.st_ino, status.st_size) for name, status in files))
