"""What a paper may speak of: gathered from rows and records, and from nothing else."""

from __future__ import annotations

import base64
import json
import math
import re
import statistics as stats
from collections.abc import Mapping, Sequence
from typing import Any

from fumehood.domain.confirmation import Reason, not_comparable
from fumehood.domain.direction import Direction
from fumehood.domain.experiment import Experiment, Run, RunResult
from fumehood.domain.idea import Idea
from fumehood.domain.template import Metric, Profile, Template
from fumehood.errors import NotFoundError
from fumehood.services import numbers, statistics
from fumehood.services.confirmation_facts import confirmation_facts
from fumehood.services.counts import budget
from fumehood.services.edit_effects import Measured, compared
from fumehood.services.fact_types import (
    ContrastFacts,
    DatasetFacts,
    Facts,
    MetricFacts,
    MetricWords,
    Number,
    RunFacts,
    TemplateFacts,
)
from fumehood.services.idea_facts import constants, figure_facts, idea_facts
from fumehood.services.setup_facts import setup_rows

OFFLINE = "offline"
RUN_NUMBER = re.compile(r"^run[ _]*\d+\s*[:.,\u2013\u2014-]*\s*", re.IGNORECASE)


def gather(
    direction: Direction,
    template: Template,
    idea: Idea,
    experiment: Experiment,
    runs: Sequence[Run],
    final_infos: Mapping[str, Mapping[str, Any]],
    records: Mapping[str, Mapping[str, Any]],
    *,
    coder: str = "",
    code: str = "",
    own_text: bool = False,
    confirmation: Mapping[str, Any] | None = None,
    shown: Mapping[str, Sequence[str]] | None = None,
) -> Facts:
    """Return everything a paper about this experiment may say.

    `runs` holds the baseline too; `final_infos` and `records` (predicates) are keyed by the run's folder. `code` is the
    text in which constants are looked up, such as the experiment's sources. `own_text`: somebody gave the direction's
    text, and it is not the template's task. `confirmation` is what `confirmation.json` holds.
    `shown` are the runs of each figure, by its file.
    """
    held = {run.folder: _record(run, final_infos.get(run.folder), records.get(run.folder), template) for run in runs}
    measured = {name: record for name, record in held.items() if record is not None}
    base = measured.get(numbers.BASELINE_FOLDER)
    sources = {name: f"{name}/{'record.json' if name in records else 'final_info.json'}" for name in measured}
    words = _metric_words(template, measured)
    table: dict[str, Number] = {}
    ordered = sorted(runs, key=lambda run: run.index)
    told = [_run(run, measured.get(run.folder), base, template, sources.get(run.folder, ""), table) for run in ordered]
    for run, one in zip(ordered, told, strict=True):
        if one["label"] and _is_idle(run, ordered[0], measured):
            one["label"] = statistics.NOT_SHOWN  # whatever it says of itself, its edit did nothing
    profile = _profile(template, direction.profile)
    offline = direction.model.split(":")[0].startswith(OFFLINE)
    baseline = next((run for run in told if run["index"] == 0), _nothing())
    return Facts(
        template=TemplateFacts(
            name=direction.template,
            title=template.title,
            summary=template.summary,
            datasets=sorted(next(iter(words.values()))["datasets"]) if words else list(template.datasets),
            metrics=words,
            primary=template.primary,
            equal=template.comparison.equal,
        ),
        profile={
            "name": direction.profile,
            "arguments": list(profile.arguments),
            "confirm": profile.confirm,
            "runs": direction.runs,
        },
        setup=setup_rows(direction, template, profile, base, sources.get(numbers.BASELINE_FOLDER, ""), table),
        idea=idea_facts(idea),
        metric=_shown(template, idea, base),
        baseline=baseline,
        runs=[run for run in told if run["index"] != 0],
        confirmation=confirmation_facts(confirmation, ordered, table),
        outcome=experiment.outcome.value if experiment.outcome else "",
        label=experiment.label,
        limitations=[*experiment.limitations, *_set_apart(told, words)],
        figures=figure_facts(experiment, shown or {}, [run.folder for run in ordered if run.folder in measured]),
        model={"name": direction.model, "offline": offline, "direction_text_used": not (offline and own_text)},
        coder=coder,
        notes=experiment.notes,
        constants=constants(direction, template, profile, idea, ordered, code),
        numbers=table,
    )


_APART = {
    Reason.SHARED_DEVICE: "it counts only where a run and the baseline had their device alone",
    Reason.PROTOCOL_CHANGED: (
        "since the baseline was measured the lab, the template or the secret was renewed, or the machine that a time"
        " was taken on"
    ),
}
"""Why a number is compared with none, in words."""


