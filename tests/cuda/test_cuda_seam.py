"""The CUDA seam without a GPU: the choice of package, its errors, and that its calls exist.

tests/gpu/test_gpu_cuda.py runs the calls.
"""

import ctypes
import subprocess
import sys
import threading
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alignseg_infer import CudaError, DeviceError, MissingDependencyError, OptionError
from alignseg_infer.cuda import opening as seam
from alignseg_infer.cuda.base import Cuda, CudaPackage
from alignseg_infer.cuda.opening import open_cuda
from tests.support.waiting import PATIENCE

driver = pytest.importorskip("cuda.bindings.driver", reason="cuda-python is not installed")

from alignseg_infer.cuda import with_cuda_python as cuda_python  # noqa: E402  which needs that package
from alignseg_infer.cuda.with_cuda_python import CudaPython  # noqa: E402

PACKAGES = (CudaPackage.CUDA_PYTHON, CudaPackage.PYCUDA)


def has_driver() -> bool:
    try:
        return bool(driver.cuInit(0)[0] == driver.CUresult.CUDA_SUCCESS)
    except RuntimeError:
        return False


@pytest.mark.skipif(has_driver(), reason="this machine has an NVIDIA driver")
@pytest.mark.parametrize("package", [CudaPackage.AUTO, CudaPackage.CUDA_PYTHON])
def test_no_driver(package: str) -> None:
    with pytest.raises(DeviceError, match=r"no working NVIDIA driver: (?s:.*)nvidia-smi") as caught:
        open_cuda(0, package)
    assert not isinstance(caught.value, CudaError)


def without(monkeypatch: pytest.MonkeyPatch, *packages: CudaPackage) -> None:
    """Make packages impossible to import, even for modules that were imported before."""
    names = {CudaPackage.CUDA_PYTHON: ("cuda", "cuda_python"), CudaPackage.PYCUDA: ("pycuda",)}
    for package in packages:
        for name in [name for name in sys.modules if name.split(".")[0] == names[package][0]]:
            monkeypatch.setitem(sys.modules, name, None)
        monkeypatch.setitem(sys.modules, names[package][0], None)
    for module in ("with_cuda_python", "with_pycuda"):
        name = f"alignseg_infer.cuda.{module}"
        monkeypatch.delitem(sys.modules, name, raising=False)


@pytest.mark.parametrize("package", [*PACKAGES, CudaPackage.AUTO])
def test_not_installed(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, *PACKAGES)
    with pytest.raises(MissingDependencyError, match="pip install cuda-python"):
        open_cuda(0, package)


