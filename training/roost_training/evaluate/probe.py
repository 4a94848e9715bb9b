"""A linear probe: how much a linear classifier gets out of frozen embeddings."""

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor


@dataclass(frozen=True)
class Probe:
    """What a linear probe reached."""

    accuracy: float
    """On the queries, 0 to 1."""
    bank_accuracy: float
    """On what it was fitted on; far above `accuracy`, the probe overfits."""
    iterations: int
    converged: bool
    """Whether the optimiser stopped by itself. Otherwise the accuracy is that of an unfinished fit."""


def linear_probe(
    bank: Tensor | np.ndarray,
    bank_labels: Tensor | np.ndarray,
    queries: Tensor | np.ndarray,
    query_labels: Tensor | np.ndarray,
    *,
    l2: float = 1e-3,
    max_iterations: int = 1000,
) -> Probe:
    """Fit a multinomial logistic regression on frozen embeddings, and score it on others.

    L-BFGS on full batches, as in CLIP's linear probes (Radford and others, ICML 2021, appendix A.3,
    https://arxiv.org/abs/2103.00020), which is deterministic and has no learning rate to tune. A departure from
    them: dimensions are standardised by the bank, and `l2` is fixed, not swept.

    Args:
        bank: Embeddings to fit on, shape (n, dim).
        bank_labels: Their classes, integers, shape (n,), of at least two classes.
        queries: Embeddings to score on, shape (m, dim).
        query_labels: Their classes, shape (m,).
        l2: Weight of half the squared weights beside the mean cross-entropy; > 0.
        max_iterations: Of L-BFGS.

    Raises:
        ValueError: Shapes that do not fit, values that are not finite, or a single class.
    """
    features, labels = _array(bank), _array(bank_labels)
    if not l2 > 0:
        raise ValueError(f"l2 = {l2}; it must be positive")
    regression = LogisticRegression(C=1 / (l2 * len(features)), max_iter=max_iterations)
    probe = make_pipeline(StandardScaler(), regression)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the result says so
        probe.fit(features, labels)
    iterations = int(regression.n_iter_.max())
    return Probe(
        accuracy=float(probe.score(_array(queries), _array(query_labels))),
        bank_accuracy=float(probe.score(features, labels)),
        iterations=iterations,
        converged=iterations < max_iterations,
    )


def _array(values: Tensor | np.ndarray) -> np.ndarray:
    return torch.as_tensor(values).detach().cpu().numpy()
