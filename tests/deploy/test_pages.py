"""The commands of the installation pages, extracted and run as far as this machine can.

What is run for real: `helm install` and `helm template` of our chart (rendered), `kubectl apply -k` (rendered),
`kubectl config` (its kubeconfig is read by the agent), YAML blocks with a Kubernetes kind (validated).  Of other
commands of kubectl and helm, and of those in the text, verb and flags are compared with the program's own help; bash's
parser reads all blocks.  Where a real kube-apiserver is installed, test_pages_real.py runs them.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from lab.job import REPOSITORY
from tests.apiserver.certificates import Authority
from tests.deploy.rendering import documents, helm, kustomize_objects, program
from tests.kubernetes_schemas import validate

_MIGRATE = REPOSITORY / "docs/migrate.md"
PAGES = [*sorted((REPOSITORY / "docs").glob("install-*.md")), _MIGRATE]
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_PLACEHOLDER = re.compile(r"\b(?:CONTROL-PLANE|CLUSTER-API-SERVER|REGISTRY|NODE|IMAGE|CLUSTER)\b")
# Values for our own kinds are validated elsewhere; these are files of other programs.
_OTHER_KINDS = ("ClusterConfig",)
VERSIONS = tuple(f"1.{minor}" for minor in range(27, 37))


class Block(NamedTuple):
    """One fenced block of a page."""

    page: str
    language: str
    text: str


def blocks() -> Iterator[Block]:
    for path in PAGES:
        for language, text in _BLOCK.findall(path.read_text()):
            yield Block(path.name, language, text)


def shell_blocks() -> list[Block]:
    return [block for block in blocks() if not block.language and not block.text.startswith("$ ")]


def commands() -> list[tuple[str, list[str]]]:
    """Return page and words of each simple command."""
    found = []
    for block in shell_blocks():
        text = re.sub(r"\\\n", " ", block.text)
        for line in re.split(r"\n|&&|\|", re.sub(r"<<END.*?^END$", "", text, flags=re.MULTILINE | re.DOTALL)):
            try:
                words = shlex.split(line, comments=True)
            except ValueError:  # a part of a command with quotes over several lines
                continue
            if words:
                found.append((block.page, words))
    return found


def inline_commands() -> list[tuple[str, list[str]]]:
    """Return page and words of each command of kubectl or helm in the text; it may be a part of one."""
    texts = {path.name: _BLOCK.sub("", path.read_text()) for path in PAGES}
    quoted = [(page, command) for page, text in texts.items()
              for command in re.findall(r"`((?:kubectl|helm) [^`]*)`", text)]  # fmt: skip
    return [(page, shlex.split(command)) for page, command in quoted]


def of_program(name: str, *verbs: str, inline: bool = False) -> list[Any]:
    found = [*commands(), *(inline_commands() if inline else ())]
    chosen = [(page, words) for page, words in found if words[0] == name and (not verbs or words[1] in verbs)]
    return [pytest.param(words, id=f"{page}-{number}") for number, (page, words) in enumerate(chosen)]


def as_example(words: list[str]) -> list[str]:
    """Return *words* with an example in the place of each placeholder."""
    return [_PLACEHOLDER.sub("example", word) for word in words]


def test_pages_have_commands() -> None:
    assert len(of_program("kubectl")) > 20
    assert len(of_program("helm")) >= 4


@pytest.mark.parametrize("block", shell_blocks(), ids=lambda block: block.page)
def test_bash_accepts_the_block(block: Block) -> None:
    done = subprocess.run(["bash", "-n"], input=block.text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("words", of_program("helm", "install", "template"))
def test_helm_renders_the_chart_with_the_values_of_the_page(words: list[str]) -> None:
    arguments = as_example(words[2 : words.index(">")] if ">" in words else words[2:])
    done = helm("template", *(str(REPOSITORY / word) if word.startswith("deploy/") else word for word in arguments))
    assert done.returncode == 0, done.stderr
    for document in documents(done.stdout):
        for version in VERSIONS:
            validate(document, version)


def settings_in_text() -> list[Any]:
    """Return the words of each `--set ...` in the text of a page: values to add to those of its commands."""
    found = []
    for path in PAGES:
        text = _BLOCK.sub("", path.read_text())
        for number, quoted in enumerate(re.findall(r"`(--set[^`]*)`", text)):
            found.append(pytest.param(shlex.split(quoted), id=f"{path.name}-{number}"))
    return found


@pytest.mark.parametrize("words", settings_in_text())
def test_helm_renders_the_chart_with_values_in_the_text_of_the_page(words: list[str]) -> None:
    arguments = [word.replace("sha256:...", f"sha256:{'0' * 64}") for word in as_example(words)]
    required = ["--set=image.repository=example", "--set=apiServer=https://192.0.2.1:6443"]
    done = helm("template", str(REPOSITORY / "deploy/helm/kubeproxy-py"), *required, *arguments)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("words", [param for param in of_program("kubectl", "apply") if "-k" in param.values[0]])
def test_kustomize_renders_what_the_page_applies(words: list[str]) -> None:
    objects = kustomize_objects(REPOSITORY / words[words.index("-k") + 1])
    assert "DaemonSet" in {document["kind"] for document in objects}


@pytest.mark.parametrize("words", of_program("helm", inline=True))
def test_helm_knows_the_verb_and_its_flags(words: list[str]) -> None:
    text = helm(words[1], "--help").stdout
    assert "Usage:" in text, f"helm has no verb {words[1]}"
    for word in words[2:]:
        if match := re.match(r"--[a-z-]+", word):
            assert f"{match[0]} " in text, word


def test_document_for_kubectl_that_begins_like_json_is_json() -> None:
    """For kubectl everything that begins with a brace is; a mapping of YAML in braces is not."""
    documents_of_pages = [
        text for block in shell_blocks() for text in re.findall(r"<<END\n(.*?)^END$", block.text, re.M | re.S)
    ]
    assert documents_of_pages
    for text in documents_of_pages:
        document = json.loads(text) if text.startswith("{") else yaml.safe_load(text)
        validate(document, "1.36")


@cache
def flags_of(*verb: str) -> str:
    """Return kubectl's help of *verb* with the flags that every verb has; "" if there is no such verb."""
    own, common = (
        subprocess.run([program("kubectl"), *words], capture_output=True, text=True, check=False).stdout
        for words in ([*verb, "--help"], ["options"])
    )
    return own + common if "Usage:" in own else ""


