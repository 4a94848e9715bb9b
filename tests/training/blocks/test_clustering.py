import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.mixture import GaussianMixture

from roost_training.blocks import clustering

CORNERS = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0], [10.0, 10.0]])


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def around(centres: torch.Tensor, *, each: int = 20, spread: float = 0.5) -> torch.Tensor:
    """Points in the order of their centres."""
    points = centres.repeat_interleave(each, 0)
    return points + spread * torch.randn(points.shape, generator=seeded(7))


def test_k_means_finds_clusters_that_lie_apart():
    points = around(CORNERS)
    found = clustering.kmeans(points, k=4, generator=seeded())
    assert found.assignments.unflatten(0, (4, 20)).unique(dim=1).shape == (4, 1)
    assert found.assignments.unique().tolist() == [0, 1, 2, 3]
    assert torch.allclose(found.centroids[found.assignments[::20]], points.unflatten(0, (4, 20)).mean(1), atol=1e-5)


def test_k_means_is_scikit_learn_s_from_the_same_start():
    points = torch.randn(300, 8, generator=seeded(1))
    start = points[torch.randperm(300, generator=seeded(2))[:5]]
    found = clustering.kmeans(points, k=5, generator=seeded(2), iterations=100)
    expected = KMeans(5, init=start.numpy(), n_init=1, max_iter=100, tol=0, algorithm="lloyd").fit(points.numpy())
    assert torch.equal(found.assignments, torch.from_numpy(expected.labels_).long())
    assert torch.allclose(found.centroids, torch.from_numpy(expected.cluster_centers_), atol=1e-5)


def test_the_same_seed_gives_the_same_clusters():
    points = torch.randn(50, 4, generator=seeded(1))
    first, second = (clustering.kmeans(points, k=6, generator=seeded(3)) for _ in range(2))
    assert torch.equal(first.assignments, second.assignments)
    assert torch.equal(first.centroids, second.centroids)


def test_points_are_compared_in_parts_where_there_are_many(monkeypatch):
    points = torch.randn(50, 4, generator=seeded(1))
    whole = clustering.nearest(points, points[:6])
    monkeypatch.setattr(clustering, "MAX_CELLS", 42)  # seven points at a time
    assert torch.equal(clustering.nearest(points, points[:6]), whole)


def test_an_empty_cluster_gets_half_of_the_one_that_is_spread_most():
    centroids = torch.tensor([[0.0, 0.0], [4.0, 4.0], [9.0, 9.0]])
    found = clustering.split(
        centroids,
        torch.tensor([3.0, 8.0, 0.0]),
        empty=torch.tensor([False, False, True]),
        step=torch.tensor(0.1),
        generator=seeded(),
    )
    assert torch.equal(found[0], centroids[0])
    assert torch.allclose(found[1] + found[2], 2 * centroids[1])
    assert 0 < (found[2] - centroids[1]).abs().max() < 0.5


def test_two_empty_clusters_get_a_half_and_a_quarter():
    found = clustering.split(
        torch.tensor([[0.0], [5.0], [7.0], [8.0]]),
        torch.tensor([6.0, 16.0, 0.0, 0.0]),
        empty=torch.tensor([False, False, True, True]),
        step=torch.tensor(1e-3),
        generator=seeded(),
    )
    assert found[:, 0].round().tolist() == [0, 5, 5, 5]


def test_no_cluster_is_empty_though_most_points_are_the_same():
    points = torch.cat([torch.zeros(90, 2), around(CORNERS, each=5)])  # most starts fall on one another
    for seed in range(5):
        found = clustering.kmeans(points, k=8, generator=seeded(seed), iterations=20)
        assert found.assignments.bincount(minlength=8).min() > 0


def test_points_that_are_all_the_same_end_in_one_cluster():
    found = clustering.kmeans(torch.ones(12, 3), k=4, generator=seeded())
    assert found.centroids.isfinite().all()
    assert len(found.assignments.unique()) == 1


@pytest.mark.parametrize("k", [0, 6])
def test_no_clusters_or_more_than_points_are_refused(k):
    with pytest.raises(ValueError, match=f"{k} clusters of 5 points"):
        clustering.kmeans(torch.rand(5, 2), k=k, generator=seeded())


