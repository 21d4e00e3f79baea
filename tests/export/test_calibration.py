"""Calibration: the images, the histograms, the ranges, and how an interrupted run continues."""

import contextlib
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import onnx_ir
import pytest
from numpy.typing import NDArray
from onnxruntime.quantization.calibrate import (
    CalibrationDataReader,
    create_calibrator,
)
from onnxruntime.quantization.calibrate import CalibrationMethod as OrtMethod

from alignseg_infer.backends.onnxruntime_backend import OnnxRuntimeBackend
from alignseg_infer.cli import main
from alignseg_infer.datasets.image_sets import choose_images, spread_evenly
from alignseg_infer.demo import model_path
from alignseg_infer.demo.streets.folder import write_streets
from alignseg_infer.errors import (
    AlignSegError,
    DatasetError,
    ModelError,
    ModelFileError,
    OptionError,
    SizeError,
)
from alignseg_infer.export.int8.calibration import calibrate_ranges
from alignseg_infer.export.int8.histograms import BINS, CalibrationMethod, Histogram, Ranges
from alignseg_infer.export.int8.options import CalibrationOptions
from alignseg_infer.export.verification.probes import probe_image
from alignseg_infer.pixels.preprocess import preprocess
from alignseg_infer.spec.model import AGREEMENT_KEY, SPEC_KEY, ModelSpec
from alignseg_infer.spec.onnx_facts import read_onnx_facts
from alignseg_infer.spec.verification import Verification

SIZE = (64, 96)
METHODS = list(CalibrationMethod)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write five pictures, one of them in a sub-folder, beside files that are not pictures."""
    folder = tmp_path_factory.mktemp("pictures")
    for index, name in enumerate(("a.png", "b.jpg", "c.png", "town/d.png", "town/e.bmp")):
        (folder / name).parent.mkdir(exist_ok=True)
        cv2.imwrite(str(folder / name), probe_image(SIZE, index))
    (folder / ".hidden").mkdir()
    cv2.imwrite(str(folder / ".hidden" / "f.png"), probe_image(SIZE, 9))
    (folder / "notes.md").write_text("no picture")
    (folder / "list.txt").write_text("# two of them\ntown/d.png\n\na.png\n", encoding="utf-8-sig")
    writer = cv2.VideoWriter(
        str(folder / "drive.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10, (96, 64)
    )
    for index in range(10):
        writer.write(np.full((64, 96, 3), 25 * index, np.uint8))
    writer.release()
    return folder


def test_images_of_a_folder(pictures: Path) -> None:
    images = choose_images(pictures)
    assert len(images.digests) == 5
    found = list(images.read())
    np.testing.assert_array_equal(found[0], probe_image(SIZE, 0))
    np.testing.assert_array_equal(found[4], probe_image(SIZE, 4))
    np.testing.assert_array_equal(next(iter(images.read(3))), found[3])


def test_images_of_a_list_keep_its_order(pictures: Path) -> None:
    first, second = choose_images(pictures / "list.txt").read()
    np.testing.assert_array_equal(first, probe_image(SIZE, 3))
    np.testing.assert_array_equal(second, probe_image(SIZE, 0))


def test_frames_of_a_video_are_evenly_spread(pictures: Path) -> None:
    images = choose_images(pictures / "drive.avi", 3)
    gray = [int(frame.mean().round()) for frame in images.read()]
    assert gray == pytest.approx([25, 125, 200], abs=2)  # frames 1, 5, 8
    assert [int(frame.mean().round()) for frame in images.read(1)] == gray[1:]
    assert len(set(images.digests)) == 3


@pytest.mark.parametrize(
    ("count", "limit", "expected"),
    [(3, 5, [0, 1, 2]), (5, 5, [0, 1, 2, 3, 4]), (10, 2, [2, 7]), (10, 1, [5]), (7, 3, [1, 3, 5])],
)
def test_evenly_spread(count: int, limit: int, expected: list[int]) -> None:
    assert spread_evenly(count, limit) == expected


def _cut_png(folder: Path) -> Path:
    for name in ("good.png", "one.png", "two.png"):
        cv2.imwrite(str(folder / name), probe_image(SIZE, 0))
    for name in ("one.png", "two.png"):
        (folder / name).write_bytes((folder / name).read_bytes()[:200])
    return folder


def _written(content: bytes, name: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return make


def _with_labels(folder: Path) -> Path:
    """`alignseg demo` writes such folders: images/ and labels/ side by side."""
    list(write_streets(folder, 0, 1, size=(96, 192)))
    return folder


def test_a_label_file_between_images_stops_no_export(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The images are chosen twice, to calibrate and to verify; the label file is named once."""
    streets = list(write_streets(tmp_path / "drawn", 0, 4, size=(64, 128)))
    (tmp_path / "mixed").mkdir()
    for name, street in zip(("0", "1", "3", "4"), streets, strict=True):
        street.image.rename(tmp_path / f"mixed/{name}.png")
    streets[0].labels.rename(tmp_path / "mixed/2.png")
    words = ["--precision", "int8", "--calibration", str(tmp_path / "mixed")]
    words += ["--max-verification-images", "3"]
    model, path = str(model_path("demo")), tmp_path / "int8.onnx"
    assert main(["export-onnx", model, "-o", str(path), *words]) == 0
    said = capsys.readouterr().err
    assert said.count("look like label files") == said.count("mixed/2.png") == 1
    agreement = Verification.from_json(read_onnx_facts(path).metadata[AGREEMENT_KEY])
    assert min(row.worst_agreement for row in agreement.rows) > 0.98