@pytest.mark.parametrize("words", of_program("kubectl", inline=True))
def test_kubectl_knows_the_verb_and_its_flags(words: list[str]) -> None:
    verbs = [word for word in words[1:] if not word.startswith("-") and word != "kube-system"]
    named = verbs[:2] if verbs[0] in ("rollout", "create", "config") else verbs[:1]
    text = flags_of(*named)
    assert text, f"kubectl has no verb {named}"
    for word in words[1:]:
        if match := re.match(r"--[a-z-]+", word):
            assert f"{match[0]}=" in text or f"{match[0]} " in text, word
        elif match := re.match(r"-[a-zA-Z]\b", word):
            assert f"{match[0]}, " in text, word


@pytest.mark.parametrize("words", of_program("kubectl", "run"))
def test_program_of_a_pod_replaces_that_of_its_image(words: list[str]) -> None:
    """Without --command the words are arguments of the image's own program."""
    assert "--command" in words[: words.index("--")]


def test_kubeconfig_of_the_page_is_one_that_the_agent_reads(tmp_path: Path) -> None:
    """The commands of install-vm.md, run by the real kubectl, with a CA and a token of our own."""
    words = [words for page, words in commands() if page == "install-vm.md" and "--kubeconfig=kubeconfig" in words]
    assert [each[3] for each in words] == ["set-cluster", "set-credentials", "set-context", "use-context"]
    authority = Authority(tmp_path)
    (tmp_path / "ca.crt").write_bytes(authority.file.read_bytes())
    for each in words:
        argv = [word.replace("$token", "secret").replace("CONTROL-PLANE", "192.0.2.1") for word in each[1:]]
        subprocess.run([program("kubectl"), *argv], cwd=tmp_path, check=True, capture_output=True)
    kubeconfig = tmp_path / "kubeconfig"
    argv = [sys.executable, "-m", "kubeproxy_py", "check", f"--kubeconfig={kubeconfig}"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.splitlines()[-1:], done.stderr) == (0, [f"ok: kubeconfig {kubeconfig}"], "")
    [user] = yaml.safe_load((tmp_path / "kubeconfig").read_text())["users"]
    assert user["user"] == {"token": "secret"}


def test_patch_of_kube_proxy_is_valid_and_keeps_it_off_labelled_nodes() -> None:
    [patch] = re.findall(r"patch daemonset kube-proxy --type=strategic -p '(.*?)'\n", _MIGRATE.read_text(), re.DOTALL)
    spec = json.loads(patch)["spec"]["template"]["spec"]
    containers = {"containers": [{"name": "kube-proxy", "image": "kube-proxy"}]}
    validate({"apiVersion": "v1", "kind": "Pod", "spec": spec | containers}, "1.36")
    [term] = spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    assert term["matchExpressions"] == [{"key": "kubeproxy-py/proxy", "operator": "DoesNotExist"}]


def yaml_objects() -> list[Any]:
    """Return the Kubernetes objects in YAML blocks of the pages."""
    found = []
    for block in blocks():
        if block.language == "yaml":
            for number, document in enumerate(yaml.safe_load_all(block.text)):
                if isinstance(document, dict) and document.get("kind") and document["kind"] not in _OTHER_KINDS:
                    found.append(pytest.param(document, id=f"{block.page}-{number}-{document['kind']}"))
    return found


@pytest.mark.parametrize("document", yaml_objects())
def test_object_of_the_page_is_valid_in_each_kubernetes_version(document: Any) -> None:
    for version in VERSIONS:
        validate(document, version)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_installation_page_tells_how_to_upgrade_and_to_go_back(path: Path) -> None:
    text = path.read_text().lower()
    assert re.search(r"upgrade|update", text), "no word of upgrades"
    assert re.search(r"\bback\b|rollback", text), "no word of the way back"
