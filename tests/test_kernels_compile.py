"""Kernels compile for every GPU of ours that the toolkit knows, without spills; NVRTC takes them.

Nothing runs: what they compute is shown by the builds for the CPU, and on GPUs.
"""

import itertools
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from host_kernels import KERNELS
from kernel_cases import Op, Scalar

SOURCES = sorted(KERNELS.glob("*.cu"))
ARCHITECTURES = (75, 80, 86, 89, 90, 100, 120)
# A thread may use so many before a block of 256 has an SM's 65536 to itself.
MOST_REGISTERS = 255

nvcc = pytest.mark.skipif(shutil.which("nvcc") is None, reason="needs nvcc")


def compiled(source: Path, output: Path) -> str:
    """What nvcc and ptxas say about `source`, for all architectures at once."""
    listing = subprocess.run(
        ["nvcc", "--list-gpu-arch"], capture_output=True, text=True, check=True
    ).stdout
    known = [number for number in ARCHITECTURES if f"compute_{number}\n" in listing]
    assert known, listing
    code = [f"-gencode=arch=compute_{number},code=sm_{number}" for number in known]
    options = ["-std=c++17", "-Xptxas", "-v", "-fatbin", *code]
    command = ["nvcc", *options, "-o", str(output), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr, done.stderr
    return done.stderr


@nvcc
@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_nvcc(source: Path, tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    report = compiled(source, tmp_path / "kernels.fatbin")
    kernels = re.findall(r"Compiling entry function '(\w+)' for '(\w+)'", report)
    spills = re.findall(r"(\d+) bytes spill stores, (\d+) bytes spill loads", report)
    registers = [int(number) for number in re.findall(r"Used (\d+) registers", report)]
    assert len(kernels) == len(registers) > 0
    assert set(itertools.chain(*spills)) == {"0"}
    assert max(registers) < MOST_REGISTERS
    for (kernel, architecture), used in zip(kernels, registers, strict=True):
        record_property(f"{architecture} {kernel}", used)


def nvrtc_cubin(source: Path, architecture: int) -> bytes:
    """What NVRTC makes of `source`, with our headers and no others."""
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


@pytest.mark.parametrize("architecture", [75, 120])
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
    layouts = ("planar", "channels_last")
    return {
        f"{op}_{layout}_{feature}_{offset}"
        for layout, feature, offset in itertools.product(layouts, Scalar, Scalar)
    }
