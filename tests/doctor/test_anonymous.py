"""Messages that go into reports of bugs lose their folders and the name of the user."""

import sys
from pathlib import Path

import pytest

from alignseg_infer.doctor.anonymous import anonymous, without_folders
from alignseg_infer.doctor.asking import ask
from alignseg_infer.doctor.parts import Part


@pytest.fixture(autouse=True)
def user(monkeypatch: pytest.MonkeyPatch) -> None:
    """The user jsmith, with a home folder and a Python that have spaces in their names."""
    monkeypatch.setattr(Path, "home", lambda: Path("/srv/people/Joe Smith"))
    monkeypatch.setattr("getpass.getuser", lambda: "jsmith")
    monkeypatch.setattr(sys, "prefix", "/opt/jsmith's python")
    monkeypatch.setattr(sys, "base_prefix", "/usr")


MESSAGES = [
    ("/home/joe/venv/lib/libx.so: bad", "libx.so: bad"),
    ("/export/home/joe/libx.so: bad", "libx.so: bad"),
    ("no such folder: /home/joe", "no such folder: ~"),
    ("no such folder: '/Users/joe'", "no such folder: '~'"),
    ("cannot open '/home/joe/a b/x.so'", "cannot open 'x.so'"),
    ('File "/data/Joe Smith/x.py", line 3', 'File "x.py", line 3'),
    ("/srv/people/Joe Smith/a/x.so: bad", "x.so: bad"),
    ("HOME is /srv/people/Joe Smith", "HOME is ~"),
    ("/opt/jsmith's python/lib/x.so: bad", "x.so: bad"),
    (r"C:\Users\joe\x.dll is missing", "x.dll is missing"),
    (r"'C:\\Users\\joe\\x.dll' is missing", "'x.dll' is missing"),
    (r"\\server\joe\x.dll is missing", "x.dll is missing"),
    ("//server/joe/x.so is missing", "x.so is missing"),
    ("file:///home/joe/x.onnx is bad", "x.onnx is bad"),
    ("file:///C:/Users/joe/x.onnx is bad", "x.onnx is bad"),
    ("file://server/joe/x.onnx is bad", "x.onnx is bad"),
    ("'file:///data/Joe Smith/x.onnx' is bad", "'x.onnx' is bad"),
    ("jsmith may not open it", "~ may not open it"),
    ("owner:jsmith, of /dev/nvidia0", "owner:~, of nvidia0"),
    ("user Joe Smith.", "user ~."),
]
KEPT = [
    "1/2 of a/b, and https://example.org/a",
    "Conv_1/kernel: bad",
    "NVIDIA/TensorRT#4646",
    "pip install jsmith-tools, or jsmithson, or x.jsmith",
    "it's 3 of 4 / 5, and 'a' or 'b'",
    "",
]


@pytest.mark.parametrize(("text", "kept"), MESSAGES + [(text, text) for text in KEPT])
def test_messages(text: str, kept: str) -> None:
    assert anonymous(text) == kept


def test_a_command_keeps_words_that_are_the_name_of_the_user() -> None:
    command = "cmake -S /srv/people/Joe Smith/plugins -B build && jsmith doctor"
    assert without_folders(command) == "cmake -S plugins -B build && jsmith doctor"


@pytest.mark.parametrize("home", ["/", RuntimeError("none")])
def test_a_user_without_a_home_or_a_name(
    home: str | Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def find_home() -> Path:
        if isinstance(home, Exception):
            raise home
        return Path(home)

    def find_name() -> str:
        raise KeyError("uid not found: 1234")

    monkeypatch.setattr(Path, "home", find_home)
    monkeypatch.setattr("getpass.getuser", find_name)
    assert anonymous("a/b and /c/x.so: bad") == "a/b and x.so: bad"


def test_what_a_part_says_as_it_ends_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "av.py").write_text(
        "import sys; sys.stderr.write('no licence in /home/joe/x.lic for jsmith'); sys.exit(3)",
        encoding="utf-8",
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    problem = ask(Part("PyAV", "av")).problem
    assert problem == "it ends the process with exit code 3: no licence in x.lic for ~"
