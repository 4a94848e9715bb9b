"""Arrays in a `.npz` file that somebody may have tampered with: read without pickle, or refused."""

import io
import zipfile
from pathlib import Path

import numpy as np
from numpy.lib.npyio import NpzFile

from roost.errors import BadArtifact


def read(path: Path, *, remedy: str, content: bytes | None = None) -> dict[str, np.ndarray]:
    """The file's arrays, by name; a number is an array without axes.

    Args:
        path: What `numpy.savez` wrote.
        remedy: What to do about a file that cannot be read, as a sentence.
        content: Its bytes, where they were read already.

    Raises:
        BadArtifact: It cannot be read, holds Python objects, or is compressed, so that it could outgrow its size.
    """
    try:
        with (
            path.open("rb") if content is None else io.BytesIO(content) as stream,
            NpzFile(stream, allow_pickle=False) as saved,
        ):
            entries = saved.zip.infolist() if saved.zip else []
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
                raise ValueError("it is compressed")
            return {name: np.asarray(saved[name])[()] for name in saved.files}
    except Exception as error:  # for bytes that nobody wrote, zipfile and numpy raise whatever comes to their mind
        raise BadArtifact(f"{path} cannot be read ({error}). {remedy}", path=path) from error
