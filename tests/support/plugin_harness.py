"""Builds the plugin library for the CPU and drives it through a harness, as TensorRT would.

The harness is tests/data/host_cuda/plugin_harness.cpp. ``Library`` calls it by ctypes;
``Tensor`` and ``Field`` are TensorRT's plain structures.
"""

import ctypes
import importlib.util
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support.fetching import fetched
from tests.support.host_kernels import HOST_CUDA, KERNELS, host_compile

GLUE = KERNELS.parent / "tensorrt"
FLOAT, HALF, INT32 = 0, 1, 3  # nvinfer1::DataType
LINEAR, HWC8, HWC = 0, 2, 8  # nvinfer1::TensorFormat
CHAR = 6  # nvinfer1::PluginFieldType::kCHAR
BUILD, RUNTIME = 0, 1  # nvinfer1::TensorRTPhase
SANITIZE = os.environ.get("ALIGNSEG_SANITIZE") == "1"
SANITIZERS = ("-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")


class Dims(ctypes.Structure):
    """``nvinfer1::Dims64``."""

    _fields_ = (("rank", ctypes.c_int32), ("sizes", ctypes.c_int64 * 8))


class Tensor(ctypes.Structure):
    """``nvinfer1::PluginTensorDesc``."""

    _fields_ = (
        *(("dims", Dims), ("type", ctypes.c_int32)),
        *(("format", ctypes.c_int32), ("scale", ctypes.c_float)),
    )


class Field(ctypes.Structure):
    """``nvinfer1::PluginField``."""

    _fields_ = (
        *(("name", ctypes.c_char_p), ("data", ctypes.c_void_p)),
        *(("type", ctypes.c_int32), ("length", ctypes.c_int32)),
    )


class Fields(ctypes.Structure):
    """``nvinfer1::PluginFieldCollection``."""

    _fields_ = (("count", ctypes.c_int32), ("fields", ctypes.c_void_p))


def tensor(sizes: Sequence[int], kind: int = FLOAT, layout: int = LINEAR) -> Tensor:
    """Describe a tensor of this shape, type and format."""
    return Tensor(Dims(len(sizes), (ctypes.c_int64 * 8)(*sizes)), kind, layout, -1.0)


@dataclass(frozen=True)
class Text:
    """A string field: its name, bytes and type, and its length if it is not that of the bytes."""

    name: str | None
    data: bytes | None
    kind: int = CHAR
    length: int | None = None

    def as_field(self) -> Field:
        """Return the field for TensorRT, whose bytes belong to `self`."""
        count = len(self.data or b"") if self.length is None else self.length
        name = None if self.name is None else self.name.encode()
        address = ctypes.cast(ctypes.c_char_p(self.data), ctypes.c_void_p)
        return Field(name, address, self.kind, count)


def convention(value: str) -> Text:
    return Text("convention", value.encode())


class Library:
    """A plugin library, loaded by the harness.

    Args:
        harness: The harness's file.
        plugins: The library's file.
    """

    def __init__(self, harness: Path, plugins: Path) -> None:
        self.plugins = plugins
        self.calls = ctypes.CDLL(str(harness))
        for name in ("Create", "Clone", "Attach", "RoundTrip"):
            getattr(self.calls, f"harness{name}").restype = ctypes.c_void_p
        for name in ("TakeLog", "Creator", "Plugin", "Shapes"):
            getattr(self.calls, f"harness{name}").restype = ctypes.c_char_p
        sizes = (ctypes.c_int64 * 3)()
        self.calls.harnessSizes(sizes)
        assert list(sizes) == [ctypes.sizeof(kind) for kind in (Field, Fields, Tensor)]
        count = self.calls.harnessOpen(str(plugins).encode())
        assert count >= 0, self.log()
        self.creators = [self._creator(index) for index in range(count)]

    def log(self) -> str:
        """Return what was logged since the last call."""
        text: bytes = self.calls.harnessTakeLog()
        return text.decode()

    def _creator(self, index: int) -> dict[str, str]:
        return _facts(self.calls.harnessCreator(index))

    def index(self, name: str) -> int:
        return [creator["name"] for creator in self.creators].index(name)

    def create(self, name: str, *fields: Text, phase: int = BUILD) -> "Plugin":
        """Create the plugin `name`, and fail if it is refused."""
        address = self.try_create(name, fields, phase=phase)
        assert address is not None, self.log()
        return Plugin(self, name, address)

    def try_create(self, name: str, fields: Sequence[Text], *, phase: int = BUILD) -> int | None:
        """Create the plugin `name` and return its address; None if it was refused."""
        array = (Field * len(fields))(*(field.as_field() for field in fields))
        collection = Fields(len(fields), ctypes.addressof(array) if fields else None)
        return self.create_from(name, b"layer", collection, phase=phase)

    def create_from(
        self, name: str, layer: bytes | None, fields: Fields | None, *, phase: int = BUILD
    ) -> int | None:
        """Do the same as ``try_create``, with pointers that may be null."""
        pointer = None if fields is None else ctypes.byref(fields)
        address: int | None = self.calls.harnessCreate(self.index(name), layer, pointer, phase)
        return address


