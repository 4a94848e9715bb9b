"""Vector quantisation: each vector becomes the nearest of a codebook, whose codes are means of what they stand for.

Van den Oord, Vinyals, Kavukcuoglu, NeurIPS 2017, https://arxiv.org/abs/1711.00937, section 3 and appendix A.1.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from roost_training.blocks import distributed

DEAD = 0.05
"""A code that stands for less than this share of the average code's vectors begins anew."""


class Quantised(NamedTuple):
    """Vectors after quantisation."""

    values: Tensor
    """The codes' vectors, (n, dim); their gradient passes to the vectors that they stand for."""
    codes: Tensor
    """Which of the codebook, int64 (n,)."""
    commitment: Tensor
    """The mean squared distance of the vectors from their codes, a scalar whose gradient moves the vectors alone."""


class Quantiser(nn.Module):
    """A codebook that follows what it quantises, equal in every process.

    A departure from the paper: codes that fall out of use restart at vectors of the batch, as in Jukebox (Dhariwal and
    others, 2020, https://arxiv.org/abs/2005.00341, appendix B.1), and so does every code at the first step.

    Args:
        codes: Entries of the codebook.
        dim: Length of a vector.
        decay: Of the moving averages.
    """

    codebook: Tensor
    counts: Tensor
    sums: Tensor

    def __init__(self, *, codes: int, dim: int, decay: float = 0.99) -> None:
        super().__init__()
        self.decay = decay
        self.register_buffer("codebook", torch.randn(codes, dim))
        self.register_buffer("counts", torch.zeros(codes))
        self.register_buffer("sums", torch.zeros(codes, dim))

    def forward(self, vectors: Tensor) -> Quantised:
        """Quantise; in training, then move the codebook.

        Args:
            vectors: Shape (n, dim), the same n in every process.
        """
        with torch.autocast(vectors.device.type, enabled=False):
            vectors = vectors.float()
            everyone = distributed.gather(vectors.detach()) if self.training else vectors
            if self.training:
                self._restart(everyone, own=len(vectors))
            codes = nearest(vectors.detach(), self.codebook)
            chosen = self.codebook[codes]
            if self.training:
                self._follow(everyone, distributed.gather(codes[:, None])[:, 0])
            return Quantised(
                values=vectors + (chosen - vectors).detach(),
                codes=codes,
                commitment=functional.mse_loss(vectors, chosen),
            )

    @torch.no_grad()
    def _restart(self, everyone: Tensor, *, own: int) -> None:
        # Each process draws for its own vectors, so that all know every draw and choose the same.
        order = distributed.gather(torch.rand(own, 1, device=everyone.device))[:, 0].argsort()
        fresh = everyone[order[torch.arange(len(self.codebook), device=order.device) % len(order)]]
        average = len(everyone) / len(self.codebook)
        dead = self.counts < DEAD * average
        self.codebook.copy_(torch.where(dead[:, None], fresh, self.codebook))
        self.sums.copy_(torch.where(dead[:, None], fresh * average, self.sums))
        self.counts.masked_fill_(dead, average)

    @torch.no_grad()
    def _follow(self, everyone: Tensor, codes: Tensor) -> None:
        chosen = functional.one_hot(codes, len(self.codebook)).to(everyone.dtype)
        self.counts.lerp_(chosen.sum(0), 1 - self.decay)
        self.sums.lerp_(chosen.T @ everyone, 1 - self.decay)
        self.codebook.copy_(self.sums / self.counts[:, None])


def nearest(vectors: Tensor, codebook: Tensor) -> Tensor:
    """The nearest code of each vector: int64 (n,) for (n, dim) among (codes, dim)."""
    return (codebook.square().sum(1) - 2 * vectors @ codebook.T).argmin(1)


def perplexity(codes: Tensor, *, entries: int) -> Tensor:
    """How many codes are in use: the exponential of the entropy of their shares.

    Args:
        codes: int64 of any shape.
        entries: Of the codebook.

    Returns:
        A scalar from 1, where one code stands for all, to `entries`, where all are used alike.
    """
    shares = torch.bincount(codes.flatten(), minlength=entries) / codes.numel()
    return torch.special.entr(shares).sum().exp()
