import threading

import grpc
import numpy as np
import pytest
from google.protobuf import any_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from roost import errors
from roost.client import Filter, Range, pins
from roost.v1 import gateway_pb2 as pb


def vector(*values):
    return pb.Vector(values=np.array(values, "<f4").tobytes())


def first_byte(request, context):
    """Embeds an image as (its first byte, its length)."""
    results = [pb.EmbedResult(vector=vector(item.image[0], len(item.image))) for item in request.items]
    return pb.EmbedItemsResponse(results=results)


def test_embeddings_come_back_in_order_as_one_array(peer, call, tmp_path):
    peer.answers["EmbedItems"] = first_byte
    path = tmp_path / "c.png"
    path.write_bytes(b"\x03ccc")
    rows = call(peer.target, "embed", [b"\x01a", b"\x02bb", path], model="digits")
    assert rows.tolist() == [[1, 2], [2, 3], [3, 4]]
    assert rows.dtype == np.float32
    assert [request.model for request in peer.requests] == ["digits"]


def test_more_images_than_a_message_may_have_go_in_several(peer, call):
    peer.answers["EmbedItems"] = first_byte
    rows = call(peer.target, "embed", [bytes([n % 256]) for n in range(600)])
    assert rows[:, 0].tolist() == [n % 256 for n in range(600)]
    assert sorted(len(request.items) for request in peer.requests) == [24] + 9 * [64]


def test_large_images_are_split_by_bytes_and_a_very_large_one_goes_alone(peer, call):
    peer.answers["EmbedItems"] = first_byte
    mebibyte = 1024 * 1024
    sizes = [mebibyte, mebibyte, 2 * mebibyte, 3 * mebibyte + 1000, 10]
    rows = call(peer.target, "embed", [b"x" * size for size in sizes])
    assert rows[:, 1].tolist() == sizes
    assert sorted(len(request.items) for request in peer.requests) == [1, 1, 1, 2]


def test_several_messages_are_on_their_way_at_once_and_no_more(peer, call):
    together, met = threading.Barrier(4), []

    def answer(request, context):
        if request.items[0].image != b"\0":  # the first, which goes alone
            met.append(together.wait(10))  # nobody is answered before four have come
        return first_byte(request, context)

    peer.answers["EmbedItems"] = answer
    rows = call(peer.target, "embed", [bytes([n % 251]) for n in range(5 * 64)])
    assert rows[:, 0].tolist() == [n % 251 for n in range(5 * 64)]
    assert sorted(met) == [0, 1, 2, 3]


@pytest.mark.parametrize("asked", ["", "digits"])
def test_the_version_that_answers_the_first_message_is_asked_for_the_rest(peer, call, asked):
    def answer(request, context):
        response = first_byte(request, context)
        response.model.name, response.model.version = "digits", 3
        return response

    peer.answers["EmbedItems"] = answer
    call(peer.target, "embed", [b"x"] * 200, model=asked)
    assert [request.model for request in peer.requests] == [asked] + 3 * ["digits@3"]


def behind(answer, *, times):
    """A gateway that has not got version 3 for so many asks."""
    asks = []

    def late(request, context):
        if request.model.endswith("@3"):
            asks.append(request)
            if len(asks) <= times:
                refuse(context, errors.UnknownModel)
        response = answer(request, context)
        response.model.name, response.model.version = "digits", 3
        return response

    return late


def refuse(context, kind):
    info = any_pb2.Any()
    info.Pack(error_details_pb2.ErrorInfo(reason=kind.reason, domain="roost"))
    code = grpc.StatusCode[kind.code].value[0]
    context.abort_with_status(rpc_status.to_status(status_pb2.Status(code=code, message="No.", details=[info])))


def test_a_gateway_that_lacks_the_version_of_the_first_message_is_asked_again(peer, call):
    peer.answers["EmbedItems"] = behind(first_byte, times=3)
    rows = call(peer.target, "embed", [bytes([n]) for n in range(150)], model="digits")
    assert rows[:, 0].tolist() == list(range(150))
    assert {request.model for request in peer.requests[1:]} == {"digits@3"}


