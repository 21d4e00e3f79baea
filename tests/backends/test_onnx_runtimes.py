"""ONNX Runtime and OpenVINO run an ``.onnx`` file under the same contract."""

import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import onnx_ir
import onnxruntime
import openvino
import pytest
from numpy.typing import NDArray

from alignseg_infer import (
    AlignSegError,
    DeviceError,
    MissingDependencyError,
    ModelFileError,
    OptionError,
    Predictor,
    SpecError,
)
from alignseg_infer.arrays import Size
from alignseg_infer.backend import Backend, OffsetBackend
from alignseg_infer.backends import ENGINE_RUNNERS, OnnxRunner, open_backend
from alignseg_infer.backends.onnx_domains import read_opsets
from alignseg_infer.cli import main
from alignseg_infer.datasets.image_sets import choose_images
from alignseg_infer.demo import model_path
from alignseg_infer.demo.streets import Street
from alignseg_infer.demo.streets.folder import write_streets
from alignseg_infer.export.int8.calibration import calibrate_ranges
from alignseg_infer.export.int8.quantize import quantize_model
from alignseg_infer.export.verification.probes import probe_image
from alignseg_infer.ops.offset_fields import OffsetField
from alignseg_infer.pixels.postprocess import scores_from_logits
from alignseg_infer.pixels.preprocess import preprocess
from alignseg_infer.spec.model import OPSETS, SPEC_KEY, Precision
from tests.support.export_kinds import ANY_SIZE, FIXED_GATHER, GATHER, PLAIN_OFFSETS
from tests.support.models import half_onnx, said_to_be
from tests.support.slow import all_slow

RUNTIMES = [runtime for runtime in OnnxRunner if runtime not in ENGINE_RUNNERS]
IN_A_ROW = [(1, (32, 32)), (3, (33, 250)), (4, (64, 96)), (2, (211, 64)), (1, (32, 32))]

Export = Callable[..., Path]
both = pytest.mark.parametrize("runtime", RUNTIMES)


def tensor_of(backend: Backend, images: int, size: Size) -> NDArray[np.float32]:
    pictures = [probe_image(size, seed) for seed in range(images)]
    return np.concatenate([preprocess(image, size, backend.spec.input) for image in pictures])


def error_of(seen: NDArray[np.generic], expected: NDArray[np.generic]) -> float:
    wanted = expected.astype(np.float64)
    return float(np.linalg.norm(seen.astype(np.float64) - wanted) / np.linalg.norm(wanted))


def cuda_works() -> bool:
    return "CUDAExecutionProvider" in onnxruntime.get_available_providers()


@pytest.fixture(scope="module")
def reference(small_checkpoint: Path) -> OffsetBackend:
    """The small model in PyTorch."""
    backend = open_backend(small_checkpoint)
    assert isinstance(backend, OffsetBackend)
    return backend


# Numbers


@both
@pytest.mark.parametrize("kind", [*ANY_SIZE, *all_slow(GATHER)], ids=str)
def test_sizes_and_batches_in_a_row(
    export_small: Export, reference: Backend, kind: dict[str, Any], runtime: OnnxRunner
) -> None:
    backend = open_backend(export_small(**kind), runtime=runtime)
    assert backend.name.startswith(f"{runtime} (CPU")
    for images, size in IN_A_ROW:
        tensor = tensor_of(reference, images, size)
        check(backend.infer(tensor), reference.infer(tensor), size)


@both
def test_opset_19(files: Path, reference: Backend, runtime: OnnxRunner) -> None:
    tensor = tensor_of(reference, 1, (65, 98))
    backend = open_backend(files / "good.onnx", runtime=runtime)
    check(backend.infer(tensor), reference.infer(tensor), (65, 98))


@both
def test_fixed_size_labels_and_offsets(
    export_small: Export, reference: OffsetBackend, runtime: OnnxRunner
) -> None:
    tensor = tensor_of(reference, 2, (65, 98))
    path = export_small(**PLAIN_OFFSETS)
    check(open_backend(path, runtime=runtime).infer(tensor), reference.infer(tensor), (65, 98))
    check_offsets(path, reference.offsets(tensor), runtime, tensor)


