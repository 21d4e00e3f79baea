"""Reading a parsed network and reporting on a build, without any TensorRT."""

import io
import threading
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
from rich.console import Console

from alignseg_infer import BuildError
from alignseg_infer.cli import progress
from alignseg_infer.spec.model import OutputKind, Precision, Sampler
from alignseg_infer.trt.builder.engine import _require_narrow_labels
from alignseg_infer.trt.builder.layer_report import ENDS, SAMPLERS, describe_layers, float_reasons
from alignseg_infer.trt.builder.layers import (
    RESIZING,
    SAMPLING,
    Layer,
    Network,
    count_layers,
    read_network,
    require_precision,
    require_resizing,
    require_sampling,
)
from alignseg_infer.trt.builder.progress import Phase, Phases, run_stoppable
from alignseg_infer.trt.engine_file import LayerCount
from alignseg_infer.trt.flavours import Module
from alignseg_infer.trt.log import Messages


def layer(kind: str, data_type: str, reads: str, makes: str, **more: Any) -> Layer:
    inputs, outputs = tuple(reads.split()), tuple(makes.split())
    return Layer(name=makes, kind=kind, data_type=data_type, inputs=inputs, outputs=outputs, **more)


HALF_NETWORK = Network(
    (
        layer("SHAPE", "INT64", "image", "size"),
        layer("CAST", "FLOAT", "size", "matrix"),  # depends on shapes only, so it is not counted
        layer("CONSTANT", "FLOAT", "", "constant"),
        layer("CAST", "HALF", "image", "half"),
        layer("CONVOLUTION", "HALF", "half", "feature"),
        layer("CAST", "FLOAT", "feature", "offset"),
        layer("ELEMENTWISE", "FLOAT", "offset constant", "grid"),
        layer("CAST", "FLOAT", "feature", "wide"),
        layer("GRID_SAMPLE", "FLOAT", "wide grid", "sampled"),
        layer("CAST", "HALF", "sampled", "narrow"),
        layer("CAST", "FLOAT", "feature", "lost"),
        layer("ACTIVATION", "FLOAT", "lost", "lost2"),
        layer("MATRIX_MULTIPLY", "HALF", "narrow matrix", "summed"),
        layer("CAST", "FLOAT", "summed", "logits"),
    ),
    ("image",),
    ("logits",),
)


def test_reasons_for_float32() -> None:
    # offset, grid, wide, sampled form a group; lost, lost2 have no reason; logits is the output.
    expected = {SAMPLERS: 4, "other (CAST, ACTIVATION)": 2, ENDS: 1}
    assert float_reasons(HALF_NETWORK) == expected


def test_report() -> None:
    lines = describe_layers(HALF_NETWORK).splitlines()
    assert lines[0] == "  convolutions: 1 FP16"
    assert lines[1] == "  11 layers that compute: 36% FP16, 64% FP32"
    assert lines[2] == f"    4 FP32: {SAMPLERS}"
    assert LayerCount("CAST", "FLOAT", 5) in count_layers(HALF_NETWORK)


@pytest.mark.parametrize("joint", ["late", "early"])
def test_groups_that_meet_later_become_one(joint: str) -> None:
    branches = [
        layer("CAST", "FLOAT", "image", "a"),
        layer("CAST", "FLOAT", "image2", "b"),
        layer("ELEMENTWISE", "FLOAT", "a b", "c"),
        layer("UNARY", "FLOAT", "c" if joint == "late" else "a", "d", operation="FLOOR"),
    ]
    network = Network(tuple(branches), ("image", "image2"), ())
    assert float_reasons(network) == {SAMPLERS: 4}


