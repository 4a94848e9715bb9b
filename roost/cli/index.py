"""`roost index`."""

import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from roost.address import DEFAULT_TARGET, DEFAULT_TIMEOUT
from roost.cli import bars
from roost.cli.app import PARTLY_FAILED, stage
from roost.cli.options import Gateway, Json, Model, Timeout
from roost.cli.output import emit, say, say_failed
from roost.errors import UnknownModel

if TYPE_CHECKING:
    from roost.client import Model as ServedModel

INTERRUPTED = 130
JOBS = Path("data/jobs")
LISTED = 20


def index(
    path: Annotated[Path, typer.Argument(help="The folder of images, read at any depth.")],
    *,
    replace: Annotated[
        bool, typer.Option("--replace", help="Embed and store everything again, or go on with that.")
    ] = False,
    ledger: Annotated[
        Path | None, typer.Option(help="Folder for what was done; one for each job below data/jobs by default.")
    ] = None,
    shard_images: Annotated[int, typer.Option(min=1, help="Images that are embedded before they are stored.")] = 1000,
    part: Annotated[str, typer.Option(help="Do one part of the folder, such as 2/8; other processes do the rest.")] = (
        "1/1"
    ),
    model: Model = "",
    gateway: Gateway = DEFAULT_TARGET,
    timeout: Timeout = DEFAULT_TIMEOUT,
    json: Json = False,
) -> None:
    """Store a folder of images: embed each, place it among the clusters, make it findable.

    Works in shards: the vectors go to a Parquet file, then to the gateway's store, then a ledger says so. It may be
    stopped, or killed, and started again; a second run changes nothing. The exit code is 3 where some files failed; the
    others are stored.

    Example: roost index photos --model photos
    """
    from roost import folder
    from roost.client import Client

    with stage("index"):
        from roost.indexing import Job, Ledger, Report
        from roost.indexing import index as run_index

    share = _share(part)
    files = [file for file in folder.find(path) if share(file.name)]
    report, begun = Report(), time.monotonic()
    try:
        with Client(gateway, timeout=timeout) as client:
            served = _served(client.models(), model)  # a gateway that is not there is an error at once
            job = Job(str(path.resolve()), served.name, served.fingerprint, served.dim, part)
            with Ledger.opened(ledger or job.default_folder(JOBS), job) as done:
                outcomes = run_index(
                    client,
                    path,
                    files,
                    ledger=done,
                    model=served.reference,
                    anew=replace,
                    shard_images=shard_images,
                    pause=_pause,
                )
                for name, outcome in bars.counted(outcomes, total=len(files)):
                    report.add(name, outcome)
    except KeyboardInterrupt:
        say(f"Stopped after {report.done} of {len(files)} files. Run the command again to go on.")
        raise typer.Exit(INTERRUPTED)
    seconds = time.monotonic() - begun
    if json:
        counts = {"stored": report.stored, "existed": report.existed, "seconds": round(seconds, 3)}
        emit({"files": len(files), **counts, "failed": report.failed})
    else:
        for failure in report.failed[:LISTED]:
            say_failed(failure.path, failure.error)
        if len(report.failed) > LISTED:
            say(f"and {len(report.failed) - LISTED} more; --json lists all.")
    counted = f"{report.stored} stored, {report.existed} existed, {len(report.failed)} failed"
    say(f"{len(files)} files in {seconds:.1f} s: {counted}; {report.done / max(seconds, 1e-9):,.0f} images/s.")
    if report.failed:
        raise typer.Exit(PARTLY_FAILED)


def _pause(seconds: float) -> None:
    say(f"The gateway is busy or away; trying again in {seconds:.1f} s.")
    time.sleep(seconds)


def _served(models: "list[ServedModel]", wanted: str) -> "ServedModel":
    """The model version that the whole job uses, whatever its name means later on."""
    if not wanted and len({model.name for model in models}) > 1:
        names = ", ".join(sorted({model.name for model in models}))
        raise UnknownModel(f"The gateway serves several models. Name one with --model: {names}.")
    for model in models:
        if wanted == model.reference or (wanted in ("", model.name) and model.in_service):
            return model
    listed = ", ".join(model.reference for model in models)
    raise UnknownModel(f"The gateway serves no model {wanted!r}. There are: {listed}.", model=wanted)


def _share(part: str) -> Callable[[str], bool]:
    """Whether a file belongs to a part; the parts are about equal, and do not change when files come or go."""
    number, _, parts = part.partition("/")
    if not (number.isdecimal() and parts.isdecimal() and 1 <= int(number) <= int(parts)):
        raise typer.BadParameter(f"--part is {part!r}; write which and of how many, such as 2/8.")
    return lambda name: zlib.crc32(name.encode(errors="surrogateescape")) % int(parts) == int(number) - 1
