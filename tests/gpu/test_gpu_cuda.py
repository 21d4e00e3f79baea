"""The CUDA seam on a GPU, with each package that is installed: ``python3 -m pytest -m gpu``."""

import threading
from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from alignseg_infer.cuda.base import Cuda, CudaPackage
from alignseg_infer.cuda.opening import open_cuda
from alignseg_infer.errors import CudaError, DeviceError, MissingDependencyError

pytestmark = pytest.mark.gpu

SCALE = b"""
.version 6.4
.target sm_75
.address_size 64
.visible .entry scale(.param .u64 data, .param .f32 factor, .param .u32 count)
{
    .reg .pred %p;
    .reg .f32 %f<3>;
    .reg .b32 %r<5>;
    .reg .b64 %rd<4>;
    ld.param.u64 %rd1, [data];
    ld.param.f32 %f1, [factor];
    ld.param.u32 %r1, [count];
    mov.u32 %r2, %ctaid.x;
    mov.u32 %r3, %ntid.x;
    mov.u32 %r4, %tid.x;
    mad.lo.s32 %r2, %r2, %r3, %r4;
    setp.ge.u32 %p, %r2, %r1;
    @%p bra DONE;
    cvta.to.global.u64 %rd2, %rd1;
    mul.wide.u32 %rd3, %r2, 4;
    add.s64 %rd2, %rd2, %rd3;
    ld.global.f32 %f2, [%rd2];
    mul.f32 %f2, %f2, %f1;
    st.global.f32 [%rd2], %f2;
DONE:
    ret;
}
"""


@pytest.fixture(params=[CudaPackage.CUDA_PYTHON, CudaPackage.PYCUDA])
def gpu(request: pytest.FixtureRequest) -> Iterator[Cuda]:
    """The first GPU, its context not current."""
    try:
        cuda = open_cuda(0, request.param)
    except CudaError:  # there is a GPU, and we call it wrongly
        raise
    except (DeviceError, MissingDependencyError) as error:
        pytest.skip(error.problem)
    yield cuda
    cuda.close()


class Buffers:
    """`size` bytes on the host and on the GPU, and a stream."""

    def __init__(self, gpu: Cuda, size: int) -> None:
        self.gpu = gpu
        self.host = gpu.allocate_pinned(size)
        self.address = gpu.allocate(size)
        self.stream = gpu.new_stream()

    def round_trip(self, values: NDArray[np.uint8]) -> NDArray[np.uint8]:
        self.host[:] = values
        self.gpu.copy_to_device(self.address, self.host, self.stream)
        self.gpu.synchronize(self.stream)
        self.host[:] = 0
        self.gpu.copy_to_host(self.host, self.address, self.stream)
        self.gpu.synchronize(self.stream)
        return self.host.copy()

    def free(self) -> None:
        self.gpu.free_stream(self.stream)
        self.gpu.free(self.address)
        self.gpu.free_pinned(self.host)


@pytest.fixture
def buffers(gpu: Cuda) -> Iterator[Buffers]:
    """4096 bytes; the context is current."""
    with gpu.current():
        made = Buffers(gpu, 4096)
        yield made
        made.free()


def noise(size: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, size, np.uint8)


def test_the_gpu_is_the_one_pytorch_sees(gpu: Cuda) -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("PyTorch sees no CUDA device")
    assert gpu.gpu.name == torch.cuda.get_device_name(0)
    assert gpu.gpu.compute_capability == "{}.{}".format(*torch.cuda.get_device_capability(0))


def test_round_trip(buffers: Buffers) -> None:
    for seed in range(3):
        np.testing.assert_array_equal(buffers.round_trip(noise(4096, seed)), noise(4096, seed))


