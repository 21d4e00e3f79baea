"""First contact with a GPU, rehearsed with steps that fail, hang or print a lot."""

import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.benchmarks import first_gpu
from tests.benchmarks import kernels as benchmark_kernels
from tests.benchmarks.first_gpu import ROOT, Step, all_steps, choose_steps, parser, run_steps
from tests.support.waiting import PATIENCE, eventually

GOOD, BAD = "print('it works')", "import sys; print('why'); sys.exit(3)"
MUCH = "for number in range(200_000): print('line', number, 'x' * 300)"
# It starts a child, which must die too, and prints its process id.
HANGING = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print("child", child.pid, flush=True)
time.sleep(600)
"""
DEAF = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); time.sleep(600)"


def step(name: str, program: str, limit: float = 60) -> Step:
    return Step(name, (sys.executable, "-c", program), limit)


def statuses(folder: Path) -> dict[str, str]:
    """Read the table of summary.md."""
    lines = (folder / "summary.md").read_text(encoding="utf-8").splitlines()
    rows = [line.strip("| ").split(" | ") for line in lines if line.startswith("| ")]
    return {row[0]: row[1] for row in rows[1:]}


def is_alive(pid: int) -> bool:
    """Return whether a process runs; a zombie whose parent died does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_all_good(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "new" / "folder"
    assert run_steps([step("one", GOOD), step("two", GOOD)], folder, 60) == 0
    assert statuses(folder) == {"one": "ok", "two": "ok"}
    assert (folder / "one.txt").read_text(encoding="utf-8") == "it works\n"
    assert capsys.readouterr().out.splitlines()[0].startswith("one: ok, ")


def test_a_failure_costs_one_step(tmp_path: Path) -> None:
    steps = [step("bad", BAD), Step("none", ("no-such-program",), 9), step("good", GOOD)]
    assert run_steps(steps, tmp_path, 60) == 1
    seen = statuses(tmp_path)
    assert list(seen) == ["bad", "none", "good"]
    assert seen["bad"] == "failed: exit status 3"
    assert "no-such-program" in seen["none"]
    assert seen["good"] == "ok"
    assert "\nwhy\n" in (tmp_path / "summary.md").read_text(encoding="utf-8")


def test_what_hangs_is_killed_with_its_children(tmp_path: Path) -> None:
    start = time.monotonic()
    assert run_steps([step("hangs", HANGING, 6), step("good", GOOD)], tmp_path, 60) == 1
    assert time.monotonic() - start < 300  # it would hang for 600 s
    assert statuses(tmp_path) == {"hangs": "killed after 6 s", "good": "ok"}
    child = int((tmp_path / "hangs.txt").read_text(encoding="utf-8").split()[1])
    assert eventually(lambda: not is_alive(child))


def test_what_does_not_listen_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(first_gpu, "FARE_WELL", 1.0)
    assert run_steps([step("deaf", DEAF, 2), step("good", GOOD)], tmp_path, 60) == 1
    assert statuses(tmp_path) == {"deaf": "killed after 2 s", "good": "ok"}


def test_much_is_kept_and_little_shown(tmp_path: Path) -> None:
    assert run_steps([step("much", MUCH)], tmp_path, 120) == 0
    assert (tmp_path / "much.txt").stat().st_size > 60e6
    summary = (tmp_path / "summary.md").read_text(encoding="utf-8")
    assert "line 199999 xxx" in summary
    assert "line 199980 " not in summary
    assert len(summary) < 5000


def test_no_time_left(tmp_path: Path) -> None:
    assert run_steps([step("hangs", HANGING), step("late", GOOD)], tmp_path, 2) == 1
    assert statuses(tmp_path) == {"hangs": "killed after 2 s", "late": "not started: no time left"}


def test_the_summary_is_there_while_a_step_runs(tmp_path: Path) -> None:
    """A step reads the summary, which holds the steps before it and after it."""
    look = f"print(open({str(tmp_path / 'summary.md')!r}).read())"
    run_steps([step("bad", BAD), step("looks", look), step("last", GOOD)], tmp_path, 60)
    (tmp_path / "summary.md").write_bytes((tmp_path / "looks.txt").read_bytes())
    seen = statuses(tmp_path)
    assert seen == {
        "bad": "failed: exit status 3",
        "looks": "running, or cut off",
        "last": "waiting",
    }


def test_being_ended_ends_the_step(tmp_path: Path) -> None:
    program = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from tests.benchmarks import first_gpu
from tests.support.waiting import PATIENCE, eventually
step = first_gpu.Step("hangs", (sys.executable, "-c", {HANGING!r}), 300)
sys.argv = ["first_gpu.py", "-o", {str(tmp_path)!r}]
sys.exit(first_gpu.main(lambda folder, sample: [step]))
"""
    process = subprocess.Popen([sys.executable, "-c", program])
    log = tmp_path / "hangs.txt"
    assert eventually(lambda: log.exists() and "\n" in log.read_text(encoding="utf-8"))
    child = int(log.read_text(encoding="utf-8").split()[1])
    process.terminate()
    assert process.wait(PATIENCE) == 128 + 15
    assert eventually(lambda: not is_alive(child))
    assert statuses(tmp_path) == {"hangs": "running, or cut off"}


def test_steps_are_chosen_in_their_order(tmp_path: Path) -> None:
    steps = all_steps(tmp_path, 4)
    chosen = [one.name for one in choose_steps("sanitizer,kernels,tests", steps)]
    assert chosen == ["tests", "add", "forms", "labels", "sample", *first_gpu.GROUPS["sanitizer"]]
    with pytest.raises(
        ValueError, match=r"unknown step none; choose from machine, tests, .*sanitizer"
    ):
        choose_steps("tests,none", steps)


def test_an_unknown_step_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["first_gpu.py", "-o", str(tmp_path / "results"), "--steps", "kernles"]
    monkeypatch.setattr(sys, "argv", argv)
    with pytest.raises(SystemExit, match="2"):
        first_gpu.main()
    assert "unknown step kernles" in capsys.readouterr().err
    assert not (tmp_path / "results").exists()


def test_the_order_is_that_of_worth(tmp_path: Path) -> None:
    names = [one.name for one in all_steps(tmp_path, 4)]
    assert names == sorted(set(names), key=names.index)
    assert names[:3] == ["machine", "tests", "add"]
    assert names.index("networks") < names.index("memcheck") < names.index("rest")
    assert sum(one.limit for one in all_steps(tmp_path, 4)) <= 60 * parser().get_default("minutes")


def test_the_benchmark_takes_its_options(tmp_path: Path) -> None:
    """The benchmark accepts the options of the steps, which together run all tables."""
    tables: list[str] = []
    for one in all_steps(tmp_path, 4):
        if "tests.benchmarks.kernels" in one.command:
            arguments = benchmark_kernels.parser().parse_args(one.command[3:])
            tables += [] if arguments.machine else arguments.tables
            assert arguments.machine or arguments.destination == tmp_path / f"{one.name}.md"
    assert sorted(tables) == sorted(benchmark_kernels.CHOICES)


def test_documented_commands_are_accepted() -> None:
    """The commands in docs/gpu-results.md are accepted."""
    text = (ROOT / "docs" / "gpu-results.md").read_text(encoding="utf-8")
    lines = [shlex.split(line) for line in text.splitlines() if "python3 -m tests." in line]
    assert len(lines) == 5
    for words in lines:
        start = words.index("python3") + 2
        program, options = words[start], words[start + 1 :]
        if program == "tests.benchmarks.first_gpu":
            given = parser().parse_args(options)
            assert given.steps is None or choose_steps(given.steps, all_steps(given.destination, 4))
        else:
            assert program == "tests.benchmarks.kernels"
            assert benchmark_kernels.parser().parse_args(options).only


def collected(command: tuple[str, ...]) -> list[str]:
    """Return the tests that the pytest of a step would run."""
    start = command.index("-m") - 1  # skip the sanitizer and its options
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command[start:], "--collect-only"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return [line for line in done.stdout.splitlines() if "::" in line]


@pytest.mark.slow
def test_pytest_finds_the_tests(tmp_path: Path) -> None:
    commands = {one.name: one.command for one in all_steps(tmp_path, 4)}
    tests, rest = collected(commands["tests"]), collected(commands["rest"])
    files = {line.partition("::")[0] for line in tests + rest}
    assert files == {f"tests/gpu/{path.name}" for path in ROOT.glob("tests/gpu/test_*.py")}
    checked = {name: collected(commands[name]) for name in first_gpu.GROUPS["sanitizer"]}
    for name, chosen in checked.items():
        assert commands[name][:3] == ("compute-sanitizer", "--tool", name)
        assert set(chosen) < set(tests)
        assert not any("torch" in line for line in chosen)  # PyTorch's own kernels are not ours
    assert len(tests) / 6 < len(checked["memcheck"]) < len(tests) / 3
    for kernel in ("aligned_add", "offset_grid_sample", "test_labels", "test_network_inputs"):
        assert all(any(kernel in line for line in chosen) for chosen in checked.values())
    assert not any("planar" in line for line in checked["racecheck"])
