"""The endpoint behind the page: an answer or one clear error, in bounded memory, one recognition at a time."""

import asyncio
import http.client
import io
import json
import tempfile
import threading
import time
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
from live import serving
from starlette.testclient import TestClient

import dslstm_jax
from dslstm_jax.serving import web
from dslstm_jax.serving.predictor import Prediction, Predictor

MEGABYTE = 1_000_000


class Stub:
    """A recognizer of two emotions that may be held up or fail."""

    labels = ("happy", "sad")
    sample_rate = 16_000

    def __init__(self) -> None:
        self.go = threading.Event()
        self.go.set()
        self.error: Exception | None = None
        self.calls = self.at_once = self.most_at_once = 0

    def __call__(self, samples: np.ndarray, sample_rate: float) -> Prediction:
        self.calls += 1
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        assert self.go.wait(5) or self.go.set(), "nobody let go"
        self.at_once -= 1
        if self.error is not None:
            raise self.error
        return Prediction("happy", {"happy": 0.75, "sad": 0.25}, len(samples) / sample_rate)

    def timeline(self, samples: np.ndarray, sample_rate: float, window: float, hop: float) -> list[Any]:
        self.asked = window, hop
        end = len(samples) / sample_rate
        return [SimpleNamespace(start=0.0, end=end, label="happy", probabilities={"happy": 0.75, "sad": 0.25})]


@pytest.fixture
def stub() -> Stub:
    return Stub()


@pytest.fixture
def client(stub, tmp_path, monkeypatch) -> Iterator[TestClient]:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    with TestClient(web.make_app(stub, "stub"), raise_server_exceptions=False) as client:
        yield client
    assert not list((tmp_path / "temporary").iterdir()), "no upload is left"


def sound(seconds: float = 0.5, kind: str = "WAV", rate: int = 16_000, level: float = 0.1) -> bytes:
    """A file of noise."""
    samples = level * np.random.default_rng(0).uniform(-1, 1, round(seconds * rate))
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=kind)
    return file.getvalue()


def call(app: Any, chunks: AsyncIterator[bytes], **headers: str) -> tuple[int, dict[str, Any]]:
    """Status and answer of a POST whose body is made chunk by chunk as it is asked for; then the client leaves."""
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        async for chunk in chunks:
            return {"type": "http.request", "body": chunk, "more_body": True}
        if not done:
            done.append(True)
            return {"type": "http.request", "body": b"", "more_body": False}
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    done: list[bool] = []
    named = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "method": "POST", "path": "/predict", "query_string": b"", "headers": named}
    asyncio.run(app(scope, receive, send))
    body = b"".join(message.get("body", b"") for message in sent)
    return sent[0]["status"], json.loads(body or b"{}")


def test_the_answer_is_the_predictors(trained, tones):
    predictor: Predictor = dslstm_jax.load(trained)
    path = tones / "wav" / "03a01Wa.wav"
    samples, rate = soundfile.read(path)
    with TestClient(web.make_app(predictor, "tones")) as client:
        answer = client.post("/predict", content=path.read_bytes()).json()
        health = client.get("/health").json()
    expected = predictor(samples, rate)
    assert answer["label"] == expected.label
    assert answer["probabilities"] == pytest.approx(expected.probabilities, abs=1e-6)
    assert answer["duration_seconds"] == expected.duration_seconds
    (window,) = answer["timeline"]
    assert window == {"start": 0.0, "end": expected.duration_seconds} | {
        "label": expected.label,
        "probabilities": pytest.approx(expected.probabilities, abs=1e-5),
    }
    assert len(answer["peaks"]) == 600
    assert max(answer["peaks"]) == pytest.approx(np.abs(samples).max(), abs=1e-4)
    assert health["labels"] == list(predictor.labels)
    assert (health["model"], health["taken"]) == ("tones", 0)


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG", "MP3", "AIFF"])
def test_a_file_needs_no_name(client, kind):
    answer = client.post("/predict", content=sound(1.0, kind))
    assert answer.status_code == 200, answer.text
    assert answer.json()["duration_seconds"] == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize(("seconds", "hop"), [(1, 0.5), (150, 0.5), (600, 2.0)])
def test_long_recordings_have_windows_further_apart(client, stub, seconds, hop):
    answer = client.post("/predict", content=sound(seconds, rate=1_000, level=0.9)).json()
    assert stub.asked == (web.WINDOW, pytest.approx(hop, rel=0.01))
    assert answer["hop_seconds"] == stub.asked[1]


@pytest.mark.parametrize(
    ("content", "status", "reason"),
    [
        (b"", 400, "nothing was sent"),
        (b"Dear diary,\n" * 100, 422, "not a sound file soundfile can read"),
        (sound(level=0), 422, "digital silence"),
        (sound(0.001), 422, "too short"),
        (sound(1.0)[:9000], 422, "truncated"),
        (sound(601, rate=1_000), 422, "601.0 s long, but at most 600 s can be used"),
    ],
    ids=["empty", "text", "silence", "click", "truncated", "long"],
)
def test_what_is_no_speech_is_one_clear_error(client, stub, content, status, reason):
    answer = client.post("/predict", content=content)
    assert answer.status_code == status
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.json()["error"].startswith(reason), "no path comes before it"
    assert stub.calls == 0
    assert client.get("/health").json()["taken"] == 0


def test_a_file_that_would_fill_memory_is_not_decoded(client, monkeypatch):
    monkeypatch.setattr(web, "MOST_VALUES", 7_999)
    answer = client.post("/predict", content=sound(0.5, "FLAC"))
    assert answer.status_code == 422
    assert answer.json()["error"].startswith("8000 samples of 1 channels, but at most 7,999 values can be decoded")
    monkeypatch.setattr(web, "MOST_VALUES", 8_000)
    assert client.post("/predict", content=sound(0.5, "FLAC")).status_code == 200


