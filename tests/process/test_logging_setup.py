"""The lines of the log: one for each record, in two formats, by -v levels, and without credentials."""

import io
import json
import logging
import re
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any, Literal

import pytest

from kubeproxy_py import logging_setup as logs

Written = Callable[[], str]
logger = logging.getLogger("kubeproxy_py.tests")


@pytest.fixture(autouse=True)
def leave_logging_as_it_was() -> Iterator[None]:
    root, ours = logging.getLogger(), logging.getLogger(logs.ROOT)
    before = (root.handlers[:], root.level, ours.level)
    hooks = (sys.excepthook, threading.excepthook)
    yield
    root.handlers[:], root.level, ours.level = before
    sys.excepthook, threading.excepthook = hooks
    logging.captureWarnings(False)


def log(format: Literal["text", "json"] = "text", verbosity: int = 0) -> Written:  # noqa: A002
    """The log set up; calling the result gives what was written."""
    stream = io.StringIO()
    logs.setup(format, verbosity, stream)
    return stream.getvalue


def json_log() -> Callable[[], dict[str, Any]]:
    written = log("json")
    return lambda: dict(json.loads(written()))


def test_a_text_line_is_klogs() -> None:
    written = log()
    logger.info("synced %d Service", 1, extra=logs.values(added=1, ms=1.5, all=True, by="web", none=None))
    assert re.fullmatch(
        r"I\d{4} \d\d:\d\d:\d\d\.\d{6} +\d+ test_logging_setup\.py:\d+] "
        r'"synced 1 Service" added=1 ms=1\.5 all=true by="web" none=null\n',
        written(),
    )


@pytest.mark.parametrize(("level", "letter"), [("info", "I"), ("warning", "W"), ("error", "E"), ("critical", "E")])
def test_a_text_line_begins_with_its_severity(level: str, letter: str) -> None:
    written = log()
    getattr(logger, level)("x")
    assert written()[0] == letter


def test_a_json_line_has_the_fields_of_kubernetes() -> None:
    fields = json_log()
    logger.info("synced", extra=logs.values(added=1))
    line = fields()
    assert line.keys() == {"ts", "caller", "msg", "v", "added"}
    assert (line["msg"], line["v"], line["added"]) == ("synced", 0, 1)


def test_a_json_warning_says_that_it_is_one() -> None:
    fields = json_log()
    logger.warning("x")
    assert fields()["severity"] == "warning"


def test_a_json_error_has_no_v_level_and_says_why() -> None:
    fields = json_log()
    logger.error("failed", exc_info=ValueError("bad"))
    line = fields()
    assert ("v" in line, line["err"], line["stack"]) == (False, "bad", "ValueError: bad\n")


def test_values_can_not_take_the_place_of_the_sentence() -> None:
    fields = json_log()
    logger.info("synced", extra=logs.values(msg="other"))
    assert fields()["msg"] == "synced"


@pytest.mark.parametrize("verbosity", range(9))
def test_v_shows_its_level_and_none_above(verbosity: int) -> None:
    written = log("json", verbosity)
    for n in range(9):
        logger.log(logs.level(n), "x")
    assert [json.loads(line)["v"] for line in written().splitlines()] == list(range(verbosity + 1))


def test_debug_is_v4() -> None:
    assert logs.level(4) == logging.DEBUG


def test_other_libraries_are_heard_from_warning_on_at_any_verbosity() -> None:
    written = log(verbosity=10)
    logging.getLogger("kubernetes.client.rest").debug("response body: ...")
    logging.getLogger("urllib3").warning("retrying")
    assert '"retrying"' in written()
    assert "response" not in written()


def test_pythons_warnings_come_through_the_log() -> None:
    written = log()
    warnings.warn("unverified", RuntimeWarning, stacklevel=1)
    assert re.match(r'W.*"[^"]*unverified', written())


def test_setting_up_again_replaces_the_first_log() -> None:
    first, second = log(), log()
    logger.info("x")
    assert (first(), second().count("\n")) == ("", 1)


def test_a_json_lines_time_is_milliseconds_since_1970() -> None:
    fields = json_log()
    before_s = time.time()
    logger.info("x")
    assert before_s * 1e3 <= fields()["ts"] <= time.time() * 1e3


def test_a_bug_that_ends_a_thread_is_one_line_of_the_log() -> None:
    written = log("json")
    thread = threading.Thread(target=lambda: 1 / 0, name="watch-slices")
    thread.start()
    thread.join()
    (line,) = written().splitlines()
    fields = json.loads(line)
    assert "watch-slices" in fields["msg"]
    assert (fields["err"], "ZeroDivisionError" in fields["stack"]) == ("division by zero", True)


def test_a_bug_that_ends_the_process_is_one_line_of_the_log() -> None:
    program = "from kubeproxy_py import logging_setup as logs; logs.setup('json'); raise ValueError('password=x Bearer s3cr3t-value')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    (line,) = done.stderr.splitlines()
    assert (done.returncode, json.loads(line)["err"]) == (1, "password=x Bearer ***")


@pytest.mark.parametrize("format_", ["text", "json"])
@pytest.mark.parametrize("character", ["\n", "\r", "\x1b", "\x85", "\u2028", '"', "\\", "\x00"])
def test_a_record_is_one_printable_line_whatever_is_in_it(format_: Literal["text", "json"], character: str) -> None:
    written = log(format_)
    logger.info(f"a{character}b", extra=logs.values(c=f"a{character}b"))
    assert written().endswith("\n")
    assert written()[:-1].isprintable()


TOKEN = "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJrdWJlcm5ldGVzIn0.c2lnbmF0dXJl"
SECRETS = {
    "header": ("Authorization: Bearer s3cr3t-value", "s3cr3t-value"),
    "basic": ("authorization: basic dXNlcjpwYXNzd29yZA==", "dXNlcjpwYXNzd29yZA"),
    "jwt": (f"got {TOKEN} for it", TOKEN),
    "url": ("https://user:hunter2@10.0.0.1:6443/api", "hunter2"),
    "key": ("-----BEGIN RSA PRIVATE KEY-----\nMIIEow\n-----END RSA PRIVATE KEY----- x", "MIIEow"),
    "cut key": ("-----BEGIN PRIVATE KEY-----\nMIIEow", "MIIEow"),
}


@pytest.mark.parametrize("where", ["message", "value", "exception"])
@pytest.mark.parametrize("kind", SECRETS)
def test_no_credential_leaves_by_the_log(kind: str, where: str) -> None:
    text, secret = SECRETS[kind]
    written = log()
    if where == "message":
        logger.error(text)
    elif where == "value":
        logger.error("x", extra=logs.values(answer=text))
    else:
        logger.error("x", exc_info=ValueError(text))
    assert "***" in written()
    assert secret not in written()


@pytest.mark.parametrize("key", ["token", "bearerToken", "password", "client_private_key", "Authorization"])
def test_a_value_that_is_called_a_secret_is_hidden(key: str) -> None:
    written = log()
    logger.info("x", extra=logs.values(**{key: "abc"}))
    assert f'{key}="***"' in written()


def test_what_is_no_credential_stays() -> None:
    written = log()
    logger.info("https://10.0.0.1:6443/api/v1/services: basic answer, bearer of news")
    assert "https://10.0.0.1:6443/api/v1/services: basic answer, bearer of news" in written()
