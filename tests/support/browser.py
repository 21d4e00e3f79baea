"""A headless Chromium that is driven, and the page in a process of its own."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.waiting import PATIENCE

FLAGS = [
    "--headless=new",
    "--no-sandbox",  # as root
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--use-fake-ui-for-media-stream",
    "--use-fake-device-for-media-stream",  # a camera that shows a drawing
]


def require_browser() -> None:
    """Skip the test where there is no Chromium, or nothing that drives it."""
    for program in ("chromium", "chromedriver"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed: apt-get install chromium chromium-driver")
    for module in ("selenium", "gradio"):
        pytest.importorskip(module, reason=f"{module} is not installed")


@contextlib.contextmanager
def opened_browser(folder: Path, *, width: int = 1280, dark: bool = False) -> Iterator[Any]:
    """Open a browser; `folder` holds its profile. Its requests are in ``requests_of``."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for flag in [*FLAGS, f"--user-data-dir={folder}", f"--window-size={width},1000"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    downloads = folder / "downloads"
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    browser = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    try:
        metrics = {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": width < 600}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        browser.set_script_timeout(PATIENCE)
        yield browser
    finally:
        browser.quit()


def requests_of(browser: Any) -> list[str]:
    """Return the addresses that the browser asked for since the last call."""
    found = []
    for entry in browser.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            found.append(message["params"]["request"]["url"])
    return found


@contextlib.contextmanager
def served_page(folder: Path, *arguments: str) -> Iterator["Served"]:
    """Run ``alignseg page`` at a free port, and end it with SIGTERM."""
    environment = {**os.environ, "TMPDIR": str(folder), "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(
        [sys.executable, "-m", "alignseg_infer", "page", *arguments, "--port", "0"],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    served = Served(process, folder)
    try:
        for line in process.stdout:
            served.printed.append(line)
            address = re.search(r"the page is at (http://\S+)", line)
            if address:
                served.address = address[1]
                break
        yield served
    finally:
        if process.poll() is None:
            served.end()


class Served:
    """A page that runs.

    Attributes:
        address: Where it is; empty if it ended before it began.
        printed: Lines that it has printed.
    """

    def __init__(self, process: "subprocess.Popen[str]", folder: Path) -> None:
        self.address, self.printed = "", list[str]()
        self.process, self._folder = process, folder

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal, and return the exit code."""
        self.process.send_signal(number)
        try:
            rest, _ = self.process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        self.printed.append(rest)
        return self.process.returncode

    def files(self) -> list[Path]:
        """Return the files that lie in its temporary folder."""
        locks = {".lock"}
        found = [path for path in self._folder.rglob("*") if path.is_file()]
        return [path for path in found if path.suffix not in locks]


def wait_for(browser: Any, script: str, seconds: float = PATIENCE) -> Any:
    """Return what a script returns as soon as it is true."""
    deadline = time.monotonic() + seconds
    while not (found := browser.execute_script(script)):
        assert time.monotonic() < deadline, browser.execute_script(
            "return document.body.innerText.slice(-2000)"
        )
        time.sleep(0.05)
    return found


def upload(browser: Any, *paths: Path) -> None:
    """Give files to the page, as somebody does who drops them."""
    wait_for(browser, "return document.querySelector('input[type=file]')")
    (field,) = browser.find_elements("css selector", "input[type=file]")[:1]
    field.send_keys("\n".join(map(str, paths)))
