"""Versions of a model in a real Triton: good and bad ones, that come, go, and are loaded by several gateways."""

import asyncio
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest

from roost import artifact, preprocess
from roost.client import AsyncClient
from roost.errors import BackendUnavailable, BadArtifact, Overloaded, RoostError, UnknownModel
from roost_serving import repository
from roost_serving.backends import Embedded
from roost_serving.backends import triton as triton_module
from roost_serving.backends.triton import Backend
from roost_serving.server import serving

BROKEN = "no python"


@pytest.fixture
def ours(triton_repository, tmp_path) -> Path:
    """A repository of one's own, with `small@1` alone."""
    return shutil.copytree(triton_repository, tmp_path / "ours")


def backend_of(server) -> Backend:
    return Backend(server.url, repository=server.repository, limits=preprocess.Limits(), workers=1, start_seconds=60)


def add(ours: Path, version: int, *, code: str | None = None, vouched: bool = True, folder: Path | None = None) -> Path:
    """A copy of the first version, perhaps with other code, for which its manifest vouches or does not."""
    folder = shutil.copytree(ours / "small" / "1", folder or ours / "small" / str(version))
    manifest = artifact.read(folder).model_copy(update={"version": version})
    artifact.write(folder, manifest, files=manifest.files)
    if code is not None:
        (folder / "model.py").write_text(code)
        if vouched:
            artifact.write(folder, manifest, files=manifest.files)
    return folder


def negate_golden(folder: Path) -> None:
    with np.load(folder / artifact.GOLDEN) as golden:
        np.savez(folder / artifact.GOLDEN, pixels=golden["pixels"], embeddings=-golden["embeddings"])
    manifest = artifact.read(folder, verify=())
    artifact.write(folder, manifest, files=manifest.files)


def versions(backend: Backend) -> list[int]:
    return [model.manifest.version for model in backend.models]


async def embeds(backend: Backend, image: bytes) -> list[int]:
    """The versions that embed an image."""
    results = [await backend.embed(model.manifest, [image], timeout=30) for model in backend.models]
    return [
        model.manifest.version
        for model, (embedded,) in zip(backend.models, results, strict=True)
        if isinstance(embedded, Embedded)
    ]


async def test_a_good_version_is_loaded_while_a_bad_one_lies_there(start_triton, ours, settings, photographs, caplog):
    caplog.set_level(logging.INFO)
    server = start_triton(ours)
    chosen = settings.model_copy(update={"backend": server.url, "repository": ours, "reload_seconds": 0.05})
    async with serving(chosen) as running, AsyncClient(running.address, timeout=30) as client:
        over, failed = asyncio.Event(), []

        async def call() -> None:
            while not over.is_set():
                try:
                    await client.embed(photographs[:1], model="small@1")
                except RoostError as error:
                    failed.append(error)

        calling = asyncio.create_task(call())
        draft = ours.parent / "draft"
        for version, code in ((4, BROKEN), (5, None)):
            add(ours, version, code=code, folder=draft).rename(ours / "small" / str(version))
            async with asyncio.timeout(60):
                while f"serving small@{version}" not in caplog.text:  # noqa: ASYNC110 - it sets no event
                    await asyncio.sleep(0.02)
        over.set()
        await calling
        assert failed == []
        assert "not serving small@4 as it is now: Triton does not load small@4" in caplog.text
        assert [model.reference for model in await client.models()] == ["small@1", "small@5"]
        assert (await client.embed(photographs[:1], model="small@5")).shape == (1, 256)


@pytest.mark.parametrize("restarted", [False, True], ids=["Triton goes on", "Triton too"])
async def test_a_gateway_that_starts_over_a_bad_version_serves_the_others(
    start_triton, ours, photographs, caplog, restarted
):
    server = start_triton(ours)
    first = backend_of(server)
    await first.open()
    add(ours, 4, code=BROKEN)
    negate_golden(add(ours, 5))
    add(ours, 6)
    if restarted:
        server = start_triton(ours)
    second = backend_of(server)
    await second.open()
    assert versions(second) == await embeds(second, photographs[0]) == [1, 6]
    assert "Triton does not load small@4" in caplog.text
    assert "small@5 differs by" in caplog.text
    await second.ping()
    if not restarted:
        assert await embeds(first, photographs[0]) == [1]
    await first.close()
    await second.close()