def _set_apart(told: Sequence[RunFacts], words: Mapping[str, MetricWords]) -> list[str]:
    """Return what is compared with none, a sentence for each reason and the runs that it holds for."""
    found: dict[tuple[str, str], list[str]] = {}
    for name, one in words.items():
        for why in _APART:
            some = [run for run in told if name in run["metrics"]]
            runs = [run["title"] for run in some if run["metrics"][name]["not_comparable"] == why]
            if runs:
                found.setdefault((why, ", ".join(runs)), []).append(one["title"])
    return [
        f"The {', '.join(metrics)} of {runs} is compared with none: {_APART[Reason(why)]}."
        for (why, runs), metrics in found.items()
    ]


def _is_idle(run: Run, baseline: Run, measured: Mapping[str, Mapping[str, Any]]) -> bool:
    ours, theirs = (Measured(run=one, metrics=measured[one.folder]["metrics"]) for one in (run, baseline))
    return bool(compared(ours, [theirs]))


def predicate(envelope: bytes) -> dict[str, Any]:
    """Return what a signed record says; the signature is checked elsewhere."""
    value = json.loads(envelope)
    if "payload" in value:
        value = json.loads(base64.b64decode(value["payload"]))
    return dict(value.get("predicate", value))


def record_of(final_info: Mapping[str, Any], template: Template) -> dict[str, Any]:
    """Return a final_info.json in a record's shape: for runs that have no record, or a foreign one's loose shape."""
    metrics: dict[str, dict[str, Any]] = {}
    for dataset, entry in final_info.items():
        means = entry.get("means") if isinstance(entry, Mapping) else None
        for name, mean in (means if isinstance(means, Mapping) else {}).items():
            if not _is_number(mean):
                continue
            known = template.metrics.get(name, Metric())
            metric = metrics.setdefault(
                name,
                {
                    "source": "self",
                    "direction": known.direction,
                    "unit": known.unit,
                    "primary": known.primary,
                    "datasets": {},
                },
            )
            seeds = _list(entry.get("final_info_dict", {}), name) or [float(mean)]
            error: Any = (entry.get("stderrs") or {}).get(name)
            metric["datasets"][dataset] = {
                "mean": float(mean),
                "stderr": float(error) if _is_number(error) else _stderr(seeds),
                "seeds": seeds,
            }
    for metric in metrics.values():
        entries = list(metric["datasets"].values())
        metric["mean"] = stats.fmean(entry["mean"] for entry in entries)
        errors = [entry["stderr"] for entry in entries]
        known_errors = all(error is not None for error in errors)
        metric["stderr"] = math.sqrt(sum(error**2 for error in errors)) / len(errors) if known_errors else None
    return {"metrics": metrics}


def _record(
    run: Run, final_info: Mapping[str, Any] | None, record: Mapping[str, Any] | None, template: Template
) -> Mapping[str, Any] | None:
    if run.result is not RunResult.MEASURED:
        return None
    if record is not None and record.get("metrics"):
        return record
    return {**(record or {}), **record_of(final_info, template)} if final_info else None


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _list(values: object, name: str) -> list[float]:
    found = values.get(name) if isinstance(values, Mapping) else None
    return [float(one) for one in found] if isinstance(found, list) and all(map(_is_number, found)) else []


def _stderr(seeds: Sequence[float]) -> float | None:
    return stats.stdev(seeds) / math.sqrt(len(seeds)) if len(seeds) > 1 else None


def _profile(template: Template, name: str) -> Profile:
    return template.profiles.get(name) or next(iter(template.profiles.values()), Profile())


def _shown(template: Template, idea: Idea, base: Mapping[str, Any] | None) -> str:
    known = list(base["metrics"]) if base else list(template.metrics)
    for name in (template.primary, idea.metric):
        if name and name in known:
            return name
    return known[0] if known else ""


def _metric_words(template: Template, measured: Mapping[str, Mapping[str, Any]]) -> dict[str, MetricWords]:
    found: dict[str, MetricWords] = {}
    for record in measured.values():
        for name, entry in record["metrics"].items():
            known = template.metrics.get(name, Metric())
            found.setdefault(
                name,
                MetricWords(
                    title=known.title or name.replace("_", " "),
                    direction=numbers.direction_of(name, record, template.metrics),
                    unit=known.unit or str(entry.get("unit") or ""),
                    source=str(entry.get("source") or "self"),
                    primary=name == template.primary,
                    datasets=list(entry["datasets"]),
                ),
            )
    return found


def _nothing() -> RunFacts:
    return RunFacts(
        name=numbers.BASELINE_FOLDER, index=0, title="Baseline", description="", result=RunResult.PENDING.value,
        attempts=[], seeds=[], metrics={}, contrast=None, label="", budget=[], counts={},
    )  # fmt: skip


