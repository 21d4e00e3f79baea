"""What was tuned: where it is kept, where it is obeyed, and what is said where it does not fit."""

import json
import os
import pickle
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from alignseg_infer import OptionError, OutputError, Predictor, TuningError
from alignseg_infer.arrays import Image
from alignseg_infer.backends import open_backend, tuned
from alignseg_infer.backends.tuned import (
    Choice,
    ChosenFile,
    Fingerprint,
    beside,
    choice_of,
    keep_choice,
)
from alignseg_infer.batch.job import Saving
from alignseg_infer.batch.run import BatchOptions, make_job
from alignseg_infer.cli import main
from alignseg_infer.cli.commands import bench
from alignseg_infer.demo import model_path
from alignseg_infer.files.caches import CHOICES, kept_files
from alignseg_infer.files.reading import sha256_of
from tests.support.export_kinds import FIXED_OFFSETS
from tests.support.permissions import permissions_for_all

ROOT = Path(__file__).parents[2]


def chosen(model: Path, other: Path | None = None, **facts: Any) -> Choice:
    """A choice that is obeyed here, unless `facts` say otherwise."""
    choice = Choice(
        model_sha256=sha256_of(model),
        file=ChosenFile.of(other) if other else None,
        runtime="openvino",
        precision=None,
        threads=1,
        batch=1,
        size=None,
        goal="latency",
        agreement=0.999,
        milliseconds=5.0,
        ratio=0.5,
        input_sizes=((64, 96),),
        fingerprint=Fingerprint.here(),
    )
    return replace(choice, **facts)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A copy of the demo model in a folder of its own."""
    path = tmp_path / "models" / "mine.onnx"
    path.parent.mkdir()
    shutil.copy(model_path("demo"), path)
    return path


def test_a_choice_is_kept_beside_the_model_and_obeyed(model: Path, image: Image) -> None:
    place = keep_choice(model, chosen(model))
    assert place == model.parent / "mine.tuned.json"
    assert choice_of(model).choice == chosen(model)
    assert choice_of(model).model == model
    predictor = Predictor(model, runtime="tuned")
    assert predictor.backend.startswith("openvino")
    options = predictor.opening.options
    assert (options.runtime, options.threads, options.batch) == ("openvino", 1, 1)
    expected = Predictor(model, runtime="openvino", threads=1)(image)
    np.testing.assert_array_equal(predictor(image).labels, expected.labels)


def test_batch_is_obeyed(model: Path) -> None:
    keep_choice(model, chosen(model, batch=4, threads=None, runtime="onnxruntime"))
    predictor = Predictor(model, runtime="tuned")
    assert predictor.batch == 4
    assert predictor.backend.startswith("onnxruntime")


def test_the_choice_of_the_demo_is_in_the_cache(own_cache: Path) -> None:
    demo = model_path("demo")
    place = keep_choice("demo", chosen(demo))
    assert place.parent == own_cache / CHOICES
    assert [file.path for file in kept_files(CHOICES)] == [place]
    assert not beside(demo).exists()
    assert Predictor("demo", runtime="tuned").backend.startswith("openvino")
    assert Predictor(demo, runtime="tuned").opening.options.threads == 1


def test_a_folder_of_somebody_else(model: Path, own_cache: Path) -> None:
    """The choice goes to the cache, and counts before an older one beside the model."""
    keep_choice(model, chosen(model, threads=2))
    model.parent.chmod(0o555)
    try:
        with permissions_for_all():
            place = keep_choice(model, chosen(model, threads=1))
    finally:
        model.parent.chmod(0o755)
    assert place.parent == own_cache / CHOICES
    assert choice_of(model).choice.threads == 1
    assert keep_choice(model, chosen(model, threads=3)) == beside(model)
    assert not place.exists()
    assert choice_of(model).choice.threads == 3


def test_a_copy_has_a_choice_of_its_own(model: Path, tmp_path: Path) -> None:
    """Copies of one content, of which the cache keeps two and the third folder its own."""
    other = tmp_path / "others" / "mine.onnx"
    other.parent.mkdir()
    shutil.copy(model, other)
    keep_choice("demo", chosen(model, threads=1))
    for number, path in enumerate((model, other), 2):
        path.parent.chmod(0o555)
        try:
            with permissions_for_all():
                keep_choice(path, chosen(path, threads=number))
        finally:
            path.parent.chmod(0o755)
    assert len(kept_files(CHOICES)) == 3
    keep_choice(model, chosen(model, threads=4))
    found = [choice_of(each).choice.threads for each in ("demo", model, other)]
    assert found == [1, 4, 3]
    link = tmp_path / "link.onnx"
    link.symlink_to(other)
    assert choice_of(link).choice.threads == 3


def test_nowhere_to_keep_it(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ALIGNSEG_CACHE", str(tmp_path / "file"))
    with pytest.raises(OutputError):
        keep_choice("demo", chosen(model))


def test_another_file_that_won(model: Path, tmp_path: Path) -> None:
    """It is named from the model's folder if it lies there, so that the folder may be moved."""
    other = model.with_name("other.onnx")
    shutil.copy(model, other)
    keep_choice(model, chosen(model, other))
    assert json.loads(beside(model).read_text())["file"]["path"] == "other.onnx"
    moved = tmp_path / "moved"
    shutil.move(model.parent, moved)
    assert choice_of(moved / "mine.onnx").model == moved / "other.onnx"
    predictor = Predictor(moved / "mine.onnx", runtime="tuned")
    assert predictor.opening.model == str(moved / "other.onnx")


