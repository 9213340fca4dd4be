"""What medsd's web pages share: who may come in, the headers that every answer carries, and serving until
Ctrl-C.

On localhost a page needs no token, but answers only to localhost's own names, so that no other site can reach
it by DNS rebinding. On any other host it needs one: `?token=` once, which becomes a cookie, or
`Authorization: Bearer`.
"""

from __future__ import annotations

import ipaddress
import os
import secrets
import socket
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qsl, urlencode, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from medsd_ray.console import clear
from medsd_ray.errors import InputError

SHORTEST = 16  # characters of a token that is given
CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def is_local(host: str) -> bool:
    """Whether a host's name or address is this machine alone."""
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def access_token(host: str, variable: str) -> str | None:
    """The token that a page on `host` asks for: the environment's, else a new one; None on localhost without
    one.

    Raises InputError for one that is easily guessed.
    """
    given = os.environ.get(variable, "")
    if given and len(given) < SHORTEST:
        raise InputError(
            f"{variable} has {len(given)} characters; choose {SHORTEST} or more, or leave it out to get one"
        )
    return given or (None if is_local(host) else secrets.token_urlsafe(24))


class Guard:
    """ASGI middleware: lets in who has the token (or, without one, who asks on localhost), and sets HEADERS
    and the CSP.

    `name` is the cookie's. Other sites' pages are refused whatever they send.
    """

    def __init__(self, app: ASGIApp, *, token: str | None, name: str, csp: str = CSP):
        self.app, self.token, self.name, self.csp = app, token, name, csp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":
            return await send({"type": "websocket.close", "code": 1008})

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)  # a page may let its scripts be kept by the browser
                headers["Content-Security-Policy"] = self.csp
            await send(message)

        await (self._refusal(scope) or self.app)(scope, receive, answer)

    def _refusal(self, scope: Scope) -> ASGIApp | None:
        """The answer in place of the page's, or None where the request may pass."""
        headers = Headers(scope=scope)
        host, origin = headers.get("host", ""), headers.get("origin")
        try:
            name, netloc = urlsplit(f"//{host}").hostname or "", urlsplit(origin or f"//{host}").netloc
        except ValueError:  # such as [::1 without its end
            return PlainTextResponse("The request's Host or Origin is no address.", 400)
        if netloc != host:
            return PlainTextResponse("This page takes requests from itself alone.", 403)
        if self.token is None:
            local = is_local(name)
            return (
                None
                if local
                else PlainTextResponse("This page is for this machine alone: open it as localhost.", 403)
            )
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        given = dict(query).get("token")
        if given is not None and self._right(given):
            return self._welcome(scope, [(name, value) for name, value in query if name != "token"])
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        if self._right(_cookie(headers, self.name)) or (scheme.lower() == "bearer" and self._right(bearer)):
            return None
        return PlainTextResponse("This page needs its token: open the address that the server printed.", 401)

    def _right(self, given: str) -> bool:
        return self.token is not None and secrets.compare_digest(given.encode(), self.token.encode())

    def _welcome(self, scope: Scope, query: list[tuple[str, str]]) -> RedirectResponse:
        """Keeps the token in a cookie, and out of the address bar and the history."""
        path = "/" + scope["path"].lstrip("/\\")  # never another host
        response = RedirectResponse(path + ("?" + urlencode(query) if query else ""), 303)
        secure = scope.get("scheme") == "https"
        response.set_cookie(self.name, self.token or "", httponly=True, samesite="strict", secure=secure)
        return response


def _cookie(headers: Headers, name: str) -> str:
    try:
        found = SimpleCookie(headers.get("cookie", "")).get(name)
    except CookieError:
        return ""
    return found.value if found else ""


def serve(app: ASGIApp, host: str, port: int, *, token: str | None, what: str) -> None:
    """Serves until Ctrl-C or SIGTERM; prints the address first. Raises InputError where it cannot listen
    there.
    """
    import uvicorn

    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    with listener:
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host, port))
            listener.listen()  # before the address is printed: who opens it at once is answered
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise InputError(
                f"cannot listen at {host}:{port}: {reason}; choose another --host or --port"
            ) from error
        clear()
        shown = f"[{host}]" if ":" in host else host
        query = f"/?token={token}" if token else "/"
        print(f"{what}: http://{shown}:{listener.getsockname()[1]}{query} (Ctrl-C ends it)", flush=True)
        config = uvicorn.Config(app, log_level="warning", access_log=False, server_header=False)
        try:
            uvicorn.Server(config).run(sockets=[listener])
        except KeyboardInterrupt:  # its ordinary end
            print(f"{what}: stopped", flush=True)
