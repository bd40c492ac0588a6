"""Generates docs/doctor.md from the table of checks and the examples; `make doctor-page` writes it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from kubeproxy_py.checks.all_checks import CHECKS
from kubeproxy_py.checks.check import Check
from kubeproxy_py.model.finding import Finding
from tests.checks.examples import EXAMPLES

PAGE = Path(__file__).resolve().parents[2] / "docs/doctor.md"

_HEAD = """# doctor

Generated from `kubeproxy_py/checks/all_checks.py` by `make doctor-page`.

`kubeproxy-py doctor` looks for everything on a node that hurts Service traffic, and prints cause, effect and remedy
of what it finds, and what is well. It asks the running agent for its configuration, and needs no flags; without an
agent it takes the flags of `run`, most of all `--config`, or `--kubeconfig`, or `--manifests`. It changes nothing,
except that kernel modules are loaded as the agent would load them at its start.
What the kernel alone tells is printed at once; the API server has 5 s.

```
sudo kubeproxy-py doctor
kubectl -n kube-system exec POD -- kubeproxy-py doctor
sudo kubeproxy-py doctor --config=/var/lib/kube-proxy/config.conf    # without an agent
```

| exit status | meaning |
|---|---|
| 0 | all is well; there may be warnings |
| 1 | nothing is found to be wrong, but a check could not look (`unknown`), or flags or files cannot be used (stderr) |
| 2 | something is wrong (`error`) |

| state | meaning |
|---|---|
| `ok` | the check looked, and all is well |
| `warning` | it hurts only some Services or clients, or not yet |
| `error` | it hurts Service traffic |
| `unknown` | the check could not look, or compared nothing, and says why: rights are missing, no API server answers |

In a container without `hostPID` the processes of the node are not visible, and the checks that look at them are
`unknown`.

`-o json` prints one document: `version` (1), `state` (the worst of all), `exitStatus`, and `checks`, a list with one
entry for each finding, or for each check without one: `check`, `state`, `reason`, `cause`, `effect`, `remedy`,
`evidence`. A part that does not apply is `""`.

The running agent reports the checks that are marked with * too: by log, Event and the metric
`kubeproxy_ipvs_findings`, when a finding begins and when it ends; and other service proxies by
`kubeproxy_ipvs_other_service_proxies`.
"""
_TABLE = """
## Checks

Cause, effect and remedy are those of an example.

| check | looks at | finds | cause | effect | remedy |
|---|---|---|---|---|---|
"""


def page() -> str:
    """Return the text of the page."""
    return _HEAD + _TABLE + "".join(row for check in CHECKS for row in _rows(check))


def _rows(check: Check) -> Iterator[str]:
    name, about = f"`{check.name}`{' *' if check.is_resident else ''}", check.about
    for reason in check.reasons:
        finding = next(finding for finding in check.find(EXAMPLES[reason]) if finding.reason == reason)
        yield f"| {name} | {about} | `{reason}` ({finding.severity}) | {_cells(finding)} |\n"
        name, about = "", ""


def _cells(finding: Finding) -> str:
    cause = ": ".join(part for part in (finding.subject, finding.cause) if part)
    return " | ".join(text.replace("|", "\\|") for text in (cause, finding.message, finding.hint))


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
