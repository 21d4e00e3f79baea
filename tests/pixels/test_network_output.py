"""Checks of what a network returned: what they let through, and what they refuse."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from alignseg_infer import ModelFileError
from alignseg_infer.datasets.class_tables import class_table_for
from alignseg_infer.pixels.network_output import as_promised, require_offsets, require_output
from alignseg_infer.spec.model import ModelSpec, NetworkSpec, OutputKind
from tests.support.models import LOGITS_EXPORT, SMALL_SPEC

EXPORT = replace(LOGITS_EXPORT, output=OutputKind.LABELS)
LABELS = replace(SMALL_SPEC, export=EXPORT)
SHAPE = (2, 3, 40, 48)
RANDOM = np.random.default_rng(0)


def spec_of(classes: int) -> ModelSpec:
    network = NetworkSpec(num_classes=classes)
    return replace(SMALL_SPEC, network=network, classes=class_table_for(classes))


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares: NDArray[np.float32] = powers / powers.sum(axis=1, keepdims=True)
    return shares


def logits_of(classes: int = 19, spread: float = 4.0) -> NDArray[np.float32]:
    return RANDOM.normal(0, spread, (2, classes, 10, 12)).astype(np.float32)


def with_one_pixel(wrong: NDArray[np.float32]) -> NDArray[np.float32]:
    logits = logits_of()
    logits[:, :, 0, 0] = wrong[:, :, 0, 0]
    return logits


TRUE_LOGITS = {
    "usual": logits_of(),
    "small": np.abs(logits_of(spread=1e-3)),
    "from 0 to 1": RANDOM.uniform(0, 1, (2, 19, 10, 12)).astype(np.float32),
    "zeros": np.zeros((2, 19, 10, 12), np.float32),
    "ones": np.ones((2, 19, 10, 12), np.float32),
    "logarithms": np.log(softmax(logits_of())),
    "one pixel like probabilities": with_one_pixel(softmax(logits_of())),
    "a little more than 1 in sum": softmax(logits_of()) * 1.01,
    "NaN": np.full((2, 19, 10, 12), np.nan, np.float32),
    "float64": logits_of().astype(np.float64),
    "integers": logits_of().astype(np.int8),
}


@pytest.mark.parametrize("output", TRUE_LOGITS.values(), ids=TRUE_LOGITS)
def test_true_logits_are_let_through(output: NDArray[Any]) -> None:
    seen = as_promised(SMALL_SPEC, SHAPE, output)
    assert seen.dtype == np.float32
    np.testing.assert_array_equal(seen, output.astype(np.float32))


def test_one_class_is_no_distribution() -> None:
    require_output(spec_of(1), SHAPE, np.ones((2, 1, 10, 12), np.float32))


@pytest.mark.parametrize("classes", [2, 19, 150])
@pytest.mark.parametrize("kind", [np.float32, np.float16])
@pytest.mark.parametrize("spread", [0.0, 1.0, 50.0])
def test_probabilities_are_found(classes: int, kind: type[Any], spread: float) -> None:
    output = softmax(logits_of(classes, spread)).astype(kind)
    with pytest.raises(ModelFileError, match="returned probabilities") as caught:
        require_output(spec_of(classes), SHAPE, output)
    assert "before softmax" in caught.value.expected


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.int32, np.int64])
def test_labels_of_any_integer_type_are_let_through(kind: type[Any]) -> None:
    labels = RANDOM.integers(0, 19, (2, 40, 48))
    seen = as_promised(LABELS, SHAPE, labels.astype(kind))
    assert seen.dtype == np.uint8
    np.testing.assert_array_equal(seen, labels)


@pytest.mark.parametrize(
    ("spec", "output", "said"),
    [
        (LABELS, np.zeros((2, 40, 48), np.float32), "the type float32"),
        (LABELS, np.zeros((2, 40, 48), bool), "the type bool"),
        (LABELS, np.full((2, 40, 48), -1), "the label -1"),
        (LABELS, np.full((2, 40, 48), 256), "the label 256"),
        (LABELS, np.full((2, 40, 48), 19, np.uint8), "the label 19"),
        (LABELS, np.zeros((1, 40, 48), np.uint8), "shape (1, 40, 48)"),
        (SMALL_SPEC, logits_of().astype(np.complex64), "the type complex64"),
        (SMALL_SPEC, logits_of().tolist(), "returned a list"),
        (SMALL_SPEC, None, "returned a NoneType"),
        (SMALL_SPEC, logits_of(5), "shape (2, 5, 10, 12)"),
    ],
)
def test_other_outputs_are_refused(spec: ModelSpec, output: Any, said: str) -> None:
    with pytest.raises(ModelFileError) as caught:
        as_promised(spec, SHAPE, output)
    assert said in caught.value.problem


def test_offset_fields() -> None:
    require_offsets(SHAPE, "cam", np.zeros((2, 2, 9, 17), np.float32))
    for shape in [(1, 2, 9, 17), (2, 3, 9, 17), (2, 2, 0, 17), (2, 9, 17)]:
        with pytest.raises(ModelFileError, match="the offset field cam of shape"):
            require_offsets(SHAPE, "cam", np.zeros(shape, np.float32))
