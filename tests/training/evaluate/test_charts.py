import numpy as np
import pytest
from PIL import ImageColor

from roost_training.evaluate import charts
from roost_training.evaluate.charts import COLOURS, GREY, Curve


def colours(picture):
    return {colour for _, colour in picture.getcolors(picture.width * picture.height)}


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 10, [0, 2, 4, 6, 8, 10]),
        (0.61, 0.66, [0.61, 0.62, 0.63, 0.64, 0.65, 0.66]),
        (-3, 20, [0, 5, 10, 15, 20]),
        (7, 7, [7]),
    ],
)
def test_ticks_are_round_numbers_within_the_range(low, high, expected):
    assert charts.ticks(low, high) == pytest.approx(expected)


def test_every_group_of_a_scatter_has_its_colour():
    points = np.random.default_rng(0).normal(size=(60, 2))
    picture = charts.scatter(points, np.arange(60) % 3, names=["a", "b", "c"], title="three")
    assert {ImageColor.getrgb(colour) for colour in COLOURS[:3]} <= colours(picture)
    assert ImageColor.getrgb(COLOURS[3]) not in colours(picture)


def test_of_many_groups_the_smallest_share_a_grey():
    groups = np.concatenate([np.repeat(np.arange(19), 3), np.arange(19, 30)])
    points = np.random.default_rng(0).normal(size=(len(groups), 2))
    found = colours(charts.scatter(points, groups, names=[str(number) for number in range(30)], title="thirty"))
    assert {ImageColor.getrgb(colour) for colour in (*COLOURS[:19], GREY)} <= found
    assert ImageColor.getrgb(COLOURS[19]) not in found


def test_points_that_are_all_the_same_are_drawn():
    picture = charts.scatter(np.zeros((9, 2)), np.zeros(9, int), names=["a"], title="one")
    assert ImageColor.getrgb(COLOURS[0]) in colours(picture)


def test_a_run_has_one_colour_in_every_panel():
    first, second = [Curve("a", [(0, 0), (1, 1)])], [Curve("b", [(0, 1), (1, 0)]), Curve("a", [(0, 0), (1, 1)])]
    whole = charts.curves({"one": first, "two": second}, x_label="seconds")
    half = np.asarray(whole)[: whole.height // 2]
    left, right = half[:, : whole.width // 2], half[:, whole.width // 2 :]
    blue, orange = (np.array(ImageColor.getrgb(colour)) for colour in COLOURS[:2])
    assert (left == blue).all(axis=2).any()
    assert not (left == orange).all(axis=2).any()
    assert (right == blue).all(axis=2).any()
    assert (right == orange).all(axis=2).any()


def test_a_single_point_and_a_flat_curve_are_drawn():
    picture = charts.curves({"loss": [Curve("a", [(3, 2.5)]), Curve("b", [(0, 1), (3, 1)])]}, x_label="seconds")
    assert {ImageColor.getrgb(colour) for colour in COLOURS[:2]} <= colours(picture)
