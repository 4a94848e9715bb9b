"""Folders of images: what is found, what is skipped, what is decoded again, and how batches are drawn."""

import io
import itertools
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from roost.errors import BadData
from roost.preprocess import Limits, decode
from roost_training.images import data

KILLED_AFTER_TWO_BLOCKS = """
import os, signal, sys
from pathlib import Path
from roost_training.images import data, pixel_cache

pixel_cache.BLOCK = 4

def kill(done, total):
    if done == 8:
        os.kill(os.getpid(), signal.SIGKILL)

data.load(Path(sys.argv[1]), side=16, cache=Path(sys.argv[2]), progress=kill)
"""


def png(level: int, *, width: int = 20, height: int = 20) -> bytes:
    """A picture of one grey level with a gradient in red, so that each level gives another file."""
    pixels = np.full((height, width, 3), level, dtype=np.uint8)
    pixels[..., 0] = np.arange(width)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes with 6 and 4 images."""
    for name, count in (("cat", 6), ("dog", 4)):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(count):
            (tmp_path / "images" / name / f"{i}.png").write_bytes(png(10 * i + len(name) * (name == "dog")))
    return tmp_path / "images"


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., data.Images]:
    """Load a folder at 16 pixels through one cache."""

    def load(path: Path, **changes: object) -> data.Images:
        settings: dict = {"side": 16, "cache": tmp_path / "cache"} | changes
        return data.load(path, **settings)

    return load


def spoil(paths: Iterable[Path]) -> None:
    """Overwrite files in place, leaving their size and time: only who reads them again will notice."""
    for path in paths:
        status = path.stat()
        path.write_bytes(b"x" * status.st_size)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def paint(path: Path) -> None:
    """Turn the pixels in a cache file to 7: who takes them from there will show it."""
    path.write_bytes(b"\x07" * path.stat().st_size)


def test_pixels_labels_and_paths_belong_together(folder: Path, load):
    images = load(folder)
    assert images.classes == ["cat", "dog"]
    assert images.labels.tolist() == [0] * 6 + [1] * 4
    assert images.paths == [f"cat/{i}.png" for i in range(6)] + [f"dog/{i}.png" for i in range(4)]
    assert images.pixels.shape == (10, 16, 16, 3)
    for i, path in enumerate(images.paths):
        expected = decode((folder / path).read_bytes(), size=16, resize=16)
        np.testing.assert_array_equal(images.pixels[i], expected)
        np.testing.assert_array_equal(images.gather([i])[0], expected)


def test_a_second_run_reads_no_image(folder: Path, load):
    first = load(folder)
    spoil(folder.rglob("*.png"))
    again = load(folder)
    np.testing.assert_array_equal(again.pixels, first.pixels)
    assert again.fingerprint == first.fingerprint
    assert again.skipped == []


def test_only_changed_and_new_files_are_read_again(folder: Path, load):
    load(folder)
    spoil(folder.rglob("*.png"))
    (folder / "cat" / "3.png").write_bytes(png(200))
    (folder / "cat" / "new.png").write_bytes(png(201))
    images = load(folder)
    assert images.pixels[:, 0, 0, 2].tolist() == [0, 10, 20, 200, 40, 50, 201, 3, 13, 23, 33]
    assert images.skipped == []


def test_a_file_of_the_same_size_and_another_time_is_read_again(folder: Path, load):
    load(folder)
    path = folder / "cat" / "1.png"
    assert path.stat().st_size == len(png(11))
    path.write_bytes(png(11))
    os.utime(path, ns=(0, 0))
    assert load(folder).pixels[1, 0, 0, 2] == 11


def test_the_same_images_in_another_folder_are_not_decoded_again(folder: Path, load, tmp_path: Path):
    load(folder)
    (cache,) = (tmp_path / "cache").glob("*.pixels")
    paint(cache)
    shutil.copytree(folder, tmp_path / "copy")
    assert (load(tmp_path / "copy").pixels == 7).all()


def test_a_superseded_cache_is_removed(folder: Path, load, tmp_path: Path):
    load(folder)
    (folder / "cat" / "0.png").unlink()
    load(folder)
    assert len(list((tmp_path / "cache").glob("*.pixels"))) == 1


def test_each_side_has_its_own_cache(folder: Path, load):
    assert load(folder, side=16).side == 16
    assert load(folder, side=8).side == 8
    assert load(folder, side=16).pixels.shape == (10, 16, 16, 3)


def test_a_killed_run_goes_on_where_it_stopped(folder: Path, load, tmp_path: Path):
    command = [sys.executable, "-c", KILLED_AFTER_TWO_BLOCKS, str(folder), str(tmp_path / "cache")]
    assert subprocess.run(command, check=False, timeout=60).returncode == -signal.SIGKILL
    assert not list((tmp_path / "cache").glob("*.pixels"))
    (partial,) = (tmp_path / "cache").glob("*.partial")
    paint(partial)
    assert load(folder).pixels[:, 0, 0, 2].tolist() == [7] * 8 + [23, 33]


@pytest.mark.parametrize("harm", ["a row cut short", "a row too many", "a torn journal", "no rows"])
def test_what_a_crash_left_behind_is_never_trusted(folder: Path, load, tmp_path: Path, harm: str):
    command = [sys.executable, "-c", KILLED_AFTER_TWO_BLOCKS, str(folder), str(tmp_path / "cache")]
    subprocess.run(command, check=False, timeout=60)
    (partial,) = (tmp_path / "cache").glob("*.partial")
    (journal,) = (tmp_path / "cache").glob("*.journal")
    match harm:
        case "a row cut short":
            os.truncate(partial, partial.stat().st_size - 1)
        case "a row too many":
            partial.write_bytes(partial.read_bytes() + b"x" * 1000)
        case "a torn journal":
            os.truncate(journal, journal.stat().st_size - 20)
        case "no rows":
            partial.unlink()
    images = load(folder)
    for i, path in enumerate(images.paths):
        np.testing.assert_array_equal(images.pixels[i], decode((folder / path).read_bytes(), size=16, resize=16))


def test_a_finished_cache_that_lost_bytes_is_made_again(folder: Path, load, tmp_path: Path):
    load(folder)
    (pixels,) = (tmp_path / "cache").glob("*.pixels")
    os.truncate(pixels, 100)
    assert load(folder).pixels[9, 0, 0, 2] == 33


def test_unreadable_images_are_skipped_with_their_reason(folder: Path, load):
    (folder / "cat" / "empty.png").write_bytes(b"")
    (folder / "cat" / "text.jpg").write_bytes(b"no image at all")
    (folder / "cat" / "truncated.png").write_bytes(png(5)[:60])
    (folder / "cat" / "tiny.png").write_bytes(png(5, width=1, height=1))
    (folder / "dog" / "nowhere.png").symlink_to(folder / "missing.png")
    for _ in range(2):
        images = load(folder)
        assert len(images) == 10
        assert len(images.pixels) == len(images.labels) == len(images.sha256) == 10
        reasons = dict(images.skipped)
        assert reasons.keys() == {f"cat/{n}" for n in ("empty.png", "text.jpg", "truncated.png", "tiny.png")} | {
            "dog/nowhere.png"
        }
        assert "0 bytes" in reasons["cat/empty.png"]
        assert "1 x 1" in reasons["cat/tiny.png"]
        assert "No such file" in reasons["dog/nowhere.png"]


def test_images_over_a_limit_are_skipped(folder: Path, load):
    (folder / "dog" / "large.png").write_bytes(png(5, width=300, height=300))
    reasons = [reason for _, reason in load(folder, limits=Limits(max_pixels=1000)).skipped]
    assert len(reasons) == 1
    assert "300 x 300" in reasons[0]
    reasons = [reason for _, reason in load(folder, limits=Limits(max_bytes=len(png(0)) + 100)).skipped]
    assert len(reasons) == 1
    assert "bytes; the limit is" in reasons[0]
    assert load(folder).skipped == []


def test_hidden_files_and_other_suffixes_are_no_images(folder: Path, load):
    (folder / "cat" / "._0.png").write_bytes(b"resource fork")
    (folder / ".thumbnails").mkdir()
    (folder / ".thumbnails" / "0.png").write_bytes(png(0))
    (folder / "labels.csv").write_text("a,b")
    (folder / "dog" / "LOUD.PNG").write_bytes(png(99))
    images = load(folder)
    assert len(images) == 11
    assert "dog/LOUD.PNG" in images.paths
    assert images.skipped == []


def test_a_link_to_a_parent_does_no_harm_and_a_linked_folder_is_read(folder: Path, load, tmp_path: Path):
    (folder / "cat" / "loop").symlink_to(folder)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "0.png").write_bytes(png(77))
    (folder / "fox").symlink_to(elsewhere)
    images = load(folder)
    assert len(images) == 11
    assert images.classes == ["cat", "dog", "fox"]


@pytest.mark.parametrize("where", ["beside the folders", "one folder only"])
def test_without_two_folders_that_hold_every_image_there_are_no_classes(folder: Path, load, where: str):
    if where == "beside the folders":
        (folder / "stray.png").write_bytes(png(50))
    else:
        shutil.rmtree(folder / "dog")
    images = load(folder)
    assert images.labels is None
    assert images.classes == []


def test_duplicates_are_kept_and_counted(folder: Path, load):
    (folder / "dog" / "copy.png").write_bytes((folder / "dog" / "0.png").read_bytes())
    images = load(folder)
    assert len(images) == 11
    assert images.duplicates == 1


def test_the_fingerprint_is_of_the_images_and_not_of_their_places(folder: Path, load):
    before = load(folder).fingerprint
    (folder / "cat" / "0.png").rename(folder / "dog" / "moved.png")
    assert load(folder).fingerprint == before
    (folder / "dog" / "moved.png").write_bytes(png(123))
    assert load(folder).fingerprint != before


def test_a_missing_folder_a_file_and_an_empty_folder_are_refused(folder: Path, load, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadData, match="There is no folder"):
        load(tmp_path / "nothing")
    with pytest.raises(BadData, match="is a file"):
        load(folder / "cat" / "0.png")
    with pytest.raises(BadData, match="has no images"):
        load(tmp_path / "empty")


def test_a_single_image_and_a_folder_of_broken_ones_are_refused(load, tmp_path: Path):
    path = tmp_path / "images"
    path.mkdir()
    (path / "0.png").write_bytes(png(0))
    with pytest.raises(BadData, match="one image only"):
        load(path)
    (path / "0.png").write_bytes(b"broken")
    with pytest.raises(BadData, match=r"0 readable image.* 1 could not be used.* 0.png: .*not an image"):
        load(path)


def test_a_cache_that_cannot_be_written_is_refused(folder: Path, load, tmp_path: Path):
    (tmp_path / "occupied").write_text("")
    with pytest.raises(BadData, match=r"cache .*occupied cannot be used"):
        load(folder, cache=tmp_path / "occupied")


def test_progress_ends_with_every_file(folder: Path, load):
    seen: list[tuple[int, int]] = []
    load(folder, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (10, 10)


def test_two_processes_that_load_at_once_decode_one_cache(folder: Path, tmp_path: Path):
    command = [sys.executable, "-c", KILLED_AFTER_TWO_BLOCKS.replace("done == 8", "False")]
    command += [str(folder), str(tmp_path / "cache")]
    both = [subprocess.Popen(command) for _ in range(2)]
    assert [process.wait(timeout=60) for process in both] == [0, 0]
    assert len(list((tmp_path / "cache").glob("*.pixels"))) == 1
    assert not list((tmp_path / "cache").glob("*.partial"))


def test_gather_keeps_the_order_asked_for(folder: Path, load):
    images = load(folder).subset([9, 0, 5, 7])
    np.testing.assert_array_equal(images.gather([2, 0, 2])[:, 0, 0, 2], [50, 33, 50])
    np.testing.assert_array_equal(images.pixels[:, 0, 0, 2], [33, 0, 50, 13])
    assert images.paths == ["dog/3.png", "cat/0.png", "cat/5.png", "dog/1.png"]
    assert images.labels.tolist() == [1, 0, 0, 1]


def test_a_split_holds_out_the_same_share_of_each_class(folder: Path, load):
    train, held_out = data.split(load(folder), fraction=0.5, seed=0)
    assert np.bincount(train.labels).tolist() == [3, 2]
    assert np.bincount(held_out.labels).tolist() == [3, 2]
    assert sorted(train.paths + held_out.paths) == load(folder).paths
    assert data.split(load(folder), fraction=0.5, seed=0)[1].paths == held_out.paths
    assert any(data.split(load(folder), fraction=0.5, seed=s)[1].paths != held_out.paths for s in range(1, 4))


def test_a_split_holds_out_at_most_2000_and_at_least_one(folder: Path, load):
    few = load(folder)
    many = few.subset(np.arange(30_000) % 10)
    assert len(data.split(many, fraction=0.5, seed=0)[1]) == pytest.approx(2000, abs=2)
    assert len(data.split(few, fraction=0.01, seed=0)[1]) == 1


@pytest.mark.parametrize("fraction", [0, 1, -0.5, float("nan")])
def test_a_share_that_leaves_one_side_empty_is_refused(folder: Path, load, fraction: float):
    with pytest.raises(BadData, match="between 0 and 1"):
        data.split(load(folder), fraction=fraction, seed=0)


def test_the_ranks_share_an_epoch_without_overlap():
    ranks = [data.epoch_indices(103, batch=8, seed=1, epoch=2, rank=rank, world=3) for rank in range(3)]
    assert [len(batches) for batches in ranks] == [4, 4, 4]
    seen = np.concatenate([batch for batches in ranks for batch in batches])
    assert len(set(seen.tolist())) == len(seen) == 96
    assert seen.max() < 103


def test_an_epoch_s_batches_are_a_function_of_seed_and_epoch():
    def batches(*, seed: int, epoch: int) -> list[list[int]]:
        return [batch.tolist() for batch in data.epoch_indices(64, batch=16, seed=seed, epoch=epoch)]

    assert batches(seed=1, epoch=1) == batches(seed=1, epoch=1)
    assert batches(seed=1, epoch=1) != batches(seed=1, epoch=2)
    assert batches(seed=1, epoch=1) != batches(seed=2, epoch=1)
    assert sorted(itertools.chain(*batches(seed=1, epoch=1))) == list(range(64))


def test_the_ranks_together_see_what_one_process_would_see():
    alone = data.epoch_indices(64, batch=16, seed=0, epoch=0)
    pair = [data.epoch_indices(64, batch=8, seed=0, epoch=0, rank=rank, world=2) for rank in range(2)]
    for step, batch in enumerate(alone):
        assert sorted(batch) == sorted(np.concatenate([pair[0][step], pair[1][step]]))


def test_too_few_images_for_a_batch_say_which_batch_would_do():
    with pytest.raises(BadData, match="at most 5"):
        data.epoch_indices(10, batch=8, seed=0, epoch=0, world=2)
