"""Kernels compile for all our GPUs that the toolkit knows, without spills; NVRTC accepts them.

Nothing runs: what they compute is shown by the builds for the CPU, and on GPUs. What moves how many
bytes at once is read in the instructions (SASS) of the same compiled files.
"""

import itertools
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.host_kernels import KERNELS
from tests.support.kernel_cases import Op, Scalar
from tests.support.slow import all_slow

SOURCES = sorted(KERNELS.glob("*.cu"))
CMAKE_LIST = KERNELS.parent / "cmake" / "CudaArchitectures.cmake"
# If a thread uses more registers, a block of 256 threads needs all 65536 of an SM.
MOST_REGISTERS = 255

# How the kernels of a source move memory: by name, the fewest instructions of a kind and a number
# of bits. A row holds for every kernel that it fits; each kernel has a row, and each row a kernel.
WIDTHS: dict[str, dict[str, dict[str, int]]] = {
    "preprocess_kernel": {
        "preprocess<float>": {"load 32": 3, "store 128": 3},  # ColorQuad, and a Quad per plane
        "preprocess<Half>": {"load 32": 3, "store 64": 3},
    },
    "upsample_argmax_kernel": {
        "upsampleArgmax<.*, unsigned char, false>": {"store 32": 4},  # labels, three words of color
        "upsampleArgmax<.*, unsigned char, true>": {"store 32": 5},  # and confidence
        "upsampleArgmax<.*, unsigned short, .*>": {"store 64": 1, "store 32": 3},
        "upsampleArgmax<.*, int, .*>": {"shared load 128": 1, "store 128": 1, "store 32": 3},
    },
    "offset_grid_sample_kernel": {
        "offsetGridSampleChannelsLast<.*>": {"load 128": 4, "store 128": 1},  # 2x2 pixels
        "offsetGridSamplePlanar<.*>": {},  # neighbouring threads have neighbouring values
    },
    "aligned_add_kernel": {
        "alignedAddChannelsLast<.*, 2>": {"load 128": 8, "store 128": 1},  # 2x2 pixels of two
        "alignedAddChannelsLast<.*, 3>": {"load 128": 13, "store 128": 1},  # 3x3 and 2x2
        "alignedAddChannelsLast<.*, 4>": {},  # for addresses that allow no vectors
        "alignedAddPlanar<.*>": {},
    },
}
# Names of instructions. Compilers use the generic LD and ST if they cannot recognise global memory.
KINDS = {
    **dict.fromkeys(("LDG", "LD"), "load"),
    **dict.fromkeys(("STG", "ST"), "store"),
    **{"LDS": "shared load", "STS": "shared store", "LDL": "spill", "STL": "spill"},
}

nvcc = pytest.mark.skipif(shutil.which("nvcc") is None, reason="needs nvcc")


def wanted_architectures() -> list[int]:
    """Return the architectures that CMake compiles for."""
    listed = re.findall(r"set\(wanted ([\d ]+)\)", CMAKE_LIST.read_text(encoding="utf-8"))
    assert len(listed) == 1
    return [int(number) for number in listed[0].split()]


ARCHITECTURES = wanted_architectures()


def known_architectures() -> list[int]:
    """Return those of our architectures that nvcc knows."""
    listing = subprocess.run(
        ["nvcc", "--list-gpu-arch"], capture_output=True, text=True, check=True
    ).stdout
    known = [number for number in ARCHITECTURES if f"compute_{number}\n" in listing]
    assert known, listing
    return known


@dataclass(frozen=True)
class Build:
    """A source file, compiled for all architectures at once.

    Attributes:
        source: The file.
        fatbin: What nvcc made of it.
        report: What nvcc and ptxas say.
    """

    source: Path
    fatbin: Path
    report: str


