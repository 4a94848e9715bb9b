import numpy as np
import pytest

from roost.errors import ParityFailed
from roost_export import parity

PIXELS = np.zeros((3, 8, 8, 3), np.uint8) + np.arange(3, dtype=np.uint8)[:, None, None, None]
EXPECTED = np.eye(3, 4, dtype=np.float32)


def model_of(table):
    """A model that knows an image by its brightness."""
    return lambda pixels: table[pixels[:, 0, 0, 0]]


def check(model, *, max_batch=8):
    return parity.check(model, pixels=PIXELS, expected=EXPECTED, max_batch=max_batch)


def test_the_table_has_the_difference_and_the_cosine_of_every_image():
    found = EXPECTED.copy()
    found[1] = [0.6, 0.8, 0, 0]
    rows = parity.measure(found, EXPECTED)
    assert [row.image for row in rows] == [0, 1, 2]
    assert [row.max_abs_difference for row in rows] == pytest.approx([0, 0.6, 0])
    assert [row.cosine for row in rows] == pytest.approx([1, 0.8, 1])


def test_the_worst_image_is_the_tables_summary():
    compared = parity.Parity([parity.Row(0, 1e-5, 1.0), parity.Row(1, 3e-4, 0.99), parity.Row(2, 2e-4, 0.98)])
    assert (compared.max_abs_difference, compared.min_cosine) == (3e-4, 0.98)


def test_a_difference_below_one_thousandth_passes():
    compared = check(model_of(EXPECTED + np.float32(0.9e-3)))
    assert compared.max_abs_difference == pytest.approx(0.9e-3, rel=1e-3)


def test_a_difference_above_one_thousandth_is_refused():
    found = EXPECTED.copy()
    found[2, 3] += 1.1e-3
    with pytest.raises(ParityFailed, match=r"Golden image 2 differs by 0\.0011") as caught:
        check(model_of(found))
    assert caught.value.facts["image"] == "2"


def test_a_value_that_is_no_number_is_refused():
    found = EXPECTED.copy()
    found[1, 0] = np.nan
    with pytest.raises(ParityFailed, match="Golden image 1 differs by inf"):
        check(model_of(found))


def test_an_embedding_of_another_length_is_refused():
    with pytest.raises(ParityFailed, match=r"\(3, 5\)"):
        check(model_of(np.eye(3, 5, dtype=np.float32)))


def test_a_model_that_is_right_one_image_at_a_time_only_is_refused():
    alone = model_of(EXPECTED)
    with pytest.raises(ParityFailed):
        check(lambda pixels: alone(pixels) if len(pixels) == 1 else alone(pixels)[::-1])


def test_no_call_has_more_images_than_the_model_takes():
    sizes = []

    def model(pixels):
        sizes.append(len(pixels))
        return model_of(EXPECTED)(pixels)

    check(model, max_batch=2)
    assert sizes == [1, 1, 1, 2, 1]
