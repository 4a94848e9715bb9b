"""What somebody did to a model's files after they were exported: refused before any of it is loaded."""

import io
import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from roost import artifact, clusters
from roost.errors import BadArtifact
from roost_serving import backends
from roost_serving.repository import read

MODEL, GOLDEN, CLUSTERS, MANIFEST = "model.onnx", "golden.npz", "clusters.npz", "manifest.json"


def flip(folder: Path, name: str) -> None:
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)


def cut(folder: Path, name: str) -> None:
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[:-1])


def link(folder: Path, name: str) -> None:
    moved = folder.parent / f"moved-{name}"
    (folder / name).rename(moved)
    (folder / name).symlink_to(moved)


def edit(folder: Path, change: Callable[[dict], object]) -> None:
    content = json.loads((folder / MANIFEST).read_text())
    change(content)
    (folder / MANIFEST).write_text(json.dumps(content))


def seal(folder: Path) -> None:
    """List the files as they are now: whoever can write the files can write the manifest."""
    manifest = artifact.read(folder, verify=())
    artifact.write(folder, manifest, files=manifest.files)


def list_from_elsewhere(folder: Path, name: str) -> None:
    outside = folder.parent.parent / "outside"
    outside.write_bytes(b"secret")
    hashed = artifact.hash_file(outside)
    edit(folder, lambda manifest: manifest["files"].update({name: hashed.model_dump()}))


def weights_elsewhere(folder: Path, location: str) -> None:
    graph = onnx.load(folder / MODEL)
    outside = folder / "weights"
    onnx.save_model(graph, folder / MODEL, save_as_external_data=True, location="weights", size_threshold=1024)
    outside.rename((folder / location).resolve())
    model = onnx.load(folder / MODEL, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    (folder / MODEL).write_bytes(model.SerializeToString())
    seal(folder)


def pickled(folder: Path, name: str, key: str) -> None:
    with np.load(folder / name) as saved:
        arrays = dict(saved)
    buffer = io.BytesIO()
    np.savez(buffer, **arrays | {key: np.array([{}, {}], object)})
    (folder / name).write_bytes(buffer.getvalue())
    seal(folder)


def link_folder(folder: Path, moved: Path) -> None:
    folder.rename(moved)
    folder.symlink_to(moved, target_is_directory=True)


def swap(folder: Path) -> None:
    """The model of another version, in order but for its hash."""
    (folder / MODEL).write_bytes((folder / GOLDEN).read_bytes())


CASES = {
    "a flipped bit in the model": lambda folder: flip(folder, MODEL),
    "a flipped bit in the golden images": lambda folder: flip(folder, GOLDEN),
    "a flipped bit in the clusters": lambda folder: flip(folder, CLUSTERS),
    "a model that was cut": lambda folder: cut(folder, MODEL),
    "a model that is gone": lambda folder: (folder / MODEL).unlink(),
    "another file in the model's place": swap,
    "a folder in the model's place": lambda folder: ((folder / MODEL).unlink(), (folder / MODEL).mkdir()),
    "an extra file": lambda folder: (folder / "model.py").write_text("import os"),
    "an extra hidden file": lambda folder: (folder / ".weights").write_bytes(b"x"),
    "an extra folder": lambda folder: (folder / "1").mkdir(),
    "an extra link": lambda folder: (folder / "weights").symlink_to("/etc/passwd"),
    "bytecode where there is no Python": lambda folder: (folder / "__pycache__").mkdir(),
    "a file that looks like one on its way": lambda folder: (folder / ".model.onnx.1.2").write_bytes(b"x"),
    "weights that look like clusters on their way": lambda folder: (folder / ".clusters.npz.data").write_bytes(b"x"),
    "a folder that looks like a file on its way": lambda folder: (folder / ".manifest.json.1.2").mkdir(),
    "a link that looks like a file on its way": lambda folder: (folder / ".manifest.json.1.2").symlink_to("/etc/hosts"),
    "a version that is a link": lambda folder: link_folder(folder, folder.parents[2] / "moved"),
    "a model's folder that is a link": lambda folder: link_folder(folder.parent, folder.parents[2] / "moved"),
    "a model that is a link": lambda folder: link(folder, MODEL),
    "golden images that are a link": lambda folder: link(folder, GOLDEN),
    "a listed file above the folder": lambda folder: list_from_elsewhere(folder, "../../outside"),
    "a listed file by its full path": lambda folder: list_from_elsewhere(folder, str(folder.parent.parent / "outside")),
    "weights above the folder": lambda folder: weights_elsewhere(folder, "../weights"),
    "weights beside the model": lambda folder: weights_elsewhere(folder, "weights"),
    "a manifest of another version": lambda folder: edit(folder, lambda manifest: manifest.update(version=9)),
    "a manifest of another name": lambda folder: edit(folder, lambda manifest: manifest.update(name="other")),
    "a name that is a path": lambda folder: edit(folder, lambda manifest: manifest.update(name="../other")),
    "a key that is unknown": lambda folder: edit(folder, lambda manifest: manifest.update(run="rm")),
    "a manifest of another schema": lambda folder: edit(folder, lambda manifest: manifest.update(schema=99)),
    "a manifest that is no JSON": lambda folder: (folder / MANIFEST).write_text("{"),
    "a manifest that is nested too deeply": lambda folder: (folder / MANIFEST).write_text("[" * 100_000),
    "a huge image size": lambda folder: edit(folder, lambda manifest: manifest["input"].update(size=10**9)),
    "pickled golden images": lambda folder: pickled(folder, GOLDEN, "pixels"),
    "pickled clusters": lambda folder: pickled(folder, CLUSTERS, "centroids"),
}


@pytest.mark.parametrize("case", CASES)
async def test_it_is_refused_before_anything_is_loaded(repository, tmp_path, monkeypatch, case):
    folder = tmp_path / "repository" / "digits" / "1"
    shutil.copytree(repository / "digits" / "1", folder)
    CASES[case](folder)
    loaded = []
    session = onnxruntime.InferenceSession

    def load(*arguments, **options):
        made = session(*arguments, **options)
        loaded.append(made)
        return made

    monkeypatch.setattr(onnxruntime, "InferenceSession", load)
    backend = backends.connect(f"onnx://{tmp_path / 'repository'}", repository=Path(), workers=1)
    with pytest.raises(BadArtifact) as caught:
        await backend.open()
    await backend.close()
    assert len(caught.value.message) > 20
    if case not in ("pickled golden images", "a huge image size"):
        assert loaded == []


BYTECODE = {
    "of model.py": ("model.cpython-312.pyc", True),
    "of model.py, being written": ("model.cpython-312.pyc.140231", True),
    "of something else": ("numpy.cpython-312.pyc", False),
    "of no version of Python": ("model.pyc", False),
}


@pytest.mark.parametrize("case", BYTECODE)
def test_beside_python_only_its_own_bytecode_may_lie(repository, tmp_path, case):
    name, good = BYTECODE[case]
    folder = tmp_path / "digits" / "1"
    shutil.copytree(repository / "digits" / "1", folder)
    (folder / "model.py").touch()
    manifest = artifact.read(folder)
    artifact.write(folder, manifest, files=[*manifest.files, "model.py"])
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / name).touch()
    if good:
        assert read(folder).manifest.name == "digits"
        (folder / "__pycache__" / name).unlink()
        (folder / "__pycache__" / name).symlink_to("/etc/hosts")
    with pytest.raises(BadArtifact, match="__pycache__ is not in the manifest"):
        read(folder)


