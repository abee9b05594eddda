"""The whole pipeline by the real command: what a stranger gets, and what a forger cannot do."""

from __future__ import annotations

import json
import random
import re
import shutil
import subprocess
import time
from base64 import b64decode
from pathlib import Path
from typing import Any

import pytest

from fumehood.artifacts.signing import Ed25519Signer, open_envelope, trusted_keys
from fumehood.services import verification
from fumehood.services.numbers import rounded
from tests.e2e.conftest import Demo, House

pytestmark = [pytest.mark.kill, pytest.mark.slow, pytest.mark.local, pytest.mark.latex]
SECTIONS = ("Introduction", "Related Work", "Background", "Method", "Experimental Setup", "Results", "Conclusion")


def text_of(pdf: Path) -> str:
    return subprocess.run(["pdftotext", str(pdf), "-"], capture_output=True, text=True, check=True).stdout


def record_of(experiment: Path, run: str) -> dict[str, Any]:
    envelope = json.loads((experiment / run / "record.json").read_bytes())
    found: dict[str, Any] = json.loads(b64decode(envelope["payload"]))["predicate"]
    return found


def test_the_direction_ends_with_a_verified_paper(demo: Demo) -> None:
    assert demo.told["verified"]
    assert demo.told["papers"]
    assert all(Path(path).is_file() for path in demo.told["papers"])


def test_a_failed_attempt_was_fed_back_and_repaired(demo: Demo) -> None:
    runs = json.loads((demo.experiments[0] / "runs.json").read_bytes())
    broken = runs[1]["attempts"][0]
    assert broken["verdict"] == "failed"
    assert "Error" in broken["error_tail"]
    assert runs[1]["result"] == "measured"
    asked = (demo.experiments[0] / "llm_calls.jsonl").read_text()
    last_line = broken["error_tail"].strip().splitlines()[-1]
    assert json.dumps(last_line)[1:-1] in asked.replace('\\\\"', '\\"') or last_line[:40] in asked


def test_a_near_duplicate_was_refused(demo: Demo) -> None:
    assert [one["verdict"] for one in demo.told["summary"]["refused"]] == ["near_duplicate"]


def test_the_paper_has_its_parts(demo: Demo) -> None:
    for experiment in demo.experiments:
        text = text_of(experiment / "paper.pdf")
        pages = subprocess.run(["pdfinfo", str(experiment / "paper.pdf")], capture_output=True, text=True, check=True)
        found = re.search(r"Pages:\s+(\d+)", pages.stdout)
        assert found
        assert int(found[1]) >= 5
        for section in SECTIONS:
            assert len(re.findall(rf"^(?:\d+\s+)?{section}s?$", text, re.MULTILINE)) == 1, section
        assert "Abstract" in text
        assert text.count("Figure 1:") == text.count("Figure 2:") == text.count("Table 1:") == 1
        assert "no language model" in re.sub(r"\s+", " ", text).lower()
        assert "inconclusive" in text.lower()


def test_no_sentence_stands_twice(demo: Demo) -> None:
    for experiment in demo.experiments:
        source = (experiment / "latex/main.tex").read_text()
        body = source[source.index("\\begin{document}") : source.index("\\bibliography{")]
        prose = re.sub(r"\\begin\{(figure|table|equation|align)\*?\}.*?\\end\{\1\*?\}", " ", body, flags=re.DOTALL)
        sentences = [re.sub(r"\W+", " ", one).strip().lower() for one in re.split(r"(?<=[.!?])\s", prose)]
        long = [one for one in sentences if len(one.split()) >= 6]
        assert len(long) > 60
        assert len(long) == len(set(long))


def test_the_paper_quotes_the_baseline_as_its_record_has_it(demo: Demo) -> None:
    for experiment in demo.experiments:
        metric = record_of(experiment, "run_0")["metrics"]["kl_divergence"]
        claims = json.loads((experiment / "claims.json").read_bytes())
        quoted = [
            one for one in claims if one["source"].startswith("run_0/") and one["pointer"] == "kl_divergence/mean"
        ]
        assert quoted
        assert all(one["text"] == rounded(metric["mean"], one["digits"]) for one in quoted)
        assert rounded(metric["mean"], quoted[0]["digits"]) in text_of(experiment / "paper.pdf")


def test_the_evaluator_not_the_experiment_measured(demo: Demo) -> None:
    for experiment in demo.experiments:
        for run in ("run_0", "run_1"):
            record = record_of(experiment, run)
            assert record["metrics"]["kl_divergence"]["source"] == "evaluator"
            assert (
                "kl_divergence"
                not in json.loads((experiment / run / "self_reported.json").read_bytes())["circle"]["means"]
            )
            assert record["verdicts"] == {"run": "succeeded", "query": "succeeded", "evaluate": "succeeded"}
            assert {"S1", "S3", "S4", "S5", "S6", "S8"} <= set(record["isolation"])


def test_nothing_is_left_on_the_machine(demo: Demo, house: House) -> None:
    assert house.left() == []


