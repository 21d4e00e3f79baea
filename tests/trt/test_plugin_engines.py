"""Engines that need plugins: finding, loading and checking the library, in a fake TensorRT."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from alignseg_infer import AlignSegError, BuildError, EngineError, OptionError
from alignseg_infer.arrays import InputShape
from alignseg_infer.cli import main
from alignseg_infer.export.verification import verify as verification
from alignseg_infer.spec.model import OutputKind, Precision, Sampler, SamplingConvention
from alignseg_infer.spec.onnx_facts import read_onnx_facts
from alignseg_infer.spec.plugin_contract import (
    ALIGNED_ADD,
    NAMESPACE,
    NAMESPACE_FIELD,
    PLUGIN_OPS,
    VERSION,
    VERSION_FIELD,
)
from alignseg_infer.trt.builder import engine as engines
from alignseg_infer.trt.builder.engine import build_engine
from alignseg_infer.trt.builder.options import BuildOptions
from alignseg_infer.trt.engine_file import (
    EngineFacts,
    LayerCount,
    Profile,
    read_facts,
)
from alignseg_infer.trt.flavours import Flavour
from alignseg_infer.trt.plugin_library import LIBRARY_VARIABLE
from alignseg_infer.trt.runtime import backend as tensorrt_backend
from alignseg_infer.trt.runtime.backend import TensorRTBackend
from tests.support.fake_tensorrt import (
    ADA,
    FakeCuda,
    FakeTensorRT,
    expected_logits,
    image_of,
    plan_of,
    write_engine,
    write_plugin_library,
)
from tests.support.fake_tensorrt_build import FakeLayer, FakeTensorRTBuild
from tests.support.models import half_onnx

Export = Callable[..., Path]

SOURCES = Path(__file__).parents[2] / "plugins"
PLUGIN: dict[str, Any] = {"sampler": Sampler.PLUGIN, "size": (64, 96), "batch": 1}
LABELS: dict[str, Any] = {"sampler": Sampler.PLUGIN, "output": OutputKind.LABELS, "opset": 17}
PROFILE = Profile(*[InputShape(1, 64, 96)] * 3)
NAMES = tuple(PLUGIN_OPS)


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A library of all plugins, at the place that the environment variable names."""
    path = write_plugin_library(tmp_path / "libalignseg_plugin.so", NAMES)
    monkeypatch.setenv(LIBRARY_VARIABLE, str(path))
    return path


@pytest.fixture
def tensorrt(monkeypatch: pytest.MonkeyPatch) -> FakeTensorRTBuild:
    module = FakeTensorRTBuild()
    monkeypatch.setattr(engines, "load_tensorrt", lambda runtime: module.loaded())
    monkeypatch.setattr(engines, "current_gpu", lambda: ADA)
    monkeypatch.delenv(LIBRARY_VARIABLE, raising=False)
    return module


def built(source: Path, folder: Path, **options: Any) -> EngineFacts:
    options = {"profile": PROFILE, **options}
    build_engine(source, folder / "a.engine", BuildOptions(**options))
    return read_facts(folder / "a.engine")


def test_an_engine_says_which_plugins_it_needs(
    export_small: Export, tensorrt: FakeTensorRTBuild, library: Path, tmp_path: Path
) -> None:
    facts = built(export_small(**LABELS), tmp_path)
    assert facts.plugins == ("AlignedAdd/1", "OffsetGridSample/1", "UpsampleArgmax/1")
    assert not facts.plugins_embedded
    assert LayerCount("PLUGIN_V3", "FLOAT", 5) in facts.layers
    assert LayerCount("PLUGIN_V3", "INT32", 1) in facts.layers
    assert tensorrt.registry.loaded == [str(library)]
    assert tensorrt.configs_built[0].plugins_to_serialize == []


def test_a_library_is_loaded_once(
    export_small: Export, tensorrt: FakeTensorRTBuild, library: Path, tmp_path: Path
) -> None:
    """TensorRT refuses a library whose plugins are registered."""
    for _ in range(2):
        built(export_small(**PLUGIN), tmp_path)
    assert tensorrt.registry.loaded == [str(library)]


def test_plugins_compute_in_half(
    export_small: Export, tensorrt: FakeTensorRTBuild, library: Path, tmp_path: Path
) -> None:
    facts = built(half_onnx(export_small(**PLUGIN), tmp_path), tmp_path)
    assert LayerCount("PLUGIN_V3", "HALF", 5) in facts.layers


