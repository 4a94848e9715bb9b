"""Every call of the gateway, over a real socket, with a plain stub."""

import numpy as np
import pytest
from google.protobuf import struct_pb2

from roost import ids, preprocess
from roost.v1 import gateway_pb2 as pb


def values(vector: pb.Vector) -> np.ndarray:
    return np.frombuffer(vector.values, "<f4")


def item(image: bytes, **payload) -> pb.Item:
    struct = struct_pb2.Struct()
    struct.update(payload)
    return pb.Item(image=image, payload=struct)


async def ingest(stub, requests):
    return [response async for response in stub.IngestItems(iter(requests))]


@pytest.fixture
async def stored(stub, digits):
    """The first forty digits, stored with their number: thirty zeros, then ten ones."""
    requests = [
        pb.IngestItemsRequest(model="digits", item=item(image, digit=place // 30, place=place))
        for place, image in enumerate(digits[:40])
    ]
    return await ingest(stub, requests)


async def test_embeddings_are_those_of_pytorch(stub, digits, embed_pixels):
    response = await stub.EmbedItems(pb.EmbedItemsRequest(model="digits", items=[pb.Item(image=i) for i in digits[:8]]))
    pixels = np.stack([preprocess.decode(image, size=32, resize=32) for image in digits[:8]])
    served = np.stack([values(result.vector) for result in response.results])
    assert np.abs(served - embed_pixels(pixels)).max() < 1e-5
    assert (response.model.name, response.model.version) == ("digits", 1)


async def test_a_partial_answer_holds_the_error_of_the_bad_item_alone(stub, digits):
    items = [pb.Item(image=digits[0]), pb.Item(image=b"no image"), pb.Item(image=digits[1])]
    response = await stub.EmbedItems(pb.EmbedItemsRequest(model="digits@1", items=items, allow_partial=True))
    assert [result.WhichOneof("result") for result in response.results] == ["vector", "error", "vector"]
    assert response.results[1].error.code == 3


async def test_items_and_their_vectors_lie_in_the_same_place(stub, digits):
    items = [pb.Item(image=image) for image in digits[::30]]
    embedded = await stub.EmbedItems(pb.EmbedItemsRequest(model="digits", items=items))
    by_item = await stub.AssignClusters(pb.AssignClustersRequest(model="digits", items=items))
    vectors = [result.vector for result in embedded.results]
    by_vector = await stub.AssignClusters(pb.AssignClustersRequest(model="digits", vectors=vectors))
    assert [p.cluster for p in by_item.placements] == [p.cluster for p in by_vector.placements]
    for one, other in zip(by_item.placements, by_vector.placements, strict=True):
        assert one.distance == pytest.approx(other.distance, abs=1e-5)
        assert sum(one.responsibilities) == pytest.approx(1, abs=1e-5)
        assert one.anomaly_score >= 0


async def test_ingest_answers_in_order_and_twice_changes_nothing(stub, stored, digits):
    assert [response.id for response in stored] == [ids.content_id(image) for image in digits[:40]]
    assert {response.outcome for response in stored} == {pb.INGEST_OUTCOME_STORED}
    again = await ingest(stub, [pb.IngestItemsRequest(model="digits", item=item(digits[0]), skip_existing=True)])
    assert again[0].outcome == pb.INGEST_OUTCOME_EXISTED
    models = await stub.ListModels(pb.ListModelsRequest())
    assert {model.version.name: model.items for model in models.models} == {"digits": 40, "plain": 0}


async def test_a_bad_item_of_a_stream_fails_alone(stub, digits):
    requests = [pb.IngestItemsRequest(model="digits", item=item(image)) for image in (digits[0], b"", digits[1])]
    responses = await ingest(stub, requests)
    outcomes = [response.outcome for response in responses]
    assert outcomes == [pb.INGEST_OUTCOME_STORED, pb.INGEST_OUTCOME_FAILED, pb.INGEST_OUTCOME_STORED]
    assert [response.model.name for response in responses] == ["digits"] * 3


async def test_an_item_for_a_model_that_is_not_there_names_none(stub, digits):
    (response,) = await ingest(stub, [pb.IngestItemsRequest(model="absent", item=item(digits[0]))])
    assert response.outcome == pb.INGEST_OUTCOME_FAILED
    assert not response.HasField("model")


async def test_an_answer_comes_before_the_next_item_is_sent(stub, digits):
    call = stub.IngestItems()
    for image in digits[:3]:
        await call.write(pb.IngestItemsRequest(model="digits", item=item(image)))
        assert (await call.read()).id == ids.content_id(image)
    await call.done_writing()


async def test_an_item_is_its_own_nearest_neighbour(stub, stored, digits):
    response = await stub.SearchItems(pb.SearchItemsRequest(model="digits", item=pb.Item(image=digits[7]), limit=3))
    assert response.hits[0].item.id == stored[7].id
    assert response.hits[0].score == pytest.approx(1, abs=1e-5)
    assert response.hits[0].item.payload["place"] == 7
    assert len(response.hits) == 3
    assert response.HasField("placement")


async def test_a_search_by_id_leaves_the_item_itself_out_and_agrees_with_its_vector(stub, stored):
    by_id = await stub.SearchItems(pb.SearchItemsRequest(model="digits", id=stored[7].id, limit=5))
    got = await stub.GetItem(pb.GetItemRequest(model="digits", id=stored[7].id))
    by_vector = await stub.SearchItems(pb.SearchItemsRequest(model="digits", vector=got.item.vector, limit=6))
    assert [hit.item.id for hit in by_id.hits] == [hit.item.id for hit in by_vector.hits[1:]]


async def test_filters_hold_on_payload_cluster_and_anomaly(stub, stored, digits):
    ones = pb.Filter(payload=[pb.PayloadCondition(key="digit", integer=1)])
    response = await stub.SearchItems(
        pb.SearchItemsRequest(model="digits", item=pb.Item(image=digits[0]), limit=100, filter=ones)
    )
    assert [hit.item.payload["digit"] for hit in response.hits] == [1] * 10
    cluster = stored[0].placement.cluster
    alike = await stub.ListItems(pb.ListItemsRequest(model="digits", filter=pb.Filter(clusters=[cluster])))
    assert len(alike.items) == sum(response.placement.cluster == cluster for response in stored)
    normal = await stub.ListItems(pb.ListItemsRequest(model="digits", filter=pb.Filter(anomaly=False)))
    assert len(normal.items) == sum(not response.placement.anomaly for response in stored)


async def test_pages_hold_every_item_once(stub, stored):
    seen, token = [], ""
    while True:
        page = await stub.ListItems(pb.ListItemsRequest(model="digits", page_size=7, page_token=token))
        seen += [stored_item.id for stored_item in page.items]
        token = page.next_page_token
        if not token:
            break
    assert sorted(seen) == sorted(response.id for response in stored)


async def test_a_deleted_item_is_gone(stub, stored):
    await stub.DeleteItem(pb.DeleteItemRequest(model="digits", id=stored[3].id))
    page = await stub.ListItems(pb.ListItemsRequest(model="digits"))
    assert stored[3].id not in {stored_item.id for stored_item in page.items}
    assert len(page.items) == 39


async def test_clusters_count_what_is_stored_in_them(stub, stored):
    response = await stub.ListClusters(pb.ListClustersRequest(model="digits", page_size=3))
    rest = await stub.ListClusters(pb.ListClustersRequest(model="digits", page_token=response.next_page_token))
    clusters = [*response.clusters, *rest.clusters]
    assert [cluster.cluster for cluster in clusters] == [0, 1, 2, 3, 4]
    assert sum(cluster.items for cluster in clusters) == 40
    assert sum(cluster.fitted_images for cluster in clusters) > 0


async def test_a_model_without_clusters_stores_and_finds_without_a_placement(stub, digits):
    requests = [pb.IngestItemsRequest(model="plain", item=item(image)) for image in digits[:3]]
    assert not any(response.HasField("placement") for response in await ingest(stub, requests))
    found = await stub.SearchItems(pb.SearchItemsRequest(model="plain", item=pb.Item(image=digits[1])))
    assert found.hits[0].item.id == ids.content_id(digits[1])
    assert not found.HasField("placement")
