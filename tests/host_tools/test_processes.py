"""Processes of the host, their network namespace, and what answers on it."""

import http.server
import os
import subprocess
import sys
import threading
from pathlib import Path

from kubeproxy_py.kernel.host.processes import get_local, is_in_our_network, processes
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
    assert list(processes(tmp_path)) == []


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
        assert get_local(port, "/proxyMode") == "answer to /proxyMode"
        server.shutdown()
    assert get_local(port, "/proxyMode", 0.1) == ""


def test_a_port_that_does_not_answer_is_given_up() -> None:
    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:  # listens, and nobody accepts
        assert get_local(server.server_address[1], "/proxyMode", 0.05) == ""
