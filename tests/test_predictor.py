"""Predictor over a fake backend in which a pixel's blue value is its class."""

import itertools
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from alignseg_infer.arrays import Image, Size
from alignseg_infer.datasets.class_tables import class_table_for
from alignseg_infer.errors import ImageError, OptionError, SizeError
from alignseg_infer.export.verification.probes import probe_image
from alignseg_infer.pixels.images import ImageSource
from alignseg_infer.predictor import Predictor
from alignseg_infer.spec.model import ExportSpec, NetworkSpec, OutputKind
from tests.support.models import LOGITS_EXPORT, SMALL_SPEC, FakeBackend, FakeLabelBackend

LOGITS = LOGITS_EXPORT
LABELS = replace(LOGITS, output=OutputKind.LABELS)
SMALL: Size = (40, 48)
LARGE: Size = (64, 56)


def solid(label: int, size: Size = SMALL) -> Image:
    return np.full((*size, 3), (label, 100, 200), np.uint8)


def backend_with(export: ExportSpec) -> FakeBackend:
    return FakeBackend(replace(SMALL_SPEC, export=export))


class WideLabelBackend(FakeLabelBackend):
    """A backend of 300 classes as uint16; a label is the blue value plus 200."""

    def __init__(self) -> None:
        super().__init__(LABELS)
        network = NetworkSpec(num_classes=300)
        self.spec = replace(self.spec, network=network, classes=class_table_for(300))

    def infer(self, batch: NDArray[np.float32]) -> NDArray[np.generic]:
        return batch[:, 0].astype(np.uint16) + 200


def test_labels_at_image_size(image: Image) -> None:
    result = Predictor(FakeBackend())(image)
    assert result.labels.shape == (90, 130)
    assert result.labels.dtype == np.uint8
    # 1/4-size logits blur the borders of a stripe; its middle is exact.
    np.testing.assert_array_equal(result.labels[:, 5::10], image[:, 5::10, 0])
    np.testing.assert_array_equal(result.image, image)


def test_facts_of_the_result(image: Image) -> None:
    backend = FakeBackend()
    predictor = Predictor(backend)
    result = predictor(image)
    assert predictor.spec is backend.spec
    assert result.backend == predictor.backend == "fake"
    assert result.classes is backend.spec.classes
    assert result.input_size == (90, 130)
    assert result.confidence is None
    assert result.probabilities is None
    assert repr(predictor) == "Predictor(resnet18, 19 classes, fake)"


def test_confidence_and_probabilities() -> None:
    """Logits are 0, -1, -2 and so on for a black image."""
    result = Predictor(FakeBackend())(solid(0), confidence=True, probabilities=True)
    total = sum(math.exp(-label) for label in range(19))
    assert result.confidence is not None
    assert result.probabilities is not None
    np.testing.assert_allclose(result.confidence, np.full(SMALL, 1 / total), rtol=1e-6)
    expected = [math.exp(-label) / total for label in range(19)]
    np.testing.assert_allclose(result.probabilities[:, 7, 9], expected, rtol=1e-5)
    assert result.probabilities.shape == (19, *SMALL)


@pytest.mark.parametrize("container", [list, tuple])
@pytest.mark.parametrize(
    ("batch", "calls"),
    [
        (1, [(1, SMALL), (1, SMALL), (1, SMALL), (1, LARGE), (1, LARGE), (1, SMALL)]),
        (2, [(2, SMALL), (1, SMALL), (2, LARGE), (1, SMALL)]),
        (8, [(3, SMALL), (2, LARGE), (1, SMALL)]),
    ],
)
def test_consecutive_equal_sizes_share_a_call(
    container: type[list[Image] | tuple[Image, ...]], batch: int, calls: list[tuple[int, Size]]
) -> None:
    sizes = [SMALL, SMALL, SMALL, LARGE, LARGE, SMALL]
    backend = FakeBackend()
    results = Predictor(backend, batch=batch)(
        container(solid(label, size) for label, size in enumerate(sizes))
    )
    assert backend.batches == [(count, 3, *size) for count, size in calls]
    for label, (size, result) in enumerate(zip(sizes, results, strict=True)):
        np.testing.assert_array_equal(result.labels, np.full(size, label))


