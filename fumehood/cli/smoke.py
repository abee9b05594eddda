"""`fumehood smoke`: the whole pipeline in minutes, without key, GPU or network, and checks of what came out."""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Any

from pypdf import PdfReader

from fumehood.cli.output import Progress
from fumehood.cli.run import Finished, run
from fumehood.errors import FumehoodError
from fumehood.services import submissions, templates
from fumehood.settings import Settings
from worker import worlds

IDEAS = 3
RUNS = 2
PAGES = 5


def smoke(settings: Settings, template: str, sandbox: str, progress: Progress) -> dict[str, Any]:
    """Run each asked template in a folder that is thrown away, and return every check with what was seen."""
    names = templates.names(worlds.SHIPPED) if template == "all" else (template,)
    checks: list[dict[str, object]] = []
    began = time.monotonic()
    for name in names:
        with tempfile.TemporaryDirectory(prefix="fumehood-smoke-") as folder:
            asked = submissions.Submission(template=name, profile="tiny", ideas=IDEAS, runs=RUNS, sandbox=sandbox)
            done = run(settings, asked, Path(folder) / name, resume=False, progress=progress)
            checks += [{"template": name, **check} for check in _checks(done)]
    return {
        "ok": all(check["held"] for check in checks),
        "seconds": round(time.monotonic() - began, 1),
        "checks": checks,
    }


def _checks(done: Finished) -> list[dict[str, object]]:
    experiments = done.summary.get("experiments", [])
    lines = experiments if isinstance(experiments, list) else []
    papers = [line for line in lines if line["paper"]]
    checks = [
        _check("verified", done.report.holds, "; ".join(done.report.problems) or json.dumps(done.report.checks)),
        _check("a paper for each experiment", len(papers) == len(lines) > 0, f"{len(papers)} of {len(lines)}"),
        _check(
            "a baseline and two runs",
            any(sum(result == "measured" for result in line["runs"].values()) >= RUNS for line in lines),
            ", ".join(f"{line['name']}: {line['runs']}" for line in lines),
        ),
        _check(
            "a failed attempt was repaired", any(line["attempts"] > len(line["runs"]) for line in lines), "attempts"
        ),
        _check("a near-duplicate was refused", bool(done.summary["refused"]), str(done.summary["refused"])),
    ]
    for line in papers:
        checks += _paper_checks(done.out, line)
    return checks


def _paper_checks(out: Path, line: dict[str, Any]) -> list[dict[str, object]]:
    try:
        reader = PdfReader(out / line["paper"])
        text = "\n".join(page.extract_text() for page in reader.pages)
    except (OSError, ValueError) as error:
        raise FumehoodError(f"The paper of {line['name']} cannot be read: {error}.") from error
    return [
        _check(f"{line['name']}: pages", len(reader.pages) >= PAGES, f"{len(reader.pages)}"),
        _check(f"{line['name']}: outcome stated", "inconclusive" in text.lower(), "inconclusive"),
        _check(f"{line['name']}: disclosure", "no language model" in text.lower(), "no language model took part"),
    ]


def _check(name: str, held: bool, detail: str) -> dict[str, object]:
    return {"name": name, "held": held, "detail": detail}
