"""What runs in the Python backend of Triton, which the generated ``model.py`` calls.

The backend is compiled for one major version of NumPy. With another one it reads the memory of
arrays wrongly: what it sends is empty or garbage, and nothing says so. So each model tries one
tensor first.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alignseg_infer.errors import AlignSegError, DeviceError, ImageError, ModelFileError
from alignseg_infer.pixels.images import ImageSource, load_image
from alignseg_infer.pixels.network_output import (
    as_promised,
    has_image_size,
    returns_probabilities,
)
from alignseg_infer.pixels.postprocess import Labels, resize_labels, scores_from_logits
from alignseg_infer.pixels.preprocess import SizePolicy, network_input
from alignseg_infer.predictor import Predictor
from alignseg_infer.results.failure import Failure
from alignseg_infer.results.segmentation import Segmentation
from alignseg_infer.spec.forms import graph_input, usual_axes
from alignseg_infer.spec.model import ModelSpec

FACTS = "alignseg.json"  # in the folder of each version
FILE, IMAGE, LABELS, CONFIDENCE = "file", "image", "labels", "confidence"
SIZE, OUTPUT = "size", "output"  # only between the models of an ensemble


def require_round_trip(utils: Any) -> None:
    """Check that the backend reads and writes the arrays of this NumPy.

    Args:
        utils: The module ``triton_python_backend_utils`` of the server.

    Raises:
        DeviceError: It does not.
    """
    for dtype in (np.uint8, np.uint16, np.int32, np.int64, np.float32):
        sent = np.arange(6, dtype=dtype).reshape(2, 3)
        try:
            received = utils.Tensor.from_dlpack("trial", utils.Tensor("trial", sent)).as_numpy()
            fits = np.array_equal(received, sent)
        except (TypeError, ValueError, RuntimeError):
            fits = False
        if not fits:
            raise DeviceError(
                f"this server's Python backend does not read arrays of NumPy {np.__version__}; it "
                f"would send labels that are empty or wrong. NumPy belongs to {sys.executable}",
                "the major version of NumPy that the backend was built for; that of server 2.51 "
                "was built for NumPy 1",
                f"{sys.executable} -m pip install 'numpy<2' 'opencv-python-headless<4.12'",
            )


class Served:
    """What all models have in common. Triton calls `initialize` once, then `execute`.

    Attributes:
        utils: The module ``triton_python_backend_utils`` of the server.
    """

    utils: Any

    def initialize(self, args: dict[str, str]) -> None:
        """Try the backend, then open the version that `args` names.

        Raises:
            AlignSegError: The model cannot be served here.
        """
        require_round_trip(self.utils)
        folder = Path(args["model_repository"], args["model_version"])
        self.open(folder, max(1, json.loads(args["model_config"])["max_batch_size"]))

    def open(self, folder: Path, batch: int) -> None:
        """Open the version in `folder`, for at most `batch` images at once."""
        self.spec = ModelSpec.from_json((folder / FACTS).read_text(encoding="utf-8"))

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer each request, or say what is wrong with it."""
        return [self._try(self._answer, request) for request in requests]

    def _answer(self, request: Any) -> dict[str, NDArray[Any]]:
        """Return the outputs for a request.

        Raises:
            AlignSegError: There are none.
        """
        raise NotImplementedError

    def _try(self, answer: Any, *given: Any) -> Any:
        try:
            tensors = [self.utils.Tensor(name, array) for name, array in answer(*given).items()]
            return self.utils.InferenceResponse(output_tensors=tensors)
        except AlignSegError as error:
            return self.utils.InferenceResponse(error=self.utils.TritonError(str(error)))

    def _input(self, request: Any, name: str) -> NDArray[Any] | None:
        tensor = self.utils.get_input_tensor_by_name(request, name)
        return None if tensor is None else tensor.as_numpy()


