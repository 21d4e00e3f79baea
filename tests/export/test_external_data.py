"""Models whose weights are in a second file: converted, measured and told apart like any other."""

import hashlib
import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir
import pytest
from numpy.typing import NDArray

from alignseg_infer import ModelFileError, Predictor
from alignseg_infer.backends.opening import open_again
from alignseg_infer.cli import main
from alignseg_infer.datasets.image_sets import choose_images
from alignseg_infer.demo import model_path
from alignseg_infer.demo.streets import Street
from alignseg_infer.demo.streets.folder import write_streets
from alignseg_infer.export.graph import onnx_file
from alignseg_infer.export.graph.onnx_file import load_graph, save_onnx
from alignseg_infer.export.int8.calibration import calibrate_ranges
from alignseg_infer.spec.model import AGREEMENT_KEY
from alignseg_infer.spec.onnx_facts import read_onnx_facts
from alignseg_infer.spec.onnx_weights import read_locations
from alignseg_infer.spec.verification import Verification

DEMO = model_path("demo")
SIZE = (64, 96)
DATA = "m.onnx.data"


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("streets")
    list(write_streets(folder, 0, 2, SIZE))
    return folder / "images"


@pytest.fixture
def split(tmp_path: Path) -> Path:
    """The demo model as ``models/m.onnx``, with its weights in ``models/m.onnx.data``."""
    path = tmp_path / "models" / "m.onnx"
    path.parent.mkdir()
    onnx.save(onnx.load(DEMO), path, save_as_external_data=True, location=DATA)
    assert path.stat().st_size < (path.parent / DATA).stat().st_size / 5
    return path


@pytest.fixture
def elsewhere(tmp_path: Path, split: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Another working folder, with the data file of another model under the same name."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    scale_weights(Path(shutil.copy(split.parent / DATA, folder)), 0.5)
    monkeypatch.chdir(folder)
    return folder


def scale_weights(data: Path, factor: float) -> None:
    """Change the numbers in a data file, but not its size."""
    (np.fromfile(data, np.float32) * np.float32(factor)).tofile(data)


def weights_of(path: Path) -> dict[str, NDArray[Any]]:
    """Return the weights of an exported file, wherever they are stored."""
    tensors = onnx.load(path).graph.initializer
    return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in tensors}


def require_same_weights(path: Path, expected: Path) -> None:
    seen, wanted = weights_of(path), weights_of(expected)
    assert seen.keys() == wanted.keys()
    for name, weight in wanted.items():
        np.testing.assert_array_equal(seen[name], weight, err_msg=name)


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_conversions_read_the_weights_beside_the_model(
    precision: str, split: Path, images: Path, elsewhere: Path
) -> None:
    words = ["--precision", precision, "--verification", str(images)]
    words += ["--calibration", str(images)] if precision == "int8" else []
    for source, target in ((split, "split.onnx"), (DEMO, "whole.onnx")):
        assert main(["export-onnx", str(source), "-o", target, *words]) == 0
    require_same_weights(elsewhere / "split.onnx", elsewhere / "whole.onnx")
    assert not list(read_locations(elsewhere / "split.onnx"))
    agreement = Verification.from_json(onnx_ir.load("split.onnx").metadata_props[AGREEMENT_KEY])
    both = [split.read_bytes(), (split.parent / DATA).read_bytes()]
    assert agreement.reference_sha256 == hashlib.sha256(b"".join(both)).hexdigest()


@pytest.mark.slow
def test_sensitivity_reads_the_weights_beside_the_model(
    split: Path, images: Path, elsewhere: Path
) -> None:
    words = ["--calibration", str(images), "--max-calibration-images", "1", "-o", "seen"]
    assert main(["sensitivity", str(split), *words]) == 0
    found = json.loads((elsewhere / "seen" / "sensitivity.json").read_text())
    assert 0 < found["together"]["disagreement"] < 5


def test_weights_above_the_limit_of_one_file(
    split: Path, images: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each file that is written on the way has its weights beside it, as above 1.9 GB."""
    monkeypatch.setattr(onnx_file, "EXTERNAL_DATA_BYTES", 1_000_000)
    words = ["--precision", "int8", "--calibration", str(images)]
    assert main(["export-onnx", str(split), "-o", "int8.onnx", *words]) == 0
    assert list(read_locations(elsewhere / "int8.onnx"))
    image = Street(7).scene(size=(128, 256)).image
    alike = Predictor("int8.onnx")(image).labels == Predictor("demo")(image).labels
    assert alike.mean() > 0.98


def test_a_graph_with_other_weights_is_another_model(split: Path, images: Path) -> None:
    chosen = choose_images(images)
    seen = []
    for factor in (1, 1.5):
        scale_weights(split.parent / DATA, factor)
        seen.append((read_onnx_facts(split).sha256, calibrate_ranges(split, chosen).limits))
    (sha256, limits), (other_sha256, other_limits) = seen
    assert sha256 != other_sha256
    assert limits != other_limits
    assert limits == calibrate_ranges(DEMO, chosen).limits


def test_a_pickled_predictor_notices_another_data_file(split: Path) -> None:
    content = pickle.dumps(Predictor(split, size=SIZE))
    image = Street(7).scene(size=SIZE).image
    expected = Predictor("demo", size=SIZE)(image).labels
    np.testing.assert_array_equal(pickle.loads(content)(image).labels, expected)
    with (split.parent / DATA).open("ab") as data:
        data.write(b"more")
    open_again.cache_clear()
    with pytest.raises(ModelFileError, match="is not the file that the pickled predictor was"):
        pickle.loads(content)(image)


def test_a_saved_graph_has_its_weights_in_it(split: Path, tmp_path: Path) -> None:
    save_onnx(load_graph(split), tmp_path / "whole.onnx")
    shutil.rmtree(split.parent)
    require_same_weights(tmp_path / "whole.onnx", DEMO)


def test_constants_in_a_data_file_are_read_too(split: Path, tmp_path: Path) -> None:
    """Some tools write weights as Constant nodes, which `onnx` also moves to a data file."""
    model = onnx.load(DEMO)
    constants = [
        onnx.helper.make_node("Constant", [], [tensor.name], value=tensor)
        for tensor in model.graph.initializer
    ]
    nodes = [*constants, *model.graph.node]
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend(nodes)
    path = tmp_path / "constants.onnx"
    onnx.save(model, path, save_as_external_data=True, location="c.data", convert_attribute=True)
    assert list(read_locations(path))
    save_onnx(load_graph(path), tmp_path / "whole.onnx")
    require_same_weights(tmp_path / "whole.onnx", DEMO)
