"""Engines: TensorRT for RTX parses and builds on any CPU; running one needs a GPU."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest

from alignseg_infer import (
    AlignSegError,
    BuildError,
    MissingDependencyError,
    ModelFileError,
    OptionError,
    SizeError,
    VerificationError,
)
from alignseg_infer.arrays import InputShape
from alignseg_infer.cli import main
from alignseg_infer.export.make import _Graph, _verify_command, make_engine
from alignseg_infer.export.recipe import Recipe
from alignseg_infer.files.reading import sha256_of
from alignseg_infer.spec.model import SPEC_KEY, ModelSpec, Precision, Sampler, Upsampling
from alignseg_infer.spec.onnx_facts import read_onnx_facts
from alignseg_infer.spec.verification import Verification
from alignseg_infer.trt.builder.engine import Engine, build_engine, engine_from_onnx, save_engine
from alignseg_infer.trt.builder.options import BuildOptions, HardwareCompatibility, profile_for
from alignseg_infer.trt.engine_file import LayerCount, Profile, read_facts, sidecar_path
from alignseg_infer.trt.flavours import Flavour
from tests.support.export_kinds import (
    FIXED,
    FIXED_GATHER,
    FIXED_RESIZE,
    GATHER,
    RESIZE,
    RESIZE_GATHER,
)
from tests.support.pages import parse_options
from tests.support.slow import all_slow

Export = Callable[..., Path]

STATIC = Profile(*[InputShape(1, 96, 160)] * 3)
ONE_SIDE = Profile(InputShape(1, 96, 128), InputShape(2, 96, 160), InputShape(2, 96, 160))
DYNAMIC = Profile(InputShape(1, 64, 64), InputShape(1, 96, 160), InputShape(2, 128, 192))
CONVOLUTIONS = 76
SAMPLERS = 9


def rtx(**options: Any) -> BuildOptions:
    pytest.importorskip("tensorrt_rtx", reason="pip install tensorrt-rtx-cu13")
    return BuildOptions(flavour=Flavour.TENSORRT_RTX, **options)


def count_of(engine: Engine, kind: str) -> dict[str, int]:
    return {row.data_type: row.count for row in engine.facts.layers if row.kind == kind}


@pytest.mark.parametrize(
    ("export", "profile", "samplers"),
    [
        ({}, STATIC, SAMPLERS),
        ({}, ONE_SIDE, SAMPLERS),
        ({}, DYNAMIC, SAMPLERS),
        (FIXED_GATHER, None, 0),
        (FIXED, None, SAMPLERS),
        (FIXED_RESIZE, None, SAMPLERS),
        *all_slow((GATHER, DYNAMIC, 0), (RESIZE, ONE_SIDE, SAMPLERS), (RESIZE_GATHER, DYNAMIC, 0)),
    ],
    ids=str,
)
def test_float32_engine(
    export_small: Export, export: dict[str, Any], profile: Profile | None, samplers: int
) -> None:
    engine = engine_from_onnx(export_small(**export), rtx(profile=profile))
    assert len(engine.plan) > 3_000_000  # the weights alone
    assert count_of(engine, "CONVOLUTION") == {"FLOAT": CONVOLUTIONS}
    assert sum(count_of(engine, "GRID_SAMPLE").values()) == samplers
    assert sum(count_of(engine, "RESIZE").values()) == (9 if "upsampling" in export else 0)
    wanted = profile or Profile(*[InputShape(2, 65, 98)] * 3)
    assert engine.facts.profile == wanted


def test_facts_and_plan_are_written_together(export_small: Export, tmp_path: Path) -> None:
    source, path = export_small(**FIXED), tmp_path / "new" / "a.engine"
    engine = build_engine(source, path, rtx(compute_capabilities=("8.9", "12.0")))
    assert sorted(file.name for file in path.parent.iterdir()) == ["a.engine", "a.engine.json"]
    facts = read_facts(path)
    assert facts == engine.facts
    assert path.read_bytes() == engine.plan
    assert facts.sha256 == sha256_of(path)
    assert facts.source_sha256 == sha256_of(source)
    assert facts.spec == read_onnx_facts(source).spec
    assert facts.compute_capabilities == ("8.9", "12.0")
    assert facts.flavour is Flavour.TENSORRT_RTX
    assert facts.tensorrt_version in facts.builder
    assert LayerCount("CONVOLUTION", "FLOAT", CONVOLUTIONS) in facts.layers
    assert (facts.gpu, facts.verification) == (None, None)


VERIFICATION = Verification(
    reference="a.onnx",
    reference_sha256="0",
    backend="fake",
    images="none",
    required_agreement=0.9,
    rows=(),
)


def test_verification_comes_before_the_name(export_small: Export, tmp_path: Path) -> None:
    path = tmp_path / "a.engine"
    seen: list[bool] = []

    def verify(candidate: Path) -> Verification:
        assert read_facts(candidate).sha256 == sha256_of(candidate)
        seen.append(path.exists())
        return VERIFICATION

    engine = build_engine(export_small(**FIXED), path, rtx(), verify=verify)
    assert seen == [False]
    assert engine.facts.verification == read_facts(path).verification == VERIFICATION

    def refuse(candidate: Path) -> Verification:
        raise VerificationError("no", "yes", "again")

    kept = path.read_bytes()
    with pytest.raises(VerificationError):
        save_engine(replace(engine, plan=b"another"), path, verify=refuse)
    with pytest.raises(VerificationError):
        save_engine(engine, tmp_path / "b.engine", verify=refuse)
    assert path.read_bytes() == kept
    assert read_facts(path).verification == VERIFICATION
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.engine", "a.engine.json"]


def test_weights_in_a_second_file(export_small: Export, tmp_path: Path) -> None:
    path = tmp_path / "split.onnx"
    model = onnx.load(export_small(**FIXED))
    onnx.save_model(model, path, save_as_external_data=True, location="split.onnx.data")
    assert path.stat().st_size < 1_000_000 < (tmp_path / "split.onnx.data").stat().st_size
    assert len(engine_from_onnx(path, rtx()).plan) > 3_000_000


def changed(source: Path, target: Path, change: Callable[[onnx.ModelProto], None]) -> Path:
    model = onnx.load(source)
    change(model)
    onnx.save(model, target)
    return target


def nearest(model: onnx.ModelProto) -> None:
    first = next(node for node in model.graph.node if node.op_type == "GridSample")
    next(attribute for attribute in first.attribute if attribute.name == "mode").s = b"nearest"


def border(model: onnx.ModelProto) -> None:
    first = next(node for node in model.graph.node if node.op_type == "GridSample")
    next(a for a in first.attribute if a.name == "padding_mode").s = b"border"


def corners(model: onnx.ModelProto) -> None:
    first = next(node for node in model.graph.node if node.op_type == "GridSample")
    next(a for a in first.attribute if a.name == "align_corners").i = 1


def nearest_upsampling(model: onnx.ModelProto) -> None:
    first = next(node for node in model.graph.node if node.op_type == "Resize")
    next(attribute for attribute in first.attribute if attribute.name == "mode").s = b"nearest"


def half_pixels(model: onnx.ModelProto) -> None:
    first = next(node for node in model.graph.node if node.op_type == "Resize")
    name = "coordinate_transformation_mode"
    next(attribute for attribute in first.attribute if attribute.name == name).s = b"half_pixel"


def claims(**facts: Any) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        entry = next(entry for entry in model.metadata_props if entry.key == SPEC_KEY)
        spec = ModelSpec.from_json(entry.value)
        assert spec.export is not None
        entry.value = replace(spec, export=replace(spec.export, **facts)).to_json()

    return change


def unknown_node(model: onnx.ModelProto) -> None:
    node = next(node for node in model.graph.node if node.op_type == "Relu")
    node.op_type, node.domain, node.name = "Mystery", "example.org", "the_mystery"


def int32_bias(model: onnx.ModelProto) -> None:
    """Write an INT8 graph with the defaults of ``quantize_static``."""
    conv = next(node for node in model.graph.node if node.op_type == "Conv" and len(node.input) > 2)
    helper = onnx.helper
    tensors = [
        helper.make_tensor("b", onnx.TensorProto.INT32, [1], [1]),
        helper.make_tensor("s", onnx.TensorProto.FLOAT, [], [0.1]),
    ]
    model.graph.initializer.extend(tensors)
    bias = helper.make_node("DequantizeLinear", ["b", "s"], ["bias"], name="dequantised_bias")
    model.graph.node.insert(0, bias)
    conv.input[2] = "bias"


def no_spec(model: onnx.ModelProto) -> None:
    del model.metadata_props[:]


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (nearest, BuildError, ["NEAREST", "LINEAR"]),
        (border, BuildError, ["CLAMP", "FILL"]),
        (corners, BuildError, ["align_corners=True"]),
        (nearest_upsampling, BuildError, ["NEAREST, ALIGN_CORNERS", "LINEAR and ALIGN_CORNERS"]),
        (half_pixels, BuildError, ["LINEAR, HALF_PIXEL", "LINEAR and ALIGN_CORNERS"]),
        (claims(sampler=Sampler.GATHER), BuildError, ["9 grid-sample layers", "gather"]),
        (claims(precision=Precision.FP16), BuildError, ["76 FP32 convolutions", "FP16"]),
        (claims(precision=Precision.INT8), BuildError, ["76 FP32 convolutions", "INT8"]),
        (unknown_node, BuildError, ["Mystery", "'the_mystery'"]),
        (int32_bias, BuildError, ["DequantizeLinear", "'dequantised_bias'", "Int32"]),
        (no_spec, ModelFileError, [SPEC_KEY]),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_graphs_that_are_refused(
    export_small: Export,
    tmp_path: Path,
    change: Callable[[onnx.ModelProto], None],
    error: type[AlignSegError],
    words: list[str],
) -> None:
    broken = changed(export_small(**FIXED_RESIZE), tmp_path / "broken.onnx", change)
    with pytest.raises(error) as caught:
        build_engine(broken, tmp_path / "a.engine", rtx())
    assert all(word in caught.value.problem + caught.value.expected for word in words)
    assert not (tmp_path / "a.engine").exists()


@pytest.mark.parametrize("content", [b"", b"no model", None], ids=["empty", "text", "cut"])
def test_damaged_onnx(export_small: Export, tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "damaged.onnx"
    good = export_small(**FIXED).read_bytes()
    path.write_bytes(good[: len(good) // 2] if content is None else content)
    with pytest.raises(ModelFileError):
        engine_from_onnx(path, rtx())
    with pytest.raises(ModelFileError):
        engine_from_onnx(tmp_path / "missing.onnx", rtx())


def test_float32_products_are_not_for_turing(export_small: Export) -> None:
    with pytest.raises(BuildError, match=r"Turing.*FP32 GEMM"):
        engine_from_onnx(export_small(**FIXED), rtx(compute_capabilities=("7.5",)))


def shapes(*sizes: tuple[int, int, int]) -> Profile:
    return Profile(*[InputShape(*size) for size in sizes])


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        (
            {"profile": shapes((1, 99, 64), (1, 64, 64), (1, 128, 64))},
            OptionError,
            "min_shape=(1, 99, 64)",
        ),
        (
            {"profile": shapes((1, 64, 64), (2, 64, 64), (1, 64, 64))},
            OptionError,
            "max_shape=(1, 64, 64)",
        ),
        ({"profile": shapes((1, 31, 64), (1, 64, 64), (1, 64, 64))}, SizeError, "31x64"),
        ({"profile": shapes((1, 64, 64), (1, 64, 64), (1, 64, 9**6))}, SizeError, "64x531441"),
        ({"profile": shapes((0, 64, 64), (1, 64, 64), (1, 64, 64))}, OptionError, "batch of 0"),
        ({"workspace": 0}, OptionError, "workspace=0"),
        ({"optimization_level": 6}, OptionError, "optimization_level=6"),
        ({"timing_cache": Path("cache")}, OptionError, "timing_cache="),
        ({"version_compatible": True}, OptionError, "version_compatible="),
        (
            {"hardware_compatibility": HardwareCompatibility.AMPERE_PLUS},
            OptionError,
            "hardware_compatibility=",
        ),
    ],
    ids=str,
)
def test_bad_options(options: dict[str, Any], error: type[AlignSegError], words: str) -> None:
    with pytest.raises(error) as caught:
        BuildOptions(flavour=Flavour.TENSORRT_RTX, **options)
    assert words in caught.value.problem


def test_a_profile_that_no_gpu_has_memory_for(caplog: pytest.LogCaptureFixture) -> None:
    most = shapes((1, 64, 64), (4, 512, 512), (1024, 512, 1024))
    assert rtx(profile=most).profile == most
    one_image = shapes((1, 64, 64), (1, 512, 512), (1, 16384, 16384))
    assert rtx(profile=one_image).profile == one_image
    with pytest.raises(OptionError, match=r"192,415 GB of GPU memory") as caught:
        rtx(profile=shapes((3, 64, 64), (4, 512, 512), (1024, 16384, 16384)))
    sizes = re.findall(r"_shape=\((\d+), (\d+), (\d+)\)", caught.value.fix)
    advised = shapes(*[(int(batch), int(height), int(width)) for batch, height, width in sizes])
    assert advised == shapes((2, 64, 64), (2, 512, 512), (2, 16384, 16384))
    assert rtx(profile=advised).profile == advised


@pytest.mark.parametrize(("batch", "warned"), [(1, False), (64, True)])
def test_a_profile_that_takes_much_memory_is_questioned(
    batch: int, warned: bool, export_small: Export, caplog: pytest.LogCaptureFixture
) -> None:
    largest = shapes((1, 64, 96), (1, 64, 96), (batch, 1024, 1024))
    path = export_small(size=None, batch=None)
    engine_from_onnx(path, rtx(profile=largest, optimization_level=0))
    said = [record.message for record in caplog.records if "of GPU memory" in record.message]
    assert bool(said) == warned
    assert not said or f"{batch}x1024x1024 take about 47 GB" in said[0]


def test_compute_capability_is_for_rtx_only() -> None:
    with pytest.raises(OptionError, match="compute_capabilities="):
        BuildOptions(flavour=Flavour.TENSORRT, compute_capabilities=("8.9",))


@pytest.mark.parametrize("text", ["9.0", "8", "ada", "NONE", "12.0 "])
def test_unknown_compute_capability(export_small: Export, text: str) -> None:
    with pytest.raises(OptionError, match=r"8\.9"):
        engine_from_onnx(export_small(**FIXED), rtx(compute_capabilities=(text,)))


@pytest.mark.parametrize(
    ("fixed", "asked", "right"),
    [
        ({"size": (64, 96), "batch": 2}, None, True),
        ({"size": (64, 96), "batch": None}, None, False),
        ({"size": None, "batch": 1}, None, False),
        ({"size": None, "batch": None}, DYNAMIC, True),
        ({"size": (64, 96), "batch": None}, shapes((1, 64, 96), (2, 64, 96), (4, 64, 96)), True),
        ({"size": (64, 96), "batch": 1}, shapes((1, 64, 96), (2, 64, 96), (4, 64, 96)), False),
        ({"size": (64, 96), "batch": None}, STATIC, False),
    ],
    ids=str,
)
def test_profile_fits_the_graph(
    export_small: Export, fixed: dict[str, Any], asked: Profile | None, right: bool
) -> None:
    export = replace(read_onnx_facts(export_small(**FIXED)).export, **fixed)
    if right:
        found = profile_for(export, asked)
        assert found == (asked or shapes((2, 64, 96), (2, 64, 96), (2, 64, 96)))
    else:
        with pytest.raises(OptionError):
            profile_for(export, asked)


def test_missing_tensorrt_names_the_way_without_a_gpu(
    export_small: Export, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(MissingDependencyError, match=r"pip install tensorrt.*tensorrt-rtx-cu13"):
        engine_from_onnx(export_small(**FIXED), BuildOptions())


COMMANDS = [
    ("{onnx} -o {folder}/a.engine", 1, "--opt-shape 1x"),
    ("{onnx} -o {folder}/a.engine --max-shape 1x64x64", 1, "without --opt-shape"),
    ("{onnx} -o {folder}/a.onnx --opt-shape 1x64x64", 1, ".engine"),
    ("{onnx} -o {folder}/a.engine --opt-shape 1x64x64 --size 64x64", 1, "leave out --size"),
    ("{onnx} -o {folder}/a.engine --batch 2", 1, "--batch cannot change"),
    ("{onnx} -o {folder}/a.engine --size 64x64 --opset 17", 1, "--opset cannot change"),
    ("{onnx} -o {folder}/a.engine --size 8x64", 1, "8x64"),
    ("{onnx} -o {folder}/a.engine --opt-shape 1x64x64 --precision int8", 1, "--calibration FOLDER"),
    (
        "{onnx} -o {folder}/a.engine --opt-shape 1x64x64 --norm batch-norm",
        1,
        "--norm cannot change",
    ),
    ("{onnx} -o {folder}/a.engine --opt-shape 64x64", 2, "IMAGESxHEIGHTxWIDTH"),
    ("{onnx} -o {folder}/a.engine --opt-shape 1x64x64 --flavour cuda", 2, "--flavour"),
    ("{folder}/none.pth -o {folder}/a.engine", 1, "none.pth"),
]


@pytest.mark.parametrize(("command", "code", "words"), COMMANDS, ids=[c[0] for c in COMMANDS])
def test_wrong_commands(
    small_onnx: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    command: str,
    code: int,
    words: str,
) -> None:
    rtx()
    typed = ["export-trt", "--flavour", "tensorrt-rtx"]
    typed += command.format(onnx=small_onnx, folder=tmp_path).split()
    try:
        seen = main(typed)
    except SystemExit as stop:
        seen = int(str(stop.code))
    assert seen == code
    assert words in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "profile"),
    [
        ("--size 64x96", "1x64x96 to 1x64x96"),
        ("--size 64x96 --batch 2", "2x64x96 to 2x64x96"),
    ],
)
def test_a_size_for_an_exported_model_makes_an_engine_of_that_size(
    options: str,
    profile: str,
    small_onnx: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    rtx()
    command = f"export-trt {small_onnx} -o {tmp_path}/a.engine --flavour tensorrt-rtx {options}"
    assert main(command.split()) == 0
    assert profile in capsys.readouterr().out


def test_a_size_that_an_exported_model_does_not_take(
    export_small: Export, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rtx()
    command = f"export-trt {export_small(**FIXED)} -o {tmp_path}/a.engine --size 64x96"
    assert main([*command.split(), "--flavour", "tensorrt-rtx"]) == 1
    assert "input shape 1x64x96 for a graph of size 65x98 and batch 2" in capsys.readouterr().err


def test_compute_capabilities_are_checked_before_the_export(
    small_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rtx()
    monkeypatch.setattr("alignseg_infer.export.make._make_float32_graph", None)
    options = BuildOptions(flavour=Flavour.TENSORRT_RTX, compute_capabilities=("8.7",))
    with pytest.raises(OptionError) as caught:
        make_engine(small_checkpoint, tmp_path / "a.engine", Recipe(), options)
    assert "7.5, 8.0, 8.6, 8.9, 12.0" in caught.value.expected
    assert "compute_capabilities=['8.0', '8.6', '8.9', '12.0']" in caught.value.fix


@pytest.mark.parametrize("name", ["small model.onnx", "small.pth"])
def test_the_command_to_verify_an_engine_elsewhere(
    name: str, small_onnx: Path, small_checkpoint: Path, tmp_path: Path
) -> None:
    """Its options are right, and its paths are those of the user."""
    model, engine = tmp_path / name, tmp_path / "a.engine"
    shutil.copy(small_onnx if name.endswith(".onnx") else small_checkpoint, model)
    graph = _Graph(small_onnx, read_onnx_facts(small_onnx))
    commands = [shlex.split(one) for one in _verify_command(model, graph, engine).split(" && ")]
    assert commands[-1][:3] == ["alignseg", "verify", str(engine)]
    assert all(parse_options(words) for words in commands)
    assert str(model) in commands[0]
    assert len(commands) == 1 + name.endswith(".pth")


@pytest.mark.slow
def test_command_from_a_checkpoint(
    small_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rtx()
    path = tmp_path / "small.engine"
    command = f"export-trt {small_checkpoint} -o {path} --flavour tensorrt-rtx --size 64x96"
    assert main([*command.split(), "--precision", "fp16"]) == 0
    captured = capsys.readouterr()
    assert "fp16, tensorrt-rtx" in captured.out
    assert "1x64x96 to 1x64x96" in captured.out
    assert "convolutions: 76 FP16" in captured.err
    facts = read_facts(path)
    assert facts.spec.source is not None
    assert facts.spec.export is not None
    assert facts.spec.export.upsampling is Upsampling.RESIZE
    assert LayerCount("RESIZE", "HALF", 9) in facts.layers
    assert sidecar_path(path).is_file()


@pytest.mark.parametrize("upsampling", Upsampling)
def test_upsampling_by_matrices_is_remarked_on(
    export_small: Export, caplog: pytest.LogCaptureFixture, upsampling: Upsampling
) -> None:
    with caplog.at_level("INFO", "alignseg_infer"):
        engine_from_onnx(export_small(**FIXED, upsampling=upsampling), rtx())
    said = "upsampling='resize'" in caplog.text
    assert said == (upsampling is Upsampling.MATRICES)


INTERRUPTED = """
    import os, signal, sys
    from alignseg_infer.cli import main
    from alignseg_infer.trt.builder import engine
    from alignseg_infer.trt.builder.progress import Phases

    class Interrupting(Phases):
        def start(self, name, parent, steps):
            super().start(name, parent, steps)
            if name == {phase!r}:
                os.kill(os.getpid(), signal.SIGINT)

    engine.Phases = Interrupting
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in background jobs
    sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.skipif(os.name == "nt", reason="SIGINT to one process")
@pytest.mark.parametrize(
    "phase", ["Building engine", "Optimizing graph", "Determining refit engines"]
)
def test_interrupt_stops_the_build(small_onnx: Path, tmp_path: Path, phase: str) -> None:
    rtx()
    arguments = f"export-trt {small_onnx} -o {tmp_path}/a.engine --flavour tensorrt-rtx --opt-shape"
    program = textwrap.dedent(INTERRUPTED).format(phase=phase)
    command = [sys.executable, "-c", program, *arguments.split(), "1x96x160"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 130, done.stderr
    assert "interrupted" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_failing_progress_bar_does_not_end_the_process(export_small: Export) -> None:
    def report(phase: object) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        engine_from_onnx(export_small(**FIXED), rtx(), progress=report)
