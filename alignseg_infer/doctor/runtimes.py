"""Runs the graphs of the catalogue in one runtime. Called in a child process, see `probe`.

ONNX Runtime and OpenVINO run a graph. TensorRT reads it, its layers are read back, and it builds an
engine; it runs the engine only where there is a GPU. No engine of the catalogue has run yet.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from alignseg_infer.backports import StrEnum
from alignseg_infer.doctor.catalogue import BF16_TOLERANCE, Case, Graph, error_of
from alignseg_infer.errors import AlignSegError, BuildError
from alignseg_infer.files.writing import temporary_folder
from alignseg_infer.trt.flavours import Flavour


class Target(StrEnum):
    """What runs a graph of the catalogue: a runtime, or a flavour of TensorRT."""

    ONNXRUNTIME = "onnxruntime"
    OPENVINO = "openvino"
    OPENVINO_BF16 = "openvino-bf16"
    TENSORRT = "tensorrt"
    TENSORRT_RTX = "tensorrt-rtx"


class Verdict(StrEnum):
    """What came of one graph in one runtime.

    ``right`` and ``wrong`` results; ``read`` rightly and built, but not run; ``misread``: other
    layers than the graph has; ``refused`` with an error; ``ended`` the process; ``hung``.
    """

    RIGHT = "right"
    WRONG = "wrong"
    READ = "read"
    MISREAD = "misread"
    REFUSED = "refused"
    ENDED = "ended"
    HUNG = "hung"


GOOD = (Verdict.RIGHT, Verdict.READ)


class Found(NamedTuple):
    """A verdict, and what was seen if it is not ``right``."""

    verdict: Verdict
    detail: str = ""


Check: TypeAlias = Callable[[Case, Graph], Found]


def open_target(target: Target) -> Check | None:
    """Return what checks one graph in a runtime; None if this machine cannot run it so.

    Raises:
        Exception: The runtime does not load, with whatever it raises.
    """
    if target is Target.ONNXRUNTIME:
        return _open_onnxruntime()
    if target in (Target.OPENVINO, Target.OPENVINO_BF16):
        return _open_openvino(bf16=target is Target.OPENVINO_BF16)
    return _open_tensorrt(Flavour(target.value))


def cases_of(target: Target, cases: tuple[Case, ...]) -> tuple[Case, ...]:
    """Return the cases that are run in a target: in bfloat16, those without coordinates."""
    return tuple(case for case in cases if case.bf16 or target is not Target.OPENVINO_BF16)


def judge(result: NDArray[Any], graph: Graph, tolerance: float) -> Found:
    """Compare a result with its reference."""
    error = error_of(result, graph.reference)
    if error <= tolerance:
        return Found(Verdict.RIGHT)
    return Found(Verdict.WRONG, f"off by {error:.2g} of the largest value")


def _open_onnxruntime() -> Check:
    from alignseg_infer.backends.onnxruntime_backend import CPU_PROVIDER, session_options
    from alignseg_infer.backends.onnxruntime_package import onnxruntime

    def check(case: Case, graph: Graph) -> Found:
        session = onnxruntime.InferenceSession(
            graph.model, session_options(), providers=[CPU_PROVIDER]
        )
        return judge(session.run(None, graph.inputs)[0], graph, case.tolerance)

    return check


def _open_openvino(*, bf16: bool) -> Check | None:
    from alignseg_infer.backends.telemetry import without_openvino_telemetry

    with without_openvino_telemetry():
        import openvino

    from alignseg_infer.backends.openvino_backend import exact_integers

    core = openvino.Core()
    if bf16 and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        return None
    precision = {"INFERENCE_PRECISION_HINT": "bf16" if bf16 else "f32"}
    settings = precision | exact_integers()  # as `OpenVinoBackend` does

    def check(case: Case, graph: Graph) -> Found:
        model = core.compile_model(core.read_model(graph.model), "CPU", settings)
        request = model.create_infer_request()
        request.infer(graph.inputs)
        tolerance = max(case.tolerance, BF16_TOLERANCE) if bf16 else case.tolerance
        return judge(request.get_output_tensor(0).data.copy(), graph, tolerance)

    return check


def _open_tensorrt(flavour: Flavour) -> Check:
    from alignseg_infer.cuda.opening import current_gpu
    from alignseg_infer.errors import MissingDependencyError
    from alignseg_infer.trt.builder.config import Session
    from alignseg_infer.trt.flavours import load_tensorrt

    tensorrt = load_tensorrt(flavour)
    Session.of(tensorrt)  # says why TensorRT does not start
    try:
        gpu = current_gpu()
    except MissingDependencyError:
        gpu = None

    def check(case: Case, graph: Graph) -> Found:
        session = Session.of(tensorrt)
        with _file_with(graph.model) as path:
            plan = _build(session, path, case, graph)
        if isinstance(plan, Found):
            return plan
        if gpu is None:
            return Found(Verdict.READ, "read and built, not run: there is no GPU")
        return judge(_run_engine(tensorrt, plan, graph), graph, case.tolerance)

    return check


def _build(session: Any, path: Path, case: Case, graph: Graph) -> bytes | Found:
    """Read a graph, compare its layers with those that `case` names, and build the engine."""
    from alignseg_infer.trt.builder.engine import parse_onnx
    from alignseg_infer.trt.builder.layers import read_network

    parse_onnx(session, path)
    layers = read_network(session.tensorrt.module, session.network).layers
    for wanted, seen in (
        (case.sampling, [layer.sampling for layer in layers if layer.sampling]),
        (case.resizing, [layer.resizing for layer in layers if layer.resizing]),
    ):
        expected: list[Any] = [wanted] if wanted else []
        if seen != expected:
            return Found(Verdict.MISREAD, f"read as {_describe(seen)}, not {_describe(expected)}")
    config = session.builder.create_builder_config()
    profile = session.builder.create_optimization_profile()
    for name, value in graph.inputs.items():
        profile.set_shape(name, *[value.shape] * 3)
    config.add_optimization_profile(profile)
    config.clear_flag(session.tensorrt.module.BuilderFlag.TF32)
    plan = session.builder.build_serialized_network(session.network, config)
    if plan is None:
        raise BuildError(session.messages.list_errors(), "an engine", "report this")
    return bytes(plan)


def _describe(layers: list[Any]) -> str:
    return "; ".join(", ".join(map(str, layer)) for layer in layers) or "no such layer"


def _run_engine(tensorrt: Any, plan: bytes, graph: Graph) -> NDArray[Any]:
    """Run an engine once, on the first GPU. It has not been run on any GPU yet."""
    from alignseg_infer.cuda.opening import open_cuda
    from alignseg_infer.trt.flavours import new_context
    from alignseg_infer.trt.log import new_log

    log = new_log(tensorrt)
    runtime = tensorrt.module.Runtime(log)  # outlives its engine
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise BuildError(log.take_errors(), "an engine that loads", "report this")
    cuda = open_cuda()
    result = np.empty(graph.reference.shape, graph.reference.dtype)
    with cuda.current():
        context, stream = new_context(tensorrt, engine, None), cuda.new_stream()
        if context is None:
            raise BuildError(log.take_errors(), "an execution context", "report this")
        name = engine.get_tensor_name(len(graph.inputs))
        target = cuda.allocate(result.nbytes)
        context.set_tensor_address(name, target)
        for key, value in graph.inputs.items():
            address = cuda.allocate(value.nbytes)
            cuda.copy_to_device(address, value, stream)
            context.set_input_shape(key, value.shape)
            context.set_tensor_address(key, address)
        if not context.execute_async_v3(stream):
            raise BuildError(log.take_errors(), "an engine that runs", "report this")
        cuda.copy_to_host(result, target, stream)
        cuda.synchronize(stream)
    return result  # the process ends soon, which frees the memory


@contextmanager
def _file_with(content: bytes) -> Iterator[Path]:
    with temporary_folder() as folder:
        path = folder / "graph.onnx"
        path.write_bytes(content)
        yield path


def check_safely(check: Check, case: Case, graph: Graph) -> Found:
    """Check one graph; an exception of the runtime means that it refused the graph."""
    try:
        return check(case, graph)
    except AlignSegError as error:
        return Found(Verdict.REFUSED, error.problem)
    except Exception as error:  # runtimes raise all kinds
        return Found(Verdict.REFUSED, str(error))
