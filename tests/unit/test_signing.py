"""Envelopes, keys and secrets: what was not signed by a trusted key is never opened."""

from __future__ import annotations

import base64
import dataclasses
import json
import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from fumehood.artifacts.signing import (
    Ed25519Signer,
    derive_key,
    installation_secret,
    key_id_of,
    load_key,
    open_envelope,
    pae,
    public_pem,
    publish,
    signers_of,
    trusted_keys,
)
from fumehood.errors import BadInputError, MachineUnfitError, NotFoundError, TamperedError
from fumehood.ports import Signer

TYPE = "application/vnd.in-toto+json"


@dataclasses.dataclass
class Installation:
    state_dir: Path
    signer: Ed25519Signer
    trusted: dict[str, bytes]


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    state_dir = tmp_path_factory.mktemp("ours")
    signer = Ed25519Signer(state_dir)
    return Installation(state_dir, signer, trusted_keys(state_dir))


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Ed25519Signer:
    return Ed25519Signer(tmp_path_factory.mktemp("theirs"))


def edited(envelope: bytes, **changes: object) -> bytes:
    return json.dumps(json.loads(envelope) | changes).encode()


class TestEnvelope:
    def test_the_encoding_is_that_of_the_specification(self) -> None:
        told = pae(b"hello world", "http://example.com/HelloWorld")
        assert told == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
        assert pae(b"", "") == b"DSSEv1 0  0 "
        # Lengths are counted in bytes, and what is signed is not taken for a format.
        assert pae(b"%d\x00", "\N{SNOWMAN}") == b"DSSEv1 3 \xe2\x98\x83 3 %d\x00"

    def test_the_envelope_has_the_names_of_the_specification(self, ours: Installation) -> None:
        port: Signer = ours.signer
        found = json.loads(port.sign(b"{}", TYPE))
        assert set(found) == {"payloadType", "payload", "signatures"}
        assert found["payloadType"] == TYPE
        assert base64.b64decode(found["payload"]) == b"{}"
        (signature,) = found["signatures"]
        assert set(signature) == {"keyid", "sig"}
        assert signature["keyid"] == port.key_id == key_id_of(ours.signer.public_key_bytes())
        assert len(base64.b64decode(signature["sig"])) == 64

    @settings(max_examples=30)
    @given(payload=st.binary(max_size=200), kind=st.text(max_size=20))
    def test_what_was_signed_is_opened(self, ours: Installation, payload: bytes, kind: str) -> None:
        assert open_envelope(ours.signer.sign(payload, kind), ours.trusted, kind) == payload

    def test_the_same_is_signed_the_same(self, ours: Installation) -> None:
        assert ours.signer.sign(b"x", TYPE) == Ed25519Signer(ours.state_dir).sign(b"x", TYPE)

    @settings(max_examples=400)
    @given(data=st.data())
    def test_a_flipped_bit_anywhere_is_noticed(self, ours: Installation, data: st.DataObject) -> None:
        envelope = ours.signer.sign(b'{"kl": 0.5}', TYPE)
        position = data.draw(st.integers(0, len(envelope) * 8 - 1))
        broken = bytearray(envelope)
        broken[position // 8] ^= 1 << position % 8
        with pytest.raises(TamperedError):
            open_envelope(bytes(broken), ours.trusted, TYPE)

    @settings(max_examples=100)
    @given(junk=st.binary(max_size=60) | st.recursive(st.none(), st.lists, max_leaves=3).map(lambda x: str(x).encode()))
    def test_what_is_no_envelope_is_refused_with_a_sentence(self, ours: Installation, junk: bytes) -> None:
        with pytest.raises(TamperedError, match="malformed"):
            open_envelope(junk, ours.trusted, TYPE)

    @pytest.mark.parametrize(
        "changes",
        [
            {"payloadType": 1},
            {"payload": None},
            {"payload": 5},
            {"payload": "e30"},
            {"payload": "e31="},
            {"payload": "e30=\n"},
            {"payload": "\N{SNOWMAN}"},
            {"signatures": []},
            {"signatures": {}},
            {"signatures": None},
            {"signatures": ["x"]},
            {"signatures": [{"sig": "AA=="}]},
            {"signatures": [{"keyid": 1, "sig": "AA=="}]},
            {"signatures": [{"keyid": [], "sig": "AA=="}]},
        ],
    )
    def test_a_part_of_the_wrong_kind_is_malformed(self, ours: Installation, changes: dict[str, object]) -> None:
        with pytest.raises(TamperedError, match="malformed"):
            open_envelope(edited(ours.signer.sign(b"{}", TYPE), **changes), ours.trusted, TYPE)

    def test_a_name_that_stands_twice_and_endless_nesting_are_malformed(self, ours: Installation) -> None:
        envelope = ours.signer.sign(b"{}", TYPE)
        for broken in (envelope.replace(b"{", b'{"payload":"e30=",', 1), b"[" * 100_000, envelope + envelope):
            with pytest.raises(TamperedError, match="malformed"):
                open_envelope(broken, ours.trusted, TYPE)

    def test_another_key_is_unknown(self, ours: Installation, theirs: Ed25519Signer) -> None:
        envelope = theirs.sign(b"{}", TYPE)
        assert signers_of(envelope) == (theirs.key_id,)
        with pytest.raises(TamperedError, match=f"^signed by unknown key {theirs.key_id}$"):
            open_envelope(envelope, ours.trusted, TYPE)
        with pytest.raises(TamperedError, match="unknown key"):
            open_envelope(ours.signer.sign(b"{}", TYPE), {}, TYPE)

    def test_a_foreign_signature_under_our_name_does_not_hold(self, ours: Installation, theirs: Ed25519Signer) -> None:
        (signature,) = json.loads(theirs.sign(b"{}", TYPE))["signatures"]
        forged = edited(ours.signer.sign(b"{}", TYPE), signatures=[signature | {"keyid": ours.signer.key_id}])
        with pytest.raises(TamperedError, match="signature does not hold"):
            open_envelope(forged, ours.trusted, TYPE)

    def test_one_trusted_signature_is_enough_but_none_may_be_false(
        self, ours: Installation, theirs: Ed25519Signer
    ) -> None:
        mine, foreign = (json.loads(each.sign(b"{}", TYPE))["signatures"][0] for each in (ours.signer, theirs))
        both = edited(ours.signer.sign(b"{}", TYPE), signatures=[foreign, mine])
        assert open_envelope(both, ours.trusted, TYPE) == b"{}"
        swapped = edited(both, signatures=[foreign | {"sig": mine["sig"]}, mine])
        trusted = ours.trusted | {theirs.key_id: theirs.public_key_bytes()}
        with pytest.raises(TamperedError, match=theirs.key_id):
            open_envelope(swapped, trusted, TYPE)

    def test_a_payload_of_another_type_is_refused(self, ours: Installation) -> None:
        envelope = ours.signer.sign(b"{}", "text/plain")
        with pytest.raises(TamperedError, match="text/plain"):
            open_envelope(envelope, ours.trusted, TYPE)
        with pytest.raises(TamperedError, match="does not hold"):
            open_envelope(edited(envelope, payloadType=TYPE), ours.trusted, TYPE)

    def test_a_trusted_key_that_is_no_key_opens_nothing(self, ours: Installation) -> None:
        with pytest.raises(TamperedError, match="does not hold"):
            open_envelope(ours.signer.sign(b"{}", TYPE), {ours.signer.key_id: b"short"}, TYPE)


class TestKeys:
    def test_who_may_not_read_the_key_trusts_what_was_published(self, tmp_path: Path) -> None:
        mine, others = tmp_path / "run", tmp_path / "api"
        mine.mkdir()
        others.mkdir()
        signer = Ed25519Signer(mine)
        publish(signer, mine)
        publish(signer, mine)
        (mine / "public").rename(others / "public")
        assert trusted_keys(others) == {signer.key_id: signer.public_key_bytes()}

    def test_the_key_is_made_once_and_closed_to_others(self, tmp_path: Path) -> None:
        assert trusted_keys(tmp_path) == {}
        first, second = Ed25519Signer(tmp_path), Ed25519Signer(tmp_path)
        assert first.public_key_bytes() == second.public_key_bytes()
        assert trusted_keys(tmp_path) == {first.key_id: first.public_key_bytes()}
        keys = tmp_path / "keys"
        assert [path.name for path in keys.iterdir()] == ["signing.key"]
        assert stat.S_IMODE(keys.stat().st_mode) == 0o700
        assert stat.S_IMODE((keys / "signing.key").stat().st_mode) == 0o600

    def test_a_key_that_others_may_read_is_refused_with_the_remedy(self, tmp_path: Path) -> None:
        Ed25519Signer(tmp_path)
        (tmp_path / "keys/signing.key").chmod(0o640)
        with pytest.raises(MachineUnfitError, match="chmod 600"):
            Ed25519Signer(tmp_path)

    @pytest.mark.parametrize(
        "content", [b"", b"junk", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"]
    )
    def test_a_key_file_that_is_no_key_is_not_used(self, tmp_path: Path, content: bytes) -> None:
        Ed25519Signer(tmp_path)
        (tmp_path / "keys/signing.key").write_bytes(content)
        with pytest.raises(TamperedError, match="not an Ed25519 key"):
            Ed25519Signer(tmp_path)

    def test_processes_at_once_end_with_one_key_and_one_secret(self, tmp_path: Path) -> None:
        script = (
            "import pathlib,sys\n"
            "from fumehood.artifacts.signing import Ed25519Signer, installation_secret\n"
            "sys.stdin.readline()\n"
            "state = pathlib.Path(sys.argv[1])\n"
            "print(Ed25519Signer(state).key_id, installation_secret(state).hex())\n"
        )
        makers = [
            subprocess.Popen(
                [sys.executable, "-c", script, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            for _ in range(4)
        ]
        for maker in makers:
            assert maker.stdin
            maker.stdin.write("go\n")
            maker.stdin.flush()
        told = {maker.communicate(timeout=60)[0] for maker in makers}
        assert told == {f"{Ed25519Signer(tmp_path).key_id} {installation_secret(tmp_path).hex()}\n"}
        assert sorted(path.name for path in (tmp_path / "keys").iterdir()) == ["installation.secret", "signing.key"]

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files for others")
    def test_what_root_makes_belongs_to_the_state_folders_owner(self) -> None:
        with tempfile.TemporaryDirectory() as name:
            state_dir = Path(name)
            os.chown(state_dir, 54321, 54322)
            Ed25519Signer(state_dir)
            installation_secret(state_dir)
            made = list(state_dir.rglob("*"))
            assert len(made) == 3
            assert {(path.stat().st_uid, path.stat().st_gid) for path in made} == {(54321, 54322)}


class TestLoadedKeys:
    def test_a_key_is_loaded_from_a_file_of_any_form(self, ours: Installation, tmp_path: Path) -> None:
        public = ours.signer.public_key_bytes()
        forms = {
            "raw": public,
            "public.pem": public_pem(public),
            "private.pem": (ours.state_dir / "keys/signing.key").read_bytes(),
        }
        for name, content in forms.items():
            (tmp_path / name).write_bytes(content)
            assert load_key(str(tmp_path / name)) == ours.trusted

    def test_a_key_is_found_by_its_fingerprint(self, ours: Installation, theirs: Ed25519Signer) -> None:
        known = [theirs.public_key_bytes(), ours.signer.public_key_bytes()]
        for fingerprint in (ours.signer.key_id, ours.signer.key_id.removeprefix("sha256:").upper()):
            assert load_key(fingerprint, known) == ours.trusted
        with pytest.raises(NotFoundError, match=ours.signer.key_id):
            load_key(ours.signer.key_id, known[:1])

    def test_what_is_no_key_is_refused(self, tmp_path: Path) -> None:
        other = generate_private_key(SECP256R1()).public_key()
        pem = other.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        locked = Ed25519PrivateKey.generate().private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"password"),
        )
        for content in (b"", b"junk", pem, locked):
            (tmp_path / "key").write_bytes(content)
            with pytest.raises(BadInputError, match="no Ed25519 key"):
                load_key(str(tmp_path / "key"))
        with pytest.raises(NotFoundError):
            load_key(str(tmp_path / "none"))


class TestSecret:
    def test_the_secret_is_made_once_and_closed_to_others(self, tmp_path: Path) -> None:
        secret = installation_secret(tmp_path)
        assert len(secret) == 32
        assert installation_secret(tmp_path) == secret
        assert stat.S_IMODE((tmp_path / "keys/installation.secret").stat().st_mode) == 0o600

    def test_a_secret_that_was_cut_or_opened_is_not_used(self, tmp_path: Path) -> None:
        installation_secret(tmp_path)
        path = tmp_path / "keys/installation.secret"
        path.write_bytes(b"short")
        with pytest.raises(TamperedError, match="32 bytes"):
            installation_secret(tmp_path)
        path.chmod(0o644)
        with pytest.raises(MachineUnfitError, match="open to others"):
            installation_secret(tmp_path)

    def test_a_derived_key_is_the_hmac_of_its_context(self) -> None:
        # RFC 4231, test case 2.
        told = derive_key(b"Jefe", "what do ya want for nothing?").hex()
        assert told == "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        assert derive_key(b"k" * 32, "a/screen") != derive_key(b"k" * 32, "a/confirm")
