import numpy as np
import pytest
import torch
from torch.nn import functional

from roost.errors import BadData, BadSettings
from roost_training import encoders, evaluate
from roost_training.evaluate import embedding, figures
from roost_training.evaluate.embedding import Vectors
from roost_training.images import data


def corners(copies: int) -> tuple[Vectors, np.ndarray]:
    """Three classes of images near three orthogonal directions."""
    generator = torch.Generator().manual_seed(copies)
    labels = np.repeat(np.arange(3), copies)
    near = torch.eye(3)[labels] + 0.05 * torch.randn(3 * copies, 3, generator=generator)
    return Vectors(near, functional.normalize(near, dim=1)), labels


def test_classes_that_lie_apart_reach_every_figure_s_best():
    (bank, bank_labels), (queries, query_labels) = corners(20), corners(8)
    found = figures.score(bank, queries, bank_labels, query_labels)
    shares = found.keys() - {"rankme", "feature_std", "uniformity"}
    assert {name: found[name] for name in shares} == pytest.approx(dict.fromkeys(shares, 1))
    assert found["rankme"] == pytest.approx(3, abs=0.01)
    # Of 24 * 23 pairs, 24 * 7 are nearly one point and 24 * 16 orthogonal: log((7 + 16 e^-4) / 23).
    assert found["uniformity"] == pytest.approx(np.log((7 + 16 * np.exp(-4)) / 23), abs=0.05)


def test_every_figure_has_a_title_and_no_other():
    (bank, labels), (queries, query_labels) = corners(20), corners(8)
    found = figures.score(bank, queries, labels, query_labels)
    assert found.keys() | {"alignment", "clusters_k"} == figures.FIGURES.keys()


def test_without_labels_the_figures_that_need_none_are_left():
    (bank, labels), (queries, _) = corners(20), corners(8)
    assert figures.score(bank, queries, labels, None).keys() == {"rankme", "feature_std", "uniformity"}


def test_the_probe_reads_features_and_neighbours_read_embeddings():
    (apart, labels), (scored, query_labels) = corners(20), corners(8)
    noise = torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
    bank = Vectors(apart.features, functional.normalize(noise, dim=1))
    found = figures.score(bank, scored, labels, query_labels)
    assert found["linear_probe"] == 1
    assert max(found["knn20"], found["nmi"], found["linear_probe_embeddings"]) < 0.9


def test_one_class_is_refused():
    bank, _ = corners(5)
    with pytest.raises(BadData, match="one class"):
        figures.score(bank, bank, np.zeros(15, int), np.zeros(15, int))


def test_a_collapsed_encoder_has_no_clusters():
    same = Vectors(torch.ones(30, 4), functional.normalize(torch.ones(30, 4), dim=1))
    with pytest.raises(BadSettings, match="of 1 different images"):
        figures.score(same, same, np.arange(30) % 3, np.arange(30) % 3)


def test_an_encoder_is_measured_by_what_it_makes_of_images(digits, tmp_path):
    images = data.load(digits, side=16, cache=tmp_path)
    bank, queries = data.split(images, fraction=0.25, seed=0)
    torch.manual_seed(0)
    encoder, _ = encoders.build("resnet10w32", image_size=16)
    embedder = encoders.Embedder(encoder, mean=(0.5,) * 3, std=(0.3,) * 3).train()
    found = figures.measure(embedder, bank, queries)
    assert embedder.training
    rows = embedding.embed(embedder, bank), embedding.embed(embedder, queries)
    expected = evaluate.knn_accuracy(rows[0], bank.labels, rows[1], queries.labels, k=20)
    assert found["knn20"] == expected > 0.1


def test_the_standard_deviation_of_collapsed_features_is_nothing_and_of_spread_ones_one():
    assert evaluate.feature_std(torch.ones(10, 4)) == pytest.approx(0, abs=1e-6)
    # Of the eight unit vectors ± e_i every dimension has mean 0 and variance 2/8: std 1/2, times the root of 4.
    assert evaluate.feature_std(torch.cat([torch.eye(4), -torch.eye(4)])) == pytest.approx(1)


def test_signs_of_collapse_are_those_of_a_part_of_many_features(monkeypatch):
    features = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr("roost_training.evaluate.spectrum.MAX_IMAGES", 10)
    some = functional.normalize(features[::3], dim=1)
    expected = {"rankme": evaluate.rankme(some), "feature_std": evaluate.feature_std(some)}
    assert evaluate.signs_of_collapse(features) == expected
