"""Offset fields: the same from every backend, in pixels, and as pictures."""

import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray

from alignseg_infer import ModelError, ModelFileError, OptionError, Predictor
from alignseg_infer.arrays import Image
from alignseg_infer.backends import open_backend
from alignseg_infer.backends.onnxruntime_backend import OnnxRuntimeBackend
from alignseg_infer.cli import main
from alignseg_infer.export.verification.probes import probe_image
from alignseg_infer.offsets.displacement import Displacement, displacement, offsets_of_image
from alignseg_infer.offsets.pictures import (
    MARGIN,
    SHEET_WIDTH,
    arrow_map,
    color_limit,
    color_map,
    color_wheel,
    direction_colors,
    offsets_sheet,
    pixels_text,
)
from alignseg_infer.ops.offset_fields import OffsetField
from alignseg_infer.ops.sampling import source_pixels
from alignseg_infer.pixels.preprocess import preprocess
from alignseg_infer.spec.model import SamplingConvention
from tests.support.export_kinds import FIXED, FIXED_OFFSETS, LABELS_AND_OFFSETS, PLAIN_OFFSETS
from tests.support.models import FakeBackend

CAM, HIGH = OffsetField.CAM, OffsetField.CAB2_HIGH

Export = Callable[..., Path]


class FakeOffsets(FakeBackend):
    """Give every pixel of every field the same offset."""

    def __init__(self, dx: float, dy: float) -> None:
        super().__init__()
        self.offset = np.array([dx, dy], np.float32).reshape(1, 2, 1, 1)

    def offsets(self, batch: NDArray[np.float32]) -> dict[OffsetField, NDArray[np.float32]]:
        self.batches.append(batch.shape)
        return {field: np.tile(self.offset, (len(batch), 1, 9, 17)) for field in OffsetField}


def constant(x: float, y: float, size: tuple[int, int] = (12, 20)) -> Displacement:
    return Displacement(HIGH, np.tile(np.array([x, y], np.float32), (*size, 1)))


def network_input(backend: Any, size: tuple[int, int], images: int) -> NDArray[np.float32]:
    pictures = [probe_image(size, seed) for seed in range(images)]
    return np.concatenate([preprocess(image, size, backend.spec.input) for image in pictures])


# From backends


@pytest.mark.parametrize(
    ("kind", "size", "images"),
    [
        (LABELS_AND_OFFSETS, (32, 32), 1),
        (LABELS_AND_OFFSETS, (33, 250), 1),
        (LABELS_AND_OFFSETS, (128, 256), 2),
        (FIXED_OFFSETS, (65, 98), 2),
        (PLAIN_OFFSETS, (65, 98), 2),
    ],
    ids=str,
)
def test_onnx_gives_the_offsets_of_pytorch(
    export_small: Export,
    small_checkpoint: Path,
    kind: dict[str, Any],
    size: tuple[int, int],
    images: int,
) -> None:
    exported, checkpoint = OnnxRuntimeBackend(export_small(**kind)), open_backend(small_checkpoint)
    tensor = network_input(exported, size, images)
    seen, expected = exported.offsets(tensor), checkpoint.offsets(tensor)  # type: ignore[attr-defined]
    assert list(seen) == list(expected) == list(OffsetField)
    for field in OffsetField:
        assert seen[field].dtype == expected[field].dtype == np.float32
        assert seen[field].shape == expected[field].shape
        assert seen[field].shape[:2] == (images, 2)
        error = np.linalg.norm(seen[field] - expected[field])
        assert error <= 1e-5 * np.linalg.norm(expected[field]), field


