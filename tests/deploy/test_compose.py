"""The compose file names images, settings, files and servers that exist."""

import re
from urllib.parse import urlsplit

import pytest
import yaml

from roost_serving.settings import ServeSettings

OURS = {"gateway", "embedded"}


@pytest.fixture(scope="module")
def compose(root) -> dict:
    return yaml.safe_load((root / "deploy/compose.yaml").read_text())


@pytest.fixture(scope="module")
def services(compose) -> dict:
    return compose["services"]


def test_every_image_has_a_version_and_ours_are_built_here(services, root):
    for name, service in services.items():
        assert re.search(r":v?\d+\.\d+", service["image"]), name
        if name in OURS:
            assert (root / "deploy" / service["build"]["context"] / service["build"]["dockerfile"]).is_file()


def test_the_chart_and_compose_run_the_same_servers(services, chart):
    for part in ("triton", "qdrant"):
        image = chart.values[part]["image"]
        assert services[part]["image"] == f"{image['registry']}/{image['repository']}:{image['tag']}"
    assert services["gateway"]["image"].endswith(":" + chart.metadata["appVersion"])


@pytest.mark.parametrize("name", sorted(OURS))
def test_the_gateway_can_read_its_settings_and_finds_its_servers(name, services, root, monkeypatch):
    dockerfile = (root / "deploy/docker/gateway.Dockerfile").read_text()
    environment = dict(re.findall(r"(ROOST_SERVE_\w+)=(\S+)", dockerfile)) | services[name].get("environment", {})
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    settings = ServeSettings.load()
    assert f"127.0.0.1:{settings.port}:{settings.port}" in services[name]["ports"]
    for url in (settings.backend, settings.store):
        parts = urlsplit(url)
        mounted = {volume.split(":")[1] for volume in services[name]["volumes"]}
        assert parts.hostname in services or "/" + parts.path.split("/")[1] in mounted, url
    assert int(services[name]["stop_grace_period"].rstrip("s")) > settings.drain_seconds + settings.grace_seconds


def test_every_dependency_has_a_health_check(services):
    for service in services.values():
        for name, condition in service.get("depends_on", {}).items():
            assert condition == {"condition": "service_healthy"}
            assert services[name]["healthcheck"]["test"][0] == "CMD"


def test_every_volume_is_declared_and_every_mounted_file_is_there(compose, services, root):
    mounts = [volume.split(":")[0] for service in services.values() for volume in service["volumes"]]
    named = {mount for mount in mounts if "." not in mount}
    assert named == set(compose["volumes"])
    files = {mount for mount in mounts if "." in mount} - {"../model_repository"}  # made by `roost export`
    assert [path for path in files if not (root / "deploy" / path).exists()] == []


def test_every_container_is_locked_down_and_published_to_this_machine_alone(services):
    for name, service in services.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert [port for port in service.get("ports", []) if not port.startswith("127.0.0.1:")] == [], name


def test_one_command_starts_either_variant(services):
    plain = {name for name, service in services.items() if "profiles" not in service}
    assert plain == {"gateway", "triton", "qdrant", "prometheus"}
    assert services["embedded"]["profiles"] == ["embedded"]
    assert "depends_on" not in services["embedded"]
