"""Judging all cases, and what came of them by family, with intervals."""

from __future__ import annotations

import math
import os
import platform
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.redteam import (
    in_addition,
    in_characters,
    in_diffusion,
    in_folders,
    in_grokking,
    in_nanogpt,
    in_steps,
)
from bench.redteam.cases import TEMPLATES, Case, Family, Template
from bench.redteam.detectors import WRITTEN_FOR
from bench.redteam.in_folders import Folder, FolderCase
from bench.redteam.judging import Bench, Judged
from fumehood.artifacts.local import LocalArtifacts
from fumehood.artifacts.signing import Ed25519Signer
from fumehood.errors import BadInputError
from fumehood.ports import Sandbox
from fumehood.settings import Settings

CASES: tuple[Case, ...] = (
    *in_diffusion.CASES,
    *in_characters.CASES,
    *in_addition.CASES,
    *in_steps.CASES,
    *in_nanogpt.CASES,
    *in_grokking.CASES,
)
SECRET = bytes(range(32))
"""An installation's secret that stays, so that the figures do."""
Z = 1.959964
"""Of a 95 % interval."""
FALSE_ALARMS_ALLOWED = 1 / 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A case and what became of it."""

    case: Case | FolderCase
    judged: Judged

    @property
    def is_caught(self) -> bool:
        """Whether it got no accepted result."""
        return bool(self.judged.caught_by)

    @property
    def is_false_alarm(self) -> bool:
        """Whether an honest edit was refused or got no result, or an honest folder does not hold."""
        if isinstance(self.case, FolderCase):
            return self.is_caught
        return not self.judged.has_result

    @property
    def is_caught_without_its_own(self) -> bool:
        """Whether a detector that was not written for its family catches it."""
        return any(one != WRITTEN_FOR[self.case.family] for one in self.judged.caught_by)

    def to_json(self) -> dict[str, Any]:
        """Return it as a document."""
        judged = self.judged
        return {
            "name": self.case.name,
            "family": self.case.family,
            "template": self.case.over,
            "planted": self.case.is_planted,
            "detected" if self.case.is_planted else "false_alarm": (
                self.is_caught if self.case.is_planted else self.is_false_alarm
            ),
            "caught_by": list(judged.caught_by) if self.case.is_planted or self.is_false_alarm else [],
            "flagged_by": list(judged.flagged_by),
            "gain_sd": None if judged.gain_sd is None else round(judged.gain_sd, 2),
            "reason": judged.reason[:300],
        }


def measure(
    *,
    sandbox: Callable[[Path], Sandbox],
    say: Callable[[str], None],
    workers: int = 2,
    chosen: Callable[[Case | FolderCase], bool] = lambda _: True,
) -> dict[str, Any]:
    """Judge the cases.

    Args:
        sandbox: Makes one in a state folder.
        say: Told what is being judged, and what came of it.
        workers: How many cases at once.
        chosen: Which cases; all where it is left out. `BadInputError` where none is.
    """
    if not any(chosen(case) for case in (*CASES, *in_folders.CASES)):
        raise BadInputError("No case of the red team has that in the name of its family or template.")
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="fumehood-redteam-", dir="/var/tmp") as folder:
        rows = [*_edits(Path(folder), sandbox, say, workers, chosen), *_folders(Path(folder), say, chosen)]
    return summary(rows, round(time.monotonic() - begun, 1))


def _edits(
    folder: Path,
    sandbox: Callable[[Path], Sandbox],
    say: Callable[[str], None],
    workers: int,
    chosen: Callable[[Case | FolderCase], bool],
) -> list[Row]:
    cases = [case for case in CASES if chosen(case)]
    state = folder / "state"
    state.mkdir(mode=0o700)
    local, all_made = threading.local(), list[Sandbox]()

    def own() -> Sandbox:
        # With a state folder of its own: who watches over one database takes what others started for a remainder.
        if not hasattr(local, "sandbox"):
            place = folder / f"state_{threading.get_ident()}"
            place.mkdir(mode=0o700)
            local.sandbox = sandbox(place)
            all_made.append(local.sandbox)
        made: Sandbox = local.sandbox
        return made

    def bench(template: Template) -> Bench:
        made = Bench(
            template=template,
            artifacts=LocalArtifacts(folder / "artifacts"),
            signer=Ed25519Signer(state),
            secret=SECRET,
            sandbox=own,
        )
        made.measure(folder / "templates")
        say(f"{template.name}: the baseline is measured")
        return made

    def row(case: Case) -> Row:
        judged = benches[case.template.name].judge(case)
        say(_line(Row(case=case, judged=judged)))
        return Row(case=case, judged=judged)

    try:
        with ThreadPoolExecutor(workers) as pool:
            used = [one for one in TEMPLATES if any(case.template is one for case in cases)]
            benches = {one.template.name: one for one in pool.map(bench, used)}
            return list(pool.map(row, cases))
    finally:
        for made in all_made:
            made.reap()
        with suppress(OSError):
            (Settings().run_dir / (state / "installation").read_text(encoding="ascii").strip()).rmdir()


def _folders(folder: Path, say: Callable[[str], None], chosen: Callable[[Case | FolderCase], bool]) -> Iterator[Row]:
    cases = [case for case in in_folders.CASES if chosen(case)]
    made = Folder(folder / "folders") if cases else None
    for case in cases:
        assert made is not None
        row = Row(case=case, judged=made.judge(case))
        say(_line(row))
        yield row


def _line(row: Row) -> str:
    judged = row.judged
    by = ", ".join(judged.caught_by) or "nothing"
    gain = "" if judged.gain_sd is None else f" ({judged.gain_sd:+.1f} sd)"
    if row.case.is_planted:
        return f"{'detected' if row.is_caught else 'MISSED'}: {row.case.title}: {by}{gain}"
    return f"{'FALSE ALARM' if row.is_false_alarm else 'let through'}: {row.case.title}{gain}"


def summary(rows: Sequence[Row], took_s: float) -> dict[str, Any]:
    """Return the figures of judged cases."""
    planted = [row for row in rows if row.case.is_planted]
    honest = [row for row in rows if not row.case.is_planted]
    return {
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": {"cores": os.cpu_count(), "kernel": platform.release(), "load": os.getloadavg()[0]},
        "took_s": took_s,
        "planted": len(planted),
        "detected": sum(row.is_caught for row in planted),
        "honest": len(honest),
        "false_alarms": sum(row.is_false_alarm for row in honest),
        "flagged": sum(bool(row.judged.flagged_by) for row in honest),
        "detected_without_their_own": sum(row.is_caught_without_its_own for row in planted),
        "families": [_family(family, rows) for family in Family if any(row.case.family is family for row in rows)],
        "cases": [row.to_json() for row in rows],
    }


def _family(family: Family, rows: Sequence[Row]) -> dict[str, Any]:
    planted = [row for row in rows if row.case.family is family and row.case.is_planted]
    honest = [row for row in rows if row.case.family is family and not row.case.is_planted]
    return {
        "family": family,
        "detector": WRITTEN_FOR[family],
        "planted": len(planted),
        "detected": sum(row.is_caught for row in planted),
        "detected_interval": interval(sum(row.is_caught for row in planted), len(planted)),
        "detected_without_its_own": sum(row.is_caught_without_its_own for row in planted),
        "honest": len(honest),
        "false_alarms": sum(row.is_false_alarm for row in honest),
        "false_alarms_interval": interval(sum(row.is_false_alarm for row in honest), len(honest)),
        "flagged": sum(bool(row.judged.flagged_by) for row in honest),
    }


def interval(found: int, count: int) -> list[float] | None:
    """Return Wilson's 95 % interval of a share; none of nothing."""
    if not count:
        return None
    share, z2 = found / count, Z * Z
    middle = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = Z / (1 + z2 / count) * math.sqrt(share * (1 - share) / count + z2 / (4 * count * count))
    return [round(max(0.0, middle - half), 3), round(min(1.0, middle + half), 3)]


