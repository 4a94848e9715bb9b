"""int8 for CPUs: ONNX Runtime's static quantisation, per channel, with ranges measured on real images.

Activations are unsigned and weights signed, the pair that VNNI multiplies. Layers that the embeddings mind most stay in
float. (Dynamic quantisation measures ranges anew for each image, and is several times slower than float.)

https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html
"""

import contextlib
import io
import logging
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from roost import folder, preprocess
from roost.artifact import Input
from roost.errors import BadData, ParityFailed, RoostError
from roost_export.formats import INPUT, Embed
from roost_export.formats import onnx as onnx_format

LEAST_COSINE = 0.99
"""Mean over held-out images, to the float model."""
MOST_LOST = 0.005
"""Share of held-out images that may lose their right kNN vote."""
CALIBRATION_IMAGES = 256
HELD_OUT_IMAGES = 1000
LEAST_IMAGES = 32
BATCH = 32
TRIED = 128
"""Held-out images on which layers are tried one by one."""
NEIGHBOURS, TEMPERATURE = 20, 0.07  # as in `roost evaluate`
LAYERS = {"Conv", "MatMul", "Gemm"}
"""Operators with weights; the others in between are quantised so that values need not be converted back and forth."""
BETWEEN = {"Add", "MaxPool", "Relu"}


@dataclass(frozen=True)
class Images:
    """Real images for quantisation."""

    calibration: np.ndarray
    """uint8 (n, size, size, 3), whose activations give the ranges."""
    held_out: np.ndarray
    """Others, on which float and int8 are compared."""
    labels: np.ndarray | None
    """(n,) classes of the held-out images, where there are any; they score, and change nothing."""


@dataclass(frozen=True)
class Quantised:
    """How far int8 is from float."""

    images: int
    """Held-out images that were compared."""
    mean_cosine: float
    min_cosine: float
    knn20_accuracy: tuple[float, float] | None
    """Of float and of int8, each held-out image among the others; None without classes."""
    float_layers: list[str] = field(default_factory=list)
    """Layers that were left in float."""


