"""Headless Chromium, driven through its DevTools protocol over a pipe; nothing to install but the browser."""

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Page:
    """One tab; `errors` is what its console complained about."""

    def __init__(self, to_browser: int, from_browser: int) -> None:
        self._write, self._read = to_browser, from_browser
        self._received, self._count, self._session = b"", 0, {}
        self.errors: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self._session = {"sessionId": session}
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """One command of the protocol, and its result."""
        self._count += 1
        command = {"id": self._count, "method": method, "params": params, **self._session}
        os.write(self._write, json.dumps(command).encode() + b"\0")
        while (message := self._next(60)).get("id") != self._count:
            self._note(message)
        assert "error" not in message, message
        return message["result"]

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression, awaited if it is a promise."""
        answer = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait_for(self, expression: str, seconds: float = 60) -> Any:
        """The value of an expression as soon as it is true."""
        end = time.monotonic() + seconds
        while not (value := self.evaluate(expression)):
            assert time.monotonic() < end, (
                f"{expression} is still {value!r}; {self.evaluate('document.body.innerText')}"
            )
            time.sleep(0.05)
        return value

    def open(self, url: str) -> None:
        self.call("Page.navigate", url=url)
        self.wait_for("document.readyState === 'complete'")

    def resize(self, width: int, height: int) -> None:
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )

    def click(self, selector: str) -> None:
        """A real click in the middle of an element, which counts as the user's own."""
        place = self.evaluate(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
            "e.scrollIntoView({block: 'center'});"
            "const r = e.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=place[0], y=place[1], button="left", clickCount=1)

    def drop(self, file: Path) -> None:
        """Drops a file onto the page, as a mouse would."""
        data = {"items": [], "files": [str(file)], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self.call("Input.dispatchDragEvent", type=kind, x=100, y=100, data=data)

    def screenshot(self, file: Path) -> None:
        """The whole page as a PNG."""
        picture = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        file.write_bytes(base64.b64decode(picture["data"]))

    def _next(self, seconds: float) -> dict[str, Any]:
        while b"\0" not in self._received:
            assert select.select([self._read], [], [], seconds)[0], "Chromium says nothing"
            more = os.read(self._read, 1 << 16)
            assert more, "Chromium ended"
            self._received += more
        message, self._received = self._received.split(b"\0", 1)
        return json.loads(message)

    def _note(self, message: dict[str, Any]) -> None:
        if message.get("method") == "Runtime.exceptionThrown":
            self.errors.append(str(message["params"]["exceptionDetails"]))
        elif message.get("method") == "Log.entryAdded" and message["params"]["entry"]["level"] == "error":
            self.errors.append(message["params"]["entry"]["text"])


def _pipe() -> list[int]:
    """Both ends of a pipe, out of the way of the descriptors 3 and 4."""
    ends = os.pipe()
    moved = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in ends]
    for end in ends:
        os.close(end)
    return moved


@contextmanager
def chromium(folder: Path, *flags: str) -> Iterator[Page]:
    """A browser with its profile in `folder`, and an empty page in it; its microphone beeps."""
    assert CHROMIUM is not None
    # The browser reads commands from its descriptor 3 and answers on 4.
    (read_commands, write_commands), (read_answers, write_answers) = _pipe(), _pipe()
    descriptors = f"os.dup2({read_commands}, 3); os.dup2({write_answers}, 4)"
    start = f"import os, sys; {descriptors}; os.execv(sys.argv[1], sys.argv[1:])"
    flags = (
        "--headless",
        "--no-sandbox",
        "--hide-scrollbars",
        "--remote-debugging-pipe",
        f"--user-data-dir={folder}",
        "--use-fake-device-for-media-stream",
        "--use-fake-ui-for-media-stream",
        "--disable-dev-shm-usage",
        *flags,
    )
    process = subprocess.Popen(
        [sys.executable, "-c", start, CHROMIUM, *flags],
        pass_fds=(read_commands, write_answers),
        stderr=subprocess.DEVNULL,
    )
    os.close(read_commands)
    os.close(write_answers)
    try:
        yield Page(write_commands, read_answers)
    finally:
        process.terminate()
        process.wait()
        os.close(write_commands)
        os.close(read_answers)
