"""Fakes of CUDA and TensorRT that move NumPy memory, late as streams do, and keep count.

The engine gives ``logits[n, c, y, x] = image[n, 0, 4y, 4x] * (c + 1)``, or labels
``image[n, 0, y, x]``. Its offset fields, if it has any, are zeros.
"""

import contextlib
import json
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from alignseg_infer.arrays import InputShape
from alignseg_infer.cuda.base import Gpu, call_failed, out_of_memory
from alignseg_infer.cuda.params import PREPROCESS, UPSAMPLE_ARGMAX
from alignseg_infer.files.reading import sha256_of
from alignseg_infer.ops.offset_fields import OffsetField
from alignseg_infer.spec.model import ExportSpec, OutputKind, Precision, Sampler
from alignseg_infer.trt.engine_file import EngineFacts, Profile, sidecar_path
from alignseg_infer.trt.flavours import Flavour, Module, TensorRT
from tests.support.models import SMALL_SPEC

ADA = Gpu("NVIDIA L4", "8.9")
VERSION = (11, 4, 0, 106)
PROFILE = Profile(InputShape(1, 32, 32), InputShape(1, 64, 64), InputShape(2, 64, 96))
EXPORT = ExportSpec(
    output=OutputKind.LOGITS,
    sampler=Sampler.GATHER,
    opset=18,
    rewrites=True,
    size=None,
    batch=None,
    exporter="a test",
    precision=Precision.FP16,
)


