"""Administration: tenants, keys, quotas, budgets, leases, the switch, the audit, usage."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Response

from api.admin_views import (
    ApprovalRead,
    AuditRead,
    AuditVerified,
    BudgetChange,
    CatalogueAdd,
    Decided,
    EntryRead,
    EntryRemoved,
    KeyCreate,
    KeyIssued,
    KeyRead,
    LeaseRead,
    QuotaChange,
    SwitchRead,
    TenantCreate,
    TenantRead,
    TokenRevoked,
    UsageRead,
    WorkPause,
    WorkResume,
)
from api.context import GUARDED, AskedBy, AskedOnce, AskedPage, Context, errors, say_replayed
from api.problem import problem
from api.views import Page
from fumehood.domain.audit import HEAD
from fumehood.domain.step import Side
from fumehood.errors import TamperedError
from fumehood.services import administration, approvals, audit, catalogue, keys, revoking, switches, tenants

Head = Annotated[str, Query(pattern=HEAD, description="An earlier answer's `head`, which must still be there.")]
Seq = Annotated[int, Query(ge=0, le=2**63 - 1, description="Entries after this number.")]


def router(context: Context) -> APIRouter:
    """Return the routes; the door asks for the scope `admin`."""
    routes = APIRouter(prefix="/v1/admin", tags=["administration"], dependencies=GUARDED)
    _tenants(routes, context)
    _keys(routes, context)
    _quotas(routes, context)
    _work(routes, context)
    _approvals(routes, context)
    _catalogue(routes, context)
    return routes


def _tenants(routes: APIRouter, context: Context) -> None:
    @routes.get("/tenants", summary="List the tenants", responses=errors())
    def list_tenants(asked: AskedPage) -> Page[TenantRead]:
        """Return the tenants, oldest first."""
        return asked.page(
            context,
            lambda after, limit: administration.tenants(context.store, after, limit),
            lambda one: one.id,
            TenantRead.model_validate,
        )

    @routes.post("/tenants", summary="Make a tenant", status_code=201, responses=errors(400, 409, 413))
    def create_tenant(given: TenantCreate, by: AskedBy, once: AskedOnce, response: Response) -> TenantRead:
        """Make a tenant; nothing of one is seen by another."""
        made = tenants.create(context.store, context.clock, by.key, given.name, given.weight, once)
        say_replayed(response, once)
        return TenantRead.model_validate(made)


def _keys(routes: APIRouter, context: Context) -> None:
    store, clock = context.store, context.clock

    @routes.get("/keys", summary="List the keys", responses=errors())
    def list_keys(asked: AskedPage) -> Page[KeyRead]:
        """Return the keys, oldest first, without their texts."""
        return asked.page(
            context,
            lambda after, limit: administration.keys(store, after, limit),
            lambda one: one.id,
            KeyRead.model_validate,
        )

    @routes.post("/keys", summary="Issue a key", status_code=201, responses=errors(400, 404, 409, 413))
    def issue_key(given: KeyCreate, by: AskedBy, once: AskedOnce) -> KeyIssued:
        """Issue a key for a tenant; its text is in this answer and nowhere else."""
        key, text = keys.issue(
            store,
            clock,
            by.key,
            tenant=administration.tenant(store, given.tenant).id,
            name=given.name,
            scopes=given.scopes,
            lives_s=given.lives_s,
            once=once,
        )
        return KeyIssued.of(key, text)

    @routes.post("/keys/{key_id}/rotate", summary="Rotate a key", status_code=201, responses=errors(404, 409))
    def rotate_key(key_id: str, by: AskedBy, once: AskedOnce) -> KeyIssued:
        """Issue a key like this one, which opens for another day."""
        key, text = keys.rotate(store, clock, by.key, administration.key(store, key_id).id, once=once)
        return KeyIssued.of(key, text)

    @routes.delete("/keys/{key_id}", summary="Revoke a key", responses=errors(404))
    def revoke_key(key_id: str, by: AskedBy) -> KeyRead:
        """Let a key open nothing any more; revoking twice is the same as once."""
        return KeyRead.model_validate(keys.revoke(store, clock, by.key, administration.key(store, key_id).id))

    @routes.post("/tokens/{token_id}/revoke", summary="Revoke a gateway token", responses=errors(404))
    def revoke_token(token_id: str, by: AskedBy, once: AskedOnce, response: Response) -> TokenRevoked:
        """Let a token of the gateway open nothing any more; calls that it has under way end, and are paid for."""
        revoked = revoking.revoke(store, clock, by.key, token_id, once)
        say_replayed(response, once)
        return TokenRevoked(id=revoked.id, at=revoked.at)


def _quotas(routes: APIRouter, context: Context) -> None:
    store, clock = context.store, context.clock

    @routes.get("/quotas/{tenant_id}", summary="Read a tenant's quotas", responses=errors(404))
    def read_quotas(tenant_id: str) -> UsageRead:
        """Return what a tenant may take, and what it has taken."""
        return UsageRead.of(*tenants.usage(store, clock, administration.tenant(store, tenant_id).id))

    @routes.put("/quotas/{tenant_id}", summary="Set a tenant's quotas", responses=errors(400, 404, 413))
    def set_quotas(tenant_id: str, given: QuotaChange, by: AskedBy) -> UsageRead:
        """Set some quotas, or take them away by null; what a lower one held goes on where a higher one allows."""
        known = administration.tenant(store, tenant_id)
        tenants.set_quotas(store, clock, by.key, known.id, given.root)
        return UsageRead.of(*tenants.usage(store, clock, known.id))

    @routes.get("/budgets/{tenant_id}", summary="Read a tenant's budget", responses=errors(404))
    def read_budget(tenant_id: str) -> UsageRead:
        """Return what a tenant may spend, and what it has spent."""
        return UsageRead.of(*tenants.usage(store, clock, administration.tenant(store, tenant_id).id))

    @routes.put("/budgets/{tenant_id}", summary="Set a tenant's budget", responses=errors(400, 404, 413))
    def set_budget(tenant_id: str, given: BudgetChange, by: AskedBy) -> UsageRead:
        """Set what a tenant may spend a day and in all, or take a limit away by null."""
        known = administration.tenant(store, tenant_id)
        tenants.set_quotas(store, clock, by.key, known.id, given.model_dump(exclude_unset=True), money=True)
        return UsageRead.of(*tenants.usage(store, clock, known.id))

    @routes.get("/usage", summary="Read everybody's usage", responses=errors(404))
    def list_usage(
        asked: AskedPage, tenant: Annotated[str | None, Query(max_length=100, description="Only this one's.")] = None
    ) -> Page[UsageRead]:
        """Return what each tenant, or one, may take and has taken."""
        only = None if tenant is None else administration.tenant(store, tenant)
        return asked.page(
            context,
            lambda after, limit: (only,) if only else administration.tenants(store, after, limit),
            lambda one: one.id,
            lambda one: UsageRead.of(*tenants.usage(store, clock, one.id)),
        )

    @routes.get("/leases", summary="List the leases", responses=errors())
    def list_leases(asked: AskedPage) -> Page[LeaseRead]:
        """Return what executions hold of the machine now: their GPUs, or a part of its processors."""
        return asked.page(
            context,
            lambda after, limit: administration.leases(store, after, limit),
            lambda one: one.id,
            LeaseRead.model_validate,
        )


def _work(routes: APIRouter, context: Context) -> None:
    store, clock = context.store, context.clock

    @routes.post("/pause", summary="Pause the work", responses=errors(400, 404, 413))
    def pause_work(given: WorkPause, by: AskedBy, once: AskedOnce, response: Response) -> SwitchRead:
        """Begin nothing new, of one tenant or of all; with `kill`, stop within seconds also what runs."""
        tenant = None if given.tenant is None else administration.tenant(store, given.tenant).id
        paused = switches.pause(store, clock, by.key, tenant, kill=given.kill, once=once)
        say_replayed(response, once)
        return SwitchRead.of(paused)

    @routes.post("/resume", summary="Let the work go on", responses=errors(400, 404, 413))
    def resume_work(given: WorkResume, by: AskedBy, once: AskedOnce, response: Response) -> SwitchRead:
        """Let what was paused go on where it stood."""
        tenant = None if given.tenant is None else administration.tenant(store, given.tenant).id
        resumed = switches.resume(store, clock, by.key, tenant, once)
        say_replayed(response, once)
        return SwitchRead.of(resumed)

    @routes.get("/audit", summary="Read the audit", responses=errors())
    def read_audit(asked: AskedPage, after: Seq = 0) -> Page[AuditRead]:
        """Return who changed what, oldest first."""
        return asked.page(
            context,
            lambda last, limit: administration.audit(store, int(last or after), limit),
            lambda one: str(one.seq),
            AuditRead.model_validate,
        )

    @routes.get("/audit/verify", summary="Verify the audit", response_model=AuditVerified, responses=errors(409))
    def verify_audit(head: Head | None = None) -> AuditVerified | Response:
        """Walk the audit's chain of seals and say how far it holds; a problem names the first entry that does not."""
        try:
            return AuditVerified.model_validate(audit.verify(store, head or ""))
        except TamperedError as error:
            return problem(409, "tampered", str(error))


