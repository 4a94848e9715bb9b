"""Runs side by side: figures, the settings in which they differ, how they learnt, and which RankMe would choose."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from roost.errors import BadArtifact, BadSettings, UnknownPlugin
from roost_training import methods
from roost_training.evaluate import charts, figures, report
from roost_training.evaluate.charts import Curve
from roost_training.evaluate.folders import replacing
from roost_training.evaluate.subject import open_
from roost_training.loop import run
from roost_training.loop.settings import TrainSettings

PAGE = "compare.md"
FILE = "compare.json"
CURVES = "curves.png"
FROM_TRAINING = {"knn20_accuracy": "knn20", "rankme": "rankme", "feature_std": "feature_std"}
"""Figures that training leaves in the manifest and its metrics, by the names that reports give them."""
BUDGET = ("epochs", "images_seen", "training_seconds", "training_cpu_seconds")
PANELS = {"knn20": "kNN-20", "rankme": "RankMe", "loss": "loss"}


@dataclass(frozen=True)
class Run:
    """One of the runs."""

    name: str
    """Its folder's, or the whole path where two folders have the same."""
    method: str
    encoder: str
    figures: dict[str, float]
    """Those of its report, and else those that training left."""
    budget: dict[str, float]
    settings: dict[str, Any]
    """Those that decide what is learnt, by dotted names."""
    images: str
    """What it learnt from and held out, or what else its report was measured on."""
    scored: str | None
    """What its report was measured on; None where it has none."""
    curves: dict[str, list[tuple[float, float]]]
    """By name, processor seconds and values."""


@dataclass(frozen=True)
class Comparison:
    """compare.json."""

    runs: list[Run]
    best: dict[str, list[str]]
    """By figure, the runs that are not beaten; only where figures compare."""
    differing: dict[str, list[Any]]
    """By setting, its value in each run."""
    choice: str | None
    """The run that RankMe, without labels, would choose; None where it cannot."""
    notes: list[str]


def compare(folders: Sequence[Path]) -> Comparison:
    """Lay finished runs side by side.

    Args:
        folders: Of the runs, at least two.

    Raises:
        BadSettings: Fewer than two, or one twice.
        BadArtifact: A folder that is no finished run.
    """
    if len({folder.resolve() for folder in folders}) < max(len(folders), 2):
        raise BadSettings("Give at least two different runs to compare.")
    short = len({folder.resolve().name for folder in folders}) == len(folders)
    runs = [_read(folder, name=folder.resolve().name if short else str(folder)) for folder in folders]
    alike = _alike(runs)
    ranked = [each for each in runs if "rankme" in each.figures]
    choosable = alike and len(ranked) == len(runs) and len({each.encoder for each in runs}) == 1
    choice = max(ranked, key=lambda each: each.figures["rankme"]).name if choosable else None
    best = {name: _best(runs, name) for name in figures.FIGURES} if alike else {}
    return Comparison(
        runs=runs,
        best={name: names for name, names in best.items() if names},
        differing=_differing(runs),
        choice=choice,
        notes=list(_notes(runs, alike=alike, choice=choice)),
    )


def page(found: Comparison, *, drawn: bool) -> str:
    """The comparison in Markdown; the best of each figure is bold.

    Args:
        found: The comparison.
        drawn: Whether the curves lie beside the page.
    """
    names = [each.name for each in found.runs]
    heading = [f"| | {' | '.join(names)} |", f"|---|{'---:|' * len(names)}"]
    lines = ["# " + " and ".join(names) if len(names) == 2 else f"# {len(names)} runs", ""]
    lines += [f"- {note}" for note in found.notes]
    lines += ["", "## Figures", "", *heading]
    for title, cells, best in rows(found):
        bold = [f"**{cell}**" if name in best else cell for name, cell in zip(names, cells, strict=True)]
        lines.append(f"| {title} | {' | '.join(bold)} |")
    lines += ["", "## Settings that differ", ""]
    if found.differing:
        lines += heading
        lines += [f"| {key} | {' | '.join(map(_cell, values))} |" for key, values in found.differing.items()]
    else:
        lines.append("None.")
    if drawn:
        lines += ["", "## How they learnt", "", f"![Learning curves]({CURVES})"]
    return "\n".join([*lines, ""])


def rows(found: Comparison) -> Iterator[tuple[str, list[str], list[str]]]:
    """The table: a title, each run's cell, and the names of the best runs."""
    for name, figure in figures.FIGURES.items():
        if any(name in each.figures for each in found.runs):
            cells = [figures.shown(name, each.figures.get(name)) for each in found.runs]
            yield figure.title, cells, found.best.get(name, [])
    for name in BUDGET:
        if any(name in each.budget for each in found.runs):
            yield name.replace("_", " "), [_cell(each.budget.get(name)) for each in found.runs], []


