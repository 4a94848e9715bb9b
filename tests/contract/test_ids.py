import hashlib
import uuid

import pytest

from roost.ids import NAMESPACE, content_id, point_id, sha256_id

ID = "0f8fad5b-d9cb-469f-a165-70867728950e"


def test_content_has_the_same_id_wherever_it_is_sent_from():
    # uuid5, RFC 9562 section 5.5: the first 16 bytes of SHA-1 over namespace and name, with version and variant set.
    name = hashlib.sha256(b"abc").hexdigest()
    digest = bytearray(hashlib.sha1(NAMESPACE.bytes + name.encode()).digest()[:16])
    digest[6], digest[8] = digest[6] & 0x0F | 0x50, digest[8] & 0x3F | 0x80
    assert content_id(b"abc") == str(uuid.UUID(bytes=bytes(digest)))


def test_ids_that_are_kept_in_stores_never_change():
    # Made by this function when the format was fixed; another value would orphan every stored item.
    assert content_id(b"") == "deb3d19c-4972-5c85-81f8-2b80d0f20270"
    assert point_id("cat-1") == "ac859735-14b9-5dbc-82e0-d04b8cf89d8e"


def test_a_known_sha256_gives_the_same_id_as_the_content():
    assert sha256_id(hashlib.sha256(b"abc").hexdigest()) == content_id(b"abc")


def test_one_bit_makes_another_id():
    assert content_id(b"abc") != content_id(b"abb")


def test_an_id_that_is_a_uuid_is_its_own_key():
    assert point_id(ID) == ID
    assert point_id(content_id(b"abc")) == content_id(b"abc")


@pytest.mark.parametrize("other", [ID.upper(), ID.replace("-", ""), f"{{{ID}}}", f"urn:uuid:{ID}"])
def test_another_spelling_of_a_uuid_is_another_item(other):
    assert point_id(other) not in (ID, other)


@pytest.mark.parametrize("item_id", ["", "cat", "x" * 256, "ключ", "a/b", "0"])
def test_any_text_has_a_key_that_is_a_uuid(item_id):
    assert str(uuid.UUID(point_id(item_id))) == point_id(item_id)
