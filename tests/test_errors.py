"""Bad input: a typed error in three parts, exit code 1, no traceback, no half-written file."""

import contextlib
import copy
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray

from alignseg_infer import (
    AlignSegError,
    CheckpointError,
    DeviceError,
    ImageError,
    MissingDependencyError,
    ModelError,
    ModelFileError,
    OptionError,
    OutputError,
    Predictor,
    SizeError,
    SpecError,
)
from alignseg_infer.cli import main
from alignseg_infer.models.checkpoint import load_checkpoint
from alignseg_infer.spec.model import SPEC_KEY
from tests.support.models import FakeBackend


class RunsCode:
    """Unpickling this would run a command."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch hacked",)


@pytest.fixture(scope="session")
def bad(
    tmp_path_factory: pytest.TempPathFactory,
    small_checkpoint: Path,
    export_small: Callable[..., Path],
) -> Path:
    """A folder of good and bad files."""
    folder = tmp_path_factory.mktemp("bad")
    _write_images(folder)
    _write_checkpoints(folder, small_checkpoint)
    fixed = export_small(size=(65, 98), batch=2)
    _write_models(folder, fixed.read_bytes())
    return folder


def _write_images(folder: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 255, (80, 120, 3), np.uint8)
    jpeg = cv2.imencode(".jpg", picture)[1].tobytes()
    png = cv2.imencode(".png", picture)[1].tobytes()
    tiny = {size: cv2.imencode(".png", picture[:size, :size])[1].tobytes() for size in (1, 20)}
    files = {
        "good.jpg": jpeg,
        "empty.jpg": b"",
        "cut.jpg": jpeg[: len(jpeg) // 2],
        "header.jpg": jpeg[:100],
        "cut.png": png[: len(png) // 2],
        "noise.jpg": bytes(range(256)) * 8,
        "text.png": b"this is no picture",
        "1x1.png": tiny[1],
        "20x20.png": tiny[20],
        "names.json": b'{"names": ["a"], "colors": []}',
        "nojson.json": b"names: a",
        "two.json": b'{"names": ["a", "b"], "colors": [[0, 0, 0], [1, 1, 1]]}',
    }
    for name, content in files.items():
        (folder / name).write_bytes(content)


def _write_checkpoints(folder: Path, good: Path) -> None:
    content = good.read_bytes()
    (folder / "good.pth").write_bytes(content)
    (folder / "empty.pth").write_bytes(b"")
    (folder / "cut.pth").write_bytes(content[: len(content) // 2])
    (folder / "start.pth").write_bytes(content[:64])
    (folder / "lfs.pth").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n")
    (folder / "page.pth").write_bytes(b"<!DOCTYPE html><html>Quota exceeded</html>")
    (folder / "note.pth").write_bytes(b"Find the weights in the other folder.\n")
    (folder / "archive.pth").write_bytes(b"\x1f\x8b\x08\x00" + bytes(100))
    (folder / "cut.safetensors").write_bytes((1000).to_bytes(8, "little") + b'{"a": 1')
    state = dict(load_checkpoint(good).state)
    _save(folder / "code.pth", {"state_dict": {"a": RunsCode()}})
    _save(folder / "list.pth", [1, 2, 3])
    _save(folder / "notensors.pth", {"epoch": 3})
    resnet = ("conv1.weight", "layer1.0.conv1.weight", "fc.weight")
    _save(folder / "resnet.pth", {key: torch.zeros(1) for key in resnet})
    _save(folder / "mmseg.pth", {"state_dict": {"decode_head.conv.weight": torch.zeros(1)}})
    _save(folder / "missing.pth", {k: v for k, v in state.items() if k != "RRB3a.norm.bias"})
    _save(folder / "extra.pth", {**state, "extra.weight": torch.zeros(2)})
    _save(folder / "shape.pth", {**state, "CAM.delta_gen.2.weight": torch.zeros(2, 7, 3, 3)})
    _save(folder / "nan.pth", {**state, "conv2.weight": state["conv2.weight"] * torch.nan})
    _save(folder / "badspec.pth", {"state_dict": state, "alignseg": '{"version": 99}'})


def _save(path: Path, content: object) -> None:
    torch.save(content, path)


def _write_models(folder: Path, good: bytes) -> None:
    (folder / "fixed.onnx").write_bytes(good)
    (folder / "network.pth").write_bytes(good)
    for name in ("weights.onnx", "weights.engine"):
        (folder / name).write_bytes((folder / "good.pth").read_bytes())
    (folder / "weights.pt2").write_bytes((folder / "1x1.png").read_bytes())
    (folder / "empty.onnx").write_bytes(b"")
    (folder / "cut.onnx").write_bytes(good[: len(good) // 2])
    (folder / "text.onnx").write_bytes(b"hello")
    (folder / "model.tflite").write_bytes(b"TFL3")
    model = onnx.load_from_string(good)
    spec = next(entry for entry in model.metadata_props if entry.key == SPEC_KEY)
    specs = {"oldspec": '{"version": 0}', "nospec": "{", "wrongspec": '{"version": 3}'}
    for name, value in specs.items():
        spec.value = value
        (folder / f"{name}.onnx").write_bytes(model.SerializeToString())
    model.metadata_props.remove(spec)
    (folder / "nometadata.onnx").write_bytes(model.SerializeToString())
    (folder / "foreign.onnx").write_bytes(_identity_network().SerializeToString())


def _identity_network() -> onnx.ModelProto:
    make = onnx.helper.make_tensor_value_info
    values = [make(name, onnx.TensorProto.FLOAT, [1, 3]) for name in ("x", "y")]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Identity", ["x"], ["y"])], "identity", values[:1], values[1:]
    )
    opset = onnx.helper.make_opsetid("", 18)
    return onnx.helper.make_model(graph, opset_imports=[opset], ir_version=10)


COMMANDS: list[tuple[str, type[AlignSegError], str]] = [
    # images
    ("predict fixed.onnx nowhere.jpg -o out", ImageError, "does not exist"),
    ("predict fixed.onnx . -o out", OptionError, "have the name 'cut'"),  # cut.png and cut.jpg
    ("predict fixed.onnx empty.jpg -o out", ImageError, "is empty"),
    ("predict fixed.onnx cut.jpg -o out", ImageError, "truncated"),
    ("predict fixed.onnx header.jpg -o out", ImageError, "truncated"),
    ("predict fixed.onnx cut.png -o out", ImageError, "truncated"),
    ("predict fixed.onnx noise.jpg -o out", ImageError, "cannot be decoded"),
    ("predict fixed.onnx text.png -o out", ImageError, "cannot be decoded"),
    ("predict fixed.onnx 1x1.png -o out", ImageError, "1x1"),
    ("predict good.pth 20x20.png -o out", SizeError, "20x20"),
    # models
    ("predict nowhere.onnx good.jpg -o out", ModelFileError, "does not exist"),
    ("predict empty.onnx good.jpg -o out", ModelFileError, "is empty"),
    ("predict cut.onnx good.jpg -o out", ModelFileError, "cannot be loaded"),
    ("predict text.onnx good.jpg -o out", ModelFileError, "cannot be loaded"),
    ("predict nometadata.onnx good.jpg -o out", ModelFileError, "without the metadata"),
    ("predict foreign.onnx good.jpg -o out", ModelFileError, "its inputs are x"),
    ("predict oldspec.onnx good.jpg -o out", SpecError, "version 0"),
    ("predict nospec.onnx good.jpg -o out", SpecError, "cannot be read"),
    ("predict wrongspec.onnx good.jpg -o out", SpecError, "has fields"),
    ("predict model.tflite good.jpg -o out", ModelFileError, "no backend reads"),
    ("inspect nowhere.onnx", ModelFileError, "does not exist"),
    ("inspect nowhere.pth", CheckpointError, "does not exist"),
    ("inspect nowhere", ModelFileError, "nowhere does not exist"),
    ("predict nowhere good.jpg -o out", ModelFileError, "nowhere does not exist"),
    ("predict demo.onxx good.jpg -o out", ModelFileError, "demo.onxx does not exist"),
    # options
    ("predict fixed.onnx good.jpg -o out --size 512x1024", SizeError, "exported for 65x98"),
    ("predict good.pth good.jpg -o out --size 16x16", SizeError, "16x16"),
    ("predict good.pth good.jpg -o out --size 0", OptionError, "--size 0"),
    ("predict fixed.onnx good.jpg -o out --device tpu", OptionError, "--device tpu"),
    ("predict fixed.onnx good.jpg -o out --threads 0", OptionError, "--threads 0"),
    ("predict fixed.onnx good.jpg -o out --opacity 2", OptionError, "--opacity 2"),
    ("predict fixed.onnx good.jpg -o out --tolerance -1", OptionError, "--tolerance -1.0"),
    ("predict fixed.onnx good.jpg sub/good.png -o out", OptionError, "'good'"),
    ("predict fixed.onnx good.jpg good_overlay.jpg -o .", OptionError, "would overwrite"),
    (
        "predict fixed.onnx good.jpg good_color.png -o . --formats labels,color",
        OptionError,
        "would overwrite",
    ),
    ("predict fixed.onnx good.jpg -o out --threads 99999999999", OptionError, "99999999999"),
    ("predict fixed.onnx good.jpg -o out --device cpu:", OptionError, "--device cpu:"),
    ("predict good.pth good.jpg -o out --size 100000x100000", SizeError, "100000x100000"),
    ("predict fixed.onnx good.jpg -o out --tile 64", OptionError, "--tile 64 was given without"),
    ("predict fixed.onnx good.jpg -o out --overlap 1/2", OptionError, "--overlap 0.5 was given"),
    ("predict good.pth good.jpg -o out --mode slide --overlap 1", OptionError, "--overlap 1.0"),
    ("predict good.pth good.jpg -o out --mode slide --tile 16x64", SizeError, "16x64"),
    ("predict fixed.onnx good.jpg -o out --mode slide --tile 64", SizeError, "exported for 65x98"),
    ("predict fixed.onnx good.jpg -o out --scales 1 2", OptionError, "exported for 65x98"),
    ("predict good.pth good.jpg -o out --scales 1 0", OptionError, "--scales 1.0 0.0"),
    ("predict good.pth good.jpg -o out --scales nan", OptionError, "--scales nan"),
    ("predict good.pth good.jpg -o out --scales 1 0.1", SizeError, "8x12"),
    ("predict good.pth good.jpg -o out --batch 0", OptionError, "--batch 0"),
    ("inspect fixed.onnx --norm batch-norm", OptionError, "--norm cannot change"),
    ("export-onnx good.pth -o good.pth", OptionError, "does not end in .onnx"),
    ("export-onnx good.pth -o out/model", OptionError, "does not end in .onnx"),
    ("export-onnx good.pth -o out/m.onnx --size 100000x64", SizeError, "100000x64"),
    ("export-onnx good.pth -o out/m.onnx --std 1 0 1", SpecError, "std (1.0, 0.0, 1.0)"),
    ("export-onnx good.pth -o out/m.onnx --mean nan 0 0", SpecError, "mean (nan"),
    ("export-onnx good.pth -o out/m.onnx --opset 20", OptionError, "--opset 20"),
    ("export-onnx good.pth -o out/m.onnx --opset 9", OptionError, "--opset 9"),
    ("export-onnx good.pth -o out/m.onnx --size 8x8", SizeError, "8x8"),
    ("export-onnx good.pth -o out/m.onnx --batch 0", OptionError, "--batch 0"),
    ("export-onnx good.pth -o out/m.onnx --classes kitti", OptionError, "'kitti'"),
    ("export-onnx good.pth -o out/m.onnx --classes voc", SpecError, "19 classes, but 21"),
    ("export-onnx good.pth -o out/m.onnx --classes names.json", OptionError, "1 names and 0"),
    ("export-onnx good.pth -o out/m.onnx --classes nojson.json", OptionError, "not a class table"),
    ("export-onnx good.pth -o out/m.onnx --classes two.json", SpecError, "but 2 names"),
    # checkpoints
    ("inspect empty.pth", CheckpointError, "is empty"),
    ("inspect cut.pth", CheckpointError, "truncated or damaged"),
    ("inspect start.pth", CheckpointError, "truncated or damaged"),
    ("inspect lfs.pth", CheckpointError, "Git LFS pointer"),
    ("inspect page.pth", CheckpointError, "web page"),
    ("inspect note.pth", CheckpointError, "looks like text"),
    ("inspect archive.pth", CheckpointError, "gzip"),
    ("inspect cut.safetensors", CheckpointError, "truncated or damaged"),
    ("inspect code.pth", CheckpointError, "can run code while it is loaded: it names posix.system"),
    (
        "inspect network.pth",
        CheckpointError,
        "checkpoint: it looks like an ONNX model",
    ),
    ("predict weights.onnx good.jpg -o out", ModelFileError, "looks like a checkpoint"),
    ("inspect weights.onnx", ModelFileError, "looks like a checkpoint"),
    ("export-onnx weights.onnx -o m.onnx --precision fp16", ModelFileError, "like a checkpoint"),
    ("predict weights.engine good.jpg -o out", ModelFileError, "looks like a checkpoint"),
    ("predict weights.pt2 good.jpg -o out", ModelFileError, "it looks like a PNG image"),
    ("inspect good.pth --threshold 0.5", OptionError, "--threshold 0.5 was given for a network"),
    ("inspect good.pth --threshold 1", OptionError, "--threshold 1.0"),
    (
        "inspect good.pth --weights ema",
        CheckpointError,
        "has no averaged weights, which --weights ema asks for",
    ),
    ("inspect fixed.onnx --weights raw", OptionError, "--weights cannot change"),
    ("inspect list.pth", CheckpointError, "contains a list"),
    ("inspect notensors.pth", CheckpointError, "epoch"),
    ("inspect resnet.pth", CheckpointError, "image classification ResNet"),
    ("inspect mmseg.pth", CheckpointError, "MMSegmentation"),
    ("inspect missing.pth", CheckpointError, "1 missing: RRB3a.norm.bias"),
    ("inspect extra.pth", CheckpointError, "1 unexpected: extra.weight"),
    ("inspect shape.pth", CheckpointError, "1 misshapen: CAM.delta_gen.2.weight (2, 7, 3, 3)"),
    ("inspect nan.pth", CheckpointError, "NaN, infinite or impossible values in 1 tensors"),
    ("inspect badspec.pth", SpecError, "version 99"),
    # offsets
    ("offsets fixed.onnx good.jpg -o o.png", ModelFileError, "without its offset fields"),
    ("offsets good.pth cut.jpg -o o.png", ImageError, "truncated"),
    ("offsets good.pth 20x20.png -o o.png", SizeError, "20x20"),
    ("offsets cut.onnx good.jpg -o o.png", ModelFileError, "cannot be loaded"),
    ("offsets good.pth good.jpg -o out", OptionError, "out does not end in .png"),
    ("offsets good.pth good.jpg -o good.pth", OptionError, "good.pth does not end in .png"),
    ("offsets good.pth good.jpg -o good.jpg", OptionError, "would overwrite"),
    ("offsets good.pth good.jpg -o good.jpg/o.png", OutputError, "cannot write into"),
    # output
    ("predict fixed.onnx good.jpg -o good.jpg/out", OutputError, "cannot write into"),
    ("export-onnx good.pth -o good.jpg/m.onnx --size 64x64", OutputError, "cannot write into"),
    ("export-onnx good.pth -o sub.onnx --size 64x64", OutputError, "is a directory"),
]


@pytest.mark.parametrize(("command", "kind", "fragment"), COMMANDS, ids=[c[0] for c in COMMANDS])
def test_bad_command(
    bad: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
    kind: type[AlignSegError],
    fragment: str,
) -> None:
    for file in bad.iterdir():
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub.onnx").mkdir()
    monkeypatch.chdir(tmp_path)
    assert main(command.split()) == 1
    captured = capsys.readouterr()
    message = captured.err[captured.err.index("error: ") :]
    assert fragment in message
    assert "\n  expected: " in message
    assert "\n  try: " in message
    assert "Traceback" not in captured.err
    assert captured.out == ""
    left = [file for file in tmp_path.rglob("*") if file.is_file() and not file.is_symlink()]
    assert left == []
    with pytest.raises(kind) as caught:
        main([*command.split(), "--debug"])
    assert type(caught.value) is kind


ARRAYS: list[tuple[Any, str]] = [
    (np.zeros((0, 0, 3), np.uint8), "0x0"),
    (np.zeros((0, 20, 3), np.uint8), "0x20"),
    (np.zeros((1, 1, 3), np.uint8), "1x1"),
    (np.zeros((40, 40, 2), np.uint8), "(40, 40, 2)"),
    (np.zeros((40, 40, 5), np.uint8), "(40, 40, 5)"),
    (np.zeros((3, 40, 40), np.uint8), "(3, 40, 40)"),
    (np.zeros((1, 40, 40, 3), np.uint8), "(1, 40, 40, 3)"),
    (np.zeros(40, np.uint8), "(40,)"),
    (np.full((40, 40, 3), np.nan, np.float32), "4800 NaN"),
    (np.zeros((40, 40, 3), np.float64), "float64"),
    (np.zeros((40, 40, 3), np.uint16), "uint16"),
    (np.zeros((40, 40, 3), np.int64), "int64"),
    (np.zeros((40, 40), bool), "bool"),
    (None, "None"),
    (3, "int"),
    (torch.zeros(3, 40, 40), "Tensor"),
]


@pytest.mark.parametrize(("array", "fragment"), ARRAYS, ids=[case[1] for case in ARRAYS])
def test_bad_array(array: Any, fragment: str) -> None:
    backend = FakeBackend()
    with pytest.raises(ImageError) as caught:
        Predictor(backend)(array)
    assert fragment in caught.value.problem
    assert caught.value.expected
    assert caught.value.fix
    assert backend.batches == []


@pytest.mark.parametrize(
    "size", [0, -5, True, 1.5, (512,), (512, 0), (1, 2, 3), "big", (512.0, 1024.0)], ids=str
)
def test_bad_size(size: Any) -> None:
    with pytest.raises(OptionError):
        Predictor(FakeBackend(), size=size)


def test_cuda_that_is_not_there(bad: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    for model in ("fixed.onnx", "good.pth"):
        with pytest.raises(DeviceError, match="device='cuda'"):
            Predictor(bad / model, device="cuda")
        assert "CPU" in Predictor(bad / model, device="auto").backend.upper()


def test_code_in_a_pickle_never_runs(
    bad: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError):
        load_checkpoint(bad / "code.pth")
    assert not (tmp_path / "hacked").exists()


def test_missing_package_names_the_pip_command(
    bad: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxscript", None)
    with pytest.raises(MissingDependencyError, match=r"pip install torch.* onnxscript"):
        main(["export-onnx", str(bad / "good.pth"), "-o", str(tmp_path / "m.onnx"), "--debug"])


def test_one_bad_image_does_not_stop_the_others(
    bad: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = [str(bad / name) for name in ("cut.jpg", "good.jpg")]
    assert main(["predict", str(bad / "fixed.onnx"), *images, "-o", str(tmp_path)]) == 1
    captured = capsys.readouterr()
    assert "1 of 2 images failed" in captured.err
    assert len(list(tmp_path.glob("good_*"))) == 3


def test_wrong_usage_is_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["predict", "model.onnx"])
    assert caught.value.code == 2
    assert "usage: " in capsys.readouterr().err


def test_errors_survive_copying_and_pickling() -> None:
    error = ImageError("seen", "expected", "fix")
    for twin in (copy.copy(error), pickle.loads(pickle.dumps(error))):
        assert type(twin) is ImageError
        assert str(twin) == str(error) == "seen\n  expected: expected\n  try: fix"


def test_network_that_returns_nan() -> None:
    class Broken(FakeBackend):
        def infer(self, batch: NDArray[np.float32]) -> NDArray[np.generic]:
            return np.full_like(super().infer(batch), np.nan)

    with pytest.raises(ModelError, match="NaN or infinite logits"):
        Predictor(Broken())(np.zeros((40, 40, 3), np.uint8))


@pytest.mark.parametrize("place", range(20))
def test_damaged_onnx_is_never_another_error(bad: Path, tmp_path: Path, place: int) -> None:
    content = bytearray((bad / "fixed.onnx").read_bytes())
    draw = np.random.default_rng(place)
    for position in draw.integers(0, len(content), 200):
        content[position] = draw.integers(0, 256)
    tail = content[-6000:]  # where names and metadata are
    content[-6000:] = bytes(byte ^ 0x80 if draw.random() < 0.05 else byte for byte in tail)
    (tmp_path / "damaged.onnx").write_bytes(content)
    with contextlib.suppress(AlignSegError):
        Predictor(tmp_path / "damaged.onnx")