def check(seen: NDArray[Any], expected: NDArray[Any], size: Size) -> None:
    """`seen` are the logits `expected`, or their labels at `size`."""
    if seen.ndim == 4:
        assert seen.dtype == np.float32
        assert seen.shape == expected.shape
        assert error_of(seen, expected) <= 1e-5
        return
    labels = np.stack(
        [
            scores_from_logits(logits, size, confidence=False, probabilities=False).labels
            for logits in expected
        ]
    )
    assert seen.dtype == np.uint8
    assert seen.shape == labels.shape
    assert len(np.unique(seen)) > 3  # the comparison means something
    assert np.mean(seen == labels) >= 0.999


@both
def test_offsets_of_the_demo(runtime: OnnxRunner) -> None:
    pytorch = open_backend(model_path("demo").with_suffix(".pth"))
    assert isinstance(pytorch, OffsetBackend)
    street = Street(1_000_000).scene(size=(96, 160)).image
    tensor = preprocess(street, (96, 160), pytorch.spec.input)
    check_offsets(model_path("demo"), pytorch.offsets(tensor), runtime, tensor)


def check_offsets(
    path: Path,
    expected: dict[OffsetField, NDArray[np.float32]],
    runtime: OnnxRunner,
    tensor: NDArray[np.float32],
) -> None:
    backend = open_backend(path, runtime=runtime)
    assert isinstance(backend, OffsetBackend)
    seen = backend.offsets(tensor)
    assert list(seen) == list(expected) == list(OffsetField)
    for field in OffsetField:
        assert seen[field].dtype == np.float32
        assert seen[field].shape == expected[field].shape
        assert error_of(seen[field], expected[field]) <= 1e-5, field


@both
def test_what_is_no_block_of_memory_is_read_as_it_is(runtime: OnnxRunner) -> None:
    backend = open_backend("demo", runtime=runtime)
    tensor = tensor_of(backend, 1, (64, 96))
    expected = backend.infer(tensor)
    read_only = tensor.copy()
    read_only.flags.writeable = False
    for same in (np.asfortranarray(tensor), np.tile(tensor, (1, 2, 1, 1))[:, :3], read_only):
        assert np.array_equal(backend.infer(same), expected)


@both
def test_outputs_outlive_the_next_call(runtime: OnnxRunner) -> None:
    backend = open_backend("demo", runtime=runtime)
    assert isinstance(backend, OffsetBackend)
    tensor = tensor_of(backend, 1, (64, 96))
    logits, offsets = backend.infer(tensor), backend.offsets(tensor)
    before = logits.copy(), {field: array.copy() for field, array in offsets.items()}
    tensor *= -1
    backend.infer(tensor)
    backend.offsets(tensor)
    assert np.array_equal(logits, before[0])
    assert all(np.array_equal(offsets[field], before[1][field]) for field in offsets)


@both
def test_threads_do_not_mix_their_results(runtime: OnnxRunner) -> None:
    backend = open_backend("demo", runtime=runtime)
    tensors = [tensor_of(backend, 1 + i % 2, (64, 64 + 32 * (i % 4))) for i in range(8)]
    expected = [backend.infer(tensor) for tensor in tensors]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            for seen, wanted in zip(pool.map(backend.infer, tensors), expected, strict=True):
                assert seen.shape == wanted.shape
                assert error_of(seen, wanted) <= 1e-5


@pytest.mark.parametrize("precision", [Precision.FP16, Precision.INT8])
def test_lower_precisions_label_alike(precision: Precision, tmp_path: Path) -> None:
    path = {Precision.FP16: half_onnx, Precision.INT8: int8_onnx}[precision](
        model_path("demo"), tmp_path
    )
    image = Street(1_000_000).scene(size=(128, 256)).image
    labels = [Predictor(path, runtime=runtime)(image).labels for runtime in RUNTIMES]
    assert np.mean(labels[0] == labels[1]) >= 0.99


