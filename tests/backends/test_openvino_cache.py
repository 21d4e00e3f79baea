"""Compiled models of OpenVINO in the cache folder: found again, never trusted, never required."""

import os
import shutil
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest

from alignseg_infer import Predictor
from alignseg_infer.backend import Backend
from alignseg_infer.backends import open_backend, openvino_backend, openvino_cache
from alignseg_infer.backends.openvino_backend import OpenVinoBackend
from alignseg_infer.cli import main
from alignseg_infer.demo import model_path
from alignseg_infer.files import caches
from tests.support.permissions import permissions_for_all

BATCH = np.random.default_rng(0).standard_normal((1, 3, 40, 72)).astype(np.float32)


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Return a list of the models that are compiled from now on."""
    models: list[Path] = []
    compile_model = OpenVinoBackend._compile

    def count(self: OpenVinoBackend, *arguments: Any) -> Any:
        models.append(self._path)
        return compile_model(self, *arguments)

    monkeypatch.setattr(OpenVinoBackend, "_compile", count)
    return models


def open_demo(path: Path | str = "demo") -> Backend:
    return open_backend(path, runtime="openvino")


def kept() -> list[Path]:
    return [file.path for file in caches.kept_files(caches.COMPILED)]


def test_the_second_time_nothing_is_compiled(compiled: list[Path], own_cache: Path) -> None:
    first, second = open_demo(), open_demo()
    assert len(compiled) == len(kept()) == 1
    assert kept()[0].is_relative_to(own_cache)
    assert np.array_equal(first.infer(BATCH), second.infer(BATCH))
    assert first.spec == second.spec
    assert isinstance(first, OpenVinoBackend)
    assert isinstance(second, OpenVinoBackend)
    assert (first.metadata, first.has_offsets) == (second.metadata, second.has_offsets)
    offsets, again = first.offsets(BATCH), second.offsets(BATCH)
    assert all(np.array_equal(again[field], offset) for field, offset in offsets.items())


def test_threads_share_a_compiled_model(compiled: list[Path]) -> None:
    backends = [open_backend("demo", runtime="openvino", threads=count) for count in (1, 2, None)]
    assert len(compiled) == 1
    used = [backend._model.get_property("INFERENCE_NUM_THREADS") for backend in backends]  # type: ignore[attr-defined]
    assert used[0] == 1


def test_another_file_version_or_cpu_is_compiled(
    compiled: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_onnx: Path
) -> None:
    path = tmp_path / "model.onnx"
    shutil.copy(model_path("demo"), path)
    open_demo(path)
    open_demo(path)
    assert len(compiled) == 1
    shutil.copy(small_onnx, path)
    assert open_demo(path).spec != open_demo("demo").spec
    assert len(compiled) == 2  # the demo is the first file
    facts = openvino_cache.machine_facts
    for name in ("openvino", "cpu", "package"):
        monkeypatch.setattr(
            openvino_backend,
            "machine_facts",
            lambda *given, name=name: facts(*given) | {name: "other"},
        )
        open_demo(path)
    assert len(compiled) == 5
    assert list(tmp_path.iterdir()) == [path]  # nothing is written beside the model


def test_other_settings_are_compiled(compiled: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    open_demo()
    choose = openvino_backend._choose_settings
    other = {"CPU_RUNTIME_CACHE_CAPACITY": 255}
    monkeypatch.setattr(openvino_backend, "_choose_settings", lambda *given: choose(*given) | other)
    open_demo()
    open_demo()
    assert len(compiled) == 2


@pytest.mark.parametrize("damage", ["empty", "header", "truncated", "longer", "no JSON"])
def test_a_damaged_file_is_made_again(
    compiled: list[Path], damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    expected = open_demo().infer(BATCH)
    [path] = kept()
    content = path.read_bytes()
    changed = {
        "empty": b"",
        "header": content[:20],
        "truncated": content[:-1],
        "longer": content + b"\0",
        "no JSON": b"%08x\nx\n" % zlib.crc32(b"x\n"),
    }
    path.write_bytes(changed[damage])
    assert np.array_equal(open_demo().infer(BATCH), expected)
    assert len(compiled) == 2
    assert "made again" in caplog.text
    open_demo()
    assert len(compiled) == 2  # it was replaced


def test_flipped_bytes_are_seen(compiled: list[Path]) -> None:
    open_demo()
    [path] = kept()
    content = path.read_bytes()
    places = np.random.default_rng(0).integers(0, len(content), 6)
    for done, place in enumerate([0, 8, 9, *places.tolist()], 2):
        changed = bytearray(content)
        changed[place] ^= 0x40
        path.write_bytes(changed)
        open_demo()
        assert len(compiled) == done, place


def test_what_openvino_does_not_take_is_compiled(
    compiled: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    open_demo()
    [path] = kept()
    found = openvino_cache.find_compiled(path.stem)
    assert found is not None
    openvino_cache.keep_compiled(path.stem, found.graph, found.settings, b"no model")
    open_demo()
    assert len(compiled) == 2
    assert "compiled again" in caplog.text


def test_a_folder_that_cannot_be_written_is_no_error(
    compiled: list[Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    file.write_text("")
    monkeypatch.setenv("ALIGNSEG_CACHE", str(file / "below"))
    expected = open_demo().infer(BATCH)
    assert np.array_equal(open_demo().infer(BATCH), expected)
    assert len(compiled) == 2


def test_a_read_only_folder_is_read(compiled: list[Path], small_onnx: Path) -> None:
    open_demo()
    [path] = kept()
    path.parent.chmod(0o555)
    try:
        with permissions_for_all():
            open_demo()
            assert len(compiled) == 1
            open_demo(small_onnx)
            assert kept() == [path]
    finally:
        path.parent.chmod(0o755)


def test_a_full_disk_is_no_error(compiled: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    from alignseg_infer.errors import OutputError

    def full(path: Path) -> Any:
        raise OutputError("the disk is full", "room", "df")

    monkeypatch.setattr(openvino_cache, "write_atomically", full)
    open_demo()
    open_demo()
    assert len(compiled) == 2
    assert kept() == []


def test_the_oldest_make_room(
    monkeypatch: pytest.MonkeyPatch, small_onnx: Path, compiled: list[Path]
) -> None:
    open_demo()
    [demo] = kept()
    os.utime(demo, (1, 1))
    monkeypatch.setattr(openvino_cache, "MOST_BYTES", demo.stat().st_size + 1000)
    open_demo(small_onnx)
    assert demo not in kept()


def test_a_changed_file_is_not_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, small_onnx: Path
) -> None:
    path = tmp_path / "model.onnx"
    shutil.copy(model_path("demo"), path)
    read = OpenVinoBackend._read

    def replace(self: OpenVinoBackend, path: Path) -> Any:
        shutil.copy(small_onnx, path)
        return read(self, path)

    monkeypatch.setattr(OpenVinoBackend, "_read", replace)
    open_demo(path)
    assert kept() == []


def test_two_processes_at_once(own_cache: Path) -> None:
    code = (
        "import numpy as np; from alignseg_infer.backends import open_backend;"
        "b = open_backend('demo', runtime='openvino', threads=1);"
        "print(float(b.infer(np.ones((1, 3, 32, 64), np.float32)).sum()))"
    )
    children = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [child.communicate(timeout=120)[0] for child in children]
    assert [child.returncode for child in children] == [0, 0]
    assert said[0] == said[1] != ""
    assert len(kept()) == 1
    assert openvino_cache.find_compiled(kept()[0].stem) is not None


def test_the_command_lists_and_clears(capsys: pytest.CaptureFixture[str]) -> None:
    Predictor("demo", runtime="openvino")
    assert main(["cache", "list"]) == 0
    assert "1 compiled model, 9.4 MB, in" in capsys.readouterr().out
    assert main(["cache", "clear"]) == 0
    assert "1 compiled model, 9.4 MB, removed from" in capsys.readouterr().out
    assert kept() == []


def test_the_version_is_openvinos() -> None:
    core = openvino_backend._core_of(os.getpid())
    assert openvino_cache.machine_facts(model_path("demo"), core)["openvino"] in (
        openvino.get_version()
    )
