import math

import pytest
import torch
from torchvision.transforms.v2 import functional as vision

from roost_training import encoders, methods
from roost_training.methods.deblurring import Method, blur, coarsen
from roost_training.views.recipe import Recipe


def some_images(n: int = 3, size: int = 32) -> torch.Tensor:
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(0))


def build(**settings: object) -> Method:
    torch.manual_seed(0)
    encoder, dim = encoders.build("resnet10w32", image_size=16)
    return Method(methods.configure("deblurring", settings), encoder, dim)


def test_a_bright_pixel_becomes_the_normal_density_around_it():
    images = torch.zeros(1, 3, 33, 33)
    images[..., 16, 16] = 1
    blurred = blur(images, torch.tensor([2.0]))[0, 0]
    assert blurred[16, 16].item() == pytest.approx(1 / (2 * math.pi * 4), rel=1e-3)
    assert (blurred[16, 18] / blurred[16, 16]).item() == pytest.approx(math.exp(-0.5), rel=1e-5)


def test_each_image_has_a_blur_of_its_own_equal_to_torchvision_s_inside():
    images = some_images(n=2)
    blurred = blur(images, torch.tensor([0.7, 1.5]))
    for image, sigma, found in zip(images, (0.7, 1.5), blurred, strict=True):
        expected = vision.gaussian_blur(image, kernel_size=[21, 21], sigma=[sigma, sigma])
        assert torch.allclose(found, expected, atol=1e-4)


def test_blur_keeps_the_digits_that_autocast_would_take():
    images = some_images()
    with torch.autocast("cpu", torch.bfloat16):
        blurred = blur(images, torch.tensor([1.0, 2.0, 3.0]))
    assert torch.equal(blurred, blur(images, torch.tensor([1.0, 2.0, 3.0])))


def test_a_coarse_picture_has_the_means_of_its_squares():
    images = torch.zeros(1, 3, 4, 4)
    images[..., :2] = 1
    coarse = coarsen(images, 2)
    assert coarse[0, 0, 0].tolist() == [1.0, 0.75, 0.25, 0.0]  # two places, 1 and 0, enlarged bilinearly


def test_a_factor_of_one_changes_nothing():
    images = some_images()
    assert torch.equal(coarsen(images, 1), images)


def test_the_loss_is_the_squared_error_of_the_sharp_picture():
    method = build().eval()
    torch.nn.init.zeros_(method.decoder.last.weight)
    torch.nn.init.zeros_(method.decoder.last.bias)
    images = some_images(size=16)
    assert method([images])["loss"].item() == pytest.approx(images.square().mean().item(), rel=1e-6)


def test_without_damage_the_input_has_no_error():
    method = build(sigma=(1e-3, 1e-3), shrink=1, noise=0.0)
    assert method([some_images(size=16)])["input_error"].item() == pytest.approx(0, abs=1e-10)


def test_the_one_view_keeps_its_colours():
    (view,) = build().views(Recipe(crop_scale=(0.5, 1.0)), 24)
    assert (view.size, view.recipe.crop_scale) == (24, (0.5, 1.0))
    assert (view.recipe.jitter, view.recipe.grey, view.recipe.blur, view.recipe.solarise) == (0, 0, 0, 0)


def test_pictures_show_what_was_seen_drawn_and_sought():
    assert list(build().eval().pictures([some_images(size=16)])) == ["damaged", "restored", "sharp"]
