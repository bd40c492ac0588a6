"""Which user-mode-linux kernel the lab runs: the one that is named, else the newest, else Debian's."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab import kernels
from lab.build_kernel import SUITES, build
from lab.job import LabError
from lab.kernels import choose_iptables, choose_kernel


class Cache:
    """A user's cache with kernels that only print their release."""

    def __init__(self, home: Path) -> None:
        self.env = {"XDG_CACHE_HOME": str(home)}
        self.folder = kernels.cache(self.env)

    def add(self, version: str, prints: str | None = None, digest: str | None = None) -> Path:
        """Add a kernel that prints its version, or *prints*; with nothing to print it fails."""
        folder = self.folder / f"{version}-{digest or kernels.configuration_digest()}"
        for name in ("modules", "legacy"):
            (folder / name).mkdir(parents=True)
        release = version.rsplit("-", 1)[0] if prints is None else prints
        (folder / "linux").write_text(f"#!/bin/sh\necho {release}\n" if release else "#!/bin/sh\nexit 1\n")
        (folder / "linux").chmod(0o755)
        return folder

    def chosen(self, named: str = "") -> str:
        return choose_kernel({**self.env, "LAB_KERNEL": named}).name


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path)


def test_newest_built_kernel_runs_unless_another_is_named(cache: Cache) -> None:
    for version in ("6.12.30-1", "7.10.1-1", "7.9.2-1"):
        cache.add(version)
    assert cache.chosen("newest").startswith("7.10.1-1-")
    assert cache.chosen() == cache.chosen("newest")
    assert cache.chosen("debian") == "debian"


@pytest.mark.parametrize("built", [(), ("7.2.13-1",)], ids=["none", "one that does not run here"])
def test_the_package_s_kernel_runs_where_no_other_does(cache: Cache, built: tuple[str, ...]) -> None:
    for version in built:
        cache.add(version, prints="")
    assert cache.chosen() == "debian"


def test_newest_is_rejected_if_none_was_built(cache: Cache) -> None:
    with pytest.raises(LabError, match="built: none"):
        cache.chosen("newest")


def test_named_kernel_runs(cache: Cache) -> None:
    for version in ("7.2.13-1", "6.12.30-1", "6.1.99-1"):
        cache.add(version)
    assert cache.chosen("6.1").startswith("6.1.99-1-")


def test_kernel_of_another_configuration_is_not_used(cache: Cache) -> None:
    old = cache.add("7.2.13-1", digest="0" * 8).name
    with pytest.raises(LabError, match="built: none"):
        cache.chosen(old)


def test_incomplete_kernel_is_not_used(cache: Cache) -> None:
    (cache.add("7.2.13-1") / "legacy").rmdir()
    with pytest.raises(LabError, match="built: none"):
        cache.chosen("7.2")


def test_kernel_that_does_not_run_here_is_passed_over(cache: Cache) -> None:
    cache.add("7.2.13-1", prints="")
    cache.add("6.12.30-1")
    assert cache.chosen("newest").startswith("6.12.30-1-")


def test_unknown_kernel_is_rejected_with_those_that_were_built(cache: Cache) -> None:
    name = cache.add("6.12.30-1").name
    with pytest.raises(LabError, match=rf"LAB_KERNEL=5.10 is not a kernel of this machine; built: {name}") as caught:
        cache.chosen("5.10")
    assert "make lab-kernels KERNELS=5.10" in caught.value.hint


@pytest.mark.parametrize(("release", "expected"), [("6.15.9", False), ("6.16.0", True), ("7.2.13", True)])
def test_seccomp_mode_is_used_since_linux_6_16(cache: Cache, release: str, expected: bool) -> None:
    cache.add(f"{release}-1")
    assert choose_kernel({**cache.env, "LAB_KERNEL": "newest"}).has_seccomp_mode is expected


def test_iptables_is_legacy_unless_nft_is_named() -> None:
    assert [choose_iptables(env) for env in ({}, {"LAB_IPTABLES": "nft"})] == ["legacy", "nft"]
    with pytest.raises(LabError, match="LAB_IPTABLES=ebtables"):
        choose_iptables({"LAB_IPTABLES": "ebtables"})


def test_building_an_unknown_version_is_rejected_with_the_known_ones() -> None:
    with pytest.raises(LabError, match=r"no Debian suite is known for 3\.2") as caught:
        build(["3.2"])
    assert caught.value.hint == f"use one of {', '.join(SUITES)}"
