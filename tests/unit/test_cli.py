"""The command's manners: exit statuses, one sentence for each error, and one JSON document where it is asked for."""

from __future__ import annotations

import dataclasses
import errno
import functools
import hashlib
import io
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

import fumehood
from fumehood.cli import checks, children, machine, output, template
from fumehood.cli import run as running
from fumehood.cli.main import main
from fumehood.domain import caps
from fumehood.domain.caps import Cap
from fumehood.domain.direction import DirectionState, Hold
from fumehood.domain.ids import DirectionId
from fumehood.domain.step import Event
from fumehood.errors import FumehoodError, MachineUnfitError, ModelUnavailableError, OverBudgetError, WorkFailedError
from fumehood.gateway.keys import Keys
from fumehood.services import directions, templates
from fumehood.settings import Settings
from tests.fakes.laboratory import TINY, Laboratory, write_template

ROOT = Path(__file__).parents[2]
RUN = ("run", "--template", "2d_diffusion", "--profile", "tiny")


class Said:
    """What a command answered."""

    def __init__(self, status: int, out: str, complained: str) -> None:
        self.status = status
        self.out = out
        self.complained = complained

    @property
    def sentence(self) -> str:
        (line,) = self.complained.strip().splitlines()
        return line.removeprefix("fumehood: ")

    @property
    def document(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def say(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Said]:
    def command(*words: str, state: Path | None = None) -> Said:
        monkeypatch.setenv("FUMEHOOD_STATE_DIR", str(state or tmp_path / "state"))
        status = main(words)
        told = capsys.readouterr()
        return Said(status, told.out, told.err)

    return command


@pytest.fixture
def finished(make_lab: Callable[..., Laboratory], tmp_path: Path) -> tuple[Path, Path]:
    """A finished folder, and the state folder that signed it."""
    lab = make_lab()
    lab.submit(runs=1)
    lab.go_on()
    return lab.export(tmp_path / "finished"), lab.folder / "state"


class TestUsage:
    @pytest.mark.parametrize(
        ("words", "sentence"),
        [
            (("bogus",), "No such command 'bogus'."),
            (("run", "--bogus"), "No such option: --bogus"),
            (("run",), "--template is missing"),
            (("run", "--template", "x", "--ideas", "many"), "Invalid value for '--ideas'"),
            (("run", "--template", "x", "--sandbox", "none"), "Invalid value for '--sandbox'"),
            (("run", "--template", "x", "--seed", "-1"), "Invalid value for '--seed'"),
            (("verify",), "Missing argument"),
            (("template", "baseline", "2d_diffusion", "--sandbox", "none"), "Invalid value for '--sandbox'"),
            (
                ("keys", "set", "nobody"),
                "There is no provider 'nobody': keys are kept for anthropic, bedrock, ",
            ),
        ],
    )
    def test_wrong_words_are_told_in_a_sentence(
        self, say: Callable[..., Said], words: tuple[str, ...], sentence: str
    ) -> None:
        said = say(*words)
        assert (said.status, said.out) == (2, "")
        assert sentence in said.sentence
        with_json = say(*words, "--json")
        assert with_json.status == 2
        assert with_json.document["exit_status"] == 2

    def test_the_version(self, say: Callable[..., Said]) -> None:
        said = say("--version")
        assert (said.status, said.out) == (0, f"fumehood {fumehood.__version__}\n")

    def test_help_is_no_error_and_nothing_at_all_is_one(self, say: Callable[..., Said]) -> None:
        assert say("--help").status == 0
        empty = say()
        assert (empty.status, empty.complained) == (2, "")


class TestRunRefuses:
    def bad(self, say: Callable[..., Said], tmp_path: Path, *words: str) -> Said:
        """Return what a run with bad input says, which is the same with `--json`, and leaves no state."""
        said, told = say(*RUN, *words), say(*RUN, *words, "--json")
        assert (said.status, told.status, said.out) == (2, 2, "")
        assert told.document == {"error": said.sentence, "exit_status": 2}
        assert not (tmp_path / "state").exists()
        return said

    @pytest.mark.parametrize(
        ("words", "sentence"),
        [
            (("--template", "nope"), "There is no template 'nope'"),
            (("--text", " "), "text is empty"),
            (("--ideas", "0"), "number of ideas"),
            (("--ideas", "501"), "number of ideas"),
            (("--runs", "0"), "number of runs"),
            (("--budget-usd", "-1"), "budget"),
            (("--budget-usd", "nan"), "budget"),
            (("--budget-usd", "inf"), "budget"),
            (("--seed", "1" + "0" * 30), "seed"),
            (("--profile", "huge"), "no profile 'huge'"),
            (("--model", ""), "model's name"),
            (("--model", "claude-x"), "The price of the model 'claude-x' is not known"),
            (("--review-model", "claude-sonnet-4-5"), "fumehood keys set anthropic"),
            (("--model", "gpt-9"), "The price of the model 'gpt-9' is not known"),
            (("--model", "offline-2"), "The price of the model 'offline-2' is not known"),
        ],
    )
    def test_bad_input_before_anything_is_made(
        self, say: Callable[..., Said], tmp_path: Path, words: tuple[str, ...], sentence: str
    ) -> None:
        assert sentence in self.bad(say, tmp_path, "--out", str(tmp_path / "out"), *words).sentence
        assert not (tmp_path / "out").exists()

    def test_the_offline_model_without_a_playbook(self, say: Callable[..., Said], tmp_path: Path) -> None:
        folder = write_template(tmp_path / "mine")
        said = self.bad(say, tmp_path, "--template", str(folder), "--out", str(tmp_path / "out"))
        assert "no playbook for this template: give --model claude-" in said.sentence
        assert not (tmp_path / "out").exists()

    def test_a_profile_that_wants_a_gpu_where_none_is_named_is_status_three(
        self, say: Callable[..., Said], tmp_path: Path
    ) -> None:
        out = ("--out", str(tmp_path / "out"), "--profile", "gpu")
        for words in ((*RUN, *out), ("template", "baseline", "2d_diffusion", *out)):
            said = say(*words)
            assert said.status == 3
            assert said.sentence == (
                "A run of the profile gpu needs a GPU, and none is named in FUMEHOOD_GPUS."
                " Name those of this machine there, as Docker calls them, or give another --profile."
            )
        assert not (tmp_path / "out").exists()
        assert not (tmp_path / "state").exists()

    @pytest.mark.parametrize("chosen", ["local", "auto"])
    def test_a_gpu_that_is_named_is_of_no_use_to_a_sandbox_that_passes_none_in(
        self, say: Callable[..., Said], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chosen: str
    ) -> None:
        monkeypatch.setenv("FUMEHOOD_GPUS", '["0"]')
        here = {"adapter": "local", "text": "local"}
        monkeypatch.setattr("fumehood.cli.run.check_machine", lambda *_: here)
        monkeypatch.setattr("fumehood.cli.baseline.check_machine", lambda *_: here)
        out = ("--out", str(tmp_path / "out"), "--profile", "gpu", "--sandbox", chosen)
        for words in ((*RUN, *out), ("template", "baseline", "2d_diffusion", *out)):
            said = say(*words)
            assert (said.status, said.sentence) == (
                3,
                "A run of the profile gpu needs a GPU, and the local sandbox passes none in."
                " Give --sandbox docker, or another --profile.",
            )
        assert not (tmp_path / "out").exists()

    def test_a_gpu_that_is_named_is_worked_with(
        self, say: Callable[..., Said], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def unfit(*_: object) -> None:
            raise MachineUnfitError("The machine was asked.")

        monkeypatch.setenv("FUMEHOOD_GPUS", '["0"]')
        monkeypatch.setattr("fumehood.cli.run.check_machine", unfit)
        said = say(*RUN, "--out", str(tmp_path / "out"), "--profile", "gpu", "--sandbox", "docker")
        assert (said.status, said.sentence) == (3, "The machine was asked.")

    def test_a_text_that_the_offline_model_does_not_read_is_told(
        self, say: Callable[..., Said], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def unfit(*_: object) -> None:
            raise MachineUnfitError("Not here.")

        monkeypatch.setattr(running, "check_machine", unfit)
        said = say(*RUN, "--text", "Look into it.", "--out", str(tmp_path / "out"))
        assert (said.status, said.sentence) == (3, "Not here.")
        assert "does not read --text" in said.out
        assert "does not read --text" not in say(*RUN, "--out", str(tmp_path / "out")).out

    @pytest.mark.parametrize("words", [RUN, ("template", "baseline", "2d_diffusion")])
    def test_an_empty_place(self, say: Callable[..., Said], words: tuple[str, ...]) -> None:
        said = say(*words, "--out", "")
        assert (said.status, said.sentence) == (2, "--out is empty: give a folder's path.")

    def test_a_model_whose_price_is_not_known(self, say: Callable[..., Said], tmp_path: Path) -> None:
        Keys(tmp_path / "state").set("anthropic", "sk-ant-x")
        said = say(*RUN, "--model", "claude-x", "--out", str(tmp_path / "out"))
        assert (said.status, "price of the model 'claude-x' is not known" in said.sentence) == (2, True)

    def test_a_template_with_a_syntax_error(self, say: Callable[..., Said], tmp_path: Path) -> None:
        folder = write_template(tmp_path / "mine", {**TINY, "experiment.py": "x = 1\ny = (\n"})
        said = self.bad(say, tmp_path, "--template", str(folder), "--out", str(tmp_path / "out"))
        assert "experiment.py is not valid Python in line 2" in said.sentence

    def test_a_template_that_is_not_named(self, say: Callable[..., Said], tmp_path: Path) -> None:
        said = say("run", "--out", str(tmp_path / "out"))
        shipped = ", ".join(templates.names(ROOT / "templates"))
        told = f"--template is missing: give a folder, or one that ships with Fumehood ({shipped})."
        assert (said.status, said.sentence) == (2, told)
        assert not (tmp_path / "out").exists()

    def test_a_folder_that_is_not_empty(self, say: Callable[..., Said], tmp_path: Path) -> None:
        (tmp_path / "file").write_text("mine")
        said = self.bad(say, tmp_path, "--out", str(tmp_path))
        assert "is not empty: give another folder, or --resume" in said.sentence

    @pytest.mark.parametrize("place", ["file", "file/below", "file/below/deeper", "/proc/nowhere/out", "a" * 5000])
    def test_a_place_that_cannot_be_written(self, say: Callable[..., Said], tmp_path: Path, place: str) -> None:
        (tmp_path / "file").write_text("mine")
        said = self.bad(say, tmp_path, "--out", str(tmp_path / place))
        assert said.sentence.startswith("--out ")
        assert (tmp_path / "file").read_text() == "mine"

    @pytest.mark.parametrize(
        "text", ["", "{}", "[]", "5", '{"id": 5}', '{"id": null}', '{"id": "../x"}', '{"id": "exp"}', "\udcff"]
    )
    def test_a_folder_that_names_no_direction(self, say: Callable[..., Said], tmp_path: Path, text: str) -> None:
        out = tmp_path / "out"
        out.mkdir()
        (out / "direction.json").write_bytes(text.encode(errors="surrogateescape"))
        said = self.bad(say, tmp_path, "--out", str(out), "--resume")
        assert "holds no direction.json that names a direction" in said.sentence


class TestModels:
    """Which models may be named, and the keys that they need."""

    OWN = """
        [upstreams.mine]
        kind = "bedrock"
        key = "mine"
        region = "eu-west-1"

        [models.ours]
        upstream = "mine"
        input = 1.0
        output = 2.0
        """

    @pytest.fixture
    def own(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "models.toml").write_text(textwrap.dedent(self.OWN))
        monkeypatch.setenv("FUMEHOOD_MODELS", str(tmp_path / "models.toml"))

    @pytest.fixture
    def tell(self, say: Callable[..., Said], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Said]:
        def command(text: str, *words: str) -> Said:
            monkeypatch.setattr(sys, "stdin", io.StringIO(text))
            return say(*words)

        return command

    @pytest.mark.usefixtures("own")
    def test_a_key_has_a_name_of_the_table_shipped_or_own(self, tell: Callable[..., Said], tmp_path: Path) -> None:
        for name, value in (("mine", "ABSKmine"), ("bedrock", "AKIAABCDEFGHIJKLMNOP:s/e+c"), ("openalex", "k")):
            assert tell(f"{value}\n", "keys", "set", name).status == 0
            assert Keys(tmp_path / "state").get(name) == value
        assert tell("x", "keys", "set", "theirs").status == 2

    def test_a_service_account_is_read_as_a_whole_file(self, tell: Callable[..., Said], tmp_path: Path) -> None:
        told = {"type": "service_account", "client_email": "a@b.example", "token_uri": "https://o.example/token"}
        told["private_key"] = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"
        said = tell(json.dumps(told, indent=2) + "\n", "keys", "set", "vertex")
        assert (said.status, "AAAA" in said.out + said.complained) == (0, False)
        assert json.loads(Keys(tmp_path / "state").get("vertex") or "") == told

    @pytest.mark.usefixtures("own")
    @pytest.mark.parametrize(
        ("name", "value", "sentence"),
        [
            ("bedrock", "AKIAABCDEFGHIJKLMNOP", "an access key's id without its secret"),
            ("mine", "a:b:c:d", "4 parts"),
            ("vertex", '{"type": "authorized_user"}', "must be a service account's"),
            ("vertex", '{"type": ', "is not a key"),
        ],
    )
    def test_a_key_of_another_form_is_not_kept(
        self, tell: Callable[..., Said], tmp_path: Path, name: str, value: str, sentence: str
    ) -> None:
        said = tell(value, "keys", "set", name)
        assert (said.status, sentence in said.sentence, value in said.sentence) == (2, True, False)
        assert Keys(tmp_path / "state").list() == ()

    @pytest.mark.usefixtures("own")
    def test_a_missing_key_is_told_with_the_variable_that_wins(self, tell: Callable[..., Said], tmp_path: Path) -> None:
        run = ("run", "--template", "2d_diffusion", "--out", str(tmp_path / "out"), "--model")
        assert "`fumehood keys set mine`." in tell("", *run, "ours").sentence
        sentence = tell("", *run, "claude-sonnet-4-6").sentence
        assert "`fumehood keys set anthropic`, or in ANTHROPIC_API_KEY, which wins." in sentence

    def test_a_model_without_a_price_is_let_through_where_that_is_allowed(
        self, tell: Callable[..., Said], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run = ("run", "--template", "2d_diffusion", "--out", str(tmp_path / "out"), "--model", "bedrock/any.claude")
        assert "is not known" in tell("", *run).sentence
        monkeypatch.setenv("FUMEHOOD_ALLOW_UNPRICED", "true")
        assert "`fumehood keys set bedrock`, or in AWS_BEARER_TOKEN_BEDROCK, which wins." in tell("", *run).sentence

    @pytest.mark.usefixtures("own")
    def test_doctor_names_whose_keys_there_are(self, say: Callable[..., Said], tmp_path: Path) -> None:
        Keys(tmp_path / "state").set("mine", "ABSKmine")
        said = say("doctor", "--json").document
        assert said["keys"] == ["mine"]
        assert {"anthropic", "bedrock", "vertex"} <= set(said["keys_missing"])
        [line] = [line for line in machine.describe(said) if line.startswith("keys: ")]
        assert line.startswith("keys: mine (none for anthropic, bedrock, ")


class TestMachine:
    def test_a_state_folder_that_cannot_be_is_status_three(self, say: Callable[..., Said], tmp_path: Path) -> None:
        (tmp_path / "file").write_text("mine")
        said = say(*RUN, "--out", str(tmp_path / "out"), "--json", state=tmp_path / "file" / "state")
        assert (said.status, said.document["exit_status"]) == (3, 3)
        listed = say("keys", "list", "--json", state=tmp_path / "file" / "state")
        assert (listed.status, listed.document["exit_status"]) == (3, 3)

    def test_doctor_tells_what_it_can_where_the_state_may_not_be_read(
        self, say: Callable[..., Said], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def unfit(*_: object) -> None:
            raise MachineUnfitError("It needs root.")

        def refused(*_: object) -> None:
            raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "state/keys"))

        monkeypatch.setattr(machine, "ask_machine", unfit)
        monkeypatch.setattr(Keys, "list", refused)
        monkeypatch.setattr(machine.worlds, "lab_packages", refused)
        monkeypatch.setattr(machine.shutil, "which", lambda _: None)
        said = say("doctor")
        assert (said.status, said.complained) == (3, "")
        assert "LaTeX: no pdflatex here. Install LaTeX: apt-get" in said.out
        assert "keys: they may not be read" in said.out
        assert "services: redis " in said.out
        why = [line for line in said.out.splitlines() if line.startswith("not ready: ")]
        assert why[0] == "not ready: It needs root."
        assert why[1].startswith(f"not ready: The state folder {tmp_path / 'state'} may not be read by this user. Ask ")
        assert len(why) == 2

    @pytest.mark.parametrize(("answer", "is_up"), [(b"+PONG\r\n", True), (b"-NOAUTH x\r\n", True), (b"HTTP", False)])
    def test_a_redis_is_known_by_its_answer(self, answer: bytes, *, is_up: bool) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:

            def serve() -> None:
                caller, _ = server.accept()
                with caller:
                    caller.recv(64)
                    caller.sendall(answer)

            serving = threading.Thread(target=serve)
            serving.start()
            assert machine._redis_answers(f"redis://127.0.0.1:{server.getsockname()[1]}/0") is is_up
            serving.join()
        assert not machine._redis_answers("redis://127.0.0.1:1/0")

    def test_a_child_reads_the_same_settings(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("FUMEHOOD_CEILINGS__WALL_S", "60")
        monkeypatch.setenv("FUMEHOOD_EGRESS_REQUESTS", "7")
        monkeypatch.setenv("FUMEHOOD_API_KEY", "not for children")
        given = Settings(
            state_dir=tmp_path, docker_runtime="runsc", egress_upstreams={"arxiv": "https://mirror.example"}
        )
        told = children.environment(given)
        assert not [value for value in told.values() if "not for children" in value]
        for name in ("FUMEHOOD_CEILINGS__WALL_S", "FUMEHOOD_EGRESS_REQUESTS", "FUMEHOOD_API_KEY"):
            monkeypatch.delenv(name)
        for name, value in told.items():
            monkeypatch.setenv(name, value)
        assert Settings() == given.model_copy(update={"api_key": ""})

    def test_the_line_for_root_carries_every_setting(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(os, "geteuid", lambda: 1000)
        monkeypatch.setattr(children.shutil, "which", lambda _: None)
        monkeypatch.setattr(sys, "argv", ["fumehood", "run", "--text", "a b"])
        settings = Settings(state_dir=tmp_path / "my state", lab_dir=tmp_path / "lab")
        with pytest.raises(MachineUnfitError) as caught:
            children.as_root(["true"], settings)
        first, *words = shlex.split(caught.value.remedy.removeprefix("Type this instead: "))
        told = {f"{name}={value}" for name, value in children.environment(settings).items() if value}
        at = words.index(sys.executable)
        assert (first, words[0], set(words[2:at])) == ("sudo", "env", told)
        assert words[at:] == [*children.PYTHON, "-m", "fumehood", "run", "--text", "a b"]


SUMMARY: dict[str, Any] = {
    "template": "2d_diffusion",
    "model": "offline",
    "profile": "tiny",
    "ideas": 3,
    "novel": 2,
    "novelty_unknown": 1,
    "refused": [{"name": "start_at_the_noisy_data", "verdict": "near_duplicate", "reason": "the same"}],
    "experiments_passed": 2,
    "papers": 2,
    "mean_score": 4.5,
    "max_score": 5,
    "cost_usd": 0.0,
    "experiments": [
        {
            "name": name,
            "runs": {"run_1": "measured", "run_2": "no_result"},
            "outcome": "inconclusive",
            "label": "not_comparable: screen_only",
            "score": None,
            "state": "cancelled",
            "paper": "paper.pdf",
            "reviewed": ["Every section stands once", "No sentence stands twice", *more] * 3,
        }
        for name, more in (("matched_start", []), ("cosine_noise_schedule", []), ("another_one", ["More"]))
    ],
}


class TestOutput:
    def test_the_table_cuts_nothing_at_80_columns(self, capsys: pytest.CaptureFixture[str]) -> None:
        Console(width=80).print(output.results_table(SUMMARY))
        lines = capsys.readouterr().out.splitlines()
        assert max(map(len, lines)) <= 80
        rows = [line.strip("│").split("│") for line in lines if line.startswith("│")]
        columns = ["".join(cell.strip() for cell in column) for column in zip(*rows, strict=True)]
        for name in ("matched_start", "cosine_noise_schedule", "start_at_the_noisy_data"):
            assert name in columns[0]
        assert columns[2].count("inconclusive") == 3
        assert columns[3].replace(" ", "").count("not_comparable:screen_only") == 3
        assert columns[5].count("cancelled") == 3

    def test_a_review_that_checked_the_same_is_told_once(self) -> None:
        lines = list(output.reviews(SUMMARY["experiments"]))
        told = [line for line in lines if line.startswith("review of ")]
        assert max(map(len, lines)) <= output.WIDTH
        assert told[0].startswith("review of matched_start, cosine_noise_schedule checked: Every section")
        assert told[1].startswith("review of another_one checked: ")
        assert len(told) == 2

    def test_totals_say_what_was_asked_where_less_came(self) -> None:
        told = output.totals(SUMMARY, 7)
        assert told.startswith("ideas 3 of 7 asked, novel 2, novelty unknown 1, ")
        assert "mean score 4.50, max score 5, cost" in told
        assert output.totals(SUMMARY, 3).startswith("ideas 3, ")

    def test_what_a_program_says_neither_steers_the_terminal_nor_breaks_the_display(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        hostile = "failed: KeyError: [/usr] \x1b[8mhidden\rover\x9b2J\x00 [bold]ü"
        shown = "failed: KeyError: [/usr] \N{REPLACEMENT CHARACTER}[8mhidden\nover"
        progress, screen = output.Progress(as_json=False), io.StringIO()
        progress._console = Console(file=screen, force_terminal=True, color_system=None, soft_wrap=True, width=200)
        progress.start("begun [/so]")
        progress.event(Event(direction_id=DirectionId("dir_1"), kind="failed", text=hostile))
        progress.stop()
        output.print_lines([hostile])
        output.print_lines([hostile], error=True)
        printed = capsys.readouterr()
        for text in (screen.getvalue(), printed.out, printed.err):
            assert shown in text
            assert "[bold]ü" in text
            assert not any(steer in text for steer in ("\x1b[8m", "\x9b", "\x00"))


class TestVerify:
    def test_a_folder_that_holds_is_status_zero(self, say: Callable[..., Said], finished: tuple[Path, Path]) -> None:
        folder, state = finished
        said = say("verify", str(folder), state=state)
        assert (said.status, said.complained) == (0, "")
        assert said.out.startswith("checked ")
        assert say("verify", str(folder), "--json", state=state).document["holds"] is True

    def test_one_that_does_not_is_status_one_and_the_places_are_named(
        self, say: Callable[..., Said], finished: tuple[Path, Path]
    ) -> None:
        folder, state = finished
        (folder / "summary.json").write_text("{}")
        wrong = [
            "summary.json line 1 is not what was signed",
            "summary.json does not tell the experiments' labels and outcomes",
        ]
        assert say("verify", str(folder), state=state).out.splitlines() == wrong
        told = say("verify", str(folder), "--json", state=state)
        assert (told.status, told.document["problems"]) == (1, wrong)

    def test_another_installation_does_not_know_the_key(
        self, say: Callable[..., Said], finished: tuple[Path, Path]
    ) -> None:
        said = say("verify", str(finished[0]))
        assert said.status == 1
        assert "signed by unknown key sha256:" in said.out

    def test_a_key_may_be_given(self, say: Callable[..., Said], finished: tuple[Path, Path]) -> None:
        folder, state = finished
        assert say("verify", str(folder), "--key", str(state / "keys/signing.key")).status == 0

    @pytest.mark.parametrize("words", [("nowhere",), (".", "--key", "nowhere"), (".", "--key", "0" * 64)])
    def test_what_is_not_there_is_status_two(self, say: Callable[..., Said], words: tuple[str, ...]) -> None:
        said = say("verify", *words, "--json")
        assert (said.status, said.document["exit_status"]) == (2, 2)


class TestReplay:
    def test_a_record_of_before_figures_had_notes_is_refused_in_a_sentence(
        self, say: Callable[..., Said], make_lab: Callable[..., Laboratory], tmp_path: Path
    ) -> None:
        lab = make_lab()
        lab.submit(runs=1)
        lab.go_on()
        (done,) = lab.experiments()
        before = {path: sha for path, sha in done.products.items() if path != "drawings.json"}
        lab.save(dataclasses.replace(done, products=before))
        said = say("replay", str(lab.export(tmp_path / "old")), state=lab.folder / "state")
        assert (said.status, said.sentence) == (
            2,
            "The figures of smaller_scale were drawn by a version that asked no model for notes on them, so its record"
            " lacks answers that are needed now: repeat it with the version that made it.",
        )


class TestTemplates:
    def test_the_shipped_ones_are_listed(self, say: Callable[..., Said]) -> None:
        assert "2d_diffusion" in [row["name"] for row in say("template", "list", "--json").document]
        assert say("template", "list").status == 0

    def test_public_data_are_fetched_once_from_a_mirror(
        self, say: Callable[..., Said], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        data = b"To be, or not to be\n"
        sha256 = hashlib.sha256(data).hexdigest()
        words = f'title = "Plays"\n[data.plays]\nurl = "https://plays.example/a"\nsha256 = "{sha256}"\n'
        words += f'bytes = {len(data)}\nlicence = "public domain"\n'
        folder = write_template(tmp_path / "mine", {**TINY, "template.toml": words})
        (tmp_path / "mirror").mkdir()
        (tmp_path / "mirror" / "plays").write_bytes(data)
        handler = functools.partial(SimpleHTTPRequestHandler, directory=tmp_path / "mirror")
        with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
            monkeypatch.setenv("FUMEHOOD_DATA_MIRROR", f"http://127.0.0.1:{server.server_port}")
            for is_new in (True, False):
                said = say("template", "fetch", str(folder), "--json")
                (row,) = said.document
                assert (said.status, row["name"], row["sha256"], row["new"]) == (0, "plays", sha256, is_new)
            said = say("template", "fetch", str(folder))
            assert f"plays: is here, SHA-256 {sha256}" in said.out
            server.shutdown()
        assert (tmp_path / "state" / "data" / sha256).read_bytes() == data

    def test_what_cannot_be_fetched_is_bad_usage(self, say: Callable[..., Said], tmp_path: Path) -> None:
        said = say("template", "fetch", "nanogpt_lite", "--data", "plays")
        assert (said.status, said.sentence) == (
            2,
            "The template nanogpt_lite has no public data 'plays'; it has shakespeare_char.",
        )
        said = say("template", "fetch", "nanogpt", "--sha256", "0" * 64)
        assert (said.status, said.sentence) == (2, "--sha256 is of one file: name its data set by --data.")
        said = say("template", "fetch", str(write_template(tmp_path / "mine")))
        assert (said.status, said.out.strip()) == (0, "mine needs no public data.")

    def test_a_folder_that_keeps_the_contract(self, say: Callable[..., Said], tmp_path: Path) -> None:
        folder = write_template(tmp_path / "mine")
        said = say("template", "check", str(folder), "--json")
        assert (said.status, said.document["keeps_contract"], said.document["problems"]) == (0, True, [])
        assert said.document["costs"][0].startswith("No profile with confirm = true")
        lines = say("template", "check", str(folder)).out.splitlines()
        assert lines == ["mine keeps the template contract.", *said.document["costs"]]

    def test_one_that_does_not_is_status_one(self, say: Callable[..., Said], tmp_path: Path) -> None:
        folder = write_template(tmp_path / "mine", {"plot.py": "(\n"})
        said = say("template", "check", str(folder), "--json")
        assert (said.status, said.document["keeps_contract"]) == (1, False)
        assert len(said.document["problems"]) > 4

    def test_a_baseline_wants_an_empty_folder(self, say: Callable[..., Said], tmp_path: Path) -> None:
        (tmp_path / "file").write_text("x")
        for place in (tmp_path, tmp_path / "file"):
            said = say("template", "baseline", "2d_diffusion", "--out", str(place), "--json")
            assert (said.status, "is not an empty folder" in said.document["error"]) == (2, True)

    @pytest.mark.parametrize("place", ["file/below", "/proc/nowhere/out", "a" * 5000])
    def test_a_baseline_wants_a_place_that_can_be_written(
        self, say: Callable[..., Said], tmp_path: Path, place: str
    ) -> None:
        (tmp_path / "file").write_text("x")
        said = say("template", "baseline", "2d_diffusion", "--out", str(tmp_path / place))
        assert (said.status, said.sentence.startswith("--out ")) == (2, True)
        assert not (tmp_path / "state").exists()

    def test_what_the_lab_lacks_is_named(
        self, say: Callable[..., Said], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(template.worlds, "lab_packages", lambda _: frozenset({"numpy"}))
        folder = write_template(tmp_path / "mine", {**TINY, "experiment.py": "import numpy, seaborn\n"})
        said = say("template", "check", str(folder))
        sentence = "The lab lacks seaborn, which the template imports: declare where that comes from in template.toml"
        ways = ' (packages = ["NAME==VERSION"]), or give --packages NAME==VERSION or --wheel FILE.\n'
        assert (said.status, said.out) == (1, sentence + ways)

    def test_what_the_frozen_pair_imports_has_to_be_in_the_lab_itself(
        self, say: Callable[..., Said], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(template.worlds, "lab_packages", lambda _: frozenset({"numpy"}))
        monkeypatch.setattr(template.worlds, "build_lab", lambda *_: None)
        monkeypatch.setattr(template.worlds, "extra_imports", lambda *_: frozenset({"seaborn"}))
        files = dict.fromkeys(("experiment.py", "evaluate.py"), "import numpy, seaborn\n")
        said = say("template", "check", str(write_template(tmp_path / "mine", {**TINY, **files})))
        sentence = "evaluate.py is started without extra packages, and imports seaborn.\n"
        assert (said.status, said.out) == (1, sentence)


class TestSandbox:
    def test_errors_are_one_document_where_it_is_asked_for(self, say: Callable[..., Said], tmp_path: Path) -> None:
        words = ("sandbox", "exec", "--workspace", str(tmp_path / "no"), "--out", str(tmp_path / "out"))
        assert say(*words, "--", "true").out == ""
        assert say(*words, "--json", "--", "true").document["exit_status"] == 2

    def test_an_option_of_the_program_is_not_ours(self, say: Callable[..., Said], tmp_path: Path) -> None:
        words = ("sandbox", "exec", "--workspace", str(tmp_path / "no"), "--out", str(tmp_path / "out"))
        assert say(*words, "--", "true", "--json").out == ""
        assert say(*words[:3], "--bogus", "--", "true", "--json").out == ""


class TestEnds:
    def held(self, lab: Laboratory) -> None:
        direction = dataclasses.replace(lab.submit(), hold=Hold.OVER_BUDGET)
        lab.save(direction)
        with lab.store.begin() as tx:
            tx.events.append(Event(direction_id=direction.id, kind="over_budget", text="held: 1.00 USD is used up"))

    def test_over_budget_is_status_four_and_says_how_to_go_on(self, lab: Laboratory) -> None:
        self.held(lab)
        with pytest.raises(OverBudgetError, match=r"1\.00 USD is used up\. Raise --budget-usd and give --resume"):
            running.raise_for(lab.direction(), lab.store, lab.artifacts)
        assert OverBudgetError.exit_status == 4

    @pytest.mark.parametrize(
        ("cap", "option"),
        [
            (Cap.CALL, "--budget-call-usd"),
            (Cap.EXPERIMENT, "--budget-experiment-usd"),
            (Cap.DIRECTION, "--budget-usd"),
            (Cap.TOKEN, "that setting"),
        ],
    )
    def test_each_cap_has_what_raises_it(self, lab: Laboratory, cap: Cap, option: str) -> None:
        direction = dataclasses.replace(lab.submit(), hold=Hold.OVER_BUDGET)
        with pytest.raises(OverBudgetError) as refused:
            caps.check(cap, 1.0, 0.5, 2.0)
        with lab.store.begin() as tx:
            tx.events.append(Event(direction_id=direction.id, kind="over_budget", text=f"held: {refused.value}"))
        with pytest.raises(OverBudgetError, match=f"Raise {option} and give --resume"):
            running.raise_for(direction, lab.store, lab.artifacts)

    def test_a_raised_budget_lifts_the_hold(self, lab: Laboratory) -> None:
        self.held(lab)
        lifted = running._lifted(lab.store, lab.direction(), lab.asked(budget_usd=5.0))
        assert (lifted.hold, lifted.budget_usd) == (Hold.NONE, 5.0)
        assert lab.direction() == lifted

    def test_a_model_that_is_away_is_status_one_and_going_on_lifts_the_hold(self, lab: Laboratory) -> None:
        direction = dataclasses.replace(lab.submit(), hold=Hold.NO_MODEL)
        lab.save(direction)
        with lab.store.begin() as tx:
            tx.events.append(Event(direction_id=direction.id, kind="no_model", text="held: Nobody answered."))
        with pytest.raises(
            ModelUnavailableError, match=r"^Nobody answered\. Nothing is lost: give --resume to go on\.$"
        ):
            running.raise_for(direction, lab.store, lab.artifacts)
        assert running._lifted(lab.store, direction, lab.asked()).hold is Hold.NONE

    def test_a_hold_for_another_reason_is_not_lifted(self, lab: Laboratory) -> None:
        lab.save(dataclasses.replace(lab.submit(), hold=Hold.PAUSED))
        assert running._lifted(lab.store, lab.direction(), lab.asked()).hold is Hold.PAUSED

    @pytest.mark.parametrize("state", [DirectionState.FAILED, DirectionState.CANCELLED])
    def test_a_direction_that_ended_badly_is_status_one(self, lab: Laboratory, state: DirectionState) -> None:
        lab.save(lab.submit().to(state, error="because"))
        with pytest.raises(WorkFailedError, match=f"The direction {state}: because"):
            running.raise_for(lab.direction(), lab.store, lab.artifacts)
        assert (WorkFailedError.exit_status, MachineUnfitError.exit_status, FumehoodError.exit_status) == (1, 3, 1)

    def test_a_direction_of_another_state_folder_is_told(self, lab: Laboratory, tmp_path: Path) -> None:
        other = directions.DirectionId("dir_" + "0" * 26)
        with pytest.raises(FumehoodError, match="which this state folder does not know"):
            running._find(lab.store, other, tmp_path)

    def test_a_finished_folder_is_told_again_without_any_work(
        self, say: Callable[..., Said], finished: tuple[Path, Path]
    ) -> None:
        folder, state = finished
        going_on = ("run", "--out", str(folder), "--resume")
        said = say(*going_on, "--json", state=state)
        assert (said.status, said.document["verified"]) == (0, True)
        assert said.document["papers"] == [str(folder / "experiments/smaller_scale/paper.pdf")]
        told = say(*going_on, state=state)
        assert (told.status, "review of smaller_scale checked: Every section stands once" in told.out) == (0, True)
        (folder / "ideas.json").write_text("[]")
        assert say(*going_on, state=state).status == 1

    @pytest.mark.parametrize("is_finished", [True, False])
    def test_going_on_refuses_what_the_direction_has_otherwise(
        self, say: Callable[..., Said], finished: tuple[Path, Path], *, is_finished: bool
    ) -> None:
        folder, state = finished
        if not is_finished:
            (folder / "manifest.json").unlink()
        going_on = ("run", "--template", "tiny", "--profile", "tiny", "--out", str(folder), "--resume")
        for words, has in (
            (("--template", "2d_diffusion"), "tiny"),
            (("--text", "Something else."), "Make the scale small."),
            (("--ideas", "7"), "1"),
            (("--runs", "2"), "1"),
            (("--model", "claude-x"), "offline"),
            (("--review-model", "claude-x"), "offline"),
            (("--profile", "cpu"), "tiny"),
            (("--seed", "4"), "0"),
            (("--novelty", "off"), "on"),
            (("--sandbox", "docker"), "auto"),
        ):
            said = say(*going_on, *words, state=state)
            assert said.status == 2
            assert said.sentence.startswith(f"{' '.join(words)}: the direction in {folder} has {has}; leave ")

    def test_going_on_takes_what_is_the_same_and_another_budget(
        self, say: Callable[..., Said], finished: tuple[Path, Path], tmp_path: Path
    ) -> None:
        folder, state = finished
        same = ("--template", str(tmp_path / "elsewhere/tiny"), "--text", " Make the scale small. ", "--ideas", "1")
        said = say("run", *same, "--budget-usd", "3", "--out", str(folder), "--resume", state=state)
        assert said.status == 0

    def test_going_on_works_in_the_sandbox_that_it_began_in(self, lab: Laboratory) -> None:
        assert running._sandbox({"sandbox": "local"}, lab.asked()) == "local"
        assert running._sandbox({"sandbox": ["x"]}, lab.asked(sandbox="docker")) == "docker"
        assert running._sandbox(None, lab.asked()) == "auto"


@pytest.mark.parametrize(("asked", "number"), [((), signal.SIGINT), (("--json",), signal.SIGTERM), ((), signal.SIGHUP)])
def test_an_interruption_is_status_130(tmp_path: Path, asked: tuple[str, ...], number: signal.Signals) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    environment = {"PATH": "/usr/bin:/bin", "FUMEHOOD_STATE_DIR": str(tmp_path / "state"), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "fumehood", "verify", str(tmp_path), "--key", str(pipe), *asked]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    # Opening returns when the command has opened the other end, so it is past its imports.
    with process:
        with pipe.open("wb"):
            process.send_signal(number)
        # Closed by now, so that a signal which came just before the command began to read is not waited over.
        out, complained = process.communicate(timeout=30)
    assert (process.returncode, complained) == (130, b"fumehood: interrupted\n")
    assert (json.loads(out) if asked else out) == ({"error": "interrupted", "exit_status": 130} if asked else b"")


def test_settings_are_read_when_a_command_runs(say: Callable[..., Said], tmp_path: Path) -> None:
    assert say("keys", "list", "--json", state=tmp_path / "other").document == {"keys": []}
    assert Settings().state_dir == tmp_path / "other"


def test_a_disk_that_fills_while_work_is_under_way_is_told_of_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(state_dir=tmp_path)
    progress, waits, told = output.Progress(as_json=False), False, io.StringIO()
    progress._console = Console(file=told, width=200)
    for free_mib in (600, 7, 0, 1, 9, 600):
        monkeypatch.setattr(checks.shutil, "disk_usage", lambda _, free=free_mib: SimpleNamespace(free=free << 20))
        waits = running.say_of_room(settings, progress, waits=waits)
    assert [line.split("] ", 1)[1] for line in told.getvalue().splitlines()] == [
        f"the disk of {tmp_path} is full: the work waits until there is room",
        "there is room again: the work goes on",
    ]
