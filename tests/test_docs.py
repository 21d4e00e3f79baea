"""What the pages and the examples say is run here.

Commands and programs of a page are run in order, except where its source says ``<!-- not run:
REASON -->``; their options are parsed and their names looked up all the same. Of the README, the
default test command runs what is quick; ``-m slow`` runs all pages.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from alignseg_infer.demo import model_path
from alignseg_infer.demo.streets import Street
from alignseg_infer.export.verification.probes import probe_image
from alignseg_infer.models.checkpoint import load_checkpoint
from tests.support.pages import (
    DOCS,
    LANGUAGES,
    OTHERS,
    README,
    ROOT,
    Block,
    anchors_of,
    blocks_of,
    commands_of,
    links_of,
    name_of,
    parse_options,
)
from tests.support.project import PROJECT
from tests.test_rooms import FLOORS

ROOMS = (room for floor in FLOORS for room in floor)
FOLDERS = "|".join(["tests", "examples", "docs", "plugins", "alignseg_infer", *ROOMS])
PATHS = re.compile(rf"`((?:{FOLDERS})/[\w./-]*\w)`")
RUN = [page for page in DOCS[1:] if any(block.is_run for block in blocks_of(page))]
each_page = pytest.mark.parametrize("page", DOCS, ids=name_of)


def run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command with this checkout, even where another one is installed."""
    scripts = Path(sys.executable).parent
    environment = {
        **os.environ,
        "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
    }
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def run_blocks(blocks: Iterable[Block], folder: Path) -> None:
    """Run them in order, without what installs packages or starts the tests."""
    for block in blocks:
        if block.language == "python":
            commands = [[sys.executable, "-c", block.text]]
        else:
            commands = [words for words in commands_of(block) if not is_setup(words)]
        for command in commands:
            done = run(command, folder)
            assert done.returncode == 0, f"{shlex.join(command)}\n{done.stderr}"
            assert done.stdout, command


def is_setup(words: list[str]) -> bool:
    return words[0] == "pip" or words[:3] == ["python", "-m", "pytest"]


def make_clone(folder: Path) -> Path:
    """Give `folder` what the commands of a page name in a clone."""
    for name in ("export", "examples"):
        (folder / name).symlink_to(ROOT / name)
    return folder


def write_one_cityscapes_image(root: Path) -> None:
    """Write a street and its labelIds, of which sky is 23 and road 7."""
    image = root / "leftImg8bit" / "val" / "town" / "town_0_0_leftImg8bit.png"
    labels = root / "gtFine" / "val" / "town" / "town_0_0_gtFine_labelIds.png"
    scene = Street(0).scene(size=(64, 128))
    for path, pixels in ((image, scene.image), (labels, np.where(scene.labels == 10, 23, 7))):
        path.parent.mkdir(parents=True)
        cv2.imwrite(str(path), pixels.astype(np.uint8))


