import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from roost_training import evaluate


def at(*degrees):
    return np.array([[np.cos(np.radians(angle)), np.sin(np.radians(angle))] for angle in degrees])


def test_the_average_precision_of_a_ranking_counted_by_hand():
    # In order of similarity the bank is wrong, right, wrong, right: precision 1/2 and 2/4 at the right answers.
    found = evaluate.score_retrieval(at(10, 20, 30, 40), [1, 0, 1, 0], at(0), [0], at=[1, 2, 3])
    assert found.mean_average_precision == pytest.approx((1 / 2 + 2 / 4) / 2)
    assert found.recall == {1: 0, 2: 1, 3: 1}


def test_a_bank_sorted_by_class_is_perfect():
    found = evaluate.score_retrieval(at(0, 10, 90, 80), [0, 0, 1, 1], at(5, 85), [0, 1])
    assert (found.mean_average_precision, found.recall[1], found.queries) == (1, 1, 2)


def test_retrieval_equals_a_double_loop_and_scikit_learn(monkeypatch):
    generator = np.random.default_rng(0)
    bank, queries = generator.normal(size=(60, 5)), generator.normal(size=(17, 5))
    bank_labels, query_labels = generator.integers(4, size=60), generator.integers(4, size=17)
    monkeypatch.setattr("roost_training.evaluate.retrieval.MAX_RANKED", 7 * 60)  # in three parts
    found = evaluate.score_retrieval(bank, bank_labels, queries, query_labels, at=[3])
    hits, precision = [], []
    for query, label in zip(queries, query_labels, strict=True):
        similarity = [row @ query / np.linalg.norm(row) for row in bank]
        nearest = sorted(range(60), key=lambda place: -similarity[place])[:3]
        hits.append(any(bank_labels[place] == label for place in nearest))
        precision.append(average_precision_score(bank_labels == label, similarity))
    assert found.recall[3] == pytest.approx(np.mean(hits))
    assert found.mean_average_precision == pytest.approx(np.mean(precision))


def test_a_collapsed_embedding_keeps_the_order_of_the_bank():
    bank = np.ones((4, 3))
    assert evaluate.score_retrieval(bank, [1, 1, 0, 0], bank[:1], [1], at=[1]).mean_average_precision == 1
    assert evaluate.score_retrieval(bank, [0, 0, 1, 1], bank[:1], [1], at=[1]).recall == {1: 0}


def test_a_query_whose_class_the_bank_lacks_does_not_count():
    found = evaluate.score_retrieval(at(0, 90), [0, 1], at(5, 6), [0, 7], at=[1])
    assert (found.queries, found.recall[1]) == (1, 1)


@pytest.mark.parametrize(
    ("queries", "labels", "k", "message"),
    [
        (at(0), [0, 1], [1], "labels for 1 queries"),
        (at(0), [5], [1], "no query"),
        (at(0), [0], [0], "at least 1"),
        (at(0), [0], [], "at least 1"),
        (np.eye(3), [0, 1, 1], [1], "3 dimensions"),
    ],
)
def test_retrieval_refuses_what_it_cannot_rank(queries, labels, k, message):
    with pytest.raises(ValueError, match=message):
        evaluate.score_retrieval(at(0, 90), [0, 1], queries, labels, at=k)
