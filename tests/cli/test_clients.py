"""Both clients on a real gateway."""

import asyncio
import inspect

import numpy as np
import pytest

from roost import ids
from roost.client import AsyncClient, Client, Filter, Item
from roost.errors import BadImage, BadPageToken, BadRequest, BadVector, UnknownItem, UnknownModel

pytestmark = pytest.mark.usefixtures("indexed")


@pytest.fixture(params=[Client, AsyncClient])
def call(request, gateway):
    """Call a method of either client; what it streams comes back as a list."""

    def blocking(method, *args, **kwargs):
        with Client(gateway) as client:
            answer = getattr(client, method)(*args, **kwargs)
            return list(answer) if inspect.isgenerator(answer) else answer

    async def awaited(method, *args, **kwargs):
        async with AsyncClient(gateway) as client:
            answer = getattr(client, method)(*args, **kwargs)
            return [thing async for thing in answer] if inspect.isasyncgen(answer) else await answer

    if request.param is Client:
        return blocking
    return lambda *args, **kwargs: asyncio.run(awaited(*args, **kwargs))


def test_an_embedding_is_the_stored_vector_and_its_own_nearest_neighbour(call, digits):
    path = digits / "5" / "01.png"
    (vector,) = call("embed", [path])
    stored = call("get", ids.content_id(path.read_bytes()))
    found = call("search", vector=vector, limit=1, with_vectors=True)
    np.testing.assert_allclose(stored.vector, vector, atol=1e-6)
    np.testing.assert_allclose(found[0].item.vector, vector, atol=1e-6)
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)
    assert found[0].item.payload == {"path": "5/01.png", "label": "5"}


def test_images_and_their_vectors_lie_in_the_same_place(call, digits):
    paths = sorted((digits / "2").iterdir())
    by_image = call("assign", paths)
    by_vector = call("assign", vectors=call("embed", paths))
    assert [place.cluster for place in by_image] == [place.cluster for place in by_vector]
    for one, other in zip(by_image, by_vector, strict=True):
        assert one.distance == pytest.approx(other.distance, abs=1e-5)
        assert one.responsibilities.sum() == pytest.approx(1, abs=1e-5)
        np.testing.assert_allclose(one.responsibilities, other.responsibilities, atol=1e-4)


def test_items_are_found_page_by_page_and_by_filter(call):
    everything = call("items", page_size=7)
    of_a_kind = call("items", filter=Filter(payload={"label": "4"}), page_size=4)
    assert len({item.id for item in everything}) == len(everything) == 60
    assert sorted(item.payload["path"] for item in of_a_kind) == [f"4/{n:02}.png" for n in range(6)]


def test_a_stream_stores_good_items_and_names_bad_ones(call, digits):
    good = digits / "1" / "01.png"
    first, second = call("ingest", [Item(good, id="mine", payload={"n": 1}), Item(b"torn", id="bad")])
    (third,) = call("ingest", [Item(good, id="mine")], skip_existing=True)
    call("delete", "mine")
    assert (first.kind, first.id, first.model) == ("stored", "mine", "digits@1")
    assert isinstance(second.error, BadImage)
    assert third.kind == "existed"
    assert first.placement.cluster in range(3)


@pytest.mark.parametrize(
    ("method", "arguments", "kind"),
    [
        ("embed", {"images": [b"not an image"]}, BadImage),
        ("embed", {"images": [b""]}, BadImage),
        ("embed", {"images": [b"x"], "model": "cats"}, UnknownModel),
        ("embed", {"images": [b"x"], "model": "digits@9"}, UnknownModel),
        ("search", {"vector": np.ones(3)}, BadVector),
        ("search", {"vector": np.full(256, np.nan)}, BadVector),
        ("search", {"id": "absent"}, UnknownItem),
        ("search", {"vector": np.ones(256), "limit": -1}, BadRequest),
        ("get", {"id": "absent"}, UnknownItem),
        ("delete", {"id": "absent"}, UnknownItem),
    ],
)
def test_a_bad_call_raises_the_gateways_own_error_and_the_next_is_answered(call, method, arguments, kind):
    with pytest.raises(kind) as caught:
        call(method, **arguments)
    assert type(caught.value) is kind
    assert len(call("models")) == 1


def test_errors_take_their_images_places(call, digits):
    results = call("embed", [b"torn", digits / "0" / "00.png", digits / "absent.png"], on_error="return")
    assert [isinstance(result, BadImage) for result in results] == [True, False, True]
    assert results[1].shape == (256,)


def test_a_page_token_of_another_list_is_refused(gateway):
    import grpc

    from roost.client.status import from_rpc
    from roost.v1 import gateway_pb2 as pb
    from roost.v1.gateway_pb2_grpc import GatewayServiceStub

    with grpc.insecure_channel(gateway) as channel, pytest.raises(grpc.RpcError) as caught:
        GatewayServiceStub(channel).ListItems(pb.ListItemsRequest(page_token="abc"), timeout=5)
    assert isinstance(from_rpc(caught.value, target=gateway, timeout=5), BadPageToken)
