"""Measuring how much memory a model takes and how long it takes to load.

The peak memory of a process cannot be split among the models it holds. Each model therefore gets
its own process, which runs `alignseg_infer.benchmark.probe`.
"""

import json
import logging
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from alignseg_infer.packages import command_of

logger = logging.getLogger(__name__)

PROBE = "alignseg_infer.benchmark.probe"
STATUS = Path("/proc/self/status")  # only Linux has it


@dataclass(frozen=True)
class Footprint:
    """What one model costs a process that does nothing else.

    Attributes:
        load_ms: Time to import the runtime and load the model, with the file in the system's
            cache.
        first_call_ms: Time of the first call, with a whole batch.
        base_mb: Peak of resident memory, in 1e6 bytes, before the model was loaded.
        peak_mb: Peak of resident memory, in 1e6 bytes, including the images of the batch.
    """

    load_ms: float
    first_call_ms: float
    base_mb: float
    peak_mb: float


def measure_footprint(
    model: str | Path, images: Sequence[str | os.PathLike[str]], options: Mapping[str, object]
) -> Footprint | None:
    """Load `model` in a new process, call it twice with all of `images`, and measure its memory.

    Args:
        model: A model as `Predictor` takes it.
        images: Paths of images.
        options: Further arguments of `Predictor`: numbers, texts, and tuples of these.

    Returns:
        The footprint; None on systems without ``/proc``, and, with a warning in the log, if the
        process fails, for example because memory runs out.
    """
    if not STATUS.exists():
        return None
    task = {
        "model": str(model),
        "images": [os.fspath(image) for image in images],
        "options": dict(options),
    }
    done = subprocess.run(  # noqa: S603 - our own module
        command_of(PROBE),
        input=json.dumps(task),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        logger.warning("the memory of %s could not be measured: %s", model, reason)
        return None
    return Footprint(**json.loads(done.stdout.splitlines()[-1]))
