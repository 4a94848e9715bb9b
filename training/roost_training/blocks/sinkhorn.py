"""The Sinkhorn-Knopp algorithm: soft assignments that use every prototype alike.

Cuturi, NeurIPS 2013, https://arxiv.org/abs/1306.0895, as SwAV has it (https://arxiv.org/abs/2006.09882, section 3.1)
"""

import torch
from torch import Tensor

from roost_training.blocks import distributed


@torch.no_grad()
def sinkhorn(scores: Tensor, *, epsilon: float, iterations: int, shared: Tensor | None = None) -> Tensor:
    """Assign rows to prototypes softly, so that all prototypes together get the same share of the rows.

    It is computed on logarithms: exponentials of scores leave the range of half precision, and with a small epsilon
    that of single precision too. Where several processes train together, shares are of the rows of all.

    Args:
        scores: Of any floating type, shape (n, prototypes).
        epsilon: Divides the scores; > 0. The larger, the softer.
        iterations: Times that prototypes, then rows, are scaled; > 0.
        shared: Scores of rows that every process has, such as a queue's, and that count once, shape (m, prototypes).

    Returns:
        float32 of shape (n, prototypes), without gradient; each row sums to 1, and the columns to equal parts of the
        rows as exactly as the iterations allow. Equal scores give 1 / prototypes everywhere.

    Raises:
        ValueError: An epsilon or iterations that are not positive.
    """
    if not epsilon > 0 or iterations < 1:
        raise ValueError(f"an epsilon of {epsilon} and {iterations} iterations; both must be positive")
    own = scores.float() / epsilon
    others = (scores[:0] if shared is None else shared).float() / epsilon
    for _ in range(iterations):
        # The gather makes the shares those of all processes' rows: one number a prototype comes from each process.
        columns = torch.cat([distributed.gather(_column_sums(own)), _column_sums(others)]).logsumexp(dim=0)
        own, others = (own - columns).log_softmax(dim=1), (others - columns).log_softmax(dim=1)
    return own.exp()


def _column_sums(logarithms: Tensor) -> Tensor:
    return logarithms.logsumexp(dim=0, keepdim=True)
