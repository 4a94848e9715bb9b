import json
import shutil
import subprocess
import sys
from pathlib import Path

from roost.client import Client

ROOST = Path(sys.executable).with_name("roost")


def test_indexing_stores_every_image_and_says_so(indexed):
    report = json.loads(indexed.stdout)
    assert indexed.exit_code == 0
    assert (report["files"], report["stored"], report["existed"], report["failed"]) == (60, 60, 0, [])
    assert "60 stored, 0 existed, 0 failed" in indexed.stderr


def test_indexing_again_finds_everything_there(command, gateway, digits, indexed):
    report = json.loads(command("index", digits, "--gateway", gateway, "--json").stdout)
    assert (report["stored"], report["existed"]) == (0, 60)


def test_replacing_stores_again_without_a_copy(command, gateway, digits, indexed):
    report = json.loads(command("index", digits, "--gateway", gateway, "--replace", "--json").stdout)
    assert (report["stored"], report["existed"]) == (60, 0)
    with Client(gateway) as client:
        assert client.models()[0].items == 60


def test_bad_files_are_listed_and_the_others_are_stored(command, gateway, digits, indexed, tmp_path):
    shutil.copytree(digits / "7", tmp_path / "7")
    (tmp_path / "7" / "empty.png").touch()
    (tmp_path / "7" / "text.jpg").write_text("not an image")
    (tmp_path / ".hidden.png").write_text("not looked at")
    result = command("index", tmp_path, "--gateway", gateway, "--json")
    report = json.loads(result.stdout)
    assert result.exit_code == 3
    assert report["existed"] == 6
    assert [failure["path"] for failure in report["failed"]] == ["7/empty.png", "7/text.jpg"]
    assert {failure["error"]["reason"] for failure in report["failed"]} == {"BAD_IMAGE"}
    assert "7/text.jpg" in command("index", tmp_path, "--gateway", gateway).stderr


def test_a_folder_without_images_is_refused(command, gateway, tmp_path):
    result = command("index", tmp_path, "--gateway", gateway)
    assert result.exit_code == 1
    assert "no images" in result.stderr


def test_without_a_gateway_nothing_is_waited_for(command, digits):
    result = command("index", digits, "--gateway", "127.0.0.1:1")
    assert result.exit_code == 1
    assert "roost serve" in result.stderr
    assert "trying again" not in result.stderr


def test_an_unknown_model_ends_it_at_once(command, gateway, digits):
    result = command("index", digits, "--gateway", gateway, "--model", "cats", "--json")
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
