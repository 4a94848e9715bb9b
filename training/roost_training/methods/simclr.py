"""SimCLR: tell an image's two views from every other image in the batch.

Chen, Kornblith, Norouzi, Hinton, ICML 2020, https://arxiv.org/abs/2002.05709
"""

from collections.abc import Sequence

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional

from roost_training import methods
from roost_training.blocks import distributed
from roost_training.blocks.heads import mlp


class Config(methods.Config):
    """SimCLR's settings."""

    temperature: PositiveFloat = 0.2  # the paper: 0.1 at batches of 4096, 0.5 on CIFAR-10
    dim: PositiveInt = 128
    """Length of a projection, the vector that the loss compares."""


class Method(methods.Method):
    """Contrasts projections with the NT-Xent loss."""

    def __init__(self, config: Config, encoder: nn.Module, feature_dim: int) -> None:
        super().__init__(encoder)
        self.temperature = config.temperature
        self.projector = mlp(feature_dim, feature_dim, config.dim)

    def forward(self, views: Sequence[Tensor]) -> dict[str, Tensor]:
        """The loss over two views, each (batch, 3, size, size), that pass the encoder as one batch."""
        z = functional.normalize(self.projector(self.encoder(torch.cat(list(views)))).float(), dim=1)
        return {"loss": nt_xent(z, self.temperature)}


def nt_xent(z: Tensor, temperature: float) -> Tensor:
    """Normalised temperature-scaled cross-entropy (SimCLR, equation 1), mean over the 2N rows.

    Where several processes train together, the rows of all are contrasted, and the mean over processes of this
    loss is that of one process that has every row.

    Args:
        z: Unit-length projections, shape (2N, dim); row i pairs with row (i + N) mod 2N.
        temperature: Divides cosine similarities; > 0.

    Returns:
        A scalar >= 0. For N pairs of identical, mutually orthogonal rows it is log(1 + (2N - 2) e^(-1/temperature)).

    Raises:
        ValueError: An odd number of rows, fewer than four, or a temperature that is not positive.
    """
    rows = len(z)
    if rows < 4 or rows % 2:
        raise ValueError(f"{rows} rows; an even number of at least 4 is needed")
    if not temperature > 0:
        raise ValueError(f"a temperature of {temperature}; it must be positive")
    own = torch.arange(rows, device=z.device)
    first = distributed.rank() * rows
    with torch.autocast(z.device.type, enabled=False):  # bf16 has two digits: too few for a softmax over cosines
        similarity = z.float() @ distributed.gather(z.float()).T / temperature
    similarity = similarity.index_put((own, first + own), similarity.new_tensor(-torch.inf))
    return functional.cross_entropy(similarity, first + own.roll(rows // 2))
