import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest


def test_training_writes_a_run_that_can_be_exported(command, digits, tmp_path):
    out = tmp_path / "runs" / "tiny"
    result = command(
        "train", digits, "--out", out, "--encoder", "resnet10w32", "--image-size", 16, "--epochs", 1, "--batch", 16,
        "--set", f"cache={tmp_path / 'cache'}", "--set", "precision=fp32", "--set", "method_settings.temperature=0.3",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "knn20_accuracy" in result.stdout
    assert f"roost export {out}" in result.stderr
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["input"]["size"] == 16


def test_a_setting_that_does_not_exist_is_refused_with_the_nearest_name(command, digits, tmp_path):
    result = command("train", digits, "--out", tmp_path / "run", "--set", "epoch=3")
    assert result.exit_code == 1
    assert "epoch" in result.stderr


def test_an_unknown_method_gets_a_hint(command, digits, tmp_path):
    result = command("train", digits, "--out", tmp_path / "run", "--method", "simcrl")
    assert result.exit_code == 1
    assert result.stderr.strip() == "roost: No method called 'simcrl'. Did you mean 'simclr'?"


def test_export_prints_the_parity_of_every_golden_image(exported):
    assert exported.exit_code == 0, exported.output
    assert len(exported.stdout.splitlines()) == 2 + 7  # two lines of heading, seven photographs
    assert (exported.repository / "digits" / "1" / "model.onnx").exists()
    assert "digits@1" in exported.stderr


def test_cluster_prints_figures_for_a_program(clustered):
    figures = json.loads(clustered.stdout)
    assert figures["model"] == "digits@1"
    assert figures["quality"]["clusters_k"] == 3


def test_methods_and_encoders_are_listed(command):
    assert "simclr" in command("methods").stdout
    names = [json.loads(line)["name"] for line in command("encoders", "--json").stdout.splitlines()]
    assert "resnet18" in names


@pytest.mark.parametrize(
    ("package", "arguments", "extra"),
    [
        ("torch", ["train", "photos", "--out", "run"], "training"),
        ("sklearn", ["cluster", "models/photos", "photos"], "training"),
        ("torch", ["export", "run"], "training"),
        ("grpc_health", ["serve"], "serving"),
    ],
)
def test_a_stage_that_is_not_installed_says_how_to_get_it(package, arguments, extra, tmp_path):
    code = f"import sys; sys.modules[{package!r}] = None; from roost.cli import build; build()({arguments!r})"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].endswith(f"in its source folder: pip install '.[{extra}]'")
    assert "Traceback" not in result.stderr


def test_ctrl_c_says_how_training_goes_on(digits, tmp_path):
    out = tmp_path / "run"
    flags = ["--encoder", "resnet10w32", "--image-size", "16", "--epochs", "100000", "--batch", "16"]
    command = [Path(sys.executable).with_name("roost"), "train", digits, "--out", out, *flags]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    first = next(line for line in process.stderr if line.startswith("epoch 0"))
    process.send_signal(signal.SIGINT)
    output, words = process.communicate(timeout=60)
    assert "loss" in first
    assert process.returncode == 130
    assert output == ""
    assert f"the checkpoint is in {out}. Run the same command with --resume" in words.splitlines()[-1]
