"""Requests that nobody would write, and files that no tool would: never a crash, never INTERNAL."""

import struct
import subprocess
import sys
from pathlib import Path

import grpc
import hypothesis
import pytest
from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from hypothesis import HealthCheck, strategies

from roost.client import Client
from roost.v1 import gateway_pb2 as pb

METHODS = {method.name: method for method in pb.DESCRIPTOR.services_by_name["GatewayService"].methods}
FAULTS = {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.DATA_LOSS}
TEXTS = [
    "",
    "digits",
    "digits@1",
    "digits@-1",
    "@",
    "../../etc/passwd",
    "a\0b",
    "ä" * 300,
    "x" * 100_000,
    "path.n",
    "%2e",
]
NUMBERS = [0, 1, -1, 10, 257, 2**31 - 1, -(2**31)]
TARGETS = ["decoder", "manifest", "settings"]


def messages(descriptor: Descriptor, images: list[bytes], depth: int = 0):
    """Messages of a type, with the values that trip programs more often than chance would have them."""
    fields = [field for field in descriptor.fields if depth < 5 or field.message_type is None]
    made = message_factory.GetMessageClass(descriptor)

    @strategies.composite
    def draw_message(draw):
        message = made()
        chosen = draw(strategies.lists(strategies.sampled_from(fields), max_size=4, unique_by=id)) if fields else []
        for field in {field.name: field for field in [*fields[:1], *chosen]}.values():  # the first says which model
            values = value_of(field, images, depth)
            if field.is_repeated and not (field.message_type and field.message_type.GetOptions().map_entry):
                getattr(message, field.name).extend(draw(strategies.lists(values, max_size=3)))
            elif field.is_repeated:
                continue
            elif field.message_type is not None:
                getattr(message, field.name).CopyFrom(draw(values))
            else:
                setattr(message, field.name, draw(values))
        return message

    return draw_message()


def value_of(field: FieldDescriptor, images: list[bytes], depth: int):
    kind = field.cpp_type
    if kind == FieldDescriptor.CPPTYPE_MESSAGE:
        return messages(field.message_type, images, depth + 1)
    if kind == FieldDescriptor.CPPTYPE_STRING and field.type == FieldDescriptor.TYPE_BYTES:
        floats = strategies.lists(strategies.floats(width=32), min_size=256, max_size=256)
        vectors = floats.map(lambda values: struct.pack("<256f", *values))
        cut = strategies.sampled_from(images).flatmap(
            lambda image: strategies.integers(0, len(image)).map(lambda size: image[:size])
        )
        return strategies.one_of(strategies.sampled_from(images), cut, vectors, strategies.binary(max_size=64))
    if field.name == "model":
        return strategies.one_of(strategies.just("digits"), strategies.just("digits@1"), strategies.sampled_from(TEXTS))
    if kind == FieldDescriptor.CPPTYPE_STRING:
        return strategies.one_of(strategies.sampled_from(TEXTS), strategies.text(max_size=20))
    plain = {
        FieldDescriptor.CPPTYPE_FLOAT: strategies.floats(width=32),
        FieldDescriptor.CPPTYPE_DOUBLE: strategies.floats(),
        FieldDescriptor.CPPTYPE_BOOL: strategies.booleans(),
        FieldDescriptor.CPPTYPE_ENUM: strategies.sampled_from([0, 1]),
    }
    return plain.get(kind, strategies.sampled_from(NUMBERS))


def mutated(content: bytes, places: list[tuple[int, int]]) -> bytes:
    """Some bytes replaced; a place past the end cuts the message there instead."""
    changed = bytearray(content)
    for place, value in places:
        if place < len(changed):
            changed[place] = value
        else:
            del changed[place // 2 :]
    return bytes(changed)


def raw(descriptor: Descriptor, images: list[bytes]):
    """The bytes of such messages, a few of them changed."""
    places = strategies.tuples(strategies.integers(0, 300), strategies.integers(0, 255))
    made = messages(descriptor, images).map(lambda message: message.SerializeToString())
    return strategies.builds(mutated, made, strategies.lists(places, max_size=3))


@pytest.fixture(scope="module")
def gateway(serve, repository):
    with serve("--backend", f"onnx://{repository}", "--store", "memory://", "--reload-seconds", "0") as running:
        yield running


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", METHODS)
def test_requests(gateway, digits, soak, seed, figures, name):  # noqa: PLR0917
    method, examples = METHODS[name], 10_000 if soak else 60
    codes: dict[str, int] = {}
    path = f"/{method.containing_service.full_name}/{name}"
    with grpc.insecure_channel(gateway.address, options=[("grpc.max_receive_message_length", -1)]) as channel:

        def send(content: bytes) -> None:
            try:
                if method.client_streaming:
                    answers = list(channel.stream_stream(path)(iter([content]), timeout=30))
                    for answer in answers:
                        code = pb.IngestItemsResponse.FromString(answer).error.code
                        assert code not in {fault.value[0] for fault in FAULTS}
                else:
                    channel.unary_unary(path)(content, timeout=30)
                code = grpc.StatusCode.OK
            except grpc.RpcError as error:
                code = error.code()
            codes[code.name] = codes.get(code.name, 0) + 1
            assert code not in FAULTS, code

        chosen = hypothesis.settings(
            max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck)
        )
        hypothesis.seed(seed)(chosen(hypothesis.given(raw(method.input_type, digits[:20]))(send)))()
    figures |= {"requests": sum(codes.values()), "codes": codes}
    assert gateway.process.poll() is None
    with Client(gateway.address) as client:
        assert client.embed(digits[:1], model="digits").shape == (1, 256)


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("target", TARGETS)
def test_files(target, soak, seed, tmp_path, figures):
    pytest.importorskip("atheris")
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    limit = "-max_total_time=200" if soak else "-runs=3000"
    command = [sys.executable, Path(__file__).with_name("fuzzing.py"), target, str(corpus), limit]
    run = subprocess.run(
        [*command, f"-seed={seed}", f"-artifact_prefix={tmp_path}/"], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr[-4000:]
    figures |= {"last": [line for line in run.stderr.splitlines() if line.startswith(("#", "Done"))][-1]}
