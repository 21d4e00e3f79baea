"""A fake of the part of ``tensorrt`` that builds: it parses with ``onnx`` and optimises nothing.

Each node becomes a layer, with the type that the graph gives its output. Plugin nodes need a
creator in the registry, which is found by operator, version and namespace, not by domain, as
TensorRT's parser does it.
"""

import json
from enum import Enum, IntEnum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx_ir as ir

from alignseg_infer.spec.plugin_contract import DOMAIN
from tests.support.fake_tensorrt import FakeCuda, FakeTensorRT

_KINDS = {"Conv": "CONVOLUTION", "GridSample": "GRID_SAMPLE", "DequantizeLinear": "DEQUANTIZE"}
_KINDS |= {"Resize": "RESIZE"}
_TYPES = {"FLOAT16": "HALF"}


class FakeTensorRTBuild(FakeTensorRT):
    """A fake of the module ``tensorrt`` that also builds.

    Attributes:
        spoil: Changes the layers that were parsed.
        nearest: Modes of GridSample that the parser does not know and reads as nearest neighbour.
        configs_built: The configuration of each build.
    """

    __version__ = "11.4.0.106"
    NetworkDefinitionCreationFlag = IntEnum("NetworkDefinitionCreationFlag", ["STRONGLY_TYPED"])
    ProfilingVerbosity = Enum("ProfilingVerbosity", ["DETAILED"])
    BuilderFlag = Enum("BuilderFlag", ["TF32", "VERSION_COMPATIBLE"])
    PluginCapabilityType = Enum("PluginCapabilityType", ["CORE", "BUILD", "RUNTIME"])

    class IProgressMonitor:
        pass

    def __init__(self) -> None:
        super().__init__(FakeCuda())
        self.spoil: Any = None
        self.nearest: set[str] = set()
        self.configs_built: list[Any] = []

    @property
    def IPluginV3Layer(self) -> type:
        return FakeLayer

    @property
    def IGridSampleLayer(self) -> type:
        return FakeLayer

    @property
    def IResizeLayer(self) -> type:
        return FakeLayer

    def Builder(self, logger: Any) -> "FakeBuilder":
        return FakeBuilder(self, logger)

    def OnnxParser(self, network: "FakeNetwork", logger: Any) -> "FakeParser":
        return FakeParser(self, network)


class FakeBuildConfig:
    def __init__(self) -> None:
        self.flags: set[Any] = set()
        self.plugins_to_serialize: list[str] = []

    def set_flag(self, flag: Any) -> None:
        self.flags.add(flag)

    def clear_flag(self, flag: Any) -> None:
        self.flags.discard(flag)

    def add_optimization_profile(self, profile: Any) -> int:
        return 0


class FakeBuilder:
    def __init__(self, module: FakeTensorRTBuild, logger: Any) -> None:
        self.module, self.logger = module, logger

    def create_network(self, flags: int) -> "FakeNetwork":
        return FakeNetwork()

    def create_builder_config(self) -> FakeBuildConfig:
        return FakeBuildConfig()

    def create_optimization_profile(self) -> Any:
        return SimpleNamespace(set_shape=lambda name, low, best, high: None)

    def build_serialized_network(self, network: "FakeNetwork", config: FakeBuildConfig) -> bytes:
        self.module.configs_built.append(config)
        return json.dumps({"layers": network.num_layers}).encode()


class FakeNetwork:
    """Filled by `FakeParser`."""

    def __init__(self) -> None:
        self.layers: list[FakeLayer] = []
        self.inputs: list[str] = []
        self.outputs: list[str] = []

    num_layers = property(lambda self: len(self.layers))
    num_inputs = property(lambda self: len(self.inputs))
    num_outputs = property(lambda self: len(self.outputs))

    def get_layer(self, index: int) -> "FakeLayer":
        return self.layers[index]

    def get_input(self, index: int) -> Any:
        return SimpleNamespace(name=self.inputs[index], dtype=SimpleNamespace(name="FLOAT"))

    def get_output(self, index: int) -> Any:
        return SimpleNamespace(name=self.outputs[index])


