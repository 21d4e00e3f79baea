"""Reading dataclasses of this package from the JSON that travels with a model."""

import dataclasses
import json
import types
import typing
from typing import Any, TypeVar

from alignseg_infer.backports import StrEnum
from alignseg_infer.errors import SpecError

_T = TypeVar("_T")

MAX_FACTS = 8 << 20  # characters; a table of 16384 classes usually takes less than two million
LATER = "later"  # in the metadata of a field that files written earlier do not have


def unreadable_spec(reason: str) -> SpecError:
    """Return the error for facts that cannot be read."""
    return SpecError(
        f"the model's spec cannot be read: {reason}",
        "the JSON this package writes at export",
        "export the model again with: alignseg export-onnx CHECKPOINT -o MODEL.onnx",
    )


def json_facts(text: str) -> Any:
    """Return the value of a JSON text.

    Raises:
        ValueError: It is no JSON, nested too deeply, or longer than `MAX_FACTS`, which would take
            minutes and gigabytes to read.
    """
    if len(text) > MAX_FACTS:
        raise ValueError(f"{len(text)} characters, where at most {MAX_FACTS} are read")
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def dataclass_from_json(cls: type[_T], facts: object, where: str) -> _T:
    """Return a dataclass of this package, built from JSON values.

    Args:
        cls: A dataclass of numbers, strings, enums, tuples and dataclasses of the same kind.
        facts: The result of `json_facts`.
        where: Name of the dataclass in error messages.

    Raises:
        SpecError: Fields are unknown, missing, or of another type. Fields with `LATER` in their
            metadata may be missing.
    """
    if not isinstance(facts, dict):
        raise unreadable_spec(f"{where} is {type(facts).__name__}, not an object")
    hints = typing.get_type_hints(cls)
    needed = {
        field.name
        for field in dataclasses.fields(cls)  # type: ignore[arg-type]
        if LATER not in field.metadata
    }
    if not needed <= set(facts) <= set(hints):
        raise unreadable_spec(f"{where} has fields {sorted(facts)}, not {sorted(hints)}")
    return cls(**{name: _value_from(hints[name], facts[name], f"{where}.{name}") for name in facts})


def _value_from(hint: Any, value: object, where: str) -> object:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType:
        return None if value is None else _value_from(arguments[0], value, where)
    if origin is tuple:
        return _tuple_from(arguments, value, where)
    if dataclasses.is_dataclass(hint):
        return dataclass_from_json(typing.cast("type[object]", hint), value, where)
    if issubclass(hint, StrEnum):
        if value not in list(hint):
            raise unreadable_spec(f"{where} is {value!r}, not one of {', '.join(hint)}")
        return hint(value)
    if hint is float and type(value) is int and abs(value) < 2**53:
        return float(value)
    if type(value) is not hint:
        raise unreadable_spec(f"{where} is {value!r}, not {hint.__name__}")
    return value


def _tuple_from(arguments: tuple[Any, ...], value: object, where: str) -> tuple[object, ...]:
    if not isinstance(value, list):
        raise unreadable_spec(f"{where} is {type(value).__name__}, not a list")
    if arguments[-1] is Ellipsis:
        return tuple(_value_from(arguments[0], item, where) for item in value)
    if len(value) != len(arguments):
        raise unreadable_spec(f"{where} has {len(value)} values, not {len(arguments)}")
    return tuple(
        _value_from(kind, item, where) for kind, item in zip(arguments, value, strict=True)
    )
