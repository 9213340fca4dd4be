"""The dashboard's server: what it hands out, to whom, with which headers, and how it ends on bad input."""

from __future__ import annotations

import gzip
import os
import re
import socket
from pathlib import Path
from urllib.parse import quote

import pytest
from command import assert_refused, medsd_here
from fastapi.testclient import TestClient
from studies import make_trial, summarise, write_json, write_run, write_study

from medsd_ray.dashboard import app as dashboard
from medsd_ray.dashboard.app import PAGE_CSP, make_app, page_file
from medsd_ray.errors import InputError
from medsd_ray.storage import FolderStorage
from medsd_ray.web import Guard

TOKEN = "a-token-of-some-length"
PAGE = Path(dashboard.__file__).parent / "page"
SCRIPTS = sorted(PAGE.glob("*.js"))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("root")
    write_study(root / "studies/one")
    write_run(root / "runs/alone", make_trial(0))
    (root / "secret.txt").write_text("secret")
    (root / "secret.png").write_bytes(b"\x89PNG\r\n\x1a\nsecret")
    return root


def client(root: Path, token: str | None = None, host: str = "localhost") -> TestClient:
    app = Guard(make_app(FolderStorage(root)), token=token, name="medsd_dashboard", csp=PAGE_CSP)
    return TestClient(app, base_url=f"http://{host}", follow_redirects=False, raise_server_exceptions=False)


@pytest.fixture
def page(root: Path) -> TestClient:
    return client(root)


def test_every_answer_has_strict_headers(page: TestClient):
    for address in (
        "/",
        "/page/app.js",
        "/api/overview",
        "/api/study?at=nowhere",
        "/image?at=&name=x",
        "/nothing",
    ):
        headers = page.get(address).headers
        policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
        assert policy["default-src"] == "'none'" and policy["script-src"].split()[0] == "'self'"
        assert "unsafe-inline" not in headers["content-security-policy"]
        assert policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] in ("no-store", "no-cache")


def test_nothing_can_be_written(page: TestClient):
    for address in ("/", "/api/overview", "/api/study", "/image", "/page/app.js"):
        for method in ("POST", "PUT", "PATCH", "DELETE"):
            assert page.request(method, address).status_code == 405


