"""The table of commands: what each is for, with examples, and how it is called.

Its arguments are in arguments.py, what it executes in execute.py; help, completion and manual pages are made from both.
It is imported by the help of the program and ``--version``, so it imports nothing heavy.
"""

from collections.abc import Mapping
from typing import NamedTuple

from kubeproxy_py.commands.exit_status import COULD_NOT_LOOK, FAILED, UNUSABLE

PROGRAM = "kubeproxy-py"
SHELLS = ("bash", "zsh", "fish")  # which the completion is made for


class Command(NamedTuple):
    """A command of the command line."""

    summary: str  # one line, with a verb in the imperative
    details: str
    examples: tuple[tuple[str, str], ...]  # (comment, arguments)
    has_flags: bool = True  # accepts the flags of run
    usage: str = "[FLAGS]"
    unusable: int = UNUSABLE  # exit status if the command line or the configuration cannot be used


_ALL_FLAGS = f'All flags of "{PROGRAM} run" are accepted; those that do not matter here are not listed.'
_KUBECONFIG = "--kubeconfig has precedence over the configuration file, and the file over $KUBECONFIG."

EXAMPLES = (
    ("Validate a configuration before it is used", "check --config=/var/lib/kube-proxy/config.conf"),
    ("Print what the proxy would change on this node, and change nothing", "plan --config=FILE"),
    ("Run the proxy", "run --config=/var/lib/kube-proxy/config.conf"),
    ("Print where the running agent serves each Service", "status"),
    ("Find out why a Service does not answer", "explain shop/web"),
)

