"""On what a run computes, in how many processes, and in which precision."""

import logging

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision, Precision
from lightning_fabric.strategies.ddp import DDPStrategy
from lightning_fabric.strategies.strategy import Strategy

from roost.errors import BadSettings, MissingDependency
from roost_training import methods
from roost_training.loop import rendezvous
from roost_training.loop.processes import Place
from roost_training.loop.settings import TrainSettings


def fabric(settings: TrainSettings) -> Fabric:
    """Lightning Fabric for a run's accelerator, processes and precision, with its processes started.

    Where `torchrun` started this process, it decides how many there are.

    Raises:
        MissingDependency: The accelerator that the settings name is not here, or not as often as they say.
        BadSettings: They name another number of processes than torchrun, or several on an accelerator for one.
    """
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # every process would greet
    accelerator = settings.accelerator if settings.accelerator != "auto" else _best()
    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not present[accelerator]:
        raise MissingDependency(
            f"PyTorch sees no {accelerator} device here. Take --accelerator auto, or install a PyTorch that has it.",
            accelerator=accelerator,
        )
    place = Place.found()
    here = _processes(settings, accelerator, place)
    machines = 1 if place is None else place.machines
    precision = settings.precision if settings.precision != "auto" else _precision(accelerator)
    made = Fabric(
        accelerator=accelerator,
        devices=here,
        num_nodes=machines,
        strategy=_strategy(settings, here * machines),
        plugins=_autocast(precision, accelerator),
    )
    if place is not None and here * machines > 1:
        rendezvous.meet(accelerator)
    made.launch()
    return made


def _processes(settings: TrainSettings, accelerator: str, place: Place | None) -> int:
    """How many processes this machine has."""
    if place is not None and settings.devices not in ("auto", place.local):
        raise BadSettings(
            f"devices is {settings.devices}, and torchrun started {place.local} processes here. "
            "Leave devices out, or start as many.",
            devices=settings.devices,
        )
    most = {"cpu": None, "cuda": torch.cuda.device_count(), "mps": 1}[accelerator]
    asked = place.local if place else settings.devices
    if asked == "auto":
        return most or 1
    if most is not None and asked > most:
        raise MissingDependency(
            f"{asked} processes want a {accelerator} device each, and there are {most} here. Start {most}, "
            "or take --set accelerator=cpu.",
            processes=asked,
            devices=most,
        )
    return asked


def _strategy(settings: TrainSettings, processes: int) -> Strategy | str:
    if processes == 1:
        return "auto"
    # Buffers are kept equal by who writes them: statistics by synchronised norms, memories by gathered rows.
    return DDPStrategy(
        timeout=rendezvous.PATIENCE,
        forward_sync_buffers=False,
        find_unused_parameters=methods.load(settings.method).Method.idle_parameters,
    )


def _autocast(precision: str, accelerator: str) -> Precision:
    """Automatic casts of the forward pass; fp16 with a gradient scaler, which Fabric by itself refuses a CPU."""
    if precision == "fp32":
        return Precision()
    return MixedPrecision("bf16-mixed" if precision == "bf16" else "16-mixed", device=accelerator)


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
