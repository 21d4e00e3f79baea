"""Names are shown by terminals, Markdown and plots, and not obeyed."""

import re

import pytest

from alignseg_infer.text import (
    markdown_table,
    markdown_text,
    near_words,
    plot_text,
    printable,
    printable_lines,
)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("a\nb\r\tc\x85d\u2028e", r"a\nb\r\tc\x85d\u2028e"),
        ("\x9b31m\x7f\x00", r"\x9b31m\x7f\x00"),
        ("gpj.\u202etxt\u2066", r"gpj.\u202etxt\u2066"),
        ("\udcff.png", r"\udcff.png"),
        ("stra\u00dfe-\u6771\u4eac \U0001f6b2.png", None),  # an emoji
        ("\u0648\u0632\u0646\u200c\u0647\u0627 a\u00a0b", None),  # Persian and French need these
        (r"C:\images", None),
    ],
)
def test_what_terminals_obey_is_escaped(name: str, shown: str | None) -> None:
    assert printable(name) == (name if shown is None else shown)


def test_lines_of_ours_are_indented() -> None:
    text = printable_lines("a\nerror: b\n  expected: c\x1b\n    d")
    assert text == "a\\nerror: b\n  expected: c\\x1b\n    d"


MARKED = [
    ("<img src=x onerror=alert(1)>", "&lt;img src=x onerror=alert(1)>"),
    ("</td><!-- ", "&lt;/td>&lt;!-- "),
    ("&lt;b&#62;", "&amp;lt;b&amp;#62;"),
    ("![a](http://b)", r"![a\](http://b)"),
    ("*a* `b` $c$", r"\*a\* \`b\` \$c\$"),
    (r"a\|b", r"a\\\|b"),
    ("a\nb", r"a\\nb"),
    ("traffic_light [0.1, 0.2] < 5 R&D 95 % (a) #1", None),
]


@pytest.mark.parametrize(("name", "written"), MARKED, ids=[name for name, _ in MARKED])
def test_what_markdown_obeys_is_escaped(name: str, written: str | None) -> None:
    assert markdown_text(name) == (name if written is None else written)


def test_tables_keep_their_shape() -> None:
    table = markdown_table(["class", "a|b"], [["x\ny", r"\|"], ["", "|"]])
    lines = table.split("\n")
    assert len(lines) == 4
    for line in lines:
        without_escaped = re.sub(r"\\.", "", line)
        assert without_escaped.count("|") == 3


def test_plots_show_dollars() -> None:
    matplotlib = pytest.importorskip("matplotlib.text", reason="pip install matplotlib")
    for name in ("$x^2$", "cost $5", r"$\frac", "a\n$b$"):
        text, is_formula = matplotlib.Text(0, 0, plot_text(name))._preprocess_math(plot_text(name))
        assert (text, is_formula) == (printable(name), False)


def test_near_words() -> None:
    assert near_words("PREDCIT", ["predict", "demo"]) == ["predict"]
    assert near_words("cityscape", {"Cityscapes": 1, "voc": 2}) == ["Cityscapes"]
    assert near_words("zzz", ["predict"]) == []
    assert near_words("export", ["export-onnx", "export-trt", "eval"], most=2) == [
        "export-trt",
        "export-onnx",
    ]
