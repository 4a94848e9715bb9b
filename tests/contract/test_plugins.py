import sys
from types import ModuleType

import pytest

from roost import plugins
from roost.errors import UnknownPlugin


@pytest.fixture
def package(tmp_path, monkeypatch) -> ModuleType:
    folder = tmp_path / "perches"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "branch.py").write_text("HEIGHT = 3\n")
    (folder / "twig.py").write_text("raise ImportError('twig was imported')\n")
    (folder / "_bark.py").write_text("raise ImportError('bark was imported')\n")
    monkeypatch.syspath_prepend(tmp_path)
    module = __import__("perches")
    yield module
    for name in [name for name in sys.modules if name.split(".")[0] == "perches"]:
        del sys.modules[name]


def test_a_file_is_a_plugin_unless_its_name_begins_with_an_underscore(package):
    assert plugins.names(package) == ["branch", "twig"]


def test_the_plugin_that_is_asked_for_is_imported_and_no_other(package):
    assert plugins.load(package, "branch", kind="perch").HEIGHT == 3
    assert "perches.twig" not in sys.modules


def test_a_new_file_is_a_plugin_at_once(package, tmp_path):
    (tmp_path / "perches" / "wire.py").write_text("HEIGHT = 9\n")
    assert plugins.load(package, "wire", kind="perch").HEIGHT == 9


def test_the_nearest_name_is_suggested(package):
    with pytest.raises(UnknownPlugin, match=r"No perch called 'brunch'. Did you mean 'branch'\?") as caught:
        plugins.load(package, "brunch", kind="perch")
    assert caught.value.facts == {"kind": "perch", "name": "brunch"}


def test_all_names_are_listed_where_none_is_near(package):
    with pytest.raises(UnknownPlugin, match="There are: branch, twig"):
        plugins.load(package, "xyz", kind="perch")


def test_an_empty_folder_says_that_there_are_none(package, tmp_path):
    for path in (tmp_path / "perches").glob("[a-z]*.py"):
        path.unlink()
    with pytest.raises(UnknownPlugin, match="There are: none"):
        plugins.load(package, "branch", kind="perch")


@pytest.mark.parametrize("name", ["_bark", "__init__", "", "../branch", "branch.py", "os.path"])
def test_only_names_in_the_list_are_ever_imported(package, name):
    with pytest.raises(UnknownPlugin):
        plugins.load(package, name, kind="perch")


def test_an_import_error_inside_a_plugin_is_not_taken_for_an_unknown_name(package):
    with pytest.raises(ImportError, match="twig was imported"):
        plugins.load(package, "twig", kind="perch")
