"""The versions of an exported model, and how clusters come to one: `<name>/<version>/`, never edited."""

import os
import shutil
from pathlib import Path

from roost import artifact, clusters
from roost.artifact import Manifest
from roost.clusters import Clusters
from roost.errors import BadArtifact


def latest(model_folder: Path) -> tuple[Path, Manifest]:
    """The highest version of a model, every file hashed.

    Raises:
        BadArtifact: There is no version, or the highest is incomplete, altered, or another model's.
    """
    versions = _versions(model_folder)
    if not versions:
        raise BadArtifact(
            f"{model_folder} holds no model version. Give a model's folder in a repository, such as "
            "model_repository/digits, that `roost export` has written.",
            path=model_folder,
        )
    folder = model_folder / str(versions[-1])
    manifest = artifact.read(folder)
    if (manifest.name, manifest.version) != (model_folder.resolve().name, versions[-1]):
        raise BadArtifact(f"{folder} holds {manifest.reference}. Export it again instead of moving it.", path=folder)
    return folder, manifest


def add_clusters(folder: Path, manifest: Manifest, fitted: Clusters, *, quality: dict[str, float]) -> Manifest:
    """Keep clusters with a model version, or in a new version where it has some already.

    The clusters are written before the manifest that names them, so a reader sees a version without them or with
    them. A new version grows in a hidden folder and is renamed into place.

    Args:
        folder: The version.
        manifest: Its manifest.
        fitted: Its clusters.
        quality: Figures to add to the manifest's.

    Returns:
        The manifest of the version that has the clusters.

    Raises:
        BadArtifact: Another process took the new version's number meanwhile.
    """
    manifest = manifest.model_copy(update={"quality": manifest.quality | quality})
    if clusters.FILE not in manifest.files:
        return _write(folder, manifest, fitted)
    version = _versions(folder.parent)[-1] + 1
    draft = folder.parent / f".{version}.{os.getpid()}"
    try:
        draft.mkdir()
        for name in manifest.files:
            shutil.copyfile(folder / name, draft / name)
        manifest = _write(draft, manifest.model_copy(update={"version": version}), fitted)
        _rename(draft, folder.parent / str(version))
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    return manifest


def _rename(draft: Path, final: Path) -> None:
    try:
        draft.rename(final)
    except OSError as error:
        raise BadArtifact(f"{final} appeared while the clusters were written. Cluster again.", path=final) from error


def _write(folder: Path, manifest: Manifest, fitted: Clusters) -> Manifest:
    clusters.save(folder / clusters.FILE, fitted)
    return artifact.write(folder, manifest, files={*manifest.files, clusters.FILE})


def _versions(model_folder: Path) -> list[int]:
    """In order; other folders, such as another process' hidden draft, are none."""
    return sorted(int(path.name) for path in model_folder.glob("[0-9]*") if path.name.isdecimal())