@pytest.fixture(scope="module", params=SOURCES, ids=lambda path: path.stem)
def build(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Build:
    source = request.param
    fatbin = tmp_path_factory.mktemp(source.stem) / "kernels.fatbin"
    code = [f"-gencode=arch=compute_{number},code=sm_{number}" for number in known_architectures()]
    options = ["-std=c++17", "-Xptxas", "-v", "-fatbin", *code]
    command = ["nvcc", *options, "-o", str(fatbin), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr, done.stderr
    return Build(source, fatbin, done.stderr)


@pytest.mark.slow
@nvcc
def test_nvcc(build: Build, record_property: Callable[[str, object], None]) -> None:
    report = build.report
    kernels = re.findall(r"Compiling entry function '(\w+)' for '(\w+)'", report)
    spills = re.findall(r"(\d+) bytes spill stores, (\d+) bytes spill loads", report)
    registers = [int(number) for number in re.findall(r"Used (\d+) registers", report)]
    assert len(kernels) == len(registers) > 0
    assert set(itertools.chain(*spills)) == {"0"}
    assert max(registers) < MOST_REGISTERS
    for (kernel, architecture), used in zip(kernels, registers, strict=True):
        record_property(f"{architecture} {kernel}", used)


def cuobjdump() -> str:
    """Return NVIDIA's program that lists instructions; skip the test if it is not installed."""
    found = shutil.which("cuobjdump")
    if found is None:
        pathfinder = pytest.importorskip("cuda.pathfinder", reason="needs cuobjdump")
        found = pathfinder.find_nvidia_binary_utility("cuobjdump")
    if found is None:
        pytest.skip("needs cuobjdump: pip install nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm")
    return str(found)


def access(instruction: str) -> str | None:
    """Count the instructions that move memory, by kind and bits: ``store 128`` is ``STG.E.128``."""
    name, *parts = instruction.split(".")
    if name not in KINDS:
        return None
    widths = [part.lstrip("US") for part in parts if re.fullmatch(r"[US]?(8|16|64|128|256)", part)]
    return f"{KINDS[name]} {(widths or ['32'])[0]}"


def memory_accesses(fatbin: Path) -> Iterator[tuple[str, str, Counter[str]]]:
    """List architecture, name and memory accesses of each kernel in a file."""
    listing = subprocess.run(
        [cuobjdump(), "-sass", str(fatbin)], capture_output=True, text=True, check=True
    ).stdout
    names = iter(
        subprocess.run(
            ["c++filt"],
            input="\n".join(re.findall(r"Function : (\S+)", listing)),
            capture_output=True,
            text=True,
            check=True,
        ).stdout.splitlines()
    )
    for part in re.split(r"^\s*code for ", listing, flags=re.MULTILINE)[1:]:
        architecture = part.split()[0]
        for function in part.split("Function : ")[1:]:
            # A line begins with its address; a predicate may stand before the instruction.
            found = re.findall(
                r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@\S+ )?(\w[\w.]*)", function, re.MULTILINE
            )
            kinds = (access(instruction) for instruction in found)
            full = re.fullmatch(r"void alignseg::\(anonymous namespace\)::(.*)\(.*\)", next(names))
            assert full is not None
            name = full[1].replace("alignseg::", "")
            yield architecture, name, Counter(kind for kind in kinds if kind)


@pytest.mark.slow
@nvcc
def test_kernels_move_memory_in_the_widths_they_claim(build: Build) -> None:
    rows = WIDTHS[build.source.stem]
    architectures, fitted = set(), set()
    for architecture, kernel, accesses in memory_accesses(build.fatbin):
        architectures.add(architecture)
        fitting = {row for row in rows if re.fullmatch(row, kernel)}
        assert fitting, f"no row for {kernel}"
        for row in fitting:
            for kind, fewest in rows[row].items():
                assert accesses[kind] >= fewest, (architecture, kernel, kind, accesses)
        assert not any(kind.startswith("spill") for kind in accesses), (architecture, kernel)
        fitted |= fitting
    assert architectures == {f"sm_{number}" for number in known_architectures()}
    assert fitted == set(rows)


def test_documentation_names_the_architectures() -> None:
    text = (KERNELS.parent / "README.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `CMAKE_CUDA_ARCHITECTURES` \| ([\d;]+) \|", text, re.MULTILINE)
    assert listed == [";".join(map(str, ARCHITECTURES))]


def nvrtc_cubin(source: Path, architecture: int) -> bytes:
    """Compile `source` with NVRTC, with our headers and no others."""
    nvrtc = pytest.importorskip("cuda.bindings.nvrtc", reason="needs cuda-python with NVRTC")
    headers = sorted(KERNELS.glob("*.h"))
    status, program = nvrtc.nvrtcCreateProgram(
        source.read_bytes(),
        source.name.encode(),
        len(headers),
        [header.read_bytes() for header in headers],
        [header.name.encode() for header in headers],
    )
    assert status == nvrtc.nvrtcResult.NVRTC_SUCCESS
    options = [f"--gpu-architecture=sm_{architecture}".encode(), b"--std=c++17"]
    (status,) = nvrtc.nvrtcCompileProgram(program, len(options), options)
    if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        log = b" " * nvrtc.nvrtcGetProgramLogSize(program)[1]
        nvrtc.nvrtcGetProgramLog(program, log)
        pytest.fail(log.decode())
    cubin: bytes = b" " * nvrtc.nvrtcGetCUBINSize(program)[1]
    nvrtc.nvrtcGetCUBIN(program, cubin)
    nvrtc.nvrtcDestroyProgram(program)
    return cubin


@pytest.mark.parametrize("architecture", [ARCHITECTURES[0], *all_slow(ARCHITECTURES[-1])])
@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_nvrtc(source: Path, architecture: int) -> None:
    names = re.findall(
        rb"\0\.text\.(\w+)\0", nvrtc_cubin(source, architecture).replace(b"\0", b"\0\0")
    )
    entry_points = {name.decode() for name in names}
    assert entry_points
    for op in Op:
        if source.stem == f"{op}_kernel":
            assert entry_points == entry_points_of(op)


def entry_points_of(op: Op) -> set[str]:
    taps = ("_2", "_3", "_4") if op is Op.ADD else ("",)
    return {
        f"{op}_{layout}{count}_{feature}_{offset}"
        for layout, count, feature, offset in itertools.product(
            ("planar", "channels_last"), taps, Scalar, Scalar
        )
    }
