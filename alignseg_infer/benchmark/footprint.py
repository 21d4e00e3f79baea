"""How much memory a model takes and how long it takes to load, in a process of its own.

The peak of a process cannot be split among the models it holds; hence one process for each, which
runs `alignseg_infer.benchmark.probe`.
"""

import json
import logging
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

logger = logging.getLogger(__name__)

PROBE = "alignseg_infer.benchmark.probe"
STATUS = Path("/proc/self/status")  # of Linux


@dataclass(frozen=True)
class Footprint:
    """What one model costs a process that does nothing else.

    Attributes:
        load_ms: Importing the runtime and loading the model, with the file in the system's cache.
        first_call_ms: The first call, of a whole batch.
        base_mb: Most memory (resident, 1e6 bytes) before the model was loaded.
        peak_mb: Most memory at all, the images of the batch among it.
    """

    load_ms: float
    first_call_ms: float
    base_mb: float
    peak_mb: float


def measured_footprint(
    model: str | Path, images: Sequence[str | Path], options: Mapping[str, object]
) -> Footprint | None:
    """Loads `model` in a new process and calls it twice with all of `images`.

    Args:
        model: As `Predictor` takes it.
        images: Paths.
        options: Further arguments of `Predictor`: numbers, texts, and tuples of these.

    Returns:
        None, with a warning in the log, if the process fails, as it does for want of memory; and
        where there is no ``/proc``.
    """
    if not STATUS.exists():
        return None
    task = {"model": str(model), "images": list(map(str, images)), "options": dict(options)}
    done = subprocess.run(  # noqa: S603 - our own module
        [sys.executable, "-m", PROBE],
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
