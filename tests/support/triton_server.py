"""A real tritonserver on the CPU, from PyPI's nvidia-pytriton, and an environment for it."""

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support.waiting import PATIENCE, eventually

ROOT = Path(__file__).parents[2]
SERVER = "nvidia-pytriton==0.7.0"  # tritonserver 2.51
# The Python backend in it was built for NumPy 1, which OpenCV from 4.12 on does not take.
ENVIRONMENT = (
    *("numpy<2", "opencv-python-headless<4.12", "onnxruntime>=1.20"),
    *("filelock", "platformdirs", "rich", "tritonclient[http,grpc]"),
)

TYPES: dict[str, type[np.generic]] = {"UINT8": np.uint8, "FP32": np.float32, "INT32": np.int32}


class Installed(NamedTuple):
    """The unpacked server, and the Python of an environment that has this package."""

    server: Path
    python: Path


class Address(NamedTuple):
    """Where a server listens, on loopback."""

    http: int
    grpc: int


class Reply(NamedTuple):
    """What came back over HTTP: the status, the JSON, and the outputs in binary form."""

    status: int
    facts: dict[str, Any]
    outputs: dict[str, NDArray[Any]]


def install(folder: Path) -> Installed:
    """Fetch the server and make its environment; skip the test where that is not possible."""
    library = Path(str(sysconfig.get_config_var("LIBDIR")), _library_name())
    if not library.is_file():
        pytest.skip(f"the Python backend needs {library}, and Python was built without it")
    pip = [sys.executable, "-m", "pip"]
    _run([*pip, "download", "-q", "--no-deps", SERVER, "-d", str(folder)])
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        wheel.extractall(folder)
    inner = folder / "pytriton/tritonserver"
    stubs = inner / "python_backend_stubs/{}.{}".format(*sys.version_info[:2])
    if not stubs.is_dir():
        pytest.skip(f"the Python backend has no {stubs.name} stub")
    for file in stubs.iterdir():
        shutil.move(str(file), str(inner / "backends/python"))
    (folder / "nvidia_pytriton.libs" / library.name).symlink_to(library)
    (inner / "bin/tritonserver").chmod(0o755)
    (inner / "backends/python/triton_python_backend_stub").chmod(0o755)
    environment = folder / "environment"
    _run([sys.executable, "-m", "venv", "--without-pip", str(environment)])
    python = environment / "bin/python3"
    site = next(environment.glob("lib/python*/site-packages"))
    _run([*pip, "--python", str(python), "install", "-q", "--no-compile", *ENVIRONMENT])
    (site / "checkout.pth").write_text(f"{ROOT}\n")  # the backend does not obey PYTHONPATH
    return Installed(folder, python)


def _library_name() -> str:
    return "libpython{}.{}.so.1.0".format(*sys.version_info[:2])


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"{' '.join(command[1:6])} fails: {done.stderr[-300:]}")


@contextlib.contextmanager
def serve(
    installed: Installed, repository: Path, log: Path, *options: str, python: Path | None = None
) -> Iterator[Address]:
    """Run a server in this block, and check that it ends when it is told to.

    Args:
        installed: What `install` returned.
        repository: The models.
        log: Where its output goes.
        options: More options of the server.
        python: The Python of another environment.
    """
    inner = installed.server / "pytriton/tritonserver"
    ports = Address(*_free_ports(2))
    command = [str(inner / "bin/tritonserver"), f"--model-repository={repository}", *options]
    command += [f"--backend-directory={inner / 'backends'}", "--allow-metrics=false"]
    command += ["--http-address=127.0.0.1", f"--http-port={ports.http}"]
    command += ["--grpc-address=127.0.0.1", f"--grpc-port={ports.grpc}"]
    found = (python or installed.python).parent
    libraries = str(installed.server / "nvidia_pytriton.libs")
    environment = {**os.environ, "LD_LIBRARY_PATH": libraries}
    environment |= {"PATH": f"{found}{os.pathsep}{os.environ['PATH']}"}
    with log.open("w") as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, start_new_session=True, env=environment
        )
    try:
        assert eventually(lambda: process.poll() is not None or _is_ready(ports.http)), _end_of(log)
        yield ports
        if process.poll() is None:
            process.terminate()
            assert process.wait(PATIENCE) == 0, _end_of(log)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _end_of(log: Path) -> str:
    return log.read_text()[-4000:]


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [
            stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)
        ]
        return [one.getsockname()[1] for one in sockets]


def _is_ready(port: int) -> bool:
    try:
        return ask(port, "GET", "/v2/health/ready").status == 200
    except OSError:
        return False


def ask(
    port: int, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
) -> Reply:
    """Send one request, and take the reply apart as the KServe protocol says."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        connection.request(method, path, body, headers or {})
        reply = connection.getresponse()
        content = reply.read()
    finally:
        connection.close()
    length = int(reply.getheader("Inference-Header-Content-Length") or len(content))
    facts = json.loads(content[:length] or b"{}")
    return Reply(reply.status, facts, dict(_outputs(facts, content[length:])))


def _outputs(facts: Any, data: bytes) -> Iterator[tuple[str, NDArray[Any]]]:
    start = 0
    described = facts.get("outputs", ()) if data else ()  # metadata have outputs, too
    for output in described:
        end = start + output["parameters"]["binary_data_size"]
        values = np.frombuffer(data[start:end], TYPES[output["datatype"]])
        yield output["name"], values.reshape(output["shape"])
        start = end


def infer(
    port: int,
    content: bytes | NDArray[np.uint8] | Mapping[str, NDArray[Any]],
    *outputs: str,
    model: str = "demo",
) -> Reply:
    """Ask for outputs (default: labels) of an image file, images (N, H, W, 3), or named tensors."""
    if isinstance(content, bytes):
        inputs = [("file", [1, 1], "BYTES", struct.pack("<I", len(content)) + content)]
    else:
        tensors = {"image": content} if isinstance(content, np.ndarray) else content
        names = {dtype: name for name, dtype in TYPES.items()}
        inputs = [
            (name, list(one.shape), names[one.dtype.type], one.tobytes())
            for name, one in tensors.items()
        ]
    sent = [
        {
            "name": name,
            "shape": shape,
            "datatype": kind,
            "parameters": {"binary_data_size": len(data)},
        }
        for name, shape, kind, data in inputs
    ]
    wanted = [
        {"name": name, "parameters": {"binary_data": True}} for name in outputs or ("labels",)
    ]
    head = json.dumps({"inputs": sent, "outputs": wanted}).encode()
    headers = {"Inference-Header-Content-Length": str(len(head))}
    body = head + b"".join(data for *_, data in inputs)
    return ask(port, "POST", f"/v2/models/{model}/infer", body, headers)
