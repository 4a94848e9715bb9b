"""Views made one image at a time, beside the batch's with the same parameters."""

import dataclasses

import pytest
import torch
from skimage import data as skimage_data

from roost_training.views import augment, per_image
from roost_training.views.augment import Parameters, Recipe
from roost_training.views.recipe import draw

PLAIN = {"jitter": 0.0, "grey": 0.0, "blur": 0.0}
JITTER = {"jitter": 1.0, "brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0, "grey": 0.0, "blur": 0.0}
INNER = slice(4, -4)


def tiles() -> torch.Tensor:
    """Eight pieces of a photograph, uint8 (8, 200, 160, 3)."""
    photograph = torch.from_numpy(skimage_data.astronaut())
    return torch.stack([photograph[30 * i : 30 * i + 200, 40 * i : 40 * i + 160] for i in range(8)])


def both(recipe: Recipe) -> tuple[torch.Tensor, torch.Tensor, Parameters]:
    """The views of either way, in bytes."""
    pixels = tiles()
    drawn = draw(8, recipe, height=200, width=160, generator=torch.Generator().manual_seed(1))
    batched, single = (way.apply(pixels, drawn, size=96) * 255 for way in (augment, per_image))
    return batched, single, drawn


@pytest.mark.parametrize(
    ("changes", "most"),
    [
        (PLAIN, 1.1),
        (PLAIN | {"vertical_flip": 0.5, "quarter_turn": 1.0}, 1.1),
        (JITTER | {"brightness": 0.8}, 3),
        (JITTER | {"contrast": 0.8}, 3),
        (JITTER | {"saturation": 0.8}, 4),
        (JITTER | {"hue": 0.2}, 12),  # Pillow's HSV has 256 hues
        (PLAIN | {"grey": 1.0}, 2),
        (PLAIN | {"solarise": 1.0, "crop_scale": (1, 1), "crop_ratio": (1, 1), "horizontal_flip": 0}, None),
    ],
    ids=["crop", "turns", "brightness", "contrast", "saturation", "hue", "grey", "solarise"],
)
def test_each_change_equals_the_batch_s_but_for_rounding(changes, most):
    batched, single, _ = both(Recipe(**changes))
    difference = (batched - single).abs()
    assert difference.mean() < 1
    if most is not None:
        assert difference.max() < most


def test_the_blur_equals_the_batch_s_away_from_the_edges():
    batched, single, _ = both(Recipe(**(PLAIN | {"blur": 1.0, "blur_sigma": (1.0, 2.0)})))
    assert (batched - single).abs()[:, :, INNER, INNER].max() < 6


def test_the_jitter_is_done_in_the_order_drawn():
    pixels = torch.full((1, 192, 192, 3), 200, dtype=torch.uint8)
    drawn = draw(1, Recipe(**PLAIN), height=192, width=192, generator=torch.Generator())
    drawn = dataclasses.replace(
        drawn, jitter=torch.tensor([True]), factors=torch.tensor([[2.0, 0.5, 1.0, 0.0]]), order=(0, 1, 2, 3)
    )
    # Twice 200 is cut off at 255, and a grey image is its own mean.
    assert per_image.apply(pixels, drawn, size=8).unique().tolist() == [1.0]


def test_large_views_on_a_cpu_are_made_one_at_a_time_and_small_ones_in_batch():
    pixels, recipe = tiles(), Recipe()
    drawn = draw(8, recipe, height=200, width=160, generator=torch.Generator().manual_seed(2))
    for size, way in ((64, augment), (augment.PER_IMAGE_SIZE, per_image)):
        views = augment.augment(pixels, recipe, size=size, generator=torch.Generator().manual_seed(2))
        assert torch.equal(views, way.apply(pixels, drawn, size=size))


def test_views_turned_by_odd_angles_are_left_to_the_batch():
    pixels = tiles()
    drawn = draw(8, Recipe(rotation_degrees=20), height=200, width=160, generator=torch.Generator())
    assert not per_image.suits(pixels, drawn)
    views = augment.augment(pixels, Recipe(rotation_degrees=20), size=200, generator=torch.Generator())
    assert torch.equal(views, augment.apply(pixels, drawn, size=200))


def test_views_are_channels_last_floats_in_0_to_1():
    _, single, _ = both(Recipe())
    assert single.dtype == torch.float32
    assert single.is_contiguous(memory_format=torch.channels_last)
    assert 0 <= single.min() < single.max() <= 255
