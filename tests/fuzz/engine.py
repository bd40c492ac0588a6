"""Fuzz one reader by atheris until the time is over or a fault is found.

``python -m tests.fuzz READER ...`` runs this in the environment build/atheris, with libFuzzer's arguments.  Code of
the package is instrumented, so that an input that reaches new code is kept and changed further.

Source: github.com/google/atheris, llvm.org/docs/LibFuzzer.html.
"""

import sys

import atheris

with atheris.instrument_imports(include=["kubeproxy_py"]):
    # What readers import when they are used first; the rest follows from readers.py.
    import kubeproxy_py.sources.manifests.yaml_documents
    import kubeproxy_py.yaml_loader  # noqa: F401
    from tests.fuzz.readers import READERS


def main() -> None:
    """Fuzz; the process ends with a status other than 0 if a fault was found."""
    reader = next(reader for reader in READERS if reader.name == sys.argv[1])

    def read(data: bytes) -> None:
        reader.run(data)

    atheris.Setup([sys.argv[0], *sys.argv[2:]], read)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
