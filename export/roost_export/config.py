"""Triton's config.pbtxt for an exported model.

https://docs.nvidia.com/deeplearning/triton-inference-server/user-guide/docs/user_guide/model_configuration.html
"""

from dataclasses import dataclass

from roost.artifact import Manifest
from roost_export.formats import INPUT, OUTPUT

FILE = "config.pbtxt"
QUEUE_BATCHES = 8
QUEUE_DELAY_MICROSECONDS = 500
QUEUE_TIMEOUT_MICROSECONDS = 60_000_000


@dataclass(frozen=True)
class Serving:
    """How Triton runs a model."""

    backend: str
    """The Triton backend."""
    kind: str
    """Where its instances run: KIND_CPU, KIND_GPU, or KIND_AUTO for a GPU where there is one."""
    instances: int
    max_batch: int
    tensorrt: bool = False
    """Whether ONNX Runtime hands the graph to TensorRT."""


def render(manifest: Manifest, serving: Serving) -> str:
    """The text of a model's config.pbtxt; it serves all versions of the model."""
    size, batch = manifest.input.size, serving.max_batch
    warm = "\n".join(_warmup(size, count) for count in sorted({1, batch}))
    accelerator = _tensorrt(size, batch) if serving.tensorrt else ""
    return f"""\
# Written by `roost export`, and written anew with every version.
name: "{manifest.name}"
backend: "{serving.backend}"
max_batch_size: {batch}
input [ {{ name: "{INPUT}" data_type: TYPE_UINT8 dims: [ {size}, {size}, 3 ] }} ]
output [ {{ name: "{OUTPUT}" data_type: TYPE_FP32 dims: [ {manifest.dim} ] }} ]
version_policy {{ all {{}} }}
instance_group [ {{ count: {serving.instances} kind: {serving.kind} }} ]
dynamic_batching {{
  max_queue_delay_microseconds: {QUEUE_DELAY_MICROSECONDS}
  default_queue_policy {{
    # A request may ask for a shorter time, never for a longer one: its caller's deadline.
    timeout_action: REJECT
    default_timeout_microseconds: {QUEUE_TIMEOUT_MICROSECONDS}
    allow_timeout_override: true
    max_queue_size: {QUEUE_BATCHES * batch}
  }}
}}
{warm}
{accelerator}"""


def _warmup(size: int, batch: int) -> str:
    return f"""\
model_warmup [ {{
  name: "batch of {batch}"
  batch_size: {batch}
  inputs {{ key: "{INPUT}" value {{ data_type: TYPE_UINT8 dims: [ {size}, {size}, 3 ] random_data: true }} }}
}} ]"""


def _tensorrt(size: int, batch: int) -> str:
    image = f"{size}x{size}x3"
    options = {
        "precision_mode": "FP32",  # what parity was measured in
        "max_workspace_size_bytes": str(2**30),
        # Without profiles ONNX Runtime would build another engine for each new batch size, in the middle of service.
        "trt_profile_min_shapes": f"{INPUT}:1x{image}",
        "trt_profile_opt_shapes": f"{INPUT}:{batch}x{image}",
        "trt_profile_max_shapes": f"{INPUT}:{batch}x{image}",
    }
    lines = "\n".join(f'      parameters {{ key: "{key}" value: "{value}" }}' for key, value in options.items())
    return f"""\
optimization {{
  execution_accelerators {{
    gpu_execution_accelerator [ {{
      name: "tensorrt"
{lines}
    }} ]
  }}
}}
"""