def test_infer_asks_for_one_output_only(
    export_small: Export, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = OnnxRuntimeBackend(export_small(**LABELS_AND_OFFSETS))
    asked: list[list[str]] = []

    class Recorder:
        def run(self, names: list[str], feeds: dict[str, Any]) -> Any:
            asked.append(names)
            return session.run(names, feeds)

    session = backend._session
    monkeypatch.setattr(backend, "_session", Recorder())
    backend.infer(network_input(backend, (64, 96), 1))
    backend.offsets(network_input(backend, (64, 96), 1))
    assert asked == [["labels"], [field.output_name for field in OffsetField]]


def test_offsets_change_no_label(export_small: Export) -> None:
    image = probe_image((90, 130), 3)
    plain = Predictor(export_small(**FIXED))(image)
    assert np.array_equal(plain.labels, Predictor(export_small(**FIXED_OFFSETS))(image).labels)


def test_threads_do_not_mix_their_offsets(small_checkpoint: Path) -> None:
    backend = open_backend(small_checkpoint)
    tensors = [network_input(backend, (64, 64 + 32 * i), 1) for i in range(4)]
    expected = [backend.offsets(tensor) for tensor in tensors]  # type: ignore[attr-defined]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            for seen, wanted in zip(
                pool.map(backend.offsets, tensors),  # type: ignore[attr-defined]
                expected,
                strict=True,
            ):
                assert all(np.allclose(seen[f], wanted[f], atol=1e-4) for f in OffsetField)


def test_graph_with_some_of_the_offsets_is_refused(export_small: Export, tmp_path: Path) -> None:
    model = onnx.load(export_small(**FIXED_OFFSETS))
    del model.graph.output[5]
    onnx.save(model, tmp_path / "some.onnx")
    with pytest.raises(ModelFileError, match=r"it returns offset\.cab2\.high, offset\."):
        OnnxRuntimeBackend(tmp_path / "some.onnx")


def test_backend_without_offsets_is_refused() -> None:
    with pytest.raises(OptionError, match="--with-offsets"):
        offsets_of_image(FakeBackend(), probe_image((64, 96), 0))


def test_offsets_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ModelError, match="cam has 153 NaN"):
        offsets_of_image(FakeOffsets(1, np.nan), probe_image((64, 96), 0))


def test_fixed_batch_is_filled(export_small: Export) -> None:
    """A fixed size is used without being requested."""
    seen, fields = offsets_of_image(
        OnnxRuntimeBackend(export_small(**PLAIN_OFFSETS)), probe_image((90, 130), 0)
    )
    assert seen.shape == (65, 98, 3)
    assert fields[CAM].vectors.shape == (3, 4, 2)
    assert fields[HIGH].vectors.shape == (17, 25, 2)


def test_size_and_picture_are_those_of_the_network_input() -> None:
    backend = FakeOffsets(1, 0)
    seen, _ = offsets_of_image(backend, probe_image((100, 200), 0), 128)
    assert backend.batches == [(1, 3, 64, 128)]
    assert seen.shape == (64, 128, 3)


# In pixels


@pytest.mark.parametrize("shape", [(9, 17), (17, 9), (1, 5), (1, 1)])
@pytest.mark.parametrize("field", [CAM, HIGH])
@pytest.mark.parametrize("convention", SamplingConvention)
def test_displacement_is_what_the_sampler_does(
    convention: SamplingConvention, field: OffsetField, shape: tuple[int, int]
) -> None:
    """Return the sampler's positions with the offset minus those without, in input pixels."""
    height, width = 200, 300
    offset = torch.randn(1, 2, *shape, dtype=torch.float64)
    sampled = (3, 3) if field is CAM else shape
    moved, still = (
        source_pixels(value, sampled, convention) for value in (offset, torch.zeros_like(offset))
    )
    expected = torch.stack(
        [(moved[1] - still[1]) * width / sampled[1], (moved[0] - still[0]) * height / sampled[0]],
        -1,
    )
    seen = displacement(offset[0].float().numpy(), field, (height, width), convention)
    assert seen.dtype == np.float32
    np.testing.assert_allclose(seen, expected[0].numpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("convention", "field", "x", "y"),
    [
        ("release-2021-12", HIGH, 2 / 2 * 512 / 129, 4 / 2 * 256 / 65),
        ("release-2021-05", HIGH, 2 * 512 / (2 * 65), 4 * 256 / (2 * 129)),
        ("standard", HIGH, 2 * 512 / 129, 4 * 256 / 65),
        ("release-2021-12", CAM, 512 / 3, 2 * 256 / 3),
        ("release-2021-05", CAM, 512 / 3, 2 * 256 / 3),
        ("standard", CAM, 2 * 2 / 16 * 512 / 3, 4 * 2 / 8 * 256 / 3),
    ],
)
def test_displacement_by_hand(convention: str, field: OffsetField, x: float, y: float) -> None:
    shape = (9, 17) if field is CAM else (65, 129)
    offset = np.stack((np.full(shape, 2, np.float32), np.full(shape, 4, np.float32)))
    seen = displacement(offset, field, (256, 512), SamplingConvention(convention))
    np.testing.assert_allclose(seen, np.broadcast_to((x, y), (*shape, 2)), rtol=1e-6)


