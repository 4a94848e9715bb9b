import json
import shutil

import pytest
from PIL import Image

from roost import artifact
from roost.errors import BadArtifact, BadSettings
from roost_training.evaluate import comparison, report


@pytest.fixture(scope="module")
def pair(finish, tmp_path_factory):
    """Two runs of the same images and encoder: `first`, and `second` with another seed and temperature."""
    folder = tmp_path_factory.mktemp("pair")
    images = {"val_fraction": 0.25, "seed": 0}
    return (
        finish(folder / "first", method_settings={"temperature": 0.5}, **images),
        finish(folder / "second", whiten=16, **images),
    )


@pytest.fixture
def copied(pair, tmp_path):
    return [shutil.copytree(folder, tmp_path / folder.name) for folder in pair]


def change_quality(folder, **figures):
    manifest = artifact.read(folder)
    quality = {name: value for name, value in (manifest.quality | figures).items() if value is not None}
    artifact.write(folder, manifest.model_copy(update={"quality": quality}), files=manifest.files)


def evaluated(folder, **given):
    """Give a run a report with these figures, beside which only what is compared matters."""
    content = json.loads((folder / "settings.json").read_text())
    manifest = artifact.read(folder)
    facts = {
        "model": manifest.reference, "method": manifest.method, "encoder": manifest.encoder,
        "sha256": manifest.files["encoder.safetensors"].sha256, "data": content["data"], "val": None,
        "bank": 120, "queries": 40, "images": "these", "figures": {}, "settings": {}, "notes": [],
    }  # fmt: skip
    (folder / report.FOLDER).mkdir()
    report.write(folder / report.FOLDER / report.FILE, report.Report(**(facts | given)))


def test_the_settings_that_differ_are_shown_with_the_method_s_defaults(pair):
    found = comparison.compare(pair)
    assert found.differing == {"method_settings.temperature": [0.5, 0.2], "whiten": [None, 16]}


def test_the_best_of_what_training_measured_is_marked(copied):
    change_quality(copied[0], knn20_accuracy=0.6, rankme=9.0)
    change_quality(copied[1], knn20_accuracy=0.7, rankme=8.0)
    found = comparison.compare(copied)
    assert found.best == {"knn20": ["second"], "rankme": ["first"]}
    page = comparison.page(found, drawn=False)
    assert "| kNN-20 | 0.600 | **0.700** |" in page
    assert "| RankMe | **9.0** | 8.0 |" in page
    assert "![" not in page


def test_rankme_chooses_without_labels_and_says_what_it_does_not_know(copied):
    for folder, rankme in zip(copied, (9.0, 8.0), strict=True):
        change_quality(folder, knn20_accuracy=None, rankme=rankme)
    found = comparison.compare(copied)
    assert found.choice == "first"
    assert "Without labels, RankMe would choose first." in found.notes
    assert any("not whether they are the ones that you need" in note for note in found.notes)


def test_rankme_does_not_choose_among_different_encoders(finish, pair, tmp_path):
    other = finish(tmp_path / "other", encoder="alexnet", val_fraction=0.25)
    found = comparison.compare([pair[0], other])
    assert found.choice is None
    assert any("different encoders" in note for note in found.notes)


def test_runs_of_different_images_have_no_best(finish, pair, tmp_path):
    other = finish(tmp_path / "other", val_fraction=0.5)
    found = comparison.compare([pair[0], other])
    assert (found.best, found.choice) == ({}, None)
    assert any("different images" in note for note in found.notes)


def test_a_report_s_figures_stand_beside_those_of_training(copied):
    evaluated(copied[0], figures={"knn20": 0.9, "nmi": 0.5, "rankme": 4.0})
    found = comparison.compare(copied)
    assert [each.figures.get("nmi") for each in found.runs] == [0.5, None]
    assert found.best["knn20"] == ["first"]
    assert any("training measured is known of second" in note for note in found.notes)


def test_a_report_of_an_earlier_run_in_the_folder_does_not_count(copied):
    evaluated(copied[0], figures={"nmi": 0.5}, sha256="0" * 64)
    assert "nmi" not in comparison.compare(copied).runs[0].figures


def test_reports_of_other_images_do_not_compare_with_training_s_figures(copied):
    evaluated(copied[0], figures={"knn20": 0.9}, data="elsewhere")
    assert comparison.compare(copied).best == {}


def test_the_curves_are_those_of_the_epochs(copied, tmp_path):
    lines = [
        {"kind": "step", "step": 1, "loss": 9.0},
        {"kind": "epoch", "loss": 3.0, "rankme": 5.0, "knn20_accuracy": 0.3, "cpu_seconds": 1.0},
        {"kind": "epoch", "loss": None, "cpu_seconds": 2.0},
    ]
    (copied[0] / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)) + '\n{"kind": "epo')
    found = comparison.compare(copied)
    assert found.runs[0].curves == {"knn20": [(1.0, 0.3)], "rankme": [(1.0, 5.0)], "loss": [(1.0, 3.0)]}
    assert any(note.startswith("second left no processor times") for note in found.notes)
    comparison.write(tmp_path / "out", found)
    assert "![Learning curves](curves.png)" in (tmp_path / "out" / comparison.PAGE).read_text()
    with Image.open(tmp_path / "out" / comparison.CURVES) as picture:
        assert picture.width > picture.height
    assert json.loads((tmp_path / "out" / comparison.FILE).read_text())["choice"] == found.choice


def test_runs_of_one_name_are_told_apart_by_their_folders(pair, tmp_path):
    twin = shutil.copytree(pair[0], tmp_path / "first")
    assert [each.name for each in comparison.compare([pair[0], twin]).runs] == [str(pair[0]), str(twin)]


def test_fewer_than_two_runs_are_refused(pair):
    for folders in ([pair[0]], [pair[0], pair[0]]):
        with pytest.raises(BadSettings, match="two different runs"):
            comparison.compare(folders)


def test_an_unfinished_run_is_refused(copied):
    (copied[1] / "manifest.json").unlink()
    with pytest.raises(BadArtifact, match="not finished"):
        comparison.compare(copied)
