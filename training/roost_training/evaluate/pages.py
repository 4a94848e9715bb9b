"""The folder of a report: report.md with its pictures, and report.json."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from sklearn.manifold import TSNE
from torch import Tensor

from roost import grid
from roost.grid import Tile
from roost_training.evaluate import charts, figures, report
from roost_training.evaluate.folders import replacing
from roost_training.evaluate.report import Measured, Progress, Report

PAGE = "report.md"
SCATTER = "scatter.png"
NEIGHBOURS = "neighbours.png"
CLUSTERS = "clusters"

SCATTERED = 2_000
MIN_SCATTERED = 5
PERPLEXITY = 30.0
QUERIES = 8
NEIGHBOURS_SHOWN = 7
SHEETS = 30
SHEET = (3, 8)  # rows and columns of a cluster's sheet


def write(folder: Path, measured: Measured, *, seed: int = 0, progress: Progress | None = None) -> None:
    """Draw a report's pictures and write its folder, which is there as a whole or not at all; an earlier one goes.

    Args:
        folder: Made where missing.
        measured: What to write.
        seed: Of the scatter.
        progress: Called as the work goes on.

    Raises:
        BadSettings: The folder holds something else, or cannot be written.
    """
    tell = progress or (lambda stage, done, total: None)
    with replacing(folder, report.FILE) as draft:
        tell("draw", 0, 3)
        scattered = _scatter(draft, measured, seed=seed)
        tell("draw", 1, 3)
        _neighbours(draft, measured)
        tell("draw", 2, 3)
        sheets = _sheets(draft, measured)
        (draft / PAGE).write_text(page(measured.report, scattered=scattered, sheets=sheets), encoding="utf-8")
        report.write(draft / report.FILE, measured.report)
        tell("draw", 3, 3)


def page(found: Report, *, scattered: int, sheets: Sequence[str]) -> str:
    """report.md.

    Args:
        found: The report.
        scattered: Images in the scatter; 0 where there is none.
        sheets: What to write above each cluster's sheet, the largest cluster first.
    """
    lines = [
        f"# {found.model}",
        "",
        f"{found.method}, {found.encoder}. {found.queries:,} images of `{found.val or found.data}` are scored against "
        f"a bank of {found.bank:,} of `{found.data}`.",
        "",
        *(f"- {note}" for note in found.notes),
        "",
        "## Figures",
        "",
        *_table(found),
        "",
        "Measured with:",
        "",
        *(f"- {name}: {', '.join(f'{k} = {v}' for k, v in values.items())}" for name, values in found.settings.items()),
        "",
    ]
    if scattered:
        lines += [
            "## Where the images lie",
            "",
            f"t-SNE of {scattered:,} embeddings that are scored. Distances between groups mean little in it.",
            "",
            f"![Scatter of embeddings]({SCATTER})",
            "",
        ]
    lines += [
        "## What lies nearest",
        "",
        "Each row begins with an image that is scored; beside it those of the bank that are most similar, by cosine.",
        "",
        f"![Nearest neighbours]({NEIGHBOURS})",
        "",
        "## What the clusters hold",
        "",
        "The images nearest to each centroid, and their distance to it; the largest cluster first.",
        "",
    ]
    for number, title in enumerate(sheets):
        lines += [f"### {title}", "", f"![Cluster {number}]({CLUSTERS}/{number:02}.png)", ""]
    return "\n".join(lines)


def _table(found: Report) -> Iterator[str]:
    columns = {found.model: found.figures, **found.baselines}
    yield f"| figure | {' | '.join(columns)} | |"
    yield f"|---|{'---:|' * len(columns)}---|"
    for name, figure in figures.FIGURES.items():
        if any(name in column for column in columns.values()):
            cells = [figures.shown(name, column.get(name)) for column in columns.values()]
            yield f"| {figure.title} | {' | '.join(cells)} | {figure.meaning} |"


def _scatter(draft: Path, measured: Measured, *, seed: int) -> int:
    """Draw t-SNE (van der Maaten and Hinton, JMLR 9, 2008); returns how many images it shows."""
    chosen = np.linspace(0, len(measured.queries) - 1, min(len(measured.queries), SCATTERED)).round().astype(np.int64)
    if len(chosen) < MIN_SCATTERED:
        return 0
    rows = measured.scored.embeddings.cpu().numpy()[chosen]
    perplexity = min(PERPLEXITY, (len(rows) - 1) / 3)
    points = TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(rows)
    if measured.queries.labels is not None:
        groups, names, by = measured.queries.labels[chosen], measured.queries.classes, "class"
    else:
        groups = measured.clusters.nearest(rows)[0]
        names, by = [f"cluster {number}" for number in range(len(measured.clusters.centroids))], "k-means cluster"
    title = f"{measured.report.model}: t-SNE of {len(rows):,} embeddings, perplexity {perplexity:g}, by {by}"
    charts.scatter(points, groups, names=names, title=title).save(draft / SCATTER)
    return len(rows)


def _neighbours(draft: Path, measured: Measured) -> None:
    bank, queries = measured.bank, measured.queries
    chosen = np.linspace(0, len(queries) - 1, min(len(queries), QUERIES)).round().astype(np.int64)
    similarity, index = _nearest(measured.scored.embeddings[chosen], measured.found.embeddings)
    rows = []
    for place, number in enumerate(chosen.tolist()):
        row = [Tile(measured.query_root / queries.paths[number], "scored", _caption(queries.paths[number]))]
        for value, neighbour in zip(similarity[place].tolist(), index[place].tolist(), strict=True):
            path = bank.paths[neighbour]
            row.append(Tile(measured.bank_root / path, f"{value:.3f}", _caption(path)))
        rows.append(row)
    grid.draw(rows).save(draft / NEIGHBOURS)


def _nearest(queries: Tensor, bank: Tensor) -> tuple[Tensor, Tensor]:
    """The cosine similarities and places of each query's nearest images, both (m, k)."""
    found = torch.topk(queries @ bank.T, min(NEIGHBOURS_SHOWN, len(bank)), dim=1)
    return found.values, found.indices