def test_parts_of_a_buffer(buffers: Buffers) -> None:
    gpu, stream = buffers.gpu, buffers.stream
    buffers.round_trip(noise(4096))
    values = np.arange(16, dtype=np.float32).reshape(2, 8)
    part = buffers.host[:64].view(np.float32).reshape(2, 8)
    part[...] = values
    gpu.copy_to_device(buffers.address + 128, part, stream)
    gpu.copy_to_host(buffers.host, buffers.address, stream)
    gpu.synchronize(stream)
    expected = noise(4096)
    expected[128:192] = values.reshape(-1).view(np.uint8)
    np.testing.assert_array_equal(buffers.host, expected)


def test_cupy_reads_the_same_memory(buffers: Buffers) -> None:
    """Both are in the primary context, so an address means the same."""
    cupy = pytest.importorskip("cupy")
    buffers.round_trip(noise(4096))
    memory = cupy.cuda.UnownedMemory(buffers.address, 4096, buffers)
    array = cupy.ndarray((4096,), cupy.uint8, cupy.cuda.MemoryPointer(memory, 0))
    np.testing.assert_array_equal(cupy.asnumpy(array), noise(4096))


def test_pytorch_works_before_between_and_after(gpu: Cuda) -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("PyTorch sees no CUDA device")
    before = torch.arange(1000, device="cuda")
    with gpu.current():
        made = Buffers(gpu, 4096)
        between = before * 2
        np.testing.assert_array_equal(made.round_trip(noise(4096)), noise(4096))
        made.free()
    assert int((before + between).sum()) == 3 * 999 * 500


def test_events_measure_time(gpu: Cuda) -> None:
    with gpu.current():
        made = Buffers(gpu, 256 << 20)
        start, end = gpu.new_event(), gpu.new_event()
        gpu.record(start, made.stream)
        gpu.copy_to_device(made.address, made.host, made.stream)
        gpu.record(end, made.stream)
        elapsed = gpu.elapsed(start, end)
        assert 0.5 < elapsed < 10_000  # 256 MiB: 500 GB/s at most, 25 MB/s at least
        gpu.free_event(start)
        gpu.free_event(end)
        made.free()


def test_a_graph_reads_what_is_there_when_it_is_launched(gpu: Cuda, buffers: Buffers) -> None:
    if not gpu.can_capture:
        pytest.skip(f"{gpu.name} has no graph capture")
    result = gpu.allocate_pinned(4096)
    gpu.begin_capture(buffers.stream)
    gpu.copy_to_device(buffers.address, buffers.host, buffers.stream)
    gpu.copy_to_host(result, buffers.address, buffers.stream)
    graph = gpu.end_capture(buffers.stream)
    for seed in range(3):
        buffers.host[:], result[:] = noise(4096, seed), 0
        gpu.launch_graph(graph, buffers.stream)
        gpu.synchronize(buffers.stream)
        np.testing.assert_array_equal(result, noise(4096, seed))
    gpu.free_graph(graph)
    gpu.free_pinned(result)


def test_another_thread_may_allocate_during_a_capture(gpu: Cuda, buffers: Buffers) -> None:
    if not gpu.can_capture:
        pytest.skip(f"{gpu.name} has no graph capture")
    results: list[bool] = []

    def other() -> None:
        with gpu.current():
            made = Buffers(gpu, 4096)
            results.append(np.array_equal(made.round_trip(noise(4096)), noise(4096)))
            made.free()

    gpu.begin_capture(buffers.stream)
    thread = threading.Thread(target=other)
    thread.start()
    thread.join(30)
    gpu.copy_to_device(buffers.address, buffers.host, buffers.stream)
    gpu.free_graph(gpu.end_capture(buffers.stream))
    assert results == [True]


def test_a_forbidden_call_in_a_capture_is_an_error(gpu: Cuda, buffers: Buffers) -> None:
    if not gpu.can_capture:
        pytest.skip(f"{gpu.name} has no graph capture")
    gpu.begin_capture(buffers.stream)
    with pytest.raises(CudaError, match="CUDA_ERROR_STREAM_CAPTURE"):
        gpu.synchronize(buffers.stream)
    with pytest.raises(CudaError, match="CUDA_ERROR_STREAM_CAPTURE"):
        gpu.end_capture(buffers.stream)
    np.testing.assert_array_equal(buffers.round_trip(noise(4096)), noise(4096))


