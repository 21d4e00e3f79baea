"""An API check of the code for classic TensorRT. Nothing here runs TensorRT itself.

Its Python bindings are a package of their own (``tensorrt-cu13-bindings``). In a child process they
are given the libraries of TensorRT for RTX under the names they ask for, and an empty plugin
library. So names, signatures and call order are those of the real bindings of 11.4; parser and
optimiser are not classic TensorRT's. The bindings of 10.x load in the same way but crash at the
first call into the library, so of those only the names are compared with what our code uses: 10.3
is that of JetPack 6.2, 10.16 that of JetPack 7.2.
"""

import contextlib
import importlib.util
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pytest

import alignseg_infer
from alignseg_infer.spec.plugin_contract import PLUGIN_OPS
from alignseg_infer.trt import bindings as api
from alignseg_infer.trt import flavours
from tests.support.export_kinds import LABELS_AND_OFFSETS
from tests.support.fetching import fetched
from tests.support.plugin_harness import SANITIZE, build_library

NEW = "11.4.0.106"
PACKAGES = {
    NEW: "tensorrt-cu13-bindings==11.4.0.106",
    "10.16.1.11": "tensorrt-cu13-bindings==10.16.1.11",
    "10.13.3.9.post1": "tensorrt-cu12-bindings==10.13.3.9.post1",
    "10.3.0": "tensorrt-cu12-bindings==10.3.0",
}
SOURCES = Path(alignseg_infer.__file__).parent

Run = Callable[..., dict[str, Any]]
Export = Callable[..., Path]


def bindings(wanted: str, folder: Path) -> Path:
    """Return a folder with the package, or an empty one if that version is installed."""
    with contextlib.suppress(PackageNotFoundError):
        if version("tensorrt-cu13-bindings") == wanted:
            return folder
    return fetched(folder, PACKAGES[wanted])


