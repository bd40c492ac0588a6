"""Signals to a separate process, whose main thread cannot run a handler."""

import signal
import subprocess
import sys

PATIENCE_S = 60.0
PROGRAM = """
import hashlib, os, signal, sys
from kubeproxy_py.signals import block, handle_in_thread

def handle(number):
    print(number.name, flush=True)
    if number == signal.SIGTERM:
        os._exit(3)

block((signal.SIGTERM, signal.SIGHUP))
os.kill(os.getpid(), signal.SIGHUP)
print("blocked", flush=True)
handle_in_thread((signal.SIGTERM, signal.SIGHUP), handle)
hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)  # minutes in which no bytecode runs
"""


def test_signals_are_handled_while_the_main_thread_is_busy_including_earlier_ones() -> None:
    with subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            assert [process.stdout.readline() for _ in range(2)] == ["blocked\n", "SIGHUP\n"]
            process.send_signal(signal.SIGHUP)
            assert process.stdout.readline() == "SIGHUP\n"
            process.send_signal(signal.SIGTERM)
            assert (process.wait(PATIENCE_S), process.stdout.read()) == (3, "SIGTERM\n")
        finally:
            process.kill()