async def test_a_repository_of_bad_versions_alone_ends_the_start(start_triton, ours):
    (ours / "small" / "1" / "model.py").write_text(BROKEN)
    artifact.write(
        ours / "small" / "1", (manifest := artifact.read(ours / "small" / "1", verify=())), files=manifest.files
    )
    with pytest.raises(BadArtifact, match="Triton does not load small@1"):
        await backend_of(start_triton(ours)).open()


async def test_what_no_manifest_vouches_for_is_never_run(start_triton, ours, tmp_path, photographs):
    ran = tmp_path / "ran"
    evil = f"open({str(ran)!r}, 'w')\n" + (ours / "small" / "1" / "model.py").read_text()
    add(ours, 2, code=evil, vouched=False)
    backend = backend_of(start_triton(ours))
    await backend.open()
    await backend.load(repository.read(add(ours, 3)))
    assert versions(backend) == await embeds(backend, photographs[0]) == [1, 3]
    assert not ran.exists()
    await backend.load(repository.read(add(ours, 4, code=evil)))  # this one is vouched for
    assert ran.exists()
    await backend.close()


async def test_what_another_gateway_had_loaded_stays(start_triton, ours, photographs):
    server = start_triton(ours)
    ahead, behind = backend_of(server), backend_of(server)
    await ahead.open()
    await behind.open()
    second, third = (repository.read(add(ours, version)) for version in (2, 3))
    await ahead.load(second)
    await ahead.load(third)
    await behind.load(second)
    assert await embeds(ahead, photographs[0]) == [1, 2, 3]
    assert await embeds(behind, photographs[0]) == [1, 2]
    await ahead.close()
    await behind.close()


async def test_a_version_that_was_refused_is_let_go_with_the_next(start_triton, ours, photographs):
    server = start_triton(ours)
    backend = backend_of(server)
    await backend.open()
    folder = add(ours, 2)
    negate_golden(folder)
    bad = repository.read(folder)
    with pytest.raises(BadArtifact, match="golden"):
        await backend.load(bad)
    with pytest.raises(UnknownModel, match="small@2 is no longer served"):
        await backend.embed(bad.manifest, photographs[:1])
    await backend.load(repository.read(add(ours, 3)))
    assert not await backend._connected().has(bad.manifest)
    assert await embeds(backend, photographs[0]) == [1, 3]
    await backend.close()


async def test_a_version_that_was_dropped_is_asked_no_more(start_triton, ours, photographs):
    add(ours, 2)
    backend = backend_of(start_triton(ours))
    await backend.open()
    first, _ = backend.models
    backend.drop(first)
    with pytest.raises(UnknownModel, match="small@1 is no longer served"):
        await backend.embed(first.manifest, photographs[:1])
    assert list(backend._lanes) == ["small@2"]
    assert versions(backend) == await embeds(backend, photographs[0]) == [2]
    await backend.close()


@pytest.mark.parametrize("error", [Overloaded("full", retry_after_seconds=1), BackendUnavailable("away")])
async def test_a_start_among_the_golden_images_outlasts_a_full_queue(triton, monkeypatch, error):
    check, met = repository.check_golden, []

    def busy(model, embed):
        if not met:
            met.append(model)
            raise error
        return check(model, embed)

    monkeypatch.setattr(triton_module.repository, "check_golden", busy)
    backend = backend_of(triton)
    await backend.open()
    assert met
    assert versions(backend) == [1]
    await backend.close()


async def test_a_repository_whose_configuration_cannot_be_read_says_so(start_triton, ours, caplog):
    caplog.set_level(logging.INFO)
    server = start_triton(ours)
    (ours / "small" / "config.pbtxt").write_text("no configuration")
    with pytest.raises(BadArtifact, match=r"config\.pbtxt cannot be read"):
        await backend_of(server).open()
