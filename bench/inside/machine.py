"""What this kernel takes for the things of which a start is made: a system call, a page of memory, a program.

Law: nothing of the product is in it.  These differ by a factor of five from one machine to another, and with them
everything else here; so they are told beside it.
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
    """Microseconds of a system call and of a page that is touched first; milliseconds of programs.  Medians."""
    return {
        "call_us": median(_seconds(os.getppid, 5000) for _ in range(repeats)) * 1e6,
        "page_us": median(_page_s() for _ in range(repeats)) * 1e6,
        "program_ms": median(_program_s(["/bin/true"]) for _ in range(repeats)) * 1e3,
        "python_ms": median(_program_s([sys.executable, "-c", ""]) for _ in range(repeats)) * 1e3,
    }


def page_faults(pid: int) -> int:
    """How often the process *pid* touched a page of memory that it did not have yet (minflt, proc(5))."""
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
