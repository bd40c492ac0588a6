"""Inside the lab: run the agent once, change what it made, print the dump and the plan of that node as one JSON text.

Used by test_dump_elsewhere.py: ``python -m tests.lab_tests.dumped_node FOLDER`` with a folder of manifests.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from lab.namespace import new_namespace
from tests.e2e.agent_process import AgentProcess, command_line
from tests.e2e.kernel_state import run, shell

CHANGES = """
ipvsadm -d -t 10.96.0.10:80 -r 10.244.2.5:8080
ipvsadm -A -t 198.51.100.77:99 -s rr
ipset add KUBE-CLUSTER-IP 10.96.9.9,tcp:80
iptables -t nat -D KUBE-SERVICES 1
"""


def main() -> None:
    folder = Path(sys.argv[1])
    with new_namespace("dumped") as node:
        shell(node, "ip link set lo up")
        with AgentProcess(node, folder) as agent:
            agent.wait_synced()
        shell(node, CHANGES)
        plan = run(node, *command_line(folder, "plan"), status=2)
        dump = run(node, sys.executable, "-m", "kubeproxy_py", "dump")
    print(json.dumps({"plan": plan, "dump": dump}))


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as error:
        sys.exit(f"{error}: {error.stderr}")
