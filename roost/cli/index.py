"""`roost index`."""

import time
from pathlib import Path
from typing import Annotated

import typer

from roost.address import DEFAULT_TARGET, DEFAULT_TIMEOUT
from roost.cli import bars
from roost.cli.app import PARTLY_FAILED
from roost.cli.options import Gateway, Json, Model, Timeout
from roost.cli.output import emit, say, say_failed

INTERRUPTED = 130
LISTED = 20


def index(
    path: Annotated[Path, typer.Argument(help="The folder of images, read at any depth.")],
    *,
    skip_existing: Annotated[
        bool, typer.Option("--skip-existing/--replace", help="Leave images alone that are stored already.")
    ] = True,
    model: Model = "",
    gateway: Gateway = DEFAULT_TARGET,
    timeout: Timeout = DEFAULT_TIMEOUT,
    json: Json = False,
) -> None:
    """Store a folder of images: embed each, place it among the clusters, make it findable.

    It may be stopped and started again: what is stored is not computed again. The exit code is 3 where some files
    failed; the others are stored.

    Example: roost index photos --model photos
    """
    from roost import folder
    from roost.client import Client
    from roost.indexing import Report
    from roost.indexing import index as run_index

    names = [file.name for file in folder.find(path)]
    report, begun = Report(), time.monotonic()
    try:
        with Client(gateway, timeout=timeout) as client:
            client.models()  # a gateway that is not there is an error at once; one that goes away later is waited for
            outcomes = run_index(client, path, names, model=model, skip_existing=skip_existing, pause=_pause)
            for name, outcome in bars.counted(outcomes, total=len(names)):
                report.add(name, outcome)
    except KeyboardInterrupt:
        say(f"Stopped after {report.done} of {len(names)} files. Run the command again to go on.")
        raise typer.Exit(INTERRUPTED)
    seconds = time.monotonic() - begun
    if json:
        counts = {"stored": report.stored, "existed": report.existed, "seconds": round(seconds, 3)}
        emit({"files": len(names), **counts, "failed": report.failed})
    else:
        for failure in report.failed[:LISTED]:
            say_failed(failure.path, failure.error)
        if len(report.failed) > LISTED:
            say(f"and {len(report.failed) - LISTED} more; --json lists all.")
    counted = f"{report.stored} stored, {report.existed} existed, {len(report.failed)} failed"
    say(f"{len(names)} files in {seconds:.1f} s: {counted}; {report.done / max(seconds, 1e-9):,.0f} images/s.")
    if report.failed:
        raise typer.Exit(PARTLY_FAILED)


def _pause(seconds: float) -> None:
    say(f"The gateway is busy or away; trying again in {seconds:.1f} s.")
    time.sleep(seconds)
