"""onnxruntime-web, which runs the graphs in a browser: npm's package, verified, from the cache.

The site carries it, so that no page loads anything from elsewhere. Only building the site for the
first time needs npm or the network.
"""

from __future__ import annotations

import base64
import hashlib
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from labkit.datasets.fetch.verified_download import download
from labkit.errors import LabkitError
from labkit.system.atomic_write import atomic_write
from labkit.system.compiled_library import cache_folder

NAME, VERSION = "onnxruntime-web", "1.30.0"
INTEGRITY = (
    "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
)
"""sha512 of the package, as ``npm view`` shows it."""

ADDRESS = f"https://registry.npmjs.org/{NAME}/-/{NAME}-{VERSION}.tgz"
PACK = f"npm pack {NAME}@{VERSION}"
FILES = ("ort.wasm.min.js", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
"""Of the package: the interface, and the engine for one CPU core (WebAssembly with SIMD)."""


def runtime_files() -> dict[str, bytes]:
    """The runtime's files by name.

    Raises:
        LabkitError: it is not in the cache and cannot be fetched, or the package is damaged.
    """
    package = cache_folder() / "site" / f"{NAME}-{VERSION}.tgz"
    if not package.is_file():
        package.parent.mkdir(parents=True, exist_ok=True)
        _fetch(package)
    _verify(package)
    with tarfile.open(package) as archive:
        return {name: _read(archive, name) for name in FILES}


def _verify(package: Path) -> None:
    digest = hashlib.sha512(package.read_bytes()).digest()
    if base64.b64encode(digest).decode() != INTEGRITY:
        raise LabkitError(
            f"{package}: damaged, or not {NAME} {VERSION}: its sha512 differs from npm's; remove it"
            " and run the command again"
        )


def _fetch(package: Path) -> None:
    """Put the package into the cache, by npm where it is installed."""
    problem = _npm_pack(package)
    if problem is None:
        return
    try:
        download(ADDRESS, package)
    except LabkitError as error:
        raise LabkitError(
            f"{NAME} {VERSION}, which runs the model in the page, cannot be fetched ({problem};"
            f" {error}). Run `{PACK}` where there is a network, and copy the file to {package}"
        ) from None


def _npm_pack(package: Path) -> str | None:
    """Fetch by npm, with the user's registry and proxy; None, or why that failed."""
    npm = shutil.which("npm")
    if npm is None:
        return "npm is not installed"
    with tempfile.TemporaryDirectory() as folder:
        command = [npm, *PACK.split()[1:], "--silent"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        packed = Path(folder) / package.name
        if done.returncode != 0 or not packed.is_file():
            lines = done.stderr.strip().splitlines()
            return f"`{PACK}` failed: {lines[-1] if lines else f'status {done.returncode}'}"
        with atomic_write(package) as unfinished:
            shutil.copyfile(packed, unfinished)
    return None


def _read(archive: tarfile.TarFile, name: str) -> bytes:
    member = archive.extractfile(f"package/dist/{name}")
    assert member is not None
    return member.read()