def _approvals(routes: APIRouter, context: Context) -> None:
    store, clock = context.store, context.clock

    @routes.get("/approvals", summary="List what waits for an admin", responses=errors())
    def list_approvals(asked: AskedPage) -> Page[ApprovalRead]:
        """Return what the policy wants a person for, with the text that it spoke of."""
        found = approvals.waiting(store, context.artifacts)
        return asked.page(
            context,
            lambda after, limit: [one for one in found if after is None or one.id > after][:limit],
            lambda one: one.id,
            ApprovalRead.model_validate,
        )

    @routes.post(
        "/approvals/{subject_id}/approve", summary="Approve what the policy holds", responses=errors(400, 404, 409)
    )
    def approve_held(subject_id: str, by: AskedBy, once: AskedOnce, response: Response) -> Decided:
        """Let a direction, an idea or an experiment go on that the policy holds."""
        approvals.approve(store, clock, by.key, subject_id, once)
        say_replayed(response, once)
        for side in Side:
            context.queue.hint(side)
        return Decided(id=subject_id, decision="approved")

    @routes.post(
        "/approvals/{subject_id}/refuse", summary="Refuse what the policy holds", responses=errors(400, 404, 409)
    )
    def refuse_held(subject_id: str, by: AskedBy, once: AskedOnce, response: Response) -> Decided:
        """End a direction, an idea or an experiment that the policy holds."""
        approvals.refuse(store, clock, by.key, subject_id, once)
        say_replayed(response, once)
        context.queue.hint(Side.WRITE)
        return Decided(id=subject_id, decision="refused")


