import json
import subprocess
import sys

import pytest
import typer
from pydantic_settings import SettingsConfigDict

import roost
from roost import cli
from roost.cli.settings import origins
from roost.settings import Settings
from roost_serving.settings import ServeSettings

HEAVY = {"torch", "onnxruntime", "qdrant_client", "aiohttp", "tritonclient", "sklearn", "torchvision"}


def commands(group, path=()):
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


EVERY = dict(commands(typer.main.get_command(cli.build())))


@pytest.mark.parametrize("path", EVERY, ids=" ".join)
def test_the_help_of_every_command_has_an_example_of_it(path):
    text = EVERY[path].help
    assert f"Example: roost {' '.join(path)}" in text or f" roost {' '.join(path)}" in text.partition("Example:")[2]


@pytest.mark.parametrize("path", EVERY, ids=" ".join)
def test_every_option_says_what_it_is(path):
    assert [param.name for param in EVERY[path].params if not param.help] == []


def test_every_setting_of_the_gateway_is_a_flag(command):
    shown = command("serve", "--help").stdout
    missing = [name for name in ServeSettings.model_fields if f"--{name.replace('_', '-')}" not in shown]
    assert missing == []


def test_a_flag_of_the_gateway_is_checked_like_any_setting(command):
    result = command("serve", "--port", "many")
    assert result.exit_code == 1
    assert "'port'" in result.stderr


@pytest.mark.parametrize(
    "arguments", [["--help"], ["version"], ["models", "--help"], ["models", "--gateway", "[::1]:1"], ["index", "."]]
)
def test_the_command_loads_no_stage(arguments, tmp_path):
    code = (
        "import sys, roost.cli\n"
        f"try: roost.cli.build()({arguments!r})\n"
        "finally: print('LOADED', *sys.modules, file=sys.stderr)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    loaded = set(result.stderr.partition("LOADED")[2].split())
    assert "roost.cli" in loaded
    assert loaded & HEAVY == set()


def test_the_help_needs_neither_grpc_nor_numpy():
    code = "import sys, roost.cli; roost.cli.build(); print(*sys.modules)"
    loaded = set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.split())
    assert loaded & {"grpc", "numpy", "pydantic"} == set()


def test_the_version_is_the_packages(command):
    assert command("version").stdout == f"{roost.__version__}\n"


def test_doctor_reports_parts_and_the_gateway(command, gateway):
    result = command("doctor", "--gateway", gateway, "--json")
    findings = {finding["subject"]: finding for finding in map(json.loads, result.stdout.splitlines())}
    assert result.exit_code == 0
    assert "digits@1" in findings["gateway"]["found"]
    assert "torch" in findings["training"]["found"]


def test_doctor_fails_where_no_gateway_answers(command):
    result = command("doctor", "--gateway", "127.0.0.1:1")
    assert result.exit_code == 1
    assert "roost serve" in result.stdout


def test_config_show_tells_where_each_value_comes_from(command, monkeypatch, tmp_path):
    file = tmp_path / "roost.toml"
    file.write_text("[serve]\nport = 1\nhttp_port = 2\n")
    monkeypatch.setenv("ROOST_SERVE_PORT", "50052")
    result = command("config", "show", "serve", "--config", file, "--json")
    rows = {row["setting"]: (row["value"], row["origin"]) for row in map(json.loads, result.stdout.splitlines())}
    assert rows["port"] == (50052, "ROOST_SERVE_PORT")
    assert rows["http_port"] == (2, str(file))
    assert rows["host"] == ("127.0.0.1", "default")
    assert set(rows) == set(ServeSettings.model_fields)


def test_config_show_knows_what_training_must_be_told(command):
    result = command("config", "show", "train")
    assert result.exit_code == 0, result.output
    assert "(must be given)" in result.stdout


@pytest.mark.parametrize("content", [b"[serve", b"\xff", b"serve = 1\n", None])
def test_config_show_names_a_file_that_cannot_be_read_in_a_line(command, content, tmp_path):
    file = tmp_path / "bad.toml"
    if content is not None:
        file.write_bytes(content)
    result = command("config", "show", "serve", "--config", file)
    assert result.exit_code == 1
    assert result.stderr.startswith("roost: ")
    assert str(file) in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_doctor_advises_no_package_that_an_index_does_not_have(tmp_path):
    code = (
        "import importlib.metadata as m, sys\n"
        "found = m.version\n"
        "def version(name):\n"
        "    if name == 'torch': raise m.PackageNotFoundError(name)\n"
        "    return found(name)\n"
        "m.version = version\n"
        "import roost.cli; roost.cli.build()(['doctor', '--gateway', '127.0.0.1:1', '--json'])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    findings = {finding["subject"]: finding for finding in map(json.loads, result.stdout.splitlines())}
    assert findings["training"]["level"] == "warn"
    assert findings["training"]["advice"].endswith("pip install '.[training]'")


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_config_show_prints_no_secret_of_an_address(command, monkeypatch, tmp_path, form):
    file = tmp_path / "roost.toml"
    file.write_text('[serve]\nbackend = "triton://host:8001?token=hunter2"\n')
    monkeypatch.setenv("ROOST_SERVE_STORE", "qdrant://user:hunter2@host")
    result = command("config", "show", "serve", "--config", file, *form)
    assert result.exit_code == 0, result.stderr
    assert "hunter2" not in result.output
    assert "qdrant://***" in result.stdout
    assert "triton://host:8001?***" in result.stdout


def test_config_show_masks_settings_that_are_called_like_secrets(monkeypatch):
    class Secretive(Settings):
        model_config = SettingsConfigDict(env_prefix="ROOST_SECRETIVE_")
        section = "secretive"
        api_key: str | None = None
        store_password: str | None = "hunter2"
        hub_token: str | None = None
        key_file: str = "key.txt"
        stores: dict[str, str] | None = None

    monkeypatch.setenv("ROOST_SECRETIVE_API_KEY", "hunter2")
    monkeypatch.setenv("ROOST_SECRETIVE_STORES", '{"secret": "hunter2", "url": "qdrant://user:hunter2@host"}')
    shown = {name: value for name, value, _ in origins(Secretive, None)}
    assert shown == {
        "api_key": "***",
        "store_password": "***",
        "hub_token": None,
        "key_file": "key.txt",
        "stores": {"secret": "***", "url": "qdrant://***"},
    }


@pytest.mark.parametrize("url", ["qdrant://user:hunter2@host", "qdrant://host?api_key=hunter2"])
def test_a_gateway_does_not_repeat_the_secret_of_an_address_that_it_refuses(command, url):
    result = command("-vv", "serve", "--store", url)
    assert result.exit_code == 1
    assert "no address of a Qdrant server" in result.stderr
    assert "hunter2" not in result.output


def test_config_show_refuses_what_the_stage_would(command, monkeypatch):
    monkeypatch.setenv("ROOST_SERVE_PROT", "1")
    result = command("config", "show", "serve")
    assert result.exit_code == 1
    assert "'port'" in result.stderr
