"""Bad input ends in one clear error, or in a skip that is counted and told; and never in a half-written run folder."""

import io
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from roost import artifact
from roost.errors import BadData, BadSettings, RoostError, UnknownPlugin
from roost_training import encoders
from roost_training.loop import checkpoint
from roost_training.loop.progress import Reporter
from roost_training.loop.settings import TrainSettings
from roost_training.loop.training import train


class Notes(Reporter):
    """Keeps what a run says."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, text: str) -> None:
        self.said.append(text)


def picture(width: int, height: int, *, mode: str = "RGB", kind: str = "PNG", seed: int = 0) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(stream, kind)
    return stream.getvalue()


@pytest.fixture
def photos(tmp_path) -> Path:
    """Twenty images in two classes."""
    folder = tmp_path / "photos"
    for place in range(20):
        path = folder / "ab"[place % 2] / f"{place}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(20, 20, seed=place))
    return folder


def refused(settings: TrainSettings, kind: type[RoostError], said: str) -> None:
    """Expect an error before the run folder is made."""
    with pytest.raises(kind, match=said):
        train(settings, progress=Reporter())
    assert not settings.out.exists()


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("unreadable.jpg", b"not an image at all", "not an image"),
        ("empty.png", b"", "0 bytes"),
        ("truncated.png", picture(20, 20)[:200], "damaged or cut short"),
        ("tiny.png", picture(4, 30), "4 x 30 pixels"),
        ("huge.png", picture(10, 10) + b"\0" * (10 * 1024 * 1024), "bytes; the limit is"),
    ],
)
def test_an_image_that_cannot_be_used_is_left_out_counted_and_told_of(settings, photos, name, content, reason):
    (photos / "a" / name).write_bytes(content)
    notes = Notes()
    manifest = train(settings(data=photos, batch=8, epochs=1), progress=notes)
    assert manifest.data.images == 16  # of each ten, two are held out
    assert "Files left out: 1; the first" in notes.said[0]
    assert f"a/{name}" in notes.said[0]
    assert reason in notes.said[0]


@pytest.mark.parametrize(("mode", "kind"), [("L", "PNG"), ("CMYK", "JPEG"), ("1", "PNG"), ("P", "GIF")])
def test_grey_cmyk_and_palette_images_are_trained_on(settings, photos, mode, kind):
    for place in range(5):
        (photos / "a" / f"odd{place}.{kind.lower()}").write_bytes(
            picture(20, 20, mode=mode, kind=kind, seed=50 + place)
        )
    notes = Notes()
    manifest = train(settings(data=photos, batch=8, epochs=1), progress=notes)
    assert manifest.data.images == 15 - 3 + 10 - 2
    assert "left out" not in notes.said[0]


def test_duplicates_are_trained_on_and_counted(settings, photos):
    for place in range(3):
        shutil.copy(photos / "a" / "0.png", photos / "a" / f"copy{place}.png")
    notes = Notes()
    train(settings(data=photos, batch=8, epochs=1, val=photos), progress=notes)
    assert "3 have the same bytes as another." in notes.said[0]


def test_a_folder_without_classes_is_trained_on_and_scored_without_labels(settings, photos):
    shutil.rmtree(photos / "b")
    manifest = train(settings(data=photos, batch=8, epochs=1), progress=Reporter())
    assert manifest.data.classes == 0
    assert "knn20_accuracy" not in manifest.quality


def test_a_folder_without_classes_is_refused_by_a_method_that_wants_them(settings, photos):
    shutil.rmtree(photos / "b")
    given = settings(data=photos, method="triplet", method_settings={"similar": "labels"})
    refused(given, BadData, "names none")


def test_a_missing_folder_is_refused(settings, tmp_path):
    refused(settings(data=tmp_path / "nowhere"), BadData, "There is no folder")


def test_an_empty_folder_is_refused(settings, tmp_path):
    (tmp_path / "empty").mkdir()
    refused(settings(data=tmp_path / "empty"), BadData, "has no images")


def test_a_folder_of_unreadable_images_is_refused(settings, photos):
    for path in photos.rglob("*.png"):
        path.write_bytes(b"broken")
    refused(settings(data=photos), BadData, "0 readable image.* 20 could not be used")


def test_one_image_is_refused(settings, tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "0.png").write_bytes(picture(20, 20))
    refused(settings(data=tmp_path / "one"), BadData, "one image only")


def test_a_method_for_vits_is_refused_a_resnet(settings):
    refused(settings(method="mae"), BadSettings, "The method mae trains a ViT, and resnet10w32 is none")


@pytest.mark.parametrize(
    ("given", "kind", "said"),
    [
        ({"method": "simcrl"}, UnknownPlugin, "Did you mean 'simclr'"),
        ({"encoder": "resnet81"}, UnknownPlugin, "Did you mean 'resnet18'"),
        ({"method_settings": {"temprature": 1}}, BadSettings, "'temprature' of the method simclr"),
        ({"method_settings": {"temperature": -1}}, BadSettings, "'temperature' of the method simclr"),
    ],
)
def test_what_a_plugin_does_not_know_is_refused(settings, given, kind, said):
    refused(settings(**given), kind, said)


def test_a_setting_that_does_not_exist_is_refused_with_the_nearest(tmp_path):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text("[train]\nlearning_rat = 0.1\n")
    with pytest.raises(BadSettings, match="Did you mean 'learning_rate'"):
        TrainSettings.load(flags={"data": tmp_path, "out": tmp_path / "run"}, file=recipe)


def test_a_bad_folder_leaves_the_run_that_was_to_be_overwritten(settings, photos):
    finished = settings(data=photos, batch=8, epochs=1)
    manifest = train(finished, progress=Reporter())
    with pytest.raises(BadData):
        train(finished.model_copy(update={"data": photos / "c", "overwrite": True}), progress=Reporter())
    assert artifact.read(finished.out) == manifest


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("dino", "vit_xti_16", 36), "18 x 18 pixels do not divide into patches of 4"),
        (("jigsaw", "vit_xti_16", 32), "do not divide into patches"),
        (("relative_patch", "alexnet", 66), "alexnet cannot take the views that relative_patch makes of images of 66"),
    ],
)
def test_an_encoder_that_cannot_take_a_method_s_views_is_refused(settings, photos, given, said):
    method, encoder, size = given
    refused(settings(data=photos, batch=8, method=method, encoder=encoder, image_size=size), BadSettings, said)


def test_a_run_is_not_overwritten_by_one_that_cannot_begin(settings, photos):
    finished = settings(data=photos, batch=8, epochs=1)
    manifest = train(finished, progress=Reporter())
    given = {"method": "jigsaw", "encoder": "vit_xti_16", "image_size": 32, "overwrite": True}
    with pytest.raises(BadSettings):
        train(finished.model_copy(update=given), progress=Reporter())
    assert artifact.read(finished.out) == manifest


def test_a_run_killed_while_it_overwrites_another_can_be_started_again(settings, photos, monkeypatch):
    finished = settings(data=photos, batch=8, epochs=1)
    train(finished, progress=Reporter())
    again = finished.model_copy(update={"overwrite": True})
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            train(again, progress=Reporter())
    assert train(again, progress=Reporter()).quality["epochs"] == 1


def test_a_run_folder_that_cannot_be_made_is_refused(settings, photos, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BadSettings, match="cannot be written: Not a directory"):
        train(settings(data=photos, batch=8, out=tmp_path / "file" / "run"), progress=Reporter())


FULL = """
import resource, sys
from roost.errors import RoostError
from roost_training.loop.progress import Reporter
from roost_training.loop.settings import TrainSettings
from roost_training.loop.training import train

