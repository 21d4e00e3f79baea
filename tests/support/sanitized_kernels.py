"""Runs the kernels on buffers that end where their data ends; for a process with a sanitizer.

Usage: ``sanitized_kernels.py LIBRARY SHORT``: of each output, SHORT bytes are missing.
"""

import ctypes
import dataclasses
import sys

import numpy as np

from tests.support.kernel_cases import CASES, Array, KernelCase, fields, stored_inputs

LIBC = ctypes.CDLL(None)
LIBC.malloc.restype = ctypes.c_void_p
LIBC.malloc.argtypes = [ctypes.c_size_t]
LIBC.free.argtypes = [ctypes.c_void_p]


def allocated(tensor: Array, short: int = 0) -> int:
    """Return the address of a copy in its own heap block, without the last `short` bytes."""
    address = LIBC.malloc(tensor.nbytes - short)
    ctypes.memmove(address, tensor.ctypes.data, tensor.nbytes - short)
    assert isinstance(address, int)
    return address


def wild(tensors: dict[str, Array]) -> dict[str, Array]:
    """Replace half of the offsets by values that are not numbers or point far away."""
    values = np.array([np.nan, np.inf, -np.inf, 60000.0, -60000.0, 1.0, 1e-7, -1e-7, 7.0])
    for name, tensor in tensors.items():
        if name.endswith("offset"):
            tensor.flat[::2] = np.resize(values, tensor.size).astype(tensor.dtype)[::2]
    return tensors


def run(library: ctypes.CDLL, case: KernelCase, tensors: dict[str, Array], short: int) -> None:
    addresses = {name: allocated(tensor) for name, tensor in tensors.items()}
    output = np.zeros(case.output_shape, case.feature.dtype)
    addresses["output"] = allocated(output, short)
    values = fields(case, addresses)
    params = (ctypes.c_int64 * len(values))(*values)
    status = library[case.op](ctypes.byref(params), case.feature.code, case.offset.code)
    assert status == 0, case
    for address in addresses.values():
        LIBC.free(address)


def main(path: str, short: int) -> None:
    library = ctypes.CDLL(path)
    # One in five of all shapes and layouts, with near and far offsets.
    for case in CASES[::5]:
        for reach in (0.3, 8.0):
            changed = dataclasses.replace(case, reach=reach)
            run(library, changed, stored_inputs(changed), short)
        run(library, case, wild(stored_inputs(case)), short)
    print(f"{len(CASES[::5])} cases done")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
