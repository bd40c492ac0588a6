"""argparse parser for the flags: every command accepts every flag, and its help shows those that matter to it."""

from __future__ import annotations

from argparse import SUPPRESS, ArgumentParser, Namespace
from typing import Any

from kubeproxy_py.config.fields import BOOLEAN
from kubeproxy_py.config.flags import FLAGS, GROUPS, Flag, default_text, field_type_of


def add_flags(parser: ArgumentParser, command: str) -> None:
    """Add every flag to *parser*, the parser of *command*; flags that are not given leave no attribute behind."""
    for title, flags in GROUPS:
        shown = [flag for flag in flags if command in flag.commands]
        group = parser.add_argument_group(title) if shown else parser
        for flag in flags:
            (group if flag in shown else parser).add_argument(
                *_option_strings(flag),
                dest=_destination(flag),
                action="append",
                default=SUPPRESS,
                metavar=field_type_of(flag).metavar,
                help=_help(flag) if flag in shown else SUPPRESS,
                **_boolean_options(flag),
            )


def given_flags(namespace: Namespace) -> dict[str, str]:
    """Return the text of each given flag by name; of a repeated flag the last text, or all if its values accumulate."""
    attributes = vars(namespace)
    return {
        flag.name: ",".join(texts) if field_type_of(flag).accumulates else texts[-1]
        for flag in FLAGS
        if (texts := attributes.get(_destination(flag)))
    }


def _boolean_options(flag: Flag) -> dict[str, Any]:
    """Return the argparse options by which ``--masquerade-all`` means ``--masquerade-all=true``."""
    return {"nargs": "?", "const": "true"} if field_type_of(flag).read is BOOLEAN.read else {}


def _destination(flag: Flag) -> str:
    return f"flag:{flag.name}"  # no other option can have this name


def _option_strings(flag: Flag) -> tuple[str, ...]:
    """Return the spellings of *flag*; kube-proxy accepts ``--v`` as well as ``-v``."""
    return (f"-{flag.name}", f"--{flag.name}") if len(flag.name) == 1 else (f"--{flag.name}",)


def _help(flag: Flag) -> str:
    default = "" if flag.help.startswith("ignored") else default_text(flag)
    return f"{flag.help} (default {default})" if default else flag.help
