"""What only Linux has is taken away, as on other systems: all modules load, and commands run."""

import subprocess
import sys
from pathlib import Path

import cv2
import pytest

from alignseg_infer.demo.streets import Street
from tests.support.waiting import PATIENCE

# In the child, before anything of ours is imported. Python itself and other packages, which have
# builds for each system, keep what they have on this one.
TAKE_AWAY = """
import builtins, contextlib, importlib, io, multiprocessing.context, os, pathlib, pkgutil, select
import signal, subprocess, sys, tempfile

OTHERS = {"cpuinfo", "filelock", "numpy", "platformdirs", "psutil"}
for name in OTHERS:
    with contextlib.suppress(ModuleNotFoundError):
        importlib.import_module(name)

GONE = {
    os: "fork forkpty register_at_fork geteuid getuid getgid mkfifo getloadavg killpg setsid nice "
    "sched_getaffinity sched_getscheduler sched_setscheduler sched_getparam statvfs getpriority "
    "O_DIRECTORY O_NOFOLLOW O_CLOEXEC posix_fallocate posix_fadvise fchown chown lchown",
    signal: "SIGHUP SIGKILL SIGQUIT SIGALRM SIGUSR1 SIGUSR2 SIGPIPE SIGSTOP alarm setitimer "
    "pthread_kill pthread_sigmask sigwait",
    select: "poll epoll",
}
for module, names in GONE.items():
    for name in names.split():
        vars(module).pop(name, None)
for name in ("fcntl", "grp", "pwd", "resource", "termios", "tty", "pty", "syslog"):
    sys.modules[name] = None


def hide(function):
    def opened(path, *arguments, **options):
        caller = sys._getframe(1).f_globals.get("__name__", "").partition(".")[0]
        if str(path).startswith(("/proc", "/sys")) and caller not in OTHERS:
            raise FileNotFoundError(2, "No such file or directory", path)
        return function(path, *arguments, **options)
    return opened


builtins.open = io.open = hide(io.open)
os.open, os.stat, os.listdir = map(hide, (os.open, os.stat, os.listdir))
if sys.version_info < (3, 11):
    for name in ("open", "stat", "listdir"):
        used = getattr(pathlib._NormalAccessor, name)
        setattr(pathlib._NormalAccessor, name, staticmethod(hide(used)))
"""

# PyTorch uses os.register_at_fork, as its builds for other systems do not. Gradio and Ray see that
# this is Linux, and then use termios and pwd.
IMPORT_OTHERS = """
import contextlib
for name in ("torch", "gradio", "ray"):
    with contextlib.suppress(ModuleNotFoundError):
        __import__(name)
"""

IMPORT_ALL = """
import alignseg_infer
from alignseg_infer.errors import MissingDependencyError

loaded, lacking = 0, {}
for found in pkgutil.walk_packages(alignseg_infer.__path__, "alignseg_infer."):
    if found.name.endswith("__main__"):
        continue
    try:
        importlib.import_module(found.name)
        loaded += 1
    except (ModuleNotFoundError, MissingDependencyError) as error:
        cause = error if isinstance(error, ModuleNotFoundError) else error.__cause__
        lacking[found.name] = cause.name.partition(".")[0]
print(loaded, *sorted(set(lacking.values())))
"""

RUN = """
from alignseg_infer.cli import main
sys.exit(main(sys.argv[1:]))
"""


def run(
    program: str, *arguments: str, folder: Path, before: str = ""
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", before + TAKE_AWAY + program, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )


def test_what_is_taken_away_is_gone(tmp_path: Path) -> None:
    program = """
STATUS = pathlib.Path("/proc/self/status")
for use in (lambda: os.fork(), lambda: open(STATUS), STATUS.read_text, STATUS.stat,
            lambda: __import__("fcntl"), lambda: signal.SIGHUP, lambda: select.poll()):
    try:
        use()
    except (AttributeError, ImportError, FileNotFoundError):
        continue
    raise SystemExit("there is still something")
"""
    done = run(program, folder=tmp_path)
    assert done.returncode == 0, done.stderr


def test_all_modules_load(tmp_path: Path) -> None:
    done = run(IMPORT_ALL, folder=tmp_path, before=IMPORT_OTHERS)
    assert done.returncode == 0, done.stderr
    loaded, *lacking = done.stdout.split()
    assert int(loaded) > 150
    absent = "pycuda tensorrt torch cuda safetensors gradio starlette ray fiftyone rerun"
    assert set(lacking) <= set(absent.split()), done.stdout


COMMANDS = [
    ("--version --verbose", "alignseg"),
    ("--help", "usage"),
    ("demo --streets 1 -o demo", "street"),
    ("predict demo street.png -o out", "street"),
    ("inspect demo", "AlignSeg"),
    ("bench demo --size 64x96 --rounds 1 --max-images 1", "demo"),
    ("video demo . -o out.mp4 --rate 5", "out.mp4"),
    ("cache list", ""),
    ("doctor --for images", "ONNX Runtime"),
]


@pytest.mark.parametrize(("command", "words"), COMMANDS)
def test_commands_run(command: str, words: str, tmp_path: Path) -> None:
    image = Street(7).scene(size=(64, 96)).image
    cv2.imwrite(str(tmp_path / "street.png"), image)
    done = run(RUN, *command.split(), folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert words in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
