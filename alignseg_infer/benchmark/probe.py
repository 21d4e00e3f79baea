"""The process whose memory is measured. It reads its task from stdin and prints a `Footprint`."""

import json
import re
import sys
import time
from dataclasses import asdict
from typing import Any

from alignseg_infer.benchmark.footprint import STATUS, Footprint
from alignseg_infer.predictor import Predictor

CALLS = 2  # the second can reuse the memory of the first, and shows whether it takes more


def main() -> None:
    """Load the model and call it."""
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
    """Return the most resident memory that this process has had so far, in 1e6 bytes.

    This does not come from getrusage, whose value for a child includes the memory that its parent
    had at the fork. psutil tells the peak only on Windows.
    """
    (kibibytes,) = re.findall(r"VmHWM:\s+(\d+) kB", STATUS.read_text(encoding="utf-8"))
    return int(kibibytes) * 1024 / 1e6


if __name__ == "__main__":
    main()
