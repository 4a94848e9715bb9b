import numpy as np
import torch
from sklearn.decomposition import PCA

from roost_training.evaluate import baselines, embedding
from roost_training.images import data

PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


def test_raw_pixels_are_the_pixels(digits, tmp_path):
    images = data.load(digits, side=16, cache=tmp_path)
    found = embedding.features(baselines.raw_pixels(**PLAIN, side=16), images)
    expected = images.pixels.transpose(0, 3, 1, 2).reshape(len(images), -1) / 255
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-6)


def test_large_pictures_are_averaged_to_thirty_two_a_side():
    pixels = torch.zeros(1, 64, 64, 3, dtype=torch.uint8)
    pixels[0, 0, 0] = 255  # a quarter of the first thumbnail pixel
    found = baselines.raw_pixels(**PLAIN, side=64).features(pixels).view(3, 32, 32)
    assert found[0, 0, 0] == 0.25
    assert found.sum() == 0.75


def test_principal_components_are_scikit_learn_s(digits, tmp_path):
    images = data.load(digits, side=16, cache=tmp_path)
    found = embedding.features(baselines.principal_components(images, **PLAIN), images).numpy()
    pixels = images.pixels.transpose(0, 3, 1, 2).reshape(len(images), -1).astype(np.float64) / 255
    expected = PCA(64, svd_solver="full").fit_transform(pixels)
    np.testing.assert_allclose(np.abs(found), np.abs(expected), atol=1e-3)  # a direction may point either way


def test_an_untrained_encoder_follows_from_its_seed():
    first, again, other = (
        baselines.untrained("resnet10w32", **PLAIN, side=16, seed=seed).encoder.state_dict() for seed in (1, 1, 2)
    )
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)
