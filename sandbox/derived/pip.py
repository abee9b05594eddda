"""pip, started with the lab's interpreter: what it would install beside the lab; wheels, fetched and unpacked.

It sees the lab's packages as installed and as pinned, so that it takes what fits them or nothing. It is given nothing
that it could run: wheels only, no bytecode, and no way to start a program.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fumehood.domain.extra_packages import Pin, normal
from fumehood.errors import BadInputError, FumehoodError, MachineUnfitError
from sandbox.derived import alone

_ASKS = "import json, sys; print(json.dumps([sys.version.split()[0], sorted(sys.stdlib_module_names)]))"
_AWAY = ("Retrying (Retry(", "Could not fetch URL", "connection error", "NewConnectionError")
_HANDED_ON = frozenset(
    {
        *("HOME", "PATH", "LANG", "LC_ALL", "TMPDIR", "NETRC", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"),
        *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "all_proxy", "no_proxy"),
    }
)
_ALONE = ("-S", "-s", "-P")
"""No packages but those named: neither the distribution's, nor a user's, nor what lies beside the program."""


@dataclass(frozen=True, slots=True)
class Pip:
    """pip for one interpreter, beside one folder of packages."""

    interpreter: Path
    site: Path
    """The lab's packages."""
    scratch: Path
    """Where it may write."""

    def about(self) -> tuple[str, frozenset[str]]:
        """Return the interpreter's version, and the names of its own modules."""
        told = subprocess.run([self.interpreter, "-I", "-S", "-c", _ASKS], capture_output=True, check=True).stdout
        version, names = json.loads(told)
        return str(version), frozenset(names)

    def resolve(self, wanted: Sequence[str], has: Mapping[str, str]) -> list[Pin]:
        """Return each wheel that is to come beside what the lab `has` (name to version), with its hash."""
        constraints, report = self.scratch / "constraints.txt", self.scratch / "report.json"
        constraints.write_text("".join(f"{name}=={version}\n" for name, version in has.items()), encoding="utf-8")
        options = ("--dry-run", "--report", str(report), "--constraint", str(constraints))
        self._run("install", *options, *wanted, beside=True)
        found = []
        for one in json.loads(report.read_bytes())["install"]:
            about, place = one["metadata"], one["download_info"]
            sha = place.get("archive_info", {}).get("hashes", {}).get("sha256", "")
            if not str(place["url"]).endswith(".whl") or not sha:
                raise BadInputError(f"{about['name']} {about['version']} is no wheel, and only wheels are taken.")
            found.append(Pin(normal(about["name"]), about["version"], (sha,)))
        return sorted(found)

    def fetch(self, pins: Iterable[Pin], into: Path) -> None:
        """Download exactly these wheels."""
        listed = self.scratch / "fetch.txt"
        listed.write_text("".join(f"{one.line}\n" for one in pins), encoding="utf-8")
        if listed.stat().st_size:
            self._run("download", "--no-deps", "--require-hashes", "--dest", str(into), "--requirement", str(listed))

    def unpack(self, wheels: Sequence[Path], into: Path) -> None:
        """Unpack wheels into a folder."""
        into.mkdir()
        if wheels:
            options = ("--no-index", "--no-deps", "--no-compile", "--target", str(into))
            self._run("install", *options, *map(str, wheels))

    def _run(self, *words: str, beside: bool = False) -> None:
        found = importlib.util.find_spec("pip")
        if found is None or found.origin is None:
            raise MachineUnfitError(
                "Extra packages are installed with pip, which Fumehood's own environment lacks.",
                remedy="Run `make setup`.",
            )
        runner = Path(found.origin).with_name("__pip-runner__.py")
        command = [self.interpreter, *_ALONE, alone.__file__, runner, *words[:1]]
        command += ["--only-binary=:all:", "--disable-pip-version-check", "--no-input", "--no-color"]
        command += ["--keyring-provider=disabled", "--retries=2", "--timeout=30", *words[1:]]
        # What is installed is never on its path.
        path = {"PYTHONPATH": str(self.site)} if beside else {}
        done = subprocess.run(
            [str(word) for word in command],
            cwd=self.scratch,
            env={**_settings(), **path, "PYTHONDONTWRITEBYTECODE": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            umask=0o022,
        )
        if done.returncode:
            raise refusal(done.stdout, self.about()[0])


def _settings() -> dict[str, str]:
    """Return what of the environment says where packages come from, and how they are reached: no key of anybody's."""
    told = os.environ  # noqa: TID251 - an allow-list for a child
    return {name: told[name] for name in told if name in _HANDED_ON or name.startswith(("PIP_", "XDG_", "SSL_"))}


def refusal(said: str, version: str) -> FumehoodError:
    """Return in one sentence why pip did not take what it was asked for."""
    if alone.REFUSED in said:
        return BadInputError(
            "Among what is asked for, or needed by it, is something that has to be built, which would run its code:"
            " only wheels are taken."
        )
    if told := re.search(r"The conflict is caused by:\n((?:[ \t]+\S.*\n)+)", said):
        lines = [
            re.sub(r"^The user requested \(constraint\) ", "the lab has ", one.strip()) for one in told[1].splitlines()
        ]
        lines = [re.sub(r"^The user requested (.*)$", r"\1 is asked for", one) for one in lines]
        return BadInputError(
            f"The packages do not go together, and what the lab has is never replaced: {'; '.join(lines)}."
        )
    if missing := re.search(r"No matching distribution found for ([^\n(]+)", said):
        name = missing[1].strip()
        if any(sign in said for sign in _AWAY):
            return MachineUnfitError(
                f"No package index answers that could have {name}.",
                remedy="Give its wheel as a file (--wheel), or tell pip where packages are (PIP_INDEX_URL).",
            )
        return BadInputError(
            f"No wheel of {name} for Python {version} is where pip looks; a source distribution is not taken, since"
            " building it would run its code."
        )
    if wrong := re.search(r"(\S+\.whl) is not a supported wheel on this platform", said):
        return BadInputError(f"The wheel {wrong[1]} is not for the lab's Python {version} on this machine.")
    if "DO NOT MATCH THE HASHES" in said:
        return BadInputError("What was downloaded has another hash than what was found before; nothing was installed.")
    last = [line.removeprefix("ERROR: ") for line in said.splitlines() if line.startswith("ERROR: ")]
    return BadInputError(f"pip did not take what was asked for: {(last or said.strip().splitlines() or ['?'])[-1]}")
