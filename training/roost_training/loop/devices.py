"""On what a run computes, and in which precision."""

import torch
from lightning_fabric import Fabric

from roost.errors import MissingDependency
from roost_training.loop.settings import TrainSettings

FABRIC_PRECISION = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}


def fabric(settings: TrainSettings) -> Fabric:
    """Lightning Fabric for a run's accelerator, processes and precision; not launched yet.

    Raises:
        MissingDependency: The accelerator that the settings name is not here.
    """
    accelerator = settings.accelerator if settings.accelerator != "auto" else _best()
    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not present[accelerator]:
        raise MissingDependency(
            f"PyTorch sees no {accelerator} device here. Take --accelerator auto, or install a PyTorch that has it.",
            accelerator=accelerator,
        )
    precision = settings.precision if settings.precision != "auto" else _precision(accelerator)
    devices = settings.devices if settings.devices != "auto" else {"cuda": "auto"}.get(accelerator, 1)
    return Fabric(accelerator=accelerator, devices=devices, precision=FABRIC_PRECISION[precision])  # pyright: ignore[reportArgumentType]


def _best() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _precision(accelerator: str) -> str:
    if accelerator == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if accelerator == "cpu":
        able = torch.cpu.get_capabilities()
        return "bf16" if able.get("amx_bf16") or able.get("avx512_bf16") else "fp32"
    return "fp32"