def test_a_named_library_comes_first_and_is_embedded(
    export_small: Export, tensorrt: FakeTensorRTBuild, library: Path, tmp_path: Path
) -> None:
    other = write_plugin_library(tmp_path / "other.so", NAMES)
    options: dict[str, Any] = {"plugin": other, "embed_plugin": True, "version_compatible": True}
    facts = built(export_small(**PLUGIN), tmp_path, **options)
    assert facts.plugins_embedded
    assert tensorrt.registry.loaded == [str(other)]
    assert tensorrt.configs_built[0].plugins_to_serialize == [str(other)]


def test_without_plugins_no_library_is_looked_for(
    small_onnx: Path, tensorrt: FakeTensorRTBuild, tmp_path: Path
) -> None:
    assert built(small_onnx, tmp_path).plugins == ()
    assert tensorrt.registry.loaded == []


def hide_plugins(layers: list[FakeLayer]) -> None:
    """Let plugins say nothing about themselves, as the Python bindings up to 10.3 do."""
    for layer in layers:
        if layer.plugin is not None:
            layer.plugin.get_capability_interface = lambda kind: None


def test_plugins_that_do_not_say_what_they_are_go_by_the_names_of_nodes(
    export_small: Export, tensorrt: FakeTensorRTBuild, library: Path, tmp_path: Path
) -> None:
    tensorrt.spoil = hide_plugins
    facts = built(export_small(**LABELS), tmp_path)
    assert facts.plugins == ("AlignedAdd/1", "OffsetGridSample/1", "UpsampleArgmax/1")


def hide_plugins_and_lose_a_layer(layers: list[FakeLayer]) -> None:
    hide_plugins(layers)
    lose_a_layer(layers)


def hide_plugins_and_rename_a_layer(layers: list[FakeLayer]) -> None:
    hide_plugins(layers)
    next(layer for layer in layers if layer.plugin is not None).name = "(Unnamed Layer* 7)"


def lose_a_layer(layers: list[FakeLayer]) -> None:
    layers.remove(next(layer for layer in layers if layer.plugin is not None))


def change_a_plugin(layers: list[FakeLayer]) -> None:
    plugin = next(layer.plugin for layer in layers if layer.plugin is not None)
    core = plugin.get_capability_interface(FakeTensorRTBuild.PluginCapabilityType.CORE)
    core.plugin_version = "2"


def compute_in_float(layers: list[FakeLayer]) -> None:
    next(layer for layer in layers if layer.plugin is not None).data_type = "FLOAT"


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lose_a_layer, "3 AlignedAdd/1, 1 OffsetGridSample/1, the ONNX graph 4 AlignedAdd/1"),
        (change_a_plugin, "1 AlignedAdd/2"),
        (hide_plugins_and_lose_a_layer, "3 AlignedAdd/1, 1 OffsetGridSample/1, the ONNX graph 4"),
        (hide_plugins_and_rename_a_layer, "1 OffsetGridSample/1, 1 PLUGIN_V3, the ONNX graph 4"),
        (compute_in_float, "returns FLOAT, but the graph was exported as fp16"),
    ],
)
def test_what_was_parsed_must_be_what_the_graph_says(
    spoil: Callable[[list[FakeLayer]], None],
    words: str,
    export_small: Export,
    tensorrt: FakeTensorRTBuild,
    library: Path,
    tmp_path: Path,
) -> None:
    tensorrt.spoil = spoil
    with pytest.raises(BuildError) as caught:
        built(half_onnx(export_small(**PLUGIN), tmp_path), tmp_path)
    assert words in str(caught.value)
    assert not (tmp_path / "a.engine").exists()


def no_library(path: Path) -> None:
    path.unlink()


def empty(path: Path) -> None:
    path.write_text("")


def unknown(path: Path) -> None:
    path.write_text("AlignedAdd 1 alignseg")


def other_major(path: Path) -> None:
    write_plugin_library(path, NAMES, tensorrt="10.14")


def unloadable(path: Path) -> None:
    write_plugin_library(path, [])


def old_library(path: Path) -> None:
    write_plugin_library(path, [*NAMES[:1], "Other"])


BROKEN = [
    (no_library, "is not at"),
    (empty, "was built for a TensorRT that it does not name, but tensorrt 11.4.0.106 is installed"),
    (unknown, "was built for a TensorRT that it does not name"),
    (other_major, "was built for TensorRT 10.14, but tensorrt 11.4.0.106 is installed"),
    (unloadable, "which should provide the plugins"),
    (old_library, "does not provide the TensorRT plugins AlignedAdd/1"),
]


