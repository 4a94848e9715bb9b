"""The bulk job is killed again and again: what its ledger says is stored, nothing else is, and no bit differs."""

import json
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from roost import ids
from roost.client import Client
from roost.indexing import shards

ROOST = Path(sys.executable).with_name("roost")


def make_images(folder: Path, count: int) -> dict[str, str]:
    """Small pictures, no two of them alike: their names below the folder, by the ids that they get."""
    generator, names = np.random.default_rng(0), {}
    for number in range(count):
        path = folder / str(number // 1000) / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (8, 8), dtype=np.uint8)).save(path)
        names[ids.content_id(path.read_bytes())] = path.relative_to(folder).as_posix()
    return names


def stored(client: Client) -> dict[str, tuple[str, bytes]]:
    """Each stored item's path and vector, by its id."""
    items = client.items(model="digits", with_vectors=True, page_size=500)
    return {item.id: (item.payload["path"], item.vector.tobytes()) for item in items}


def acknowledged(ledger: Path, seen: set[str]) -> Iterator[shards.Row]:
    """What the shards hold that the ledger has as stored, and had not when it was last looked at."""
    lines = ledger / "ledger.jsonl"
    written = lines.read_text().splitlines(keepends=True) if lines.exists() else []
    for line in written:
        if line.endswith("\n") and (name := json.loads(line)["shard"]) not in seen:
            seen.add(name)
            yield from shards.read(ledger / name)


@pytest.mark.timeout(3600)
def test_kill_9_of_the_bulk_job(serve, repository, tmp_path, soak, figures, seed):  # noqa: PLR0917
    count, kills, shard = (100_000, 50, 500) if soak else (600, 3, 20)
    chance = random.Random(seed)
    names = make_images(tmp_path / "images", count)
    ledger = tmp_path / "job"

    def command(gateway, folder: Path) -> list[str]:
        flags = ["--model", "digits", "--gateway", gateway.address, "--ledger", folder, "--shard-images", shard]
        return list(map(str, [ROOST, "index", tmp_path / "images", *flags, "--json"]))

    backend = ("--backend", f"onnx://{repository}")
    killed = 0
    seen: set[str] = set()
    with serve(*backend, "--store", f"edge://{tmp_path}/index") as gateway, Client(gateway.address) as client:
        while killed < kills:
            done = len(list(ledger.glob("shard-*.parquet")))
            most = (count // shard - done) // (2 * (kills - killed))  # so that it is alive at each of those to come
            after = done + chance.randint(1, max(1, most))
            process = subprocess.Popen(command(gateway, ledger), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            while len(list(ledger.glob("shard-*.parquet"))) < after and process.poll() is None:
                time.sleep(0.001)
            time.sleep(chance.random() * 0.1)
            process.kill()
            assert process.wait() == -signal.SIGKILL, f"the job was done after {killed} kills"
            killed += 1
            for row in acknowledged(ledger, seen):
                assert client.get(row.id, model="digits").vector.tobytes() == row.vector.tobytes()
        last = json.loads(subprocess.run(command(gateway, ledger), capture_output=True, check=True).stdout)
        found = stored(client)
        metrics = gateway.fetch("/metrics")
    embedded = sum(float(n) for n in re.findall(r"^roost_images_total\{.*\} (\S+)$", metrics, re.MULTILINE))
    with serve(*backend, "--store", f"edge://{tmp_path}/whole") as gateway, Client(gateway.address) as client:
        subprocess.run(command(gateway, tmp_path / "at-once"), capture_output=True, check=True)
        expected = stored(client)
    different = sum(found[key] != expected[key] for key in found.keys() & expected.keys())
    figures |= {"images": count, "kills": killed, "lost": len(names.keys() - found.keys()), "different": different}
    figures |= {"embedded_again": int(embedded) - count}
    assert (last["failed"], last["stored"] + last["existed"]) == ([], count)
    assert {key: path for key, (path, _) in found.items()} == names
    assert found == expected
    assert embedded <= count + kills * shard
