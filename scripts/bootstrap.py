"""Make `.venv` in this checkout from requirements.lock: `python scripts/bootstrap.py [--is-ready]`.

Standard library only, since it runs before anything is installed. The stamp is the last thing written, so
a `.venv` without one is half made and is redone; a lock on the checkout's directory makes a second caller wait
for the first and then find the work done. No package index is named here: pip uses the one it is set up for.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
LOCK = ROOT / "requirements.lock"
STAMP = VENV / "holdfast.stamp"
INNER_PIP = [str(VENV / "bin" / "python"), "-m", "pip"]
HASHED = ("--only-binary=:all:", "--require-hashes", "--no-compile", "--requirement")
REMEDY = "Install them (Debian, Ubuntu: apt install python3-venv), or name another Python: PYTHON=/path/to/python3.12"
# Settings of a caller's own that would send the packages somewhere else than into the venv.
BASE = getattr(sys, "_base_executable", sys.executable)
MISLEADING = ("PIP_USER", "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PYTHONHOME", "PYTHONPATH")


class BootstrapError(Exception):
    """The environment can't be made; the message says why and what to do."""


def digest(*paths: Path) -> str:
    hashed = hashlib.sha256()
    for path in paths:
        hashed.update(path.read_bytes())
    return hashed.hexdigest()


def wanted() -> list[str]:
    """What a finished environment's stamp holds: the packages' line, then the project's.

    The checkout's path is part of it because a venv can't be moved.
    """
    python = f"{sys.version_info[0]}.{sys.version_info[1]}"
    return [f"{digest(LOCK)} python{python} {ROOT}", digest(ROOT / "pyproject.toml")]


def stamped() -> list[str]:
    """The stamp that is there; empty where the venv is missing, half made, or its Python is gone."""
    if not (VENV / "bin" / "python").exists():
        return []
    try:
        return STAMP.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []


@contextmanager
def only_one() -> Iterator[None]:
    """Hold the checkout's lock, which the operating system releases however this process ends."""
    handle = os.open(ROOT, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("==> Another command is making .venv; waiting for it", flush=True)
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def create() -> list[str]:
    """Make an empty venv and return the command of a pip that installs into it."""
    if VENV.is_symlink():
        VENV.unlink()
    shutil.rmtree(VENV, ignore_errors=True)
    # Debian and Ubuntu ship `venv` without `ensurepip`; there the system's own pip can do it from outside.
    own_pip = importlib.util.find_spec("ensurepip") is not None
    if not own_pip and importlib.util.find_spec("pip") is None:
        raise BootstrapError(f"{BASE} has neither ensurepip nor pip. {REMEDY}")
    try:
        venv.EnvBuilder(with_pip=own_pip, symlinks=True).create(VENV)
    except subprocess.CalledProcessError as exc:
        raise BootstrapError(f"{BASE} can't make an environment with pip in it ({exc}). {REMEDY}") from exc
    return INNER_PIP if own_pip else [sys.executable, "-m", "pip", "--python", INNER_PIP[0]]


def pinned_pip() -> str:
    """The lock's entry of pip itself, with its hashes."""
    found = re.search(r"^pip==.*\n(?:[ ]+--hash=.*\n)+", LOCK.read_text(encoding="utf-8"), re.MULTILINE)
    if found is None:
        raise BootstrapError("requirements.lock has no pip; write it anew: ./scripts/lock")
    return found.group()


def install_packages(pip: list[str]) -> None:
    """Install all of the lock, by the lock's own pip: it takes half the time of those that Pythons bring."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as only_pip:
        only_pip.write(pinned_pip())
        only_pip.flush()
        run_pip(pip, *HASHED, only_pip.name)
    run_pip(INNER_PIP, *HASHED, str(LOCK))


def run_pip(pip: list[str], *arguments: str) -> None:
    """Run `pip install`; on failure raise with the package, pip's own first error and the remedy."""
    environment = {key: value for key, value in os.environ.items() if key not in MISLEADING}
    command = [*pip, "install", "--no-input", "--disable-pip-version-check", "--progress-bar=off", *arguments]
    package = ""
    errors, no_answer = list[str](), list[str]()
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=environment,
        cwd=ROOT,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("Collecting "):
                package = line.split()[1]
            elif errors or line.strip().lower().startswith("error"):
                errors.append(line.strip().removeprefix("ERROR: "))
            elif line.startswith("WARNING: Retrying"):
                no_answer = [line.strip().removeprefix("WARNING: ")]
    if process.returncode != 0:
        raise BootstrapError(pip_trouble(package, no_answer + [line for line in errors if line]))


def pip_trouble(package: str, errors: list[str]) -> str:
    where = f" at {package}" if package else ""
    return "\n       ".join(
        [
            f"pip could not install the packages; it stopped{where}:",
            *(errors[:4] or ["pip gave no reason"]),
            "See that this machine reaches the package index pip is configured for (pip config list),",
            "and that the index has this version for this Python; then run the command again.",
        ]
    )


def make(have: list[str], want: list[str]) -> None:
    """Bring `.venv` from what it has to what is wanted. Only a changed lock costs a new venv."""
    if have[:1] == want[:1]:
        STAMP.unlink()
    else:
        packages = LOCK.read_text(encoding="utf-8").count("==")
        version = f"{sys.version_info[0]}.{sys.version_info[1]}.{sys.version_info[2]}"
        print(f"==> Making .venv with Python {version} ({BASE})", flush=True)
        pip = create()
        print(f"==> Installing {packages} pinned packages (about half a minute, more when all are new)", flush=True)
        install_packages(pip)
    print("==> Installing this checkout into .venv", flush=True)
    run_pip(INNER_PIP, "--no-deps", "--no-build-isolation", "--editable", str(ROOT))
    STAMP.write_text("\n".join(want) + "\n", encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description="Make .venv in this checkout from requirements.lock")
    parser.add_argument("--is-ready", action="store_true", help="only say whether it is up to date, by exit code")
    options = parser.parse_args()
    if options.is_ready:
        return 0 if stamped() == wanted() else 1
    began = time.monotonic()
    try:
        with only_one():
            want, have = wanted(), stamped()
            if have == want:
                return 0
            make(have, want)
    except BootstrapError as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 1
    except OSError as exc:
        print(f"error: .venv can't be made in {ROOT}: {exc}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("error: interrupted; .venv is half made and will be redone next time", file=sys.stderr)
        return 130
    print(f"==> .venv is ready ({time.monotonic() - began:.0f} s)", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
