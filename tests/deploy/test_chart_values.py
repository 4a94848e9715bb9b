"""The chart takes the values that it documents, and no others."""

import copy
import re

import helm_python
import pytest
import yaml

from roost_serving.settings import ServeSettings

DECIDED_BY_THE_CHART = {
    "backend", "store", "repository", "store_api_key_file", "host", "port", "http_host", "http_port", "drain_seconds",
    "grace_seconds", "triton_key_file", "keys_file", "open_health", "open_metrics",
    "tls_certificate_file", "tls_key_file", "tls_callers_file",
}  # fmt: skip

REFUSED = {
    "an unknown key": ({"gatway": {}}, "gatway"),
    "a number in words": ({"gateway": {"replicas": "three"}}, "gateway/replicas"),
    "no replicas": ({"gateway": {"replicas": 0}}, "gateway/replicas"),
    "a setting that is not the gateway's": ({"gateway": {"settings": {"max_inflight": 1}}}, "max_inflight"),
    "a setting that the chart decides": ({"gateway": {"settings": {"port": 1}}}, "port"),
    "a digest that is a tag": ({"triton": {"image": {"digest": "26.10"}}}, "triton/image/digest"),
    "a store of another scheme": ({"externalQdrant": {"url": "http://qdrant:6333"}}, "externalQdrant/url"),
    "a key in place of a secret's name": ({"qdrant": {"apiKey": "secret"}}, "apiKey"),
    "a size without sense": ({"models": {"claim": {"size": "large"}}}, "models/claim/size"),
    "root as user": ({"gateway": {"podSecurityContext": {"runAsUser": 0}}}, "runAsUser"),
}

CONTRADICTIONS = {
    "two gateways on one volume": ({"qdrant": {"enabled": False}}, "gateway.replicas=1"),
    "two stores": ({"externalQdrant": {"url": "qdrant://far:6334"}}, "qdrant.enabled=false"),
    "two backends": ({"externalTriton": {"url": "triton://far:8001"}}, "triton.enabled=false"),
    "metrics behind an open REST API": (
        {"monitoring": {"serviceMonitor": {"enabled": True}}},
        "networkPolicy.monitoring",
    ),
    "callers' certificates without one of its own": ({"gateway": {"tls": {"mutual": True}}}, "gateway.tls.secret"),
    "a maximum below the minimum": (
        {"gateway": {"autoscaling": {"enabled": True, "minReplicas": 5, "maxReplicas": 4}}},
        "maxReplicas",
    ),
}


def test_the_chart_lints_strictly(root):
    report = helm_python.lint(root / "deploy/helm/roost", strict=True)
    assert report["errors"] == []
    assert [m for m in report["messages"] if m["severity"] > 1] == []


@pytest.mark.parametrize("case", REFUSED)
def test_the_packaged_chart_refuses(case, chart):
    values, where = REFUSED[case]
    with pytest.raises(helm_python.HelmValuesError, match=where):
        chart.render(values, name="demo")


@pytest.mark.parametrize("case", CONTRADICTIONS)
def test_contradictions_are_refused_with_what_to_do(case, chart):
    values, advice = CONTRADICTIONS[case]
    with pytest.raises(helm_python.HelmRenderError, match=re.escape(advice)):
        chart.render(values, name="demo")


def test_the_schema_knows_every_setting_that_the_chart_leaves_open(chart):
    known = chart.schema["definitions"]["settings"]["properties"]
    assert set(known) == set(ServeSettings.model_fields) - DECIDED_BY_THE_CHART


def test_every_object_of_the_schema_is_closed_but_the_globals(chart):
    def open_objects(schema: dict, path: str):
        if "properties" in schema and schema.get("additionalProperties") is not False:
            yield path
        for name, part in {**schema.get("properties", {}), **schema.get("definitions", {})}.items():
            yield from open_objects(part, f"{path}/{name}")

    assert list(open_objects(chart.schema, "")) == ["/global"]


