import dataclasses
import io

import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.mixture import GaussianMixture

from roost import clusters
from roost.clusters import Clusters
from roost.errors import BadArtifact, BadVector


@pytest.fixture
def corners() -> Clusters:
    """Two clusters at the ends of the axes of a plane; the mixture is one standard normal along the first axis."""
    return Clusters(
        centroids=np.array([[1, 0], [0, 1]], np.float32),
        pca_mean=np.zeros(2),
        pca_components=np.array([[1.0, 0.0]]),
        pca_scale=np.ones(1),
        weights=np.ones(1),
        means=np.zeros((1, 1)),
        precisions_cholesky=np.ones((1, 1, 1)),
        quantiles=np.array([0.5]),
        distance_quantiles=np.array([[0.2], [0.0]]),
        median_distances=np.array([0.2, 0.0]),
        fitted_images=np.array([5, 3]),
        medoid_ids=np.array(["a", "b"]),
        threshold=0.6,
        false_alarm_rate=0.01,
    )


@pytest.fixture(scope="module")
def fitted() -> tuple[np.ndarray, KMeans, PCA, GaussianMixture, Clusters]:
    """scikit-learn's own fit of 600 unit-length vectors, and the same numbers as Clusters."""
    generator = np.random.default_rng(0)
    vectors = generator.normal(size=(600, 24)) + 3 * generator.normal(size=(6, 24))[generator.integers(6, size=600)]
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    kmeans = KMeans(6, n_init=1, random_state=0).fit(vectors)
    pca = PCA(8, whiten=True).fit(vectors.astype(float))
    mixture = GaussianMixture(5, reg_covar=1e-3, random_state=0).fit(pca.transform(vectors.astype(float)))
    median = np.array([np.median(kmeans.transform(vectors)[kmeans.labels_ == c, c]) for c in range(6)])
    ours = Clusters(
        centroids=kmeans.cluster_centers_,
        pca_mean=pca.mean_,
        pca_components=pca.components_,
        pca_scale=np.sqrt(pca.explained_variance_),
        weights=mixture.weights_,
        means=mixture.means_,
        precisions_cholesky=mixture.precisions_cholesky_,
        quantiles=np.array([0.5]),
        distance_quantiles=median[:, None],
        median_distances=median,
        fitted_images=np.bincount(kmeans.labels_),
        medoid_ids=np.array(list("abcdef")),
        threshold=0.5,
        false_alarm_rate=0.01,
    )
    return vectors, kmeans, pca, mixture, ours


def test_a_vector_is_placed_by_hand(corners):
    (placement,) = corners.place(np.array([[0.6, 0.8]], np.float32))
    # To (0, 1): sqrt(0.36 + 0.04) = 0.632, and the threshold is 0.6.
    assert (placement.cluster, placement.anomaly) == (1, True)
    assert placement.distance == pytest.approx(0.4**0.5)
    assert placement.anomaly_score == pytest.approx(0.4**0.5 / 0.6)
    assert placement.log_likelihood == pytest.approx(-0.5 * np.log(2 * np.pi) - 0.18)
    assert placement.responsibilities is not None
    assert placement.responsibilities.dtype == np.float32
    assert placement.responsibilities.tolist() == [1.0]


def test_the_threshold_is_where_the_anomaly_flag_turns(corners):
    inside, outside = [1, -0.59], [1, -0.61]
    assert [p.anomaly for p in corners.place(np.array([inside, outside], np.float32))] == [False, True]


def test_clusters_are_those_that_kmeans_predicts(fitted):
    vectors, kmeans, _, _, ours = fitted
    cluster, distance = ours.nearest(vectors)
    assert np.array_equal(cluster, kmeans.predict(vectors))
    np.testing.assert_allclose(distance, kmeans.transform(vectors).min(axis=1), atol=1e-5)


