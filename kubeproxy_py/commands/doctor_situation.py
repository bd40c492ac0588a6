"""The situation that doctor judges, as far as this host alone tells it."""

from errno import EROFS

from msgspec.structs import replace

from kubeproxy_py.checks.programs import PROGRAMS
from kubeproxy_py.checks.rivals import METRICS_PORT
from kubeproxy_py.checks.rivals import Facts as RivalFacts
from kubeproxy_py.checks.settings import OTHERS
from kubeproxy_py.checks.situation import Situation
from kubeproxy_py.commands.parts import linux_kernel
from kubeproxy_py.commands.rivals import observe
from kubeproxy_py.commands.startup import desired_host_sysctls
from kubeproxy_py.compile.base import is_optional, suffices
from kubeproxy_py.config.load import LoadedConfig
from kubeproxy_py.kernel.doctor_facts import ReadRows, read_doctor_facts, read_rows
from kubeproxy_py.kernel.errors import KernelError
from kubeproxy_py.kernel.host.processes import get_local
from kubeproxy_py.kernel.host_facts import HostFactsReader
from kubeproxy_py.kernel.host_probe import probe
from kubeproxy_py.model import kube_names
from kubeproxy_py.model.host_facts import AddressKind, Affinity, DoctorFacts, HostFacts, Part, ServedAddress
from kubeproxy_py.model.rows import IPVS_DEVICE, IpsetEntry, RealServer, Rows, Sysctl, VirtualServer, VirtualServerSpec
from kubeproxy_py.plan.ownership import filter_owned, is_foreign, node_ports_in

_OUR_PROGRAM = "kubeproxy-py"
_IDENTITY_PAGE = "/statusz"  # of the metrics server; names the program, which kube-proxy's names otherwise
_ADDRESS_SETS: tuple[tuple[AddressKind, frozenset[str]], ...] = (
    ("ClusterIP", kube_names.names_of(kube_names.CLUSTER_IP)),
    ("externalIP", kube_names.names_of(kube_names.EXTERNAL_IP, kube_names.EXTERNAL_IP_LOCAL)),
    ("load balancer address", kube_names.names_of(kube_names.LOAD_BALANCER)),
)


def host_situation(loaded: LoadedConfig) -> Situation:
    """Return what this host alone tells; never raises for what it lacks."""
    probed = probe(loaded.agent.iptables_flavour)
    kernel = linux_kernel(loaded, probed)
    try:
        facts = HostFactsReader(probed.commands).read()
        state = read_rows(kernel)
        wanted, optional = _wanted_sysctls(desired_host_sysctls(loaded, kernel, probed.host))
        doctor = read_doctor_facts(probed, kernel, (*wanted, *OTHERS), PROGRAMS)
    finally:
        kernel.close()
    unread: dict[Part, str] = {**state.unread, **doctor.unread}
    if not probed.commands:
        lacks_rights = any(problem.of_process for problem in probed.problems)
        unread["iptables"] = f"it is not usable; see the check {'rights' if lacks_rights else 'kernel-features'}"
    doctor = _with_rows(replace(doctor, unread=unread), facts, state, loaded)
    is_started = IPVS_DEVICE in doctor.interfaces
    return Situation(
        facts=facts,
        servers=sum(isinstance(key, VirtualServer | RealServer) for key in state.rows),
        doctor=doctor,
        rivals=_rivals(),
        wanted_sysctls=_due_sysctls(wanted, doctor, is_started=is_started),
        optional_sysctls=optional,
        keeps_foreign=loaded.agent.keep_foreign_virtual_servers,
    )


# Sysctls


def _wanted_sysctls(rows: Rows) -> tuple[dict[str, str], frozenset[str]]:
    """Return the values that the configuration requires by path, and those without which Services are served."""
    keys = {key: str(value) for key, value in rows.items() if isinstance(key, Sysctl)}
    return {key.path: value for key, value in keys.items()}, frozenset(
        key.path for key in keys if is_optional(key, EROFS)
    )


def _due_sysctls(wanted: dict[str, str], doctor: DoctorFacts, *, is_started: bool) -> dict[str, str]:
    """Return *wanted* without limits that are large enough, and without what an agent will set that never ran here."""
    return {
        path: value
        for path, value in wanted.items()
        if not suffices(Sysctl(path), doctor.sysctls.get(path, ""), value)
        and (is_started or path in doctor.read_only or doctor.sysctls.get(path) == value)
    }


# Rows


def _with_rows(doctor: DoctorFacts, facts: HostFacts, state: ReadRows, loaded: LoadedConfig) -> DoctorFacts:
    """Return *doctor* with what follows from the rows of *state*."""
    rows = state.rows
    servers: Rows = {key: spec for key, spec in rows.items() if isinstance(key, VirtualServer)}
    addresses = {host.address for host in facts.addresses if host.interface != IPVS_DEVICE}
    ours = filter_owned(servers, loaded.config.ipvs.exclude_cidrs)
    may_tell = "sets" not in doctor.unread  # otherwise every server would look foreign
    foreign = [server for server in ours if isinstance(server, VirtualServer) and is_foreign(server, rows, addresses)]
    return replace(
        doctor,
        served=frozenset(served for key in rows if isinstance(key, IpsetEntry) for served in _served(key)),
        node_ports=frozenset(node_ports_in(rows)),
        affinities=tuple(
            Affinity(str(key), spec.persistence_s)
            for key, spec in servers.items()
            if isinstance(spec, VirtualServerSpec) and spec.persistence_s
        ),
        virtual_servers=len(servers),
        foreign_servers=tuple(map(str, foreign)) if may_tell else (),
    )


def _served(entry: IpsetEntry) -> tuple[ServedAddress, ...]:
    address = entry.entry.partition(",")[0]
    return tuple(ServedAddress(address, kind) for kind, names in _ADDRESS_SETS if entry.set in names)


# Rivals


def _rivals() -> RivalFacts:
    """Return what was observed of other service proxies: a running agent of ours is none."""
    is_here = _OUR_PROGRAM in get_local(METRICS_PORT, _IDENTITY_PAGE)
    try:
        seen = observe(lambda _port: is_here)
    except (KernelError, OSError):
        return RivalFacts()
    others = tuple(process for process in seen.processes if process.program != _OUR_PROGRAM)
    return replace(seen, processes=others, answers=() if len(others) < len(seen.processes) else seen.answers)
