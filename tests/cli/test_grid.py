import io

import numpy as np
from PIL import Image

from roost import grid
from roost.grid import Tile


def png(colour):
    buffer = io.BytesIO()
    Image.new("RGB", (30, 20), colour).save(buffer, "PNG")
    return buffer.getvalue()


def middle(picture, *, row, column):
    x = grid.MARGIN + column * (grid.SIDE + grid.GAP) + (grid.GAP if column else 0) + grid.SIDE // 2
    y = grid.MARGIN + row * (grid.SIDE + 2 * grid.LINE + grid.GAP) + grid.SIDE // 2
    return picture.getpixel((x, y))


def test_images_stand_in_their_rows_and_columns(tmp_path):
    path = tmp_path / "blue.png"
    path.write_bytes(png("blue"))
    picture = grid.draw([[Tile(png("red"), "query"), Tile(path, "0.9", "blue")], [Tile(png("lime"), "query")]])
    assert middle(picture, row=0, column=0) == (255, 0, 0)
    assert middle(picture, row=0, column=1) == (0, 0, 255)
    assert middle(picture, row=1, column=0) == (0, 255, 0)
    assert middle(picture, row=1, column=1) == (255, 255, 255)


def test_an_image_that_cannot_be_read_leaves_an_empty_tile(tmp_path):
    picture = grid.draw([[Tile(tmp_path / "absent.png", "query"), Tile(b"torn", "0.5")]])
    assert middle(picture, row=0, column=0) == middle(picture, row=0, column=1) == (229, 231, 235)


def test_text_is_written_below_its_image():
    plain = np.asarray(grid.draw([[Tile(png("red"), "")]]))
    titled = np.asarray(grid.draw([[Tile(png("red"), "0.987", "a/very/long/path/that/does/not/fit/below.png")]]))
    rows, columns = np.nonzero((plain != titled).any(axis=2))
    assert rows.min() >= grid.MARGIN + grid.SIDE
    assert columns.min() >= grid.MARGIN
    assert columns.max() <= grid.MARGIN + grid.SIDE