def test_responsibilities_and_likelihoods_are_those_of_the_mixture(fitted):
    vectors, _, pca, mixture, ours = fitted
    whitened = pca.transform(vectors.astype(float))
    np.testing.assert_allclose(ours.whiten(vectors), whitened, atol=1e-5)
    np.testing.assert_allclose(ours.responsibilities(vectors), mixture.predict_proba(whitened), atol=1e-5)
    np.testing.assert_allclose(ours.log_likelihood(vectors), mixture.score_samples(whitened), atol=1e-5)


def test_likelihoods_far_from_the_mixture_stay_finite(fitted):
    *_, pca, mixture, ours = fitted
    far = np.full((1, 24), 1000, np.float32)
    expected = mixture.score_samples(pca.transform(far.astype(float)))
    np.testing.assert_allclose(ours.log_likelihood(far), expected, rtol=1e-9)
    assert ours.responsibilities(far).sum() == pytest.approx(1)


def test_the_anomaly_score_is_the_distance_as_a_share_of_the_threshold(fitted):
    vectors, kmeans, _, _, ours = fitted
    np.testing.assert_allclose(ours.anomaly_score(vectors), kmeans.transform(vectors).min(axis=1) / 0.5, rtol=1e-4)


def test_place_agrees_with_the_arrays_one_by_one_and_in_parts(fitted, monkeypatch):
    vectors, _, _, _, ours = fitted
    one_by_one = [ours.place(vector[None])[0] for vector in vectors[:50]]
    monkeypatch.setattr("roost.clusters.MAX_VALUES", 7 * ours.means.size)
    together = ours.place(vectors[:50])
    for single, batched in zip(one_by_one, together, strict=True):
        assert (single.cluster, single.anomaly) == (batched.cluster, batched.anomaly)
        assert single.log_likelihood == pytest.approx(batched.log_likelihood, abs=1e-9)
        np.testing.assert_allclose(single.responsibilities, batched.responsibilities, atol=1e-6)


def test_no_vectors_have_no_placements(corners):
    assert corners.place(np.zeros((0, 2), np.float32)) == []


def test_a_placement_holds_plain_numbers(corners):
    (placement,) = corners.place(np.array([[1, 0]], np.float32))
    types = [type(value) for value in dataclasses.astuple(placement)[:5]]
    assert types == [int, float, float, float, bool]


@pytest.mark.parametrize("vectors", [np.zeros((1, 3)), np.zeros(2), np.zeros(()), np.array([[np.nan, 0]])])
def test_a_vector_that_is_no_embedding_of_this_model_is_refused(corners, vectors):
    with pytest.raises(BadVector, match="Send this model's embeddings"):
        corners.place(vectors)


def test_what_was_saved_is_loaded(fitted, tmp_path):
    *_, ours = fitted
    clusters.save(tmp_path / clusters.FILE, ours)
    loaded = clusters.load(tmp_path / clusters.FILE, dim=24)
    for field in dataclasses.fields(Clusters):
        assert np.array_equal(getattr(loaded, field.name), getattr(ours, field.name)), field.name
    assert isinstance(loaded.threshold, float)
    assert [path.name for path in tmp_path.iterdir()] == [clusters.FILE]


def test_saving_twice_gives_the_same_bytes(corners, tmp_path):
    clusters.save(tmp_path / "one", corners)
    clusters.save(tmp_path / "two", corners)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(BadArtifact, match="cannot be read"):
        clusters.load(tmp_path / clusters.FILE, dim=2)


@pytest.mark.parametrize("keep", [0, 10, 500, -1])
def test_a_file_cut_short_is_refused(corners, tmp_path, keep):
    clusters.save(tmp_path / clusters.FILE, corners)
    content = (tmp_path / clusters.FILE).read_bytes()
    (tmp_path / clusters.FILE).write_bytes(content[:keep])
    with pytest.raises(BadArtifact, match="cannot be read"):
        clusters.load(tmp_path / clusters.FILE, dim=2)