def test_responsibilities_follow_bayes():
    found = clustering.Mixture(
        weights=torch.tensor([0.75, 0.25]), means=torch.tensor([[0.0], [2.0]]), variances=torch.tensor([[1.0], [4.0]])
    )
    # Densities at 1: exp(-1/2) / 1 and exp(-1/8) / 2, but for the same factor.
    first, second = 0.75 * np.exp(-1 / 2), 0.25 * np.exp(-1 / 8) / 2
    answer = found.responsibilities(torch.tensor([[1.0]]))
    assert answer[0].tolist() == pytest.approx([first / (first + second), second / (first + second)])


@pytest.mark.parametrize("iterations", [1, 10])
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_the_mixture_is_scikit_learn_s(iterations):
    points = around(CORNERS, each=50, spread=3.0).double()
    begun = torch.arange(4).repeat_interleave(50)
    found = clustering.mixture(points, begun, k=4, shared=False, iterations=iterations)
    first = clustering.mixture(points, begun, k=4, shared=False, iterations=0)
    expected = GaussianMixture(
        4,
        covariance_type="diag",
        weights_init=first.weights.numpy(),
        means_init=first.means.numpy(),
        precisions_init=(1 / first.variances).numpy(),
        reg_covar=0,
        tol=0,
        max_iter=iterations,
    ).fit(points.numpy())
    assert torch.allclose(found.weights, torch.from_numpy(expected.weights_))
    assert torch.allclose(found.means, torch.from_numpy(expected.means_))
    assert torch.allclose(found.variances, torch.from_numpy(expected.covariances_))
    assert torch.allclose(found.responsibilities(points), torch.from_numpy(expected.predict_proba(points.numpy())))


def test_shared_variances_are_the_mean_square_distance_from_the_own_component():
    points = torch.tensor([[0.0, 0.0], [2.0, 0.0], [10.0, 0.0], [10.0, 6.0]])
    found = clustering.mixture(points, torch.tensor([0, 0, 1, 1]), k=2, shared=True, iterations=0)
    assert found.means.tolist() == [[1, 0], [10, 3]]
    assert found.variances[0].tolist() == pytest.approx([(1 + 1) / 4, (9 + 9) / 4])


def test_a_component_without_points_is_never_responsible():
    points = around(CORNERS[:2])
    found = clustering.mixture(points, torch.arange(2).repeat_interleave(20), k=3, shared=False)
    assert found.weights[2] == 0
    assert (found.responsibilities(points)[:, 2] == 0).all()
    assert found.responsibilities(points).sum(1).numpy() == pytest.approx(np.ones(40), rel=1e-5)


def test_a_component_of_one_point_keeps_a_variance():
    points = torch.cat([around(CORNERS[:1]), torch.tensor([[50.0, 50.0]])])
    begun = torch.tensor([0] * 20 + [1])
    found = clustering.mixture(points, begun, k=2, shared=False)
    assert found.variances.min() > 0
    assert found.responsibilities(points).argmax(1).tolist() == begun.tolist()


def test_the_likeliest_components_are_those_of_the_largest_responsibility(monkeypatch):
    monkeypatch.setattr(clustering, "MAX_CELLS", 40)  # ten points at a time
    points = around(CORNERS, spread=4.0)
    found = clustering.mixture(points, torch.arange(4).repeat_interleave(20), k=4, shared=True)
    clusters, shares = found.likeliest(points, kept=2)
    every = found.responsibilities(points)
    order = every.argsort(1, descending=True)[:, :2]
    assert torch.equal(clusters, order)
    kept = every.gather(1, order)
    assert torch.allclose(shares, kept / kept.sum(1, keepdim=True))


def test_clusters_come_equally_often_whatever_their_sizes():
    assignments = np.repeat([0, 2, 5], [90, 8, 2])
    drawn = clustering.balanced(assignments, np.random.default_rng(0))
    assert drawn.shape == (100,)
    assert np.bincount(assignments[drawn], minlength=6).tolist() == [34, 0, 33, 0, 0, 33]


def test_the_members_of_a_cluster_come_equally_often_give_or_take_one():
    assignments = np.repeat([0, 1], [95, 5])
    drawn = clustering.balanced(assignments, np.random.default_rng(0))
    times = np.bincount(drawn, minlength=100)
    assert times[:95].max() == 1
    assert set(times[95:]) == {10}


def test_one_cluster_gives_every_image_once():
    drawn = clustering.balanced(np.zeros(20, np.int64), np.random.default_rng(0))
    assert sorted(drawn) == list(range(20))
