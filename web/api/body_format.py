"""Checks the headers of a request's body: the API reads JSON in UTF-8, uncompressed.

A browser sends other types to foreign servers without asking them first, so accepting these would
let every web page use an API without a key.
"""

from __future__ import annotations

from email.message import Message

from starlette.datastructures import Headers

from web.api.errors import UnsupportedBodyError

CHARSETS = ("utf-8", "utf8", "us-ascii", "ascii")
JSON = {"Accept-Post": "application/json"}
UNCOMPRESSED = {"Accept-Encoding": "identity"}
MAX_SHOWN = 100  # characters of a header in an error


def check_body_format(headers: Headers) -> None:
    """Checks the type, charset and compression of a body, if there is one.

    Raises:
        UnsupportedBodyError: it is not JSON in UTF-8, or compressed.
    """
    if headers.get("content-length", "0") == "0" and "transfer-encoding" not in headers:
        return
    content_type = headers.get("content-type", "").strip()
    if not content_type:
        raise UnsupportedBodyError("content_type_missing", JSON)
    parsed = Message()
    parsed["content-type"] = content_type
    kind, subtype = parsed.get_content_maintype(), parsed.get_content_subtype()
    if kind != "application" or not (subtype == "json" or subtype.endswith("+json")):
        shown = content_type[:MAX_SHOWN]
        raise UnsupportedBodyError("content_type_unsupported", JSON, content_type=shown)
    charset = str(parsed.get_param("charset", CHARSETS[0]))
    if charset.lower() not in CHARSETS:
        raise UnsupportedBodyError("charset_unsupported", JSON, charset=charset[:MAX_SHOWN])
    encoding = headers.get("content-encoding", "").strip()
    if encoding.lower() not in ("", "identity"):
        shown = encoding[:MAX_SHOWN]
        raise UnsupportedBodyError("content_encoding_unsupported", UNCOMPRESSED, encoding=shown)
