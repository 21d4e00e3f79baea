"""Which TensorRT is loaded, and what is said of one that cannot be used."""

import sys
from types import SimpleNamespace

import pytest

from alignseg_infer.errors import MissingDependencyError
from alignseg_infer.trt.flavours import Flavour, load_tensorrt


@pytest.mark.parametrize(
    ("version", "numbers"),
    [
        ("11.4.0.106", (11, 4, 0, 106)),
        ("10.13.3.9.post1", (10, 13, 3, 9)),
        ("10.3.0", (10, 3, 0)),
        ("10.0.0b6", (10, 0, 0)),
    ],
)
def test_versions_are_read(
    version: str, numbers: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", SimpleNamespace(__version__=version))
    loaded = load_tensorrt(Flavour.TENSORRT)
    assert loaded.version == numbers


def test_an_old_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", SimpleNamespace(__version__="8.6.1.post1"))
    with pytest.raises(MissingDependencyError, match=r"tensorrt 8\.6\.1\.post1 is installed"):
        load_tensorrt(Flavour.TENSORRT)
