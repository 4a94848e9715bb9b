"""Settings: a flag beats a `ROOST_*` environment variable, which beats a TOML file, which beats the default.

A stage describes its settings as a subclass of `Settings`; unknown keys are refused wherever they stand.
"""

import difflib
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from roost.errors import BadSettings


class Settings(BaseSettings):
    """The settings of one stage.

    `section` names the stage's table in a TOML file. A subclass sets `env_prefix` to match: the field `port` of the
    section `serve` is read from `ROOST_SERVE_PORT`.
    """

    model_config = SettingsConfigDict(extra="forbid", frozen=True)
    section: ClassVar[str]

    @classmethod
    def load(cls, *, flags: Mapping[str, Any] | None = None, file: Path | None = None) -> Self:
        """Merge the four sources.

        Args:
            flags: Values from the command line; those that are None were not given.
            file: A TOML file whose table `[section]` has values.

        Raises:
            BadSettings: An unknown key, a value out of range, or a file that cannot be read.
        """
        prefix = cls.model_config.get("env_prefix", "").upper()
        variables = {name.upper() for name in os.environ if name.upper().startswith(prefix)}
        for name in sorted(variables):
            cls._check_key(name.removeprefix(prefix).lower(), where=f"the environment variable {name}")
        values = {k: v for k, v in cls._table(file).items() if prefix + k.upper() not in variables}
        values = _merge(values, {key: value for key, value in (flags or {}).items() if value is not None})
        try:
            return cls(**values)
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(map(str, first["loc"])) or cls.section
            raise BadSettings(f"Setting {key!r} of {cls.section}: {first['msg']}.", key=key) from error
        except SettingsError as error:  # a variable for a list or a table that is no JSON
            raise BadSettings(f"{error} of {cls.section}: {error.__cause__}.") from error

    @classmethod
    def _table(cls, file: Path | None) -> dict[str, Any]:
        if file is None:
            return {}
        try:
            content = tomllib.loads(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise BadSettings(f"The settings file {file} cannot be read: {error}.", file=file) from error
        for key, value in content.items():
            if not isinstance(value, dict):
                raise BadSettings(f"{file} sets {key!r} outside of a section. Put it under [{cls.section}].", key=key)
        if cls.section not in content:
            near = difflib.get_close_matches(cls.section, content, n=1)
            if near:
                raise BadSettings(f"{file} has a section [{near[0]}]. Did you mean [{cls.section}]?", key=near[0])
        table = content.get(cls.section, {})
        for key in table:
            cls._check_key(key, where=f"[{cls.section}] of {file}")
        return table

    @classmethod
    def _check_key(cls, key: str, *, where: str) -> None:
        if key in cls.model_fields:
            return
        near = difflib.get_close_matches(key, cls.model_fields, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise BadSettings(f"{where} sets {key!r}, which is no setting of {cls.section}.{hint}", key=key)


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Values with others laid over them, table by table: one key of a table leaves its neighbours as they are."""
    return dict(below) | {
        key: _merge(below[key], value) if isinstance(value, dict) and isinstance(below.get(key), dict) else value
        for key, value in above.items()
    }
