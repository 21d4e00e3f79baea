"""The record that a model labels images as its reference does."""

import dataclasses
import json
from dataclasses import dataclass
from typing import Self

from alignseg_infer.arrays import InputShape
from alignseg_infer.spec.from_json import dataclass_from_json


@dataclass(frozen=True)
class VerifiedRow:
    """Comparison with the reference at one input shape.

    Attributes:
        shape: Input shape.
        images: Images compared.
        agreement: Share of pixels labelled alike, 0..1, over all of them.
        worst_agreement: The same for the worst image.
        logits_error: Relative L2 error of the logits; None where labels are all there is.
    """

    shape: InputShape
    images: int
    agreement: float
    worst_agreement: float
    logits_error: float | None


@dataclass(frozen=True, kw_only=True)
class Verification:
    """That a model labels images as its reference does.

    Attributes:
        reference: File name of the reference.
        reference_sha256: SHA-256 of the reference.
        backend: What ran the model.
        images: On what, e.g. "128 images".
        required_agreement: Threshold that every row met.
        rows: One for each input shape.
        miou_drop: Mean IoU of the reference minus that of the model, in percent points; None
            without labels.
    """

    reference: str
    reference_sha256: str
    backend: str
    images: str
    required_agreement: float
    rows: tuple[VerifiedRow, ...]
    miou_drop: float | None = None

    def to_json(self) -> str:
        """The record as one JSON object."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Reads what `to_json` wrote.

        Raises:
            SpecError: The text is something else.
        """
        try:
            facts = json.loads(text)
        except (ValueError, RecursionError):
            facts = text
        return dataclass_from_json(cls, facts, "verification")