def test_magnitudes() -> None:
    vectors = np.zeros((10, 10, 2), np.float32)
    vectors[..., 0] = np.arange(100).reshape(10, 10) * 0.6
    vectors[..., 1] = np.arange(100).reshape(10, 10) * -0.8
    assert Displacement(HIGH, vectors).magnitudes == pytest.approx((49.5, 94.05, 99), rel=1e-5)


# Pictures


RED, BLUE, CYAN, GREEN = (0, 0, 255), (255, 0, 0), (255, 255, 0), (0, 255, 0)
YELLOW, MAGENTA = (0, 255, 255), (255, 0, 255)


@pytest.mark.parametrize(
    ("angle", "color"),
    [(0, RED), (60, YELLOW), (120, GREEN), (180, CYAN), (240, BLUE), (300, MAGENTA)],
)
def test_direction_has_its_hue(angle: float, color: tuple[int, int, int]) -> None:
    """Hues turn clockwise from red (right); half the length is half as saturated."""
    x, y = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    lengths = np.array([0, 0.5, 1, 2], np.float32)
    vectors = np.stack((lengths * x, lengths * y), -1)[np.newaxis].astype(np.float32)
    full = np.array(color, float)
    expected = [np.full(3, 255), (255 + full) / 2, full, 0.75 * full]
    assert np.abs(direction_colors(vectors, 1.0)[0].astype(float) - expected).max() <= 1


def test_legend_has_the_colours_of_the_maps() -> None:
    """Each point of the wheel has the colour of the vector from the centre to it."""
    wheel = color_wheel(401)
    right, down = wheel[200, 397], wheel[397, 200]
    left, up = wheel[200, 3], wheel[3, 200]
    for point, (x, y) in ((right, (3, 0)), (down, (0, 3)), (left, (-3, 0)), (up, (0, -3))):
        seen = color_map(constant(x, y), (24, 40))
        assert len(np.unique(seen.reshape(-1, 3), axis=0)) == 1
        assert np.abs(seen[0, 0].astype(int) - point).max() <= 6  # the wheel's is near the rim
    assert np.abs(right.astype(int) - RED).max() <= 6
    assert wheel[200, 200].min() >= 254
    assert wheel[0, 0].tolist() == [255, 255, 255]


def test_rotation_has_the_colours_of_the_turned_legend() -> None:
    """The field turns clockwise on the screen: above the centre it points right."""
    steps = np.arange(-20, 21, dtype=np.float32)
    x, y = np.meshgrid(steps, steps)
    seen = direction_colors(np.stack((-y, x), -1), 20)
    outward = direction_colors(np.stack((x, y), -1), 20)
    assert np.abs(seen[0, 20].astype(int) - RED).max() <= 1
    assert np.abs(seen.astype(int) - np.rot90(outward, 1)).max() <= 1


def test_colours_do_not_depend_on_the_scale() -> None:
    vectors = np.random.default_rng(0).normal(0, 1, (30, 40, 2)).astype(np.float32)
    small, large = (Displacement(HIGH, vectors * scale) for scale in (1, 1000))
    assert color_limit(large) == pytest.approx(1000 * color_limit(small))
    difference = color_map(small, (30, 40)).astype(int) - color_map(large, (30, 40))
    assert np.abs(difference).max() <= 1
    beyond = np.hypot(vectors[..., 0], vectors[..., 1]) > color_limit(small)
    brightness = color_map(small, (30, 40)).max(axis=2)
    assert np.mean(beyond) == pytest.approx(0.05)
    assert np.array_equal(brightness < 255, beyond)


