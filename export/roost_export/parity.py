"""Does the exported file repeat what training computed? Golden images go through it, and the answer is a table."""

from dataclasses import dataclass

import numpy as np

from roost.artifact import LEAST_COSINE, TOLERANCE
from roost.errors import ParityFailed
from roost_export.formats import Embed


@dataclass(frozen=True)
class Row:
    """One golden image's two embeddings, compared."""

    image: int
    max_abs_difference: float
    cosine: float


@dataclass(frozen=True)
class Parity:
    """Every golden image, compared."""

    rows: list[Row]

    @property
    def max_abs_difference(self) -> float:
        """Of all images and components."""
        return max(row.max_abs_difference for row in self.rows)

    @property
    def min_cosine(self) -> float:
        """Of all images."""
        return min(row.cosine for row in self.rows)


def check(embed: Embed, *, pixels: np.ndarray, expected: np.ndarray, max_batch: int) -> Parity:
    """Compare an exported model with training, on images one by one and in batches.

    Args:
        embed: The exported model.
        pixels: uint8 (n, size, size, 3), n >= 1.
        expected: What training gave, float32 (n, dim), of unit length.
        max_batch: The most images in one call.

    Returns:
        A row an image, each the worse of its two calls.

    Raises:
        ParityFailed: An embedding differs by more than `artifact.TOLERANCE`, is not finite, or has another length.
    """
    rows = compare(embed, pixels=pixels, expected=expected, max_batch=max_batch).rows
    worst = max(rows, key=lambda row: row.max_abs_difference)
    if worst.max_abs_difference > TOLERANCE:
        raise ParityFailed(
            f"Golden image {worst.image} differs by {worst.max_abs_difference:.2g} after export; {TOLERANCE:g} is "
            "allowed. Nothing was written. Export in another format, or train again.",
            image=worst.image,
            difference=worst.max_abs_difference,
        )
    return Parity(rows)


def compare(embed: Embed, *, pixels: np.ndarray, expected: np.ndarray, max_batch: int) -> Parity:
    """What `check` compares, without a verdict on values; another shape is still a `ParityFailed`."""
    alone = measure(_run(embed, pixels, 1), expected)
    together = measure(_run(embed, pixels, max_batch), expected)
    pairs = zip(alone, together, strict=True)
    return Parity([max(pair, key=lambda row: row.max_abs_difference) for pair in pairs])


def check_cosine(compared: Parity) -> None:
    """Hold a model of less than fp32 to what the gateway will ask of it.

    Raises:
        ParityFailed: The mean cosine is under `artifact.LEAST_COSINE`.
    """
    mean = sum(row.cosine for row in compared.rows) / len(compared.rows)
    if not mean >= LEAST_COSINE:
        raise ParityFailed(
            f"The golden images have a mean cosine of {mean:.3g} to what training gave; {LEAST_COSINE:g} is the least. "
            "Nothing was written. Export in fp32; for int8, give --images like those of training.",
            cosine=mean,
        )


def measure(found: np.ndarray, expected: np.ndarray) -> list[Row]:
    """Compare embeddings row by row; a value that is not finite differs by infinity.

    Raises:
        ParityFailed: They have different shapes.
    """
    if found.shape != expected.shape:
        raise ParityFailed(f"Embeddings of shape {found.shape} came out, not {expected.shape}. Export it again.")
    found, expected = found.astype(np.float64), expected.astype(np.float64)
    differences = np.nan_to_num(np.abs(found - expected), nan=np.inf).max(axis=1)
    lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
    cosines = np.einsum("nd,nd->n", found, expected) / np.maximum(lengths, np.finfo(np.float64).tiny)
    pairs = zip(differences, cosines, strict=True)
    return [Row(image, float(difference), float(cosine)) for image, (difference, cosine) in enumerate(pairs)]


def _run(embed: Embed, pixels: np.ndarray, batch: int) -> np.ndarray:
    starts = range(0, len(pixels), batch)
    return np.concatenate([embed(pixels[start : start + batch]) for start in starts])
