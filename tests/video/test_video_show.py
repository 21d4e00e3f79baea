"""``alignseg video --show``: a window of stand-ins, a page read by a real HTTP client."""

import contextlib
import http.client
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from alignseg_infer import Predictor
from alignseg_infer.arrays import Image
from alignseg_infer.cli import main
from alignseg_infer.errors import DeviceError, MissingDependencyError, OptionError
from alignseg_infer.pixels.images import encode_image
from alignseg_infer.video import browser as browser_module
from alignseg_infer.video import showing
from alignseg_infer.video.browser import LONGEST_GOODBYE, BrowserDisplay
from alignseg_infer.video.camera_source import CameraSource
from alignseg_infer.video.options import VideoOptions
from alignseg_infer.video.process import segment_source
from alignseg_infer.video.showing import open_display
from alignseg_infer.video.sources import open_source
from alignseg_infer.video.window import Window
from tests.support.models import FakeBackend
from tests.support.video_clips import Clip, picture, probe, write_clip
from tests.support.waiting import PATIENCE, eventually


class Watcher:
    """A display that keeps what it is shown, and asks for the end after some pictures."""

    where = "a test"

    def __init__(self, most: int = 10**9) -> None:
        self.seen: list[tuple[Image, Fraction | None]] = []
        self.most, self.closed = most, False

    def show(self, picture: Image, due: Fraction | None) -> bool:
        self.seen.append((picture, due))
        return len(self.seen) < self.most

    def close(self) -> None:
        self.closed = True


class Camera:
    """An endless webcam."""

    def isOpened(self) -> bool:
        return True

    def read(self) -> tuple[bool, Any]:
        time.sleep(0.005)
        return True, picture((64, 96))

    def get(self, prop: int, /) -> float:
        return 30.0

    def release(self) -> None:
        pass


