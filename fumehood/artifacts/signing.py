"""Signatures over what the platform says (DSSE envelopes, Ed25519), and the secrets of this installation."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import os
import re
import secrets
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from fumehood.artifacts.files import write_once
from fumehood.errors import BadInputError, MachineUnfitError, NotFoundError, TamperedError

KEY_FILE = Path("keys/signing.key")
SECRET_FILE = Path("keys/installation.secret")
CURSOR_FILE = Path("keys/cursor.secret")
PUBLIC_DIR = Path("public")
"""Public keys, one PEM file each, for processes that may not read the signing key."""
_FINGERPRINT = re.compile(r"(?:sha256:)?([0-9a-f]{64})")


def key_id_of(public_key: bytes) -> str:
    """Return a key's fingerprint: `sha256:` and the hash of its 32 raw public bytes."""
    return "sha256:" + hashlib.sha256(public_key).hexdigest()


def pae(payload: bytes, payload_type: str) -> bytes:
    """Return DSSE's pre-authentication encoding, which is what a signature is really over."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


class Ed25519Signer:
    """Signs with this installation's key, which is made on first use."""

    def __init__(self, state_dir: Path) -> None:
        path = state_dir / KEY_FILE
        if not path.exists():
            write_once(path, _private_pem(Ed25519PrivateKey.generate()))
        self._key = _read_private(path)
        self.key_id = key_id_of(self.public_key_bytes())

    def public_key_bytes(self) -> bytes:
        """Return the 32 raw bytes of the public key."""
        return _raw(self._key.public_key())

    def public_pem(self) -> bytes:
        """Return the public key as PEM, for whoever wants to check."""
        return public_pem(self.public_key_bytes())

    def sign(self, payload: bytes, payload_type: str) -> bytes:
        """Return a DSSE envelope (JSON bytes) over the payload."""
        signature = self._key.sign(pae(payload, payload_type))
        envelope = {
            "payloadType": payload_type,
            "payload": base64.b64encode(payload).decode(),
            "signatures": [{"keyid": self.key_id, "sig": base64.b64encode(signature).decode()}],
        }
        return json.dumps(envelope, separators=(",", ":")).encode()


def open_envelope(envelope: bytes, trusted: Mapping[str, bytes], payload_type: str) -> bytes:
    """Return the payload of an envelope that a trusted key signed.

    Args:
        envelope: The envelope's JSON.
        trusted: Fingerprint to raw public key.
        payload_type: What the payload must be signed as.

    Raises:
        TamperedError: It is no envelope, is of another type, no trusted key signed it, or a signature that claims
            to be a trusted key's does not hold. Nothing else is raised for the envelope's content.
    """
    kind, payload, signatures = _parse(envelope)
    if kind != payload_type:
        raise TamperedError(f"The envelope holds {kind!r}, not {payload_type!r}.")
    known = [(key_id, signature) for key_id, signature in signatures if key_id in trusted]
    if not known:
        raise TamperedError(f"signed by unknown key {signatures[0][0]}")
    for key_id, signature in known:
        try:
            Ed25519PublicKey.from_public_bytes(trusted[key_id]).verify(signature, pae(payload, kind))
        except (InvalidSignature, ValueError):
            raise TamperedError(f"signature does not hold: the payload was not signed by {key_id}") from None
    return payload


def signers_of(envelope: bytes) -> tuple[str, ...]:
    """Return the fingerprints that an envelope names, unchecked; `TamperedError` when it is no envelope."""
    return tuple(key_id for key_id, _ in _parse(envelope)[2])


def publish(signer: Ed25519Signer, state_dir: Path) -> None:
    """Lay the public key where processes find it that may not read the signing key."""
    folder = state_dir / PUBLIC_DIR
    folder.mkdir(mode=0o755, exist_ok=True)
    write_once(folder / f"{signer.key_id.removeprefix('sha256:')}.pem", signer.public_pem(), 0o644)


def trusted_keys(state_dir: Path) -> dict[str, bytes]:
    """Return this installation's own public key by its fingerprint, or those that its run side published."""
    path = state_dir / KEY_FILE
    if not os.access(path, os.R_OK):
        published = sorted((state_dir / PUBLIC_DIR).glob("*.pem"))
        return {key: raw for one in published for key, raw in load_key(str(one)).items()}
    public_key = _raw(_read_private(path).public_key())
    return {key_id_of(public_key): public_key}


