"""A small web page for trying a recognizer, and the endpoint behind it."""

import asyncio
import base64
import hashlib
import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from dslstm_jax.data.audio import read_audio
from dslstm_jax.errors import AudioError
from dslstm_jax.serving.predictor import LONGEST, Predictor
from dslstm_jax.util.files import to_json

LARGEST = 25_000_000
"""Bytes; a larger upload is refused, and none of it that exceeds this is kept."""
MOST_VALUES = 120_000_000
"""Samples times channels that a file may decode to, 480 MB: a small FLAC or Ogg can promise terabytes."""
PLACES = 8
"""Uploads that are received, wait or are recognized at a time; more are refused as busy."""
PATIENCE = 60.0
"""Seconds that an upload may take; a slower one gives its place back."""
WINDOW = 2.0
"""Seconds of a window of the timeline."""
HOP = 0.5
"""Seconds between windows, in recordings short enough for that."""
MOST_WINDOWS = 300
"""A longer recording has its windows further apart: at ten minutes, side by side."""


def recognize(predictor: Predictor, path: Path) -> dict[str, Any]:
    """What `POST /predict` answers for one file.

    Returns:
      `label`, `probabilities` and `duration_seconds` as in `dslstm predict --format json`; `timeline`, a list of
      windows with `start`, `end` (seconds), `label` and `probabilities`; `hop_seconds` between them; and `peaks`,
      the largest absolute sample of each of at most 600 parts of equal length.

    Raises:
      AudioError: the sound cannot be read or used; without the path.
    """
    try:
        samples = read_audio(path, predictor.sample_rate, LONGEST, MOST_VALUES)
    except AudioError as error:
        raise AudioError(str(error).removeprefix(f"{path}: ")) from error
    prediction = predictor(samples, predictor.sample_rate)
    hop = max(HOP, prediction.duration_seconds / MOST_WINDOWS)
    windows = predictor.timeline(samples, predictor.sample_rate, WINDOW, hop)
    parts = min(600, len(samples))  # points of the waveform's picture
    peaks = np.maximum.reduceat(np.abs(samples), np.arange(parts) * len(samples) // parts)
    return {
        **vars(prediction),
        "hop_seconds": hop,
        "timeline": [vars(window) for window in windows],
        "peaks": peaks.round(4).tolist(),
    }


def make_app(predictor: Predictor, name: str) -> Starlette:
    """The page (`GET /`), its endpoint (`POST /predict`) and `GET /health`, as an ASGI application.

    Args:
      predictor: answers one request at a time, while PLACES - 1 wait, and is the only copy of the model.
      name: of the model, as the page shows it.
    """
    turn, received = asyncio.Lock(), set[Request]()
    page = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
    safe = {"Content-Security-Policy": _policy(page), "Referrer-Policy": "no-referrer", "Cache-Control": "no-cache"}

    def show(_: Request) -> Response:
        return HTMLResponse(page, headers=safe)

    def health(_: Request) -> Response:
        state = {"status": "ok", "model": name, "labels": predictor.labels, "sample_rate": predictor.sample_rate}
        limits = {"largest_bytes": LARGEST, "longest_seconds": LONGEST}
        return _json({**state, **limits, "places": PLACES, "taken": len(received)})

    async def predict(request: Request) -> Response:
        if request.headers.get("Sec-Fetch-Site") == "cross-site":
            raise HTTPException(403, "another site's page may not use this recognizer")
        if request.headers.get("Content-Type", "").startswith("multipart/"):
            raise HTTPException(415, "send the file itself as the body, not a form: curl --data-binary @FILE")
        if len(received) >= PLACES:
            raise HTTPException(503, "busy with other recordings; try again in a moment", {"Retry-After": "5"})
        received.add(request)
        try:
            # The name the user gave is never seen here: the file has our own, in a folder that only we can read.
            with TemporaryDirectory(prefix="dslstm_") as folder:
                path = Path(folder) / "upload"
                await _receive(request, path)
                async with turn:
                    if await request.is_disconnected():
                        raise ClientDisconnect
                    return _json(await run_in_threadpool(recognize, predictor, path))
        except AudioError as error:
            raise HTTPException(422, str(error)) from error
        except ClientDisconnect:
            return Response(status_code=400)  # which nobody reads
        finally:
            received.remove(request)

    routes = [Route("/", show), Route("/health", health), Route("/predict", predict, methods=["POST"])]
    return Starlette(routes=routes, exception_handlers={HTTPException: _refuse, Exception: _fail})


async def _receive(request: Request, path: Path) -> None:
    """Writes the body to a file as it comes in, and stops at the first byte too many."""
    # The server reads what is left of a refused body and throws it away, so that the client gets our answer.
    too_large = HTTPException(413, f"too large: at most {LARGEST / 1e6:g} MB can be sent; cut it, or send FLAC")
    if int(request.headers.get("Content-Length", 0)) > LARGEST:
        raise too_large
    size = 0
    try:
        with path.open("wb") as file:
            async with asyncio.timeout(PATIENCE):
                async for chunk in request.stream():
                    size += len(chunk)
                    if size > LARGEST:
                        raise too_large
                    file.write(chunk)
    except TimeoutError:
        raise HTTPException(408, f"the upload took more than {PATIENCE:g} s") from None
    if size == 0:
        raise HTTPException(400, "nothing was sent; the body is the sound file: curl --data-binary @FILE")


def _policy(page: str) -> str:
    """A content security policy: the page's own script and style and nothing else, and requests to us alone."""
    hashes = {
        tag: "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"
        for tag, text in re.findall(r"<(script|style)>(.*?)</\1>", page, re.DOTALL)
    }
    return (  # blob: is the recorder's worklet, and the sound that is played back
        f"default-src 'none'; script-src {hashes['script']} blob:; style-src {hashes['style']}; connect-src 'self'; "
        "media-src blob:; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _json(value: Any, status: int = 200, headers: Any = None) -> Response:
    return Response(to_json(value), status, headers, media_type="application/json")


def _refuse(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _json({"error": error.detail}, error.status_code, error.headers)


def _fail(_: Request, error: Exception) -> Response:  # noqa: ARG001 (starlette raises it again, for the server's log)
    return _json({"error": "the recognizer failed; its server's log says why"}, 500)
