"""What each entry point loads, seen from a fresh interpreter."""

import subprocess
import sys

import pytest

HEAVY = {"torch", "torchvision", "sklearn", "onnxruntime", "openvino"}
HEAVY |= {"tritonclient", "qdrant_client", "grpc", "aiohttp", "opentelemetry"}


def loaded(statement: str) -> set[str]:
    """The heavy libraries that a statement loads."""
    code = f"{statement}; import sys; print(*sys.modules)"
    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    return HEAVY & set(output.splitlines()[-1].split())


@pytest.mark.parametrize(
    ("statement", "allowed"),
    [
        ("import roost", set()),
        ("import roost.artifact, roost.clusters, roost.preprocess, roost.settings", set()),
        ("import roost.cli", set()),
        ("import roost; roost.Client", {"grpc"}),
        ("import roost_serving.server", {"grpc", "aiohttp"}),
        ("import roost_serving.backends.onnx", {"onnxruntime"}),
        ("import roost_serving.backends.openvino", {"openvino"}),
        ("import roost_serving.backends.triton", {"tritonclient", "grpc"}),
        ("import roost_serving.stores.edge", {"qdrant_client", "grpc"}),
        ("import roost_training.loop.training", {"torch", "torchvision", "sklearn"}),
        ("import roost_training.clustering.cluster", {"torch", "torchvision", "sklearn", "onnxruntime"}),
        ("import roost_export.export", {"torch", "torchvision", "onnxruntime"}),
    ],
)
def test_an_entry_point_loads_only_what_it_needs(statement, allowed):
    assert loaded(statement) <= allowed
