import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from roost_training import encoders, methods
from roost_training.methods.vae import Method, gaussian_cost, gaussian_divergence


def build(**settings: object) -> Method:
    torch.manual_seed(0)
    encoder, dim = encoders.build("resnet10w32", image_size=16)
    return Method(methods.configure("vae", settings), encoder, dim)


def some(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def test_an_exact_drawing_costs_the_noise_s_own_density():
    images = some(2, 3, 4, 4)
    expected = math.log(0.3 * math.sqrt(2 * math.pi))
    assert gaussian_cost(images, images, sigma=0.3).item() == pytest.approx(expected, rel=1e-6)


def test_the_cost_of_a_drawing_is_that_of_a_normal_distribution():
    drawn, images = some(2, 3, 4, 4), some(2, 3, 4, 4).flip(0)
    expected = -Normal(drawn, 0.5).log_prob(images).mean()
    assert gaussian_cost(drawn, images, sigma=0.5).item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_prior_itself_has_no_divergence():
    assert gaussian_divergence(torch.zeros(3, 5), torch.zeros(3, 5)).item() == 0


def test_a_mean_away_from_zero_costs_half_its_square():
    mean = torch.tensor([[3.0, 0.0], [0.0, 1.0]])
    assert gaussian_divergence(mean, torch.zeros(2, 2)).item() == pytest.approx((4.5 + 0.5) / 2)


def test_the_divergence_is_that_of_the_distributions():
    mean, log_variance = some(4, 6), some(4, 6).flip(1)
    expected = kl_divergence(Normal(mean, (log_variance / 2).exp()), Normal(0.0, 1.0)).sum(1).mean()
    assert gaussian_divergence(mean, log_variance).item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_loss_is_the_bound_with_the_divergence_weighted():
    found = build(beta=0.5)([some(4, 3, 16, 16)])
    expected = found["reconstruction"] + 0.5 * found["divergence"]
    assert found["loss"].item() == pytest.approx(expected.item(), rel=1e-6)


def test_a_posterior_that_says_nothing_has_no_divergence():
    method = build()
    torch.nn.init.zeros_(method.posterior.weight)
    torch.nn.init.zeros_(method.posterior.bias)
    assert method([some(4, 3, 16, 16)])["divergence"].item() == 0


def test_a_stray_posterior_does_not_overflow():
    method = build()
    torch.nn.init.constant_(method.posterior.bias, 1e4)
    assert method([some(4, 3, 16, 16)])["loss"].isfinite()


def test_pictures_are_originals_reconstructions_and_samples():
    drawn = build().eval().pictures([some(3, 3, 16, 16)])
    assert {name: tuple(images.shape) for name, images in drawn.items()} == {
        "originals": (3, 3, 16, 16),
        "reconstructions": (3, 3, 16, 16),
        "samples": (3, 3, 16, 16),
    }


def test_reconstructions_are_drawn_without_chance():
    method = build().eval()
    images = some(3, 3, 16, 16)
    first, again = (method.pictures([images])["reconstructions"] for _ in range(2))
    assert torch.equal(first, again)