def test_equal_vectors_are_not_beyond_their_limit() -> None:
    """Vectors of one length in any direction: their lengths differ by rounding."""
    angles = np.linspace(0, 2 * np.pi, 1000).reshape(25, 40)
    vectors = np.stack((3 * np.cos(angles), 3 * np.sin(angles)), -1).astype(np.float32)
    assert color_map(Displacement(HIGH, vectors), (25, 40)).max(axis=2).min() == 255


def test_few_pixels_that_move_are_still_coloured() -> None:
    vectors = np.zeros((10, 10, 2), np.float32)
    vectors[3, 4] = (0, 7)
    field = Displacement(HIGH, vectors)
    assert (field.magnitudes.high, color_limit(field)) == (0, 7)
    picture = color_map(field, (10, 10))
    assert np.argwhere(picture.min(axis=2) < 255).tolist() == [[3, 4]]


@pytest.mark.parametrize("size", [(12, 20), (1, 1)])
def test_zero_field_is_white_and_has_no_arrows(size: tuple[int, int]) -> None:
    field = constant(0, 0, size)
    with np.errstate(all="raise"):
        assert color_map(field, (60, 100)).min() == 255
        arrows = arrow_map(np.zeros((60, 100, 3), np.uint8), field, (60, 100))
    assert arrows.zoom == 0
    assert np.mean(arrows.picture > 0) < 0.2  # a dot in each place


@pytest.mark.parametrize(
    ("x", "y"), [(5, 0), (-5, 0), (0, 5), (0, -5), (500, 0), (0.01, 0)], ids=str
)
def test_arrow_points_where_the_pixel_reads(x: float, y: float) -> None:
    """The arrow starts in the middle of a one-pixel field and always has the same length."""
    arrows = arrow_map(np.zeros((40, 100, 3), np.uint8), constant(x, y, (1, 1)), (80, 200))
    rows, columns = np.nonzero(arrows.picture.max(axis=2))
    assert abs(np.mean(columns) - 100 - 20 * np.sign(x)) < 8
    assert abs(np.mean(rows) - 40 - 20 * np.sign(y)) < 8
    assert max(np.ptp(rows), np.ptp(columns)) == pytest.approx(36, abs=6)
    assert arrows.zoom == pytest.approx(36 / (2 * np.hypot(x, y)))
    if (x, y) == (5, 0):
        assert (arrows.picture == RED).all(axis=2).sum() >= 10


def test_long_vectors_have_cut_arrows() -> None:
    vectors = np.full((100, 100, 2), (0.1, 0), np.float32)
    vectors[52, 52] = (1000, 0)
    black = np.zeros((100, 100, 3), np.uint8)
    seen = arrow_map(black, Displacement(HIGH, vectors), (400, 400))
    plain = arrow_map(black, constant(0.1, 0, (100, 100)), (400, 400))
    assert seen.step == 5  # at 2, 7, ..., 52, ...
    changed = np.nonzero((seen.picture != plain.picture).any(axis=2))[1]
    assert 0 < np.ptp(changed) <= 24  # it is darker, but no longer


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_field_that_is_not_finite_is_refused(bad: float) -> None:
    vectors = np.zeros((4, 5, 2), np.float32)
    vectors[1, 2, 0] = bad
    with pytest.raises(ModelError, match=r"cab2\.high has 1 NaN or infinite"):
        Displacement(HIGH, vectors)


SHEETS: list[tuple[tuple[int, int], tuple[int, int]]] = [
    ((256, 512), (65, 129)),
    ((512, 256), (129, 65)),
    ((32, 1024), (9, 257)),
    ((32, 32), (1, 1)),
]


