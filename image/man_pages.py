"""Generator of the manual pages from the parsers of the commands: build/man/ (`make man`), and the Debian package.

The same commit, or the same SOURCE_DATE_EPOCH, gives the same bytes.  groff_man(7) describes the macros.
"""

from __future__ import annotations

import os
import subprocess
import sys
from argparse import SUPPRESS, Action, ArgumentParser
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from kubeproxy_py import __version__
from kubeproxy_py.commands.help import parser_of
from kubeproxy_py.commands.table import COMMANDS, EXAMPLES, PROGRAM

REPOSITORY = Path(__file__).resolve().parents[1]
FOLDER = REPOSITORY / "build/man"
SECTION = 8  # commands for the administrator

_SEE_ALSO = ("ipvsadm", "ipset", "iptables", "conntrack")
_DEFAULT_GROUPS = ("options", "optional arguments")  # argparse's own names, by Python's version
_EXIT_STATUS = {
    "plan": (("0", "nothing to change"), ("1", "any error"), ("2", "changes")),
    "explain": (("0", "all is well"), ("1", "unknown, or it could not be looked at"), ("2", "something is wrong")),
    "trace": (("0", "a real server or this node answers"), ("1", "it is unknown"), ("2", "it is not answered")),
    "doctor": (("0", "nothing is wrong"), ("1", "a check could not look"), ("2", "something is wrong")),
    "check": (("0", "valid"), ("1", "an object or the kubeconfig is not"), ("2", "the configuration is not")),
}
_USUAL_EXIT_STATUS = (
    ("0", "success"),
    ("1", "failure, which may succeed if tried again"),
    ("2", "the command line or the configuration cannot be used"),
)
_ENVIRONMENT = (
    ("KUBECONFIG", "the kubeconfig of all commands but run, if neither a flag nor the configuration file names one"),
    ("NO_COLOR", "if it is not empty, no colours"),
)
_FILES = (
    ("/var/lib/kube-proxy/config.conf", "kube-proxy's configuration file, where kubeadm mounts it"),
    ("/etc/kubeproxy-py/config.yaml", "the configuration file of the systemd unit"),
    ("/etc/default/kubeproxy-py", "the flags of the systemd unit"),
    ("/run/kubeproxy-py/debug.sock", "the socket at which commands ask the running agent (--debug-socket)"),
    ("/var/lib/kubeproxy-py", "saved objects of the API server (--state-dir)"),
)


def pages(date: str) -> Iterator[tuple[str, str]]:
    """Yield the file name and the content of each page; *date* is in their footer."""
    yield f"{PROGRAM}.{SECTION}", _text(_overview(date))
    for name in COMMANDS:
        yield f"{PROGRAM}-{name}.{SECTION}", _text(_command(name, date))


def _overview(date: str) -> Iterator[str]:
    yield from _head("", date, "implement kube-proxy's IPVS mode")
    yield from (".SH SYNOPSIS", f".B {_escaped(PROGRAM)}", "[COMMAND] [FLAGS]", ".SH DESCRIPTION")
    yield _escaped("A standalone node agent that implements kube-proxy's IPVS mode.")
    yield _escaped("The default command is run, which accepts every flag of kube-proxy.")
    yield ".SH COMMANDS"
    for name, command in COMMANDS.items():
        yield from _entry(rf"\fB{_escaped(PROGRAM)}\-{name}\fR({SECTION})", command.summary)
    yield ".SH EXAMPLES"
    yield from _examples(EXAMPLES)
    yield from _lists(_USUAL_EXIT_STATUS)
    yield from _see_also(COMMANDS)


def _command(name: str, date: str) -> Iterator[str]:
    command, parser = COMMANDS[name], parser_of(name)
    yield from _head(f"-{name}", date, command.summary)
    yield from (".SH SYNOPSIS", rf".B {_escaped(PROGRAM)} {name}", _escaped(command.usage), ".SH DESCRIPTION")
    yield from _paragraphs(command.details)
    yield ".SH OPTIONS"
    yield from _options(parser)
    yield ".SH EXAMPLES"
    yield from _examples(command.examples)
    yield from _lists(_EXIT_STATUS.get(name, _USUAL_EXIT_STATUS))
    yield from _see_also(())


