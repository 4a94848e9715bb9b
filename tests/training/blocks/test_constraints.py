from pathlib import Path

import numpy as np
import pytest

from roost.errors import BadData
from roost_training.blocks import constraints
from roost_training.images import data
from roost_training.images.data import Images

NAMES = list("abcdefg")
"""Of seven images, a.png to g.png."""


def images(names: list[str] = NAMES, **given: object) -> Images:
    n = len(names)
    fields: dict[str, object] = {"labels": None, "classes": [], "skipped": []} | given
    return Images(
        store=np.zeros((n, 4, 4, 3), np.uint8),
        rows=np.arange(n),
        paths=[f"{name}.png" for name in names],
        sha256=[f"{i:064x}" for i in range(n)],
        **fields,
    )


@pytest.fixture
def read(tmp_path):
    """Reads pairs written as `ab` for a must-link and `a!b` for a cannot-link, one a line."""

    def make(*lines: str, given: Images = images()) -> constraints.Constraints:
        text = "".join(f"{x[0]}.png,{x[-1]}.png,{'cannot' if '!' in x else 'must'}\n" for x in lines)
        return constraints.read(written(tmp_path, text), given)

    return make


def written(folder: Path, text: str) -> Path:
    path = folder / "pairs.csv"
    path.write_text(text)
    return path


def test_must_links_make_groups_through_others(read):
    groups = read("ab", "bc", "de").groups
    assert groups.tolist() == [0, 0, 0, 1, 1, -1, -1]


def test_a_cannot_link_parts_all_that_its_images_are_linked_with(read):
    found = read("ab", "cd", "b!c")
    a, d = found.groups[0], found.groups[3]
    assert found.apart[a, d]
    assert found.apart[d, a]


def test_images_that_are_only_parted_are_groups_of_their_own(read):
    found = read("a!b", "a!c")
    assert found.groups[:3].tolist() == [0, 1, 2]
    assert found.apart.tolist() == [[False, True, True], [True, False, False], [True, False, False]]


def test_pairs_are_kept_as_they_were_read(read):
    found = read("ba", "c!d")
    assert (found.must.tolist(), found.cannot.tolist()) == ([[1, 0]], [[2, 3]])


def test_a_chain_of_must_links_that_contains_a_cannot_link_is_refused_by_its_line(read):
    with pytest.raises(BadData, match=r"line 3: a\.png and c\.png cannot be linked, and yet must-links join them"):
        read("ab", "bc", "a!c")


def test_a_contradiction_is_found_before_the_must_link_that_makes_it(read):
    with pytest.raises(BadData, match="line 2"):
        read("d!e", "a!b", "ab")


def test_an_image_that_cannot_be_linked_with_itself_is_refused(read):
    with pytest.raises(BadData, match="line 1"):
        read("a!a")


def test_an_unknown_image_is_refused_by_its_line_and_shows_what_a_path_looks_like(read):
    with pytest.raises(BadData, match=r"line 2: there is no image x\.png\..* such as a\.png"):
        read("ab", "ax")


def test_an_image_that_could_not_be_used_is_refused_with_the_reason(read):
    with pytest.raises(BadData, match=r"line 1: x\.png could not be used: truncated"):
        read("ax", given=images(skipped=[("x.png", "truncated")]))


def test_pairs_with_held_out_images_are_left_out(read):
    train, _ = data.split(images(), fraction=0.3, seed=0)
    gone = sorted(train.held_out)[0][0]
    left = [path[0] for path in train.paths]
    found = read(f"{left[0]}{left[1]}", f"{left[0]}{gone}", given=train)
    assert found.must.tolist() == [[0, 1]]


def test_pairs_that_are_all_held_out_are_refused(read):
    with pytest.raises(BadData, match="no pair of images that are trained on"):
        read("ab", given=images(list("cdefg"), held_out=frozenset({"a.png", "b.png"})))


@pytest.mark.parametrize("line", ["a.png,b.png", "a.png,b.png,maybe", "a.png,b.png,must,now", "a.png"])
def test_a_malformed_line_is_refused_by_its_number(tmp_path, line):
    path = written(tmp_path, f"a.png,b.png,must\n\n{line}\n")
    with pytest.raises(BadData, match=f"line 3: '{line}' is no pair"):
        constraints.read(path, images())


def test_quoted_names_spaces_and_a_byte_order_mark_are_read(tmp_path):
    path = written(tmp_path, '\ufeff"a,1.png", b.png , must\n')
    assert constraints.read(path, images(["a,1", "b"])).must.tolist() == [[0, 1]]


def test_a_quote_that_does_not_end_is_refused(tmp_path):
    with pytest.raises(BadData, match="cannot be read"):
        constraints.read(written(tmp_path, '"a.png,b.png,must\n'), images())


def test_an_empty_file_is_refused(tmp_path):
    with pytest.raises(BadData, match="no pair"):
        constraints.read(written(tmp_path, "\n"), images())


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(BadData, match=r"none\.csv cannot be read"):
        constraints.read(tmp_path / "none.csv", images())