class FakeCuda:
    """A fake of the CUDA protocol. Work waits in its stream until that is synchronised.

    Attributes:
        counts: How often each method was called.
        events: What was freed, in order; the engine adds to this list.
        room: Bytes of device memory that are left.
    """

    name = "fake 1.0"

    def __init__(self, gpu: Gpu = ADA, *, can_capture: bool = True) -> None:
        self.gpu = gpu
        self.can_capture = can_capture
        self.counts: Counter[str] = Counter()
        self.events: list[str] = []
        self.room = 1 << 30
        self.failing: set[str] = set()
        self.memory: dict[int, NDArray[np.uint8]] = {}
        self._pinned: dict[int, NDArray[np.uint8]] = {}
        self._streams: dict[int, list[Callable[[], None]]] = {}
        self._graphs: dict[int, list[Callable[[], None]]] = {}
        self._modules: dict[int, bytes] = {}
        self._events: dict[int, float] = {}
        self._captured: dict[int, list[Callable[[], None]]] = {}
        self._next = 1 << 20
        self._thread = threading.local()

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        depth = getattr(self._thread, "depth", 0)
        self._thread.depth = depth + 1
        try:
            yield
        finally:
            self._thread.depth = depth

    def close(self) -> None:
        leaks = (
            self.memory,
            self._pinned,
            self._streams,
            self._graphs,
            self._modules,
            self._events,
        )
        assert not any(leaks), leaks
        self.events.append("cuda closed")

    def _count(self, name: str) -> None:
        assert getattr(self._thread, "depth", 0), f"{name} without the context current"
        self.counts[name] += 1
        if name in self.failing:
            raise call_failed(name, "CUDA_ERROR_ILLEGAL_ADDRESS (an illegal memory access)")

    def _handle(self) -> int:
        self._next += 1 << 28
        return self._next

    def allocate(self, size: int) -> int:
        self._count("allocate")
        if size > self.room:
            raise out_of_memory("device memory", size, self.room)
        self.room -= size
        address = self._handle()
        self.memory[address] = np.full(size, 0xCD, np.uint8)
        return address

    def free(self, address: int) -> None:
        self._count("free")
        self.room += self.memory.pop(address).size
        self.events.append("memory freed")

    def allocate_pinned(self, size: int) -> NDArray[np.uint8]:
        self._count("allocate_pinned")
        memory = np.full(size, 0xCD, np.uint8)
        self._pinned[memory.ctypes.data] = memory
        return memory

    def free_pinned(self, memory: NDArray[np.uint8]) -> None:
        self._count("free_pinned")
        self._pinned.pop(memory.ctypes.data).fill(0xDD)  # late readers see nonsense

    def _is_pinned(self, array: NDArray[Any]) -> bool:
        start = array.ctypes.data
        return any(at <= start < at + memory.size for at, memory in self._pinned.items())

    def copy_to_device(self, address: int, source: NDArray[Any], stream: int) -> None:
        self._count("copy_to_device")
        assert self._is_pinned(source)
        self.enqueue(stream, lambda: self._write(address, source))

    def _write(self, address: int, source: NDArray[Any]) -> None:
        self.memory[address][: source.nbytes] = source.reshape(-1).view(np.uint8)

    def copy_to_host(self, target: NDArray[Any], address: int, stream: int) -> None:
        self._count("copy_to_host")
        assert self._is_pinned(target)
        self.enqueue(stream, lambda: self._read(target, address))

    def _read(self, target: NDArray[Any], address: int) -> None:
        target.reshape(-1).view(np.uint8)[:] = self.memory[address][: target.nbytes]

    def enqueue(self, stream: int, work: Callable[[], None]) -> None:
        self._captured.get(stream, self._streams[stream]).append(work)

    def new_stream(self) -> int:
        self._count("new_stream")
        stream = self._handle()
        self._streams[stream] = []
        return stream

    def free_stream(self, stream: int) -> None:
        self._count("free_stream")
        del self._streams[stream]
        self.events.append("stream freed")

    def synchronize(self, stream: int) -> None:
        self._count("synchronize")
        assert stream not in self._captured
        work, self._streams[stream] = self._streams[stream], []
        for step in work:
            step()

    def new_event(self) -> int:
        self._count("new_event")
        event = self._handle()
        self._events[event] = math.nan
        return event

    def free_event(self, event: int) -> None:
        self._count("free_event")
        del self._events[event]

    def record(self, event: int, stream: int) -> None:
        self._count("record")
        self.enqueue(stream, lambda: self._events.update({event: time.perf_counter()}))

    def elapsed(self, start: int, end: int) -> float:
        return 1e3 * (self._events[end] - self._events[start])

    def begin_capture(self, stream: int) -> None:
        self._count("begin_capture")
        assert self.can_capture
        self._captured[stream] = []

    def end_capture(self, stream: int) -> int:
        captured = self._captured.pop(stream)
        self._count("end_capture")
        graph = self._handle()
        self._graphs[graph] = captured
        return graph

    def launch_graph(self, graph: int, stream: int) -> None:
        self._count("launch_graph")
        for step in self._graphs[graph]:
            self.enqueue(stream, step)

    def free_graph(self, graph: int) -> None:
        self._count("free_graph")
        del self._graphs[graph]
        self.events.append("graph freed")

    def load_module(self, image: bytes) -> int:
        self._count("load_module")
        assert image.startswith(b"\x7fELF"), "no cubin"
        module = self._handle()
        self._modules[module] = image
        return module

    def free_module(self, module: int) -> None:
        self._count("free_module")
        del self._modules[module]
        self.events.append("module freed")

    def launch(
        self,
        module: int,
        kernel: str,
        arguments: tuple[np.generic | bytes, ...],
        *,
        grid: tuple[int, int, int],
        block: tuple[int, int, int],
        stream: int,
    ) -> None:
        """Run the kernel compiled for the CPU; see tests/support/host_kernels.py."""
        self._count("launch")
        assert f"\0{kernel}\0".encode() in self._modules[module], f"no {kernel} in the cubin"
        assert grid[1:] == block[1:] == (1, 1)
        (content,) = arguments
        assert isinstance(content, bytes)
        structure = PREPROCESS if kernel.startswith("preprocess") else UPSAMPLE_ARGMAX
        params = np.frombuffer(bytearray(content), structure)[0]
        self.enqueue(stream, lambda: self._run_kernel(kernel, params, grid[0], block[0]))

    def _run_kernel(self, kernel: str, params: Any, blocks: int, threads: int) -> None:
        from tests.support.host_entries import run_kernel

        here = params.copy()
        for name in here.dtype.names:
            if here.dtype[name] == np.uint64 and here[name]:
                here[name] = self._real_address(int(here[name]))
        run_kernel(kernel, here.tobytes(), blocks, threads)

    def _real_address(self, address: int) -> int:
        for start, memory in self.memory.items():
            if start <= address < start + memory.size:
                return memory.ctypes.data + address - start
        raise AssertionError(f"{address:#x} is not memory of the GPU")


