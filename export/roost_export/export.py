"""A trained run to a new version in a Triton model repository: rebuild, write, compare, rename into place."""

import importlib.resources
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from roost import arrays, artifact
from roost.artifact import Manifest
from roost.errors import BadArtifact, BadSettings
from roost_export import config, formats, parity, quantise
from roost_export import repository as repositories
from roost_export.config import Serving
from roost_export.formats import Shape, onnx
from roost_export.parity import Parity
from roost_export.quantise import Quantised
from roost_training import encoders

PYTHON = "python"
PYTHON_FILE = "model.py"
TENSORRT = "tensorrt"
FP32, BF16, INT8 = "fp32", "bf16", "int8"


@dataclass(frozen=True)
class Exported:
    """What an export wrote."""

    manifest: Manifest
    folder: Path
    """The new version's."""
    parity: Parity
    quantised: Quantised | None = None
    """How far int8 is from fp32, where it was asked for."""


def export(
    run: Path,
    *,
    repository: Path,
    name: str | None = None,
    format: str = "onnx",
    backend: str | None = None,
    accelerator: str | None = None,
    precision: str = FP32,
    images: Path | None = None,
    max_batch: int = 64,
    instances: int = 1,
    opset: int = 20,  # the newest that Triton 24.10, the oldest in our tests, certainly runs is 21
    progress: Callable[[str], None] = lambda step: None,
) -> Exported:
    """Export a run as the next version of a model.

    Args:
        run: The folder that training finished.
        repository: The Triton model repository; made if it is not there.
        name: The model's name; the run's by default.
        format: One of `formats.names()`.
        backend: The Triton backend: the format's own by default, or "python" for ONNX Runtime in Triton's Python
            backend.
        accelerator: "tensorrt" has Triton's ONNX Runtime hand the graph to TensorRT; None does not.
        precision: "fp32", or for CPUs "bf16" (the same file, which OpenVINO computes in bf16) or "int8".
        images: A folder of real images, such as those of training, on which int8 is calibrated and compared.
        max_batch: The most images that Triton puts into one batch.
        instances: How many copies of the model Triton runs on each device.
        opset: The ONNX operator set.
        progress: Is told, in a few words, what begins.

    Raises:
        BadArtifact: The run is incomplete or altered.
        BadData: Too few images for int8.
        BadSettings: Options that contradict each other, or older versions of the model.
        UnknownPlugin: No such format.
        MissingDependency: The format needs a package or a device that is not here.
        ParityFailed: The exported model does not repeat the run's golden embeddings, or bf16 or int8 is too far;
            nothing was written.
    """
    _check_precision(precision, format=format, accelerator=accelerator, images=images)
    chosen = formats.load(format)
    serving = _serving(chosen, backend=backend, accelerator=accelerator, max_batch=max_batch, instances=instances)
    chosen.check()
    progress("reading the run")
    manifest = _rename(artifact.read(run), name)
    embedder = encoders.restore(run, manifest)
    pixels, embeddings = _golden(run, manifest)
    needs = PYTHON_FILE if serving.backend == PYTHON else chosen.FILE
    repositories.check_siblings(repository, manifest, needs=needs)
    with repositories.new_version(repository, manifest.name) as draft:
        progress(f"writing {chosen.FILE}")
        shape = Shape(size=manifest.input.size, max_batch=max_batch, opset=opset)
        chosen.write(embedder, draft.folder / chosen.FILE, shape=shape)
        progress("comparing golden images")
        compared = parity.check(
            chosen.load(draft.folder / chosen.FILE), pixels=pixels, expected=embeddings, max_batch=max_batch
        )
        if precision == BF16:
            compared = parity.compare(_in_bf16(embedder), pixels=pixels, expected=embeddings, max_batch=max_batch)
            parity.check_cosine(compared)
        quantised = None
        if precision == INT8 and images is not None:
            quantised = _quantise(draft.folder / chosen.FILE, images=images, manifest=manifest, progress=progress)
            compared = parity.compare(
                chosen.load(draft.folder / chosen.FILE), pixels=pixels, expected=embeddings, max_batch=max_batch
            )
            parity.check_cosine(compared)
        files = {chosen.FILE, artifact.GOLDEN, needs}
        shutil.copyfile(run / artifact.GOLDEN, draft.folder / artifact.GOLDEN)
        if serving.backend == PYTHON:
            source = importlib.resources.files("roost_export").joinpath("python_backend.py")
            (draft.folder / PYTHON_FILE).write_bytes(source.read_bytes())
        quality = manifest.quality | {
            "parity_max_abs_difference": compared.max_abs_difference,
            "parity_min_cosine": compared.min_cosine,
        }
        quality |= {} if quantised is None else _figures(quantised)
        manifest = manifest.model_copy(update={"version": draft.version, "precision": precision, "quality": quality})
        manifest = artifact.write(draft.folder, manifest, files=files)
        artifact.replace_bytes(draft.config, config.render(manifest, serving).encode())
    return Exported(manifest, draft.final, compared, quantised)


