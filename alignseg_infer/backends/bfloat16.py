"""Checks that a CPU computes a model in bfloat16 as it does in float32, before it is used.

OpenVINO 2026.4.0 returned wrong products of bfloat16 matrices on an AMD Zen 5 (openvino#38256).
Which kernel computes a product depends on its shape, so each input shape is checked.
"""

import contextlib
import json
import logging
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from alignseg_infer.arrays import Floats
from alignseg_infer.demo import FIRST_HELD_OUT
from alignseg_infer.demo.streets import Street
from alignseg_infer.errors import DeviceError, OutputError
from alignseg_infer.files import caches
from alignseg_infer.files.writing import write_atomically
from alignseg_infer.pixels.preprocess import network_input
from alignseg_infer.spec.model import ModelSpec

logger = logging.getLogger(__name__)

Run: TypeAlias = Callable[[Floats], NDArray[Any]]

# Relative L2 error of the logits. The demo model and a seeded ResNet-101 have 0.005 to 0.009 from
# 64x96 to 1024x2048; wrong products had more than 0.7, coordinates in bfloat16 0.20 at 512x1024.
MOST_ERROR = 0.03
# Share of the pixels with the same label, for a graph that returns labels only. The demo model has
# 0.993 and more; networks with random weights have many ties.
LEAST_ALIKE = 0.95
_STREET_SIDE = 1024  # larger streets are resized, since drawing one of 2048x4096 takes seconds


def was_checked(key: str) -> bool:
    """Return whether the check of this key has passed on this machine."""
    path = caches.kept_path(caches.CHECKS, key)
    try:
        return json.loads(path.read_text(encoding="utf-8")).get("passed") is True
    except FileNotFoundError:
        return False
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        logger.info("bfloat16 is checked again: %s cannot be read (%s)", path, error)
        return False


def keep_check(key: str, about: dict[str, Any]) -> None:
    """Keep that a check has passed, if the cache folder can take it."""
    path = caches.kept_path(caches.CHECKS, key)
    try:
        with write_atomically(path) as temporary:
            record = {"passed": True, **about}
            temporary.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    except OutputError as error:
        logger.info("the check of bfloat16 is not kept: %s", error.problem)


def difference_of(seen: NDArray[Any], expected: NDArray[Any]) -> tuple[float, bool]:
    """Return how far an output in bfloat16 is from the one in float32, and whether it may be used.

    Args:
        seen: (N, C, h, w) logits or (N, H, W) labels, computed in bfloat16.
        expected: The same, computed in float32.

    Returns:
        The relative L2 error of logits, or the share of the labels that differ; and whether that
        is within its bound. What is not finite is not.
    """
    if seen.shape != expected.shape:
        return float("inf"), False
    if np.issubdtype(expected.dtype, np.integer):
        differing = float(np.mean(seen != expected))
        return differing, differing <= 1 - LEAST_ALIKE
    exact = expected.astype(np.float64)
    with contextlib.suppress(FloatingPointError), np.errstate(all="ignore"):
        error = float(np.linalg.norm(seen.astype(np.float64) - exact) / np.linalg.norm(exact))
    return error, bool(error <= MOST_ERROR)


def require_agreement(half: Run, exact: Run, spec: ModelSpec, shape: tuple[int, ...]) -> float:
    """Check that a model computes the same in bfloat16 as in float32, on a drawn street.

    A street is used, not the caller's image, so that the verdict does not depend on what came
    first. It serves any class table, since outputs are compared with each other.

    Args:
        half: Runs the model in bfloat16.
        exact: Runs it in float32.
        spec: The model's facts.
        shape: (N, 3, H, W) of the batch to check.

    Returns:
        How far they differ, as `difference_of` says.

    Raises:
        DeviceError: They differ too much.
    """
    batch = _street_batch(spec, shape)
    found, passes = difference_of(half(batch), exact(batch))
    if passes:
        return found
    count, _, height, width = shape
    raise DeviceError(
        f"in bfloat16, this CPU computes something else than in float32 for {count} x {height}x"
        f"{width} inputs: the difference is {found:.2g}",
        f"logits with a relative error of at most {MOST_ERROR}, or at least {LEAST_ALIKE:.0%} of "
        "the labels the same",
        "precision='fp32', or another version of OpenVINO",
    )


def _street_batch(spec: ModelSpec, shape: tuple[int, ...]) -> Floats:
    """Return inputs of a drawn street; each of a batch is shifted, so that none are the same."""
    count, _, height, width = shape
    factor = min(1.0, _STREET_SIDE / max(height, width))
    drawn = max(32, round(height * factor)), max(32, round(width * factor))
    street = network_input(Street(FIRST_HELD_OUT).scene(size=drawn).image, (height, width), spec)
    shifted = [np.roll(street, index * width // count, axis=3) for index in range(count)]
    return np.concatenate(shifted)
