"""`roost index` is killed, run again, run in parts, and meets a store that lost everything."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from roost.client import Client
from roost.indexing import shards
from roost_serving import keys

ROOST = Path(sys.executable).with_name("roost")
SHARD = 40
SMALL_SHARD = 15
KILLS = 3


@pytest.fixture
def good(images, tmp_path) -> Path:
    """Digits without the broken file, in a folder of their own."""
    return Path(shutil.copytree(images, tmp_path / "images", ignore=shutil.ignore_patterns("broken.png")))


@pytest.fixture
def job(tmp_path) -> Path:
    return tmp_path / "job"


@pytest.fixture
def gateway(repository, tmp_path, serve):
    with serve("--backend", f"onnx://{repository}", "--store", f"edge://{tmp_path}/index") as running:
        yield running


@pytest.fixture
def index(roost, good, job, gateway):
    def run(*flags: object, folder: Path = good) -> dict:
        flags = ("--gateway", gateway.address, "--ledger", job, "--shard-images", SHARD, "--json", *flags)
        return json.loads(roost("index", folder, *flags).stdout)

    return run


def embedded(gateway) -> int:
    """Images that the gateway has embedded."""
    families = text_string_to_metric_families(gateway.fetch("/metrics"))
    (images,) = (family for family in families if family.name == "roost_images")
    return int(sum(sample.value for sample in images.samples if sample.name == "roost_images_total"))


def state(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.iterdir()}


def test_a_second_run_changes_nothing(index, good, job, gateway):
    count = len(list(good.rglob("*.png")))
    first = index()
    assert (first["files"], first["stored"], first["existed"]) == (count, count, 0)
    assert len(list(job.glob("shard-*.parquet"))) == -(-count // SHARD)
    before = state(job)
    second = index()
    assert (second["stored"], second["existed"]) == (0, count)
    assert state(job) == before
    assert embedded(gateway) == count


def test_a_job_that_is_killed_embeds_at_most_one_shard_again(  # noqa: PLR0917
    index, good, job, gateway, repository, serve, tmp_path, seed
):
    chance = random.Random(seed)
    count = len(list(good.rglob("*.png")))
    flags = ["--gateway", gateway.address, "--ledger", job, "--shard-images", str(SMALL_SHARD)]
    for _ in range(KILLS):
        done = len(list(job.glob("shard-*.parquet")))
        process = subprocess.Popen([ROOST, "index", good, *flags])
        while len(list(job.glob("shard-*.parquet"))) <= done and process.poll() is None:
            time.sleep(0.001)
        time.sleep(chance.random() * 0.05)
        process.kill()
        assert process.wait() == -signal.SIGKILL
    last = index("--shard-images", SMALL_SHARD)
    assert last["failed"] == []
    assert last["stored"] + last["existed"] == count
    assert embedded(gateway) <= count + KILLS * SMALL_SHARD
    names = [json.loads(line)["shard"] for line in (job / "ledger.jsonl").read_text().splitlines()]
    assert sorted(names) == sorted(path.name for path in job.glob("shard-*.parquet"))
    assert len(set(names)) == len(names)
    with serve("--backend", f"onnx://{repository}", "--store", f"edge://{tmp_path}/whole") as other:
        assert index("--gateway", other.address, "--ledger", tmp_path / "at-once")["stored"] == count
        whole = stored(other)
    assert len(whole) == count
    assert stored(gateway) == whole


def stored(gateway) -> dict[str, tuple[str, bytes]]:
    """The path and the vector of each item, by its id."""
    with Client(gateway.address) as client:
        return {item.id: (item.payload["path"], item.vector.tobytes()) for item in client.items(with_vectors=True)}


def test_what_the_store_lost_comes_from_the_shards(index, good, repository, serve):
    count = len(list(good.rglob("*.png")))
    index()
    with serve("--backend", f"onnx://{repository}", "--store", "memory://") as other:
        again = index("--gateway", other.address)
        assert (again["stored"], again["existed"]) == (count, 0)
        assert embedded(other) == 0
        with Client(other.address) as client:
            assert client.models()[0].items == count


def test_one_item_that_was_deleted_stays_deleted(index, good, job, gateway):
    index()
    with Client(gateway.address) as client:
        gone = next(client.items()).id
        client.delete(gone)
        assert index()["stored"] == 0
        assert gone not in {item.id for item in client.items()}


def test_files_that_came_or_changed_are_stored_and_no_others(index, good, gateway):
    index()
    before = embedded(gateway)
    some = sorted(good.rglob("*.png"))
    shutil.copyfile(some[0], good / "new.png")
    shutil.copyfile(some[1], some[2])
    some[3].unlink()
    done = index()
    assert (done["files"], done["stored"] + done["existed"]) == (len(some), len(some))
    assert embedded(gateway) - before == 2
    assert index()["stored"] == 0


def test_two_parts_do_the_whole_and_nothing_twice(index, good, job, gateway):
    count = len(list(good.rglob("*.png")))
    done = [index("--part", part, "--ledger", job / part[0]) for part in ("1/2", "2/2")]
    assert sum(each["files"] for each in done) == count
    assert min(each["files"] for each in done) > count / 3
    assert embedded(gateway) == count


def test_a_line_that_a_crash_cut_short_is_written_again(index, good, job, gateway):
    count = len(list(good.rglob("*.png")))
    index()
    ledger = job / "ledger.jsonl"
    whole = ledger.read_bytes()
    ledger.write_bytes(whole[:-10])
    done = index()
    assert done["stored"] + done["existed"] == count
    assert sorted(ledger.read_bytes().splitlines())[-1].startswith(b'{"shard"')
    assert len(ledger.read_bytes().splitlines()) == len(whole.splitlines())
    assert embedded(gateway) == count


def test_a_damaged_shard_is_named(index, roost, good, job, gateway):
    index()
    shard = min(job.glob("shard-*.parquet"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 3] ^= 1
    shard.write_bytes(content)
    shard.with_name("ledger.jsonl").unlink()
    with pytest.raises(AssertionError, match=rf"{shard.name} cannot be read .*Delete it"):
        index()
    shard.unlink()
    assert index()["failed"] == []


def test_a_vector_in_a_shard_that_no_store_takes_is_embedded_again(index, good, job, repository, serve):
    count = len(list(good.rglob("*.png")))
    index()
    shard = min(job.glob("shard-*.parquet"))
    first, *others = shards.read(shard)
    nothing = np.full_like(first.vector, np.nan)
    shards.write(shard, [replace(first, vector=nothing), *others], dim=nothing.size, model="digits@1")
    with serve("--backend", f"onnx://{repository}", "--store", "memory://") as other:
        with pytest.raises(AssertionError, match="1 failed"):  # exit code 3
            index("--gateway", other.address)
        assert index("--gateway", other.address)["failed"] == []
        with Client(other.address) as client:
            assert client.models()[0].items == count
        assert embedded(other) == 1


def test_a_lost_store_that_is_filled_in_two_attempts_lacks_nothing(index, good, job, repository, serve):
    """One picture lies in every shard, and the first attempt is killed after a few items."""
    for folder in good.iterdir():
        shutil.copyfile(min(good.rglob("*.png")), folder / "same.png")
    index()
    count = len({path.read_bytes() for path in good.rglob("*.png")})
    with serve("--backend", f"onnx://{repository}", "--store", "memory://") as other, Client(other.address) as client:
        command = ["roost", "index", good, "--gateway", other.address, "--ledger", job, "--shard-images", str(SHARD)]
        process = subprocess.Popen(command, env=os.environ | {"PATH": f"{Path(sys.executable).parent}"})
        while client.models()[0].items < 50 and process.poll() is None:
            time.sleep(0.005)
        process.kill()
        process.wait()
        again = index("--gateway", other.address)
        assert again["failed"] == []
        assert client.models()[0].items == count
        assert embedded(other) == 0


def test_a_file_that_failed_is_tried_again_and_written_down_once(index, good, job, roost):
    bad = good / "bad.png"
    bad.write_bytes(b"no image")
    os.utime(bad, ns=(1, 1))
    with pytest.raises(AssertionError, match="1 failed"):  # exit code 3
        index()
    before = state(job)
    with pytest.raises(AssertionError, match="1 failed"):
        index()
    assert state(job) == before
    size = bad.stat().st_size
    bad.write_bytes(min(good.rglob("*/*.png")).read_bytes())
    assert bad.stat().st_size != size
    assert index()["failed"] == []


@pytest.mark.parametrize("share", [{"in_flight": 20}, {"images_per_second": 300}, {"in_flight": 64}], ids=str)
def test_a_key_with_a_small_share_gets_there(good, repository, serve, job, monkeypatch, share):  # noqa: PLR0917
    file, secret = job.with_name("keys.toml"), job.with_name("key")
    secret.write_text(keys.add(file, "bulk", role="write", **share))
    monkeypatch.setenv("ROOST_API_KEY_FILE", str(secret))
    with serve("--backend", f"onnx://{repository}", "--store", "memory://", "--keys-file", str(file)) as running:
        command = ["roost", "index", good, "--gateway", running.address, "--ledger", job, "--json"]
        path = f"{Path(sys.executable).parent}"
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | {"PATH": path})
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["stored"] == len(list(good.rglob("*.png")))


def test_a_name_that_is_no_utf8_fails_alone(good, job, gateway):
    odd = good / os.fsdecode(b"caf\xe9.png")
    odd.write_bytes(min(good.rglob("*.png")).read_bytes())
    command = ["roost", "index", good, "--gateway", gateway.address, "--ledger", job, "--json"]
    path = f"{Path(sys.executable).parent}"
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | {"PATH": path})
    assert done.returncode == 3, done.stderr
    report = json.loads(done.stdout)
    assert [failure["path"] for failure in report["failed"]] == ["caf\\xe9.png"]
    assert report["stored"] == report["files"] - 1


def test_new_clusters_need_no_embedding(good, job, repository, serve, roost):
    """A version that differs in its clusters alone is filled from the shards."""
    ours = Path(shutil.copytree(repository, job.with_name("models")))
    with serve("--backend", f"onnx://{ours}", "--store", "memory://") as running:
        flags = ("--gateway", running.address)
        roost("index", good, "--ledger", job, *flags)
        before = embedded(running)
        roost("cluster", ours / "digits", good, "--k", 5)
        roost("reload", *flags)
        assert "digits@2" in roost("models", *flags).stdout
        done = json.loads(roost("index", good, "--ledger", job, "--json", *flags).stdout)
        assert done["stored"] == done["files"]
        assert embedded(running) == before