@pytest.mark.parametrize(("image_size", "field_size"), SHEETS, ids=str)
@pytest.mark.parametrize("count", [1, 9])
def test_sheet_has_everything_inside(
    count: int, image_size: tuple[int, int], field_size: tuple[int, int]
) -> None:
    """Nothing reaches into the margins, where it would be cut, and each field's colours appear."""
    vectors = np.random.default_rng(0).normal(0, 1e4, (*field_size, 2)).astype(np.float32)
    fields = [Displacement(field, vectors) for field in list(OffsetField)[:count]]
    sheet = offsets_sheet(np.zeros((*image_size, 3), np.uint8), fields)
    assert sheet.shape[1] == SHEET_WIDTH
    edge = MARGIN // 2
    for border in (sheet[:edge], sheet[-edge:], sheet[:, :edge], sheet[:, -edge:]):
        assert border.min() == 255
    white_columns = (sheet == 255).all(axis=(0, 2))
    columns = 4 if count > 1 else 2
    between = MARGIN // 2 + (SHEET_WIDTH - MARGIN) // columns * np.arange(1, columns)
    assert white_columns[between].all()  # nor into the next column


def test_sheet_shows_the_map_where_its_caption_says() -> None:
    sheet = offsets_sheet(np.zeros((256, 512, 3), np.uint8), [constant(2, 0)])
    assert sheet[sheet.shape[0] * 3 // 4, SHEET_WIDTH // 4].tolist() == list(RED)


@pytest.mark.parametrize(
    ("length", "text"),
    [(0.0, "0"), (0.01234, "0.0123"), (12.345, "12.3"), (99.96, "100"), (1234.5, "1234")],
)
def test_pixels_text(length: float, text: str) -> None:
    assert pixels_text(length) == text


# The command


@pytest.fixture
def street(tmp_path: Path) -> Path:
    path = tmp_path / "street.jpg"
    cv2.imwrite(str(path), probe_image((90, 130), 0))
    return path


def read(path: Path) -> Image:
    picture = cv2.imread(str(path))
    assert picture is not None
    return np.asarray(picture, np.uint8)


def test_command_prints_and_draws(
    export_small: Export,
    small_checkpoint: Path,
    street: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tables, pictures = [], []
    for model in (export_small(**LABELS_AND_OFFSETS), small_checkpoint):
        target = tmp_path / "new" / f"{model.suffix[1:]}.png"
        assert main(["offsets", str(model), str(street), "-o", str(target)]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0].startswith("displacements in pixels of the 90x130 network input, on ")
        assert lines[-1] == str(target)
        tables.append(lines[2:-1])
        pictures.append(read(target).astype(int))
    assert [line.split()[0] for line in tables[0]] == list(OffsetField)
    assert tables[0][0].split()[1] == "3x5"
    assert tables[0][8].split()[1] == "23x33"
    assert tables[0] == tables[1]
    assert np.mean(np.abs(pictures[0] - pictures[1])) < 1


def test_one_field_at_another_size(
    small_checkpoint: Path, street: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--field", "cab3.low", "--size", "64x96", "-o", str(tmp_path / "one.JPG")]
    assert main(["offsets", str(small_checkpoint), str(street), *options]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("displacements in pixels of the 64x96 network input")
    assert [line.split()[:2] for line in lines[2:-1]] == [["cab3.low", "17x25"]]
    assert read(tmp_path / "one.JPG").shape[1] == SHEET_WIDTH


def test_unknown_field_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["offsets", "m.onnx", "street.jpg", "-o", "o.png", "--field", "cab6.high"])
    assert caught.value.code == 2
    assert "cab2.low" in capsys.readouterr().err


def test_failure_leaves_an_older_picture(
    export_small: Export, street: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "older.png"
    shutil.copy(street, target)
    before = target.read_bytes()
    assert main(["offsets", str(export_small(**FIXED)), str(street), "-o", str(target)]) == 1
    assert "--with-offsets" in capsys.readouterr().err
    assert target.read_bytes() == before


def test_inspect_says_whether_offsets_are_there(
    export_small: Export, capsys: pytest.CaptureFixture[str]
) -> None:
    for model, answer in ((export_small(**FIXED_OFFSETS), "yes"), (export_small(**FIXED), "no (")):
        assert main(["inspect", str(model)]) == 0
        assert f"returns offset fields: {answer}" in capsys.readouterr().out
