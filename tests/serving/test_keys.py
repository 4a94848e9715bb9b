"""The keys file: what it may say, and what is said of one that does not."""

import hashlib

import pytest
from typer.testing import CliRunner

from roost import cli
from roost.errors import BadSettings, Unauthenticated
from roost_serving import keys
from roost_serving.callers import Role
from roost_serving.keys import Keys

HASH = hashlib.sha256(b"one").hexdigest()


@pytest.fixture
def file(tmp_path):
    return tmp_path / "keys.toml"


def test_a_new_key_opens_and_only_its_hash_is_kept(file):
    key = keys.add(
        file, "webshop", role="write", models=["photos"], images_per_second=2.5, calls_per_second=9, in_flight=8
    )
    caller = Keys(file).caller(key)
    assert (caller.name, caller.role, caller.models) == ("webshop", Role.WRITE, {"photos"})
    assert (caller.images_per_second, caller.calls_per_second, caller.in_flight) == (2.5, 9, 8)
    assert key not in file.read_text()


def test_keys_are_added_to_those_that_are_there(file):
    file.write_text("# ours\n" + f'[keys.first]\nsha256 = "{HASH}"\n')
    keys.add(file, "second", role="admin")
    assert {caller.name for caller in keys.read(file).values()} == {"first", "second"}
    assert file.read_text().startswith("# ours\n")


@pytest.mark.parametrize("presented", ["", "one ", HASH, "två", "\udcff", "roost_" + "x" * 43])
def test_what_is_no_key_opens_nothing(file, presented):
    file.write_text(f'[keys.first]\nsha256 = "{HASH}"\n')
    found = Keys(file)
    assert found.caller("one").name == "first"
    with pytest.raises(Unauthenticated) as caught:
        found.caller(presented)
    assert not presented or presented not in caught.value.message


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "keys"),
        ("[keys]\n", "keys"),
        ("[keys", "no TOML file"),
        ('[keys.a]\nsha256 = "secret"\n', r"keys\.a\.sha256"),
        (f'[keys.a]\nsha256 = "{HASH}"\nrole = "root"\n', r"keys\.a\.role"),
        (f'[keys.a]\nsha256 = "{HASH}"\nmodels = []\n', r"keys\.a\.models"),
        (f'[keys.a]\nsha256 = "{HASH}"\nimages_per_second = 0\n', r"keys\.a\.images_per_second"),
        (f'[keys.a]\nsha256 = "{HASH}"\ncalls_per_second = 0\n', r"keys\.a\.calls_per_second"),
        (f'[keys.a]\nsha256 = "{HASH}"\nrol = "read"\n', r"keys\.a\.rol"),
        (f'[keys."A key"]\nsha256 = "{HASH}"\n', r"keys\.\(not shown\): String should match"),
        (f'[keys."roost_Asecret"]\nsha256 = "{HASH}"\n', r"keys\.\(not shown\): String should match"),
        (f'[keys.a]\nsha256 = "{HASH}"\nroost_Asecret = 1\n', r"keys\.a\.\(not shown\): Extra"),
        ('"roost_Asecret" = 1\n', r"keys: Field required"),
        ("[keys.roost_Asecret]\n[keys.roost_Asecret]\n", "no TOML file, at line 2, column"),
        (f'[keys.a]\nsha256 = "{HASH}"\n[keys.b]\nsha256 = "{HASH}"\n', "two names to one key"),
    ],
)
def test_a_file_that_says_something_else_is_refused_without_what_might_be_a_key(file, content, said):
    file.write_text(content)
    with pytest.raises(BadSettings, match=said) as caught:
        Keys(file)
    assert "secret" not in caught.value.message


def test_a_missing_file_is_refused(file):
    with pytest.raises(BadSettings, match="cannot be read: No such file"):
        Keys(file)


@pytest.mark.parametrize(
    ("name", "given"),
    [("a b", {}), ("", {}), ("x", {"role": "root"}), ("x", {"in_flight": 0}), ("x", {"models": ["A"]})],
)
def test_what_would_make_a_bad_file_is_refused_and_nothing_written(file, name, given):
    with pytest.raises(BadSettings):
        keys.add(file, name, **given)
    assert not file.exists()


def test_a_name_that_is_taken_is_refused(file):
    keys.add(file, "webshop")
    before = file.read_text()
    with pytest.raises(BadSettings, match="has a key of 'webshop' already"):
        keys.add(file, "webshop")
    assert file.read_text() == before


def test_the_commands_print_the_key_alone_and_list_what_it_may_do(file):
    added = CliRunner().invoke(cli.build(), ["keys", "add", "webshop", "--model", "photos", "--file", str(file)])
    assert Keys(file).caller(added.stdout.strip()).name == "webshop"
    listed = CliRunner().invoke(cli.build(), ["keys", "list", "--file", str(file), "--json"])
    assert '"name": "webshop", "role": "read", "models": ["photos"]' in listed.stdout
    shown = CliRunner().invoke(cli.build(), ["keys", "list", "--file", str(file)])
    assert "webshop" in shown.stdout
    assert added.stdout.strip() not in shown.stdout
