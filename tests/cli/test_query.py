import json
import shutil

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.usefixtures("indexed")


def lines(result):
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_the_nearest_neighbour_of_an_image_is_itself(command, gateway, digits):
    hits = lines(command("search", "--image", digits / "3/00.png", "--gateway", gateway, "--json"))
    assert hits[0]["payload"] == {"path": "3/00.png", "label": "3"}
    assert hits[0]["score"] == pytest.approx(1, abs=1e-5)
    scores = [hit["score"] for hit in hits]
    assert len(hits) == 10
    assert scores == sorted(scores, reverse=True)


def test_a_stored_item_is_not_its_own_neighbour(command, gateway):
    (item,) = lines(command("items", "list", "--limit", 1, "--gateway", gateway, "--json"))
    hits = lines(command("search", "--id", item["id"], "--limit", 60, "--gateway", gateway, "--json"))
    assert len(hits) == 59
    assert item["id"] not in {hit["id"] for hit in hits}


def test_conditions_hold_together(command, gateway, digits):
    asked = ["search", "--image", digits / "3/00.png", "--limit", 60, "--gateway", gateway, "--json"]
    assert len(lines(command(*asked, "--where", "label=3"))) == 6
    assert len(lines(command(*asked, "--where", "label=3", "--where", "path=3/04.png"))) == 1
    assert lines(command(*asked, "--where", "label:=3")) == []  # the label is text, not a number
    clusters = {hit["placement"]["cluster"] for hit in lines(command(*asked, "--cluster", 0, "--cluster", 2))}
    assert clusters <= {0, 2}
    split = [len(lines(command(*asked, flag))) for flag in ("--anomaly", "--no-anomaly")]
    assert sum(split) == 60


def test_the_neighbours_are_drawn(command, gateway, digits, tmp_path):
    picture = tmp_path / "grid.png"
    asked = ["search", "--image", digits / "3/00.png", "--limit", 4, "--gateway", gateway, "--root", digits]
    result = command(*asked, "--grid", picture)
    assert result.exit_code == 0, result.output
    assert "3/00.png" in result.stdout
    with Image.open(picture) as image:
        assert image.width > 5 * 128


def test_embeddings_are_printed_and_written(command, gateway, digits, tmp_path):
    out = tmp_path / "vectors.npz"
    asked = ["embed", digits / "0/00.png", digits / "1/00.png", "--gateway", gateway]
    printed = lines(command(*asked, "--json", "--npz", out))
    with np.load(out, allow_pickle=False) as written:
        assert written["paths"].tolist() == [str(digits / "0/00.png"), str(digits / "1/00.png")]
        np.testing.assert_allclose(written["vectors"], [line["vector"] for line in printed], rtol=1e-6)
        np.testing.assert_allclose(np.linalg.norm(written["vectors"], axis=1), 1, atol=1e-5)


def test_a_file_for_embeddings_that_cannot_be_written_is_named_in_a_line(command, gateway, digits, tmp_path):
    out = tmp_path / "absent" / "vectors.npz"
    result = command("embed", digits / "0/00.png", "--npz", out, "--gateway", gateway)
    assert result.exit_code == 1
    assert (
        result.stderr
        == f"roost: {out} cannot be written: No such file or directory. Name a file in a folder that exists.\n"
    )


def test_images_that_fail_are_named_and_the_others_are_printed(command, gateway, digits, tmp_path):
    torn = tmp_path / "torn.png"
    torn.write_bytes((digits / "0/00.png").read_bytes()[:100])
    files = [digits / "0/00.png", torn, tmp_path / "absent.png"]
    result = command("embed", *files, "--gateway", gateway, "--json")
    first, second, third = (json.loads(line) for line in result.stdout.splitlines())
    assert result.exit_code == 3
    assert len(first["vector"]) == 256
    assert second["error"]["reason"] == third["error"]["reason"] == "BAD_IMAGE"
    assert "2 of 3 images failed" in result.stderr


def test_models_and_clusters_count_the_stored_items(command, gateway):
    (model,) = lines(command("models", "--gateway", gateway, "--json"))
    clusters = lines(command("clusters", "--gateway", gateway, "--json"))
    assert (model["name"], model["version"], model["clusters"], model["items"]) == ("digits", 1, 3, 60)
    assert sum(cluster["items"] for cluster in clusters) == 60
    assert "digits@1" in command("models", "--gateway", gateway).stdout
    assert "median distance" in command("clusters", "--gateway", gateway).stdout


def test_an_item_is_read_and_deleted(command, index, gateway, digits, tmp_path):
    (tmp_path / "own").mkdir()
    Image.new("RGB", (40, 40), "teal").save(tmp_path / "own" / "teal.png")
    assert index(tmp_path).exit_code == 0
    (hit,) = lines(command("items", "list", "--where", "label=own", "--gateway", gateway, "--json"))
    (item,) = lines(command("items", "get", hit["id"], "--gateway", gateway))
    assert len(item["vector"]) == 256
    assert command("items", "delete", hit["id"], "--gateway", gateway).exit_code == 0
    gone = command("items", "get", hit["id"], "--gateway", gateway)
    assert gone.exit_code == 1
    assert hit["id"] in gone.stderr
    assert gone.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["search"], 2, "one of the two"),
        (["search", "--id", "a", "--limit", "many"], 2, "--limit"),
        (["items", "list", "--where", "label"], 1, "KEY=VALUE"),
        (["items", "list", "--where", "size:=big"], 1, "number"),
        (["search", "--id", "absent"], 1, "absent"),
        (["search", "--id", "absent", "--limit", "-1"], 1, "-1"),
        (["models", "--gateway", "127.0.0.1:1"], 1, "roost serve"),
        (["clusters", "--model", "cats"], 1, "cats"),
    ],
)
def test_a_command_that_cannot_be_done_says_why_in_a_line(command, gateway, arguments, code, text):
    result = command(*arguments, *([] if "--gateway" in arguments else ["--gateway", gateway]))
    assert result.exit_code == code
    assert text in result.stderr
    assert result.stdout == ""
    assert code == 2 or len(result.stderr.splitlines()) == 1


def test_the_gateway_is_asked_to_reload_and_a_bad_version_is_named(command, gateway, exported):
    asked = ("reload", "--gateway", gateway)
    result = command(*asked)
    assert result.exit_code == 0, result.output
    assert "Nothing is new." in result.stderr
    bad = exported.repository / "digits" / "7"
    bad.mkdir()
    try:
        (bad / "manifest.json").write_text("{}")
        result = command(*asked, "--json")
        assert result.exit_code == 3
        answer = json.loads(result.stdout)
        assert answer["refused"]["digits@7"]["reason"] == "BAD_ARTIFACT"
        assert "digits@7: " in result.stderr or "digits/7" in result.stderr
    finally:
        shutil.rmtree(bad)
