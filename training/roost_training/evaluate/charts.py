"""Charts of a report: a scatter of points in groups, and curves over time."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from roost.grid import FAINT, INK, PAPER

SCALE = 2  # drawn so many times as large and scaled down, which smooths edges
MARGIN = 24
LINE = 20
FONT_SIZE = 13
LEGEND = 200
RADIUS = 3.2
OTHERS = "others"
GREY = "#c3c7cf"
RULE = "#e5e7eb"
COLOURS = (
    "#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#17becf", "#bcbd22", "#3b3f46",
    "#7fb2e5", "#ffbb78", "#98df8a", "#ff9896", "#c5b0d5", "#c49c94", "#f7b6d2", "#9edae5", "#dbdb8d", "#5f7a1f",
)  # fmt: skip
"""Ten that are told apart well, and ten more."""


@dataclass(frozen=True)
class Curve:
    """One line of a panel."""

    name: str
    points: Sequence[tuple[float, float]]


class _Canvas:
    """A picture drawn large and scaled down; coordinates are those of the small one."""

    def __init__(self, width: int, height: int) -> None:
        self.image = Image.new("RGB", (width * SCALE, height * SCALE), PAPER)
        self.pen = ImageDraw.Draw(self.image)
        self.font = ImageFont.load_default(FONT_SIZE * SCALE)

    def text(self, at: tuple[float, float], text: str, *, fill: str = INK, anchor: str = "lm") -> None:
        self.pen.text((at[0] * SCALE, at[1] * SCALE), text, fill=fill, font=self.font, anchor=anchor)

    def line(self, points: Sequence[tuple[float, float]], *, fill: str, width: float = 1) -> None:
        scaled = [(x * SCALE, y * SCALE) for x, y in points]
        self.pen.line(scaled, fill=fill, width=round(width * SCALE), joint="curve")

    def dot(self, at: tuple[float, float], *, fill: str, radius: float = RADIUS) -> None:
        x, y, r = at[0] * SCALE, at[1] * SCALE, radius * SCALE
        self.pen.ellipse((x - r, y - r, x + r, y + r), fill=fill, outline=PAPER)

    def fit(self, text: str, width: float) -> str:
        """The text, or as much of its beginning as a width takes."""
        if self.font.getlength(text) <= width * SCALE:
            return text
        while text and self.font.getlength(f"{text}…") > width * SCALE:
            text = text[:-1]
        return f"{text}…"

    def finished(self) -> Image.Image:
        return self.image.reduce(SCALE)


def scatter(
    points: np.ndarray, groups: np.ndarray, *, names: Sequence[str], title: str, side: int = 720
) -> Image.Image:
    """Points coloured by group, with a legend; of more than 20 groups the smaller ones share a grey.

    Args:
        points: Shape (n, 2).
        groups: Indices into `names`, shape (n,).
        names: Of the groups.
        title: Written above.
        side: The points' longer extent, in pixels.
    """
    sizes = np.bincount(groups, minlength=len(names))
    shown = np.argsort(-sizes, kind="stable")[: len(COLOURS)]
    if len(names) > len(COLOURS):
        shown = shown[:-1]
    colours = dict(zip(sorted(shown.tolist()), COLOURS, strict=False))
    places = (points - points.min(axis=0)) / max(np.ptp(points, axis=0).max(), np.finfo(np.float64).tiny) * side
    width, height = (math.ceil(extent) for extent in places.max(axis=0))
    height = max(height, (len(colours) + 1) * LINE)
    canvas = _Canvas(width + LEGEND + 4 * MARGIN, height + 3 * MARGIN + LINE)
    canvas.text((MARGIN, MARGIN), title)
    # In a random order, or the last class would hide the others where they overlap.
    for row in np.random.default_rng(0).permutation(len(points)):
        at = (1.5 * MARGIN + places[row, 0], 1.5 * MARGIN + LINE + height - places[row, 1])
        canvas.dot(at, fill=colours.get(int(groups[row]), GREY))
    entries = [(colour, str(names[group]), int(sizes[group])) for group, colour in colours.items()]
    rest = int(sizes.sum()) - sum(size for _, _, size in entries)
    _legend(canvas, [*entries, *([(GREY, OTHERS, rest)] if rest else [])], left=width + 3 * MARGIN)
    return canvas.finished()


def curves(panels: Mapping[str, Sequence[Curve]], *, x_label: str, width: int = 420, height: int = 280) -> Image.Image:
    """Panels side by side, each with its title, its curves and an axis of its own; a name has one colour in all.

    Args:
        panels: By title, the curves.
        x_label: What runs to the right.
        width: Of a panel's axes, in pixels.
        height: Likewise.
    """
    axis = 52
    names = list(dict.fromkeys(curve.name for lines in panels.values() for curve in lines))
    colours = {name: COLOURS[place % len(COLOURS)] for place, name in enumerate(names)}
    legend_height = LINE * len(names)
    total = MARGIN + len(panels) * (axis + width + MARGIN)
    canvas = _Canvas(total, MARGIN + LINE + height + 3 * LINE + legend_height + MARGIN)
    for place, (title, lines) in enumerate(panels.items()):
        left, top = MARGIN + axis + place * (axis + width + MARGIN), MARGIN + LINE
        canvas.text((left, MARGIN), title)
        _panel(canvas, lines, colours=colours, box=(left, top, left + width, top + height))
        canvas.text((left + width / 2, top + height + 2 * LINE), x_label, fill=FAINT, anchor="mm")
    for place, name in enumerate(names):
        y = MARGIN + height + 4.5 * LINE + place * LINE
        canvas.line([(MARGIN + axis, y), (MARGIN + axis + 22, y)], fill=colours[name], width=2.5)
        canvas.text((MARGIN + axis + 30, y), canvas.fit(name, total - 2 * MARGIN - axis - 30))
    return canvas.finished()


def ticks(low: float, high: float, *, about: int = 5) -> list[float]:
    """Round numbers from `low` to `high`, about so many of them."""
    if not high > low:
        return [low]
    rough = (high - low) / about
    power = 10 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    return [number * step for number in range(first, math.floor(high / step + 1e-9) + 1)]


def _panel(
    canvas: _Canvas, lines: Sequence[Curve], *, colours: Mapping[str, str], box: tuple[float, float, float, float]
) -> None:
    left, top, right, bottom = box
    xs, ys = ([point[axis] for curve in lines for point in curve.points] for axis in (0, 1))
    low_x, high_x = 0.0, max(xs, default=1.0) or 1.0
    low_y, high_y = min(ys, default=0.0), max(ys, default=1.0)
    margin = 0.05 * (high_y - low_y) or 0.05 * abs(high_y) or 0.5
    low_y, high_y = low_y - margin, high_y + margin

    def at(x: float, y: float) -> tuple[float, float]:
        return (
            left + (x - low_x) / (high_x - low_x) * (right - left),
            bottom - (y - low_y) / (high_y - low_y) * (bottom - top),
        )

    for y in ticks(low_y, high_y):
        canvas.line([(left, at(0, y)[1]), (right, at(0, y)[1])], fill=RULE)
        canvas.text((left - 8, at(0, y)[1]), f"{y:.4g}", fill=FAINT, anchor="rm")
    for x in ticks(low_x, high_x):
        canvas.text((at(x, 0)[0], bottom + LINE * 0.7), f"{x:.4g}", fill=FAINT, anchor="mm")
    canvas.line([(left, bottom), (right, bottom)], fill=FAINT)
    for curve in lines:
        points = [at(x, y) for x, y in curve.points]
        if len(points) > 1:
            canvas.line(points, fill=colours[curve.name], width=2)
        for point in points[-1:]:
            canvas.dot(point, fill=colours[curve.name])


def _legend(canvas: _Canvas, entries: Sequence[tuple[str, str, int]], *, left: float) -> None:
    for place, (colour, name, size) in enumerate(entries):
        y = 1.5 * MARGIN + LINE + (place + 0.5) * LINE
        canvas.dot((left + 6, y), fill=colour, radius=5)
        canvas.text((left + 18, y), canvas.fit(name, LEGEND - 60))
        canvas.text((left + LEGEND, y), f"{size:,}", fill=FAINT, anchor="rm")