def test_auto_takes_cuda_python_then_pycuda(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []

    def opener(name: str, error: Exception | None) -> Callable[[int], Any]:
        def open_it(index: int) -> Any:
            opened.append(name)
            if error:
                raise error
            return name

        return open_it

    missing = MissingDependencyError("a", "b", "c")
    monkeypatch.setattr(seam, "_open_pycuda", opener("pycuda", None))
    monkeypatch.setattr(seam, "_open_cuda_python", opener("cuda-python", None))
    open_cuda()
    monkeypatch.setattr(seam, "_open_cuda_python", opener("cuda-python", missing))
    open_cuda()
    broken = DeviceError("a", "b", "c")  # a GPU that does not work is not a reason to try another
    monkeypatch.setattr(seam, "_open_cuda_python", opener("cuda-python", broken))
    with pytest.raises(DeviceError):
        open_cuda()
    assert opened == ["cuda-python", "cuda-python", "pycuda", "cuda-python"]


def test_unknown_package() -> None:
    with pytest.raises(OptionError, match="cuda='cupy'"):
        open_cuda(0, "cupy")


ARRAY = np.zeros(4, np.float32)
CALLS: dict[str, tuple[Any, ...]] = {
    "allocate": (16,),
    "free": (4096,),
    "allocate_pinned": (16,),
    "free_pinned": (np.zeros(4, np.uint8),),
    "copy_to_device": (4096, ARRAY, 1),
    "copy_to_host": (ARRAY, 4096, 1),
    "new_stream": (),
    "free_stream": (1,),
    "synchronize": (1,),
    "new_event": (),
    "free_event": (1,),
    "record": (1, 1),
    "elapsed": (1, 1),
    "begin_capture": (1,),
    "end_capture": (1,),
    "launch_graph": (1, 1),
    "free_graph": (1,),
    "load_module": (b"ptx",),
    "free_module": (1,),
    "close": (),
}


@pytest.mark.skipif(has_driver(), reason="this machine has an NVIDIA driver")
@pytest.mark.parametrize("name", CALLS)
def test_cuda_python_takes_these_arguments(name: str) -> None:
    """cuda-python converts them before it loads the driver, so a wrong one is a TypeError."""
    gpu = object.__new__(CudaPython)
    gpu._device = driver.CUdevice(0)
    gpu._context = driver.CUcontext(1)
    gpu._functions = {1: {}}
    with pytest.raises(RuntimeError, match="driver"):
        getattr(gpu, name)(*CALLS[name])


def test_every_call_of_the_seam_is_tried() -> None:
    methods = {name for name, value in vars(Cuda).items() if isinstance(value, types.FunctionType)}
    public = {name for name in methods if not name.startswith("_")}
    assert public == {*CALLS, "current", "launch"}
    assert public <= set(dir(CudaPython))


Answer = tuple[Any, ...] | Callable[..., tuple[Any, ...]]


class Statuses:
    """A driver with given answers or functions; everything else comes from cuda-python."""

    def __init__(self, **answers: Answer) -> None:
        self._answers = answers

    def __getattr__(self, name: str) -> Any:
        answer = self._answers.get(name)
        if answer is None:
            return getattr(driver, name)
        return answer if callable(answer) else lambda *_: answer


RESULT = driver.CUresult
TEXT = (RESULT.CUDA_SUCCESS, b"invalid argument")


def on(monkeypatch: pytest.MonkeyPatch, **answers: Answer) -> CudaPython:
    monkeypatch.setattr(cuda_python, "driver", Statuses(cuGetErrorString=TEXT, **answers))
    return object.__new__(CudaPython)


def test_out_of_memory_says_how_much(monkeypatch: pytest.MonkeyPatch) -> None:
    none_left = (RESULT.CUDA_ERROR_OUT_OF_MEMORY, None)
    room = (RESULT.CUDA_SUCCESS, 5 << 20, 100 << 20)
    gpu = on(monkeypatch, cuMemAlloc=none_left, cuMemHostAlloc=none_left, cuMemGetInfo=room)
    with pytest.raises(CudaError, match=r"OUT_OF_MEMORY: 30.0 MiB of device memory .* 5 MiB are"):
        gpu.allocate(30 << 20)
    with pytest.raises(CudaError, match=r"OUT_OF_MEMORY: 30.0 MiB of page-locked host memory"):
        gpu.allocate_pinned(30 << 20)


def test_error_names_what_was_done_and_cudas_name(monkeypatch: pytest.MonkeyPatch) -> None:
    bad = (RESULT.CUDA_ERROR_INVALID_VALUE,)
    gpu = on(monkeypatch, cuStreamSynchronize=bad, cuMemAlloc=(*bad, None))
    with pytest.raises(CudaError, match=r"waiting .* CUDA_ERROR_INVALID_VALUE \(invalid argument"):
        gpu.synchronize(1)
    with pytest.raises(CudaError, match="allocating device memory failed"):
        gpu.allocate(1)


def test_no_gpu_behind_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    on(monkeypatch, cuInit=(RESULT.CUDA_ERROR_NO_DEVICE,))
    with pytest.raises(DeviceError, match="CUDA_ERROR_NO_DEVICE"):
        CudaPython(0)
    count = (RESULT.CUDA_SUCCESS, 2)
    on(monkeypatch, cuInit=(RESULT.CUDA_SUCCESS,), cuDeviceGetCount=count)
    with pytest.raises(DeviceError, match=r"cuda:2 was asked for, but CUDA sees 2(?s:.*)to cuda:1"):
        CudaPython(2)


def test_pycuda_without_a_driver(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The import of an installed PyCUDA fails then."""
    without(monkeypatch, CudaPackage.PYCUDA)
    monkeypatch.delitem(sys.modules, "pycuda")
    (tmp_path / "pycuda").mkdir()
    (tmp_path / "pycuda" / "__init__.py").write_text("VERSION_TEXT = '2026.1'")
    missing = "libcuda.so.1: cannot open shared object file: No such file or directory"
    (tmp_path / "pycuda" / "driver.py").write_text(f"raise ImportError({missing!r})")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(DeviceError, match=r"no working NVIDIA driver: libcuda"):
        open_cuda(0, CudaPackage.PYCUDA)


@pytest.mark.parametrize(
    "name", ["cuda.opening", "trt.runtime.checks", "trt.runtime.runner", "trt.runtime.backend"]
)
def test_importing_makes_no_context(name: str) -> None:
    code = (
        f"import sys, alignseg_infer.{name}; "
        "print([m for m in ('cuda', 'pycuda', 'tensorrt', 'tensorrt_rtx') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_a_function_is_looked_up_once_per_module_and_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is looked up again after its module was freed, since another may get the same handle."""
    found: list[tuple[int, bytes]] = []
    ran: list[int] = []

    def find(module: int, name: bytes) -> tuple[Any, int]:
        found.append((module, name))
        return RESULT.CUDA_SUCCESS, 100 + len(found)

    def start(function: int, *places: int) -> tuple[Any]:
        ran.append(function)
        return (RESULT.CUDA_SUCCESS,)

    fine = (RESULT.CUDA_SUCCESS,)
    loads: dict[str, Answer] = {"cuModuleLoadData": (*fine, 7), "cuModuleUnload": fine}
    gpu = on(monkeypatch, **loads, cuModuleGetFunction=find, cuLaunchKernel=start)
    gpu._functions = {}
    places: dict[str, Any] = {"grid": (1, 1, 1), "block": (32, 1, 1), "stream": 1}
    module = gpu.load_module(b"image")
    for kernel in ("a", "a", "b", "a"):
        gpu.launch(module, kernel, (b"structure",), **places)
    gpu.free_module(module)
    gpu.launch(gpu.load_module(b"image"), "a", (b"structure",), **places)
    assert found == [(7, b"a"), (7, b"b"), (7, b"a")]
    assert ran == [101, 101, 102, 101, 103]


def test_arguments_are_read_where_the_launch_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA gets an array of addresses: of scalars, and of a structure's bytes with zeros inside."""
    seen: list[bytes] = []
    arguments = (np.uint64(5), b"\0\1\0\2", np.float32(1.5))
    sizes = (8, 4, 4)

    def start(*given: int) -> tuple[Any]:
        pointers = (ctypes.c_size_t * 3).from_address(given[-2])
        seen.extend(
            ctypes.string_at(pointer, size) for pointer, size in zip(pointers, sizes, strict=True)
        )
        return (RESULT.CUDA_SUCCESS,)

    gpu = on(monkeypatch, cuModuleGetFunction=(RESULT.CUDA_SUCCESS, 1), cuLaunchKernel=start)
    gpu._functions = {1: {}}
    gpu.launch(1, "k", arguments, grid=(1, 1, 1), block=(1, 1, 1), stream=1)
    assert seen == [one if isinstance(one, bytes) else one.tobytes() for one in arguments]


def test_current_is_given_back_when_its_block_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []

    def push(context: int) -> tuple[Any]:
        done.append("push")
        return (RESULT.CUDA_SUCCESS,)

    def pop() -> tuple[Any, int]:
        done.append("pop")
        return RESULT.CUDA_SUCCESS, 1

    gpu = on(monkeypatch, cuCtxPushCurrent=push, cuCtxPopCurrent=pop)
    gpu._context = 1
    with pytest.raises(KeyError), gpu.current(), gpu.current():
        raise KeyError
    assert done == ["push", "push", "pop", "pop"]


def test_threads_that_launch_at_once_keep_their_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA reads them during the launch, while another thread may start its own launch."""
    inside = threading.Barrier(2)
    kept: list[tuple[int, bytes]] = []

    def start(function: int, *given: int) -> tuple[Any]:
        inside.wait(PATIENCE)
        (pointer,) = (ctypes.c_size_t * 1).from_address(given[-2])
        kept.append((function, ctypes.string_at(pointer, 8)))
        inside.wait(PATIENCE)
        return (RESULT.CUDA_SUCCESS,)

    gpu = on(monkeypatch, cuLaunchKernel=start)
    gpu._functions = {1: {"a": 10, "b": 11}}

    def launch(name: str, content: bytes) -> None:
        gpu.launch(1, name, (content,), grid=(1, 1, 1), block=(1, 1, 1), stream=1)

    threads = [
        threading.Thread(target=launch, args=one)
        for one in (("a", b"aaaaaaaa"), ("b", b"bbbbbbbb"))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert sorted(kept) == [(10, b"aaaaaaaa"), (11, b"bbbbbbbb")]
