import numpy as np
import pytest
import torch
from lightly.utils.benchmarking.knn import knn_predict as lightly_knn_predict
from torch.nn import functional

from roost_training import evaluate
from roost_training.evaluate.neighbours import MAX_SIMILARITIES


def test_a_near_neighbour_outvotes_two_far_ones():
    bank = np.array([[1.0, 0.0], [0.6, 0.8], [0.6, 0.8]])
    # Votes for class 0: e^(1/0.1) = 22026; for class 1: 2 e^(0.6/0.1) = 807.
    assert evaluate.knn_predict(bank, np.array([0, 1, 1]), np.array([[3.0, 0.0]]), k=3, temperature=0.1).tolist() == [0]


def test_far_neighbours_outvote_a_near_one_at_a_high_temperature():
    bank = np.array([[1.0, 0.0], [0.6, 0.8], [0.6, 0.8]])
    # Votes for class 0: e^(1/10) = 1.11; for class 1: 2 e^(0.6/10) = 2.12.
    assert evaluate.knn_predict(bank, np.array([0, 1, 1]), np.array([[3.0, 0.0]]), k=3, temperature=10).tolist() == [1]


def test_knn_accuracy_counts_the_right_queries():
    bank, labels = np.eye(4), np.arange(4)
    assert evaluate.knn_accuracy(bank, labels, bank, np.array([0, 1, 2, 0]), k=1) == 0.75


def test_knn_predictions_equal_those_of_lightly():
    generator = torch.Generator().manual_seed(0)
    bank = functional.normalize(torch.randn(300, 16, generator=generator), dim=1)
    queries = functional.normalize(torch.randn(100, 16, generator=generator), dim=1)
    labels = torch.randint(7, (300,), generator=generator)
    expected = lightly_knn_predict(queries, bank.T, labels, num_classes=7, knn_k=20, knn_t=0.1)[:, 0]
    assert torch.equal(evaluate.knn_predict(bank, labels, queries, k=20, temperature=0.1), expected)


