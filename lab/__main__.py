"""Command line of the lab: `python3 -m lab run [--timeout S] -- COMMAND ARG...`, and install, build and others.

`run` first writes one line to stderr that names the kernel.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from types import FrameType

import lab
from lab import build_kubernetes
from lab.backends import choose_backend
from lab.build_kernel import NEWEST, build
from lab.install import BROWSER, install, install_packages, install_tools
from lab.job import LabError


def main(argv: list[str]) -> int:
    """Run the command line *argv* and return the exit status."""
    # SIGTERM must unwind like Ctrl-C, so that the kernel's processes and folder are removed.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _exit_on_signal)
    options = _parser().parse_args(argv)
    try:
        return _COMMANDS[options.command_name](options)
    except LabError as error:
        print(f"lab: {error.reason}\nlab: hint: {error.hint}", file=sys.stderr)
        return lab.LAB_FAILED
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:
        return 128 + signal.SIGPIPE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python3 -m lab", description="Run commands on a Linux kernel that has IPVS.")
    commands = parser.add_subparsers(dest="command_name", required=True)
    run = commands.add_parser("run", help="run a command in the lab kernel; its output and exit status are passed on")
    run.add_argument("--timeout", type=float, default=600.0, metavar="S", help="seconds, then exit 124 (default: 600)")
    run.add_argument("--mem", default="2G", help="memory of the kernel (default: 2G)")
    run.add_argument("command", nargs="+")
    packages = commands.add_parser("install", help="install the packages that are missing")
    packages.add_argument("--for-run", action="store_true", help="only what `make run` needs")
    packages.add_argument("--browser", action="store_true", help="install Chromium instead, for the tests of /ui")
    commands.add_parser("install-tools", help="unpack prometheus, helm and kubectl, which tests need, below build/")
    commands.add_parser("which", help="print the backend that would be used: uml, host or qemu")
    kernels = commands.add_parser("build", help="build user-mode-linux kernels from Debian's sources, into ~/.cache")
    kernels.add_argument("versions", nargs="*", default=[NEWEST], metavar="VERSION", help=f"default: {NEWEST}")
    commands.add_parser("build-kubernetes", help="build kube-apiserver and kube-proxy, unpack etcd, into ~/.cache")
    return parser


def _run(options: argparse.Namespace) -> int:
    if "LAB_INSIDE" not in os.environ:
        print(f"lab: {choose_backend().describe()}", file=sys.stderr, flush=True)
    return lab.run(options.command, timeout_s=options.timeout, memory=options.mem)


def _install(options: argparse.Namespace) -> int:
    names = install_packages(BROWSER) if options.browser else install(for_tests=not options.for_run)
    print("installed:", " ".join(names) or "nothing was missing")
    return 0


def _install_tools(_: argparse.Namespace) -> int:
    print("unpacked:", " ".join(install_tools()) or "nothing was missing")
    return 0


def _print_backend(_: argparse.Namespace) -> int:
    print(choose_backend().name)
    return 0


def _build(options: argparse.Namespace) -> int:
    for name in build(options.versions):
        print("built:", name)
    return 0


def _build_kubernetes(_: argparse.Namespace) -> int:
    folder = build_kubernetes.build()
    print(f"KUBEBUILDER_ASSETS={folder}\nKUBE_PROXY_BIN={folder / 'kube-proxy'}")
    return 0


def _exit_on_signal(number: int, _: FrameType | None) -> None:
    sys.exit(128 + number)


_COMMANDS = {
    "run": _run,
    "install": _install,
    "install-tools": _install_tools,
    "which": _print_backend,
    "build": _build,
    "build-kubernetes": _build_kubernetes,
}

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