class FakeLayer:
    """A layer of `kind`, whose output is called `name`."""

    interpolation_mode = SimpleNamespace(name="LINEAR")
    sample_mode = SimpleNamespace(name="FILL")
    align_corners = False
    resize_mode = SimpleNamespace(name="LINEAR")
    coordinate_transformation = SimpleNamespace(name="ALIGN_CORNERS")

    def __init__(self, kind: str, name: str, data_type: str, reads: list[str]) -> None:
        self.type, self.name = SimpleNamespace(name=kind), name
        self._reads, self.data_type = reads, data_type
        self.num_inputs, self.num_outputs = len(reads), 1
        self.plugin: Any = None

    def get_input(self, index: int) -> Any:
        return SimpleNamespace(name=self._reads[index])

    def get_output(self, index: int) -> Any:
        return SimpleNamespace(name=self.name, dtype=SimpleNamespace(name=self.data_type))


class FakeParser:
    def __init__(self, module: FakeTensorRTBuild, network: FakeNetwork) -> None:
        self._module, self._network = module, network
        self._errors: list[Any] = []

    num_errors = property(lambda self: len(self._errors))

    def get_error(self, index: int) -> Any:
        return self._errors[index]

    def parse_from_file(self, path: str) -> bool:
        model = ir.load(Path(path))
        self._network.inputs = [str(value.name) for value in model.graph.inputs]
        self._network.outputs = [str(value.name) for value in model.graph.outputs]
        for index, node in enumerate(model.graph):
            layer = self._layer_of(node)
            if layer is None:
                self._errors.append(_unknown(index, node))
                return False
            self._network.layers.append(layer)
        if self._module.spoil is not None:
            self._module.spoil(self._network.layers)
        return True

    def _layer_of(self, node: ir.Node) -> FakeLayer | None:
        output = node.outputs[0]
        kind = "PLUGIN_V3" if node.domain == DOMAIN else _KINDS.get(node.op_type, node.op_type)
        data_type = output.dtype.name if output.dtype else "?"
        reads = [str(value.name) for value in node.inputs if value is not None]
        layer = FakeLayer(kind, str(output.name), _TYPES.get(data_type, data_type), reads)
        if node.op_type == "GridSample":
            _describe_sampling(layer, node, self._module.nearest)
        if node.domain == DOMAIN:
            version, space = (
                node.attributes[field].as_string()
                for field in ("plugin_version", "plugin_namespace")
            )
            if self._module.registry.get_creator(node.op_type, version, space) is None:
                return None
            core = SimpleNamespace(plugin_name=node.op_type, plugin_version=version)
            kinds = {self._module.PluginCapabilityType.CORE: core}
            layer.plugin = SimpleNamespace(get_capability_interface=kinds.__getitem__)
            layer.name = str(node.name)
        return layer


def _describe_sampling(layer: FakeLayer, node: ir.Node, nearest: set[str]) -> None:
    mode, padding, corners = (
        node.attributes[name].value if name in node.attributes else default
        for name, default in (("mode", "bilinear"), ("padding_mode", "zeros"), ("align_corners", 0))
    )
    layer.interpolation_mode = SimpleNamespace(name="NEAREST" if mode in nearest else "LINEAR")
    layer.sample_mode = SimpleNamespace(name={"zeros": "FILL", "border": "CLAMP"}[str(padding)])
    layer.align_corners = bool(corners)


def _unknown(index: int, node: ir.Node) -> Any:
    return SimpleNamespace(
        desc=lambda: "Plugin not found, are the plugin name, version, and namespace correct?",
        node=lambda: index,
        node_operator=lambda: node.op_type,
        node_name=lambda: str(node.name),
    )
