"""doctor: look for everything on this host that hurts Service traffic, and name cause, effect and remedy.

The configuration is a value that the caller passes: that of the flags, or one that a running agent was asked for.
What the kernel alone tells is printed before the API server has answered, or has not within API_TIMEOUT_S.
"""

from socket import gethostname
from time import time

from msgspec.structs import replace

from kubeproxy_py.checks.all_checks import CHECKS
from kubeproxy_py.checks.check import Check, Diagnosis, diagnose
from kubeproxy_py.checks.situation import Situation
from kubeproxy_py.commands.doctor_report import exit_status, report_json, summary_text, text_of
from kubeproxy_py.commands.doctor_situation import host_situation
from kubeproxy_py.commands.output import flush, print_json, print_lines
from kubeproxy_py.config.load import LoadedConfig, node_name
from kubeproxy_py.model.host_facts import Part
from kubeproxy_py.sources import SourceError
from kubeproxy_py.sources.kubernetes.examine import Examination, examine, read_certificates

API_TIMEOUT_S = 5.0
_LATE: frozenset[Part] = frozenset(("API server", "certificates", "pod networks"))  # parts that may take API_TIMEOUT_S


def doctor(loaded: LoadedConfig, *, as_json: bool) -> int:
    """Run every check and print what came of it; return SUCCESS, COULD_NOT_LOOK or WRONG."""
    examination = _examination(loaded)  # goes on while this host is looked at
    situation = host_situation(loaded)
    done: dict[str, Diagnosis] = {}

    def run(checks: list[Check]) -> None:
        for check in checks:
            done[check.name] = _diagnose(check, situation)
            if not as_json:
                print_lines(text_of(done[check.name]))
        flush()

    run([check for check in CHECKS if _LATE.isdisjoint(check.needs)])
    situation = _with_api_server(loaded, situation, examination)
    run([check for check in CHECKS if check.name not in done])
    diagnoses = tuple(done[check.name] for check in CHECKS)
    if as_json:
        print_json(report_json(diagnoses))
    else:
        print_lines(summary_text(diagnoses))
    return exit_status(diagnoses)


def _diagnose(check: Check, situation: Situation) -> Diagnosis:
    try:
        return diagnose(check, situation)
    except Exception as error:  # a bug that what is on this host triggers must not hide the other checks
        return Diagnosis(check, "unknown", unread=f"internal error (please report): {error!r}")


# API server


def _examination(loaded: LoadedConfig) -> Examination | None:
    """Return an examination of the API server, which has begun; None if there is none."""
    if loaded.agent.manifests:
        return None
    kubeconfig, master = loaded.config.client_connection.kubeconfig, loaded.agent.master
    return examine(kubeconfig, master, node_name(loaded.config, gethostname()), API_TIMEOUT_S)


def _with_api_server(loaded: LoadedConfig, situation: Situation, examination: Examination | None) -> Situation:
    """Return *situation* with what is known of the API server, the Node and the certificates."""
    node, doctor, unread = None, situation.doctor, dict(situation.doctor.unread)
    if examination:
        found = examination.wait()
        node, doctor = found.node, replace(doctor, api_server=found.server)
        if found.unusable:
            doctor, unread["API server"] = replace(doctor, api_server=None), found.unusable
        try:
            certificates = read_certificates(loaded.config.client_connection.kubeconfig, loaded.agent.master)
            doctor = replace(doctor, certificates=certificates)
        except SourceError as error:
            unread["certificates"] = str(error)
    pod_networks = (*loaded.config.cluster_cidr, *(node.pod_cidrs if node else ()))
    if not pod_networks:
        unread["pod networks"] = "none is known; pass --kubeconfig or --cluster-cidr"
    return replace(situation, node=node, pod_networks=pod_networks, doctor=replace(doctor, unread=unread, now_s=time()))
