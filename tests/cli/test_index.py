import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
from pyarrow import parquet

from roost.client import Client
from roost.indexing import Job, Ledger

ROOST = Path(sys.executable).with_name("roost")


def test_indexing_stores_every_image_and_says_so(indexed):
    report = json.loads(indexed.stdout)
    assert indexed.exit_code == 0
    assert (report["files"], report["stored"], report["existed"], report["failed"]) == (60, 60, 0, [])
    assert "60 stored, 0 existed, 0 failed" in indexed.stderr


def test_indexing_again_finds_everything_there(index, gateway, digits, indexed):
    report = json.loads(index(digits, "--json").stdout)
    assert (report["stored"], report["existed"]) == (0, 60)


def test_replacing_stores_again_without_a_copy(index, gateway, digits, indexed):
    report = json.loads(index(digits, "--replace", "--json").stdout)
    assert (report["stored"], report["existed"]) == (60, 0)
    with Client(gateway) as client:
        assert client.models()[0].items == 60


def test_bad_files_are_listed_and_the_others_are_stored(index, gateway, digits, indexed, tmp_path):
    shutil.copytree(digits / "7", tmp_path / "7")
    (tmp_path / "7" / "empty.png").touch()
    (tmp_path / "7" / "text.jpg").write_text("not an image")
    (tmp_path / ".hidden.png").write_text("not looked at")
    result = index(tmp_path, "--json")
    report = json.loads(result.stdout)
    assert result.exit_code == 3
    assert report["existed"] == 6
    assert [failure["path"] for failure in report["failed"]] == ["7/empty.png", "7/text.jpg"]
    assert {failure["error"]["reason"] for failure in report["failed"]} == {"BAD_IMAGE"}
    assert "7/text.jpg" in index(tmp_path).stderr


def test_a_folder_without_images_is_refused(index, gateway, tmp_path):
    result = index(tmp_path)
    assert result.exit_code == 1
    assert "no images" in result.stderr


def test_without_a_gateway_nothing_is_waited_for(command, digits):
    result = command("index", digits, "--gateway", "127.0.0.1:1")
    assert result.exit_code == 1
    assert "roost serve" in result.stderr
    assert "trying again" not in result.stderr


def test_an_unknown_model_ends_it_at_once(index, gateway, digits):
    result = index(digits, "--model", "cats", "--json")
    assert result.exit_code == 1
    assert "cats" in result.stderr
    assert result.stdout == ""


def test_a_reader_that_stops_reading_is_no_error(gateway, indexed):
    arguments = [ROOST, "items", "list", "--json", "--gateway", gateway]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == b""


def test_a_part_that_does_not_exist_is_refused(index, digits):
    for part in ("0/2", "3/2", "2", "a/b"):
        result = index(digits, "--part", part)
        assert result.exit_code == 2
        assert "2/8" in result.stderr


def test_a_ledger_of_another_job_is_refused_and_so_is_one_that_is_in_use(index, digits, indexed, jobs, tmp_path):
    ours = jobs(digits)
    result = index(digits / "3", "--ledger", ours)
    assert result.exit_code == 1
    assert "its folder differ" in result.stderr
    held = json.loads((ours / "job.json").read_text())
    del held["schema"]
    job = Job(**held)
    with Ledger.opened(ours, job):
        result = index(digits)
    assert result.exit_code == 1
    assert "--part 1/2" in result.stderr


def test_the_vectors_lie_in_parquet_files_that_anyone_can_read(index, digits, indexed, jobs, gateway):
    rows = [row for path in sorted(jobs(digits).glob("*.parquet")) for row in parquet.read_table(path).to_pylist()]
    names = sorted(path.relative_to(digits).as_posix() for path in digits.rglob("*.png"))
    assert sorted({row["path"] for row in rows}) == names
    with Client(gateway) as client:
        expected = client.embed([digits / row["path"] for row in rows[:5]])
        stored = [client.get(row["id"]).vector for row in rows[:5]]
    given = np.array([row["vector"] for row in rows[:5]], np.float32)
    assert np.array_equal(given, expected)
    assert np.abs(given - stored).max() < 1e-6