def int8_onnx(source: Path, folder: Path) -> Path:
    """`source` in INT8, calibrated on one street."""
    assert len(list(write_streets(folder, 0, 1, (96, 192)))) == 1
    ranges = calibrate_ranges(source, choose_images(folder / "images"))
    model = quantize_model(onnx_ir.load(source), ranges)
    return said_to_be(model, Precision.INT8, folder / "int8.onnx")


# Settings of OpenVINO


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The settings of each compilation."""
    settings: list[dict[str, Any]] = []
    compile_model = openvino.Core.compile_model

    def recorded(core: Any, model: Any, device: str, config: dict[str, Any]) -> Any:
        settings.append(config)
        return compile_model(core, model, device, config)

    monkeypatch.setattr(openvino.Core, "compile_model", recorded)
    return settings


def test_openvino_compiles_once_for_all_sizes(compiled: list[dict[str, Any]]) -> None:
    backend = open_backend("demo", runtime="openvino")
    for images, size in IN_A_ROW:
        backend.infer(tensor_of(backend, images, size))
    expected = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
        "CPU_RUNTIME_CACHE_CAPACITY": 256,
    }
    assert compiled == [expected]


def test_openvino_takes_threads(compiled: list[dict[str, Any]]) -> None:
    backend: Any = open_backend("demo", runtime="openvino", threads=1)
    assert compiled[0]["INFERENCE_NUM_THREADS"] == 1
    assert backend._model.get_property("INFERENCE_NUM_THREADS") == 1


@pytest.mark.parametrize("vnni", [False, True])
def test_openvino_saturates_in_no_int8_kernel(
    tmp_path: Path,
    compiled: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    vnni: bool,
) -> None:
    monkeypatch.setattr(cv2, "checkHardwareSupport", lambda feature: feature == 23 and vnni)
    path = said_to_be(onnx_ir.load(model_path("demo")), Precision.INT8, tmp_path / "int8.onnx")
    open_backend(path, runtime="openvino")
    assert compiled[0].get("LP_TRANSFORMS_MODE") == (None if vnni else "NO")


def test_openvino_keeps_little_of_sizes_seen_before() -> None:
    """By default it keeps all: 530 MB more after the last 60 sizes of the demo model."""
    program = """
