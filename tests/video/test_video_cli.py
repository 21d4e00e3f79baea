"""``alignseg video`` and its example, folders, drawn streets, and a stream over the network."""

import socket
import subprocess
import sys
import threading
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest

from alignseg_infer import Predictor, VideoError
from alignseg_infer.backends import open_backend
from alignseg_infer.cli import main
from alignseg_infer.cli.progress import frames_bar
from alignseg_infer.demo import FIRST_HELD_OUT
from alignseg_infer.demo.streets import Street
from alignseg_infer.offsets.displacement import offsets_of_image
from alignseg_infer.offsets.pictures import color_limit, direction_colors
from alignseg_infer.ops.offset_fields import OffsetField
from alignseg_infer.video.camera_source import open_stream
from alignseg_infer.video.options import VideoOptions
from alignseg_infer.video.process import segment_source
from alignseg_infer.video.sources import open_source
from tests.support.models import FakeBackend
from tests.support.video_clips import NTSC, Clip, picture, probe, write_clip
from tests.support.waiting import PATIENCE

ROOT = Path(__file__).parents[2]


def test_command_writes_a_video_and_prints_a_summary(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_clip(tmp_path / "clip.mp4", Clip(frames=3, audio="aac"))
    output = tmp_path / "out.mp4"
    arguments = ["video", "demo", str(source), "-o", str(output), "--legend", "--side-by-side"]
    assert main([*arguments, "--opacity", "0.7", "--size", "64x96", "--smoothing", "0.5"]) == 0
    printed = capsys.readouterr().out
    assert f"{output}: 3 frames, 0.10 s" in printed
    assert "decode" in printed
    assert "encode" in printed
    after = probe(output)
    assert after.images[0].shape[1] == 192
    assert after.audio


def test_offsets_are_shown_at_the_right(tmp_path: Path) -> None:
    output = tmp_path / "out.mp4"
    arguments = ["video", "demo", "streets", "-o", str(output), "--max-frames", "2", "--rate", "2"]
    assert main([*arguments, "--size", "64x128", "--offsets", "cab2.high", "--crf", "4"]) == 0
    for number, image in enumerate(probe(output).images):
        assert image.shape == (256, 1024, 3)
        scene = Street(FIRST_HELD_OUT).scene(number / 2).image
        fields = offsets_of_image(open_backend("demo"), scene, (64, 128)).fields
        if number == 0:
            limit = color_limit(fields[OffsetField("cab2.high")])
        colors = direction_colors(fields[OffsetField("cab2.high")].vectors, limit)
        expected = cv2.resize(colors, (512, 256), interpolation=cv2.INTER_AREA).astype(int)
        assert np.abs(image[:, 512:].astype(int) - expected).mean() < 6


def test_command_reports_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "noise.mp4").write_bytes(b"noise" * 99)
    assert main(["video", "demo", str(tmp_path / "noise.mp4"), "-o", "out.mp4"]) == 1
    assert "cannot be opened as a video" in capsys.readouterr().err
    clip = str(write_clip(tmp_path / "clip.mp4", Clip()))
    assert main(["video", "demo", clip, "-o", clip]) == 1
    assert "overwrite" in capsys.readouterr().err
    assert main(["video", "demo", clip, "-o", "out.mp4", "--rate", "10"]) == 1
    assert "its own times" in capsys.readouterr().err


