"""The fast tests on every supported interpreter that is installed, other than the one of .venv: `make pythons`."""

import nox

nox.options.default_venv_backend = "venv"
nox.options.reuse_existing_virtualenvs = True


@nox.session(python=["3.12", "3.13"])
def tests(session: nox.Session) -> None:
    """Run the fast tests with the locked dependencies."""
    session.install("--quiet", "--require-hashes", "-r", "requirements.lock", silent=True)
    session.install("--quiet", "--no-build-isolation", "--no-deps", "--editable", ".", silent=True)
    session.run("python", "-m", "pytest", "-p", "no:cacheprovider", *session.posargs)
