"""What looks like a key is taken out of a record, and nothing else is."""

from __future__ import annotations

import json

import pytest

from fumehood.gateway.record import difference
from fumehood.gateway.scrub import without_secrets

PEM = "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBg\n-----END PRIVATE KEY-----"


@pytest.mark.parametrize(
    "secret",
    [
        "sk-ant-test-0123456789abcdef",
        "fhg_aaaaaaaaaaaaaaaaaaaaaaaa.bbbb",
        "fhx_aaaaaaaaaaaaaaaaaaaaaaaa.bbbb",
        "ABSKQmVkcm9ja0FQSUtleS0xMjM0NTY3",
        "bedrock-api-key-YmVkcm9jay5hbWF6b24uYXdz",
        "ya29.a0AfH6SMBabcdefghijkl",
        PEM,
        PEM.replace("\n", "\\n"),
    ],
)
def test_a_key_goes_wherever_it_stands(secret: str) -> None:
    told = {"a": [f"It is {secret}.", {"b": f'"{secret}"'}], "c": 1, "d": None}
    kept = without_secrets(told)
    assert secret not in json.dumps(kept)
    assert kept["a"][1] == {"b": '"[secret]"'}
    assert (kept["c"], kept["d"]) == (1, None)


@pytest.mark.parametrize(
    "words",
    [
        "a multi-task-conditioned-policy and risk-sensitive-reinforcement-learning",
        "a mask-based-attention-module",
        f"b64 = 'xABSK{'Q' * 40}'",
        "-----BEGIN PRIVATE KEY----- alone",
    ],
)
def test_other_words_stay(words: str) -> None:
    assert without_secrets({"text": words}) == {"text": words}


def test_what_begins_in_one_text_and_ends_in_another_breaks_nothing() -> None:
    begin, end = PEM.split("MIIEvQIBADANBg")
    told = {"messages": [{"content": begin}, {"content": end}], "z": 1}
    assert without_secrets(told) == told


def test_it_looks_only_so_far_for_a_keys_end() -> None:
    begin, end = PEM.split("MIIEvQIBADANBg")
    key = begin + "M" * 8000 + end
    assert without_secrets(f"{begin}{key} {begin}{'M' * 9000}{end}") == f"{begin}[secret] {begin}{'M' * 9000}{end}"


def test_a_call_is_found_again_by_what_was_kept_of_it() -> None:
    said = "The key sk-ant-test-0123456789abcdef is mine."
    request = {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": said}]}
    kept = without_secrets(request)
    assert difference(kept, request)
    assert not difference(kept, without_secrets(request))