def test_other_requests_are_refused_as_json(client):
    form = client.post("/predict", content=b"--x", headers={"Content-Type": "multipart/form-data; boundary=x"})
    assert (form.status_code, "curl --data-binary" in form.json()["error"]) == (415, True)
    elsewhere = client.post("/predict", content=sound(), headers={"Sec-Fetch-Site": "cross-site"})
    assert (elsewhere.status_code, "another site" in elsewhere.json()["error"]) == (403, True)
    assert client.post("/predict", content=sound(), headers={"Sec-Fetch-Site": "same-origin"}).status_code == 200
    assert (client.get("/predict").status_code, client.get("/predict").json()["error"]) == (405, "Method Not Allowed")
    assert (client.get("/nowhere").status_code, client.get("/nowhere").json()["error"]) == (404, "Not Found")


def test_an_upload_that_says_it_is_too_large_is_not_read(stub):
    read = []

    async def chunks() -> AsyncIterator[bytes]:
        read.append(True)
        yield bytes(MEGABYTE)

    status, answer = call(web.make_app(stub, "stub"), chunks(), content_length=str(100 * MEGABYTE))
    assert (status, read) == (413, [])
    assert answer["error"].startswith("too large: at most 25 MB can be sent")


def test_an_upload_that_does_not_say_its_size_is_read_no_further_than_the_limit(stub):
    read = []

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(100):
            read.append(True)
            yield bytes(MEGABYTE)

    status, answer = call(web.make_app(stub, "stub"), chunks())
    assert (status, len(read)) == (413, 26)
    assert answer["error"].startswith("too large: at most 25 MB can be sent")


@pytest.mark.parametrize("chunked", [False, True])
def test_100_megabytes_get_their_answer_and_never_fill_memory(stub, chunked):
    block = memoryview(bytes(MEGABYTE))
    with serving(web.make_app(stub, "stub")) as (host, port):
        connection = http.client.HTTPConnection(host, port, timeout=60)
        tracemalloc.start()
        headers = {} if chunked else {"Content-Length": str(100 * MEGABYTE)}
        connection.request("POST", "/predict", (block for _ in range(100)), headers, encode_chunked=chunked)
        answer = connection.getresponse()
        error = json.load(answer)["error"]
        peak = tracemalloc.get_traced_memory()[1] / MEGABYTE
        tracemalloc.stop()
        connection.close()
    print(f"100 MB took {peak:.1f} MB of memory")
    assert (answer.status, error[:9]) == (413, "too large")
    assert peak < 8


def test_a_slow_upload_gives_its_place_back(stub, monkeypatch):
    monkeypatch.setattr(web, "PATIENCE", 0.05)

    async def chunks() -> AsyncIterator[bytes]:
        yield b"RIFF"
        await asyncio.sleep(5)

    app = web.make_app(stub, "stub")
    status, answer = call(app, chunks())
    assert (status, answer["error"]) == (408, "the upload took more than 0.05 s")
    assert TestClient(app).get("/health").json()["taken"] == 0


def test_nothing_is_recognized_for_a_client_that_has_left(stub):
    async def chunks() -> AsyncIterator[bytes]:
        yield sound()

    app = web.make_app(stub, "stub")
    call(app, chunks())
    assert stub.calls == 0
    assert TestClient(app).get("/health").json()["taken"] == 0


def test_one_is_recognized_some_wait_and_more_are_told_that_we_are_busy(client, stub):
    stub.go.clear()
    with ThreadPoolExecutor(web.PLACES) as pool:
        waiting = [pool.submit(client.post, "/predict", content=sound()) for _ in range(web.PLACES)]
        end = time.monotonic() + 30
        while client.get("/health").json()["taken"] < web.PLACES or stub.calls == 0:
            assert time.monotonic() < end
            time.sleep(0.01)
        refused = client.post("/predict", content=sound())
        stub.go.set()
        answers = [answer.result() for answer in waiting]
    assert refused.status_code == 503
    assert refused.json()["error"] == "busy with other recordings; try again in a moment"
    assert refused.headers["Retry-After"] == "5"
    assert [answer.status_code for answer in answers] == [200] * web.PLACES
    assert (stub.calls, stub.most_at_once) == (web.PLACES, 1)
    assert client.post("/predict", content=sound()).status_code == 200


def test_a_recognizer_that_fails_says_so_and_the_next_request_is_answered(client, stub):
    stub.error = RuntimeError("secret detail")
    answer = client.post("/predict", content=sound())
    assert (answer.status_code, answer.json()) == (500, {"error": "the recognizer failed; its server's log says why"})
    stub.error = None
    assert client.post("/predict", content=sound()).status_code == 200


def test_an_upload_has_a_name_of_our_own_in_a_folder_of_our_own(client, monkeypatch):
    seen: list[Path] = []
    recognize = web.recognize
    monkeypatch.setattr(web, "recognize", lambda predictor, path: (seen.append(path), recognize(predictor, path))[1])
    headers = {"Content-Disposition": 'attachment; filename="../../evil.wav"'}
    assert client.post("/predict", content=sound(), headers=headers).status_code == 200
    assert seen[0].name == "upload"
    assert seen[0].parent.name.startswith("dslstm_")


def test_the_page_is_alone(client):
    page = client.get("/")
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"
    outside = page.text.replace("http://www.w3.org/2000/svg", "").replace("(http://127.0.0.1)", "")
    assert "//" not in outside.replace("// ", ""), "nothing is fetched from elsewhere"
    policy = page.headers["Content-Security-Policy"]
    assert "default-src 'none'; script-src 'sha256-" in policy
    assert "unsafe" not in policy
