"""A picture of queries and their neighbours: people would rather look than read."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from roost import preprocess
from roost.errors import RoostError

SIDE = 128  # of an image, in pixels; so are the others
GAP = 12
MARGIN = 20
LINE = 18
FONT_SIZE = 13
CORNER = 6

PAPER = "#ffffff"
INK = "#1c1e21"
FAINT = "#6b7280"
EMPTY = "#e5e7eb"
ACCENT = "#2563eb"


@dataclass(frozen=True)
class Tile:
    """One image with what is written below it."""

    image: Path | bytes
    title: str
    """The first line, such as a score."""
    caption: str = ""
    """The second line, such as a label."""


def draw(rows: Sequence[Sequence[Tile]], *, queries: bool = True) -> Image.Image:
    """Draw rows of images; the first of each row is the query and is framed and set apart, unless there are none.

    An image that cannot be read is drawn as an empty tile, since a picture with a hole says more than none.
    """
    columns = max((len(row) for row in rows), default=0)
    width = 2 * MARGIN + columns * SIDE + max(columns, 1) * GAP
    height = 2 * MARGIN + len(rows) * (SIDE + 2 * LINE + GAP)
    canvas = Image.new("RGB", (width, height), PAPER)
    pen = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(FONT_SIZE)
    for number, row in enumerate(rows):
        top = MARGIN + number * (SIDE + 2 * LINE + GAP)
        for place, tile in enumerate(row):
            left = MARGIN + place * (SIDE + GAP) + (GAP if place and queries else 0)
            canvas.paste(_picture(tile.image), (left, top), _mask())
            query = queries and place == 0
            if query:
                box = (left - 3, top - 3, left + SIDE + 2, top + SIDE + 2)
                pen.rounded_rectangle(box, radius=CORNER + 3, outline=ACCENT, width=2)
            centre = left + SIDE / 2
            below = top + SIDE + LINE / 2 + 2
            pen.text((centre, below), _fit(tile.title, font), fill=ACCENT if query else INK, font=font, anchor="mm")
            pen.text((centre, below + LINE), _fit(tile.caption, font), fill=FAINT, font=font, anchor="mm")
    return canvas


def _picture(image: Path | bytes) -> Image.Image:
    try:
        data = image.read_bytes() if isinstance(image, Path) else image
        return Image.fromarray(preprocess.decode(data, size=SIDE, resize=SIDE))
    except (OSError, RoostError):
        return Image.new("RGB", (SIDE, SIDE), EMPTY)


def _mask() -> Image.Image:
    mask = Image.new("L", (SIDE, SIDE), 0)
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, SIDE - 1, SIDE - 1), radius=CORNER, fill=255)
    return mask


def _fit(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """The text, or as much of its end as a tile's width takes: the end of a path tells more than its beginning."""
    if font.getlength(text) <= SIDE:
        return text
    while text and font.getlength(f"…{text}") > SIDE:
        text = text[1:]
    return f"…{text}"
