"""The folder that ``alignseg deploy cpp`` writes."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from alignseg_infer.arrays import InputShape
from alignseg_infer.cli import main
from alignseg_infer.datasets.remapping import Remapping
from alignseg_infer.deploy.cpp import LIBRARY, deploy_cpp
from alignseg_infer.errors import EngineError, OutputError
from alignseg_infer.spec.model import ImageInput, LabelType, Layout, OutputKind
from alignseg_infer.trt.engine_file import Profile
from alignseg_infer.trt.flavours import Flavour
from tests.support.fake_tensorrt import EXPORT, write_engine, write_plugin_library
from tests.support.models import SMALL_SPEC

PLUGINS = ("AlignedAdd/1", "OffsetGridSample/1")


def spec_with(**export: Any) -> dict[str, Any]:
    """Return the change to an engine's facts that changes its export."""
    return {"spec": replace(SMALL_SPEC, export=replace(EXPORT, **export))}


# The folder


def test_the_folder_holds_the_engine_its_facts_and_all_sources(tmp_path: Path) -> None:
    engine = tmp_path / "city.engine"
    write_engine(engine)
    folder = deploy_cpp(engine, tmp_path / "consumer")
    assert folder == tmp_path / "consumer"
    for name in ("city.engine", "city.engine.json"):
        assert (folder / name).read_bytes() == (tmp_path / name).read_bytes()
    assert not (folder / LIBRARY).exists()
    listed = (folder / "CMakeLists.txt").read_text() + (
        folder / "plugins/CMakeLists.txt"
    ).read_text()
    for path in re.findall(r"\b(\w+\.cpp|kernels/\w+\.cu|plugins/cmake/\w+\.cmake)\b", listed):
        assert list(folder.rglob(Path(path).name)), path
    included = [
        name
        for source in folder.rglob("*.*")
        if source.suffix in {".cpp", ".h", ".cu"} and "tensorrt" not in source.parts
        for name in re.findall(r'^#include "([\w.]+)"', source.read_text(), re.MULTILINE)
    ]
    assert "upsample_argmax_kernel.h" in included
    missing = {name for name in included if not list(folder.rglob(name))}
    assert missing == {"host_cuda.h"}  # of the tests


def test_a_folder_with_files_is_left_alone(tmp_path: Path) -> None:
    write_engine(tmp_path / "city.engine")
    with pytest.raises(OutputError, match="is there already"):
        deploy_cpp(tmp_path / "city.engine", tmp_path)


@pytest.mark.parametrize("name", ["city.onnx", "CS_scenes.pth", "demo"])
def test_a_model_that_is_no_engine(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"something")
    with pytest.raises(EngineError, match="is not a TensorRT engine") as caught:
        deploy_cpp(tmp_path / name, tmp_path / "consumer")
    path = tmp_path / name
    assert f"alignseg export-trt {path} -o {path.stem}.engine" in caught.value.fix


def test_an_engine_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="does not exist"):
        deploy_cpp(tmp_path / "city.engine", tmp_path / "consumer")


def test_a_changed_plan(tmp_path: Path) -> None:
    write_engine(tmp_path / "city.engine")
    (tmp_path / "city.engine").write_bytes(b"another plan")
    with pytest.raises(EngineError, match="is not the plan"):
        deploy_cpp(tmp_path / "city.engine", tmp_path / "consumer")


FORMS = [
    ("probabilities", spec_with(output=OutputKind.PROBABILITIES)),
    ("logits in the layout nhwc", spec_with(layout=Layout.NHWC)),
    ("labels in int64", spec_with(output=OutputKind.LABELS, label_type=LabelType.INT64)),
    ("an input of uint8-bgr", spec_with(image=ImageInput.UINT8_BGR)),
    ("the flavour tensorrt-rtx", {"flavour": Flavour.TENSORRT_RTX, "gpu": None}),
    (
        "a smallest batch of 2",
        {"profile": Profile(*(InputShape(2, 32, 32),) * 3)},
    ),
]


@pytest.mark.parametrize(("seen", "changes"), FORMS, ids=[row[0] for row in FORMS])
def test_forms_that_the_program_cannot_run(
    tmp_path: Path, seen: str, changes: dict[str, Any]
) -> None:
    write_engine(tmp_path / "city.engine", **changes)
    with pytest.raises(EngineError, match=f"has (an output of )?{seen}") as caught:
        deploy_cpp(tmp_path / "city.engine", tmp_path / "consumer")
    assert "alignseg export-trt MODEL -o ENGINE --output logits" in caught.value.fix


def test_classes_are_remapped_by_the_engine_or_not_at_all(tmp_path: Path) -> None:
    remap = Remapping(dataset="few", names={"*": "all"})
    spec = remap.apply(replace(SMALL_SPEC, export=EXPORT))
    write_engine(tmp_path / "city.engine", spec=spec)
    with pytest.raises(EngineError, match="logits of classes still to be remapped") as caught:
        deploy_cpp(tmp_path / "city.engine", tmp_path / "consumer")
    assert "alignseg export-trt MODEL -o ENGINE --output labels" in caught.value.fix
    labels = replace(spec, export=replace(EXPORT, output=OutputKind.LABELS))
    write_engine(tmp_path / "city.engine", spec=labels)
    deploy_cpp(tmp_path / "city.engine", tmp_path / "consumer")


# The library of plugins


def test_the_library_is_copied_under_the_name_that_is_looked_for(tmp_path: Path) -> None:
    write_engine(tmp_path / "city.engine", plugins=PLUGINS)
    library = write_plugin_library(tmp_path / "mine.so", (), tensorrt="11.1")
    folder = deploy_cpp(tmp_path / "city.engine", tmp_path / "consumer", plugin=library)
    assert (folder / LIBRARY).read_bytes() == library.read_bytes()


def test_an_engine_that_contains_the_library_needs_none(tmp_path: Path) -> None:
    write_engine(tmp_path / "city.engine", plugins=PLUGINS, plugins_embedded=True)
    folder = deploy_cpp(tmp_path / "city.engine", tmp_path / "consumer")
    assert not (folder / LIBRARY).exists()


def test_a_missing_library(tmp_path: Path) -> None:
    write_engine(tmp_path / "city.engine", plugins=PLUGINS)
    with pytest.raises(EngineError, match="needs the library of TensorRT plugins"):
        deploy_cpp(tmp_path / "city.engine", tmp_path / "consumer", plugin=tmp_path / "none.so")
    assert not (tmp_path / "consumer").exists()


def test_a_library_for_another_tensorrt(tmp_path: Path) -> None:
    write_engine(tmp_path / "city.engine", plugins=PLUGINS)
    library = write_plugin_library(tmp_path / "mine.so", (), tensorrt="10.3")
    with pytest.raises(EngineError, match=r"built for TensorRT 10.3, but .* by TensorRT 11.4"):
        deploy_cpp(tmp_path / "city.engine", tmp_path / "consumer", plugin=library)


# The command


def test_the_command_says_how_to_build(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_engine(tmp_path / "city.engine")
    folder = tmp_path / "a consumer"
    command = ["deploy", "cpp", str(tmp_path / "city.engine"), "-o", str(folder)]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert f"cmake -S '{folder}' -B '{folder}/build'" in printed
    assert f"'{folder}/build'/segment '{folder}/city.engine' IMAGE.ppm LABELS.pgm" in printed
    assert main(command) == 1
    assert "is there already" in capsys.readouterr().err
