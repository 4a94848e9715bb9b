"""The `roost` command. A stage, the client and their libraries are imported inside the command that needs them.

Data go to stdout, words to stderr. Exit codes: 0 all is well, 1 an error that says what to do, 2 a command that was
typed wrong, 3 some files failed and the others are done, 130 Ctrl-C.
"""

import typer

from roost.cli import doctor, evaluate, index, items, keys, offline, query, serve, settings
from roost.cli.app import Commands, root
from roost.cli.flags import settings_command


def build() -> typer.Typer:
    """Every command, put together."""
    plain = {"no_args_is_help": True, "context_settings": {"help_option_names": ["-h", "--help"]}}
    app = typer.Typer(cls=Commands, pretty_exceptions_enable=False, add_completion=False, **plain)
    app.callback()(root)
    for command in (offline.train, evaluate.evaluate, evaluate.compare, offline.export, offline.cluster):
        app.command(rich_help_panel="Offline: images to a model")(command)
    app.command(
        rich_help_panel="Online: a model to answers", cls=settings_command("roost_serving.settings", "ServeSettings")
    )(serve.serve)
    for command in (index.index, query.search, query.embed, query.models, query.clusters, query.reload):
        app.command(rich_help_panel="Online: a model to answers")(command)
    stored = typer.Typer(help="Stored items: list, get, delete.", **plain)
    for command in (items.list_, items.get, items.delete):
        stored.command(name=command.__name__.rstrip("_"))(command)
    app.add_typer(stored, name="items", rich_help_panel="Online: a model to answers")
    allowed = typer.Typer(help="API keys of a gateway: add, list.", **plain)
    for command in (keys.add, keys.list_):
        allowed.command(name=command.__name__.rstrip("_"))(command)
    app.add_typer(allowed, name="keys", rich_help_panel="Online: a model to answers")
    for command in (offline.methods, offline.encoders, doctor.doctor, doctor.version):
        app.command(rich_help_panel="About this installation")(command)
    config = typer.Typer(help="Settings and where they come from.", **plain)
    config.command()(settings.show)
    app.add_typer(config, name="config", rich_help_panel="About this installation")
    return app


def main() -> None:
    """The console script."""
    build()()
