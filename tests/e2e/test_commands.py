"""From a folder of images to a searchable service, by the commands of the README."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import roost as package
from roost import artifact
from roost.client import Item
from roost.errors import GatewayUnavailable, RoostError


def rows(done: subprocess.CompletedProcess[str]) -> list[dict]:
    """What a command printed with --json: an object a line."""
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_an_exported_model_carries_figures_of_every_stage(repository):
    manifest = artifact.read(repository / "digits" / "1")
    assert {"model.onnx", "golden.npz", "clusters.npz"} <= set(manifest.files)
    assert {"knn20_accuracy", "parity_max_abs_difference", "clusters_nmi"} <= set(manifest.quality)
    assert manifest.quality["parity_max_abs_difference"] < 1e-3


def test_a_folder_is_indexed_searched_and_served_again_after_a_stop(repository, images, tmp_path, roost, serve):
    arguments = ["--backend", f"onnx://{repository}", "--store", f"edge://{tmp_path}/index"]
    query = images / "3" / "1508.png"
    with serve(*arguments) as gateway:
        flags = ["--gateway", gateway.address]
        indexed = subprocess.run(
            [Path(sys.executable).with_name("roost"), "index", images, *flags, "--json", "--ledger", tmp_path / "job"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert indexed.returncode == 3  # one file is no image, and the rest is stored
        assert "broken.png" in indexed.stdout + indexed.stderr
        found = rows(roost("search", "--image", query, "--limit", 3, "--json", *flags))
        (model,) = rows(roost("models", "--json", *flags))
        assert model["items"] == len(list(images.rglob("*.png"))) - 1
        assert "roost_images_total" in gateway.fetch("/metrics")
        maps = Path(f"/proc/{gateway.process.pid}/maps").read_text()
        assert "onnxruntime" in maps
        assert "torch" not in maps
        assert gateway.stop() == 0
    assert found[0]["score"] == pytest.approx(1, abs=1e-4)
    with serve(*arguments) as gateway:
        again = rows(roost("search", "--image", query, "--limit", 3, "--json", "--gateway", gateway.address))
    assert again == found


def test_every_acknowledged_item_survives_kill_9_in_the_middle_of_an_ingest(repository, images, tmp_path, serve):
    arguments = ["--backend", f"onnx://{repository}", "--store", f"edge://{tmp_path}/index"]
    files = sorted(images.rglob("*.png"))
    sent = [Item(file.read_bytes(), id=f"{turn}-{file.stem}") for turn in range(20) for file in files]
    acknowledged: list[str] = []
    with serve(*arguments) as gateway, package.Client(gateway.address) as client:
        try:
            for outcome in client.ingest(sent):
                if outcome.error is None:
                    acknowledged.append(outcome.id)
                if len(acknowledged) == 150:
                    gateway.process.send_signal(signal.SIGKILL)
        except GatewayUnavailable:
            pass
    assert 150 <= len(acknowledged) < len(sent)
    with serve(*arguments) as gateway, package.Client(gateway.address) as client:
        stored = {item.id: item.vector for item in client.items(with_vectors=True)}
        (expected,) = client.embed([sent[5].image])
    assert set(acknowledged) <= set(stored) <= {item.id for item in sent}
    assert np.abs(stored[sent[5].id] - expected).max() < 1e-5


def test_a_gateway_over_an_altered_model_says_so_and_does_not_start(repository, tmp_path):
    import shutil

    copy = tmp_path / "models"
    shutil.copytree(repository, copy)
    with (copy / "digits" / "1" / "model.onnx").open("r+b") as model:
        model.seek(1000)
        model.write(b"altered")
    command = [Path(sys.executable).with_name("roost"), "serve", "--backend", f"onnx://{copy}", "--store", "memory://"]
    done = subprocess.run([*command, "--port", "0", "--http-port", "0"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "model.onnx is not the file that was written" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unreachable_gateway_is_one_line_that_says_what_to_do(capsys):
    with package.Client("127.0.0.1:9") as client, pytest.raises(RoostError) as caught:
        client.models()
    assert "roost serve" in str(caught.value)
