"""The token, the headers and who may reach a page."""

from __future__ import annotations

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from medsd_ray.errors import InputError
from medsd_ray.web import Guard, access_token, is_local

TOKEN = "a-token-of-some-length"


def client(token: str | None, host: str = "localhost:8000") -> TestClient:
    app = FastAPI()
    app.get("/")(lambda: {"hello": "reader"})
    app.post("/")(lambda: {"taken": True})
    return TestClient(
        Guard(app, token=token, name="medsd-test"), base_url=f"http://{host}", follow_redirects=False
    )


def test_a_page_on_localhost_needs_no_token_and_answers_to_its_own_names_alone():
    assert client(None).get("/").status_code == 200
    assert client(None, "127.0.0.1:8000").get("/").status_code == 200
    assert client(None, "[::1]:8000").get("/").status_code == 200
    assert client(None, "evil.example:8000").get("/").status_code == 403
    assert client(None, "localhost.evil.example").get("/").status_code == 403


def test_an_exposed_page_needs_its_token():
    page = client(TOKEN, "reader.example")
    for words in ({}, {"headers": {"Authorization": "Bearer wrong"}}, {"cookies": {"medsd-test": "wrong"}}):
        assert page.get("/", **words).status_code == 401
    assert page.get("/?token=wrong").status_code == 401
    assert page.get("/", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200


def test_the_token_moves_from_the_address_into_a_cookie():
    page = client(TOKEN, "reader.example")
    first = page.get(f"/?token={TOKEN}&page=2")
    assert first.status_code == 303 and first.headers["location"] == "/?page=2"
    cookie = first.headers["set-cookie"].lower()
    assert "httponly" in cookie and "samesite=strict" in cookie
    assert page.get("/").status_code == 200
    # A path with two slashes would lead to another host.
    assert (
        client(TOKEN).get(f"http://localhost:8000//evil.example?token={TOKEN}").headers["location"]
        == "/evil.example"
    )


def test_other_sites_are_refused_and_every_answer_has_the_headers():
    for token, code in ((None, 200), (TOKEN, 401)):
        answer = client(token).get("/")
        assert answer.status_code == code
        assert "script-src 'self'" in answer.headers["content-security-policy"]
        assert "unsafe" not in answer.headers["content-security-policy"]
        assert (
            answer.headers["x-content-type-options"] == "nosniff"
            and answer.headers["cache-control"] == "no-store"
        )
    assert client(None).post("/", headers={"Origin": "http://evil.example"}).status_code == 403
    assert client(None).post("/", headers={"Origin": "http://localhost:9000"}).status_code == 403
    assert client(None).post("/", headers={"Origin": "http://localhost:8000"}).status_code == 200


def test_where_a_token_comes_from(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("MEDSD_TEST_TOKEN", raising=False)
    assert access_token("127.0.0.1", "MEDSD_TEST_TOKEN") is None
    one, other = (access_token("0.0.0.0", "MEDSD_TEST_TOKEN") for _ in range(2))
    assert one and other and one != other and len(one) >= 32
    monkeypatch.setenv("MEDSD_TEST_TOKEN", TOKEN)
    assert (
        access_token("127.0.0.1", "MEDSD_TEST_TOKEN") == access_token("0.0.0.0", "MEDSD_TEST_TOKEN") == TOKEN
    )
    monkeypatch.setenv("MEDSD_TEST_TOKEN", "short")
    with pytest.raises(InputError, match="choose 16 or more"):
        access_token("127.0.0.1", "MEDSD_TEST_TOKEN")
    assert [is_local(h) for h in ("localhost", "127.3.2.1", "::1", "0.0.0.0", "10.0.0.1", "")] == [
        True
    ] * 3 + [False] * 3


@pytest.mark.parametrize("name", ["Host", "Origin"])
@pytest.mark.parametrize("value", ["[::1", "http://[::1", "[", "http://[x]y", "//[", "http://a\u2100b"])
def test_a_malformed_address_is_refused_in_words(name: str, value: str):
    for token in (None, TOKEN):
        answer = client(token).get("/", headers={name: value.encode()})
        assert answer.status_code in (400, 401, 403) and "Traceback" not in answer.text