def libraries(major: str, folder: Path) -> Path:
    """RTX's libraries under classic TensorRT's names, and a plugin library without plugins."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("needs Linux and a C compiler")
    rtx = importlib.util.find_spec("tensorrt_rtx_libs")
    if rtx is None or rtx.origin is None:
        pytest.skip("pip install tensorrt-rtx-cu13")
    real = Path(rtx.origin).parent
    (folder / f"libnvinfer.so.{major}").symlink_to(real / "libtensorrt_rtx.so.1")
    (folder / f"libnvonnxparser.so.{major}").symlink_to(real / "libtensorrt_onnxparser_rtx.so.1")
    source = folder / "empty.c"
    source.write_text("int initLibNvInferPlugins(void *l, const char *n) { return !l + !n >= 0; }")
    plugin = f"libnvinfer_plugin.so.{major}"
    command = [compiler, "-shared", "-fPIC", f"-Wl,-soname,{plugin}", "-o", str(folder / plugin)]
    subprocess.run([*command, str(source)], check=True)
    return folder


NULL_FACTORIES = """
struct ILogger {  // of 11.4, where four methods come before log()
    virtual void first() = 0;
    virtual void second() = 0;
    virtual void third() = 0;
    virtual void fourth() = 0;
    virtual void log(int severity, const char *message) noexcept = 0;
};
extern "C" {
void *createInferBuilder_INTERNAL(ILogger *log, int) {
    log->log(1, "CUDA initialization failure with error: 35.");
    return nullptr;
}
void *createInferRuntime_INTERNAL(ILogger *log, int version) {
    return createInferBuilder_INTERNAL(log, version);
}
void *createInferRefitter_INTERNAL(void *, ILogger *, int) { return nullptr; }
void *createNvOnnxParser_INTERNAL(void *, ILogger *, int) { return nullptr; }
void *createNvOnnxParserRefitter_INTERNAL(void *, ILogger *, int) { return nullptr; }
void *getBuilderPluginRegistry(int) { return nullptr; }
void *getPluginRegistry() { return nullptr; }
int getNvOnnxParserVersion() { return 0; }
int initLibNvInferPlugins(void *, const char *) { return 1; }
}
"""


def null_libraries(major: str, folder: Path) -> Path:
    """Libraries whose factories log an error and return no object, as without a driver."""
    compiler = shutil.which("c++") or shutil.which("g++")
    if compiler is None or sys.platform != "linux":
        pytest.skip("needs Linux and a C++ compiler")
    source = folder / "null.cpp"
    source.write_text(NULL_FACTORIES)
    for part in ("nvinfer", "nvonnxparser", "nvinfer_plugin"):
        name = f"lib{part}.so.{major}"
        command = [compiler, "-shared", "-fPIC", f"-Wl,-soname,{name}", "-o", str(folder / name)]
        subprocess.run([*command, str(source)], check=True)
    return folder


@pytest.fixture(scope="session")
def in_child(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Run]:
    """Return a function that runs a program with one version of the bindings."""

    def prepare(wanted: str, provide: Callable[[str, Path], Path] = libraries) -> Run:
        packages = bindings(wanted, tmp_path_factory.mktemp("bindings"))
        links = provide(wanted.partition(".")[0], tmp_path_factory.mktemp("links"))
        places = [str(packages), str(SOURCES.parent), os.environ.get("PYTHONPATH", "")]
        environment = {
            **os.environ,
            "LD_LIBRARY_PATH": str(links),
            "PYTHONPATH": os.pathsep.join(filter(None, places)),
        }

        def run(program: str, *arguments: object) -> dict[str, Any]:
            alias = "import sys, tensorrt_bindings\nsys.modules['tensorrt'] = tensorrt_bindings\n"
            command = [sys.executable, "-c", alias + textwrap.dedent(program)]
            done = subprocess.run(
                [*command, *map(str, arguments)],
                capture_output=True,
                text=True,
                env=environment,
                timeout=600,
                check=False,
            )
            assert done.returncode == 0, done.stdout + done.stderr
            result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
            return result

        return run

    return prepare


@pytest.fixture(scope="session")
def run(in_child: Callable[..., Run]) -> Run:
    return in_child(NEW)


BUILD = """
    import json, logging
    from pathlib import Path
    from alignseg_infer import AlignSegError
    from alignseg_infer.trt.engine_file import (Profile, read_facts)
    from alignseg_infer.arrays import InputShape
    from alignseg_infer.trt.builder.options import BuildOptions, HardwareCompatibility
    from alignseg_infer.trt.builder.engine import build_engine

    heard = []
    logger = logging.getLogger("alignseg_infer")
    logger.setLevel(logging.DEBUG)
    handler = logging.Handler()
    handler.emit = lambda record: heard.append(record.getMessage())
    logger.addHandler(handler)
    low, high = InputShape(1, 64, 64), InputShape(2, 96, 160)
    path, profile = Path(sys.argv[2]), Profile(low, high, high)
    try:
        build_engine(Path(sys.argv[1]), path, BuildOptions(profile=profile, {options}))
        print(json.dumps({{"facts": read_facts(path).to_json(), "heard": heard}}))
    except AlignSegError as error:
        print(json.dumps({{"error": str(error), "heard": heard}}))