def _catalogue(routes: APIRouter, context: Context) -> None:
    store, clock = context.store, context.clock

    @routes.get("/catalogue", summary="List the catalogue", responses=errors())
    def list_catalogue(asked: AskedPage) -> Page[EntryRead]:
        """Return the files that ideas may ask for, by name."""
        return asked.page(
            context,
            lambda after, limit: catalogue.entries(store, after, limit),
            lambda one: one.id,
            EntryRead.model_validate,
        )

    @routes.post("/catalogue", summary="Add to the catalogue", status_code=201, responses=errors(400, 404, 409, 413))
    def add_entry(given: CatalogueAdd, by: AskedBy, once: AskedOnce, response: Response) -> EntryRead:
        """Let ideas ask for a file; it is fetched, checked and kept when the first does."""
        made = catalogue.add(store, clock, by.key, given, once)
        say_replayed(response, once)
        return EntryRead.model_validate(made)

    @routes.delete("/catalogue/{name}", summary="Remove from the catalogue", responses=errors(404))
    def remove_entry(name: str, by: AskedBy) -> EntryRemoved:
        """Let no idea ask for a file any more; what was measured with it stays as it is."""
        gone = catalogue.remove(store, clock, by.key, name)
        return EntryRemoved(name=gone.id, removed_at=gone.removed_at or 0.0)
