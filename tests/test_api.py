"""The functions of the public door: what they take, and what comes of it."""

import inspect
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alignseg_infer import (
    DatasetError,
    ModelError,
    OptionError,
    Predictor,
    SizeError,
    export_engine,
    export_onnx,
    segment_files,
    segment_video,
    tune,
    verify,
)
from alignseg_infer.backends import OnnxRunner
from alignseg_infer.choices import choose
from alignseg_infer.cli import COMMANDS
from alignseg_infer.demo import FIRST_HELD_OUT
from alignseg_infer.demo.streets.folder import write_streets
from alignseg_infer.export.graph.options import ExportOptions
from alignseg_infer.export.int8.options import CalibrationOptions
from alignseg_infer.export.verification import verify as verification
from alignseg_infer.export.verification.options import VerificationOptions
from alignseg_infer.files.reading import sha256_of
from alignseg_infer.models.checkpoint_options import CheckpointOptions
from alignseg_infer.spec import onnx_facts
from alignseg_infer.spec.model import OutputKind, Precision, Sampler
from alignseg_infer.spec.verification import REQUIRED_AGREEMENT
from alignseg_infer.trt.builder.options import BuildOptions
from alignseg_infer.trt.engine_file import read_facts
from alignseg_infer.trt.flavours import Flavour
from tests.support.models import FakeBackend


@pytest.mark.parametrize(
    "function", [export_onnx, export_engine, verify, tune, segment_video, segment_files]
)
def test_every_parameter_is_documented(function: Any) -> None:
    text = inspect.getdoc(function)
    assert text is not None
    for name in inspect.signature(function).parameters:
        assert f"\n    {name}: " in text


STRINGS: list[tuple[Any, str, str]] = [
    (ExportOptions, "output", "labels"),
    (ExportOptions, "sampler", "gather"),
    (ExportOptions, "upsampling", "resize"),
    (CheckpointOptions, "convention", "standard"),
    (CheckpointOptions, "norm", "batch-norm"),
    (CheckpointOptions, "channel_order", "rgb"),
    (CheckpointOptions, "weights", "raw"),
    (CalibrationOptions, "method", "entropy"),
    (BuildOptions, "flavour", "tensorrt"),
    (BuildOptions, "hardware_compatibility", "ampere-plus"),
]


@pytest.mark.parametrize(("kind", "name", "value"), STRINGS, ids=[case[1] for case in STRINGS])
def test_strings_are_taken_for_choices(kind: Any, name: str, value: str) -> None:
    member = getattr(kind(**{name: value}), name)
    assert member == value
    assert type(member) is not str
    with pytest.raises(OptionError, match=f"{name}='no such'") as caught:
        kind(**{name: "no such"})
    assert value in caught.value.expected


def test_none_is_a_choice_only_where_it_means_something() -> None:
    assert ExportOptions(upsampling=None).upsampling is None
    with pytest.raises(OptionError, match="output=None"):
        ExportOptions(output=None)  # type: ignore[arg-type]


def test_choose() -> None:
    assert choose(OnnxRunner, "openvino", "runtime") is OnnxRunner.OPENVINO
    assert choose(Flavour, Flavour.TENSORRT, "flavour") is Flavour.TENSORRT
    with pytest.raises(OptionError, match="precision='int4'") as caught:
        choose(Precision, "int4", "precision")
    assert caught.value.expected == "fp32 or fp16 or int8"


REFUSED: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"precision": "int4"}, OptionError, "precision='int4'"),
    ({"output": "masks"}, OptionError, "output='masks'"),
    ({"sampler": "bilinear"}, OptionError, "sampler='bilinear'"),
    ({"channel_order": "bgra"}, OptionError, "channel_order='bgra'"),
    ({"classes": "kitti"}, OptionError, "'kitti'"),
    ({"weights": "swa"}, OptionError, "weights='swa'"),
    ({"threshold": 0.0}, OptionError, "threshold=0.0"),
    ({"threshold": 1}, OptionError, "threshold=1"),
    ({"threshold": float("nan")}, OptionError, "threshold=nan"),
    ({"mean": (1.0, 2.0)}, OptionError, r"mean=\(1.0, 2.0\)"),
    ({"opset": 20}, OptionError, "opset=20"),
    ({"size": (8, 8)}, SizeError, "8x8"),
    ({"precision": "int8"}, OptionError, "without images to calibrate with"),
    ({"calibration": "images"}, OptionError, "calibration= was given without precision='int8'"),
    ({"keep_float": ["stem"]}, OptionError, "keep_float= was given without precision='int8'"),
    ({"int8_budget": 1.0, "precision": "fp16"}, OptionError, "int8_budget= was given without"),
    (
        {"calibration": ".", "calibration_method": "mean", "precision": "int8"},
        OptionError,
        "calibration_method='mean'",
    ),
    ({"verification": "nowhere"}, DatasetError, "nowhere does not exist"),
]


