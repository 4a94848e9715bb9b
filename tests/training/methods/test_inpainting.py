import math

import pytest
import torch
from torch import nn

from roost.errors import BadSettings
from roost_training import encoders, methods
from roost_training.methods.inpainting import (
    Method,
    adversarial_loss,
    block_holes,
    central_hole,
    discriminator,
    hole_error,
)


def some_images(n: int = 4, size: int = 16) -> torch.Tensor:
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(0))


def build(**settings: object) -> Method:
    torch.manual_seed(0)
    encoder, dim = encoders.build("resnet10w32", image_size=16)
    return Method(methods.configure("inpainting", settings), encoder, dim)


def test_the_central_hole_is_a_quarter_of_the_picture():
    hole = central_hole(8, device=torch.device("cpu"))
    assert hole.sum() == 16
    assert hole[0, 0, 2:6, 2:6].all()


def test_blocks_lie_where_their_corners_are():
    holes = block_holes(torch.tensor([[[0, 0], [1, 1]], [[2, 1], [2, 1]]]), side=2, size=4)
    assert holes[:, 0].int().tolist() == [
        [[1, 1, 0, 0], [1, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]],
        [[0, 0, 0, 0], [0, 0, 0, 0], [0, 1, 1, 0], [0, 1, 1, 0]],
    ]


def test_the_error_counts_in_the_holes_alone():
    whole = torch.zeros(1, 3, 4, 4)
    drawn = torch.full_like(whole, 100.0)
    holes = block_holes(torch.tensor([[[0, 0]]]), side=2, size=4)
    drawn[..., :2, :2] = 3
    assert hole_error(drawn, whole, holes).item() == pytest.approx(9)


def test_each_picture_counts_alike_whatever_its_holes():
    whole, drawn = torch.zeros(2, 3, 4, 4), torch.ones(2, 3, 4, 4)
    drawn[1] = 2
    holes = block_holes(torch.tensor([[[0, 0], [0, 0]], [[0, 0], [2, 2]]]), side=2, size=4)
    assert hole_error(drawn, whole, holes).item() == pytest.approx((1 + 4) / 2)


def test_the_error_equals_a_loop_over_pictures():
    whole, drawn = some_images(), some_images().flip(0)
    corners = torch.randint(0, 12, (4, 3, 2), generator=torch.Generator().manual_seed(1))
    holes = block_holes(corners, side=5, size=16)
    naive = [(drawn[i] - whole[i])[:, holes[i, 0]].square().mean().item() for i in range(4)]
    assert hole_error(drawn, whole, holes).item() == pytest.approx(sum(naive) / 4, rel=1e-5)


def test_a_picture_without_a_hole_is_refused():
    images = some_images(n=1)
    with pytest.raises(ValueError, match="without a hole"):
        hole_error(images, images, torch.zeros(1, 1, 16, 16, dtype=torch.bool))


def test_the_encoder_never_sees_what_is_missing():
    method = build(holes="centre").eval()
    whole = some_images()
    other = torch.where(central_hole(16, device=whole.device), 5.0, whole)
    drawn, again = method.pictures([whole])["filled"], method.pictures([other])["filled"]
    assert torch.equal(drawn, again)


def test_what_surrounds_the_holes_is_kept():
    whole = some_images()
    filled = build(holes="centre").eval().pictures([whole])["filled"]
    around = ~central_hole(16, device=whole.device).expand_as(whole)
    assert torch.equal(filled[around], whole[around])


def test_a_judge_that_cannot_tell_costs_the_logarithm_of_two():
    judge = nn.Sequential(nn.Flatten(), nn.Linear(3 * 256, 1))
    nn.init.zeros_(judge[1].weight)
    nn.init.zeros_(judge[1].bias)
    loss = adversarial_loss(judge, some_images(), some_images(), weight=0.1)
    assert loss.item() == pytest.approx(math.log(2), rel=1e-6)


def test_whoever_draws_is_pushed_against_the_judge():
    judge = nn.Conv2d(3, 1, kernel_size=1, bias=False)
    nn.init.ones_(judge.weight)
    drawn = torch.zeros(1, 3, 1, 1, requires_grad=True)
    adversarial_loss(judge, torch.zeros(1, 3, 1, 1), drawn, weight=0.5).backward()
    # The judge's loss has the gradient sigmoid(0) / 2 = 1/4 in each channel; reversed and halved, -1/8.
    assert drawn.grad.flatten().tolist() == pytest.approx([-1 / 8] * 3)


def test_the_judge_learns_to_tell():
    judge = nn.Conv2d(3, 1, kernel_size=1, bias=False)
    nn.init.ones_(judge.weight)
    real, drawn = torch.ones(1, 3, 1, 1), torch.zeros(1, 3, 1, 1)
    adversarial_loss(judge, real, drawn, weight=0.5).backward()
    assert (judge.weight.grad < 0).all()  # a step down raises the logit of the real picture


def test_without_weight_there_is_no_discriminator():
    assert build().discriminator is None


def test_the_paper_s_weights_share_the_loss():
    torch.manual_seed(1)
    found = build(adversarial=0.25)([some_images()])
    expected = 0.75 * found["error"] + found["discriminator"]
    assert found["loss"].item() == pytest.approx(expected.item(), rel=1e-6)


def test_the_discriminator_judges_pictures_of_any_size():
    assert discriminator(8)(some_images(size=24)).shape == (4, 1, 3, 3)


@pytest.mark.parametrize("bad", [{"side": 1.0}, {"holes": "ring"}, {"blocks": 0}, {"adversarial": 2.0}])
def test_settings_that_make_no_sense_are_refused(bad):
    with pytest.raises(BadSettings, match=next(iter(bad))):
        methods.configure("inpainting", bad)
