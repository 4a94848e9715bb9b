"""What every method promises, run over whatever the folder holds."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from roost.errors import BadSettings, UnknownPlugin
from roost_training import encoders, methods
from roost_training.images.data import Images
from roost_training.views.augment import augment
from roost_training.views.recipe import Recipe

N = 16
SIZE = 16
IMAGES = Images(
    store=np.zeros((N, 32, 32, 3), np.uint8),
    rows=np.arange(N),
    labels=np.arange(N) % 2,
    classes=["even", "odd"],
    paths=[f"{i % 2}/{i}.png" for i in range(N)],
    sha256=[f"{i:064x}" for i in range(N)],
    skipped=[],
)
REQUIRED = {"constraints": {"pairs": Path(__file__).with_name("pairs.csv")}}
"""Settings that have no default."""


@pytest.fixture(params=methods.names())
def name(request) -> str:
    return request.param


def configure(name: str, **settings: object) -> methods.Config:
    return methods.configure(name, REQUIRED.get(name, {}) | settings)


def build(name: str) -> methods.Method:
    torch.manual_seed(0)
    file = methods.load(name).Method
    encoder, dim = encoders.build("vit_xti_16" if file.needs is encoders.ViT else "resnet10w32", image_size=SIZE)
    method = file(configure(name), encoder, dim)
    method.prepare(IMAGES)
    method.before_epoch(
        0, lambda: functional.normalize(torch.randn(N, dim, generator=torch.Generator().manual_seed(3)))
    )
    return method


def loss_of(method: methods.Method, views: list[torch.Tensor]) -> torch.Tensor:
    asked = {"labels": torch.arange(N) % 2} if method.wants_labels else {}
    asked |= {"indices": torch.arange(N)} if method.wants_indices else {}
    torch.manual_seed(4)  # what the loop does for every step
    return method(views, **asked)["loss"]


def batch(method: methods.Method) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    views = method.views(Recipe(crop_scale=(0.8, 1.0), blur=0), SIZE)
    pixels = torch.randint(0, 256, (N, 4, 4, 3), generator=generator, dtype=torch.uint8)
    pixels = pixels.repeat_interleave(8, 1).repeat_interleave(8, 2)
    return [augment(pixels, view.recipe, size=view.size, generator=generator).sub(0.5).div(0.29) for view in views]


def test_the_loss_is_one_finite_number(name):
    method = build(name)
    loss = loss_of(method, batch(method))
    assert loss.shape == ()
    assert loss.isfinite()


def test_the_loss_is_finite_on_half_precision_views_as_autocast_gives_them(name):
    method = build(name)
    views = [view.bfloat16() for view in batch(method)]
    with torch.autocast("cpu", torch.bfloat16):
        assert loss_of(method, views).isfinite()


def test_gradients_reach_every_parameter_of_the_encoder(name):
    method = build(name)
    loss_of(method, batch(method)).backward()
    without = [key for key, p in method.encoder.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


def test_the_loss_falls_on_a_batch_that_is_seen_again(name):
    method = build(name)
    views = batch(method)
    optimiser = torch.optim.AdamW(method.parameters(), lr=1e-3)
    losses = []
    for step in range(12):
        loss = loss_of(method, views)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        method.after_step(step / 12)
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


def test_a_method_s_state_goes_through_a_state_dict(name):
    method, other = build(name), build(name)
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(0.01)
    other.load_state_dict(method.state_dict())
    views = batch(method)
    expected = loss_of(method.eval(), views)
    assert torch.equal(loss_of(other.eval(), views), expected)


def test_the_encoder_is_the_one_that_was_given(name):
    method = build(name)
    encoder, dim = encoders.build("vit_xti_16" if method.needs is encoders.ViT else "resnet10w32", image_size=SIZE)
    assert type(method)(configure(name), encoder, dim).encoder is encoder


def test_what_is_served_is_an_encoder_of_the_same_kind(name):
    method = build(name)
    assert method.served.state_dict().keys() == method.encoder.state_dict().keys()


def test_pictures_are_images_of_three_channels(name):
    method = build(name)
    drawn = method.eval().pictures(batch(method))
    assert all(images.ndim == 4 and images.shape[1] == 3 and images.isfinite().all() for images in drawn.values())


def test_a_setting_that_the_method_lacks_is_refused(name):
    with pytest.raises(BadSettings, match=r"'no_such_setting' of the method"):
        configure(name, no_such_setting=1)


def test_a_temperature_that_is_not_positive_is_refused():
    with pytest.raises(BadSettings, match=r"'temperature' of the method simclr"):
        methods.configure("simclr", {"temperature": 0})


def test_a_misspelt_method_is_answered_with_the_nearest():
    with pytest.raises(UnknownPlugin, match="Did you mean 'simclr'"):
        methods.load("simcrl")
