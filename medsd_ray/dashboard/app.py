"""The dashboard's HTTP edge: storage as plain data, and the page's own files. Only GET, and nothing is ever
written.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import threading
import time
from collections.abc import Callable
from functools import cache
from importlib.resources import files as package_files
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from pydantic_core import to_json

from medsd_ray.dashboard.cached_files import CachedFiles, inside, join
from medsd_ray.dashboard.curve_store import NAMES, CurveStore
from medsd_ray.dashboard.discovery import find_studies_and_runs, is_study
from medsd_ray.dashboard.run import IMAGE, run_row, run_view
from medsd_ray.dashboard.study import compare, safe_id, study_row, study_view, trial_images, trial_spec
from medsd_ray.errors import InputError, RunError
from medsd_ray.runs.names import PROGRESS, RUN_SPEC, TRIAL
from medsd_ray.storage import FolderStorage, Storage, absolute, open_storage
from medsd_ray.web import CSP, Guard, access_token, serve

TOKEN = "MEDSD_DASHBOARD_TOKEN"
# Plotly compiles its WebGL charts with Function(), which needs unsafe-eval; no text of a study ever reaches
# it. Scripts still come from this server alone and never from the page's text.
PAGE_CSP = CSP.replace("script-src 'self'", "script-src 'self' 'unsafe-eval'").replace(
    "img-src 'self' data:", "img-src 'self' data: blob:"
)
PLOTLY = "plotly.min.js"
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
}
GZIP_FROM = 2048
LOOK_EVERY_S = 2.0
"""How often the root is searched for studies and runs, however many pages ask."""
MOST_TRIALS = 12
"""Trials whose images are shown side by side."""
PNG = b"\x89PNG\r\n\x1a\n"


class Dashboard:
    """What all pages of one root share."""

    def __init__(self, store: Storage):
        self.files = CachedFiles(store)
        self._curve_stores: dict[str, CurveStore] = {}
        self._overview: dict[str, Any] = {}
        self._looked = -LOOK_EVERY_S
        self._lock = threading.Lock()

    def overview(self) -> dict[str, Any]:
        with self._lock:
            if time.monotonic() - self._looked > LOOK_EVERY_S:
                found = find_studies_and_runs(self.files)
                self._overview = {
                    "root": self.files.store.url,
                    "studies": [study_row(self.files, at, here) for at, here in found.studies.items()],
                    "runs": [run_row(self.files, at, here) for at, here in found.runs.items()],
                }
                self._looked = time.monotonic()
            return self._overview

    def curve_store(self, at: str) -> CurveStore:
        with self._lock:
            return self._curve_stores.setdefault(at, CurveStore(self.files, at))

    def image(self, at: str, name: str) -> bytes | None:
        """A PNG of a run's folder; None for any other file, and for one that is not there."""
        if (
            not inside(at)
            or not IMAGE.fullmatch(name)
            or not {RUN_SPEC, PROGRESS, TRIAL} & set(self.files.level(at)[1])
        ):
            return None
        try:
            data = self.files.store.read(join(at, name))
        except FileNotFoundError:
            return None
        except InputError:
            if isinstance(self.files.store, FolderStorage):  # a link that leads out of the root
                return None
            raise
        return data if data.startswith(PNG) else None


def answer(request: Request, value: Any, missing: str = "there is nothing of this name") -> Response:
    """JSON with an ETag: 304 where the page has it already, 404 for None."""
    if value is None:
        return _json({"error": missing}, 404)
    body = to_json(value, inf_nan_mode="null")
    return _tagged(
        request, body, "application/json", f'"{hashlib.blake2b(body, digest_size=12).hexdigest()}"'
    )


def _json(value: dict[str, Any], status: int) -> Response:
    return Response(to_json(value), status, media_type="application/json")


def _tagged(
    request: Request, body: bytes, kind: str, tag: str, zipped: bytes | None = None, keep: str = "no-store"
) -> Response:
    headers = {"ETag": tag, "Vary": "Accept-Encoding", "Cache-Control": keep}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    if (
        not kind.startswith("image/")
        and len(body) >= GZIP_FROM
        and "gzip" in request.headers.get("accept-encoding", "")
    ):
        body = zipped or gzip.compress(body, 4, mtime=0)
        headers["Content-Encoding"] = "gzip"
    return Response(body, media_type=kind, headers=headers)


def plotly_path() -> Path:
    spec = importlib.util.find_spec("plotly")  # without running its code, which takes a second
    if spec is None or spec.origin is None:
        raise InputError("plotly is not installed: pip install 'medsd[dashboard]'")
    return Path(spec.origin).parent / "package_data" / PLOTLY