@pytest.mark.parametrize(
    ("types", "precision", "right"),
    [
        ("FLOAT FLOAT", Precision.FP32, True),
        ("FLOAT HALF", Precision.FP32, False),
        ("HALF HALF", Precision.FP16, True),
        ("HALF FLOAT", Precision.FP16, False),
        ("HALF INT8", Precision.FP16, False),
        ("HALF INT8", Precision.INT8, True),
        ("HALF HALF", Precision.INT8, False),
        ("INT8 FLOAT", Precision.INT8, False),
        ("", Precision.FP32, False),
    ],
)
def test_precision_of_convolutions(types: str, precision: Precision, right: bool) -> None:
    layers = tuple(layer("CONVOLUTION", kind, "x", f"conv{kind}") for kind in types.split())
    network = Network(layers, ("x",), ())
    if right:
        require_precision(network, precision)
    else:
        with pytest.raises(BuildError, match=precision.value):
            require_precision(network, precision)


class FakeLayer:
    """Return a layer like TensorRT's; `reads` and `makes` are names, empty for no tensor."""

    def __init__(self, kind: str, data_type: str, reads: list[str], makes: str) -> None:
        self.type, self.name = SimpleNamespace(name=kind), makes
        self.num_inputs, self.num_outputs = len(reads), 1
        self._reads = [SimpleNamespace(name=name) if name else None for name in reads]
        self._makes = SimpleNamespace(name=makes, dtype=SimpleNamespace(name=data_type))

    def get_input(self, index: int) -> Any:
        return self._reads[index]

    def get_output(self, index: int) -> Any:
        return self._makes


@pytest.mark.parametrize(
    ("reads", "seen"),
    [
        (["q", "w"], "INT8"),
        (["q", "w", "bias"], "INT8"),
        (["q"], "HALF"),  # weights that are no tensor were not dequantised
        (["q", "x"], "HALF"),
        (["x", "w"], "HALF"),
        (["q", ""], "HALF"),
    ],
    ids=str,
)
def test_int8_is_values_and_weights_dequantised(reads: list[str], seen: str) -> None:
    layers = [
        FakeLayer("DEQUANTIZE", "HALF", ["i"], "q"),
        FakeLayer("DEQUANTIZE", "HALF", ["j"], "w"),
        FakeLayer("CONVOLUTION", "HALF", reads, "y"),
    ]
    network = SimpleNamespace(
        num_layers=3, num_inputs=0, num_outputs=0, get_layer=layers.__getitem__
    )
    assert read_network(cast("Module", None), network).layers[-1].data_type == seen


def test_phases_nest() -> None:
    told: list[Phase] = []
    phases = Phases(told.append)
    phases.start("Building", None, 2)
    phases.start("Optimizing", "Building", 3)
    assert phases.step("Optimizing", 0)
    phases.finish("Optimizing")
    assert phases.step("nobody started this", 0)
    phases.stop()
    assert not phases.step("Building", 0)
    phases.finish("Building")
    phases.finish("Building")
    assert told == [
        Phase("Building", 0, 0, 2),
        Phase("Optimizing", 1, 0, 3),
        Phase("Optimizing", 1, 1, 3),
        Phase("Optimizing", 1, 1, 3, ended=True),
        Phase("Building", 0, 1, 2),
        Phase("Building", 0, 1, 2, ended=True),
    ]


def test_a_report_that_raises_stops_the_build() -> None:
    def report(phase: Phase) -> None:
        raise ZeroDivisionError

    phases = Phases(report)
    phases.start("Building", None, 1)
    assert not phases.step("Building", 0)
    assert isinstance(phases.error, ZeroDivisionError)


def test_messages_are_kept_by_severity() -> None:
    messages = Messages()
    for severity in ("VERBOSE", "INFO", "WARNING", "ERROR", "INTERNAL_ERROR"):
        messages.add(severity, severity.lower())
    assert messages.errors == ["error", "internal_error"]
    assert messages.warnings == ["warning"]


def test_work_runs_beside_the_main_thread() -> None:
    names: list[str] = []

    def work() -> int:
        names.append(threading.current_thread().name)
        return 7

    def fail() -> int:
        raise ZeroDivisionError

    assert run_stoppable(work, stop=lambda: None) == 7
    assert names != [threading.main_thread().name]
    with pytest.raises(ZeroDivisionError):
        run_stoppable(fail, stop=lambda: None)


