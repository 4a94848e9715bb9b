"""`roost evaluate` and `compare`: how good a run is, and which of several."""

from pathlib import Path
from typing import Annotated

import typer

from roost.cli import bars
from roost.cli.app import stage
from roost.cli.options import Json
from roost.cli.output import emit, say, table


def evaluate(
    run: Annotated[Path, typer.Argument(help="A run's folder, or an exported model's.")],
    path: Annotated[Path | None, typer.Argument(help="A folder of images; the run's own by default.")] = None,
    *,
    val: Annotated[Path | None, typer.Option(help="A folder to score on; else a part of PATH is held out.")] = None,
    out: Annotated[Path | None, typer.Option(help="The report's folder; RUN/report for a run.")] = None,
    k: Annotated[int | None, typer.Option(help="How many clusters; as many as classes, or chosen.")] = None,
    baselines: Annotated[
        bool, typer.Option("--baselines", help="Measure pixels and the untrained encoder too.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of the clusters' starts, the views and the scatter.")] = 0,
    cache: Annotated[Path | None, typer.Option(help="Where decoded pixels are kept; the run's by default.")] = None,
    json: Json = False,
) -> None:
    """Measure an encoder: neighbours, probe, clusters, retrieval, spread; with pictures. Classes are optional.

    Example: roost evaluate runs/photos --baselines
    """
    with stage("training"):
        from roost_training.evaluate import figures, folders, pages, report, subject

        opened = subject.open_(run)
        folder = out or (opened.folder / report.FOLDER if opened.settings else None)
        if folder is not None:
            folders.check(folder, report.FILE)
        with bars.staged() as progress:
            measured = report.measure(
                opened, path, val=val, k=k, with_baselines=baselines, seed=seed, cache=cache, progress=progress
            )
            if folder is not None:
                pages.write(folder, measured, seed=seed, progress=progress)
    found = measured.report
    if json:
        emit(found)
    else:
        columns = {found.model: found.figures, **found.baselines}
        rows = [
            (figure.title, *(figures.shown(name, column.get(name)) for column in columns.values()), figure.meaning)
            for name, figure in figures.FIGURES.items()
            if name in found.figures
        ]
        table(["figure", *(f"#{name}" for name in columns), ""], rows)
    for note in found.notes:
        say(note)
    if folder is not None:
        say(f"{folder} holds the report: {folder / pages.PAGE}.")


def compare(
    runs: Annotated[list[Path], typer.Argument(help="The folders of finished runs.")],
    *,
    out: Annotated[Path | None, typer.Option(help="A folder for the comparison, with its learning curves.")] = None,
    json: Json = False,
) -> None:
    """Lay runs side by side: figures, settings that differ, learning curves, and which RankMe would choose.

    Example: roost compare runs/simclr runs/byol --out comparison
    """
    with stage("training"):
        from roost_training.evaluate import comparison

        found = comparison.compare(runs)
        if out is not None:
            comparison.write(out, found)
    if json:
        emit(found)
    else:
        names = [each.name for each in found.runs]
        figures = [
            [title, *(f"{cell} *" if name in best else cell for name, cell in zip(names, cells, strict=True))]
            for title, cells, best in comparison.rows(found)
        ]
        table(["figure", *(f"#{name}" for name in names)], figures)
        if found.differing:
            settings = [[key, *values] for key, values in found.differing.items()]
            table(["setting", *(f"#{name}" for name in names)], settings)
    for note in found.notes:
        say(note)
    if out is not None:
        say(f"{out} holds the comparison: {out / comparison.PAGE}.")
