"""The dashboard: odd requests, and good ones for a folder in which something is odd."""

from __future__ import annotations

import asyncio
import json
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from fuzz.campaign import Files, Reader
from fuzz.children import holds, one_line
from fuzz.mutations import damaged, odd_json
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from starlette.types import Message
from studies import write_study

from medsd_ray.dashboard.app import PAGE_CSP, make_app
from medsd_ray.errors import InputError
from medsd_ray.storage import FolderStorage
from medsd_ray.web import HEADERS, Guard

SECRET = "told to nobody"
TOKEN = "0123456789abcdef0123456789abcdef"
PNG = b"\x89PNG\r\n\x1a\n" + SECRET.encode()
GOOD = (
    ("/api/overview", ""),
    ("/api/study", "at=study"),
    ("/api/run", "at=study/trials/0000"),
    ("/api/curves", "at=study&name=validation_loss"),
    ("/api/images", "at=study&trials=0000,0001"),
    ("/api/spec", "at=study&trial=0000"),
    ("/api/diff", "at=study&a=0000&b=0001"),
    ("/image", "at=study/trials/0000&name=images/00000.png"),
    ("/page/index.html", ""),
    ("/", ""),
)


def _study() -> Files:
    with tempfile.TemporaryDirectory() as folder:
        write_study(Path(folder, "study"), 3)
        files = [path for path in Path(folder).rglob("*") if path.is_file()]
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


STUDY = _study()
ODD = sorted(name for name in STUDY if name.endswith((".json", ".jsonl", ".yaml", "COMPLETE")))


async def _answer(app: Any, request: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:
    """The status, headers and body of the answer to a GET, as uvicorn would ask for it."""
    sent: list[Message] = []
    headers = [(k.lower().encode("latin-1"), v.encode("latin-1")) for k, v in request["headers"]]
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1",
        "method": request.get("method", "GET"), "scheme": "http", "path": unquote(request["path"]),
        "raw_path": request["path"].encode("utf-8", "replace"),
        "query_string": request["query"].encode("latin-1", "replace"), "root_path": "", "headers": headers,
        "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 8000),
    }  # fmt: skip

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    await app(scope, receive, send)
    named = {key.decode("latin-1"): value.decode("latin-1") for key, value in sent[0]["headers"]}
    return sent[0]["status"], named, b"".join(message.get("body", b"") for message in sent[1:])


def _ask(folder: Path, request: dict[str, Any], token: str | None) -> tuple[int, bytes]:
    """The answer, of which what holds for all of them has been seen to hold."""
    app = Guard(make_app(FolderStorage(folder / "root")), token=token, name="medsd_dashboard", csp=PAGE_CSP)
    status, headers, body = asyncio.run(_answer(app, request))
    holds(status < 500, f"a request is answered, not with {status}: {body[:200]!r}")
    holds(SECRET.encode() not in body, "nothing outside of the root is told")
    holds({name.lower() for name in HEADERS} <= headers.keys(), f"headers of safety, not {headers}")
    holds(all(value.isprintable() for value in headers.values()), f"headers of one line: {headers}")
    return status, body


def read_request(folder: Path) -> None:
    """Whatever is asked for is answered, and nothing outside of the root is."""
    request = json.loads((folder / "request.json").read_bytes())
    token = TOKEN if request["guarded"] else None
    status, _ = _ask(folder, request, token)
    if token and status < 300:
        given = f"{request['query']} {request['headers']}"
        holds(token in given, "a page with a token is for who has it")
    if status >= 400:
        raise InputError(f"status {status}")


@st.composite
def _requests(draw: DrawFn) -> Files:
    text = st.text(st.characters(max_codepoint=255, exclude_characters="\r\n\0"), max_size=20)
    path, query = draw(st.sampled_from(GOOD))
    odd = st.sampled_from([
        "..", "../secret", "%2e%2e/secret", "/etc/passwd", "study/../..", "study//trials", "\\..", "a\0b",
        "é", "\ud800",
        "study/trials/0000/../../../secret", "0000/../../secret", "images/../../secret.png", "-", "x" * 3000,
    ])  # fmt: skip
    value = (odd | text | st.sampled_from(["study", "study/trials/0000", "0000", "images/00000.png"])).map(
        lambda one: quote(one, safe="/%", errors="surrogatepass")
    )
    names = ["at", "trial", "trials", "a", "b", "name", "since", "token"]
    if draw(st.booleans()):
        query = "&".join(
            f"{draw(st.sampled_from(names))}={draw(value)}" for _ in range(draw(st.integers(0, 4)))
        )
    if draw(st.integers(0, 3)) == 0:
        path = draw(st.sampled_from(["/page/", "/image/", "/api/", "/", "//"])) + draw(value)
    hosts = [
        "localhost:8000",
        "127.0.0.1",
        "[::1]:8000",
        "[::1",
        "evil.example",
        "localhost:99999",
        "localhost@evil",
        "",
    ]
    headers = [["Host", draw(st.sampled_from(hosts[:3] * 6 + hosts))]]
    odd_headers = st.sampled_from(["Origin", "Cookie", "Authorization", "If-None-Match", "Accept-Encoding"])
    for name in draw(st.lists(odd_headers, max_size=2)):
        good = {
            "Cookie": f"medsd_dashboard={TOKEN}",
            "Authorization": f"Bearer {TOKEN}",
            "Accept-Encoding": "gzip",
        }
        headers.append(
            [name, draw(st.just(good.get(name, "http://localhost:8000")) | st.just("http://[::1") | text)]
        )
    request = {
        "path": path, "query": query, "headers": headers, "guarded": draw(st.booleans()),
        "method": draw(st.sampled_from(["GET"] * 8 + ["HEAD", "POST", "OPTIONS"])),
    }  # fmt: skip
    outside = {"secret.png": PNG, "secret/run.yaml": SECRET.encode(), "secret/images/a.png": PNG}
    return {"request.json": json.dumps(request).encode()} | outside | _rooted(STUDY)


def _rooted(files: Files) -> Files:
    return {f"root/{name}": data for name, data in files.items()}


def read_odd_folder(folder: Path) -> None:
    """Of a folder in which a file is odd, every page is an answer in JSON, and the study is still listed."""
    for path, query in GOOD[:-2]:
        request = {"path": path, "query": query, "headers": [["Host", "localhost"]]}
        status, body = _ask(folder, request, None)
        if path != "/image":
            json.loads(body, parse_constant=lambda name: holds(False, f"{name} is no JSON"))
        if path == "/api/overview":
            holds(status == 200 and b'"studies"' in body, f"an overview, not {status}: {body[:200]!r}")
        if status >= 400:
            one_line(json.loads(body)["error"])


@st.composite
def _odd_folders(draw: DrawFn) -> Files:
    name = draw(st.sampled_from(ODD))
    data = STUDY[name]
    if name.endswith(".json") and draw(st.booleans()):
        return _rooted(STUDY | {name: draw(odd_json(json.loads(data)))})
    return _rooted(STUDY | {name: draw(damaged([data]))})


READERS = [
    Reader("requests", _requests(), read_request, 60),
    Reader("pages of odd files", _odd_folders(), read_odd_folder, 40),
]
