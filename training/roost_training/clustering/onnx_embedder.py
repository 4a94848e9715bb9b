"""Embed images with an exported model, as the gateway will."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime

from roost.artifact import Input
from roost.errors import BadArtifact
from roost.preprocess import centre
from roost_training.images.data import Images

OUTPUT = "embedding"
BATCH = 64


def embed(
    path: Path,
    images: Images,
    *,
    fed: Input,
    dim: int,
    threads: int,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """The embeddings of all images, shape (n, dim), float32, of unit length.

    Args:
        path: An ONNX file from uint8 (batch, size, size, 3) to `embedding`, float32 (batch, dim).
        images: Of `fed.resize` pixels.
        fed: How the model is fed.
        dim: Length of its embeddings.
        threads: That ONNX Runtime uses.
        progress: Called with the images done and the images in all.

    Raises:
        BadArtifact: The model gives something else.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (source,) = session.get_inputs()
    embeddings = np.empty((len(images), dim), np.float32)
    for start in range(0, len(images), BATCH):
        indices = np.arange(start, min(start + BATCH, len(images)))
        (result,) = session.run([OUTPUT], {source.name: centre(images.gather(indices), fed.size)})
        result = np.asarray(result)
        if result.shape != (len(indices), dim) or not np.isfinite(result).all():
            raise BadArtifact(
                f"{path} gave embeddings of shape {result.shape}, or not finite; {(len(indices), dim)} was expected. "
                "Export it again.",
                path=path,
            )
        embeddings[indices] = result
        if progress:
            progress(int(indices[-1]) + 1, len(images))
    return embeddings
