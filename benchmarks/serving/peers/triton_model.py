"""Triton's Python backend: an instance, which is a process, for each core, with one thread to an image.

The dynamic batcher hands an instance what waits, up to the model's largest batch; it decodes each image and infers
all of them in one run.
"""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils  # pyright: ignore[reportMissingImports] - Triton brings it
from encoder import Encoder
from PIL import Image


class TritonPythonModel:
    """JPEG files' bytes (batch, 1) to embeddings (batch, dim)."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the version's model.onnx."""
        given = json.loads(args["model_config"])["parameters"]
        size, resize = (int(given[key]["string_value"]) for key in ("size", "resize"))
        path = Path(args["model_repository"], args["model_version"], "model.onnx")
        self.encoder = Encoder(path, size=size, resize=resize)

    def execute(self, requests: list[Any]) -> list[Any]:
        """Embed what the dynamic batcher put together."""
        tensors = [pb_utils.get_input_tensor_by_name(request, "image").as_numpy() for request in requests]
        images = [Image.open(io.BytesIO(image)) for tensor in tensors for image in tensor[:, 0]]
        vectors = self.encoder.run(np.stack([self.encoder.pixels(image) for image in images]))
        parts = np.split(vectors, np.cumsum([len(tensor) for tensor in tensors])[:-1])
        return [
            pb_utils.InferenceResponse([pb_utils.Tensor("embedding", np.ascontiguousarray(part))]) for part in parts
        ]
