"""Names, rates, lengths and options that are wrong, or wrong together."""

import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from alignseg_infer import OptionError
from alignseg_infer.cli import main
from alignseg_infer.video.sources import open_source


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("streets:-1", {}, "seed"),
        ("streets", {"rate": Fraction(0)}, "rate=0 frames per second"),
        ("streets", {"rate": -1}, "-1 frames per second"),
        ("streets", {"rate": Fraction(1, 10**12)}, "frames per second"),
        ("streets", {"rate": 1001}, "1001 frames per second"),
        ("streets", {"rate": math.nan}, "frames per second"),
        ("streets", {"rate": math.inf}, "frames per second"),
        ("streets", {"rate": "25"}, "frames per second"),
        ("streets", {"rate": True}, "frames per second"),
        ("streets", {"seconds": 0}, "seconds=0"),
        ("streets", {"seconds": -1}, "seconds=-1"),
        ("streets", {"seconds": math.nan}, "seconds=nan"),
        ("streets", {"seconds": math.inf}, "seconds=inf"),
        ("streets", {"seconds": "4"}, "seconds='4'"),
        (".", {"seconds": -1}, "seconds=-1"),
        ("", {}, "the source is empty"),
        ("99999999999999999999", {}, "webcam"),
        ("2147483648", {}, "webcam"),
        ("ftp://host/a.mp4", {}, "scheme ftp"),
        ("rtsp://host/1", {"rate": Fraction(5)}, "its own times"),
    ],
)
def test_bad_names_rates_and_lengths(source: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        open_source(source, **options)


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        (29.97, Fraction(2997, 100)),
        (30, Fraction(30)),
        (Fraction(30000, 1001), Fraction(30000, 1001)),
        (Fraction("999.9999999999"), Fraction(1000)),
        (Fraction(1, 100), Fraction(1, 100)),
    ],
)
def test_rates_are_taken_as_fractions_that_a_file_can_hold(
    given: Fraction | float, taken: Fraction
) -> None:
    assert open_source("streets", rate=given).facts.rate == taken


def video(folder: Path, *more: str) -> int:
    return main(["video", "demo", "streets", "-o", str(folder / "out.mp4"), *more])


@pytest.mark.parametrize("rate", ["1/0", "x", "", "nan", "inf"])
def test_rates_that_are_no_numbers_are_wrong_usage(
    rate: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        video(tmp_path, "--rate", rate)
    assert caught.value.code == 2
    assert "is not a number; write 0.5 or 1/3" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--seconds", "inf"], "--seconds inf"),
        (["--rate", "1e-12"], "frames per second"),
        (["--offsets", "cab2.high", "--mode", "slide"], "--mode slide"),
        (["--offsets", "cab2.high", "--scales", "0.5", "1"], "--scales 0.5 1"),
        (["--offsets", "cab2.high", "--flip"], "--flip"),
    ],
)
def test_command_says_what_makes_no_sense(
    more: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert video(tmp_path, *more) == 1
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_nearly_1000_frames_per_second_are_1000(tmp_path: Path) -> None:
    arguments = ["--rate", "999.9999999999", "--max-frames", "2", "--size", "64x128"]
    assert video(tmp_path, *arguments) == 0


def test_offsets_run_in_the_runtime_that_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def opened(model: str, **options: object) -> None:
        asked.append(options)
        raise OptionError("enough seen", "no more", "nothing")

    monkeypatch.setattr("alignseg_infer.backends.open_backend", opened)
    assert video(tmp_path, "--offsets", "cab2.high", "--runtime", "onnxruntime") == 1
    assert asked[-1] == {"device": None, "threads": None, "runtime": "onnxruntime"}
