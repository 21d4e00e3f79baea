"""Opening what shows a video: a window where there is one, else a page for the browser."""

import os
import re
import subprocess

import cv2

from alignseg_infer.choices import choose
from alignseg_infer.errors import DeviceError, MissingDependencyError
from alignseg_infer.packages import OPENCV, command_of, installed_of, replacement
from alignseg_infer.video.browser import BrowserDisplay
from alignseg_infer.video.display import Display, Show
from alignseg_infer.video.window import Window

LONGEST_PROBE = 30  # seconds for opening a window on trial


def open_display(show: str = Show.AUTO) -> Display:
    """Open a display.

    Args:
        show: ``"window"``, ``"browser"``, or ``"auto"`` for a window where one can be opened, else
            the browser.

    Raises:
        MissingDependencyError: A window was asked for, but this OpenCV has none.
        DeviceError: A window was asked for, but it cannot be opened; or no port is free.
    """
    wanted = choose(Show, show, "show")
    if wanted is not Show.BROWSER:
        try:
            _require_window()
            return Window()
        except (MissingDependencyError, DeviceError):
            if wanted is Show.WINDOW:
                raise
    return BrowserDisplay()


def _require_window() -> None:
    """Check that a window can be opened, in a process of its own: without a screen, Qt aborts it.

    Raises:
        MissingDependencyError: This OpenCV has no windows.
        DeviceError: There is no screen.
    """
    if re.search(r"^\s*GUI:\s*NONE", cv2.getBuildInformation(), re.MULTILINE):
        raise MissingDependencyError(
            "this OpenCV opens no windows",
            "one with windows, as the extra desktop brings it",
            f"show='{Show.BROWSER}'; or for windows: "
            f"{replacement(installed_of(OPENCV) or ['opencv-python-headless'], 'opencv-python')}",
        )
    command = command_of("alignseg_infer.video.window")
    try:
        done = subprocess.run(  # noqa: S603 - a command of our own
            command, capture_output=True, text=True, check=False, timeout=LONGEST_PROBE
        )
        problem = "" if done.returncode == 0 else done.stderr.strip().partition("\n")[0]
        problem = problem or ("" if done.returncode == 0 else f"exit code {done.returncode}")
    except subprocess.TimeoutExpired:
        problem = f"nothing came of it for {LONGEST_PROBE} s"
    if problem:
        screen = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY") or "none is set"
        raise DeviceError(
            f"no window can be opened (screen: {screen}): {problem}",
            "a screen, which DISPLAY or WAYLAND_DISPLAY names",
            f"show='{Show.BROWSER}'",
        )
