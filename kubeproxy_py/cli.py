"""The command line: run | plan | status | check | cleanup.

Law: a verb is a few lines that call down.  Without a verb it is ``run``, so that a kube-proxy command line works as
it stands.  Exit status: 0 done, 1 failed, 2 the command line or the configuration can't be used (kube-proxy says 1
to both): the first may be worth another try, the second is not before somebody has mended it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from kubeproxy_py import __version__
from kubeproxy_py.config.errors import ConfigError, error_text

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from kubeproxy_py.config.load import ConfigInput, LoadedConfig

FAILED, UNUSABLE, INTERRUPTED = 1, 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the command line says; its exit status."""
    words = [_with_dashes(word) for word in (sys.argv[1:] if argv is None else argv)]
    if not _VERSION.isdisjoint(words):
        print(f"kubeproxy-py {__version__}")  # noqa: T201 - what was asked for
        return 0
    if not words or (words[0].startswith("-") and words[0] not in ("-h", "--help")):
        words.insert(0, "run")
    arguments = _parser().parse_args(words)
    try:
        return _do(arguments)
    except ConfigError as error:
        print(error_text(error), file=sys.stderr)  # noqa: T201 - before there is a log
        return UNUSABLE
    except KeyboardInterrupt:
        return INTERRUPTED


_VERSION = frozenset(("--version", "--version=true", "--version=raw"))  # kube-proxy takes it anywhere


def _with_dashes(word: str) -> str:
    """``--cluster_cidr=X`` as ``--cluster-cidr=X``: all Kubernetes components take both (WordSepNormalizeFunc)."""
    name, equals, value = word.partition("=")
    return f"{name.replace('_', '-')}{equals}{value}" if word.startswith("--") else word


def _do(arguments: Namespace) -> int:
    """Carry out the verb; what must be mended elsewhere is one line in the log.  Raises ConfigError."""
    from kubeproxy_py.config.load import asked
    from kubeproxy_py.kernel.errors import KernelError
    from kubeproxy_py.sources import SourceError

    try:
        return _VERBS[arguments.verb][1](asked(arguments), arguments)
    except (KernelError, SourceError) as error:
        import logging

        logging.getLogger(__name__).error(str(error))
        return FAILED


def _parser() -> ArgumentParser:
    from argparse import ArgumentParser

    from kubeproxy_py.config import flags

    parser = ArgumentParser(
        prog="kubeproxy-py",
        description="kube-proxy in IPVS mode, as a node agent of its own.",
        epilog="Without a verb it runs, as kube-proxy does with the same flags: see kubeproxy-py run --help.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for verb, (text, _) in _VERBS.items():
        each = verbs.add_parser(verb, help=text, description=text, allow_abbrev=False)
        flags.add_to(each)
        if verb == "plan":
            each.add_argument("--assume-empty", action="store_true", help="against a kernel that has nothing yet")
            each.add_argument("-o", "--output", choices=("text", "json"), default="text", help="how to print it")
    return parser


def _loaded(words: ConfigInput) -> LoadedConfig:
    """The configuration, with the log set up by it and its warnings told.  Raises ConfigError."""
    import logging

    from kubeproxy_py import logging_setup as logs
    from kubeproxy_py.config.load import load

    loaded = load(words.given, words.content)
    logs.setup(loaded.config.logging.format, loaded.config.logging.verbosity)
    for warning in loaded.warnings:
        logging.getLogger(__name__).warning(str(warning))
    return loaded


def _run(words: ConfigInput, _arguments: Namespace) -> int:
    """Run, or do what a flag of kube-proxy asks for instead; the order is kube-proxy's."""
    from kubeproxy_py.commands.check import write_config
    from kubeproxy_py.commands.cleanup import cleanup
    from kubeproxy_py.commands.run import init_only, run

    loaded = _loaded(words)
    if loaded.own.write_config_to:
        return write_config(loaded)
    if loaded.own.cleanup:
        return cleanup(loaded)
    return init_only(loaded) if loaded.own.init_only else run(loaded, words)


def _plan(words: ConfigInput, arguments: Namespace) -> int:
    from kubeproxy_py.commands.plan import plan

    return plan(_loaded(words), assume_empty=arguments.assume_empty, as_json=arguments.output == "json")


def _status(words: ConfigInput, _arguments: Namespace) -> int:
    from kubeproxy_py.commands.status import status

    return status(_loaded(words))


def _check(words: ConfigInput, _arguments: Namespace) -> int:
    from kubeproxy_py.commands.check import check

    return check(words)


def _cleanup(words: ConfigInput, _arguments: Namespace) -> int:
    from kubeproxy_py.commands.cleanup import cleanup

    return cleanup(_loaded(words))


_VERBS: dict[str, tuple[str, Callable[[ConfigInput, Namespace], int]]] = {
    "run": ("keep this node's kernel as the Services ask, until told to stop", _run),
    "plan": ("print what a sync would change now, and change nothing", _plan),
    "status": ("print the virtual servers that the kernel has, with the Services' names", _status),
    "check": ("say what is wrong with a configuration, all at once, or ok; exit status 2 or 0", _check),
    "cleanup": ("remove all that is ours from the kernel, and nothing else", _cleanup),
}
