"""What administrators send and read over the wire."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, RootModel, StrictBool, StrictFloat

from fumehood.domain.catalogue import EntryKind, Format
from fumehood.domain.quota import QUOTAS, Balance
from fumehood.domain.tenant import PLATFORM, Key, Scope, Switch, Tenant
from fumehood.services.catalogue import Offer

_TENANT, _KEY = "ten_01kaw3v6rsv2xq8s5y9m4tz7hn", "key_01kaw3v9m1c7d2e5f8g0h3j6kq"
_SEAL = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
_NAME = r"^[^\x00]*$"


def _example(**fields: Any) -> ConfigDict:
    return ConfigDict(from_attributes=True, json_schema_extra={"examples": [fields]})


def _input(**fields: Any) -> ConfigDict:
    return ConfigDict(extra="forbid", json_schema_extra={"examples": [fields]})


_ENTRY: dict[str, Any] = {
    "name": "austen",
    "kind": "data",
    "title": "Six novels of Jane Austen",
    "url": "https://texts.example/austen.txt",
    "licence": "public domain",
    "sha256": _SEAL,
    "bytes": 4_200_000,
    "format": "text",
    "split": 0.05,
    "templates": ["nanogpt_lite"],
    "tenants": [],
}


class ApprovalRead(BaseModel):
    """A direction, an idea or an edit that waits for an admin, because the policy wants a person."""

    model_config = _example(
        id="dir_01kaw3v6rsv2xq8s5y9m4tz7hn",
        kind="direction",
        tenant=_TENANT,
        direction_id="dir_01kaw3v6rsv2xq8s5y9m4tz7hn",
        why="the rule medicine of the policy wants an admin to look at this: it may need an ethics committee",
        text="Predict which patients of a ward fall ill.",
    )
    id: str
    kind: str
    """`direction`, `idea` or `diff`; a diff's id is its experiment's."""
    tenant: str
    direction_id: str
    why: str
    text: str


class Decided(BaseModel):
    """What an admin said."""

    model_config = _example(id="dir_01kaw3v6rsv2xq8s5y9m4tz7hn", decision="approved")
    id: str
    decision: Literal["approved", "refused"]


class CatalogueAdd(Offer):
    """A file that ideas may ask for."""

    model_config = _input(**_ENTRY)


class EntryRead(BaseModel):
    """A file that ideas may ask for."""

    model_config = _example(**_ENTRY, added_at=1.8e9)
    name: str = Field(validation_alias=AliasChoices("id", "name"))
    kind: EntryKind
    title: str
    url: str
    licence: str
    sha256: str
    bytes: int
    format: Format
    split: float
    templates: list[str]
    tenants: list[str]
    added_at: float


class EntryRemoved(BaseModel):
    """An entry that is no longer offered."""

    model_config = _example(name="austen", removed_at=1.8e9)
    name: str
    removed_at: float


class TenantCreate(BaseModel):
    """A tenant to be made."""

    model_config = _input(name="vision group", weight=1.0)
    name: str = Field(min_length=1, max_length=100, pattern=_NAME)
    weight: float = Field(default=1.0, ge=0.01, le=100, allow_inf_nan=False, strict=True)


class TenantRead(BaseModel):
    """A tenant."""

    model_config = _example(id=_TENANT, name="vision group", weight=1.0, quotas={"runs": 4.0}, created_at=1.8e9)
    id: str
    name: str
    weight: float
    quotas: dict[str, float]
    created_at: float


class KeyCreate(BaseModel):
    """A key to be issued."""

    model_config = _input(tenant=_TENANT, name="ci", scopes=["read", "write"])
    tenant: str = Field(min_length=1, max_length=100, pattern=_NAME)
    """Its id or its name."""
    name: str = Field(default="", max_length=100, pattern=_NAME)
    scopes: list[Scope] = Field(min_length=1, max_length=3)
    lives_s: float | None = Field(default=None, gt=0, le=10 * 366 * 86400, allow_inf_nan=False, strict=True)


class KeyRead(BaseModel):
    """A key, without its text."""

    model_config = _example(
        id=_KEY, tenant=_TENANT, name="ci", scopes=["read"], created_at=1.8e9, expires_at=None, revoked_at=None
    )
    id: str
    tenant: str
    name: str
    scopes: list[str]
    created_at: float
    expires_at: float | None
    revoked_at: float | None


class KeyIssued(KeyRead):
    """A key with its text, which is shown this once."""

    model_config = _example(
        id=_KEY,
        tenant=_TENANT,
        name="ci",
        scopes=["read"],
        created_at=1.8e9,
        expires_at=None,
        revoked_at=None,
        key="fh_01kaw3v9m1c7d2e5f8g0h3j6kq_...",
    )
    key: str

    @classmethod
    def of(cls, key: Key, text: str) -> KeyIssued:
        """Return a key as it is shown to whoever had it issued."""
        return cls(**KeyRead.model_validate(key).model_dump(), key=text)


class QuotaChange(RootModel[dict[str, StrictFloat | None]]):
    """Quotas to be set, by name; null takes one away."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"directions": 5, "runs": 4, "tokens_day": None}]})
    root: dict[str, StrictFloat | None] = Field(max_length=len(QUOTAS))