def test_another_file_from_another_folder(model: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.onnx"
    shutil.copy(model, other)
    keep_choice(model, chosen(model, other))
    assert choice_of(model).model == other


def test_other_files_that_changed(model: Path) -> None:
    other = model.with_name("other.onnx")
    shutil.copy(model, other)
    keep_choice(model, chosen(model, other))
    with other.open("ab") as file:
        file.write(b"\x00")
    with pytest.raises(TuningError, match="is another file than then") as caught:
        choice_of(model)
    assert caught.value.fix.startswith(f"alignseg tune {model} {other} --images DIR")
    other.unlink()
    with pytest.raises(TuningError, match="which was the fastest, does not exist") as caught:
        choice_of(model)
    again, back = caught.value.fix.split("; or ")[:2]
    assert again == f"alignseg tune {model} --images DIR"
    assert back == f"put {other} back"
    shutil.copy(model, other)
    assert choice_of(model).model == other


def test_a_model_that_was_replaced(model: Path, small_onnx: Path) -> None:
    keep_choice(model, chosen(model))
    shutil.copy(small_onnx, model)
    with pytest.raises(TuningError, match="is another file than the one that was tuned"):
        Predictor(model, runtime="tuned")


@pytest.mark.parametrize(
    ("fact", "value", "words"),
    [
        ("cpu", "Another CPU", "the processor is Another CPU there and "),
        ("flags", (), "the processor's features are none there"),
        ("cores", 999, "the cores that may be used are 999 there"),
        ("core_limit", 0.25, "the container's limit of cores is 0.25 there"),
        ("package", "0.0.1", "the version of alignseg-infer is 0.0.1 there"),
        ("onnxruntime", "1.0", "the version of ONNX Runtime is 1.0 there"),
        ("openvino", None, "the version of OpenVINO is none there"),
    ],
)
def test_another_machine_or_version(fact: str, value: object, words: str, model: Path) -> None:
    """The error names what differs, and only that."""
    there = replace(Fingerprint.here(), **{fact: value})  # type: ignore[arg-type]
    keep_choice(model, chosen(model, fingerprint=there))
    with pytest.raises(TuningError) as caught:
        Predictor(model, runtime="tuned")
    assert words in caught.value.problem
    assert caught.value.problem.count(" there and ") == 1


def test_one_that_fits_counts_if_another_does_not(model: Path) -> None:
    there = replace(Fingerprint.here(), cpu="Another CPU")
    cached = tuned._places_of(model, sha256_of(model))[0]
    keep_choice(model, chosen(model, threads=3))
    tuned._write(cached, chosen(model, fingerprint=there))
    assert choice_of(model).choice.threads == 3


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "is damaged"),
        ("[]", "is damaged"),
        ("{}", "is damaged"),
        ("null", "is damaged"),
        ('{"version": 1}', "is damaged"),
        ('{"version": 2, "anything": []}', "has version 2, and this package reads 1"),
        (b"\xff\xfe\xfa", "is damaged"),
        ({"threads": "two"}, "is damaged"),
        ({"runtime": "tuned"}, "is damaged (the runtime is 'tuned')"),
        ({"more": 1}, "is damaged"),
        ({"fingerprint": None}, "is damaged"),
    ],
)
def test_damaged_choices(content: Any, words: str, model: Path) -> None:
    if isinstance(content, dict):
        facts = {**json.loads(chosen(model).to_json()), **content}
        content = json.dumps(facts)
    data = content if isinstance(content, bytes) else content.encode()
    beside(model).write_bytes(data)
    with pytest.raises(TuningError) as caught:
        choice_of(model)
    assert words in caught.value.problem
    assert str(beside(model)) in caught.value.problem


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"threads": 0}, "the threads are 0"),
        ({"threads": -3}, "the threads are -3"),
        ({"threads": 1025}, "the threads are 1025"),
        ({"batch": 0}, "the batch is 0"),
        ({"precision": "int4"}, "the precision of openvino is 'int4'"),
        ({"precision": "fp16"}, "the precision of openvino is 'fp16'"),
        ({"precision": "bf16", "runtime": "onnxruntime"}, "of onnxruntime is 'bf16'"),
        ({"size": (-1, 64)}, r"the size is \(-1, 64\)"),
        ({"size": (64, 10**6)}, r"the size is \(64, 1000000\)"),
    ],
)
def test_values_that_cannot_be_used(facts: dict[str, Any], words: str, model: Path) -> None:
    """Whoever uses the choice did not write them, and can tune again."""
    keep_choice(model, chosen(model, **facts))
    with pytest.raises(TuningError, match=f"is damaged .*{words}") as caught:
        Predictor(model, runtime="tuned")
    assert caught.value.fix.startswith(f"alignseg tune {model} --images DIR")


