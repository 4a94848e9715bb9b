"""Vectors that callers bring: checked, and scaled to unit length."""

import numpy as np

from roost.artifact import Manifest
from roost.errors import BadVector

UNIT = 1e-6
"""A vector whose length is as near to 1 as float32 can tell is kept as it is, bit by bit."""


def unit(vector: np.ndarray, manifest: Manifest) -> np.ndarray:
    """A caller's vector, checked and scaled to unit length; shape (dim,), float32.

    Raises:
        BadVector: It has another length, is zero, or holds a value that is not finite.
    """
    if vector.shape != (manifest.dim,):
        raise BadVector(
            f"The vector has {vector.size} values; embeddings of {manifest.reference} have {manifest.dim}.",
            length=vector.size,
            dim=manifest.dim,
        )
    if not np.isfinite(vector).all():
        raise BadVector("The vector holds a value that is not finite. Send numbers only.")
    wide = vector.astype(np.float64)  # float32 has no room for the length of its own largest values
    norm = np.linalg.norm(wide)
    if norm == 0:
        raise BadVector("The vector is all zeros, so it has no direction. Send an embedding.")
    return (wide if abs(norm - 1) < UNIT else wide / norm).astype(np.float32)
