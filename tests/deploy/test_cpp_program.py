"""The C++ program of ``alignseg deploy cpp``, over a TensorRT and a CUDA that run on the CPU.

The program's kernels are the real ones, compiled by g++; its engine is that of fake_engine.cpp.
Not shown: that TensorRT, or a GPU, takes it.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from alignseg_infer.arrays import InputShape, Labels, Size
from alignseg_infer.datasets.remapping import Remapping
from alignseg_infer.deploy.cpp import LIBRARY, deploy_cpp
from alignseg_infer.pixels.postprocess import resize_labels, scores_from_logits
from alignseg_infer.pixels.preprocess import preprocess
from alignseg_infer.spec.model import (
    ChannelOrder,
    ClassSpec,
    ImageInput,
    InputSpec,
    Layout,
    OutputKind,
)
from alignseg_infer.trt.engine_file import Profile, sidecar_path
from tests.support.cpp_consumer import build_program, build_stub, json_headers
from tests.support.fake_tensorrt import EXPORT, write_engine
from tests.support.models import SMALL_SPEC
from tests.support.plugin_harness import tensorrt_headers

LOGITS, LABELS_UINT8, LABELS_INT32 = b"logits 0 19", b"labels 5 19", b"labels 3 19"
PLUGINS = ("AlignedAdd/1", "OffsetGridSample/1")
RGB = InputSpec(channel_order=ChannelOrder.RGB, mean=(10, 20, 30), std=(2, 4, 8))
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the program of a deployed folder."""
    folder = tmp_path_factory.mktemp("program")
    write_engine(folder / "city.engine")
    return build_program(deploy_cpp(folder / "city.engine", folder / "consumer"), folder)


@pytest.fixture
def run(program: Path, tmp_path: Path) -> Run:
    """Return what runs the program in a folder, on a picture of 48x64 that it finds there."""
    write_ppm(tmp_path / "street.ppm", picture())

    def run(*more: str, **variables: str) -> "subprocess.CompletedProcess[str]":
        command = [str(program), "city.engine", "street.ppm", "labels.pgm", *more]
        environment = {**os.environ, **variables}
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )

    return run


def picture() -> NDArray[np.uint8]:
    """Return an image (48, 64, 3) in BGR, of blocks of noise."""
    blocks = np.random.default_rng(3).integers(0, 256, (6, 8, 3), np.uint8)
    return np.repeat(np.repeat(blocks, 8, axis=0), 8, axis=1)


def write_ppm(path: Path, bgr: NDArray[np.uint8]) -> None:
    header = f"P6\n# drawn by a test\n{bgr.shape[1]} {bgr.shape[0]}\n255\n"
    path.write_bytes(header.encode() + bgr[..., ::-1].tobytes())


def read_pgm(path: Path) -> NDArray[Any]:
    kind, size, largest, pixels = path.read_bytes().split(b"\n", 3)
    width, height = map(int, size.split())
    assert kind == b"P5"
    assert largest in {b"255", b"65535"}
    dtype = "u1" if largest == b"255" else ">u2"
    return np.frombuffer(pixels, dtype).reshape(height, width)


