"""Sliding window, scales and flip through Predictor, over fake backends."""

import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from alignseg_infer.arrays import Floats, Image, Size
from alignseg_infer.errors import AlignSegError, ModelError, OptionError, SizeError
from alignseg_infer.pixels.postprocess import scores_from_logits
from alignseg_infer.pixels.preprocess import network_input, preprocess
from alignseg_infer.predictor import Predictor
from alignseg_infer.spec.model import ExportSpec, InputSpec, OutputKind, Sampler
from tests.support.models import SMALL_SPEC, FakeBackend, FakeLabelBackend

FIXED = ExportSpec(
    output=OutputKind.LOGITS,
    sampler=Sampler.NATIVE,
    opset=18,
    rewrites=True,
    size=(48, 64),
    batch=7,
    exporter="by hand",
)
DYNAMIC = replace(FIXED, size=None, batch=None)
LABELS = replace(DYNAMIC, output=OutputKind.LABELS)
CLASSES = 19


class PlacedBackend(FakeBackend):
    """The blue value plus a ramp over each input, so that place and direction matter."""

    def infer(self, batch: NDArray[np.float32]) -> NDArray[np.generic]:
        assert batch.flags.c_contiguous
        return super().infer(batch + np.linspace(0, 9, batch.shape[3], dtype=np.float32))


class RecordingBackend(FakeBackend):
    """Keeps its inputs; subtracts a mean, so that padding and black differ."""

    def __init__(self) -> None:
        super().__init__()
        self.spec = replace(self.spec, input=InputSpec())
        self.inputs: list[Floats] = []

    def infer(self, batch: NDArray[np.float32]) -> NDArray[np.generic]:
        self.inputs.append(batch.copy())
        return super().infer(batch)


def with_export(export: ExportSpec) -> FakeBackend:
    return FakeBackend(replace(SMALL_SPEC, export=export))


def noise(size: Size, seed: int = 0) -> Image:
    return np.random.default_rng(seed).integers(0, 20, (*size, 3)).astype(np.uint8)


def same(first: Any, second: Any) -> None:
    np.testing.assert_array_equal(first.labels, second.labels)
    np.testing.assert_array_equal(first.probabilities, second.probabilities)


def resized(logits: Floats, size: Size) -> Floats:
    tensor = torch.from_numpy(np.ascontiguousarray(logits))[None]
    upsampled = F.interpolate(tensor, size, mode="bilinear", align_corners=True)[0]
    return np.asarray(upsampled.numpy(), np.float32)


def network(tensor: Floats) -> Floats:
    """Return the logits (C, h, w) of `PlacedBackend` for one input."""
    return np.asarray(PlacedBackend().infer(tensor)[0], np.float32)


def softmax(logits: Floats) -> Floats:
    return np.asarray(torch.softmax(torch.from_numpy(logits), 0).numpy(), np.float32)


# Layout and batches ------------------------------------------------------------------------------


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize(("size", "tile"), [(None, (90, 130)), ((64, 96), (64, 96))])
def test_a_tile_as_large_as_the_image_is_the_whole_image(
    size: Size | None, tile: Size, flip: bool
) -> None:
    image = noise((90, 130))
    whole = Predictor(PlacedBackend(), size=size, flip=flip)(image, probabilities=True)
    slide = Predictor(PlacedBackend(), size=size, flip=flip, mode="slide", tile=tile)
    same(slide(image, probabilities=True), whole)


def test_tiles_find_the_labels(image: Image) -> None:
    result = Predictor(FakeBackend(), mode="slide", tile=40)(image, confidence=True)
    np.testing.assert_array_equal(result.labels[:, 5::10], image[:, 5::10, 0])
    assert result.input_size == (40, 40)
    assert result.confidence is not None
    assert result.confidence.shape == (90, 130)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize(("batch", "calls"), [(1, 15), (2, 8), (4, 4), (64, 1)])
