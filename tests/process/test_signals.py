"""Signals to a process of its own, whose main thread is kept from hearing them."""

import signal
import subprocess
import sys

PATIENCE_S = 20.0
HEARS = """
import hashlib, os, signal, sys
from kubeproxy_py.signals import block, handle_in_thread

def answer(number):
    print(number.name, flush=True)
    if number == signal.SIGTERM:
        os._exit(3)

block((signal.SIGTERM, signal.SIGHUP))
os.kill(os.getpid(), signal.SIGHUP)
print("held", flush=True)
handle_in_thread((signal.SIGTERM, signal.SIGHUP), answer)
hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)  # minutes in which no bytecode is run
"""


def test_a_signal_is_answered_while_the_main_thread_hears_nothing_and_one_that_came_before_is_kept() -> None:
    with subprocess.Popen([sys.executable, "-c", HEARS], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            assert [process.stdout.readline() for _ in range(2)] == ["held\n", "SIGHUP\n"]
            process.send_signal(signal.SIGHUP)
            assert process.stdout.readline() == "SIGHUP\n"
            process.send_signal(signal.SIGTERM)
            assert (process.wait(PATIENCE_S), process.stdout.read()) == (3, "SIGTERM\n")
        finally:
            process.kill()
