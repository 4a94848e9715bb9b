import dataclasses
import json
import shutil

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from sklearn.mixture import GaussianMixture

from roost import artifact, clusters
from roost.artifact import Data, Input, Manifest
from roost.errors import BadArtifact, BadData, BadSettings
from roost.ids import content_id
from roost.preprocess import decode
from roost_training.clustering import kmeans, mixture
from roost_training.clustering.cluster import anomaly_threshold, cluster, cross_checked_rate, fit, split
from roost_training.evaluate import agreement

SIZE, DIM = 6, 16
COLOURS = {"blue": (40, 60, 220), "green": (30, 200, 60), "red": (230, 40, 30)}


@pytest.fixture(scope="module")
def blobs() -> tuple[np.ndarray, np.ndarray]:
    """1,000 unit-length vectors around four orthogonal directions, and which: 400, 300, 200 and 100 of them."""
    generator = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), [400, 300, 200, 100])
    vectors = np.eye(8)[labels] + 0.1 * generator.normal(size=(1000, 8))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    order = generator.permutation(1000)
    return vectors[order].astype(np.float32), labels[order]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Twenty noisy squares of each colour, in folders named for it."""
    folder = tmp_path_factory.mktemp("squares")
    generator = np.random.default_rng(0)
    for name, colour in COLOURS.items():
        (folder / name).mkdir()
        for i in range(20):
            pixels = np.clip(colour + generator.normal(scale=15, size=(9, 12, 3)), 0, 255)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{i}.png")
    return folder


@pytest.fixture
def model(tmp_path):
    """A model repository with one version: a random projection of the pixels, scaled to unit length."""
    folder = tmp_path / "repository" / "squares" / "1"
    folder.mkdir(parents=True)
    weights = np.random.default_rng(0).normal(size=(SIZE * SIZE * 3, DIM)).astype(np.float32)
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["float"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["product"]),
        helper.make_node("LpNormalization", ["product"], ["embedding"], axis=1, p=2),
    ]
    source = helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", SIZE, SIZE, 3])
    result = helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", DIM])
    graph = helper.make_graph(nodes, "squares", [source], [result], [numpy_helper.from_array(weights, "weights")])
    opset = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), folder / "model.onnx")
    manifest = Manifest(
        name="squares",
        method="none",
        encoder="projection",
        input=Input(size=SIZE, resize=8, mean=(0, 0, 0), std=(1, 1, 1)),
        dim=DIM,
        data=Data(fingerprint="0" * 64, images=60),
        quality={"parity_max_abs_difference": 0.0},
    )
    artifact.write(folder, manifest, files=["model.onnx"])
    return folder.parent


def test_clusters_recover_separate_blobs_and_the_largest_comes_first(blobs):
    vectors, labels = blobs
    fitted = fit(vectors, ids=[str(i) for i in range(1000)], k=4, components=None, seed=0)
    cluster, _ = fitted.nearest(vectors)
    assert np.array_equal(cluster, labels)
    kept, _ = split(1000, fraction=0.2, seed=0)
    assert fitted.fitted_images.tolist() == np.bincount(labels[kept]).tolist()


def test_component_i_of_the_mixture_grows_out_of_cluster_i(blobs):
    vectors, labels = blobs
    fitted = fit(vectors, ids=[str(i) for i in range(1000)], k=4, components=None, seed=0)
    assert agreement(labels, fitted.responsibilities(vectors).argmax(axis=1)).accuracy == 1
    assert np.array_equal(fitted.responsibilities(vectors).argmax(axis=1), labels)


def test_statistics_of_a_cluster_are_those_of_its_fitted_images(blobs):
    vectors, labels = blobs
    fitted = fit(vectors, ids=[str(i) for i in range(1000)], k=4, components=2, seed=3)
    kept, _ = split(1000, fraction=0.2, seed=3)
    members = kept[labels[kept] == 2]
    distances = np.linalg.norm(vectors[members] - vectors[members].mean(axis=0), axis=1)
    assert fitted.median_distances[2] == pytest.approx(np.median(distances), abs=1e-5)
    assert fitted.distance_quantiles[2, fitted.quantiles.tolist().index(0.95)] == pytest.approx(
        np.quantile(distances, 0.95), abs=1e-5
    )
    assert fitted.medoid_ids[2] == str(members[distances.argmin()])


def test_the_same_seed_gives_the_same_clusters_and_another_holds_out_others(blobs):
    vectors, _ = blobs
    ids = [str(i) for i in range(1000)]
    one, two, other = (fit(vectors, ids=ids, k=4, components=3, seed=seed) for seed in (1, 1, 2))
    for field in dataclasses.fields(clusters.Clusters):
        assert np.array_equal(getattr(one, field.name), getattr(two, field.name)), field.name
    assert other.fitted_images.tolist() != one.fitted_images.tolist()


def test_silhouettes_choose_the_number_of_blobs(blobs):
    vectors, _ = blobs
    assert len(fit(vectors, ids=["id"] * 1000, k=None, components=None, seed=0).centroids) == 4


def test_a_mixture_may_have_another_number_of_components_than_there_are_clusters(blobs):
    vectors, _ = blobs
    fitted = fit(vectors, ids=["id"] * 1000, k=4, components=1, seed=0)
    assert (fitted.centroids.shape, fitted.weights.tolist()) == ((4, 8), [1.0])


def test_the_mixture_is_a_fixed_point_of_expectation_maximisation(blobs):
    vectors, labels = blobs
    found = mixture.fit(vectors, labels)
    whitened = (vectors - found.pca_mean) @ found.pca_components.T / found.pca_scale
    again = GaussianMixture(
        4,
        reg_covar=mixture.REG_COVAR,
        weights_init=found.weights,
        means_init=found.means,
        precisions_init=found.precisions_cholesky @ found.precisions_cholesky.transpose(0, 2, 1),
    ).fit(whitened)
    np.testing.assert_allclose(again.means_, found.means, atol=1e-3)
    np.testing.assert_allclose(np.cov(whitened, rowvar=False), np.eye(whitened.shape[1]), atol=1e-6)


def test_the_mixture_keeps_no_more_dimensions_than_its_images_can_fill():
    generator = np.random.default_rng(0)
    vectors = generator.normal(size=(40, 30))
    found = mixture.fit(vectors, np.arange(40) % 2)
    assert found.means.shape == (2, 20 // mixture.IMAGES_PER_DIMENSION)


def test_directions_without_variance_are_dropped():
    generator = np.random.default_rng(0)
    vectors = generator.normal(size=(400, 2)) @ generator.normal(size=(2, 10))
    assert mixture.fit(vectors, np.arange(400) % 2).pca_components.shape == (2, 10)


def test_more_starts_never_give_a_worse_partition(blobs):
    vectors, _ = blobs
    inertias = [kmeans.fit(vectors, k=12, seed=0, starts=starts).inertia for starts in (1, 3, 9)]
    assert inertias == sorted(inertias, reverse=True)


def test_the_threshold_is_the_conformal_quantile_of_the_held_out_scores():
    # 199 scores: the ceil(200 * 0.99) = 198th smallest.
    assert anomaly_threshold(np.arange(1.0, 200.0), false_alarm_rate=0.01) == 198


def test_too_few_held_out_images_for_the_rate_give_their_largest_score():
    assert anomaly_threshold(np.array([1.0, 3.0, 2.0]), false_alarm_rate=0.01) == 3


def test_the_cross_checked_rate_judges_each_half_by_the_other():
    # Thresholds at rate 0.5: of the evens 1 2 3 the 2nd, 2; of the odds 7 8 9 the 2nd, 8. Flagged: 3 of 6.
    scores = np.array([1.0, 7.0, 2.0, 8.0, 3.0, 9.0])
    assert cross_checked_rate(scores, false_alarm_rate=0.5) == 0.5


def test_ordinary_images_are_flagged_at_about_the_rate_asked_for(blobs):
    vectors, _ = blobs
    fitted = fit(vectors, ids=["id"] * 1000, k=4, components=2, seed=0, false_alarm_rate=0.05, held_out_fraction=0.5)
    generator = np.random.default_rng(1)
    fresh = np.eye(8)[generator.integers(4, size=20_000)] + 0.1 * generator.normal(size=(20_000, 8))
    fresh /= np.linalg.norm(fresh, axis=1, keepdims=True)
    # 500 held-out scores give the rate a standard error of 1 point.
    assert (fitted.anomaly_score(fresh) > 1).mean() == pytest.approx(0.05, abs=0.03)


def test_a_direction_that_no_image_had_is_an_anomaly(blobs):
    vectors, _ = blobs
    fitted = fit(vectors, ids=["id"] * 1000, k=4, components=2, seed=0)
    assert [p.anomaly for p in fitted.place(np.eye(8, dtype=np.float32))] == [False] * 4 + [True] * 4


def test_progress_ends_at_its_end(blobs):
    seen = []
    fit(blobs[0], ids=["id"] * 1000, k=3, components=None, seed=0, starts=2, progress=lambda *step: seen.append(step))
    assert seen == [("fit", 1, 2), ("fit", 2, 2)]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"k": 1}, "k is 1. Choose at least 2"),
        ({"k": -3}, "k is -3"),
        ({"k": 801}, "801 clusters were asked for, of 800 images"),
        ({"components": 0}, "components is 0"),
        ({"components": 900}, "900 clusters"),
        ({"false_alarm_rate": 0}, "false_alarm_rate is 0"),
        ({"false_alarm_rate": 1.5}, "false_alarm_rate is 1.5"),
        ({"held_out_fraction": 1.0}, "held_out_fraction"),
    ],
)
def test_numbers_that_do_not_suit_the_images_are_refused(blobs, settings, message):
    with pytest.raises(BadSettings, match=message):
        fit(blobs[0], **({"ids": ["id"] * 1000, "k": 4, "components": None, "seed": 0, "starts": 1} | settings))


def test_duplicates_do_not_make_different_images():
    vectors = np.repeat(np.eye(3, dtype=np.float32), 10, axis=0)
    with pytest.raises(BadSettings, match="Choose at most 3"):
        fit(vectors, ids=["id"] * 30, k=5, components=None, seed=0)


def test_clusters_of_duplicates_alone_can_be_fitted():
    vectors = np.repeat(np.eye(3, dtype=np.float32), 10, axis=0)
    fitted = fit(vectors, ids=["id"] * 30, k=3, components=None, seed=0)
    placements = fitted.place(vectors + np.float32(1e-5))
    assert fitted.median_distances == pytest.approx([0, 0, 0], abs=1e-6)
    assert not any(placement.anomaly for placement in placements)


@pytest.mark.parametrize("n", [0, 2])
def test_too_few_embeddings_are_refused(n):
    with pytest.raises(BadData, match=f"{n} images are too few"):
        fit(np.eye(2, dtype=np.float32)[:n], ids=["id"] * n, k=2, components=None, seed=0)


def test_embeddings_that_are_all_alike_have_no_best_k():
    vectors = np.tile(np.eye(1, 4, dtype=np.float32), (30, 1))
    with pytest.raises(BadData, match="too alike"):
        fit(vectors, ids=["id"] * 30, k=None, components=None, seed=0)


@pytest.mark.parametrize("value", [np.nan, 2.0])
def test_embeddings_that_are_not_of_unit_length_are_refused(value):
    with pytest.raises(ValueError, match="unit length"):
        fit(np.full((5, 1), value, np.float32), ids=["id"] * 5, k=2, components=None, seed=0)


def test_a_model_without_clusters_gets_them_and_keeps_what_it_had(model, images):
    before = artifact.read(model / "1")
    manifest = cluster(model, images, k=3)
    assert artifact.read(model / "1") == manifest
    assert manifest.files == before.files | {clusters.FILE: artifact.hash_file(model / "1" / clusters.FILE)}
    assert manifest.quality["parity_max_abs_difference"] == 0
    assert (manifest.reference, manifest.quality["clusters_k"]) == ("squares@1", 3)
    assert sorted(path.name for path in model.iterdir()) == ["1"]


def test_colours_are_found_and_scored_by_the_names_of_their_folders(model, images):
    quality = cluster(model, images, k=3).quality
    assert (quality["clusters_nmi"], quality["clusters_ari"], quality["clusters_accuracy"]) == (1, 1, 1)
    assert quality["false_alarm_rate"] == 0.01


def test_images_without_class_names_are_not_scored(model, images, tmp_path):
    flat = tmp_path / "flat"
    flat.mkdir()
    for path in images.glob("*/*.png"):
        shutil.copy(path, flat / f"{path.parent.name}-{path.name}")
    assert "clusters_nmi" not in cluster(model, flat, k=3).quality


def test_a_medoid_is_named_by_the_content_of_its_file_and_lies_in_its_cluster(model, images):
    cluster(model, images, k=3)
    fitted = clusters.load(model / "1" / clusters.FILE, dim=DIM)
    files = {content_id(path.read_bytes()): path for path in images.glob("*/*.png")}
    pixels = [decode(files[i].read_bytes(), size=SIZE, resize=8) for i in fitted.medoid_ids.tolist()]
    session = onnxruntime.InferenceSession(model / "1" / "model.onnx")
    (embeddings,) = session.run(None, {"image": np.stack(pixels)})
    assert [placement.cluster for placement in fitted.place(np.asarray(embeddings))] == [0, 1, 2]


def test_a_model_that_has_clusters_gets_a_new_version_and_the_old_one_stays(model, images):
    first = cluster(model, images, k=3)
    content = {path.name: path.read_bytes() for path in (model / "1").iterdir()}
    second = cluster(model, images, k=2)
    assert {path.name: path.read_bytes() for path in (model / "1").iterdir()} == content
    assert (first.version, second.version, artifact.read(model / "2")) == (1, 2, second)
    assert len(clusters.load(model / "2" / clusters.FILE, dim=DIM).centroids) == 2
    assert sorted(path.name for path in model.iterdir()) == ["1", "2"]


def test_clusters_go_to_the_highest_version_by_number(model, images):
    first = artifact.read(model / "1")
    (model / "1").rename(model / "9")
    artifact.write(model / "9", first.model_copy(update={"version": 9}), files=first.files)
    shutil.copytree(model / "9", model / "10")
    artifact.write(model / "10", first.model_copy(update={"version": 10}), files=first.files)
    assert cluster(model, images, k=3).version == 10
    assert clusters.FILE not in artifact.read(model / "9").files


def test_clusters_without_a_manifest_that_names_them_are_written_again(model, images):
    (model / "1" / clusters.FILE).write_bytes(b"what a killed run left")
    assert cluster(model, images, k=3).version == 1
    assert len(clusters.load(model / "1" / clusters.FILE, dim=DIM).centroids) == 3


def test_decoded_images_are_kept_where_a_cache_is_named(model, images, tmp_path):
    seen = []
    cluster(model, images, k=3, cache=tmp_path / "cache")
    cluster(model, images, k=3, cache=tmp_path / "cache", progress=lambda *step: seen.append(step))
    assert any((tmp_path / "cache").iterdir())
    assert seen[-1] == ("fit", 10, 10)
    assert ("embed", 60, 60) in seen


def test_a_refused_k_leaves_the_model_as_it_was(model, images):
    with pytest.raises(BadSettings, match="61 clusters"):
        cluster(model, images, k=61)
    assert sorted(path.name for path in (model / "1").iterdir()) == ["manifest.json", "model.onnx"]


def test_a_folder_without_versions_is_refused(model, images, tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere", model / "1"):
        with pytest.raises(BadArtifact, match="holds no model version"):
            cluster(folder, images, k=3)


def test_an_altered_model_is_refused(model, images):
    with (model / "1" / "model.onnx").open("ab") as stream:
        stream.write(b"x")
    with pytest.raises(BadArtifact, match="sha256 differs"):
        cluster(model, images, k=3)


def test_a_version_that_was_moved_is_refused(model, images):
    (model / "1").rename(model / "2")
    with pytest.raises(BadArtifact, match="holds squares@1"):
        cluster(model, images, k=3)


def test_a_version_that_has_only_a_tensorrt_plan_says_how_to_get_one_that_has_onnx(model, images):
    manifest = artifact.read(model / "1")
    (model / "1" / "model.onnx").rename(model / "1" / "model.plan")
    artifact.write(model / "1", manifest, files=["model.plan"])
    with pytest.raises(BadArtifact, match=r"has no model\.onnx.*`roost export --format onnx` with another --name"):
        cluster(model, images, k=3)


def test_a_model_that_gives_another_length_than_it_says_is_refused(model, images):
    path = model / "1" / artifact.MANIFEST
    path.write_text(json.dumps(json.loads(path.read_bytes()) | {"dim": 12}))
    with pytest.raises(BadArtifact, match="embeddings of shape"):
        cluster(model, images, k=3)


def test_a_folder_without_images_is_refused(model, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadData):
        cluster(model, tmp_path / "empty", k=3)
