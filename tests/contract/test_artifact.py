import json
import os
import threading

import numpy as np
import pytest
from pydantic import ValidationError

from roost import artifact
from roost.artifact import Data, File, Input, Manifest
from roost.errors import BadArtifact

# sha256 of the three bytes "abc": FIPS 180-2, appendix B.1.
ABC = File(sha256="ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", size=3)


@pytest.fixture
def manifest() -> Manifest:
    return Manifest(
        name="digits",
        version=3,
        method="simclr",
        encoder="resnet18",
        input=Input(size=28, resize=32, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)),
        dim=512,
        data=Data(fingerprint="f" * 64, images=4000, classes=10),
        quality={"knn20_accuracy": 0.9375},
    )


@pytest.fixture
def folder(tmp_path, manifest):
    (tmp_path / "weights").write_bytes(b"abc")
    artifact.write(tmp_path, manifest, files=["weights"])
    return tmp_path


def test_what_was_written_is_read(folder, manifest):
    assert artifact.read(folder) == manifest.model_copy(update={"files": {"weights": ABC}})
    assert sorted(path.name for path in folder.iterdir()) == ["manifest.json", "weights"]


def test_the_manifest_on_disk_is_plain_json_that_names_its_schema(folder):
    content = json.loads((folder / "manifest.json").read_text())
    assert (content["schema"], content["name"], content["files"]) == (1, "digits", {"weights": ABC.model_dump()})


def test_a_reference_is_the_name_and_the_version(manifest):
    assert manifest.reference == "digits@3"


def test_a_file_that_the_caller_does_not_ask_for_is_not_hashed(folder):
    (folder / "weights").write_bytes(b"xyz")
    assert artifact.read(folder, verify=()).dim == 512


@pytest.mark.parametrize("content", [b"abd", b"ab", b"abcd", b""])
def test_an_altered_file_is_refused(folder, content):
    (folder / "weights").write_bytes(content)
    with pytest.raises(BadArtifact, match="sha256 differs"):
        artifact.read(folder)


@pytest.mark.parametrize("content", [b"abd", b"ab", b"abcd", b""])
def test_bytes_that_were_altered_are_not_given_out(folder, content):
    manifest = artifact.read(folder)
    assert artifact.checked_bytes(folder, manifest, "weights") == b"abc"
    (folder / "weights").write_bytes(content)
    with pytest.raises(BadArtifact, match="sha256 differs"):
        artifact.checked_bytes(folder, manifest, "weights")


def test_a_size_that_nothing_has_takes_no_memory(folder):
    manifest = artifact.read(folder)
    huge = manifest.model_copy(update={"files": {"weights": File(sha256=ABC.sha256, size=2**62)}})
    with pytest.raises(BadArtifact, match="sha256 differs"):
        artifact.checked_bytes(folder, huge, "weights")


def test_a_missing_file_is_refused(folder):
    (folder / "weights").unlink()
    with pytest.raises(BadArtifact, match="weights is missing"):
        artifact.read(folder)


def test_a_folder_in_a_files_place_is_refused(folder):
    (folder / "weights").unlink()
    (folder / "weights").mkdir()
    with pytest.raises(BadArtifact, match="weights is missing"):
        artifact.read(folder)


def test_a_link_out_of_the_artifact_is_refused(folder, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside") / "weights"
    outside.write_bytes(b"abc")
    (folder / "weights").unlink()
    (folder / "weights").symlink_to(outside)
    with pytest.raises(BadArtifact, match="leads out of the artifact"):
        artifact.read(folder)


@pytest.mark.parametrize("name", ["../weights", "/etc/hostname", "a/b"])
def test_a_name_that_leads_out_of_the_artifact_is_refused(folder, name):
    path = folder / "manifest.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"files": {name: ABC.model_dump()}}))
    with pytest.raises(BadArtifact, match="leads out of the artifact"):
        artifact.read(folder)


def test_a_file_that_the_manifest_does_not_list_is_not_given_out(folder):
    (folder / "more").write_bytes(b"abc")
    manifest = artifact.read(folder)
    with pytest.raises(BadArtifact, match="no file 'more' in its manifest"):
        artifact.check_file(folder, manifest, "more")


@pytest.mark.parametrize("place", ["empty", "nowhere"])
def test_a_folder_without_a_manifest_is_no_artifact(tmp_path, place):
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadArtifact, match=r"has no manifest\.json"):
        artifact.read(tmp_path / place)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b'{"schema": 1} more'])
