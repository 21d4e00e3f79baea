"""Sends images to a model in Triton Inference Server, and says what is in them.

    pip install 'tritonclient[http,grpc]'
    python examples/triton_client.py street.jpg
    python examples/triton_client.py street.jpg --protocol grpc --shared-memory -o overlays/

``alignseg deploy triton`` makes the repository of models that the server serves. With shared
memory, image and labels do not pass through the socket; the server must run on this machine.
"""

import argparse
import contextlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from alignseg_infer.cli.streams import discard_stdout
from alignseg_infer.drawing.masks import blend, colorize
from alignseg_infer.spec.model import ClassSpec

PORTS = {"http": 8000, "grpc": 8001}


def main() -> None:
    """Send each image, print its largest classes, and draw them over the image if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", nargs="+", type=Path, help="image files")
    parser.add_argument("--model", default="demo", help="its name in the server (default: demo)")
    parser.add_argument("--protocol", choices=PORTS, default="http", help="(default: http)")
    parser.add_argument("--url", help="HOST:PORT of the server (default: that of localhost)")
    parser.add_argument(
        "--shared-memory", action="store_true", help="for a server on the same machine"
    )
    parser.add_argument("-o", "--destination", type=Path, help="folder for labels and overlays")
    arguments = parser.parse_args()
    try:
        from tritonclient.utils import InferenceServerException  # noqa: PLC0415 - after --help
    except ImportError as error:
        raise SystemExit(f"{error}; pip install 'tritonclient[http,grpc]'") from error
    url = arguments.url or f"localhost:{PORTS[arguments.protocol]}"
    try:
        segment(arguments, Client(arguments.protocol, url, arguments.model))
    except BrokenPipeError:
        raise
    except (OSError, InferenceServerException) as error:
        raise SystemExit(f"the server at {url}, model {arguments.model}: {error}") from error


def segment(arguments: argparse.Namespace, client: "Client") -> None:
    """Ask for the labels of each image."""
    classes = client.classes()
    for path in arguments.images:
        start = time.perf_counter()
        if arguments.shared_memory:
            labels = client.labels_through_memory(read(path))
        else:
            labels = client.labels_of_file(path.read_bytes())
        spent = 1e3 * (time.perf_counter() - start)
        print(f"{path}: {describe(labels, classes)}; {spent:.0f} ms over {arguments.protocol}")
        if arguments.destination:
            write(arguments.destination / path.stem, read(path), labels, classes)


class Client:
    """Asks one model for labels.

    Args:
        protocol: ``http`` or ``grpc``.
        url: Host and port.
        model: The model's name.
    """

    def __init__(self, protocol: str, url: str, model: str) -> None:
        if protocol == "http":
            import tritonclient.http as protocol_module  # noqa: PLC0415 - one of the two is used
        else:
            import tritonclient.grpc as protocol_module  # noqa: PLC0415
        self.module: Any = protocol_module
        self.server = self.module.InferenceServerClient(url)
        self.protocol, self.model = protocol, model

    def classes(self) -> ClassSpec:
        """Return names and colours, which the repository has in the model's configuration."""
        if self.protocol == "http":
            parameters = self.server.get_model_config(self.model)["parameters"]
            facts = json.loads(parameters["classes"]["string_value"])
        else:
            config = self.server.get_model_config(self.model).config
            facts = json.loads(config.parameters["classes"].string_value)
        return ClassSpec(
            dataset=facts["dataset"],
            names=tuple(facts["names"]),
            colors=tuple(tuple(color) for color in facts["colors"]),
        )

    def labels_of_file(self, data: bytes) -> NDArray[np.integer[Any]]:
        """Return the labels (H, W) of an image file, whose bytes are sent as they are."""
        sent = self.module.InferInput("file", [1, 1], "BYTES")
        sent.set_data_from_numpy(np.array([[data]], np.object_))
        wanted = self.module.InferRequestedOutput("labels")  # in binary form, also over HTTP
        result = self.server.infer(self.model, [sent], outputs=[wanted])
        return np.asarray(result.as_numpy("labels")[0])

    def labels_through_memory(self, image: NDArray[np.uint8]) -> NDArray[np.integer[Any]]:
        """Return the labels (H, W) of an image (H, W, 3) uint8 BGR, both in shared memory."""
        from tritonclient.utils import shared_memory  # noqa: PLC0415 - not on every system

        height, width, _ = image.shape
        with (
            self._region("image", image.nbytes) as into,
            self._region("labels", 2 * height * width) as back,  # uint16 for many classes
        ):
            shared_memory.set_shared_memory_region(into.handle, [image[np.newaxis]])
            sent = self.module.InferInput("image", [1, *image.shape], "UINT8")
            sent.set_shared_memory(into.name, image.nbytes)
            wanted = self.module.InferRequestedOutput("labels")
            wanted.set_shared_memory(back.name, 2 * height * width)
            result = self.server.infer(self.model, [sent], outputs=[wanted])
            output = result.get_output("labels")
            kind = output["datatype"] if self.protocol == "http" else output.datatype
            dtype = np.dtype(kind.lower())
            labels = shared_memory.get_contents_as_numpy(back.handle, dtype, (height, width))
            return np.array(labels)  # a copy, since the memory goes away

    @contextlib.contextmanager
    def _region(self, what: str, size: int) -> Iterator["Region"]:
        """Share memory with the server during the block."""
        from tritonclient.utils import shared_memory  # noqa: PLC0415

        name = f"alignseg_{what}_{os.getpid()}"
        handle = shared_memory.create_shared_memory_region(name, f"/{name}", size)
        try:
            self.server.register_system_shared_memory(name, f"/{name}", size)
            yield Region(name, handle)
            self.server.unregister_system_shared_memory(name)
        finally:
            shared_memory.destroy_shared_memory_region(handle)


class Region:
    """Shared memory: its name in the server, and tritonclient's handle."""

    def __init__(self, name: str, handle: Any) -> None:
        self.name, self.handle = name, handle


def read(path: Path) -> NDArray[np.uint8]:
    """Return the pixels of an image file, (H, W, 3) uint8 BGR."""
    image = cv2.imread(str(path))
    if image is None:
        raise SystemExit(f"{path} is not an image that OpenCV reads")
    return np.asarray(image, np.uint8)


def describe(labels: NDArray[np.integer[Any]], classes: ClassSpec) -> str:
    """Return the share of the largest classes, such as ``road 41%, sky 20%``."""
    counts = np.bincount(labels.ravel(), minlength=len(classes.names))[: len(classes.names)]
    largest = np.argsort(-counts, kind="stable")[:4]
    return ", ".join(
        f"{classes.names[label]} {counts[label] / labels.size:.0%}"
        for label in largest
        if counts[label]
    )


def write(
    stem: Path, image: NDArray[np.uint8], labels: NDArray[np.integer[Any]], classes: ClassSpec
) -> None:
    """Write the labels as a gray PNG, and their colours over the image."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(f"{stem}.labels.png", labels)
    overlay = blend(image, colorize(labels, classes), 0.5)  # type: ignore[arg-type]
    cv2.imwrite(f"{stem}.overlay.jpg", overlay)
    print(f"  {stem}.overlay.jpg")


if __name__ == "__main__":
    try:
        main()
    except BrokenPipeError:  # the reader, such as head, has closed the pipe
        discard_stdout()
        raise SystemExit(1) from None
