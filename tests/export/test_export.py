"""Export to ONNX: numbers at sizes other than the traced one, the graph, metadata, refusals."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir
import pytest
import torch

from alignseg_infer import (
    ExportError,
    MissingDependencyError,
    OptionError,
    ParityError,
    Predictor,
)
from alignseg_infer.backends.onnxruntime_backend import OnnxRuntimeBackend
from alignseg_infer.demo import model_path
from alignseg_infer.errors import INSTALL_EXPORT
from alignseg_infer.export import to_onnx
from alignseg_infer.export.graph import onnx_file, onnx_graph
from alignseg_infer.export.graph.options import ExportOptions
from alignseg_infer.export.to_onnx import onnx_from_checkpoint
from alignseg_infer.export.verification import parity
from alignseg_infer.export.verification.probes import probe_image
from alignseg_infer.models.checkpoint import load_checkpoint
from alignseg_infer.pixels.preprocess import preprocess
from alignseg_infer.spec.model import (
    SPEC_KEY,
    VERIFICATION_KEY,
    ModelSpec,
    OutputKind,
    Sampler,
    Upsampling,
)
from tests.support.export_kinds import (
    DYNAMIC_KINDS,
    FIXED,
    FIXED_OFFSETS,
    FIXED_RESIZE,
    KINDS,
    LABELS,
    LABELS_AND_OFFSETS,
    NATIVE,
    PLAIN,
    RESIZE,
    RESIZE_GATHER,
)
from tests.support.slow import all_slow

OFFSET_OUTPUTS = [
    "offset.cam",
    "offset.cab5.high",
    "offset.cab5.low",
    "offset.cab4.high",
    "offset.cab4.low",
    "offset.cab3.high",
    "offset.cab3.low",
    "offset.cab2.high",
    "offset.cab2.low",
]

Export = Callable[..., Path]


@pytest.mark.parametrize("size", [(32, 32), (33, 250), (211, 64), (256, 512)])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("kind", DYNAMIC_KINDS, ids=str)
def test_dynamic_export_at_sizes_it_never_saw(
    export_small: Export,
    small_checkpoint: Path,
    kind: dict[str, Any],
    batch: int,
    size: tuple[int, int],
) -> None:
    backend = OnnxRuntimeBackend(export_small(**kind))
    images = [probe_image(size, seed) for seed in range(batch)]
    tensor = np.concatenate([preprocess(image, size, backend.spec.input) for image in images])
    with torch.inference_mode():
        expected = load_checkpoint(small_checkpoint).model()(torch.from_numpy(tensor)).logits
    seen = backend.infer(tensor)
    if seen.ndim == 3:
        upsampled = torch.nn.functional.interpolate(
            expected, size, mode="bilinear", align_corners=True
        )
        assert seen.dtype == np.uint8
        assert len(np.unique(seen)) > 3  # the comparison means something
        assert np.mean(seen != upsampled.argmax(1).numpy()) <= 1e-3
    else:
        error = np.linalg.norm(np.asarray(seen, np.float64) - expected.numpy())
        assert error <= 1e-5 * np.linalg.norm(expected.numpy())


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_graph_is_valid_and_says_what_it_is(export_small: Export, kind: dict[str, Any]) -> None:
    options = ExportOptions(**kind)
    model = onnx.load(export_small(**kind))
    onnx.checker.check_model(model, full_check=True)
    assert {(entry.domain, entry.version) for entry in model.opset_import} == {("", options.opset)}
    assert [value.name for value in model.graph.input] == ["image"]
    offsets = OFFSET_OUTPUTS if "with_offsets" in kind else []
    assert [value.name for value in model.graph.output] == [options.output, *offsets]
    batch: int | str = options.batch or "N"
    size: tuple[int | str, ...] = options.size or ("H", "W")
    assert dimensions(model.graph.input[0]) == [batch, 3, *size]
    quarter = [17, 25] if options.size else ["h", "w"]  # of 65 x 98
    logits = [batch, 19, *quarter]
    labels = [batch, *size]
    expected = labels if options.output is OutputKind.LABELS else logits
    assert dimensions(model.graph.output[0]) == expected
    context = [3, 4] if options.size else ["h32", "w32"]
    for value in model.graph.output[1:]:
        size_of_field = context if value.name == "offset.cam" else quarter
        assert dimensions(value) == [batch, 2, *size_of_field]
    # Other names would contradict the input's; the check above has compared numbers and ranks.
    inner = {dim for value in model.graph.value_info for dim in dimensions(value)}
    assert {dim for dim in inner if isinstance(dim, str)} <= {"N", "H", "W"}
    assert ("N" in inner) == (options.batch is None)


def dimensions(value: Any) -> list[int | str]:
    return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_sampler_is_lowered_as_asked(export_small: Export, kind: dict[str, Any]) -> None:
    nodes = list(onnx.load(export_small(**kind)).graph.node)
    samplers = [node for node in nodes if node.op_type == "GridSample"]
    if kind.get("sampler") is Sampler.GATHER:
        assert samplers == []
        return
    assert len(samplers) == 9  # two in each of four CAB, one in CAM
    for node in samplers:
        facts = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        assert facts == {"mode": b"bilinear", "padding_mode": b"zeros", "align_corners": 0}


@pytest.mark.parametrize(
    ("kind", "resizes"),
    [
        (NATIVE, 0),
        (PLAIN, 5),  # one in each of four CAB, one in CAM
        (FIXED_RESIZE, 9),  # two in each of four CAB, one in CAM
        (LABELS_AND_OFFSETS, 10),  # and that of the logits
        *all_slow((LABELS, 1), (RESIZE, 9), (RESIZE_GATHER, 9)),
    ],
    ids=str,
)
def test_upsampling_is_lowered_as_asked(
    export_small: Export, kind: dict[str, Any], resizes: int
) -> None:
    nodes = list(onnx.load(export_small(**kind)).graph.node)
    makers = {name: node.op_type for node in nodes for name in node.output}
    found = [node for node in nodes if node.op_type == "Resize"]
    assert len(found) == resizes
    for node in found:
        facts = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        modes = facts["mode"], facts["coordinate_transformation_mode"]
        assert modes == (b"linear", b"align_corners")
        _, region, scales, sizes = node.input
        assert (region, scales) == ("", "")
        assert makers.get(sizes) == (None if "size" in kind else "Concat")  # constant, or not
    # One product each for rows and columns; the context module pools with two.
    matrices = 2 + 2 * 9 * ExportOptions(**kind).rewrites * (Upsampling.RESIZE not in kind.values())
    assert sum(node.op_type == "MatMul" for node in nodes) == matrices


@pytest.mark.parametrize(
    ("options", "chosen"),
    [
        ({}, Upsampling.MATRICES),
        ({"sampler": Sampler.GATHER}, Upsampling.MATRICES),
        ({"sampler": Sampler.PLUGIN}, Upsampling.RESIZE),
        ({"sampler": Sampler.PLUGIN, "upsampling": Upsampling.MATRICES}, Upsampling.MATRICES),
        ({"upsampling": Upsampling.RESIZE}, Upsampling.RESIZE),
        ({"rewrites": False}, Upsampling.RESIZE),
        ({"rewrites": False, "upsampling": Upsampling.RESIZE}, Upsampling.RESIZE),
    ],
    ids=str,
)
def test_upsampling_that_is_chosen(options: dict[str, Any], chosen: Upsampling) -> None:
    assert ExportOptions(**options).chosen_upsampling is chosen


def test_matrices_are_one_of_the_rewrites() -> None:
    with pytest.raises(OptionError, match="upsampling='matrices' with rewrites=False"):
        ExportOptions(rewrites=False, upsampling=Upsampling.MATRICES)


def test_both_upsamplings_label_alike(export_small: Export) -> None:
    images = [probe_image((150, 262), seed) for seed in range(2)]
    results = [Predictor(export_small(**kind))(images) for kind in (NATIVE, LABELS_AND_OFFSETS)]
    for one, other in zip(*results, strict=True):
        assert len(np.unique(one.labels)) > 3
        assert np.mean(one.labels != other.labels) <= 1e-4


def test_rewrites_leave_no_norm_and_no_auxiliary_head(export_small: Export) -> None:
    with_rewrites = [node.op_type for node in onnx.load(export_small(**NATIVE)).graph.node]
    without = [node.op_type for node in onnx.load(export_small(**PLAIN)).graph.node]
    assert "BatchNormalization" not in with_rewrites
    assert "BatchNormalization" in without
    names = {tensor.name for tensor in onnx.load(export_small(**PLAIN)).graph.initializer}
    assert not any("dsn" in name for name in names)


def test_rewrites_change_no_numbers(export_small: Export) -> None:
    images = np.concatenate([probe_image((65, 98), seed)[np.newaxis] for seed in range(2)])
    fixed = Predictor(export_small(**FIXED))(list(images), probabilities=True)
    plain = Predictor(export_small(**PLAIN))(list(images), probabilities=True)
    for one, other in zip(fixed, plain, strict=True):
        assert one.probabilities is not None
        assert other.probabilities is not None
        np.testing.assert_allclose(one.probabilities, other.probabilities, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_metadata_round_trip(
    export_small: Export, small_checkpoint: Path, kind: dict[str, Any]
) -> None:
    options = ExportOptions(**kind)
    metadata = {p.key: p.value for p in onnx.load(export_small(**kind)).metadata_props}
    spec = ModelSpec.from_json(metadata[SPEC_KEY])
    expected = load_checkpoint(small_checkpoint).spec
    assert (spec.network, spec.input, spec.classes, spec.source) == (
        expected.network,
        expected.input,
        expected.classes,
        expected.source,
    )
    assert spec.export is not None
    assert spec.export.output is options.output
    assert spec.export.sampler is options.sampler
    assert (spec.export.size, spec.export.batch) == (options.size, options.batch)
    assert (spec.export.opset, spec.export.rewrites) == (options.opset, options.rewrites)
    assert spec.export.upsampling is options.chosen_upsampling
    rows = json.loads(metadata[VERIFICATION_KEY])
    assert len({(row["height"], row["width"]) for row in rows}) == (1 if options.size else 3)
    assert {row["batch"] for row in rows} == ({options.batch} if options.batch else {1, 2})
    assert all(row["error"] <= 1e-4 for row in rows)
    assert all((row["offset_error"] is not None) == options.with_offsets for row in rows)
    assert all((row["offset_error"] or 0) <= 1e-4 for row in rows)


def test_fixed_size_folds_the_grids(export_small: Export) -> None:
    """Values that depend only on the size are computed at export, not at every call."""
    operators = {node.op_type for node in onnx.load(export_small(**FIXED)).graph.node}
    assert not {"Shape", "Range", "ConstantOfShape"} & operators


def make_exporter_return(graph: onnx_ir.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `onnx_from_checkpoint` check and write `graph` as if it had just been made."""
    monkeypatch.setattr(to_onnx, "onnx_from_model", lambda model, options: graph)


