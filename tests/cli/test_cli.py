"""The commands, on a small model."""

import argparse
import inspect
import json
import logging
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import torch

from alignseg_infer import Predictor
from alignseg_infer.cli import COMMANDS, main, run_reporting_errors
from alignseg_infer.cli.arguments import inference as arguments
from alignseg_infer.datasets.class_tables import CITYSCAPES
from alignseg_infer.errors import OptionError
from alignseg_infer.export.verification.probes import probe_image
from alignseg_infer.models.alignseg import AlignSeg
from alignseg_infer.spec.model import SPEC_KEY, VERIFICATION_KEY, ModelSpec
from tests.support.export_kinds import FIXED
from tests.support.models import SMALL, SMALL_SPEC

ROOT = Path(__file__).parents[2]


@pytest.fixture
def street(tmp_path: Path) -> Path:
    path = tmp_path / "street.jpg"
    cv2.imwrite(str(path), probe_image((90, 130), 0))
    return path


def test_predict_writes_three_pictures(
    small_onnx: Path, street: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "out"
    assert main(["predict", str(small_onnx), str(street), "-o", str(out)]) == 0
    names = ["street_color.png", "street_labels.png", "street_overlay.jpg"]
    assert sorted(file.name for file in out.iterdir()) == names
    for name in names:
        picture = cv2.imread(str(out / name), cv2.IMREAD_UNCHANGED)
        assert picture is not None
        assert picture.shape[:2] == (90, 130)
    printed = capsys.readouterr().out
    assert all(str(out / name) in printed for name in names)


def test_predict_takes_a_size_and_a_checkpoint(
    small_checkpoint: Path, street: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(street), "-o", str(tmp_path), "--size", "64x96", "--threads", "1"]
    assert main(["predict", str(small_checkpoint), *arguments]) == 0
    assert "torch (cpu)" in capsys.readouterr().out
    labels = cv2.imread(str(tmp_path / "street_labels.png"), cv2.IMREAD_UNCHANGED)
    assert np.asarray(labels).shape == (90, 130)


def test_predict_averages(small_onnx: Path, street: Path, tmp_path: Path) -> None:
    options = ["--mode", "slide", "--tile", "40x48", "--overlap", "1/4", "--flip", "--batch"]
    scales = ["4", "--scales", "0.75", "1", "--"]
    command = ["predict", str(small_onnx), "-o", str(tmp_path), *options, *scales, str(street)]
    assert main(command) == 0
    predictor = Predictor(
        small_onnx, mode="slide", tile=(40, 48), overlap=0.25, scales=(0.75, 1), flip=True, batch=4
    )
    labels = cv2.imread(str(tmp_path / "street_labels.png"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(labels, predictor(street).labels)


def test_predict_saves_what_is_asked_for(
    small_onnx: Path, street: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    options = ["--formats", "polygons,label-ids", "--tolerance", "2", "-o", str(out)]
    assert main(["predict", *options, str(small_onnx), str(street)]) == 0
    names = ["street_labelIds.png", "street_polygons.json"]
    assert sorted(file.name for file in out.iterdir()) == names
    result = Predictor(small_onnx)(street)
    saved = json.loads((out / names[1]).read_text())["polygons"]
    assert saved == [polygon.to_dict() for polygon in result.polygons(tolerance=2)]
    printed = capsys.readouterr().out
    assert all(str(out / name) in printed for name in names)


def test_predict_names_the_formats_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["predict", "model.onnx", "street.jpg", "-o", "out", "--formats", "overlay,geojson"])
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert "'geojson'" in said
    assert "polygons" in said


def test_label_ids_of_other_classes_are_refused_before_work(
    small_onnx: Path, street: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = replace(SMALL_SPEC, classes=replace(CITYSCAPES, names=CITYSCAPES.names[::-1]))
    monkeypatch.setattr(Predictor, "spec", spec)
    monkeypatch.setattr(Predictor, "__call__", None)
    command = ["predict", str(small_onnx), str(street), "-o", str(tmp_path), "--debug"]
    with pytest.raises(OptionError, match="labelIds"):
        main([*command, "--formats", "label-ids"])


INFERENCE = [
    ("", {}),
    ("--size 64x96", {"size": (64, 96)}),
    ("--mode slide", {"mode": "slide"}),
    ("--mode slide --tile 97", {"mode": "slide", "tile": 97}),
    ("--mode slide --tile 40x48 --overlap 1/4", {"tile": (40, 48), "overlap": 0.25}),
    ("--overlap 0.5 --mode slide", {"mode": "slide", "overlap": 0.5}),
    ("--scales 0.5 1 --flip", {"scales": [0.5, 1.0], "flip": True}),
    ("--batch 4 --threads 1 --device auto", {"batch": 4, "threads": 1, "device": "auto"}),
    ("--no-on-device", {"on_device": False}),
]


@pytest.mark.parametrize(("options", "expected"), INFERENCE, ids=[case[0] for case in INFERENCE])
def test_inference_arguments_reach_the_predictor(
    options: str, expected: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    defaults = inspect.signature(Predictor).parameters
    seen: dict[str, object] = {}
    monkeypatch.setattr(arguments, "Predictor", lambda model, **given: seen.update(given))
    parser = argparse.ArgumentParser()
    arguments.add_inference_arguments(parser)
    arguments.predictor_from(parser.parse_args(options.split()), "model.onnx")
    assert set(seen) == set(defaults) - {"model"}
    assert {name: seen[name] for name in expected} == expected
    if not expected:
        assert {**seen, "scales": (1.0,)} == {name: defaults[name].default for name in seen}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--scales 0.5 1 street.jpg", "'street.jpg' is not a number; put -- between"),
        ("--scales", "expected at least one argument"),
        ("--mode tiles", "invalid choice: 'tiles'"),
        ("--tile 64y64", "'64y64' is not a size; write HEIGHTxWIDTH"),
        ("--overlap 1/0", "'1/0' is not a number"),
        ("--overlap 1e999", "'1e999' is not a number"),
        ("--overlap third", "'third' is not a number"),
    ],
)
def test_refused_inference_arguments(
    options: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["predict", "model.onnx", "-o", "out", *options.split()])
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_inspect_checkpoint_says_what_it_assumed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(AlignSeg(SMALL).state_dict(), tmp_path / "foreign.pth")
    assert main(["inspect", str(tmp_path / "foreign.pth")]) == 0
    out = capsys.readouterr().out
    for expected in (
        "resnet18, 19 classes",
        "backbone x0.25",
        "assumed",
        "--convention release-2021-12|release-2021-05|standard",
        "--norm inplace-abn|batch-norm",
        "normalisation weights are negative",
        "\n  classes: cityscapes  (assumed: ",
    ):
        assert expected in out
    assert "\\n" not in out


def test_inspect_onnx_shows_its_check(small_onnx: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(small_onnx)]) == 0
    out = capsys.readouterr().out
    assert "opset 18, sampler native, upsampling matrices, with rewrites" in out
    assert "2x3x190x101: " in out


@pytest.mark.parametrize(
    "content", ["", "7", "[[1]]", "[" * 100_000, json.dumps([{"error": 10**400}])], ids=len
)
def test_inspect_survives_odd_records(
    content: str, small_onnx: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = onnx.load(small_onnx)
    (entry,) = (entry for entry in model.metadata_props if entry.key == VERIFICATION_KEY)
    rows = content.replace('"error"', '"batch": 1, "height": 2, "width": 3, "error"')
    entry.value = rows
    onnx.save(model, tmp_path / "odd.onnx")
    assert main(["inspect", str(tmp_path / "odd.onnx")]) == 0
    assert "not recorded in the file" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["checkpoint", "onnx"])
def test_inspect_json(
    kind: str, small_checkpoint: Path, small_onnx: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = small_checkpoint if kind == "checkpoint" else small_onnx
    assert main(["inspect", str(model), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["network"]["backbone"] == "resnet18"
    assert (facts["export"] is None) == (kind == "checkpoint")


def test_export_script_writes_what_the_library_exports(
    export_small: Callable[..., Path], small_checkpoint: Path, tmp_path: Path
) -> None:
    options = ["--size", "65x98", "--batch", "2"]
    script = [sys.executable, str(ROOT / "export/to_onnx.py"), str(small_checkpoint)]
    target = tmp_path / "script.onnx"
    done = subprocess.run(
        [*script, "-o", str(target), *options], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith(f"{target} (")
    assert "relative L2 error" in done.stderr
    assert "2x3x65x98" in done.stderr
    assert "Warning" not in done.stderr
    expected = export_small(**FIXED)
    assert onnx.load(target).graph == onnx.load(expected).graph


def test_options_reach_the_file(
    small_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "m.onnx"
    options = "--size 64x96 --batch 2 --output labels --sampler plugin --opset 19 --no-rewrites"
    overrides = "--norm batch-norm --channel-order rgb --mean 1 2 3 --std 4 5 6 --classes"
    table = {"names": [f"thing {i}" for i in range(19)], "colors": [[i, i, i] for i in range(19)]}
    (tmp_path / "table.json").write_text(json.dumps(table))
    command = ["export-onnx", str(small_checkpoint), "-o", str(target), *options.split()]
    assert main([*command, *overrides.split(), str(tmp_path / "table.json")]) == 0
    assert capsys.readouterr().out.startswith(f"{target} (")
    facts = {entry.key: entry.value for entry in onnx.load(target).metadata_props}
    spec = ModelSpec.from_json(facts[SPEC_KEY])
    export = spec.export
    assert export is not None
    assert (export.size, export.batch, export.output) == ((64, 96), 2, "labels")
    assert (export.sampler, export.opset, export.rewrites) == ("plugin", 19, False)
    assert (spec.network.norm, spec.input.channel_order) == ("batch-norm", "rgb")
    assert (spec.input.mean, spec.input.std) == ((1.0, 2.0, 3.0), (4.0, 5.0, 6.0))
    assert (spec.classes.dataset, spec.classes.names[18]) == ("table", "thing 18")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0
    assert "Example: " in capsys.readouterr().out


def test_a_warning_about_the_same_files_is_printed_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    logger = logging.getLogger("alignseg_infer.tests")

    def run(_given: argparse.Namespace) -> int:
        for names in ("ab", "b", "bc", "c"):
            logger.warning("odd: %s", names, extra={"about": frozenset(names)})
        for _ in range(2):
            logger.warning("twice")
        return 0

    given = argparse.Namespace(parser=argparse.ArgumentParser(), debug=False)
    for _command in range(2):  # the next command says it again
        assert run_reporting_errors(run, given) == 0
        assert capsys.readouterr().err.split("\n") == [
            *("odd: ab", "odd: bc", "twice", "twice", ""),
        ]
