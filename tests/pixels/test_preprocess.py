"""Size policies and the arithmetic of the network input."""

from typing import Any

import cv2
import numpy as np
import pytest

from alignseg_infer.arrays import Image, Size
from alignseg_infer.errors import OptionError, SizeError
from alignseg_infer.pixels.preprocess import SizePolicy, preprocess, size_policy
from alignseg_infer.spec.model import ChannelOrder, ExportSpec, InputSpec, OutputKind, Sampler

ZERO_MEAN = InputSpec(mean=(0.0, 0.0, 0.0))


def export_spec(size: Size | None) -> ExportSpec:
    return ExportSpec(
        output=OutputKind.LOGITS,
        sampler=Sampler.NATIVE,
        opset=18,
        rewrites=True,
        size=size,
        batch=None,
        exporter="by hand",
    )


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        (ChannelOrder.BGR, (9.0, 9.0, 6.75)),  # (10-1)/1, (20-2)/2, (30-3)/4
        (ChannelOrder.RGB, (29.0, 9.0, 1.75)),  # (30-1)/1, (20-2)/2, (10-3)/4
    ],
)
def test_channels_mean_and_std(order: ChannelOrder, expected: tuple[float, ...]) -> None:
    image = np.full((2, 3, 3), (10, 20, 30), np.uint8)
    spec = InputSpec(channel_order=order, mean=(1.0, 2.0, 3.0), std=(1.0, 2.0, 4.0))
    tensor = preprocess(image, (2, 3), spec)
    np.testing.assert_array_equal(tensor, np.tile(np.reshape(expected, (1, 3, 1, 1)), (2, 3)))


def test_every_pixel_value_exactly() -> None:
    """All 256 values with the published mean, computed in float32 as in training."""
    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    tensor = preprocess(cv2.merge([values] * 3), (16, 16), InputSpec())  # type: ignore[arg-type]
    for channel, mean in enumerate(InputSpec().mean):
        expected = values.astype(np.float32) - np.float32(mean)
        np.testing.assert_array_equal(tensor[0, channel], expected)


@pytest.mark.parametrize("order", ChannelOrder)
@pytest.mark.parametrize("size", [(90, 130), (45, 61)])
def test_layout(order: ChannelOrder, size: Size, image: Image) -> None:
    tensor = preprocess(image, size, InputSpec(channel_order=order))
    assert tensor.dtype == np.float32
    assert tensor.shape == (1, 3, *size)
    assert tensor.flags.c_contiguous


@pytest.mark.parametrize("size", [(32, 64), (33, 47), (180, 260), (90, 131)])
def test_resize_is_opencv_linear(size: Size, image: Image) -> None:
    expected = cv2.resize(image, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)
    tensor = preprocess(image, size, ZERO_MEAN)
    np.testing.assert_array_equal(tensor[0], expected.transpose(2, 0, 1))


def test_image_is_left_alone(image: Image) -> None:
    before = image.copy()
    preprocess(image, (90, 130), InputSpec(std=(2.0, 2.0, 2.0)))
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize(
    ("size", "fixed", "image_size", "expected"),
    [
        (None, None, (90, 130), (90, 130)),
        (None, (64, 128), (90, 130), (64, 128)),
        ("native", None, (90, 130), (90, 130)),
        ((64, 128), None, (90, 130), (64, 128)),
        ((64, 128), (64, 128), (90, 130), (64, 128)),
        (65, None, (90, 130), (45, 65)),
        (65, None, (130, 90), (65, 45)),
        (260, None, (90, 130), (180, 260)),
        (100, None, (1000, 667), (100, 67)),  # 66.7
        (32, None, (90, 90), (32, 32)),
    ],
)
def test_size_policy(
    size: str | int | Size | None, fixed: Size | None, image_size: Size, expected: Size
) -> None:
    assert size_policy(size, export_spec(fixed)).input_size(image_size) == expected


def test_size_policy_without_export_facts() -> None:
    assert size_policy(None, None) == SizePolicy()


@pytest.mark.parametrize("size", ["native", 128, (128, 64), (64, 129)])
def test_fixed_model_takes_no_other_size(size: str | int | Size) -> None:
    with pytest.raises(SizeError):
        size_policy(size, export_spec((64, 128)))


@pytest.mark.parametrize(
    "size", ["512", 0, -5, True, 1.5, (64,), (64, 64, 3), (0, 64), (64.0, 64.0), [64.0, 64]]
)
def test_refused_size(size: Any) -> None:
    with pytest.raises(OptionError):
        size_policy(size, None)


@pytest.mark.parametrize(
    ("policy", "image_size"),
    [
        (SizePolicy(), (31, 500)),
        (SizePolicy(), (500, 31)),
        (SizePolicy(fixed=(31, 64)), (500, 500)),
        (SizePolicy(longest_side=64), (100, 204)),  # 31 rows
    ],
)
def test_too_small(policy: SizePolicy, image_size: Size) -> None:
    with pytest.raises(SizeError):
        policy.input_size(image_size)


def test_smallest_size() -> None:
    assert SizePolicy().input_size((32, 32)) == (32, 32)
