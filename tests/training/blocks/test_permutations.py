import itertools

import pytest
import torch

from roost_training.blocks.permutations import far_apart


def distances(permutations: torch.Tensor) -> torch.Tensor:
    """How many items lie elsewhere, for every pair."""
    n = len(permutations)
    pairs = (permutations[:, None] != permutations).sum(2)
    return pairs[~torch.eye(n, dtype=torch.bool)]


def naive(n: int, first: tuple[int, ...]) -> list[tuple[int, ...]]:
    """The paper's algorithm, a permutation at a time."""
    left = list(itertools.permutations(range(len(first))))
    chosen = [first]
    left.remove(first)

    def apart(a, b):
        return sum(x != y for x, y in zip(a, b, strict=True))

    while len(chosen) < n:
        best = max(left, key=lambda one: (sum(apart(one, c) for c in chosen), min(apart(one, c) for c in chosen)))
        chosen.append(best)
        left.remove(best)
    return chosen


def test_every_row_is_a_permutation_and_no_two_are_equal():
    found = far_apart(100, items=9)
    assert torch.equal(found.sort(1).values, torch.arange(9).expand(100, 9))
    assert len(set(map(tuple, found.tolist()))) == 100


def test_the_algorithm_equals_one_that_is_written_naively():
    found = [tuple(row) for row in far_apart(20, items=4).tolist()]
    assert found == naive(20, found[0])


def test_nine_permutations_of_nine_differ_in_every_place():
    assert distances(far_apart(9, items=9)).tolist() == [9] * 72


def test_a_hundred_differ_in_more_than_eight_places_in_the_mean_and_in_four_at_least():
    found = distances(far_apart(100, items=9))
    assert found.float().mean() > 8  # random ones: 8
    assert found.min() >= 4


def test_all_permutations_can_be_had():
    assert len({tuple(row) for row in far_apart(24, items=4).tolist()}) == 24


def test_the_set_is_the_same_at_every_call_and_may_be_changed():
    first = far_apart(10, items=5)
    expected = first.clone()
    first.zero_()
    assert torch.equal(far_apart(10, items=5), expected)


@pytest.mark.parametrize(("n", "items", "said"), [(25, 4, "there are 24"), (0, 4, "0 permutations"), (5, 10, "1 to 9")])
def test_sets_that_there_cannot_be_are_refused(n, items, said):
    with pytest.raises(ValueError, match=said):
        far_apart(n, items=items)
