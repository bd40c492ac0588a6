"""The CPU time of a thread and of the programs that it has run, by which lasting work is bounded."""

from resource import RUSAGE_CHILDREN, getrusage
from time import thread_time


def cpu_s() -> float:
    """Return the CPU time, in seconds, of the calling thread and of all programs of this process that have ended.

    Programs that other threads run meanwhile are counted, too; the bounded work is delayed a little more then.
    """
    programs = getrusage(RUSAGE_CHILDREN)
    return thread_time() + programs.ru_utime + programs.ru_stime