@pytest.mark.parametrize("function", [export_onnx, export_engine])
@pytest.mark.parametrize(
    ("options", "error", "words"), REFUSED, ids=[str(case[0]) for case in REFUSED]
)
def test_refused_before_anything_takes_long(
    function: Any, options: dict[str, Any], error: type[Exception], words: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=words):
        function("demo", tmp_path / "a.onnx", **options)
    assert list(tmp_path.iterdir()) == []


def test_an_exported_model_leaves_no_option_of_a_checkpoint_open(tmp_path: Path) -> None:
    for options in ({"opset": 17}, {"norm": "batch-norm"}):
        (name,) = options
        with pytest.raises(OptionError, match=f"{name}= cannot change"):
            export_engine("demo", tmp_path / "a.engine", flavour="tensorrt-rtx", **options)


def test_shapes_of_an_engine_go_together(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="without opt_shape="):
        export_engine("demo", tmp_path / "a.engine", max_shape=(1, 64, 64))


def test_a_build_reads_each_graph_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the demo's float32 graph to an int8 engine: two graphs, each read and hashed once."""
    pytest.importorskip("tensorrt_rtx", reason="builds an engine with TensorRT for RTX")
    list(write_streets(tmp_path / "streets", FIRST_HELD_OUT, 1, size=(64, 96)))
    images = tmp_path / "streets" / "images"
    hashed: Counter[str] = Counter()

    def count(path: Path) -> str:
        hashed[path.name] += 1
        return sha256_of(path)

    for module in (onnx_facts, verification):
        monkeypatch.setattr(module, "sha256_with_weights", count)
    monkeypatch.setitem(REQUIRED_AGREEMENT, Precision.INT8, 0.1)  # of one tiny image
    seen = set()
    report = export_engine(
        "demo",
        tmp_path / "demo.engine",
        flavour="tensorrt-rtx",
        precision="int8",
        calibration=images,
        verification=images,
        opt_shape=(1, 64, 96),
        progress=lambda what, done, total: seen.add(what),
    )
    assert hashed == {"demo.onnx": 1, "demo-int8.onnx": 1}
    assert report.path == tmp_path / "demo.engine"
    assert report.facts == read_facts(report.path)
    assert report.facts.flavour is Flavour.TENSORRT_RTX
    assert report.facts.spec.export is not None
    assert report.facts.spec.export.precision is Precision.INT8
    assert report.graph_verification is not None
    assert report.graph_verification.reference_sha256 == sha256_of(
        Path(export_engine.__code__.co_filename).parent / "demo" / "demo.onnx"
    )
    assert report.verification is report.facts.verification
    assert (report.comparisons, report.assumptions) == ((), ())
    assert {"calibration images", "images compared with demo.onnx"} <= seen


@pytest.mark.slow
def test_a_checkpoint_becomes_a_labels_graph(small_checkpoint: Path, tmp_path: Path) -> None:
    report = export_onnx(
        small_checkpoint,
        str(tmp_path / "small.onnx"),
        output="labels",
        sampler="gather",
        size=(64, 96),
        batch=1,
        norm="batch-norm",
    )
    assert report.path.is_file()
    assert report.precision is Precision.FP32
    assert report.spec.export is not None
    assert report.spec.export.output is OutputKind.LABELS
    assert report.spec.export.sampler is Sampler.GATHER
    assert report.spec.network.norm == "batch-norm"
    assert len(report.comparisons) == 3
    assert (report.verification, report.assumptions) == (None, ())


def test_verify_takes_images_and_one_size() -> None:
    street = np.random.default_rng(0).integers(0, 255, (64, 96, 3), np.uint8)
    found = verify("demo", "demo", [street], size=(64, 96))
    assert {(row.shape.height, row.shape.width) for row in found.rows} == {(64, 96)}
    assert all(row.agreement == 1 for row in found.rows)
    with pytest.raises(ModelError):
        verify("demo", Path("nowhere.onnx"), [street])


def test_verification_takes_a_dataset_as_a_whole() -> None:
    assert VerificationOptions(dataset="folder", root=Path()).split is None  # type: ignore[arg-type]
    for part in ({"dataset": "folder"}, {"root": Path()}, {"split": "val"}):
        with pytest.raises(OptionError, match="only some of dataset=, root= and split="):
            VerificationOptions(**part)


def test_a_video_of_streets(tmp_path: Path) -> None:
    target = tmp_path / "out.mp4"
    summary = segment_video(Predictor(FakeBackend()), "streets", target, max_frames=2, opacity=1)
    assert (summary.output, summary.frames) == (target, 2)


def test_the_door_has_a_command_for_each_function() -> None:
    assert {"export-onnx", "export-trt", "verify", "video"} <= set(COMMANDS)
