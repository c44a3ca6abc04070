"""The page in a browser: what is dropped or recorded gets its bars, and what is wrong its message."""

from collections.abc import Iterator

import numpy as np
import pytest
import soundfile
from chromium import CHROMIUM, Page, chromium
from live import serving

import dslstm_jax
from dslstm_jax.serving.web import make_app

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")]
SHOWN = "!find('result').hidden"
FAILED = "!find('error').hidden && find('message').textContent"


@pytest.fixture(scope="module")
def page(trained, tmp_path_factory) -> Iterator[Page]:
    app = make_app(dslstm_jax.load(trained), "tones")
    folder = tmp_path_factory.mktemp("chromium")
    with serving(app) as (host, port), chromium(folder) as page:
        page.resize(900, 1000)
        page.open(f"http://{host}:{port}/")
        page.wait_for("find('limits').textContent")
        yield page


def shares(page: Page) -> dict[str, float]:
    rows = page.evaluate("[...document.querySelectorAll('#bars li')].map((row) => row.innerText.split('\\n'))")
    return {label: float(share.removesuffix(" %")) for label, share in rows}


def test_a_dropped_file_gets_its_bars_and_timeline(page, tones, tmp_path):
    parts = [soundfile.read(tones / "wav" / f"03a01{letter}a.wav")[0] for letter in "FNWT" * 3]
    recording = tmp_path / "<img src=x onerror=alert(1)>.flac"
    soundfile.write(recording, np.concatenate(parts), 16_000)
    page.drop(recording)
    page.wait_for(SHOWN)
    assert list(shares(page)) == ["happy", "neutral", "angry", "sad"]
    assert sum(shares(page).values()) == pytest.approx(100, abs=2)
    label = page.evaluate("find('label').textContent")
    assert shares(page)[label] == max(shares(page).values())
    widths = page.evaluate("[...document.querySelectorAll('#bars .fill')].map((bar) => parseFloat(bar.style.width))")
    assert widths == pytest.approx(list(shares(page).values()), abs=0.5)
    seconds = sum(map(len, parts)) / 16_000
    assert page.evaluate("find('name').textContent") == f"{recording.name}, {seconds:.1f} s"
    assert page.evaluate("document.querySelectorAll('#plots path').length") == 1 + 2 * 4
    windows = page.evaluate("document.querySelectorAll('#table tbody tr').length")
    assert windows == pytest.approx((seconds - 2) / 0.5 + 1, abs=1)
    assert page.wait_for("find('audio').duration") == pytest.approx(seconds, abs=0.01)
    page.screenshot(tmp_path / "page.png")
    assert (tmp_path / "page.png").stat().st_size > 20_000
    page.resize(360, 700)
    assert page.evaluate("document.documentElement.scrollWidth") == 360, "a phone need not scroll sideways"
    page.resize(900, 1000)
    assert page.errors == []


def test_a_click_on_the_timeline_plays_from_there(page):
    page.wait_for("find('audio').duration")
    page.click("#cursor")
    page.wait_for("!document.querySelector('#cursor div').hidden")
    start = page.evaluate("find('audio').currentTime / find('audio').duration")
    assert 0.4 < start < 0.8


def test_a_text_file_gets_its_message(page, tmp_path):
    (tmp_path / "notes.txt").write_text("Dear diary")
    page.drop(tmp_path / "notes.txt")
    message = page.wait_for(FAILED)
    assert message.startswith("notes.txt is no audio that can be read or recognized: not a sound file")
    assert page.evaluate("find('result').hidden")


def test_100_megabytes_get_their_message(page, tmp_path):
    with (tmp_path / "long.wav").open("wb") as file:
        file.truncate(100_000_000)
    page.drop(tmp_path / "long.wav")
    assert page.wait_for(FAILED) == "long.wav is too large: it has 100 MB, and at most 25 MB can be sent."
    page.evaluate("find('error').hidden = true, limits.largest_bytes = Infinity")  # the server says it too
    page.drop(tmp_path / "long.wav")
    assert page.wait_for(FAILED).startswith("long.wav: too large: at most 25 MB can be sent")
    page.evaluate("limits.largest_bytes = 25e6")


def test_a_recording_from_the_microphone_is_recognized(page):
    page.errors.clear()
    page.click("#record")
    page.wait_for("find('record').textContent === 'Stop (0:01)'")
    page.click("#record")
    page.wait_for(SHOWN)
    name = page.evaluate("find('name').textContent")
    assert name.startswith("your recording, ")
    assert 1 <= float(name.split()[-2]) < 5
    assert page.evaluate("find('record').textContent") == "Record"
    assert page.errors == []


def test_what_the_server_cannot_answer_now_can_be_sent_again(page, tones):
    page.evaluate("window.real = fetch, window.fetch = async () => { throw new Error('no network') }, 0")
    page.drop(tones / "wav" / "03a01Wa.wav")
    assert "could not be sent, or the server does not answer (no network)" in page.wait_for(FAILED)
    page.evaluate("window.fetch = real, 0")
    page.click("#again")
    page.wait_for(SHOWN)
    assert page.evaluate("find('error').hidden")
