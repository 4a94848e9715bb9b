import json
import shutil

import numpy as np
import pytest
import torch
import torch._dynamo.utils
from safetensors.torch import load_file

from roost import artifact
from roost.errors import BadData, BadSettings, MissingDependency, TrainingFailed, UnknownPlugin
from roost_training import encoders, methods
from roost_training.images import data
from roost_training.loop.progress import Reporter
from roost_training.loop.training import train


def records(folder, kind):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == kind]


@pytest.fixture(scope="module")
def finished(digits, tmp_path_factory):
    """A run of two epochs, and its settings."""
    from roost_training.loop.settings import TrainSettings

    settings = TrainSettings(
        data=digits,
        out=tmp_path_factory.mktemp("runs") / "My Digits!",
        cache=tmp_path_factory.mktemp("pixels"),
        encoder="resnet10w32",
        image_size=16,
        batch=32,
        epochs=2,
        threads=1,
        accelerator="cpu",
        log_every=2,
    )
    train(settings, progress=Reporter())
    return settings


def test_a_run_leaves_an_artifact_whose_files_are_hashed(finished):
    manifest = artifact.read(finished.out)
    assert manifest.name == "my-digits"
    assert (manifest.method, manifest.encoder, manifest.dim) == ("simclr", "resnet10w32", 256)
    assert manifest.input.size == 16
    assert (manifest.data.images, manifest.data.classes) == (130, 10)  # of each 16, 3 are held out
    assert sorted(manifest.files) == ["encoder.safetensors", "golden.npz"]


def test_the_manifest_s_mean_and_deviation_are_those_of_the_pixels(finished):
    images, _ = data.split(data.load(finished.data, side=16, cache=finished.cache), fraction=0.2, seed=0)
    given = artifact.read(finished.out).input
    assert given.mean[0] == pytest.approx(images.pixels.mean() / 255, abs=1e-3)
    assert given.std[0] == pytest.approx(images.pixels.std() / 255, abs=1e-3)


def test_the_quality_figures_have_the_baselines_beside_them(finished):
    quality = artifact.read(finished.out).quality
    for name in ("knn20_accuracy", "untrained_knn20_accuracy", "raw_pixels_knn20_accuracy"):
        assert 0 < quality[name] <= 1
    assert 1 < quality["rankme"] <= 130
    assert (quality["epochs"], quality["images_seen"]) == (2, 2 * 4 * 32)


def test_golden_images_embed_as_the_manifest_s_encoder_embeds_them(finished):
    embedder = encoders.restore(finished.out, artifact.read(finished.out))
    with np.load(finished.out / "golden.npz") as golden:
        pixels, embeddings = golden["pixels"], golden["embeddings"]
    assert pixels.shape == (8, 16, 16, 3)
    assert np.allclose(embedder(torch.from_numpy(pixels)).detach(), embeddings, atol=1e-6)


def test_metrics_have_a_line_each_second_step_and_each_epoch(finished):
    assert [line["step"] for line in records(finished.out, "step")] == [2, 4, 6, 8]
    assert [line["epoch"] for line in records(finished.out, "epoch")] == [0, 1]
    assert {"loss", "knn20_accuracy", "rankme", "images_per_second", "data_wait"} <= records(finished.out, "epoch")[
        1
    ].keys()


def test_tensorboard_has_the_same_loss(finished):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(finished.out / "tensorboard")).Reload()
    losses = [event.value for event in events.Scalars("epoch/loss")]
    assert losses == pytest.approx([line["loss"] for line in records(finished.out, "epoch")])


def test_the_settings_are_kept_as_they_were_in_effect(finished):
    kept = json.loads((finished.out / "settings.json").read_text())
    assert kept["encoder"] == "resnet10w32"
    assert kept["views"]["blur"] == 0.5


def test_a_finished_run_is_not_trained_over_by_accident(finished):
    with pytest.raises(BadSettings, match="--resume, or start over by --overwrite"):
        train(finished, progress=Reporter())


