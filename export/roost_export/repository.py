"""A Triton model repository: `<name>/config.pbtxt` and `<name>/<version>/`, where a version is never edited.

A version grows in a hidden folder beside its place, where neither Triton nor the gateway looks, and is renamed
into place when it is whole. The configuration that it shares with the older versions follows it, and never goes ahead:
where an export fails, those run as they did.
"""

import contextlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from roost import artifact
from roost.artifact import Manifest
from roost.errors import BadArtifact, BadSettings
from roost_export import config


@dataclass(frozen=True)
class Draft:
    """A version that is being written."""

    version: int
    folder: Path
    """Where it grows."""
    final: Path
    """Where it will be."""
    config: Path
    """Where the model's new config.pbtxt waits for it."""


def versions(repository: Path, name: str) -> list[int]:
    """The versions of a model, in order; none where there is no such model."""
    return sorted(int(path.name) for path in (repository / name).glob("[0-9]*") if path.name.isdecimal())


@contextlib.contextmanager
def new_version(repository: Path, name: str) -> Iterator[Draft]:
    """Make a model's next version: renamed into place when the block ends, gone without a trace when it raises.

    The block has to write the version's files and `Draft.config`.

    Raises:
        BadSettings: The repository cannot be written.
        BadArtifact: Another export took the version's number meanwhile.
    """
    model = repository / name
    made = [folder for folder in (model, repository) if not folder.exists()]
    version = max(versions(repository, name), default=0) + 1
    hidden = f".{version}.{os.getpid()}"
    draft = Draft(version, model / hidden, model / str(version), model / f"{hidden}.{config.FILE}")
    try:
        draft.folder.mkdir(parents=True)
    except OSError as error:
        raise BadSettings(f"{repository} cannot be written ({error}).", repository=repository) from error
    try:
        yield draft
        _rename(draft)
    except BaseException:
        shutil.rmtree(draft.folder, ignore_errors=True)
        draft.config.unlink(missing_ok=True)
        for folder in made:
            with contextlib.suppress(OSError):  # another export may have put something there
                folder.rmdir()
        raise


def check_siblings(repository: Path, manifest: Manifest, *, needs: str) -> None:
    """Check that a model's versions can share one config.pbtxt.

    Args:
        repository: Holds the versions.
        manifest: Of the version to come.
        needs: The file that Triton will run in every version.

    Raises:
        BadSettings: An older version has another image size, another embedding length, or lacks that file.
    """
    for version in versions(repository, manifest.name):
        older = artifact.read(repository / manifest.name / str(version), verify=())
        shapes = [(each.input.size, each.dim) for each in (older, manifest)]
        if shapes[0] == shapes[1] and needs in older.files:
            continue
        difference = (
            f"takes {shapes[0][0]} pixels and gives {shapes[0][1]} numbers, this one {shapes[1][0]} and {shapes[1][1]}"
            if shapes[0] != shapes[1]
            else f"has no {needs}"
        )
        raise BadSettings(
            f"{older.reference} {difference}, and all versions of a model share one configuration. "
            "Export under another --name.",
            model=older.reference,
        )


def _rename(draft: Draft) -> None:
    try:
        draft.folder.rename(draft.final)
    except OSError as error:
        raise BadArtifact(
            f"{draft.final} appeared while version {draft.version} was being written. Export it again.",
            path=draft.final,
        ) from error
    try:
        draft.config.replace(draft.final.with_name(config.FILE))
    except BaseException:
        shutil.rmtree(draft.final, ignore_errors=True)
        raise
