"""Model versions come and go while calls run: none fails, none mixes two versions, and a bad one changes nothing."""

import asyncio
import shutil
import signal
from collections.abc import Callable
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import numpy as np
import onnx
import pytest

from roost import artifact, clusters
from roost.client import AsyncClient, Item
from roost.errors import BackendUnavailable, BadArtifact, DeadlineExceeded, Overloaded, RoostError, UnknownModel
from roost.v1 import gateway_pb2 as pb
from roost.v1 import gateway_pb2_grpc
from roost_serving import keys
from roost_serving.backends import onnx as onnx_backend
from roost_serving.server import serving
from roost_serving.stores import memory

PERIOD = 0.05


@pytest.fixture
def ours(repository, tmp_path) -> Path:
    """A repository of one's own, with `digits@1` alone."""
    shutil.copytree(repository / "digits", tmp_path / "ours" / "digits")
    return tmp_path / "ours"


def add(
    repository: Path,
    version: int,
    *,
    name: str = "digits",
    change: Callable[[Path], None] = lambda folder: None,
    spoil: str | None = None,
    without: str = "",
) -> Path:
    """A copy of the first version as another, renamed into place as `roost export` does it.

    What `change` does to the files, the manifest vouches for; the bit that flips in the file `spoil` it does not.
    """
    draft = repository / name / f".{version}"
    shutil.copytree(next(repository.glob("digits/[0-9]*")), draft)
    change(draft)
    manifest = artifact.read(draft, verify=()).model_copy(update={"version": version, "name": name})
    artifact.write(draft, manifest, files=[file for file in manifest.files if file != without])
    if spoil is not None:
        content = bytearray((draft / spoil).read_bytes())
        content[len(content) // 2] ^= 1
        (draft / spoil).write_bytes(content)
    return draft.rename(repository / name / str(version))


def negate_golden(folder: Path) -> None:
    """Expect the opposite embeddings."""
    with np.load(folder / artifact.GOLDEN) as golden:
        pixels, embeddings = golden["pixels"], golden["embeddings"]
    np.savez(folder / artifact.GOLDEN, pixels=pixels, embeddings=-embeddings)


def negate(folder: Path) -> None:
    """Give the opposite embeddings, and expect them."""
    graph = onnx.load(folder / artifact.MODEL)
    (output,) = graph.graph.output
    for node in graph.graph.node:
        node.output[:] = ["positive" if name == output.name else name for name in node.output]
    graph.graph.node.append(onnx.helper.make_node("Neg", ["positive"], [output.name]))
    onnx.save_model(graph, folder / artifact.MODEL)
    negate_golden(folder)


@asynccontextmanager
async def gateway(settings, repository: Path, *, period: float = 0):
    changed = {"backend": f"onnx://{repository}", "reload_seconds": period}
    async with serving(settings.model_copy(update=changed)) as running, AsyncClient(running.address) as client:
        yield running, client


def copy_version(folder: Path, version: int) -> None:
    """A copy of a model's first version as another."""
    shutil.copytree(folder / "1", folder / str(version))
    manifest = artifact.read(folder / "1").model_copy(update={"version": version})
    artifact.write(folder / str(version), manifest, files=manifest.files)


async def in_service(client: AsyncClient) -> dict[str, bool]:
    return {model.reference: model.in_service for model in await client.models()}


async def test_a_new_version_is_served_and_has_the_name(settings, ours, digits):
    async with gateway(settings, ours) as (_, client):
        add(ours, 2)
        done = await client.reload()
        assert (done.added, done.changed, done.dropped, done.refused) == (["digits@2"], [], [], {})
        assert await in_service(client) == {"digits@1": False, "digits@2": True}
        (outcome,) = [each async for each in client.ingest([Item(digits[0])], model="digits")]
        assert outcome.model == "digits@2"
        assert {model.reference: model.items for model in await client.models()} == {"digits@1": 0, "digits@2": 1}
        assert (await client.reload()).added == []


async def test_versions_are_compared_as_numbers(settings, ours):
    async with gateway(settings, ours) as (_, client):
        for version in (9, 10):
            add(ours, version)
        assert (await client.reload()).added == ["digits@9", "digits@10"]
        assert (await in_service(client))["digits@10"]


async def test_a_version_that_is_older_than_the_newest_does_not_get_the_name(settings, ours):
    add(ours, 3)
    async with gateway(settings, ours) as (_, client):
        add(ours, 2)
        await client.reload()
        assert await in_service(client) == {"digits@1": False, "digits@2": False, "digits@3": True}


@pytest.mark.parametrize("spoil", ["model.onnx", "golden.npz", "clusters.npz"])
async def test_a_version_with_a_flipped_bit_is_refused_and_the_old_one_goes_on(settings, ours, digits, spoil):
    async with gateway(settings, ours) as (_, client):
        add(ours, 2, spoil=spoil)
        done = await client.reload()
        assert done.added == []
        assert isinstance(done.refused["digits@2"], BadArtifact)
        assert spoil in done.refused["digits@2"].message
        assert await in_service(client) == {"digits@1": True}
        assert (await client.embed([digits[0]])).shape == (1, 256)


async def test_a_version_that_does_not_repeat_its_golden_images_is_refused_until_it_is_mended(
    settings, ours, caplog, digits
):
    async with gateway(settings, ours, period=PERIOD) as (_, client):
        bad = add(ours, 2, change=negate_golden)
        await _until(lambda: "not serving digits@2" in caplog.text)
        await asyncio.sleep(4 * PERIOD)
        assert caplog.text.count("differs by") == 1  # it is tried and told once
        assert await in_service(client) == {"digits@1": True}
        shutil.rmtree(bad)
        add(ours, 2)
        await _until_served(client, "digits@2")


@pytest.mark.parametrize("part", [onnx_backend.Backend, memory.Store], ids=["backend", "store"])
async def test_a_version_that_met_a_full_queue_is_tried_again(settings, ours, monkeypatch, part):
    method = "load" if part is onnx_backend.Backend else "ensure"
    take, refused = getattr(part, method), []

    async def busy(self, *arguments, **named):
        if not refused:
            refused.append(1)
            raise Overloaded("The queue is full.", retry_after_seconds=1)
        return await take(self, *arguments, **named)

    async with gateway(settings, ours, period=PERIOD) as (_, client):
        monkeypatch.setattr(part, method, busy)
        add(ours, 2)
        await _until_served(client, "digits@2")
        assert refused


async def test_clusters_that_are_fitted_later_are_taken(settings, ours, digits):
    add(ours, 1, name="late", without=clusters.FILE)
    async with gateway(settings, ours) as (_, client):
        folder = ours / "late" / "1"
        manifest = artifact.read(folder)
        artifact.write(folder, manifest, files=[*manifest.files, clusters.FILE])
        assert (await client.reload()).changed == ["late@1"]
        (placement,) = await client.assign([digits[0]], model="late")
        (expected,) = await client.assign([digits[0]], model="digits")
        assert placement.cluster == expected.cluster


async def test_a_version_that_arrives_file_by_file_is_served_once_it_is_whole(settings, ours):
    async with gateway(settings, ours, period=PERIOD) as (_, client):
        whole = add(ours, 2)
        parts = ours.with_name("parts")
        shutil.move(whole, parts)
        whole.mkdir()
        for name in (artifact.MANIFEST, artifact.MODEL, artifact.GOLDEN, clusters.FILE):
            await asyncio.sleep(4 * PERIOD)
            assert list(await in_service(client)) == ["digits@1"]
            shutil.copy(parts / name, whole)
        await _until_served(client, "digits@2")


async def test_files_that_were_only_touched_are_no_change(settings, ours):
    async with gateway(settings, ours) as (_, client):
        for path in (ours / "digits" / "1").iterdir():
            path.touch()
        assert (await client.reload()).changed == []


async def test_a_served_version_that_was_edited_is_refused(settings, ours, digits):
    async with gateway(settings, ours) as (_, client):
        before = await client.embed([digits[0]])
        folder = ours / "digits" / "1"
        negate_golden(folder)
        manifest = artifact.read(folder, verify=())
        artifact.write(folder, manifest, files=manifest.files)
        (error,) = (await client.reload()).refused.values()
        assert "was changed after it was loaded" in error.message
        assert np.array_equal(await client.embed([digits[0]]), before)


async def test_a_version_that_is_gone_is_dropped_and_an_empty_repository_is_not_believed(settings, ours, digits):
    add(ours, 2)
    async with gateway(settings, ours) as (_, client):
        shutil.rmtree(ours / "digits" / "2")
        assert (await client.reload()).dropped == ["digits@2"]
        assert await in_service(client) == {"digits@1": True}
        with pytest.raises(UnknownModel):
            await client.embed([digits[0]], model="digits@2")
        ours.rename(ours.with_name("moved"))
        assert (await client.reload()).dropped == []
        assert (await client.embed([digits[0]])).shape == (1, 256)


async def test_a_look_goes_on_though_its_caller_goes_away(settings, ours):
    async with gateway(settings, ours) as (running, client):
        for version in range(2, 7):
            add(ours, version)
        async with AsyncClient(running.address, timeout=0.05) as hasty:
            with pytest.raises(DeadlineExceeded):
                await hasty.reload()
        await _until_served(client, "digits@6")


async def test_an_administrator_of_some_models_hears_of_those_alone(settings, ours, tmp_path):
    file = tmp_path / "keys.toml"
    ours_alone, all_of_them = keys.add(file, "ours", role="admin", models=["late"]), keys.add(file, "all", role="admin")
    async with gateway(settings.model_copy(update={"keys_file": file}), ours) as (running, _):
        add(ours, 1, name="late")
        add(ours, 2)
        add(ours, 3, spoil="model.onnx")
        async with AsyncClient(running.address, api_key=ours_alone) as client:
            done = await client.reload()
            assert (done.added, done.refused) == (["late@1"], {})
        shutil.rmtree(ours / "digits" / "2")
        async with AsyncClient(running.address, api_key=ours_alone) as client:
            assert (await client.reload()).dropped == []
        async with AsyncClient(running.address, api_key=all_of_them) as client:
            assert list((await client.reload()).refused) == ["digits@3"]
            assert await in_service(client) == {"digits@1": True, "late@1": True}


@pytest.mark.parametrize("before", [1, 2], ids=["the only one", "an older one"])
async def test_with_triton_a_version_may_take_the_place_of_another_in_one_look(  # noqa: PLR0917
    settings, start_triton, triton_repository, tmp_path, photographs, before
):
    """Triton lets go of what is gone when it loads what is new: what no name means is asked no more by then."""
    models = tmp_path / "models"
    shutil.copytree(triton_repository, models)
    for version in range(2, before + 2):
        copy_version(models / "small", version)
    new = (models / "small" / str(before + 1)).rename(tmp_path / "new")
    server = start_triton(models)
    chosen = settings.model_copy(update={"backend": server.url, "repository": models, "reload_seconds": 0})
    async with serving(chosen) as running, AsyncClient(running.address) as client:
        over = asyncio.Event()

        async def call(model: str) -> list[RoostError]:
            failed = []
            while not over.is_set():
                try:
                    await client.embed(photographs[:1], model=model)
                except RoostError as error:
                    failed.append(error)
                await asyncio.sleep(0.01)
            return failed

        callers = [asyncio.create_task(call(model)) for model in ["small", "small", "small@1"]]
        shutil.rmtree(models / "small" / "1")
        new.rename(models / "small" / str(before + 1))
        done = await client.reload()
        over.set()
        *by_name, old = await asyncio.gather(*callers)
        assert (done.added, done.dropped, done.refused) == ([f"small@{before + 1}"], ["small@1"], {})
        if before > 1:
            assert by_name == [[], []]
            assert {type(error) for error in old} == {UnknownModel}
        else:  # between Triton's letting go of the one and the gateway's check of the other
            assert {type(error) for errors in by_name for error in errors} <= {BackendUnavailable}
        assert (await client.embed(photographs[:1], model="small")).shape == (1, 256)
        with pytest.raises(UnknownModel):
            await client.embed(photographs[:1], model="small@1")


async def test_a_signal_has_the_repository_looked_at(ours, serve):
    arguments = ("--backend", f"onnx://{ours}", "--store", "memory://", "--reload-seconds", "0")
    with serve(*arguments) as running:
        async with AsyncClient(running.address) as client:
            add(ours, 2)
            running.process.send_signal(signal.SIGHUP)
            await _until_served(client, "digits@2")


async def test_a_long_call_asks_one_version_though_the_name_moves(settings, ours, digits):
    """Version 2 answers with the opposite vectors, so that a mixture would show."""
    async with gateway(settings, ours) as (_, client):
        alone = await client.embed(digits[:130], model="digits@1")

        def images():
            for place, image in enumerate(digits[:130]):
                if place == 100:  # the first message is on its way, a later one is not
                    add(ours, 2, change=negate)
                    asyncio.run_coroutine_threadsafe(client.reload(), loop).result(30)
                yield image

        loop = asyncio.get_running_loop()
        asked = await client.embed(images(), model="digits")
        assert (await in_service(client))["digits@2"]
        assert np.array_equal(asked, alone)
        assert np.allclose(await client.embed([digits[0]]), -alone[:1])


async def test_pages_and_streams_go_on_with_their_first_version_though_the_name_moves(settings, ours, digits):
    items = [Item(image, id=str(number)) for number, image in enumerate(digits[:6])]
    async with gateway(settings, ours) as (_, client):
        stored = [each async for each in client.ingest(items[:5], model="digits", in_flight=1)]
        stream = client.ingest(items, model="digits", in_flight=1)
        pages = client.items(model="digits", page_size=2)
        first = [await anext(stream), await anext(pages)]
        add(ours, 2)
        assert (await client.reload()).added == ["digits@2"]
        rest = [outcome async for outcome in stream]
        listed = {first[1].id} | {item.id async for item in pages}
        assert {outcome.model for outcome in [*stored, first[0], *rest]} == {"digits@1"}
        assert listed >= {str(number) for number in range(5)}
        (new,) = [outcome async for outcome in client.ingest(items[:1], model="digits")]
        assert new.model == "digits@2"


async def test_every_answer_about_an_item_names_its_model_version(settings, ours, digits):
    async with gateway(settings, ours) as (running, client), grpc.aio.insecure_channel(running.address) as channel:
        stub = gateway_pb2_grpc.GatewayServiceStub(channel)
        assert [each.kind async for each in client.ingest([Item(digits[0], id="a")])] == ["stored"]
        version = pb.ModelVersion(name="digits", version=1)
        assert (await stub.GetItem(pb.GetItemRequest(id="a"))).model == version
        assert (await stub.DeleteItem(pb.DeleteItemRequest(id="a"))).model == version


async def _until(condition, *, seconds: float = 30) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - what it waits for sets no event
            await asyncio.sleep(0.01)


async def _until_served(client: AsyncClient, reference: str) -> None:
    async with asyncio.timeout(30):
        while not (await in_service(client)).get(reference):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
