"""Headless Chromium, driven over WebDriver's plain HTTP: needs no package, only the browser."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the key of an element's id, by the standard
FLAGS = """--headless --no-sandbox --disable-gpu --disable-quic --no-first-run
    --disable-background-networking --disable-component-update --disable-sync
    --force-color-profile=srgb"""


def chromium() -> str | None:
    """Return the path of the browser, if its driver exists, too."""
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next((path for name in names if (path := shutil.which(name))), None)
    return found if shutil.which("chromedriver") else None


def wait(condition: Callable[[], Any]) -> None:
    """Wait until something is so."""
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.1)


class Browser:
    """A browser with one window.

    Args:
        profile: An empty folder for its files.
    """

    def __init__(self, profile: Path) -> None:
        self._driver = subprocess.Popen(
            ["chromedriver", "--port=0"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert self._driver.stdout is not None
        port = None
        for line in self._driver.stdout:
            if started := re.search(r"started successfully on port (\d+)", line):
                port = started[1]
                break
        assert port, "chromedriver did not start"
        self._address = f"http://127.0.0.1:{port}/session"
        flags = [*FLAGS.split(), f"--user-data-dir={profile}", "--window-size=1200,900"]
        options = {
            "goog:chromeOptions": {"args": flags, "binary": chromium()},
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        }
        session = self._call("POST", "", {"capabilities": {"alwaysMatch": options}})
        self._address += f"/{session['sessionId']}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        try:
            self._call("DELETE", "")
        finally:
            self._driver.terminate()
            self._driver.wait()

    def open(self, page: Path | str) -> None:
        """Load a file, or an address."""
        self._call("POST", "/url", {"url": page.as_uri() if isinstance(page, Path) else page})

    def tell(self, command: str, parameters: dict[str, Any]) -> Any:
        """Run a command of Chrome's DevTools."""
        return self._call("POST", "/goog/cdp/execute", {"cmd": command, "params": parameters})

    def choose_files(self, selector: str, *files: Path) -> None:
        """Choose files in a field."""
        text = "\n".join(str(file) for file in files)
        found = self._call("POST", "/element", {"using": "css selector", "value": selector})
        self._call("POST", f"/element/{found[ELEMENT]}/value", {"text": text})

    def run(self, script: str, *arguments: Any) -> Any:
        """Run a function's body in the page, and return its result."""
        return self._call("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def log(self, kind: str) -> list[dict[str, Any]]:
        """Return lines of a log, `browser` or `performance`, since the last call."""
        return self._call("POST", "/se/log", {"type": kind})

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._address + path, data, method=method)
        request.add_header("Content-Type", "application/json")
        try:
            with urllib.request.urlopen(request, timeout=60) as reply:
                return json.load(reply)["value"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{path}: {json.load(error)['value']['message']}") from None


class Visitor(Browser):
    """A browser that has the page of ``main.py app`` open."""

    def sees(self, text: str) -> bool:
        fields = "[...document.querySelectorAll('textarea')].map((each) => each.value)"
        return text in self.run(f"return document.body.innerText + {fields}.join()")

    def choose(self, *paths: str) -> None:
        """Choose photographs and wait until the first one is shown, as a person would.

        Gradio's page loses what is pressed just as its stream of results closes.
        """
        start = "document.querySelector('button.primary')"
        wait(lambda: self.run(f"return {start} && !{start}.disabled"))
        self.choose_files("input[type=file]", *map(Path, paths))
        wait(lambda: self.run("return document.querySelector('.image-frame img')"))

    def press(self, label: str) -> None:
        buttons = "[...document.querySelectorAll('button')]"
        button = f"{buttons}.find((each) => each.innerText == arguments[0])"
        wait(lambda: self.run(f"return !{button}.disabled", label))
        self.run(f"{button}.click()", label)
