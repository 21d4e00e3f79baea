"""The rig on a real GPU: CUDA graphs, events, clocks, and facts about the machine."""

import functools
import importlib.metadata
import os
import platform
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from cuda.bindings import driver

from alignseg_infer.backends import torch_kernels as kernels
from alignseg_infer.spec.model import NetworkSpec
from tests.benchmarks.gpu_timing import Rig, Sizes, Work

GPU = torch.device("cuda", 0)
REAL = Sizes(
    levels=(
        ((129, 257), (257, 513)),  # for 1024 x 2048
        ((65, 129), (257, 513)),
        ((33, 65), (257, 513)),  # twice
        ((65, 129), (129, 257)),  # the largest for 512 x 1024
    ),
    context=((3, 3), (33, 65)),
    channels=256,
    classes=19,
    images=(((1024, 2048), (257, 513)), ((512, 1024), (129, 257))),
    network=NetworkSpec(backbone="resnet101"),
    bytes_per_graph=200e6,  # at least; see cuda_rig
    calls=20,
    network_calls=4,
)
FIRST_SLEEP = 1 << 21  # cycles: about a millisecond
LONGEST_SLEEP = 1 << 32
PACKAGES = ("torch", "triton", "cuda-python", "cuda-bindings", "nvidia-cuda-nvrtc", "numpy")
ROOT = Path(__file__).parents[2]


def cuda_rig(*, rounds: int, warm_seconds: float) -> Rig:
    """Return a rig for the first GPU; the sets of a row are four times as large as its L2."""
    cache = torch.cuda.get_device_properties(0).L2_cache_size
    return Rig(
        device=GPU,
        sizes=replace(REAL, bytes_per_graph=max(REAL.bytes_per_graph, 4 * cache)),
        rounds=rounds,
        warm_seconds=warm_seconds,
        capture=capture_graph,
        clock=Clock(),
        launch=lambda launch: kernels.torch_kernels(0).run(launch),
        compiled=compile_shape,
        watched=watch,
        state=state,
        release=release,
        resources=resources,
    )


def capture_graph(work: Work) -> Work:
    """Capture `work` in a CUDA graph, after a first run outside it, which compiles and tunes."""
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        work()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    graph.replay()
    torch.cuda.synchronize()
    return graph.replay


@dataclass
class Clock:
    """Times captured work between two events that are queued before the GPU reaches the first.

    Attributes:
        cycles: How long the GPU sleeps first; doubled until that is long enough.
    """

    cycles: int = FIRST_SLEEP

    def __call__(self, work: Work) -> float:
        """Return the time in microseconds."""
        while self.cycles <= LONGEST_SLEEP:
            start, end = (torch.cuda.Event(enable_timing=True) for _ in "ab")  # type: ignore[no-untyped-call]
            torch.cuda._sleep(self.cycles)  # type: ignore[no-untyped-call]
            start.record()
            work()
            end.record()
            queued_in_time = not start.query()  # type: ignore[no-untyped-call]
            end.synchronize()
            if queued_in_time:
                return 1e3 * float(start.elapsed_time(end))
            self.cycles *= 2
        raise RuntimeError("the work could not be queued while the GPU slept")