def read(root: Path, given: Input, *, seed: int = 0) -> Images:
    """Some of a folder's images: at most a quarter of them to calibrate on, the others to compare on.

    Files that cannot be read are left out. Folders' names are taken as classes.

    Raises:
        BadData: There are too few images.
    """
    files = folder.find(root)
    _, labels = folder.classes([file.name for file in files])
    pixels, places = [], []
    for place in np.random.default_rng(seed).permutation(len(files)):
        with contextlib.suppress(OSError, RoostError):
            data = (root / files[place].name).read_bytes()
            pixels.append(preprocess.decode(data, size=given.size, resize=given.resize))
            places.append(place)
        if len(pixels) == CALIBRATION_IMAGES + HELD_OUT_IMAGES:
            break
    if len(pixels) < LEAST_IMAGES:
        raise BadData(
            f"{root} has {len(pixels)} images that can be read; int8 needs {LEAST_IMAGES}. Give another folder.",
            path=root,
        )
    count = min(CALIBRATION_IMAGES, len(pixels) // 4)
    held_out = None if labels is None else labels[places[count:]]
    return Images(np.stack(pixels[:count]), np.stack(pixels[count:]), held_out)


def quantise(
    source: Path, target: Path, *, images: Images, progress: Callable[[str], None] = lambda step: None
) -> Quantised:
    """Write an int8 version of a float ONNX model, with as few layers in float as the embeddings allow.

    Args:
        source: The float model.
        target: Where the int8 model goes.
        images: On which it is calibrated and compared.
        progress: Is told, in a few words, what begins.

    Raises:
        ParityFailed: Even with half of its layers in float, int8 is too far from float.
    """
    expected = _embed(onnx_format.load(source), images.held_out)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".int8.") as work:
        prepared = Path(work, "prepared.onnx")
        with _quiet():
            quant_pre_process(source, prepared, skip_symbolic_shape=True)  # merges batch norms into convolutions
        layers = _layers(prepared)
        write = partial(_write, prepared, target, layers, images.calibration, cache=Path(work, "ranges.json"))
        ranked: list[str] | None = None
        kept = 0
        while True:
            left = (ranked or [])[:kept]
            progress(f"quantising, {len(left)} of {len(layers)} layers in float" if left else "quantising")
            write(without=left)
            result = _compare(onnx_format.load(target), images, expected, left)
            if _good(result):
                return result
            if ranked is None:
                progress("looking for the layers that mind most")
                ranked = _ranked(write, target, layers, images.held_out[:TRIED], expected[:TRIED])
            if kept == len(layers) // 2:
                raise ParityFailed(_verdict(result), cosine=result.mean_cosine)
            kept = min(max(1, 2 * kept), len(layers) // 2)


def _good(result: Quantised) -> bool:
    before, after = result.knn20_accuracy or (0.0, 0.0)
    return result.mean_cosine >= LEAST_COSINE and before - after <= MOST_LOST


def _verdict(result: Quantised) -> str:
    lost = "" if result.knn20_accuracy is None else " and kNN {:.1%} → {:.1%}".format(*result.knn20_accuracy)
    return (
        f"int8 has a mean cosine of {result.mean_cosine:.4f} to float{lost} with {len(result.float_layers)} layers in "
        f"float; {LEAST_COSINE} and half a point of kNN are asked for. Nothing was written. Export without --precision."
    )


def _layers(path: Path) -> list[str]:
    """Names of the layers with weights, but for the last product, on which the embedding hangs directly."""
    graph = onnx.load(path).graph
    weights = {tensor.name for tensor in graph.initializer}
    found = [node for node in graph.node if node.op_type in LAYERS and weights.intersection(node.input)]
    last = [node.name for node in found if node.op_type != "Conv"][-1:]
    return [node.name for node in found if node.name not in last]


def _between(path: Path, layers: list[str]) -> list[str]:
    """Names of the other operators that int8 passes through: those next to one of the layers."""
    graph = onnx.load(path).graph
    touched = {tensor for node in graph.node if node.name in layers for tensor in (*node.input, *node.output)}
    others = [node for node in graph.node if node.op_type in BETWEEN]
    return [node.name for node in others if touched.intersection((*node.input, *node.output))]


def _write(
    source: Path, target: Path, layers: list[str], calibration: np.ndarray, *, cache: Path, without: list[str]
) -> None:
    chosen = [name for name in layers if name not in without]
    with _quiet():
        quantize_static(
            source,
            target,
            _Reader(calibration),
            quant_format=QuantFormat.QDQ,
            nodes_to_quantize=chosen + _between(source, chosen),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,  # a histogram would hold every activation of every image
            calibration_cache_path=str(cache),
            extra_options={"MatMulConstBOnly": True},
        )


def _ranked(
    write: Callable[..., None], target: Path, layers: list[str], pixels: np.ndarray, expected: np.ndarray
) -> list[str]:
    """The layers by how much each alone turns the embeddings, the worst first."""
    losses = {}
    for name in layers:
        write(without=[other for other in layers if other != name])
        found = _embed(onnx_format.load(target), pixels)
        losses[name] = 1 - float(_cosines(found, expected).mean())
    return sorted(layers, key=lambda name: -losses[name])


def _compare(embed: Embed, images: Images, expected: np.ndarray, left: list[str]) -> Quantised:
    found = _embed(embed, images.held_out)
    cosines = _cosines(found, expected)
    accuracies = None
    if images.labels is not None:
        accuracies = knn_accuracy(expected, images.labels), knn_accuracy(found, images.labels)
    return Quantised(len(found), float(cosines.mean()), float(cosines.min()), accuracies, sorted(left))


def knn_accuracy(embeddings: np.ndarray, labels: np.ndarray) -> float:
    """Share of images whose 20 nearest others, weighted by exp(cosine / 0.07), vote for their class.

    Args:
        embeddings: (n, dim), of unit length, n > 20.
        labels: (n,).
    """
    similarities = embeddings @ embeddings.T
    np.fill_diagonal(similarities, -np.inf)
    nearest = np.argpartition(-similarities, NEIGHBOURS, axis=1)[:, :NEIGHBOURS]
    weights = np.exp(np.take_along_axis(similarities, nearest, axis=1) / TEMPERATURE)
    classes = np.unique(labels)
    votes = [(weights * (labels[nearest] == name)).sum(axis=1) for name in classes]
    return float((classes[np.argmax(votes, axis=0)] == labels).mean())


def _cosines(found: np.ndarray, expected: np.ndarray) -> np.ndarray:
    return np.einsum("nd,nd->n", found, expected)


def _embed(embed: Embed, pixels: np.ndarray) -> np.ndarray:
    return np.concatenate([embed(pixels[start : start + BATCH]) for start in range(0, len(pixels), BATCH)])


class _Reader(CalibrationDataReader):
    def __init__(self, pixels: np.ndarray) -> None:
        self._left: Iterator[np.ndarray] = iter(pixels)

    def get_next(self) -> dict[str, np.ndarray] | None:  # type: ignore[override]
        image = next(self._left, None)
        return None if image is None else {INPUT: image[np.newaxis]}


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep ONNX Runtime's advice on its own quantiser from the user, who cannot follow it."""
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(logging.NOTSET)
