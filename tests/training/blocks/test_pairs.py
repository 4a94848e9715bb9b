import math

import pytest
import torch

from roost_training.blocks import pairs

PLACES = torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 1.0]])


def rows(n: int, dim: int = 5) -> torch.Tensor:
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(n))


def test_distances_are_euclid_s():
    expected = torch.tensor([[0.0, 5.0, 1.0], [5.0, 0.0, math.sqrt(18)], [1.0, math.sqrt(18), 0.0]])
    assert torch.allclose(pairs.distances(PLACES, PLACES), expected, rtol=1e-6)


def test_rows_that_are_equal_get_no_gradient_from_their_distance():
    z = torch.ones(4, 3, requires_grad=True)
    pairs.distances(z, z).sum().backward()
    assert torch.equal(z.grad, torch.zeros(4, 3))


def test_distances_keep_their_digits_under_autocast():
    z = rows(40) + 100
    with torch.autocast("cpu", torch.bfloat16):
        found = pairs.distances(z, z)
    naive = (z[:, None].double() - z[None].double()).square().sum(2).sqrt()
    assert torch.allclose(found.double(), naive, atol=1e-5)


def test_rows_are_alike_where_their_identities_are_and_they_are_two():
    assert pairs.alike(torch.tensor([7, 7, 8])).tolist() == [[False, True, False], [True, False, False], [False] * 3]


def test_rows_are_apart_but_from_themselves():
    assert pairs.apart(2, torch.device("cpu")).tolist() == [[False, True], [True, False]]


def test_instances_are_numbered_from_zero_in_the_first_process():
    assert pairs.instances(3, torch.device("cpu")).tolist() == [0, 1, 2]


def test_a_similar_pair_costs_half_its_squared_distance():
    distance, yes, no = torch.tensor([[3.0]]), torch.tensor([[True]]), torch.tensor([[False]])
    assert pairs.contrastive(distance, similar=yes, dissimilar=no, margin=1.0).item() == 4.5


def test_similar_pairs_weigh_what_they_are_told_to():
    distance, both = torch.tensor([[3.0, 1.0]]), torch.tensor([[True, False]])
    assert pairs.contrastive(distance, similar=both, dissimilar=~both, margin=2.0, pull=4.0).item() == 4 * 4.5 + 0.5


def test_a_dissimilar_pair_costs_half_the_square_of_what_it_lacks_to_the_margin():
    distance, yes, no = torch.tensor([[0.5]]), torch.tensor([[True]]), torch.tensor([[False]])
    assert pairs.contrastive(distance, similar=no, dissimilar=yes, margin=2.0).item() == 1.125


def test_dissimilar_pairs_beyond_the_margin_neither_cost_nor_dilute():
    distance, no = torch.tensor([[0.5, 9.0, 9.0]]), torch.zeros(1, 3, dtype=torch.bool)
    assert pairs.contrastive(distance, similar=no, dissimilar=~no, margin=1.0).item() == 0.125


def test_the_contrastive_loss_equals_its_equation_written_out():
    z, names, margin = rows(12), torch.arange(12) % 3, 2.5
    pull, push = [], []
    for i in range(12):
        for j in range(12):
            distance = math.dist(z[i].tolist(), z[j].tolist())
            if i != j and names[i] == names[j]:
                pull.append(distance**2 / 2)
            elif i != j and distance < margin:
                push.append((margin - distance) ** 2 / 2)
    similar = pairs.alike(names)
    loss = pairs.contrastive(
        pairs.distances(z, z), similar=similar, dissimilar=~similar & pairs.apart(12, z.device), margin=margin
    )
    assert loss.item() == pytest.approx(sum(pull) / len(pull) + sum(push) / len(push), rel=1e-5)


def test_collapsed_rows_cost_half_the_squared_margin():
    similar = pairs.alike(torch.arange(6) % 3)
    loss = pairs.contrastive(torch.zeros(6, 6), similar=similar, dissimilar=~similar, margin=3.0)
    assert loss.item() == 4.5


def test_no_pairs_cost_nothing():
    none = torch.zeros(2, 2, dtype=torch.bool)
    assert pairs.contrastive(torch.ones(2, 2), similar=none, dissimilar=none, margin=1.0).item() == 0


def test_a_margin_of_zero_is_refused():
    none = torch.zeros(2, 2, dtype=torch.bool)
    with pytest.raises(ValueError, match="must be positive"):
        pairs.contrastive(torch.ones(2, 2), similar=none, dissimilar=none, margin=0.0)
