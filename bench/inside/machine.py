"""The cost of this kernel's basic operations: a system call, a page of memory, the start of a program.

They do not depend on the product.  They differ by a factor of five between machines, and all other figures with them,
so they are printed with the other figures.
"""

import mmap
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

_PAGE_BYTES = 4096
_PAGES = 8192

Figures = dict[str, float]


def measure(repeats: int) -> Figures:
    """Return medians: microseconds of a system call and of the first touch of a page; milliseconds of programs."""
    return {
        "call_us": median(_seconds(os.getppid, 5000) for _ in range(repeats)) * 1e6,
        "page_us": median(_page_s() for _ in range(repeats)) * 1e6,
        "program_ms": median(_program_s(["/bin/true"]) for _ in range(repeats)) * 1e3,
        "python_ms": median(_program_s([sys.executable, "-c", ""]) for _ in range(repeats)) * 1e3,
    }


def page_faults(pid: int) -> int:
    """Return the number of minor page faults of the process *pid* (minflt, proc(5))."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[7])


def _seconds(do: Callable[[], object], count: int) -> float:
    began_s = time.perf_counter()
    for _ in range(count):
        do()
    return (time.perf_counter() - began_s) / count


def _page_s() -> float:
    with mmap.mmap(-1, _PAGES * _PAGE_BYTES) as memory:
        began_s = time.perf_counter()
        for place in range(0, len(memory), _PAGE_BYTES):
            memory[place] = 1
        return (time.perf_counter() - began_s) / _PAGES


def _program_s(words: list[str]) -> float:
    return _seconds(lambda: subprocess.run(words, check=True), 3)