def _check_precision(precision: str, *, format: str, accelerator: str | None, images: Path | None) -> None:
    if precision not in (FP32, BF16, INT8):
        raise BadSettings(f"No precision called {precision!r}. There are: {FP32}, {BF16}, {INT8}.", precision=precision)
    if precision != FP32 and (format != "onnx" or accelerator is not None):
        raise BadSettings(f"--precision {precision} is for CPUs, and goes with --format onnx and no accelerator.")
    if precision == INT8 and images is None:
        raise BadSettings(f"--precision {INT8} is calibrated on real images. Name a folder of them with --images.")


def _in_bf16(embedder: nn.Module) -> formats.Embed:
    """What becomes of the embeddings where layers are computed in bf16, by PyTorch, which can do so on every CPU."""

    def embed(pixels: np.ndarray) -> np.ndarray:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            return embedder(torch.from_numpy(pixels)).float().numpy()

    return embed


def _quantise(path: Path, *, images: Path, manifest: Manifest, progress: Callable[[str], None]) -> Quantised:
    """Put an int8 model into the place of a float one."""
    progress("reading images")
    pictures = quantise.read(images, manifest.input)
    source = path.with_name(f"float.{path.name}")
    path.replace(source)
    done = quantise.quantise(source, path, images=pictures, progress=progress)
    source.unlink()
    return done


def _figures(quantised: Quantised) -> dict[str, float]:
    figures = {"int8_mean_cosine": quantised.mean_cosine, "int8_min_cosine": quantised.min_cosine}
    if quantised.knn20_accuracy is not None:
        before, after = quantised.knn20_accuracy
        figures["int8_knn20_accuracy_lost"] = before - after
    return figures


def _serving(
    chosen: formats.Format, *, backend: str | None, accelerator: str | None, max_batch: int, instances: int
) -> Serving:
    """What Triton shall do, after checking that it can."""
    backend = backend or chosen.BACKEND
    possible = {chosen.BACKEND} | ({PYTHON} if chosen.FILE == onnx.FILE else set())
    if backend not in possible:
        raise BadSettings(
            f"Triton's {backend} backend does not run {chosen.FILE}; {' and '.join(sorted(possible))} can.",
            backend=backend,
        )
    if accelerator not in (None, TENSORRT):
        raise BadSettings(f"No accelerator called {accelerator!r}. There is: {TENSORRT}.", accelerator=accelerator)
    if accelerator and backend != onnx.BACKEND:
        raise BadSettings(f"--accelerator {accelerator} goes with Triton's {onnx.BACKEND} backend, not {backend}.")
    if max_batch < 1 or instances < 1:
        raise BadSettings(f"max_batch is {max_batch} and instances is {instances}; both must be 1 or more.")
    gpu = accelerator is not None or chosen.BACKEND == TENSORRT
    kind = "KIND_GPU" if gpu else "KIND_CPU" if backend == PYTHON else "KIND_AUTO"
    return Serving(backend, kind, instances=instances, max_batch=max_batch, tensorrt=accelerator is not None)


def _rename(manifest: Manifest, name: str | None) -> Manifest:
    if name is None:
        return manifest
    if not re.fullmatch(artifact.NAME, name):
        raise BadSettings(
            f"{name!r} is no model name. Take up to 64 lower-case letters, digits, dots, dashes and underscores.",
            name=name,
        )
    return manifest.model_copy(update={"name": name})


def _golden(run: Path, manifest: Manifest) -> tuple[np.ndarray, np.ndarray]:
    """The run's golden pixels (n, size, size, 3) and embeddings (n, dim)."""
    path = artifact.check_file(run, manifest, artifact.GOLDEN)
    golden = arrays.read(path, remedy="Train it again.")
    if not {"pixels", "embeddings"} <= golden.keys():
        raise BadArtifact(f"{path} has no golden images. Train it again.", path=path)
    pixels, embeddings = golden["pixels"], golden["embeddings"]
    size = manifest.input.size
    if pixels.shape[1:] != (size, size, 3) or pixels.dtype != np.uint8 or not 0 < len(pixels) == len(embeddings):
        raise BadArtifact(f"{path} holds pixels of shape {pixels.shape}, not (n, {size}, {size}, 3).", path=path)
    return pixels, embeddings
