"""What becomes of a long batch one of whose messages is refused, lost or would be too large."""

import gc

import grpc
import numpy as np
import pytest
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from roost import errors
from roost.client import AsyncClient
from roost.v1 import gateway_pb2 as pb

MEBIBYTE = 1024 * 1024
LIMITED = {"max_message_bytes": MEBIBYTE}


def embed(request, context):
    """Embeds an image as its first byte."""
    firsts = [np.array([item.image[0]], "<f4") for item in request.items]
    results = [pb.EmbedResult(vector=pb.Vector(values=first.tobytes())) for first in firsts]
    return pb.EmbedItemsResponse(model=pb.ModelVersion(name="digits", version=1), results=results)


def refuse(context, kind: type[errors.RoostError]) -> None:
    info = any_pb2.Any()
    info.Pack(error_details_pb2.ErrorInfo(reason=kind.reason, domain="roost"))
    code = grpc.StatusCode[kind.code].value[0]
    status = rpc_status.to_status(status_pb2.Status(code=code, message="No.", details=[info]))
    context.set_trailing_metadata((*status.trailing_metadata, ("grpc-retry-pushback-ms", "-1")))
    context.abort(status.code, status.details)


def refusing(kind: type[errors.RoostError], *, first: int):
    """A gateway that refuses a message whose first image is this one, and embeds the others."""

    def answer(request, context):
        if request.items[0].image[0] == first:
            refuse(context, kind)
        return embed(request, context)

    return answer


def images(count: int) -> list[bytes]:
    return [bytes([number]) for number in range(count)]


LOSSES = [errors.Overloaded, errors.RateLimited, errors.TooLarge, errors.DeadlineExceeded, errors.BackendUnavailable,
          errors.Unexpected]  # fmt: skip
COMMON = [errors.Unauthenticated, errors.Forbidden, errors.UnknownModel, errors.GatewayUnavailable]


@pytest.mark.parametrize("kind", LOSSES + COMMON)
def test_a_message_that_is_lost_costs_its_own_images_alone(peer, call, tmp_path, kind, monkeypatch):
    monkeypatch.setattr("roost.client.pins.PATIENCE_SECONDS", 0.1)
    peer.answers["EmbedItems"] = refusing(kind, first=64)
    results = call(peer.target, "embed", [*images(200), tmp_path / "absent"], on_error="return")
    found = [type(result) for result in results]
    assert found == 64 * [np.ndarray] + 64 * [kind] + 72 * [np.ndarray] + [errors.BadImage]
    assert [int(row[0]) for row in results if isinstance(row, np.ndarray)] == [*range(64), *range(128, 200)]


@pytest.mark.parametrize("kind", LOSSES)
def test_the_first_message_may_be_lost_too_and_the_second_tells_the_version(peer, call, kind):
    peer.answers["EmbedItems"] = refusing(kind, first=0)
    results = call(peer.target, "embed", images(200), model="digits", on_error="return")
    assert [type(result) for result in results] == 64 * [kind] + 136 * [np.ndarray]
    assert [request.model for request in peer.requests] == ["digits", "digits", "digits@1", "digits@1"]


@pytest.mark.parametrize("kind", COMMON)
def test_what_no_image_could_change_is_raised_before_anything_was_embedded(peer, call, kind):
    peer.answers["EmbedItems"] = refusing(kind, first=0)
    with pytest.raises(kind):
        call(peer.target, "embed", images(200), on_error="return")
    assert len(peer.requests) == 1


@pytest.mark.parametrize("kind", LOSSES + COMMON)
def test_the_first_error_is_raised_where_it_is_to_be(peer, call, kind, monkeypatch):
    monkeypatch.setattr("roost.client.pins.PATIENCE_SECONDS", 0.1)
    peer.answers["EmbedItems"] = refusing(kind, first=64)
    with pytest.raises(kind):
        call(peer.target, "embed", images(200))


def test_many_small_images_go_in_messages_of_the_size_that_is_set(peer, call):
    sizes = []

    def answer(request, context):
        sizes.append(request.ByteSize())
        return embed(request, context)

    peer.answers["EmbedItems"] = answer
    rows = call(peer.target, "embed", [bytes([number]) * 60_000 for number in range(120)], options=LIMITED)
    assert rows[:, 0].tolist() == list(range(120))
    assert MEBIBYTE // 2 < max(sizes) <= MEBIBYTE


def test_many_vectors_go_in_messages_of_the_size_that_is_set(peer, call):
    sizes = []

    def answer(request, context):
        sizes.append(request.ByteSize())
        return pb.AssignClustersResponse(placements=[pb.Placement(cluster=len(v.values)) for v in request.vectors])

    peer.answers["AssignClusters"] = answer
    for dim, count in ((512, 1200), (1, 4096)):
        limit = {"max_message_bytes": 4 * dim * count // 2 + 2048}
        placements = call(peer.target, "assign", vectors=np.ones((count, dim)), options=limit)
        assert len(placements) == count
        assert max(sizes) <= limit["max_message_bytes"]
        sizes.clear()


async def test_calls_that_failed_keep_no_connection(peer):
    peer.answers["EmbedItems"] = refusing(errors.UnknownModel, first=1)
    gc.collect()
    gc.disable()  # whoever fails often should not depend on when it comes
    try:
        for wish in ("raise", "return") * 3:
            async with AsyncClient(peer.target) as client:
                with pytest.raises(errors.UnknownModel):
                    await client.embed([b"\x01"], on_error=wish)
        assert sum(type(thing).__name__ == "AioChannel" for thing in gc.get_objects()) <= 1  # gRPC's own last
    finally:
        gc.enable()
