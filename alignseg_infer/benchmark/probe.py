"""The process whose memory is measured: reads what to do from stdin, prints a `Footprint`."""

import json
import re
import sys
import time
from dataclasses import asdict
from typing import Any

from alignseg_infer.benchmark.footprint import STATUS, Footprint
from alignseg_infer.predictor import Predictor

CALLS = 2  # the second finds the memory of the first, and shows whether it takes more


def main() -> None:
    """Loads the model and calls it."""
    task = json.load(sys.stdin)
    options: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value  # JSON has no tuples
        for name, value in task["options"].items()
    }
    base = _peak_mb()
    start = time.perf_counter()
    predictor = Predictor(task["model"], **options)
    loaded = time.perf_counter()
    predictor(task["images"])
    called = time.perf_counter()
    for _ in range(CALLS - 1):
        predictor(task["images"])
    found = Footprint(1e3 * (loaded - start), 1e3 * (called - loaded), base, _peak_mb())
    sys.stdout.write(json.dumps(asdict(found)) + "\n")


def _peak_mb() -> float:
    """Most resident memory of this process so far, in 1e6 bytes.

    Not from getrusage: what that gives for a child includes the parent's memory at the fork. psutil
    tells the peak on Windows only.
    """
    (kibibytes,) = re.findall(r"VmHWM:\s+(\d+) kB", STATUS.read_text(encoding="utf-8"))
    return int(kibibytes) * 1024 / 1e6


if __name__ == "__main__":
    main()
