"""What quantising each block alone does to the labels, and which blocks to spare for a budget."""

import json
import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass
from typing import TypeAlias

import onnx_ir

from alignseg_infer.errors import VerificationError
from alignseg_infer.export.int8.convolutions import Convolution, Grain, Role, convolutions
from alignseg_infer.export.int8.effect import Comparison, Effect
from alignseg_infer.export.int8.histograms import Ranges
from alignseg_infer.export.int8.options import QuantizationOptions, require_budget
from alignseg_infer.export.int8.quantize import (
    chosen_convolutions,
    with_quantized,
)

Progress: TypeAlias = Callable[[int, int], None]
_Blocks: TypeAlias = Mapping[str, list[Convolution]]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class BlockEffect:
    """What quantising one block alone does.

    Attributes:
        block: Its name; if it is not `always_float`, as ``--keep-float`` takes it.
        convolutions: How many it has.
        always_float: Whether `export.quantize` leaves it float in any case: the offset branches
            and the classifier.
        effect: What it does.
    """

    block: str
    convolutions: int
    always_float: bool
    effect: Effect


@dataclass(frozen=True)
class Sensitivity:
    """What `sensitivity_of` found.

    Attributes:
        data: The images it was measured on, for people.
        method: How ranges were chosen.
        calibration_images: On how many images.
        miou: Mean IoU of the FP32 model in percent; None without true labels.
        blocks: Each block alone, the one with the most pixels of another label first.
        together: All at once that do not stay float.
    """

    data: str
    method: str
    calibration_images: int
    miou: float | None
    blocks: tuple[BlockEffect, ...]
    together: Effect

    def to_json(self) -> str:
        """Everything as one JSON object."""
        return json.dumps(asdict(self), indent=1)

    def to_markdown(self) -> str:
        """A table for people."""
        rows = [
            _row(_title(one), one.convolutions, one.effect) for one in (*self.blocks, self._all())
        ]
        miou = "" if self.miou is None else f" The FP32 model has a mean IoU of {self.miou:.2f} %."
        lines = [
            f"# INT8 block by block: {self.data}",
            "",
            f"Ranges: {self.method} of {self.calibration_images} images.{miou}",
            "",
            "| quantised alone | convolutions | other label than FP32, % | loss of mIoU, points |",
            "| --- | --- | --- | --- |",
            *rows,
        ]
        return "\n".join(lines) + "\n"

    def _all(self) -> BlockEffect:
        count = sum(one.convolutions for one in self.blocks if not one.always_float)
        return BlockEffect("**all others together**", count, False, self.together)


def _title(one: BlockEffect) -> str:
    return f"{one.block} (stays float)" if one.always_float else one.block


def _row(title: str, count: int, effect: Effect) -> str:
    loss = "-" if effect.miou_loss is None else f"{effect.miou_loss:+.3f}"
    return f"| {title} | {count} | {effect.disagreement:.3f} | {loss} |"


def sensitivity_of(
    model: onnx_ir.Model,
    ranges: Ranges,
    comparison: Comparison,
    *,
    grain: Grain = Grain.STAGE,
    progress: Progress | None = None,
) -> Sensitivity:
    """Measures every block alone, offset branches and classifier too, and all together.

    Args:
        model: The FP32 graph.
        ranges: From `export.calibration`, for this graph.
        comparison: With the same model as its original.
        grain: How much is one block.
        progress: Called with the number of models measured and their total.

    Raises:
        ExportError: The graph cannot be quantised.
    """
    chosen = _by_block(model, grain)
    groups = [*chosen.values(), _of_features(chosen)]
    effects = []
    for group in groups:
        effects.append(comparison.effect(with_quantized(model, ranges, group)))
        if progress:
            progress(len(effects), len(groups))
    *alone, together = effects
    found = [
        BlockEffect(block, len(group), group[0].role is not Role.FEATURES, effect)
        for (block, group), effect in zip(chosen.items(), alone, strict=True)
    ]
    found.sort(key=lambda one: -one.effect.disagreement)
    return Sensitivity(
        data=comparison.images.name,
        method=ranges.method.value,
        calibration_images=ranges.images,
        miou=comparison.miou,
        blocks=tuple(found),
        together=together,
    )