class Plugin:
    """One plugin of a library; `address` is its IPluginV3."""

    def __init__(self, library: Library, name: str, address: int) -> None:
        self.library = library
        self.name = name
        self.address = address
        self.calls = library.calls

    def __del__(self) -> None:
        self.calls.harnessDestroy(ctypes.c_void_p(self.address))

    def copy(self, how: str) -> "Plugin":
        """Make another plugin from this one by ``Clone``, ``Attach`` or ``RoundTrip``."""
        own = ctypes.c_void_p(self.address)
        first = (self.library.index(self.name),) if how == "RoundTrip" else ()
        address = getattr(self.calls, f"harness{how}")(*first, own)
        assert address, self.library.log()
        return Plugin(self.library, self.name, address)

    def facts(self) -> dict[str, str]:
        return _facts(self.calls.harnessPlugin(ctypes.c_void_p(self.address)))

    def has(self, capability: int) -> bool:
        return bool(self.calls.harnessHas(ctypes.c_void_p(self.address), capability))

    def output_type(self, inputs: Sequence[int], outputs: int = 1) -> int | None:
        """Return the type of the output; None if the plugin refuses."""
        answer = (ctypes.c_int32 * 1)(-1)
        array = (ctypes.c_int32 * len(inputs))(*inputs)
        own = ctypes.c_void_p(self.address)
        failed = self.calls.harnessTypes(own, array, len(inputs), answer, outputs)
        return None if failed else answer[0]

    def output_shape(self, ranks: Sequence[int], shape_inputs: int = 0) -> str | None:
        """Return the sizes of the output as ``input.axis``; None if the plugin refuses."""
        array = (ctypes.c_int32 * len(ranks))(*ranks)
        own = ctypes.c_void_p(self.address)
        answer: bytes | None = self.calls.harnessShapes(own, array, len(ranks), shape_inputs)
        return None if answer is None else answer.decode().strip()

    def supports(self, tensors: Sequence[Tensor], pos: int, inputs: int, outputs: int = 1) -> bool:
        """Return whether tensor `pos` is accepted, given only the tensors before it."""
        array = (Tensor * len(tensors))(*tensors)
        own = ctypes.c_void_p(self.address)
        return bool(self.calls.harnessSupports(own, pos, array, inputs, outputs))

    def configure(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> bool:
        return self._shaped("Configure", inputs, outputs)

    def change_shape(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> bool:
        return self._shaped("ShapeChange", inputs, outputs)

    def _shaped(self, call: str, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> bool:
        tensors = [(Tensor * len(side))(*side) for side in (inputs, outputs)]
        own = ctypes.c_void_p(self.address)
        arguments = (tensors[0], len(inputs), tensors[1], len(outputs))
        return bool(getattr(self.calls, f"harness{call}")(own, *arguments) == 0)

    def enqueue(
        self,
        inputs: Sequence[Tensor],
        output: Tensor,
        arrays: Sequence[NDArray[np.generic] | None],
    ) -> bool:
        """Run the plugin. The last of `arrays` is the output; None is a null pointer."""
        addresses = [None if array is None else array.ctypes.data for array in arrays]
        return self.enqueue_at(inputs, output, addresses)

    def enqueue_at(
        self, inputs: Sequence[Tensor], output: Tensor, addresses: Sequence[int | None]
    ) -> bool:
        """Run the plugin on the default stream. The last address is that of the output."""
        own = ctypes.c_void_p(self.address)
        described = (Tensor * len(inputs))(*inputs)
        sources = (ctypes.c_void_p * len(inputs))(*addresses[:-1])
        target = (ctypes.c_void_p * 1)(addresses[-1])
        call = self.calls.harnessEnqueue
        return bool(call(own, described, ctypes.byref(output), sources, target) == 0)

    def accepted_nulls(self, inputs: int) -> int:
        """Return how many of the methods accepted null pointers."""
        count: int = self.calls.harnessNulls(ctypes.c_void_p(self.address), inputs)
        return count


def _facts(text: bytes) -> dict[str, str]:
    return dict(line.split("=", 1) for line in text.decode().splitlines())


def tensorrt_headers(folder: Path) -> Path:
    """Return TensorRT's headers: ALIGNSEG_TENSORRT_HEADERS, or those of 10.14 from a package."""
    given = os.environ.get("ALIGNSEG_TENSORRT_HEADERS")
    if given is not None:
        return Path(given)
    return fetched(folder, "kernel-lens==2.0.1") / "kernel_lens" / "include" / "tensorrt"


def cuda_headers(folder: Path) -> Path:
    """Return CUDA's headers: from a toolkit, from an installed package, or downloaded."""
    installed = importlib.util.find_spec("nvidia")
    packages = [] if installed is None else list(installed.submodule_search_locations or [])
    roots = [os.environ.get("CUDA_HOME", "/usr/local/cuda"), *(f"{p}/cu13" for p in packages)]
    for root in roots:
        include = Path(root) / "include"
        if (include / "cuda_runtime_api.h").exists() and (include / "crt").exists():
            return include
    wanted = ("nvidia-cuda-runtime==13.0.96", "nvidia-cuda-crt==13.0.88")
    return fetched(folder, *wanted) / "nvidia" / "cu13" / "include"


def glue_sources() -> list[Path]:
    """Return the sources of libalignseg_plugin.so besides the kernels."""
    return [path for path in sorted(GLUE.glob("*.cpp")) if path.stem != "register_at_load"]


def build_flags(folder: Path) -> list[str]:
    """Return options of g++ for TensorRT's headers, which are put into `folder`."""
    if shutil.which("g++") is None or sys.platform != "linux":
        pytest.skip("needs Linux and g++")
    return [
        *("-shared", "-DALIGNSEG_REAL_CUDA_HEADERS"),
        *("-isystem", str(tensorrt_headers(folder / "tensorrt"))),
        *("-isystem", str(cuda_headers(folder / "cuda"))),
        *(SANITIZERS if SANITIZE else ()),
    ]


def build_harness(folder: Path, flags: Sequence[str]) -> Path:
    """Build the harness. It holds one library, so each library needs its own harness."""
    harness = folder / "libharness.so"
    host_compile([HOST_CUDA / "plugin_harness.cpp"], harness, flags=flags)
    return harness


def build_library(folder: Path) -> Library:
    """Compile the plugin library with kernels for the CPU, and load it."""
    flags = build_flags(folder)
    harness, plugins = build_harness(folder, flags), folder / "libalignseg_plugin.so"
    compile_plugins(plugins, flags, HOST_CUDA / "failing_new.cpp")
    return Library(harness, plugins)


def compile_plugins(library: Path, flags: Sequence[str], *others: Path) -> None:
    """Compile a plugin library with kernels for the CPU, and `others` into it."""
    names = ("aligned_add", "offset_grid_sample", "upsample_argmax")
    kernels = [KERNELS / f"{name}_kernel.cu" for name in names]
    # -Bsymbolic makes the library call its own operator new, from failing_new.cpp.
    own = ("-fvisibility=hidden", "-Wl,-Bsymbolic")
    host_compile([*glue_sources(), *kernels, *others], library, flags=[*flags, *own])
