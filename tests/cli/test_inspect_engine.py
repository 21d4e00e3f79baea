"""``alignseg inspect`` of an engine: facts for people and programs, no TensorRT, no GPU."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from alignseg_infer.arrays import InputShape
from alignseg_infer.cli import main
from alignseg_infer.errors import EngineError
from alignseg_infer.spec.verification import Verification, VerifiedRow
from alignseg_infer.trt.engine_file import (
    EngineFacts,
    LayerCount,
    Profile,
    read_facts,
    sidecar_path,
)
from alignseg_infer.trt.flavours import Flavour
from tests.support.fake_tensorrt import ADA, PROFILE, write_engine

VERIFIED = Verification(
    reference="alignseg.onnx",
    reference_sha256="1" * 64,
    backend="tensorrt 11.4.0.106 (NVIDIA L4)",
    images="8 street images",
    required_agreement=0.99,
    rows=(
        VerifiedRow(InputShape(1, 32, 32), 8, 0.99876, 0.99543, 1.5e-3),
        VerifiedRow(InputShape(2, 64, 96), 8, 0.99912, 0.99345, None),
    ),
    miou_drop=0.12,
)
ONE = InputShape(1, 512, 1024)
LAYERS = (
    LayerCount("CONVOLUTION", "HALF", 103),
    LayerCount("CONVOLUTION", "FLOAT", 1),
    LayerCount("SHAPE", "INT64", 7),
    LayerCount("CAST", "HALF", 2),
)

SAID: list[tuple[dict[str, Any], list[str]]] = [
    ({}, ["tensorrt 11.4.0.106, ", "NVIDIA L4 (compute capability 8.9)\n", "precision: fp16"]),
    (
        {},
        [
            "1x32x32 to 2x64x96, fastest at 1x64x64",
            "network: not known, since another tool built it",
            "not verified: alignseg verify",
        ],
    ),
    ({"version_compatible": True}, ["11.4.0.106 or newer"]),
    ({"hardware_compatibility": "ampere-plus"}, ["built for ampere-plus"]),
    (
        {"flavour": Flavour.TENSORRT_RTX, "gpu": None},
        ["8.9, 12.0 and later", "tensorrt-rtx 11.4"],
    ),
    (
        {"compute_capabilities": ("8.6", "8.9"), "gpu": ADA},
        ["runs on: compute capability 8.6, 8.9"],
    ),
    ({"profile": Profile(ONE, ONE, ONE)}, ["inputs: 1x512x1024 (batch"]),
    ({"layers": LAYERS}, ["network: 103 CONVOLUTION HALF, 1 CONVOLUTION FLOAT, 9 others (--json"]),
    ({"layers": LAYERS[2:3]}, ["network: 7 others (--json"]),
    ({"tf32": True}, ["precision: fp16, TF32 allowed"]),
    ({"plugins": ("A/1",)}, ["plugins: A/1"]),
    (
        {"verification": VERIFIED},
        ["with 8 street images on tensorrt 11", "1x32x32: 99.876% of the pixels"],
    ),
    (
        {"verification": VERIFIED},
        ["(worst of 8 images 99.345%)\n", "1.5e-03", "agreement 99.00%", "lower by 0.12 percent"],
    ),
]


@pytest.mark.parametrize(("changes", "said"), SAID)
def test_for_people(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, Any],
    said: list[str],
) -> None:
    write_engine(tmp_path / "a.engine", **changes)
    assert main(["inspect", str(tmp_path / "a.engine")]) == 0
    text = capsys.readouterr().out
    assert "AlignSeg, resnet18, 19 classes" in text
    for fragment in said:
        assert fragment in text
    assert ("not verified" in text) == ("verification" not in changes)


def test_for_programs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    facts = write_engine(tmp_path / "a.plan", verification=VERIFIED)
    assert main(["inspect", str(tmp_path / "a.plan"), "--json"]) == 0
    assert EngineFacts.from_json(capsys.readouterr().out) == facts


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_plan_that_is_another(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str]
) -> None:
    write_engine(tmp_path / "a.engine")
    with (tmp_path / "a.engine").open("ab") as file:
        file.write(b" ")
    assert main(["inspect", str(tmp_path / "a.engine"), *options]) == 1
    captured = capsys.readouterr()
    assert "is not the plan that a.engine.json describes" in captured.err
    if options:
        assert json.loads(captured.out)["flavour"] == "tensorrt"


BAD = [
    ("inspect nowhere.engine", "does not exist"),
    ("inspect alone.engine", "has no alone.engine.json beside it"),
    ("inspect a.engine --norm batch-norm", "--norm cannot change"),
    ("predict a.engine a.jpg -o out --device cpu", "run on a GPU only"),
    ("predict a.engine a.jpg -o out --threads 2", "--threads 2"),
    ("predict alone.engine a.jpg -o out", "has no alone.engine.json"),
]


@pytest.mark.parametrize(("command", "fragment"), BAD)
def test_bad_command(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
    fragment: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_engine(Path("a.engine"))
    Path("alone.engine").write_bytes(b"plan")
    assert main(command.split()) == 1
    assert fragment in capsys.readouterr().err


def test_needs_no_runtime(tmp_path: Path) -> None:
    facts = write_engine(tmp_path / "a.engine", profile=replace(PROFILE, minimum=PROFILE.optimum))
    code = (
        "import sys\n"
        "from alignseg_infer.cli import main\n"
        f"main(['inspect', {str(tmp_path / 'a.engine')!r}, '--json'])\n"
        "names = ('torch', 'onnx', 'onnxruntime', 'tensorrt', 'tensorrt_rtx', 'cuda', 'pycuda')\n"
        "sys.exit(str([name for name in names if name in sys.modules]))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.stderr.strip() == "[]"
    assert EngineFacts.from_json(run.stdout) == facts


@pytest.mark.parametrize("version", [1, 2, 3, 5, "4", 4.0, None])
def test_only_the_present_version_is_read(version: object, tmp_path: Path) -> None:
    write_engine(tmp_path / "a.engine")
    path = sidecar_path(tmp_path / "a.engine")
    path.write_text(json.dumps({**json.loads(path.read_text()), "version": version}))
    with pytest.raises(EngineError, match="export the model again") as caught:
        read_facts(tmp_path / "a.engine")
    assert "JSON of version 4" in caught.value.expected


@pytest.mark.parametrize(
    ("where", "value"),
    [
        (("profile", "minimum", "batch"), 0),
        (("profile", "minimum", "batch"), 9),
        (("profile", "maximum", "width"), -1),
        (("spec", "export"), None),
        (("spec", "export", "precision"), "fp8"),
        (("layers",), 3),
        (("version",), 3),
    ],
)
def test_facts_that_were_edited(
    where: tuple[str, ...], value: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_engine(tmp_path / "a.engine")
    path = sidecar_path(tmp_path / "a.engine")
    facts = json.loads(path.read_text())
    inner = facts
    for name in where[:-1]:
        inner = inner[name]
    inner[where[-1]] = value
    path.write_text(json.dumps(facts))
    assert main(["inspect", str(tmp_path / "a.engine")]) == 1
    assert "cannot be read" in capsys.readouterr().err
