"""The record that a model labels images like its reference."""

import dataclasses
import json
from dataclasses import dataclass

from alignseg_infer.arrays import InputShape
from alignseg_infer.backports import Self
from alignseg_infer.spec.from_json import dataclass_from_json, json_facts, unreadable_spec
from alignseg_infer.spec.model import Precision

# Share of pixels that must get the same label as in float32.
REQUIRED_AGREEMENT = {Precision.FP32: 0.999, Precision.FP16: 0.995, Precision.INT8: 0.98}
WORST_IMAGE_FACTOR = 2  # a single image may disagree this many times as much


@dataclass(frozen=True)
class VerifiedRow:
    """Comparison with the reference at one input shape.

    Attributes:
        shape: Input shape.
        images: Number of images compared.
        agreement: Share of pixels with the same label, 0..1, over all images.
        worst_agreement: Share of pixels with the same label in the worst image, 0..1.
        logits_error: Relative L2 error of the logits; None if the model returns labels only.
    """

    shape: InputShape
    images: int
    agreement: float
    worst_agreement: float
    logits_error: float | None


@dataclass(frozen=True, kw_only=True)
class Verification:
    """Record that a model labels images like its reference.

    Attributes:
        reference: File name of the reference.
        reference_sha256: SHA-256 of the reference.
        backend: What ran the model.
        images: The images compared, e.g. "128 images".
        required_agreement: Share of pixels with the same label, 0..1, that every row must have.
        rows: One comparison for each input shape.
        miou_drop: The reference's mean IoU minus the model's, in percentage points; None without
            true labels.
    """

    reference: str
    reference_sha256: str
    backend: str
    images: str
    required_agreement: float
    rows: tuple[VerifiedRow, ...]
    miou_drop: float | None = None

    @property
    def required_of_images(self) -> float:
        """Share of pixels with the same label, 0..1, that every image must have."""
        return 1 - WORST_IMAGE_FACTOR * (1 - self.required_agreement)

    @property
    def passed(self) -> bool:
        """Whether every row, and the worst image in it, agrees well enough."""
        return all(
            row.agreement >= self.required_agreement
            and row.worst_agreement >= self.required_of_images
            for row in self.rows
        )

    def vouches_for(self, precision: Precision) -> bool:
        """Whether it passed at the usual gate for a model of this `precision`, or a higher one."""
        return self.passed and self.required_agreement >= REQUIRED_AGREEMENT[precision]

    def to_json(self) -> str:
        """Return the record as one JSON object."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote.

        Raises:
            SpecError: The text is not a verification record.
        """
        try:
            facts = json_facts(text)
        except ValueError as error:
            raise unreadable_spec(f"verification is not JSON ({error})") from error
        return dataclass_from_json(cls, facts, "verification")
