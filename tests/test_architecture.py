"""The claims of docs/architecture.md that can be checked by reading the source."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import grimp
import pytest

from kubeproxy_py.plan.plan import BUILD_ORDER

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "kubeproxy_py"
DOCUMENT = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
MODULES = sorted(PACKAGE.rglob("*.py"))
PURE_MODULES = [
    *(path for path in MODULES if path.relative_to(PACKAGE).parts[0] in ("model", "compile", "plan")),
    PACKAGE / "net.py",
]

KUBE_NAMES = PACKAGE / "model" / "kube_names.py"
_KUBE_NAME = re.compile(r"\bKUBE-[A-Z0-9]|^KUBE-$")

CLOCKS = {"time", "datetime", "threading", "asyncio", "sched"}
WITH_CLOCK = {"kubeproxy_py.reconcile", "kubeproxy_py.reconcile.loop", "kubeproxy_py.reconcile.sync_log"}

_MUTABLE_CONSTRUCTORS = {"list", "dict", "set", "bytearray", "defaultdict", "Counter", "OrderedDict", "deque"}
_MUTATING_METHODS = {
    *("add", "append", "appendleft", "clear", "discard", "extend", "insert", "pop", "popitem", "remove"),
    *("setdefault", "sort", "reverse", "update", "intersection_update", "difference_update"),
}


@cache  # building the graph takes 0.1 s
def imports() -> grimp.ImportGraph:
    return grimp.build_graph("kubeproxy_py", include_external_packages=True)


def contracts() -> list[dict[str, Any]]:
    """The contracts of import-linter."""
    settings: list[dict[str, Any]] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"][
        "importlinter"
    ]["contracts"]
    return settings


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def strings(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and value of all string constants except docstrings, which are expressions by themselves."""
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.lineno, node.value


@pytest.mark.parametrize("path", [path for path in MODULES if path != KUBE_NAMES], ids=relative)
def test_names_of_sets_and_chains_are_only_in_kube_names(path: Path) -> None:
    found = [f"{path}:{line}: {text}" for line, text in strings(tree_of(path)) if _KUBE_NAME.search(text)]
    assert found == []


def test_no_module_imports_itself_through_others() -> None:
    graph = imports()
    own = [module for module in graph.modules if module.startswith("kubeproxy_py")]
    circles = [
        (imported, module)
        for module in own
        for imported in graph.find_modules_directly_imported_by(module)
        if imported.startswith("kubeproxy_py") and graph.chain_exists(imported, module)
    ]
    assert circles == []


def test_library_is_imported_only_where_the_document_says() -> None:
    homes = re.findall(r"`(\w+)` in `([\w/]+)\.py`", _section("Who may import whom"))
    assert {library for library, _ in homes} >= {"subprocess", "kubernetes"}
    for library, home in homes:
        module = f"kubeproxy_py.{home.replace('/', '.')}"
        assert imports().find_modules_that_directly_import(library) == {module}


@pytest.mark.parametrize("path", PURE_MODULES, ids=relative)
def test_pure_module_reads_no_clock(path: Path) -> None:
    assert CLOCKS & imports().find_modules_directly_imported_by(module_name(path)) == set()


def test_law_6_contract_of_import_linter_covers_all_of_reconcile_except_the_loop_and_the_log() -> None:
    (law_6,) = [contract for contract in contracts() if contract["name"].startswith("Law 6:")]
    modules = {module_name(path) for path in (PACKAGE / "reconcile").glob("*.py")}
    assert set(law_6["source_modules"]) == modules - WITH_CLOCK
    assert {"time", "datetime", "threading"} <= set(law_6["forbidden_modules"])


def assignments(tree: ast.Module) -> Iterator[tuple[ast.Name, ast.expr]]:
    """The names bound at the top level of a module, with their values."""
    for node in tree.body:
        if isinstance(node, ast.Assign):
            for target in node.targets:
                if isinstance(target, ast.Name):
                    yield target, node.value
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value:
            yield node.target, node.value


def is_mutable(value: ast.expr) -> bool:
    if isinstance(value, ast.Call):
        constructor = value.func.value if isinstance(value.func, ast.Subscript) else value.func
        return isinstance(constructor, ast.Name) and constructor.id in _MUTABLE_CONSTRUCTORS
    return isinstance(value, ast.List | ast.Dict | ast.Set | ast.ListComp | ast.DictComp | ast.SetComp)


