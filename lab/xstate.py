"""On a processor with AMX, preload xstate.c into user-mode-linux 6.1, which otherwise dies at once.

xstate.c gives the reason.  The check uses the size of the vector state that the kernel reports, not the processor's
name, because only the size matters.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
from pathlib import Path

from lab.job import LabError

UML_XSTATE_BYTES = 2696  # sizeof(struct _xstate) in Linux 6.1, arch/x86/um: up to AVX-512 and PKRU
_PTRACE_TRACEME, _PTRACE_GETREGSET, _NT_X86_XSTATE = 0, 0x4204, 0x202


class _Iovec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


def preload_for_large_xstate(folder: Path) -> dict[str, str]:
    """Return the environment that UML needs here: empty, or LD_PRELOAD of a library compiled into *folder*.

    Raises:
        LabError: There is no C compiler.
    """
    if xstate_bytes() <= UML_XSTATE_BYTES:
        return {}
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise LabError(
            "this processor has AMX, and user-mode-linux 6.1 needs a compiled shim there",
            "apt-get install gcc libc6-dev",
        )
    library = folder / "xstate.so"
    source = Path(__file__).with_name("xstate.c")
    subprocess.run([compiler, "-O2", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"], check=True)
    return {"LD_PRELOAD": str(library)}


def xstate_bytes() -> int:
    """Return the size in bytes of the vector state that ptrace writes; 0 if there is none (not x86).

    Source: ptrace(2), PTRACE_GETREGSET: the kernel sets iov_len to the size it has.
    """
    ptrace = ctypes.CDLL(None, use_errno=True).ptrace
    ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
    pid = os.fork()
    if pid == 0:
        ptrace(_PTRACE_TRACEME, 0, None, None)
        os.kill(os.getpid(), signal.SIGSTOP)
        os._exit(0)
    try:
        os.waitpid(pid, os.WUNTRACED)
        buffer = ctypes.create_string_buffer(1 << 16)
        vector = _Iovec(ctypes.addressof(buffer), len(buffer))
        failed = ptrace(_PTRACE_GETREGSET, pid, _NT_X86_XSTATE, ctypes.addressof(vector))
        return 0 if failed else int(vector.length)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
