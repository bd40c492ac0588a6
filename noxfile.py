"""The fast tests on every supported interpreter that is installed, other than the one of .venv: `make pythons`.

They are those that run the package: what looks at other files of the repository, or runs other programs, has the same
result with each Python.
"""

import shutil
from pathlib import Path

import nox

nox.options.default_venv_backend = "venv"
nox.options.reuse_existing_virtualenvs = True

_SAME_WITH_EACH_PYTHON = (
    "bench",
    "complaints",
    "conformance",
    "dashboard",
    "demo",
    "deploy",
    "e2e",
    "image",
    "lab_tests",
    "soak",
    "support",
    "test_architecture.py",
    "test_kernel_queue.py",
    "ui",
)

# On Python 3.13 coverage.py uses sys.monitoring (PEP 669), which takes a sixth of the CPU time of the tests; tracing on
# 3.11 takes as long as the tests themselves.  Branches can be measured so on 3.14 only.
_MEASURED = "3.13"
_COVERAGE = ("--cov=kubeproxy_py", "--cov-report=term:skip-covered", "--cov-fail-under=88")


@nox.session(python=["3.12", "3.13"])
def tests(session: nox.Session) -> None:
    """Run the fast tests with the locked dependencies; byte code is compiled only of what is imported."""
    session.install("--quiet", "--no-compile", "--require-hashes", "-r", "tests/requirements.lock", silent=True)
    # Not installed, because sessions that run at once would write the same files in the checkout.
    [libraries] = Path(session.virtualenv.location, "lib").glob("python*/site-packages")
    (libraries / "checkout.pth").write_text(f"{Path.cwd()}\n", encoding="utf-8")
    [metadata] = Path(".venv", "lib").glob("python*/site-packages/kubeproxy_py-*.dist-info")  # what the package needs
    shutil.copytree(metadata, libraries / metadata.name, dirs_exist_ok=True)
    left_out = [f"--ignore=tests/{name}" for name in _SAME_WITH_EACH_PYTHON]
    coverage = _COVERAGE if session.python == _MEASURED and not session.posargs else ()
    words = ("python", "-m", "pytest", "-p", "no:cacheprovider", *coverage, *left_out, *session.posargs)
    session.run(*words, env={"COVERAGE_CORE": "sysmon"})
