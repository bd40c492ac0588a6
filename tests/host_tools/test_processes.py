"""Processes of the host, their network namespace, and what answers on it."""

import http.server
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

from kubeproxy_py.kernel.host.processes import get_local, is_in_our_network, netlink_users, processes
from tests.e2e.agent_process import wait_until

# Starts its arguments as a process whose parent is not this one, and prints its PID.
GRANDCHILD = 'exec 3<&0; "$@" <&3 & echo $!; wait'


def test_other_processes_are_listed_with_their_command_line() -> None:
    argv = ["/bin/sh", "-c", GRANDCHILD, "sh", sys.executable, "-c", "input()", "an argument"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin
        assert child.stdout
        pid = int(child.stdout.readline())
        wait_until(lambda: dict(processes()).get(pid, [""])[1:] == ["-c", "input()", "an argument"])
        assert is_in_our_network(pid)
        assert not {os.getpid(), child.pid} & dict(processes()).keys()
        child.stdin.close()  # ends it


def test_a_process_that_has_ended_is_not_in_our_network() -> None:
    assert not is_in_our_network(2**22 + 1)


def test_a_process_that_cannot_be_read_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "12").mkdir()
    (tmp_path / "self").mkdir()
    (tmp_path / "13").mkdir()
    (tmp_path / "13/cmdline").write_bytes(b"/bin/sh\0")
    (tmp_path / "13/stat").write_text("13 (sh) S")
    assert list(processes(tmp_path)) == []


NETLINK = """sk               Eth Pid        Groups   Rmem     Wmem     Dump  Locks    Drops    Inode
0000000000000000 0   812        00000111 0        0        0     2        0        13000
0000000000000000 12  0          00000000 0        0        0     2        0        4
0000000000000000 12  813        00000000 0        0        0     2        0        13001
0000000000000000 16  813        00000000 0        0        0     2        0        13002
0000000000000000 16  814        00000000 0        0        0     2        0        13003
0000000000000000 12  3148209413 00000000 0        0        0     2        0        13004
"""


def test_programs_with_sockets_for_rules_sets_and_ipvs_are_named(tmp_path: Path) -> None:
    (tmp_path / "self/net").mkdir(parents=True)
    (tmp_path / "self/net/netlink").write_text(NETLINK)
    for pid, program in ((812, "dhclient"), (813, "keepalived"), (814, "dockerd")):
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "comm").write_text(f"{program}\n")
    assert netlink_users(tmp_path) == [(813, "keepalived"), (814, "dockerd")]
    assert netlink_users(tmp_path / "nothing") == []


def test_this_process_is_not_named_for_its_own_socket() -> None:
    netlink_generic = 16
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, netlink_generic) as sock:
        sock.bind((0, 0))
        assert os.getpid() not in dict(netlink_users())


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(f"answer to {self.path}".encode())

    def log_message(self, *_arguments: object) -> None:
        pass


def test_an_answer_at_a_local_port_is_read_and_a_closed_port_is_none() -> None:
    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        port = server.server_address[1]
        assert get_local(port, "/proxyMode", 60.0) == "answer to /proxyMode"
        server.shutdown()
    assert get_local(port, "/proxyMode", 0.1) == ""


def test_a_port_that_does_not_answer_is_given_up() -> None:
    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:  # listens, and nobody accepts
        assert get_local(server.server_address[1], "/proxyMode", 0.05) == ""
