"""An engine of one convolution, built on the spot with whichever TensorRT is there.

``logits`` are a 4x4 convolution of ``image`` with stride 4. Needs no ONNX.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alignseg_infer.cuda.base import Gpu
from alignseg_infer.trt.engine_file import EngineFacts
from alignseg_infer.trt.flavours import Flavour, TensorRT
from tests.support.fake_tensorrt import PROFILE, write_engine

WEIGHTS = np.random.default_rng(5).normal(size=(19, 3, 4, 4)).astype(np.float32)


def expected_logits(batch: NDArray[np.float32]) -> NDArray[np.float64]:
    """Compute in NumPy what the engine computes."""
    count, _, height, width = batch.shape
    cells = batch.reshape(count, 3, height // 4, 4, width // 4, 4).astype(np.float64)
    logits: NDArray[np.float64] = np.einsum("nchiwj,kcij->nkhw", cells, WEIGHTS)
    return logits


def build_tiny_engine(path: Path, tensorrt: TensorRT, gpu: Gpu | None) -> EngineFacts:
    """Write the engine, for `fake_tensorrt.PROFILE`, and its facts."""
    module: Any = tensorrt.module
    builder = module.Builder(module.Logger(module.Logger.ERROR))
    flags = getattr(module.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if flags is None else 1 << int(flags))
    image = network.add_input("image", module.float32, (-1, 3, -1, -1))
    bias = np.zeros(19, np.float32)
    layer = network.add_convolution_nd(image, 19, (4, 4), module.Weights(WEIGHTS), bias)
    layer.stride_nd = (4, 4)
    logits = layer.get_output(0)
    logits.name = "logits"
    network.mark_output(logits)
    config = builder.create_builder_config()
    config.clear_flag(module.BuilderFlag.TF32)  # so that results can be compared closely
    profile = builder.create_optimization_profile()
    shapes = (PROFILE.minimum, PROFILE.optimum, PROFILE.maximum)
    profile.set_shape("image", *((s.batch, 3, s.height, s.width) for s in shapes))
    config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    return write_engine(
        path,
        bytes(plan),
        flavour=tensorrt.flavour,
        tensorrt_version=tensorrt.version_text,
        gpu=None if tensorrt.flavour is Flavour.TENSORRT_RTX else gpu,
    )
