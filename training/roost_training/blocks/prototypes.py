"""Prototypes: learnt directions that stand for clusters."""

import torch
from torch import Tensor, nn
from torch.nn import functional


class Prototypes(nn.Module):
    """A linear layer without bias whose rows have length 1.

    SwAV normalises the rows after each step, DINO in the forward pass (weight normalisation whose length is fixed).
    Here both are done: for the first because rows that grow are moved ever less, for the second because a teacher's
    rows, which are means of unit rows, are shorter than 1.

    Args:
        dim: Length of a row.
        count: Rows.
        frozen: The share of training, 0 to 1, in which they stay as they were drawn; projections settle first.
    """

    frozen: Tensor

    def __init__(self, dim: int, count: int, *, frozen: float = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(functional.normalize(torch.randn(count, dim), dim=1))
        self.share = frozen
        self.register_buffer("frozen", torch.tensor(frozen > 0))

    def forward(self, z: Tensor) -> Tensor:
        """Cosines with each prototype, float32 of shape (batch, count), of unit-length rows (batch, dim)."""
        # A frozen weight has a gradient of zero, not none: DistributedDataParallel waits for one.
        weight = torch.where(self.frozen, self.weight.detach(), self.weight)
        with torch.autocast(z.device.type, enabled=False):
            return functional.linear(z.float(), functional.normalize(weight.float(), dim=1))

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        """Normalise the rows, and let them go when their time has come.

        Args:
            progress: The share of training that is done, 0 to 1.
        """
        self.weight.copy_(functional.normalize(self.weight, dim=1))
        self.frozen.fill_(progress < self.share)