def _head(suffix: str, date: str, summary: str) -> Iterator[str]:
    title = _escaped(f"{PROGRAM}{suffix}")
    yield f'.TH "{title.upper()}" "{SECTION}" "{date}" "{_escaped(f"{PROGRAM} {__version__}")}" "Kubernetes Services"'
    yield from (".nh", ".ad l")  # words of commands must not be hyphenated, nor lines with long ones be justified
    yield ".SH NAME"
    yield rf"{title} \- {_escaped(summary[0].lower() + summary[1:])}"


def _options(parser: ArgumentParser) -> Iterator[str]:
    for group in parser._action_groups:
        actions = [action for action in group._group_actions if action.help != SUPPRESS]
        if actions and group.title not in (*_DEFAULT_GROUPS, "positional arguments"):
            yield f".SS {_escaped(str(group.title))}"
        for action in actions:
            yield from _entry(_tag(action), str(action.help))


def _tag(action: Action) -> str:
    value = rf"\fI{_escaped(str(action.metavar))}\fR" if action.metavar and action.nargs != 0 else ""
    if not action.option_strings:
        return value
    names = ", ".join(rf"\fB{_escaped(option)}\fR" for option in action.option_strings)
    return f"{names} [{value}]" if action.nargs == "?" else f"{names} {value}".rstrip()


def _lists(statuses: Iterable[tuple[str, str]]) -> Iterator[str]:
    for title, rows in (("EXIT STATUS", statuses), ("ENVIRONMENT", _ENVIRONMENT), ("FILES", _FILES)):
        yield f".SH {title}"
        for name, text in rows:
            yield from _entry(rf"\fB{_escaped(name)}\fR", text)


def _examples(examples: Iterable[tuple[str, str]]) -> Iterator[str]:
    for number, (comment, arguments) in enumerate(examples):
        if number:
            yield ".PP"
        yield _escaped(f"{comment}:")
        yield from (".PP", ".RS 4", ".nf", _escaped(f"{PROGRAM} {arguments}".rstrip()), ".fi", ".RE")


def _see_also(commands: Iterable[str]) -> Iterator[str]:
    yield ".SH SEE ALSO"
    own = [f"{PROGRAM}-{name}" for name in commands] or [PROGRAM]
    names = [*((name, SECTION) for name in own), *((name, 8) for name in _SEE_ALSO)]
    yield ",\n".join(f".BR {_escaped(name)} ({section})" for name, section in names).replace(",\n", " ,\n")


def _entry(tag: str, text: str) -> Iterator[str]:
    yield from (".TP", tag, *_sentences(text))


def _paragraphs(text: str) -> Iterator[str]:
    yield from _sentences(" ".join(text.split("\n")))


def _sentences(text: str) -> Iterator[str]:
    """Yield a line for each sentence, as roff wants it for the space between them, none longer than 80 characters."""
    for sentence in text.replace(". ", ".\n").split("\n"):
        line = ""
        for word in sentence.split():
            if line and len(line) + 1 + len(word) > 72:
                yield _escaped(line)
                line = ""
            line = f"{line} {word}".lstrip()
        if line:
            yield _escaped(line)


def _escaped(text: str) -> str:
    """Return *text* for roff: a line may not begin with a control character, and a hyphen is to be copied as one."""
    text = text.replace("\\", r"\e").replace("-", r"\-")
    return rf"\&{text}" if text.startswith((".", "'")) else text


def _text(lines: Iterable[str]) -> str:
    return "\n".join(line for line in lines if line) + "\n"


def commit_date() -> str:
    """Return the date of SOURCE_DATE_EPOCH, else of the last commit."""
    seconds = os.environ.get("SOURCE_DATE_EPOCH")
    if not seconds:
        argv = ["git", "-C", str(REPOSITORY), "log", "-1", "--format=%ct"]
        seconds = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    return datetime.fromtimestamp(int(seconds), UTC).date().isoformat()


def main() -> None:
    """Write the pages to the folder that the command line names, or to build/man."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in pages(commit_date()):
        (folder / name).write_text(content, encoding="utf-8")


if __name__ == "__main__":
    main()
