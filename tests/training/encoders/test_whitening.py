import pytest
import torch

from roost.errors import BadSettings
from roost_training.encoders import whitening


def correlated(rows: int = 400) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    mix = torch.tensor([[5.0, 1.0, 0.0], [0.0, 0.1, 0.3], [0.0, 0.0, 2.0]])
    return torch.randn(rows, 3, generator=generator) @ mix + torch.tensor([7.0, -2.0, 0.5])


def test_whitened_features_have_no_mean_and_a_unit_covariance():
    features = correlated()
    white = whitening.fit(features, dim=3)(features)
    assert torch.allclose(white.mean(dim=0), torch.zeros(3), atol=1e-4)
    assert torch.allclose(white.T @ white / len(white), torch.eye(3), atol=1e-3)


def test_the_directions_of_most_variance_are_kept_first():
    features = torch.tensor([[3.0, 1.0], [-3.0, 1.0], [3.0, -1.0], [-3.0, -1.0]])  # deviations 3 and 1
    white = whitening.fit(features, dim=1)(features)
    assert white.abs().flatten().tolist() == pytest.approx([1.0] * 4)
    assert white[0].item() == pytest.approx(-white[1].item())


def test_it_equals_scikit_learn_s():
    from sklearn.decomposition import PCA

    features = correlated()
    expected = torch.from_numpy(PCA(2, whiten=True).fit_transform(features.double().numpy()))
    white = whitening.fit(features, dim=2)(features).double()
    assert torch.allclose(white.abs(), expected.abs() * (400 / 399) ** 0.5, atol=1e-4)


def test_a_direction_without_variance_does_not_divide_by_zero():
    features = torch.tensor([[1.0, 4.0], [-1.0, 4.0], [1.0, 4.0]])
    white = whitening.fit(features, dim=2)(features)
    assert white.isfinite().all()
    assert white[:, 1].tolist() == pytest.approx([0.0] * 3, abs=1e-3)


def test_more_dimensions_than_features_are_refused():
    with pytest.raises(BadSettings, match="Set whiten to 3 or less"):
        whitening.fit(correlated(), dim=4)
