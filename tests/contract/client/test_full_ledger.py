"""A ledger on a disk without space: an error that says so, nothing half-written, and a job that goes on."""

import json
import subprocess
import sys

import pytest

SCRIPT = """
import json, os, shutil, sys
from pathlib import Path
from roost.errors import DiskFull
from roost.indexing import Job, Ledger

disk = Path(sys.argv[1])
job = Job(folder="/photos", model="digits", fingerprint="f" * 64, dim=4)
said = {}


def refused(name, act):
    try:
        act()
    except DiskFull as error:
        said[name] = error.message


def fill():
    with (disk / "ballast").open("wb", buffering=0) as stream:
        while free := shutil.disk_usage(disk).free:
            stream.write(bytes(free))


def empty():
    (disk / "ballast").unlink()


def finish(ledger, *failed):
    ledger.finish(shard, model="digits@1", stored=1, existed=0, failed=failed)


with Ledger.opened(disk / "job", job) as ledger:
    shard = ledger.write([], model="digits@1")
    lines = disk / "job" / "ledger.jsonl"
    fill()
    refused("a first line", lambda: finish(ledger))
    assert not ledger.shards("digits@1")[0].finished
    assert lines.read_bytes() == b""
    empty()
    finish(ledger)
    before = lines.read_bytes()
    fill()
    refused("a line of which a part fits", lambda: finish(ledger, *map(str, range(5000))))
    assert lines.read_bytes() == before
    refused("a shard", lambda: ledger.write([], model="digits@1"))
    empty()
    finish(ledger, "0.png")
    assert ledger.shards("digits@1")[0].failed == {"0.png"}
    assert len(lines.read_bytes().splitlines()) == 2

cut = lines.read_bytes()[:-10]
lines.write_bytes(cut)
fill()


def open_ledger(folder):
    with Ledger.opened(folder, job):
        pass


refused("a cut line", lambda: open_ledger(disk / "job"))
assert lines.read_bytes() == cut
refused("a new job", lambda: open_ledger(disk / "other"))
empty()
with Ledger.opened(disk / "job", job) as ledger:
    assert ledger.shards("digits@1")[0].finished
open_ledger(disk / "other")
print(json.dumps(said))
"""


def test_a_full_disk_is_named_and_leaves_the_ledger_whole(tmp_path):
    if subprocess.run(["unshare", "-Urm", "true"], capture_output=True, check=False).returncode:
        pytest.skip("unshare may not make a mount namespace here, so there is no small disk to fill")
    mount = 'mount -t tmpfs -o size=256k tmpfs "$1" && exec "$0" -c "$2" "$1"'
    command = ["unshare", "-Urm", "sh", "-c", mount, sys.executable, str(tmp_path), SCRIPT]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert list(said) == ["a first line", "a line of which a part fits", "a shard", "a cut line", "a new job"]
    assert all(message.startswith(f"There is no space for {tmp_path}") for message in said.values())