class Whole(Served):
    """From an image or an image file to labels, all in a `Predictor`."""

    def open(self, folder: Path, batch: int) -> None:
        """Open the model, and let it run on the CPU."""
        self.predictor = Predictor(folder / "model.onnx", batch=batch)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Segment the images of all requests together."""
        given = [self._sources(request) for request in requests]
        wants = [CONFIDENCE in request.requested_output_names() for request in requests]
        results: dict[int, list[Segmentation | Failure]] = {}
        for confidence in set(wants):
            chosen = [index for index, wanted in enumerate(wants) if wanted is confidence]
            sources = [source for index in chosen for source in given[index]]
            done = iter(self.predictor(sources, confidence=confidence, errors="return"))
            results |= {index: [next(done) for _ in given[index]] for index in chosen}
        return [self._try(_outputs_of, results[index]) for index in range(len(requests))]

    def _sources(self, request: Any) -> list[ImageSource]:
        images, files = self._input(request, IMAGE), self._input(request, FILE)
        found: list[ImageSource] = [] if images is None else list(images)
        return found + ([] if files is None else [bytes(one) for one in files.ravel()])


def _outputs_of(results: Sequence[Segmentation | Failure]) -> dict[str, NDArray[Any]]:
    if not results:
        raise ImageError(
            "the request has no image",
            f"the input {IMAGE} with pixels, or the input {FILE} with the bytes of an image file",
            f"send one of {IMAGE} and {FILE}",
        )
    found: list[Segmentation] = []
    for result in results:
        if isinstance(result, Failure):
            raise result.error
        found.append(result)
    outputs: dict[str, NDArray[Any]] = {LABELS: _stack([one.labels for one in found])}
    confidences = [one.confidence for one in found if one.confidence is not None]
    return outputs | ({CONFIDENCE: _stack(confidences)} if confidences else {})


def _stack(arrays: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Return arrays as one, with an axis for them.

    Raises:
        ImageError: They have several shapes.
    """
    if len({array.shape for array in arrays}) > 1:
        raise ImageError(
            f"the images of one request have {arrays[0].shape} and other sizes",
            "images of one size in a request",
            "send one request for each image; the server puts them into batches",
        )
    return np.stack(arrays)


class Preprocess(Served):
    """From image files to the network's input, and the images' sizes."""

    def open(self, folder: Path, batch: int) -> None:
        """Read the facts."""
        super().open(folder, batch)
        self.policy = SizePolicy(self.spec.export.size if self.spec.export else None)

    def _answer(self, request: Any) -> dict[str, NDArray[Any]]:
        files = self._input(request, FILE)
        assert files is not None  # Triton checks what is not optional
        images = [load_image(bytes(one)) for one in files.ravel()]
        sizes = [(image.shape[0], image.shape[1]) for image in images]
        if len(set(sizes)) > 1:  # labels of several sizes make no tensor
            _stack(images)
        tensors = [
            graph_input(self.spec, network_input(image, self.policy.input_size(size), self.spec))[0]
            for image, size in zip(images, sizes, strict=True)
        ]
        return {IMAGE: _stack(tensors), SIZE: np.array(sizes, np.int32)}


class Postprocess(Served):
    """From the network's output to labels at the images' sizes."""

    def _answer(self, request: Any) -> dict[str, NDArray[Any]]:
        output, sizes = self._input(request, OUTPUT), self._input(request, SIZE)
        assert output is not None  # Triton checks what is not optional
        assert sizes is not None
        output = usual_axes(self.spec, output)
        is_quarter = output.ndim == 4 and not has_image_size(self.spec)
        height, width = (4 * side if is_quarter else side for side in output.shape[-2:])
        promised = as_promised(self.spec, (len(output), 3, height, width), output)
        pairs = zip(promised, sizes.tolist(), strict=True)
        return {
            LABELS: _stack([self._label(one, (height, width)) for one, (height, width) in pairs])
        }

    def _label(self, output: NDArray[Any], size: tuple[int, int]) -> Labels:
        if output.ndim == 2:
            return resize_labels(output, size)
        return scores_from_logits(
            output,
            size,
            are_probabilities=returns_probabilities(self.spec),
            remap=self.spec.remap_to_apply,
        ).labels


def facts_of(folder: Path) -> ModelSpec:
    """Return the facts of the version in `folder`.

    Raises:
        ModelFileError: This package has not written them.
        SpecError: They cannot be read.
    """
    try:
        return ModelSpec.from_json((folder / FACTS).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ModelFileError(
            f"{folder} has no {FACTS}, which this package writes into each version",
            "a model that alignseg deploy triton made",
            "choose another name: alignseg deploy triton MODEL -o FOLDER --name NAME",
        ) from error
