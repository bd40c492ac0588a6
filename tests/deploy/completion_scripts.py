"""Generator of the completion scripts in kubeproxy_py/completion/ from the parsers of the commands (`make completion`).

The only module that imports shtab.
"""

from __future__ import annotations

from argparse import SUPPRESS, Action, ArgumentParser
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import shtab

import kubeproxy_py
from kubeproxy_py.commands.completion import _FILES
from kubeproxy_py.commands.help import parser_of
from kubeproxy_py.commands.table import COMMANDS
from kubeproxy_py.config.flags import FLAGS, field_type_of

FOLDER = Path(kubeproxy_py.__file__).parent / "completion"

_PROGRAM = "kubeproxy-py"
_FILE_TYPES = {"FILE": shtab.FILE, "DIR": shtab.DIRECTORY}  # by metavar
_CHOICES = {f"flag:{flag.name}": field_type_of(flag).choices for flag in FLAGS}  # by argparse's dest

# bash has "=" among the characters that separate words, so that --flag=value is three of them, and shtab expects two.
# COMP_WORDS and COMP_CWORD are made anew for what shtab's function, which is called here, sees.
_BASH_EQUALS = """
_kubeproxy_py() {
  local -a words=()
  local index current=0
  for ((index = 0; index < ${#COMP_WORDS[@]}; index++)); do
    if [[ ${COMP_WORDS[index]} != "=" ]]; then
      words+=("${COMP_WORDS[index]}")
    elif ((index == COMP_CWORD)); then
      words+=("")
    fi
    ((index == COMP_CWORD)) && current=$((${#words[@]} - 1))
  done
  local -a COMP_WORDS=("${words[@]}")
  local COMP_CWORD=$current
  _shtab_kubeproxy_py "$@"
}

complete -o bashdefault -F _kubeproxy_py kubeproxy-py
"""


def scripts() -> Iterator[tuple[str, str]]:
    """Yield the name and the content of each script."""
    for shell, name in _FILES.items():
        script = shtab.complete(_parser(), shell).rstrip() + "\n"
        yield name, script + (_BASH_EQUALS if shell == "bash" else "")


def _parser() -> ArgumentParser:
    """Return one parser of all commands, and of the flags of run, which is the command where none is named."""
    parser = ArgumentParser(_PROGRAM, add_help=False)
    parser.add_argument("-h", "--help", action="store_true", help="print the help")
    parser.add_argument("--version", action="store_true", help="print the version")
    _copy_flags(parser_of("run"), parser)
    commands = parser.add_subparsers()
    for name, command in COMMANDS.items():
        copy = commands.add_parser(name, help=command.summary, add_help=False)
        copy.add_argument("-h", "--help", action="store_true", help="print the help")
        _copy_flags(parser_of(name), copy)
        _copy_positionals(parser_of(name), copy)
    return parser


def _copy_flags(source: ArgumentParser, target: ArgumentParser) -> None:
    for action in source._actions:
        if not action.option_strings or action.help == SUPPRESS or action.dest == "help":
            continue
        if action.nargs in (0, "?"):  # true or false, and true without a value
            target.add_argument(*action.option_strings, dest=action.dest, action="store_true", help=action.help)
        else:
            choices = action.choices or _CHOICES.get(action.dest) or None
            metavar = None if choices else action.metavar
            options: dict[str, Any] = {"choices": choices, "metavar": metavar, "help": action.help}
            _with_files(target.add_argument(*action.option_strings, dest=action.dest, **options), action)


def _copy_positionals(source: ArgumentParser, target: ArgumentParser) -> None:
    for action in source._actions:
        if action.option_strings:
            continue
        choices = action.choices or (tuple(COMMANDS) if action.dest == "command" else None)
        copy = target.add_argument(action.dest, nargs=action.nargs, choices=choices, help=action.help)
        _with_files(copy, action)


def _with_files(copy: Action, action: Action) -> None:
    if file_type := _FILE_TYPES.get(str(action.metavar)):
        copy.complete = file_type  # type: ignore[attr-defined]  # an attribute that shtab defines


def main() -> None:
    """Write the scripts."""
    FOLDER.mkdir(exist_ok=True)
    for name, script in scripts():
        (FOLDER / name).write_text(script, encoding="utf-8")


if __name__ == "__main__":
    main()
