"""TensorRT: a plan for the very GPU that it is built on, run by Triton's TensorRT backend.

https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/python-api-docs.html
"""

import importlib
import importlib.util
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import nn

from roost.errors import BadSettings, MissingDependency
from roost_export.formats import INPUT, OUTPUT, Embed, Shape, onnx

FILE = "model.plan"
BACKEND = "tensorrt"
PACKAGE = "tensorrt"


def check() -> None:
    """Return if TensorRT and a GPU are here.

    Raises:
        MissingDependency: One of them is not.
    """
    otherwise = "Export with --accelerator tensorrt to have Triton build the engine where it serves."
    if importlib.util.find_spec(PACKAGE) is None:
        raise MissingDependency(
            f"A TensorRT plan needs the Python package `{PACKAGE}`, which is not installed. {otherwise}",
            missing=PACKAGE,
        )
    if not torch.cuda.is_available():
        raise MissingDependency(f"A TensorRT plan needs an NVIDIA GPU, and none is here. {otherwise}", missing="gpu")


def write(embedder: nn.Module, path: Path, *, shape: Shape) -> None:
    """Export to ONNX, and build a plan from that.

    Raises:
        BadSettings: TensorRT does not take the encoder's graph.
    """
    with tempfile.TemporaryDirectory() as folder:
        graph = Path(folder, onnx.FILE)
        onnx.write(embedder, graph, shape=shape)
        path.write_bytes(build(importlib.import_module(PACKAGE), graph.read_bytes(), shape=shape))


def build(trt: ModuleType, graph: bytes, *, shape: Shape, capability: str | None = None) -> bytes:
    """Build an engine from an ONNX graph, in the graph's own precision.

    Args:
        trt: `tensorrt`, or `tensorrt_rtx`, whose interface is the same.
        graph: An ONNX file's bytes.
        shape: What the engine must take; it is tuned for full batches.
        capability: Build for this `trt.ComputeCapability`, such as "SM89"; by default for the GPU that is here.

    Raises:
        BadSettings: TensorRT does not take the graph.
    """
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(graph):
        why = "; ".join(str(parser.get_error(index)) for index in range(parser.num_errors))
        raise BadSettings(
            f"TensorRT does not take this encoder's graph: {why.rstrip('.')}. Export it as onnx.", why=why
        )
    profile = builder.create_optimization_profile()
    image = (shape.size, shape.size, 3)
    profile.set_shape(INPUT, (1, *image), (shape.max_batch, *image), (shape.max_batch, *image))
    config: Any = builder.create_builder_config()
    config.add_optimization_profile(profile)
    config.clear_flag(trt.BuilderFlag.TF32)  # its 10-bit mantissa would cost the parity that export promises
    if capability is not None:
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(trt.ComputeCapability, capability), 0)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise BadSettings("TensorRT parsed this encoder's graph and could not build it. Export it as onnx.")
    return bytes(plan)


def load(path: Path) -> Embed:
    """Run the plan on the GPU that it was built on."""
    trt = importlib.import_module(PACKAGE)
    engine = trt.Runtime(trt.Logger(trt.Logger.ERROR)).deserialize_cuda_engine(path.read_bytes())
    context = engine.create_execution_context()

    def embed(pixels: np.ndarray) -> np.ndarray:
        images = torch.from_numpy(pixels).cuda()
        context.set_input_shape(INPUT, tuple(images.shape))
        embeddings = torch.empty(tuple(context.get_tensor_shape(OUTPUT)), device="cuda")
        context.set_tensor_address(INPUT, images.data_ptr())
        context.set_tensor_address(OUTPUT, embeddings.data_ptr())
        context.execute_async_v3(torch.cuda.current_stream().cuda_stream)
        return embeddings.cpu().numpy()

    return embed
