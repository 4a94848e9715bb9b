"""Options that several commands take, and what they mean."""

import json
import re
import tomllib
from typing import TYPE_CHECKING, Annotated, Any

import typer

from roost.errors import BadSettings

if TYPE_CHECKING:
    from roost.client import Filter, Range

Gateway = Annotated[str, typer.Option(envvar="ROOST_GATEWAY", help="The gateway's address.")]
Model = Annotated[str, typer.Option(help="name or name@version; not needed where the gateway serves one.")]
Timeout = Annotated[float, typer.Option(help="How long to wait for an answer, in seconds.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, one object a line.")]
Cluster = Annotated[list[int] | None, typer.Option(help="Only items of this cluster; may be given several times.")]
Anomaly = Annotated[bool | None, typer.Option("--anomaly/--no-anomaly", help="Only anomalies, or none.")]
Where = Annotated[
    list[str] | None,
    typer.Option(
        metavar="KEY=TEXT",
        help="Only items whose payload has this text; KEY:=3, KEY:=true or KEY:=2..5 for a number, a truth value or a "
        "range. May be given several times: all must hold.",
    ),
]


def to_filter(*, where: list[str] | None, clusters: list[int] | None, anomaly: bool | None) -> "Filter":
    """The filter that the three options describe."""
    from roost.client import Filter

    payload = {}
    for key, value in map(_pair, where or []):
        payload[key.removesuffix(":")] = _value(value) if key.endswith(":") else value
    return Filter(payload=payload, clusters=clusters or (), anomaly=anomaly)


def to_settings(pairs: list[str] | None) -> dict[str, Any]:
    """`--set a.b=1` as nested settings; values are read as TOML, and as text where they are not.

    Raises:
        BadSettings: Something has no `=`.
    """
    settings: dict[str, Any] = {}
    for key, value in map(_pair, pairs or []):
        *tables, last = key.replace("-", "_").split(".")
        into = settings
        for name in tables:
            into = into.setdefault(name, {})
        try:
            into[last] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            into[last] = value
    return settings


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise BadSettings(f"{text!r} is not of the form KEY=VALUE.", text=text)
    return key, value


def _value(text: str) -> "bool | int | float | Range":
    """What stands after `:=`.

    Raises:
        BadSettings: It is neither a number nor a truth value nor a range.
    """
    from roost.client import Range

    number = r"-?\d+(?:\.\d+)?"
    if bounds := re.fullmatch(rf"({number})?\.\.({number})?", text):
        low, high = (None if bound is None else float(bound) for bound in bounds.groups())
        return Range(low, high)
    if re.fullmatch(rf"true|false|{number}", text):
        return json.loads(text)
    raise BadSettings(f"{text!r} is no number, truth value or range. Write KEY=TEXT to compare with text.", text=text)