"""


def built(run: Run, onnx: Path, engine: Path, options: str = "") -> dict[str, Any]:
    result = run(BUILD.format(options=options), onnx, engine)
    if "facts" in result:
        result["facts"] = json.loads(result["facts"])
    return result


def test_build(run: Run, small_onnx: Path, tmp_path: Path) -> None:
    options = "workspace=2048, optimization_level=2, "
    options += "hardware_compatibility=HardwareCompatibility.AMPERE_PLUS"
    result = built(run, small_onnx, tmp_path / "a.engine", options)
    facts = result["facts"]
    assert (facts["flavour"], facts["tensorrt_version"]) == ("tensorrt", NEW)
    assert facts["hardware_compatibility"] == "ampere-plus"
    kinds = {(row["kind"], row["data_type"]): row["count"] for row in facts["layers"]}
    assert kinds["CONVOLUTION", "FLOAT"] == 76
    assert kinds["GRID_SAMPLE", "FLOAT"] == 9
    assert (tmp_path / "a.engine").stat().st_size > 3_000_000
    # RTX's library answers that it does not know the level, so the call reached it.
    assert any("setHardwareCompatibilityLevel() is unsupported" in line for line in result["heard"])


def test_version_compatibility_is_asked_for(run: Run, small_onnx: Path, tmp_path: Path) -> None:
    result = built(run, small_onnx, tmp_path / "a.engine", "version_compatible=True")
    assert "libnvinfer_lean.so.11: cannot open shared object file" in result["error"]
    assert f"pip install tensorrt-lean-cu13=={NEW}" in result["error"]
    assert list(tmp_path.iterdir()) == []


def test_timing_cache(run: Run, small_onnx: Path, tmp_path: Path) -> None:
    # One build writes the file. RTX's library cannot read it back without a GPU, so this test shows
    # only that a file that cannot be read is refused, not that a later build uses it again.
    cache = tmp_path / "cache"
    options = f"timing_cache=Path({str(cache)!r})"
    result = built(run, small_onnx, tmp_path / "a.engine", options)
    assert "facts" in result, result
    assert cache.stat().st_size > 0
    cache.write_bytes(b"measurements of something else")
    result = built(run, small_onnx, tmp_path / "b.engine", options)
    assert "rejects the timing cache" in result["error"]
    assert cache.read_bytes() == b"measurements of something else"
    assert not (tmp_path / "b.engine").exists()


START = """
    import json
    from pathlib import Path
    from alignseg_infer import DeviceError
    from alignseg_infer.trt.builder.config import require_builder
    from alignseg_infer.trt.builder.options import BuildOptions
    from alignseg_infer.trt.flavours import Flavour, load_tensorrt
    from alignseg_infer.trt.log import new_log
    from alignseg_infer.trt.starting import start

    tensorrt, said = load_tensorrt(Flavour.TENSORRT), []
    log = new_log(tensorrt)
    for attempt in (
        lambda: require_builder(BuildOptions()),
        lambda: start(tensorrt, lambda: tensorrt.module.Runtime(log), log.take_errors),
    ):
        try:
            attempt()
        except DeviceError as error:
            said.append(error.problem)
    print(json.dumps({"said": said}))
"""


def test_a_factory_that_returns_no_object(in_child: Callable[..., Run]) -> None:
    """The bindings raise a bare TypeError then."""
    said = in_child(NEW, null_libraries)(START)["said"]
    assert len(said) == 2
    for problem in said:
        assert problem.startswith(f"tensorrt {NEW}, built for CUDA 13, does not start")
        assert "CUDA initialization failure with error: 35." in problem


PLUGINS = """
    import json
    from pathlib import Path
    import numpy as np
    from alignseg_infer import BuildError
    from alignseg_infer.trt.builder.config import Session
    from alignseg_infer.trt.flavours import Flavour, load_tensorrt
    from alignseg_infer.trt.plugin_library import provide_plugins

    needed, seen = {needed!r}, {{}}
    session = Session.of(load_tensorrt(Flavour.TENSORRT))
    trt = session.tensorrt.module
    try:
        for _ in range(2):  # there is nothing left to load the second time
            provide_plugins(session.tensorrt, needed, Path(sys.argv[1]), BuildError)
        registry = trt.get_plugin_registry()
        for one in needed:
            name, version = one.split("/")
            creator = registry.get_creator(name, version, "alignseg")
            text = np.frombuffer(b"standard", np.int8)
            field = trt.PluginField("convention", text, trt.PluginFieldType.CHAR)
            fields = [field][: len(creator.field_names)]
            plugin = creator.create_plugin(
                "layer", trt.PluginFieldCollection(fields), trt.TensorRTPhase.BUILD
            )
            core = plugin.get_capability_interface(trt.PluginCapabilityType.CORE)
            seen[f"{{core.plugin_name}}/{{core.plugin_version}}"] = [
                field.name for field in creator.field_names
            ]
        config = session.builder.create_builder_config()
        config.plugins_to_serialize = [sys.argv[1]]
        seen["to serialize"] = config.plugins_to_serialize
    except BuildError as error:
        seen["error"] = str(error)
    print(json.dumps({{"seen": seen, "errors": session.messages.errors}}))
