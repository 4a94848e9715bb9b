"""One step of training: its parts, its precision, and the weights that it begins with."""

import pytest
import torch
from lightning_fabric import Fabric
from safetensors.torch import load_file

from roost import artifact
from roost.errors import BadArtifact, BadSettings
from roost_training import encoders, methods
from roost_training.images.batches import Batch
from roost_training.loop import devices, source, weights
from roost_training.loop.learner import Learner
from roost_training.loop.progress import Reporter
from roost_training.loop.settings import TrainSettings
from roost_training.loop.training import train

PER_IMAGE = '''
"""Has a loss of each image by itself, and notes what it is given."""

import torch
from torch import nn

from roost_training import methods


class Config(methods.Config):
    """Has no settings."""


class Method(methods.Method):
    """Regresses the image's mean colour, through an encoder without batch norm."""

    wants_indices = True

    def __init__(self, config, encoder, feature_dim):
        super().__init__(encoder)
        self.head = nn.Conv2d(3, 1, 3)
        self.register_buffer("sizes", torch.zeros(8))

    def forward(self, views, indices):
        self.sizes[self.sizes.count_nonzero()] = len(indices)
        predicted = self.head(views[0]).mean((1, 2, 3))
        loss = (predicted - views[1].mean((1, 2, 3)) - indices).square().mean()
        return {"loss": loss, "mean_place": indices.float().mean()}
'''


@pytest.fixture
def per_image(tmp_path, monkeypatch):
    folder = tmp_path / "methods"
    folder.mkdir()
    (folder / "per_image.py").write_text(PER_IMAGE)
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(folder)])


def learner_of(settings) -> tuple[Learner, Batch]:
    """A learner, and its first batch."""
    images = source.read(settings)
    learner = Learner(devices.fabric(settings), settings, images)
    places = torch.arange(learner.batch)
    return learner, Batch(torch.from_numpy(images.train.gather(places.numpy())), places, None)


@pytest.mark.parametrize(("parts", "sizes"), [(4, [8, 8, 8, 8]), (5, [7, 7, 6, 6, 6])])
def test_parts_of_a_batch_add_up_to_the_step_of_the_whole(settings, per_image, parts, sizes):
    given = {"method": "per_image", "optimiser": "sgd", "batch": 32, "clip_norm": None, "weight_decay": 0.0}
    whole, batch = learner_of(settings(**given))
    parted, _ = learner_of(settings(**given, accumulate=parts))
    expected = whole.step(batch, step=0, progress=0.5)
    found = parted.step(batch, step=0, progress=0.5)
    assert parted.method.sizes[:parts].tolist() == sizes
    assert found["loss"].item() == pytest.approx(expected["loss"].item(), rel=1e-5)
    assert found["mean_place"].item() == pytest.approx(15.5)
    assert torch.allclose(parted.method.head.weight, whole.method.head.weight, atol=1e-5)


def test_parts_of_fewer_than_four_images_are_refused():
    with pytest.raises(BadSettings, match="a batch of 32 in 16 parts has fewer than 4 in each"):
        TrainSettings.load(flags={"data": "images", "out": "run", "batch": 32, "accumulate": 16})


def test_a_long_gradient_is_shortened_to_clip_norm(settings, per_image):
    given = settings(method="per_image", optimiser="sgd", clip_norm=0.5, weight_decay=0.0)
    learner, batch = learner_of(given)
    before = torch.cat([weight.flatten() for weight in learner.method.head.parameters()]).detach()
    learner.step(batch, step=0, progress=0.5)
    moved = torch.cat([weight.flatten() for weight in learner.method.head.parameters()]) - before
    assert moved.norm().item() == pytest.approx(learner.learning_rate(0.5) * 0.5, rel=1e-3)


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", None), ("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_the_forward_pass_computes_in_the_precision_asked_for(settings, precision, dtype):
    learner, batch = learner_of(settings(precision=precision))
    seen = []
    learner.method.projector[0].register_forward_hook(lambda *given: seen.append(given[2].dtype))
    figures = learner.step(batch, step=0, progress=0.5)
    assert seen == [dtype or torch.float32]
    assert figures["loss"].dtype == torch.float32
    assert figures["loss"].isfinite()


def test_a_gradient_that_overflows_fp16_is_left_out_and_the_scale_halved(settings, per_image):
    given = settings(method="per_image", precision="fp16", optimiser="sgd", clip_norm=None)
    learner, batch = learner_of(given)
    scaler = learner.fabric.strategy.precision.scaler
    before, scale = learner.method.head.weight.detach().clone(), scaler.get_scale()
    learner.step(Batch(batch.pixels, batch.indices + 60_000, None), step=0, progress=0.5)
    assert torch.equal(learner.method.head.weight, before)
    assert scaler.get_scale() == scale / 2


def test_weights_and_views_are_channels_last(settings):
    learner, batch = learner_of(settings())
    (view, _) = learner.views(batch.pixels, 0)
    assert view.is_contiguous(memory_format=torch.channels_last)
    assert learner.method.encoder.layers[3].conv1.weight.is_contiguous(memory_format=torch.channels_last)


@pytest.fixture
def earlier(settings, tmp_path):
    given = settings(epochs=1, seed=7, out=tmp_path / "earlier")
    train(given, progress=Reporter())
    return given.out


def test_a_run_begins_with_the_encoder_of_an_earlier_one(settings, earlier):
    given = weights.identify(settings(init=earlier, method="byol"))
    learner, _ = learner_of(given)
    expected = load_file(earlier / encoders.WEIGHTS)
    for module in (learner.method.encoder, learner.method.teacher[0]):
        assert all(torch.equal(value, expected[name]) for name, value in module.state_dict().items())


def test_the_sha256_of_the_first_weights_is_recorded_and_the_baseline_is_the_untrained_encoder_s(settings, earlier):
    plain = train(settings(epochs=1), progress=Reporter())
    given = settings(epochs=1, init=earlier, overwrite=True)
    manifest = train(given, progress=Reporter())
    sha256 = artifact.read(earlier).files[encoders.WEIGHTS].sha256
    assert sha256 in (given.out / "settings.json").read_text()
    assert manifest.quality["untrained_knn20_accuracy"] == plain.quality["untrained_knn20_accuracy"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"encoder": "resnet18"}, "has the encoder resnet10w32 for 16 pixels, and this run trains resnet18 for 16"),
        ({"image_size": 24}, "this run trains resnet10w32 for 24"),
        ({"init_sha256": "0" * 64}, "not 0000"),
    ],
)
def test_an_encoder_of_another_kind_is_refused(settings, earlier, change, said):
    with pytest.raises(BadSettings, match=said):
        train(settings(init=earlier, **change), progress=Reporter())


def test_a_folder_that_is_no_finished_run_is_refused(settings, tmp_path):
    with pytest.raises(BadArtifact, match="it is no artifact"):
        train(settings(init=tmp_path), progress=Reporter())


def test_a_batch_that_leaves_a_process_too_few_images_is_refused(settings):
    given = settings(batch=6)
    with pytest.raises(BadSettings, match="leave 3 to each of 2 processes; at least 4 are needed"):
        Learner(Fabric(accelerator="cpu", devices=2), given, source.read(given))


def test_held_out_views_are_cut_from_pictures_as_large_as_in_training(settings):
    images = source.read(settings(source_size=24))
    assert (images.held_out.side, images.unseen.side, images.train.side) == (16, 24, 24)
    assert images.unseen.paths == images.held_out.paths
