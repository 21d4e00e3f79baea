"""SIGTERM and SIGHUP end a command as Ctrl-C does; what SIGKILL leaves goes with the next write."""

import contextlib
import importlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

from alignseg_infer.cli import main
from alignseg_infer.cli.termination import SECONDS_UNTIL_ASKED_AGAIN, interrupted_by_signals
from alignseg_infer.demo import model_path
from alignseg_infer.demo.streets.folder import write_streets
from alignseg_infer.files.writing import write_atomically
from tests.support.waiting import PATIENCE

REPLACE = "os:replace"
INFER = "alignseg_infer.backends.onnxruntime_backend:OnnxRuntimeBackend.infer"
TYPED = [
    ("demo -o {out} --streets 1", REPLACE),
    ("predict demo {streets}/images/street-7.png -o {out}", REPLACE),
    ("predict demo {streets}/images/street-7.png -o {out}", INFER),
    ("offsets demo {streets}/images/street-7.png -o {out}/a.png", REPLACE),
    ("video demo streets -o {out}/a.mp4", "alignseg_infer.video.writer:VideoWriter.write"),
    ("video demo streets -o {out}/a.mp4", INFER),
    ("eval {onnx} --dataset folder --root {streets} -o {out}", INFER),
    ("bench {onnx} --rounds 5 --size 64x64 -o {out}", INFER),
    ("verify {onnx} --against {onnx} --size 64x64", INFER),
    ("export-onnx {onnx} --precision fp16 -o {out}/a.onnx", INFER),
    (
        "export-onnx {onnx} --precision int8 -o {out}/a.onnx --calibration {streets}/images "
        "--calibration-size 64x64 --calibration-cache {out}/cache --min-agreement 0.1",
        REPLACE,
    ),
    ("sensitivity {onnx} --calibration {streets}/images --calibration-size 64x64 -o {out}", INFER),
    ("export-trt {onnx} --flavour tensorrt-rtx --opt-shape 1x64x64 -o {out}/a.engine", REPLACE),
    ("doctor", "alignseg_infer.doctor.asking:_talk"),
]


@pytest.fixture(scope="module")
def streets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("streets")
    list(write_streets(folder, 7, 3, (64, 128)))
    return folder


def signal_first_call(monkeypatch: pytest.MonkeyPatch, what: str, number: int) -> None:
    """Send a signal to this process when the function is called first."""
    module, _, name = what.partition(":")
    *owners, attribute = name.split(".")
    owner: Any = importlib.import_module(module)
    for part in owners:
        owner = getattr(owner, part)
    function = getattr(owner, attribute)
    sent: list[bool] = []

    def signalling(*arguments: Any, **options: Any) -> Any:
        if not sent:
            sent.append(True)
            os.kill(os.getpid(), number)
        return function(*arguments, **options)

    monkeypatch.setattr(owner, attribute, signalling)


