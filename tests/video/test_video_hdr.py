"""Videos with high dynamic range or wide gamut are labelled like the SDR pictures in them."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from alignseg_infer.arrays import Image
from alignseg_infer.demo import FIRST_HELD_OUT
from alignseg_infer.demo.streets import Street
from alignseg_infer.pixels.header import colors_of_avif
from alignseg_infer.pixels.images import read_image
from alignseg_infer.pixels.wide_color import Primaries, Transfer, color_name, to_bt709
from alignseg_infer.predictor import Predictor
from alignseg_infer.video.sources import open_source
from tests.support.video_clips import usual_priority

TO_BT2020 = np.array(  # of red, green and blue, from BT.2087
    [[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]]
)

SDR_TRANSFER = 14  # BT.2020, 10 bits
KINDS = {"PQ": Transfer.PQ, "HLG": Transfer.HLG, "BT.2020": SDR_TRANSFER}


def encode_light(light: NDArray[np.float64], transfer: int) -> NDArray[np.float64]:
    """Encode display light, where 1 is SDR white of 203 cd/m2, as BT.2100 and BT.1886 say."""
    if transfer == Transfer.PQ:
        power = (light * 203 / 10_000) ** 0.1593017578125
        encoded = ((0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)) ** 78.84375
    elif transfer == Transfer.HLG:
        display = light * 203 / 1000
        luminance = display @ np.array([0.2627, 0.6780, 0.0593])
        scene = display * np.maximum(luminance, 1e-9)[..., np.newaxis] ** ((1 - 1.2) / 1.2)
        high = 0.17883277 * np.log(np.maximum(12 * scene - 0.28466892, 1e-9)) + 0.55991073
        encoded = np.where(scene <= 1 / 12, np.sqrt(3 * scene), high)
    else:
        encoded = light ** (1 / 2.4)
    return np.asarray(encoded)


def encode(image: Image, transfer: int) -> NDArray[np.float64]:
    """Convert an SDR picture (H, W, 3) BGR to the R'G'B' (0..1) of BT.2020 with this transfer."""
    light = (image[..., ::-1] / 255.0) ** 2.4 @ TO_BT2020.T
    return encode_light(np.clip(light, 0, None), transfer)


def set_colors(context: Any, transfer: int) -> None:
    context.color_primaries, context.color_trc = Primaries.BT2020, transfer
    context.colorspace, context.color_range = 9, 1  # BT.2020, limited range


def wide_frame(image: Image, transfer: int) -> av.VideoFrame:
    """Convert an SDR picture (H, W, 3) BGR to a frame of BT.2020 with 10 bits, limited range."""
    height, width = image.shape[:2]
    red, green, blue = np.moveaxis(encode(image, transfer), 2, 0)
    luma = 0.2627 * red + 0.6780 * green + 0.0593 * blue
    planes = [luma * 876 + 64, (blue - luma) / 1.8814 * 896 + 512]
    planes.append((red - luma) / 1.4746 * 896 + 512)
    frame = av.VideoFrame(width, height, "yuv444p10le")
    for plane, values in zip(frame.planes, planes, strict=True):
        rows = np.zeros((height, plane.line_size // 2), "<u2")
        rows[:, :width] = np.round(values)
        plane.update(rows.tobytes())
    frame.pts, frame.time_base = 0, Fraction(1, 10)
    frame.colorspace, frame.color_range = 9, 1
    return frame


def write_wide(path: Path, images: list[Image], transfer: int, pixels: str = "yuv444p10le") -> Path:
    """Write pictures as a video of BT.2020, without loss."""
    height, width = images[0].shape[:2]
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = width, height, pixels
        set_colors(stream.codec_context, transfer)
        for number, image in enumerate(images):
            frame = wide_frame(image, transfer).reformat(format=pixels)
            frame.pts, frame.time_base = number, Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize("pixels", ["yuv444p10le", "yuv420p10le"])
@pytest.mark.parametrize("kind", KINDS)
def test_labels_are_those_of_the_sdr_pictures(kind: str, pixels: str, tmp_path: Path) -> None:
    images = [Street(FIRST_HELD_OUT + seed).scene(size=(256, 512)).image for seed in range(1)]
    path = write_wide(tmp_path / "wide.mkv", images, KINDS[kind], pixels)
    source = open_source(path)
    frames = [frame.image for frame in source]
    source.close()
    assert [note for note in source.notes if kind in note and "BT.709" in note]
    predictor = Predictor("demo")
    for image, frame in zip(images, frames, strict=True):
        halved = (
            pixels == "yuv420p10le"
        )  # the chroma; at this size that alone moves 2 % of the labels
        assert np.abs(frame.astype(int) - image).mean() < (3 if halved else 1.5)
        same = np.mean(predictor(frame).labels == predictor(image).labels)
        assert same >= (0.98 if halved else 0.99)


def test_still_in_avif(tmp_path: Path) -> None:
    lines = [line for line in cv2.getBuildInformation().splitlines() if "AVIF:" in line]
    if not lines or "NO" in lines[0]:
        pytest.skip(f"this build of OpenCV does not read AVIF: {lines}")
    image = Street(FIRST_HELD_OUT).scene(size=(128, 256)).image
    path = tmp_path / "still.avif"
    frame = wide_frame(image, Transfer.PQ).reformat(format="yuv420p10le")
    with usual_priority(), av.open(str(path), "w", format="avif") as container:
        stream: Any = container.add_stream("libsvtav1", rate=1, options={"crf": "5"})
        stream.width, stream.height, stream.pix_fmt = 256, 128, "yuv420p10le"
        set_colors(stream.codec_context, Transfer.PQ)
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    assert colors_of_avif(path.read_bytes()) == (Primaries.BT2020, Transfer.PQ)
    found = read_image(path)
    assert np.abs(found.astype(int) - image).mean() < 4
    predictor = Predictor("demo")
    assert np.mean(predictor(found).labels == predictor(image).labels) >= 0.97  # lossy, 4:2:0


@pytest.mark.parametrize("transfer", [*KINDS.values()])
@pytest.mark.parametrize("gray", [0, 1, 16, 128, 200, 254, 255])
def test_grays_come_back(transfer: int, gray: int) -> None:
    image = np.full((2, 3, 3), gray, np.uint8)
    wide = np.round(encode(image, transfer) * 65535).astype(np.uint16)[..., ::-1]
    np.testing.assert_allclose(to_bt709(wide, Primaries.BT2020, transfer), image, atol=1)


def test_light_above_white_is_white() -> None:
    bright = np.full((2, 2, 3), 65535, np.uint16)  # 10,000 cd/m2 in PQ
    assert to_bt709(bright, Primaries.BT2020, Transfer.PQ).min() == 255


@pytest.mark.parametrize(
    ("primaries", "transfer", "name"),
    [(1, 1, None), (2, 2, None), (9, 16, "HDR (PQ)"), (2, 18, "HDR (HLG)"), (9, 14, "BT.2020")],
)
def test_what_is_converted(primaries: int, transfer: int, name: str | None) -> None:
    assert color_name(primaries, transfer) == name
