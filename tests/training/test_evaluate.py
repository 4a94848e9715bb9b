import numpy as np
import pytest
import torch
from lightly.utils.benchmarking.knn import knn_predict as lightly_knn_predict
from roost_training import evaluate
from roost_training.evaluate.neighbours import MAX_SIMILARITIES
from torch.nn import functional


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