@pytest.mark.parametrize(
    "facts",
    [
        {"threads": 1024},
        {"threads": None, "batch": 64},
        {"precision": "fp32"},
        {"precision": "bf16"},
        {"runtime": "onnxruntime"},
        {"size": (32, 64)},
    ],
)
def test_values_that_can_be_used(facts: dict[str, Any], model: Path) -> None:
    keep_choice(model, chosen(model, **facts))
    assert choice_of(model).choice == chosen(model, **facts)


@pytest.mark.parametrize("name", ["my model.onnx", "it's $HOME.onnx"])
def test_advice_is_quoted(name: str, model: Path) -> None:
    odd = model.rename(model.with_name(name))
    with pytest.raises(TuningError) as caught:
        choice_of(odd)
    command = caught.value.fix.removesuffix("; or leave runtime= out")
    assert shlex.split(command) == ["alignseg", "tune", str(odd), "--images", "DIR"]


def test_nothing_was_chosen(model: Path) -> None:
    for name in (str(model), "demo"):
        with pytest.raises(TuningError, match="nothing was chosen") as caught:
            Predictor(name, runtime="tuned")
        assert caught.value.fix.startswith(f"alignseg tune {name}")


def test_the_advice_works(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(TuningError) as caught:
        Predictor("demo", runtime="tuned")
    command = shlex.split(caught.value.fix.partition(";")[0])
    assert command[0] == "alignseg"
    quick = ["--size", "64x96", "--max-images", "4", "--seconds", "3"]
    assert main([*command[1:], *quick]) == 0
    assert Predictor("demo", runtime="tuned").opening.tuned
    assert "kept, and obeyed with the runtime tuned: " in capsys.readouterr().err


@pytest.mark.parametrize(
    "options",
    [
        {"threads": 2},
        {"batch": 2},
        {"precision": "fp32"},
        {"device": "cuda"},
        {"device": "auto"},
        {"opt_shape": (1, 64, 96)},
    ],
)
def test_arguments_that_contradict(options: dict[str, Any], model: Path) -> None:
    keep_choice(model, chosen(model))
    with pytest.raises(OptionError, match=f"{next(iter(options))}=") as caught:
        Predictor(model, runtime="tuned", **options)
    assert "runtime='tuned'" in caught.value.problem


@pytest.mark.parametrize(
    "options",
    [
        {"device": "cpu"},
        {"size": (64, 96)},
        {"mode": "slide", "tile": 64},
        {"flip": True, "scales": [0.5, 1.0]},
    ],
)
def test_arguments_that_do_not_contradict(options: dict[str, Any], model: Path) -> None:
    keep_choice(model, chosen(model))
    assert Predictor(model, runtime="tuned", **options).backend.startswith("openvino")


def test_a_file_of_fixed_size_needs_that_size(
    model: Path, export_small: Callable[..., Path]
) -> None:
    fixed = export_small(**FIXED_OFFSETS)
    keep_choice(model, chosen(model, fixed, size=(65, 98)))
    predictor = Predictor(model, runtime="tuned", size=(65, 98))
    assert predictor.spec.export is not None
    assert predictor.spec.export.size == (65, 98)
    size = {"size": (65, 98)}
    for options, fix in (
        ({}, "size=(65, 98)"),
        ({"size": (64, 96)}, "size=(65, 98)"),
        ({**size, "mode": "slide"}, "mode='whole'"),
        ({**size, "scales": [1.0, 2.0]}, "leave scales= out"),
    ):
        with pytest.raises(OptionError, match="was chosen for 65x98 only") as caught:
            Predictor(model, runtime="tuned", **options)
        assert caught.value.fix.startswith(f"{fix}; or tune for images of any size: alignseg tune ")


def test_what_has_no_choice_of_runtime(tmp_path: Path) -> None:
    for name in ("a.pth", "a.engine"):
        (tmp_path / name).write_bytes(b"x")
        with pytest.raises(OptionError, match="whose ending says what runs it"):
            Predictor(tmp_path / name, runtime="tuned")


def test_other_words_for_a_runtime() -> None:
    with pytest.raises(OptionError, match="runtime='tunes'") as caught:
        Predictor("demo", runtime="tunes")
    assert "tuned" in caught.value.expected
    assert caught.value.fix == "runtime='tuned'"


USE_IN_A_PROCESS = """
import pickle, sys
predictor = pickle.load(sys.stdin.buffer)
print(predictor.backend, predictor.opening.options.threads)
"""


def test_other_processes_take_the_choice_along(model: Path, image: Image) -> None:
    """A pickled predictor does not look for the choice again, which may be gone by then."""
    place = keep_choice(model, chosen(model))
    pickled = pickle.dumps(Predictor(model, runtime="tuned"))
    place.unlink()
    again = pickle.loads(pickled)
    assert again(image).labels.shape == (90, 130)
    done = subprocess.run(
        [sys.executable, "-c", USE_IN_A_PROCESS],
        input=pickled,
        capture_output=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.stdout.decode().split() == ["openvino", "(CPU)", "1"]


def test_workers_share_the_cores(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The threads that are the best of one process would be too many in several."""
    monkeypatch.setattr("alignseg_infer.batch.run.usable_cores", lambda: 8)
    keep_choice(model, chosen(model, threads=8))
    opening = Predictor(model, runtime="tuned").opening
    for workers, threads in ((1, 8), (4, 2), (16, 1)):
        job = make_job(opening, "/out", Saving(), BatchOptions(workers=workers))
        assert (job.options.runtime, job.options.threads) == ("openvino", threads)
    asked = Predictor(model, threads=8).opening
    assert make_job(asked, "/out", Saving(), BatchOptions(workers=4)).options.threads == 8


def test_a_backend_alone(model: Path) -> None:
    keep_choice(model, chosen(model))
    assert open_backend(model, runtime="tuned").name.startswith("openvino")
    with pytest.raises(OptionError, match="threads=2"):
        open_backend(model, runtime="tuned", threads=2)
    with pytest.raises(OptionError, match="device='cuda'"):
        open_backend(model, runtime="tuned", device="cuda")


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photos" / "a.png"
    path.parent.mkdir()
    rng = np.random.default_rng(0)
    cv2.imwrite(str(path), rng.integers(0, 256, (64, 96, 3), np.uint8))
    return path


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("predict demo {photo} -o {out}", "openvino"),
        ("batch demo {photos} -o {out} --workers 2", ""),
        ("offsets demo {photo} -o {out}.png", "openvino"),
        ("bench demo --images {photo} --rounds 1", "openvino"),
    ],
)
def test_commands_obey_it(
    command: str,
    words: str,
    photo: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bench, "measure_footprint", lambda *_: None)
    places = {"photo": photo, "photos": photo.parent, "out": tmp_path / "out"}
    typed = [*command.format(**places).split(), "--runtime", "tuned"]
    assert main(typed) == 1
    assert "nothing was chosen for demo" in capsys.readouterr().err
    keep_choice("demo", chosen(model_path("demo")))
    assert main(typed) == 0
    assert words in capsys.readouterr().out


def test_bench_beside_another_runtime(
    photo: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tuned batch is measured as it is; another one is refused."""
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(bench, "measure_footprint", lambda *all_: asked.append(all_[2]))
    keep_choice("demo", chosen(model_path("demo"), batch=2))
    command = ["bench", "demo", "demo@tuned", "--images", str(photo), "--rounds", "1"]
    assert main(command) == 0
    table = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| demo")]
    assert [line.split(" | ")[2] for line in table] == ["1", "2"]
    assert [(one["runtime"], one["batch"]) for one in asked] == [(None, 1), ("tuned", 1)]
    assert main([*command, "--batch", "4"]) == 1
    assert "--batch 4 was given with the runtime tuned" in capsys.readouterr().err
