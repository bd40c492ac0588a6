"""What is in the Debian package that `make deb` built."""

from __future__ import annotations

import gzip
import subprocess
from pathlib import Path

import pytest

from image.build import own_processor
from image.deb import REPOSITORY, package_path
from kubeproxy_py import __version__
from kubeproxy_py.commands.table import COMMANDS
from tests.deploy.manifests import DEPLOY

pytestmark = pytest.mark.image


@pytest.fixture(scope="module")
def package() -> Path:
    return package_path(own_processor())


@pytest.fixture(scope="module")
def tree(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("package")
    subprocess.run(["dpkg-deb", "--extract", str(package), str(folder)], check=True)
    return folder


def test_lintian_finds_nothing_but_what_is_overridden_with_a_reason(package: Path) -> None:
    words = ["lintian", "--fail-on=error,warning", "--allow-root", str(package.with_suffix(".changes"))]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


def test_unit_is_the_shipped_one_with_the_program_of_the_package(tree: Path) -> None:
    [path] = tree.rglob("kubeproxy-py.service")
    shipped = (DEPLOY / "systemd/kubeproxy-py.service").read_text()
    assert path.read_text() == shipped.replace("/opt/kubeproxy-py/bin/", "/usr/sbin/")
    assert "/opt" not in path.read_text()


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("environment", "etc/default/kubeproxy-py"),
        ("config.yaml", "etc/kubeproxy-py/config.yaml"),
        ("modules-load.conf", "usr/lib/modules-load.d/kubeproxy-py.conf"),
        ("sysctl.conf", "usr/lib/sysctl.d/90-kubeproxy-py.conf"),
        ("tmpfiles.conf", "usr/lib/tmpfiles.d/kubeproxy-py.conf"),
    ],
)
def test_file_of_the_unit_is_the_shipped_one(tree: Path, name: str, place: str) -> None:
    assert (tree / place).read_text() == (DEPLOY / "systemd" / name).read_text()


def test_files_in_etc_are_kept_in_an_upgrade(package: Path) -> None:
    done = subprocess.run(["dpkg-deb", "--info", str(package), "conffiles"], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["/etc/default/kubeproxy-py", "/etc/kubeproxy-py/config.yaml"]


def test_package_runs_where_it_is_unpacked_to(tree: Path) -> None:
    site = tree / "usr/lib/kubeproxy-py/lib/python3.11/site-packages"
    words = ["/usr/bin/python3.11", "-I", "-c", "import sys; sys.path[:0] = [sys.argv.pop(1)]; "
             "from kubeproxy_py.__main__ import main; sys.exit(main())", str(site), "--version"]  # fmt: skip
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.split()[0]) == (0, "kubeproxy-py"), done.stderr


def test_package_has_a_manual_page_of_each_command_with_its_version(tree: Path) -> None:
    pages = sorted((tree / "usr/share/man/man8").iterdir())
    assert [page.name for page in pages] == sorted(
        ["kubeproxy-py.8.gz", *(f"kubeproxy-py-{name}.8.gz" for name in COMMANDS)]
    )
    for page in pages:
        assert f"kubeproxy\\-py {__version__}" in gzip.decompress(page.read_bytes()).decode()


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("kubeproxy-py.bash", "bash-completion/completions/kubeproxy-py"),
        ("_kubeproxy-py", "zsh/vendor-completions/_kubeproxy-py"),
        ("kubeproxy-py.fish", "fish/vendor_completions.d/kubeproxy-py.fish"),
    ],
)
def test_completion_is_where_its_shell_looks_for_it(tree: Path, name: str, place: str) -> None:
    shipped = (REPOSITORY / "kubeproxy_py/completion" / name).read_text()
    assert (tree / "usr/share" / place).read_text() == shipped


def test_unit_names_the_manual_page_of_the_package(tree: Path) -> None:
    [path] = tree.rglob("kubeproxy-py.service")
    assert "Documentation=man:kubeproxy-py(8) " in path.read_text()