def test_a_version_that_stays_away_ends_the_call_and_is_named(peer, call, monkeypatch):
    monkeypatch.setattr(pins, "PATIENCE_SECONDS", 0.3)
    peer.answers["EmbedItems"] = behind(first_byte, times=1000)
    with pytest.raises(errors.UnknownModel, match=r"digits@3 answered the first message.*Make the call again"):
        call(peer.target, "embed", [b"x"] * 100, model="digits")
    assert len(peer.requests) > 2


def test_a_version_that_the_caller_named_is_asked_once(peer, call):
    peer.answers["EmbedItems"] = behind(first_byte, times=1000)
    with pytest.raises(errors.UnknownModel):
        call(peer.target, "embed", [b"x"], model="digits@3")
    assert len(peer.requests) == 1


@pytest.mark.parametrize(("method", "rpc"), [("items", "ListItems"), ("clusters", "ListClusters")])
def test_the_version_of_the_first_page_is_asked_for_the_rest(peer, call, method, rpc):
    def answer(request, context):
        page = int(request.page_token or 0)
        made = pb.ListItemsResponse if method == "items" else pb.ListClustersResponse
        return made(next_page_token=str(page + 1) if page < 2 else "")

    peer.answers[rpc] = behind(answer, times=2)
    call(peer.target, method, model="digits")
    assert [request.model for request in peer.requests] == ["digits"] + 4 * ["digits@3"]
    assert [request.page_token for request in peer.requests] == ["", "1", "1", "1", "2"]


def test_an_error_in_one_message_is_raised_and_the_others_are_let_go(peer, call):
    def answer(request, context):
        if request.items[0].image == b"bad":
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "bad")
        return first_byte(request, context)

    peer.answers["EmbedItems"] = answer
    with pytest.raises(errors.BadRequest, match="bad"):
        call(peer.target, "embed", [b"good"] * 64 + [b"bad"] + [b"good"] * 1000)
    assert len(peer.requests) <= 6


def test_errors_return_in_their_place_where_they_are_asked_for(peer, call, tmp_path):
    def answer(request, context):
        assert request.allow_partial
        bad = status_pb2.Status(code=code_pb2.INVALID_ARGUMENT, message="damaged")
        return pb.EmbedItemsResponse(results=[pb.EmbedResult(vector=vector(1)), pb.EmbedResult(error=bad)])

    peer.answers["EmbedItems"] = answer
    results = call(peer.target, "embed", [tmp_path / "absent.png", b"good", b"bad"], on_error="return")
    assert [type(result) for result in results] == [errors.BadImage, np.ndarray, errors.BadRequest]
    assert "absent.png" in results[0].message


@pytest.mark.parametrize(
    ("images", "kind", "text"),
    [
        ([], errors.BadRequest, "no image"),
        (b"one", errors.BadRequest, "list"),
        ([3], errors.BadRequest, "not int"),
        ([b"x" * 5000], errors.TooLarge, "4096"),
    ],
)
def test_what_cannot_be_embedded_is_refused_before_it_is_sent(peer, call, images, kind, text):
    with pytest.raises(kind, match=text):
        call(peer.target, "embed", images, options={"max_message_bytes": 4096})
    assert peer.requests == []


def test_vectors_are_assigned_in_messages_of_at_most_4096(peer, call):
    def answer(request, context):
        places = [pb.Placement(cluster=int(np.frombuffer(v.values, "<f4")[0])) for v in request.vectors]
        return pb.AssignClustersResponse(placements=places)

    peer.answers["AssignClusters"] = answer
    vectors = np.arange(5000, dtype=np.float64)[:, None]
    placements = call(peer.target, "assign", vectors=vectors)
    assert [placement.cluster for placement in placements] == list(range(5000))
    assert sorted(len(request.vectors) for request in peer.requests) == [904, 4096]


@pytest.mark.parametrize("arguments", [{}, {"images": [b"x"], "vectors": np.eye(2)}])
def test_assigning_takes_images_or_vectors(peer, call, arguments):
    with pytest.raises(errors.BadRequest, match="exactly one"):
        call(peer.target, "assign", **arguments)


