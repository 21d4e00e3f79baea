"""Which source a name stands for: files before webcams, pipes, stdin, and addresses."""

import contextlib
import functools
import http.server
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from fractions import Fraction
from pathlib import Path

import pytest

from alignseg_infer import OptionError, Predictor, VideoError, segment_video
from alignseg_infer.video import camera_source
from alignseg_infer.video.options import VideoOptions
from alignseg_infer.video.sources import open_source
from tests.support.models import FakeBackend
from tests.support.video_clips import Clip, probe, write_clip
from tests.support.waiting import PATIENCE, eventually
from tests.video.test_video import run_video

SEEN = Clip(frames=30, rate=Fraction(25), audio="mp2")
LISTENING = """
import signal, sys
from alignseg_infer.cli import main
signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs ignore it
sys.exit(main(sys.argv[1:]))
"""
COMMAND = [sys.executable, "-m", "alignseg_infer", "video", "demo"]


@pytest.fixture
def webcams(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Collect the indices of the webcams that are opened."""
    opened: list[int] = []
    monkeypatch.setattr(camera_source, "open_webcam", opened.append)
    return opened


def test_existing_files_and_paths_are_no_webcams(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, webcams: list[int]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(VideoError, match="0 does not exist"):
        open_source(Path("0"))
    open_source("0")
    assert webcams == [0]
    write_clip(tmp_path / "a.mp4", Clip()).rename("0")
    (tmp_path / "1").mkdir()
    shutil.copy("0", "streets")
    for source in ("0", Path("0"), "./streets", Path("streets")):
        assert len(list(open_source(source))) == 6
    with pytest.raises(VideoError, match="0 images"):
        open_source("1")
    (entry,) = (entry for entry in os.scandir(tmp_path) if entry.name == "0")
    predictor = Predictor(FakeBackend())
    assert segment_video(predictor, entry, tmp_path / "out.mp4").frames == 6
    assert webcams == [0]


def test_device_of_a_webcam_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, webcams: list[int]
) -> None:
    link = tmp_path / "my_camera"
    link.write_text("")
    monkeypatch.setattr(os.path, "realpath", lambda path: "/dev/video3")
    open_source(link)
    assert webcams == [3]


def feed(fifo: Path, content: bytes) -> threading.Thread:
    def write() -> None:
        with contextlib.suppress(BrokenPipeError):  # whoever reads may have seen enough
            fifo.write_bytes(content)

    feeder = threading.Thread(target=write, daemon=True)
    feeder.start()
    return feeder


@pytest.mark.parametrize("audio", [True, False])
def test_fifo_is_read_once(audio: bool, tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.ts", SEEN)
    os.mkfifo(tmp_path / "fifo")
    feeder = feed(tmp_path / "fifo", clip.read_bytes())
    options = VideoOptions(opacity=0, crf=2, audio=audio)
    summary = run_video(tmp_path / "fifo", tmp_path / "out.mp4", options)
    feeder.join(PATIENCE)
    run_video(clip, tmp_path / "whole.mp4", options)
    after, whole = probe(tmp_path / "out.mp4"), probe(tmp_path / "whole.mp4")
    assert after.times == whole.times
    assert len(after.times) == 30
    assert after.audio == []
    note = "audio was left out: a pipe can be read only once"
    assert summary.notes == ((note,) if audio else ())


def test_index_at_the_end_cannot_come_through_a_pipe(tmp_path: Path) -> None:
    large = Clip("mjpeg", size=(480, 640), frames=60, pixels="yuvj420p")  # not in one buffer
    clip = write_clip(tmp_path / "clip.mp4", large)
    os.mkfifo(tmp_path / "fifo")
    feeder = feed(tmp_path / "fifo", clip.read_bytes())
    with pytest.raises(VideoError, match="video whose index is not at its end"):
        open_source(tmp_path / "fifo")
    feeder.join(PATIENCE)


@pytest.mark.parametrize("pause", [0, 0.02, 0.05, 0.3])  # seconds; it may come at any time
def test_ctrl_c_ends_the_wait_for_a_pipe(pause: float, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    arguments = ["video", "demo", str(tmp_path / "fifo"), "-o", str(tmp_path / "out.mp4")]
    command = [sys.executable, "-c", LISTENING, *arguments]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as child:
        writers: list[int] = []
        assert eventually(lambda: bool(writers or open_for_writing(tmp_path / "fifo", writers)))
        time.sleep(pause)
        child.send_signal(signal.SIGINT)  # it waits for the first byte now
        try:
            _, errors = child.communicate(timeout=PATIENCE)
        finally:
            child.kill()
            os.close(writers[0])
    assert child.returncode == 130, errors
    assert "Traceback" not in errors


def open_for_writing(fifo: Path, writers: list[int]) -> bool:
    """Add a file descriptor to `writers` if something waits at the other end."""
    with contextlib.suppress(OSError):
        writers.append(os.open(fifo, os.O_WRONLY | os.O_NONBLOCK))
    return bool(writers)


@pytest.mark.parametrize(("name", "audio"), [("clip.ts", 0), ("clip.mp4", 50)])
@pytest.mark.parametrize("source", ["-", "/dev/stdin"])
def test_stdin_is_read(source: str, name: str, audio: int, tmp_path: Path) -> None:
    """A pipe is read once; a file that stdin was redirected from is a file, with audio."""
    clip = write_clip(tmp_path / name, SEEN)
    command = [*COMMAND, source, "-o", str(tmp_path / "out.mp4"), "--size", "64"]
    if name == "clip.ts":
        done = subprocess.run(command, input=clip.read_bytes(), capture_output=True, check=False)
    else:
        with clip.open("rb") as file:
            done = subprocess.run(command, stdin=file, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    after = probe(tmp_path / "out.mp4")
    assert len(after.times) == 30
    assert len(after.audio) == audio


def test_devices_are_refused(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="/dev/null is a terminal or another device, not a video"):
        open_source("/dev/null")
    done = subprocess.run(
        [*COMMAND, "-", "-o", str(tmp_path / "out.mp4")],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "not a video" in done.stderr


def test_srt_names_what_it_needs() -> None:
    with pytest.raises(VideoError, match="libsrt") as error:
        open_source("srt://127.0.0.1:9")
    assert "alignseg video MODEL - -o OUT.mp4" in error.value.fix


def test_address_of_a_file_is_advised_as_a_path(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "my clip.mp4", Clip())
    with pytest.raises(OptionError, match="scheme file") as error:
        open_source(clip.as_uri())
    (path,) = re.findall("name the file: '(.*)'", error.value.fix)
    assert len(list(open_source(path))) == 6


@pytest.mark.skipif(shutil.which("curl") is None, reason="the advice needs curl")
def test_advice_for_addresses_works(tmp_path: Path) -> None:
    (tmp_path / "web").mkdir()
    write_clip(tmp_path / "web" / "clip.ts", Clip())
    handler = functools.partial(Quiet, directory=tmp_path / "web")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/clip.ts?a=1&b=2"
        with pytest.raises(OptionError, match="scheme http, which is not read here") as error:
            open_source(address)
        download, pipe = error.value.fix.removeprefix("download it first: ").split(
            "; or, if it never ends: "
        )
        pipe = pipe.replace("alignseg video MODEL", " ".join(COMMAND)) + " --size 64"
        subprocess.run(["bash", "-c", f"{download} && {pipe}"], cwd=tmp_path, check=True)
        server.shutdown()
    assert len(list(open_source(tmp_path / "clip.ts"))) == 6
    assert len(probe(tmp_path / "OUT.mp4").times) == 6


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        """Print nothing."""
