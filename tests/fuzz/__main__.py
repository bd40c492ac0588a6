"""Fuzz all readers, or those that are named, for SECONDS in total: ``python -m tests.fuzz SECONDS [READER ...]``.

Inputs that reach new code are kept in build/fuzz/corpus, so that the next run goes on from there.  The exit status is 1
if a reader has a fault; then the input is printed, and where to keep it.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from msgspec import Struct

from tests.fuzz.inputs import FOLDER, inputs
from tests.fuzz.readers import READERS, Reader

_BUILD = Path("build/fuzz")
_INPUT_MAX_BYTES = 16384
_INPUT_TIMEOUT_S = 10
_MEMORY_MAX_MIB = 2048
_GRACE_S = 60.0  # to import, to read the corpus, and for the last input
_PROGRESS = re.compile(rb"#(\d+)\s.*cov: (\d+)")
_ERROR = re.compile(rb"Uncaught Python exception: ===\n(.*)|(ERROR: libFuzzer: .*)")


class Result(Struct, frozen=True):
    """What fuzzing one reader gave; *error* is empty if no fault was found."""

    reader: str
    inputs: int
    places: int  # in the code, that were reached
    error: str
    found: Sequence[Path]


def main(argv: Sequence[str]) -> int:
    """Fuzz the readers and print the result; return the exit status."""
    seconds, names = int(argv[0]), argv[1:]
    if unknown := set(names) - {reader.name for reader in READERS}:
        print(f"no such reader: {', '.join(unknown)}; there are {', '.join(reader.name for reader in READERS)}")
        return 2
    readers = [reader for reader in READERS if not names or reader.name in names]
    jobs = min(os.cpu_count() or 1, len(readers))
    each_s = max(1, seconds * jobs // len(readers))
    print(f"{len(readers)} readers, {each_s} s each, {jobs} at a time")
    with ThreadPoolExecutor(jobs) as pool:
        results = list(pool.map(lambda reader: _report(_fuzz(reader, each_s)), readers))
    faulty = [result for result in results if result.error]
    print(f"{sum(result.inputs for result in results):,} inputs, {len(faulty)} readers with a fault")
    for result in faulty:
        print(f"\n{result.reader}: {result.error}")
        for file in result.found:
            print(f"  cp {file} {FOLDER.relative_to(Path.cwd())}/{result.reader}/NAME")
    return 1 if faulty else 0


def _fuzz(reader: Reader, seconds: int) -> Result:
    kept, given, found = (_BUILD / part / reader.name for part in ("corpus", "seeds", "found"))
    shutil.rmtree(found, ignore_errors=True)
    for folder in (kept, given, found):
        folder.mkdir(parents=True, exist_ok=True)
    for name, data in inputs(reader).items():
        (given / name).write_bytes(data)
    options = {
        "max_total_time": seconds,
        "max_len": _INPUT_MAX_BYTES,
        "timeout": _INPUT_TIMEOUT_S,
        "rss_limit_mb": _MEMORY_MAX_MIB,
        "artifact_prefix": f"{found}/",
    }
    command = [sys.executable, "-m", "tests.fuzz.engine", reader.name]
    command += [*(f"-{name}={value}" for name, value in options.items()), str(kept), str(given)]
    try:
        ended = subprocess.run(command, capture_output=True, timeout=seconds + _GRACE_S, check=False)
    except subprocess.TimeoutExpired as error:
        return Result(reader.name, 0, 0, f"did not end within {error.timeout:.0f} s", ())
    return _result(reader, ended, sorted(found.iterdir()))


def _result(reader: Reader, ended: "subprocess.CompletedProcess[bytes]", found: Sequence[Path]) -> Result:
    progress = _PROGRESS.findall(ended.stderr) or [(b"0", b"0")]
    (_BUILD / "found" / f"{reader.name}.log").write_bytes(ended.stdout + ended.stderr)
    error = ""
    if ended.returncode:
        match = _ERROR.search(ended.stdout + ended.stderr)
        error = (match[1] or match[2]).decode() if match else f"exit status {ended.returncode}"
    return Result(reader.name, int(progress[-1][0]), int(progress[-1][1]), error, found)


def _report(result: Result) -> Result:
    verdict = f"FAULT: {result.error}" if result.error else "ok"
    print(f"{result.reader:24} {result.inputs:>10,} inputs {result.places:>6} places  {verdict}", flush=True)
    return result


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
