"""Models that OpenVINO has compiled, in the cache folder, so that they open quickly the next time.

OpenVINO has a cache of its own (CACHE_DIR), which this package does not use: it still reads the
``.onnx`` file, does not notice damage, and has no limit. The figures here are from OpenVINO
2026.4.1.
"""

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import platform
import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alignseg_infer.errors import OutputError
from alignseg_infer.files import caches
from alignseg_infer.files.writing import write_atomically
from alignseg_infer.spec.graph_contract import GraphTensor
from alignseg_infer.spec.onnx_weights import sha256_with_weights
from alignseg_infer.version import __version__

logger = logging.getLogger(__name__)

CACHE_VERSION = 2
MOST_BYTES = 4 << 30  # of all compiled models; those that were not used for longest go first
MAX_HEADER = 16 << 20
CPU_FACTS = Path("/proc/cpuinfo")  # only Linux has it
_CPU_FIELDS = re.compile(
    r"^(vendor_id|cpu family|model|model name|stepping|flags|Features|CPU part)\s*:\s*(.*)$",
    re.MULTILINE,
)


@dataclass(frozen=True)
class Graph:
    """What a graph says of itself.

    Attributes:
        metadata: The metadata in the ``.onnx`` file.
        inputs: The graph's inputs.
        outputs: Its outputs.
    """

    metadata: dict[str, str]
    inputs: list[GraphTensor]
    outputs: list[GraphTensor]


@dataclass(frozen=True)
class CompiledFile:
    """A compiled model that was read.

    Attributes:
        graph: What the graph says of itself.
        settings: What the model was compiled with.
        content: (N,) uint8, what OpenVINO exported.
    """

    graph: Graph
    settings: dict[str, Any]
    content: NDArray[np.uint8]


def machine_facts(path: Path, core: Any) -> dict[str, str]:
    """Return what the results of a model depend on: the file, the versions and the CPU.

    Args:
        path: The ``.onnx`` file.
        core: OpenVINO's core.
    """
    said = CPU_FACTS.read_text(encoding="utf-8") if CPU_FACTS.exists() else platform.processor()
    cpu = dict(reversed(_CPU_FIELDS.findall(said))) or {"model name": said}  # of the first core
    versions = core.get_versions("CPU").values()
    return {
        "model_sha256": sha256_with_weights(path),
        "openvino": " ".join(version.build_number for version in versions),
        "cpu": f"{core.get_property('CPU', 'FULL_DEVICE_NAME')} {json.dumps(cpu, sort_keys=True)}",
        "package": __version__,
        "cache_version": str(CACHE_VERSION),
    }


def key_of(facts: dict[str, str], **more: str) -> str:
    """Return the name under which something is kept that depends on these facts."""
    return hashlib.sha256(json.dumps({**facts, **more}, sort_keys=True).encode()).hexdigest()


def find_compiled(key: str) -> CompiledFile | None:
    """Return the compiled model of this key; None if there is none, or if it is damaged.

    OpenVINO must not read what is damaged: it may end the process.
    """
    path = caches.kept_path(caches.COMPILED, key)
    try:
        found = _read(path)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        logger.warning("the compiled model %s is made again: it is damaged (%s)", path, error)
        return None
    with contextlib.suppress(OSError):
        os.utime(path)
    return found


def _read(path: Path) -> CompiledFile:
    with path.open("rb") as file:
        checksum, header = file.readline(32), file.readline(MAX_HEADER)
        content = np.fromfile(file, np.uint8)
    # CRC-32 finds every changed byte, and takes 0.16 s for the 266 MB of a ResNet-101.
    if int(checksum, 16) != zlib.crc32(content.data, zlib.crc32(header)):
        raise ValueError("its checksum differs")
    facts = json.loads(header)
    inputs, outputs = (
        [
            GraphTensor(name, kind, None if shape is None else tuple(shape))
            for name, kind, shape in facts[side]
        ]
        for side in ("inputs", "outputs")
    )
    return CompiledFile(Graph(facts["metadata"], inputs, outputs), facts["settings"], content)


def keep_compiled(key: str, graph: Graph, settings: dict[str, Any], content: bytes) -> None:
    """Keep what OpenVINO exported, if the cache folder can take it."""
    facts = {**dataclasses.asdict(graph), "settings": settings}
    header = json.dumps(facts).encode() + b"\n"
    path = caches.kept_path(caches.COMPILED, key)
    if len(content) > MOST_BYTES or len(header) > MAX_HEADER:
        return
    try:
        with write_atomically(path) as temporary, temporary.open("wb") as file:
            file.write(b"%08x\n" % zlib.crc32(content, zlib.crc32(header)))
            file.write(header)
            file.write(content)
    except OutputError as error:
        logger.info("the compiled model is not kept: %s", error.problem)
        return
    _make_room()


def _make_room() -> None:
    """Remove the compiled models that were not used for longest, if all take too much room."""
    total = 0
    for file in caches.kept_files(caches.COMPILED):
        total += file.size
        if total > MOST_BYTES:
            with contextlib.suppress(OutputError):
                caches.remove_file(file)