SOURCES: list[tuple[Callable[[Path], Path], str]] = [
    (lambda folder: folder, "contains no images"),
    (lambda folder: folder / "nowhere", "does not exist"),
    (_with_labels, "looks like a label file"),
    (_cut_png, "2 of 3 images"),
    (_cut_png, "two.png cannot be decoded"),
    (_written(b"a.png\nb.png\n", "list.txt"), "2 of 2 images"),
    (_written(b"a.png\nb.png\n", "list.txt"), "b.png does not exist"),
    (_written(b"# nothing\n\n", "list.txt"), "contains no images"),
    (_written(b"\xff\xd8\xff\xe0\0\x10JFIF", "list.txt"), "is not a text file: byte 4 is 0"),
    (_written(b"", "list.txt"), "is empty"),
    (_written(b"no video" * 99, "drive.mp4"), "cannot open it as a video"),
    (_written(b"no video" * 99, "drive"), "cannot open it as a video"),
]


@pytest.mark.parametrize(("make", "problem"), SOURCES)
def test_bad_sources(tmp_path: Path, make: Callable[[Path], Path], problem: str) -> None:
    with pytest.raises(DatasetError, match=problem) as caught:
        choose_images(make(tmp_path))
    assert caught.value.fix


def test_limit_below_one(pictures: Path) -> None:
    with pytest.raises(OptionError, match="0 images of"):
        choose_images(pictures, 0)


def test_histogram_does_not_depend_on_order() -> None:
    draw = np.random.default_rng(0)
    parts = [draw.normal(0, scale, 500).astype(np.float32) for scale in (1, 0.001, 100, 7)]
    at_once = Histogram.of(np.concatenate(parts))
    for order in ((0, 1, 2, 3), (3, 2, 1, 0), (1, 3, 0, 2)):
        first, *others = (Histogram.of(parts[index]) for index in order)
        summed = sum(others, first)
        np.testing.assert_array_equal(summed.counts, at_once.counts)
        seen = (summed.power, summed.lowest, summed.highest)
        assert seen == (at_once.power, at_once.lowest, at_once.highest)
    assert at_once.largest == max(-at_once.lowest, at_once.highest)
    assert at_once.counts.sum() == 2000
    small, nothing = Histogram.of(parts[1]), Histogram.of(np.zeros(3, np.float32))
    assert (small + nothing).power == (nothing + small).power == small.power