@pytest.mark.parametrize(("change", "words"), BROKEN)
def test_libraries_that_do_not_serve_a_build(
    change: Callable[[Path], None],
    words: str,
    export_small: Export,
    tensorrt: FakeTensorRTBuild,
    library: Path,
    tmp_path: Path,
) -> None:
    change(library)
    with pytest.raises(BuildError) as caught:
        built(export_small(**PLUGIN), tmp_path)
    assert words in caught.value.problem
    assert "cmake -S plugins -B plugins/build" in caught.value.fix
    assert "cmake --build plugins/build" in caught.value.fix
    assert tensorrt.registry.loaded == [] or change is old_library


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"plugin": Path("a.so")}, OptionError, "plugin= for a model whose sampler is native"),
        (
            {"embed_plugin": True, "version_compatible": True},
            OptionError,
            "embed_plugin= for a model",
        ),
        ({"embed_plugin": True}, OptionError, "embed_plugin=True without version_compatible=True"),
        (
            {"flavour": Flavour.TENSORRT_RTX, "plugin": Path("a.so")},
            OptionError,
            "plugin= with flavour='tensorrt-rtx'",
        ),
    ],
    ids=str,
)
def test_options_that_have_no_effect_are_refused(
    options: dict[str, Any],
    error: type[AlignSegError],
    words: str,
    small_onnx: Path,
    tensorrt: FakeTensorRTBuild,
    tmp_path: Path,
) -> None:
    with pytest.raises(error) as caught:
        built(small_onnx, tmp_path, **options)
    assert words in str(caught.value)


