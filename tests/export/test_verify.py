"""The comparison of two models: which shapes, which images, and that it refuses wrong models."""

import contextlib
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from alignseg_infer import (
    ExportError,
    ModelError,
    OptionError,
    SizeError,
    VerificationError,
    backends,
)
from alignseg_infer.arrays import Image, InputShape, Size
from alignseg_infer.datasets.class_tables import class_table
from alignseg_infer.datasets.labelled import Dataset, find_labelled_images
from alignseg_infer.demo import FIRST_HELD_OUT, model_path
from alignseg_infer.demo.streets import Street
from alignseg_infer.demo.streets.folder import write_streets
from alignseg_infer.export import half_precision as precision
from alignseg_infer.export.half_precision import to_half_precision
from alignseg_infer.export.verification import opening
from alignseg_infer.export.verification import verify as verification
from alignseg_infer.export.verification.agreement import compare_labels
from alignseg_infer.export.verification.probes import probe_image
from alignseg_infer.export.verification.verify import profile_shapes, verify
from alignseg_infer.spec.model import SPEC_KEY, ModelSpec, Precision, SourceSpec
from alignseg_infer.spec.verification import REQUIRED_AGREEMENT, Verification, VerifiedRow
from alignseg_infer.trt.engine_file import Profile
from tests.support.models import FakeBackend, said_to_be

DEMO = model_path("demo")


def streets(count: int) -> list[Image]:
    return [Street(FIRST_HELD_OUT + seed).scene(size=(128, 256)).image for seed in range(count)]


def changed(path: Path, change: Callable[[ir.Model], None], precision: Precision) -> Path:
    """Write a changed copy of the demo model that says it computes in `precision`."""
    model = ir.load(DEMO)
    change(model)
    return said_to_be(model, precision, path)


def sample_nearest(model: ir.Model) -> None:
    for node in model.graph:
        if node.op_type == "GridSample":
            node.attributes["mode"] = ir.AttrString("mode", "nearest")


def shift_offsets(model: ir.Model) -> None:
    """Change the graph as another sampling convention would."""
    for node in model.graph:
        if node.op_type == "GridSample":
            node.attributes["align_corners"] = ir.AttrInt64("align_corners", 1)


def lose_cars(model: ir.Model) -> None:
    """Keep the classifier from ever saying "car", label 13."""
    classifier = [node for node in model.graph if node.op_type == "Conv"][-1]
    bias = classifier.inputs[2]
    assert bias is not None
    assert bias.const_value is not None
    values = bias.const_value.numpy().copy()
    assert values.shape == (19,)
    values[13] = -1e4
    bias.const_value = ir.tensor(values, name=bias.name)


def test_half_demo_passes_and_says_what_was_compared(tmp_path: Path) -> None:
    half = changed(tmp_path / "half.onnx", to_half_precision, Precision.FP16)
    steps: list[tuple[int, int]] = []
    found = verify(half, DEMO, streets(2), progress=lambda *step: steps.append(step))
    assert [str(row.shape) for row in found.rows] == [f"{n}x128x256" for n in (1, 2, 3, 4)]
    assert [row.images for row in found.rows] == [1, 2, 3, 4]
    assert steps[-1] == (10, 10)
    assert all(row.agreement > 0.999 for row in found.rows)
    assert all(0 < (row.logits_error or 0) < 2e-3 for row in found.rows)
    assert found.backend.endswith("rounding to float16")
    assert found.required_agreement == 0.995
    assert len(found.reference_sha256) == 64


@pytest.mark.parametrize("break_it", [sample_nearest, shift_offsets])
@pytest.mark.parametrize("precision", [Precision.FP32, Precision.FP16])
def test_a_graph_that_samples_otherwise_is_refused(
    break_it: Callable[[ir.Model], None], precision: Precision, tmp_path: Path
) -> None:
    broken = changed(tmp_path / "broken.onnx", break_it, precision)
    with pytest.raises(VerificationError, match="labels too many pixels") as caught:
        verify(broken, DEMO, streets(1), sizes=[(128, 256)])
    assert "1x128x256" in str(caught.value)
    assert "images of the kind the model is for" in caught.value.fix


