"""Types of command-line arguments for argparse: what reads a value, and names what is wrong with it.

It is imported when the parser of a command is made, not by the help of the program and ``--version``.
"""

from argparse import ArgumentParser, ArgumentTypeError

from kubeproxy_py.net import is_port_number, parse_ip

_MIN_INTERVAL_S, _MAX_INTERVAL_S = 0.1, 3600


def file_name(text: str) -> str:
    """Return *text*, the name of a file.  Raises ArgumentTypeError."""
    if not text:
        raise ArgumentTypeError("no file is named")  # by a variable that is not set; not the kernel of this host
    return text


def object_name(text: str) -> str:
    """Return *text*, the name of an object or a namespace.  Raises ArgumentTypeError."""
    if not text.strip():
        raise ArgumentTypeError("no name is given")  # by a variable that is not set; everything would be listed
    return text


def address(text: str) -> str:
    """Return the canonical form of the address *text*.  Raises ArgumentTypeError."""
    try:
        return parse_ip(text)
    except ValueError as error:
        raise ArgumentTypeError(str(error)) from None


def port(text: str) -> int:
    """Return the port *text*.  Raises ArgumentTypeError."""
    if not is_port_number(text):
        raise ArgumentTypeError(f"{text[:20]!r} is not a port")
    return int(text)


def interval_s(text: str) -> float:
    """Return the seconds *text*.  Raises ArgumentTypeError."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not _MIN_INTERVAL_S <= seconds <= _MAX_INTERVAL_S:
        raise ArgumentTypeError(f"{text[:20]!r} is not a number of seconds from {_MIN_INTERVAL_S} to {_MAX_INTERVAL_S}")
    return seconds


def add_choice(parser: ArgumentParser, short: str, name: str, values: tuple[str, ...], text: str) -> None:
    """Add a flag that has one of *values*, the first by default."""
    names, metavar = filter(None, (short, name)), "|".join(values)
    parser.add_argument(
        *names, choices=values, default=values[0], metavar=metavar, help=f"{text} (default {values[0]})"
    )