@pytest.mark.parametrize(("typed", "what"), TYPED, ids=[f"{t} {w[-7:]}" for t, w in TYPED])
def test_nothing_is_left(
    typed: str,
    what: str,
    small_onnx: Path,
    streets: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if "tensorrt" in typed:
        pytest.importorskip("tensorrt_rtx", reason="pip install tensorrt-rtx-cu13")
    out, temporary = tmp_path / "out", tmp_path / "temporary"
    out.mkdir()
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    signal_first_call(monkeypatch, what, signal.SIGTERM)
    command = typed.format(out=out, onnx=small_onnx, streets=streets).split()
    assert main(command) == 143
    assert "interrupted" in capsys.readouterr().err
    assert list(temporary.iterdir()) == []
    assert list(out.rglob(".writing-*")) == []
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_eval_keeps_what_was_counted(
    small_onnx: Path, streets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("alignseg_infer.cli.progress._print_each_tenth", terminate_after_two)
    typed = f"eval {small_onnx} --dataset folder --root {streets} -o {tmp_path}"
    assert main(typed.split()) == 143
    report = json.loads((tmp_path / "evaluation.json").read_text())
    assert (report["partial"], report["images"]) == (True, 2)


def terminate_after_two(what: str, done: int, total: int) -> None:
    if done == 2:
        os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("ignored", [False, True])
def test_hangup_ends_the_block_unless_it_is_ignored(ignored: bool) -> None:
    arrived: list[int] = []
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)
    expected = contextlib.nullcontext() if ignored else pytest.raises(KeyboardInterrupt)
    try:
        with expected, interrupted_by_signals(arrived):
            signal.raise_signal(signal.SIGHUP)
        assert arrived == ([] if ignored else [signal.SIGHUP])
    finally:
        after = signal.signal(signal.SIGHUP, before)
    assert after == signal.SIG_IGN  # a second one would end the process before it has tidied up


TURNS_INTERRUPTION_INTO_ITS_OWN_ERROR = """
import os, signal, time
try:
    os.kill(os.getpid(), {number})
    time.sleep(0.2)
except BaseException:
    raise ImportError("import numpy failed") from None
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_no_signal_interrupts_an_import(
    number: int,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """ONNX Runtime's raises ImportError then, and the package would be called broken."""
    module = tmp_path / f"imported_before_signal_{int(number)}.py"
    module.write_text(TURNS_INTERRUPTION_INTO_ITS_OWN_ERROR.format(number=int(number)))
    monkeypatch.syspath_prepend(tmp_path)
    ends: list[float] = []

    def run(arguments: object) -> int:
        importlib.import_module(module.stem)
        ends.append(time.monotonic())
        time.sleep(20)
        return 0

    monkeypatch.setattr("alignseg_infer.cli.commands.inspect_model.run", run)
    before = signal.signal(number, signal.default_int_handler)  # background jobs ignore SIGINT
    try:
        assert main(["inspect", "demo"]) == 128 + number
    finally:
        signal.signal(number, before)
    assert capsys.readouterr().err == "interrupted\n"
    assert len(ends) == 1  # the import went through
    assert time.monotonic() - ends[0] < 10


def test_a_signal_that_waited_does_not_come_after_the_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    module = tmp_path / "imported_last.py"
    module.write_text("import os, signal\nos.kill(os.getpid(), signal.SIGTERM)")
    monkeypatch.syspath_prepend(tmp_path)

    def run(arguments: object) -> int:
        importlib.import_module(module.stem)
        return 0

    monkeypatch.setattr("alignseg_infer.cli.commands.inspect_model.run", run)
    assert main(["inspect", "demo"]) == 0
    time.sleep(3 * SECONDS_UNTIL_ASKED_AGAIN)  # it would end this process


KILLED = [
    *[typed for typed, _ in TYPED if "tensorrt" not in typed],
    "export-onnx {pth} --precision fp16 -o {out}/a.onnx",
    "export-trt {pth} --flavour tensorrt-rtx --opt-shape 1x64x64 -o {out}/a.engine",
]


COMMAND = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs ignore it
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # as do children of nohup
from alignseg_infer.cli import main
sys.exit(main())
"""


@pytest.mark.slow
@pytest.mark.parametrize("typed", sorted(set(KILLED)))
def test_nothing_is_left_whenever_the_signal_comes(
    typed: str, small_onnx: Path, streets: Path, tmp_path: Path
) -> None:
    """One signal for each command, at some moment, in a process of its own."""
    if "tensorrt" in typed:
        pytest.importorskip("tensorrt_rtx", reason="pip install tensorrt-rtx-cu13")
    chance = random.Random(typed)
    number = chance.choice([signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
    out, temporary = tmp_path / "out", tmp_path / "temporary"
    out.mkdir()
    temporary.mkdir()
    places = {"out": out, "onnx": small_onnx, "pth": demo_checkpoint(), "streets": streets}
    child = subprocess.Popen(
        [sys.executable, "-c", COMMAND, *typed.format(**places).split()],
        env={
            **os.environ,
            "TMPDIR": str(temporary),
            "ALIGNSEG_CACHE": f"{out}/kept",
            "PYTHONFAULTHANDLER": "1",
        },
        stdout=subprocess.DEVNULL,
        stderr=(said := tmp_path / "said").open("w"),
    )
    with contextlib.suppress(subprocess.TimeoutExpired):  # most take 2 to 10 seconds
        child.wait(chance.uniform(0.2, 6))
    child.send_signal(number)
    # Before the command waits for signals, and after that, they end it.
    assert child.wait(PATIENCE) in (0, 128 + number, -number), said.read_text()
    left = [path for path in temporary.rglob("*") if "torchinductor" not in path.name]
    assert left == []  # PyTorch makes a folder for its compiler, which we do not use
    assert list(out.rglob(".*")) == []


def demo_checkpoint() -> Path:
    return model_path("demo").with_name("demo.pth")


WRITING = """
import sys, time
from pathlib import Path
from alignseg_infer.files.writing import write_atomically
with write_atomically(Path(sys.argv[1])) as temporary:
    temporary.write_text("half")
    print(temporary.parent, flush=True)
    time.sleep(600)
"""


def test_leftovers_of_dead_processes_are_removed_and_others_stay(tmp_path: Path) -> None:
    """A folder that only begins alike is the user's."""
    own = [tmp_path / name / "chapter.txt" for name in (".writing-thesis", ".writing-alignseg")]
    for chapter in own:
        chapter.parent.mkdir()
        chapter.write_text("1")
    command = [sys.executable, "-c", WRITING]
    folders = []
    with contextlib.ExitStack() as stack:
        children = []
        for name in ("killed", "alive"):
            child = subprocess.Popen(
                [*command, str(tmp_path / name)], text=True, stdout=subprocess.PIPE
            )
            children.append(stack.enter_context(child))
            stack.callback(child.kill)
            assert child.stdout
            folders.append(Path(child.stdout.readline().strip()))
        killed, alive = folders
        children[0].kill()
        assert children[0].wait(PATIENCE) == -signal.SIGKILL
        assert killed.is_dir()
        with write_atomically(tmp_path / "new") as temporary:
            temporary.write_text("whole")
            assert temporary.parent.is_dir()
            assert not killed.exists()
            assert alive.is_dir()
    assert (tmp_path / "new").read_text() == "whole"
    assert [chapter.read_text() for chapter in own] == ["1", "1"]