def _sheets(draft: Path, measured: Measured) -> list[str]:
    """Draw a sheet for each of the largest clusters; returns their titles."""
    bank, clusters = measured.bank, measured.clusters
    nearest, distance = clusters.nearest(measured.found.embeddings.cpu().numpy())
    (draft / CLUSTERS).mkdir()
    titles = []
    for number in range(min(len(clusters.centroids), SHEETS)):
        members = np.flatnonzero(nearest == number)
        members = members[np.argsort(distance[members], kind="stable")]
        tiles = [
            Tile(measured.bank_root / bank.paths[image], f"{distance[image]:.3f}", _caption(bank.paths[image]))
            for image in members[: SHEET[0] * SHEET[1]].tolist()
        ]
        rows = [tiles[start : start + SHEET[1]] for start in range(0, len(tiles), SHEET[1])]
        grid.draw(rows, queries=False).save(draft / CLUSTERS / f"{number:02}.png")
        titles.append(f"Cluster {number}: {len(members):,} images{_commonest(measured, members)}")
    return titles


def _commonest(measured: Measured, members: np.ndarray) -> str:
    labels = measured.bank.labels
    if labels is None or not len(members):
        return ""
    counts = np.bincount(labels[members], minlength=len(measured.bank.classes))
    order = np.argsort(-counts, kind="stable")[:3]
    return ", " + ", ".join(
        f"{counts[label] / len(members):.0%} {measured.bank.classes[label]}" for label in order if counts[label]
    )


def _caption(path: str) -> str:
    """An image's class where it lies in a folder, else its name."""
    folder, slash, name = path.partition("/")
    return folder if slash else name