def write(folder: Path, found: Comparison) -> None:
    """Write compare.md, compare.json and curves.png; the folder is there as a whole or not at all.

    Raises:
        BadSettings: The folder holds something else, or cannot be written.
    """
    with replacing(folder, FILE) as draft:
        panels = {
            title: [Curve(each.name, each.curves[key]) for each in found.runs if each.curves[key]]
            for key, title in PANELS.items()
        }
        panels = {title: lines for title, lines in panels.items() if lines}
        if panels:
            charts.curves(panels, x_label="CPU-seconds").save(draft / CURVES)
        (draft / PAGE).write_text(page(found, drawn=bool(panels)), encoding="utf-8")
        (draft / FILE).write_text(json.dumps(asdict(found), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _read(folder: Path, *, name: str) -> Run:
    opened = open_(folder)
    if opened.settings is None:
        raise BadArtifact(f"{folder} is an exported model, not a run. Compare the runs.", path=folder)
    manifest, settings = opened.manifest, opened.settings
    found = {FROM_TRAINING[key]: value for key, value in manifest.quality.items() if key in FROM_TRAINING}
    held_out = settings.val.resolve() if settings.val else (settings.val_fraction, settings.seed)
    images, scored = f"{manifest.data.fingerprint} {held_out}", None
    path = folder / report.FOLDER / report.FILE
    if path.exists() and (measured := report.read(path)).sha256 == opened.sha256:  # else of an earlier run
        found |= measured.figures
        scored = measured.images
        if (measured.data, measured.val) != (str(settings.data), settings.val and str(settings.val)):
            images = scored
    return Run(
        name=name,
        method=manifest.method,
        encoder=f"{manifest.encoder} at {manifest.input.size} pixels",
        figures=found,
        budget={name: manifest.quality[name] for name in BUDGET if name in manifest.quality},
        settings=dict(_flat(settings.effective() | {"method_settings": _method_settings(settings)})),
        images=images,
        scored=scored,
        curves=_curves(folder / run.METRICS),
    )


def _method_settings(settings: TrainSettings) -> dict[str, Any]:
    """With the method's defaults, where this Roost still has the method."""
    try:
        return methods.configure(settings.method, settings.method_settings).model_dump(mode="json")
    except (UnknownPlugin, BadSettings):
        return settings.method_settings


def _flat(settings: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{above}{key}.")
        else:
            yield above + key, value


def _curves(path: Path) -> dict[str, list[tuple[float, float]]]:
    """What metrics.jsonl has of each epoch's end; a line that a kill cut short is left out."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in PANELS}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if record["kind"] != "epoch" or "cpu_seconds" not in record:
            continue
        for key, value in record.items():
            name = FROM_TRAINING.get(key, key)
            if name in found and value is not None:
                found[name].append((record["cpu_seconds"], value))
    return found


def _alike(runs: Sequence[Run]) -> bool:
    """Whether all figures are of the same images."""
    scored = {each.scored for each in runs}
    return len(scored) == 1 if None not in scored else len({each.images for each in runs}) == 1


def _best(runs: Sequence[Run], name: str) -> list[str]:
    values = {each.name: each.figures[name] for each in runs if name in each.figures}
    better = figures.FIGURES[name].better
    if len(values) < 2 or not better:
        return []
    best = max(values.values()) if better == "higher" else min(values.values())
    return [each for each, value in values.items() if value == best]


def _differing(runs: Sequence[Run]) -> dict[str, list[Any]]:
    keys = dict.fromkeys(key for each in runs for key in each.settings)
    values = {key: [each.settings.get(key) for each in runs] for key in keys}
    return {key: found for key, found in values.items() if any(value != found[0] for value in found)}


def _notes(runs: Sequence[Run], *, alike: bool, choice: str | None) -> Iterator[str]:
    bare = [each.name for each in runs if each.scored is None]
    if bare:
        yield f"Only what training measured is known of {', '.join(bare)}. `roost evaluate` measures the rest."
    silent = [each.name for each in runs if not any(each.curves.values())]
    if silent:
        yield f"{', '.join(silent)} left no processor times in {run.METRICS}, and no curve is drawn."
    if not alike:
        yield "The runs were measured on different images, so none is called the best."
        return
    if choice is None:
        yield "RankMe cannot choose among runs of different encoders: it grows with the number of features."
        return
    text = f"Without labels, RankMe would choose {choice}."
    if known := _best(runs, "linear_probe") or _best(runs, "knn20"):
        by = "the linear probe" if _best(runs, "linear_probe") else "kNN-20"
        text += f" With them, {by} chooses {' and '.join(known)}."
    yield text
    count = len({each.method for each in runs})
    caveat = "RankMe counts the dimensions that features use, not whether they are the ones that you need"
    if count > 1:
        caveat += f", and these runs are of {count} methods: it was made to choose among the settings of one"
    yield f"{caveat}."


def _cell(value: object) -> str:
    match value:
        case None:
            return "-"
        case float():
            return f"{value:g}" if abs(value) < 1000 else f"{value:,.0f}"
        case _:
            return str(value)
