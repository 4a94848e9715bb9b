"""Fit a model's clusters: k-means, a Gaussian mixture, and the distance past which an image is an anomaly."""

import dataclasses
import math
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from roost import artifact
from roost.artifact import Manifest
from roost.clusters import Clusters
from roost.errors import BadArtifact, BadData, BadSettings
from roost.ids import sha256_id
from roost_training.clustering import kmeans, mixture, model_versions, onnx_embedder
from roost_training.evaluate import agreement
from roost_training.images import data

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
FALSE_ALARM_RATE = 0.01
HELD_OUT_FRACTION = 0.2
MIN_THRESHOLD = 1e-3  # where all images held out are duplicates, a rounding error must be no anomaly
MIN_IMAGES = 3  # two to fit, one to hold out
ONE_THREAD_VALUES = 2**26  # fewer embedding values than this are fitted faster, and repeatably, by one thread

Progress = Callable[[str, int, int], None]
"""Called with a stage ("decode", "embed", "choose k" or "fit"), its steps done and its steps in all."""


def cluster(
    model_folder: Path,
    images: Path,
    *,
    k: int | None = None,
    components: int | None = None,
    false_alarm_rate: float = FALSE_ALARM_RATE,
    seed: int = 0,
    threads: int = 2,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> Manifest:
    """Fit clusters to a folder of images as a model's latest version embeds them, and keep them with the model.

    A version without clusters gets them. One that has some is never edited: its files are copied to a new version,
    which gets the new clusters.

    Args:
        model_folder: A model in a repository, such as `model_repository/digits`.
        images: A folder of images. Class names in its folders score the clusters, and change nothing else.
        k: As in `fit`.
        components: As in `fit`.
        false_alarm_rate: As in `fit`.
        seed: As in `fit`.
        threads: That the model runs on.
        cache: A folder that keeps the decoded images for the next time; they are not kept where None.
        progress: Called as the work goes on.

    Returns:
        The manifest of the version that has the clusters. Its `quality` has these figures more: `clusters_k`,
        `mixture_components`, `anomaly_threshold`, `false_alarm_rate` (as asked for) and
        `held_out_false_alarm_rate` (see `cross_checked_rate`); where folders carry class names also
        `clusters_nmi`, `clusters_ari`, `clusters_purity`, `clusters_accuracy` and `mixture_nmi`, over all images.

    Raises:
        BadArtifact: The folder holds no model version, or its latest is incomplete or altered, or is a TensorRT plan.
        BadData: The images are missing, unreadable, too few or too alike.
        BadSettings: k, the components or the rate do not suit the images.
    """
    folder, manifest = model_versions.latest(model_folder)
    if artifact.MODEL not in manifest.files:
        raise BadArtifact(
            f"{folder} has no {artifact.MODEL}, and clusters are fitted with ONNX Runtime; a TensorRT plan runs "
            "only on the kind of device that it was built on. Run `roost export --format onnx` with another --name, "
            "and cluster that model.",
            path=folder,
        )
    model = artifact.check_file(folder, manifest, artifact.MODEL)
    with tempfile.TemporaryDirectory(prefix="roost-") as temporary:
        found = data.load(
            images, side=manifest.input.resize, cache=cache or Path(temporary), progress=_stage(progress, "decode")
        )
        embeddings = onnx_embedder.embed(
            model,
            found,
            fed=manifest.input,
            dim=manifest.dim,
            threads=threads,
            progress=_stage(progress, "embed"),
        )
    fitted = fit(
        embeddings,
        ids=[sha256_id(digest) for digest in found.sha256],
        k=k,
        components=components,
        seed=seed,
        false_alarm_rate=false_alarm_rate,
        progress=progress,
    )
    _, held_out = split(len(embeddings), fraction=HELD_OUT_FRACTION, seed=seed)
    _, distances = fitted.nearest(embeddings[held_out])
    rate = cross_checked_rate(distances, false_alarm_rate=false_alarm_rate)
    quality = _figures(fitted) | {"held_out_false_alarm_rate": rate} | _scores(fitted, embeddings, found.labels)
    return model_versions.add_clusters(folder, manifest, fitted, quality=quality)


def fit(
    embeddings: np.ndarray,
    *,
    ids: Sequence[str],
    k: int | None,
    components: int | None,
    seed: int,
    false_alarm_rate: float = FALSE_ALARM_RATE,
    held_out_fraction: float = HELD_OUT_FRACTION,
    starts: int = 10,
    progress: Progress | None = None,
) -> Clusters:
    """Fit clusters and a mixture to most embeddings, and set the anomaly threshold on those held out.

    Args:
        embeddings: Shape (n, dim), float32, of unit length; n >= 3.
        ids: Each image's content id, shape (n,).
        k: Number of k-means clusters, the largest first; chosen by silhouettes (`kmeans.choose_k`) where None.
        components: Number of Gaussians in the mixture. Where None or k, component i grows out of cluster i.
        seed: Of the starts, and of which images are held out; >= 0.
        false_alarm_rate: The share of ordinary images that may be flagged as anomalies, between 0 and 1.
        held_out_fraction: The share of the images that sets the threshold and is not fitted, between 0 and 1.
        starts: Runs of k-means, of which the best is kept.
        progress: Called as the work goes on.

    Raises:
        BadData: Embeddings that are too few or too alike.
        BadSettings: A number out of range, or more clusters or components than different images to fit.
        ValueError: Embeddings that are not finite or not of unit length, or ids of another number.
    """
    _check(embeddings, ids)
    _check_share("false_alarm_rate", false_alarm_rate)
    _check_count("k", k, least=2)
    _check_count("components", components, least=1)
    kept, held_out = split(len(embeddings), fraction=held_out_fraction, seed=seed)
    fitted = embeddings[kept]
    # Threads that wait for each other by spinning cost up to 25 times the work where another process wants the core.
    with threadpool_limits(1 if fitted.size < ONE_THREAD_VALUES else None):
        if k is None:
            k = kmeans.choose_k(fitted, seed=seed, progress=_stage(progress, "choose k"))
        run = partial(kmeans.fit, fitted, seed=seed, starts=starts)
        partition = run(k=k, progress=_stage(progress, "fit"))
        groups = partition if components in (None, k) else run(k=components)
        gaussians = mixture.fit(fitted, groups.labels)
    distances = np.linalg.norm(fitted - partition.centroids[partition.labels], axis=1).astype(np.float64)
    members = [np.flatnonzero(partition.labels == each) for each in range(k)]
    medoids = [kept[each[distances[each].argmin()]] for each in members]
    clusters = Clusters(
        **vars(gaussians),
        centroids=partition.centroids,
        quantiles=np.array(QUANTILES),
        distance_quantiles=np.array([np.quantile(distances[each], QUANTILES) for each in members]),
        median_distances=np.array([np.median(distances[each]) for each in members]),
        fitted_images=np.array([len(each) for each in members]),
        medoid_ids=np.array([ids[int(medoid)] for medoid in medoids]),
        threshold=1.0,
        false_alarm_rate=false_alarm_rate,
    )
    _, ordinary = clusters.nearest(embeddings[held_out])
    return dataclasses.replace(clusters, threshold=anomaly_threshold(ordinary, false_alarm_rate=false_alarm_rate))


def split(n: int, *, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Which of n images are fitted and which are held out, in order; at least one is held out.

    Raises:
        BadSettings: The fraction is not between 0 and 1, or holds all out.
    """
    _check_share("held_out_fraction", fraction)
    order = np.random.default_rng(seed).permutation(n)
    count = max(1, round(fraction * n))
    return np.sort(order[count:]), np.sort(order[:count])


def anomaly_threshold(distances: np.ndarray, *, false_alarm_rate: float) -> float:
    """The distance past which a new ordinary image lies with at most the given probability.

    This is the conformal quantile (Vovk, Gammerman, Shafer, Algorithmic Learning in a Random World, 2005): of n
    distances, the ceil((n + 1)(1 - rate))-th smallest. With fewer than 1/rate - 1 of them no threshold can promise
    the rate, and the largest is taken.

    Args:
        distances: To the nearest centroid, of images that were not fitted, shape (n,), n > 0.
        false_alarm_rate: Between 0 and 1.
    """
    rank = math.ceil((len(distances) + 1) * (1 - false_alarm_rate))
    return max(MIN_THRESHOLD, float(np.sort(distances)[min(rank, len(distances)) - 1]))


def cross_checked_rate(distances: np.ndarray, *, false_alarm_rate: float) -> float:
    """The share of held-out images that is flagged by a threshold that they had no part in.

    Each half of the images is judged by the threshold of the other half. The rate of the final threshold on the
    images that set it would only repeat what was asked for.

    Args:
        distances: To the nearest centroid, of images that were not fitted, shape (n,), in no particular order.
        false_alarm_rate: Between 0 and 1.

    Returns:
        0 to 1; 0 for a single distance.
    """
    halves = distances[::2], distances[1::2]
    if not len(halves[1]):
        return 0.0
    limits = [anomaly_threshold(half, false_alarm_rate=false_alarm_rate) for half in halves]
    flagged = (halves[0] > limits[1]).sum() + (halves[1] > limits[0]).sum()
    return float(flagged / len(distances))


def _figures(fitted: Clusters) -> dict[str, float]:
    return {
        "clusters_k": len(fitted.centroids),
        "mixture_components": len(fitted.weights),
        "anomaly_threshold": fitted.threshold,
        "false_alarm_rate": fitted.false_alarm_rate,
    }


def _scores(fitted: Clusters, embeddings: np.ndarray, labels: np.ndarray | None) -> dict[str, float]:
    if labels is None:
        return {}
    clusters = agreement(labels, fitted.nearest(embeddings)[0])
    components = agreement(labels, fitted.responsibilities(embeddings).argmax(axis=1))
    return {f"clusters_{name}": score for name, score in vars(clusters).items()} | {"mixture_nmi": components.nmi}


def _stage(progress: Progress | None, stage: str) -> Callable[[int, int], None] | None:
    return partial(progress, stage) if progress else None


def _check(embeddings: np.ndarray, ids: Sequence[str]) -> None:
    if embeddings.ndim != 2 or len(embeddings) != len(ids):
        raise ValueError(f"embeddings of shape {embeddings.shape} and {len(ids)} ids")
    if len(embeddings) < MIN_IMAGES:
        raise BadData(f"{len(embeddings)} images are too few to cluster. Bring at least {MIN_IMAGES}.")
    lengths = np.linalg.norm(embeddings, axis=1)
    if not (np.abs(lengths - 1) < 1e-3).all():  # false for NaN too
        raise ValueError("embeddings that are not of unit length")


def _check_count(name: str, count: int | None, *, least: int) -> None:
    if count is not None and count < least:
        raise BadSettings(f"{name} is {count}. Choose at least {least}.", **{name: count})


def _check_share(name: str, share: float) -> None:
    if not 0 < share < 1:
        raise BadSettings(f"{name} is {share}. Choose a share between 0 and 1.", **{name: share})