given, size, when = TrainSettings.model_validate_json(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])

class Filler(Reporter):
    def epoch(self, record):
        if record["epoch"] == when:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

if when < 0:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
try:
    train(given, progress=Filler())
except RoostError as error:
    print(type(error).__name__, error.message)
"""


def on_full_disk(settings: TrainSettings, *, size: int, epoch: int = -1) -> str:
    """What a run says in a process where no file may grow over `size` bytes, from the end of an epoch on."""
    done = subprocess.run(
        [sys.executable, "-c", FULL, settings.model_dump_json(), str(size), str(epoch)],
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    return done.stdout


def test_a_disk_that_fills_up_keeps_the_last_checkpoint_and_says_how_to_go_on(settings, photos):
    given = settings(data=photos, batch=8, epochs=3)
    said = on_full_disk(given, size=100_000, epoch=1)
    assert re.match("DiskFull .* cannot be written: File too large. Free some space", said)
    assert {path.name for path in given.out.iterdir()} == {
        "settings.json",
        "metrics.jsonl",
        "tensorboard",
        "checkpoint",
    }
    assert [path.name for path in checkpoint.path_in(given.out).parent.iterdir()] == ["last.ckpt"]
    resumed = train(given.model_copy(update={"resume": True}), progress=Reporter())
    assert resumed.quality["epochs"] == 3


def test_a_disk_that_is_full_from_the_start_leaves_no_run_folder(settings, photos):
    given = settings(data=photos, batch=8, epochs=1)
    train(given, progress=Reporter())  # so that the pixels are in the cache
    shutil.rmtree(given.out)
    assert re.match("DiskFull .*File too large. Free some space", on_full_disk(given, size=100))
    assert not given.out.exists()


def test_a_cache_on_a_full_disk_is_refused(settings, photos, tmp_path):
    given = settings(data=photos, cache=tmp_path / "cache")
    said = on_full_disk(given, size=100)
    assert re.match("BadData .*cache .* cannot be used .*Free some space, or choose another with --cache", said)
    assert not given.out.exists()


def test_an_artifact_that_finds_no_space_is_not_half_written(settings, photos):
    given = settings(data=photos, batch=8, epochs=1)
    train(given, progress=Reporter())
    for name in (artifact.MANIFEST, encoders.WEIGHTS, artifact.GOLDEN):
        (given.out / name).unlink()
    said = on_full_disk(given.model_copy(update={"resume": True}), size=100_000)
    assert re.match("DiskFull .*--resume to go on", said)
    assert not {path.name for path in given.out.iterdir()} & {artifact.MANIFEST, encoders.WEIGHTS, artifact.GOLDEN}
