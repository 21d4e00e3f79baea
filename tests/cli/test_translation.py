"""What the library says of parameters, in the words of a command."""

import argparse

import pytest

from alignseg_infer import OptionError
from alignseg_infer.cli.translation import translate, translate_error


@pytest.fixture
def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("-o", "--destination")
    parser.add_argument("--size")
    parser.add_argument("--opt-shape")
    parser.add_argument("--sampler")
    parser.add_argument("--overlap", type=float)
    parser.add_argument("--formats")
    parser.add_argument("--scales", nargs="+")
    parser.add_argument("--mean", nargs=3)
    parser.add_argument("--no-rewrites", dest="rewrites", action="store_false", default=None)
    parser.add_argument("--on-device", action=argparse.BooleanOptionalAction)
    parser.add_argument("--tf32", action="store_true")
    return parser


TEXTS = [
    ("size=(512, 1024), or another", "--size 512x1024, or another"),
    ("size=512", "--size 512"),
    ("size='native'.", "--size native."),
    ("leave size= out", "leave --size out"),
    ("opt_shape=(1, 512, 1024)", "--opt-shape 1x512x1024"),
    ("sampler='gather' or sampler='native'", "--sampler gather or --sampler native"),
    ("sampler=native|gather)", "--sampler native|gather)"),
    ("overlap=1/3", "--overlap 1/3"),
    ("overlap=0.5", "--overlap 0.5"),
    ("scales=(0.75, 1.0)", "--scales 0.75 1.0"),
    ("scales=[nan]", "--scales nan"),
    ("mean=(A, B, C)", "--mean A B C"),
    ("formats=['overlay', 'polygons']", "--formats overlay,polygons"),
    ("rewrites=False", "--no-rewrites"),
    ("leave rewrites= out", "leave --no-rewrites out"),
    ("on_device=True", "--on-device"),
    ("on_device=False", "--no-on-device"),
    ("tf32=True", "--tf32"),
    ("destination=a.onnx", "-o a.onnx"),
    ("the file x.size=3 and --size=3", "the file x.size=3 and --size=3"),
    ("model='a' and unknown=3", "model='a' and unknown=3"),  # no options of this command
    ("a == b, $NAME=3", "a == b, $NAME=3"),
]


@pytest.mark.parametrize(("said", "typed"), TEXTS, ids=[said for said, _ in TEXTS])
def test_parameters_become_options(said: str, typed: str, parser: argparse.ArgumentParser) -> None:
    assert translate(said, parser) == typed


def test_all_parts_of_an_error(parser: argparse.ArgumentParser) -> None:
    error = OptionError("size=0", "size=1 or more", "size=(512, 1024)")
    translate_error(error, parser)
    assert str(error) == "--size 0\n  expected: --size 1 or more\n  try: --size 512x1024"
    assert error.args == (error.problem, error.expected, error.fix)
