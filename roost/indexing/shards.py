"""A shard: the embeddings of some files, or why they have none, in one Parquet file."""

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from roost import errors
from roost.errors import BadArtifact, BadSettings, DiskFull, RoostError
from roost.folder import File

KNOWN = ["path", "size", "modified", "id", "reason", "message"]
"""The columns that tell which files a shard holds, without the vectors."""


@dataclass(frozen=True)
class Row:
    """One file."""

    file: File
    id: str = ""
    """Made from the file's content; empty where it failed."""
    vector: np.ndarray | None = None
    """Shape (dim,), float32, unit length; None where it failed, and where vectors were not read."""
    error: RoostError | None = None


def write(path: Path, rows: Sequence[Row], *, dim: int, model: str) -> None:
    """Write a shard so that it is there as a whole or not at all, even after a power cut.

    The columns are `path`, `size` (bytes), `modified` (nanoseconds since 1970), `id`, `vector` (`dim` float32), and
    for files that failed `reason` and `message` in place of the last two.

    Raises:
        DiskFull: There is no space.
        BadSettings: It cannot be written for another reason.
    """
    vectors = [None if row.vector is None else row.vector.astype(np.float32) for row in rows]
    table = pa.table(
        {
            "path": pa.array([row.file.name for row in rows], pa.string()),
            "size": pa.array([row.file.size for row in rows], pa.int64()),
            "modified": pa.array([row.file.mtime_ns for row in rows], pa.int64()),
            "id": pa.array([row.id or None for row in rows], pa.string()),
            "vector": pa.array(vectors, pa.list_(pa.float32(), dim)),
            "reason": pa.array([row.error and row.error.reason for row in rows], pa.string()),
            "message": pa.array([row.error and row.error.message for row in rows], pa.string()),
        }
    ).replace_schema_metadata({"model": model})
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    with writing(path):
        try:
            with beside.open("wb") as stream:
                pq.write_table(table, stream, compression="zstd", write_page_checksum=True)
                stream.flush()
                os.fsync(stream.fileno())
            beside.replace(path)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Say in Roost's words that there is no space for a file, or that it cannot be written.

    Raises:
        DiskFull: There is no space.
        BadSettings: It cannot be written for another reason.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(f"There is no space for {path}. Free some and run the command again.", path=path) from error
        raise BadSettings(
            f"{path} cannot be written ({error.strerror}). Name another folder with --ledger.", path=path
        ) from error


def read(path: Path, *, with_vectors: bool = True) -> list[Row]:
    """Read a shard.

    Raises:
        BadArtifact: It is damaged.
    """
    try:
        columns = None if with_vectors else KNOWN
        table = pq.ParquetFile(path, page_checksum_verification=True).read(columns)
        vectors = _vectors(table.column("vector")) if with_vectors else [None] * len(table)
        known = (table.column(name).to_pylist() for name in KNOWN)
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise BadArtifact(
            f"{path} cannot be read ({error}). Delete it, and its files will be embedded again.", path=path
        ) from error
    return [
        Row(File(name, size, modified), key or "", None if reason else vector, reason and _error(reason, message))
        for name, size, modified, key, reason, message, vector in zip(*known, vectors, strict=True)
    ]


def _vectors(column: pa.ChunkedArray) -> list[np.ndarray | None]:
    dim = column.type.list_size
    return [
        np.asarray(each.values, np.float32) if each.is_valid and len(each.values) == dim else None for each in column
    ]


def _error(reason: str, message: str) -> RoostError:
    return errors.by_reason().get(reason, errors.Unexpected)(message)
