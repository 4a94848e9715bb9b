"""The house rules that a linter does not know."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = ("roost", "training", "export", "serving", "tests", "examples", "benchmarks", "deploy")
SOURCES = [
    path
    for folder in FOLDERS
    for path in (ROOT / folder).rglob("*.py")
    if not path.stem.endswith(("_pb2", "_pb2_grpc"))
]


def test_no_file_is_longer_than_400_lines():
    files = [*SOURCES, *(ROOT / "roost").rglob("*.proto")]
    lengths = {path.relative_to(ROOT): len(path.read_text().splitlines()) for path in files}
    assert {path: length for path, length in lengths.items() if length > 400} == {}


def test_no_module_is_named_for_being_handy():
    assert [path for path in SOURCES if path.stem in {"utils", "util", "helpers", "common", "misc"}] == []


def test_every_module_says_what_it_is():
    silent = [path.relative_to(ROOT) for path in SOURCES if not path.read_text().lstrip().startswith('"""')]
    assert [path for path in silent if path.parts[0] != "tests"] == []


def test_locked_requirements_are_hashed_and_name_no_host():
    for path in (ROOT / "requirements").glob("*.txt"):
        text = path.read_text()
        assert "--hash=sha256:" in text, path
        assert "://" not in text.replace("https://docs.astral.sh", ""), path
