"""`medsd reader-study serve`: the page on which readers rate, its few addresses, and nothing that tells the
groups apart.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.staticfiles import StaticFiles
from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from starlette.types import ASGIApp

from medsd_ray.addresses import path_of
from medsd_ray.reader_study.answers import Answer, Answers
from medsd_ray.reader_study.study import ANSWERS, LONGEST_NAME, Study, open_study, order, reader_name
from medsd_ray.web import Guard, access_token, serve

PAGE = Path(__file__).parent / "page"
TOKEN = "MEDSD_READER_TOKEN"
WHAT = "reader study"

Reader = Annotated[str, Field(max_length=4 * LONGEST_NAME), AfterValidator(reader_name)]
Share = Annotated[float, Field(ge=0, le=1)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class SessionRequest(_Strict):
    reader: Reader


class Rating(_Strict):
    realism: int = Field(ge=1, le=5)
    abnormal: bool
    region: tuple[Share, Share, Share, Share] | None = None
    judged: Literal["real", "generated"]
    seconds: float = Field(ge=0, le=1e6)


class AnswerRequest(SessionRequest):
    image: str
    rating: Rating


def build_app(study: Study, answers: Answers, token: str | None) -> ASGIApp:
    """The page over a study. It knows the images' names and pixels, and never the key."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    @app.exception_handler(RequestValidationError)
    def wrong(_: Request, error: RequestValidationError) -> JSONResponse:
        """FastAPI's own answer repeats what was sent, and fails where that is no JSON, such as NaN."""
        faults = [{"loc": fault["loc"], "msg": fault["msg"]} for fault in error.errors()]
        return JSONResponse({"detail": faults}, 422)

    @app.post("/api/session")
    def session(request: SessionRequest) -> dict:
        """The reader's images in order, with the answers that are there already."""
        given = {one.image: _rating(one) for one in answers.read(request.reader)}
        images = [{"image": name, "rating": given.get(name)} for name in order(study, request.reader)]
        return {"reader": request.reader, "width": study.width, "height": study.height, "images": images}

    @app.put("/api/answer", status_code=204)
    def answer(request: AnswerRequest) -> None:
        """Keeps one rating; when this answers, it is on disk."""
        if request.image not in study.images:
            raise HTTPException(404, "there is no such image")
        rating = request.rating
        region = rating.region if rating.abnormal else None
        answers.write(
            Answer(
                request.reader,
                request.image,
                rating.realism,
                rating.abnormal,
                region,
                rating.judged,
                rating.seconds,
            )
        )

    @app.get("/images/{name}.png")
    def image(name: str) -> Response:
        try:
            return Response(study.image(name), media_type="image/png")
        except KeyError as error:
            raise HTTPException(404, "there is no such image") from error

    app.mount("/", StaticFiles(directory=PAGE, html=True))
    return Guard(app, token=token, name="medsd-reader-study")


def _rating(answer: Answer) -> dict:
    return {
        "realism": answer.realism,
        "abnormal": answer.abnormal,
        "region": answer.region,
        "judged": answer.judged,
        "seconds": answer.seconds,
    }


def serve_study(folder: str, host: str, port: int) -> None:
    """Serves the page on which readers rate the images, until Ctrl-C.

    Args:
        folder: The study's folder; answers are kept in it.
        host: The address to listen at; one for other machines takes a token.
        port: The port to listen at; 0 takes a free one.

    Raises:
        InputError: There is no study, or no place to listen.
    """
    study = open_study(path_of(folder))
    token = access_token(host, TOKEN)
    app = build_app(study, Answers(study.folder / ANSWERS), token)
    serve(app, host, port, token=token, what=WHAT)
