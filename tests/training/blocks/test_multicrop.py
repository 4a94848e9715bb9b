import math

import pytest
import torch
from torch import nn

from roost_training.blocks import multicrop
from roost_training.views.recipe import Recipe

PEAKED = torch.tensor([[0.5, 0.5], [1.0, 0.0]])
"""Two views' targets over two prototypes, of one image."""


class Mean(nn.Module):
    """An encoder that counts its batches."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[int] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.batches.append(len(images))
        return images.mean((2, 3))


def test_the_local_crops_show_what_lies_below_the_split():
    views = multicrop.crops(Recipe(crop_scale=(0.1, 1.0)), 32, local=3, local_size=None, split=0.4)
    assert [view.size for view in views] == [32, 32, 16, 16, 16]
    assert [view.recipe.crop_scale for view in views] == [(0.4, 1.0)] * 2 + [(0.1, 0.4)] * 3


def test_a_split_beyond_the_recipe_s_crops_takes_the_nearer_end():
    views = multicrop.crops(Recipe(crop_scale=(0.5, 1.0)), 32, local=1, local_size=12, split=0.14)
    assert [view.size for view in views] == [32, 32, 12]
    assert [view.recipe.crop_scale for view in views] == [(0.5, 1.0), (0.5, 1.0), (0.5, 0.5)]


def test_views_of_one_size_pass_the_encoder_together_and_keep_their_order():
    views = [torch.full((2, 3, side, side), float(i)) for i, side in enumerate([8, 8, 4, 4, 4])]
    encoder = Mean()
    features = multicrop.encode(encoder, views)
    assert encoder.batches == [4, 6]
    assert features[:, 0].tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]


def test_running_statistics_are_those_of_the_first_size():
    encoder = nn.Sequential(nn.BatchNorm2d(3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    large, small = torch.full((2, 3, 8, 8), 2.0), torch.full((2, 3, 4, 4), 50.0)
    multicrop.encode(encoder, [large, small])
    assert encoder[0].running_mean.tolist() == pytest.approx([0.2] * 3)  # a tenth of the way
    assert encoder[0].momentum == 0.1


def test_a_target_is_predicted_from_every_other_view_and_not_from_its_own():
    logits = torch.tensor([[[0.0, 0.0]], [[0.0, 0.0]], [[math.log(3), 0.0]]])  # (3 views, 1 image, 2 prototypes)
    first = (math.log(2) + (math.log(4 / 3) + math.log(4)) / 2) / 2  # of views 2 and 3
    second = (math.log(2) + math.log(4 / 3)) / 2  # of views 1 and 3
    loss = multicrop.cross_entropy(PEAKED[:, None], logits)
    assert loss.item() == pytest.approx((first + second) / 2, rel=1e-6)


def test_the_digits_are_kept_under_autocast():
    logits = torch.randn(4, 8, 16, generator=torch.Generator().manual_seed(0))
    targets = logits[:2].softmax(2)
    with torch.autocast("cpu", torch.bfloat16):
        loss = multicrop.cross_entropy(targets, logits)
    assert loss.item() == pytest.approx(multicrop.cross_entropy(targets, logits).item(), rel=1e-6)


@pytest.mark.parametrize("shape", [(1, 1, 2), (2, 3, 2), (2, 1, 5)])
def test_a_single_view_and_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match="targets of shape"):
        multicrop.cross_entropy(PEAKED[: shape[0], None], torch.zeros(shape))
