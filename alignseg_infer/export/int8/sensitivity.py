"""Measures what quantising each block does to labels, and keeps blocks in float for a budget."""

import json
import logging
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, replace
from typing import TypeAlias

import onnx_ir

from alignseg_infer.errors import VerificationError
from alignseg_infer.export.int8.convolutions import Convolution, Grain, Role, find_convolutions
from alignseg_infer.export.int8.effect import Effect, EffectMeter
from alignseg_infer.export.int8.histograms import Ranges
from alignseg_infer.export.int8.options import QuantizationOptions, require_budget
from alignseg_infer.export.int8.quantize import (
    choose_convolutions,
    quantize_convolutions,
)
from alignseg_infer.progress import Progress
from alignseg_infer.text import markdown_table, markdown_text

_Blocks: TypeAlias = Mapping[str, list[Convolution]]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class BlockEffect:
    """What quantising one block alone does.

    Attributes:
        block: The block's name; unless it is `always_float`, ``--keep-float`` accepts it.
        convolutions: How many convolutions the block has.
        always_float: Whether `int8.quantize` leaves it float in any case: true for the offset
            branches and the classifier.
        effect: How far the labels move.
    """

    block: str
    convolutions: int
    always_float: bool
    effect: Effect


@dataclass(frozen=True)
class Sensitivity:
    """The result of `measure_sensitivity`.

    Attributes:
        data: The images it was measured on, in words.
        method: How ranges were chosen.
        calibration_images: How many images the ranges come from.
        miou: Mean IoU of the FP32 model in percent; None without true labels.
        blocks: Each block alone, the one with the most changed labels first.
        together: All blocks at once, except those that always stay float.
    """

    data: str
    method: str
    calibration_images: int
    miou: float | None
    blocks: tuple[BlockEffect, ...]
    together: Effect

    def to_json(self) -> str:
        """Return everything as one JSON object."""
        return json.dumps(asdict(self), indent=1)

    def to_markdown(self) -> str:
        """Return a Markdown table."""
        header = ["quantised alone", "convolutions", "labels changed, %", "loss of mIoU, points"]
        rows = [
            _format_row(_format_title(one), one.convolutions, one.effect)
            for one in (*self.blocks, self._sum_up())
        ]
        miou = "" if self.miou is None else f" The FP32 model has a mean IoU of {self.miou:.2f} %."
        lines = [
            f"# INT8 block by block: {markdown_text(self.data)}",
            "",
            f"Ranges: {self.method}, from {self.calibration_images} images.{miou}",
            "",
            markdown_table(header, rows),
        ]
        return "\n".join(lines) + "\n"

    def _sum_up(self) -> BlockEffect:
        count = sum(one.convolutions for one in self.blocks if not one.always_float)
        return BlockEffect("all others together", count, False, self.together)


def _format_title(one: BlockEffect) -> str:
    return f"{one.block} (stays float)" if one.always_float else one.block


def _format_row(title: str, count: int, effect: Effect) -> list[str]:
    loss = "-" if effect.miou_loss is None else f"{effect.miou_loss:+.3f}"
    return [title, str(count), f"{effect.disagreement:.3f}", loss]


def measure_sensitivity(
    model: onnx_ir.Model,
    ranges: Ranges,
    meter: EffectMeter,
    *,
    grain: Grain = Grain.STAGE,
    progress: Progress | None = None,
) -> Sensitivity:
    """Measure every block alone, offset branches and classifier too, and all together.

    Args:
        model: The FP32 graph.
        ranges: From `int8.calibration`, for this graph.
        meter: A meter with the same model as its original.
        grain: How much one block is.
        progress: Called with the number of models measured and their total.

    Raises:
        ExportError: The graph cannot be quantised.
    """
    chosen = _group_by_block(model, grain)
    groups = [*chosen.values(), _select_features(chosen)]
    effects = []
    for group in groups:
        effects.append(meter.measure(quantize_convolutions(model, ranges, group)))
        if progress:
            progress(len(effects), len(groups))
    *alone, together = effects
    found = [
        BlockEffect(block, len(group), group[0].role is not Role.FEATURES, effect)
        for (block, group), effect in zip(chosen.items(), alone, strict=True)
    ]
    found.sort(key=lambda one: -one.effect.disagreement)
    return Sensitivity(
        data=meter.images.name,
        method=ranges.method.value,
        calibration_images=ranges.images,
        miou=meter.miou,
        blocks=tuple(found),
        together=together,
    )


def _group_by_block(model: onnx_ir.Model, grain: Grain) -> dict[str, list[Convolution]]:
    """Group convolutions by block; offset branches and classifier are blocks of their own."""
    found: dict[str, list[Convolution]] = {}
    for conv in find_convolutions(model):
        suffix = "" if conv.role is Role.FEATURES else f" {conv.part}"
        found.setdefault(conv.block(grain) + suffix, []).append(conv)
    return found


def _select_features(chosen: _Blocks) -> list[Convolution]:
    return [conv for group in chosen.values() for conv in group if conv.role is Role.FEATURES]


@dataclass(frozen=True)
class WithinBudget:
    """The result of `keep_within_budget`.

    Attributes:
        options: Options for `int8.quantize.quantize_model` that keep the excluded blocks in float.
        excluded: The blocks kept in float for the budget, in the order of the graph.
        effect: The effect of the model made with `options`.
    """

    options: QuantizationOptions
    excluded: tuple[str, ...]
    effect: Effect


def keep_within_budget(
    model: onnx_ir.Model,
    ranges: Ranges,
    meter: EffectMeter,
    budget: float,
    options: QuantizationOptions | None = None,
    *,
    grain: Grain = Grain.STAGE,
    progress: Progress | None = None,
) -> WithinBudget:
    """Keep the most sensitive blocks in float until the drop is at most `budget`.

    The drop is `Effect.drop`: points of mean IoU if the meter has true labels, else the percentage
    of pixels that get a different label. Blocks are ranked by their own disagreement, which varies
    less between images than mean IoU.

    Args:
        model: The FP32 graph.
        ranges: From `int8.calibration`, for this graph.
        meter: A meter with the same model as its original.
        budget: Largest drop, in percent or percentage points.
        options: What is kept in float from the start.
        grain: How much one block is.
        progress: Called with the number of models measured and the most there can be.

    Raises:
        OptionError: The budget is negative, or the options cannot be used.
        VerificationError: Even with a single block quantised, the drop is above the budget.
        ExportError: The graph cannot be quantised.
    """
    require_budget(budget)
    options = options or QuantizationOptions()
    candidates = choose_convolutions(model, options)
    names = tuple(dict.fromkeys(conv.block(grain) for conv in candidates))
    measured = 0

    def effect_of(blocks: Collection[str]) -> Effect:
        nonlocal measured
        group = [conv for conv in candidates if conv.block(grain) in blocks]
        effect = meter.measure(quantize_convolutions(model, ranges, group, options.target))
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
        logger.info("INT8 for the remaining blocks costs %.3f", effect.drop)
    excluded = tuple(block for block in names if block not in remaining)
    kept = (*options.keep_float, *excluded)
    return WithinBudget(replace(options, keep_float=kept), excluded, effect)


def _above_budget(drop: float, budget: float, block: str) -> VerificationError:
    return VerificationError(
        f"INT8 costs {drop:.3f} even if only {block} is quantised",
        f"at most {budget:g}, the budget",
        "a larger int8_budget=, another calibration_method=, more images, or precision='fp16'",
    )