def is_constant_name(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id.isupper()


def mutations(tree: ast.Module) -> Iterator[str]:
    """The statements that change a name in upper case: by operator, item or method."""
    for node in ast.walk(tree):
        targets: list[ast.expr] = []
        if isinstance(node, ast.AugAssign):
            targets = [node.target.value if isinstance(node.target, ast.Subscript) else node.target]
        elif isinstance(node, ast.Assign | ast.Delete):
            targets = [target.value for target in node.targets if isinstance(target, ast.Subscript | ast.Attribute)]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            targets = [node.func.value] if node.func.attr in _MUTATING_METHODS else []
        if any(is_constant_name(target) for target in targets):
            yield ast.unparse(node)


@pytest.mark.parametrize("path", PURE_MODULES, ids=relative)
def test_pure_module_has_no_mutable_state(path: Path) -> None:
    tree = tree_of(path)
    assert [name.id for name, value in assignments(tree) if is_mutable(value) and not is_constant_name(name)] == []
    assert list(mutations(tree)) == []
    assert [node for node in ast.walk(tree) if isinstance(node, ast.Global)] == []


@pytest.mark.parametrize("path", PURE_MODULES, ids=relative)
def test_pure_module_gives_a_reason_for_each_cache(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    cached = [number for number, line in enumerate(lines) if re.match(r"\s*@(functools\.)?(lru_)?cache\b", line)]
    assert [lines[number] for number in cached if "# " not in lines[number]] == []


def test_mutable_state_and_mutations_are_recognized() -> None:
    tree = ast.parse(
        "seen = []\nTABLE: dict[str, int] = {}\ncounts = Counter[str]()\nTABLE['a'] = 1\nTABLE.update(b=2)"
    )
    assert [name.id for name, value in assignments(tree) if is_mutable(value)] == ["seen", "TABLE", "counts"]
    assert list(mutations(tree)) == ["TABLE['a'] = 1", "TABLE.update(b=2)"]


def named_paths() -> list[str]:
    """The paths in backticks of the document."""
    spans = re.findall(r"`([^`\s]+)`", DOCUMENT)
    return sorted({span for span in spans if re.fullmatch(r"[\w.*/-]+(\.(py|md|toml|yaml|service)|/)", span)})


@pytest.mark.parametrize("name", named_paths())
def test_path_named_in_the_document_exists(name: str) -> None:
    if "/" in name.rstrip("/") or name.endswith("/"):
        assert any(any(base.glob(name.rstrip("/"))) for base in (ROOT, PACKAGE)), name
    else:  # a neighbour of a path before it
        folders = (ROOT, PACKAGE, ROOT / "lab", ROOT / "image", ROOT / "docs")
        assert any(any(folder.rglob(name)) for folder in folders[1:]) or (ROOT / name).exists(), name


def laws() -> dict[int, str]:
    """By number, the cell of the document that names the tests of the law."""
    rows = re.findall(r"^\| (\d) \| .* \| ([^|]*) \|$", _section("The laws"), re.MULTILINE)
    return {int(number): cell for number, cell in rows}


def _section(title: str) -> str:
    _, _, after = DOCUMENT.partition(f"\n## {title}\n")
    return after.partition("\n## ")[0]


def test_there_are_seven_laws() -> None:
    assert list(laws()) == [1, 2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize("number", range(1, 8))
def test_law_names_a_test_that_exists(number: int) -> None:
    tests = re.findall(r"`(tests/[^`]+)`", laws()[number])
    assert tests
    assert [test for test in tests if not (ROOT / test).exists()] == []


def test_documented_layers_are_those_of_import_linter() -> None:
    (layers,) = [contract["layers"] for contract in contracts() if contract["type"] == "layers"]
    block = _section("Who may import whom").split("```")[1]
    documented = [re.split(r"\s{2,}", line.strip())[0] for line in block.strip().splitlines() if line[:1].strip()]
    assert documented == layers


_KINDS = (
    *("sysctls", "device", "sets", "chains", "jumps", "set entries", "virtual servers", "real servers"),
    *("entries of exact policies", "paths to loopback addresses", "return tunnels", "addresses"),
)


def test_documented_build_order_is_that_of_the_plan() -> None:
    names = (
        *("Sysctl", "Link", "Ipset", "Chain", "Jump", "IpsetEntry", "VirtualServer", "RealServer"),
        *("PolicyEntry", "LoopbackPath", "ReturnTunnel", "Address"),
    )
    assert tuple(kind.__name__ for kind in BUILD_ORDER) == names
    assert ", ".join(_KINDS) in " ".join(DOCUMENT.split())


def test_only_one_module_writes_to_standard_output_and_error() -> None:
    writers = {
        module_name(path)
        for path in MODULES
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Call) and re.fullmatch(r"print|sys\.std(out|err)\.write", ast.unparse(node.func))
    }
    assert writers == {"kubeproxy_py.commands.output"}


_OF_COMMANDS = ("commands/own_view.py", "sources/kubernetes/examine.py")  # whose threads no agent has


def thread_names() -> Iterator[str]:
    """The names of threads of the agent that are constants."""
    starters = ("threads.start", "threads.start_task", "HttpServer")
    for path in MODULES:
        if str(path.relative_to(PACKAGE)) not in _OF_COMMANDS:
            for node in ast.walk(tree_of(path)):
                if isinstance(node, ast.Call) and ast.unparse(node.func) in starters:
                    name = node.args[0]
                    if isinstance(name, ast.Constant) and isinstance(name.value, str):
                        yield name.value


@pytest.mark.parametrize("name", sorted(set(thread_names())))
def test_thread_is_documented(name: str) -> None:
    assert f"`{name}`" in _section("Threads")
