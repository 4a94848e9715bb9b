"""What an encoder is worth, measured as a whole: figures, baselines, notes on how, and what pictures are drawn from."""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from roost import artifact
from roost.clusters import Clusters
from roost.errors import BadArtifact
from roost_training import evaluate
from roost_training.encoders import Embedder, whitening
from roost_training.evaluate import baselines, embedding, figures
from roost_training.evaluate.embedding import Vectors
from roost_training.evaluate.subject import Subject
from roost_training.images.data import Images
from roost_training.images.pixel_cache import digest
from roost_training.loop.settings import TrainSettings
from roost_training.loop.source import Source

SCHEMA = 1
FOLDER = "report"
"""In a run's own folder, where no other is named."""
FILE = "report.json"
MAX_QUERIES = 10_000
ALIGNED = 2_000
"""Images whose two views are compared."""

Progress = Callable[[str, int, int], None]
"""Called with a stage, its steps done and its steps in all."""


@dataclass(frozen=True)
class Report:
    """report.json."""

    model: str
    method: str
    encoder: str
    sha256: str
    """Of the weights that were measured."""
    data: str
    val: str | None
    """The folders; without `val`, a part of `data` was held out."""
    bank: int
    queries: int
    images: str
    """One digest of the bank's and the queries' files: figures of other images do not compare."""
    figures: dict[str, float]
    settings: dict[str, dict[str, Any]]
    """By measure, what it ran with."""
    notes: list[str]
    baselines: dict[str, dict[str, float]] = field(default_factory=dict)
    schema: int = SCHEMA


@dataclass(frozen=True)
class Measured:
    """A report with what its pictures show."""

    report: Report
    bank: Images
    queries: Images
    found: Vectors
    """Of the bank."""
    scored: Vectors
    """Of the queries."""
    clusters: Clusters

    @property
    def bank_root(self) -> Path:
        """The folder that the bank's files lie in."""
        return Path(self.report.data)

    @property
    def query_root(self) -> Path:
        """The folder that the queries' files lie in."""
        return Path(self.report.val or self.report.data)


