"""Programs of iptables, each behind a shell script, for an agent that finds these first on its PATH."""

from __future__ import annotations

from pathlib import Path

_PROGRAMS = [f"{name}-{backend}" for name in ("iptables", "ip6tables") for backend in ("legacy", "nft")]


class WrappedPrograms:
    """The programs that are installed whose names end with one of *verbs* (save, restore).

    Their scripts are in the new *folder* and consist of the lines *script*, in which `{program}` is the program's name.
    """

    def __init__(self, folder: Path, script: str, *verbs: str) -> None:
        self._folder = folder
        folder.mkdir()
        for program in (f"{name}-{verb}" for name in _PROGRAMS for verb in verbs):
            if Path("/usr/sbin", program).exists():
                wrapper = folder / program
                wrapper.write_text("#!/bin/sh\n" + script.replace("{program}", program))
                wrapper.chmod(0o755)

    def statements(self) -> str:
        """Return the statements that make an agent use them."""
        return f"import os; os.environ['PATH'] = '{self._folder}:' + os.environ['PATH']"