def test_other_classes_are_refused(tmp_path: Path) -> None:
    def rename(model: ir.Model) -> None:
        spec = ModelSpec.from_json(model.metadata_props[SPEC_KEY])
        names = tuple(reversed(spec.classes.names))
        spec = replace(spec, classes=replace(spec.classes, names=names))
        model.metadata_props[SPEC_KEY] = spec.to_json()

    other = changed(tmp_path / "other.onnx", rename, Precision.FP32)
    with pytest.raises(ModelError, match="same classes"):
        verify(other, DEMO, streets(1))
    assert len(class_table("cityscapes").names) == 19


def test_drawn_streets_stand_in_for_images() -> None:
    found = verify(DEMO, DEMO, sizes=[(64, 128)])
    assert found.images == "drawn streets"
    assert {row.agreement for row in found.rows} == {1.0}
    assert sum(row.images for row in found.rows) >= verification.DRAWN_STREETS


@pytest.mark.parametrize(
    ("size", "expected"),
    [((96, 160), (96, 160)), ((1024, 2048), (512, 1024)), ((3000, 1500), (1024, 512))],
)
def test_large_images_are_compared_at_a_size_that_fits(
    size: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert verification._choose_size([np.zeros((*size, 3), np.uint8)]) == expected


def test_no_image_is_an_error() -> None:
    with pytest.raises(OptionError, match="holds no image"):
        verify(DEMO, DEMO, [])


def test_mean_iou_counts_where_there_are_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    list(write_streets(tmp_path, FIRST_HELD_OUT, 2, size=(64, 128)))
    data = find_labelled_images(Dataset.FOLDER, tmp_path)
    found = verify(DEMO, DEMO, streets(1), sizes=[(64, 128)], data=data)
    assert found.miou_drop == 0
    worse = changed(tmp_path / "worse.onnx", lose_cars, Precision.FP32)
    monkeypatch.setitem(REQUIRED_AGREEMENT, Precision.FP32, 0.1)
    with pytest.raises(VerificationError, match="mean IoU on folder drops from"):
        verify(worse, DEMO, streets(1), sizes=[(64, 128)], data=data)


def row(batch: int, agreement: float, worst: float) -> VerifiedRow:
    return VerifiedRow(InputShape(batch, 64, 96), 8, agreement, worst, 1e-3)


@pytest.mark.parametrize(
    ("rows", "passes"),
    [
        ([row(1, 0.996, 0.991), row(2, 0.996, 0.991)], True),
        ([row(1, 0.996, 0.991), row(2, 0.994, 0.991)], False),  # not the first row
        ([row(1, 0.996, 0.991), row(2, 0.996, 0.989)], False),  # one image
        ([row(1, float("nan"), 0.991)], False),
    ],
)
def test_every_row_and_every_image_counts(rows: list[VerifiedRow], passes: bool) -> None:
    found = Verification(
        reference="demo.onnx",
        reference_sha256="0",
        backend="fake",
        images="8 images",
        required_agreement=0.995,
        rows=tuple(rows),
    )
    with contextlib.nullcontext() if passes else pytest.raises(VerificationError):
        verification.require_agreement(Path("half.onnx"), found)


def demo_source(spec: ModelSpec) -> SourceSpec:
    assert spec.source is not None
    return spec.source


def test_other_preparation_or_origin_is_refused(tmp_path: Path) -> None:
    changes: list[Callable[[ModelSpec], ModelSpec]] = [
        lambda spec: replace(spec, input=spec.input.reversed()),
        lambda spec: replace(spec, source=SourceSpec(name="other.pth", sha256="0" * 64)),
        lambda spec: replace(spec, source=replace(demo_source(spec), weights="raw")),
    ]
    for change in changes:

        def rewrite(model: ir.Model, change: Callable[[ModelSpec], ModelSpec] = change) -> None:
            spec = ModelSpec.from_json(model.metadata_props[SPEC_KEY])
            model.metadata_props[SPEC_KEY] = change(spec).to_json()

        other = changed(tmp_path / "other.onnx", rewrite, Precision.FP32)
        with pytest.raises(ModelError):
            verify(other, DEMO, streets(1))


def test_half_coordinates_are_refused_whatever_the_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def to_half_everywhere(model: ir.Model) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(precision, "find_coordinate_nodes", lambda _: set())
            to_half_precision(model)

    careless = changed(tmp_path / "careless.onnx", to_half_everywhere, Precision.FP16)
    with pytest.raises(ExportError, match="sampling coordinates are float16"):
        verify(careless, DEMO, streets(1))


def test_a_size_that_the_reference_does_not_take(export_small: Callable[..., Path]) -> None:
    fixed = export_small(size=(65, 98), batch=2)
    with pytest.raises(SizeError, match="65x98 only"):
        verify(fixed, fixed, streets(1), sizes=[(64, 128)])


class WrongFor(FakeBackend):
    """Right for single images; mixes the images of a batch up."""

    def infer(self, batch: NDArray[np.float32]) -> NDArray[np.generic]:
        return np.flip(super().infer(batch), axis=0)


class NaNFor(FakeBackend):
    def infer(self, batch: NDArray[np.float32]) -> NDArray[np.generic]:
        return np.full_like(super().infer(batch), np.nan)


def shapes(*batches: int) -> list[InputShape]:
    return [InputShape(batch, 64, 96) for batch in batches]


def test_what_openvino_compiles_for_one_size_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """With this size, a predictor runs it for one image."""
    opened: list[Size | None] = []

    def open_backend(model: Path, *, size: Size | None = None, **how: Any) -> Any:
        backend: Any = backends.open_backend(model, size=size, **how)
        opened.append(size)
        if size == (64, 128):
            infer = backend.infer
            backend.infer = lambda batch: np.flip(infer(batch), axis=-1)
        return backend

    monkeypatch.setattr(opening, "open_backend", open_backend)
    verify(DEMO, None, streets(1), runtime="openvino")
    verify(DEMO, DEMO, streets(1), runtime="onnxruntime", sizes=[(64, 128)])
    assert set(opened) == {None}
    found = verify(DEMO, None, streets(1), runtime="openvino", sizes=[(64, 96)])
    assert opened[-1] == (64, 96)
    assert [str(row.shape) for row in found.rows] == [f"{n}x64x96" for n in (1, 2, 3, 4)]
    sizes = [(64, 96), (64, 128)]
    with pytest.raises(VerificationError) as caught:
        verify(DEMO, None, streets(1), runtime="openvino", sizes=sizes)
    alike = re.findall(r"(\d+x\d+x\d+) +\d+ +([\d.]+)%", caught.value.problem)
    assert len(alike) == 8
    assert [shape for shape, share in alike if float(share) < 99] == ["1x64x128"]


@pytest.mark.parametrize("count", [1, 3])
def test_a_batch_in_the_wrong_order_is_seen_even_with_one_image(count: int) -> None:
    images = [probe_image((64, 96), seed) // 14 for seed in range(count)]  # labels 0..18
    rows = compare_labels(WrongFor(), FakeBackend(), images, shapes(1, 2, 3))
    alone, pair, three = rows
    assert alone.agreement == 1
    assert pair.agreement < 0.9
    assert three.worst_agreement < 0.9


def test_every_image_and_every_batch_size_is_used() -> None:
    images = [probe_image((64, 96), seed) for seed in range(7)]
    model = FakeBackend()
    rows = compare_labels(model, FakeBackend(), images, shapes(1, 4))
    assert [row.images for row in rows] == [2, 8]
    assert [batch[0] for batch in model.batches] == [1, 4, 1, 4]


def test_nan_is_refused() -> None:
    with pytest.raises(VerificationError, match="NaN"):
        compare_labels(NaNFor(), FakeBackend(), [probe_image((64, 96), 0)], shapes(1))


@pytest.mark.parametrize(
    ("low", "best", "high", "expected"),
    [
        ((1, 64, 96), (1, 64, 96), (1, 64, 96), ["1x64x96"]),
        ((1, 64, 96), (2, 64, 96), (2, 128, 96), ["1x64x96", "2x64x96", "1x128x96", "2x128x96"]),
        ((8, 64, 96), (8, 64, 96), (8, 64, 96), ["8x64x96"]),
        ((3, 64, 96), (8, 64, 96), (9, 64, 96), [f"{n}x64x96" for n in (3, 4, 8, 9)]),
    ],
)
def test_shapes_of_a_profile(
    low: tuple[int, int, int],
    best: tuple[int, int, int],
    high: tuple[int, int, int],
    expected: list[str],
) -> None:
    profile = Profile(InputShape(*low), InputShape(*best), InputShape(*high))
    assert [str(shape) for shape in profile_shapes(profile)] == expected
