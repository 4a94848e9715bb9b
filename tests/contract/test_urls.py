import pytest

from roost.urls import redacted, target


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("qdrant://user:hunter2@host", "qdrant://***"),
        ("qdrant://hunter2@host:6334", "qdrant://***"),
        ("user:hunter2@host", "***"),
        ("qdrant://host:6334?api_key=hunter2", "qdrant://host:6334?***"),
        ("qdrant://host?tls=1&key=hunter2", "qdrant://host?***"),
        ("qdrant://host?api_key=hunter@2", "qdrant://***"),
        ("qdrant://host#hunter2", "qdrant://host#***"),
        ("qdrant://host:hunter2", "qdrant://host:***"),
    ],
)
def test_what_may_be_a_secret_is_masked(url, shown):
    assert redacted(url) == shown


@pytest.mark.parametrize(
    "text",
    [
        "qdrant://host:6334?tls=1", "qdrant://[::1]:6334", "edge://data/index", "edge:///data/a:b", "onnx://models",
        "memory://", "memory", "photos@1", "127.0.0.1", "",
    ],
)  # fmt: skip
def test_what_tells_nothing_is_shown(text):
    assert redacted(text) == text


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("a://host", "host:7"),
        ("a://host:1/", "host:1"),
        ("a://[::1]?b=c", "[::1]:7"),
        ("a://", None),
        ("a://:1", None),
        ("a://[::1", None),
        ("a://host:x", None),
        ("a://host:70000", None),
        ("a://host/path", None),
        ("a://user@host", None),
        ("a://:@host", None),
        ("a://host#b", None),
    ],
)
def test_a_url_names_a_server_and_no_more(url, found):
    assert target(url, port=7) == found
