"""Flags that are a stage's settings: each field of the settings class is a flag, its description the flag's help."""

import importlib
import inspect
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

if TYPE_CHECKING:
    from roost.settings import Settings

FLAGS = "roost.cli.flags"


def settings_command(module: str, name: str) -> type[TyperCommand]:
    """A command class whose flags are the fields of a settings class, imported only when the command is looked at.

    The flags that were given lie in the context's `meta[FLAGS]`, as text for the settings class to read.
    """

    class SettingsCommand(TyperCommand):
        def get_params(self, ctx: Any) -> list[Any]:
            return [*_options(getattr(importlib.import_module(module), name)), *super().get_params(ctx)]

        def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
            rest = super().parse_args(ctx, args)
            own = {param.name for param in self.params}
            given = {key: ctx.params.pop(key) for key in list(ctx.params) if key not in own}
            ctx.meta[FLAGS] = {key: value for key, value in given.items() if value is not None}
            return rest

    return SettingsCommand


def _options(kind: "type[Settings]") -> list[Any]:
    """The options that typer makes of a function with one parameter for each field."""

    def described() -> None:
        pass

    kinds: dict[str, Any] = {}
    for name, field in kind.model_fields.items():
        shown = False if field.default is None or field.default_factory else str(field.default)
        kinds[name] = Annotated[str | None, typer.Option(help=field.description, show_default=shown)]
    described.__annotations__ = kinds
    described.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [inspect.Parameter(n, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=k) for n, k in kinds.items()]
    )
    app = typer.Typer(add_completion=False)
    app.command()(described)
    return [param for param in typer.main.get_command(app).params if param.name in kinds]