def test_an_exposed_page_asks_for_its_token(root: Path):
    page = client(root, TOKEN, "page.example")
    for address in ("/", "/api/overview", "/page/plotly.min.js", "/image?at=runs/alone&name=x.png"):
        assert page.get(address).status_code == 401
        assert page.get(address, headers={"Authorization": "Bearer wrong"}).status_code == 401
    assert page.get("/api/overview", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200
    first = page.get(f"/?token={TOKEN}")
    assert (first.status_code, first.headers["location"]) == (303, "/")
    cookie = first.headers["set-cookie"]
    assert "HttpOnly" in cookie and "samesite=strict" in cookie.lower()
    assert page.get("/api/overview").status_code == 200  # the client keeps the cookie


def test_the_page_has_no_inline_script_and_its_scripts_write_no_html():
    html = (PAGE / "index.html").read_text()
    assert all("src=" in tag for tag in re.findall(r"<script[^>]*>", html)) and set(
        re.findall(r"<script[^>]*>(.*?)</script>", html)
    ) == {""}
    assert not re.search(r"\son\w+=|<style|style=", html)
    assert len(SCRIPTS) > 8
    for path in SCRIPTS:
        text = path.read_text()
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|createContextualFragment|\beval\(|DOMParser",
            text,
        ), path


def test_the_pages_own_files_come_zipped_and_once(page: TestClient):
    first = page.get("/page/plotly.min.js")
    assert first.headers["content-encoding"] == "gzip" and int(first.headers["content-length"]) < 2_000_000
    assert first.content.startswith(b"/**\n* plotly.js v")
    again = page.get("/page/plotly.min.js", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert (
        "content-encoding"
        not in page.get("/page/plotly.min.js", headers={"Accept-Encoding": "identity"}).headers
    )
    for name in ("app.py", "__init__.py", "%2e%2e%2fapp.py", "plotly.py"):
        assert page.get(f"/page/{name}").status_code == 404
    found = page_file("style.css")
    assert found and gzip.decompress(found[1]) == found[0]


def test_what_has_not_changed_is_not_sent_again(tmp_path: Path):
    write_study(tmp_path, with_images=False)
    page = client(tmp_path)
    first = page.get("/api/study", params={"at": ""})
    tag = {"If-None-Match": first.headers["etag"]}
    assert page.get("/api/study", params={"at": ""}, headers=tag).status_code == 304
    write_json(tmp_path / "study.json", summarise([make_trial(0)], "done"))
    second = page.get("/api/study", params={"at": ""}, headers=tag)
    assert second.status_code == 200 and second.json()["state"] == "done"


def test_the_pages_data(page: TestClient):
    overview = page.get("/api/overview").json()
    assert [one["at"] for one in overview["studies"]] == ["studies/one"] and [
        one["at"] for one in overview["runs"]
    ] == ["runs/alone"]
    study = {"at": "studies/one"}
    assert len(page.get("/api/study", params=study).json()["trials"]) == 12
    assert len(page.get("/api/curves", params=study).json()["curves"]) == 11
    assert page.get("/api/curves", params=study | {"name": "secret"}).status_code == 404
    assert page.get("/api/run", params={"at": "studies/one/trials/0000"}).json()["state"] == "finished"
    assert (
        page.get("/api/spec", params=study | {"trial": "0000"})
        .json()["yaml"]
        .startswith("name: chambon2022-0000\n")
    )
    assert page.get("/api/spec", params=study | {"trial": "0011"}).status_code == 404
    difference = page.get("/api/diff", params=study | {"a": "0000", "b": "0002"}).json()["difference"]
    assert {"field": "seed", "a": "0", "b": "1"} not in difference and len(difference) > 2
    images = page.get("/api/images", params=study | {"trials": "0000,0001,../..,"}).json()
    assert images["trials"] == ["0000", "0001"]
    row = images["rows"][0]
    image = page.get(
        "/image", params={"at": "studies/one/trials/0000", "name": row["name"], "v": row["stamps"]["0000"]}
    )
    assert image.status_code == 200 and image.headers["content-type"] == "image/png"
    assert "private" in image.headers["cache-control"]


def test_no_other_file_is_handed_out(root: Path, page: TestClient):
    run = root / "runs/alone"
    (run / "images").mkdir(exist_ok=True)
    (run / "images/text.png").write_text("no PNG")
    (run / "images/link.png").symlink_to(root / "secret.png")  # below the root
    (run / "images/out.png").symlink_to("/etc/passwd")
    names = (
        "text.png",
        "out.png",
        "../run.yaml",
        "../../../secret.png",
        "..",
        ".png",
        "a/b.png",
        "%2e%2e/run.yaml",
        "a.png\x00",
        "a.PNG",
    )
    for name in (
        *(f"images/{name}" for name in names),
        "run.yaml",
        "checkpoints/a.png",
        "/etc/passwd",
        "samples/step-x/00.png",
        "",
    ):
        answer = page.get("/image", params={"at": "runs/alone", "name": name})
        assert answer.status_code == 404, name
    assert page.get("/image", params={"at": "runs/alone", "name": "images/link.png"}).status_code == 200
    for at in ("..", "../..", "/etc", "runs/alone/../..", "runs\\alone", str(root), "", "runs"):
        for address in ("/api/study", "/api/run", "/api/curves", "/api/images"):
            assert page.get(address, params={"at": at}).status_code == 404, (address, at)
        assert page.get("/image", params={"at": at, "name": "images/link.png"}).status_code == 404
        assert page.get("/api/spec", params={"at": at, "trial": "0000"}).status_code == 404
    for trial in ("..", "../../runs/alone", "0000/..", "", "a" * 65):
        assert page.get("/api/spec", params={"at": "studies/one", "trial": trial}).status_code == 404
        assert page.get("/api/diff", params={"at": "studies/one", "a": trial, "b": "0000"}).status_code == 404
    for path in (
        "/page/../secret.txt",
        "/page/" + quote("../secret.txt", safe=""),
        "/secret.txt",
        "/openapi.json",
        "/docs",
    ):
        assert "secret" not in page.get(path).text and page.get(path).status_code == 404


def test_a_link_out_of_the_root_is_not_followed_and_breaks_nothing(root: Path, tmp_path: Path):
    (tmp_path / "inner/study").mkdir(parents=True)
    (tmp_path / "inner/study/study.json").symlink_to(root / "studies/one/study.json")
    (tmp_path / "inner/runs").symlink_to(root / "runs", target_is_directory=True)
    page = client(tmp_path / "inner")
    overview = page.get("/api/overview").json()
    assert [one["trials"] for one in overview["studies"]] == [0] and overview["runs"] == []
    assert page.get("/api/study", params={"at": "study"}).json()["trials"] == []
    assert page.get("/api/run", params={"at": "runs/alone"}).status_code == 404


def test_a_storage_that_is_away_is_said_in_a_line(root: Path, monkeypatch: pytest.MonkeyPatch):
    def away(*_: object) -> None:
        raise InputError("s3://bucket: no S3 server answers at http://localhost:1; check AWS_ENDPOINT_URL")

    monkeypatch.setattr(FolderStorage, "level", away)
    answer = client(root).get("/api/overview")
    assert (answer.status_code, answer.json()["error"].split(":")[0]) == (503, "s3")


def test_bad_input_is_one_line_and_exit_2(tmp_path: Path):
    assert_refused(medsd_here("dashboard", tmp_path / "absent"), "absent", "no such folder")
    file = tmp_path / "file"
    file.write_text("")
    assert_refused(medsd_here("dashboard", file), "no such folder")
    assert_refused(medsd_here("dashboard", "ftp://host/path"), "ftp://")
    assert_refused(
        medsd_here("dashboard", tmp_path, MEDSD_DASHBOARD_TOKEN="short"), "MEDSD_DASHBOARD_TOKEN", "16"
    )
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert_refused(medsd_here("dashboard", tmp_path, "--port", port), str(port), "in use", "--port")
    assert "Example: medsd dashboard " in medsd_here("dashboard", "--help").stdout


def test_links_in_a_circle_and_pipes_break_nothing(tmp_path: Path):
    write_run(tmp_path / "runs/one", make_trial(0))
    (tmp_path / "runs/circle").symlink_to(tmp_path / "runs/circle")
    (tmp_path / "runs/up").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "runs/pipe")
    (tmp_path / "odd").mkdir()
    os.mkfifo(tmp_path / "odd/study.json")
    page = client(tmp_path)
    answer = page.get("/api/overview")
    assert answer.status_code == 200 and [one["at"] for one in answer.json()["runs"]] == ["runs/one"]
