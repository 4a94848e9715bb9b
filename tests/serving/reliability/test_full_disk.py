"""A disk that fills up under a gateway and a bulk job: clear refusals, searches that go on, a job that resumes."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

IMAGES = 600
SCRIPT = """
import json, re, shutil, signal, subprocess, sys
from pathlib import Path
from roost.client import Client, Item
from roost.errors import DiskFull

disk, repository, images, ledger = map(Path, sys.argv[1:])
roost = Path(sys.executable).with_name("roost")
backend, store = f"onnx://{repository}", f"edge://{disk / 'index'}"
serve = [roost, "serve", "--port", "0", "--http-port", "0", "--backend", backend, "--store", store]
gateway = subprocess.Popen(serve, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
address = next(found[1] for line in gateway.stderr if (found := re.search(r"serving .+ on (\\S+), http", line)))


def index():
    command = [roost, "index", images, "--model", "digits", "--gateway", address, "--ledger", ledger]
    run = subprocess.run([*command, "--shard-images", "500", "--json"], capture_output=True, text=True, timeout=200)
    return {"code": run.returncode, "report": json.loads(run.stdout or "null"), "words": run.stderr}


def stored(client):
    return next(model.items for model in client.models() if model.name == "digits")


try:
    with Client(address) as client:
        picture = (images / "0.png").read_bytes()
        ballast = disk / "ballast"
        ballast.write_bytes(bytes(shutil.disk_usage(disk).free - (65 << 20)))  # leaves 1 MiB above the reserve
        full = index()
        kept = stored(client)
        with ballast.open("ab") as stream:  # there may be room for one item where there was none for a batch
            stream.write(bytes(shutil.disk_usage(disk).free - (63 << 20)))
        (refused,) = client.ingest([Item(picture, id="one more")], model="digits")
        said = {"code": refused.error.code, "reason": refused.error.reason}
        hits = len(client.search(picture, model="digits", limit=5))
        embedded = list(client.embed([picture], model="digits").shape)
        alive = gateway.poll() is None
        ballast.unlink()
        again = index()
        total = stored(client)
    gateway.send_signal(signal.SIGTERM)
    ended = gateway.wait(60)
finally:
    gateway.kill()
result = {"full": full, "kept": kept, "said": said, "hits": hits, "embedded": embedded, "alive": alive}
print(json.dumps({**result, "again": again, "total": total, "exit": ended}))
"""


@pytest.fixture
def images(tmp_path) -> Path:
    """A folder of small pictures, no two of them alike."""
    folder = tmp_path / "images"
    folder.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (IMAGES, 8, 8), dtype=np.uint8)
    for number, pixels in enumerate(noise):
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


@pytest.mark.timeout(600)
def test_a_disk_that_fills_up_under_a_bulk_job(repository, images, tmp_path, figures):
    if subprocess.run(["unshare", "-Urm", "true"], capture_output=True, check=False).returncode:
        pytest.skip("unshare may not make a mount namespace here, so there is no small disk to fill")
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = 'mount -t tmpfs -o size=200m tmpfs "$1" && exec "$0" -c "$5" "$1" "$2" "$3" "$4"'
    arguments = [sys.executable, disk, repository, images, tmp_path / "job", SCRIPT]
    run = subprocess.run(["unshare", "-Urm", "sh", "-c", mount, *map(str, arguments)], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    result = json.loads(run.stdout)
    full, again = result["full"], result["again"]
    figures |= {"images": IMAGES, "stored_when_full": result["kept"], "stored_in_the_end": result["total"]}
    assert (full["code"], full["report"]) == (1, None)
    assert "no space left" in full["words"]
    assert result["said"] == {"code": "RESOURCE_EXHAUSTED", "reason": "DISK_FULL"}
    assert result["alive"]
    assert (result["hits"], result["embedded"]) == (5, [1, 256])
    assert 0 < result["kept"] < IMAGES
    assert again["code"] == 0, again["words"]
    assert again["report"]["failed"] == []
    assert again["report"]["stored"] + again["report"]["existed"] == IMAGES
    assert again["report"]["existed"] >= result["kept"]
    assert (result["total"], result["exit"]) == (IMAGES, 0)
