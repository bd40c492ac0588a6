"""completion: print the completion script of a shell.

The scripts are in ``kubeproxy_py/completion/``, written by ``make completion`` from the parsers of the commands
(tests/deploy/completion_scripts.py), so that the library that makes them is not needed where the agent runs.
"""

from importlib.resources import files

_FILES = {"bash": "kubeproxy-py.bash", "zsh": "_kubeproxy-py", "fish": "kubeproxy-py.fish"}  # as each shell wants them


def script_of(shell: str) -> str:
    """Return the script for *shell*: bash, zsh or fish."""
    return files("kubeproxy_py").joinpath("completion", _FILES[shell]).read_text(encoding="utf-8")