def test_a_finished_run_that_is_resumed_keeps_its_weights(finished):
    before = load_file(finished.out / encoders.WEIGHTS)
    train(finished.model_copy(update={"resume": True}), progress=Reporter())
    assert all(torch.equal(value, before[name]) for name, value in load_file(finished.out / encoders.WEIGHTS).items())


def test_overwriting_starts_over_and_leaves_other_files_alone(settings):
    given = settings(epochs=1)
    train(given, progress=Reporter())
    (given.out / "notes.txt").write_text("mine")
    train(given.model_copy(update={"overwrite": True}), progress=Reporter())
    assert (given.out / "notes.txt").read_text() == "mine"
    assert len(records(given.out, "epoch")) == 1


def test_a_folder_of_something_else_is_never_overwritten(settings):
    given = settings(overwrite=True)
    given.out.mkdir()
    (given.out / "thesis.tex").write_text("mine")
    with pytest.raises(BadSettings, match="files of something else"):
        train(given, progress=Reporter())


def test_folders_without_class_names_are_scored_by_rankme_alone(settings, digits, tmp_path):
    for path in digits.rglob("*.png"):
        target = tmp_path / "flat" / f"{path.parent.name}-{path.name}"
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(path.read_bytes())
    manifest = train(settings(data=tmp_path / "flat", epochs=1), progress=Reporter())
    assert manifest.data.classes == 0
    assert "rankme" in manifest.quality
    assert "knn20_accuracy" not in manifest.quality


def test_a_validation_folder_s_classes_count_as_the_training_folder_s(settings, digits, tmp_path):
    for digit in ("7", "3"):
        (tmp_path / "val" / digit).mkdir(parents=True)
        (tmp_path / "val" / digit / "a.png").write_bytes((digits / digit / "00.png").read_bytes())
    manifest = train(settings(val=tmp_path / "val", epochs=1), progress=Reporter())
    assert manifest.data.images == 160
    assert manifest.quality["raw_pixels_knn20_accuracy"] in (0.0, 0.5, 1.0)


def test_a_validation_class_that_training_lacks_is_refused(settings, digits, tmp_path):
    for name in ("7", "seven"):
        (tmp_path / "val" / name).mkdir(parents=True)
        (tmp_path / "val" / name / "a.png").write_bytes((digits / "7" / "00.png").read_bytes())
    with pytest.raises(BadData, match="class 'seven'"):
        train(settings(val=tmp_path / "val"), progress=Reporter())


def test_views_are_cut_from_larger_pixels_than_the_encoder_sees(settings):
    manifest = train(settings(source_size=24, epochs=1), progress=Reporter())
    assert manifest.input.size == manifest.input.resize == 16


def test_whitened_embeddings_are_as_long_as_the_settings_say(settings):
    given = settings(whiten=24, epochs=1)
    manifest = train(given, progress=Reporter())
    assert manifest.dim == 24
    assert "untrained_whitened_knn20_accuracy" in manifest.quality
    resumed = train(given.model_copy(update={"resume": True}), progress=Reporter())
    assert resumed.files == manifest.files


def test_whitening_keeps_no_more_dimensions_than_a_quarter_of_the_images(settings):
    manifest = train(settings(whiten=100, epochs=1), progress=Reporter())
    assert manifest.dim == 130 // 4


def test_fewer_images_than_a_batch_make_a_smaller_batch(settings):
    manifest = train(settings(batch=1024, epochs=1), progress=Reporter())
    assert manifest.quality["images_seen"] == 130


def test_seven_images_are_too_few(settings, digits, tmp_path):
    for number in range(8):
        (tmp_path / f"{number}.png").write_bytes((digits / str(number) / "00.png").read_bytes())
    with pytest.raises(BadData, match="leaves 7 images"):
        train(settings(data=tmp_path, out=tmp_path / "run"), progress=Reporter())


def test_a_budget_of_time_ends_the_run_before_its_epochs_do(settings):
    manifest = train(settings(epochs=10_000, max_cpu_seconds=1.0), progress=Reporter())
    assert manifest.quality["epochs"] < 10_000
    assert manifest.quality["training_cpu_seconds"] >= 1.0


