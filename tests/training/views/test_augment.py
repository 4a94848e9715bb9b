"""Each change of a view, against torchvision's on one image with the same parameters."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from skimage import data as skimage_data
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms.v2 import functional as reference

from roost_training.views import augment
from roost_training.views.augment import Parameters, Recipe

STILL = Recipe(crop_scale=(1, 1), crop_ratio=(1, 1), horizontal_flip=0, jitter=0, grey=0, blur=0)


def photographs(*, n: int = 8, side: int = 40) -> torch.Tensor:
    """Tiles of a photograph, uint8 of shape (n, side, side, 3), with flat black, white and grey ones among them."""
    photograph = torch.from_numpy(skimage_data.astronaut())
    tiles = photograph.unfold(0, side, side).unfold(1, side, side).permute(0, 1, 3, 4, 2).reshape(-1, side, side, 3)
    chosen = tiles[:: len(tiles) // n][:n].clone()
    chosen[0], chosen[1], chosen[2] = 0, 255, 128
    return chosen


def still(pixels: torch.Tensor) -> Parameters:
    """Parameters that change nothing."""
    n, height, width, _ = pixels.shape
    return augment.draw(n, STILL, height=height, width=width, generator=torch.Generator().manual_seed(0))


def floats(pixels: torch.Tensor) -> torch.Tensor:
    """What torchvision takes: (n, 3, height, width) in 0..1."""
    return pixels.permute(0, 3, 1, 2).float() / 255


def spread(n: int, low: float, high: float) -> torch.Tensor:
    return torch.linspace(low, high, n)


def with_factors(parameters: Parameters, column: int, values: torch.Tensor) -> Parameters:
    factors = parameters.factors.new_tensor([[1, 1, 1, 0]]).repeat(len(values), 1)
    factors[:, column] = values
    return dataclasses.replace(parameters, factors=factors, jitter=torch.ones(len(values), dtype=torch.bool))


def test_a_recipe_without_changes_gives_the_image_itself():
    pixels = photographs()
    views = augment.apply(pixels, still(pixels), size=40)
    torch.testing.assert_close(views, floats(pixels), rtol=0, atol=1e-7)


def test_views_are_channels_last_floats_of_the_size_asked_for():
    views = augment.augment(photographs(), Recipe(), size=24, generator=torch.Generator().manual_seed(0))
    assert views.shape == (8, 3, 24, 24)
    assert views.dtype == torch.float32
    assert views.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("size", [17, 40, 64])
def test_crop_resize_and_flips_equal_torchvision_s(size: int):
    pixels = photographs()[:, :, :36].contiguous()
    recipe = Recipe(vertical_flip=0.5, jitter=0, grey=0, blur=0)
    parameters = augment.draw(8, recipe, height=40, width=36, generator=torch.Generator().manual_seed(3))
    expected = []
    for image, box, flip in zip(floats(pixels), parameters.box.int().tolist(), parameters.flip.tolist(), strict=True):
        view = reference.resized_crop(image, *box, size=[size, size], antialias=True)
        view = reference.vertical_flip(view) if flip[0] else view
        expected.append(reference.horizontal_flip(view) if flip[1] else view)
    assert len({tuple(flip) for flip in parameters.flip.tolist()}) > 2
    torch.testing.assert_close(augment.apply(pixels, parameters, size=size), torch.stack(expected), rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    ("column", "change", "low", "high"),
    [
        (0, reference.adjust_brightness, 0.0, 2.5),
        (1, reference.adjust_contrast, 0.0, 2.5),
        (2, reference.adjust_saturation, 0.0, 2.5),
        (3, reference.adjust_hue, -0.5, 0.5),
    ],
)
def test_each_part_of_the_jitter_equals_torchvision_s(column, change, low, high):
    pixels = photographs(n=32)
    values = spread(32, low, high)
    expected = [change(image, value) for image, value in zip(floats(pixels), values.tolist(), strict=True)]
    views = augment.apply(pixels, with_factors(still(pixels), column, values), size=40)
    torch.testing.assert_close(views, torch.stack(expected), rtol=0, atol=3e-6)


def test_hue_equals_torchvision_s_on_every_corner_and_edge_of_the_colour_cube():
    levels = torch.tensor([0, 1, 2, 127, 128, 254, 255], dtype=torch.uint8)
    colours = torch.cartesian_prod(levels, levels, levels)[: 18 * 18].view(1, 18, 18, 3)
    turns = spread(25, -0.5, 0.5)
    pixels = colours.repeat(25, 1, 1, 1)
    expected = [reference.adjust_hue(image, turn) for image, turn in zip(floats(pixels), turns.tolist(), strict=True)]
    views = augment.apply(pixels, with_factors(still(pixels), 3, turns), size=18)
    torch.testing.assert_close(views, torch.stack(expected), rtol=0, atol=3e-6)


def test_a_third_of_a_turn_makes_red_green():
    red = torch.tensor([255, 0, 0], dtype=torch.uint8).expand(1, 4, 4, 3)
    views = augment.apply(red, with_factors(still(red), 3, torch.tensor([1 / 3])), size=4)
    torch.testing.assert_close(views[0, :, 0, 0], torch.tensor([0.0, 1.0, 0.0]), rtol=0, atol=1e-6)


def test_the_jitter_is_done_in_the_order_drawn():
    pixels = photographs()
    factors = torch.tensor([[0.5, 1.7, 0.3, 0.1]]).repeat(8, 1)
    always = torch.ones(8, dtype=torch.bool)
    parameters = dataclasses.replace(still(pixels), factors=factors, jitter=always, order=(3, 1, 0, 2))
    expected = reference.adjust_hue(floats(pixels), 0.1)
    expected = torch.stack([reference.adjust_contrast(image, 1.7) for image in expected])
    expected = reference.adjust_saturation(reference.adjust_brightness(expected, 0.5), 0.3)
    torch.testing.assert_close(augment.apply(pixels, parameters, size=40), expected, rtol=0, atol=5e-6)


def test_only_the_images_drawn_for_a_change_are_changed():
    pixels = photographs(n=6)[3:].repeat(2, 1, 1, 1)
    some = torch.tensor([True, False, False, True, False, True])
    base = still(pixels)
    changed = dataclasses.replace(
        with_factors(base, 0, torch.full((6,), 0.5)),
        jitter=some,
        grey=some.roll(1),
        sigma=some.roll(2) * 1.5,
        threshold=torch.where(some, 0.5, math.inf),
    )
    views = augment.apply(pixels, changed, size=40)
    for i, image in enumerate(floats(pixels)):
        view = reference.adjust_brightness(image, 0.5) if some[i] else image
        view = reference.rgb_to_grayscale(view, num_output_channels=3) if some.roll(1)[i] else view
        view = reference.gaussian_blur(view, [79, 79], [1.5, 1.5]) if some.roll(2)[i] else view
        view = reference.solarize(view, 0.5) if some[i] else view
        torch.testing.assert_close(views[i], view, rtol=0, atol=5e-6)


def test_grey_equals_torchvision_s():
    pixels = photographs()
    parameters = dataclasses.replace(still(pixels), grey=torch.ones(8, dtype=torch.bool))
    expected = reference.rgb_to_grayscale(floats(pixels), num_output_channels=3)
    torch.testing.assert_close(augment.apply(pixels, parameters, size=40), expected, rtol=0, atol=1e-6)


def test_blur_equals_torchvision_s_up_to_the_edges():
    pixels = photographs()
    sigma = spread(8, 0.1, 3.0)
    expected = [
        reference.gaussian_blur(image, kernel_size=[79, 79], sigma=[value, value])
        for image, value in zip(floats(pixels), sigma.tolist(), strict=True)
    ]
    views = augment.apply(pixels, dataclasses.replace(still(pixels), sigma=sigma), size=40)
    torch.testing.assert_close(views, torch.stack(expected), rtol=0, atol=2e-6)


def test_solarisation_equals_torchvision_s():
    pixels = photographs()
    parameters = dataclasses.replace(still(pixels), threshold=torch.full((8,), 0.5))
    expected = reference.solarize(floats(pixels), 0.5)
    torch.testing.assert_close(augment.apply(pixels, parameters, size=40), expected, rtol=0, atol=1e-6)


def test_quarter_turns_turn_and_never_mirror():
    recipe = STILL.model_copy(update={"quarter_turn": 1.0})
    pixels = photographs()[7:].repeat(64, 1, 1, 1)
    views = augment.augment(pixels, recipe, size=40, generator=torch.Generator().manual_seed(0))
    turned = {(view.permute(1, 2, 0) * 255).round().byte().numpy().tobytes() for view in views}
    assert turned == {np.rot90(pixels[0].numpy(), k).tobytes() for k in range(4)}


def test_rotation_equals_torchvision_s_inside_the_circle():
    pixels = photographs(side=41)
    degrees = spread(8, -60, 60)
    affine = torch.zeros(8, 4)
    affine[:, 0] = degrees
    views = augment.apply(pixels, dataclasses.replace(still(pixels), affine=affine), size=41)
    expected = torch.stack(
        [
            reference.rotate(image, angle, interpolation=reference.InterpolationMode.BILINEAR)
            for image, angle in zip(floats(pixels), degrees.tolist(), strict=True)
        ]
    )
    offset = torch.arange(41) - 20
    inside = offset[:, None] ** 2 + offset**2 < 19**2
    torch.testing.assert_close(views[:, :, inside], expected[:, :, inside], rtol=0, atol=5e-5)


def test_a_shift_by_a_quarter_moves_the_image_and_repeats_its_border():
    pixels = photographs()
    affine = torch.tensor([[0, 0, 0, 0.25]]).repeat(8, 1)
    views = augment.apply(pixels, dataclasses.replace(still(pixels), affine=affine), size=40)
    expected = floats(pixels)[:, :, :, (torch.arange(40) - 10).clamp_min(0)]
    torch.testing.assert_close(views, expected, rtol=0, atol=1e-5)


def test_a_slant_of_45_degrees_moves_each_row_by_its_distance_from_the_middle():
    pixels = torch.zeros(1, 9, 9, 3, dtype=torch.uint8)
    pixels[0, :, 4] = 255
    affine = torch.tensor([[0.0, 45.0, 0.0, 0.0]])
    views = augment.apply(pixels, dataclasses.replace(still(pixels), affine=affine), size=9)
    torch.testing.assert_close(views[0, 0], torch.eye(9).flip(1), rtol=0, atol=1e-5)


def test_both_resamplings_agree_on_crops_and_flips():
    pixels = photographs()
    recipe = Recipe(vertical_flip=0.5, crop_scale=(0.1, 0.9), jitter=0, grey=0, blur=0)
    parameters = augment.draw(8, recipe, height=40, width=40, generator=torch.Generator().manual_seed(0))
    nearly_nothing = dataclasses.replace(parameters, affine=torch.full((8, 4), 1e-7))
    views = augment.apply(pixels, parameters, size=40)
    # One repeats the border of the crop, the other sees the pixels beyond: compare inside.
    inside = (slice(None), slice(None), slice(4, -4), slice(4, -4))
    warped = augment.apply(pixels, nearly_nothing, size=40)
    torch.testing.assert_close(warped[inside], views[inside], rtol=0, atol=1e-4)


def test_a_warp_that_shrinks_averages_what_it_skips():
    stripes = torch.zeros(1, 40, 40, 3, dtype=torch.uint8)
    stripes[:, :, ::2] = 255
    nearly_nothing = torch.full((1, 4), 1e-7)
    views = augment.apply(stripes, dataclasses.replace(still(stripes), affine=nearly_nothing), size=10)
    torch.testing.assert_close(views, torch.full((1, 3, 10, 10), 0.5), rtol=0, atol=1e-4)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (96, 64)])
def test_crops_are_distributed_as_torchvision_s(height: int, width: int):
    recipe = Recipe()
    ours = augment.draw(4000, recipe, height=height, width=width, generator=torch.Generator().manual_seed(0)).box
    image = torch.empty(3, height, width)
    torch.manual_seed(0)
    get_params = RandomResizedCrop.get_params
    theirs = torch.tensor([get_params(image, list(recipe.crop_scale), list(recipe.crop_ratio)) for _ in range(4000)])
    theirs = theirs.float()
    assert (ours[:, :2] + ours[:, 2:] <= torch.tensor([height, width])).all()
    # The greatest distance of two empirical distributions; 0.043 is its 0.1 % point for 4,000 and 4,000 draws.
    for column, name in enumerate(("top", "left", "height", "width")):
        grid = torch.arange(-1, max(height, width) + 1) + 0.5
        mine = (ours[:, column, None] <= grid).float().mean(0)
        other = (theirs[:, column, None] <= grid).float().mean(0)
        assert (mine - other).abs().max() < 0.043, name


def test_a_crop_that_cannot_fit_is_the_centre_of_torchvision_s_fallback():
    recipe = Recipe(crop_scale=(1, 1), crop_ratio=(2, 2))
    boxes = augment.draw(3, recipe, height=30, width=20, generator=torch.Generator().manual_seed(0)).box
    assert boxes.tolist() == [[10, 0, 10, 20]] * 3


def test_the_same_seed_gives_the_same_views_and_another_seed_others():
    pixels = photographs()
    first, again, other = (
        augment.augment(pixels, Recipe(solarise=0.5), size=32, generator=torch.Generator().manual_seed(seed))
        for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_view_does_not_depend_on_the_batch_s_other_images():
    pixels = photographs(n=16)
    recipe = Recipe(solarise=0.5, quarter_turn=0.5)
    parameters = augment.draw(16, recipe, height=40, width=40, generator=torch.Generator().manual_seed(0))
    together = augment.apply(pixels, parameters, size=32)
    alone = [augment.apply(pixels[i : i + 1], parameters.at(torch.tensor([i])), size=32) for i in range(16)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=1e-6)


def test_channels_first_pixels_give_the_same_views():
    pixels = photographs()
    views, others = (
        augment.augment(given, Recipe(), size=32, generator=torch.Generator().manual_seed(0))
        for given in (pixels, pixels.permute(0, 3, 1, 2).contiguous())
    )
    assert torch.equal(views, others)


def test_views_stay_within_0_and_1():
    recipe = Recipe(jitter=1, brightness=3, contrast=3, saturation=3, hue=0.5, solarise=0.5)
    views = augment.augment(photographs(n=64), recipe, size=32, generator=torch.Generator().manual_seed(0))
    assert views.min() >= 0
    assert views.max() <= 1


def test_more_images_than_a_chunk_holds_are_all_changed():
    pixels = photographs(n=4)[3:].expand(700, 40, 40, 3)
    everything_grey = STILL.model_copy(update={"grey": 1.0})
    views = augment.augment(pixels, everything_grey, size=16, generator=torch.Generator().manual_seed(0))
    assert len(views) == 700
    assert torch.equal(views[:, 0], views[:, 1])
    assert torch.equal(views[699], views[0])


def test_autocast_and_inference_mode_change_no_view():
    pixels = photographs()
    parameters = augment.draw(8, Recipe(), height=40, width=40, generator=torch.Generator().manual_seed(0))
    expected = augment.apply(pixels, parameters, size=32)
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.inference_mode():
        assert torch.equal(augment.apply(pixels, parameters, size=32), expected)


def test_the_caller_s_number_of_threads_is_left_as_it_was():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        augment.augment(photographs(), Recipe(), size=32, generator=torch.Generator().manual_seed(0))
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_an_empty_batch_gives_no_views():
    views = augment.augment(photographs()[:0], Recipe(), size=16, generator=torch.Generator().manual_seed(0))
    assert views.shape == (0, 3, 16, 16)


@pytest.mark.parametrize(
    "changes",
    [
        {"crop_scale": (0.5, 0.2)},
        {"crop_scale": (0.5, 1.5)},
        {"crop_ratio": (0, 1)},
        {"blur_sigma": (2, 1)},
        {"horizontal_flip": 1.1},
        {"hue": 0.6},
        {"brightness": -0.1},
        {"solarize": 0.5},
    ],
)
def test_a_recipe_that_cannot_be_is_refused(changes: dict[str, object]):
    with pytest.raises(ValidationError, match=next(iter(changes))):
        Recipe.model_validate(changes)


@pytest.mark.parametrize(
    ("pixels", "fault"),
    [
        (torch.zeros(8, 40, 40, 3), "float32"),
        (torch.zeros(8, 40, 40, 4, dtype=torch.uint8), "40, 4"),
        (torch.zeros(40, 40, 3, dtype=torch.uint8), r"\(40, 40, 3\)"),
        (torch.zeros(7, 40, 40, 3, dtype=torch.uint8), "7 images, but parameters for 8"),
        (torch.zeros(8, 20, 20, 3, dtype=torch.uint8), "20"),
    ],
)
def test_pixels_that_do_not_fit_are_refused(pixels: torch.Tensor, fault: str):
    with pytest.raises(ValueError, match=fault):
        augment.apply(pixels, still(photographs()), size=40)


@pytest.mark.parametrize("size", [1, 7, 40])
def test_views_are_normalised_colour_by_colour(size):
    views = augment.apply(photographs()[:3], still(photographs()[:3]), size=size)
    mean, std = torch.rand(1, 3, 1, 1), torch.rand(1, 3, 1, 1) + 0.5
    expected = (views - mean) / std
    assert torch.equal(augment.normalise(views, mean=mean, std=std), expected)
    assert torch.equal(views, expected)
