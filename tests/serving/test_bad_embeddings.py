"""A model that is right about its golden images and makes nothing usable of black ones: those fail, and alone."""

import asyncio
import io
import json
import shutil
import sys
from pathlib import Path

import grpc
import numpy as np
import onnx
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from roost import artifact
from roost.client import Client
from roost.v1 import gateway_pb2 as pb

PLACE = 16
DIM = 256
OF_BLACK = {"NaN": np.nan, "infinity": np.inf, "huge": 3e38, "zeros": 0.0, "too long": 0.1, "too short": 0.05}
"""Each value of a black image's embedding; 1/16 would make it of unit length."""
UNUSABLE = "BAD_EMBEDDING"


def black() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32)).save(buffer, "PNG")
    return buffer.getvalue()


def spoil(path: Path, value: float) -> None:
    """Have a graph answer with one value, again and again, for images without any light."""
    model = onnx.load(path)
    graph = model.graph
    for node in graph.node:
        node.output[:] = ["right" if name == "embedding" else name for name in node.output]
    graph.initializer.extend(
        numpy_helper.from_array(array, name)
        for name, array in {
            "over_pixels": np.array([1, 2, 3]),
            "after_images": np.array([1]),
            "no_light": np.zeros((), np.float32),
            "wrong": np.full((1, DIM), value, np.float32),
        }.items()
    )
    graph.node.extend([
        helper.make_node("Cast", [graph.input[0].name], ["light"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMax", ["light", "over_pixels"], ["most_light"], keepdims=0),
        helper.make_node("Equal", ["most_light", "no_light"], ["is_black"]),
        helper.make_node("Unsqueeze", ["is_black", "after_images"], ["is_black_row"]),
        helper.make_node("Where", ["is_black_row", "wrong", "right"], ["embedding"]),
    ])  # fmt: skip
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())


@pytest.fixture(params=OF_BLACK)
def spoiled(request, repository, tmp_path) -> Path:
    """A repository with `digits@1`, which is as it should be but for black images."""
    folder = tmp_path / "spoiled" / "digits" / "1"
    shutil.copytree(repository / "digits" / "1", folder)
    spoil(folder / artifact.MODEL, OF_BLACK[request.param])
    manifest = artifact.read(folder, verify=())
    artifact.write(folder, manifest, files=manifest.files)
    return tmp_path / "spoiled"


@pytest.fixture
def settings(settings, spoiled):
    return settings.model_copy(update={"backend": f"onnx://{spoiled}"})


@pytest.fixture
def items(digits) -> list[pb.Item]:
    """31 digits, with a black image among them."""
    images = [*digits[:PLACE], black(), *digits[PLACE:31]]
    return [pb.Item(image=image, id=str(number)) for number, image in enumerate(images)]


def reason(status) -> str:
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    return info.reason


async def test_of_32_calls_and_of_32_items_of_a_call_the_black_one_fails(stub, items):
    calls = [stub.EmbedItems(pb.EmbedItemsRequest(model="digits", items=[item])) for item in items]
    answers = await asyncio.gather(*calls, return_exceptions=True)
    failed = {n: error for n, error in enumerate(answers) if isinstance(error, grpc.RpcError)}
    assert list(failed) == [PLACE]
    assert failed[PLACE].code() is grpc.StatusCode.FAILED_PRECONDITION
    assert reason(rpc_status.from_call(failed[PLACE])) == UNUSABLE
    answer = await stub.EmbedItems(pb.EmbedItemsRequest(model="digits", items=items, allow_partial=True))
    failures = {n: reason(result.error) for n, result in enumerate(answer.results) if result.HasField("error")}
    assert failures == {PLACE: UNUSABLE}
    good = np.stack([np.frombuffer(r.vector.values, "<f4") for r in answer.results if r.HasField("vector")])
    assert np.linalg.norm(good, axis=1) == pytest.approx(1, abs=1e-5)


async def test_of_32_items_of_a_stream_the_black_one_is_not_stored(stub, items):
    requests = [pb.IngestItemsRequest(model="digits", item=item) for item in items]
    answers = [answer async for answer in stub.IngestItems(iter(requests))]
    failures = {n: reason(a.error) for n, a in enumerate(answers) if a.outcome == pb.INGEST_OUTCOME_FAILED}
    assert failures == {PLACE: UNUSABLE}
    listed = await stub.ListItems(pb.ListItemsRequest(model="digits", page_size=100, with_vectors=True))
    assert {item.id for item in listed.items} == {str(number) for number in range(32)} - {str(PLACE)}
    stored = np.stack([np.frombuffer(item.vector.values, "<f4") for item in listed.items])
    assert np.linalg.norm(stored, axis=1) == pytest.approx(1, abs=1e-5)


async def test_it_is_no_query_and_lies_nowhere(stub):
    for request in (
        stub.SearchItems(pb.SearchItemsRequest(model="digits", item=pb.Item(image=black()))),
        stub.AssignClusters(pb.AssignClustersRequest(model="digits", items=[pb.Item(image=black())])),
    ):
        with pytest.raises(grpc.RpcError) as caught:
            await request
        assert reason(rpc_status.from_call(caught.value)) == UNUSABLE


async def test_of_a_bulk_job_the_black_one_fails_and_the_others_are_stored(gateway, digits, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for number, image in enumerate(digits[:31]):
        (folder / f"{number}.png").write_bytes(image)
    (folder / "black.png").write_bytes(black())
    roost = Path(sys.executable).with_name("roost")
    flags = ("--gateway", gateway.address, "--ledger", tmp_path / "job", "--json")
    for stored, existed in ((31, 0), (0, 31)):
        pipe = asyncio.subprocess.PIPE
        job = await asyncio.create_subprocess_exec(roost, "index", folder, *map(str, flags), stdout=pipe, stderr=pipe)
        said, told = await job.communicate()
        assert job.returncode == 3, told.decode()
        report = json.loads(said)
        assert (report["stored"], report["existed"]) == (stored, existed)
        assert [(each["path"], each["error"]["reason"]) for each in report["failed"]] == [("black.png", UNUSABLE)]

    def listed() -> set[str]:
        with Client(gateway.address) as client:
            return {item.payload["path"] for item in client.items()}

    assert await asyncio.to_thread(listed) == {f"{number}.png" for number in range(31)}