def test_the_schema_describes_exactly_the_keys_of_the_values(chart):
    schema = chart.schema

    def compare(values: dict, part: dict, path: str) -> None:
        if "$ref" in part:
            part = schema["definitions"][part["$ref"].rsplit("/", 1)[-1]]
        if "properties" not in part or path.endswith(("resources", "settings")):
            return
        assert set(values) == set(part["properties"]), path
        for name, value in values.items():
            compare(value, part["properties"][name], f"{path}/{name}")

    compare(chart.values, schema, "")


def test_every_group_of_values_and_every_unclear_key_has_a_comment(root):
    lines = (root / "deploy/helm/roost/values.yaml").read_text().splitlines()
    commented = sum(line.lstrip().startswith("#") for line in lines)
    sections = [i for i, line in enumerate(lines) if re.match(r"\w+:", line)]
    explained = [i for i in sections if lines[i - 1].startswith("#") or lines[i + 1].lstrip().startswith("#")]
    plain = {"global:", "serviceAccount:", "gateway:", "triton:", "qdrant:"}
    assert [lines[i] for i in sections if i not in explained and lines[i] not in plain] == []
    assert commented > 40


def test_numbers_of_any_size_reach_the_gateway_as_integers(render):
    documents = render({"gateway": {"settings": {"max_message_bytes": 33554432, "max_in_flight": 64}}})
    data = next(doc["data"] for doc in documents if doc["metadata"]["name"] == "demo-roost-gateway" and "data" in doc)
    assert data["ROOST_SERVE_MAX_MESSAGE_BYTES"] == "33554432"
    assert data["ROOST_SERVE_MAX_IN_FLIGHT"] == "64"


def test_a_digest_wins_over_a_tag_and_the_global_registry_over_an_images_own(render):
    digest = "sha256:" + "a" * 64
    documents = render({"global": {"imageRegistry": "mirror.example"}, "triton": {"image": {"digest": digest}}})
    images = {
        container["name"]: container["image"]
        for doc in documents
        if doc["kind"] in {"Deployment", "StatefulSet"}
        for container in doc["spec"]["template"]["spec"]["containers"]
    }
    assert images["triton"] == f"mirror.example/nvidia/tritonserver@{digest}"
    assert images["gateway"] == "mirror.example/roost-gateway:0.1.0"


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, True),
        ({"gateway": {"image": {"registry": "registry.example"}}}, False),
        ({"global": {"imageRegistry": "registry.example"}}, False),
    ],
)
def test_the_notes_say_that_the_image_must_be_built_unless_a_registry_was_named(values, said, chart):
    texts = chart.render(values, name="demo", namespace="images")
    (notes,) = [text for path, text in texts.items() if path.endswith("NOTES.txt")]
    assert ("roost-gateway:0.1.0, is published nowhere: build it" in notes) is said


def test_a_changed_setting_rolls_the_gateway(render):
    def checksum(values: dict) -> str:
        (gateway,) = [
            doc for doc in render(values) if doc["kind"] == "Deployment" and "triton" not in doc["metadata"]["name"]
        ]
        return gateway["spec"]["template"]["metadata"]["annotations"]["checksum/settings"]

    values = {"gateway": {"settings": {"log_level": "debug"}}, "networkPolicy": {"enabled": False}}
    other = copy.deepcopy(values)
    other["gateway"]["settings"]["log_level"] = "info"
    assert checksum(values) == checksum(copy.deepcopy(values)) != checksum(other)


def test_long_names_still_fit_into_a_label(chart):
    long = "a-release-whose-name-is-as-long-as-helm-permits-it-x"
    texts = chart.render({}, name=long, namespace="images")
    names = [
        doc["metadata"]["name"]
        for path, text in texts.items()
        if not path.endswith("NOTES.txt")
        for doc in yaml.safe_load_all(text)
        if doc
    ]
    assert max(map(len, names)) <= 63