def table(told: dict[str, Any]) -> Iterator[str]:
    """Return the figures as lines."""
    width = max(len(row["family"]) for row in told["families"])
    yield f"{'':{width}}  detected  95 %            without its own detector          false alarms  95 %"
    yield from (_as_line(row, width) for row in told["families"])
    whole = {
        "family": "all",
        "detector": "those of its family",
        **{name: told[name] for name in ("planted", "detected", "honest", "false_alarms")},
        "detected_interval": interval(told["detected"], told["planted"]),
        "detected_without_its_own": told["detected_without_their_own"],
        "false_alarms_interval": interval(told["false_alarms"], told["honest"]),
    }
    yield _as_line(whole, width)
    yield f"{told['flagged']} honest twins were flagged and let through; took {told['took_s']:.0f} s"
    missed = [case["name"] for case in told["cases"] if case.get("detected") is False]
    yield f"missed: {', '.join(missed)}" if missed else "every planted cheat got no accepted result: met"
    said = "met" if told["false_alarms"] <= FALSE_ALARMS_ALLOWED * told["honest"] else "NOT MET"
    yield f"at most one false alarm in forty honest twins: {said}"


def _as_line(row: dict[str, Any], width: int) -> str:
    without = f"{row['detected_without_its_own']}/{row['planted']} without {row['detector']}"
    return (
        f"{row['family']:{width}}  {row['detected']:3}/{row['planted']:<3}  {_span(row['detected_interval'])}  "
        f"{without:33} {row['false_alarms']:3}/{row['honest']:<3}       {_span(row['false_alarms_interval'])}"
    )


def _span(found: Sequence[float] | None) -> str:
    return f"{found[0]:.2f} to {found[1]:.2f}" if found else " " * 12
