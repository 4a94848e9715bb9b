import base64
import hashlib

import grpc
import pytest

from roost.errors import BadPageToken, BadRequest
from roost.v1 import gateway_pb2 as pb
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


@pytest.mark.parametrize("place", ["abc", "-1", "6", "٣", "", "9" * 5000])
def test_a_crafted_token_leads_nowhere_in_a_list_in_memory(place):
    with pytest.raises(BadPageToken):
        pages.cut("abcde", 2, pages.token(place, scope="letters"), scope="letters")


def test_a_crafted_token_that_is_no_text_is_refused():
    content = b"\xff\xfe"
    digest = hashlib.blake2b(b"items\0" + content, digest_size=8).digest()
    crafted = base64.urlsafe_b64encode(digest + content).decode()
    with pytest.raises(BadPageToken):
        pages.start(crafted, scope="items")


def test_a_page_holds_what_fits_into_its_bytes():
    vectors = [pb.Vector(values=bytes(100))] * 5  # 102 bytes each, and 8 for the frame
    assert [pages.fitting(vectors, most) for most in (109, 110, 329, 330, 1000)] == [0, 1, 2, 3, 5]


async def test_a_page_token_of_another_model_is_foreign(stub, digits):
    requests = [pb.IngestItemsRequest(model="digits", item=pb.Item(image=image)) for image in digits[:5]]
    async for _ in stub.IngestItems(iter(requests)):
        pass
    page = await stub.ListItems(pb.ListItemsRequest(model="digits", page_size=2))
    other = pb.ListItemsRequest(model="plain", page_size=2, page_token=page.next_page_token)
    with pytest.raises(grpc.RpcError) as caught:
        await stub.ListItems(other)
    assert "not one that this list gave" in caught.value.details()