def test_batches(batch: int, calls: int, flip: bool) -> None:
    """90x130 has 3 x 5 tiles of 40 with stride 27, twice as many with flip."""
    backend, image = PlacedBackend(), noise((90, 130))
    options: dict[str, Any] = {"mode": "slide", "tile": 40, "flip": flip}
    seen = Predictor(backend, batch=batch, **options)(image, probabilities=True)
    tiles = 30 if flip else 15
    assert sum(shape[0] for shape in backend.batches) == tiles
    assert len(backend.batches) == -(-tiles // batch)
    assert all(shape[1:] == (3, 40, 40) and shape[0] <= batch for shape in backend.batches)
    assert flip or len(backend.batches) == calls
    same(seen, Predictor(PlacedBackend(), **options)(image, probabilities=True))


def test_flip_shares_a_batch_with_the_plain_image() -> None:
    backend = PlacedBackend()
    Predictor(backend, flip=True, batch=4)(noise((40, 50)))
    assert backend.batches == [(2, 3, 40, 50)]


def test_fixed_model_sets_tile_and_batch(image: Image) -> None:
    """The 9 tiles make a batch of 7 and one of 2, which is filled up."""
    backend = with_export(FIXED)
    result = Predictor(backend, mode="slide")(image)
    assert set(backend.batches) == {(7, 3, 48, 64)}
    np.testing.assert_array_equal(result.labels[:, 5::10], image[:, 5::10, 0])
    assert Predictor(backend, mode="slide", tile=(48, 64))(image).input_size == (48, 64)


def test_size_is_that_of_the_image_before_tiling() -> None:
    """The longest side of 65 makes 90x130 into 45x65, which takes 2 x 3 tiles of 32."""
    backend = FakeBackend()
    options: dict[str, Any] = {"mode": "slide", "tile": 32, "overlap": 0, "batch": 100}
    result = Predictor(backend, size=65, **options)(noise((90, 130)))
    assert backend.batches == [(6, 3, 32, 32)]
    assert result.labels.shape == (90, 130)


def test_default_tile_and_padding() -> None:
    """The tile is 872; a smaller image is padded below and to the right, after the mean."""
    backend, image = RecordingBackend(), np.zeros((40, 50, 3), np.uint8)
    result = Predictor(backend, mode="slide")(image)
    assert result.input_size == (872, 872)
    assert result.labels.shape == (40, 50)
    (tile,) = backend.inputs
    assert tile.shape == (1, 3, 872, 872)
    assert (tile[..., :40, :50] < -100).all()
    assert not tile[..., 40:, :].any()
    assert not tile[..., 50:].any()


def test_mirrored_padding() -> None:
    """The mirrored image lies in the corner too, not the mirrored tile."""
    backend, image = RecordingBackend(), noise((40, 50))
    Predictor(backend, mode="slide", tile=64, flip=True, batch=2)(image)
    plain, mirrored = backend.inputs[0]
    np.testing.assert_array_equal(mirrored[:, :40, :50], plain[:, :40, :50][..., ::-1])
    assert not mirrored[..., 50:].any()


@pytest.mark.slow
def test_memory_does_not_grow_with_tiles() -> None:
    """One sum (C, H, W), a quarter of it for the check of finite values, and some bands."""
    image, sum_bytes = noise((400, 600)), 4 * CLASSES * 400 * 600
    for overlap in (0.0, 0.75):
        backend = FakeBackend()
        predictor = Predictor(backend, mode="slide", tile=64, overlap=overlap, batch=4)
        tracemalloc.start()
        predictor(image)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 1.3 * sum_bytes + 24e6
    assert len(backend.batches) > 150


# Flip --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"mode": "slide", "tile": 33}], ids=str)
def test_flip_changes_nothing_for_an_equivariant_network(options: dict[str, Any]) -> None:
    """Every 4th column of 65 or 33 is the same set from both sides; so are tiles every 32."""
    image = noise((65, 65))
    options = {**options, "overlap": 1 / 33} if options else {}
    plain = Predictor(FakeBackend(), **options)(image, probabilities=True)
    flipped = Predictor(FakeBackend(), flip=True, **options)(image, probabilities=True)
    np.testing.assert_array_equal(flipped.labels, plain.labels)
    np.testing.assert_allclose(flipped.probabilities, plain.probabilities, atol=1e-5)  # type: ignore[arg-type]


@pytest.mark.parametrize("options", [{}, {"mode": "slide", "tile": 40}], ids=str)
def test_flip_makes_symmetric_images_symmetric(options: dict[str, Any]) -> None:
    half = noise((60, 50))
    image = np.concatenate([half, half[:, ::-1]], axis=1)
    plain = Predictor(PlacedBackend(), **options)(image, probabilities=True).probabilities
    flipped = Predictor(PlacedBackend(), flip=True, **options)(image, probabilities=True)
    assert plain is not None
    assert flipped.probabilities is not None
    assert np.abs(plain - plain[..., ::-1]).max() > 0.1
    np.testing.assert_allclose(
        flipped.probabilities, flipped.probabilities[..., ::-1], rtol=0, atol=1e-5
    )


def test_flip_of_a_whole_image_by_hand() -> None:
    image = noise((50, 70))
    tensor = preprocess(image, (50, 70), FakeBackend().spec.input)
    mirrored = network(np.ascontiguousarray(tensor[..., ::-1]))[..., ::-1]
    both = [resized(network(tensor), (50, 70)), resized(mirrored, (50, 70))]
    expected = softmax(np.asarray(np.mean(both, axis=0), np.float32))
    result = Predictor(PlacedBackend(), flip=True)(image, probabilities=True)
    assert result.probabilities is not None
    np.testing.assert_allclose(result.probabilities, expected, rtol=0, atol=1e-5)


# Scales ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scales", [(0.5,), (1.0, 0.75), [0.75, 1, 1.5], (2.0, 2.0)], ids=str)
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("base", [None, (70, 90)])
def test_scales_equal_a_plain_computation(
    scales: list[float], flip: bool, base: Size | None
) -> None:
    image = noise((90, 130))
    height, width = base or (90, 130)
    parts = []
    for scale in scales:
        size = (round(scale * height), round(scale * width))
        tensor = preprocess(image, size, FakeBackend().spec.input)
        parts.append(resized(network(tensor), (90, 130)))
        if flip:
            mirrored = network(np.ascontiguousarray(tensor[..., ::-1]))
            parts.append(resized(mirrored[..., ::-1], (90, 130)))
    expected = softmax(np.asarray(np.mean(parts, axis=0), np.float32))
    predictor = Predictor(PlacedBackend(), size=base, scales=scales, flip=flip)
    result = predictor(image, probabilities=True)
    assert result.probabilities is not None
    np.testing.assert_allclose(result.probabilities, expected, rtol=0, atol=1e-5)
    assert result.input_size == (round(max(scales) * height), round(max(scales) * width))


def test_scales_of_a_sliding_window(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each scale is a sliding window of its own over the resized image."""
    image, scales = noise((90, 130)), (0.5, 1.0, 1.25)
    seen: list[Floats] = []

    def keep(logits: Floats, size: Size, **_: object) -> Any:
        seen.append(resized(logits, size))
        return scores_from_logits(logits, size)

    monkeypatch.setattr("alignseg_infer.inference.stages.scores_from_logits", keep)
    options: dict[str, Any] = {"mode": "slide", "tile": 40}
    for scale in scales:
        Predictor(PlacedBackend(), scales=(scale,), **options)(image)
    Predictor(PlacedBackend(), scales=scales, **options)(image)
    assert [part.shape for part in seen] == [(CLASSES, 90, 130)] * 4
    np.testing.assert_allclose(seen[3], np.mean(seen[:3], axis=0), rtol=0, atol=1e-4)
    assert np.abs(seen[0] - seen[1]).max() > 1


def test_small_images_may_be_scaled_up() -> None:
    backend = FakeBackend()
    assert Predictor(backend, scales=(2.0,))(noise((20, 20))).labels.shape == (20, 20)
    assert backend.batches == [(1, 3, 40, 40)]


# The result --------------------------------------------------------------------------------------


def test_lists_of_images() -> None:
    images = [noise((60, 70), 0), noise((60, 70), 1), noise((40, 90), 2)]
    predictor = Predictor(PlacedBackend(), mode="slide", tile=40, scales=(1, 1.5), batch=4)
    results = predictor(images, probabilities=True)
    for image, result in zip(images, results, strict=True):
        same(result, predictor(image, probabilities=True))
    assert predictor([]) == []


def test_threads_share_a_predictor() -> None:
    options: dict[str, Any] = {"mode": "slide", "tile": 40, "flip": True, "scales": (0.75, 1)}
    predictor = Predictor(PlacedBackend(), batch=3, **options)
    images = [noise((60 + index, 90 - index), index) for index in range(6)]
    alone = [predictor(image).labels for image in images]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda image: predictor(image).labels, images * 3))
    for index, labels in enumerate(together):
        np.testing.assert_array_equal(labels, alone[index % len(images)])


def test_times_are_of_their_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that only the steps themselves move forward, by seconds."""
    now = [0.0]

    class SlowBackend(FakeBackend):
        def infer(self, batch: NDArray[np.float32]) -> NDArray[np.generic]:
            now[0] += 5
            return super().infer(batch)

    def slow_preprocess(*arguments: Any) -> Floats:
        now[0] += 2
        return network_input(*arguments)

    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    monkeypatch.setattr("alignseg_infer.inference.stages.network_input", slow_preprocess)
    backend = SlowBackend()
    options: dict[str, Any] = {"mode": "slide", "tile": 40, "overlap": 0, "scales": (1, 2)}
    times = Predictor(backend, **options)(noise((40, 80))).times
    assert len(backend.batches) == 2 + 8
    assert (times.load, times.preprocess, times.infer, times.postprocess) == (0, 4e3, 50e3, 0)
    assert times.total == 54e3


def test_network_that_returns_nan() -> None:
    class Broken(FakeBackend):
        def infer(self, batch: NDArray[np.float32]) -> NDArray[np.generic]:
            return np.full_like(super().infer(batch), np.nan)

    with pytest.raises(ModelError, match="NaN or infinite logits"):
        Predictor(Broken(), mode="slide", tile=40)(noise((60, 60)))


def test_without_averaging_the_network_is_called_as_before() -> None:
    """Without averaging, images of a list share a call."""
    backend = FakeBackend()
    Predictor(backend, mode="whole", scales=[1], flip=False, batch=2)([noise((40, 40))] * 2)
    assert backend.batches == [(2, 3, 40, 40)]


# Bad input ---------------------------------------------------------------------------------------

SLIDE = {"mode": "slide"}
BAD_OPTIONS: list[tuple[dict[str, Any], type[AlignSegError], str]] = [
    ({"mode": "tiles"}, OptionError, "mode='tiles'"),
    ({"mode": None}, OptionError, "mode=None"),
    ({"tile": 64}, OptionError, "tile=64 was given without"),
    ({"overlap": 0.5}, OptionError, "overlap=0.5 was given without"),
    ({**SLIDE, "overlap": 1}, OptionError, "overlap=1"),
    ({**SLIDE, "overlap": -0.1}, OptionError, "overlap=-0.1"),
    ({**SLIDE, "overlap": float("nan")}, OptionError, "overlap=nan"),
    ({**SLIDE, "overlap": "1/3"}, OptionError, "overlap='1/3'"),
    ({"overlap": np.zeros(2)}, OptionError, "overlap=(0.0, 0.0)"),
    ({**SLIDE, "tile": 31}, SizeError, "31x31"),
    ({**SLIDE, "tile": (64, 16)}, SizeError, "64x16"),
    ({**SLIDE, "tile": 0}, SizeError, "0x0"),
    ({**SLIDE, "tile": 16385}, SizeError, "16385x16385"),
    ({**SLIDE, "tile": 64.0}, OptionError, "tile=64.0"),
    ({**SLIDE, "tile": True}, OptionError, "tile=True"),
    ({**SLIDE, "tile": (64, 64, 3)}, OptionError, "tile=(64, 64, 3)"),
    ({**SLIDE, "tile": "64x64"}, OptionError, "tile='64x64'"),
    ({"scales": ()}, OptionError, "scales=()"),
    ({"scales": 1.5}, OptionError, "scales=1.5"),
    ({"scales": "1"}, OptionError, "scales='1'"),
    ({"scales": (1, 0)}, OptionError, "scales=(1, 0)"),
    ({"scales": (-1.0,)}, OptionError, "scales=(-1.0,)"),
    ({"scales": (float("nan"),)}, OptionError, "scales=(nan,)"),
    ({"scales": (float("inf"),)}, OptionError, "scales=(inf,)"),
    ({"scales": (1e300,)}, OptionError, "scales=(1e+300,)"),
    ({"scales": (True,)}, OptionError, "scales=(True,)"),
    ({"scales": (None,)}, OptionError, "scales=(None,)"),
    ({"flip": "no"}, OptionError, "flip='no'"),
    ({**SLIDE, "batch": 0}, OptionError, "batch=0"),
]


@pytest.mark.parametrize(
    ("options", "kind", "fragment"), BAD_OPTIONS, ids=[b[2] for b in BAD_OPTIONS]
)
def test_bad_options(options: dict[str, Any], kind: type[AlignSegError], fragment: str) -> None:
    with pytest.raises(kind) as caught:
        Predictor(FakeBackend(), **options)
    assert type(caught.value) is kind
    assert fragment in caught.value.problem
    assert caught.value.expected
    assert caught.value.fix


@pytest.mark.parametrize(
    ("export", "options", "kind", "fragment"),
    [
        (LABELS, SLIDE, OptionError, "returns labels"),
        (LABELS, {"flip": True}, OptionError, "returns labels"),
        (LABELS, {"scales": (0.5, 1)}, OptionError, "returns labels"),
        (FIXED, {"scales": (0.5, 1)}, OptionError, "exported for 48x64"),
        (FIXED, {**SLIDE, "tile": 64}, SizeError, "exported for 48x64"),
        (FIXED, {"flip": True, "size": "native"}, SizeError, "exported for 48x64"),
    ],
)
def test_models_that_cannot(
    export: ExportSpec, options: dict[str, Any], kind: type[AlignSegError], fragment: str
) -> None:
    backend = (FakeLabelBackend if export is LABELS else with_export)(export)
    with pytest.raises(kind, match=fragment):
        Predictor(backend, **options)


@pytest.mark.parametrize(
    ("options", "fragment"),
    [
        ({"scales": (1, 0.5)}, "20x30"),
        ({"scales": (0.001,)}, "0x0"),
        ({"scales": (1, 500)}, "20000x30000"),
        ({**SLIDE, "scales": (0.5,)}, "20x30"),
        ({**SLIDE, "size": 20}, "13x20"),
    ],
)
def test_images_that_do_not_fit(options: dict[str, Any], fragment: str) -> None:
    """They are refused before the network runs at any scale."""
    backend = FakeBackend()
    with pytest.raises(SizeError, match=fragment):
        Predictor(backend, **options)(noise((40, 60)))
    assert backend.batches == []
