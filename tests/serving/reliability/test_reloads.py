"""Versions come and go under load: no call fails, and no answer mixes two of them."""

import asyncio
import shutil
from collections import Counter
from pathlib import Path

import grpc
import numpy as np
import onnx
import pytest

from roost import artifact, clusters
from roost.v1 import gateway_pb2 as pb
from roost.v1 import gateway_pb2_grpc
from roost_serving.server import serving

RAW = [("grpc.enable_retries", 0)]
CALLS_A_SECOND = 50
PERIOD = 0.1
IMAGES, COPIES = 6, 10


def add(repository: Path, version: int, *, original: Path) -> None:
    """The original as another version, with the opposite embeddings where its number is even, renamed into place."""
    draft = repository / f".{version}"
    shutil.copytree(original, draft)
    if version % 2 == 0:
        negate(draft)
    manifest = artifact.read(draft, verify=()).model_copy(update={"version": version})
    artifact.write(draft, manifest, files=manifest.files)
    draft.rename(repository / str(version))


def negate(folder: Path) -> None:
    graph = onnx.load(folder / artifact.MODEL)
    (output,) = graph.graph.output
    for node in graph.graph.node:
        node.output[:] = ["positive" if name == output.name else name for name in node.output]
    graph.graph.node.append(onnx.helper.make_node("Neg", ["positive"], [output.name]))
    onnx.save_model(graph, folder / artifact.MODEL)
    with np.load(folder / artifact.GOLDEN) as golden:
        pixels, embeddings = golden["pixels"], golden["embeddings"]
    np.savez(folder / artifact.GOLDEN, pixels=pixels, embeddings=-embeddings)


class Caller:
    """Calls of each kind that tells of embeddings, and checks that they are those of the version that answers name."""

    def __init__(self, stub: gateway_pb2_grpc.GatewayServiceStub, images: list[bytes], original: Path) -> None:
        self._stub = stub
        self.items = [pb.Item(id=str(number), image=image) for number, image in enumerate(images)]
        self._clusters = clusters.load(original / clusters.FILE, dim=artifact.read(original).dim)
        self.ours = np.empty((0, 0), np.float32)
        """What version 1 makes of the images, (images, dim)."""
        self.answered: Counter[str] = Counter()
        self.versions: set[int] = set()
        self.failures: list[str] = []
        self.outlived = 0
        """Streams that ended with their version when others were answered from a newer one."""

    async def call(self) -> None:
        """One of each kind, one after the other."""
        for kind in (self.embed, self.assign, self.ingest, self.search):
            try:
                await kind()
                self.answered[kind.__name__] += 1
            except grpc.aio.AioRpcError as error:
                self.failures.append(f"{error.code().name}: {error.details()}")

    async def embed(self) -> None:
        """A call of so many images that versions change while it is under way."""
        request = pb.EmbedItemsRequest(model="digits", items=self.items * COPIES)
        answer = await self._stub.EmbedItems(request, timeout=30)
        assert vectors(result.vector for result in answer.results) == near(np.tile(self._of(answer.model), (COPIES, 1)))

    async def assign(self) -> None:
        request = pb.AssignClustersRequest(model="digits", items=self.items)
        answer = await self._stub.AssignClusters(request, timeout=30)
        assert [placement.distance for placement in answer.placements] == near(self._distances(answer.model))

    async def ingest(self) -> None:
        """A stream that takes longer than versions take to change."""

        async def requests():
            for item in self.items:
                yield pb.IngestItemsRequest(model="digits", item=item)
                await asyncio.sleep(PERIOD / 2)

        answers = [answer async for answer in self._stub.IngestItems(requests(), timeout=30)]
        self.failures += [answer.error.message for answer in answers if answer.error.code]
        (version,) = {answer.model.version for answer in answers if not answer.error.code}
        self.outlived += version < max(self.versions)
        assert [answer.placement.distance for answer in answers] == near(self._distances(answers[0].model))

    async def search(self) -> None:
        """The query, the scores and the items found are of one version."""
        request = pb.SearchItemsRequest(model="digits", item=self.items[0], with_vectors=True)
        answer = await self._stub.SearchItems(request, timeout=30)
        expected = self._of(answer.model)
        for hit in answer.hits:
            assert vectors([hit.item.vector])[0] == near(expected[int(hit.item.id)])
            assert hit.score == near(float(expected[0] @ expected[int(hit.item.id)]))
        self.answered["hits"] += len(answer.hits)

    def _of(self, model: pb.ModelVersion) -> np.ndarray:
        self.versions.add(model.version)
        return self.ours if model.version % 2 else -self.ours

    def _distances(self, model: pb.ModelVersion) -> list[float]:
        return [placement.distance for placement in self._clusters.place(self._of(model))]


def vectors(messages) -> np.ndarray:
    return np.stack([np.frombuffer(vector.values, "<f4") for vector in messages])


def near(expected):
    return pytest.approx(expected, abs=1e-3)


@pytest.mark.timeout(600)
async def test_reloads(settings, repository, tmp_path, digits, soak, figures):  # noqa: PLR0917
    reloads = 20 if soak else 4
    original, ours = repository / "digits" / "1", tmp_path / "models"
    shutil.copytree(original, ours / "digits" / "1")
    chosen = settings.model_copy(update={"backend": f"onnx://{ours}", "reload_seconds": PERIOD})
    async with serving(chosen) as running, grpc.aio.insecure_channel(running.address, options=RAW) as channel:
        stub = gateway_pb2_grpc.GatewayServiceStub(channel)
        caller = Caller(stub, digits[: 30 * IMAGES : 30], original)
        first = await stub.EmbedItems(pb.EmbedItemsRequest(model="digits", items=caller.items))
        caller.ours = vectors(result.vector for result in first.results)
        calls: set[asyncio.Task[None]] = set()

        async def keep_calling() -> None:
            while True:
                calls.add(asyncio.create_task(caller.call()))
                await asyncio.sleep(4 / CALLS_A_SECOND)

        calling = asyncio.create_task(keep_calling())
        for version in range(2, reloads + 2):
            add(ours / "digits", version, original=original)
            async with asyncio.timeout(60):
                while version not in caller.versions:  # noqa: ASYNC110 - calls tell, and set no event
                    await asyncio.sleep(0.02)
            if version > 2:
                await asyncio.gather(*calls)  # streams stay with the version that they began with
                shutil.rmtree(ours / "digits" / str(version - 2))
        calling.cancel()
        await asyncio.gather(*calls)
        newest = reloads + 1
        for version in (newest - 1, newest):
            listed = pb.ListItemsRequest(model=f"digits@{version}", with_vectors=True)
            stored = (await stub.ListItems(listed)).items
            expected = caller.ours if version % 2 else -caller.ours
            assert stored
            for item in stored:
                assert vectors([item.vector])[0] == near(expected[int(item.id)])
    figures |= {"reloads": reloads, **caller.answered, "streams_that_outlived_a_switch": caller.outlived}
    figures |= {"failed": len(caller.failures), "versions": len(caller.versions)}
    assert caller.failures == []
    assert caller.versions == set(range(1, reloads + 2))
    assert caller.answered["hits"] > 0
    assert caller.outlived > 0