@cache
def page_file(name: str) -> tuple[bytes, bytes, str, str] | None:
    """A file of the page: bytes, the same with gzip, content type, ETag. None for every other name."""
    folder = package_files("medsd_ray.dashboard") / "page"
    known = {one.name: one for one in folder.iterdir() if Path(one.name).suffix in TYPES}
    if name == PLOTLY:
        body = plotly_path().read_bytes()
    elif name in known:
        body = known[name].read_bytes()
    else:
        return None
    return (
        body,
        gzip.compress(body, 6, mtime=0),
        TYPES[Path(name).suffix],
        f'"{hashlib.blake2b(body, digest_size=12).hexdigest()}"',
    )


def make_app(store: Storage) -> FastAPI:
    """The pages of the studies and runs below a root, without its guard."""
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    dashboard = Dashboard(store)

    def trouble(_: Request, error: Exception) -> Response:
        return _json({"error": str(error)}, 503)

    for kind in (InputError, RunError, OSError):
        app.add_exception_handler(kind, trouble)

    @app.get("/")
    def index(request: Request) -> Response:
        return own_file(request, "index.html")

    @app.get("/page/{name}")
    def own_file(request: Request, name: str) -> Response:
        found = page_file(name)
        if found is None:
            return _json({"error": "there is no such file"}, 404)
        body, zipped, kind, tag = found
        return _tagged(request, body, kind, tag, zipped, "no-cache")

    @app.get("/api/overview")
    def overview(request: Request) -> Response:
        return answer(request, dashboard.overview())

    @app.get("/image")
    def image(request: Request, at: str, name: str) -> Response:
        data = dashboard.image(at, name)
        if data is None:
            return _json({"error": "there is no such image"}, 404)
        tag = f'"{hashlib.blake2b(data, digest_size=12).hexdigest()}"'
        return _tagged(request, data, "image/png", tag, keep="private, max-age=3600")

    _of_studies(app, dashboard)
    return app


def _of_studies(app: FastAPI, dashboard: Dashboard) -> None:
    files = dashboard.files

    def at_study(request: Request, at: str, make: Callable[[], Any], missing: str = "") -> Response:
        there = inside(at) and is_study(files.level(at)[1])
        return answer(request, make() if there else None, missing or f"there is no study at {at!r}")

    @app.get("/api/study")
    def study(request: Request, at: str = "") -> Response:
        return at_study(request, at, lambda: study_view(files, at))

    @app.get("/api/run")
    def run(request: Request, at: str = "") -> Response:
        return answer(request, run_view(files, at) if inside(at) else None, f"there is no run at {at!r}")

    @app.get("/api/curves")
    def curves(request: Request, at: str = "", name: str = NAMES[0], since: str = "") -> Response:
        def make() -> Any:
            view = study_view(files, at)
            return (
                dashboard.curve_store(at).since(view["trials"], name, since)
                if view and name in NAMES
                else None
            )

        return at_study(request, at, make)

    @app.get("/api/images")
    def images(request: Request, at: str = "", trials: str = "") -> Response:
        ids = [name for name in trials.split(",") if safe_id(name)][:MOST_TRIALS]
        return at_study(request, at, lambda: trial_images(files, at, ids))

    @app.get("/api/spec")
    def spec(request: Request, trial: str, at: str = "") -> Response:
        missing = f"trial {trial!r} has no spec yet"
        return at_study(
            request, at, lambda: trial_spec(files, at, trial) if safe_id(trial) else None, missing
        )

    @app.get("/api/diff")
    def diff(request: Request, a: str, b: str, at: str = "") -> Response:
        return at_study(request, at, lambda: compare(files, at, a, b) if safe_id(a) and safe_id(b) else None)


def dashboard(root: str, host: str, port: int) -> None:
    """Serves the studies and runs below `root` until Ctrl-C, and prints the address.

    Args:
        root: A folder, or an s3:// address.
        host: The name or address to listen at. Anything but localhost asks for a token.
        port: Of TCP.

    Raises:
        InputError: The root cannot be read, the token is too short, or the address cannot be listened at.
    """
    store = absolute(open_storage(root))
    if isinstance(store, FolderStorage) and not store.root.is_dir():
        raise InputError(
            f"{root}: no such folder; name one with studies or runs below it, or an s3:// address"
        )
    try:
        store.level()
    except OSError as error:
        raise InputError(f"{root}: {error.strerror}; name a folder that you may read") from error
    page_file(PLOTLY)
    token = access_token(host, TOKEN)
    app = Guard(make_app(store), token=token, name="medsd_dashboard", csp=PAGE_CSP)
    serve(app, host, port, token=token, what="Dashboard")