def test_wrong_graph_is_refused_and_nothing_is_written(
    export_small: Export, small_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A graph whose sampling is slightly off must not be written."""
    graph = onnx_ir.load(export_small(**FIXED))
    weight = graph.graph.initializers["model.CAB5.delta_gen.offsets.weight"]
    assert weight.const_value is not None
    weight.const_value = onnx_ir.tensor(weight.const_value.numpy() + 0.01, name=weight.name)
    make_exporter_return(graph, monkeypatch)
    target = tmp_path / "model.onnx"
    target.write_bytes(b"an older file")
    with pytest.raises(ParityError, match="differ from PyTorch"):
        onnx_from_checkpoint(load_checkpoint(small_checkpoint), target, ExportOptions(**FIXED))
    assert target.read_bytes() == b"an older file"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("place", [0, 2])
def test_nan_is_a_difference(
    monkeypatch: pytest.MonkeyPatch, export_small: Export, small_checkpoint: Path, place: int
) -> None:
    errors = [1e-6, 1e-6, 1e-6]
    errors[place] = float("nan")
    monkeypatch.setattr(parity, "_measure_difference", lambda *_: errors.pop(0))
    with pytest.raises(ParityError):
        parity.compare_with_pytorch(
            export_small(**FIXED), load_checkpoint(small_checkpoint).model()
        )


def test_exchanged_offsets_are_refused(
    export_small: Export, small_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = onnx_ir.load(export_small(**FIXED_OFFSETS))
    outputs = graph.graph.outputs
    outputs[2], outputs[3] = outputs[3], outputs[2]
    outputs[2].name, outputs[3].name = outputs[3].name, outputs[2].name
    make_exporter_return(graph, monkeypatch)
    options = ExportOptions(**FIXED_OFFSETS)
    with pytest.raises(ParityError, match="exported offsets differ"):
        onnx_from_checkpoint(load_checkpoint(small_checkpoint), tmp_path / "m.onnx", options)
    assert list(tmp_path.iterdir()) == []


def test_offsets_that_are_all_zero_are_equal() -> None:
    assert parity._measure_difference(np.zeros((1, 2, 3, 4)), np.zeros((1, 2, 3, 4))) == 0
    assert parity._measure_difference(np.full((1, 2, 3, 4), 1e-9), np.zeros((1, 2, 3, 4))) == np.inf


def test_large_weights_go_to_a_second_file(
    export_small: Export, small_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_exporter_return(onnx_ir.load(export_small(**FIXED)), monkeypatch)
    monkeypatch.setattr(onnx_file, "EXTERNAL_DATA_BYTES", 100_000)
    options = ExportOptions(**FIXED)
    path = onnx_from_checkpoint(
        load_checkpoint(small_checkpoint), tmp_path / "big.onnx", options
    ).path
    assert sorted(file.name for file in tmp_path.iterdir()) == ["big.onnx", "big.onnx.data"]
    assert path.stat().st_size < 1_000_000 < (tmp_path / "big.onnx.data").stat().st_size
    result = Predictor(path)(probe_image((65, 98), 0))
    assert result.labels.shape == (65, 98)


@pytest.mark.parametrize(
    ("version", "raised"),
    [("2.11.0+cu130", MissingDependencyError), ("2.13.0", RuntimeError), ("2.14.1", RuntimeError)],
)
def test_a_pytorch_that_cannot_trace_is_named_if_it_is_old(
    version: str, raised: type[Exception], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """PyTorch 2.11 raises a UserError of its own, "Constraints violated (H, W)!"."""

    def fails(*arguments: object, **options: object) -> None:
        raise RuntimeError("Constraints violated (H, W)!\n  - Not all values")

    monkeypatch.setattr(torch.export, "export", fails)
    monkeypatch.setattr(torch, "__version__", version)
    with pytest.raises(raised, match=r"Constraints violated \(H, W\)!") as caught:
        onnx_from_checkpoint(
            load_checkpoint(model_path("demo").with_suffix(".pth")),
            tmp_path / "x.onnx",
            ExportOptions(),
        )
    if raised is MissingDependencyError:
        assert "PyTorch 2.11.0+cu130 cannot trace" in str(caught.value)
        assert INSTALL_EXPORT in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_operator_a_low_opset_lacks_is_an_error(
    export_small: Export, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_graph, "_is_same_in_opset", lambda *_: False)
    with pytest.raises(ExportError, match="opset 16 does not have"):
        onnx_graph._lower_opset(onnx_ir.load(export_small(**FIXED)), 16)
