"""Arguments of a wrong kind are refused by name, at every door of the package."""

import io
import os
from collections.abc import Callable, Sequence
from fractions import Fraction
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from alignseg_infer import (
    AlignSegError,
    ModelSpec,
    OptionError,
    Predictor,
    Segmentation,
    export_engine,
    export_onnx,
    segment_video,
    verify,
)
from alignseg_infer.choices import check_kinds
from alignseg_infer.demo import model_path
from alignseg_infer.files.reading import user_path
from tests.support.models import SMALL_SPEC, FakeBackend


class Odd:
    pass


WRONG: dict[str, Any] = {
    "None": None,
    "text": "x!",
    "bytes": b"x",
    "int": 7,
    "negative": -1,
    "float": 1.5,
    "nan": float("nan"),
    "True": True,
    "complex": 1j,
    "matrix": np.zeros((3, 4)),
    "vector": np.zeros(3),
    "numbers": [1, 2],
    "texts": ["a", "b"],
    "dict": {"a": 1},
    "set": {1},
    "object": Odd(),
    "class": Odd,
    "function": len,
    "open file": io.BytesIO(b"x"),
    "predictor": Predictor(FakeBackend()),
}
each_wrong = pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
IMAGE = np.zeros((40, 64, 3), np.uint8)
IMAGE[10:20, 10:20] = 200


def call(function: Callable[..., Any], *arguments: Any, **options: Any) -> None:
    """Call it; an error must be one of ours."""
    try:
        returned = function(*arguments, **options)
    except AlignSegError as error:
        assert "\n  try: " in str(error)  # noqa: PT017
    else:
        if hasattr(returned, "close"):
            returned.close()


@each_wrong
def test_predictor(wrong: Any) -> None:
    call(Predictor, wrong)
    for name in [*signature(Predictor).parameters][1:]:
        call(Predictor, FakeBackend(), **{name: wrong})
    for name in ("device", "threads", "runtime"):
        call(Predictor, "demo", **{name: wrong})
    for name in ("tile", "overlap"):
        call(Predictor, FakeBackend(), mode="slide", **{name: wrong})
    predictor = Predictor(FakeBackend())
    for name in ("confidence", "probabilities"):
        call(predictor, IMAGE, **{name: wrong})
    call(predictor.stream, wrong)
    for name in ("confidence", "smoothing", "depth", "live"):
        call(predictor.stream, [IMAGE], **{name: wrong})


NEEDED = {"save": {"stem": "x"}, "encode_files": {"name": "x"}}


@each_wrong
def test_results(wrong: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = Predictor(FakeBackend())(IMAGE)
    for method in (name for name in dir(Segmentation) if not name.startswith("_")):
        function = getattr(result, method)
        for name in signature(function).parameters if callable(function) else ():
            call(function, **{**NEEDED.get(method, {}), name: wrong})
    call(result.polygons()[0].mask, wrong)


@each_wrong
def test_specs(wrong: Any) -> None:
    call(ModelSpec.from_json, wrong)
    whole = {"network": SMALL_SPEC.network, "input": SMALL_SPEC.input}
    for name in signature(ModelSpec).parameters:
        call(ModelSpec, **{**whole, "classes": SMALL_SPEC.classes, name: wrong})


FUNCTIONS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "export_onnx": (export_onnx, ("demo", "wrong.ending")),
    "export_engine": (export_engine, ("demo", "wrong.ending")),
    "verify": (verify, ("missing.onnx", "demo")),
    "segment_video": (segment_video, ("demo", "streets", "wrong.ending")),
}


