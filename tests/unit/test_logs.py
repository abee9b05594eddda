"""Lines of the log: for people, for machines, with the ids of the work in hand, and never with a secret."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fumehood.observe import context
from fumehood.observe.logs import JsonLines, Lines
from fumehood.observe.secrets import HIDDEN, Mask, secrets_of
from fumehood.settings import Settings

NOTHING = Mask()
PLANTED = {
    "FUMEHOOD_API_KEY": "planted-api-key-0123456789",
    "FUMEHOOD_S3_SECRET_KEY": "planted s3 'secret' \\ \u00e4",
    "FUMEHOOD_DATABASE_URL": "postgresql+psycopg://fumehood:planted%20password@db/fumehood",
    "FUMEHOOD_REDIS_URL": "redis://:planted-redis@cache:6379/0",
}
SAYS = """
import logging, sys, threading, warnings
from fumehood.observe.start import start
from fumehood.settings import Settings

settings = Settings()
start("test", settings)
log = logging.getLogger("fumehood.test")
for secret in sys.argv[1:]:
    log.info("in a message: %s", secret)
    log.info("beside a message", extra={"given": secret, "more": {"inside": [secret]}})
    try:
        raise ValueError(secret)
    except ValueError:
        log.exception("in a trace")
    logging.getLogger("httpx").info("of a library: %s", secret)
    logging.getLogger("httpx").warning("of a library: %s", secret)
    warnings.warn(secret, stacklevel=1)
    thread = threading.Thread(target=lambda: 1 / 0, name=secret)
    thread.start()
    thread.join()
raise RuntimeError(sys.argv[1:])
"""
LOOKS = (
    "fhg_" + "a" * 40 + ".b-c",
    "fh_01abc_" + "x" * 43,
    "sk-ant-" + "k" * 40,
    "ABSK" + "k" * 40,
    "bedrock-api-key-" + "k" * 40,
    "ya29." + "k" * 40,
    "-----BEGIN PRIVATE KEY-----" + "k" * 40 + "-----END PRIVATE KEY-----",
    "Bearer abc.def-ghi",
    "x-api-key: abcdefgh",
    "https://s3/b/k?X-Amz-Credential=AKIA&X-Amz-Signature=0123456789abcdef",
    "postgresql://user:pass-word@host/db",
)


def said(form: str, *secrets: str) -> list[str]:
    ended = subprocess.run(
        [sys.executable, "-c", SAYS, *secrets],
        env={"PATH": "/usr/bin:/bin", "FUMEHOOD_LOG_FORMAT": form, "PYTHONUTF8": "1"} | PLANTED,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert (ended.returncode, ended.stdout) == (1, "")
    return ended.stderr.splitlines()


@pytest.mark.parametrize("form", ["text", "json"])
def test_no_planted_secret_is_ever_said(form: str) -> None:
    secrets = ["planted-api-key-0123456789", PLANTED["FUMEHOOD_S3_SECRET_KEY"], "planted password", "planted-redis"]
    lines = said(form, *secrets, *LOOKS)
    told = "\n".join(lines)
    assert told.count(HIDDEN) >= 4 * (len(secrets) + len(LOOKS))
    for secret in (*secrets, "planted", "a" * 20, "x" * 20, "k" * 20, "def-ghi", "abcdefgh", "0123456789", "pass-word"):
        assert secret not in told, secret


def test_every_line_for_machines_is_one_object() -> None:
    lines = [json.loads(line) for line in said("json", "planted-redis")]
    assert all({"ts", "level", "logger", "message"} <= set(line) for line in lines)
    assert [line["message"] for line in lines if line["logger"] == "httpx"] == [f"of a library: {HIDDEN}"]
    assert [line["level"] for line in lines[-2:]] == ["CRITICAL", "CRITICAL"]
    assert "ZeroDivisionError" in lines[-2]["exc_info"]
    assert "RuntimeError" in lines[-1]["exc_info"]


def record(message: str = "hello", **extra: Any) -> logging.LogRecord:
    made = logging.makeLogRecord({"name": "fumehood.test", "levelname": "INFO", "msg": message, "created": 0.25})
    made.__dict__.update(extra)
    return made


def test_the_ids_of_the_work_in_hand_stand_on_each_line() -> None:
    with context.working_on(direction="dir_1", experiment=None, step=""), context.working_on(step="step_1"):
        told = json.loads(JsonLines(NOTHING).format(record(duration_s=0.5)))
        text = Lines(NOTHING).format(record())
    assert told == {
        "ts": "1970-01-01T00:00:00.250+00:00",
        "level": "INFO",
        "logger": "fumehood.test",
        "message": "hello",
        "duration_s": 0.5,
        "direction": "dir_1",
        "step": "step_1",
    }
    assert text.endswith("INFO fumehood.test: hello [direction=dir_1 step=step_1]")
    assert context.ids() == {}


def test_a_thread_has_no_ids_but_its_own() -> None:
    seen: list[dict[str, str]] = []
    with context.working_on(step="step_1"):
        thread = threading.Thread(target=lambda: seen.append(dict(context.ids())))
        thread.start()
        thread.join()
    assert seen == [{}]


@given(message=st.text())
def test_a_message_is_one_line_whatever_it_holds(message: str) -> None:
    made = record("%s", args=(message,))
    text = Lines(NOTHING).format(made)
    assert len(text.split("\n")) == 1
    assert "\x1b" not in text
    assert json.loads(JsonLines(NOTHING).format(made))["message"] == message


@pytest.mark.parametrize("value", [float("nan"), float("inf"), b"bytes", {1, 2}, object, Path("/x")])
def test_whatever_is_added_the_line_is_json(value: object) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    json.loads(JsonLines(NOTHING).format(record(value=value)), parse_constant=refuse)


@given(secret=st.text(min_size=6), before=st.text(), after=st.text())
def test_a_known_secret_is_hidden_wherever_it_stands(secret: str, before: str, after: str) -> None:
    shown = Mask([secret])(before + secret + after)
    assert secret not in shown.replace(HIDDEN, "\0")


def test_ordinary_words_are_left_alone() -> None:
    for text in ("The token: it has expired.", "dir_01kaw3v6rsv2xq8s5y9m4tz7hn", "http://127.0.0.1:8010/v1", "a: b"):
        assert Mask(["", "none"])(text) == text


def test_the_settings_name_their_secrets() -> None:
    settings = Settings(
        api_key="k" * 16,
        s3_secret_key="s" * 8,  # type: ignore[arg-type]
        database_url="postgresql://u:p%40ss@h/d",
        redis_url="redis://[broken",
    )
    assert {"k" * 16, "s" * 8, "p%40ss", "p@ss"} <= set(secrets_of(settings))