def expected_labels(input_size: Size, spec: InputSpec, plan: bytes) -> Labels:
    """Return what fake_engine.cpp computes, between our own preprocessing and postprocessing."""
    image = preprocess(picture(), input_size, spec)[0]  # (3, H, W)
    if plan.startswith(b"labels"):
        return resize_labels((np.abs(image[0]).astype(int) % 19).astype(np.uint8), (48, 64))
    classes = int(plan.split()[2])
    index = np.arange(classes)
    coarse = image[index % 3, : input_size[0] // 4 * 4 : 4, : input_size[1] // 4 * 4 : 4]
    factors = (index % 5 - 2).astype(np.float32)[:, None, None]
    logits = coarse * factors + index.astype(np.float32)[:, None, None]
    return scores_from_logits(logits, (48, 64)).labels


RUNS = [
    ("own size", LOGITS, SMALL_SPEC.input, (48, 64), ()),
    ("another size", LOGITS, SMALL_SPEC.input, (64, 96), ("64x96",)),
    ("odd size", LOGITS, SMALL_SPEC.input, (37, 51), ("37x51",)),
    ("rgb", LOGITS, RGB, (48, 64), ()),
    ("uint8", LABELS_UINT8, RGB, (48, 64), ()),
    ("uint8 of another size", LABELS_UINT8, RGB, (33, 95), ("33x95",)),
    ("int32", LABELS_INT32, SMALL_SPEC.input, (48, 64), ()),
    ("int32, channels last", LABELS_INT32 + b" nhwc", SMALL_SPEC.input, (48, 64), ()),
    ("uint8, channels first", LABELS_UINT8 + b" nchw", RGB, (33, 95), ("33x95",)),
]


@pytest.mark.parametrize(
    ("plan", "prepared", "size", "more"), [row[1:] for row in RUNS], ids=[row[0] for row in RUNS]
)
def test_labels_are_those_of_the_predictor(
    run: Run, tmp_path: Path, plan: bytes, prepared: InputSpec, size: Size, more: tuple[str, ...]
) -> None:
    kind = OutputKind(plan.split()[0].decode())
    layout = Layout(plan.split()[3].decode()) if len(plan.split()) > 3 else None
    export = replace(EXPORT, output=kind, layout=layout)
    spec = replace(SMALL_SPEC, input=prepared, export=export)
    write_engine(tmp_path / "city.engine", plan, spec=spec)
    done = run(*more)
    assert done.returncode == 0, done.stderr
    labels = read_pgm(tmp_path / "labels.pgm")
    wanted = expected_labels(size, prepared, plan)
    assert labels.dtype == np.uint8
    assert len(np.unique(wanted)) > 3
    assert np.mean(labels == wanted) > 0.995  # float32 rounding decides ties differently
    first = spec.classes.names[int(labels.min())]
    share = f"{np.mean(labels == labels.min()):.1%}".replace("%", " %")
    assert f"labels.pgm: 48x64; {first} {share}" in done.stdout


def test_a_fixed_size_needs_no_argument(run: Run, tmp_path: Path) -> None:
    shape = InputShape(1, 32, 64)
    write_engine(tmp_path / "city.engine", LOGITS, profile=Profile(shape, shape, shape))
    assert run().returncode == 0
    wanted = expected_labels((32, 64), SMALL_SPEC.input, LOGITS)
    assert np.mean(read_pgm(tmp_path / "labels.pgm") == wanted) > 0.995


@pytest.mark.parametrize("void", [18, 300])
def test_pixels_without_a_class(run: Run, tmp_path: Path, void: int) -> None:
    """The fake engine returns the labels 0 to 18, of which 18 may stand for none."""
    remap = Remapping(dataset="new", names={"bicycle": None}, void=void)
    plain = replace(SMALL_SPEC, export=replace(EXPORT, output=OutputKind.LABELS))
    write_engine(tmp_path / "city.engine", LABELS_UINT8, spec=remap.apply(plain))
    done = run()
    if void != 18:
        assert "the label 18 among 18 classes" in done.stderr
        return
    assert done.returncode == 0, done.stderr
    labels = read_pgm(tmp_path / "labels.pgm")
    assert labels.max() == void
    assert "bicycle" not in done.stdout


@pytest.mark.parametrize(
    ("plan", "changes", "problem"),
    [
        (LOGITS, {}, "logits of classes still to be remapped"),
        (
            LABELS_UINT8,
            {"output": OutputKind.LABELS, "image": ImageInput.UINT8_BGR},
            'it has the input "uint8-bgr"',
        ),
    ],
)
def test_a_remapped_engine_is_built_again_with_its_remapping(
    run: Run, tmp_path: Path, plan: bytes, changes: dict[str, Any], problem: str
) -> None:
    remap = Remapping(dataset="new", names={"bicycle": None})
    spec = remap.apply(replace(SMALL_SPEC, export=replace(EXPORT, **changes)))
    write_engine(tmp_path / "city.engine", plan, spec=spec)
    done = run()
    assert done.returncode == 1
    assert problem in done.stderr
    assert "alignseg export-trt MODEL -o ENGINE --output labels --remap FILE.json" in done.stderr


def test_many_classes_take_16_bits(run: Run, tmp_path: Path) -> None:
    names = tuple(f"class {number}" for number in range(300))
    classes = ClassSpec(dataset="many", names=names, colors=((0, 0, 0),) * 300)
    network = replace(SMALL_SPEC.network, num_classes=300)
    spec = replace(SMALL_SPEC, network=network, classes=classes, export=EXPORT)
    write_engine(tmp_path / "city.engine", b"logits 0 300", spec=spec)
    assert run().returncode == 0
    labels = read_pgm(tmp_path / "labels.pgm")
    assert labels.dtype == np.dtype(">u2")
    wanted = expected_labels((48, 64), SMALL_SPEC.input, b"logits 0 300")
    assert wanted.max() > 255
    assert np.mean(labels == wanted) > 0.995


def test_plugins_are_loaded_from_beside_the_engine(run: Run, tmp_path: Path) -> None:
    write_engine(tmp_path / "city.engine", LOGITS, plugins=PLUGINS)
    (tmp_path / LIBRARY).write_bytes(b"a library")
    done = run()
    assert done.returncode == 0
    assert f"plugins '{LIBRARY}', code refused" in done.stdout


@pytest.mark.parametrize("changes", [{"version_compatible": True}, {"plugins_embedded": True}])
def test_code_in_engines_is_allowed_where_the_facts_say_so(
    run: Run, tmp_path: Path, changes: dict[str, Any]
) -> None:
    write_engine(tmp_path / "city.engine", LOGITS, plugins=PLUGINS, **changes)
    (tmp_path / LIBRARY).write_bytes(b"a library")
    loaded = "" if "plugins_embedded" in changes else LIBRARY
    assert f"plugins '{loaded}', code allowed" in run().stdout


def remove(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).unlink()


def write(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(content)


def change_facts(**changes: Any) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        path = sidecar_path(folder / "city.engine")
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return change


def change_export(**changes: Any) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        path = sidecar_path(folder / "city.engine")
        facts = json.loads(path.read_text())
        facts["spec"]["export"] |= changes
        path.write_text(json.dumps(facts))

    return change


EXPORT_LOGITS = "alignseg export-trt MODEL -o ENGINE --output logits"
BUILD_AGAIN = "build it again with the same options: alignseg export-trt MODEL -o ENGINE\n"
REFUSED: list[tuple[str, Callable[[Path], object], str, str]] = [
    ("no facts", remove("city.engine.json"), "city.engine.json is empty, or cannot", "ls -l"),
    ("no engine", remove("city.engine"), "city.engine is empty, or cannot be read", "ls -l"),
    ("no image", remove("street.ppm"), "street.ppm is empty, or cannot be read", "ls -l"),
    ("no JSON", write("city.engine.json", b"{"), "cannot be read: ", "alignseg deploy cpp ENGINE"),
    ("a list", write("city.engine.json", b"[]"), "cannot be read: ", "alignseg deploy cpp ENGINE"),
    (
        "facts of another version",
        change_facts(version=1),
        "they have version 1",
        "alignseg deploy cpp ENGINE",
    ),
    (
        "no plugins",
        change_facts(plugins=["AlignedAdd/1"]),
        f"plugins {LIBRARY} is not there or cannot be loaded",
        f"alignseg deploy cpp ENGINE --plugin {LIBRARY}",
    ),
    ("not a plan", write("city.engine", b"?"), "the plan is damaged", "alignseg export-trt"),
    (
        "no logits",
        write("city.engine", b"scores 0 19"),
        "it has no output 'logits'",
        BUILD_AGAIN,
    ),
    (
        "other classes",
        write("city.engine", b"logits 0 7"),
        "it has logits that are not (1, 19, height, width)",
        BUILD_AGAIN,
    ),
    ("int8 logits", write("city.engine", b"logits 3 19"), "not floating-point", BUILD_AGAIN),
    ("int64", write("city.engine", b"logits 8 19"), "a tensor of type 8", BUILD_AGAIN),
    (
        "probabilities",
        change_export(output="probabilities"),
        'the output "probabilities"',
        EXPORT_LOGITS,
    ),
    (
        "labels in int64",
        change_export(output="labels", label_type="int64"),
        "it has labels in int64",
        EXPORT_LOGITS,
    ),
    ("nhwc", change_export(layout="nhwc"), 'logits in the layout "nhwc"', EXPORT_LOGITS),
    ("bytes", change_export(image="uint8-bgr"), 'the input "uint8-bgr"', EXPORT_LOGITS),
    ("a JPEG", write("street.ppm", b"\xff\xd8\xff"), "not a whole PPM image", "ffmpeg -i IMAGE"),
    (
        "a cut image",
        write("street.ppm", b"P6 64 48 255\n123"),
        "not a whole PPM image",
        "ffmpeg -i IMAGE",
    ),
    (
        "a large image",
        write("street.ppm", b"P6 999999999 999999999 255\n123"),
        "not a whole PPM image",
        "ffmpeg -i IMAGE",
    ),
    (
        "16 bits",
        write("street.ppm", b"P6 1 1 65535\n123456"),
        "not a whole PPM image",
        "ffmpeg -i IMAGE",
    ),
    (
        "a small image",
        write("street.ppm", b"P6 1 1 255\n123"),
        "input would be 1x1 (height x width)\n  expected: 32x32 to 64x96",
        "give a size after the labels, such as 64x96",
    ),
]


@pytest.mark.parametrize(
    ("break_it", "problem", "fix"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED]
)
def test_errors_say_what_to_do(
    run: Run, tmp_path: Path, break_it: Callable[[Path], object], problem: str, fix: str
) -> None:
    write_engine(tmp_path / "city.engine", LOGITS)
    break_it(tmp_path)
    done = run()
    assert done.returncode == 1, done.stderr
    assert problem in done.stderr
    assert "\n  expected: " in done.stderr
    assert fix in done.stderr.partition("\n  try: ")[2]
    assert not (tmp_path / "labels.pgm").exists()


@pytest.mark.parametrize(
    "size", ["99x32", "31x32", "64x97", "64", "64x", "64x96x3", "axb", "-4x64"]
)
def test_sizes_that_cannot_be(run: Run, tmp_path: Path, size: str) -> None:
    write_engine(tmp_path / "city.engine", LOGITS)
    done = run(size)
    assert done.returncode == 1
    assert "64x96" in done.stderr.partition("  try: ")[2]


def test_too_little_memory(run: Run, tmp_path: Path) -> None:
    write_engine(tmp_path / "city.engine", LOGITS)
    done = run(FAKE_NO_CONTEXT="1")
    assert done.returncode == 1
    assert "the engine cannot be prepared" in done.stderr
    assert "end other programs that use it, which nvidia-smi lists" in done.stderr


def test_no_gpu(run: Run, tmp_path: Path) -> None:
    write_engine(tmp_path / "city.engine", LOGITS)
    done = run(FAKE_NO_GPU="1")
    assert done.returncode == 1
    assert "opening the GPU failed: no CUDA-capable device is detected" in done.stderr
    assert "nvidia-smi" in done.stderr


def test_logits_that_are_not_finite(run: Run, tmp_path: Path) -> None:
    write_engine(tmp_path / "city.engine", LOGITS)
    done = run(FAKE_NAN="1")
    assert done.returncode == 1
    assert "NaN or infinite logits" in done.stderr


def test_labels_that_cannot_be_written(run: Run, tmp_path: Path) -> None:
    write_engine(tmp_path / "city.engine", LOGITS)
    (tmp_path / "labels.pgm").mkdir()
    done = run()
    assert done.returncode == 1
    assert "labels.pgm cannot be written" in done.stderr


def test_usage(run: Run) -> None:
    done = run("64x64", "more")
    assert done.returncode == 2
    assert done.stderr == "usage: segment ENGINE IMAGE.ppm LABELS.pgm [HEIGHTxWIDTH]\n"


# CMake


def configure(folder: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    if shutil.which("nvcc") is None or shutil.which("cmake") is None:
        pytest.skip("needs cmake, and nvcc of the CUDA toolkit")
    write_engine(folder / "city.engine", tensorrt_version="10.14.1.48")
    deployed = deploy_cpp(folder / "city.engine", folder / "consumer")
    command = ["cmake", "-S", str(deployed), "-B", str(deployed / "build"), *options]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def said_by(done: "subprocess.CompletedProcess[str]") -> str:
    return " ".join((done.stdout + done.stderr).split())  # CMake breaks lines


def test_cmake_says_what_is_missing(tmp_path: Path) -> None:
    headers = tensorrt_headers(tmp_path / "headers")
    done = configure(tmp_path, f"-DTENSORRT_ROOT={headers}")
    assert done.returncode != 0
    assert f"libnvinfer.so of TensorRT 10.14.1.48 was not found in {headers}" in said_by(done)
    assert "-DTENSORRT_LIBRARY=/opt/TensorRT/lib/libnvinfer.so.10" in said_by(done)
    shutil.rmtree(tmp_path / "consumer")
    hidden = "-DCMAKE_IGNORE_PATH=/usr/include;/usr/local/include;/usr/share/cmake/nlohmann_json"
    library = f"-DTENSORRT_LIBRARY={tmp_path / 'libnvinfer.so'}"
    done = configure(tmp_path, f"-DTENSORRT_ROOT={headers}", library, hidden)
    assert done.returncode != 0
    assert "apt install nlohmann-json3-dev" in said_by(done)


@pytest.mark.slow
def test_cmake_builds_the_program(tmp_path: Path) -> None:
    """The stub has the name that a package of TensorRT's libraries gives the real one."""
    headers, stub = tensorrt_headers(tmp_path / "headers"), tmp_path / "libnvinfer.so.10"
    build_stub(stub, tmp_path)
    done = configure(
        tmp_path,
        f"-DTENSORRT_ROOT={headers}",
        f"-DTENSORRT_LIBRARY={stub}",
        f"-DNLOHMANN_JSON_HEADERS={json_headers(tmp_path / 'json')}",
        *("-DCMAKE_BUILD_TYPE=Debug", "-DCMAKE_CUDA_FLAGS=-Xcicc -O0 -Xptxas -O0"),  # compiles fast
    )
    assert done.returncode == 0, said_by(done)
    assert "CUDA architectures: 89" in said_by(done)  # that of the GPU in the facts
    build = tmp_path / "consumer" / "build"
    done = subprocess.run(
        ["cmake", "--build", str(build), "--parallel", "2"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, said_by(done)
    assert not list(build.rglob("*aligned_add*.o"))  # only the kernels for images
    write_ppm(tmp_path / "street.ppm", picture())
    command = [str(build / "segment"), "consumer/city.engine", "street.ppm", "labels.pgm"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    if shutil.which("nvidia-smi"):
        return  # the stub's engine cannot read the GPU's memory
    assert done.returncode == 1
    assert "opening the GPU failed" in done.stderr
