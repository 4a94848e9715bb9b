import pickle
import re

import grpc
import pytest

from roost import errors
from roost.errors import RoostError, TooLarge

CLASSES = RoostError.__subclasses__()


def test_the_tree_at_the_top_of_the_module_lists_every_error_and_its_code():
    lines = re.findall(r"^[├└]── (\w+) +([A-Z_]+) +\S", errors.__doc__ or "", re.MULTILINE)
    assert lines == [(error.__name__, error.code) for error in CLASSES]


@pytest.mark.parametrize("error", CLASSES)
def test_every_code_is_one_of_grpc_and_never_unknown(error):
    assert error.code in set(grpc.StatusCode.__members__) - {"OK", "UNKNOWN"}


@pytest.mark.parametrize("error", CLASSES)
def test_every_reason_can_stand_in_an_error_info(error):
    # google/rpc/error_details.proto: at most 63 characters of [A-Z][A-Z0-9_]+[A-Z0-9].
    assert re.fullmatch(r"[A-Z][A-Z0-9_]{0,61}[A-Z0-9]", error.reason)


def test_only_a_fault_of_roosts_own_is_internal():
    assert [error.__name__ for error in CLASSES if error.code == "INTERNAL"] == ["Unexpected"]


def test_each_reason_belongs_to_one_class():
    assert list(errors.by_reason().values()) == CLASSES


def test_an_error_reads_as_its_message_and_keeps_its_facts_as_text():
    error = TooLarge("The image has 11 bytes.", bytes=11, limit=None)
    assert (str(error), error.message, error.facts) == (
        "The image has 11 bytes.",
        "The image has 11 bytes.",
        {"bytes": "11", "limit": "None"},
    )


def test_an_error_crosses_processes_whole():
    error = pickle.loads(pickle.dumps(TooLarge("The image has 11 bytes.", bytes=11)))
    assert (type(error), error.message, error.facts) == (TooLarge, "The image has 11 bytes.", {"bytes": "11"})
