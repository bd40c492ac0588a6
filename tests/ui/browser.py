"""A headless Chromium that is driven by the DevTools protocol.

websocket-client, which the kubernetes client needs anyway, carries the protocol: a test needs no other package than
Debian's chromium.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import websocket

PATIENCE_S = float(os.environ.get("UI_PATIENCE_S", "60"))
_FLAGS = (
    *("--headless=new", "--remote-debugging-port=0", "--no-first-run", "--disable-gpu", "--disable-extensions"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-proxy-server"),
    *("--no-default-browser-check", "--password-store=basic", "--hide-scrollbars", "--disable-dev-shm-usage"),
    *("--remote-allow-origins=*", "--force-color-profile=srgb"),
)
_KEYS = {
    **{name: (name, code) for name, code in (("ArrowDown", 40), ("ArrowUp", 38), ("ArrowRight", 39), ("Home", 36))},
    **{name: (name, code) for name, code in (("End", 35), ("PageDown", 34), ("Escape", 27), ("Tab", 9))},
    "Enter": ("Enter", 13),
}


class BrowserError(Exception):
    """The browser cannot be used, or the page raised an error."""


class Browser:
    """One page of a headless Chromium; within the `with`."""

    def __init__(self) -> None:
        self._program = shutil.which("chromium") or ""
        self._folder = tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True)
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: Any = None
        self._number = 0
        self.problems: list[str] = []
        """Violations of the page's policy, errors of its script, and messages in its console."""

    def __enter__(self) -> Self:
        if not self._program:
            raise BrowserError("chromium is missing; hint: python3 -m lab install --browser")
        sandbox = ("--no-sandbox",) if os.geteuid() == 0 else ()
        argv = [self._program, *_FLAGS, *sandbox, f"--user-data-dir={self._folder.name}", "about:blank"]
        self._process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            self._connect()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def _end(self) -> None:
        if self._socket:
            self._socket.close()
        if self._process:
            self._process.kill()
            self._process.wait()
        self._folder.cleanup()

    def _connect(self) -> None:
        port_file = Path(self._folder.name) / "DevToolsActivePort"
        self._wait(lambda: port_file.exists() and bool(port_file.read_text().strip()), "chromium does not start")
        port = port_file.read_text().split()[0]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=PATIENCE_S) as response:
            pages = [one for one in json.load(response) if one["type"] == "page"]
        self._socket = websocket.create_connection(pages[0]["webSocketDebuggerUrl"], timeout=PATIENCE_S)
        for domain in ("Page", "Runtime", "Log", "Network", "Audits"):
            self.call(f"{domain}.enable")
        self.size(1280, 800)

    @staticmethod
    def _wait(condition: Callable[[], bool], message: str) -> None:
        deadline_s = time.monotonic() + PATIENCE_S
        while not condition():
            if time.monotonic() > deadline_s:
                raise BrowserError(message)
            time.sleep(0.05)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Return the result of a command of the protocol."""
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv())
            if message.get("id") == self._number:
                if "error" in message:
                    raise BrowserError(f"{method}: {message['error']}")
                return dict(message.get("result", {}))
            self._record(message)

    def _record(self, message: dict[str, Any]) -> None:
        parameters = message.get("params", {})
        match message.get("method"):
            case "Runtime.exceptionThrown":
                self.problems.append(json.dumps(parameters["exceptionDetails"]))
            case "Runtime.consoleAPICalled":
                self.problems.append(json.dumps(parameters["args"]))
            case "Log.entryAdded":
                self.problems.append(f"{parameters['entry']['text']} {parameters['entry'].get('url', '')}")
            case "Audits.issueAdded":
                self.problems.append(json.dumps(parameters["issue"]))

    def open(self, url: str) -> None:
        """Go to *url*, and wait until the page has loaded."""
        self.call("Page.navigate", url=url)
        self.wait_for("document.readyState === 'complete' && location.href !== 'about:blank'")

    def evaluate(self, expression: str) -> Any:
        """Return the value of a JavaScript *expression*, which is awaited."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in result:
            raise BrowserError(f"{expression}: {result['exceptionDetails']}")
        return result["result"].get("value")

    def text(self, selector: str) -> str:
        """Return the visible text of the first element."""
        return str(self.evaluate(f"document.querySelector({json.dumps(selector)}).innerText"))

    def wait_for(self, expression: str) -> None:
        """Wait until the JavaScript *expression* is true."""
        deadline_s = time.monotonic() + PATIENCE_S
        while not self.evaluate(f"Boolean({expression})"):
            if time.monotonic() > deadline_s:
                raise BrowserError(f"not true: {expression}\n{self.text('body')[:3000]}\n{self.problems}")
            time.sleep(0.05)

    def press(self, *keys: str) -> None:
        """Press *keys*: characters, or names of keys."""
        for key in keys:
            name, code = _KEYS.get(key, (key, ord(key[0].upper())))
            event = {"key": name, "windowsVirtualKeyCode": code, "code": name if key in _KEYS else ""}
            typed = {"text": "\r"} if key == "Enter" else {"text": key} if key not in _KEYS else {}
            self.call("Input.dispatchKeyEvent", type="keyDown", **event, **typed)
            self.call("Input.dispatchKeyEvent", type="keyUp", **event)

    def type_text(self, text: str) -> None:
        """Type *text* into the element that has the focus."""
        self.call("Input.insertText", text=text)

    def prefer(self, scheme: str) -> None:
        """Prefer the colour *scheme* light or dark."""
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def size(self, width: int, height: int, scale: float = 1.0) -> None:
        """Set the size of the page."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **metrics)

    def picture(self, file: Path) -> None:
        """Write what is visible as PNG."""
        file.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))