def test_a_manifest_that_is_no_json_is_refused(folder, content):
    (folder / "manifest.json").write_bytes(content)
    with pytest.raises(BadArtifact, match="cannot be read"):
        artifact.read(folder)


@pytest.mark.parametrize("content", [b"[]", b"null", b"3", b"{}", b'{"schema": 2}', b'{"schema": "1"}'])
def test_a_manifest_of_another_schema_is_refused(folder, content):
    (folder / "manifest.json").write_bytes(content)
    with pytest.raises(BadArtifact, match=r"schema .*, not 1"):
        artifact.read(folder)


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"surprise": 1}, "surprise"),
        ({"dim": 0}, "dim"),
        ({"name": "../digits"}, "name"),
        ({"name": "digits\n"}, "name"),
        ({"name": ""}, "name"),
        ({"version": 0}, "version"),
        ({"metric": "dot"}, "metric"),
        ({"quality": {"nmi": None}}, r"quality\.nmi"),
        ({"files": {"weights": {"sha256": "00", "size": 3}}}, r"files\.weights\.sha256"),
        ({"input": {"size": 32, "resize": 28, "mean": [0, 0, 0], "std": [1, 1, 1]}}, "input"),
        ({"input": {"size": 32, "resize": 32, "mean": [0, 0, 0], "std": [1, 0, 1]}}, r"input\.std\.1"),
    ],
)
def test_a_malformed_manifest_is_refused_where_it_is_wrong(folder, change, where):
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(BadArtifact, match=f"malformed at {where}"):
        artifact.read(folder)


def test_a_resize_smaller_than_the_encoders_input_is_refused():
    with pytest.raises(ValidationError, match="resize is 16, less than size 32"):
        Input(size=32, resize=16, mean=(0, 0, 0), std=(1, 1, 1))


@pytest.mark.parametrize("figure", [float("nan"), float("inf")])
def test_a_figure_that_json_cannot_hold_is_refused_before_anything_is_written(folder, figure):
    before = (folder / "manifest.json").read_bytes()
    spoilt = artifact.read(folder).model_copy(update={"quality": {"rankme": figure}})
    with pytest.raises(BadArtifact, match=r"bad quality\.rankme"):
        artifact.write(folder, spoilt, files=["weights"])
    assert (folder / "manifest.json").read_bytes() == before


def test_a_figure_may_be_a_number_of_numpy(folder):
    figures = {"nmi": np.float32(0.5), "k": np.int64(3)}
    artifact.write(folder, artifact.read(folder).model_copy(update={"quality": figures}), files=["weights"])
    assert artifact.read(folder).quality == {"nmi": 0.5, "k": 3}


def test_a_reader_sees_the_old_content_or_the_new_and_never_a_part(tmp_path):
    path = tmp_path / "file"
    contents = [bytes([i]) * 200_000 for i in range(4)]
    path.write_bytes(contents[0])
    done = threading.Event()

    def write():
        for i in range(40):
            artifact.replace_bytes(path, contents[i % 4])
        done.set()

    writers = [threading.Thread(target=write) for _ in range(2)]
    for writer in writers:
        writer.start()
    while not done.is_set():
        assert path.read_bytes() in contents
    for writer in writers:
        writer.join()
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a full disk is made of /dev/full")  # noqa: PTH110
def test_a_write_that_fails_leaves_the_old_content_and_nothing_else(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    (tmp_path / f".file.{os.getpid()}.{threading.get_ident()}").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        artifact.replace_bytes(path, b"new")
    assert {each.name: each.read_bytes() for each in tmp_path.iterdir()} == {"file": b"old"}
