"""The protocol and the Python that stands beside it."""

from pathlib import Path

import grpc

from roost import errors
from roost.v1 import errors_pb2 as pb

PREFIX = "ERROR_REASON_"


def test_each_reason_of_the_protocol_is_one_error_class():
    documented = {name.removeprefix(PREFIX) for name in dict(pb.ErrorReason.items())} - {"UNSPECIFIED"}
    assert documented == set(errors.by_reason())


def test_each_error_has_a_grpc_status_and_stands_in_the_tree():
    for error in errors.by_reason().values():
        assert error.code in grpc.StatusCode.__members__
        assert f" {error.__name__} " in errors.__doc__
        assert error.code in errors.__doc__


def test_each_reason_comment_begins_with_its_status():
    text = Path(pb.__file__).with_name("errors.proto").read_text()
    for reason, error in errors.by_reason().items():
        comment = text.split(f"  {PREFIX}{reason} =")[0].rsplit(";\n", 1)[-1]
        assert comment.strip().startswith(f"// {error.code}"), reason
