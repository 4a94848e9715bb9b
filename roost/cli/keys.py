"""`roost keys`: add, list."""

from pathlib import Path
from typing import Annotated

import typer

from roost.cli.app import stage
from roost.cli.options import Json
from roost.cli.output import emit, say, table

File = Annotated[Path, typer.Option(help="The keys file, which `roost serve --keys-file` reads.")]
DEFAULT = Path("keys.toml")


def add(
    name: Annotated[str, typer.Argument(help="Who will hold the key; logs and metrics show it.")],
    *,
    role: Annotated[str, typer.Option(help="read, write or admin.")] = "read",
    model: Annotated[list[str] | None, typer.Option(help="Only this model; may be given several times.")] = None,
    images_per_second: Annotated[float | None, typer.Option(help="The most that the key may send.")] = None,
    calls_per_second: Annotated[float | None, typer.Option(help="The most calls that it may make.")] = None,
    in_flight: Annotated[int | None, typer.Option(help="The most images that are held for it at once.")] = None,
    file: File = DEFAULT,
) -> None:
    """Make an API key, print it once, and add its hash to the keys file.

    Example: roost keys add webshop --role read --model photos > webshop.key
    """
    with stage("serving"):
        from roost_serving import keys

        key = keys.add(
            file,
            name,
            role=role,
            models=model,
            images_per_second=images_per_second,
            calls_per_second=calls_per_second,
            in_flight=in_flight,
        )
    typer.echo(key)
    say(f"The key of {name} is printed this once; {file} keeps its hash. A running gateway takes it within seconds.")


def list_(*, file: File = DEFAULT, json: Json = False) -> None:
    """List the keys of a file: whose they are and what they may do.

    Example: roost keys list --file keys.toml
    """
    with stage("serving"):
        from roost_serving import keys

        callers = sorted(keys.read(file).values(), key=lambda caller: caller.name)
    rows = [
        (
            caller.name,
            caller.role.name.lower(),
            None if caller.models is None else sorted(caller.models),
            caller.images_per_second,
            caller.calls_per_second,
            caller.in_flight,
        )
        for caller in callers
    ]
    columns = ("name", "role", "models", "images_per_second", "calls_per_second", "in_flight")
    if json:
        for row in rows:
            emit(dict(zip(columns, row, strict=True)))
        return
    shown = [(name, role, "all" if models is None else ", ".join(models), *rest) for name, role, models, *rest in rows]
    table(["name", "role", "models", "#images/s", "#calls/s", "#in flight"], shown)