@pytest.mark.parametrize("given", ["onnx", "checkpoint"])
def test_tensorrt_for_rtx_has_no_plugins(
    given: str,
    export_small: Export,
    small_checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The error comes before an export, and before TensorRT is loaded."""
    source = f"{small_checkpoint} --sampler plugin"
    if given == "onnx":
        source = str(export_small(**PLUGIN))
    monkeypatch.setattr("alignseg_infer.export.make.require_builder", None)
    line = f"export-trt {source} -o {tmp_path}/a.engine --flavour tensorrt-rtx --opt-shape 1x64x96"
    assert main(line.split()) == 1
    said = capsys.readouterr().err
    for words in ("TensorRT for RTX does not support", "--sampler gather", "--flavour tensorrt"):
        assert words in said


def test_command_line(
    export_small: Export,
    tensorrt: FakeTensorRTBuild,
    library: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("alignseg_infer.export.make.require_builder", lambda runtime: None)
    monkeypatch.setattr("alignseg_infer.export.verification.verify.current_gpu", lambda: None)
    line = f"export-trt {export_small(**PLUGIN)} -o {tmp_path}/a.engine --opt-shape 1x64x96"
    line += f" --plugin {library} --embed-plugin --version-compatible"
    assert main(line.split()) == 0
    assert read_facts(tmp_path / "a.engine").plugins_embedded
    assert main(["inspect", str(tmp_path / "a.engine")]) == 0
    said = capsys.readouterr().out
    assert "needs the plugins: AlignedAdd/1, OffsetGridSample/1, which are in the engine" in said
    assert "5 PLUGIN_V3 FLOAT" in said


class Stand:
    """An engine with plugins on disk, and the fakes that run it."""

    def __init__(self, folder: Path) -> None:
        self.cuda = FakeCuda()
        self.module = FakeTensorRT(self.cuda)
        self.path = folder / "a.engine"
        self.write(plugins=("AlignedAdd/1", "OffsetGridSample/1"))

    def write(self, **facts: Any) -> None:
        names = [] if facts.get("plugins_embedded") else ["AlignedAdd", "OffsetGridSample"]
        changes: dict[str, Any] = {"host code": bool(facts.get("plugins_embedded"))}
        write_engine(self.path, plan_of(plugins=names, **changes), **facts)


@pytest.fixture
def stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stand:
    stand = Stand(tmp_path)
    monkeypatch.setattr(tensorrt_backend, "open_cuda", lambda index, package: stand.cuda)
    monkeypatch.setattr(tensorrt_backend, "load_tensorrt", lambda runtime: stand.module.loaded())
    monkeypatch.delenv(LIBRARY_VARIABLE, raising=False)
    return stand


def test_an_engine_loads_its_plugins(stand: Stand, library: Path) -> None:
    batch = image_of((2, 3, 45, 77))
    for _ in range(2):  # the plugins are registered the second time
        with TensorRTBackend(stand.path) as backend:
            np.testing.assert_array_equal(backend.infer(batch), expected_logits(batch))
    assert stand.module.registry.loaded == [str(library)]
    assert stand.module.host_code_allowed == [False, False]


def test_the_library_can_be_named(stand: Stand, tmp_path: Path) -> None:
    path = write_plugin_library(tmp_path / "mine.so", NAMES)
    TensorRTBackend(stand.path, plugin=path).close()
    assert stand.module.registry.loaded == [str(path)]


def test_an_engine_that_holds_its_plugins_needs_no_library(stand: Stand) -> None:
    stand.write(plugins=("AlignedAdd/1",), plugins_embedded=True)
    TensorRTBackend(stand.path).close()
    assert stand.module.registry.loaded == []
    assert stand.module.host_code_allowed == [True]


@pytest.mark.parametrize(("change", "words"), BROKEN)
def test_libraries_that_do_not_serve_an_engine(
    change: Callable[[Path], None], words: str, stand: Stand, library: Path
) -> None:
    change(library)
    with pytest.raises(EngineError) as caught:
        TensorRTBackend(stand.path)
    assert words in caught.value.problem
    assert "cmake -S plugins -B plugins/build" in caught.value.fix
    assert "cmake --build plugins/build" in caught.value.fix
    assert stand.cuda.events[-2:] == ["runtime gone", "cuda closed"]


def test_a_plugin_graph_can_be_what_an_engine_is_verified_against(
    stand: Stand, export_small: Export, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its plugin nodes become ordinary ones; the test then sees that the engine labels wrongly."""
    monkeypatch.setattr(verification, "current_gpu", lambda: ADA)
    verified: list[tuple[Path, Path]] = []
    monkeypatch.setattr(
        verification,
        "verify",
        lambda engine, reference, *_, **__: verified.append((engine, reference)),
    )
    verification.verify_where_possible(stand.path, export_small(**PLUGIN))
    assert verified == [(stand.path, export_small(**PLUGIN))]


CONTRACT = re.compile(
    r"PluginContract k\w+\{\s*/\* name \*/ \"(?P<name>\w+)\","
    r"\s*/\* version \*/ \"(?P<version>\w+)\","
    r"\s*/\* inputs \*/ \{(?P<inputs>[^}]*)\},\s*/\* field \*/ (?P<field>nullptr|\"\w+\"),"
)


def source_text(name: str) -> str:
    path = SOURCES / name
    if not path.is_file():
        pytest.skip(f"{path} is part of a checkout")
    return path.read_text(encoding="utf-8")


def test_plugins_are_called_what_graphs_call_them() -> None:
    """Compare names, versions, inputs and fields with the C++ sources."""
    headers = sorted((SOURCES / "tensorrt").glob("*_plugin.h"))
    found = [CONTRACT.search(source_text(f"tensorrt/{header.name}")) for header in headers]
    assert len(headers) == len(PLUGIN_OPS)
    for match in found:
        assert match is not None
        op = PLUGIN_OPS[match["name"]]
        assert match["version"] == VERSION
        assert tuple(re.findall(r"\"(\w+)\"", match["inputs"])) == op.inputs
        assert tuple(re.findall(r"\"(\w+)\"", match["field"])) == op.fields
    assert {match["name"] for match in found if match} == set(PLUGIN_OPS)


def test_both_sides_have_the_same_namespace_and_conventions() -> None:
    header = source_text("tensorrt/plugin_support.h")
    names = re.search(r"kConventionNames\[\] = \{([^}]*)\}", header)
    assert names is not None
    assert re.findall(r"\"([\w-]+)\"", names[1]) == list(SamplingConvention)
    kinds = re.findall(r"k\w+ = (\d),\s+//!< \"([\w-]+)\"", source_text("kernels/convention.h"))
    assert kinds == [(str(index), name) for index, name in enumerate(SamplingConvention)]
    namespace = re.search(r"k\w*Namespace\w* = \"(\w+)\"", header)
    assert namespace is not None
    assert namespace[1] == NAMESPACE


def test_nodes_have_the_fields_that_the_parser_looks_for(export_small: Export) -> None:
    nodes = [node for node in ir.load(export_small(**PLUGIN)).graph if node.domain]
    assert {node.op_type for node in nodes} == {"AlignedAdd", "OffsetGridSample"}
    for node in nodes:
        assert node.attributes[NAMESPACE_FIELD].as_string() == NAMESPACE
        assert node.attributes[VERSION_FIELD].as_string() == VERSION
    assert read_onnx_facts(export_small(**PLUGIN)).export.precision is Precision.FP32
    assert ALIGNED_ADD.described == "AlignedAdd/1"
