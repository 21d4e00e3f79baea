"""The engine cache where files change under it, or the folder holds other things."""

import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from alignseg_infer import ModelFileError, OptionError, Predictor, VerificationError
from alignseg_infer.backends import cached_engine
from alignseg_infer.cli import main
from alignseg_infer.demo import model_path
from alignseg_infer.demo.streets import Street
from alignseg_infer.demo.streets.folder import write_streets
from alignseg_infer.spec.model import Precision
from alignseg_infer.spec.verification import REQUIRED_AGREEMENT
from alignseg_infer.trt.cache import store
from alignseg_infer.trt.engine_file import read_facts, sidecar_path
from tests.support.fake_tensorrt_network import FakeTensorRTNetwork

SIZE = (64, 96)


@pytest.fixture(autouse=True)
def tensorrt(monkeypatch: pytest.MonkeyPatch) -> FakeTensorRTNetwork:
    module = FakeTensorRTNetwork()
    module.install(monkeypatch)
    return module


def opened(model: str | Path = "demo", **options: Any) -> Predictor:
    given = {"runtime": "tensorrt", "size": SIZE, "on_device": False, **options}
    return Predictor(model, **given)


def write_other(target: Path) -> None:
    """Write the demo model with other weights."""
    model = onnx.load(model_path("demo"))
    for tensor in model.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if values.ndim == 4:
            tensor.CopyFrom(onnx.numpy_helper.from_array(-values, tensor.name))
            break
    onnx.save(model, target)


def test_a_file_that_changes_before_the_build_gives_no_engine(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = tmp_path / "m.onnx"
    shutil.copy(model_path("demo"), used)

    def wait(*arguments: Any) -> Any:  # for the lock, while somebody exports the file again
        write_other(used)
        return store.find_or_build(*arguments)

    monkeypatch.setattr(cached_engine, "find_or_build", wait)
    with pytest.raises(ModelFileError, match="changed while its engine was built"):
        opened(used)
    assert not list(own_cache.glob("engines/*/*"))
    monkeypatch.setattr(cached_engine, "find_or_build", store.find_or_build)
    image = Street(7).scene(size=SIZE).image
    expected = Predictor(used, size=SIZE)(image).labels
    np.testing.assert_array_equal(opened(used)(image).labels, expected)


def test_facts_that_were_changed_are_not_used(
    own_cache: Path, tensorrt: FakeTensorRTNetwork
) -> None:
    opened()
    (plan,) = own_cache.glob("engines/*/model.engine")
    path = sidecar_path(plan)
    content = json.loads(path.read_text())
    content["spec"]["input"]["mean"] = [9.0, 9.0, 9.0]
    path.write_text(json.dumps(content))
    assert opened().spec.input == Predictor("demo").spec.input
    assert tensorrt.builds == 2


def test_clearing_leaves_what_is_not_ours(own_cache: Path) -> None:
    opened()
    other = own_cache / "engines" / "robot1"
    other.mkdir()
    (other / "alignseg.engine").touch()
    (own_cache / "calibrations").mkdir()
    (own_cache / "calibrations" / "camera.npz").touch()
    (own_cache / "calibrations" / f"{'0' * 64}.npz").touch()
    assert main(["cache", "clear"]) == 0
    assert (other / "alignseg.engine").is_file()
    assert [path.name for path in (own_cache / "calibrations").iterdir()] == ["camera.npz"]
    assert not list(own_cache.glob("engines/*/model.engine"))


def test_odd_files_are_listed(own_cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    opened()
    (plan,) = own_cache.glob("engines/*/model.engine")
    (plan.parent / store.RECORD).write_text("[" * 100_000)
    (own_cache / "calibrations").mkdir()
    (own_cache / "calibrations" / f"{'0' * 64}.npz").symlink_to("nothing")
    assert main(["cache", "list"]) == 0
    assert capsys.readouterr().out.startswith("not complete: ")
    assert main(["cache", "clear"]) == 0


def test_a_conversion_that_fails_keeps_nothing_and_advises_what_works(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(model_path("demo"), "a model.onnx")
    with monkeypatch.context() as patch:
        patch.setitem(REQUIRED_AGREEMENT, Precision.FP16, 1.0)
        with pytest.raises(VerificationError) as caught:
            opened("a model.onnx", precision="fp16")
    assert "kept" not in str(caught.value)
    assert not list(own_cache.glob("**/*.onnx"))
    list(write_streets(tmp_path / "streets", 0, 1, size=SIZE))
    (tmp_path / "streets" / "images").rename("FOLDER")
    _, _, command = caught.value.fix.partition("see how it differs: alignseg ")
    assert main(shlex.split(command)) == 0
    assert Path("a model_fp16.onnx").is_file()


def test_a_lowered_gate_is_said(
    tmp_path: Path,
    own_cache: Path,
    tensorrt: FakeTensorRTNetwork,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    half = tmp_path / "half.onnx"
    assert (
        main(["export-onnx", str(model_path("demo")), "-o", str(half), "--precision", "fp16"]) == 0
    )
    tensorrt.wrong = True
    opened(half)  # with a warning: there is no float32 file to compare it with
    (plan,) = own_cache.glob("engines/*/model.engine")
    verify = ["verify", str(plan), "--against", "demo"]
    assert main(verify) == 1
    assert main([*verify, "--min-agreement", "0"]) == 0
    assert read_facts(plan).verification is not None
    capsys.readouterr()
    assert main(["cache", "list"]) == 0
    assert "verified with a gate of 0.0% only" in capsys.readouterr().out
    caplog.clear()
    opened(half)
    assert "verified with a gate of 0.0% only" in caplog.text


def test_mistakes_are_said_before_a_missing_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("the GPU was asked first")

    monkeypatch.setattr(cached_engine, "open_cuda", fail)
    with pytest.raises(ModelFileError, match="does not exist"):
        opened("nowhere.onnx")
    with pytest.raises(OptionError, match="precision='int8'"):
        opened(precision="int8")