def test_kernel(gpu: Cuda, buffers: Buffers) -> None:
    module = gpu.load_module(SCALE)
    values = np.arange(1024, dtype=np.float32)
    buffers.round_trip(values.view(np.uint8))
    arguments = (np.uint64(buffers.address), np.float32(2.5), np.uint32(1000))
    places = {"grid": (8, 1, 1), "block": (128, 1, 1)}
    gpu.launch(module, "scale", arguments, **places, stream=buffers.stream)
    gpu.copy_to_host(buffers.host, buffers.address, buffers.stream)
    gpu.synchronize(buffers.stream)
    seen = buffers.host.view(np.float32)
    np.testing.assert_array_equal(seen[:1000], values[:1000] * 2.5)
    np.testing.assert_array_equal(seen[1000:], values[1000:])
    with pytest.raises(CudaError, match="the kernel nowhere"):
        gpu.launch(module, "nowhere", arguments, **places, stream=buffers.stream)
    gpu.free_module(module)


def test_kernel_of_a_second_module_and_arguments_as_bytes(gpu: Cuda, buffers: Buffers) -> None:
    """What was found in a module must be forgotten with it."""
    buffers.round_trip(np.ones(1024, np.float32).view(np.uint8))
    scalars = (np.uint64(buffers.address), np.float32(2.0), np.uint32(1000))
    places = {"grid": (8, 1, 1), "block": (128, 1, 1)}
    for arguments in (scalars, tuple(scalar.tobytes() for scalar in scalars)):
        module = gpu.load_module(SCALE)
        for _ in range(2):
            gpu.launch(module, "scale", arguments, **places, stream=buffers.stream)
        gpu.synchronize(buffers.stream)
        gpu.free_module(module)
    gpu.copy_to_host(buffers.host, buffers.address, buffers.stream)
    gpu.synchronize(buffers.stream)
    np.testing.assert_array_equal(buffers.host.view(np.float32)[:1001], [16.0] * 1000 + [1.0])


def test_too_much_memory(gpu: Cuda) -> None:
    with gpu.current():
        with pytest.raises(CudaError, match=r"OUT_OF_MEMORY: 1073741824\.0 MiB of device memory"):
            gpu.allocate(1 << 50)
        made = Buffers(gpu, 4096)  # and it goes on
        np.testing.assert_array_equal(made.round_trip(noise(4096)), noise(4096))
        made.free()


def test_wrong_image_is_an_error(gpu: Cuda) -> None:
    with gpu.current(), pytest.raises(CudaError, match="loading kernels failed"):
        gpu.load_module(b"this is no kernel")


def test_threads_share_the_context(gpu: Cuda) -> None:
    results: list[bool] = []

    def work(seed: int) -> None:
        with gpu.current():
            made = Buffers(gpu, 1 << 20)
            same = [
                np.array_equal(made.round_trip(noise(1 << 20, seed + i)), noise(1 << 20, seed + i))
                for i in range(10)
            ]
            made.free()
        results.append(all(same))

    threads = [threading.Thread(target=work, args=(100 * number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert results == [True] * 4


def test_memory_made_in_one_thread_is_freed_in_another(gpu: Cuda) -> None:
    made: list[Buffers] = []
    failures: list[BaseException] = []

    def make() -> None:
        with gpu.current():
            made.append(Buffers(gpu, 4096))

    def use_and_free() -> None:
        try:
            with gpu.current():
                np.testing.assert_array_equal(made[0].round_trip(noise(4096)), noise(4096))
                made[0].free()
        except BaseException as error:
            failures.append(error)

    for work in (make, use_and_free):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join(30)
    assert failures == []


def test_no_such_gpu(gpu: Cuda) -> None:
    package = gpu.name.split()[0]
    with pytest.raises(DeviceError, match="cuda:99 was asked for"):
        open_cuda(99, package)
