"""The programs of a template that needs no torch, at its smallest size: as the platform would call them, one by one."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np

from fumehood.services.query_driver import DRIVER

BLOCK = re.compile(
    r"^(?P<file>[\w.]+)\n```python\n<<<<<<< SEARCH\n(?P<old>.*?)^=======\n(?P<new>.*?)^>>>>>>> REPLACE\n```$",
    re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True, kw_only=True)
class SmallTemplate:
    """A template's folder, and how little is asked of it."""

    folder: Path
    datasets: tuple[str, ...]
    small: tuple[str, ...]
    """Arguments of `experiment.py`."""
    drawn: str
    """The argument of `prepare.py` that says how much there is."""
    count: int

    def prepare(
        self,
        python: Path,
        key: Path,
        out: Path,
        *,
        part: str,
        arm: str = "screen",
        seeds: str = "1,2",
        count: int | None = None,
    ) -> subprocess.CompletedProcess[str]:
        asked = (f"--arm={arm}", f"--part={part}", f"--key={key}", f"--seeds={seeds}", f"--out_dir={out}")
        return program(python, self.folder / "prepare.py", *asked, f"--{self.drawn}={count or self.count}")

    def draw(self, python: Path, folder: Path, key: bytes = bytes(range(32)), **asked: object) -> Path:
        """Draw all three parts of an arm into a folder: `train/`, `inputs/` and `answers/`."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "key").write_bytes(key)
        for part in ("train", "inputs", "answers"):
            done = self.prepare(python, folder / "key", folder / part, part=part, **asked)  # type: ignore[arg-type]
            assert done.returncode == 0, done.stderr
        return folder

    def fitted(
        self, python: Path, data: Path, out: Path, *extra: str, code: Path | None = None, seeds: str = "1,2"
    ) -> Path:
        told = {"FUMEHOOD_DATA": str(data / "train"), "FUMEHOOD_SEEDS": seeds}
        done = program(python, (code or self.folder) / "experiment.py", f"--out_dir={out}", *self.small, *extra, **told)
        assert done.returncode == 0, done.stderr
        return out

    def asked_model(
        self, python: Path, data: Path, run: Path, out: Path, code: Path | None = None, seeds: str = "1,2"
    ) -> Path:
        """Ask a run's models by the platform's own driver."""
        of = (f"--datasets={','.join(self.datasets)}", f"--seeds={seeds}", f"--code={code or self.folder}")
        where = (f"--outputs={run}", f"--inputs={data / 'inputs'}", f"--answers={out}")
        done = program(python, DRIVER, "--kind=predict", *of, *where)
        assert done.returncode == 0, done.stderr
        return out

    def evaluate(
        self, python: Path, data: Path, outputs: Path, out: Path, seeds: str = "1,2"
    ) -> dict[str, dict[str, list]]:
        done = self.judged(python, data, outputs, out, seeds)
        assert done.returncode == 0, done.stderr
        told = json.loads((out / "metrics.json").read_text())
        return {dataset: entry["final_info_dict"] for dataset, entry in told.items()}

    def judged(
        self, python: Path, data: Path, outputs: Path, out: Path, seeds: str = "1,2"
    ) -> subprocess.CompletedProcess[str]:
        folders = (f"--outputs={outputs}", f"--held_out={data / 'answers'}", f"--train={data / 'train'}")
        return program(python, self.folder / "evaluate.py", *folders, f"--out_dir={out}", f"--seeds={seeds}")


def program(python: Path, path: Path, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a program with nothing in its environment but what is given."""
    command = [str(python), "-B", str(path), *map(str, arguments)]
    environment = {"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


def module(path: Path, name: str) -> ModuleType:
    """Import a program under a name; beside it lies what it imports."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[name] = loaded
    sys.path.insert(0, str(path.parent))
    known = set(sys.modules)
    try:
        spec.loader.exec_module(loaded)
    finally:
        sys.path.remove(str(path.parent))
        # Another template's may have the same name.
        for own in {one.stem for one in path.parent.glob("*.py")} - known:
            sys.modules.pop(own, None)
    return loaded


def arrays(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of an archive."""
    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}
