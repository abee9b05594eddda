"""Tokens say what a caller may do, and only the gateway's secret makes one."""

from __future__ import annotations

import base64
import json
import multiprocessing
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from fumehood.domain.ids import DirectionId, ExperimentId, TenantId
from fumehood.domain.ledger import Claims
from fumehood.errors import MachineUnfitError
from fumehood.gateway import tokens
from fumehood.settings import Settings

SECRET = b"s" * 32
words = st.text(max_size=20)
all_claims = st.builds(
    Claims,
    tenant=words.map(TenantId),
    direction_id=words.map(DirectionId),
    experiment_id=st.none() | words.map(ExperimentId),
    role=words,
    model=words,
    idea=words,
    index=st.integers(0, 99),
    run=st.integers(0, 99),
    attempt=st.integers(0, 99),
    subject=words,
    playbook=words,
    expires_at=st.floats(1, 1e10),
)
CLAIMS = Claims(tenant=TenantId("ten_1"), direction_id=DirectionId("dir_1"), role="idea", model="m", expires_at=100.0)


@given(all_claims)
def test_a_token_gives_back_its_claims(claims: Claims) -> None:
    token = tokens.mint(claims, SECRET)
    assert token.startswith("fhg_")
    assert tokens.read(token, SECRET, claims.expires_at - 0.5) == claims


@given(st.data())
def test_a_changed_token_is_refused(data: st.DataObject) -> None:
    token = tokens.mint(CLAIMS, SECRET)
    at = data.draw(st.integers(0, len(token) - 1))
    other = data.draw(st.characters(codec="ascii").filter(lambda letter: letter != token[at]))
    with pytest.raises(tokens.TokenError):
        tokens.read(token[:at] + other + token[at + 1 :], SECRET, 0.0)


@given(st.text())
def test_no_text_is_taken_for_a_token(text: str) -> None:
    for token in (text, f"fhg_{text}", f"fhg_{text}.{text}"):
        with pytest.raises(tokens.TokenError):
            tokens.read(token, SECRET, 0.0)


def test_a_token_ends() -> None:
    token = tokens.mint(CLAIMS, SECRET)
    assert tokens.read(token, SECRET, 99.9) == CLAIMS
    with pytest.raises(tokens.TokenError, match="expired"):
        tokens.read(token, SECRET, 100.0)


def test_another_secret_s_token_is_refused() -> None:
    with pytest.raises(tokens.TokenError, match="signature"):
        tokens.read(tokens.mint(CLAIMS, b"other"), SECRET, 0.0)


def test_a_token_with_other_claims_than_ours_is_refused() -> None:
    body = base64.urlsafe_b64encode(json.dumps({"role": "admin"}).encode()).rstrip(b"=").decode()
    signature = tokens.mint(CLAIMS, SECRET).partition(".")[2]
    with pytest.raises(tokens.TokenError):
        tokens.read(f"fhg_{body}.{signature}", SECRET, 0.0)


def _secret(folder: Path) -> bytes:
    return tokens.secret(folder)


def test_the_secret_is_made_once_by_whoever_comes_first(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        found = set(pool.map(_secret, [folder] * 12))
    assert len(found) == 1
    assert len(found.pop()) == 32
    assert [path.name for path in folder.iterdir()] == ["gateway.secret"]
    assert stat.S_IMODE((folder / "gateway.secret").stat().st_mode) == 0o600


def test_a_secret_that_is_damaged_or_open_to_others_is_not_used(tmp_path: Path) -> None:
    tokens.secret(tmp_path)
    path = tmp_path / "gateway.secret"
    path.chmod(0o644)
    with pytest.raises(MachineUnfitError, match="chmod 600"):
        tokens.secret(tmp_path)
    path.chmod(0o600)
    path.write_bytes(b"short")
    with pytest.raises(MachineUnfitError, match="damaged"):
        tokens.secret(tmp_path)


def test_a_gateway_leaves_the_run_side_a_secret_from_which_its_own_is_not_found(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path)
    assert tokens.executions_secret_of(settings) == b""
    tokens.leave_for_executions(settings)
    found = tokens.executions_secret_of(settings)
    assert found == tokens.execution_secret(tokens.secret(tmp_path)) != tokens.secret(tmp_path)
    assert stat.S_IMODE((tmp_path / "executions.secret").stat().st_mode) == 0o600
    (tmp_path / "gateway.secret").unlink()
    tokens.leave_for_executions(settings)
    assert tokens.executions_secret_of(settings) == tokens.execution_secret(tokens.secret(tmp_path)) != found


def test_who_is_given_the_secrets_is_left_none(tmp_path: Path) -> None:
    tokens.leave_for_executions(Settings(state_dir=tmp_path, gateway_secret=SecretStr("ab" * 32)))
    assert list(tmp_path.iterdir()) == []
    given = Settings(state_dir=tmp_path, executions_secret=SecretStr("cd" * 32))
    assert tokens.executions_secret_of(given) == bytes.fromhex("cd" * 32)


def test_one_that_was_read_is_asked_again_whether_it_has_ended_and_who_signed_it() -> None:
    token = tokens.mint(CLAIMS, SECRET)
    for now in (0.0, 50.0, 99.0):
        assert tokens.read(token, SECRET, now) == CLAIMS
    with pytest.raises(tokens.TokenError, match="expired"):
        tokens.read(token, SECRET, 100.0)
    with pytest.raises(tokens.TokenError, match="signature"):
        tokens.read(token, b"t" * 32, 0.0)
    with pytest.raises(tokens.TokenError, match="longer than a day"):
        tokens.read(token, SECRET, -2 * 24 * 3600.0)
