"""Batch norm over the images of every process, on processors too: PyTorch's SyncBatchNorm is for GPUs only."""

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from roost_training.blocks import distributed


def synchronise(module: nn.Module) -> None:
    """Replace every batch norm below a module by one over all processes; weights and statistics are kept, and shared.

    Args:
        module: Not itself a batch norm.
    """
    for name, child in module.named_children():
        if isinstance(child, _BatchNorm):
            module.register_module(name, SyncedBatchNorm(child))
        else:
            synchronise(child)


class SyncedBatchNorm(_BatchNorm):
    """A batch norm whose statistics in training are of the rows of all processes (of one alone, its own).

    The processes' gradients are those of one process with all rows: what one process's rows do to another's
    statistics is part of them. Every process brings the same number of rows.

    Args:
        norm: Whose parameters, statistics and settings it takes over.
    """

    def __init__(self, norm: _BatchNorm) -> None:
        super().__init__(norm.num_features, norm.eps, norm.momentum, affine=False, track_running_stats=False)
        self.affine, self.track_running_stats, self.training = norm.affine, norm.track_running_stats, norm.training
        self.weight, self.bias = norm.weight, norm.bias
        for name, statistic in norm.named_buffers(recurse=False):
            self.register_buffer(name, statistic)

    def forward(self, input: Tensor) -> Tensor:
        """Normalise (rows, channels) or (rows, channels, height, width), by channel."""
        if not (self.training or self.running_mean is None):
            return super().forward(input)
        rows = input if input.dtype == torch.float64 else input.float()  # statistics of bf16 lose their digits
        dims = [dim for dim in range(rows.ndim) if dim != 1]
        var, mean = self._over_processes(*torch.var_mean(rows, dims, correction=0))
        if self.training and self.running_mean is not None:
            self._remember(mean.detach(), var.detach(), count=rows.numel() // rows.shape[1] * distributed.world())
        scale = (var + self.eps).rsqrt()
        if self.weight is not None:
            scale = scale * self.weight
        shape = (1, -1, *[1] * (rows.ndim - 2))
        normalised = (rows - mean.view(shape)) * scale.view(shape)
        return (normalised if self.bias is None else normalised + self.bias.view(shape)).to(input.dtype)

    def _over_processes(self, var: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
        variances, means = distributed.gather(torch.cat([var, mean])[None]).chunk(2, dim=1)
        mean = means.mean(0)
        return variances.mean(0) + (means - mean).square().mean(0), mean

    @torch.no_grad()
    def _remember(self, mean: Tensor, var: Tensor, *, count: int) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        share = 1 / self.num_batches_tracked.item() if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
        self.running_var.lerp_(var.to(self.running_var.dtype) * count / max(count - 1, 1), share)

    def _check_input_dim(self, input: Tensor) -> None:
        if input.ndim < 2:
            raise ValueError(f"an input of shape {tuple(input.shape)}; (rows, channels, ...) is needed")
