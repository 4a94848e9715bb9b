import math

import pytest
import torch
from torch.nn import functional

from roost_training import encoders, methods
from roost_training.methods.relative_patch import SIDES, arrange
from roost_training.views.recipe import Recipe


def build(**settings) -> methods.Method:
    torch.manual_seed(0)
    encoder, dim = encoders.build("resnet10w32", image_size=16)
    return methods.load("relative_patch").Method(methods.configure("relative_patch", settings), encoder, dim).eval()


def images(n: int = 3) -> torch.Tensor:
    return torch.randn(n, 3, 30, 30, generator=torch.Generator().manual_seed(1))


def test_each_pair_is_the_centre_and_the_neighbour_of_its_side():
    method = build()
    found = torch.randn(2, 9, 3, 6, 6)
    features = [[method.encoder(patch[None])[0] for patch in patches] for patches in found]
    logits = method.logits(found)
    assert logits.shape == (2, 8, 8)
    for image in range(2):
        for side, neighbour in enumerate([0, 1, 2, 3, 5, 6, 7, 8]):
            pair = torch.cat([features[image][4], features[image][neighbour]])[None]
            assert torch.allclose(logits[image, side], method.classifier(pair)[0], atol=1e-5)


def test_the_loss_is_the_mean_over_images_and_sides():
    method = build()
    torch.manual_seed(7)
    logits = method.logits(method.cut(images()))
    expected = -sum(logits[i].log_softmax(1)[side, side].item() for i in range(3) for side in range(8)) / 24
    torch.manual_seed(7)
    assert method([images()])["loss"].item() == pytest.approx(expected, rel=1e-5)


def test_a_classifier_that_knows_nothing_pays_the_logarithm_of_eight():
    method = build()
    torch.nn.init.zeros_(method.classifier[-1].weight)
    assert method([images()])["loss"].item() == pytest.approx(math.log(8), rel=1e-6)


def test_patches_that_look_alike_cannot_be_told():
    figures = build(dropped=0)([torch.ones(2, 3, 30, 30)])
    assert figures["accuracy"].item() == 1 / 8


def test_the_patches_are_two_thirds_of_a_cell_of_a_view_twice_as_large():
    method = build()
    (view,) = method.views(Recipe(), 36)
    assert view.size == 72
    assert method.cut(torch.zeros(1, 3, 72, 72)).shape == (1, 9, 3, 16, 16)


def test_every_patch_keeps_one_channel_alone():
    spread = build().cut(images()).std((-2, -1))
    assert ((spread > 0.3).sum(-1) == 1).all()


def test_patches_whose_sides_are_known_are_arranged_as_they_were():
    numbered = torch.arange(9.0).view(1, 9, 1, 1, 1)
    assert torch.equal(arrange(numbered, torch.eye(8)[None]), numbered)


def test_patches_whose_left_is_taken_for_their_right_are_arranged_in_a_mirror():
    numbered = torch.arange(9.0).view(1, 9, 1, 1, 1)
    mirrored = torch.tensor([SIDES.index(side) for side in [2, 1, 0, 5, 3, 8, 7, 6]])
    arranged = arrange(numbered, functional.one_hot(mirrored, 8).float()[None])
    assert arranged.flatten().tolist() == [2, 1, 0, 5, 4, 3, 8, 7, 6]
