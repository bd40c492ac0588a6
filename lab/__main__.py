"""python3 -m lab run [--timeout S] [--mem 2G] -- COMMAND ARG... | install | which"""

from __future__ import annotations

import argparse
import signal
import sys
from types import FrameType

import lab
from lab.choose import choose
from lab.install import install
from lab.job import LabError


def main(argv: list[str]) -> int:
    """Do what *argv* says; return the exit status."""
    # SIGTERM must unwind like Ctrl-C, so that the kernel's processes and folder go.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)
    options = _parser().parse_args(argv)
    try:
        return _VERBS[options.verb](options)
    except LabError as error:
        print(f"lab: {error.reason}\nlab: hint: {error.hint}", file=sys.stderr)
        return lab.LAB_FAILED
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:
        return 128 + signal.SIGPIPE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python3 -m lab", description="A Linux kernel that has IPVS.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    run = verbs.add_parser("run", help="run a command there; its output and exit status are passed on")
    run.add_argument("--timeout", type=float, default=600.0, metavar="S", help="seconds, then exit 124 (default: 600)")
    run.add_argument("--mem", default="2G", help="the kernel's memory (default: 2G)")
    run.add_argument("command", nargs="+")
    verbs.add_parser("install", help="install the packages that are missing")
    verbs.add_parser("which", help="say which way to such a kernel would be used")
    return parser


def _run(options: argparse.Namespace) -> int:
    return lab.run(options.command, timeout_s=options.timeout, memory=options.mem)


def _install(_: argparse.Namespace) -> int:
    print("installed:", " ".join(install()) or "nothing was missing")
    return 0


def _which(_: argparse.Namespace) -> int:
    print(choose().name)
    return 0


def _leave(number: int, _: FrameType | None) -> None:
    sys.exit(128 + number)


_VERBS = {"run": _run, "install": _install, "which": _which}

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
