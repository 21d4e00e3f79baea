"""Tables of the work around the network: labels, confidence and colour, and its input."""

import functools
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from alignseg_infer.cuda.launches import DeviceTensor, preprocess_launch, upsample_argmax_launch
from alignseg_infer.cuda.params import UPSAMPLE_ARGMAX
from alignseg_infer.pixels.preprocess import preprocess
from alignseg_infer.spec.model import InputSpec
from tests.benchmarks.gpu_sampling_tables import LAYOUTS, baselines, by, nbytes, normal, stored_as
from tests.benchmarks.gpu_timing import Rig, Row, Size, Table, Tensors, copy_row

EXACT_LABELS = 1e-4  # share of pixels, since kernels compute in float32
HALF_LABELS = 2e-2  # share of pixels if PyTorch rounds upsampled logits to float16
LEVELS = 1.0  # levels of confidence, out of 255
GREY = 0.6  # grey levels: OpenCV rounds after resizing, PyTorch does not
SPEC = InputSpec()


class Labels:
    """Logits of an image, and ways to turn them into labels.

    Args:
        rig: The rig to run on.
        image: Size of the labels.
        logits: Size of the logits.
    """

    def __init__(self, rig: Rig, image: Size, logits: Size) -> None:
        self.rig, self.image = rig, image
        self.shape = (1, rig.sizes.classes, *logits)
        self.palette = normal(rig, 0, (rig.sizes.classes, 3)).mul(50).abs().to(torch.uint8)
        self.like = torch.zeros((1, 1, *image), device=rig.device)  # only its size matters
        self.logits = functools.cache(self._logits)
        self.exact = functools.cache(self._exact)

    def _logits(self, dtype: torch.dtype, layout: str, number: int) -> Tensors:
        """Make logits with regions of one label, like those of a trained network."""
        coarse = normal(self.rig, number, (1, self.shape[1], 17, 33)) * 4
        smooth = F.interpolate(coarse, self.shape[2:], mode="bicubic", align_corners=True)
        return (stored_as(layout, smooth.to(dtype)),)

    def _exact(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Compute labels and confidence of set 0 in float64."""
        scores = upsample(self.logits(dtype, "planar", 0)[0].double(), self.image).softmax(1)
        best = scores.max(1)
        return best.indices, (255 * best.values).round()

    def needed(self, *outputs: int, width: int = 2) -> int:
        """Return the bytes of the logits, and of outputs with these numbers of bytes per pixel."""
        return nbytes(self.shape, width=width) + sum(outputs) * self.image[0] * self.image[1]

    def kernel(self, logits: Tensor, dtype: torch.dtype) -> Tensor:
        """Compute labels with a launch of the kernel."""
        labels = logits.new_empty((1, *self.image), dtype=dtype)
        self.rig.launch(upsample_argmax_launch(stored(logits), stored(labels)))
        return labels

    def with_confidence(self, logits: Tensor) -> Tensors:
        labels, confidence = (
            logits.new_empty((1, *self.image), dtype=torch.uint8) for _ in range(2)
        )
        address = confidence.data_ptr()
        launch = upsample_argmax_launch(stored(logits), stored(labels), confidence=address)
        self.rig.launch(launch)
        return labels, confidence

    def with_color(self, logits: Tensor) -> Tensors:
        labels = logits.new_empty((1, *self.image), dtype=torch.uint8)
        color = logits.new_empty((1, *self.image, 3), dtype=torch.uint8)
        launch = upsample_argmax_launch(stored(logits), stored(labels))
        params = np.frombuffer(bytearray(launch.params), UPSAMPLE_ARGMAX)
        params["color"], params["palette"] = color.data_ptr(), self.palette.data_ptr()
        self.rig.launch(launch._replace(params=params.tobytes()))
        return labels, color

    def operator(self, logits: Tensor) -> Tensor:
        result: Tensor = torch.ops.alignseg.upsample_argmax(logits, self.like)
        return result

    def unlike(self, dtype: torch.dtype, labels: Tensor) -> float:
        """Return the share of pixels with another label."""
        exact = self.exact(dtype)[0]
        if labels.shape != exact.shape:
            raise ValueError(f"labels are {tuple(labels.shape)}, not {tuple(exact.shape)}")
        return float((labels.long() != exact).double().mean())

    def levels(self, dtype: torch.dtype, outputs: Tensors) -> float:
        """Return the largest difference of confidence; infinite if too many labels differ."""
        labels, confidence = outputs
        if self.unlike(dtype, labels) > HALF_LABELS:
            return float("inf")
        exact_labels, exact = self.exact(dtype)
        alike = labels.long() == exact_labels
        return float((confidence.double() - exact)[alike].abs().max())

    def miscolored(self, dtype: torch.dtype, outputs: Tensors) -> float:
        """Return `unlike`, or infinity if a colour is not the colour of its label."""
        labels, color = outputs
        same = torch.equal(color, self.palette[labels.long()])
        return self.unlike(dtype, labels) if same else float("inf")


def stored(tensor: Tensor) -> DeviceTensor:
    """Describe where a dense tensor is stored."""
    dtype = torch.empty(0, dtype=tensor.dtype).numpy().dtype
    return DeviceTensor(tensor.data_ptr(), tuple(tensor.shape), dtype)


def upsample(logits: Tensor, image: Size) -> Tensor:
    return F.interpolate(logits, image, mode="bilinear", align_corners=True)


def label_tables(rig: Rig) -> Iterator[Table]:
    """Yield the tables of labels and colour, then confidence, for each size of image."""
    for image, logits in rig.sizes.images:
        given = Labels(rig, image, logits)
        yield label_table(rig, given)
        yield confidence_table(rig, given)


def label_row(
    given: Labels,
    name: str,
    call: Callable[..., Any],
    needed: int,
    layout: str = "planar",
    dtype: torch.dtype = torch.float16,
) -> Row:
    exact = name.startswith("UpsampleArgmax") or dtype is torch.float32
    return Row(
        name=name,
        make=partial(given.logits, dtype, layout),
        call=call,
        needed=needed,
        error=partial(given.miscolored if "colour" in name else given.unlike, dtype),
        tolerance=EXACT_LABELS if exact else HALF_LABELS,
    )


def label_table(rig: Rig, given: Labels) -> Table:
    def plain(logits: Tensor) -> Tensor:
        return upsample(logits, given.image).argmax(1)

    row, ours, wide = partial(label_row, given), "UpsampleArgmax", torch.float32
    bytes_out, words_out = (
        partial(given.kernel, dtype=kind) for kind in (torch.uint8, torch.int32)
    )
    byte, word, wide_byte = given.needed(1), given.needed(4), given.needed(1, width=4)
    rows = [
        row(f"{ours}, uint8", bytes_out, byte),
        row(f"{ours}, int32", words_out, word),
        row(f"{ours}, int32, operator, planar", given.operator, word),
        row(f"{ours}, int32, operator, NHWC (copies first)", given.operator, word, "NHWC"),
        row(f"{ours}, uint8 and colour", given.with_color, given.needed(1, 3)),
        row(f"{ours}, uint8, of float32", bytes_out, wide_byte, dtype=wide),
    ]
    others = [
        row(f"{name}, {layout}", function, byte, layout)
        for name, function in baselines(rig, plain, "interpolate, argmax").items()
        for layout in LAYOUTS
    ]
    title = f"labels {by(given.image)} of {given.shape[1]}x{by(given.shape[2:])}, float16"
    return Table(title=title, rows=[copy_row(rig, byte), *rows, *others], base=others[0].name)


def confidence_table(rig: Rig, given: Labels) -> Table:
    def plain(logits: Tensor) -> Tensors:
        best = upsample(logits.float(), given.image).softmax(1).max(1)
        return best.indices, (255 * best.values).round().to(torch.uint8)

    functions = [("UpsampleArgmax, uint8 and confidence", given.with_confidence, "planar")]
    functions += [
        (f"{name}, {layout}", function, layout)
        for name, function in baselines(rig, plain, "interpolate, softmax, max").items()
        for layout in LAYOUTS
    ]
    rows = [
        Row(
            name=name,
            make=partial(given.logits, torch.float16, layout),
            call=function,
            needed=given.needed(1, 1),
            error=partial(given.levels, torch.float16),
            tolerance=LEVELS,
        )
        for name, function, layout in functions
    ]
    title = f"labels and confidence {by(given.image)} of {by(given.shape[2:])}, float16"
    return Table(title=title, rows=[copy_row(rig, given.needed(1, 1)), *rows], base=rows[1].name)


def input_tables(rig: Rig) -> Iterator[Table]:
    """Yield the tables of the network's input: at each image's size, then large to small."""
    sizes = [image for image, _ in rig.sizes.images]
    for image, size in (*((size, size) for size in sizes), (sizes[0], sizes[-1])):
        for dtype in (torch.float32, torch.float16):
            yield input_table(rig, image, size, dtype)


class Inputs:
    """Images, and ways to turn them into the network's input.

    Args:
        rig: The rig to run on.
        image: Size of the images.
        size: Size of the input.
        dtype: Type of the input.
    """

    def __init__(self, rig: Rig, image: Size, size: Size, dtype: torch.dtype) -> None:
        self.rig, self.image, self.size, self.dtype = rig, image, size, dtype
        self.mean, self.std = (
            torch.tensor(values, device=rig.device).reshape(1, 3, 1, 1)
            for values in (SPEC.mean, SPEC.std)
        )

    def make(self, number: int) -> Tensors:
        levels = normal(self.rig, number, (*self.image, 3)) * 80 + 128
        return (levels.clamp(0, 255).to(torch.uint8),)

    def kernel(self, pixels: Tensor) -> Tensor:
        output = torch.empty((1, 3, *self.size), dtype=self.dtype, device=self.rig.device)
        self.rig.launch(preprocess_launch(stored(pixels), stored(output), SPEC))
        return output

    def plain(self, pixels: Tensor) -> Tensor:
        """Preprocess with PyTorch's operators; the result is channels last, like the image."""
        planes = pixels.permute(2, 0, 1).unsqueeze(0).float()
        if self.image != self.size:
            planes = F.interpolate(planes, self.size, mode="bilinear", align_corners=False)
        return ((planes - self.mean) / self.std).to(self.dtype)

    def planar(self, pixels: Tensor) -> Tensor:
        return self.plain(pixels).contiguous()

    def difference(self, seen: Tensor) -> float:
        """Return the largest difference, in grey levels, from the CPU's result for set 0."""
        exact = preprocess(self.make(0)[0].cpu().numpy(), self.size, SPEC)
        return float(np.abs(seen.float().cpu().numpy() - exact).max())


def input_table(rig: Rig, image: Size, size: Size, dtype: torch.dtype) -> Table:
    given = Inputs(rig, image, size, dtype)
    rounding = 0.07 if dtype is torch.float16 else 0.001  # of values up to 150, in float16
    functions = {"preprocess": given.kernel}
    functions |= baselines(rig, given.planar, "planar") | baselines(rig, given.plain, "NHWC")
    needed = 3 * image[0] * image[1] + nbytes((3, *size), width=torch.finfo(dtype).bits // 8)
    rows = [
        Row(
            name=name,
            make=given.make,
            call=call,
            needed=needed,
            error=given.difference,
            tolerance=rounding + (GREY if name != "preprocess" and image != size else 0),
        )
        for name, call in functions.items()
    ]
    title = f"input {by(size)} of an image {by(image)}, {dtype}".replace("torch.", "")
    return Table(title=title, rows=[copy_row(rig, needed), *rows], base=rows[1].name)
