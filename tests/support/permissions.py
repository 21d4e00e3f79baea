"""Makes permissions count for root, too, who may otherwise read and write everything."""

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterator

_VERSION_3 = 0x20080522  # of the structures that Linux's capset takes
_OVERRIDE = 1 << 1 | 1 << 2  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH


@contextlib.contextmanager
def permissions_for_all() -> Iterator[None]:
    """Take from this thread, and threads that it starts, the right to ignore permissions."""
    if os.geteuid() != 0:
        yield
        return
    assert sys.platform == "linux", "run the tests as a user who is not root"
    libc = ctypes.CDLL(None, use_errno=True)
    header, data = (ctypes.c_uint32 * 2)(_VERSION_3, 0), (ctypes.c_uint32 * 6)()
    assert libc.capget(header, data) == 0
    before = data[0]  # the effective set
    try:
        data[0] = before & ~_OVERRIDE
        assert libc.capset(header, data) == 0
        yield
    finally:
        data[0] = before
        assert libc.capset(header, data) == 0
