"""``alignseg deploy deepstream`` and ``alignseg deploy isaac-ros``, as a user types them."""

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from alignseg_infer import Predictor
from alignseg_infer.arrays import Image
from alignseg_infer.cli import main
from alignseg_infer.demo.streets import Street
from tests.support import isaac_ros, nvinfer
from tests.support.formed_models import SIZE, form_demo

FILES = {
    "deepstream": ["README.md", "labels.txt", "model.onnx", "nvinfer.txt"],
    "isaac-ros": [
        *("README.md", "alignseg.launch.py", "classes.json", "model.onnx", "parameters.yaml"),
    ],
}
each_consumer = pytest.mark.parametrize("consumer", FILES)


def typed(command: str) -> int:
    name, *words = shlex.split(command)
    assert name == "alignseg"
    return main(words)


@each_consumer
def test_the_command_of_a_refusal_makes_a_model_that_fits(
    consumer: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    form_demo(Path("a.onnx"), size=None)
    assert typed(f"alignseg deploy {consumer} a.onnx -o out") == 1
    *_, advice = capsys.readouterr().err.strip().splitlines()
    command = advice.strip().removeprefix("try: ")
    assert command.startswith(f"alignseg export-onnx a.onnx -o a-{consumer}.onnx --output ")
    assert command.endswith("--size 512x1024")  # a smaller size takes less time
    assert typed(command.replace("512x1024", f"{SIZE[0]}x{SIZE[1]}")) == 0
    assert typed(f"alignseg deploy {consumer} a-{consumer}.onnx -o out") == 0
    *_, listed = capsys.readouterr().out.strip().splitlines()
    assert listed == "out: " + ", ".join(FILES[consumer])
    assert sorted(path.name for path in Path("out").iterdir()) == FILES[consumer]
    street = Street(1_000_007).scene(size=SIZE).image
    expected = Predictor("demo", size=SIZE)(street).labels
    assert np.array_equal(LABELLED[consumer](Path("out"), street), expected)


def label_as_deepstream(folder: Path, image: Image) -> NDArray[np.int32]:
    config = nvinfer.read_config(folder)
    session = onnxruntime.InferenceSession(folder / config["onnx-file"])
    [output] = session.run(
        [config["output-blob-names"]], {"image": nvinfer.preprocess(config, image)}
    )
    return nvinfer.class_map(config, output[0])


def label_as_isaac_ros(folder: Path, image: Image) -> NDArray[np.uint8]:
    nodes = isaac_ros.read_parameters(folder)
    session = onnxruntime.InferenceSession(folder / nodes["tensor_rt_node"]["model_file_path"])
    names = nodes["tensor_rt_node"]["output_binding_names"]
    [output] = session.run(names, {"image": isaac_ros.encode(nodes, image)})
    return isaac_ros.decode(nodes, output)


LABELLED: dict[str, Callable[[Path, Image], NDArray[Any]]] = {
    "deepstream": label_as_deepstream,
    "isaac-ros": label_as_isaac_ros,
}
