"""What an S3 server answers."""

from __future__ import annotations

import io
import json
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import escape

import boto3
from botocore.awsrequest import AWSResponse
from botocore.config import Config
from fuzz.campaign import Files, Reader
from fuzz.children import holds
from fuzz.mutations import damaged
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy
from urllib3 import HTTPResponse

from medsd_ray.errors import RunError
from medsd_ray.storage import S3Storage

CLIENT: Any = boto3.Session("key", "secret", region_name="us-east-1").client(
    "s3",
    endpoint_url="http://127.0.0.1:9",
    config=Config(retries={"max_attempts": 0}, s3={"addressing_style": "path"}),
)
ERROR = b"<Error><Code>SlowDown</Code><Message>m</Message></Error>"

ABSENT = b"<Error><Code>NoSuchKey</Code><Message>m</Message></Error>"


def listing(keys: list[str], folders: tuple[str, ...] = (), token: str = "") -> bytes:
    """A ListObjectsV2 answer."""
    contents = "".join(
        f'<Contents><Key>{quote(key, errors="surrogatepass")}</Key><Size>3</Size><ETag>"e"</ETag>'
        "<LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>"
        for key in keys
    )
    more = "".join(f"<CommonPrefixes><Prefix>{escape(one)}</Prefix></CommonPrefixes>" for one in folders)
    next_ = f"<NextContinuationToken>{token}</NextContinuationToken>" if token else ""
    return (
        '<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        f"<Name>b</Name><EncodingType>url</EncodingType><IsTruncated>{str(bool(token)).lower()}</IsTruncated>"
        f"{next_}{contents}{more}</ListBucketResult>"
    ).encode()


def _answered(folder: Path) -> S3Storage:
    """The store of a server that answers as the case says, and never over a network."""
    answer = json.loads((folder / "answer.json").read_bytes())

    def respond(request: Any, **_: Any) -> AWSResponse:
        listed = "list-type" in request.url
        if request.url.endswith("/COMPLETE"):
            raw = HTTPResponse(io.BytesIO(ABSENT), preload_content=False)
            return AWSResponse(request.url, 404, {}, raw)
        body = answer["listing"].encode("latin-1") if listed else answer["body"].encode("latin-1")
        headers = {"Content-Length": str(len(body)), "ETag": '"e"', "Content-Type": "application/xml"}
        raw = HTTPResponse(io.BytesIO(b"" if request.method == "HEAD" else body), preload_content=False)
        return AWSResponse(request.url, answer["status"], headers | answer["headers"], raw)

    CLIENT.meta.events.register("before-send.s3", respond)
    return S3Storage("bucket", "prefix", CLIENT)


def read_listing(folder: Path) -> None:
    """Names that are listed are texts; a file is there or not."""
    store = _answered(folder)
    for call in (store.level, store.etags, lambda: store.read("k", 100), lambda: store.exists("k")):
        with suppress(FileNotFoundError):
            call()
    with suppress(FileNotFoundError):
        names = store.list()
        holds(all(isinstance(key, str) and key and not key.endswith("/") for key in names), "names of files")
    status = json.loads((folder / "answer.json").read_bytes())["status"]
    holds(status < 300 or status == 404, f"an answer of status {status} is an error")


def read_tree(folder: Path) -> None:
    """What is fetched by a listing lies in its folder, whatever the names are."""
    store, target = _answered(folder), folder / "target"
    try:
        store.download_tree(target)
    except FileNotFoundError as error:
        raise RunError("the server takes back what it listed") from error
    finally:
        there = {path.name for path in folder.iterdir()} | {path.name for path in folder.parent.iterdir()}
        holds(
            there <= {"answer.json", "target", folder.name}, f"nothing is written beside the folder: {there}"
        )
    written = [path for path in target.rglob("*") if path.is_file()]
    holds(all(path.read_bytes() == b"abc" for path in written), "files are whole")


def _answer(
    listed: bytes, status: int = 200, headers: dict[str, str] | None = None, body: bytes = b"abc"
) -> Files:
    answer = {
        "status": status,
        "listing": listed.decode("latin-1"),
        "body": body.decode("latin-1"),
        "headers": headers or {},
    }
    return {"answer.json": json.dumps(answer).encode()}


def _answers() -> SearchStrategy[Files]:
    seeds = [
        listing(["prefix/a.png", "prefix/b/c.json"]), listing(["prefix/x"], ("prefix/f/",)), listing([]),
        ERROR, listing(["prefix/a"], token="t"),
    ]  # fmt: skip
    odd = [
        {},
        {},
        {"Content-Length": "-1"},
        {"Content-Length": "9"},
        {"Content-Type": "text/html"},
        {"ETag": ""},
    ]
    return st.builds(
        _answer,
        damaged(seeds),
        st.sampled_from([200] * 15 + [204, 301, 400, 403, 404, 412, 500, 503, 507, 999]),
        st.sampled_from(odd),
        st.sampled_from([b"abc", b"", ERROR]),
    )


@st.composite
def _trees(draw: DrawFn) -> Files:
    odd = [
        "../x",
        "a/../../x",
        "/etc/x",
        "a",
        "a/b",
        "a/",
        "a//b",
        ".",
        "..",
        "...",
        "~",
        "a\0b",
        "a\nb",
        "x" * 300,
    ]
    part = st.sampled_from(odd) | st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
    keys = draw(st.lists(st.lists(part, min_size=1, max_size=3).map("/".join), min_size=1, max_size=4))
    prefixes = st.sampled_from(["prefix/"] * 9 + ["prefix", "other/", "", "/prefix/"])
    return _answer(listing([draw(prefixes) + key for key in keys]))


READERS = [
    Reader("S3 answers", _answers(), read_listing, 50),
    Reader("S3 names", _trees(), read_tree, 50),
]
