"""Kubernetes itself would take every document, in each version that the chart says it supports."""

from collections import Counter

import kubernetes_validate
import pytest

CUSTOM = {"ServiceMonitor", "PrometheusRule", "GRPCRoute"}
OCI_VOLUMES = "1.31"


@pytest.mark.parametrize("version", ["1.29", "1.31", "1.34", "1.37"])
def test_every_document_validates_strictly(version, documents):
    for document in documents:
        if document["kind"] in CUSTOM or (version < OCI_VOLUMES and _has_image_volume(document)):
            continue
        kubernetes_validate.validate(document, version, strict=True)


def test_no_two_objects_have_the_same_kind_and_name(documents):
    names = Counter((doc["kind"], doc["metadata"]["name"]) for doc in documents)
    assert [name for name, count in names.items() if count > 1] == []


def test_every_object_says_which_release_it_is_of(documents):
    for document in documents:
        if document["kind"] in CUSTOM - {"ServiceMonitor", "PrometheusRule"}:
            continue
        labels = document["metadata"]["labels"]
        assert labels["app.kubernetes.io/instance"] == "demo"
        assert labels["app.kubernetes.io/part-of"] == "roost"


def _has_image_volume(document: dict) -> bool:
    spec = document["spec"].get("template", document).get("spec", {}) if "spec" in document else {}
    return any("image" in volume for volume in spec.get("volumes", []))
