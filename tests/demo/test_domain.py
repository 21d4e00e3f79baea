"""The demo model says that photographs are not what it was made for, and is silent on streets."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from sklearn.datasets import load_sample_image

from alignseg_infer import Predictor
from alignseg_infer.arrays import Image
from alignseg_infer.cli import main
from alignseg_infer.demo import DEMO_SHA256, checkpoint_path, domain
from alignseg_infer.demo.domain import LEAST_SURE, sureness, watch_demo
from alignseg_infer.demo.streets import Street
from alignseg_infer.files.reading import sha256_of
from tests.support.models import SMALL_SPEC

UNSURE = np.zeros((19, 32, 64), np.float32)


@pytest.fixture(autouse=True)
def not_said_yet() -> Iterator[None]:
    domain._warn_once.cache_clear()
    yield
    domain._warn_once.cache_clear()


def photograph(name: str, height: int = 256) -> Image:
    pixels = load_sample_image(name)[..., ::-1]
    size = (pixels.shape[1] * height // pixels.shape[0], height)
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)


def as_jpeg(image: Image, quality: int) -> Image:
    data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)


def test_sureness_by_hand() -> None:
    assert sureness(UNSURE) == pytest.approx(1 / 19)
    sure = UNSURE.copy()
    sure[3] = 50
    assert sureness(sure) == pytest.approx(1)
    halves = UNSURE.copy()
    halves[:2] = np.float16(50)
    assert sureness(halves.astype(np.float16)) == pytest.approx(0.5)


def test_it_is_the_demo_model() -> None:
    assert sha256_of(checkpoint_path("demo")) == DEMO_SHA256


def test_photographs_are_said_once(caplog: pytest.LogCaptureFixture) -> None:
    predictor = Predictor("demo")
    predictor([photograph("china.jpg"), photograph("flower.jpg")])
    with predictor.stream([photograph("china.jpg")]) as results:
        assert len(list(results)) == 1
    assert Predictor("demo", mode="slide", tile=256)(photograph("china.jpg")) is not None
    (said,) = [record.getMessage() for record in caplog.records]
    assert "knows only drawn streets" in said
    assert "github.com/speedinghzl/AlignSeg" in said


@pytest.mark.parametrize("options", [{"mode": "slide", "tile": 256}, {"flip": True}])
def test_averaged_logits_are_watched(
    options: dict[str, object], caplog: pytest.LogCaptureFixture
) -> None:
    Predictor("demo", **options)(photograph("flower.jpg"))  # type: ignore[arg-type]
    assert "knows only drawn streets" in caplog.text


def test_streets_are_no_photographs(caplog: pytest.LogCaptureFixture) -> None:
    predictor = Predictor("demo")
    for seed, size in enumerate([(128, 256), (256, 512), (256, 256), (272, 640), (512, 1024)]):
        street = Street(5_000_000 + seed).scene(size=size, time=float(seed)).image
        predictor([street, as_jpeg(street, 75), as_jpeg(street, 30)])
    assert caplog.records == []


def test_others_are_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    demo = Predictor("demo").spec
    watch_demo(SMALL_SPEC, UNSURE, (256, 512))
    watch_demo(replace(demo, source=None), UNSURE, (256, 512))
    watch_demo(demo, UNSURE, (64, 128))  # where streets look like this, too
    assert caplog.records == []
    watch_demo(demo, UNSURE, (128, 256))
    assert len(caplog.records) == 1
    assert sureness(UNSURE) < LEAST_SURE


def test_command_says_it_once_on_stderr(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = [tmp_path / name for name in ("china.png", "flower.png")]
    for path in images:
        cv2.imwrite(str(path), photograph(path.stem + ".jpg"))
    assert main(["predict", "demo", *map(str, images), "-o", str(tmp_path / "out")]) == 0
    captured = capsys.readouterr()
    assert captured.err.count("knows only drawn streets") == 1
    assert "drawn streets" not in captured.out