"""


@pytest.fixture(scope="module")
def plugin_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The plugins of the C++ sources, compiled for the CPU; TensorRT's side of them is the same.

    Headers of 10.14 are all that a package has. What this module calls is alike in 11, other than
    the logger, so the library is told to name 11.
    """
    if SANITIZE:
        pytest.skip("a library with AddressSanitizer cannot be loaded into another process")
    path = build_library(tmp_path_factory.mktemp("plugins")).plugins
    named = f"alignseg plugins for TensorRT {NEW.split('.', maxsplit=1)[0]}.".encode()
    path.write_bytes(path.read_bytes().replace(b"alignseg plugins for TensorRT 10.", named))
    return path


def test_a_library_for_another_major_is_refused_unloaded(
    run: Run, plugin_library: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.so"
    content = plugin_library.read_bytes()
    other.write_bytes(content.replace(b"for TensorRT 11.", b"for TensorRT 10."))
    result = run(PLUGINS.format(needed=["AlignedAdd/1"]), other)
    assert "was built for TensorRT 10." in result["seen"]["error"]
    assert "-DTENSORRT_VERSION=11.4" in result["seen"]["error"]
    assert result["errors"] == []


def test_a_library_that_names_no_tensorrt_is_refused(run: Run, tmp_path: Path) -> None:
    path = libraries("11", tmp_path) / "libnvinfer_plugin.so.11"
    result = run(PLUGINS.format(needed=["AlignedAdd/1"]), path)
    assert "was built for a TensorRT that it does not name" in result["seen"]["error"]


def test_the_library_is_loaded_and_its_plugins_created(run: Run, plugin_library: Path) -> None:
    needed = [op.described for op in PLUGIN_OPS.values()]
    result = run(PLUGINS.format(needed=needed), plugin_library)
    fields = {op.described: list(op.fields) for op in PLUGIN_OPS.values()}
    assert result["seen"] == {**fields, "to serialize": [str(plugin_library)]}
    assert result["errors"] == []


def test_a_plugin_that_a_library_lacks_is_named(run: Run, plugin_library: Path) -> None:
    result = run(PLUGINS.format(needed=["AlignedAdd/1", "AlignedAdd/2"]), plugin_library)
    assert "does not provide the TensorRT plugins AlignedAdd/2\n" in result["seen"]["error"]


def test_resize_layers_are_read_back(run: Run, export_small: Export, tmp_path: Path) -> None:
    onnx = export_small(**LABELS_AND_OFFSETS)
    kinds = {
        (row["kind"], row["data_type"]): row["count"]
        for row in built(run, onnx, tmp_path / "a.engine")["facts"]["layers"]
    }
    assert kinds["RESIZE", "FLOAT"] == 10  # the last upsamples the logits


def described(owner: type) -> dict[str, list[str] | None]:
    """Return the members that a class of `bindings` names, with the parameters of methods."""
    classes = [one for one in owner.__mro__ if one.__module__ in (api.__name__, flavours.__name__)]
    members: dict[str, list[str] | None] = {}
    for one in classes:
        members |= dict.fromkeys(one.__annotations__)
        for name, member in vars(one).items():
            if isinstance(member, property):
                members[name] = None
            elif inspect.isfunction(member) and not name.startswith("_"):
                members[name] = list(inspect.signature(member).parameters)[1:]
    return members


def described_classes(prefix: str = "") -> dict[str, dict[str, list[str] | None]]:
    """Return the classes of `bindings` with this prefix, without it, and what they name."""
    owners = [one for one in vars(api).values() if getattr(one, "_is_protocol", False)]
    owners = [one for one in owners if one.__module__ == api.__name__]
    return {
        one.__name__.removeprefix(prefix): described(one)
        for one in owners
        if one.__name__.startswith("Rtx") is bool(prefix) and one is not api.Enumerator
    }


def find_wrong(names: dict[str, dict[str, list[str] | None]], module: Any) -> list[str]:
    """Return what `module` does not have, or has with other parameters, as its docstrings say."""
    wrong = []
    for owner, members in names.items():
        for name, parameters in members.items():
            real = getattr(getattr(module, owner, None), name, None)
            if real is None:
                wrong.append(f"{owner}.{name}")
            elif parameters is not None:
                signatures = re.findall(rf"\b{name}\((.*)\)", real.__doc__ or "")
                told = [re.findall(r"(?:^|, )(\w+)(?=[:,=)]|$)", one) for one in signatures]
                told = [[one for one in names if one != "self"] for names in told]
                unnamed = [f"arg{index}" for index in range(len(parameters))]
                if not any(names[: len(parameters)] in (parameters, unnamed) for names in told):
                    wrong.append(f"{owner}.{name}{parameters}, not {told}")
    return wrong


OF_10 = "ICudaEngine.device_memory_size"  # asked for in 10.0 only


@pytest.mark.parametrize("wanted", PACKAGES)
def test_the_real_bindings_are_as_described(in_child: Callable[..., Run], wanted: str) -> None:
    names = described_classes()
    module = described(flavours.Module)
    assert names["IBuilderConfig"]["set_memory_pool_limit"] == ["pool", "pool_size"]
    assert names["BuilderFlag"] == {"TF32": None, "VERSION_COMPATIBLE": None}
    assert len(module) > 15
    program = """
        import inspect, json, re
        from typing import Any
        SOURCE
        names, module = json.loads(sys.argv[1])
        wrong = find_wrong(names, tensorrt_bindings)
        wrong += [name for name in module if not hasattr(tensorrt_bindings, name)]
        print(json.dumps({"wrong": wrong, "version": tensorrt_bindings.__version__}))
    """.replace("SOURCE", textwrap.indent(inspect.getsource(find_wrong), 8 * " ").lstrip())
    seen = in_child(wanted)(program, json.dumps([names, module]))
    assert seen["version"] == wanted
    assert seen["wrong"] == ([OF_10] if wanted == NEW else [])


def test_tensorrt_for_rtx_is_as_described() -> None:
    module = pytest.importorskip("tensorrt_rtx", reason="pip install tensorrt-rtx-cu13")
    assert find_wrong(described_classes("Rtx"), module) == [OF_10]
    assert set(described(flavours.RtxModule)) - set(dir(module)) == set()


def test_wrong_names_and_parameters_are_found() -> None:
    class Real:
        def good(self) -> None:
            """good(self: Real, first: int, second: int = 3) -> None"""

        def unnamed(self) -> None:
            """unnamed(self: Real, arg0: int) -> None"""

    module = type("module", (), {"Owner": Real})
    assert find_wrong({"Owner": {"good": ["first"]}}, module) == []
    assert find_wrong({"Owner": {"good": ["first", "second"]}}, module) == []
    assert len(find_wrong({"Owner": {"good": ["second"]}}, module)) == 1
    assert len(find_wrong({"Owner": {"unnamed": ["one", "two"]}}, module)) == 1
    assert find_wrong({"Owner": {"unnamed": ["one"]}}, module) == []
    assert find_wrong({"Owner": {"bad": None}}, module) == ["Owner.bad"]
    assert find_wrong({"Other": {"good": []}}, module) == ["Other.good"]
