"""The packaged chart, rendered, as documents."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import helm_python
import pytest
import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy/helm/roost"
EXAMPLES = sorted((ROOT / "deploy/helm/examples").glob("*.yaml"))

MINIMAL = {
    "serviceAccount": {"create": False},
    "gateway": {"replicas": 1, "podDisruptionBudget": {"enabled": False}, "resources": {"limits": {"cpu": "1"}}},
    "networkPolicy": {"enabled": False},
    "models": {"existingClaim": "models"},
}
MONITORED = {
    "monitoring": {name: {"enabled": True} for name in ("serviceMonitor", "prometheusRule", "dashboard")},
    "triton": {"enabled": False},
    "qdrant": {"existingSecret": "qdrant-key"},
}
VALUES = {"default": {}, "minimal": MINIMAL, "monitored": MONITORED} | {
    path.stem: yaml.safe_load(path.read_text()) for path in EXAMPLES
}

Document = dict[str, Any]
Render = Callable[[dict[str, Any]], list[Document]]


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def chart(tmp_path_factory: pytest.TempPathFactory):
    """The chart as its users get it: packaged, so that what .helmignore leaves out is missing here too."""
    archive = helm_python.package(CHART, destination=tmp_path_factory.mktemp("chart"))
    with helm_python.Chart.load(archive) as loaded:
        yield loaded


@pytest.fixture(scope="session")
def render(chart: helm_python.Chart) -> Render:
    def render(values: dict[str, Any]) -> list[Document]:
        texts = chart.render(values, name="demo", namespace="images")
        manifests = [text for path, text in sorted(texts.items()) if not path.endswith("NOTES.txt")]
        return [document for text in manifests for document in yaml.safe_load_all(text) if document]

    return render


@pytest.fixture(params=VALUES, scope="session")
def documents(request: pytest.FixtureRequest, render: Render) -> list[Document]:
    """Every document of the release, for each of the values that are tested."""
    return render(VALUES[request.param])


@pytest.fixture(scope="session")
def pods(documents: list[Document]) -> dict[str, Document]:
    """Pod templates by the name of what makes them."""
    makers = {"Deployment", "StatefulSet"}
    found = {doc["metadata"]["name"]: doc["spec"]["template"] for doc in documents if doc["kind"] in makers}
    return found | {doc["metadata"]["name"]: doc for doc in documents if doc["kind"] == "Pod"}