class Opened:
    """Does something just before a file is opened for the so-and-so-manieth time, whoever opens it."""

    def __init__(self) -> None:
        self.path, self.left, self.act = Path(), 0, lambda: None
        sys.addaudithook(self._hear)  # which lasts as long as the process

    def _hear(self, event: str, arguments: tuple) -> None:
        if event == "open" and self.left and arguments[0] == str(self.path):
            self.left -= 1
            if self.left == 0:
                self.act()


@pytest.fixture(scope="module")
def opened() -> Opened:
    return Opened()


@pytest.mark.parametrize("name", [MODEL, CLUSTERS])
@pytest.mark.parametrize("time", range(1, 5))
async def test_a_file_that_changes_between_two_looks_at_it_is_refused_or_was_read(  # noqa: PLR0917
    repository, tmp_path, monkeypatch, opened, name, time
):
    folder = tmp_path / "repository" / "digits" / "1"
    shutil.copytree(repository / "digits" / "1", folder)
    good = (folder / MODEL).read_bytes(), read(folder).clusters
    if name == MODEL:
        other = bytearray(good[0])
        other[other.index(numpy_helper.to_array(onnx.load(folder / MODEL).graph.initializer[0]).tobytes()[:8])] ^= 1
        changed = bytes(other)
    else:
        clusters.save(tmp_path / CLUSTERS, replace(good[1], threshold=good[1].threshold + 1))
        changed = (tmp_path / CLUSTERS).read_bytes()
    loaded = []
    session = onnxruntime.InferenceSession

    def load(graph, *arguments, **options):
        loaded.append(graph)
        return session(graph, *arguments, **options)

    monkeypatch.setattr(onnxruntime, "InferenceSession", load)
    backend = backends.connect(f"onnx://{tmp_path / 'repository'}", repository=Path(), workers=1)
    opened.path, opened.left = folder / name, time
    opened.act = lambda: (folder / name).write_bytes(changed)
    try:
        await backend.open()
    except BadArtifact:
        assert loaded == []
    else:
        (served,) = backend.models
        assert loaded == [good[0]]
        assert served.clusters.threshold == good[1].threshold
    finally:
        await backend.close()


@pytest.mark.parametrize("linked", [False, True])
async def test_what_was_not_tampered_with_is_served(repository, tmp_path, linked):
    folder = tmp_path / "repository" / "digits" / "1"
    shutil.copytree(repository / "digits" / "1", folder)
    (folder / ".manifest.json.123.456").write_bytes(b"being written")
    if linked:  # as a whole
        link_folder(tmp_path / "repository", tmp_path / "moved")
    backend = backends.connect(f"onnx://{tmp_path / 'repository'}", repository=Path(), workers=1)
    await backend.open()
    assert [model.manifest.reference for model in backend.models] == ["digits@1"]
    await backend.close()
