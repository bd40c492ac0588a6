"""Log lines: one for each record, in two formats, filtered by -v level, and without credentials."""

import io
import json
import logging
import re
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any, Literal

import pytest

from kubeproxy_py import logging_setup as logs

WrittenText = Callable[[], str]
logger = logging.getLogger("kubeproxy_py.tests")


def log(format: Literal["text", "json", "plain"] = "text", verbosity: int = 0) -> WrittenText:  # noqa: A002
    """Set up the log, and return a function that returns the written text."""
    stream = io.StringIO()
    logs.setup(format, verbosity, stream)
    return stream.getvalue


def json_log() -> Callable[[], dict[str, Any]]:
    written = log("json")
    return lambda: dict(json.loads(written()))


def test_a_text_line_has_klogs_format() -> None:
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


def test_a_json_warning_has_a_severity() -> None:
    fields = json_log()
    logger.warning("x")
    assert fields()["severity"] == "warning"


def test_a_json_error_has_no_v_level_and_has_the_exception() -> None:
    fields = json_log()
    logger.error("failed", exc_info=ValueError("bad"))
    line = fields()
    assert ("v" in line, line["err"], line["stack"]) == (False, "bad", "ValueError: bad\n")


def test_values_cannot_replace_the_message() -> None:
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


def test_other_libraries_log_from_warning_on_at_any_verbosity() -> None:
    written = log(verbosity=10)
    logging.getLogger("kubernetes.client.rest").debug("response body: ...")
    logging.getLogger("urllib3").warning("retrying")
    assert '"retrying"' in written()
    assert "response" not in written()


def test_pythons_warnings_are_logged() -> None:
    written = log()
    warnings.warn("unverified", RuntimeWarning, stacklevel=1)
    assert re.match(r'W.*"[^"]*unverified', written())


def test_a_second_setup_replaces_the_first() -> None:
    first, second = log(), log()
    logger.info("x")
    assert (first(), second().count("\n")) == ("", 1)


def test_a_json_lines_time_is_milliseconds_since_1970() -> None:
    fields = json_log()
    before_s = time.time()
    logger.info("x")
    assert before_s * 1e3 <= fields()["ts"] <= time.time() * 1e3


def test_an_uncaught_exception_of_a_thread_is_one_line() -> None:
    written = log("json")
    thread = threading.Thread(target=lambda: 1 / 0, name="watch-slices")
    thread.start()
    thread.join()
    (line,) = written().splitlines()
    fields = json.loads(line)
    assert fields["thread"] == "watch-slices"
    assert (fields["err"], "ZeroDivisionError" in fields["stack"]) == ("division by zero", True)


def test_an_uncaught_exception_of_the_process_is_one_line() -> None:
    program = (
        "from kubeproxy_py import logging_setup as logs; logs.setup('json'); "
        "raise ValueError('password=x Bearer s3cr3t-value')"
    )
    completed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    (line,) = completed.stderr.splitlines()
    assert (completed.returncode, json.loads(line)["err"]) == (1, "password=x Bearer ***")


@pytest.mark.parametrize("format_", ["text", "json"])
@pytest.mark.parametrize("character", ["\n", "\r", "\x1b", "\x85", "\u2028", '"', "\\", "\x00"])
def test_a_record_is_one_printable_line(format_: Literal["text", "json"], character: str) -> None:
    written = log(format_)
    logger.info("a%sb", character, extra=logs.values(c=f"a{character}b"))
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
def test_no_credential_is_logged(kind: str, where: str) -> None:
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
def test_a_value_with_the_name_of_a_secret_is_hidden(key: str) -> None:
    written = log()
    logger.info("x", extra=logs.values(**{key: "abc"}))
    assert f'{key}="***"' in written()


def test_text_that_is_no_credential_is_not_changed() -> None:
    written = log()
    logger.info("https://10.0.0.1:6443/api/v1/services: basic answer, bearer of news")
    assert "https://10.0.0.1:6443/api/v1/services: basic answer, bearer of news" in written()


# Sentences for a person


@pytest.mark.parametrize(("severity", "prefix"), [("info", ""), ("warning", "warning: "), ("error", "error: ")])
def test_a_plain_line_is_a_sentence_with_its_values(severity: str, prefix: str) -> None:
    written = log("plain")
    getattr(logger, severity)("Refused an address", extra=logs.values(service="shop/web", used_by=["a", "b"], count=3))
    assert written() == f"{prefix}Refused an address (service: shop/web; used by: ['a', 'b']; count: 3)\n"


def test_a_plain_line_of_a_text_composed_elsewhere_does_not_repeat_its_values() -> None:
    written = log("plain")
    logger.warning("%s", "Service shop/web: spec.ports: missing", extra=logs.values(object="Service shop/web"))
    assert written() == "warning: Service shop/web: spec.ports: missing\n"


def test_a_plain_line_has_no_control_characters_and_no_credentials() -> None:
    written = log("plain")
    logger.warning("odd name", extra=logs.values(name="a\x1b[31m\nb", url="https://me:secret@host"))
    assert written() == "warning: odd name (name: a\\x1b[31m\\nb; url: https://***@host)\n"


def test_a_plain_line_of_an_exception_is_followed_by_the_traceback() -> None:
    written = log("plain")
    try:
        int("gone")
    except ValueError:
        logger.exception("Internal error")
    first, second, *others = written().splitlines()
    assert first.startswith("error: Internal error (err: invalid literal for int()")
    assert second == "Traceback (most recent call last):"
    assert others[-1].startswith("ValueError: invalid literal for int()")