def _by_block(model: onnx_ir.Model, grain: Grain) -> dict[str, list[Convolution]]:
    """Convolutions by block; offset branches and classifier are blocks of their own."""
    found: dict[str, list[Convolution]] = {}
    for conv in convolutions(model):
        suffix = "" if conv.role is Role.FEATURES else f" {conv.role}"
        found.setdefault(conv.block(grain) + suffix, []).append(conv)
    return found


def _of_features(chosen: _Blocks) -> list[Convolution]:
    return [conv for group in chosen.values() for conv in group if conv.role is Role.FEATURES]


@dataclass(frozen=True)
class WithinBudget:
    """What `within_budget` found.

    Attributes:
        options: For `export.quantize.quantized_model`, with the excluded blocks kept in float.
        excluded: Those blocks, in the order of the graph.
        effect: What the model made with `options` does.
    """

    options: QuantizationOptions
    excluded: tuple[str, ...]
    effect: Effect


def within_budget(
    model: onnx_ir.Model,
    ranges: Ranges,
    comparison: Comparison,
    budget: float,
    options: QuantizationOptions | None = None,
    *,
    grain: Grain = Grain.STAGE,
    progress: Progress | None = None,
) -> WithinBudget:
    """Keeps the most sensitive blocks in float until the drop is at most `budget`.

    The drop is `Effect.drop`: points of mean IoU where the comparison has true labels, else
    percent of the pixels that get another label. Blocks go in the order of their own disagreement,
    which varies less between images than mean IoU.

    Args:
        model: The FP32 graph.
        ranges: From `export.calibration`, for this graph.
        comparison: With the same model as its original.
        budget: Largest drop, in percent (points).
        options: What is kept in float to begin with.
        grain: How much is one block.
        progress: Called with the number of models measured and how many it can become.

    Raises:
        OptionError: The budget is negative, or the options cannot be used.
        VerificationError: With a single block quantised, the drop is still above it.
        ExportError: The graph cannot be quantised.
    """
    require_budget(budget)
    options = options or QuantizationOptions()
    candidates = chosen_convolutions(model, options)
    names = tuple(dict.fromkeys(conv.block(grain) for conv in candidates))
    measured = 0

    def effect_of(blocks: Collection[str]) -> Effect:
        nonlocal measured
        group = [conv for conv in candidates if conv.block(grain) in blocks]
        effect = comparison.effect(with_quantized(model, ranges, group))
        measured += 1
        if progress:
            progress(measured, 2 * len(names))
        return effect

    effect, remaining = effect_of(names), list(names)
    if effect.drop > budget:
        logger.info("INT8 costs %.3f, above %g: measuring each block", effect.drop, budget)
        remaining.sort(key=lambda block: effect_of([block]).disagreement)
    while effect.drop > budget:
        if len(remaining) == 1:
            raise _above_budget(effect.drop, budget, remaining[0])
        logger.info("%s stays float", remaining.pop())
        effect = effect_of(remaining)
        logger.info("INT8 of all others costs %.3f", effect.drop)
    excluded = tuple(block for block in names if block not in remaining)
    kept = (*options.keep_float, *excluded)
    return WithinBudget(QuantizationOptions(keep_float=kept), excluded, effect)


def _above_budget(drop: float, budget: float, block: str) -> VerificationError:
    return VerificationError(
        f"INT8 costs {drop:.3f} even where only {block} is quantised",
        f"at most {budget:g}, the budget",
        "a larger int8_budget=, another calibration_method=, more images, or precision='fp16'",
    )