def test_one_input_size_lets_different_images_share_a_call() -> None:
    backend = FakeBackend()
    results = Predictor(backend, size=(32, 64), batch=2)([solid(3, SMALL), solid(4, LARGE)])
    assert backend.batches == [(2, 3, 32, 64)]
    np.testing.assert_array_equal(results[0].labels, np.full(SMALL, 3))
    np.testing.assert_array_equal(results[1].labels, np.full(LARGE, 4))


def test_no_images() -> None:
    backend = FakeBackend()
    assert Predictor(backend)([]) == []
    assert backend.batches == []


@pytest.mark.parametrize(("images", "calls"), [(1, 1), (4, 1), (5, 2)])
def test_fixed_batch_is_filled_up(images: int, calls: int) -> None:
    backend = backend_with(replace(LOGITS, batch=4))
    results = Predictor(backend)([solid(label) for label in range(images)])
    assert backend.batches == [(4, 3, *SMALL)] * calls
    assert [int(result.labels.max()) for result in results] == list(range(images))


def test_fixed_batch_with_one_image() -> None:
    backend = backend_with(replace(LOGITS, batch=4))
    np.testing.assert_array_equal(Predictor(backend)(solid(6)).labels, np.full(SMALL, 6))
    assert backend.batches == [(4, 3, *SMALL)]


@pytest.mark.parametrize(
    ("size", "fixed", "expected"),
    [
        (None, None, (90, 130)),
        ("native", None, (90, 130)),
        ((64, 128), None, (64, 128)),
        (65, None, (45, 65)),
        (None, (48, 80), (48, 80)),
        ((48, 80), (48, 80), (48, 80)),
    ],
)
def test_size_reaches_the_backend(
    size: str | int | Size | None, fixed: Size | None, expected: Size, image: Image
) -> None:
    backend = backend_with(replace(LOGITS, size=fixed))
    result = Predictor(backend, size=size)(image)
    assert backend.batches == [(1, 3, *expected)]
    assert result.input_size == expected
    assert result.labels.shape == (90, 130)


def test_refused_sizes() -> None:
    with pytest.raises(SizeError):
        Predictor(backend_with(replace(LOGITS, size=(48, 80))), size="native")
    backend = FakeBackend()
    with pytest.raises(SizeError):
        Predictor(backend)(solid(1, (31, 64)))
    assert backend.batches == []


@pytest.mark.parametrize("batch", [0, -1])
def test_refused_batch(batch: int) -> None:
    with pytest.raises(OptionError):
        Predictor(FakeBackend(), batch=batch)


def test_label_model(image: Image) -> None:
    result = Predictor(FakeLabelBackend(LABELS))(image)
    np.testing.assert_array_equal(result.labels, image[..., 0])
    assert result.labels.dtype == np.uint8


def test_label_model_of_another_size() -> None:
    """Pixels come in blocks of 2x2, so halving is exact; labels in between would be wrong."""
    blocks = np.random.default_rng(0).integers(0, 19, (32, 40)).astype(np.uint8)
    pixels = blocks.repeat(2, axis=0).repeat(2, axis=1)
    backend = FakeLabelBackend(replace(LABELS, size=(32, 40)))
    np.testing.assert_array_equal(Predictor(backend)(pixels).labels, pixels)
    assert backend.batches == [(1, 3, 32, 40)]


def test_label_model_with_many_classes() -> None:
    result = Predictor(WideLabelBackend())(solid(99))
    assert result.labels.dtype == np.uint16
    np.testing.assert_array_equal(result.labels, np.full(SMALL, 299))


@pytest.mark.parametrize("option", ["confidence", "probabilities"])
def test_label_model_has_no_probabilities(option: str) -> None:
    backend = FakeLabelBackend(LABELS)
    options: dict[str, Any] = {option: True}
    with pytest.raises(OptionError):
        Predictor(backend)(solid(1), **options)
    assert backend.batches == []


