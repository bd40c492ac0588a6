"""Processes of the host, their network namespace, and what answers on it."""

import http.server
import os
import subprocess
import sys
import threading
from pathlib import Path

from kubeproxy_py.kernel.host.processes import get_local, is_in_our_network, processes


def test_other_processes_are_listed_with_their_command_line_and_this_one_is_not() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()", "an argument"], stdin=subprocess.PIPE) as process:
        found = dict(processes())
        assert is_in_our_network(process.pid)
        process.kill()
    assert found[process.pid][1:] == ["-c", "input()", "an argument"]
    assert os.getpid() not in found


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