@pytest.fixture(scope="module")
def workplace(small_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone in which the demo ran, with the files that a page's reader has: models, a photo."""
    folder = make_clone(tmp_path_factory.mktemp("clone"))
    torch.save(load_checkpoint(small_checkpoint).state, folder / "CS_scenes.pth")
    for name in ("alignseg.onnx", "demo.onnx"):
        shutil.copy(model_path("demo"), folder / name)
    cv2.imwrite(str(folder / "street.jpg"), probe_image((120, 200), 0))
    write_one_cityscapes_image(folder / "DATA")
    done = run(["alignseg", "demo"], folder)
    assert done.returncode == 0, done.stderr
    return folder


def test_quick_blocks_of_the_readme_run(tmp_path: Path) -> None:
    """From nothing: each finds what an earlier one made."""
    blocks = [block for block in blocks_of(README) if block.is_run and not block.is_expensive]
    assert len(blocks) == 6
    run_blocks(blocks, make_clone(tmp_path))
    assert (tmp_path / "demo-output" / "demo.png").exists()
    assert (tmp_path / "out" / "street_overlay.jpg").exists()
    assert (tmp_path / "out" / "evaluation.md").exists()
    assert (tmp_path / "bench" / "benchmark.json").exists()
    assert (tmp_path / "offsets.png").exists()
    assert cv2.VideoCapture(str(tmp_path / "drive.mp4")).read()[0]


@pytest.mark.slow
def test_the_readme_runs(tmp_path: Path) -> None:
    """From nothing, exports and engine among it."""
    run_blocks([block for block in blocks_of(README) if block.is_run], make_clone(tmp_path))
    assert (tmp_path / "demo.onnx").exists()
    assert (tmp_path / "demo.engine.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN, ids=name_of)
def test_pages_run(page: Path, workplace: Path) -> None:
    run_blocks([block for block in blocks_of(page) if block.is_run], workplace)


@pytest.mark.slow
def test_names_in_programs_exist(tmp_path: Path) -> None:
    """Those of programs that are not run, too; mypy knows names, attributes and keywords."""
    programs = []
    for page in DOCS:
        for number, block in enumerate(blocks_of(page)):
            if block.language == "python":
                programs.append(tmp_path / f"{page.stem.replace('-', '_')}_{number}.py")
                programs[-1].write_text(block.text, encoding="utf-8")
    assert programs
    wrong = tmp_path / "wrong.py"
    wrong.write_text("from alignseg_infer import Predictor\nPredictor('demo', sise=8)\n")
    done = run([sys.executable, "-m", "mypy", *map(str, [*programs, wrong])], ROOT)
    errors = [line for line in done.stdout.splitlines() if ": error:" in line]
    assert len(errors) == 1, done.stdout
    assert "sise" in errors[0]


@each_page
def test_options_in_commands_exist(page: Path) -> None:
    """Those of commands that are not run, too."""
    for block in blocks_of(page):
        for words in commands_of(block):
            try:
                parse_options(words)
            except SystemExit:
                pytest.fail(f"{name_of(page)}: {shlex.join(words)}")


def test_unknown_options_are_found() -> None:
    assert parse_options(["alignseg", "demo", "-o", "out"])
    assert parse_options(["python", "export/to_onnx.py", "demo", "-o", "out.onnx"])
    assert parse_options(["ncu", "python3", "-m", "tests.benchmarks.first_gpu", "-o", "out"])
    assert not parse_options(["cmake", "--build", "plugins/build"])
    for words in (["alignseg", "demo", "--no-such"], ["alignseg", "predict", "demo"]):
        with pytest.raises(SystemExit):
            parse_options(words)


@each_page
def test_blocks_say_what_they_are(page: Path) -> None:
    """A fence names its language; only commands and programs have a reason not to run."""
    fences = re.findall(r"^```", page.read_text(encoding="utf-8"), re.MULTILINE)
    blocks = blocks_of(page)
    assert len(fences) == 2 * len(blocks)
    for block in blocks:
        assert block.language in LANGUAGES, block.text
        assert block.reason is None or block.language in {"bash", "python"}
        if block.language == "bash":
            assert run(["bash", "-n", "-c", block.text], ROOT).returncode == 0, block.text
        if block.language == "python":
            compile(block.text, name_of(page), "exec")


@pytest.mark.parametrize("page", [*DOCS, *OTHERS], ids=name_of)
def test_links_resolve(page: Path) -> None:
    for link in links_of(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors_of(target), link


@pytest.mark.parametrize("page", [*DOCS, *OTHERS], ids=name_of)
def test_named_files_exist(page: Path) -> None:
    for name in PATHS.findall(page.read_text(encoding="utf-8")):
        if not name.startswith("plugins/build"):
            assert (ROOT / name).exists() or (ROOT / "alignseg_infer" / name).exists(), name


def test_the_readme_is_short_and_leads_to_every_page() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 220
    targets = {(README.parent / link.partition("#")[0]).resolve() for link in links_of(README)}
    assert targets.issuperset(DOCS[1:])


def test_the_readme_has_two_setup_commands() -> None:
    """One runs the demo; the other runs the tests, as .ci/run does."""
    lines = [line for block in blocks_of(README) for line in block.text.splitlines()]
    first, second = (line for line in lines if line.startswith("pip install"))
    assert first == "pip install '.[cpu]' && alignseg demo"
    assert "pytest" in second
    assert second in (ROOT / ".ci" / "run").read_text()


def test_a_signed_model_is_verified_as_shown_and_a_changed_one_is_not(tmp_path: Path) -> None:
    if shutil.which("ssh-keygen") is None:
        pytest.skip("ssh-keygen, which the page uses, is not installed")
    model = tmp_path / "alignseg.onnx"
    shutil.copy(model_path("demo"), model)
    sign, verify = (b.text for b in blocks_of(ROOT / "docs/security.md") if b.language == "bash")
    for script in (sign, verify):
        done = run(["bash", "-e", "-c", script], tmp_path)
        assert done.returncode == 0, done.stderr
    hashes = tmp_path / "alignseg.sha256"
    for path in (model, hashes):
        kept = path.read_bytes()
        path.write_bytes(kept.replace(b"a", b"b", 1))
        assert run(["bash", "-e", "-c", verify], tmp_path).returncode != 0, path
        path.write_bytes(kept)


def test_the_table_of_licences_has_each_package_that_is_installed() -> None:
    extras = {"": PROJECT["dependencies"], **PROJECT["optional-dependencies"]}
    del extras["test"], extras["fast-test"]  # nobody passes these on
    needed: dict[str, set[str]] = {}
    for extra, requirements in extras.items():
        for requirement in requirements:
            name, own, others = re.split(r"[<>=~!;\[]", requirement)[0], "alignseg-infer[", []
            if requirement.startswith(own):
                others = extras[requirement.removeprefix(own).rstrip("]")]
            names = [re.split("[<>=~!]", one)[0] for one in others] or [name]
            for each in names:
                needed.setdefault(each, set()).add(extra)
    page = (ROOT / "docs" / "licenses.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([\w, -]+) \| ([\w, -]*) ?\| [^|-]", page, re.MULTILINE)[1:]
    shown = {
        name: {extra.strip() for extra in extras.split(",")}
        for names, extras in rows
        for name in names.split(", ")
    }
    assert needed == shown


def test_extras_exist() -> None:
    extras = PROJECT["optional-dependencies"]
    for page in DOCS:
        for names in re.findall(r"'\.\[([\w,-]+)\]'", page.read_text(encoding="utf-8")):
            assert set(names.split(",")) <= set(extras), names


def test_the_map_names_every_room() -> None:
    """The page and its picture show all rooms, and the files to look at first exist."""
    package = ROOT / "alignseg_infer"
    rooms = {room for floor in FLOORS for room in floor} - {"__init__", "__main__"}
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    for room in rooms:
        assert f"`{room}/`" in page or f"`{room}.py`" in page, room
    for room, files in re.findall(r"^\| `(\w+)/` \| .*? \| (.*) \|$", page, re.MULTILINE):
        for name in re.findall(r"`([\w/]+\.py|\w+/)`", files):
            assert (package / room / name).exists() or (ROOT / room / name).exists(), name
    picture = (ROOT / "docs" / "architecture.svg").read_text(encoding="utf-8")
    assert set(re.findall(r">(\w+)</text>", picture)) >= rooms


@pytest.mark.slow
def test_quickstart(tmp_path: Path) -> None:
    """On a street of its own."""
    done = run([sys.executable, str(ROOT / "examples/quickstart.py")], tmp_path)
    assert done.returncode == 0, done.stderr
    (street,) = (tmp_path / "quickstart-output" / "images").iterdir()
    truth = cv2.imread(str(street.parents[1] / "labels" / street.name), -1)
    labels = cv2.imread(str(street.parents[1] / f"{street.stem}_labels.png"), -1)
    assert truth is not None
    assert labels is not None
    assert (truth == labels).mean() > 0.9


@pytest.mark.parametrize("name", ["nowhere.jpg", "."])
def test_quickstart_reports_a_bad_picture(tmp_path: Path, name: str) -> None:
    done = run([sys.executable, str(ROOT / "examples/quickstart.py"), name], tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
