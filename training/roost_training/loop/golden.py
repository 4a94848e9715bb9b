"""Golden images: a few real ones with the embeddings that training gave them, for every later stage to repeat."""

import io
from pathlib import Path

import numpy as np

from roost import artifact
from roost_training.encoders import Embedder
from roost_training.evaluate.embedding import embed
from roost_training.images.data import Images

COUNT = 8


def write(folder: Path, embedder: Embedder, images: Images) -> None:
    """Write `golden.npz`: `pixels`, uint8 (8, size, size, 3), and `embeddings`, float32 (8, dim).

    Args:
        folder: The artifact.
        embedder: The trained encoder.
        images: At the encoder's size; the golden ones are spread evenly over them, fewer where there are fewer.
    """
    chosen = images.subset(np.linspace(0, len(images) - 1, min(COUNT, len(images))).round().astype(np.int64))
    stream = io.BytesIO()
    np.savez(stream, pixels=chosen.pixels, embeddings=embed(embedder, chosen).cpu().numpy())
    artifact.replace_bytes(folder / artifact.GOLDEN, stream.getvalue())
