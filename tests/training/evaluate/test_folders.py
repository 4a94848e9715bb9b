import errno

import pytest

from roost.errors import BadSettings, DiskFull
from roost_training.evaluate.folders import replacing


def write_half(folder):
    with replacing(folder, "done") as draft:
        (draft / "done").write_text("second")
        raise KeyboardInterrupt


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_folder_that_was_not_finished_leaves_the_earlier_one_and_nothing_else(tmp_path):
    with replacing(tmp_path / "report", "done") as draft:
        (draft / "done").write_text("first")
    with pytest.raises(KeyboardInterrupt):
        write_half(tmp_path / "report")
    assert (tmp_path / "report" / "done").read_text() == "first"
    assert names(tmp_path) == ["report"]


def test_an_earlier_folder_goes_as_a_whole(tmp_path):
    for name in ("first", "second"):
        with replacing(tmp_path / "deep" / "report", "done") as draft:
            (draft / "done").touch()
            (draft / name).touch()
    assert names(tmp_path / "deep" / "report") == ["done", "second"]


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(BadSettings, match="something else"), replacing(tmp_path, "done"):
        pytest.fail("the folder was not refused")
    with pytest.raises(BadSettings, match="is a file"), replacing(tmp_path / "thesis.tex", "done"):
        pytest.fail("the file was not refused")


def test_a_full_disk_is_told_apart(tmp_path):
    with pytest.raises(DiskFull, match="Free some space"), replacing(tmp_path / "report", "done"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert names(tmp_path) == []
