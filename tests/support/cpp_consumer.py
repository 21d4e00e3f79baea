"""The program of ``alignseg deploy cpp``, built by g++ over a TensorRT and a CUDA on the CPU."""

import re
from pathlib import Path

from tests.support.fetching import fetched
from tests.support.host_kernels import HOST_CUDA, host_compile
from tests.support.plugin_harness import build_flags, tensorrt_headers

NLOHMANN_JSON = "nlohmann-json==3.12.0"
_CLASSES = {  # TensorRT's interfaces that the program calls, and the headers that declare them
    "VRuntime": "NvInferImpl.h",
    "VCudaEngine": "NvInferImpl.h",
    "VExecutionContext": "NvInferImpl.h",
    "IPluginRegistry": "NvInferRuntimeCommon.h",
}
_FAKE = ("-Wno-overloaded-virtual", "-Wno-deprecated-declarations")
_BODY = r"\1 override { std::abort(); }"


def json_headers(folder: Path) -> Path:
    """Return the folder that holds ``nlohmann/json.hpp``, which is put into `folder`."""
    return fetched(folder, NLOHMANN_JSON) / "nlohmann_json" / "include"


def write_fake_defaults(folder: Path, headers: Path) -> None:
    """Write ``fake_defaults.h``: subclasses of TensorRT's interfaces whose methods all abort."""
    text = "#include <NvInferRuntime.h>\n#include <cstdlib>\n"
    text += "namespace nvinfer1\n{\nusing namespace apiv;\n"
    for name, header in _CLASSES.items():
        source = (headers / header).read_text(encoding="utf-8")
        found = re.search(rf"^class {name}\b[^;]*?\{{(.*?)^\}};", source, re.MULTILINE | re.DOTALL)
        assert found is not None, name
        lines = re.findall(r"^#.*$|virtual\s[^;{}]*?= 0;", found[1], re.MULTILINE)  # keeps each #if
        bodies = "\n".join(
            re.sub(r"^virtual (.*) = 0;$", _BODY, line, flags=re.DOTALL) for line in lines
        )
        text += f"class {name}Defaults : public {name}\n{{\npublic:\n{bodies}\n}};\n"
    (folder / "fake_defaults.h").write_text(text + "} // namespace nvinfer1\n", encoding="utf-8")


def build_program(deployed: Path, folder: Path) -> Path:
    """Compile the program in a deployed folder, with its kernels, and the fake engine into it."""
    flags = [flag for flag in build_flags(folder) if flag != "-shared"]
    write_fake_defaults(folder, tensorrt_headers(folder / "tensorrt"))
    flags += ["-O0", "-isystem", str(folder), "-isystem", str(json_headers(folder / "json"))]
    flags += _FAKE
    kernels = deployed / "plugins" / "kernels"
    sources = [deployed / "segment.cpp", deployed / "files.cpp", HOST_CUDA / "fake_engine.cpp"]
    sources += [kernels / "preprocess_kernel.cu", kernels / "upsample_argmax_kernel.cu"]
    program = folder / "segment"
    host_compile(sources, program, flags=flags)
    return program


def build_stub(library: Path, folder: Path) -> None:
    """Compile the fake engine, without its CUDA, into a library of its own."""
    write_fake_defaults(folder, tensorrt_headers(folder / "tensorrt"))
    flags = [*build_flags(folder), "-DFAKE_WITHOUT_CUDA", "-isystem", str(folder), *_FAKE]
    flags += ["-O0", f"-Wl,-soname,{library.name}"]
    host_compile([HOST_CUDA / "fake_engine.cpp"], library, flags=flags)
