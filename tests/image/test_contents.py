"""What is in the image that `make image` built, and what is not."""

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
# What a program that got in could use to bring more in, or to build it.
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


def test_it_is_small(image: Archive, layer: tarfile.TarFile) -> None:
    assert image.pull_bytes < PULL_BYTES_MAX
    assert sum(member.size for member in layer) < UNPACKED_BYTES_MAX


def test_there_is_no_shell_no_compiler_and_no_installer(layer: tarfile.TarFile) -> None:
    assert not {name for name in layer.getnames() if Path(name).name in TOOLS and "bin/" in name}
    assert not {name for name in layer.getnames() if re.search(r"site-packages/(pip|setuptools|ensurepip)/", name)}


def test_no_file_raises_who_runs_it_to_another_user(layer: tarfile.TarFile) -> None:
    assert not [member.name for member in layer if member.mode & (stat.S_ISUID | stat.S_ISGID)]


def test_nobody_but_root_can_write_a_file(layer: tarfile.TarFile) -> None:
    assert {(member.uid, member.gid) for member in layer} == {(0, 0)}
    writable = [member.name for member in layer if not member.issym() and member.mode & 0o022]
    assert writable == ["tmp"]


def test_one_file_has_capabilities(layer: tarfile.TarFile) -> None:
    carriers = [member.name for member in layer if "SCHILY.xattr.security.capability" in member.pax_headers]
    assert carriers == ["usr/bin/python3.11"]


def test_all_times_are_one(image: Archive, layer: tarfile.TarFile) -> None:
    (time_s,) = {int(member.mtime) for member in layer}
    assert {entry["created"] for entry in image.config["history"]} == {image.config["created"]}
    assert time_s > 0


def test_it_runs_as_nobody_in_particular_the_path_that_kubeadm_calls(image: Archive, layer: tarfile.TarFile) -> None:
    assert image.config["config"]["User"] == "65532:65532"
    assert image.config["config"]["Entrypoint"] == ["/usr/local/bin/kube-proxy"]
    assert layer.getmember("usr/local/bin/kube-proxy").mode & 0o777 == 0o755


@pytest.mark.parametrize("label", ["title", "description", "licenses", "version", "revision"])
def test_its_labels_tell_what_it_is(image: Archive, label: str) -> None:
    assert image.config["config"]["Labels"][f"org.opencontainers.image.{label}"] not in ("", "unknown")


def test_both_flavours_of_iptables_and_the_tools_beside_netlink_are_there(layer: tarfile.TarFile) -> None:
    wanted = {f"usr/sbin/{family}-{kind}-restore" for family in ("iptables", "ip6tables") for kind in ("legacy", "nft")}
    assert wanted | {"usr/sbin/ipset", "usr/sbin/modprobe"} <= set(layer.getnames())


def test_each_module_has_its_byte_code(layer: tarfile.TarFile) -> None:
    """On a root that is read-only Python could not keep it, and would compile at each start."""
    names = set(layer.getnames())
    ours = {name for name in names if re.search(r"site-packages/kubeproxy_py/.*\.py$", name)}
    compiled = {re.sub(r"([^/]*)\.py$", r"__pycache__/\1.cpython-311.pyc", name) for name in ours}
    assert ours
    assert compiled <= names


def test_no_byte_code_holds_a_time(layer: tarfile.TarFile) -> None:
    """Flags 1: the source's hash, unchecked; PEP 552."""
    compiled = [member for member in layer if member.name.endswith(".pyc")]
    flags = {int.from_bytes(_content(layer, member)[4:8], "little") for member in compiled}
    assert flags == {1}


def test_what_was_cut_from_the_libraries_is_gone(layer: tarfile.TarFile) -> None:
    found = {name for name in layer.getnames() if name.startswith(f"{SITE_PACKAGES}/kubernetes/aio")}
    found |= {name for name in layer.getnames() if re.search(r"site-packages/(aiohttp|attr|yarl|multidict)\b", name)}
    assert not found


def test_the_bill_of_materials_names_each_package_and_no_other(layer: tarfile.TarFile) -> None:
    bill = json.loads(read(layer, PLACE))
    urls = {component["purl"] for component in bill["components"]}
    debian = {Path(name).name for name in layer.getnames() if name.startswith("var/lib/dpkg/status.d/")}
    python = {_name(layer, name) for name in layer.getnames() if re.search(r"site-packages/[^/]*\.dist-info$", name)}
    assert {re.split(r"[/@]", url)[2] for url in urls if url.startswith("pkg:deb/")} == debian
    assert {re.split(r"[/@]", url)[1] for url in urls if url.startswith("pkg:pypi/")} == python - {"kubeproxy-py"}
    assert len(urls) == len(bill["components"]) == len(debian) + len(python) - 1


def test_the_bill_of_materials_lies_beside_the_archive(layer: tarfile.TarFile) -> None:
    assert ARCHIVE.with_name("kubeproxy-py.cdx.json").read_text() == read(layer, PLACE)


def _content(layer: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = layer.extractfile(member)
    assert file
    return file.read()


def _name(layer: tarfile.TarFile, folder: str) -> str:
    """The normalized name of the distribution whose metadata is in *folder*."""
    metadata = read(layer, f"{folder}/METADATA")
    found = re.search(r"^Name: (.*)$", metadata, re.MULTILINE)
    assert found
    return re.sub(r"[-_.]+", "-", found[1].strip()).lower()