def compile_shape(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile for one shape at a time; raise an error instead of falling back to eager."""
    result: Callable[..., Any] = torch.compile(function, dynamic=False, fullgraph=True)
    return result


def release() -> None:
    """Forget compiled code, of which torch keeps eight shapes per function, and free memory."""
    torch.compiler.reset()
    torch.cuda.empty_cache()


@contextmanager
def watch(name: str) -> Iterator[None]:
    """Run the block between cudaProfilerStart and cudaProfilerStop, in an NVTX range."""
    torch.cuda.synchronize()
    with torch.cuda.profiler.profile(), torch.cuda.nvtx.range(name):
        yield
        torch.cuda.synchronize()


def resources(source: str, name: str, threads: int) -> list[int]:
    """Return the resources of a kernel; see `Rig.resources`."""
    attribute = driver.CUfunction_attribute
    wanted = (
        attribute.CU_FUNC_ATTRIBUTE_NUM_REGS,
        attribute.CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES,
        attribute.CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES,
    )
    cuda = kernels.torch_kernels(0)
    with cuda.cuda.current():
        function = value(
            driver.cuModuleGetFunction(cuda.kernels.load_module(source), name.encode())
        )
        values = [value(driver.cuFuncGetAttribute(one, function)) for one in wanted]
        occupancy = driver.cuOccupancyMaxActiveBlocksPerMultiprocessor
        return [*values, value(occupancy(function, threads, 0))]


def value(answer: tuple[Any, ...]) -> Any:
    """Return the result of a call into CUDA, or raise RuntimeError."""
    status, result = answer
    if status != driver.CUresult.CUDA_SUCCESS:
        raise RuntimeError(str(status))
    return result


@functools.cache
def nvml() -> tuple[Any, Any]:
    """Return the module pynvml and the handle of the GPU."""
    import pynvml

    pynvml.nvmlInit()
    uuid = torch.cuda.get_device_properties(0).uuid
    try:
        return pynvml, pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
    except pynvml.NVMLError:  # in a container that hides which GPU it is
        return pynvml, pynvml.nvmlDeviceGetHandleByIndex(0)


def state() -> str:
    """Return the present clocks, power and temperature as text."""
    try:
        module, handle = nvml()
        sm, memory = (
            module.nvmlDeviceGetClockInfo(handle, kind)
            for kind in (module.NVML_CLOCK_SM, module.NVML_CLOCK_MEM)
        )
        watts = module.nvmlDeviceGetPowerUsage(handle) / 1e3
        degrees = module.nvmlDeviceGetTemperature(handle, module.NVML_TEMPERATURE_GPU)
    except Exception as error:
        return f"Clocks are unknown: {type(error).__name__} {error}."
    return f"After it: SM {sm} MHz, memory {memory} MHz, {watts:.0f} W, {degrees} C."


def limits() -> str:
    """Return the power limit, highest clocks and driver version as text."""
    try:
        module, handle = nvml()
        watts = module.nvmlDeviceGetEnforcedPowerLimit(handle) / 1e3
        sm, memory = (
            module.nvmlDeviceGetMaxClockInfo(handle, kind)
            for kind in (module.NVML_CLOCK_SM, module.NVML_CLOCK_MEM)
        )
        version = module.nvmlSystemGetDriverVersion()
    except Exception as error:
        return f"limits are unknown: {type(error).__name__} {error}"
    return f"power limit {watts:.0f} W, SM up to {sm} MHz, memory {memory} MHz, driver {version}"


def machine(commit: str | None) -> str:
    """Describe the machine of the measurements, as lines of Markdown."""
    properties = torch.cuda.get_device_properties(0)
    gpu = (
        f"{properties.name}, compute capability {properties.major}.{properties.minor}, "
        f"{properties.multi_processor_count} multiprocessors, "
        f"{properties.total_memory / 2**30:.0f} GiB, L2 {properties.L2_cache_size / 2**20:.0f} MiB"
    )
    versions = [f"Python {platform.python_version()}", f"CUDA of torch {torch.version.cuda}"]
    versions += [f"{name} {version_of(name)}" for name in PACKAGES]
    when = datetime.now(timezone.utc).isoformat(timespec="minutes")
    lines = [gpu, limits(), state(), ", ".join(versions)]
    return "\n".join(f"- {line}" for line in [*lines, f"{when}, commit {commit or commit_here()}"])


def version_of(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def commit_here() -> str:
    """Return ALIGNSEG_COMMIT if it is set, otherwise what git says."""
    given = os.environ.get("ALIGNSEG_COMMIT")
    git = shutil.which("git")
    if given or git is None:
        return given or "unknown"
    command = [git, "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"