class FakeTensorRT:
    """The part of the module ``tensorrt`` that runs an engine, on `cuda`."""

    LayerInformationFormat = SimpleNamespace(JSON="json")

    class ILogger:
        pass

    def __init__(self, cuda: FakeCuda) -> None:
        self.cuda = cuda
        self.refuses: set[str] = set()  # names of calls that fail
        self.contexts = 0
        self.configs: list[FakeConfig | None] = []
        self.registry = FakeRegistry()
        self.host_code_allowed: list[bool] = []  # for each engine that was deserialised

    def Runtime(self, log: Any) -> "FakeRuntime":
        return FakeRuntime(self, log)

    def get_plugin_registry(self) -> "FakeRegistry":
        return self.registry

    def loaded(self, version: tuple[int, ...] = VERSION) -> TensorRT:
        return TensorRT(Flavour.TENSORRT, cast("Module", self), version)


class FakeTensorRTRTX(FakeTensorRT):
    """The same for TensorRT for RTX."""

    CudaGraphStrategy = SimpleNamespace(WHOLE_GRAPH_CAPTURE="whole")

    def loaded(self, version: tuple[int, ...] = VERSION) -> TensorRT:
        return TensorRT(Flavour.TENSORRT_RTX, cast("Module", self), version)


class FakeRegistry:
    """A registry of plugins. A library is a text file of names, versions and namespaces.

    Attributes:
        creators: Registered names, versions and namespaces.
        loaded: Paths of the libraries that were loaded.
    """

    def __init__(self) -> None:
        self.creators: set[tuple[str, str, str]] = set()
        self.loaded: list[str] = []

    def get_creator(self, type: str, version: str, plugin_namespace: str = "") -> object | None:
        key = (type, version, plugin_namespace)
        return key if key in self.creators else None

    @property
    def all_creators(self) -> list[Any]:
        return [
            SimpleNamespace(name=name, plugin_version=version, plugin_namespace=space)
            for name, version, space in sorted(self.creators)
        ]

    def load_library(self, plugin_path: str) -> object | None:
        lines = Path(plugin_path).read_text().splitlines()[1:]
        creators = {(name, version, space) for name, version, space in map(str.split, lines)}
        if not creators or creators & self.creators:  # no library, or registered already
            return None
        self.creators |= creators
        self.loaded.append(plugin_path)
        return plugin_path


def write_plugin_library(
    path: Path, names: Iterable[str], version: str = "1", tensorrt: str = "11.1"
) -> Path:
    """A library that `FakeRegistry` loads, built for a version of TensorRT."""
    lines = [f"alignseg plugins for TensorRT {tensorrt}"]
    path.write_text("\n".join(lines + [f"{name} {version} alignseg" for name in names]))
    return path


class FakeConfig:
    cache: "FakeCache | None" = None
    cuda_graph_strategy = "disabled"

    def create_runtime_cache(self) -> "FakeCache":
        return FakeCache()

    def set_runtime_cache(self, cache: "FakeCache") -> bool:
        self.cache = cache
        return True


class FakeCache:
    """Accepts data that begins with ``ours``; each run adds a kernel."""

    def __init__(self) -> None:
        self.content = b"ours"

    def deserialize(self, content: bytes) -> bool:
        if not content.startswith(b"ours"):
            return False
        self.content = content
        return True

    def serialize(self) -> bytes:
        return self.content + b"+kernel"


class FakeRuntime:
    engine_host_code_allowed = False

    def __init__(self, module: FakeTensorRT, log: Any) -> None:
        self._module, self._log = module, log

    def deserialize_cuda_engine(self, plan: bytes) -> "FakeEngine | None":
        content = json.loads(plan)
        self._module.host_code_allowed.append(self.engine_host_code_allowed)
        if content.get("host code") and not self.engine_host_code_allowed:
            self._log.log(SimpleNamespace(name="ERROR"), "host code is not allowed")
            return None
        for name in content.get("plugins", []):
            if self._module.registry.get_creator(name, "1", "alignseg") is None:
                self._log.log(SimpleNamespace(name="ERROR"), f"no creator of {name}")
                return None
        if "deserialize" in self._module.refuses:
            for number in range(20):
                self._log.log(SimpleNamespace(name="ERROR"), f"bad magic {number}\n")
            return None
        return FakeEngine(self._module, self._log, content)

    def __del__(self) -> None:
        self._module.cuda.events.append("runtime gone")


