import shutil

import pytest

from roost import artifact
from roost.errors import BadArtifact, BadSettings
from roost_export import repository as repositories
from roost_serving import repository as served

INPUT = artifact.Input(size=32, resize=32, mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2))
MANIFEST = artifact.Manifest(
    name="cats",
    method="simclr",
    encoder="resnet18",
    input=INPUT,
    dim=512,
    data=artifact.Data(fingerprint="0" * 64, images=1),
)


def add_version(repository, **changes):
    with repositories.new_version(repository, "cats") as draft:
        (draft.folder / "model.onnx").write_bytes(b"graph")
        manifest = MANIFEST.model_copy(update={"version": draft.version} | changes)
        artifact.write(draft.folder, manifest, files=["model.onnx"])
        draft.config.write_text(f"written by {draft.version}")
    return draft


def write_half_a_version(repository):
    with repositories.new_version(repository, "cats") as draft:
        (draft.folder / "model.onnx").write_bytes(b"half")
        draft.config.write_text("half")
        raise KeyboardInterrupt


def test_versions_count_on_from_the_highest(tmp_path):
    add_version(tmp_path)
    (tmp_path / "cats" / "1").rename(tmp_path / "cats" / "9")
    draft = add_version(tmp_path)
    assert draft.final == tmp_path / "cats" / "10"
    assert repositories.versions(tmp_path, "cats") == [9, 10]


def test_neither_gateway_nor_triton_sees_a_version_before_it_is_whole(tmp_path):
    add_version(tmp_path)
    with repositories.new_version(tmp_path, "cats") as draft:
        artifact.write(draft.folder, MANIFEST.model_copy(update={"version": 2}), files=[])
        draft.config.write_text("")
        assert [model.manifest.version for model in served.scan(tmp_path)] == [1]
        assert [path.name for path in (tmp_path / "cats").iterdir() if path.name.isdecimal()] == ["1"]
    assert [model.manifest.version for model in served.scan(tmp_path)] == [1, 2]


def test_a_version_is_readable_by_other_users(tmp_path):
    assert add_version(tmp_path).final.stat().st_mode & 0o055 == 0o055  # Triton runs as another one


def test_a_failure_leaves_the_other_versions_and_nothing_else(tmp_path):
    add_version(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        write_half_a_version(tmp_path)
    assert sorted(path.name for path in (tmp_path / "cats").iterdir()) == ["1", "config.pbtxt"]


def test_older_versions_keep_their_configuration_until_the_new_version_is_in_place(tmp_path):
    add_version(tmp_path)
    configuration = tmp_path / "cats" / "config.pbtxt"
    with pytest.raises(KeyboardInterrupt):
        write_half_a_version(tmp_path)
    assert configuration.read_text() == "written by 1"
    add_version(tmp_path)
    assert configuration.read_text() == "written by 2"


def test_a_failure_of_a_models_first_export_leaves_no_folder(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        write_half_a_version(tmp_path / "models")
    assert list(tmp_path.iterdir()) == []


def test_a_version_whose_configuration_cannot_follow_it_is_taken_back(tmp_path):
    (tmp_path / "cats" / "config.pbtxt").mkdir(parents=True)
    with pytest.raises(IsADirectoryError):
        add_version(tmp_path)
    assert [path.name for path in (tmp_path / "cats").iterdir()] == ["config.pbtxt"]


def test_of_two_exports_at_once_the_slower_is_told(tmp_path):
    faster = tmp_path / "faster"
    faster.mkdir()
    (faster / "model.onnx").write_bytes(b"faster")
    with pytest.raises(BadArtifact, match="appeared"), repositories.new_version(tmp_path, "cats") as slower:
        shutil.copytree(faster, slower.final)
    assert (tmp_path / "cats" / "1" / "model.onnx").read_bytes() == b"faster"
    assert repositories.versions(tmp_path, "cats") == [1]


def test_a_repository_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(BadSettings, match="file cannot be written"), repositories.new_version(tmp_path / "file", "x"):
        pass


@pytest.mark.parametrize(
    ("changes", "needs", "message"),
    [
        ({"dim": 256}, "model.onnx", r"cats@1 takes 32 pixels and gives 512 numbers, this one 32 and 256"),
        ({"input": INPUT.model_copy(update={"size": 28})}, "model.onnx", "this one 28 and 512"),
        ({}, "model.py", r"cats@1 has no model\.py"),
    ],
)
def test_versions_that_cannot_share_a_configuration_are_refused(tmp_path, changes, needs, message):
    add_version(tmp_path)
    with pytest.raises(BadSettings, match=message):
        repositories.check_siblings(tmp_path, MANIFEST.model_copy(update=changes), needs=needs)


def test_versions_of_one_shape_and_file_share_a_configuration(tmp_path):
    add_version(tmp_path)
    repositories.check_siblings(tmp_path, MANIFEST, needs="model.onnx")
