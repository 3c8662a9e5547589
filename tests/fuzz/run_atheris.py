"""Fuzz readers with atheris, guided by which lines of Python each input reaches: ``just fuzz [reader] [seconds]``.

A finding is printed and its smallest input kept in ``--out``; fuzzing goes on. The exit code is 1 if there are any.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import sys
import time
import traceback
from contextlib import redirect_stderr, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

HERE = Path(__file__).parent
CORPUS = HERE / "corpus"
# Beside cptlite's own lines those of libraries in Python that parse what a file says.
INSTRUMENTED = ["cptlite", "tomllib", "zipfile", "pickletools", "PIL"]
COUNT, FOUND = "executions", "findings.json"
EVERY = 50  # executions between two notes of their number
MAX_LENGTH = 2**15  # bytes of an input
MEMORY = "/dev/shm"  # a disk would be the slowest part
HANG_SECONDS = 60  # within a library, where the oracle cannot look


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("readers", nargs="*", help="rows of tests/fuzz/fuzz_targets.py; all by default")
    parser.add_argument("--seconds", type=int, default=600, help="of each reader")
    parser.add_argument("--out", type=Path, default=Path(".fuzz"), help="where findings and new inputs are kept")
    return parser.parse_args()


def main() -> int:
    """Fuzz each reader in processes of its own: a library below may end one."""
    given, targets = parse(), load_targets()
    unknown = sorted(set(given.readers) - targets.keys())
    if unknown:
        print(f"unknown readers {', '.join(unknown)}: give some of {', '.join(targets)}", file=sys.stderr)
        return 2
    total = 0
    for name in given.readers or targets:
        out = given.out.absolute() / name
        executions, seconds = run_processes(targets[name], name, given.seconds, out)
        found = read_findings(out)
        print(f"{name}: {executions} executions in {seconds / 60:.1f} minutes, {len(found)} findings", flush=True)
        for key, (text, place) in found.items():
            print(f"  {key}\n    {text}\n    {place}", flush=True)
        total += len(found)
    return int(total > 0)


def load_targets() -> dict[str, Any]:
    """Import the readers, each of their lines made to say that it was reached."""
    import atheris
    import torch  # before the readers import it: it would take minutes to instrument

    sys.path[:0] = [str(HERE), str(HERE.parent)]
    with redirect_stderr(io.StringIO()), atheris.instrument_imports(include=INSTRUMENTED):
        from fuzz_targets import TARGETS
    torch.set_num_threads(1)
    return TARGETS


def run_processes(target: Any, name: str, seconds: int, out: Path) -> tuple[int, float]:
    """Fuzz a reader until its time is over; executions and seconds of all processes."""
    (out / "inputs").mkdir(parents=True, exist_ok=True)
    (out / FOUND).unlink(missing_ok=True)
    for found in out.glob("found-*"):  # of an earlier run, repaired meanwhile perhaps
        found.rename(out / "inputs" / found.name)
    executions, start = 0, time.monotonic()
    while (left := seconds - (time.monotonic() - start)) > 1:
        (out / COUNT).write_text("0")
        with TemporaryDirectory(prefix="cptlite-fuzz-", dir=MEMORY if os.path.isdir(MEMORY) else None) as folder:
            process = os.fork()
            if process == 0:
                with (out / "log").open("w") as log:
                    os.dup2(log.fileno(), 1)
                    os.dup2(log.fileno(), 2)
                try:
                    fuzz(target, name, int(left), out, Path(folder))
                finally:
                    os._exit(3)  # libFuzzer ends a process by itself
            code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        executions += int((out / COUNT).read_text())
        crashes = [*out.glob("crash-*"), *out.glob("timeout-*"), *out.glob("oom-*")]
        if code and not crashes:
            raise RuntimeError(f"{name} ended with {code}: see {out / 'log'}")
        for crash in crashes:
            kind = crash.name.partition("-")[0]
            keep(out, f"{kind} within a library", f"the process ended with {code}", crash.read_bytes())
            crash.unlink()
    return executions, time.monotonic() - start


def fuzz(target: Any, name: str, seconds: int, out: Path, folder: Path) -> None:
    """Fuzz one reader, whose files lie in a folder, and end the process."""
    import atheris
    from fuzz_oracle import Finding

    (folder / "seeds").mkdir()
    (folder / "files").mkdir()
    for number, seed in enumerate(target.seeds()):
        (folder / "seeds" / f"{number}").write_bytes(seed)
    words = ('"' + "".join(f"\\x{byte:02x}" for byte in word) + '"\n' for word in target.words)
    (folder / "words").write_text("".join([*words, '"\\x00"\n']))  # libFuzzer takes no empty list
    executions = 0

    def run(content: bytes) -> None:
        nonlocal executions
        executions += 1
        if executions % EVERY == 0:
            (out / COUNT).write_text(str(executions))
        try:
            target.check(folder / "files", content)
        except Finding as finding:
            keep(out, key_of(finding), str(finding), content)

    own = [str(CORPUS / name)] if (CORPUS / name).is_dir() else []
    limits = [f"-max_total_time={seconds}", f"-max_len={MAX_LENGTH}", f"-timeout={HANG_SECONDS}", "-rss_limit_mb=4096"]
    options = [*limits, f"-dict={folder / 'words'}", f"-artifact_prefix={out}/", "-print_final_stats=1"]
    atheris.Setup([sys.argv[0], *options, str(out / "inputs"), str(folder / "seeds"), *own], run)
    atheris.Fuzz()


def key_of(finding: BaseException) -> str:
    """What makes two findings the same: the rule, and the line of cptlite that broke it."""
    rule = str(finding).partition(":")[0]
    cause = finding.__cause__
    frames = traceback.extract_tb(cause.__traceback__) if cause else []
    own = [frame for frame in frames if "/cptlite/" in frame.filename] or frames
    where = f"{Path(own[-1].filename).name}:{own[-1].lineno} {own[-1].name}" if own else ""
    return f"{rule} {type(cause).__name__} {where}"


def read_findings(out: Path) -> dict[str, Any]:
    """Findings of a reader so far: text and file of each by its key."""
    with suppress(FileNotFoundError):
        return json.loads((out / FOUND).read_text())
    return {}


def keep(out: Path, key: str, text: str, content: bytes) -> None:
    """Note a finding, or a smaller input of one that is known."""
    found = read_findings(out)
    path = out / f"found-{hashlib.sha256(key.encode()).hexdigest()[:12]}"
    if key not in found or len(content) < path.stat().st_size:
        path.write_bytes(content)
        found[key] = (text, str(path))
        (out / FOUND).write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    sys.exit(main())
