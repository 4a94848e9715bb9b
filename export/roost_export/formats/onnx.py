"""ONNX: one file, run by Triton's ONNX Runtime backend, by its Python backend, or inside the gateway.

Written by PyTorch's exporter over `torch.export` (dynamo), https://docs.pytorch.org/docs/stable/onnx.html
"""

import warnings
from pathlib import Path
from typing import cast

import numpy as np
import onnx
import onnxruntime
import torch
from torch import nn

from roost import artifact
from roost.errors import BadSettings
from roost_export.formats import INPUT, OUTPUT, Embed, Shape

FILE = artifact.MODEL
BACKEND = "onnxruntime"
MAX_BYTES = 2**31 - 1  # protobuf's limit on one message, and so on a model in one file


def check() -> None:
    """ONNX can be written wherever training runs."""


def write(embedder: nn.Module, path: Path, *, shape: Shape) -> None:
    """Export to one ONNX file whose batch is dynamic, and check it.

    Raises:
        BadSettings: The weights do not fit into one file.
    """
    weights = sum(weight.nbytes for weight in embedder.state_dict().values())
    if weights > MAX_BYTES:
        raise BadSettings(
            f"The encoder's weights take {weights} bytes; one ONNX file holds {MAX_BYTES}.", bytes=weights
        )
    example = torch.zeros(2, shape.size, shape.size, 3, dtype=torch.uint8)  # a batch of 1 would be taken as constant
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter's own use of deprecated parts of torch
        program = torch.onnx.export(
            embedder,
            (example,),
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            input_names=[INPUT],
            output_names=[OUTPUT],
            opset_version=shape.opset,
            verbose=False,
        )
    cast(torch.onnx.ONNXProgram, program).save(path, external_data=False)
    onnx.checker.check_model(path, full_check=True)


def load(path: Path) -> Embed:
    """Run the file in ONNX Runtime on the CPU."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def embed(pixels: np.ndarray) -> np.ndarray:
        return np.asarray(session.run([OUTPUT], {INPUT: pixels})[0])

    return embed