class BudgetChange(BaseModel):
    """What may be spent, in US dollars; what is left out stays, null takes a limit away."""

    model_config = _input(usd_day=20.0, usd=500.0)
    usd_day: float | None = Field(default=None, ge=0, allow_inf_nan=False, strict=True)
    usd: float | None = Field(default=None, ge=0, allow_inf_nan=False, strict=True)


_TAKEN: dict[str, Any] = {
    "usd": 1.25,
    "tokens": 81_000,
    "input_tokens": 60_000,
    "cached_tokens": 12_000,
    "output_tokens": 9_000,
    "cpu_s": 310.5,
    "gpu_s": 0.0,
    "bytes": 1_048_576,
    "running": 1,
    "gpus": 0,
}


class Taken(BaseModel):
    """What is spent or reserved."""

    model_config = _example(**_TAKEN)
    usd: float
    tokens: int
    """Those of calls under way at the most that they may be; the next three are what calls really used."""
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    cpu_s: float
    gpu_s: float
    bytes: int
    running: int
    gpus: int


class UsageRead(BaseModel):
    """What a tenant may take, and has taken in all and today."""

    model_config = _example(
        tenant=_TENANT, name="vision group", quotas={"runs": 4.0}, directions=1, total=_TAKEN, today=_TAKEN
    )
    tenant: str
    name: str
    quotas: dict[str, float]
    directions: int
    total: Taken
    today: Taken

    @classmethod
    def of(cls, tenant: Tenant, directions: int, total: Balance, today: Balance) -> UsageRead:
        """Return a tenant's usage as it is shown."""
        return cls(
            tenant=tenant.id,
            name=tenant.name,
            quotas=dict(tenant.quotas),
            directions=directions,
            total=Taken.model_validate(total),
            today=Taken.model_validate(today),
        )


class TokenRevoked(BaseModel):
    """A token of the gateway that opens nothing any more."""

    model_config = _example(id="tok_01kaw3v9m1c7d2e5f8g0h3j6kq", at=1.8e9)
    id: str
    at: float
    """When it was revoked."""


class LeaseRead(BaseModel):
    """What an execution holds of the machine now: GPUs, or a part of the processors alone."""

    model_config = _example(
        id="exec_01kaw3v9m1c7d2e5f8g0h3j6kq:0",
        tenant="local",
        execution_id="exec_01kaw3v9m1c7d2e5f8g0h3j6kq",
        gpus=["0"],
        gpu_memory_mib=8192,
        since=1.8e9,
        beat_at=1.8e9,
    )
    id: str
    tenant: str
    execution_id: str
    gpus: list[str]
    gpu_memory_mib: int | None
    """What is set aside on each of them, which others of the tenant may share; null has them alone."""
    since: float
    beat_at: float


class WorkPause(BaseModel):
    """Whose work is paused; everybody's where no tenant is named."""

    model_config = _input(tenant=None, kill=False)
    tenant: str | None = Field(default=None, min_length=1, max_length=100, pattern=_NAME)
    kill: StrictBool = False
    """Whether what runs is stopped too; it is begun again when the work goes on."""


class WorkResume(BaseModel):
    """Whose work goes on; everybody's where no tenant is named."""

    model_config = _input(tenant=None)
    tenant: str | None = Field(default=None, min_length=1, max_length=100, pattern=_NAME)


class SwitchRead(BaseModel):
    """Whether the work of a tenant, or of all, goes on."""

    model_config = _example(tenant=None, paused=True, killed=False, at=1.8e9)
    tenant: str | None
    paused: bool
    killed: bool
    at: float

    @classmethod
    def of(cls, switch: Switch) -> SwitchRead:
        """Return a switch as it is shown."""
        whose = None if switch.id == PLATFORM else switch.id
        return cls(tenant=whose, paused=switch.is_paused, killed=switch.is_killed, at=switch.at)


class AuditVerified(BaseModel):
    """How far the audit's chain holds."""

    model_config = _example(entries=7, seq=7, seal=_SEAL, head=f"7:{_SEAL}")
    entries: int
    """How many are sealed, and as they were when they were."""
    seq: int
    """The number of the last of them; 0 where there is none."""
    seal: str
    head: str
    """Both, to be kept elsewhere and given at a later time: it shows whether the chain's end was cut off."""


class AuditRead(BaseModel):
    """Who changed what."""

    model_config = _example(
        seq=7,
        actor=_KEY,
        action="quota.set",
        tenant=_TENANT,
        subject=_TENANT,
        detail={"runs": 4},
        at=1.8e9,
        seal=_SEAL,
    )
    seq: int
    actor: str
    action: str
    tenant: str
    subject: str
    detail: dict[str, str | int | float | bool | None]
    at: float
    seal: str
    """Binds this entry and all before it; empty for the few seconds before it is set."""
