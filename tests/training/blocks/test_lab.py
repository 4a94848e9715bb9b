import numpy as np
import pytest
import torch
from skimage import color

from roost_training.blocks import lab


def some_pixels() -> torch.Tensor:
    pixels = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    pixels[0, :, :2] *= 0.03  # the straight ends of both curves
    return pixels


@pytest.mark.parametrize(
    ("rgb", "expected"),
    [
        ((1.0, 1.0, 1.0), (100, 0, 0)),
        ((0.0, 0.0, 0.0), (0, 0, 0)),
        ((1.0, 0.0, 0.0), (53.24, 80.09, 67.20)),
        ((0.0, 0.0, 1.0), (32.30, 79.19, -107.86)),
    ],
)
def test_colours_that_books_list(rgb, expected):
    found = lab.from_rgb(torch.tensor(rgb).view(1, 3, 1, 1)).flatten()
    assert found.tolist() == pytest.approx(expected, abs=0.02)


def test_lab_equals_scikit_image_s():
    pixels = some_pixels()
    expected = color.rgb2lab(pixels.permute(0, 2, 3, 1).double().numpy())
    assert np.abs(lab.from_rgb(pixels).permute(0, 2, 3, 1).numpy() - expected).max() < 2e-3


def test_there_and_back_is_the_same_picture():
    pixels = some_pixels()
    assert torch.allclose(lab.to_rgb(lab.from_rgb(pixels)), pixels, atol=1e-4)


def test_a_colour_beyond_srgb_is_clipped_into_it():
    found = lab.to_rgb(torch.tensor([50.0, 120.0, -120.0]).view(1, 3, 1, 1))
    assert found.min() >= 0
    assert found.max() <= 1


def test_bins_are_where_srgb_colours_are():
    shades = np.linspace(0, 1, 33)
    cube = np.stack(np.meshgrid(shades, shades, shades, indexing="ij"), -1).reshape(1, -1, 3)
    expected = {tuple(point) for point in np.round(color.rgb2lab(cube)[0, :, 1:] / 10).astype(int)}
    found = {tuple(point) for point in (lab.colour_bins(10.0) / 10).int().tolist()}
    assert len(expected) == 259
    assert len(found ^ expected) <= 1  # a colour halfway between two
    assert (0, 0) in found
