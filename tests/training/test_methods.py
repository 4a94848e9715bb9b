"""What every method promises, run over whatever the folder holds."""

import pytest
import torch

from roost.errors import BadSettings, UnknownPlugin
from roost_training import encoders, methods


@pytest.fixture(params=methods.names())
def name(request) -> str:
    return request.param


def build(name: str) -> methods.Method:
    torch.manual_seed(0)
    encoder, dim = encoders.build("resnet10w32", image_size=16)
    return methods.load(name).Method(methods.configure(name, {}), encoder, dim)


def loss_of(method: methods.Method, views: list[torch.Tensor]) -> torch.Tensor:
    labels = torch.arange(len(views[0])) % 2
    return (method(views, labels) if method.wants_labels else method(views))["loss"]


def batch(method: methods.Method) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(16, 3, 16, 16, generator=generator)
    return [images + 0.1 * torch.randn(images.shape, generator=generator) for _ in range(method.views)]


def test_the_loss_is_one_finite_number(name):
    method = build(name)
    loss = loss_of(method, batch(method))
    assert loss.shape == ()
    assert loss.isfinite()


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
    torch.manual_seed(2)
    expected = loss_of(method.eval(), views)
    torch.manual_seed(2)
    assert torch.equal(loss_of(other.eval(), views), expected)


def test_the_encoder_is_the_one_that_was_given(name):
    encoder, dim = encoders.build("resnet10w32", image_size=16)
    method = methods.load(name).Method(methods.configure(name, {}), encoder, dim)
    assert method.encoder is encoder


def test_a_setting_that_the_method_lacks_is_refused(name):
    with pytest.raises(BadSettings, match=r"'no_such_setting' of the method"):
        methods.configure(name, {"no_such_setting": 1})


def test_a_temperature_that_is_not_positive_is_refused():
    with pytest.raises(BadSettings, match=r"'temperature' of the method simclr"):
        methods.configure("simclr", {"temperature": 0})


def test_a_misspelt_method_is_answered_with_the_nearest():
    with pytest.raises(UnknownPlugin, match="Did you mean 'simclr'"):
        methods.load("simcrl")
