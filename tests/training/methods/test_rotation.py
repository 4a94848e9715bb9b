import math

import pytest
import torch

from roost_training import encoders, methods
from roost_training.methods.rotation import four_turns
from roost_training.views.recipe import Recipe


def build() -> methods.Method:
    torch.manual_seed(0)
    encoder, dim = encoders.build("resnet10w32", image_size=16)
    return methods.load("rotation").Method(methods.configure("rotation", {}), encoder, dim)


def test_a_small_image_is_turned_counter_clockwise():
    image = torch.tensor([[1, 2], [3, 4]]).view(1, 1, 2, 2)
    turned = four_turns(image)[:, 0]
    assert turned.tolist() == [[[1, 2], [3, 4]], [[2, 4], [1, 3]], [[4, 3], [2, 1]], [[3, 1], [4, 2]]]


def test_the_turns_of_all_images_lie_one_after_the_other():
    images = torch.randn(3, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    turned = four_turns(images)
    assert torch.equal(turned[:3], images)
    assert torch.equal(turned[6:9], images.flip(2, 3))


def test_the_views_lose_their_turns_and_keep_the_rest():
    (view,) = build().views(Recipe(quarter_turn=1, vertical_flip=0.5, rotation_degrees=20, crop_scale=(0.3, 0.9)), 16)
    assert view.recipe == Recipe(quarter_turn=0, vertical_flip=0, rotation_degrees=0, crop_scale=(0.3, 0.9))
    assert view.size == 16


def test_a_classifier_that_knows_nothing_pays_the_logarithm_of_four():
    method = build()
    torch.nn.init.zeros_(method.classifier.weight)
    torch.nn.init.zeros_(method.classifier.bias)
    figures = method([torch.randn(4, 3, 16, 16)])
    assert figures["loss"].item() == pytest.approx(math.log(4), rel=1e-6)


def test_the_loss_is_the_mean_over_images_and_turns():
    method = build().eval()
    images = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    losses = []
    for image in images:
        for quarters in range(4):
            logits = method.classifier(method.encoder(image.rot90(quarters, (1, 2))[None]))[0]
            losses.append(-logits.log_softmax(0)[quarters].item())
    assert method([images])["loss"].item() == pytest.approx(sum(losses) / 12, rel=1e-5)


def test_images_that_turning_does_not_change_cannot_be_told():
    method = build().eval()
    figures = method([torch.ones(2, 3, 16, 16)])
    assert figures["accuracy"].item() == 0.25


def test_a_classifier_that_is_right_turns_every_picture_upright():
    method = build()
    method.encoder = torch.nn.Flatten()
    images = torch.zeros(5, 3, 4, 4)
    images[:, :, 0] = 1  # a bright first row: up, left, down, right after 0 to 3 quarters
    method.classifier = torch.nn.Linear(48, 4, bias=False)
    method.classifier.weight.data = four_turns(images[:1]).flatten(1)
    method.eval()
    assert torch.equal(method.pictures([images])["righted"], images)
    assert method([images])["accuracy"] == 1
