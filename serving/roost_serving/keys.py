"""API keys: a TOML file with a table for each, which holds the key's sha256 and never the key.

    [keys.webshop]
    sha256 = "3f0a…"
    role = "read"                # read, write or admin
    models = ["photos"]          # whose collections it may use; all where left out
    images_per_second = 50       # a rate limit; none where left out
    calls_per_second = 100       # likewise, of calls and of messages of streams, whatever they ask for
    in_flight = 64               # images that the gateway holds for it at once

Keys are random and long, so that a plain hash keeps them: `roost keys add` makes one.
"""

import hashlib
import hmac
import json
import logging
import re
import secrets
import time
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, ValidationError

from roost import artifact
from roost.errors import BadSettings, Unauthenticated
from roost_serving.callers import Caller, Role

PREFIX = "roost_"
"""Keys begin with it, so that a scanner of leaked secrets can know them."""
LOOK_SECONDS = 1.0
"""A changed file is noticed after so long."""
NAME = r"^[a-z0-9][a-z0-9._-]{0,62}$"
HIDDEN = "(not shown)"
MOST = 200

log = logging.getLogger(__name__)


class _Key(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    role: Literal["read", "write", "admin"] = "read"
    models: Annotated[list[Annotated[str, Field(pattern=artifact.NAME)]], Field(min_length=1)] | None = None
    images_per_second: PositiveFloat | None = None
    calls_per_second: PositiveFloat | None = None
    in_flight: PositiveInt | None = None


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    keys: Annotated[dict[Annotated[str, Field(pattern=NAME)], _Key], Field(min_length=1, max_length=MOST)]


class Keys:
    """The keys of a file, which may change while the gateway runs.

    Args:
        path: The file.

    Raises:
        BadSettings: It cannot be read, or says something else than keys.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen = self._stamp()
        self._callers = read(path)
        self._looked = time.monotonic()

    def caller(self, presented: str) -> Caller:
        """Whose key this is.

        Raises:
            Unauthenticated: Nobody's.
        """
        self._look()
        digest = _digest(presented)
        found = None
        for known, caller in self._callers.items():  # all of them, so that time tells nothing of which came close
            if hmac.compare_digest(known, digest):
                found = caller
        if found is None:
            raise Unauthenticated("The API key is not known here. Ask for another, or look whether it was cut short.")
        return found

    def _look(self) -> None:
        """Take a changed file; where it cannot be read, keep what the last one said and tell the log."""
        now = time.monotonic()
        if now - self._looked < LOOK_SECONDS:
            return
        self._looked = now
        try:
            seen = self._stamp()
            if seen == self._seen:
                return
            self._callers, self._seen = read(self._path), seen
        except BadSettings as error:
            log.error("the keys stay as they were: %s", error.message)
        else:
            log.info("%d keys were read again from %s", len(self._callers), self._path)

    def _stamp(self) -> tuple[int, int, int]:
        try:
            found = self._path.stat()
        except OSError as error:
            raise _unreadable(self._path, error) from error
        return found.st_mtime_ns, found.st_ino, found.st_size


def read(path: Path) -> dict[str, Caller]:
    """The callers of a file, by the sha256 of their keys.

    Raises:
        BadSettings: It cannot be read, says something else than keys, or gives two names to one key.
    """
    try:
        return _callers(path, path.read_text(encoding="utf-8"))
    except OSError as error:
        raise _unreadable(path, error) from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise _not_toml(path, error) from error


def _callers(path: Path, text: str) -> dict[str, Caller]:
    try:
        content = _File.model_validate(tomllib.loads(text))
    except ValidationError as error:
        first = error.errors(include_input=False)[0]  # what stands there may be a key, and so may its name
        parts = [part for part in map(str, first["loc"]) if part != "[key]"]
        where = ".".join(part if re.fullmatch(NAME, part) else HIDDEN for part in parts)
        raise BadSettings(f"{path}, {where}: {first['msg']}.", key="keys_file") from error
    callers = {
        key.sha256: Caller(
            name,
            Role[key.role.upper()],
            None if key.models is None else frozenset(key.models),
            key.images_per_second,
            key.in_flight,
            key.calls_per_second,
        )
        for name, key in content.keys.items()
    }
    if len(callers) < len(content.keys):
        raise BadSettings(f"{path} gives two names to one key. Make a key for each.", key="keys_file")
    return callers


def add(
    path: Path,
    name: str,
    *,
    role: str = "read",
    models: Sequence[str] | None = None,
    images_per_second: float | None = None,
    calls_per_second: float | None = None,
    in_flight: int | None = None,
) -> str:
    """Make a key and add it to a file, which is made where there is none.

    Returns:
        The key, which nothing keeps.

    Raises:
        BadSettings: The name is taken or no name, a value is out of range, or the file cannot be read or written.
    """
    key = PREFIX + secrets.token_urlsafe(32)
    told = {"sha256": _digest(key), "role": role, "models": models or None}
    told |= {"images_per_second": images_per_second, "calls_per_second": calls_per_second, "in_flight": in_flight}
    table = f"[keys.{json.dumps(name)}]\n"  # a TOML string is written as a JSON one
    table += "".join(f"{field} = {json.dumps(value)}\n" for field, value in told.items() if value is not None)
    try:
        before = path.read_text(encoding="utf-8") if path.exists() else ""
        if name in tomllib.loads(before).get("keys", {}):
            raise BadSettings(f"{path} has a key of {name!r} already. Take another name, or remove that one.", key=name)
        content = f"{before}\n{table}" if before else table
        _callers(path, content)
        artifact.replace_bytes(path, content.encode())
    except OSError as error:
        raise BadSettings(f"The keys file {path} cannot be written: {error.strerror}.", key="keys_file") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise _not_toml(path, error) from error
    return key


def _digest(key: str) -> str:
    # A header of bytes that are no UTF-8 has surrogates in their place: it is nobody's key, but may be asked for.
    return hashlib.sha256(key.encode(errors="surrogateescape")).hexdigest()


def _not_toml(path: Path, error: ValueError) -> BadSettings:
    place = re.search(r"at (line \d+, column \d+|end of document)", str(error))  # the rest may quote a key
    return BadSettings(f"{path} is no TOML file{f', {place[0]}' if place else ''}.", key="keys_file")


def _unreadable(path: Path, error: OSError) -> BadSettings:
    return BadSettings(f"The keys file {path} cannot be read: {error.strerror}.", key="keys_file")
