"""NVIDIA's own parser and builder, from TensorRT for RTX: it needs no GPU, and has TensorRT's interface."""

import pytest

from roost.errors import BadSettings
from roost_export.formats import Shape, tensorrt

trt = pytest.importorskip("tensorrt_rtx")
SHAPE = Shape(size=32, max_batch=4, opset=20)


def test_tensorrt_parses_and_builds_every_family_of_encoders(any_exported):
    graph = (any_exported.folder / "model.onnx").read_bytes()
    engine = tensorrt.build(trt, graph, shape=SHAPE, capability="SM89")
    assert len(engine) > len(graph) / 4


def test_a_graph_that_tensorrt_does_not_take_is_refused_with_its_reason():
    with pytest.raises(BadSettings, match="does not take"):
        tensorrt.build(trt, b"no graph", shape=SHAPE, capability="SM89")
