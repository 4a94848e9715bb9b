"""`roost train`, `export`, `cluster`, and the lists of methods and encoders."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from roost.cli import bars
from roost.cli.app import FAILED, stage
from roost.cli.options import Json, to_settings
from roost.cli.output import emit, say, table
from roost.errors import MissingDependency, RoostError

INTERRUPTED = 130


def train(
    path: Annotated[Path, typer.Argument(help="A folder of images; subfolders' names only score.")],
    *,
    out: Annotated[Path | None, typer.Option(help="The run folder.")] = None,
    method: Annotated[str | None, typer.Option(help="One of `roost methods`.")] = None,
    encoder: Annotated[str | None, typer.Option(help="One of `roost encoders`.")] = None,
    image_size: Annotated[int | None, typer.Option(help="Side of the square that the encoder sees, in pixels.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Times that every image is seen.")] = None,
    batch: Annotated[int | None, typer.Option(help="Images a step.")] = None,
    val: Annotated[Path | None, typer.Option(help="A folder to score on; else a part of PATH is held out.")] = None,
    name: Annotated[str | None, typer.Option(help="The model's name; the run folder's by default.")] = None,
    config: Annotated[Path | None, typer.Option(help="A recipe: a TOML file; its table `train` counts.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Any other setting, as method_settings.temperature=0.2."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the run folder's checkpoint.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Start over in a folder that is not empty.")] = False,
) -> None:
    """Train an encoder on a folder of images, without labels.

    Example: roost train photos --method simclr --encoder resnet18 --image-size 32 --out runs/photos
    """
    named = {
        "data": path,
        "out": out,
        "method": method,
        "encoder": encoder,
        "image_size": image_size,
        "epochs": epochs,
        "batch": batch,
        "val": val,
        "name": name,
        "resume": resume or None,
        "overwrite": overwrite or None,
    }
    with stage("training"):
        from roost_training.loop import training as loop
        from roost_training.loop.processes import launched_rank
        from roost_training.loop.settings import TrainSettings

        first = launched_rank() == 0  # of several processes, the first speaks
        try:
            flags = to_settings(set_) | {key: value for key, value in named.items() if value is not None}
            settings = TrainSettings.load(flags=flags, file=config)
            manifest = loop.train(settings)
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED)
        except RoostError as error:
            if first or isinstance(error, MissingDependency):  # which another machine may have
                raise
            raise typer.Exit(FAILED)
    if not first:
        return
    table(["quality", "#figure"], sorted(manifest.quality.items()))
    say(f"{settings.out} holds {manifest.name}. Next: roost export {settings.out} --repository model_repository")


def export(
    run: Annotated[Path, typer.Argument(help="The folder that `roost train` finished.")],
    *,
    repository: Annotated[Path, typer.Option(help="The Triton model repository.")] = Path("model_repository"),
    name: Annotated[str | None, typer.Option(help="The model's name; the run's by default.")] = None,
    format: Annotated[str | None, typer.Option(help="onnx or tensorrt.")] = None,
    backend: Annotated[str | None, typer.Option(help="Triton's backend: onnxruntime, tensorrt or python.")] = None,
    accelerator: Annotated[str | None, typer.Option(help="tensorrt: Triton hands the ONNX model to TensorRT.")] = None,
    precision: Annotated[str | None, typer.Option(help="fp32; for CPUs bf16 or, with --images, int8.")] = None,
    images: Annotated[Path | None, typer.Option(help="Real images to calibrate int8 on, such as training's.")] = None,
    max_batch: Annotated[int | None, typer.Option(help="The most images that Triton batches.")] = None,
    json: Json = False,
) -> None:
    """Export a run as a new version in a Triton model repository, and compare it with training.

    Example: roost export runs/digits --repository model_repository
    """
    chosen = {"format": format, "precision": precision, "images": images, "max_batch": max_batch}
    given = {key: value for key, value in chosen.items() if value is not None}
    with stage("training"):
        from roost_export.export import export as run_export

        exported = run_export(
            run, repository=repository, name=name, backend=backend, accelerator=accelerator, progress=say, **given
        )
    if json:
        emit(
            {
                "model": exported.manifest.reference,
                "folder": exported.folder,
                "parity": exported.parity,
                "int8": exported.quantised,
            }
        )
        return
    rows = [(row.image, row.max_abs_difference, f"{row.cosine:.7f}") for row in exported.parity.rows]
    table(["#golden image", "#max abs difference", "#cosine"], rows)
    if exported.quantised is not None:
        int8 = exported.quantised
        say(f"int8 to fp32 over {int8.images} images: mean cosine {int8.mean_cosine:.4f}, least {int8.min_cosine:.4f}.")
        if int8.knn20_accuracy is not None:
            say("kNN-20 among them: {:.1%} in fp32, {:.1%} in int8.".format(*int8.knn20_accuracy))
        if int8.float_layers:
            say(f"Left in float: {', '.join(int8.float_layers)}.")
    say(f"{exported.folder} holds {exported.manifest.reference}.")


def cluster(
    model: Annotated[Path, typer.Argument(help="A model's folder in the repository.")],
    path: Annotated[Path, typer.Argument(help="The folder of images to fit on.")],
    *,
    k: Annotated[int | None, typer.Option(help="How many k-means clusters; chosen where not given.")] = None,
    components: Annotated[int | None, typer.Option(help="Components of the Gaussian mixture; k by default.")] = None,
    false_alarm_rate: Annotated[float | None, typer.Option(help="Share of ordinary images called anomalies.")] = None,
    json: Json = False,
) -> None:
    """Fit a model's clusters and its anomaly threshold.

    Example: roost cluster model_repository/digits photos --k 10
    """
    with stage("training"):
        from roost_training.clustering.cluster import FALSE_ALARM_RATE
        from roost_training.clustering.cluster import cluster as run_cluster

        rate = FALSE_ALARM_RATE if false_alarm_rate is None else false_alarm_rate
        with bars.staged() as progress:
            manifest = run_cluster(model, path, k=k, components=components, false_alarm_rate=rate, progress=progress)
    if json:
        emit({"model": manifest.reference, "quality": manifest.quality})
        return
    table(["quality", "#figure"], sorted(manifest.quality.items()))
    say(f"{manifest.reference} has its clusters.")


def methods(*, json: Json = False) -> None:
    """List the training methods.

    Example: roost methods
    """
    with stage("training"):
        from roost_training import methods as package

        names = package.names()
        summaries = [((package.load(name).__doc__ or "").partition("\n")[0]) for name in names]
    _print_names("method", names, summaries, json=json)


def encoders(*, json: Json = False) -> None:
    """List the encoders.

    Example: roost encoders
    """
    with stage("training"):
        from roost_training import encoders as module

        names = module.names()
    _print_names("encoder", names, None, json=json)


def _print_names(kind: str, names: list[str], summaries: list[str] | None, *, json: bool) -> None:
    if json:
        for place, name in enumerate(names):
            emit({"name": name} | ({"summary": summaries[place]} if summaries else {}))
    elif summaries:
        table([kind, "what it does"], zip(names, summaries, strict=True))
    else:
        sys.stdout.write("".join(f"{name}\n" for name in names))
