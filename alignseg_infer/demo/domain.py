"""Says once, in each process, that the demo model was run on what it was not made for.

The model itself tells: of drawn streets it is sure, of photographs it is not. Measured as
`sureness`, 812 pictures of streets with inputs of 128x256 to 512x1024 (as drawn, scaled, and as
JPEG of quality 75 and 30) had 0.766 or more, and 25 frames of H.264 0.788 or more: no false alarm.
Of 54 photographs, drawings and frames of other kinds, 46 had 0.50 to 0.762; the other 8, which are
smooth or only texture, are not noticed.

Small inputs are left alone, since streets look like photographs there (0.60 and more at 64x128). In
inputs of 1024x2048, streets had 0.74 and more, so some of these are warned about. Models that
return labels, and GPUs that label pixels themselves, do not tell how sure they are, so nothing is
said there.
"""

import functools
import logging
import math

import numpy as np
from numpy.typing import NDArray

from alignseg_infer.arrays import Size
from alignseg_infer.demo import DEMO_SHA256
from alignseg_infer.spec.model import ModelSpec

LEAST_SURE = 0.765  # mean probability of the labels
LEAST_SIDE = 96  # pixels of the network input
SAMPLES = 2048  # places; 0.5 ms, on a busy CPU

logger = logging.getLogger(__name__)


def watch_demo(spec: ModelSpec, logits: NDArray[np.generic], input_size: Size) -> None:
    """Log a warning, once, if the demo model is unsure of an image; do nothing for other models.

    Args:
        spec: The facts of the model.
        logits: (C, h, w), raw.
        input_size: Of the network.
    """
    is_demo = spec.source is not None and spec.source.sha256 == DEMO_SHA256
    if not is_demo or min(input_size) < LEAST_SIDE or _warn_once.cache_info().currsize:
        return
    if sureness(logits) < LEAST_SURE:
        _warn_once()


def sureness(logits: NDArray[np.generic]) -> float:
    """Return the mean probability, 0..1, of the most probable classes at some places."""
    step = max(1, math.ceil(math.sqrt(logits.shape[1] * logits.shape[2] / SAMPLES)))
    some = logits[:, ::step, ::step].astype(np.float32)
    some -= some.max(axis=0)
    return float(np.mean(1 / np.exp(some, out=some).sum(axis=0)))


@functools.cache
def _warn_once() -> None:
    logger.warning(
        "the demo model knows only drawn streets, and this image looks different; its masks of "
        "photographs mean nothing. https://github.com/speedinghzl/AlignSeg has links to weights "
        "that were trained on photographs"
    )
