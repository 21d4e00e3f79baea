"""The checks of ``torch.ops.alignseg``, which are the same on every device and while tracing.

`plugin_contract` has the table of what fits. The TensorRT plugins refuse the same inputs and name
the problem in the same words; a test compares them. Tensors in another memory format are not
refused but copied first, as TensorRT does with its reformats.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from alignseg_infer.errors import OptionError
from alignseg_infer.spec.model import SamplingConvention
from alignseg_infer.spec.plugin_contract import PLUGIN_OPS, PluginOp

# The definition would accept bfloat16, but the kernels do not, and a model must behave the same on
# every device. float64 is refused because the result, computed in float32, would look more precise
# than it is.
_TYPE_NAMES = {torch.float32: "FP32", torch.float16: "FP16"}
# The plugins' names for other types.
_OTHER_TYPE_NAMES = {
    torch.bfloat16: "BF16",
    torch.int8: "INT8",
    torch.uint8: "UINT8",
    torch.int32: "INT32",
    torch.int64: "INT64",
    torch.bool: "BOOL",
}
_AXES = ("batch", "channels", "height", "width")
_CONVENTIONS = {convention.value: convention for convention in SamplingConvention}
_MOST_KEPT = 1024  # accepted combinations; a network at one size has six


_Facts = tuple[torch.Size, torch.dtype, torch.device]


class _Operand(NamedTuple):
    """The checked properties of an input. Sizes may be symbols while PyTorch traces."""

    shape: torch.Size
    dtype: torch.dtype
    device: torch.device


def output_shape(op: PluginOp, tensors: Sequence[Tensor]) -> tuple[int, ...]:
    """Check the inputs of an operator and return the shape of its output.

    Args:
        op: Which operator.
        tensors: Its inputs, in order. Their shapes, types and devices are checked.

    Raises:
        OptionError: The number of dimensions, a size, a type or a device does not fit.
    """
    facts = tuple([(one.shape, one.dtype, one.device) for one in tensors])
    try:
        return _look_up_shape(op.name, facts)
    except TypeError:  # the symbols of a trace cannot be hashed
        return _check_operands(op, facts)


def convention_of(op: PluginOp, convention: str) -> SamplingConvention:
    """Return the convention with this name.

    Raises:
        OptionError: There is no convention with this name.
    """
    if convention not in _CONVENTIONS:
        first, second, third = _CONVENTIONS
        raise OptionError(
            f"{op.operator}: convention is {convention!r}",
            f"{first}, {second} or {third}",
            f'convention="{first}"; export and train with the same one',
        )
    return _CONVENTIONS[convention]


@functools.lru_cache(_MOST_KEPT)
def _look_up_shape(name: str, facts: tuple[_Facts, ...]) -> tuple[int, ...]:
    return _check_operands(PLUGIN_OPS[name], facts)


def _check_operands(op: PluginOp, facts: Sequence[_Facts]) -> tuple[int, ...]:
    operands = [_Operand(*one) for one in facts]
    for index, operand in enumerate(operands):
        _check_rank(op, index, operand)
    sizes = _check_sizes(op, operands)
    _check_types(op, operands)
    _check_devices(op, operands)
    shape = tuple(sizes[letter] for letter in op.dimensions[-1])
    _check_not_empty(op, operands[0], shape)
    return shape


def _check_rank(op: PluginOp, index: int, operand: _Operand) -> None:
    rank = len(op.dimensions[index])
    if len(operand.shape) != rank:
        problem = f"{op.inputs[index]} has {len(operand.shape)} dimensions"
        raise _shape_error(op, problem, f"{rank}")


def _check_sizes(op: PluginOp, operands: Sequence[_Operand]) -> dict[str, Any]:
    """Return the size that each letter of `op.dimensions` stands for."""
    sizes: dict[str, Any] = {}
    first: dict[str, str] = {}
    for name, letters, operand in zip(op.inputs, op.dimensions, operands, strict=False):
        for axis, letter, size in zip(_AXES, letters, operand.shape, strict=True):
            expected = int(letter) if letter.isdigit() else sizes.setdefault(letter, size)
            if size != expected:
                of = "" if letter.isdigit() else f", as of {first[letter]}"
                raise _shape_error(op, f"{axis} of {name} is {size}", f"{expected}{of}")
            first.setdefault(letter, name)
    return sizes


def _check_types(op: PluginOp, operands: Sequence[_Operand]) -> None:
    first: dict[str, int] = {}
    for index, (name, letter) in enumerate(zip(op.inputs, op.types, strict=True)):
        dtype = operands[index].dtype
        other = first.setdefault(letter, index)
        if dtype not in _TYPE_NAMES:
            named = _OTHER_TYPE_NAMES.get(dtype, str(dtype))
            problem = f"{op.operator}: {name} is {named}"
            raise OptionError(problem, "FP32 or FP16, on any device", f"{name}.float()")
        if dtype != operands[other].dtype:
            raise OptionError(
                f"{op.operator}: {name} is {_TYPE_NAMES[dtype]}",
                f"{_TYPE_NAMES[operands[other].dtype]}, as of {op.inputs[other]}",
                f"{name}.to({op.inputs[other]}.dtype)",
            )


def _check_devices(op: PluginOp, operands: Sequence[_Operand]) -> None:
    expected = operands[0].device
    for name, operand in zip(op.inputs, operands, strict=True):
        if operand.device != expected:
            raise OptionError(
                f"{op.operator}: {name} is on {operand.device}",
                f"{expected}, as of {op.inputs[0]}",
                f"{name}.to({op.inputs[0]}.device)",
            )


def _check_not_empty(op: PluginOp, source: _Operand, shape: Sequence[int]) -> None:
    """Refuse an empty feature, unless the output is also empty and needs no samples."""
    for axis, letter, size in zip(_AXES, op.dimensions[0], source.shape, strict=True):
        if letter not in op.dimensions[-1] and size == 0 and 0 not in shape:
            raise _shape_error(op, f"{axis} of {op.inputs[0]} is 0", "1 or more")


def _shape_error(op: PluginOp, problem: str, expected: str) -> OptionError:
    shapes = [
        f"{name} ({', '.join(letters)})"
        for name, letters in zip(op.inputs, op.dimensions, strict=False)
    ]
    return OptionError(
        f"{op.operator}: {problem}",
        expected,
        f"pass {', '.join(shapes)}, where the same letter means the same size",
    )