import numpy as np
from alignseg_infer.backends import open_backend
backend = open_backend("demo", runtime="openvino", threads=1)
random = np.random.default_rng(0)
for count in (30, 60):
    for size in random.integers(32, 120, (count, 2)):
        backend.infer(np.zeros((1, 3, *size), np.float32))
    print(int(open("/proc/self/statm").read().split()[1]) * 4096 // 10**6)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    before, after = map(int, done.stdout.split())
    assert after - before < 150


def test_signals_are_handled_after_two_openvino_models() -> None:
    """OpenVINO left a freed stack for signal handlers: any signal ended the process (-11)."""
    program = """
import gc, signal, threading
from alignseg_infer.backends import open_backend
one, other = (open_backend("demo", runtime="openvino", threads=1) for _ in range(2))
del one
gc.collect()
del other
gc.collect()
signal.signal(signal.SIGTERM, lambda number, frame: print("handled", number))
signal.raise_signal(signal.SIGTERM)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout.split()) == (0, ["handled", "15"]), done.stderr


def test_openvino_loads_no_framework() -> None:
    code = "import sys, alignseg_infer.backends.openvino_backend; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()).isdisjoint({"torch", "onnx", "onnxruntime", "tensorflow"})


# Refusals


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, small_onnx: Path) -> Path:
    """A folder of models, most of them bad; the good one has the latest opset we export."""
    folder = tmp_path_factory.mktemp("runtimes")
    path = folder / "good.onnx"
    model = onnx.load(small_onnx)
    _set_opset(model, max(OPSETS))
    onnx.save(model, path)
    good = path.read_bytes()
    contents = {
        "empty.onnx": b"",
        "half.onnx": good[: len(good) // 2],
        "end.onnx": good[:-9],
        "text.onnx": b"hello",
        "noise.onnx": bytes(range(256)) * 8,
        "ir.onnx": b"<?xml version='1.0'?><net name='a' version='11'></net>",
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    for name, change in CHANGES.items():
        model = onnx.load(path)
        change(model)
        onnx.save(model, folder / f"{name}.onnx")
    model = onnx.load(path)
    onnx.save(model, folder / "external.onnx", save_as_external_data=True, location="weights.data")
    (folder / "weights.data").unlink()
    return folder


def _set_spec(model: onnx.ModelProto, old: str, new: str) -> None:
    spec = next(entry for entry in model.metadata_props if entry.key == SPEC_KEY)
    assert old in spec.value
    spec.value = spec.value.replace(old, new)


def _set_opset(model: onnx.ModelProto, version: int) -> None:
    model.opset_import[0].version = version


def _declare_plugins(model: onnx.ModelProto) -> None:
    model.opset_import.append(onnx.helper.make_opsetid("alignseg", 1))


def _use_unknown_operator(model: onnx.ModelProto) -> None:
    next(node for node in model.graph.node if node.op_type == "Conv").op_type = "Convolve"


CHANGES: dict[str, Callable[[onnx.ModelProto], None]] = {
    "nometadata": lambda model: model.ClearField("metadata_props"),
    "otherkey": lambda model: setattr(model.metadata_props[0], "key", "spec"),
    "labels": lambda model: _set_spec(model, '"output": "logits"', '"output": "labels"'),
    "nospec": lambda model: _set_spec(model, '"version"', "version"),
    "opset20": lambda model: _set_opset(model, 20),
    "opset25": lambda model: _set_opset(model, 25),
    "plugin": _declare_plugins,
    "operator": _use_unknown_operator,
}
REFUSED: list[tuple[str, dict[str, Any], type[AlignSegError], str]] = [
    ("nowhere.onnx", {}, ModelFileError, "does not exist"),
    ("empty.onnx", {}, ModelFileError, "is empty"),
    ("half.onnx", {}, ModelFileError, "cannot be loaded"),
    ("end.onnx", {}, ModelFileError, "cannot be loaded"),
    ("text.onnx", {}, ModelFileError, "cannot be loaded"),
    ("noise.onnx", {}, ModelFileError, "cannot be loaded"),
    ("ir.onnx", {}, ModelFileError, "cannot be loaded"),
    ("external.onnx", {}, ModelFileError, "weights.data"),
    ("operator.onnx", {}, ModelFileError, "cannot be loaded"),
    ("plugin.onnx", {}, ModelFileError, "has no such plugins"),
    ("nometadata.onnx", {}, ModelFileError, "without the metadata"),
    ("otherkey.onnx", {}, ModelFileError, "without the metadata"),
    ("labels.onnx", {}, ModelFileError, "its outputs are logits float32"),
    ("nospec.onnx", {}, SpecError, "cannot be read"),
    ("good.onnx", {"device": "cuda"}, DeviceError, "device='cuda'"),
    ("good.onnx", {"device": "tpu"}, OptionError, "'tpu'"),
    ("good.onnx", {"threads": 0}, OptionError, "threads=0"),
]
REFUSED_BY_OPENVINO: list[tuple[str, dict[str, Any], type[AlignSegError], str]] = [
    ("opset20.onnx", {}, ModelFileError, "has ONNX opset 20"),
    ("opset25.onnx", {}, ModelFileError, "has ONNX opset 25"),
    ("good.onnx", {"device": "cuda:1"}, DeviceError, "does not run on CUDA"),
    ("good.onnx", {"device": "GPU"}, DeviceError, "has not been tried"),
    ("good.onnx", {"device": "gpu.1"}, DeviceError, "has not been tried"),
]


@pytest.mark.parametrize(
    ("runtime", "case"),
    [
        *((runtime, case) for runtime in RUNTIMES for case in REFUSED),
        *((OnnxRunner.OPENVINO, case) for case in REFUSED_BY_OPENVINO),
    ],
    ids=str,
)
def test_refused(
    files: Path, runtime: OnnxRunner, case: tuple[str, dict[str, Any], type[AlignSegError], str]
) -> None:
    name, options, kind, fragment = case
    if runtime is OnnxRunner.ONNXRUNTIME and "cuda" in options.values() and cuda_works():
        pytest.skip("this machine has CUDA")
    with pytest.raises(AlignSegError) as caught:
        open_backend(files / name, runtime=runtime, **options)
    assert type(caught.value) is kind
    assert fragment in caught.value.problem
    assert caught.value.expected
    assert caught.value.fix


@both
def test_offsets_that_are_not_in_the_file(small_onnx: Path, runtime: OnnxRunner) -> None:
    backend = open_backend(small_onnx, runtime=runtime)
    assert isinstance(backend, OffsetBackend)
    with pytest.raises(ModelFileError, match="without its offset fields"):
        backend.offsets(tensor_of(backend, 1, (64, 96)))


def test_reason_is_without_the_path_through_openvinos_source(files: Path) -> None:
    with pytest.raises(ModelFileError) as caught:
        open_backend(files / "half.onnx", runtime="openvino")
    assert ".cpp" not in str(caught.value)
    assert "\n" not in caught.value.problem


@pytest.mark.parametrize(
    ("model", "runtime", "fragment"),
    [
        ("good.pth", "openvino", "was given with good.pth"),
        ("good.pth", "onnxruntime", "was given with good.pth"),
        ("good.engine", "openvino", "was given with good.engine"),
        ("good.engine", "tensorrt", "was given with good.engine"),
        ("good.onnx", "tensor", "runtime='tensor'"),
        ("good.onnx", "", "runtime=''"),
    ],
)
def test_runtimes_that_cannot_be_chosen(model: str, runtime: str, fragment: str) -> None:
    with pytest.raises(OptionError) as caught:
        Predictor(model, runtime=runtime)
    assert fragment in caught.value.problem


def test_missing_package_names_the_pip_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    monkeypatch.delitem(sys.modules, "alignseg_infer.backends.openvino_backend", raising=False)
    with pytest.raises(MissingDependencyError, match=r"pip install openvino"):
        open_backend("demo", runtime="openvino")
    assert open_backend("demo").name.startswith("onnxruntime")


# In commands


@pytest.mark.parametrize("command", ["predict", "offsets", "demo", "eval"])
def test_commands_take_the_runtime(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    list(write_streets(tmp_path, 0, 1, (64, 96)))
    image = next((tmp_path / "images").iterdir())
    words = {
        "predict": f"predict demo {image} -o {tmp_path}",
        "offsets": f"offsets demo {image} -o {tmp_path}/o.png",
        "demo": f"demo -o {tmp_path} --streets 1",
        "eval": f"eval demo --dataset folder --root {tmp_path}",
    }
    assert main([*words[command].split(), "--runtime", "openvino"]) == 0
    assert "openvino (CPU)" in capsys.readouterr().out


# Declarations


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", {}),
        (b"PK\x03\x04" * 9, {}),
        (b"\x42\x02\x10\x12", {"": 18}),
        (b"\x42\x0b\x0a\x07ai.onnx\x10\x14", {"": 20}),
        (b"\x42\x05\x10\x01\x0a\x01a\x08\x07\x42\x02\x10\x10", {"a": 1, "": 16}),
        (b"\x42\x03\x10\x80\x02", {"": 256}),
        (b"\x42\x00", {"": 0}),
    ],
)
def test_read_opsets(content: bytes, expected: dict[str, int], tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    path.write_bytes(content)
    assert read_opsets(path) == expected


@pytest.mark.parametrize("content", [b"\0", b"\x08\x07"], ids=["zeros", "one field for ever"])
def test_a_file_that_is_no_model_is_given_up_soon(content: bytes, tmp_path: Path) -> None:
    """200 MB of zeros, as of a download that had not begun, took minutes."""
    path = tmp_path / "a.onnx"
    path.write_bytes(content * 5_000_000)
    start = time.process_time()
    assert read_opsets(path) == {}
    assert time.process_time() - start < 2


def test_read_opsets_of_an_export(export_small: Export, files: Path, tmp_path: Path) -> None:
    assert read_opsets(export_small(**FIXED_GATHER)) == {"": 16}
    assert read_opsets(files / "plugin.onnx") == {"": 19, "alignseg": 1}
    assert read_opsets(tmp_path / "nowhere.onnx") == {}
