"""Versions come and go under load: no call fails, and no answer mixes two of them."""

import asyncio
import shutil
from pathlib import Path

import pytest

from roost import artifact
from roost.client import AsyncClient, Item
from roost.errors import RoostError
from roost_serving.server import serving

CALLS_A_SECOND = 50
PERIOD = 0.1


def copy(repository: Path, version: int) -> None:
    """The version before, as the next one, renamed into place."""
    draft = repository / "digits" / f".{version}"
    shutil.copytree(repository / "digits" / str(version - 1), draft)
    manifest = artifact.read(draft, verify=()).model_copy(update={"version": version})
    artifact.write(draft, manifest, files=manifest.files)
    draft.rename(repository / "digits" / str(version))


@pytest.mark.timeout(600)
async def test_reloads(settings, repository, tmp_path, digits, soak, figures):  # noqa: PLR0917
    reloads = 20 if soak else 4
    ours = tmp_path / "models"
    shutil.copytree(repository / "digits", ours / "digits")
    items = [Item(image=image) for image in digits[:2]]
    versions: set[str] = set()
    failures: list[RoostError] = []
    answered = 0

    async def call(client: AsyncClient) -> None:
        nonlocal answered
        try:
            answers = [outcome async for outcome in client.ingest(items, model="digits")]
            failures.extend(answer.error for answer in answers if answer.error)
            versions.update(answer.model for answer in answers)
            await client.embed([item.image for item in items], model="digits")
            answered += 2
        except RoostError as error:
            failures.append(error)

    async def keep_calling(client: AsyncClient, calls: set[asyncio.Task[None]]) -> None:
        while True:
            calls.add(asyncio.create_task(call(client)))
            await asyncio.sleep(2 / CALLS_A_SECOND)

    chosen = settings.model_copy(update={"backend": f"onnx://{ours}", "reload_seconds": PERIOD})
    async with serving(chosen) as running, AsyncClient(running.address) as client:
        calls: set[asyncio.Task[None]] = set()
        caller = asyncio.create_task(keep_calling(client, calls))
        for version in range(2, reloads + 2):
            copy(ours, version)
            async with asyncio.timeout(60):
                while f"digits@{version}" not in versions:  # noqa: ASYNC110 - calls tell, and set no event
                    await asyncio.sleep(0.02)
            if version > 2:
                shutil.rmtree(ours / "digits" / str(version - 2))
        caller.cancel()
        await asyncio.gather(*calls)
    figures |= {"reloads": reloads, "answered": answered, "failed": len(failures), "versions": len(versions)}
    assert failures == []
    assert versions == {f"digits@{version}" for version in range(1, reloads + 2)}
