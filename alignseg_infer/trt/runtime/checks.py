"""Checks of whether an engine can run here: its facts against this machine.

A plan file is deserialised only after it passed these checks. NVIDIA documents the possible
combinations: TensorRT, "Engine Compatibility" and "Support Matrix" (11.4); TensorRT for RTX,
"Engine Compatibility" and "CPU-Only AOT and TensorRT-RTX Engines" (1.7).
"""

import logging
from pathlib import Path
from typing import NamedTuple

from alignseg_infer.cuda.base import Gpu
from alignseg_infer.errors import EngineError
from alignseg_infer.trt.engine_file import EngineFacts, sidecar_path
from alignseg_infer.trt.flavours import RTX_DEFAULT, RTX_DEFAULT_TEXT, Flavour, TensorRT

logger = logging.getLogger(__name__)

REBUILD = "build it again here: alignseg export-trt MODEL -o ENGINE --opt-shape NxHxW"
_AMPERE = (8, 0)
# A version-compatible engine crosses major versions only in these pairs: (built, running).
_ACROSS_MAJOR = {(8, 10), (10, 11)}


def require_unchanged_plan(path: Path, facts: EngineFacts, seen: str) -> None:
    """Check that the plan file is still the one that its facts describe.

    Args:
        path: The plan file.
        facts: Its facts.
        seen: SHA-256 of the file's content.

    Raises:
        EngineError: The file is truncated, damaged or replaced, or the facts belong to another
            engine.
    """
    if seen != facts.sha256:
        raise EngineError(
            f"{path} ({path.stat().st_size} bytes, SHA-256 {seen[:12]}...) is not the plan that "
            f"{sidecar_path(path).name} describes ({facts.sha256[:12]}...)",
            "an engine and its facts from the same build",
            f"copy both files again, or {REBUILD}",
        )


def require_version(path: Path, facts: EngineFacts, tensorrt: TensorRT) -> None:
    """Check that the installed TensorRT reads plans of the version that built this one.

    Raises:
        EngineError: It does not read them.
    """
    built = _numbers(facts.tensorrt_version)
    if tensorrt.version == built:
        return
    forward = facts.version_compatible and facts.flavour is Flavour.TENSORRT
    if forward and _reads_older(built, tensorrt.version):
        return
    package = facts.flavour.value
    newer = " or newer (the engine is version compatible)" if forward else ""
    wheel = package.replace("-rtx", "-rtx-cu13")
    raise EngineError(
        f"{path} was built by {package} {facts.tensorrt_version}, but "
        f"{tensorrt.version_text} is installed",
        f"{package} {facts.tensorrt_version}{newer}",
        f"pip install {wheel}=={facts.tensorrt_version}, or {REBUILD}",
    )


def _reads_older(built: tuple[int, ...], running: tuple[int, ...]) -> bool:
    majors = built[0], running[0]
    return running >= built and (majors[0] == majors[1] or majors in _ACROSS_MAJOR)


def require_gpu(path: Path, facts: EngineFacts, gpu: Gpu) -> None:
    """Check that the engine was built for a GPU like this one.

    Raises:
        EngineError: It was built for others.
    """
    wanted = wanted_gpu(facts)
    if not wanted.accepts(gpu):
        raise EngineError(
            f"{path} cannot run on this GPU, {gpu.name} (compute capability "
            f"{gpu.compute_capability})",
            wanted.text,
            f"try another device='cuda:N', or {REBUILD}",
        )
    alike = (
        facts.gpu is None or facts.gpu.name == gpu.name or facts.hardware_compatibility != "none"
    )
    if not alike and facts.gpu:
        logger.warning(
            "%s was built on %s and runs on %s: it may be slower than one built here",
            *(path, facts.gpu.name, gpu.name),
        )


class WantedGpu(NamedTuple):
    """The compute capabilities that an engine runs on: a list of them, and all from one upwards."""

    text: str
    capabilities: tuple[str, ...] = ()
    lowest: tuple[int, ...] | None = None

    def accepts(self, gpu: Gpu) -> bool:
        """Return whether an engine for these runs on `gpu`."""
        if self.lowest is not None and _numbers(gpu.compute_capability) >= self.lowest:
            return True
        return gpu.compute_capability in self.capabilities


def wanted_gpu(facts: EngineFacts) -> WantedGpu:
    """Return the GPUs that an engine runs on."""
    if facts.flavour is Flavour.TENSORRT_RTX:
        if facts.compute_capabilities:
            known = ", ".join(facts.compute_capabilities)
            return WantedGpu(f"compute capability {known}", facts.compute_capabilities)
        text = f"compute capability {RTX_DEFAULT_TEXT} (the default of TensorRT for RTX)"
        return WantedGpu(text, RTX_DEFAULT, lowest=_numbers(RTX_DEFAULT[-1]))
    if facts.hardware_compatibility == "ampere-plus":
        return WantedGpu("compute capability 8.0 or higher (built ampere-plus)", lowest=_AMPERE)
    if facts.gpu is None:
        return WantedGpu("the GPU that built it, which its facts do not name")
    seen = facts.gpu
    text = f"compute capability {seen.compute_capability}, like the {seen.name} that built it"
    return WantedGpu(text, (seen.compute_capability,))


def _numbers(version: str) -> tuple[int, ...]:
    """Return the numbers of a version such as ``11.4.0.106``; other parts count as 0."""
    return tuple(int(part) if part.isdecimal() else 0 for part in version.split("."))