def measure(
    subject: Subject,
    data: Path | None = None,
    *,
    val: Path | None = None,
    k: int | None = None,
    with_baselines: bool = False,
    seed: int = 0,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> Measured:
    """Measure an encoder.

    Args:
        subject: The encoder.
        data: A folder of images; the run's own, with those that it held out, where None.
        val: A folder to score on; a part of `data` is held out where None.
        k: Clusters; as many as classes where None, or chosen by silhouettes where there are none.
        with_baselines: Measure raw pixels, their principal components and the untrained encoder too.
        seed: Of the clusters' starts and the views.
        cache: Where decoded pixels are kept; the run's own cache where None, or nowhere for an exported version.
        progress: Called as the work goes on.

    Raises:
        BadArtifact: The weights or the model are missing or altered, or of another encoder.
        BadData: Images that cannot be scored with.
        BadSettings: No folder of images where one is needed, or more clusters than different images.
    """
    tell = progress or (lambda stage, done, total: None)
    with TemporaryDirectory(prefix="roost-") as temporary:
        kept = cache or (subject.settings.cache if subject.settings else Path(temporary))
        settings, source = subject.images(data, val=val, cache=kept, progress=partial(tell, "decode"))
        if settings.threads is not None:
            torch.set_num_threads(settings.threads)
        bank, queries = source.bank, embedding.evenly(source.held_out, MAX_QUERIES)
        found = subject.vectors(bank, progress=partial(tell, "embed the bank"))
        scored = subject.vectors(queries, progress=partial(tell, "embed the queries"))
        labels = (bank.labels, queries.labels) if source.labelled else (None, None)
        if k is None and source.labelled:
            k = len(bank.classes)
        clusters = figures.partition(found.embeddings, k=k, seed=seed, progress=progress)
        own = figures.score(found, scored, *labels, seed=seed, clusters=clusters)
        own |= {"clusters_k": len(clusters.centroids)} | _alignment(subject, source, seed=seed)
        beside: dict[str, dict[str, float]] = {}
        others = _baselines(subject, source) if with_baselines else {}
        for name, baseline in others.items():
            pair = embedding.vectors(baseline, bank), embedding.vectors(baseline, queries)
            groups = figures.partition(pair[0].embeddings, k=k, seed=seed) if source.labelled else None
            beside[name] = figures.score(*pair, *labels, seed=seed, clusters=groups)
            tell("baselines", len(beside), len(others))
    report = Report(
        model=subject.manifest.reference,
        method=subject.manifest.method,
        encoder=subject.manifest.encoder,
        sha256=subject.sha256,
        data=str(settings.data),
        val=None if settings.val is None else str(settings.val),
        bank=len(bank),
        queries=len(queries),
        images=digest([*bank.sha256, "scored", *queries.sha256]),
        figures={name: own[name] for name in figures.FIGURES if name in own},
        baselines=beside,
        settings=figures.settings(seed=seed) | {"alignment": evaluate.settings_of(evaluate.alignment)},
        notes=list(_notes(subject, source, settings)),
    )
    return Measured(report, bank, queries, found, scored, clusters)


def read(path: Path) -> Report:
    """Read report.json.

    Raises:
        BadArtifact: It is malformed, or of another schema.
    """
    try:
        content = json.loads(path.read_bytes())
        report = Report(**content)
    except (OSError, ValueError, TypeError) as error:
        raise BadArtifact(f"{path} cannot be read ({error}). Run `roost evaluate` again.", path=path) from error
    if report.schema != SCHEMA:
        raise BadArtifact(f"{path} has schema {report.schema}, not {SCHEMA}. Run `roost evaluate` again.", path=path)
    return report


def write(path: Path, report: Report) -> None:
    """Write report.json."""
    artifact.replace_bytes(path, (json.dumps(asdict(report), indent=2, ensure_ascii=False) + "\n").encode())


def _alignment(subject: Subject, source: Source, *, seed: int) -> dict[str, float]:
    """The alignment of two views of training images, made as the run made them; an exported version cannot say how."""
    if subject.embedder is None or subject.settings is None:
        return {}
    za, zb = embedding.two_views(
        subject.embedder,
        embedding.evenly(source.train, ALIGNED),
        subject.settings.views,
        size=subject.settings.image_size,
        generator=torch.Generator().manual_seed(seed),
    )
    return {"alignment": evaluate.alignment(za, zb)}


def _baselines(subject: Subject, source: Source) -> dict[str, Embedder]:
    """By name, what the encoder has to beat; an exported version does not say how its weights began."""
    mean, std, side = subject.manifest.input.mean, subject.manifest.input.std, source.bank.side
    found = {
        "raw pixels": baselines.raw_pixels(mean=mean, std=std, side=side),
        "PCA-64": baselines.principal_components(source.bank, mean=mean, std=std),
    }
    if subject.embedder is None or subject.settings is None:
        return found
    begin = partial(
        baselines.untrained, subject.manifest.encoder, mean=mean, std=std, side=side, seed=subject.settings.seed
    )
    device = subject.embedder.mean.device
    found["untrained"] = begin().to(device)
    if subject.embedder.whitening is not None:
        whitened = begin().to(device)
        features = embedding.features(whitened, source.bank)
        whitened.whitening = whitening.fit(features, dim=min(subject.manifest.dim, len(features)))
        found["untrained, whitened"] = whitened
    return found


def _notes(subject: Subject, source: Source, settings: TrainSettings) -> Iterator[str]:
    """What a reader of the figures has to know of how they came about."""
    bank, held_out = len(source.bank), len(source.held_out)
    yield source.describe()
    if settings.val is None:
        yield f"The images held out are {settings.val_fraction:.0%} of {settings.data}, drawn by seed {settings.seed}."
    if not source.labelled:
        nameless = settings.data if source.train.labels is None or settings.val is None else settings.val
        yield (
            f"{nameless} names no classes (every image in one of at least two subfolders), so there are no figures by "
            "class. k was chosen by silhouettes unless it was given."
        )
    if bank < len(source.plain):
        yield f"{bank:,} of the {len(source.plain):,} images to train on, evenly spread, are the bank."
    if held_out > MAX_QUERIES:
        yield f"{MAX_QUERIES:,} of the {held_out:,} images held out, evenly spread, are scored."
    if source.labelled and bank < max(figures.KNN):
        yield f"The bank has {bank} images, fewer than {max(figures.KNN)}: all of them vote in kNN-{max(figures.KNN)}."
    if subject.embedder is None:
        yield "An exported version gives embeddings alone: the figures of features are of these, and have no alignment."
    elif len(source.train) > ALIGNED:
        yield f"Alignment is of {ALIGNED:,} of the {len(source.train):,} images to train on, evenly spread."
