"""Content of the image that `make image` built."""

from __future__ import annotations

import json
import re
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from image.archive import Archive
from image.bill import PLACE, SITE_PACKAGES
from tests.image.container import ARCHIVE, built_image

pytestmark = pytest.mark.image

PULL_BYTES_MAX = 40_000_000
UNPACKED_BYTES_MAX = 100_000_000
# Programs with which an intruder could download or build others.
TOOLS = {
    "sh",
    "bash",
    "dash",
    "busybox",
    "apt",
    "dpkg",
    "pip",
    "pip3",
    "gcc",
    "cc",
    "ld",
    "make",
    "perl",
    "curl",
    "wget",
}


@pytest.fixture(scope="module")
def image() -> Archive:
    return built_image()


@pytest.fixture(scope="module")
def layer(image: Archive) -> Iterator[tarfile.TarFile]:
    with image.layer() as files:
        yield files


def read(layer: tarfile.TarFile, name: str) -> str:
    return _content(layer, layer.getmember(name)).decode()


def test_image_is_small(image: Archive, layer: tarfile.TarFile) -> None:
    assert image.pull_bytes < PULL_BYTES_MAX
    assert sum(member.size for member in layer) < UNPACKED_BYTES_MAX


def test_image_has_no_shell_no_compiler_and_no_installer(layer: tarfile.TarFile) -> None:
    assert not {name for name in layer.getnames() if Path(name).name in TOOLS and "bin/" in name}
    assert not {name for name in layer.getnames() if re.search(r"site-packages/(pip|setuptools|ensurepip)/", name)}


def test_no_file_is_setuid_or_setgid(layer: tarfile.TarFile) -> None:
    assert not [member.name for member in layer if member.mode & (stat.S_ISUID | stat.S_ISGID)]


def test_only_root_can_write_files(layer: tarfile.TarFile) -> None:
    assert {(member.uid, member.gid) for member in layer} == {(0, 0)}
    writable = [member.name for member in layer if not member.issym() and member.mode & 0o022]
    assert writable == ["tmp"]


def test_only_python_has_file_capabilities(layer: tarfile.TarFile) -> None:
    files = [member.name for member in layer if "SCHILY.xattr.security.capability" in member.pax_headers]
    assert files == ["usr/bin/python3.11"]


def test_all_files_have_the_same_time(image: Archive, layer: tarfile.TarFile) -> None:
    (time_s,) = {int(member.mtime) for member in layer}
    assert {entry["created"] for entry in image.config["history"]} == {image.config["created"]}
    assert time_s > 0


def test_image_runs_the_path_that_kubeadm_calls_as_an_unprivileged_user(image: Archive, layer: tarfile.TarFile) -> None:
    assert image.config["config"]["User"] == "65532:65532"
    assert image.config["config"]["Entrypoint"] == ["/usr/local/bin/kube-proxy"]
    assert layer.getmember("usr/local/bin/kube-proxy").mode & 0o777 == 0o755


@pytest.mark.parametrize("label", ["title", "description", "licenses", "version", "revision"])
def test_labels_are_set(image: Archive, label: str) -> None:
    assert image.config["config"]["Labels"][f"org.opencontainers.image.{label}"] not in ("", "unknown")


def test_image_has_both_iptables_variants_ipset_and_modprobe(layer: tarfile.TarFile) -> None:
    programs = {
        f"usr/sbin/{family}-{kind}-restore" for family in ("iptables", "ip6tables") for kind in ("legacy", "nft")
    }
    assert programs | {"usr/sbin/ipset", "usr/sbin/modprobe"} <= set(layer.getnames())


def test_each_module_has_its_byte_code(layer: tarfile.TarFile) -> None:
    """On a read-only root Python cannot cache it and would compile at each start."""
    names = set(layer.getnames())
    modules = {name for name in names if re.search(r"site-packages/kubeproxy_py/.*\.py$", name)}
    compiled = {re.sub(r"([^/]*)\.py$", r"__pycache__/\1.cpython-311.pyc", name) for name in modules}
    assert modules
    assert compiled <= names


def test_byte_code_contains_no_time(layer: tarfile.TarFile) -> None:
    """Flags 1: the source's hash, unchecked; PEP 552."""
    compiled = [member for member in layer if member.name.endswith(".pyc")]
    flags = {int.from_bytes(_content(layer, member)[4:8], "little") for member in compiled}
    assert flags == {1}


def test_pruned_libraries_are_not_in_the_image(layer: tarfile.TarFile) -> None:
    pruned = {name for name in layer.getnames() if name.startswith(f"{SITE_PACKAGES}/kubernetes/aio")}
    pruned |= {name for name in layer.getnames() if re.search(r"site-packages/(aiohttp|attr|yarl|multidict)\b", name)}
    assert not pruned


def test_bill_of_materials_names_exactly_the_packages_of_the_image(layer: tarfile.TarFile) -> None:
    bill = json.loads(read(layer, PLACE))
    urls = {component["purl"] for component in bill["components"]}
    debian = {Path(name).name for name in layer.getnames() if name.startswith("var/lib/dpkg/status.d/")}
    python = {_name(layer, name) for name in layer.getnames() if re.search(r"site-packages/[^/]*\.dist-info$", name)}
    assert {re.split(r"[/@]", url)[2] for url in urls if url.startswith("pkg:deb/")} == debian
    assert {re.split(r"[/@]", url)[1] for url in urls if url.startswith("pkg:pypi/")} == python - {"kubeproxy-py"}
    assert len(urls) == len(bill["components"]) == len(debian) + len(python) - 1


def test_bill_of_materials_beside_the_archive_is_that_of_the_image(layer: tarfile.TarFile) -> None:
    assert ARCHIVE.with_name("kubeproxy-py.cdx.json").read_text() == read(layer, PLACE)


def _content(layer: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = layer.extractfile(member)
    assert file
    return file.read()


def _name(layer: tarfile.TarFile, folder: str) -> str:
    """Return the normalized name of the distribution whose metadata is in *folder*."""
    metadata = read(layer, f"{folder}/METADATA")
    match = re.search(r"^Name: (.*)$", metadata, re.MULTILINE)
    assert match
    return re.sub(r"[-_.]+", "-", match[1].strip()).lower()
