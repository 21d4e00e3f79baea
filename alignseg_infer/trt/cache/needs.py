"""What an engine in the cache depends on."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from alignseg_infer.cuda.base import Gpu
from alignseg_infer.cuda.opening import driver_version
from alignseg_infer.errors import BuildError
from alignseg_infer.files.reading import sha256_of
from alignseg_infer.spec.model import Precision
from alignseg_infer.trt.builder.options import BuildOptions, profile_for
from alignseg_infer.trt.engine_file import Profile
from alignseg_infer.trt.flavours import Flavour, TensorRT
from alignseg_infer.trt.plugin_library import find_plugin_library
from alignseg_infer.version import __version__

if TYPE_CHECKING:  # loads onnx, which lists of the cache do not need
    from alignseg_infer.spec.onnx_facts import OnnxFacts

CACHE_VERSION = 2


@dataclass(frozen=True, kw_only=True)
class Needs:
    """All that an engine in the cache depends on: if one fact changes, another engine is built.

    Attributes:
        model_sha256: SHA-256 of the ``.onnx`` file and of the files beside it that hold weights,
            which can change while the ``.onnx`` file does not. All are in the engine.
        flavour: Which TensorRT. Neither reads the engines of the other.
        tensorrt: Version of TensorRT. A plan is read by the version that built it only.
        driver: Version of the driver; None without one. TensorRT chooses kernels by their times
            with this driver, and what was verified was run by it.
        gpu: The GPU; None without one. Kernels are compiled for its compute capability, and were
            chosen by their times on it.
        profile: Input shapes. An engine takes no others, and is tuned for one of them.
        precision: Precision that the graph is converted to before it is built.
        plugin_sha256: SHA-256 of the library of plugins; None for a graph without plugins. The
            library computes nodes of the graph, and the engine was verified with it.
        package: Version of this package, which converts, checks and verifies.
        cache_version: Version of the files in the cache.
    """

    model_sha256: str
    flavour: Flavour
    tensorrt: str
    driver: str | None
    gpu: Gpu | None
    profile: Profile
    precision: Precision
    plugin_sha256: str | None
    package: str = __version__
    cache_version: int = CACHE_VERSION

    def to_json(self) -> str:
        """Return the facts as one line of JSON, which is the same for the same facts."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @property
    def key(self) -> str:
        """The name of the engine's folder: a SHA-256 of all facts."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()


def needs_of(
    facts: "OnnxFacts",
    precision: Precision,
    options: BuildOptions,
    *,
    tensorrt: TensorRT,
    gpu: Gpu | None,
) -> Needs:
    """Return what an engine depends on.

    Args:
        facts: Facts of the ``.onnx`` file.
        precision: What it is converted to.
        options: How the engine is built.
        tensorrt: What builds it.
        gpu: The GPU that runs it, if there is one.

    Raises:
        BuildError: The graph needs plugins, and their library does not exist.
    """
    library = None
    if facts.plugins:
        library = find_plugin_library(options.plugin, "a model with sampler='plugin'", BuildError)
    return Needs(
        model_sha256=facts.sha256,
        flavour=tensorrt.flavour,
        tensorrt=tensorrt.version_text,
        driver=driver_version(),
        gpu=gpu,
        profile=profile_for(facts.export, options.profile),
        precision=precision,
        plugin_sha256=sha256_of(library) if library else None,
    )