class FakeEngine:
    """An engine described by the JSON of its plan."""

    device_memory_size_v2 = 300 << 20

    def __init__(self, module: FakeTensorRT, log: Any, plan: dict[str, Any]) -> None:
        self.module, self.log, self.plan = module, log, plan
        self.num_io_tensors = len(plan["tensors"])

    def create_engine_inspector(self) -> Any:
        layers = [
            {"LayerType": "kgen", "Outputs": [{"Name": "a", "Format/Datatype": "Half"}]},
            {"LayerType": "conv", "Outputs": [{"Format/Datatype": "Row major linear FP32 format"}]},
            {"LayerType": "conv", "Outputs": [{"DataType": "Int8", "Format": "Thirty-two wide"}]},
            {"LayerType": "NoOp", "Outputs": []},
            "only its name",
        ]
        said = json.dumps({"Layers": layers, "I/O Tensors": []})
        return SimpleNamespace(get_engine_information=lambda kind: said if kind == "json" else "")

    def get_tensor_name(self, index: int) -> str:
        return str(self.plan["tensors"][index][0])

    def _tensor(self, name: str) -> list[str]:
        return next(tensor for tensor in self.plan["tensors"] if tensor[0] == name)

    def get_tensor_mode(self, name: str) -> Any:
        return SimpleNamespace(name=self._tensor(name)[1])

    def get_tensor_dtype(self, name: str) -> Any:
        return SimpleNamespace(name=self._tensor(name)[2])

    @property
    def hardware_compatibility_level(self) -> Any:
        return SimpleNamespace(name=self.plan.get("level", "NONE"))

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        shape: list[int] = self.plan["shapes"].get(name, [-1, -1, -1, -1])
        return tuple(shape)

    def get_tensor_profile_shape(self, name: str, index: int) -> list[tuple[int, ...]]:
        assert (name, index) == ("image", 0)
        return [tuple(shape) for shape in self.plan["profile"]]

    def create_runtime_config(self) -> "FakeConfig":
        return FakeConfig()

    def create_execution_context(self, config: "FakeConfig | None" = None) -> "FakeContext | None":
        self.module.configs.append(config)
        if "context" in self.module.refuses:
            self.log.log(SimpleNamespace(name="ERROR"), "OutOfMemory: 300 MiB")
            return None
        self.module.contexts += 1
        return FakeContext(self)

    def __del__(self) -> None:
        self.module.cuda.events.append("engine gone")


