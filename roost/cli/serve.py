"""`roost serve`."""

from pathlib import Path
from typing import Annotated

import typer

from roost.cli.app import stage
from roost.cli.flags import FLAGS
from roost.cli.output import say


def serve(
    ctx: typer.Context,
    config: Annotated[Path | None, typer.Option(help="A TOML settings file; its table `serve` counts.")] = None,
) -> None:
    """Serve a model repository over gRPC until Ctrl-C or SIGTERM.

    Every flag is also a variable ROOST_SERVE_… and a key in the table `serve` of a settings file.

    Example: roost serve --backend onnx://model_repository --store edge://data/index
    """
    with stage("serving"):
        from roost_serving import server
        from roost_serving.settings import ServeSettings

        settings = ServeSettings.load(flags=ctx.meta[FLAGS], file=config)

        def answers(running: server.Running) -> None:
            if settings.log_format == "text":  # what is to be read by a program has no other lines
                say(f"The gateway answers on {running.address}.")

        server.run(settings, on_ready=answers)
