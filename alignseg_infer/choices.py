"""Converts strings into members of closed choices: ``"int8"`` into ``Precision.INT8``."""

import dataclasses
import types
import typing
from enum import StrEnum
from typing import Any, TypeVar

from alignseg_infer.arrays import plain_value
from alignseg_infer.errors import OptionError
from alignseg_infer.text import near_words

Choice = TypeVar("Choice", bound=StrEnum)


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
