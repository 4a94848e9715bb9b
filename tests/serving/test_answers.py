"""Every answer that tells of a model names the version, whatever the method."""

import grpc
import pytest

from roost.v1 import gateway_pb2 as pb
from roost.v1 import gateway_pb2_grpc

METHODS = {method.name: method for method in pb.DESCRIPTOR.services_by_name["GatewayService"].methods}
NAMING = [name for name, method in METHODS.items() if "model" in method.output_type.fields_by_name]
VERSION = pb.ModelVersion(name="digits", version=1)


@pytest.fixture
def requests(digits) -> dict[str, object]:
    """A good request of each such method, which names the model and not the version; a new one needs a row."""
    item = pb.Item(id="a", image=digits[0])
    return {
        "EmbedItems": pb.EmbedItemsRequest(model="digits", items=[item]),
        "AssignClusters": pb.AssignClustersRequest(model="digits", items=[item]),
        "IngestItems": pb.IngestItemsRequest(model="digits", item=item),
        "SearchItems": pb.SearchItemsRequest(model="digits", item=item),
        "ListItems": pb.ListItemsRequest(model="digits"),
        "GetItem": pb.GetItemRequest(model="digits", id="a"),
        "DeleteItem": pb.DeleteItemRequest(model="digits", id="a"),
        "ListClusters": pb.ListClustersRequest(model="digits"),
    }


def test_what_asks_for_a_model_is_answered_with_a_version():
    asking = {name for name, method in METHODS.items() if "model" in method.input_type.fields_by_name}
    assert asking == set(NAMING)
    assert {METHODS[name].output_type.fields_by_name["model"].message_type.name for name in NAMING} == {"ModelVersion"}


@pytest.mark.parametrize("name", NAMING)
async def test_an_answer_names_its_model_version(gateway, requests, name):
    async with grpc.aio.insecure_channel(gateway.address) as channel:
        stub = gateway_pb2_grpc.GatewayServiceStub(channel)
        stored = [answer async for answer in stub.IngestItems(iter([requests["IngestItems"]]))]
        if name == "IngestItems":
            existing = pb.IngestItemsRequest(model="digits", item=requests[name].item, skip_existing=True)
            answers = [*stored, *[answer async for answer in stub.IngestItems(iter([existing]))]]
            assert [answer.outcome for answer in answers] == [pb.INGEST_OUTCOME_STORED, pb.INGEST_OUTCOME_EXISTED]
        else:
            answers = [await getattr(stub, name)(requests[name])]
        assert [answer.model for answer in answers] == [VERSION] * len(answers)
