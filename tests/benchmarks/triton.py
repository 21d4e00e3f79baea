"""Compares a real tritonserver with a `Predictor` in a loop, and prints Markdown.

    python -m tests.benchmarks.triton [--rounds 5] [--images 80]

Each round times both, one after the other, on files of the same street of the demo. Clients send
over HTTP and share the processors with the server. The loop segments four files in each call, and
runs in the server's environment, so that both have the same NumPy, OpenCV and ONNX Runtime.
This is not one of the tests, because times depend on the machine.
"""

import argparse
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

from alignseg_infer.demo import FIRST_HELD_OUT
from alignseg_infer.demo.streets import Street
from alignseg_infer.deploy.triton.repository import write_repository
from alignseg_infer.pixels.images import encode_image
from tests.support.triton_server import infer, install, serve

BATCH = 4
CLIENTS = 8
LOOP = """
import sys, time
from pathlib import Path
from alignseg_infer import Predictor
predictor, files = Predictor("demo", batch=4), [Path(sys.argv[1]).read_bytes()] * 4
for _ in range(3):
    predictor(files)
start = time.perf_counter()
for _ in range(int(sys.argv[2]) // 4):
    predictor(files)
print(int(sys.argv[2]) / (time.perf_counter() - start))
"""


def main() -> None:
    """Measure and print one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=80, help="in each round; a multiple of 4")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        installed = install(folder / "server")
        write_repository(["demo"], folder / "repository", batch=BATCH)
        street = folder / "street.png"
        street.write_bytes(encode_image(Street(FIRST_HELD_OUT).scene().image, ".png"))
        command = [str(installed.python), "-c", LOOP, str(street), str(arguments.images)]
        print("| round | Predictor, images/s | tritonserver, images/s | ratio |\n|---|---|---|---|")
        ratios = []
        with serve(installed, folder / "repository", folder / "log") as address:
            for number in range(1, arguments.rounds + 1):
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                alone = float(done.stdout)
                served = rate(address.http, street.read_bytes(), arguments.images)
                ratios.append(served / alone)
                print(f"| {number} | {alone:.1f} | {served:.1f} | {ratios[-1]:.2f} |", flush=True)
        print(f"\nmedian ratio {median(ratios):.2f}")


def rate(port: int, file: bytes, images: int) -> float:
    """Return how many images per second the server labels for all clients."""

    def ask(_: int) -> None:
        reply = infer(port, file)
        assert reply.status == 200, reply.facts

    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(ask, range(3 * BATCH)))
        start = time.perf_counter()
        list(pool.map(ask, range(images)))
        return images / (time.perf_counter() - start)


if __name__ == "__main__":
    main()
