"""Python on aarch64, by user-mode emulation: Debian's packages and PyPI's wheels in one folder.

Nothing is installed and the host's apt is left as it is: apt works on folders of its own.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from shared import ROOT

SUITE = "trixie"  # the emulator of the suite before it crashes when numpy is imported
PACKAGES = ("qemu-user:amd64", "python3.13:arm64", "libstdc++6:arm64")
PYTHON_VERSION = "3.13"  # that suite's
PLATFORMS = ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux2014_aarch64")
SOURCES = Path("/etc/apt")
MIRROR = re.compile(r"^[^#\n]*?(https?://\S+/debian)/?(?:\s|$)", re.MULTILINE)
KEYS = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
SETTINGS = """
Dir::State "{0}/state";
Dir::State::status "{0}/state/status";
Dir::Cache "{0}/cache";
Dir::Etc::sourcelist "{0}/sources.list";
Dir::Etc::sourceparts "-";
APT::Architecture "amd64";
APT::Architectures {{ "amd64"; "arm64"; }};
APT::Sandbox::User "root";
// hooks that the host runs after its own updates
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
"""


class Unavailable(Exception):
    """Why there can be no emulated Python here."""


class EmulatedPython:
    """An aarch64 Python with a wheel, an extra of it and what that needs.

    Args:
        cache: a folder that stays; what is made there is used again until the dependencies change.
        wheel: of this project.
        extra: of its extras.

    Raises:
        Unavailable: if the host is not such a one, or the packages cannot be had.
    """

    def __init__(self, cache: Path, wheel: Path, extra: str) -> None:
        if (sys.platform, platform.machine()) != ("linux", "x86_64"):
            raise Unavailable(f"needs Linux on x86_64, not {sys.platform}, {platform.machine()}")
        pins = b"".join((ROOT / name).read_bytes() for name in ("setup.py", "constraints.txt"))
        what = repr((SUITE, PACKAGES, PLATFORMS, extra)).encode()
        self.folder = cache / hashlib.sha256(what + pins).hexdigest()[:16]
        if not self.folder.is_dir():
            part = cache / "part"
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(parents=True)
            _unpack_debian(part)
            _unpack_wheels(part, f"{wheel}[{extra}]", "--constraint", ROOT / "constraints.txt")
            part.rename(self.folder)
        _unpack_wheels(self.folder, wheel, "--no-deps", "--upgrade")  # today's code

    def run(self, *arguments: str) -> str:
        """Runs the emulated Python, free of the host's environment, and returns what it prints."""
        return self.run_program(self.binaries / f"python{PYTHON_VERSION}", *arguments)

    def run_program(self, program: Path, *arguments: str) -> str:
        """Runs an emulated program and returns what it prints.

        Raises:
            subprocess.CalledProcessError: if its exit status is not 0.
        """
        emulator = (self.binaries / "qemu-aarch64", "-L", self.folder / "root")
        env = {"PYTHONPATH": str(self.folder / "site")}
        return _run(*emulator, program, *arguments, env=env)

    @property
    def binaries(self) -> Path:
        """The folder of the emulator and the emulated Python."""
        return self.folder / "root" / "usr" / "bin"


def _unpack_debian(folder: Path) -> None:
    """Fetches the packages with all that they depend on, and unpacks them into folder/root."""
    apt, root = folder / "apt", folder / "root"
    for name in ("state/lists/partial", "cache/archives/partial"):
        (apt / name).mkdir(parents=True)
    (apt / "state" / "status").touch()  # nothing is installed: every dependency is fetched
    (apt / "settings").write_text(SETTINGS.format(apt), encoding="utf-8")
    signed = f" [signed-by={KEYS}]" if KEYS.is_file() else ""
    line = f"deb{signed} {_mirror()} {SUITE} main\n"
    (apt / "sources.list").write_text(line, encoding="utf-8")
    command = ("apt-get", "--quiet", "-c", apt / "settings")
    try:
        _run(*command, "update", "--error-on=any")
        options = ("--yes", "--download-only", "--no-install-recommends")
        _run(*command, "install", *options, *PACKAGES)
    except (OSError, subprocess.CalledProcessError) as err:
        raise Unavailable(_reason(f"{', '.join(PACKAGES)} of Debian {SUITE}", err)) from err
    (root / "usr" / "lib").mkdir(parents=True)
    (root / "lib").symlink_to("usr/lib")  # the loader's path is /lib/ld-linux-aarch64.so.1
    archives = apt / "cache" / "archives"
    for package in sorted(archives.glob("*_arm64.deb")):
        _run("dpkg-deb", "--extract", package, root)
    (emulator,) = archives.glob("qemu-user_*_amd64.deb")
    _run("dpkg-deb", "--extract", emulator, apt / "qemu")
    shutil.copy(apt / "qemu" / "usr" / "bin" / "qemu-aarch64", root / "usr" / "bin")
    shutil.rmtree(apt)


def _mirror() -> str:
    """Returns the address of the Debian mirror that the host uses."""
    files = [SOURCES / "sources.list", *sorted((SOURCES / "sources.list.d").glob("*.*"))]
    for file in files:
        if file.is_file() and (found := MIRROR.search(file.read_text(encoding="utf-8"))):
            return found[1]
    raise Unavailable(f"no Debian mirror is named in {SOURCES}")


def _unpack_wheels(folder: Path, *arguments: str | Path) -> None:
    """Installs wheels for aarch64 into folder/site."""
    target = ("--target", folder / "site", "--only-binary", ":all:", "--no-compile", "--quiet")
    version = ("--implementation", "cp", "--python-version", PYTHON_VERSION)
    platforms = [f"--platform={name}" for name in PLATFORMS]
    command = (sys.executable, "-m", "pip", "install", *target, *version, *platforms)
    try:
        _run(*command, *arguments)
    except subprocess.CalledProcessError as err:
        raise Unavailable(_reason("wheels for aarch64", err)) from err


def _run(*command: str | Path, env: dict[str, str] | None = None) -> str:
    env = {**os.environ, "LC_ALL": "C"} if env is None else env
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        shown: Sequence[str] = [str(word) for word in command]
        raise subprocess.CalledProcessError(done.returncode, shown, done.stdout, done.stderr)
    return done.stdout


def _reason(what: str, err: OSError | subprocess.CalledProcessError) -> str:
    said = err.stderr if isinstance(err, subprocess.CalledProcessError) else str(err)
    lines = [line for line in said.splitlines() if not line.startswith("W")]
    return f"cannot have {what}: {lines[-1] if lines else err}"
