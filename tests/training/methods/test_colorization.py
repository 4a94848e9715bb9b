import math

import numpy as np
import pytest
import torch

from roost_training import encoders, methods
from roost_training.blocks import lab
from roost_training.images.data import Images
from roost_training.methods.colorization import Method, annealed_mean, colour_loss, rebalance, soft_bins


def build(**settings: object) -> Method:
    torch.manual_seed(0)
    encoder, dim = encoders.build("resnet10w32", image_size=16)
    return Method(methods.configure("colorization", settings), encoder, dim)


def views_of(pixels: torch.Tensor) -> torch.Tensor:
    return (pixels - 0.5) / 0.29


def some_pixels(n: int = 3, size: int = 16) -> torch.Tensor:
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(0))


def images_of(colour: tuple[int, int, int]) -> Images:
    store = np.zeros((8, 16, 16, 3), np.uint8) + np.array(colour, np.uint8)
    names = [f"{i}.png" for i in range(8)]
    return Images(store=store, rows=np.arange(8), labels=None, classes=[], paths=names, sha256=names, skipped=[])


def test_a_colour_on_a_bin_goes_to_it_first():
    bins = lab.colour_bins(10.0)
    places, shares = soft_bins(bins[7:8], bins, sigma=5.0)
    assert places[0, 0] == 7
    assert (shares[0, 0] / shares[0, 1]).item() == pytest.approx(math.exp(100 / 50), rel=1e-2)


def test_the_shares_are_those_of_the_five_nearest_written_out():
    bins = lab.colour_bins(10.0)
    colours = torch.tensor([[3.0, -4.0], [11.0, 27.0]])
    places, shares = soft_bins(colours, bins, sigma=5.0)
    for colour, found, share in zip(colours, places, shares, strict=True):
        distances = sorted((float((colour - point).square().sum()), i) for i, point in enumerate(bins))[:5]
        odds = [math.exp(-square / 50) for square, _ in distances]
        assert sorted(found.tolist()) == sorted(i for _, i in distances)
        assert share.tolist() == pytest.approx([odd / sum(odds) for odd in odds], rel=1e-3)


def test_weights_are_the_paper_s_by_hand():
    weights = rebalance(torch.tensor([0.75, 0.25]), uniform=0.5)
    # 1 / (0.375 + 0.25) and 1 / (0.125 + 0.25), divided by their mean under the shares.
    mean = 0.75 * 1.6 + 0.25 * 8 / 3
    assert weights.tolist() == pytest.approx([1.6 / mean, 8 / 3 / mean], rel=1e-6)


def test_a_uniform_mixture_of_one_weighs_all_colours_alike():
    assert rebalance(torch.tensor([0.9, 0.1, 0.0]), uniform=1.0).tolist() == pytest.approx([1, 1, 1])


def test_even_odds_cost_the_logarithm_of_the_bins():
    bins = lab.colour_bins(20.0)
    loss = colour_loss(torch.zeros(4, len(bins)), torch.zeros(4, 2), bins=bins, weights=torch.ones(len(bins)), sigma=10)
    assert loss.item() == pytest.approx(math.log(len(bins)), rel=1e-5)


def test_the_loss_is_the_weighted_cross_entropy_written_out():
    bins = lab.colour_bins(30.0)
    generator = torch.Generator().manual_seed(0)
    logits, colours = torch.randn(6, len(bins), generator=generator), 40 * torch.randn(6, 2, generator=generator)
    weights = torch.rand(len(bins), generator=generator)
    places, shares = soft_bins(colours, bins, sigma=15.0)
    costs = []
    for i in range(6):
        odds = logits[i].softmax(0)
        cost = -sum(float(shares[i, k]) * math.log(float(odds[places[i, k]])) for k in range(5))
        costs.append(float(weights[places[i, 0]]) * cost)
    found = colour_loss(logits, colours, bins=bins, weights=weights, sigma=15.0)
    assert found.item() == pytest.approx(sum(costs) / 6, rel=1e-5)


def test_the_encoder_sees_no_colour():
    method = build().eval()
    pixels = some_pixels()
    drab = lab.from_rgb(pixels) * torch.tensor([1.0, 0.2, 0.2]).view(3, 1, 1)
    drawn, again = (method.pictures([views_of(p)])["grey"] for p in (pixels, lab.to_rgb(drab)))
    grey = drawn * 0.29 + 0.5
    assert torch.allclose(drawn, again, atol=2e-2)
    assert (grey.max(1).values - grey.min(1).values).max() < 1e-3


def test_the_grey_picture_has_the_lightness_of_the_coloured_one():
    pixels = some_pixels()
    grey = build().eval().pictures([views_of(pixels)])["grey"] * 0.29 + 0.5
    assert torch.allclose(lab.from_rgb(grey)[:, 0], lab.from_rgb(pixels)[:, 0], atol=0.05)


def test_colours_that_the_images_have_weigh_less_than_others():
    method = build()
    method.prepare(images_of((200, 40, 40)))
    red = lab.from_rgb(torch.tensor([200, 40, 40]).view(1, 3, 1, 1) / 255)[0, 1:, 0, 0]
    nearest = torch.cdist(red[None], method.bins)[0].argmin()
    assert method.weights.argmin() == nearest
    assert method.weights.median() == method.weights.max()


def test_the_annealed_mean_goes_from_the_mean_to_the_likeliest_colour():
    bins = torch.tensor([[10.0, 0.0], [-10.0, 20.0]])
    logits = torch.tensor([math.log(3.0), 0.0]).view(1, 2, 1, 1)
    assert annealed_mean(logits, bins, temperature=1.0).flatten().tolist() == pytest.approx([5, 5])
    assert annealed_mean(logits, bins, temperature=0.5).flatten().tolist() == pytest.approx([8, 2])  # odds of 9 to 1
    assert annealed_mean(logits, bins, temperature=0.01).flatten().tolist() == pytest.approx([10, 0])


def test_pictures_keep_their_digits_under_autocast():
    method = build().eval()
    pixels = some_pixels()
    with torch.autocast("cpu", torch.bfloat16):
        drawn = method.pictures([views_of(pixels)])
    assert torch.equal(drawn["grey"], method.pictures([views_of(pixels)])["grey"])
    assert drawn["coloured"].dtype == torch.float32


def test_pictures_are_coloured_by_the_annealed_mean():
    method = build(reduction=4).eval()
    torch.nn.init.zeros_(method.decoder.last.weight)
    torch.nn.init.zeros_(method.decoder.last.bias)
    blue = torch.cdist(torch.tensor([[0.0, -40.0]]), method.bins)[0].argmin()
    with torch.no_grad():
        method.decoder.last.bias.view(-1, 4)[blue] = 100  # the four sub-pixels of a channel
    coloured = method.pictures([views_of(torch.full((1, 3, 16, 16), 0.5))])["coloured"] * 0.29 + 0.5
    assert lab.from_rgb(coloured)[0, 1:, 8, 8].tolist() == pytest.approx(method.bins[blue].tolist(), abs=0.5)
