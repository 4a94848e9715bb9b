import math

import pytest
import torch
from torch.nn import functional

from roost_training import encoders, methods
from roost_training.methods import siamese
from roost_training.methods.siamese import verification_loss


def build(**settings: object) -> siamese.Method:
    encoder, dim = encoders.build("resnet10w32", image_size=8)
    return siamese.Method(methods.configure("siamese", settings), encoder, dim)


def held_out(*views: torch.Tensor, labels: torch.Tensor | None = None) -> methods.HeldOut:
    return methods.HeldOut(views[0], labels, views=lambda: list(views))


def masks(*names: int) -> dict[str, torch.Tensor]:
    named = torch.tensor(names)
    return {"same": named[:, None] == named, "different": named[:, None] != named}


def test_undecided_logits_cost_the_logarithm_of_two():
    assert verification_loss(torch.zeros(4, 4), **masks(0, 0, 1, 1)).item() == pytest.approx(math.log(2))


def test_a_kind_with_more_pairs_weighs_no_more():
    logits = torch.tensor([[2.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 2.0]])
    expected = (math.log(1 + math.exp(-2)) + math.log(2)) / 2  # three same pairs, six different ones
    assert verification_loss(logits, **masks(0, 1, 2)).item() == pytest.approx(expected)


def test_the_loss_equals_the_cross_entropy_of_each_pair_written_out():
    logits = torch.randn(6, 6, generator=torch.Generator().manual_seed(0))
    kinds = {True: [], False: []}
    for i in range(6):
        for j in range(6):
            chance = 1 / (1 + math.exp(-logits[i, j].item()))
            kinds[i % 2 == j % 2].append(-math.log(chance if i % 2 == j % 2 else 1 - chance))
    expected = sum(sum(losses) / len(losses) for losses in kinds.values()) / 2
    assert verification_loss(logits, **masks(0, 1, 0, 1, 0, 1)).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("logit", [-3.0, 0.5, 4.0])
def test_collapsed_embeddings_cost_at_least_the_logarithm_of_two(logit):
    assert verification_loss(torch.full((4, 4), logit), **masks(0, 0, 1, 1)).item() > math.log(2)


def test_a_batch_of_one_class_costs_its_same_pairs_alone():
    assert verification_loss(torch.zeros(2, 2), **masks(0, 0)).item() == pytest.approx(math.log(2) / 2)


def test_views_that_are_nearer_than_other_images_are_verified_without_error():
    z = torch.eye(4)
    found = build().figures(z, held_out(z, functional.normalize(z + 0.1, dim=1)))
    assert found["equal_error_rate"] == found["false_accept_rate"] == found["false_reject_rate"] == 0
    cosine = 1.1 / math.sqrt(1.1**2 + 3 * 0.1**2)
    assert found["accept_threshold"] == pytest.approx(cosine, rel=1e-6)


def test_with_labels_it_is_the_plain_images_of_a_class_that_are_the_same():
    z = torch.eye(2).repeat_interleave(3, 0)
    found = build(similar="labels").figures(z, held_out(z, labels=torch.arange(2).repeat_interleave(3)))
    assert found["accept_threshold"] == pytest.approx(1.0)
    assert found["equal_error_rate"] == 0


def test_the_share_of_false_accepts_that_was_set_is_kept():
    generator = torch.Generator().manual_seed(0)
    z = functional.normalize(torch.randn(60, 3, generator=generator), dim=1)
    other = functional.normalize(z + 0.5 * torch.randn(60, 3, generator=generator), dim=1)
    found = build(false_accepts=0.01).figures(z, held_out(z, other))
    assert 0 < found["false_accept_rate"] <= 0.01
    assert found["false_reject_rate"] > found["equal_error_rate"] > found["false_accept_rate"]


def test_held_out_images_without_classes_calibrate_nothing_by_labels():
    assert build(similar="labels").figures(torch.eye(3), held_out(torch.eye(3))) == {}


def test_held_out_images_of_one_class_calibrate_nothing_by_labels():
    assert build(similar="labels").figures(torch.eye(3), held_out(torch.eye(3), labels=torch.zeros(3))) == {}


def test_a_share_of_false_accepts_of_one_is_refused():
    with pytest.raises(methods.BadSettings, match="'false_accepts' of the method siamese"):
        methods.configure("siamese", {"false_accepts": 1.0})
