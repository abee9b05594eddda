"""Stored bytes as answers: never run, shown or guessed at by a browser, and never whole in memory."""

from __future__ import annotations

import re
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import IO
from urllib.parse import quote

from fastapi import Request, Response
from fastapi.responses import FileResponse, StreamingResponse

from api.problem import problem
from fumehood.ports import Artifacts

BYTES, JSON, PDF, ZIP = "application/octet-stream", "application/json", "application/pdf", "application/zip"
SAFE = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "sandbox; default-src 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "private, no-cache",
}
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")
_CHUNK = 256 * 1024


def stored(request: Request, artifacts: Artifacts, sha: str, name: str, kind: str) -> Response:
    """Return the bytes with this SHA-256 as a download."""
    path = artifacts.path(sha)
    tag = f'"{sha}"'
    headers = SAFE | {"ETag": tag, "Content-Disposition": _attachment(name)}
    if tag in (known.strip() for known in request.headers.get("if-none-match", "").split(",")):
        return Response(status_code=304, headers=headers)
    asked = request.headers.get("range")
    if asked is not None:
        size = path.stat().st_size
        part = _RANGE.fullmatch(asked)
        if part is None or part[0] == "bytes=-" or (part[1] and part[2] and int(part[1]) > int(part[2])):
            # What is no range, or several, may be passed over: the whole is a right answer.
            request.scope["headers"] = [one for one in request.scope["headers"] if one[0] != b"range"]
        elif (part[1] and int(part[1]) >= size) or (not part[1] and int(part[2]) == 0) or size == 0:
            detail = f"The file has {size} bytes, and the range asks for none of them."
            return problem(416, "range-not-satisfiable", detail, {"Content-Range": f"bytes */{size}"})
    return FileResponse(path, media_type=kind, headers=headers)


def given(text: str, name: str, kind: str) -> Response:
    """Return a text that no artifact holds as a download."""
    headers = SAFE | {"Content-Disposition": _attachment(name)}
    return Response(text.encode("utf-8", "replace"), media_type=kind, headers=headers)


def archive(artifacts: Artifacts, files: Mapping[str, str], name: str) -> Response:
    """Return several files as one ZIP, the same for the same files."""
    spool = tempfile.TemporaryFile()  # noqa: SIM115 - closed when it was sent
    try:
        with zipfile.ZipFile(spool, "w", zipfile.ZIP_DEFLATED) as packed:
            for path, sha in files.items():
                _add(packed, artifacts, path, sha)
        size = spool.tell()
        spool.seek(0)
    except BaseException:
        spool.close()
        raise
    headers = SAFE | {"Content-Disposition": _attachment(name), "Content-Length": str(size)}
    return StreamingResponse(_sent(spool), media_type=ZIP, headers=headers)


def _add(packed: zipfile.ZipFile, artifacts: Artifacts, path: str, sha: str) -> None:
    entry = zipfile.ZipInfo(path)
    entry.compress_type = zipfile.ZIP_DEFLATED
    with artifacts.path(sha).open("rb") as read, packed.open(entry, "w") as write:
        while chunk := read.read(_CHUNK):
            write.write(chunk)


def _sent(spool: IO[bytes]) -> Iterator[bytes]:
    with spool:
        while chunk := spool.read(_CHUNK):
            yield chunk


def _attachment(name: str) -> str:
    """Return the header of RFC 6266; what is not plain is told in the extended form."""
    last = PurePosixPath(name).name or "file"
    plain = re.sub(r"[^A-Za-z0-9._-]", "_", last)
    extended = f"; filename*=UTF-8''{quote(last, safe='')}" if plain != last else ""
    return f'attachment; filename="{plain}"{extended}'