def test_example_runs_with_nothing_downloaded(tmp_path: Path) -> None:
    source = write_clip(tmp_path / "clip.mp4", Clip(frames=2))
    command = [sys.executable, str(ROOT / "examples" / "video_demo.py"), "--source", str(source)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "2 frames" in done.stdout
    assert len(probe(tmp_path / "video-output" / "out.mp4").times) == 2


@pytest.mark.parametrize(
    "start",
    [
        "from alignseg_infer.cli import main; "
        "sys.exit(main(['video', 'demo', 'a.mp4', '-o', 'out.mp4']))",
        f"runpy.run_path({str(ROOT / 'examples' / 'video_demo.py')!r}, run_name='__main__')",
    ],
)
def test_missing_pyav_is_said_with_what_to_install(start: str, tmp_path: Path) -> None:
    program = f"import runpy, sys; sys.modules['av'] = None; {start}"
    options = ["--source", "a.mp4", "--destination", "out.mp4"] if "runpy.run" in start else []
    done = subprocess.run(
        [sys.executable, "-c", program, *options],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 1
    assert "pip install av" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("seconds", "rate", "frames"),
    [(0.2, 25, 5), (0.4, 25, 10), (0.6, 5, 3), (0.3, 10, 3), (0.41, 25, 11), (0.1, NTSC, 3)],
)
def test_a_length_gives_its_frames(
    seconds: float, rate: Fraction, frames: int, tmp_path: Path
) -> None:
    """0.2 as a float is a little more than 1/5, which was a frame too many."""
    counted: list[tuple[int, int | None]] = []
    summary = segment_source(
        Predictor(FakeBackend()),
        open_source("streets", rate=rate, seconds=seconds),
        tmp_path / "out.mp4",
        VideoOptions(seconds=seconds),
        lambda done, total: counted.append((done, total)),
    )
    assert (summary.frames, counted[-1]) == (frames, (frames, frames))


def test_drawn_streets_are_the_streets(tmp_path: Path) -> None:
    source = open_source("streets:7", rate=Fraction(5), seconds=0.5)
    summary = segment_source(
        Predictor(FakeBackend()), source, tmp_path / "out.mp4", VideoOptions(opacity=0.0, crf=2)
    )
    after = probe(tmp_path / "out.mp4")
    assert summary.frames == 3
    assert after.times == [Fraction(number, 5) for number in range(3)]
    for time, image in zip(after.times, after.images, strict=True):
        scene = Street(7).scene(float(time)).image
        assert np.abs(image.astype(int) - scene.astype(int)).mean() < 4


def test_folder_is_shown_in_the_order_of_its_numbers(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for number in (0, 2, 10, 1):
        cv2.imwrite(str(folder / f"{number}.png"), picture((64, 96), number))
    cv2.imwrite(str(folder / "11.jpg"), picture((32, 48), 11))
    for name in ("0.jpg", "3.png"):
        (folder / name).write_bytes(b"no picture")
    (folder / "notes.txt").write_text("no picture either")
    summary = segment_source(
        Predictor(FakeBackend()),
        open_source(folder, rate=Fraction(4)),
        tmp_path / "out.mp4",
        VideoOptions(opacity=0.0, crf=2),
    )
    after = probe(tmp_path / "out.mp4")
    assert after.times == [Fraction(number, 4) for number in (1, 2, 3, 5, 6)]
    bars = [int(image[31:33].min(2).mean(0).argmax()) // 4 for image in after.images]
    assert bars[:4] == [0, 1, 2, 10]
    assert summary.damaged == 2
    left_out, changed = sorted(summary.notes, key=lambda note: "changed" in note)
    assert left_out.startswith(f"the first image left out: {folder / '0.jpg'} cannot be decoded")
    assert "changed from 64x96 to 32x48 (height x width) at 1.50 s" in changed


def test_stream_that_is_cut_is_connected_again(tmp_path: Path) -> None:
    """OpenCV reads a real connection; messages do not show the password."""
    content = write_clip(tmp_path / "live.ts", Clip(frames=12)).read_bytes()
    server = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=serve, args=(server, content, 2), daemon=True)
    thread.start()
    source = open_stream(f"tcp://127.0.0.1:{server.getsockname()[1]}")
    source._attempts = 1
    shapes: list[tuple[int, ...]] = []
    with pytest.raises(VideoError, match="no longer gives frames, after 1 attempts"):
        shapes.extend(frame.image.shape for frame in source)
    source.close()
    thread.join(PATIENCE)
    assert source.reconnects == 1
    assert shapes == [(64, 96, 3)] * 24
    with pytest.raises(VideoError, match=r"^rtsp://127\.0\.0\.1:1/x ") as caught:
        open_stream("rtsp://user:secret@127.0.0.1:1/x")
    assert "secret" not in str(caught.value)


def serve(server: socket.socket, content: bytes, times: int) -> None:
    for _ in range(times):
        connection, _ = server.accept()
        with connection:
            connection.sendall(content)
    server.close()


@pytest.mark.parametrize("total", [100, None])
def test_progress_says_speed_and_rest(
    total: int | None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("alignseg_infer.cli.progress.time.monotonic", Clock())
    with frames_bar() as progress:
        for done in range(1, 13):
            progress(done, total)
    first = capsys.readouterr().err.splitlines()[0]
    assert first == ("5 of 100 frames, 1.0 fps, about 95 s left" if total else "5 frames, 1.0 fps")


class Clock:
    def __init__(self) -> None:
        self.now = -1.0

    def __call__(self) -> float:
        self.now += 1
        return self.now
