"""Checks what callers give: its kind, and its place in closed choices (``"int8"`` for INT8)."""

import collections.abc
import dataclasses
import functools
import inspect
import os
import reprlib
import types
import typing
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from alignseg_infer.arrays import plain_value
from alignseg_infer.backports import StrEnum
from alignseg_infer.errors import OptionError
from alignseg_infer.text import near_words

Choice = TypeVar("Choice", bound=StrEnum)
Parameters = ParamSpec("Parameters")
Returned = TypeVar("Returned")

# Type hint -> what is accepted, and its name. A bool is no number here.
_KINDS: dict[object, tuple[tuple[type, ...], str]] = {
    types.NoneType: ((types.NoneType,), "None"),
    bool: ((bool,), "True or False"),
    int: ((int,), "a whole number"),
    float: ((int, float, Fraction), "a number"),
    Fraction: ((int, float, Fraction), "a number"),
    str: ((str,), "text"),
    Path: ((str, os.PathLike), "a path"),
}


def choose(kind: type[Choice], value: str, name: str) -> Choice:
    """Return the member of `kind` that `value` names.

    Args:
        kind: The choices.
        value: A member, or its value.
        name: Name of the parameter, for the error message.

    Raises:
        OptionError: There is no such choice.
    """
    try:
        return kind(value)
    except ValueError as error:
        known = [member.value for member in kind]
        example = f"{name}={(near_words(str(value), known) or known)[0]!r}"
        raise OptionError(f"{name}={value!r}", " or ".join(known), example) from error


def convert_choices(options: Any) -> None:
    """Replace strings with members in fields that hold a choice, and NumPy numbers with Python's.

    Call it in ``__post_init__``; it works on frozen dataclasses too. A caller may then write
    ``output="labels"``, and the field holds an ``OutputKind``.

    Raises:
        OptionError: A field holds none of its choices.
    """
    hints = typing.get_type_hints(type(options))
    for field in dataclasses.fields(options):
        hint, value = hints[field.name], plain_value(getattr(options, field.name))
        object.__setattr__(options, field.name, value)
        members = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
        kinds = [kind for kind in members if isinstance(kind, type) and issubclass(kind, StrEnum)]
        if kinds and not (value is None and types.NoneType in members):
            object.__setattr__(options, field.name, choose(kinds[0], value, field.name))


def check_kinds(function: Callable[Parameters, Returned]) -> Callable[Parameters, Returned]:
    """Make a function refuse arguments of another kind than its annotations say.

    The function gets plain Python values: an int for a NumPy integer, and a tuple where it takes a
    sequence. Annotations in quotes, of arrays and of classes are left to the function.

    Raises:
        OptionError: An argument is of another kind, such as text for a number.
    """
    signature = inspect.signature(function)
    checked = {
        name: parameter
        for name, parameter in signature.parameters.items()
        if _is_plain(parameter.annotation)
    }

    @functools.wraps(function)
    def checking(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Returned:
        bound = signature.bind(*args, **kwargs)
        for name in bound.arguments.keys() & checked.keys():
            parameter = checked[name]
            value = _as_plain(bound.arguments[name], parameter.annotation)
            require_kind(value, parameter.annotation, name, parameter.default)
            bound.arguments[name] = value
        return function(*bound.args, **bound.kwargs)

    return checking


def require_kind(value: object, hint: Any, name: str, default: object = None) -> None:
    """Check that a value is of the kind that a type hint says.

    Args:
        value: What a caller gave.
        hint: Made of None, bool, int, float, str, Path, functions, tuples, sequences and unions.
        name: Of the parameter, for messages.
        default: A value that can be used, for messages.

    Raises:
        OptionError: It is of another kind.
    """
    if not _fits(plain_value(value), hint):
        seen = " ".join(reprlib.repr(value).split())
        if default is inspect.Parameter.empty:
            example = f"another {name}=; see help()"
        elif _is_plain(type(default)) and default is not None:
            example = f"{name}={default!r}"
        else:
            example = f"leave {name}= out, or see help()"
        raise OptionError(f"{name}={seen} ({type(value).__name__})", _describe(hint), example)


def _as_plain(value: object, hint: Any) -> object:
    """Return a value as plain Python; any collection as a tuple, where a sequence is taken."""
    if value is not None and _takes_sequence(hint):
        collected = isinstance(value, collections.abc.Set | collections.abc.Iterator | range)
        value = tuple(value) if collected else value  # type: ignore[arg-type]
    return plain_value(value)


def _takes_sequence(hint: Any) -> bool:
    parts = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    return any(typing.get_origin(part) is collections.abc.Sequence for part in parts)


def _is_plain(hint: Any) -> bool:
    """Return whether `_fits` knows all parts of a hint."""
    if typing.get_origin(hint) is collections.abc.Callable:
        return True
    parts = typing.get_args(hint)
    if parts:
        known = (types.UnionType, tuple, collections.abc.Sequence)
        return typing.get_origin(hint) in known and all(map(_is_plain, parts))
    return hint in _KINDS


def _fits(value: object, hint: Any) -> bool:
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType:
        return any(_fits(value, part) for part in parts)
    if origin is collections.abc.Callable:
        return callable(value)
    if origin is None:
        return isinstance(value, _KINDS[hint][0]) and (hint is bool or not isinstance(value, bool))
    if origin is tuple:
        return (
            isinstance(value, tuple) and len(value) == len(parts) and all(map(_fits, value, parts))
        )
    return isinstance(value, tuple | set) and all(_fits(item, parts[0]) for item in value)


def _describe(hint: Any) -> str:
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType:
        return " or ".join(dict.fromkeys(map(_describe, parts)))
    if origin is None:
        return _KINDS[hint][1]
    if origin is collections.abc.Callable:
        return "a function"
    if origin is tuple:
        return f"({', '.join(map(_describe, parts))})"
    return f"a list or tuple of which each item is {_describe(parts[0])}"
