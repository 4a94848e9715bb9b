import pytest

from roost.errors import BadSettings
from roost_training.loop.settings import TrainSettings

REQUIRED = {"data": "images", "out": "runs/one"}


def test_a_flag_beats_the_environment_which_beats_the_recipe(tmp_path, monkeypatch):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text("[train]\nbatch = 8\nepochs = 8\nseed = 8\n")
    monkeypatch.setenv("ROOST_TRAIN_EPOCHS", "9")
    monkeypatch.setenv("ROOST_TRAIN_SEED", "9")
    settings = TrainSettings.load(flags=REQUIRED | {"seed": 10}, file=recipe)
    assert (settings.batch, settings.epochs, settings.seed) == (8, 9, 10)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"resume": True, "overwrite": True}, "exclude each other"),
        ({"source_size": 16, "image_size": 32}, "source_size is 16, less than image_size 32"),
        ({"val_fraction": 1.0}, "less than 1"),
        ({"views": {"blurr": 1}}, "views.blurr"),
        ({"name": "My Model"}, "'name'"),
        ({"optimiser": "adam"}, "'optimiser'"),
    ],
)
def test_settings_that_cannot_be_are_refused(given, said):
    with pytest.raises(BadSettings, match=said):
        TrainSettings.load(flags=REQUIRED | given)


def test_where_a_run_is_kept_is_no_part_of_what_it_learns():
    here = TrainSettings.load(flags=REQUIRED)
    there = TrainSettings.load(flags=REQUIRED | {"out": "elsewhere", "threads": 1, "resume": True})
    assert here.effective() == there.effective()


def test_a_learning_rate_is_part_of_what_it_learns():
    here = TrainSettings.load(flags=REQUIRED)
    there = TrainSettings.load(flags=REQUIRED | {"learning_rate": 0.1})
    assert here.effective() != there.effective()
