"""Which GPU an engine is built on."""

from alignseg_infer.engine_file import Gpu


def current_gpu() -> Gpu | None:
    """CUDA's first GPU; None without one, without a driver, or without cuda-python."""
    try:
        from cuda.bindings import runtime  # noqa: PLC0415  a fact to note, not worth a dependency
    except ImportError:
        return None
    error, properties = runtime.cudaGetDeviceProperties(0)
    if error != runtime.cudaError_t.cudaSuccess:
        return None
    name = properties.name.decode() if isinstance(properties.name, bytes) else properties.name
    return Gpu(name.rstrip("\0"), f"{properties.major}.{properties.minor}")
