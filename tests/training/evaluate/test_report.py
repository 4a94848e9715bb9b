import dataclasses
import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from roost import artifact
from roost.errors import BadArtifact, BadData, BadSettings
from roost_training.evaluate import charts, figures, pages, report, subject
from roost_training.loop import source


@pytest.fixture(scope="module")
def written(measured, tmp_path_factory):
    folder = tmp_path_factory.mktemp("reports") / "first"
    pages.write(folder, measured)
    return folder


def test_a_report_repeats_what_training_measured(finished, measured):
    trained, found = artifact.read(finished).quality, measured.report.figures
    assert found["knn20"] == trained["knn20_accuracy"]
    assert found["rankme"] == trained["rankme"]


def test_a_report_of_labelled_images_has_every_figure(measured):
    assert measured.report.figures.keys() == figures.FIGURES.keys()
    assert measured.report.figures["clusters_k"] == 10
    assert 0 < measured.report.figures["alignment"] <= 4


def test_the_untrained_encoder_is_the_one_that_the_run_began_with(measured):
    # This run has learnt nothing, so that the baseline repeats its figures.
    beside = measured.report.baselines
    assert beside.keys() == {"raw pixels", "PCA-64", "untrained", "untrained, whitened"}
    shared = beside["untrained, whitened"].keys() & measured.report.figures.keys()
    assert len(shared) == len(figures.FIGURES) - 2
    assert {name: beside["untrained, whitened"][name] for name in shared} == pytest.approx(
        {name: measured.report.figures[name] for name in shared}, abs=1e-6
    )
    assert beside["untrained"]["knn20"] != beside["untrained, whitened"]["knn20"]


def test_the_same_seed_gives_the_same_report(finished, measured):
    again = report.measure(subject.open_(finished), with_baselines=True)
    assert again.report == measured.report


def test_a_report_is_read_as_it_was_written(written, measured):
    assert report.read(written / report.FILE) == dataclasses.replace(
        measured.report, settings=json.loads(json.dumps(measured.report.settings))
    )


def test_every_picture_of_the_page_is_there_and_shows_something(written):
    page = (written / pages.PAGE).read_text()
    pictures = re.findall(r"!\[.*\]\((.*)\)", page)
    assert pictures == ["scatter.png", "neighbours.png", *(f"clusters/{number:02}.png" for number in range(10))]
    for picture in pictures:
        with Image.open(written / picture) as image:
            assert np.asarray(image).std() > 5


def test_the_page_has_the_figures_beside_their_baselines_and_settings(written, measured):
    page = (written / pages.PAGE).read_text()
    assert "| figure | first@1 | raw pixels | PCA-64 | untrained | untrained, whitened | |" in page
    assert (
        f"| kNN-20 | {measured.report.figures['knn20']:.3f} | {measured.report.baselines['raw pixels']['knn20']:.3f}"
        in page
    )
    assert "- linear probe: l2 = 0.001, max_iterations = 1000" in page
    assert "fewer than 200: all of them vote in kNN-200" in page


def test_a_report_that_stops_half_way_is_no_report(measured, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError("the disk is gone")

    monkeypatch.setattr(charts, "scatter", full)
    with pytest.raises(BadSettings, match="cannot be written"):
        pages.write(tmp_path / "report", measured)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def nameless(digits, tmp_path):
    """The digits in one folder, without classes."""
    folder = tmp_path / "nameless"
    folder.mkdir()
    for path in digits.rglob("*.png"):
        (folder / f"{path.parent.name}{path.name}").write_bytes(path.read_bytes())
    return folder


def test_without_classes_there_are_the_label_free_figures_and_a_word(finished, nameless, tmp_path):
    found = report.measure(subject.open_(finished), nameless)
    assert found.report.figures.keys() == {"clusters_k", "rankme", "feature_std", "alignment", "uniformity"}
    assert any(f"{nameless} names no classes" in note for note in found.report.notes)
    pages.write(tmp_path / "report", found, seed=1)
    assert "![Cluster 1]" in (tmp_path / "report" / pages.PAGE).read_text()


def test_as_many_clusters_are_fitted_as_are_asked_for(finished, nameless):
    assert report.measure(subject.open_(finished), nameless, k=4).report.figures["clusters_k"] == 4


def test_more_clusters_than_images_are_refused(finished):
    with pytest.raises(BadSettings, match="500 clusters were asked for"):
        report.measure(subject.open_(finished), k=500)


def test_large_sets_are_measured_in_part_and_the_report_says_so(finished, monkeypatch):
    monkeypatch.setattr(report, "MAX_QUERIES", 20)
    monkeypatch.setattr(report, "ALIGNED", 30)
    monkeypatch.setattr(source, "MAX_BANK", 100)
    found = report.measure(subject.open_(finished)).report
    assert (found.bank, found.queries) == (100, 20)
    told = " ".join(found.notes)
    assert "100 of the 130 images to train on" in told
    assert "20 of the 30 images held out" in told
    assert "Alignment is of 30 of the 130" in told


def test_few_images_have_no_scatter(finished, digits, tmp_path):
    for number in range(12):
        path = tmp_path / "few" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes((digits / str(number % 10) / f"{number:02}.png").read_bytes())
    pages.write(tmp_path / "report", report.measure(subject.open_(finished), tmp_path / "few", k=2))
    assert "Scatter" not in (tmp_path / "report" / pages.PAGE).read_text()


def test_a_run_that_is_not_finished_says_how_it_goes_on(finished, tmp_path):
    (tmp_path / "settings.json").write_bytes((finished / "settings.json").read_bytes())
    with pytest.raises(BadArtifact, match=r"not finished.*--resume"):
        subject.open_(tmp_path)


def test_weights_of_another_encoder_are_refused(finished, tmp_path):
    manifest = artifact.read(finished).model_copy(update={"encoder": "alexnet"})
    for name in ("settings.json", *manifest.files):
        (tmp_path / name).write_bytes((finished / name).read_bytes())
    artifact.write(tmp_path, manifest, files=manifest.files)
    with pytest.raises(BadArtifact, match="no weights of alexnet"):
        report.measure(subject.open_(tmp_path))


@pytest.mark.parametrize("content", ["{", "[]", '{"schema": 1}'])
def test_a_report_that_is_malformed_is_refused(content, tmp_path):
    (tmp_path / report.FILE).write_text(content)
    with pytest.raises(BadArtifact, match="Run `roost evaluate` again"):
        report.read(tmp_path / report.FILE)


def test_settings_that_cannot_be_read_are_refused(finished, tmp_path):
    for path in finished.iterdir():
        if path.is_file():
            (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "settings.json").write_text("[]")
    with pytest.raises(BadArtifact, match="no settings"):
        subject.open_(tmp_path)


def test_a_folder_that_is_not_there_is_named(finished, tmp_path):
    with pytest.raises(BadData, match="There is no folder"):
        report.measure(subject.open_(finished), tmp_path / "absent")


def test_a_run_whose_images_were_moved_asks_for_them(finish, digits, tmp_path):
    images = tmp_path / "digits"
    shutil.copytree(digits, images)
    out = finish(tmp_path / "run", data=images)
    images.rename(tmp_path / "moved")
    with pytest.raises(BadData, match=r"is not there\. Give a folder of images"):
        report.measure(subject.open_(out))
    assert report.measure(subject.open_(out), tmp_path / "moved").report.queries == 30


@pytest.mark.parametrize("k", [0, 1])
def test_fewer_than_two_clusters_are_refused(finished, k):
    with pytest.raises(BadSettings, match="Choose at least 2"):
        report.measure(subject.open_(finished), k=k)
