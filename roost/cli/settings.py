"""`roost config show`."""

import json as jsons
import os
import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from roost.cli.app import stage
from roost.cli.options import Json
from roost.cli.output import emit, table
from roost.errors import BadSettings
from roost.urls import MASK, redacted

if TYPE_CHECKING:
    from roost.settings import Settings

SECRET = re.compile(r"(key|secret|password|token)$")
MISSING = "(must be given)"


def show(
    section: Annotated[str, typer.Argument(help="serve or train.")] = "serve",
    *,
    config: Annotated[Path | None, typer.Option(help="A TOML settings file.")] = None,
    json: Json = False,
) -> None:
    """Show the settings of a stage as they would be, and where each value comes from.

    Example: ROOST_SERVE_PORT=50052 roost config show serve --config roost.toml
    """
    rows = origins(_kind(section), config)
    if json:
        for name, value, origin in rows:
            emit({"setting": name, "value": value, "origin": origin})
    else:
        table(["setting", "value", "origin"], [(n, v if isinstance(v, str) else jsons.dumps(v), o) for n, v, o in rows])


def _kind(section: str) -> "type[Settings]":
    if section == "serve":
        with stage("serving"):
            from roost_serving.settings import ServeSettings

            return ServeSettings
    if section == "train":
        with stage("training"):
            from roost_training.loop.settings import TrainSettings

            return TrainSettings
    raise BadSettings(f"No stage called {section!r} has settings. There are: serve, train.", section=section)


def origins(kind: "type[Settings]", file: Path | None) -> list[tuple[str, Any, str]]:
    """Each setting's name, effective value and origin: a variable, a file, or the default.

    Raises:
        BadSettings: A value that the stage would refuse.
    """
    prefix = kind.model_config.get("env_prefix", "")
    in_file = _keys(kind.section, file)
    required = [name for name, field in kind.model_fields.items() if field.is_required()]
    absent = [name for name in required if name not in in_file and not _variables(prefix, name)]
    # A required setting that only the command line can give stands in as its own name, and is shown as missing.
    values = kind.load(flags=dict.fromkeys(absent, "."), file=file).model_dump(mode="json")
    rows = []
    for name, value in values.items():
        variables = _variables(prefix, name)
        origin = ", ".join(variables) if variables else str(file) if name in in_file else "default"
        rows.append((name, MISSING, "flag") if name in absent else (name, _shown(name, value), origin))
    return rows


def _shown(name: str, value: Any) -> Any:
    """A setting's value without what may be a secret."""
    if isinstance(value, dict):
        return {key: _shown(key, inner) for key, inner in value.items()}
    if value is not None and SECRET.search(name):
        return MASK
    return redacted(value) if isinstance(value, str) else value


def _keys(section: str, file: Path | None) -> set[str]:
    """What a file's section sets; nothing where the file cannot be read, which `Settings.load` refuses in a line."""
    try:
        table = tomllib.loads(file.read_text(encoding="utf-8")).get(section, {}) if file else {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError):
        return set()
    return set(table) if isinstance(table, dict) else set()


def _variables(prefix: str, name: str) -> list[str]:
    """The environment's variables that set a field, nested ones too."""
    whole = f"{prefix}{name}".upper()
    return sorted(key for key in os.environ if key.upper() == whole or key.upper().startswith(f"{whole}__"))