COMMANDS: Mapping[str, Command] = {
    "run": Command(
        "Run the proxy: keep kernel state in sync with Services",
        "Exits on SIGTERM or SIGINT and leaves kernel state in place, so traffic continues. SIGHUP reads the\n"
        "configuration file again. Accepts every flag of kube-proxy.",
        (
            ("Run with kube-proxy's configuration file", "run --config=/var/lib/kube-proxy/config.conf"),
            ("Run without a file", "run --kubeconfig=/etc/kubernetes/proxy.conf --cluster-cidr=10.244.0.0/16"),
            ("Run without an API server, for the objects in a directory", "run --manifests=/etc/kubeproxy-py/services"),
            ("Apply sysctls and IPVS timeouts with privileges, then exit", "run --init-only"),
        ),
    ),
    "plan": Command(
        "Print the changes that a sync would make now, without making them",
        "Exits with 0 if there is nothing to change, with 2 if there are changes, and with 1 after any error, also if\n"
        "an object, or a part of one, is rejected; the plan is of the others. The changes are grouped by Service;\n"
        f"JSON has them in the order of a sync. Uses configuration and objects of the running agent, unless flags\n"
        f"differ; without one it waits 5 s for the API server.\n{_KUBECONFIG}\n{_ALL_FLAGS}",
        (
            ("Print what would change on this node", "plan"),
            ("Print all rules for the objects in a directory; needs no root", "plan --manifests=DIR --assume-empty"),
            ("Compare with the kernel state of another host, see dump", "plan --manifests=DIR --kernel-state=FILE"),
            ("Print the plan as JSON", "plan --config=/var/lib/kube-proxy/config.conf --output=json"),
        ),
        unusable=FAILED,
    ),
    "status": Command(
        "Print where each Service is served, by which endpoints, and why not",
        "Asks the running agent, for which it needs no flags; without one it reads kernel and API server itself.\n"
        "The worst is printed first. Exits with 1 if not everything could be looked at.\n"
        f"{_KUBECONFIG}\n{_ALL_FLAGS}",
        (
            ("Print everything that this node serves", "status"),
            ("Print one Service, with its endpoints and connections", "status shop/web"),
            ("Print who has an address, as JSON", "status --address=203.0.113.7 --output=json"),
            ("Without an agent, name the Services of a directory", "status --manifests=/etc/kubeproxy-py/services"),
        ),
        usage="[[NAMESPACE/]SERVICE] [FLAGS]",
    ),
    "explain": Command(
        "Explain a Service, address or endpoint: what follows from it, and what is wrong",
        "Asks the running agent, for which it needs no flags; without one it reads kernel and API server itself.\n"
        "Exits with 0 if all is well, 1 if the target is unknown or could not be looked at, 2 if something is wrong.\n"
        f"{_KUBECONFIG}\n{_ALL_FLAGS}",
        (
            ("Explain why a Service does not answer", "explain shop/web"),
            ("Explain one of its ports", "explain shop/web:http"),
            ("Find out who has an address and port, or a NodePort", "explain 203.0.113.7:443/tcp"),
            ("Find out why a pod gets no connections", "explain 10.244.1.5"),
        ),
        usage="TARGET [FLAGS]",
        unusable=FAILED,
    ),
    "doctor": Command(
        "Look for what is wrong on this host, with cause, effect and remedy",
        "Checks rights, kernel, sysctls, iptables, other service proxies and firewalls, bridges, connection tracking,\n"
        "the API server, clock and certificates; docs/doctor.md lists all checks. Changes nothing but loads modules.\n"
        "Uses the configuration of the running agent, unless flags differ.\n"
        "Exits with 0 if all is well (warnings are printed), 1 if a check could not look, 2 if something is wrong.\n"
        f"{_ALL_FLAGS}",
        (
            ("Look at this node", "doctor"),
            ("Look at a node without an API server", "doctor --manifests=/etc/kubeproxy-py/services"),
            ("Print the report as JSON, for a script", "doctor --kubeconfig=/etc/kubernetes/proxy.conf -o json"),
        ),
        unusable=COULD_NOT_LOOK,
    ),
    "trace": Command(
        "Print what happens to a packet to a Service, rule by rule, and why",
        "Follows the first packet of a connection through the rules, sets and virtual servers that a sync would make,\n"
        "or with --kernel through those that the kernel has now. Asks the running agent, for which it needs no flags.\n"
        "Exits with 0 if a real server or this node answers, with 2 if the packet is rejected, dropped or sent\n"
        f"elsewhere, with 1 if this is unknown.\n{_ALL_FLAGS}",
        (
            ("See who answers a client outside of the cluster", "trace --from outside --to shop/web:http"),
            ("See why a client cannot connect", "trace --from 203.0.113.9 --to 192.0.2.80:443 --kernel"),
            ("Trace a DNS request of a pod", "trace --from pod --to 10.96.0.10:53/udp --manifests=DIR"),
            ("Print a ping of the node as JSON", "trace --from node --to 10.96.0.10/icmp -o json"),
        ),
        usage="--from SENDER --to TARGET [FLAGS]",
        unusable=FAILED,
    ),
    "top": Command(
        "Show the traffic of each Service and real server: connections, packets and bytes per second",
        "Reads the kernel's counters, so it needs root; names come from the running agent, for which it needs no\n"
        "flags. Keys: s sort, r reverse, / filter, e real servers, p pause, q quit. Draining real servers are counted\n"
        "separately.\n"
        f"With --once it exits with 1 if Services could not be named.\n{_KUBECONFIG}\n{_ALL_FLAGS}",
        (
            ("Show which Services are busy", "top"),
            ("Show the real servers of one, by bytes", "top --filter=shop/web --real-servers --sort=bytes"),
            ("Print the rates of ten seconds as JSON", "top --once --interval=10 --output=json"),
        ),
    ),
    "check": Command(
        "Validate configuration, manifests and kubeconfig, and report every problem",
        "Exits with 0, and names what it read, if all of it can be used; with 1 if an object of the manifests, or the\n"
        "kubeconfig, cannot; with 2 if the configuration cannot, or nothing is named to check. Needs no kernel and no\n"
        "API server.\n"
        f'{_KUBECONFIG}\nAll flags of "{PROGRAM} run" are accepted and validated.',
        (
            ("Validate a configuration file", "check --config=/var/lib/kube-proxy/config.conf"),
            ("Validate flags", "check --ipvs-scheduler=mh --cluster-cidr=10.244.0.0/16,fd00::/56"),
            ("Validate the objects in a directory", "check --manifests=/etc/kubeproxy-py/services"),
            ("Validate a kubeconfig and the files that it names", "check --kubeconfig=/etc/kubernetes/proxy.conf"),
        ),
    ),
    "dump": Command(
        "Write the kernel state of this host to a file, as JSON",
        'For "plan --kernel-state" on another host, and for bug reports. Reads everything of the kernel that this\n'
        "agent or kube-proxy may have created, and changes nothing. Exits with 1 if a part cannot be read.\n"
        f"{_ALL_FLAGS}",
        (
            ("Write it to a file", "dump node-a.json"),
            ("Compare it elsewhere with the objects in a directory", "plan --kernel-state=node-a.json --manifests=DIR"),
        ),
        usage="[FILE] [FLAGS]",
    ),
    "cleanup": Command(
        "Delete all kernel state that this agent or kube-proxy created",
        "Other virtual servers, rules and sets are left in place. Stop the agent first: while one runs, cleanup is\n"
        f"refused, because the agent would create everything again.\n{_ALL_FLAGS}",
        (
            ("Delete everything", "cleanup"),
            ("Go back to kube-proxy after --policies=exact", "cleanup --extras"),
            ("Delete everything except virtual servers in a network", "cleanup --ipvs-exclude-cidrs=203.0.113.0/24"),
        ),
    ),
    "completion": Command(
        "Print the completion of this command line for a shell",
        "Completes commands, flags, values of flags that have a fixed choice, and names of files and directories.\n"
        f"To use it at once, in bash: source <({PROGRAM} completion bash)",
        (
            ("Install it for bash", "completion bash > /etc/bash_completion.d/kubeproxy-py"),
            ("Install it for zsh", "completion zsh > /usr/local/share/zsh/site-functions/_kubeproxy-py"),
            ("Install it for fish", "completion fish > /etc/fish/completions/kubeproxy-py.fish"),
        ),
        has_flags=False,
        usage="|".join(SHELLS),
    ),
    "help": Command(
        "Print the help of a command",
        "The same as COMMAND --help.",
        (("Print all commands", "help"), ("Print flags and examples of a command", "help plan")),
        has_flags=False,
        usage="[COMMAND]",
    ),
    "version": Command(
        "Print the version",
        'The same as "--version", which is accepted everywhere.',
        (("Print the version", "version"),),
        has_flags=False,
        usage="",
    ),
}
