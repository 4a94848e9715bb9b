import json
import shutil

import pytest


@pytest.fixture(scope="module")
def trained(command, digits, tmp_path_factory):
    """The run `tiny`, over the sixty digits."""
    out = tmp_path_factory.mktemp("runs") / "tiny"
    result = command(
        "train", digits, "--out", out, "--encoder", "resnet10w32", "--image-size", 16, "--epochs", 1, "--batch", 16,
        "--set", f"cache={out.parent / 'cache'}", "--set", "precision=fp32", "--set", "threads=1",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    return out


def test_evaluate_prints_figures_and_leaves_a_report_with_the_run(command, trained):
    result = command("evaluate", trained, "--baselines")
    assert result.exit_code == 0, result.output
    heading, _, first, *_ = result.stdout.splitlines()
    assert heading.split() == ["figure", "tiny@1", "raw", "pixels", "PCA-64", "untrained"]
    assert first.startswith("kNN-20")
    assert f"{trained / 'report'} holds the report" in result.stderr
    assert json.loads((trained / "report" / "report.json").read_text())["model"] == "tiny@1"


def test_evaluate_prints_json_for_a_program(command, trained, digits, tmp_path):
    result = command("evaluate", trained, digits, "--val", digits, "--out", tmp_path / "here", "--k", 3, "--json")
    found = json.loads(result.stdout)
    assert found["figures"]["recall_at_1"] == 1  # every image finds itself
    assert found["figures"]["clusters_k"] == 3
    assert (tmp_path / "here" / "report.md").exists()


def test_an_exported_model_is_measured_by_its_embeddings(command, exported, digits):
    model = exported.repository / "digits"
    before = sorted(model.rglob("*"))
    found = json.loads(command("evaluate", model, digits, "--json").stdout)
    assert found["queries"] == 10
    assert "alignment" not in found["figures"]
    assert any("embeddings alone" in note for note in found["notes"])
    assert sorted(model.rglob("*")) == before


def test_an_exported_model_has_to_be_told_its_images(command, exported):
    result = command("evaluate", exported.repository / "digits")
    assert result.exit_code == 1
    assert "Give a folder of images after it." in result.stderr


def test_a_folder_of_something_else_is_refused_before_the_work(command, trained, digits):
    result = command("evaluate", trained, "--out", digits)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"roost: {digits} has files of something else.")


def test_compare_lays_runs_side_by_side(command, trained, tmp_path):
    other = shutil.copytree(trained, tmp_path / "other")
    result = command("compare", trained, other, "--out", tmp_path / "comparison")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[0].split() == ["figure", "tiny", "other"]
    assert "RankMe would choose" in result.stderr
    assert (tmp_path / "comparison" / "curves.png").exists()
    names = [run["name"] for run in json.loads(command("compare", trained, other, "--json").stdout)["runs"]]
    assert names == ["tiny", "other"]


def test_compare_refuses_what_is_no_run(command, trained, exported):
    result = command("compare", trained, exported.repository / "digits")
    assert result.exit_code == 1
    assert "is an exported model, not a run" in result.stderr
