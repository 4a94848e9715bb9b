"""Runs model.onnx in Triton's Python backend: `roost export --backend python` copies this file to `model.py`.

Triton imports it in a process of its own, which has numpy and onnxruntime and nothing of Roost.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils  # pyright: ignore[reportMissingImports] - Triton brings it


class TritonPythonModel:
    """One instance: a single-threaded session; Triton runs as many as config.pbtxt counts."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the version's model.onnx."""
        config = json.loads(args["model_config"])
        self.input, self.output = config["input"][0]["name"], config["output"][0]["name"]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        path = Path(args["model_repository"], args["model_version"], "model.onnx")
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def execute(self, requests: list[Any]) -> list[Any]:
        """Embed what the dynamic batcher put together, in one run."""
        images = [pb_utils.get_input_tensor_by_name(request, self.input).as_numpy() for request in requests]
        embeddings = np.asarray(self.session.run([self.output], {self.input: np.concatenate(images)})[0])
        ends = np.cumsum([len(batch) for batch in images])[:-1]
        return [
            pb_utils.InferenceResponse([pb_utils.Tensor(self.output, np.ascontiguousarray(part))])
            for part in np.split(embeddings, ends)
        ]
