"""Bodies that are not plain JSON in UTF-8 are refused by name."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator

import httpx
import pytest

from tests.fake_engine import FakeEngine, echo, fake_manager
from tests.web.app_server import serving
from web.access import AccessPolicy

BODY = json.dumps({"messages": [{"role": "user", "content": "你好"}]}, ensure_ascii=False).encode()
JSON = "application/json"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    manager = fake_manager(FakeEngine(echo))
    manager.wait()
    with serving(manager, AccessPolicy(admin_key="boss")) as address:
        yield address


def post(
    url: str, content: bytes | Iterator[bytes], content_type: str | None = JSON, **headers: str
) -> httpx.Response:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    if content_type is not None:
        sent["content-type"] = content_type
    return httpx.post(f"{url}/v1/chat/completions", content=content, headers=sent)


@pytest.mark.parametrize(
    "content_type",
    [JSON, "Application/JSON ; charset=UTF-8", 'application/json; charset="utf8"',
     "application/vnd.api+json", "application/json; charset=us-ascii"],
)  # fmt: skip
def test_json_is_accepted(url: str, content_type: str) -> None:
    assert post(url, BODY, content_type).status_code == 200
    assert post(url, b"\xef\xbb\xbf" + BODY, content_type).status_code == 200
    assert post(url, iter([BODY]), content_type, Content_Encoding="identity").status_code == 200


@pytest.mark.parametrize(
    ("content_type", "shown"),
    [
        ("application/x-www-form-urlencoded", "x-www-form-urlencoded"),  # curl's default
        ("text/plain", "text/plain"),
        ("text/plain; application/json", "text/plain"),
        ("multipart/form-data; boundary=x", "multipart"),
        ("application/jsonp", "jsonp"),
        ("json", "is json"),
        ("x" * 9000, "x" * 100 + ","),
        (None, "no Content-Type"),
        ("application/json; charset=gbk", "charset is gbk"),
        ("application/json; charset=iso-8859-1", "iso-8859-1"),
    ],
)
def test_other_types_are_refused_by_name(url: str, content_type: str | None, shown: str) -> None:
    """The field errors of before did not say what was wrong. To accept them would let every web
    page use an API without a key: a browser sends these types without a preflight request."""
    for content in (BODY, iter([BODY])):
        answer = post(url, content, content_type)
        assert (answer.status_code, answer.json()["error"]["code"]) == (
            415, "unsupported_media_type",
        )  # fmt: skip
        assert shown in answer.json()["error"]["message"]
        assert answer.headers["accept-post"] == JSON


@pytest.mark.parametrize(
    ("encoding", "content"),
    [("gzip", gzip.compress(BODY)), ("deflate", zlib.compress(BODY)), ("br", BODY),
     ("identity, gzip", BODY), ("zstd", BODY)],
    ids=["gzip", "deflate", "br", "two", "zstd"],
)  # fmt: skip
def test_compressed_bodies_are_refused_by_name(url: str, encoding: str, content: bytes) -> None:
    answer = post(url, content, Content_Encoding=encoding)
    assert (answer.status_code, answer.headers["accept-encoding"]) == (415, "identity")
    assert encoding in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "no body"),
        (b"null", "not a JSON object"),
        (b"[]", "not a JSON object"),
        (b'"x"', "not a JSON object"),
        (b'{"messages":', "Expecting value at character 12"),
        (b"hello", "not valid JSON"),
        (b"{'messages': []}", "not valid JSON"),
        (BODY.decode().encode("gbk"), "UTF-8"),
        (b"[" * 200_000, "cannot be read as JSON"),
        (b"{}", "messages: Field required"),
    ],
)
def test_the_fault_of_a_body_is_named(url: str, content: bytes, text: str) -> None:
    answer = post(url, content)
    assert answer.status_code == 400
    assert text in answer.json()["error"]["message"]


def test_a_request_without_a_body_needs_no_type(url: str) -> None:
    headers = {"Authorization": "Bearer boss"}
    assert httpx.post(f"{url}/v1/adapters/rescan", headers=headers).status_code == 200