def test_histogram_by_hand() -> None:
    values = np.array([0.0, -1.0, 3.0, 3.9999], np.float32)
    histogram = Histogram.of(values)
    assert histogram.power == 2
    assert np.flatnonzero(histogram.counts).tolist() == [0, BINS // 4, BINS // 4 * 3, BINS - 1]
    assert Histogram.of(np.array([4.0], np.float32)).power == 3  # a bin ends before its upper edge


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite(value: float) -> None:
    with pytest.raises(ModelError, match="NaN or infinite"):
        Histogram.of(np.array([1.0, value], np.float32))


@pytest.mark.parametrize("method", METHODS)
def test_tensor_of_zeros(method: CalibrationMethod) -> None:
    assert Histogram.of(np.zeros(5, np.float32)).limit(method) == 0


def _heavy_tail() -> NDArray[np.float32]:
    values = np.random.default_rng(0).normal(0, 1, 100_000).astype(np.float32)
    values[:2] = 40
    return values


def test_methods_differ_as_they_should() -> None:
    values = _heavy_tail()
    limits = {method: Histogram.of(values).limit(method) for method in METHODS}
    assert limits[CalibrationMethod.MINMAX] == 40
    percentile = np.percentile(np.abs(values), 99.99)
    assert limits[CalibrationMethod.PERCENTILE] == pytest.approx(percentile, abs=2 * 64 / BINS)
    assert 2 < limits[CalibrationMethod.ENTROPY] < 6


def test_entropy_keeps_what_is_spread_evenly() -> None:
    values = np.linspace(0, 10, 100_000, dtype=np.float32)
    assert Histogram.of(values).limit(CalibrationMethod.ENTROPY) == pytest.approx(10, rel=0.01)


def test_entropy_is_that_of_the_slides() -> None:
    """The reference is the pseudo-code of the GTC talk, in plain loops."""
    values = np.random.default_rng(1).normal(0, 1, 20_000) ** 3
    histogram = Histogram.of(values.astype(np.float32))
    counts = [float(count) for count in histogram.counts]
    counts[0] = counts[1]
    used = max(index for index, count in enumerate(counts) if count) + 1
    losses = {bins: _loss(counts, bins) for bins in (*range(128, used, 16), used)}
    best = min(losses, key=lambda bins: losses[bins])
    assert best < used
    limit = histogram.limit(CalibrationMethod.ENTROPY)
    assert limit == pytest.approx(best * 2.0**histogram.power / BINS)


def _loss(counts: list[float], bins: int) -> float:
    kept = counts[:bins]
    reference = [*kept[:-1], kept[-1] + sum(counts[bins:])]
    levels: list[list[int]] = [[] for _ in range(128)]
    for index in range(bins):
        levels[index * 128 // bins].append(index)
    candidate = [0.0] * bins
    for level in levels:
        filled = [index for index in level if kept[index]]
        for index in filled:
            candidate[index] = sum(kept[i] for i in level) / len(filled)
    total, candidate_total, loss = sum(reference), sum(candidate), 0.0
    for p, q in zip(reference, candidate, strict=True):
        if p and not q:
            return float("inf")
        if p:
            loss += p / total * np.log((p / total) / (q / candidate_total))
    return loss


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    """Network inputs, as ONNX Runtime's calibrators take them."""

    def __init__(self, tensors: list[NDArray[np.float32]]) -> None:
        self._tensors = iter(tensors)

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        tensor = next(self._tensors, None)
        return None if tensor is None else {"image": tensor}


def _by_onnxruntime(
    model: Path, pictures: Path, method: OrtMethod, folder: Path, **options: object
) -> dict[str, float]:
    spec = OnnxRuntimeBackend(model).spec.input
    images = choose_images(pictures).read()
    augmented = str(folder / "augmented.onnx")
    calibrator = create_calibrator(
        model, ["Conv"], augmented, calibrate_method=method, extra_options=options
    )
    calibrator.collect_data(_Reader([preprocess(image, SIZE, spec) for image in images]))
    data = calibrator.compute_data()
    return {name: float(np.max(np.abs(data[name].range_value))) for name in data}


def test_ranges_are_those_of_onnxruntime(small_onnx: Path, pictures: Path, tmp_path: Path) -> None:
    model, images = small_onnx, choose_images(pictures)
    ours = calibrate_ranges(model, images, CalibrationOptions(method=CalibrationMethod.MINMAX))
    theirs = _by_onnxruntime(model, pictures, OrtMethod.MinMax, tmp_path)
    assert len(ours.limits) > 40
    assert set(ours.limits) <= set(theirs)  # theirs also have outputs of convolutions
    for name, limit in ours.limits.items():
        assert limit == pytest.approx(theirs[name], rel=1e-4), name

    ours = calibrate_ranges(model, images)
    theirs = _by_onnxruntime(
        model, pictures, OrtMethod.Percentile, tmp_path, percentile=99.99, symmetric=True
    )
    for name, limit in ours.limits.items():
        assert limit == pytest.approx(theirs[name], rel=0.02), name


class _Cut(Exception):
    """Stands in for Ctrl-C."""


@pytest.mark.parametrize("batch", [None, 2])
def test_cut_calibration_goes_on(
    batch: int | None, export_small: Callable[..., Path], pictures: Path, tmp_path: Path
) -> None:
    model = export_small(size=(65, 98), batch=2) if batch else export_small()
    images = choose_images(pictures)
    whole = CalibrationOptions(cache=tmp_path / "whole")
    expected = calibrate_ranges(model, images, whole)
    counted: list[int] = []

    def stop(done: int, total: int) -> None:
        assert total == 5
        counted.append(done)
        if done == 2:
            raise _Cut

    cut = CalibrationOptions(cache=tmp_path / "cut")
    with pytest.raises(_Cut):
        calibrate_ranges(model, images, cut, stop)
    assert calibrate_ranges(model, images, cut, stop) == expected
    assert counted == ([1, 2, 3, 4, 5] if batch is None else [2, 4, 5])
    assert _arrays(tmp_path / "cut") == _arrays(tmp_path / "whole")
    assert calibrate_ranges(model, images) == expected


def test_calibrations_are_kept_unless_a_file_is_named(
    small_onnx: Path, pictures: Path, own_cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, runs = choose_images(pictures), []
    for method in CalibrationMethod:
        options = CalibrationOptions(method=method)
        calibrate_ranges(small_onnx, images, options, lambda done, _: runs.append(done))
    assert runs == [1, 2, 3, 4, 5]
    other = CalibrationOptions(size=(64, 96))
    calibrate_ranges(small_onnx, images, other, lambda done, _: runs.append(done))
    assert len(runs) == 10
    assert main(["cache", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    (listed,) = [line for line in lines if line.startswith("2 calibrations, ")]
    assert listed.endswith(f"in {own_cache / 'calibrations'}")


@pytest.mark.parametrize("content", [b"", b"PK no archive", None])
def test_damaged_calibrations_in_the_folder_are_made_again(
    content: bytes | None, small_onnx: Path, pictures: Path, own_cache: Path
) -> None:
    images, runs = choose_images(pictures), []
    expected = calibrate_ranges(small_onnx, images)
    (kept,) = (own_cache / "calibrations").iterdir()
    whole = kept.read_bytes()
    kept.write_bytes(whole[: len(whole) // 2] if content is None else content)
    assert calibrate_ranges(small_onnx, images, None, lambda d, _: runs.append(d)) == expected
    assert len(runs) == 5
    assert kept.read_bytes() == whole


def test_a_calibration_of_something_else_under_this_name_is_not_used(
    small_onnx: Path, pictures: Path, own_cache: Path
) -> None:
    images = choose_images(pictures)
    expected = calibrate_ranges(small_onnx, images)
    (kept,) = (own_cache / "calibrations").iterdir()
    calibrate_ranges(small_onnx, images, CalibrationOptions(size=(64, 96)))
    (other,) = set((own_cache / "calibrations").iterdir()) - {kept}
    kept.write_bytes(other.read_bytes())
    assert calibrate_ranges(small_onnx, images) == expected


def test_without_a_folder_to_keep_it_in_the_work_goes_on(
    small_onnx: Path,
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("ALIGNSEG_CACHE", str(tmp_path / "file"))
    images = choose_images(pictures)
    assert calibrate_ranges(small_onnx, images).images == 5
    said = [record.getMessage() for record in caplog.records if "not kept" in record.getMessage()]
    assert len(said) == 1
    assert str(tmp_path / "file") in said[0]


def test_other_weights_in_a_data_file_are_calibrated_again(
    small_onnx: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model = onnx.load(small_onnx)
    onnx.save(model, "m.onnx", save_as_external_data=True, location="m.data")
    images, runs = choose_images(pictures), []
    first = calibrate_ranges(Path("m.onnx"), images)
    weights = np.fromfile("m.data", np.float32)
    (1.5 * weights).tofile("m.data")
    second = calibrate_ranges(Path("m.onnx"), images, None, lambda done, _: runs.append(done))
    assert len(runs) == 5
    assert first != second


def test_old_calibrations_are_cleared(small_onnx: Path, pictures: Path, own_cache: Path) -> None:
    images = choose_images(pictures)
    calibrate_ranges(small_onnx, images)
    (kept,) = (own_cache / "calibrations").iterdir()
    assert main(["cache", "clear", "--older-than", "1"]) == 0
    assert kept.exists()
    os.utime(kept, (0, 0))
    calibrate_ranges(small_onnx, images)  # it is used, so it is young again
    assert main(["cache", "clear", "--older-than", "1"]) == 0
    assert kept.exists()
    assert main(["cache", "clear"]) == 0
    assert not kept.exists()


def _arrays(cache: Path) -> dict[str, object]:
    with np.load(cache) as stored:
        return {name: stored[name].tolist() for name in stored.files}


def test_cache_is_used_for_the_same_only(small_onnx: Path, pictures: Path, tmp_path: Path) -> None:
    cache, runs = tmp_path / "cache", []

    def calibrate(source: str = "list.txt", **options: object) -> Ranges:
        settings = CalibrationOptions(cache=cache, **options)  # type: ignore[arg-type]
        images = choose_images(pictures / source)
        return calibrate_ranges(small_onnx, images, settings, lambda *done: runs.append(done))

    first = calibrate()
    assert runs == [(1, 2), (2, 2)]
    assert calibrate() == first
    other = calibrate(method=CalibrationMethod.MINMAX)
    assert len(runs) == 2  # histograms serve all methods
    assert any(other.limits[name] > limit for name, limit in first.limits.items())
    kept = cache.read_bytes()
    for settings in ({"size": (48, 48)}, {"source": "town"}):
        with pytest.raises(OptionError, match="holds 2 images calibrated with another"):
            calibrate(**settings)
        assert cache.read_bytes() == kept
    assert calibrate() == first


def test_another_file_is_no_cache(small_onnx: Path, pictures: Path, tmp_path: Path) -> None:
    array = tmp_path / "array.npy"
    np.save(array, np.zeros(3))
    archive = tmp_path / "archive.npz"
    np.savez(archive, key=np.array("x"))
    for path in (pictures / "a.png", pictures / "notes.md", array, archive, tmp_path):
        content = None if path.is_dir() else path.read_bytes()
        options = CalibrationOptions(cache=path)
        with pytest.raises(OptionError, match="is not a calibration cache"):
            calibrate_ranges(small_onnx, choose_images(pictures), options)
        assert content is None or path.read_bytes() == content


def test_damaged_caches(small_onnx: Path, pictures: Path, tmp_path: Path) -> None:
    """Each is refused, or holds what it held: some bytes of an archive mean nothing."""
    images, cache = choose_images(pictures / "list.txt"), tmp_path / "cache"
    options = CalibrationOptions(cache=cache)
    expected = calibrate_ranges(small_onnx, images, options)
    whole, random, reasons = cache.read_bytes(), np.random.default_rng(0), []
    for place in [*range(1, 300, 60), *range(len(whole) - 400, len(whole), 60)]:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << random.integers(8)
        for content in (bytes(damaged), whole[:place]):
            cache.write_bytes(content)
            with contextlib.suppress(OptionError):
                assert calibrate_ranges(small_onnx, images, options) == expected
                continue
            reasons.append(content)
            assert cache.read_bytes() == content
    assert len(reasons) > 12


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("images", lambda images: -images),
        ("images", lambda _: np.array("many")),
        ("counts", lambda counts: counts[:, :7]),
        ("counts", lambda counts: counts[:1]),
        ("counts", lambda counts: counts.astype(np.float32)),
        ("names", lambda names: names[:0]),
        ("powers", lambda powers: np.full(powers.shape, np.inf)),
        ("lowest", lambda lowest: lowest.astype(str)[:, np.newaxis]),
        ("highest", lambda highest: highest[:0]),
    ],
)
def test_caches_with_odd_content(
    part: str,
    change: Callable[[NDArray[Any]], NDArray[Any]],
    small_onnx: Path,
    pictures: Path,
    tmp_path: Path,
) -> None:
    images, cache = choose_images(pictures / "list.txt"), tmp_path / "cache"
    options = CalibrationOptions(cache=cache)
    calibrate_ranges(small_onnx, images, options)
    with np.load(cache) as stored:
        content = dict(stored)
    with cache.open("wb") as file:
        np.savez(file, **(content | {part: np.asarray(change(content[part]))}))
    with pytest.raises(OptionError, match="is not a calibration cache"):
        calibrate_ranges(small_onnx, images, options)


def test_a_pipe_is_no_cache(small_onnx: Path, pictures: Path, tmp_path: Path) -> None:
    """Nobody may ever write to it, so it is not opened."""
    os.mkfifo(tmp_path / "cache")
    options = CalibrationOptions(cache=tmp_path / "cache")
    with pytest.raises(OptionError, match=r"is not a calibration cache.*it is a pipe"):
        calibrate_ranges(small_onnx, choose_images(pictures / "list.txt"), options)


def test_images_of_many_sizes_fill_no_batch_together(small_onnx: Path, tmp_path: Path) -> None:
    """The copies that fill up a batch are not counted either."""
    for index, size in enumerate(((64, 96), (64, 96), (48, 64))):
        cv2.imwrite(str(tmp_path / f"{index}.png"), probe_image(size, index))
    images = choose_images(tmp_path)
    done: list[int] = []
    model, cache = tmp_path / "batch.onnx", tmp_path / "cache"
    onnx_ir.save(_with_batch(onnx_ir.load(small_onnx), 2), model)
    batched = calibrate_ranges(
        model, images, CalibrationOptions(cache=cache), lambda count, _: done.append(count)
    )
    assert done == [2, 3]
    with np.load(cache) as stored:
        pixels = stored["counts"][stored["names"].tolist().index("image")].sum()
    assert pixels == 3 * (2 * 64 * 96 + 48 * 64)
    single = calibrate_ranges(small_onnx, images)
    for name, limit in batched.limits.items():
        assert limit == pytest.approx(single.limits[name], rel=1e-2), name


def _with_batch(model: onnx_ir.Model, batch: int) -> onnx_ir.Model:
    """Return the model with a spec that says it takes no other batch."""
    spec = ModelSpec.from_json(model.metadata_props[SPEC_KEY])
    assert spec.export is not None
    fixed = replace(spec, export=replace(spec.export, batch=batch))
    model.metadata_props[SPEC_KEY] = fixed.to_json()
    return model


BAD_OPTIONS: list[tuple[dict[str, object], type[AlignSegError], str]] = [
    ({"size": (8, 8)}, SizeError, "8x8"),
    ({"size": "huge"}, OptionError, "size='huge'"),
    ({"cache": Path("/proc/none/cache")}, AlignSegError, "cannot write"),
]


@pytest.mark.parametrize(("options", "error", "problem"), BAD_OPTIONS)
def test_bad_options(
    options: dict[str, object],
    error: type[AlignSegError],
    problem: str,
    small_onnx: Path,
    pictures: Path,
) -> None:
    with pytest.raises(error, match=problem):
        calibrate_ranges(
            small_onnx,
            choose_images(pictures, 1),
            CalibrationOptions(**options),  # type: ignore[arg-type]
        )


def test_models_that_cannot_be_calibrated(pictures: Path) -> None:
    images = choose_images(pictures, 1)
    for name, problem in (("none.onnx", "does not exist"), ("notes.md", "cannot be read")):
        with pytest.raises(ModelFileError, match=problem):
            calibrate_ranges(pictures / name, images)


def test_every_tensor_a_convolution_reads_has_a_range(small_onnx: Path, pictures: Path) -> None:
    graph = onnx_ir.load(small_onnx).graph
    read = {node.inputs[0].name for node in graph if node.op_type == "Conv"}  # type: ignore[union-attr]
    ranges = calibrate_ranges(small_onnx, choose_images(pictures, 1))
    assert set(ranges.limits) == read
    assert min(ranges.limits.values()) > 0
    assert (ranges.images, ranges.method) == (1, CalibrationMethod.PERCENTILE)
