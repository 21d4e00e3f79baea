"""What people install this package for, and what each of these goals needs."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from alignseg_infer.backports import StrEnum
from alignseg_infer.doctor.asking import Answer
from alignseg_infer.errors import (
    INSTALL_BATCH,
    INSTALL_BENCH,
    INSTALL_EXPORT,
    INSTALL_ONNX,
    INSTALL_OPENVINO,
    INSTALL_PAGE,
    INSTALL_VIDEO,
)
from alignseg_infer.packages import INSTALL_GPU_ONNXRUNTIME, ONNX_PACKAGES

CUDA_PROVIDER = "CUDAExecutionProvider"


class Goal(StrEnum):
    """What somebody wants to do."""

    IMAGES = "images"
    OPENVINO = "openvino"
    GPU = "gpu"
    EXPORT = "export"
    TENSORRT = "tensorrt"
    TENSORRT_RTX = "tensorrt-rtx"
    JETSON = "jetson"
    VIDEO = "video"
    BENCH = "bench"
    BATCH = "batch"
    PAGE = "page"


@dataclass(frozen=True)
class Needs:
    """What a goal needs.

    Attributes:
        modules: The parts that must load.
        install: The command that installs them.
        then: What to type next.
        others: Other modules that must be installed.
    """

    modules: tuple[str, ...]
    install: str
    then: str
    others: tuple[str, ...] = ()


CORE = ("numpy", "cv2", "onnxruntime")
_PIP = "pip install "
_ONNXRUNTIME = f"{_PIP}onnxruntime"  # the rest of CORE is there, or nothing here is loaded
_ONNX_TOOLS = ONNX_PACKAGES[1:]  # onnx itself is a part
_TENSORRT = (*CORE, "onnx", "tensorrt", "cuda", "nvrtc")
_CUDA = "cuda-python nvidia-cuda-nvrtc"
NEEDS: Mapping[Goal, Needs] = {
    Goal.IMAGES: Needs(CORE, _ONNXRUNTIME, "alignseg predict MODEL.onnx IMAGE -o out/"),
    Goal.OPENVINO: Needs(
        (*CORE, "openvino"),
        INSTALL_OPENVINO,
        "alignseg predict MODEL.onnx IMAGE -o out/ --runtime openvino",
    ),
    Goal.GPU: Needs(
        CORE,
        INSTALL_GPU_ONNXRUNTIME,
        "alignseg predict MODEL.onnx IMAGE -o out/ --device cuda",
    ),
    Goal.EXPORT: Needs(
        (*CORE, "torch", "onnx"),
        INSTALL_EXPORT,
        "alignseg export-onnx CHECKPOINT -o MODEL.onnx",
        (*_ONNX_TOOLS, "safetensors"),
    ),
    Goal.TENSORRT: Needs(
        _TENSORRT,
        f"{INSTALL_ONNX} tensorrt {_CUDA}",
        "alignseg export-trt MODEL.onnx -o MODEL.engine --size 1024x2048",
        _ONNX_TOOLS,
    ),
    Goal.TENSORRT_RTX: Needs(
        (*CORE, "onnx", "tensorrt_rtx", "cuda", "nvrtc"),
        f"{INSTALL_ONNX} tensorrt-rtx-cu13 {_CUDA}",
        "alignseg export-trt MODEL.onnx -o MODEL.engine --flavour tensorrt-rtx --size 1024x2048",
        _ONNX_TOOLS,
    ),
    Goal.JETSON: Needs(
        _TENSORRT[:-1],
        f"{INSTALL_ONNX} 'cuda-python<13'",
        "alignseg export-trt MODEL.onnx -o MODEL.engine --size 512x1024",
        _ONNX_TOOLS,
    ),
    Goal.VIDEO: Needs(
        (*CORE, "av"),
        INSTALL_VIDEO,
        "alignseg video MODEL.onnx VIDEO -o segmented.mp4",
    ),
    Goal.BENCH: Needs(
        CORE,
        INSTALL_BENCH,
        "alignseg bench MODEL.onnx --size 512x1024 -o bench/",
        ("psutil", "cpuinfo", "pynvml", "matplotlib"),
    ),
    Goal.BATCH: Needs(
        CORE,
        INSTALL_BATCH,
        "alignseg batch MODEL.onnx FOLDER -o out/",
        ("fsspec", "pyarrow"),
    ),
    Goal.PAGE: Needs(CORE, INSTALL_PAGE, "alignseg page MODEL.onnx", ("gradio",)),
}


@dataclass(frozen=True)
class Advice:
    """What a goal still needs, and what to type: to install it or, if it is there, to begin."""

    missing: tuple[str, ...]
    command: str


def advise(goal: Goal, answers: Mapping[str, Answer], modules: Collection[str]) -> Advice:
    """Return what a goal still needs.

    Args:
        goal: The goal.
        answers: What the parts said, by module; those that are not installed say nothing.
        modules: All modules that can be imported.
    """
    needs = NEEDS[goal]
    missing = [name for name in needs.others if name not in modules]
    broken = [name for name in needs.modules if name in answers and not answers[name].loads]
    missing += [name for name in needs.modules if name not in answers]
    if goal is Goal.GPU and "onnxruntime" in answers:
        providers = answers["onnxruntime"].runs_on
        missing += [] if CUDA_PROVIDER in providers else [f"an ONNX Runtime with {CUDA_PROVIDER}"]
    if missing:
        return Advice((*missing, *broken), _mend_core(answers, needs) + _install(needs, missing))
    if broken:
        fixes = [answers[name].fix for name in broken if answers[name].fix]
        return Advice(tuple(broken), fixes[0] if fixes else needs.install)
    return Advice((), needs.then)


def _install(needs: Needs, missing: Sequence[str]) -> str:
    """Return what installs `missing`, and ONNX Runtime only if it is: there are several of it."""
    if "onnxruntime" not in missing or "onnxruntime" in needs.install:
        return needs.install
    if len(missing) == 1:
        return _ONNXRUNTIME
    return f"{_ONNXRUNTIME} {needs.install.removeprefix(_PIP)}"


def _mend_core(answers: Mapping[str, Answer], needs: Needs) -> str:
    """Return the command, with ``&&``, that mends an ONNX Runtime which does not load."""
    answer = answers.get("onnxruntime")
    if answer is None or answer.loads or not answer.fix or "onnxruntime" in needs.install:
        return ""
    return f"{answer.fix} && "
