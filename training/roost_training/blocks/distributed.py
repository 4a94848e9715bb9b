"""What several processes that train one encoder tell each other."""

from typing import Any

import torch
from torch import Tensor, distributed
from torch.autograd.function import Function


def rank() -> int:
    """This process's place among those that train together; 0 where it is alone."""
    return distributed.get_rank() if _together() else 0


def world() -> int:
    """How many processes train together; 1 where there is this one only."""
    return distributed.get_world_size() if _together() else 1


def gather(rows: Tensor) -> Tensor:
    """The rows of every process, each rank's below the one before, with gradients for all.

    Args:
        rows: Shape (n, dim), the same n in every process.

    Returns:
        Shape (processes * n, dim). A process's own rows receive the gradient of every process's loss, summed;
        DistributedDataParallel divides by the number of processes.
    """
    return _Gather.apply(rows) if _together() else rows  # pyright: ignore[reportReturnType]


def broadcast(tensor: Tensor) -> Tensor:
    """The first process's tensor, in every process; all give one of the same shape and type."""
    if _together():
        tensor = tensor.contiguous().clone()
        distributed.broadcast(tensor, src=0)
    return tensor


def _together() -> bool:
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


class _Gather(Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows) for _ in range(distributed.get_world_size())]
        distributed.all_gather(parts, rows.contiguous())
        ctx.n = len(rows)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        gradient = gradients[0].contiguous()
        distributed.all_reduce(gradient)
        return gradient[rank() * ctx.n :][: ctx.n]