@pytest.mark.parametrize("function", FUNCTIONS)
@each_wrong
def test_functions(
    function: str, wrong: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is right ends with a wrong ending, before there is work."""
    monkeypatch.chdir(tmp_path)
    called, arguments = FUNCTIONS[function]
    for place, name in enumerate(signature(called).parameters):
        if place < len(arguments):
            call(called, *arguments[:place], wrong, *arguments[place + 1 :])
        else:
            call(called, *arguments, **{name: wrong})


NAMED = [
    (lambda: Predictor(None), "the model was given as NoneType"),  # type: ignore[arg-type]
    (lambda: Predictor(b"a.onnx"), "the model was given as bytes"),  # type: ignore[arg-type]
    (lambda: Predictor(FakeBackend), "the model was given as ABCMeta|type|_ProtocolMeta"),  # type: ignore[arg-type]
    (
        lambda: Predictor(onnxruntime.InferenceSession(str(model_path("demo")))),
        "the model was given as InferenceSession",
    ),
    (lambda: Predictor(FakeBackend(), batch="4"), "batch='4'"),  # type: ignore[arg-type]
    (lambda: Predictor(FakeBackend(), flip="no"), r"flip='no' \(str\)\n  expected: True or False"),  # type: ignore[arg-type]
    (lambda: user_path(b"a"), r"a path was given as bytes: b'a'"),  # type: ignore[arg-type]
    (lambda: export_onnx("demo", "a.onnx", opset="18"), "opset='18' .str.\n  expected: a whole"),  # type: ignore[arg-type]
    (lambda: segment_video("demo", [IMAGE], "a.mp4"), "source=list"),  # type: ignore[arg-type]
]


@pytest.mark.parametrize(("wrong", "message"), NAMED, ids=[message for _, message in NAMED])
def test_what_was_given_is_named(wrong: Callable[[], object], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        wrong()


@check_kinds
def function(
    number: float = 0.5,
    path: str | Path | None = None,
    names: Sequence[str] = (),
    size: str | int | tuple[int, int] = 64,
    other: "Odd | None" = None,
    progress: Callable[[int], None] | None = None,
) -> dict[str, object]:
    """Return what was given."""
    return locals()


def test_the_right_kinds_are_let_through(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    entry = next(os.scandir(tmp_path))
    right: list[tuple[str, object]] = [
        *(("number", value) for value in (1, 0.5, np.float32(0.5), np.int64(2), Fraction(1, 3))),
        *(("path", value) for value in ("a", Path("a"), entry, None)),
        *(("names", value) for value in (["a"], ("a", "b"), (), {"a"}, np.array(["a"]))),
        *(("size", value) for value in ("native", 3, (1, 2), [1, 2], np.array([1, 2]))),
        *(("other", value) for value in (1, None, Odd())),
        *(("progress", value) for value in (print, None)),
    ]
    for name, value in right:
        seen = function(**{name: value})[name]  # type: ignore[arg-type]
        assert seen is value or seen == (tuple(value) if np.iterable(value) else value)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("number", True, "a number"),
        ("number", "0.5", "a number"),
        ("path", 3, "a path or None|text or a path or None"),
        ("names", "abc", "a list or tuple of which each item is text"),
        ("names", [1], "each item is text"),
        ("size", (1, 2, 3), r"text or a whole number or \(a whole number, a whole number\)"),
        ("progress", 3, "a function or None"),
    ],
)
def test_wrong_kinds_say_what_was_expected(name: str, value: object, expected: str) -> None:
    with pytest.raises(OptionError, match=f"expected: .*({expected})"):
        function(**{name: value})  # type: ignore[arg-type]


def test_folder_entries_are_paths(tmp_path: Path) -> None:
    result = Predictor(FakeBackend())(IMAGE)
    result.save(tmp_path / "a", formats="overlay")
    (entry,) = os.scandir(tmp_path)
    assert Predictor(FakeBackend())(entry).labels.shape == (40, 64)
    with pytest.raises(AlignSegError, match=r"ends in \.txt"):
        segment_video("demo", entry, tmp_path / "a.txt")


@check_kinds
def collected(numbers: Sequence[float] = (), count: int = 1, *, sure: bool = False) -> object:
    return numbers, count, sure


@pytest.mark.parametrize(
    "numbers",
    [[1, 2], (1, 2), range(1, 3), {1: "a", 2: "b"}.keys(), iter([1, 2]), np.array([1, 2])],
    ids=["list", "tuple", "range", "keys", "iterator", "array"],
)
def test_functions_get_plain_values(numbers: Any) -> None:
    count: Any = np.int64(3)
    sure: Any = np.True_
    seen: Any = collected(numbers, count, sure=sure)
    assert seen == ((1, 2), 3, True)
    assert type(seen[1]) is int
    assert seen[2] is True


def test_numpy_numbers_go_all_the_way() -> None:
    depth: Any = np.int64(2)
    image = np.zeros((32, 32, 3), np.uint8)
    with Predictor(FakeBackend()).stream([image], depth=depth) as results:
        assert len(list(results)) == 1


def test_what_is_needed_cannot_be_left_out() -> None:
    wrong: Any = 5
    with pytest.raises(OptionError) as caught:
        export_onnx("demo", wrong)
    assert "another destination=" in caught.value.fix