def _run(
    run: Run,
    record: Mapping[str, Any] | None,
    base: Mapping[str, Any] | None,
    template: Template,
    source: str,
    table: dict[str, Number],
) -> RunFacts:
    told = _nothing()
    told["name"], told["index"] = run.folder, run.index
    told["title"] = RUN_NUMBER.sub("", run.title).strip() or (
        "Baseline" if run.index == 0 else f"Variant {_LETTERS[(run.index - 1) % 26]}"
    )
    told["description"], told["result"] = run.description, run.result.value
    told["attempts"] = [
        {"number": one.number, "verdict": one.verdict, "error": _last_line(one.error_tail)} for one in run.attempts
    ]
    told["seeds"] = list(run.seeds)
    if record is None:
        return told
    against = base if run.index else None
    for name, entry in record["metrics"].items():
        told["metrics"][name] = _metric(run.folder, name, entry, record, against, template, source, table)
    for block in ("counts", "counted"):
        counts = {str(key): float(value) for key, value in (record.get(block) or {}).items() if _is_number(value)}
        told["counts"] = {**told["counts"], **counts}
        for name in counts:
            _add(table, f"{run.folder}.{block}.{name}", source, f"{block}/{name}", record)
    for kind in record.get("usage") or {}:
        _add(table, f"{run.folder}.usage.{kind}.wall_s", source, f"usage/{kind}/wall_s", record, digits=3)
    if against is not None:
        _compare(told, record, against, template, source, table)
    return told


_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def _metric(
    folder: str,
    name: str,
    entry: Mapping[str, Any],
    record: Mapping[str, Any],
    base: Mapping[str, Any] | None,
    template: Template,
    source: str,
    table: dict[str, Number],
) -> MetricFacts:
    way = numbers.direction_of(name, record, template.metrics)
    other = base["metrics"].get(name) if base else None
    why = numbers.incomparable(name, record, base)

    def tell(ours: Mapping[str, Any], theirs: Mapping[str, Any] | None, stem: str) -> DatasetFacts:
        error = ours.get("stderr")
        told = DatasetFacts(mean=ours.get("mean"), stderr=error, difference=None, word="", judgement="", noise=None)
        mean = told["mean"]
        if mean is None:
            return told
        pointer = f"{name}/{stem}" if stem else name
        dotted = f"{folder}.{pointer.replace('/', '.')}"
        _add(table, f"{dotted}.mean", source, f"{pointer}/mean", record, digits=numbers.digits_beside(mean, error))
        _add(table, f"{dotted}.stderr", source, f"{pointer}/stderr", record)
        if why or theirs is None or theirs.get("mean") is None:
            return told
        found = statistics.difference(mean, float(theirs["mean"]), error, theirs.get("stderr"), way)
        told["difference"], told["noise"] = found.value, found.noise
        told["word"], told["judgement"] = found.word, found.judgement
        spread = math.hypot(error or 0.0, theirs.get("stderr") or 0.0)
        digits = min(3, numbers.digits_beside(found.value, spread)) if spread else 2
        for derived in numbers.DERIVED:
            shown = digits if "relative" not in derived else 2
            _add(table, f"{dotted}.{derived}", source, f"{pointer}/{derived}", record, base, template, shown)
        return told

    whole = tell(entry, other, "")
    datasets = {
        dataset: tell(part, (other or {}).get("datasets", {}).get(dataset), dataset)
        for dataset, part in entry["datasets"].items()
    }
    relative = table.get(f"{folder}.{name}.relative_percent")
    return MetricFacts(
        **whole,
        source=str(entry.get("source") or "self"),
        relative_percent=relative["value"] if relative else None,
        not_comparable=why,
        datasets=datasets,
    )


def _compare(
    told: RunFacts,
    record: Mapping[str, Any],
    base: Mapping[str, Any],
    template: Template,
    source: str,
    table: dict[str, Number],
) -> None:
    told["budget"] = budget(record, base, template.comparison)
    name = template.primary
    if name is None or name not in record["metrics"]:
        return
    if why := numbers.incomparable(name, record, base):
        told["label"] = not_comparable(Reason(why))
        return
    found = numbers.contrast_of(name, record, base, template.metrics)
    told["label"] = statistics.NOT_SHOWN if told["budget"] else statistics.label(found)
    if found is None:
        return
    told["contrast"] = ContrastFacts(
        value=found.value,
        se=found.se,
        df=found.df,
        p=found.p,
        datasets=dict(found.datasets),
        left_out=dict(found.left_out),
        complete=found.complete,
    )
    for part in numbers.CONTRASTS:
        _add(table, f"{told['name']}.{name}.{part}", source, f"{name}/{part}", record, base, template)


def _add(
    table: dict[str, Number],
    name: str,
    source: str,
    pointer: str,
    record: Mapping[str, Any],
    base: Mapping[str, Any] | None = None,
    template: Template | None = None,
    digits: int = 0,
) -> None:
    try:
        value = numbers.resolve(pointer, record, base, template.metrics if template else None)
    except NotFoundError:
        return
    is_count = pointer.startswith(("counts/", "counted/")) or pointer.endswith("/df")
    digits = digits or (numbers.all_digits(value, otherwise=2) if is_count else 2)
    table[name] = Number(value=value, digits=digits, source=source, pointer=pointer)


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    return lines[-1][:300] if lines else ""