def test_knn_predictions_do_not_depend_on_the_chunks_they_are_made_in(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    bank, queries = torch.randn(2, 50, 8, generator=generator)
    labels = torch.randint(3, (50,), generator=generator)
    whole = evaluate.knn_predict(bank, labels, queries, k=5, temperature=0.1)
    monkeypatch.setattr("roost_training.evaluate.neighbours.MAX_SIMILARITIES", 7 * 50)
    assert MAX_SIMILARITIES > 50 * 50
    assert torch.equal(evaluate.knn_predict(bank, labels, queries, k=5, temperature=0.1), whole)


def test_a_bank_smaller_than_k_votes_as_a_whole():
    assert evaluate.knn_accuracy(np.eye(3), np.arange(3), np.eye(3), np.arange(3), k=20) == 1.0


@pytest.mark.parametrize(
    ("bank", "labels", "queries", "k", "message"),
    [
        (np.zeros((0, 2)), np.zeros(0), np.eye(2), 1, "n > 0"),
        (np.eye(2), np.zeros(3), np.eye(2), 1, "labels for 2"),
        (np.eye(2), np.array([0, -1]), np.eye(2), 1, "negative"),
        (np.eye(2), np.zeros(2), np.eye(3), 1, "3 dimensions"),
        (np.eye(2), np.zeros(2), np.eye(2), 0, "positive"),
    ],
)
def test_knn_refuses_what_it_cannot_compare(bank, labels, queries, k, message):
    with pytest.raises(ValueError, match=message):
        evaluate.knn_accuracy(bank, labels, queries, np.zeros(len(queries)), k=k)


def test_the_settings_of_a_measure_are_the_defaults_of_its_signature():
    assert evaluate.settings_of(evaluate.knn_accuracy, k=200) == {"k": 200, "temperature": 0.1}


def test_rankme_of_orthogonal_embeddings_is_their_dimension():
    assert evaluate.rankme(torch.eye(8).repeat(4, 1)) == pytest.approx(8, abs=1e-4)


def test_rankme_of_two_unequal_directions_is_the_exponential_of_their_entropy():
    # Singular values 3 and 1: shares 3/4 and 1/4, entropy 0.75 ln(4/3) + 0.25 ln 4 = 0.562335.
    assert evaluate.rankme(np.diag([3.0, 1.0])) == pytest.approx(np.exp(0.562335), abs=1e-5)


def test_rankme_of_a_collapsed_embedding_is_one():
    assert evaluate.rankme(torch.ones(100, 16)) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("shape", [(60, 20), (20, 60)])
def test_rankme_equals_the_papers_formula_on_a_full_decomposition(shape):
    embeddings = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    singular = np.linalg.svd(embeddings, compute_uv=False)
    share = singular / singular.sum() + 1e-7
    assert evaluate.rankme(embeddings) == pytest.approx(np.exp(-(share * np.log(share)).sum()), rel=1e-5)


def test_rankme_refuses_values_that_are_not_finite():
    with pytest.raises(ValueError, match="finite"):
        evaluate.rankme(torch.tensor([[1.0, float("nan")]]))


def test_agreement_of_a_partition_counted_by_hand():
    # Clusters {a a b}, {b b}, {c}: purity (2 + 2 + 1) / 6; matched one to one it is the same.
    # Rand: pairs together in both 2, expected 4 * 4 / 15, at most 4: (2 - 16/15) / (4 - 16/15) = 7/22.
    scores = evaluate.agreement([0, 0, 1, 1, 1, 2], [5, 5, 5, 3, 3, 4])
    assert (scores.purity, scores.accuracy) == pytest.approx((5 / 6, 5 / 6))
    assert scores.ari == pytest.approx(7 / 22)


def test_mutual_information_is_normalised_by_the_mean_entropy():
    # One cluster per image of two classes of two: information ln 2, entropies ln 2 and 2 ln 2.
    assert evaluate.agreement([0, 0, 1, 1], [0, 1, 2, 3]).nmi == pytest.approx(1 / 1.5)


def test_one_cluster_for_every_image_is_pure_but_not_accurate():
    scores = evaluate.agreement([0, 0, 1, 1], [0, 1, 2, 3])
    assert (scores.purity, scores.accuracy) == (1, 0.5)


def test_renumbered_classes_agree_fully():
    assert evaluate.agreement([0, 0, 1, 2], [7, 7, 2, 0]) == evaluate.Agreement(nmi=1, ari=1, purity=1, accuracy=1)


def test_one_cluster_for_all_tells_nothing():
    scores = evaluate.agreement([0, 0, 1, 1], [0, 0, 0, 0])
    assert (scores.nmi, scores.ari, scores.purity) == (0, 0, 0.5)


def test_agreement_refuses_partitions_of_different_images():
    with pytest.raises(ValueError, match="shape"):
        evaluate.agreement([0, 1], [0, 1, 1])


def test_a_linear_probe_separates_what_a_plane_separates():
    generator = np.random.default_rng(0)
    features = generator.normal(size=(300, 5))
    labels = (features[:, 0] + features[:, 1] > 0).astype(int)
    probe = evaluate.linear_probe(features[:200], labels[:200], features[200:], labels[200:])
    assert probe.accuracy >= 0.97
    assert probe.converged


def test_a_linear_probe_minimises_the_mean_cross_entropy_plus_its_penalty():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(200, 40, generator=generator, dtype=torch.float64) * torch.arange(1, 41)
    labels = (features[:, :3] / torch.arange(1, 4) + torch.randn(200, 3, generator=generator)).argmax(dim=1)
    standardised = (features - features.mean(dim=0)) / features.std(dim=0, correction=0)
    weight, bias = torch.zeros(40, 3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    optimiser = torch.optim.LBFGS(
        [weight.requires_grad_(), bias.requires_grad_()], max_iter=500, tolerance_change=1e-12
    )

    def objective():
        optimiser.zero_grad()
        loss = functional.cross_entropy(standardised @ weight + bias, labels) + 2 / 2 * weight.square().sum()
        loss.backward()
        return loss

    optimiser.step(objective)
    expected = ((standardised @ weight + bias).argmax(dim=1) == labels).double().mean().item()
    assert evaluate.linear_probe(features, labels, features, labels, l2=2).bank_accuracy == expected


def test_a_linear_probe_that_runs_out_of_iterations_says_so():
    generator = np.random.default_rng(0)
    features, labels = generator.normal(size=(100, 20)), generator.integers(4, size=100)
    assert not evaluate.linear_probe(features, labels, features, labels, max_iterations=2).converged


def test_a_linear_probe_refuses_a_single_class():
    with pytest.raises(ValueError, match="class"):
        evaluate.linear_probe(np.eye(3), np.zeros(3, int), np.eye(3), np.zeros(3, int))


def test_alignment_of_orthogonal_views_is_two_and_of_equal_views_nothing():
    views = torch.eye(4)
    assert evaluate.alignment(views, views.roll(1, 0)) == pytest.approx(2)
    assert evaluate.alignment(views, 3 * views) == 0


def test_alignment_takes_the_distance_to_the_power_alpha():
    assert evaluate.alignment(torch.eye(2), torch.eye(2).roll(1, 0), alpha=1) == pytest.approx(2**0.5)


def test_uniformity_of_orthogonal_embeddings_is_minus_twice_t():
    assert evaluate.uniformity(torch.eye(5), t=3) == pytest.approx(-6)


def test_uniformity_of_a_collapsed_embedding_is_zero():
    assert evaluate.uniformity(torch.ones(10, 4)) == pytest.approx(0, abs=1e-6)


def test_uniformity_equals_the_papers_code_in_any_chunks(monkeypatch):
    z = functional.normalize(torch.randn(40, 6, generator=torch.Generator().manual_seed(0)), dim=1)
    expected = torch.pdist(z.double()).pow(2).mul(-2).exp().mean().log().item()  # Wang and Isola, figure 5
    monkeypatch.setattr("roost_training.evaluate.hypersphere.MAX_PAIRS", 7 * 40)
    assert evaluate.uniformity(z) == pytest.approx(expected, abs=1e-5)


def test_the_hypersphere_measures_refuse_what_has_no_pairs():
    with pytest.raises(ValueError, match="at least two"):
        evaluate.uniformity(torch.ones(1, 4))
    with pytest.raises(ValueError, match="views"):
        evaluate.alignment(torch.eye(2), torch.eye(3))
