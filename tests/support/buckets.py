"""Buckets of a server of S3 on this machine."""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from alignseg_infer.datasets.addresses import open_address


@contextlib.contextmanager
def running_s3() -> Iterator[str]:
    """Run a server for the block, and return its address."""
    from moto.server import ThreadedMotoServer

    running = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    try:
        yield f"http://{host}:{port}"
    finally:
        running.stop()


def new_bucket(server: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """Return a new bucket named like the test; s3:// finds its server through variables."""
    monkeypatch.setenv("FSSPEC_S3_ENDPOINT_URL", server)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    forget_settings(monkeypatch)
    name = re.sub("[^a-z0-9]", "-", request.node.name)[-40:].strip("-")
    open_address("s3://")[0].mkdir(name)
    return f"s3://{name}"


def forget_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make this process read the variables again, as a new one does."""
    import fsspec.config
    import s3fs

    conf: dict[str, Any] = {}
    fsspec.config.set_conf_env(conf)
    monkeypatch.setattr(fsspec.config, "conf", conf)
    monkeypatch.setattr("fsspec.spec.conf", conf, raising=False)
    s3fs.S3FileSystem.clear_instance_cache()


def upload(folder: Path, address: str, **options: str) -> None:
    """Write the files of a folder to an address."""
    system, path = open_address(address)
    for file in folder.rglob("*.*"):
        name = file.relative_to(folder).as_posix()
        system.pipe_file(f"{path}/{name}", file.read_bytes(), **options)
