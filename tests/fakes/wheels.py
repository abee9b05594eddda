"""Small packages as files that pip takes, or should not."""

from __future__ import annotations

import base64
import hashlib
import io
import tarfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path


def write_wheel(
    folder: Path,
    name: str,
    version: str = "1.0",
    *,
    files: Mapping[str, str] | None = None,
    needs: Sequence[str] = (),
    tag: str = "py3-none-any",
) -> Path:
    """Write a wheel whose files are these, or one module of its name that says its version."""
    folder.mkdir(parents=True, exist_ok=True)
    about = f"{name}-{version}.dist-info"
    told = [f"Requires-Dist: {one}\n" for one in needs]
    held = dict(files or {f"{name}.py": f"VERSION = {version!r}\n"})
    held[f"{about}/METADATA"] = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{''.join(told)}"
    held[f"{about}/WHEEL"] = f"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: {tag}\n"
    held[f"{about}/RECORD"] = "".join(f"{path},{_hash(text)},{len(text)}\n" for path, text in held.items())
    path = folder / f"{name}-{version}-{tag}.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for inside, text in held.items():
            # With a time of its own, the same wheel would have another hash each time.
            archive.writestr(zipfile.ZipInfo(inside), text)
    return path


def write_source(folder: Path, name: str, version: str, mark: Path) -> Path:
    """Write a source distribution that makes a file as soon as it is built."""
    folder.mkdir(parents=True, exist_ok=True)
    program = (
        f"import setuptools\nopen({str(mark)!r}, 'w').close()\nsetuptools.setup(name={name!r}, version={version!r})\n"
    )
    path = folder / f"{name}-{version}.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for inside, text in (
            ("setup.py", program),
            ("PKG-INFO", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"),
        ):
            member = tarfile.TarInfo(f"{name}-{version}/{inside}")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    return path


def _hash(text: str) -> str:
    return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