def test_a_video_is_shown_without_a_file(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", Clip(frames=4, rate=Fraction(10)))
    watcher, predictor = Watcher(), Predictor(FakeBackend())
    options = VideoOptions(side_by_side=True)
    summary = segment_source(predictor, open_source(clip), None, options, display=watcher)
    assert summary.output is None
    assert summary.frames == 4
    assert summary.duration == pytest.approx(0.4)
    assert [due for _, due in watcher.seen] == [Fraction(number, 10) for number in range(4)]
    for shown, frame in zip(watcher.seen, probe(clip).images, strict=True):
        assert shown[0].shape == (64, 192, 3)
        assert np.abs(shown[0][:, :96].astype(int) - frame).mean() < 1
    assert list(tmp_path.iterdir()) == [clip]


def test_who_ends_the_display_ends_the_video(tmp_path: Path) -> None:
    """What was written until then is a whole file, which the display does not slow down."""
    clip = write_clip(tmp_path / "clip.mp4", Clip(frames=60, rate=Fraction(10), audio="aac"))
    watcher = Watcher(3)
    output = tmp_path / "out.mp4"
    summary = segment_source(Predictor(FakeBackend()), open_source(clip), output, display=watcher)
    assert [due for _, due in watcher.seen] == [None] * 3
    assert 3 <= summary.frames < 60
    assert len(probe(output).times) == summary.frames
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip.mp4", "out.mp4"]


def test_a_webcam_needs_no_destination(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    watcher = Watcher(3)
    monkeypatch.setattr(showing, "open_display", lambda show: watcher)
    monkeypatch.setattr(
        "alignseg_infer.video.camera_source.open_webcam",
        lambda index: CameraSource(f"webcam {index}", Camera),
    )
    assert main(["video", "demo", "0", "--show"]) == 0
    assert watcher.closed
    assert [due for _, due in watcher.seen] == [None] * 3
    printed = capsys.readouterr()
    assert "shown in a test" in printed.err
    assert "shown: 3 frames" in printed.out


def test_without_both_the_command_says_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["video", "demo", "streets"])
    assert caught.value.code == 2
    assert "-o/--destination is missing, or --show" in capsys.readouterr().err


# The window


class FakeScreen:
    """Stands in for OpenCV's windows."""

    def __init__(self, keys: list[int], visible: float = 1.0) -> None:
        self.keys, self.visible = keys, visible
        self.calls: list[str] = []

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("namedWindow", "resizeWindow", "imshow", "destroyAllWindows"):
            monkeypatch.setattr(cv2, name, lambda *_, name=name: self.calls.append(name))
        monkeypatch.setattr(cv2, "waitKey", lambda _: self.keys.pop(0) if self.keys else -1)
        monkeypatch.setattr(cv2, "getWindowProperty", lambda *_: self.visible)


@pytest.mark.parametrize(
    ("keys", "visible", "goes_on"),
    [
        ([-1], 1, True),
        ([ord("a")], 1, True),
        ([ord("q")], 1, False),
        ([27], 1, False),
        ([], 0, False),
    ],
)
def test_q_escape_and_closing_end_a_window(
    keys: list[int], visible: float, goes_on: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = FakeScreen(keys, visible)
    screen.install(monkeypatch)
    with contextlib.closing(Window()) as window:
        assert window.show(picture((8, 8)), None) is goes_on
    assert screen.calls == ["namedWindow", "resizeWindow", "imshow", "destroyAllWindows"]


def test_a_window_shows_frames_when_they_are_due(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = FakeScreen([])
    screen.install(monkeypatch)

    def wait_key(milliseconds: int) -> int:
        time.sleep(milliseconds / 1e3)
        return -1

    monkeypatch.setattr(cv2, "waitKey", wait_key)
    window, begin = Window(), time.monotonic()
    for due in (Fraction(5), Fraction(26, 5), Fraction(27, 5)):
        assert window.show(picture((8, 8)), due)
    assert time.monotonic() - begin >= 0.4


def test_an_opencv_without_windows_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cv2, "getBuildInformation", lambda: "  GUI:     NONE\n")
    with pytest.raises(MissingDependencyError, match="opens no windows") as caught:
        open_display("window")
    assert "show='browser'" in caught.value.fix
    assert "pip install opencv-python" in caught.value.fix
    assert main(["video", "demo", "streets", "--show", "window", "--seconds", "0.1"]) == 1
    assert "try: --show browser" in capsys.readouterr().err


def test_a_machine_without_a_screen_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """The window is tried in a process of its own, which Qt would end."""
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setattr(cv2, "getBuildInformation", lambda: "  GUI:     QT5\n")
    with pytest.raises(DeviceError, match="no window can be opened") as caught:
        open_display("window")
    assert caught.value.fix == "show='browser'"
    with contextlib.closing(open_display("auto")) as display:
        assert isinstance(display, BrowserDisplay)
    with pytest.raises(OptionError, match="show='tv'"):
        open_display("tv")


# The page


@pytest.fixture
def display() -> Iterator[BrowserDisplay]:
    with contextlib.closing(BrowserDisplay()) as display:
        yield display


def connect(address: str) -> http.client.HTTPConnection:
    host = address.removeprefix("http://").strip("/")
    return http.client.HTTPConnection(host, timeout=PATIENCE)


def next_picture(answer: http.client.HTTPResponse) -> Image | None:
    """The next picture of a stream; None at its end."""
    length = 0
    while (line := answer.readline()) not in (b"\r\n", b""):
        if line.lower().startswith(b"content-length:"):
            length = int(line.partition(b":")[2])
    if not length:
        return None
    data = answer.read(length)
    assert answer.readline() == b"\r\n"
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    return np.asarray(image, np.uint8)


def test_a_browser_gets_the_pictures_and_ends_them(display: BrowserDisplay) -> None:
    browser = connect(display.address)
    browser.request("GET", "/")
    assert b'<img src="/stream"' in browser.getresponse().read()
    browser.close()
    browser.request("GET", "/stream")
    assert display.show(picture((64, 96), 2), None)
    answer = browser.getresponse()
    seen = next_picture(answer)
    assert seen is not None
    assert np.abs(seen.astype(int) - picture((64, 96), 2)).mean() < 6
    other = connect(display.address)
    other.request("POST", "/end")
    assert other.getresponse().status == 200
    assert not display.show(picture((64, 96), 3), None)
    display.close()
    assert next_picture(answer) is None


def test_a_browser_that_goes_away_holds_up_nothing(display: BrowserDisplay) -> None:
    for _ in range(2):
        browser = connect(display.address)
        browser.request("GET", "/stream")
        assert display.show(picture((256, 256)), None)
        assert next_picture(browser.getresponse()) is not None
        browser.close()
        for number in range(30):
            assert display.show(picture((256, 256), number), None)


def test_the_last_picture_is_seen(display: BrowserDisplay, monkeypatch: pytest.MonkeyPatch) -> None:
    """Among others, the only one of a video that is a still: the process ends after `close`."""
    sent: list[bytes] = []

    def encode_slowly(picture: Image, suffix: str) -> bytes:
        time.sleep(0.3)
        sent.append(encode_image(picture, suffix))
        return sent[-1]

    monkeypatch.setattr(browser_module, "encode_image", encode_slowly)
    browser = connect(display.address)
    browser.request("GET", "/stream")
    assert display.show(picture((64, 96), 1), Fraction(0))
    display.close()
    assert len(sent) == 1
    answer = browser.getresponse()
    assert next_picture(answer) is not None
    assert next_picture(answer) is None
    browser.close()


def test_a_browser_that_does_not_read_does_not_hold_up_the_end(display: BrowserDisplay) -> None:
    browser = connect(display.address)
    browser.request("GET", "/stream")
    for number in range(40):  # more than sockets hold
        noise = np.random.default_rng(number).integers(0, 256, (600, 800, 3), np.uint8)
        assert display.show(noise, Fraction(0))
    begin = time.monotonic()
    display.close()
    assert time.monotonic() - begin < LONGEST_GOODBYE + 2
    browser.close()


def test_a_video_with_times_waits_for_someone_to_look(display: BrowserDisplay) -> None:
    shown: list[bool] = []
    work = threading.Thread(target=lambda: shown.append(display.show(picture((8, 8)), Fraction(0))))
    work.start()
    time.sleep(0.1)
    assert not shown
    browser = connect(display.address)
    browser.request("GET", "/stream")
    assert eventually(lambda: shown == [True])
    work.join()
    browser.close()


@pytest.mark.parametrize(
    "headers", [{"Host": "evil.example"}, {"Origin": "http://evil.example"}, {"Origin": "null"}]
)
@pytest.mark.parametrize("what", ["GET /", "GET /stream", "POST /end"])
def test_foreign_pages_get_nothing(
    headers: dict[str, str], what: str, display: BrowserDisplay
) -> None:
    browser, (method, path) = connect(display.address), what.split()
    browser.request(method, path, headers=headers)
    assert browser.getresponse().status in (404, 421)
    assert display.show(picture((8, 8)), None)


COMMAND = """
import signal, sys
from alignseg_infer.cli import main
signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs ignore it
sys.exit(main())
"""


@contextlib.contextmanager
def typed(*words: str) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """Run ``alignseg video demo ... --show browser``; yield the process and the page's address."""
    command = [sys.executable, "-c", COMMAND, "video", "demo", *words, "--show", "browser"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stderr is not None
        try:
            lines = iter(process.stderr.readline, "")
            address = next(found for line in lines if (found := re.search(r"http://\S+/", line)))
            yield process, address[0]
        finally:
            process.kill()


def test_the_command_shows_a_video_in_the_browser() -> None:
    with typed("streets", "--seconds", "0.4", "--rate", "10", "--size", "64x128") as (
        process,
        page,
    ):
        browser = connect(page)
        browser.request("GET", "/stream")
        answer = browser.getresponse()
        assert next_picture(answer) is not None
        printed, _ = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0
        assert "shown: 4 frames, 0.40 s" in printed
        browser.close()


def test_the_command_shows_a_still(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "still.png"), picture((64, 96), 3))
    with typed(str(tmp_path / "still.png")) as (process, page):
        browser = connect(page)
        browser.request("GET", "/stream")
        assert next_picture(browser.getresponse()) is not None
        process.communicate(timeout=PATIENCE)
        assert process.returncode == 0
        browser.close()


def test_ctrl_c_ends_what_is_only_shown() -> None:
    with typed("streets", "--seconds", "3000", "--size", "64x128") as (process, page):
        browser = connect(page)
        browser.request("GET", "/stream")
        answer = browser.getresponse()
        assert next_picture(answer) is not None
        process.send_signal(signal.SIGINT)
        printed, errors = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, errors
        assert "shown: " in printed
        assert "Traceback" not in errors
        browser.close()
