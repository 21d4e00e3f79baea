"""Launching the kernels on the CPU as Python does: by name, with a structure and a grid."""

import ctypes
import functools
import tempfile
from pathlib import Path

from tests.support.host_kernels import host_library

_STORED = ("float", "half")
# By source file: structure, names of kernels, and whether threads of a block wait for each other.
ENTRIES: dict[str, tuple[str, list[str], bool]] = {
    **{
        source: (
            params,
            [
                f"{source}_{layout}{count}_{feature}_{offset}"
                for layout in ("planar", "channels_last")
                for count in taps
                for feature in _STORED
                for offset in _STORED
            ],
            True,
        )
        for source, params, taps in (
            ("offset_grid_sample", "OffsetGridSampleParams", ("",)),
            ("aligned_add", "AlignedAddParams", ("_2", "_3", "_4")),
        )
    },
    "upsample_argmax": (
        "UpsampleArgmaxParams",
        [
            f"{kind}_{logits}_{labels}"
            for kind in ("upsample_argmax", "upsample_argmax_confidence")
            for logits in _STORED
            for labels in ("uint8", "uint16", "int32")
        ],
        True,
    ),
    "preprocess": ("PreprocessParams", [f"preprocess_{output}" for output in _STORED], True),
}
_RUN = """
extern "C" void run_{name}(void const* params, unsigned int blocks, unsigned int threads)
{{
    auto const& given = *static_cast<alignseg::{params} const*>(params);
    hostLaunch(&{name}, given, dim3(blocks), dim3(threads), {waits});
}}
"""


def run_kernel(name: str, params: bytes, blocks: int, threads: int) -> None:
    """Run a kernel to its end; addresses in `params` are those of the host."""
    source = next(source for source, (_, names, _) in ENTRIES.items() if name in names)
    function = getattr(_library(source), f"run_{name}")
    function(params, ctypes.c_uint(blocks), ctypes.c_uint(threads))


def host_size(source: str) -> int:
    """Return the number of bytes of a source's structure, for the C++ compiler."""
    return int(_library(source).params_size())


def library_path(source: str) -> Path:
    """Build and load the library with the kernels of a source."""
    return Path(_library(source)._name)


@functools.cache
def _library(source: str) -> ctypes.CDLL:
    params, names, waits = ENTRIES[source]
    folder = Path(tempfile.mkdtemp(prefix="alignseg-kernels-"))
    text = [f'#define ALIGNSEG_ENTRIES\n#include "{source}_kernel.cu"\n']
    text += [
        _RUN.format(name=name, params=params, waits="true" if waits else "false") for name in names
    ]
    text.append(f'extern "C" int params_size() {{ return sizeof(alignseg::{params}); }}\n')
    path = folder / f"{source}_entries.cpp"
    path.write_text("".join(text), encoding="utf-8")
    return host_library([path], folder)
