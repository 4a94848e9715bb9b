"""What the user of any peer writes: JPEG bytes to pixels with Pillow, and pixels to an embedding with ONNX Runtime.

The pixels are those of `roost.preprocess.decode`, so that every contender does the same work and gives the same answer.
"""

import io
import os
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps


class Encoder:
    """One session, which several threads may use at a time.

    Args:
        path: model.onnx, from uint8 pixels (batch, size, size, 3) to unit-length embeddings (batch, dim).
        size: Side of the square that the model sees, in pixels.
        resize: Side that the image's central square is scaled to first.
        threads: Threads that share the work of one image. Where several images are worked on at a time, one thread
            for each is fastest.
    """

    def __init__(self, path: Path, *, size: int, resize: int, threads: int = 1) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.name = self.session.get_inputs()[0].name
        self.size, self.resize = size, resize

    def embed(self, jpeg: bytes) -> np.ndarray:
        """The embedding (dim,) of an image file."""
        return self.run(self.pixels(Image.open(io.BytesIO(jpeg)))[np.newaxis])[0]

    def run(self, pixels: np.ndarray) -> np.ndarray:
        """Embeddings (n, dim) of uint8 pixels (n, size, size, 3)."""
        return np.asarray(self.session.run(["embedding"], {self.name: pixels})[0])

    def pixels(self, image: Image.Image) -> np.ndarray:
        """uint8 (size, size, 3): the central square of an image that was opened and not yet decoded."""
        image.draft("RGB", (2 * self.resize, 2 * self.resize))
        ImageOps.exif_transpose(image, in_place=True)
        image = image.convert("RGB")
        side = min(image.size)
        left, top = (image.width - side) / 2, (image.height - side) / 2
        box = (left, top, left + side, top + side)
        image = image.resize((self.resize, self.resize), Image.Resampling.BILINEAR, box=box)
        start = (self.resize - self.size) // 2
        return np.ascontiguousarray(np.asarray(image)[start : start + self.size, start : start + self.size])


def from_environment(*, threads: int = 1) -> Encoder:
    """The encoder that the benchmark asks for."""
    size, resize = int(os.environ["PEER_SIZE"]), int(os.environ["PEER_RESIZE"])
    return Encoder(Path(os.environ["PEER_MODEL"]), size=size, resize=resize, threads=threads)


def port() -> int:
    """Where the benchmark will call."""
    return int(os.environ["PEER_PORT"])


def cores() -> int:
    """How many images can be worked on at a time."""
    return len(os.sched_getaffinity(0))
