"""Which files of a folder are images, and what their folders' names say."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from roost.errors import BadData
from roost.preprocess import SUFFIXES


@dataclass(frozen=True)
class File:
    """One image file as the folder lists it."""

    name: str
    """Path below the folder, with forward slashes."""
    size: int
    """In bytes; -1 where it cannot be asked."""
    mtime_ns: int


def find(path: Path) -> list[File]:
    """The image files below a folder, sorted by name.

    Hidden files and folders are left out. Linked folders are followed, but no folder is entered twice, so that a
    link to a parent does no harm.

    Raises:
        BadData: The path is missing, is no folder, cannot be listed, or has no image below it.
    """
    if not path.exists():
        raise BadData(f"There is no folder {path}. Check the path.", path=path)
    if not path.is_dir():
        raise BadData(f"{path} is a file. Give the folder that holds the images.", path=path)
    found = sorted(_walk(path), key=lambda file: file.name)
    if not found:
        raise BadData(f"{path} has no images. Roost reads {', '.join(SUFFIXES)} at any depth.", path=path)
    return found


def classes(names: list[str]) -> tuple[list[str], np.ndarray | None]:
    """Class names and each image's label, from the first level of folders.

    Args:
        names: Paths below the folder, with forward slashes.

    Returns:
        The sorted class names and labels of shape (n,), int64; no names and None unless every image lies in a
        subfolder and there are at least two.
    """
    first = [name.split("/", 1)[0] if "/" in name else "" for name in names]
    found, labels = np.unique(first, return_inverse=True)
    if len(found) < 2 or "" in first:
        return [], None
    return found.tolist(), labels.astype(np.int64)


def _walk(root: Path) -> list[File]:
    files, entered = [], set()
    # Links wait until the real folders are through: an image belongs to its real folder's class.
    folders, links = [root], []
    while folders or links:
        folder = folders.pop() if folders else links.pop(0)
        status = _status(folder)
        if (status.st_dev, status.st_ino) in entered:
            continue
        entered.add((status.st_dev, status.st_ino))
        for entry in _entries(folder):
            if _is_folder(entry):
                (links if entry.is_symlink() else folders).append(Path(entry.path))
            elif Path(entry.name).suffix.lower() in SUFFIXES:
                files.append(_file(Path(entry.path), root))
    return files


def _status(folder: Path) -> os.stat_result:
    try:
        return folder.stat()
    except OSError as error:
        raise BadData(f"{folder} cannot be entered ({error.strerror}). Check its permissions.", path=folder) from error


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, which is a file that cannot be read where it is called like an image
        return False


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)
    except OSError as error:
        raise BadData(f"{folder} cannot be listed ({error.strerror}). Check its permissions.", path=folder) from error


def _file(path: Path, root: Path) -> File:
    name = path.relative_to(root).as_posix()
    try:
        status = path.stat()
    except OSError:  # a link that leads nowhere is reported as unreadable, with the other files
        return File(name=name, size=-1, mtime_ns=0)
    return File(name=name, size=status.st_size, mtime_ns=status.st_mtime_ns)
