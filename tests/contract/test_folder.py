import os

import pytest

from roost import folder
from roost.errors import BadData


def names(path):
    return [file.name for file in folder.find(path)]


def write(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"pixels")


def test_images_are_found_at_any_depth_in_the_order_of_their_names(tmp_path):
    write(tmp_path / "b.png", tmp_path / "a/deep/c.JPG", tmp_path / "a/notes.txt", tmp_path / ".hidden/d.png")
    assert names(tmp_path) == ["a/deep/c.JPG", "b.png"]


def test_a_link_to_a_parent_is_followed_once(tmp_path):
    write(tmp_path / "a/b.png")
    (tmp_path / "a/up").symlink_to(tmp_path)
    assert names(tmp_path) == ["a/b.png"]


@pytest.mark.parametrize("name", ["loop", "loop.png"])
def test_a_link_to_itself_hides_no_image(tmp_path, name):
    write(tmp_path / "a.png")
    (tmp_path / name).symlink_to(tmp_path / name)
    found = {file.name: file.size for file in folder.find(tmp_path)}
    assert found.pop("loop.png", -1) == -1
    assert found == {"a.png": 6}


def test_a_link_to_itself_is_no_folder_of_images(tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(BadData, match="There is no folder"):
        folder.find(tmp_path / "loop")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may enter every folder")
def test_a_folder_that_may_not_be_listed_is_named(tmp_path):
    write(tmp_path / "a/b.png")
    (tmp_path / "a").chmod(0)
    with pytest.raises(BadData, match="a cannot be listed"):
        folder.find(tmp_path)
    (tmp_path / "a").chmod(0o755)


def test_classes_are_the_first_folders_and_need_two_of_them():
    found, labels = folder.classes(["cat/1.png", "dog/x/2.png", "cat/3.png"])
    assert found == ["cat", "dog"]
    assert labels is not None
    assert labels.tolist() == [0, 1, 0]
    assert folder.classes(["cat/1.png", "2.png"]) == ([], None)
