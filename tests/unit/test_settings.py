"""Settings come from the environment, or from a file each where secrets lie."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from fumehood.errors import BadInputError
from fumehood.gateway import tokens
from fumehood.gateway.__main__ import ProviderSettings
from fumehood.gateway.keys import VARIABLES
from fumehood.settings import Settings

SECRET = "0123456789abcdef" * 4


@pytest.fixture
def secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of secrets that the settings know of."""
    folder = tmp_path / "secrets"
    folder.mkdir()
    monkeypatch.setenv("FUMEHOOD_SECRETS_DIR", str(folder))
    return folder


def test_a_setting_may_stand_in_a_file(secrets: Path) -> None:
    (secrets / "fumehood_database_url").write_text("postgresql+psycopg://u:p@db/f\n", encoding="utf-8")
    (secrets / "fumehood_s3_secret_key").write_text("quiet", encoding="utf-8")
    (secrets / "anthropic_api_key").write_text("key\n", encoding="utf-8")
    found = Settings()
    assert found.database_url == "postgresql+psycopg://u:p@db/f"
    assert found.s3_secret_key.get_secret_value() == "quiet"
    assert "quiet" not in repr(found)
    provider = ProviderSettings().anthropic
    assert provider is not None
    assert provider.get_secret_value() == "key"


def test_a_variable_wins_over_a_file(secrets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (secrets / "fumehood_redis_url").write_text("redis://file/0", encoding="utf-8")
    monkeypatch.setenv("FUMEHOOD_REDIS_URL", "redis://variable/0")
    assert Settings().redis_url == "redis://variable/0"


def test_a_folder_of_secrets_that_is_not_there_is_no_error(secrets: Path) -> None:
    secrets.rmdir()
    assert Settings().database_url == ""


def test_every_provider_s_key_may_stand_in_a_file_or_in_its_variable(
    secrets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, variable in VARIABLES.items():
        (secrets / variable.lower()).write_text(f"{name}-of-a-file\n", encoding="utf-8")
    monkeypatch.setenv("OPENAI_API_KEY", "openai-of-a-variable")
    monkeypatch.setenv("DEEPSEEK_API_KEY", " ")
    assert ProviderSettings().given() == {
        "anthropic": "anthropic-of-a-file",
        "bedrock": "bedrock-of-a-file",
        "openai": "openai-of-a-variable",
        "openrouter": "openrouter-of-a-file",
        "vertex": "vertex-of-a-file",
    }
    monkeypatch.setenv("OPENAI_API_KEY", "two words")
    with pytest.raises(BadInputError, match="given for OPENAI_API_KEY is not a key") as caught:
        ProviderSettings().given()
    assert "two words" not in str(caught.value)


def test_a_provider_key_s_file_may_be_empty(secrets: Path) -> None:
    (secrets / "anthropic_api_key").write_text("", encoding="utf-8")
    assert not ProviderSettings().anthropic


def test_a_given_gateway_secret_is_used_and_none_is_written(secrets: Path, tmp_path: Path) -> None:
    (secrets / "fumehood_gateway_secret").write_text(SECRET + "\n", encoding="utf-8")
    assert tokens.secret_of(Settings(state_dir=tmp_path / "state")) == bytes.fromhex(SECRET)
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize("value", ["short", SECRET[:-1], SECRET.upper(), "g" * 64])
def test_a_secret_of_another_shape_is_refused_and_not_shown(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUMEHOOD_GATEWAY_SECRET", value)
    with pytest.raises(ValidationError, match="64 hex digits") as caught:
        Settings()
    assert value not in str(caught.value)


def test_a_gpu_that_is_named_twice_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUMEHOOD_GPUS", '["0", "1"]')
    assert Settings().gpus == ("0", "1")
    monkeypatch.setenv("FUMEHOOD_GPUS", '["0", "1", "0"]')
    with pytest.raises(ValidationError, match="named once"):
        Settings()
