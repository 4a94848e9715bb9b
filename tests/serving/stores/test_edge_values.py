"""Vectors between numpy and Qdrant's messages: the bytes are those that protobuf itself writes."""

import numpy as np
import pytest

from roost_serving.edge.protocol import qdrant
from roost_serving.edge.values import from_dense, to_dense


@pytest.mark.parametrize("count", [0, 1, 31, 32, 512, 4095, 4096, 600_000])  # the length takes 1 to 4 bytes
def test_a_vector_is_written_and_read_as_protobuf_does(count):
    vector = np.random.default_rng(count).normal(size=count).astype(np.float32)
    message = to_dense(vector)
    assert message == qdrant.DenseVector(data=vector.tolist())
    np.testing.assert_array_equal(from_dense(message), vector)
    np.testing.assert_array_equal(from_dense(qdrant.DenseVector(data=vector.tolist())), vector)


def test_a_field_that_is_not_known_changes_nothing():
    vector = np.array([1, 2, 3], np.float32)
    newer = qdrant.DenseVector.FromString(to_dense(vector).SerializeToString() + b"\x98\x06\x07")
    np.testing.assert_array_equal(from_dense(newer), vector)


def test_other_types_of_numbers_become_float32():
    for vector in ([0.1, 0.2], np.array([0.1, 0.2]), np.array([0.1, 0.2], ">f4")):
        assert from_dense(to_dense(vector)).tolist() == np.array([0.1, 0.2], np.float32).tolist()