class FakeContext:
    def __init__(self, engine: FakeEngine) -> None:
        self._engine, self._cuda = engine, engine.module.cuda
        self._addresses: dict[str, int] = {}
        self._shape: tuple[int, ...] = ()
        self._busy = threading.Lock()

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        low, _, high = self._engine.plan["profile"]
        self._shape = shape
        return name == "image" and all(
            a <= b <= c for a, b, c in zip(low, shape, high, strict=True)
        )

    def infer_shapes(self) -> list[str]:
        return [] if self._shape else ["image"]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        batch, _, height, width = (self._shape[axis] for axis in self._axes())
        quarter = (-(-height // 4), -(-width // 4))
        if name == "logits":
            return (batch, 19, *quarter)
        if name == "labels":
            return (batch, height, width, 1) if self._is_for_cameras() else (batch, height, width)
        return (batch, 2, *quarter)

    def _is_for_cameras(self) -> bool:
        """Whether images are (N, H, W, 3) uint8, and labels (N, H, W, 1)."""
        return self._engine._tensor("image")[2] == "UINT8"

    def _axes(self) -> tuple[int, int, int, int]:
        return (0, 3, 1, 2) if self._is_for_cameras() else (0, 1, 2, 3)

    def _type(self, name: str) -> type[np.generic]:
        types: dict[str, type[np.generic]]
        types = {"FLOAT": np.float32, "UINT8": np.uint8, "INT32": np.int32, "HALF": np.float16}
        return types[self._engine._tensor(name)[2]]

    def get_max_output_size(self, name: str) -> int:
        item = np.dtype(self._type(name)).itemsize
        return int(np.prod(self.get_tensor_shape(name))) * item

    def set_tensor_address(self, name: str, address: int) -> bool:
        self._addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        capturing = stream in self._cuda._captured
        refuses = self._engine.module.refuses
        if "enqueue" in refuses or (capturing and "capture" in refuses):
            self._engine.log.log(SimpleNamespace(name="ERROR"), "this layer synchronises")
            return False
        self._cuda.counts["enqueue"] += 1
        assert set(self._addresses) == {tensor[0] for tensor in self._engine.plan["tensors"]}
        addresses, shape = dict(self._addresses), self._shape
        self._cuda.enqueue(stream, lambda: self._run(addresses, shape))
        return True

    def _run(self, addresses: dict[str, int], shape: tuple[int, ...]) -> None:
        assert self._busy.acquire(blocking=False), "two calls in one context"
        memory = self._cuda.memory
        kind = np.dtype(self._type("image"))
        size = kind.itemsize * int(np.prod(shape))
        image = memory[addresses["image"]][:size].view(kind).reshape(shape).astype(np.float32)
        image = image.transpose(self._axes())
        for name in set(addresses) - {"image"}:
            output = self._output(name, image).astype(self._type(name))
            memory[addresses[name]][: output.nbytes] = output.reshape(-1).view(np.uint8)
        self._busy.release()

    @staticmethod
    def _output(name: str, image: NDArray[np.float32]) -> NDArray[np.float32]:
        if name == "labels":
            return image[:, 0]
        if name == "logits":
            return expected_logits(image)
        return np.zeros_like(image[:, :2, ::4, ::4])

    def __del__(self) -> None:
        self._cuda.events.append("context gone")


def plan_of(output: str = "logits", data_type: str = "FLOAT", **changes: Any) -> bytes:
    """Return a plan that `FakeTensorRT` reads."""
    shapes = (PROFILE.minimum, PROFILE.optimum, PROFILE.maximum)
    plan = {
        "tensors": [["image", "INPUT", "FLOAT"], [output, "OUTPUT", data_type]],
        "profile": [[s.batch, 3, s.height, s.width] for s in shapes],
        "shapes": {
            "image": [-1, 3, -1, -1],
            output: [-1, 19, -1, -1] if output == "logits" else [-1, -1, -1],
        },
    }
    return json.dumps({**plan, **changes}).encode()


def with_offset_fields(plan: bytes) -> bytes:
    """Return the plan of the same engine with its offset fields as outputs."""
    content = json.loads(plan)
    content["tensors"] += [[field.output_name, "OUTPUT", "FLOAT"] for field in OffsetField]
    return json.dumps(content).encode()


def write_engine(path: Path, plan: bytes | None = None, **changes: Any) -> EngineFacts:
    """Write a plan file and its facts, after making `changes` to the facts."""
    path.write_bytes(plan_of() if plan is None else plan)
    facts = EngineFacts(
        spec=replace(SMALL_SPEC, export=EXPORT),
        sha256=sha256_of(path),
        flavour=Flavour.TENSORRT,
        tensorrt_version=".".join(map(str, VERSION)),
        version_compatible=False,
        hardware_compatibility="none",
        compute_capabilities=(),
        gpu=ADA,
        profile=PROFILE,
        plugins=(),
        layers=(),
        source_sha256="0" * 64,
        verification=None,
        builder="a test",
    )
    facts = replace(facts, **changes)
    sidecar_path(path).write_text(facts.to_json(), encoding="utf-8")
    return facts


def image_of(shape: tuple[int, ...], seed: int = 0) -> NDArray[np.float32]:
    """Make a batch of this shape."""
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def expected_logits(batch: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return what the engine computes for the batch."""
    factors = np.arange(1, 20, dtype=np.float32).reshape(1, 19, 1, 1)
    return batch[:, :1, ::4, ::4] * factors
