"""A headless Chromium, driven through chromedriver with plain WebDriver calls."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

__all__ = ["CONTROL", "Browser", "browsers_at", "open_browser"]

_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
CONTROL = "\ue009"
"""Held down until the end of what is typed."""

_ARGUMENTS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    "--no-proxy-server",
    "--hide-scrollbars",
    "--force-color-profile=srgb",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)


def browsers_at() -> tuple[str, str] | None:
    """Where chromium and its driver are; None where either is missing."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    return (chromium, driver) if chromium and driver else None


class Browser:
    """One window. Raises RuntimeError with the driver's own words where a call fails."""

    def __init__(self, session: str) -> None:
        self._session = session

    def call(self, path: str, body: Mapping[str, Any] | None = None, method: str = "POST") -> Any:
        """One WebDriver call below the session."""
        return _call(self._session + path, body if method == "POST" else None, method)

    def devtools(self, command: str, **parameters: Any) -> Any:
        """One command of Chromium's own protocol."""
        return self.call("/goog/cdp/execute", {"cmd": command, "params": parameters})

    def open(self, url: str) -> None:
        """Go to a page and wait until it is loaded."""
        self.call("/url", {"url": url})

    def run(self, script: str, *arguments: Any) -> Any:
        """What a function body returns in the page."""
        return self.call("/execute/sync", {"script": script, "args": list(arguments)})

    def find(self, selector: str) -> str:
        """The first element of a CSS selector."""
        found: str = self.call("/element", {"using": "css selector", "value": selector})[_ELEMENT]
        return found

    def text(self, selector: str) -> str:
        """The text content, shown or not."""
        return str(self.run("return document.querySelector(arguments[0]).textContent", selector))

    def type(self, selector: str, text: str) -> None:
        """Focus an element and press keys."""
        self.call(f"/element/{self.find(selector)}/value", {"text": text})

    def press(self, *keys: str) -> None:
        """Press and release keys one after another, wherever the focus is."""
        actions = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        self.call("/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": actions}]})

    def hold(self, modifier: str, key: str) -> None:
        """Press a key while a modifier is held."""
        actions = [("keyDown", modifier), ("keyDown", key), ("keyUp", key), ("keyUp", modifier)]
        listed = [{"type": kind, "value": value} for kind, value in actions]
        self.call("/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": listed}]})

    def focused(self) -> str:
        """The id of the element that has the focus."""
        return str(self.run("return document.activeElement.id"))

    def wait(self, condition: str | Callable[[], object], seconds: float = 60.0) -> None:
        """Until a JavaScript expression or a function is true. Raises TimeoutError."""
        end = time.monotonic() + seconds
        while not (self.run(f"return {condition}") if isinstance(condition, str) else condition()):
            if time.monotonic() > end:
                raise TimeoutError(f"{condition} is not true after {seconds:g} s; status: {self.text('#status')!r}")
            time.sleep(0.1)

    def resize(self, width: int, height: int, scale: float = 1, phone: bool = False) -> None:
        """The page's size in CSS pixels."""
        self.devtools(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=phone
        )

    def prefer(self, **features: str) -> None:
        """What the page is told of its reader: prefers_color_scheme="dark" and the like."""
        listed = [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]
        self.devtools("Emulation.setEmulatedMedia", features=listed)

    def shoot(self, whole: bool = False) -> bytes:
        """A PNG of what is seen, or of the whole page."""
        return base64.b64decode(self.devtools("Page.captureScreenshot", captureBeyondViewport=whole)["data"])

    def complaints(self) -> list[str]:
        """What the console holds of warnings and errors since the last call."""
        entries = self.call("/se/log", {"type": "browser"})
        return [e["message"] for e in entries if e["level"] in ("WARNING", "SEVERE")]

    def hosts(self) -> set[str]:
        """The hosts that requests of the network went to since the last call; Chromium's own pages are no network."""
        events = [json.loads(e["message"])["message"] for e in self.call("/se/log", {"type": "performance"})]
        sent = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
        return {url.hostname or "" for url in map(urlsplit, sent) if url.scheme in ("http", "https", "ws", "wss")}


@contextmanager
def open_browser(profile: Path) -> Iterator[Browser]:
    """A window of a fresh profile in the directory `profile`."""
    found = browsers_at()
    if found is None:
        raise FileNotFoundError("chromium and chromedriver are not installed")
    chromium, driver = found
    with subprocess.Popen([driver, "--port=0"], stdout=subprocess.PIPE, text=True) as process:
        session = None
        try:
            base = f"http://127.0.0.1:{_port(process)}"
            options = {"binary": chromium, "args": [*_ARGUMENTS, f"--user-data-dir={profile}"]}
            wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"}}
            made = _call(f"{base}/session", {"capabilities": {"alwaysMatch": wanted}})
            session = f"{base}/session/{made['sessionId']}"
            yield Browser(session)
        finally:
            if session:
                _call(session, None, "DELETE")
            process.terminate()


def _port(process: subprocess.Popen[str]) -> int:
    assert process.stdout is not None
    for line in process.stdout:
        if found := re.search(r"started successfully on port (\d+)", line):
            return int(found[1])
    raise RuntimeError("chromedriver ended before it listened")


_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def _call(url: str, body: Mapping[str, Any] | None, method: str = "POST") -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method=method)
    try:
        with _DIRECT.open(request, timeout=90) as response:
            return json.load(response)["value"]
    except urllib.error.HTTPError as error:
        raise RuntimeError(json.load(error)["value"]["message"].partition("\n")[0]) from None
