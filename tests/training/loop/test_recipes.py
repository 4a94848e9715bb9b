"""The recipes that ship are settings that load."""

from pathlib import Path

import pytest

from roost_training import methods
from roost_training.loop.settings import TrainSettings

RECIPES = sorted((Path(__file__).parents[3] / "training" / "recipes").glob("*.toml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_loads_and_names_what_exists(path):
    settings = TrainSettings.load(flags={"data": "images", "out": "run"}, file=path)
    settings.check_names()


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_says_what_it_reached_and_how_to_repeat_it(path):
    comments = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert any("Reached" in line for line in comments)
    assert any("Again: roost train" in line or "Again: make demo" in line for line in comments)


def test_there_are_recipes_for_digits_land_cover_and_photographs():
    assert {"digits", "eurosat", "photographs"} <= {path.stem for path in RECIPES}


def test_every_method_has_a_recipe_of_its_name():
    assert set(methods.names()) - {path.stem for path in RECIPES} == set()