def test_a_flat_vector_is_no_list_of_vectors(peer, call):
    with pytest.raises(errors.BadVector, match=r"\(3,\)"):
        call(peer.target, "assign", vectors=np.zeros(3))


def test_a_search_carries_its_filter_and_reads_its_hits(peer, call):
    def answer(request, context):
        item = pb.StoredItem(id="a", placement=pb.Placement(cluster=7, anomaly=True))
        item.payload.update({"label": "cat", "size": 3, "tags": ["x", None], "deep": {"yes": True}})
        version = pb.ModelVersion(name="digits", version=2)
        return pb.SearchItemsResponse(model=version, hits=[pb.Hit(item=item, score=0.5)])

    peer.answers["SearchItems"] = answer
    wanted = Filter(
        payload={"label": "cat", "seen": True, "size": 3, "ratio": 0.5, "age": Range(min=1)},
        clusters=[1, 7],
        anomaly=False,
    )
    found = call(peer.target, "search", id="q", limit=5, filter=wanted)

    sent = peer.requests[0].filter
    kinds = {condition.key: condition.WhichOneof("match") for condition in sent.payload}
    assert kinds == {"label": "text", "seen": "boolean", "size": "integer", "ratio": "range", "age": "range"}
    assert not sent.payload[4].range.HasField("max")
    assert list(sent.clusters) == [1, 7]
    assert sent.HasField("anomaly")
    assert not sent.anomaly
    assert found.model == "digits@2"
    assert found.placement is None
    assert found.hits[0].score == 0.5
    assert found.hits[0].item.placement.cluster == 7
    assert found.hits[0].item.payload == {"label": "cat", "size": 3, "tags": ["x", None], "deep": {"yes": True}}


@pytest.mark.parametrize("arguments", [{}, {"id": "a", "vector": np.ones(2)}])
def test_a_search_has_one_query(peer, call, arguments):
    with pytest.raises(errors.BadRequest, match="exactly one"):
        call(peer.target, "search", **arguments)


def test_items_are_listed_over_all_pages(peer, call):
    def answer(request, context):
        page = int(request.page_token or 0)
        items = [pb.StoredItem(id=f"{page}{n}", vector=vector(page, n)) for n in range(2)]
        return pb.ListItemsResponse(items=items, next_page_token=str(page + 1) if page < 2 else "")

    peer.answers["ListItems"] = answer
    items = call(peer.target, "items", page_size=2, with_vectors=True)
    assert [item.id for item in items] == ["00", "01", "10", "11", "20", "21"]
    assert items[-1].vector.tolist() == [2, 1]


def test_models_and_clusters_are_plain_values(peer, call):
    version = pb.ModelVersion(name="digits", version=1)
    model = pb.Model(version=version, in_service=True, dim=2, clusters=1, items=5, quality={"knn": 0.5})
    cluster = pb.Cluster(cluster=0, items=5, centroid=vector(1, 0))
    peer.answers["ListModels"] = lambda request, context: pb.ListModelsResponse(models=[model])
    peer.answers["ListClusters"] = lambda request, context: pb.ListClustersResponse(clusters=[cluster])
    (listed,) = call(peer.target, "models")
    (first,) = call(peer.target, "clusters", model="digits")
    assert (listed.reference, listed.items, listed.quality) == ("digits@1", 5, {"knn": 0.5})
    assert first.centroid.tolist() == [1, 0]


def test_one_item_is_read_and_deleted_by_its_id(peer, call):
    stored = pb.StoredItem(id="a", vector=vector(1, 2))
    peer.answers["GetItem"] = lambda request, context: pb.GetItemResponse(item=stored)
    peer.answers["DeleteItem"] = lambda request, context: pb.DeleteItemResponse()
    assert call(peer.target, "get", "a").vector.tolist() == [1, 2]
    assert call(peer.target, "delete", "a") is None
    assert [request.id for request in peer.requests] == ["a", "a"]
