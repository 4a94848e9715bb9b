from typing import Annotated, ClassVar

import pytest
from pydantic import Field
from pydantic_settings import SettingsConfigDict

from roost.errors import BadSettings
from roost.settings import Settings


class Nest(Settings):
    """Settings of a stage that only these tests know."""

    model_config = SettingsConfigDict(env_prefix="ROOST_NEST_")
    section: ClassVar[str] = "nest"

    eggs: Annotated[int, Field(ge=0, le=9)] = 4
    tree: str = "oak"
    weights: Annotated[dict[str, float], Field(default_factory=dict)]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "roost.toml"
    path.write_text('[nest]\neggs = 5\ntree = "elm"\n\n[nest.weights]\nshell = 0.5\n\n[other]\nanything = 1\n')
    return path


def test_a_default_holds_where_nothing_is_set():
    assert Nest.load() == Nest(eggs=4, tree="oak", weights={})


def test_a_file_beats_a_default(file):
    loaded = Nest.load(file=file)
    assert (loaded.eggs, loaded.tree, loaded.weights) == (5, "elm", {"shell": 0.5})


def test_a_variable_beats_a_file_and_a_flag_beats_both(file, monkeypatch):
    monkeypatch.setenv("ROOST_NEST_EGGS", "6")
    monkeypatch.setenv("ROOST_NEST_TREE", "ash")
    loaded = Nest.load(file=file, flags={"tree": "fir", "eggs": None})
    assert (loaded.eggs, loaded.tree) == (6, "fir")


def test_a_flag_for_one_key_of_a_table_leaves_the_file_s_other_keys(file):
    loaded = Nest.load(flags={"weights": {"yolk": 0.25}}, file=file)
    assert loaded.weights == {"shell": 0.5, "yolk": 0.25}


def test_a_variable_may_be_in_lower_case_and_hold_json(monkeypatch):
    monkeypatch.setenv("roost_nest_weights", '{"yolk": 2}')
    assert Nest.load().weights == {"yolk": 2}


def test_another_stages_variables_and_sections_are_left_alone(file, monkeypatch):
    monkeypatch.setenv("ROOST_PERCH_EGGS", "many")
    assert Nest.load(file=file).eggs == 5


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"eggs": 10}, "Setting 'eggs' of nest: Input should be less than or equal to 9"),
        ({"eggs": "many"}, "Setting 'eggs' of nest"),
        ({"birds": 1}, "Setting 'birds' of nest"),
    ],
)
def test_a_bad_flag_is_refused(flags, message):
    with pytest.raises(BadSettings, match=message):
        Nest.load(flags=flags)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("ROOST_NEST_EGG", "1", "ROOST_NEST_EGG sets 'egg', .* Did you mean 'eggs'"),
        ("roost_nest_egg", "1", "sets 'egg'"),
        ("ROOST_NEST_EGGS", "-1", "Setting 'eggs' of nest"),
        ("ROOST_NEST_WEIGHTS", "{bad", "weights"),
    ],
)
def test_a_bad_variable_is_refused(monkeypatch, name, value, message):
    monkeypatch.setenv(name, value)
    with pytest.raises(BadSettings, match=message):
        Nest.load()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[nest]\negg = 1", r"\[nest\] of .* sets 'egg', .* Did you mean 'eggs'"),
        ("[nest]\nquantum = 1", "sets 'quantum', which is no setting of nest.$"),
        ("[nest]\neggs = 10", "Setting 'eggs' of nest"),
        ("[nests]\neggs = 1", r"has a section \[nests\]. Did you mean \[nest\]"),
        ("eggs = 1", r"sets 'eggs' outside of a section. Put it under \[nest\]"),
        ("nest = 1", "sets 'nest' outside of a section"),
        ("[nest", "cannot be read"),
        ("[nest]\neggs = 1\neggs = 2", "cannot be read"),
    ],
)
def test_a_bad_file_is_refused(tmp_path, content, message):
    path = tmp_path / "roost.toml"
    path.write_text(content)
    with pytest.raises(BadSettings, match=message):
        Nest.load(file=path)


def test_a_file_that_is_missing_or_no_text_is_refused(tmp_path):
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    for name in ("nowhere", "binary"):
        with pytest.raises(BadSettings, match="cannot be read"):
            Nest.load(file=tmp_path / name)


def test_settings_do_not_change_once_they_are_loaded():
    with pytest.raises(ValueError, match="frozen"):
        Nest.load().eggs = 5
