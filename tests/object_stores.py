"""Real S3 servers on free ports of this machine: SeaweedFS, and JuiceFS's gateway, which embeds MinIO's S3 code."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from pydantic import SecretStr

from fumehood.artifacts.cache import Cache
from fumehood.artifacts.s3 import S3Artifacts
from fumehood.artifacts.s3_client import S3Place
from fumehood.cli.servers import lasting_port

ACCESS_KEY, SECRET_KEY = "fumehood-tests", "a-secret-of-these-tests"
PATIENCE_S = 60.0
KINDS = ("seaweedfs", "juicefs")
_PARTS = ("master.port", "volume.port", "filer.port")
PORTS = (*_PARTS, *(f"{name}.grpc" for name in _PARTS), "s3.port.grpc")
"""Of SeaweedFS besides the one for S3; where one is not given, it takes that of its neighbour and 10,000."""


class ObjectStore:
    """One server with one folder; it may be killed and started again on the same port."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind = kind
        self.folder = folder
        self.port = lasting_port()
        self._others = [lasting_port() for _ in range(len(PORTS))]
        self._server: subprocess.Popen[bytes] | None = None
        folder.mkdir()
        self._prepare()

    def place(self, **asked: object) -> S3Place:
        """Return where it is; every test may have a bucket, or a prefix, of its own."""
        known = {"bucket": "tests", "secure": False, "access_key": ACCESS_KEY, "secret_key": SecretStr(SECRET_KEY)}
        return S3Place(**{"endpoint": f"127.0.0.1:{self.port}", **known, **asked})  # type: ignore[arg-type]

    def artifacts(self, cache: Path, *, limit: int = 1024**3, **asked: object) -> S3Artifacts:
        """Return artifacts that are kept here, in a bucket that is there."""
        made = S3Artifacts(self.place(**asked), Cache(cache, limit))
        made.check(create=True)
        return made

    def size(self) -> int:
        """Return how many bytes lie in its folder."""
        return sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())

    def start(self) -> None:
        """Start it, and wait until it answers a request for S3."""
        environment = {"MINIO_ROOT_USER": ACCESS_KEY, "MINIO_ROOT_PASSWORD": SECRET_KEY, "HOME": str(self.folder)}
        with (self.folder / "log").open("ab") as log:
            self._server = subprocess.Popen(
                self._command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, cwd=self.folder
            )
        deadline = time.monotonic() + PATIENCE_S
        while not self._answers():
            if self._server.poll() is not None or time.monotonic() > deadline:
                told = (self.folder / "log").read_text(encoding="utf-8", errors="replace")
                pytest.fail(f"{self.kind} does not start:\n{told[-3000:]}")
            time.sleep(0.05)

    @property
    def is_alive(self) -> bool:
        """Whether its process runs."""
        return self._server is not None and self._server.poll() is None

    def kill(self) -> None:
        """End it as a power cut would, and wait until it is gone."""
        if self._server is not None:
            self._server.kill()
            self._server.wait()
            self._server = None

    def _answers(self) -> bool:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{self.port}/", timeout=2).close()
        except urllib.error.HTTPError as error:
            error.close()
            # Signed by nobody: a server that is up refuses.
            return error.code == 403
        except OSError:
            return False
        return True

    def _prepare(self) -> None:
        if self.kind == "seaweedfs":
            key = {"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}
            known = {"name": "tests", "credentials": [key], "actions": ["Admin", "Read", "Write", "List", "Tagging"]}
            (self.folder / "s3.json").write_text(json.dumps({"identities": [known]}), encoding="utf-8")
            return
        made = [_program("juicefs"), "format", "--storage", "file", "--bucket", f"{self.folder}/data/"]
        subprocess.run(
            [*made, "--trash-days", "0", f"sqlite3://{self.folder}/meta.db", "tests"],
            check=True,
            capture_output=True,
            env={"HOME": str(self.folder)},
        )

    def _command(self) -> list[str]:
        if self.kind == "juicefs":
            kept = ["--multi-buckets", "--keep-etag", "--object-tag", "--object-meta", "--no-banner"]
            where = [f"sqlite3://{self.folder}/meta.db", f"127.0.0.1:{self.port}"]
            cache = ["--cache-dir", str(self.folder / "cache"), "--metrics", f"127.0.0.1:{self._others[0]}"]
            return [_program("juicefs"), "gateway", "--no-usage-report", *cache, *kept, *where]
        ports = dict(zip(PORTS, self._others, strict=True))
        return [
            _program("weed"),
            "server",
            f"-dir={self.folder}",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            "-master.volumeSizeLimitMB=64",
            "-master.volumePreallocate=false",
            "-volume.max=100",
            "-master.telemetry=false",
            "-filer",
            "-s3",
            f"-s3.port={self.port}",
            f"-s3.config={self.folder / 's3.json'}",
            # Else it takes two ports that are the same for every server of a machine.
            "-s3.port.lance=0",
            "-s3.port.iceberg=0",
            "-s3.allowDeleteBucketNotEmpty=false",
            *(f"-{name}={number}" for name, number in ports.items()),
        ]


def _program(name: str) -> str:
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if found is None:
        pytest.fail(f"no {name} here; `make test` installs it")
    return found