def test_a_second_start_shows_the_finished_folder_at_once(demo: Demo, house: House) -> None:
    began = time.monotonic()
    again = house.call(*demo.asked, "--ideas", "2", "--runs", "2", "--out", str(demo.out), "--resume", "--json")
    assert again.returncode == 0
    assert json.loads(again.stdout)["summary"] == demo.told["summary"]
    assert time.monotonic() - began < 30


def test_a_folder_in_use_is_refused_without_resume(demo: Demo, house: House) -> None:
    refused = house.call(*demo.asked, "--out", str(demo.out))
    assert refused.returncode == 2
    assert "--resume" in refused.stderr


def test_an_untouched_folder_verifies(demo: Demo, house: House) -> None:
    assert house.call("verify", str(demo.out)).returncode == 0
    assert house.call("verify", str(demo.experiments[0])).returncode == 0


@pytest.mark.parametrize("name", ["run_1/final_info.json", "run_1/record.json", "latex/main.tex"])
def test_any_changed_digit_is_named(demo: Demo, house: House, tmp_path: Path, name: str) -> None:
    trusted = trusted_keys(house.state)
    copy = tmp_path / "copy"
    shutil.copytree(demo.experiments[0], copy)
    original = (copy / name).read_bytes()
    digits = [place for place, byte in enumerate(original) if chr(byte).isdigit()]
    for place in random.Random(7).sample(digits, 20):
        changed = bytearray(original)
        changed[place] = ord(str((int(chr(original[place])) + 1) % 10))
        (copy / name).write_bytes(bytes(changed))
        report = verification.verify_folder(
            verification.open_folder(copy), lambda envelope, kind: open_envelope(envelope, trusted, kind)
        )
        line = original[:place].count(b"\n") + 1
        assert any(f"{name} line {line}" in problem for problem in report.problems), (place, report.problems)
    (copy / name).write_bytes(bytes(changed))
    told = house.call("verify", str(copy))
    assert told.returncode == 1
    assert name in told.stdout


def test_a_folder_signed_by_another_key_is_refused(demo: Demo, house: House, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(demo.out, copy)
    forger = Ed25519Signer(tmp_path / "forger")
    for path in copy.rglob("*.json"):
        if path.name in {"record.json", "manifest.json"}:
            envelope = json.loads(path.read_bytes())
            path.write_bytes(forger.sign(b64decode(envelope["payload"]), envelope["payloadType"]))
    told = house.call("verify", str(copy))
    assert told.returncode == 1
    assert f"signed by unknown key {forger.key_id}" in told.stdout


def test_a_stranger_checks_a_folder_by_the_signers_fingerprint(demo: Demo, house: House, make_house: Any) -> None:
    elsewhere: House = make_house("elsewhere")
    (fingerprint,) = trusted_keys(house.state)
    unknown = elsewhere.call("verify", str(demo.out))
    assert unknown.returncode == 1
    assert f"signed by unknown key {fingerprint}" in unknown.stdout
    assert elsewhere.call("verify", str(demo.out), "--key", fingerprint).returncode == 0


def test_a_plain_template_runs_by_its_required_files_alone(house: House, tmp_path: Path) -> None:
    folder = plain_template(tmp_path / "templates" / "coin")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "coins.txt").write_text("HTTH")
    assert house.call("template", "check", str(folder)).returncode == 0
    measured = house.call("template", "baseline", str(folder), "--sandbox", "local", "--json")
    assert measured.returncode == 0, measured.stderr
    assert f"1 file comes along from '{tmp_path / 'data'}', which a program of the template names" in measured.stderr
    told = json.loads(measured.stdout)
    assert told["final_info"]["coin"]["means"]["heads"] == 0.5
    assert told["seeds"] == "uncontrolled"


def plain_template(folder: Path) -> Path:
    (folder / "latex").mkdir(parents=True)
    (folder / "experiment.py").write_text(
        "import argparse, json, os\n"
        "p = argparse.ArgumentParser(); p.add_argument('--out_dir', default='run_0'); a = p.parse_args()\n"
        "os.makedirs(a.out_dir, exist_ok=True)\n"
        "tossed = open('../../data/coins.txt').read()\n"
        "means = {'heads': tossed.count('H') / len(tossed)}\n"
        "json.dump({'coin': {'means': means}}, open(os.path.join(a.out_dir, 'final_info.json'), 'w'))\n"
    )
    (folder / "plot.py").write_text("print('no plots')\n")
    (folder / "prompt.json").write_text(json.dumps({"system": "You toss coins.", "task_description": "Toss a coin."}))
    idea = {
        "Name": "bias",
        "Title": "Bias",
        "Experiment": "Toss it",
        "Interestingness": 1,
        "Feasibility": 9,
        "Novelty": 1,
    }
    (folder / "seed_ideas.json").write_text(json.dumps([idea]))
    (folder / "latex/template.tex").write_text("\\documentclass{article}\\begin{document}TITLE HERE\\end{document}\n")
    return folder
