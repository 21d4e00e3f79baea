"""The built plugin library on a GPU, through ``enqueue``: ``python3 -m pytest -m gpu``.

ALIGNSEG_PLUGIN names the library; without it, CMake builds it for this GPU. The harness wants g++
and TensorRT's headers (ALIGNSEG_TENSORRT_HEADERS, or a package that is fetched), not TensorRT.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from tests.support.host_kernels import KERNELS
from tests.support.kernel_cases import KernelCase, check
from tests.support.plugin_cases import (
    COMPLETE,
    LABEL_CASES,
    NAMES,
    TABLE,
    LabelCase,
    check_labels,
    made,
    ran,
    ran_labels,
)
from tests.support.plugin_harness import Library, build_flags, build_harness, tensorrt_headers

pytestmark = pytest.mark.gpu


def built(folder: Path) -> Path:
    """The plugin library, compiled by nvcc for this machine's GPU."""
    if shutil.which("cmake") is None or shutil.which("nvcc") is None:
        pytest.skip("needs ALIGNSEG_PLUGIN, or cmake and nvcc to build the library")
    headers = tensorrt_headers(folder / "tensorrt")
    options = [f"-DTENSORRT_ROOT={headers}", "-DCMAKE_CUDA_ARCHITECTURES=native"]
    subprocess.run(["cmake", "-S", KERNELS.parent, "-B", folder, *options], check=True)
    subprocess.run(["cmake", "--build", folder, "--parallel"], check=True)
    return folder / "libalignseg_plugin.so"


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    """The library, loaded by the harness."""
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    folder = tmp_path_factory.mktemp("plugins")
    given = os.environ.get("ALIGNSEG_PLUGIN")
    plugins = Path(given) if given else built(folder / "build")
    return Library(build_harness(folder, build_flags(folder)), plugins)


@pytest.mark.parametrize("case", [*COMPLETE, *TABLE], ids=str)
def test_sampling(library: Library, case: KernelCase) -> None:
    check(case, ran(made(library, NAMES[case.op], case.convention), case, "cuda"))


@pytest.mark.parametrize("case", LABEL_CASES, ids=str)
def test_labels(library: Library, case: LabelCase) -> None:
    check_labels(case, ran_labels(made(library, "UpsampleArgmax"), case, "cuda"))
