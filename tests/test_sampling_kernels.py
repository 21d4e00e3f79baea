"""The sampling kernels, built for the CPU, against the definition and against PyTorch."""

import ctypes
from collections.abc import Callable, Mapping

import numpy as np
import pytest
from host_kernels import HOST_CUDA, host_library
from kernel_cases import CASES, Array, KernelCase, check, fields, stored_inputs

SOURCE = HOST_CUDA / "host_sampling.cpp"
SUCCESS, INVALID_VALUE = 0, 1

Launch = Callable[[KernelCase, Mapping[str, Array]], Array]


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The kernels for the CPU."""
    return host_library([SOURCE], tmp_path_factory.mktemp("sampling"))


def launched(library: ctypes.CDLL, case: KernelCase, tensors: Mapping[str, Array]) -> Array:
    """The output of the launcher for stored `tensors`; holds garbage before."""
    output = np.full(case.output_shape, 77.0, case.feature.dtype)
    addresses = {name: tensor.ctypes.data for name, tensor in tensors.items()}
    params = packed(fields(case, {**addresses, "output": output.ctypes.data}))
    status = library[case.op](ctypes.byref(params), case.feature.code, case.offset.code)
    assert status == SUCCESS
    return output


def packed(values: list[int]) -> "ctypes.Array[ctypes.c_int64]":
    return (ctypes.c_int64 * len(values))(*values)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_table(library: ctypes.CDLL, case: KernelCase) -> None:
    check(case, launched(library, case, stored_inputs(case)))