def test_a_file_with_a_flipped_bit_is_refused(fitted, tmp_path):
    *_, ours = fitted
    clusters.save(tmp_path / clusters.FILE, ours)
    content = bytearray((tmp_path / clusters.FILE).read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / clusters.FILE).write_bytes(content)
    with pytest.raises(BadArtifact):
        clusters.load(tmp_path / clusters.FILE, dim=24)


def test_a_bare_array_is_refused(tmp_path):
    content = io.BytesIO()
    np.save(content, np.zeros(3))
    (tmp_path / clusters.FILE).write_bytes(content.getvalue())
    with pytest.raises(BadArtifact, match="cannot be read"):
        clusters.load(tmp_path / clusters.FILE, dim=2)


def test_pickled_objects_are_never_read(corners, tmp_path):
    _rewrite(tmp_path, corners, medoid_ids=np.array(["a", "b"], dtype=object))
    with pytest.raises(BadArtifact, match="pickle"):
        clusters.load(tmp_path / clusters.FILE, dim=2)


@pytest.mark.parametrize("schema", [1, "2", [2, 2], None])
def test_another_schema_is_refused(corners, tmp_path, schema):
    _rewrite(tmp_path, corners, schema=schema)
    with pytest.raises(BadArtifact, match=r"schema .*, not 2\. Run `roost cluster` again"):
        clusters.load(tmp_path / clusters.FILE, dim=2)


def test_another_models_clusters_are_refused(corners, tmp_path):
    clusters.save(tmp_path / clusters.FILE, corners)
    with pytest.raises(BadArtifact, match="of 2 values, and this model's have 512"):
        clusters.load(tmp_path / clusters.FILE, dim=512)


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Clusters)])
def test_a_file_that_lacks_any_array_is_refused(corners, tmp_path, name):
    _rewrite(tmp_path, corners, **{name: None})
    with pytest.raises(BadArtifact, match=f"lacks or adds {name}"):
        clusters.load(tmp_path / clusters.FILE, dim=2)


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Clusters)])
def test_an_array_of_another_shape_is_refused(corners, tmp_path, name):
    _rewrite(tmp_path, corners, **{name: np.asarray(getattr(corners, name))[..., None]})
    with pytest.raises(BadArtifact, match="malformed"):
        clusters.load(tmp_path / clusters.FILE, dim=2)


@pytest.mark.parametrize(
    "name", [f.name for f in dataclasses.fields(Clusters) if f.name not in ("fitted_images", "medoid_ids")]
)
def test_a_value_that_is_not_finite_is_refused(corners, tmp_path, name):
    values = np.array(getattr(corners, name))
    values.flat[0] = np.nan
    _rewrite(tmp_path, corners, **{name: values})
    with pytest.raises(BadArtifact, match=f"{name} has a value that is not finite"):
        clusters.load(tmp_path / clusters.FILE, dim=2)


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("weights", np.array([0.5]), "no probabilities"),
        ("pca_scale", np.array([0.0]), "pca_scale"),
        ("precisions_cholesky", -np.ones((1, 1, 1)), "diagonal"),
        ("median_distances", np.array([0.2, -0.1]), "negative"),
        ("threshold", 0.0, "threshold"),
        ("threshold", 2.1, "threshold is not between 0 and 2"),
        ("quantiles", np.array([1.5]), "ascend"),
        ("false_alarm_rate", 1.0, "false_alarm_rate"),
        ("fitted_images", np.array([1.0, 2.0]), "type float64"),
        ("threshold", "high", "type"),
    ],
)
def test_values_that_mean_nothing_are_refused(corners, name, value, problem):
    with pytest.raises(BadArtifact, match=problem):
        dataclasses.replace(corners, **{name: value})


def _rewrite(folder, original, **changes):
    """Write clusters.npz by numpy alone, with some arrays changed, or left out where None."""
    arrays = {"schema": clusters.SCHEMA} | {f.name: getattr(original, f.name) for f in dataclasses.fields(Clusters)}
    arrays = {name: value for name, value in (arrays | changes).items() if value is not None}
    np.savez(folder / clusters.FILE, **arrays)
