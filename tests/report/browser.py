"""Headless Chromium for tests, driven through its debugging pipe."""

from __future__ import annotations

import base64
import json
import os
import subprocess
from pathlib import Path
from typing import Any

_READ_SIZE = 1 << 16
_EXIT_TIMEOUT_S = 20
SETTLE = "new Promise((done) => requestAnimationFrame(() => setTimeout(done, 50)))"
"""Awaits that the page has drawn what changed."""


class Browser:
    """One page in one browser process.

    Attributes:
        complaints: What the page wrote to the console, its errors, and its requests to the network.
    """

    def __init__(self, program: str, profile: Path, width: int = 1280, height: int = 900) -> None:
        """Start the browser.

        Args:
            program: Path of Chromium.
            profile: Empty folder for the browser's profile.
            width: Width of the window in pixels.
            height: Height of the window in pixels.
        """
        read_end, self._out = os.pipe()
        self._in, write_end = os.pipe()
        command = [program, "--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe"]
        command += ["--disable-dev-shm-usage", "--no-first-run", "--disable-background-networking"]
        command += [f"--user-data-dir={profile}", f"--window-size={width},{height}", "about:blank"]
        self._process = subprocess.Popen(
            ["bash", "-c", f'exec "$0" "$@" 3<&{read_end} 4>&{write_end}', *command],  # Chromium uses pipes 3 and 4
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(read_end, write_end),
        )
        os.close(read_end)
        os.close(write_end)
        self._message_id, self._buffer, self._session = 0, b"", ""
        self.complaints: list[str] = []
        self._events: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Runtime", "Log", "Page", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Call a method of the DevTools protocol and return its result."""
        self._message_id += 1
        message: dict[str, Any] = {"id": self._message_id, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            reply = self._read_message()
            if reply.get("id") == self._message_id:
                assert "error" not in reply, reply
                return dict(reply["result"])

    def open(self, url: str) -> None:
        """Open a page and wait until it has loaded."""
        self._events.clear()
        self.call("Page.navigate", url=url)
        while "Page.loadEventFired" not in self._events:
            self._read_message()

    def evaluate(self, script: str) -> Any:
        """Return the value of an expression in the page; a promise is awaited."""
        result = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def click(self, x: float, y: float) -> None:
        """Click at a position of the window."""
        for event in ("mouseMoved", "mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=event, x=x, y=y, button="left", clickCount=1)

    def screenshot(self, path: Path, full_page: bool = True) -> None:
        """Write the page as PNG."""
        result = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=full_page)
        path.write_bytes(base64.b64decode(result["data"]))

    def close(self) -> None:
        """End the browser."""
        os.close(self._out)
        try:
            self._process.wait(_EXIT_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._in)

    def _read_message(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            chunk = os.read(self._in, _READ_SIZE)
            assert chunk, "the browser has ended"
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        method = message.get("method", "")
        self._events.append(method)
        if method in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded"):
            self.complaints.append(json.dumps(message["params"])[:500])
        if method == "Network.requestWillBeSent":
            url = message["params"]["request"]["url"]
            if not url.startswith(("file:", "data:", "about:")):
                self.complaints.append(f"asked the network for {url}")
        return message


def read_column(browser: Browser, section: str, index: int) -> list[str]:
    """Return the texts in one column of a section's table."""
    rows = f"[...document.querySelectorAll('{section} tbody:not(.gap) tr')]"
    texts: list[str] = browser.evaluate(f"{rows}.map((row) => row.children[{index}].textContent)")
    return texts


def press(browser: Browser, key: str) -> None:
    """Press and release a key, and wait until the page has answered."""
    for kind in ("rawKeyDown", "keyUp"):
        browser.call("Input.dispatchKeyEvent", type=kind, key=key, code=key)
    browser.evaluate(SETTLE)
