"""The permutations that a jigsaw puzzle is shuffled by."""

import itertools
import math
from functools import cache

import numpy as np
import torch
from torch import Tensor

MOST_ITEMS = 9
"""10 have 3.6 million permutations."""


def far_apart(n: int, *, items: int) -> Tensor:
    """A set of permutations in which items rarely keep their places, the same at every call.

    The greedy algorithm of Noroozi and Favaro (ECCV 2016, https://arxiv.org/abs/1603.09246, algorithm 1): begin with
    a random permutation, and add the one whose Hamming distances to those chosen have the largest sum. Among equals
    the paper leaves the choice open; here it is the one whose nearest is farthest.

    Args:
        n: Permutations.
        items: Of a permutation, at most 9.

    Returns:
        int64 of shape (n, items), all different.

    Raises:
        ValueError: More permutations than there are, or too many items.
    """
    if not 0 < items <= MOST_ITEMS:
        raise ValueError(f"{items} items; 1 to {MOST_ITEMS} are possible")
    if not 0 < n <= math.factorial(items):
        raise ValueError(f"{n} permutations of {items} items; there are {math.factorial(items)}")
    return torch.from_numpy(_far_apart(n, items).astype(np.int64))


@cache
def _far_apart(n: int, items: int) -> np.ndarray:
    # One row a place, so that comparing a place over all permutations reads memory in order.
    every = np.array(list(itertools.permutations(range(items))), dtype=np.uint8).T.copy()
    total = np.zeros(every.shape[1], np.int32)
    nearest = np.full(every.shape[1], items + 1, np.uint8)
    chosen = [int(np.random.default_rng(0).integers(every.shape[1]))]
    while len(chosen) < n:
        distance = (every != every[:, chosen[-1:]]).sum(0, dtype=np.uint8)
        total += distance
        np.minimum(nearest, distance, out=nearest)
        score = total * (items + 1) + nearest
        score[nearest == 0] = -1  # chosen already
        chosen.append(int(score.argmax()))
    return every[:, chosen].T
