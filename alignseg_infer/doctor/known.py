"""Known problems of versions of runtimes, each with the public thread that reports it."""

from collections.abc import Mapping
from dataclasses import dataclass

from alignseg_infer.doctor.runtimes import GOOD, Found, Target, Verdict
from alignseg_infer.spec.model import Precision, Sampler
from alignseg_infer.text import version_numbers

Version = tuple[int, ...]
END: Version = (1 << 30,)


@dataclass(frozen=True, kw_only=True)
class Known:
    """A problem that others reported.

    Attributes:
        target: The runtime.
        thread: The report.
        first: Oldest version that is reported to have it.
        last: Newest version that is reported to have it, and its patches; `END` if it is open.
        what: What goes wrong.
        cases: The graphs of the catalogue that would show it.
        avoid: The sampler to avoid, if the catalogue cannot be run here.
        precisions: The precisions that it concerns.
        by_reading: Whether the layers that TensorRT read show it, without a run.
    """

    target: Target
    thread: str
    first: Version
    last: Version
    what: str
    cases: tuple[str, ...]
    avoid: Sampler | None = None
    precisions: tuple[Precision, ...] = tuple(Precision)
    by_reading: bool = False

    def has(self, version: Version) -> bool:
        """Whether a version is one of those that are reported."""
        return self.first <= version and version[: len(self.last)] <= self.last


_NEAREST = "GridSample of opset 20 and later is read as nearest neighbour, without an error"
KNOWN = (
    Known(
        target=Target.TENSORRT,
        thread="NVIDIA/TensorRT#4646",  # 10.13.3; onnx/onnx-tensorrt#1060 saw it in 11.1
        first=(10, 0),
        last=(11, 1),
        what=f"{_NEAREST}; this package exports opset 16 to 19",
        cases=("grid-sample-20", "grid-sample-22"),
        by_reading=True,
    ),
    Known(
        target=Target.TENSORRT_RTX,
        thread="onnx/onnx-tensorrt#1060",  # saw it in 1.5; 1.7.1 reads it rightly
        first=(1, 0),
        last=(1, 5),
        what=f"{_NEAREST}; this package exports opset 16 to 19",
        cases=("grid-sample-20", "grid-sample-22"),
        by_reading=True,
    ),
    Known(
        target=Target.TENSORRT,
        thread="pytorch/TensorRT#4074",
        first=(10, 14),
        last=END,
        what="sampling in float32 within a float16 network is wrong",
        cases=("grid-sample-island",),
        avoid=Sampler.NATIVE,
        precisions=(Precision.FP16, Precision.INT8),
    ),
    Known(
        target=Target.TENSORRT,
        thread="NVIDIA/TensorRT#4813",
        first=(11, 1),
        last=END,
        what="a strongly typed FP32 detection network gives wrong results",
        cases=("attention-batch",),
    ),
    Known(
        target=Target.TENSORRT,
        thread="NVIDIA/TensorRT#4853",  # seen with 10.11 and 11.1
        first=(10, 11),
        last=END,
        what="SegFormer is wrong for more than one image at a time",
        cases=("attention-batch", "grid-sample-batch", "convolutions-batch"),
    ),
    Known(
        target=Target.TENSORRT,
        thread="NVIDIA/TensorRT#4832",
        first=(10, 16, 2),
        last=(10, 16),
        what="INT8 with float16 scales cannot be built for Orin (compute capability 8.7)",
        cases=("residual-int8-fp16",),
    ),
    Known(
        target=Target.OPENVINO,
        thread="openvinotoolkit/openvino#33531",  # mended by #36070, which is in 2026.3
        first=(2023,),
        last=(2026, 2),
        what="GridSample of opset 20 and later is refused; this package exports opset 16 to 19",
        cases=("grid-sample-20", "grid-sample-22"),
    ),
    Known(
        target=Target.OPENVINO,
        thread="openvinotoolkit/openvino#35943",
        first=(2025, 3),
        last=(2026, 1),
        what="compiling a model ends the process (SIGFPE) on an AMD EPYC 9454",
        cases=("convolutions-batch", "matmul"),
    ),
    Known(
        target=Target.OPENVINO_BF16,
        thread="openvinotoolkit/openvino#38256",
        first=(2026, 4),
        last=END,
        what="products of matrices in bfloat16 are wrong on an AMD Ryzen 9 9950X; this package "
        "asks OpenVINO for float32",
        cases=("matmul", "attention-batch"),
    ),
)


def known_of(target: Target, version: str) -> tuple[Known, ...]:
    """Return the known problems of a version of a runtime."""
    numbers = version_numbers(version)
    return tuple(one for one in KNOWN if one.target is target and one.has(numbers))


def state_of(known: Known, results: Mapping[str, Found]) -> str:
    """Return whether a known problem was seen here, in words."""
    found = [results[name] for name in known.cases if name in results]
    if any(one.verdict not in GOOD for one in found):
        return "seen here"
    if any(one.verdict is Verdict.RIGHT for one in found):
        return "not seen here"
    return "not seen here" if found and known.by_reading else "cannot be tried here"
