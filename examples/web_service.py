"""A web service: POST an image file to /segment and get its labels, an overlay, or JSON.

    pip install fastapi uvicorn
    uvicorn --app-dir examples web_service:app --workers 2 --limit-concurrency 64
    curl --data-binary @street.jpg "localhost:8000/segment?reply=overlay" -o overlay.jpg

Each worker opens the model when it starts, which is after the fork, so gunicorn may preload:

    pip install gunicorn uvicorn-worker
    gunicorn --chdir examples --preload -k uvicorn_worker.UvicornWorker -w 2 web_service:app

The environment variable ALIGNSEG_MODEL is the model; without it, the demo model runs.
"""

import os
from asyncio import Semaphore
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Literal

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import PlainTextResponse
from starlette.requests import ClientDisconnect

from alignseg_infer import ImageError, OutOfMemoryError, Predictor
from alignseg_infer.pixels.images import encode_image

MAX_BYTES = 32 << 20  # of an upload
MAX_PIXELS = 50_000_000  # of its image
AT_ONCE = 2  # images that one worker segments; others wait, as the bytes of their files


@asynccontextmanager
async def open_model(app: FastAPI) -> AsyncIterator[None]:
    """Open the model of this worker."""
    model = os.environ.get("ALIGNSEG_MODEL", "demo")
    app.state.predictor = Predictor(model, max_pixels=MAX_PIXELS)
    app.state.turns = Semaphore(AT_ONCE)
    yield


app = FastAPI(lifespan=open_model)


@app.exception_handler(ImageError)
@app.exception_handler(OutOfMemoryError)
async def refuse(_request: Request, error: Exception) -> Response:
    """Return the text of an error that the sender can do something about."""
    return PlainTextResponse(str(error), 413 if isinstance(error, OutOfMemoryError) else 422)


@app.exception_handler(ClientDisconnect)
async def forget(_request: Request, _error: Exception) -> Response:
    """End the request of a sender who has gone; nobody reads this, and it is no fault here."""
    return Response(status_code=400)


@app.post("/segment")
async def segment(
    request: Request, reply: Literal["labels", "overlay", "json"] = "labels"
) -> Response:
    """Segment the image file in the request's body."""
    data = bytearray()
    async for part in request.stream():  # a body without a length too
        data += part
        if len(data) > MAX_BYTES:
            raise HTTPException(413, f"the file has more than {MAX_BYTES} bytes")
    async with app.state.turns:
        return await run_in_threadpool(answer, app.state.predictor, bytes(data), reply)


def answer(predictor: Predictor, data: bytes, reply: str) -> Response:
    """Segment an image file, and encode what was asked for."""
    result = predictor(data)
    if reply == "json":
        return Response(result.to_json(), media_type="application/json")
    if reply == "overlay":
        return Response(encode_image(result.overlay(), ".jpg"), media_type="image/jpeg")
    return Response(encode_image(result.labels, ".png"), media_type="image/png")
