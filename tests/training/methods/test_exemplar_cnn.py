import math

import numpy as np
import pytest
import torch

from roost_training import encoders
from roost_training.images.data import Images
from roost_training.methods.exemplar_cnn import Config, Method
from roost_training.views.recipe import Recipe

N = 12


def images() -> Images:
    pixels = np.random.default_rng(0).integers(0, 256, (N, 32, 32, 3), dtype=np.uint8)
    names = [f"{i}.png" for i in range(N)]
    return Images(
        store=pixels, rows=np.arange(N), labels=None, classes=[], paths=names, sha256=["0" * 64] * N, skipped=[]
    )


def small(**settings: object) -> Method:
    torch.manual_seed(0)
    encoder, dim = encoders.build("resnet10w32", image_size=16)
    method = Method(Config(**settings), encoder, dim)
    method.prepare(images())
    return method


def test_every_image_is_a_class_where_there_are_few():
    assert small().classifier.out_features == N


def test_an_epoch_has_only_the_images_that_have_a_seed():
    method = small(classes=5)
    pool = method.pool(np.random.default_rng(0))
    assert len(set(pool.tolist())) == 5
    assert method.classifier.out_features == 5


def test_an_image_s_class_is_the_place_of_its_seed():
    method = small(classes=5)
    with torch.no_grad():
        method.classifier.weight.zero_()
        method.classifier.bias.copy_(torch.tensor([0.0, 0.0, 10.0, 0.0, 0.0]))
    third = method.seeds[2].repeat(4)
    assert method([torch.zeros(4, 3, 32, 32)], third)["accuracy"] == 1


def test_a_classifier_that_knows_nothing_costs_the_logarithm_of_the_classes():
    method = small()
    with torch.no_grad():
        method.classifier.weight.zero_()
        method.classifier.bias.zero_()
    loss = method([torch.zeros(4, 3, 32, 32)], torch.arange(4))["loss"]
    assert loss.item() == pytest.approx(math.log(N), rel=1e-5)


def test_the_view_is_the_whole_image_as_it_is():
    (view,) = small(zoom=3).views(Recipe(solarise=1.0), 16)
    assert view.size == 48
    assert (view.recipe.crop_scale, view.recipe.horizontal_flip, view.recipe.jitter) == ((1, 1), 0, 0)
    assert (view.recipe.grey, view.recipe.blur, view.recipe.solarise) == (0, 0, 0)


def test_patches_have_the_encoder_s_size():
    method = small(zoom=3)
    assert method._samples(torch.zeros(4, 3, 48, 48), method.boxes[:4]).shape == (4, 3, 16, 16)


def test_two_samples_of_a_class_differ():
    method = small()
    view = torch.randn(4, 3, 32, 32)
    first, second = (method._samples(view, method.boxes[:4]) for _ in range(2))
    assert (first - second).abs().mean() > 0.05


def test_a_blur_takes_detail_and_leaves_the_mean():
    sharp, blurred = small(), small(blur=8.0)
    view, changed = torch.randn(4, 3, 32, 32), []
    for method in (sharp, blurred):
        torch.manual_seed(1)
        changed.append(method._samples(view, method.boxes[:4]))
    detail = [samples.diff(dim=3).abs().mean().item() for samples in changed]
    assert detail[1] < 0.6 * detail[0]
    assert changed[1].mean().item() == pytest.approx(changed[0].mean().item(), abs=0.1)


def test_the_seeds_go_with_the_state():
    method, other = small(), small()
    with torch.no_grad():
        method.boxes.mul_(0.5)
    other.load_state_dict(method.state_dict())
    assert torch.equal(other.boxes, method.boxes)


def test_views_in_half_precision_are_cut_and_coloured_in_full():
    method = small()
    view = torch.randn(4, 3, 32, 32).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        assert method._samples(view, method.boxes[:4]).dtype == torch.float32
        assert method([view], torch.arange(4))["loss"].isfinite()