def load_key(source: str, known: Iterable[bytes] = ()) -> dict[str, bytes]:
    """Return one key to trust, by its fingerprint.

    Args:
        source: A fingerprint (`sha256:` may be left out), or the path of a file with an Ed25519 key, raw or PEM.
        known: Raw public keys, trusted or not, among which a fingerprint is looked up.

    Raises:
        NotFoundError: No file has this path, or no known key this fingerprint.
        BadInputError: The file holds no Ed25519 key.
    """
    fingerprint = _FINGERPRINT.fullmatch(source.strip().lower())
    if fingerprint:
        wanted = f"sha256:{fingerprint[1]}"
        for public_key in known:
            if key_id_of(public_key) == wanted:
                return {wanted: public_key}
        raise NotFoundError(f"No key with the fingerprint {wanted} is at hand; give the file of the public key.")
    try:
        data = Path(source).read_bytes()
    except OSError as error:
        raise NotFoundError(f"The key file {source} cannot be read: {error.strerror}.") from None
    public_key = _public_bytes(data, source)
    return {key_id_of(public_key): public_key}


def public_pem(public_key: bytes) -> bytes:
    """Return a raw public key as PEM, for people and other tools."""
    return Ed25519PublicKey.from_public_bytes(public_key).public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def installation_secret(state_dir: Path) -> bytes:
    """Return the 32 bytes from which all held-out data is drawn, made on first use."""
    return _secret(state_dir / SECRET_FILE)


def cursor_secret(state_dir: Path) -> bytes:
    """Return the 32 bytes that sign the API's cursors, made on first use; whoever has them can draw no data."""
    return _secret(state_dir / CURSOR_FILE)


def _secret(path: Path) -> bytes:
    if not path.exists():
        write_once(path, secrets.token_bytes(32))
    secret = _read_private_file(path)
    if len(secret) != 32:
        raise TamperedError(f"The installation's secret {path} must be 32 bytes long, not {len(secret)}.")
    return secret


def derive_key(secret: bytes, context: str) -> bytes:
    """Return HMAC-SHA256 of a context, from which nothing about the secret or another context follows."""
    return hmac.digest(secret, context.encode(), "sha256")


def _parse(envelope: bytes) -> tuple[str, bytes, list[tuple[str, bytes]]]:
    try:
        found = json.loads(envelope.decode(), object_pairs_hook=_no_doubles)
        kind, payload = found["payloadType"], _decoded(found["payload"])
        signatures = [(item["keyid"], _decoded(item["sig"])) for item in found["signatures"]]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise TamperedError("The envelope is malformed: it is not the JSON of a DSSE envelope.") from None
    if not isinstance(kind, str) or not signatures or not all(isinstance(key_id, str) for key_id, _ in signatures):
        raise TamperedError("The envelope is malformed: it has no type or no signature.")
    return kind, payload, signatures


def _no_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # Two readers could take different ones of two equal names.
    if len({name for name, _ in pairs}) != len(pairs):
        raise ValueError("a name stands twice")
    return dict(pairs)


def _decoded(text: str) -> bytes:
    if not isinstance(text, str):
        raise TypeError("not text")
    try:
        data = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError("not base64") from error
    # Several texts decode to the same bytes; only the canonical one was signed and hashed.
    if base64.b64encode(data).decode() != text:
        raise ValueError("not canonical base64")
    return data


def _raw(public_key: Ed25519PublicKey) -> bytes:
    return public_key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)


def _private_pem(key: Ed25519PrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _read_private_file(path: Path) -> bytes:
    if path.stat().st_mode & 0o077:
        raise MachineUnfitError(f"The secret file {path} is open to others.", remedy=f"Type: chmod 600 {path}")
    return path.read_bytes()


def _read_private(path: Path) -> Ed25519PrivateKey:
    try:
        key = serialization.load_pem_private_key(_read_private_file(path), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise TamperedError(f"The signing key {path} is not an Ed25519 key in PEM.")
    return key


def _public_bytes(data: bytes, source: str) -> bytes:
    if len(data) == 32:
        return data
    for load in (serialization.load_pem_public_key, lambda pem: serialization.load_pem_private_key(pem, None)):
        try:
            key = load(data)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            continue
        if isinstance(key, Ed25519PrivateKey):
            key = key.public_key()
        if isinstance(key, Ed25519PublicKey):
            return _raw(key)
    raise BadInputError(f"The file {source} holds no Ed25519 key, neither 32 raw bytes nor PEM.")