def shown(monkeypatch: pytest.MonkeyPatch, terminal: bool) -> Callable[[], str]:
    text = io.StringIO()
    console = Console(file=text, force_terminal=terminal, width=80)
    monkeypatch.setattr(progress, "Console", lambda stderr: console)
    return text.getvalue


def test_bars_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = shown(monkeypatch, terminal=True)
    with progress.phase_bars() as show:
        show(Phase("Building", 0, 0, 4))
        show(Phase("Timing", 2, 1, 3))
        show(Phase("Timing", 2, 1, 3, ended=True))
        show(Phase("Building", 0, 3, 4))
    assert "Building" in seen()
    assert "3/4" in seen()


def test_lines_where_there_is_no_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown(monkeypatch, terminal=False)
    with progress.phase_bars() as show:
        for phase in (
            Phase("Building", 0, 0, 2),
            Phase("Optimizing", 1, 0, 1),
            Phase("Deep", 2, 0, 1),
            Phase("Building", 0, 1, 2),
            Phase("Building", 0, 0, 2, ended=True),
        ):
            show(phase)
    assert capsys.readouterr().err.splitlines() == ["Building", "  Optimizing"]


def test_labels_that_tensorrt_has_no_type_for() -> None:
    """They are refused before TensorRT is called, with advice."""
    for output, classes, remap, advice in (
        (OutputKind.LABELS, 257, None, "again with output='logits'"),
        (OutputKind.LABELS, 257, "FILE.json", "again with the same remap= and output="),
        (OutputKind.LABELS, 256, None, None),
        (OutputKind.LOGITS, 257, None, None),
    ):
        spec = SimpleNamespace(label_count=classes, remap=remap)
        facts: Any = SimpleNamespace(
            spec=spec, export=SimpleNamespace(output=output, label_type=None)
        )
        with pytest.raises(BuildError, match=advice) if advice else nullcontext():
            _require_narrow_labels(facts)


def test_coordinates_in_half_are_refused() -> None:
    """The native sampler has grid sampling, and gather has the floor of coordinates."""
    for one in (
        Layer(name="a", kind="GRID_SAMPLE", data_type="HALF", sampling=SAMPLING),
        Layer(name="a", kind="UNARY", data_type="HALF", operation="FLOOR"),
    ):
        native = one.sampling is not None
        export = SimpleNamespace(sampler=Sampler.NATIVE if native else Sampler.GATHER)
        facts: Any = SimpleNamespace(
            export=export, grid_samples=int(native), plugins=(), plugin_nodes=()
        )
        with pytest.raises(BuildError, match="sampling coordinates in HALF"):
            require_sampling(Network((one,), (), ()), facts)
        exact = replace(one, data_type="FLOAT")
        require_sampling(Network((exact,), (), ()), facts)


@pytest.mark.parametrize(
    ("resizing", "nodes", "said"),
    [
        ([RESIZING] * 2, 2, None),
        ([], 0, None),
        ([RESIZING, ("NEAREST", "ALIGN_CORNERS")], 2, "NEAREST, ALIGN_CORNERS"),
        ([("LINEAR", "HALF_PIXEL"), RESIZING], 2, "LINEAR, HALF_PIXEL"),
        ([RESIZING], 2, "1 resize layers, the ONNX graph 2"),
        ([RESIZING], 0, "1 resize layers, the ONNX graph 0"),
    ],
    ids=str,
)
def test_resizing_is_linear_with_aligned_corners(
    resizing: list[tuple[str, str]], nodes: int, said: str | None
) -> None:
    layers = (Layer(name="a", kind="RESIZE", data_type="HALF", resizing=one) for one in resizing)
    network = Network((*layers, layer("CAST", "HALF", "image", "x")), (), ())
    facts: Any = SimpleNamespace(resizes=nodes)
    with pytest.raises(BuildError, match=said) if said else nullcontext():
        require_resizing(network, facts)
