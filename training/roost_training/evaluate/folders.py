"""A folder that is there as a whole or not at all."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from roost.errors import BadSettings, DiskFull


def check(folder: Path, marker: str) -> None:
    """Refuse a folder that holds something else.

    Args:
        folder: That is to be written, or written anew.
        marker: The file by which an earlier one is known.

    Raises:
        BadSettings: It is a file, or has files and no marker.
    """
    if folder.exists() and not folder.is_dir():
        raise BadSettings(f"{folder} is a file. Give a folder.", out=folder)
    if folder.exists() and any(folder.iterdir()) and not (folder / marker).exists():
        raise BadSettings(f"{folder} has files of something else. Give a new folder with --out.", out=folder)


@contextmanager
def replacing(folder: Path, marker: str) -> Iterator[Path]:
    """A hidden folder beside the given one; it takes its place, and an earlier one goes, when all is written.

    Args:
        folder: Made where missing, with those above it.
        marker: As in `check`.

    Raises:
        BadSettings: As in `check`, or it cannot be written.
        DiskFull: No space is left.
    """
    check(folder, marker)
    draft, before = (folder.parent / f".{folder.name}.{os.getpid()}.{name}" for name in ("new", "old"))
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        draft.mkdir()
        yield draft
        if folder.exists():
            folder.rename(before)
        draft.rename(folder)
        shutil.rmtree(before, ignore_errors=True)
    except OSError as error:
        kind = DiskFull if error.errno in (errno.ENOSPC, errno.EDQUOT) else BadSettings
        raise kind(f"{folder} cannot be written: {error}. Free some space, or give another --out.", out=folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
