"""The table of complaints: in the user's words, with the command that names cause and remedy."""

from __future__ import annotations

from typing import NamedTuple


class Complaint(NamedTuple):
    """One complaint.

    slug: names the file with what was captured, and the state in tests/e2e/test_complaints.py.
    symptom: what a user says; the heading.
    command: of kubeproxy-py; "" is the log.
    pick: the finding of doctor, or words of the line of the log.
    cause, remedy: words that its output must have.
    about: what else is to be known; Markdown.
    source: a public report, below github.com.
    """

    slug: str
    symptom: str
    command: str
    cause: tuple[str, ...]
    remedy: tuple[str, ...]
    pick: str = ""
    about: str = ""
    source: str = ""


CLASSIC = (
    "no-endpoints",
    "not-ready",
    "port-name",
    "local-policy",
    "source-ranges",
    "loopback-node-port",
    "ping",
    "strict-arp",
    "hairpin",
    "stale-udp-flow",
    "endless-drain",
    "conn-reuse-mode",
    "node-address",
    "missing-module",
    "foreign-server",
    "unknown-scheduler",
    "no-ipv6",
    "affinity",
    "conntrack-full",
    "two-proxies",
)
"""The complaints that every service proxy in IPVS mode gets."""

COMPLAINTS = (
    Complaint(
        "no-endpoints",
        "The Service was created, and connections are refused",
        "explain shop/idle",
        ("0 endpoints",),
        ("spec.selector", "labels of pods"),
    ),
    Complaint(
        "not-ready",
        "The pods run, and connections are refused",
        "explain shop/unready",
        ("2 endpoints, 0 ready",),
        ("readinessProbe", "publishNotReadyAddresses"),
    ),
    Complaint(
        "port-name",
        "The pods are ready, and one port of the Service is refused",
        "explain shop/misnamed:http",
        ('no port "http" in its slices (they have: metrics)',),
        ('set targetPort of port "http"',),
    ),
    Complaint(
        "local-policy",
        "Pods reach the Service, clients outside time out, on some nodes",
        "explain shop/local",
        ("externalTrafficPolicy Local: no endpoint on this node, outside clients are not answered",),
        ("healthCheckNodePort", "externalTrafficPolicy: Cluster"),
    ),
    Complaint(
        "source-ranges",
        "Some clients time out at the load balancer address, others are answered",
        "trace --from 192.168.3.175 --to 203.0.113.70:80",
        ("source 192.168.3.175 is not in loadBalancerSourceRanges of shop/ranged (198.18.0.0/15)",),
        ("add the client's network to spec.loadBalancerSourceRanges",),
    ),
    Complaint(
        "loopback-node-port",
        "The node port does not answer at localhost",
        "trace --from node --to 127.0.0.1:30080",
        ("NodePorts are not served at 127.0.0.1",),
        ("use 10.244.1.1:30080",),
        about="IPVS cannot serve loopback addresses; kube-proxy in IPVS mode does not either. With `--policies=exact`"
        " and `localhost` in `nodePortAddresses` it\ndoes ([policies.md](policies.md#nodeports-at-127001-and-1)).",
    ),
    Complaint(
        "ping",
        "The ClusterIP does not answer a ping",
        "trace --from 10.244.1.5 --to 10.96.0.10/icmp",
        ("a ping is never answered",),
        ("test with a connection to a port of the Service",),
    ),
    Complaint(
        "strict-arp",
        "With MetalLB, or kube-vip, in layer 2 mode, clients reach the wrong node",
        "doctor",
        ("192.168.3.200: it is of a network of this host, and arp_ignore is 0", "each node that has it answers ARP"),
        ("ipvs.strictARP: true",),
        pick="ArpAnswersForLoadBalancers",
    ),
    Complaint(
        "hairpin",
        "A pod cannot reach itself by its own Service",
        "doctor",
        ("hairpin mode is off on 1 of its ports: vpod1", "chosen as its endpoint gets no answer"),
        ("bridge link set dev $port hairpin on", '"hairpinMode": true'),
        pick="HairpinOff",
    ),
    Complaint(
        "stale-udp-flow",
        "One UDP client gets no answer since the pod was replaced, others do",
        "",
        ("Deleted 1 of 1 UDP flow", "they led to no endpoint"),
        ("the next datagram of each client begins a new flow",),
        pick="UDP flow",
        about="A flow that conntrack knows goes on to where it went before. The agent deletes such flows when "
        "endpoints change, and says so: nothing is left to do.",
    ),
    Complaint(
        "endless-drain",
        "A pod that was deleted still gets traffic, for hours",
        "explain shop/drains",
        ("draining since", "1 open connection keeps what drains"),
        ("kubeproxy-py.io/drain-deadline=30m", "--drain-deadline"),
    ),
    Complaint(
        "conn-reuse-mode",
        "Is it conn_reuse_mode? One busy client is refused, or waits a second, while pods are replaced",
        "doctor",
        ("net.ipv4.vs.conn_reuse_mode is 0", "since Linux 5.16 any value is harmless"),
        ("leave it",),
        pick="kernel-settings",
        about="Not on a kernel since 5.16:",
        source="kubernetes/kubernetes/issues/81775",
    ),
    Complaint(
        "conn-reuse-mode-before-5.16",
        "The same, on a kernel before 5.16",
        "doctor",
        ("it is 0, which only kernels before 5.9 need", "sent to the pod of its last connection"),
        ("sysctl -w net.ipv4.vs.conn_reuse_mode=1",),
        pick="SourcePortReuse",
        about="Stable kernels since December 2021 (5.10.223, say) are harmless as well, which the check cannot see.",
    ),
    Complaint(
        "node-address",
        "ssh, or another program of the node, is gone since a Service has the node's address as externalIP",
        "",
        ("ExternalIPOnNode", "192.168.3.10 are also addresses of node node-a", "instead of processes of the node"),
        ("use another address, or a port at which no process of the node listens",),
        pick="ExternalIPOnNode",
        about="It is an Event of the Service, too: `kubectl -n shop get events`.",
    ),
    Complaint(
        "missing-module",
        "After a change of the kernel, some Services do not work",
        "doctor",
        ("ip_set_hash_ipportnet",),
        ("modprobe ip_set_hash_ipportnet",),
        pick="KernelLacks",
    ),
    Complaint(
        "foreign-server",
        "The virtual server of keepalived, or of kube-vip, has vanished",
        "",
        ("Deleted virtual servers that this agent did not create", "172.16.5.10:6443"),
        ("ipvs.excludeCIDRs", "--keep-foreign-virtual-servers"),
        pick="Deleted virtual servers",
    ),
    Complaint(
        "unknown-scheduler",
        "It does not start since the scheduler was changed",
        "check --ipvs-scheduler=leastconn",
        ("--ipvs-scheduler: unknown scheduler 'leastconn'",),
        ("one of rr, wrr, lc, wlc",),
    ),
    Complaint(
        "no-ipv6",
        "The IPv6 addresses of Services do not answer",
        "",
        ("IPv6 is not usable",),
        ("sysctl -w net.ipv6.conf.all.disable_ipv6=0", "restart"),
        pick="IPv6 is not usable",
    ),
    Complaint(
        "affinity",
        "Session affinity lasts longer than its timeout",
        "doctor",
        ("session affinity of 10.96.0.44:80/TCP (2 s)", "shorter than TIME_WAIT of IPVS (120 s), which prolongs it"),
        ("timeoutSeconds to 120 or more",),
        pick="AffinityProlonged",
        source="kubernetes/kubernetes/issues/89358",
    ),
    Complaint(
        "conntrack-full",
        "New connections hang, to everything, and open ones work",
        "doctor",
        ("connections are tracked", "new connections to Services and to this node are dropped"),
        ("sysctl -w net.netfilter.nf_conntrack_max=N", "conntrack.maxPerCore"),
        pick="ConntrackTableFull",
    ),
    Complaint(
        "two-proxies",
        "Services fail now and then, and the log is full of drift",
        "doctor",
        ("kube-proxy (pid 4711)", "two service proxies undo each other's changes"),
        ("stop one of the two",),
        pick="AnotherServiceProxy",
        about="Also an Event `AnotherServiceProxy` of the Node.",
    ),
    # From public trackers
    Complaint(
        "other-node-address",
        "Nodes lose each other since a load balancer assigns addresses of nodes",
        "",
        ("AddressInUse", "192.168.3.11: not bound to kube-ipvs0, because it is the address of an endpoint"),
        ("give the Service an address that no machine has",),
        pick="AddressInUse",
        about="kube-proxy binds the address on every node, and the node that has it is unreachable from there. This "
        "agent does not, so there is nothing to do where a load balancer assigns addresses of nodes on purpose, as "
        "that of k3s does.",
        source="k3s-io/k3s/issues/5000",
    ),
    Complaint(
        "contested-address",
        "The externalIP of my Service is refused; is somebody taking addresses?",
        "explain shop/thief",
        ("10.96.0.10:80/TCP", "not served for this Service: shop/web has it as ClusterIP"),
        ("use another address or port for all but one",),
        about="Whoever may write a Service can name any address (CVE-2020-8554). It is served to the Service with the "
        "best claim: ClusterIP, load balancer address, externalIP, NodePort, then the older Service.",
        source="kubernetes/kubernetes/issues/97076",
    ),
    Complaint(
        "local-ports",
        "Now and then a connection that the node itself opens times out",
        "doctor",
        (
            "NodePort 30080, 30081: this host opens its own connections from ports 20000 to 60999",
            "IPVS takes the answer",
        ),
        ("net.ipv4.ip_local_reserved_ports",),
        pick="NodePortsAreLocalPorts",
        source="kubernetes/kubernetes/issues/111682",
    ),
    Complaint(
        "input-drop",
        "Since the firewall is on, no Service answers clients outside",
        "doctor",
        ("policy DROP of INPUT", "packets to this host in IPVS mode"),
        ("iptables -I INPUT -m set --match-set KUBE-CLUSTER-IP dst,dst -j ACCEPT",),
        pick="InputDropsServices",
        source="kubernetes/kubernetes/issues/98465",
    ),
    Complaint(
        "forward-drop",
        "Connections to a node port hang after the SYN",
        "doctor",
        ("-A FORWARD -j DROP", "answers of pods to clients of Services are not forwarded"),
        ("iptables -I FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT",),
        pick="ForwardDropsServices",
        source="kubernetes/kubernetes/issues/59656",
    ),
    Complaint(
        "bridge-netfilter",
        "A Service answers only if its pod is on another node",
        "doctor",
        ("bridge cni0, IPv4", "a pod gets no answer from a Service whose endpoint is on the same bridge"),
        ("modprobe br_netfilter && sysctl -w net.bridge.bridge-nf-call-iptables=1",),
        pick="BridgeNetfilterOff",
        source="flannel-io/flannel/issues/1702",
    ),
    Complaint(
        "stale-rules",
        "After the change from iptables mode some Services are refused",
        "doctor",
        ("1 rules of iptables mode", "they may drop or misdirect packets to Services"),
        ("kubeproxy-py cleanup",),
        pick="RulesOfAnotherMode",
        source="kubernetes/kubernetes/issues/102314",
    ),
    Complaint(
        "host-port",
        "A pod with a hostPort gets the connections to all Services at that port",
        "doctor",
        ("this rule comes before the jump to KUBE-SERVICES: -p tcp", "--dport 80"),
        ("iptables -t nat -D PREROUTING RULE",),
        pick="NatRuleBeforeServices",
        source="kubernetes/kubernetes/issues/66103",
    ),
    Complaint(
        "node-local-dns",
        "NodeLocal DNSCache gets no queries",
        "doctor",
        ("NodeLocal DNSCache at 10.96.0.10", "IPVS takes the packets, so the cache gets none"),
        ("-localip 169.254.20.10", "clusterDNS of the kubelet"),
        pick="NodeLocalDnsBypassed",
        source="rancher-archives/rke/issues/2093",
    ),
    Complaint(
        "idle-connections",
        "Connections are reset after a quarter of an hour without traffic",
        "doctor",
        ("it is 900 s, and TCP keepalive begins after 7200 s",),
        ("ipvs.tcpTimeout (--ipvs-tcp-timeout) to 7500s",),
        pick="IdleConnectionsForgotten",
        source="kubernetes/kubernetes/issues/80298",
    ),
)
