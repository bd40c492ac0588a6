"""Build kube-apiserver and kube-proxy from Debian's sources, and unpack etcd, for `make real-kubernetes`.

Debian 12 is the last release whose source package has all of Kubernetes; later ones have kubectl alone.  The programs
are in the cache all or not at all:

    ~/.cache/kubeproxy-py/kubernetes/1.20.2/    version of Kubernetes
        kube-apiserver, kube-proxy, etcd

It takes 5 to 15 minutes on two CPUs and 3 GB of disk meanwhile, and 180 MB afterwards.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from lab import debian
from lab.debian import Apt, do, do_logged, locked

PROGRAMS = ("kube-apiserver", "kube-proxy", "etcd")
_SUITE, _GO_SUITE = "bookworm", "bullseye"
_VERSION = "1.20.2"
_BUILT = PROGRAMS[:2]
_GO = "1.15"  # with 1.18 and later its JSON decoder (reflect2 1.0.1) panics
_MODULE = "k8s.io/kubernetes"
_GENERATOR = "vendor/k8s.io/kube-openapi/cmd/openapi-gen"
_GENERATED = ("-O", "zz_generated.openapi", "-h", "hack/boilerplate/boilerplate.generatego.txt", "--logtostderr")
_STAMPED = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")  # without it they call themselves v0.0.0


def build() -> Path:
    """Build the programs, unless they are in the cache; return their folder.

    Raises:
        LabError: A program failed.
    """
    cache = debian.cache("kubernetes")
    cache.mkdir(parents=True, exist_ok=True)
    target = cache / _VERSION
    with locked(cache):
        if not target.is_dir():
            _build(cache, target)
    return target


def _build(cache: Path, target: Path) -> None:
    print(f"lab: building Kubernetes {_VERSION}; this takes 5 to 15 minutes", flush=True)
    work = cache / "work"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    try:
        _unpack(cache / "apt", work)
        programs = work / "programs"
        _compile(work, programs)
        shutil.copy(work / "usr/bin/etcd", programs / "etcd")
        programs.rename(target)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _unpack(lists: Path, work: Path) -> None:
    """Unpack Go and etcd below *work*/usr, and Kubernetes to where Go looks for it without modules."""
    go, apt = Apt(lists, _GO_SUITE), Apt(lists, _SUITE, sources=True)
    for source, names in ((go, (f"golang-{_GO}-go", f"golang-{_GO}-src")), (apt, ("etcd-server",))):
        source.update()
        for name in names:
            do(["dpkg-deb", "--extract", str(source.download(name, work)), str(work)])
    tree = _tree(work)
    tree.mkdir(parents=True)
    do(["tar", "-xf", str(apt.download_source("kubernetes", work)), "--strip-components=1", "-C", str(tree)])


def _tree(work: Path) -> Path:
    return work / "go/src" / _MODULE


def _compile(work: Path, programs: Path) -> None:
    programs.mkdir()
    _build_packages(work, work, _GENERATOR)
    _generate_openapi(work)
    _build_packages(work, programs, *(f"cmd/{name}" for name in _BUILT))


def _build_packages(work: Path, target: Path, *packages: str) -> None:
    words = [str(_go_root(work) / "bin/go"), "build", "-o", f"{target}/", "-ldflags", _linker_flags(_VERSION)]
    _do(work, [*words, *(f"{_MODULE}/{package}" for package in packages)])


def _generate_openapi(work: Path) -> None:
    """Write the one generated file that the archive does not have.  Source: Makefile.generated_files."""
    folders = {path.parent.relative_to(_tree(work)) for path in _tree(work).glob("*/**/*.go") if _is_tagged(path)}
    inputs = sorted(str(folder).replace("staging/src/", "vendor/") for folder in folders)
    words = [str(work / Path(_GENERATOR).name), "--input-dirs", ",".join(f"{_MODULE}/{name}" for name in inputs)]
    _do(work, [*words, "--output-package", f"{_MODULE}/pkg/generated/openapi", *_GENERATED, "-r", str(work / "report")])


def _is_tagged(path: Path) -> bool:
    # What vendor/ links to is in staging/, and these two are no part of the server.
    return not {"code-generator", "sample-apiserver", "kube-openapi", "gengo"} & set(path.parts) and (
        b"+k8s:openapi-gen=" in path.read_bytes()
    )


def _do(work: Path, words: list[str]) -> None:
    do_logged(words, _tree(work), work / "log", _environment(work))


def _go_root(work: Path) -> Path:
    return work / "usr/lib" / f"go-{_GO}"


def _environment(work: Path) -> dict[str, str]:
    """Return the environment of the compiler: nothing is downloaded, and all that it writes is below *work*."""
    return {
        "PATH": f"{_go_root(work)}/bin:{os.environ['PATH']}",
        "HOME": str(work),
        "TMPDIR": str(work),
        "GOROOT": str(_go_root(work)),
        "GOPATH": str(work / "go"),
        "GO111MODULE": "off",  # openapi-gen looks for packages below GOPATH
        "GOPROXY": "off",
        "GOTOOLCHAIN": "local",
        "CGO_ENABLED": "0",
    }


def _linker_flags(version: str) -> str:
    """Return the flags that have the programs know their version.  Source: hack/lib/version.sh."""
    major, minor, _ = version.split(".")
    values = {"gitVersion": f"v{version}", "gitMajor": major, "gitMinor": minor, "gitTreeState": "archive"}
    words = [f"-X {_MODULE}/vendor/{path}.{name}={value}" for path in _STAMPED for name, value in values.items()]
    return " ".join(["-s -w", *words])
