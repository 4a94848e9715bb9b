import pytest

from roost.errors import BadPageToken, BadRequest
from roost_serving import pages


def test_a_token_leads_back_to_its_key():
    assert pages.start(pages.token("abc", scope="items a"), scope="items a") == "abc"


def test_no_token_is_the_first_page_and_no_key_is_the_last():
    assert pages.start("", scope="items") is None
    assert pages.token(None, scope="items") == ""


@pytest.mark.parametrize("token", ["x", "§", "AAAA", "bm90IG91cnMgYXQgYWxs", pages.token("abc", scope="items b")])
def test_a_foreign_token_is_refused(token):
    with pytest.raises(BadPageToken):
        pages.start(token, scope="items a")


@pytest.mark.parametrize(("asked", "size"), [(0, 10), (1, 1), (1000, 1000)])
def test_a_size_within_bounds_is_taken(asked, size):
    assert pages.size(asked, default=10) == size


@pytest.mark.parametrize("asked", [-1, 1001, -(2**31)])
def test_a_size_out_of_bounds_is_refused(asked):
    with pytest.raises(BadRequest):
        pages.size(asked, default=10)


def test_a_list_in_memory_is_cut_into_pages():
    first, token = pages.cut("abcde", 2, "", scope="letters")
    second, token = pages.cut("abcde", 2, token, scope="letters")
    third, token = pages.cut("abcde", 2, token, scope="letters")
    assert (first, second, third, token) == ("ab", "cd", "e", "")