def test_sources(tmp_path: Path) -> None:
    path = tmp_path / "five.png"
    cv2.imwrite(str(path), solid(5))
    sources: list[ImageSource] = [solid(5), solid(5)[..., 0], str(path), path]
    for result in Predictor(FakeBackend())(sources):
        np.testing.assert_array_equal(result.labels, np.full(SMALL, 5))


def test_pil_image() -> None:
    pil = pytest.importorskip("PIL.Image")
    result = Predictor(FakeBackend())(pil.new("RGB", SMALL[::-1], (200, 100, 5)))
    np.testing.assert_array_equal(result.labels, np.full(SMALL, 5))


def test_gray_image_comes_back_in_three_channels() -> None:
    result = Predictor(FakeBackend())(np.full(SMALL, 7, np.uint8))
    np.testing.assert_array_equal(result.image, np.full((*SMALL, 3), 7))


def test_one_bad_image_in_a_list() -> None:
    with pytest.raises(ImageError):
        Predictor(FakeBackend())([solid(1), "missing.png"])


def test_times(image: Image) -> None:
    for result in Predictor(FakeBackend(), batch=2)([image, image, solid(1)]):
        stages = result.times
        assert min(stages.load, stages.preprocess, stages.infer, stages.postprocess) >= 0
        assert stages.total > 0


def test_threads_share_a_predictor() -> None:
    predictor = Predictor(FakeBackend(), batch=2)
    jobs = [(label % 19, (40 + label % 7, 48 + label % 5)) for label in range(64)]

    def labels_of(job: tuple[int, Size]) -> list[NDArray[Any]]:
        label, size = job
        images = [solid(label, size), solid(18 - label, size)]
        return [result.labels for result in predictor(images)]

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(labels_of, jobs))
    for (label, size), (first, second) in zip(jobs, answers, strict=True):
        np.testing.assert_array_equal(first, np.full(size, label))
        np.testing.assert_array_equal(second, np.full(size, 18 - label))


def test_result_keeps_its_picture_when_the_caller_reuses_the_buffer() -> None:
    frame = np.full((40, 40, 3), 7, np.uint8)
    result = Predictor(FakeBackend())(frame)
    frame[:] = 255
    assert (result.image == 7).all()


def test_stage_times_are_of_their_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that counts its readings: each stage lasts one tick, inference is shared by two."""
    ticks = itertools.count()
    monkeypatch.setattr("time.perf_counter", lambda: float(next(ticks)))
    results = Predictor(FakeBackend(), batch=2)([np.zeros((40, 40, 3), np.uint8)] * 2)
    for result in results:
        times = result.times
        assert (times.load, times.preprocess, times.infer, times.postprocess) == (
            1000.0,
            1000.0,
            500.0,
            1000.0,
        )
        assert times.total == 3500.0


def test_two_threads_share_a_real_session(small_onnx: Path) -> None:
    predictor = Predictor(small_onnx)
    images = [probe_image((40 + 3 * index, 64), index) for index in range(8)]
    alone = [predictor(image).labels for image in images]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda image: predictor(image).labels, images * 3))
    for index, labels in enumerate(together):
        np.testing.assert_array_equal(labels, alone[index % len(images)])


@pytest.mark.parametrize("options", [{}, {"flip": True}, {"mode": "slide", "tile": 32}], ids=str)
@pytest.mark.parametrize("streamed", [False, True])
def test_results_say_which_file_they_are_of(
    options: dict[str, Any], streamed: bool, tmp_path: Path
) -> None:
    path = tmp_path / "street.png"
    done, data = cv2.imencode(".png", solid(3))
    assert done
    path.write_bytes(data.tobytes())
    predictor = Predictor(FakeBackend(), **options)
    sources: list[Any] = [path, str(path), solid(3)]
    results = list(predictor.stream(sources)) if streamed else predictor(sources)
    assert [result.source for result in results] == [str(path), str(path), None]
    assert [result.to_dict()["source"] for result in results] == [str(path), str(path), None]
    assert str(path) in repr(results[0])
    assert "None" not in repr(results[2])
