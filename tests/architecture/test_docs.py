"""The reference names every setting, metric and error reason, with its default, labels and status."""

from pathlib import Path

import pytest

from roost import errors
from roost_serving.metrics import Metrics
from roost_serving.settings import ServeSettings

ROWS = (Path(__file__).parents[2] / "docs/reference.md").read_text().splitlines()


def row(name: str) -> str:
    """The one row that is about a name."""
    (found,) = [line for line in ROWS if line.startswith(f"| `{name}` |")]
    return found


@pytest.mark.parametrize("name", ServeSettings.model_fields)
def test_each_setting_stands_in_the_reference_with_its_default(name):
    field = ServeSettings.model_fields[name]
    text = row("--" + name.replace("_", "-"))
    assert f"`ROOST_SERVE_{name.upper()}`" in text
    assert field.description
    assert field.description in text
    if field.default_factory is None and field.default is not None:
        assert f"| `{field.default}` |" in text


def test_each_metric_stands_in_the_reference():
    families = [family for family in Metrics().registry.collect() if family.name.startswith(("grpc_", "roost_"))]
    assert len(families) > 10
    for family in families:
        suffix = {"counter": "_total", "info": "_info"}.get(family.type, "")
        assert family.documentation in row(family.name + suffix)


@pytest.mark.parametrize("reason", errors.by_reason())
def test_each_reason_stands_in_the_reference_with_its_status(reason):
    error = errors.by_reason()[reason]
    assert f"| `{error.code}` | `{error.__name__}` |" in row(reason)
