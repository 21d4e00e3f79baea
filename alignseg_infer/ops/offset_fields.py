"""The network's offset fields: their names, the features they sample, and their units.

This module does not need PyTorch, so exported models can be inspected without it.
"""

from typing import NamedTuple

from alignseg_infer.backports import StrEnum
from alignseg_infer.spec.graph_contract import OFFSET_PREFIX
from alignseg_infer.spec.model import SamplingConvention

CONTEXT_BINS = 3  # CAM pools the 1/32 stage to 3 x 3


class OffsetField(StrEnum):
    """The nine learned offset fields, in the order in which models return them.

    A field is (N, 2, H, W), dx then dy. CAM's field has the size of the 1/32 stage. The others have
    1/4 of the input size and move the coarse (``high``) or the fine (``low``) feature of their
    block.
    """

    CAM = "cam"
    CAB5_HIGH = "cab5.high"
    CAB5_LOW = "cab5.low"
    CAB4_HIGH = "cab4.high"
    CAB4_LOW = "cab4.low"
    CAB3_HIGH = "cab3.high"
    CAB3_LOW = "cab3.low"
    CAB2_HIGH = "cab2.high"
    CAB2_LOW = "cab2.low"

    @property
    def output_name(self) -> str:
        """Name of the field among the outputs of an exported graph."""
        return f"{OFFSET_PREFIX}{self}"

    def sampled_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return the (height, width) of the feature that a field of `size` (H, W) samples.

        CAB resizes its coarse feature to the size of the fine one before it samples.
        """
        return (CONTEXT_BINS, CONTEXT_BINS) if self is OffsetField.CAM else size


class AxisTerms(NamedTuple):
    """``source = position * step + offset * gain + shift`` along one axis, in feature pixels."""

    step: float
    gain: float
    shift: float


def axis_terms(
    convention: SamplingConvention, feature: int, output: int, feature_across: int
) -> AxisTerms:
    """Return the linear map of `convention` along one axis; `ops.sampling` has the table.

    Args:
        convention: Which formula.
        feature: Size of the feature along this axis.
        output: Size of the output along this axis.
        feature_across: Size of the feature along the other axis.
    """
    last = max(output - 1, 1)
    match convention:
        case SamplingConvention.RELEASE_2021_12:
            return AxisTerms(feature / last, 0.5, -0.5)
        case SamplingConvention.RELEASE_2021_05:
            return AxisTerms(feature / last, feature / (2 * feature_across), -0.5)
        case SamplingConvention.STANDARD:
            return AxisTerms((feature - 1) / last, (feature - 1) / last, 0.0)