def test_a_loss_that_is_not_finite_ends_the_run_with_advice(settings):
    given = settings(epochs=50, optimiser="sgd", learning_rate=1e30, clip_norm=None, warmup=0.0, log_every=1)
    with pytest.raises(TrainingFailed, match="Try a lower learning rate"):
        train(given, progress=Reporter())
    assert not (given.out / artifact.MANIFEST).exists()


@pytest.mark.parametrize("optimiser", ["sgd", "lars"])
def test_the_other_optimisers_train_too(settings, optimiser):
    given = settings(optimiser=optimiser, epochs=3, learning_rate=0.5)
    train(given, progress=Reporter())
    losses = [line["loss"] for line in records(given.out, "epoch")]
    assert losses[-1] < losses[0]


@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_run_trains(settings):
    torch._dynamo.utils.counters.clear()
    manifest = train(settings(compile=True, epochs=1), progress=Reporter())
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    assert manifest.quality["images_seen"] == 4 * 32


def test_a_misspelt_encoder_is_refused_before_anything_is_read(settings, tmp_path):
    with pytest.raises(UnknownPlugin, match="Did you mean 'resnet18'"):
        train(settings(encoder="resnet81", data=tmp_path / "nowhere"), progress=Reporter())


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here")
def test_a_device_that_is_not_here_is_named(settings):
    with pytest.raises(MissingDependency, match="no cuda device"):
        train(settings(accelerator="cuda"), progress=Reporter())


SUPERVISED = '''
"""Learns from labels: a linear classifier."""

from torch import nn

from roost_training import methods


class Config(methods.Config):
    """Has no settings."""


class Method(methods.Method):
    """Cross-entropy over ten classes, on one view."""

    wants_labels = True

    def __init__(self, config, encoder, feature_dim):
        super().__init__(encoder)
        self.head = nn.Linear(feature_dim, 10)
        self.register_buffer("seen", nn.Parameter(None, requires_grad=False).new_zeros(2))

    def views(self, base, size):
        return super().views(base, size)[:1]

    def forward(self, views, labels):
        return {"loss": nn.functional.cross_entropy(self.head(self.encoder(views[0])), labels)}

    def before_epoch(self, epoch, embed):
        features = embed()
        assert features.shape[1] == self.head.in_features
        self.seen[0] += len(features)
        return [self.head.weight]

    def after_step(self, progress):
        self.seen[1] += 1
'''
COLLAPSE = "[parameter.data.zero_() for parameter in self.encoder.parameters()]"


@pytest.fixture
def supervised(tmp_path, monkeypatch):
    """A method that wants labels, and one that collapses, added as a user adds one: by a file."""
    folder = tmp_path / "methods"
    folder.mkdir()
    (folder / "supervised.py").write_text(SUPERVISED)
    (folder / "collapsing.py").write_text(SUPERVISED.replace("self.seen[1] += 1", COLLAPSE))
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(folder)])


def test_a_method_in_a_new_file_is_given_labels_and_called_at_its_hooks(settings, supervised):
    given = settings(method="supervised", epochs=2)
    train(given, progress=Reporter())
    state = torch.load(given.out / "checkpoint" / "last.ckpt", weights_only=True)
    assert state["method"]["seen"].tolist() == [2 * 130, 2 * 4]


def test_a_method_s_hook_is_given_features_that_are_not_whitened(settings, supervised):
    train(settings(method="supervised", epochs=3, whiten=8), progress=Reporter())


def test_a_method_that_wants_labels_refuses_folders_without_classes(settings, supervised, digits):
    with pytest.raises(BadData, match="learns from classes"):
        train(settings(method="supervised", data=digits / "3"), progress=Reporter())


def test_an_encoder_that_collapsed_makes_no_artifact(settings, supervised):
    given = settings(method="collapsing")
    with pytest.raises(TrainingFailed, match=r"The encoder collapsed: in epoch 1 .* rankme 1, under min_rankme"):
        train(given, progress=Reporter())
    assert not (given.out / artifact.MANIFEST).exists()
