"""Loads `examples/web_service.py` on loopback and prints Markdown.

    python -m tests.benchmarks.web_service [--requests 200]

Each round asks one `Predictor` in this process, and then each server with each number of clients,
for the labels of the same street of the demo. Clients share the processors with the server. This is
not one of the tests, because times depend on the machine.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np

from alignseg_infer.demo import FIRST_HELD_OUT
from alignseg_infer.demo.streets import Street
from alignseg_infer.pixels.images import encode_image
from alignseg_infer.predictor import Predictor
from tests.support.web_service import GUNICORN, UVICORN, post, serve

SERVERS = {
    "uvicorn, 1 worker": UVICORN,
    "uvicorn, 2 workers": (*UVICORN, "--workers", "2"),
    "gunicorn --preload, 2 workers": (*GUNICORN, "-w", "2"),
}
CLIENTS = (1, 4, 16)


def main() -> None:
    """Measure and print one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=200, help="of each row")
    requests = parser.parse_args().requests
    file = encode_image(Street(FIRST_HELD_OUT).scene().image, ".png")
    predictor = Predictor("demo")
    print("| | clients | images/s | median ms | 99 % below, ms |\n|---|---|---|---|---|")
    print(row("`Predictor` and PNG, no service", 1, partial(segment, predictor, file), requests))
    for name, command in SERVERS.items():
        with tempfile.TemporaryDirectory() as folder, serve(command, Path(folder, "log")) as port:
            for clients in CLIENTS:
                print(row(name, clients, partial(ask, port, file), requests))


def segment(predictor: Predictor, file: bytes) -> None:
    encode_image(predictor(file).labels, ".png")


def ask(port: int, file: bytes) -> None:
    status, _, content = post(port, file)
    assert status == 200, content


def row(name: str, clients: int, work: Callable[[], None], requests: int) -> str:
    """Do `work` in as many threads as there are clients, and return a line of the table."""

    def timed(_: int) -> float:
        start = time.perf_counter()
        work()
        return 1000 * (time.perf_counter() - start)

    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(timed, range(4 * clients)))  # all workers are awake
        start = time.perf_counter()
        times = list(pool.map(timed, range(requests)))
        rate = requests / (time.perf_counter() - start)
    median, late = np.percentile(times, (50, 99))
    return f"| {name} | {clients} | {rate:.1f} | {median:.0f} | {late:.0f} |"


if __name__ == "__main__":
    main()
