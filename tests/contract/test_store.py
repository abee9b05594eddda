"""What every store promises, asked of the one in memory, of SQLite and of a real PostgreSQL."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fumehood.domain import ledger
from fumehood.domain.admission import Admission
from fumehood.domain.audit import AuditEntry
from fumehood.domain.catalogue import Entry, EntryKind, Format
from fumehood.domain.confirmation import ConfirmRule
from fumehood.domain.direction import Approve, Direction, DirectionState, Hold, Reviewing
from fumehood.domain.execution import (
    Artifact,
    ExecutionState,
    Kind,
    Limits,
    Outcome,
    Rejection,
    Usage,
    Verdict,
)
from fumehood.domain.experiment import (
    Arm,
    Attempt,
    Execution,
    Experiment,
    ExperimentOutcome,
    ExperimentState,
    Run,
    RunResult,
)
from fumehood.domain.feedback import Feedback
from fumehood.domain.figures import ExecutionCount, Spending, Standing, StateCount, Taking
from fumehood.domain.idea import Decision, Evidence, Idea, IdeaKind, Novelty, Score
from fumehood.domain.ids import DirectionId, ExecutionId, ExperimentId, IdeaId, RunId, TenantId
from fumehood.domain.ledger import CallText, Claims, LedgerEntry, ModelCall, ModelUsage
from fumehood.domain.log import Leaf, TreeHead
from fumehood.domain.machine import Lease, Peak
from fumehood.domain.output import Output
from fumehood.domain.quota import Balance
from fumehood.domain.reply import Reply
from fumehood.domain.step import Event, Side, Step, StepState
from fumehood.domain.tenant import PLATFORM, Key, Scope, Switch, Tenant
from fumehood.domain.token import Revocation
from fumehood.domain.worker import Part, Worker
from fumehood.errors import BadInputError, ConflictError, NotFoundError, StoreUnavailableError
from fumehood.ports import Store, Transaction
from fumehood.queue.local import LocalQueue, wait_for_change
from fumehood.store.clock import SystemClock
from fumehood.store.memory import FixedClock, MemoryStore
from fumehood.store.sql import SqlStore, open_store
from tests.fakes.postgres import PostgresServer
from tests.fakes.store import migrated

AnyStore = SqlStore | MemoryStore
DIR, OTHER = DirectionId("dir_1"), DirectionId("dir_2")
EXP, EXEC = ExperimentId("exp_1"), ExecutionId("exec_1")

DIRECTION = Direction(
    id=DIR,
    tenant=TenantId("ten_1"),
    template="diffusion",
    text="Wärme \N{SNOWMAN}",
    model="offline",
    review_model="offline-2",
    profile="tiny",
    ideas=3,
    runs=5,
    novelty=False,
    seed=2**40,
    rule=ConfirmRule(q=0.2, looks=(4, 8), gate=0.5),
    sandbox="local",
    budget_usd=1.5,
    budget_usd_per_experiment=0.5,
    budget_usd_per_call=0.25,
    budget_gpu_s=2.5,
    budget_wall_s=3.5,
    priority=2,
    parent=ExperimentId("exp_0"),
    parent_files={"experiment.py": "ef" * 32},
    strategy="tree",
    reviewing=Reviewing(ensemble=3),
    approve=Approve.IDEAS,
    template_files={"experiment.py": "ab" * 32},
    state=DirectionState.RUNNING,
    hold=Hold.APPROVAL,
    created_at=1.25,
    ended_at=2.5,
    error="none to speak of",
)
IDEA = Idea(
    id=IdeaId("idea_1"),
    direction_id=DIR,
    index=2,
    name="wider_net",
    title="A wider net",
    experiment="Double the width.",
    interestingness=Score(value=7, reason="new"),
    feasibility=Score(value=9, reason="easy"),
    novelty_score=Score(value=3, reason="old"),
    scored_by="playbook",
    kind=IdeaKind.ANALYSIS,
    hypothesis="Wider is better.",
    metric="kl",
    expected="lower",
    changes=("width", "depth"),
    requests=("austen",),
    novelty=Novelty.NOVEL,
    novelty_reason="nothing near",
    evidence=(Evidence(key="W1", title="Wide nets", overlap=0.25, query="wide"),),
    reflections=2,
    created_at=3.5,
    extra={"from": "person"},
    decision=Decision.REJECTED,
)
EXPERIMENT = Experiment(
    id=EXP,
    direction_id=DIR,
    idea_id=IDEA.id,
    name="wider_net",
    index=1,
    state=ExperimentState.WRITING,
    hold=Hold.PAUSED,
    files={"experiment.py": "cd" * 32},
    added={"catalogue.json": "01" * 32},
    baseline_id=RunId("run_0"),
    outcome=ExperimentOutcome.REFUTED,
    label="not_comparable: screen_only",
    notes="It did not help.",
    products={"paper.pdf": "ef" * 32},
    draft={"abstract": "We widen."},
    limitations=("one seed",),
    plan="Only double the width.",
    replicates=ExperimentId("exp_0"),
    forked_from=ExperimentId("exp_0"),
    from_step="writing",
    edited=("notes", "plan"),
    created_at=4.5,
    ended_at=5.5,
    error="late",
)
RUN = Run(
    id=RunId("run_1"),
    direction_id=DIR,
    experiment_id=EXP,
    index=1,
    arm=Arm.CONFIRM,
    confirms=RunId("run_0"),
    alone=2,
    arguments=("--updates=25",),
    title="Twice as wide",
    description="width 2",
    files={"experiment.py": "01" * 32},
    attempts=(
        Attempt(number=1, verdict="failed", error_tail="NameError", execution_id=EXEC),
        Attempt(number=2, verdict="succeeded"),
    ),
    result=RunResult.MEASURED,
    seeds=(0, 1, 2),
    outputs={"samples.npz": "23" * 32},
    final_info="45" * 32,
    self_reported="67" * 32,
    record="89" * 32,
    log="ab" * 32,
    cache_key="baseline",
)
EXECUTION = Execution(
    id=EXEC,
    direction_id=DIR,
    experiment_id=EXP,
    run_id=RUN.id,
    kind=Kind.RUN,
    image="lab",
    command=("python", "experiment.py", "--out_dir=run_1"),
    inputs={"work/experiment.py": "01" * 32},
    key_context="template/screen",
    collect=("run_1/**",),
    environment={"FUMEHOOD_SEEDS": "0,1"},
    limits=Limits(wall_s=60.5, memory_mib=512, processes=32, storage_mib=64, cpus=1.5, output_bytes=4096),
    network="allow:llm",
    llm_usd=0.25,
    sandbox="local",
    gpus=2,
    gpu_memory_mib=4096,
    alone=True,
    measured_as="ten_1/run/tiny/ab",
    state=ExecutionState.COLLECTED,
    fence=3,
    losses=1,
    outcome=Outcome(
        name="fh-" + "0" * 26,
        verdict=Verdict.OUT_OF_MEMORY,
        exit_code=None,
        usage=Usage(wall_s=1.5, cpu_s=1.0, peak_memory_mib=512.5, peak_storage_mib=3.0, gpu_s=0.5),
        output_tail="Killed",
        truncated=True,
        artifacts=(Artifact(path="run_1/a.txt", bytes=3, sha256="cd" * 32),),
        rejected=(Rejection(path="run_1/link", reason="a link"),),
        image="sha256:1",
        isolation={"S1": "bubblewrap"},
        detail="oom_kill 1",
    ),
    created_at=6.5,
    launched_at=7.5,
)
CALL = ModelCall(
    id="call_1",
    direction_id=DIR,
    experiment_id=EXP,
    role="idea",
    model="offline",
    upstream="offline",
    claims='{"role": "idea"}',
    request="aa" * 32,
    reply="bb" * 32,
    status=200,
    usage=ModelUsage(input_tokens=10, cached_tokens=2, output_tokens=5, usd=0.125),
    at=8.5,
    duration_s=0.25,
)
STEP = Step(
    id="step_1",
    key="exp_1/run/1",
    name="run.launch",
    side=Side.RUN,
    direction_id=DIR,
    experiment_id=EXP,
    state=StepState.WAITING,
    due_at=9.5,
    payload={"run": 1, "share": 1.0, "again": True, "why": "asked"},
    waits_for=(EXEC, ExecutionId("exec_2")),
    fence=4,
    tries=2,
    lease_until=10.5,
    error="once",
)
EVENT = Event(
    direction_id=DIR,
    experiment_id=EXP,
    kind="run.measured",
    text="Run 1 was measured.",
    data={"kl": 0.5, "run": 1, "better": False, "name": "wider_net", "note": None},
    at=11.5,
)
ENTRY = LedgerEntry(
    id="evt_1",
    call_id="call_1",
    tenant=TenantId("ten_1"),
    direction_id=DIR,
    experiment_id=EXP,
    token="tok_1",
    kind="reserved",
    role="idea",
    model="offline",
    usd=0.5,
    tokens=17,
    cpu_s=1.5,
    gpu_s=2.5,
    wall_s=3.5,
    bytes=2**40,
    running=1,
    gpus=2,
    day="2026-11-22",
    input_tokens=10,
    cached_tokens=2,
    output_tokens=5,
    at=12.5,
)
TENANT = Tenant(id=TenantId("ten_1"), name="lab", weight=2.5, quotas={"runs": 4.0}, created_at=1.5)
KEY = Key(
    id="key_1",
    tenant=TENANT.id,
    name="ci",
    scopes=(Scope.READ, Scope.WRITE),
    digest="ab" * 32,
    created_at=1.5,
    expires_at=2.5,
    revoked_at=3.5,
)
SWITCH = Switch(id=PLATFORM, is_paused=True, is_killed=True, at=1.5)
REVOCATION = Revocation(id="tok_1", at=1.5)
REPLY = Reply(id="ab" * 32, request="cd" * 32, made="dir_1", at=1.5)
FEEDBACK = Feedback(id="evt_9", direction_id=DIR, experiment_id=EXP, author="key_1", text="Try β.", at=1.5)
ENTRY_OF_CATALOGUE = Entry(
    id="austen",
    kind=EntryKind.DATA,
    title="Six novels",
    url="https://texts.example/austen.txt",
    licence="public domain",
    sha256="ab" * 32,
    bytes=2**33,
    format=Format.TEXT,
    split=0.1,
    templates=("nanogpt_lite",),
    tenants=(TENANT.id,),
    added_at=1.5,
    removed_at=2.5,
)
LEASE = Lease(
    id="exec_1:3",
    tenant=TENANT.id,
    execution_id=EXEC,
    gpus=("GPU-0", "GPU-1"),
    gpu_memory_mib=4096,
    since=1.5,
    beat_at=2.5,
    ended_at=3.5,
)
PEAK = Peak(id="ten_1/run/tiny/ab", memory_mib=512.5, cpus=1.5, gpu_memory_mib=2048.25)
AUDIT = AuditEntry(
    id="evt_1",
    actor="key_1",
    action="quota.set",
    tenant="ten_1",
    subject="runs",
    detail={"runs": 4, "was": None},
    at=1.5,
)
OUTPUT = Output(id="exec_1:3:8", execution_id=EXEC, fence=3, offset=8, data=b"\xff\0\r\n", at=1.5)
KINDS: tuple[tuple[str, Any], ...] = (
    ("tenants", TENANT),
    ("keys", KEY),
    ("switches", SWITCH),
    ("revocations", REVOCATION),
    ("replies", REPLY),
    ("feedback", FEEDBACK),
    ("catalogue", ENTRY_OF_CATALOGUE),
    ("leases", LEASE),
    ("peaks", PEAK),
    ("outputs", OUTPUT),
    ("directions", DIRECTION),
    ("ideas", IDEA),
    ("experiments", EXPERIMENT),
    ("runs", RUN),
    ("executions", EXECUTION),
    ("calls", CALL),
    ("call_texts", CallText(id="call_1", request=b"\x00\xff{}", reply=b"[]")),
)
CHANGES: dict[str, dict[str, Any]] = {
    "call_texts": {"reply": b""},
    "directions": {"text": "new"},
    "tenants": {"weight": 3.5},
    "keys": {"revoked_at": None},
    "switches": {"is_killed": False},
    "revocations": {"at": 2.5},
    "replies": {"made": "dir_2"},
    "catalogue": {"removed_at": None},
    "leases": {"ended_at": None, "gpu_memory_mib": None, "gpus": ()},
    "peaks": {"memory_mib": 600.0},
    "outputs": {"data": b"", "at": 2.5},
}
BELONGING = [(kind, sample) for kind, sample in KINDS if hasattr(sample, "direction_id") and kind != "calls"]
"""What cannot be without a direction."""
each_kind = pytest.mark.parametrize(("kind", "sample"), KINDS, ids=[kind for kind, _ in KINDS])


def make_direction(**changes: Any) -> Direction:
    fields: dict[str, Any] = {"state": DirectionState.RUNNING, "hold": Hold.NONE}
    return dataclasses.replace(DIRECTION, **(fields | changes))


def another(sample: Any, key: str) -> Any:
    """Return the same under another id, and with another name or digest where no two may share one."""
    unique = {"name": key} if isinstance(sample, Tenant) else {"digest": key} if isinstance(sample, Key) else {}
    return dataclasses.replace(sample, id=key, **unique)


def make_step(number: int = 1, **changes: Any) -> Step:
    fields: dict[str, Any] = {
        "id": f"step_{number}",
        "key": f"key_{number}",
        "name": "ideas.propose",
        "side": Side.WRITE,
        "direction_id": DIR,
    }
    return Step(**(fields | changes))


def make_event(number: int, direction_id: DirectionId = DIR) -> Event:
    return Event(direction_id=direction_id, kind="test", text=f"event {number}")


@pytest.fixture
def sql(tmp_path: Path) -> Iterator[SqlStore]:
    store = migrated(tmp_path / "store.db")
    yield store
    store.close()


@pytest.fixture
def postgresql(postgres: PostgresServer) -> Iterator[SqlStore]:
    store = SqlStore(postgres.migrated())
    yield store
    store.close()


@pytest.fixture(params=["memory", "sql", "postgresql"])
def store(request: pytest.FixtureRequest) -> AnyStore:
    found: AnyStore = MemoryStore() if request.param == "memory" else request.getfixturevalue(request.param)
    with found.begin() as transaction:
        transaction.directions.save(make_direction())
    return found


def url_of(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'store.db'}"


def test_both_stores_are_stores(store: AnyStore) -> None:
    port: Store = store
    assert isinstance(port.version(), int)


@pytest.mark.parametrize(
    "sample", [sample for _, sample in KINDS] + [STEP, ENTRY], ids=lambda sample: type(sample).__name__
)
def test_the_samples_leave_no_field_at_its_default(sample: Any) -> None:
    for field in dataclasses.fields(sample):
        value = getattr(sample, field.name)
        assert value != field.default, field.name
        if field.default_factory is not dataclasses.MISSING:
            assert value != field.default_factory(), field.name


class TestCollections:
    @each_kind
    def test_a_saved_value_comes_back_equal(self, store: AnyStore, kind: str, sample: Any) -> None:
        with store.begin() as transaction:
            getattr(transaction, kind).save(sample)
            assert getattr(transaction, kind).get(sample.id) == sample
        with store.begin() as transaction:
            found = getattr(transaction, kind).get(sample.id)
        assert found == sample
        assert type(found) is type(sample)
        for field in dataclasses.fields(sample):
            assert type(getattr(found, field.name)) is type(getattr(sample, field.name)), field.name

    @each_kind
    def test_saving_again_replaces_and_keeps_the_place(self, store: AnyStore, kind: str, sample: Any) -> None:
        others = [another(sample, f"other_{number}") for number in range(3)]
        with store.begin() as transaction:
            collection = getattr(transaction, kind)
            for value in (sample, *others):
                collection.save(value)
            changed = dataclasses.replace(sample, **CHANGES.get(kind, {"direction_id": DIR}))
            collection.save(changed)
        with store.begin() as transaction:
            assert getattr(transaction, kind).find() == (changed, *others)

    @pytest.mark.parametrize("kind", [kind for kind, _ in KINDS])
    def test_what_is_not_there_is_not_found(self, store: AnyStore, kind: str) -> None:
        with store.begin() as transaction:
            with pytest.raises(NotFoundError, match="nothing_here"):
                getattr(transaction, kind).get("nothing_here")
            assert getattr(transaction, kind).find(id="nothing_here") == ()

    def test_find_takes_values_enums_text_and_none(self, store: AnyStore) -> None:
        shared = dataclasses.replace(RUN, id=RunId("run_2"), experiment_id=None, result=RunResult.PENDING)
        with store.begin() as transaction:
            transaction.runs.save(RUN)
            transaction.runs.save(shared)
            transaction.executions.save(EXECUTION)
            transaction.directions.save(make_direction(id=OTHER, novelty=True))
            assert transaction.runs.find(experiment_id=None) == (shared,)
            assert transaction.runs.find(result=RunResult.MEASURED) == (RUN,)
            assert transaction.runs.find(result="measured", index=1) == (RUN,)
            assert transaction.runs.find(result="measured", index=2) == ()
            assert transaction.executions.find(outcome=None) == ()
            assert [direction.id for direction in transaction.directions.find(novelty=True)] == [OTHER]

    @pytest.mark.parametrize("equal", [{"colour": "red"}, {"files": {}}, {"row": 1}])
    def test_what_has_no_such_column_cannot_be_found_by_it(self, store: AnyStore, equal: dict[str, object]) -> None:
        with store.begin() as transaction, pytest.raises(TypeError, match="No run can be found by"):
            transaction.runs.find(**equal)

    @each_kind
    def test_pages_joined_are_what_find_returns(self, store: AnyStore, kind: str, sample: Any) -> None:
        with store.begin() as transaction:
            for number in range(7):
                getattr(transaction, kind).save(another(sample, f"other_{9 - number}"))
        with store.begin(write=False) as transaction:
            collection = getattr(transaction, kind)
            found: list[Any] = []
            while page := collection.page(found[-1].id if found else None, 3):
                assert len(page) <= 3
                found += page
            assert tuple(found) == collection.find()

    def test_a_page_holds_only_what_equals(self, store: AnyStore) -> None:
        with store.begin() as transaction:
            for number in range(6):
                state = DirectionState.DONE if number % 2 else DirectionState.FAILED
                transaction.directions.save(make_direction(id=DirectionId(f"dir_9{number}"), state=state))
        with store.begin(write=False) as transaction:
            page = transaction.directions.page("dir_91", 5, state=DirectionState.DONE)
            assert [one.id for one in page] == ["dir_93", "dir_95"]
            assert transaction.directions.page("dir_95", 5) == ()
            with pytest.raises(NotFoundError):
                transaction.directions.page("dir_0", 5)
            with pytest.raises(TypeError):
                transaction.directions.page(None, 5, colour="red")

    def test_absent_nested_values_come_back_absent(self, store: AnyStore) -> None:
        bare = Execution(id=EXEC, direction_id=DIR, kind=Kind.PLOT, image="lab", command=("true",))
        with store.begin() as transaction:
            transaction.executions.save(bare)
            assert transaction.executions.get(EXEC) == bare
            assert transaction.executions.find(outcome=None) == (bare,)

    @pytest.mark.parametrize(("kind", "sample"), BELONGING, ids=[kind for kind, _ in BELONGING])
    def test_a_value_needs_its_direction(self, store: AnyStore, kind: str, sample: Any) -> None:
        stray = dataclasses.replace(sample, direction_id="dir_none")
        with store.begin() as transaction, pytest.raises(ConflictError, match="direction"):
            getattr(transaction, kind).save(stray)

    @pytest.mark.parametrize("store_of", ["memory", "sql", "postgresql"])
    @settings(max_examples=40, suppress_health_check=list(HealthCheck))
    @given(
        text=st.text(alphabet=st.characters(exclude_characters="\0", exclude_categories=["Cs"])),
        numbers=st.tuples(st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False)),
        payload=st.dictionaries(
            st.text(alphabet=st.characters(exclude_characters="\0", exclude_categories=["Cs"])),
            st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.booleans(),
        ),
    )
    def test_any_text_and_number_comes_back(
        self,
        request: pytest.FixtureRequest,
        store_of: str,
        text: str,
        numbers: tuple[int, float],
        payload: dict[str, Any],
    ) -> None:
        store: AnyStore = MemoryStore() if store_of == "memory" else request.getfixturevalue(store_of)
        step = make_step(error=text, tries=numbers[0], due_at=numbers[1], payload={**payload, "text": text})
        with store.begin() as transaction:
            transaction.directions.save(make_direction(text=text))
            assert transaction.directions.get(DIR).text == text
            if not transaction.steps.add(step):
                assert transaction.steps.finish(step)
            found = transaction.steps.get(step.id)
            assert found == step
            assert [type(value) for value in found.payload.values()] == [type(v) for v in step.payload.values()]

    def test_what_no_database_keeps_is_replaced(self, store: AnyStore) -> None:
        with store.begin() as transaction:
            transaction.directions.save(make_direction(error="a\0b\udc80c"))
            transaction.events.append(dataclasses.replace(EVENT, data={"kl": float("nan")}))
            assert transaction.directions.get(DIR).error == "a\N{REPLACEMENT CHARACTER}b?c"
            assert transaction.events.since(DIR)[0].data == {"kl": "nan"}


class TestTransactions:
    def test_an_exception_undoes_everything(self, store: AnyStore) -> None:
        def write_and_fail() -> None:
            with store.begin() as transaction:
                for kind, sample in KINDS:
                    getattr(transaction, kind).save(sample)
                assert transaction.steps.add(make_step())
                transaction.events.append(EVENT)
                transaction.ledger.add(ENTRY)
                raise ZeroDivisionError

        before = store.version()
        with pytest.raises(ZeroDivisionError):
            write_and_fail()
        assert store.version() == before
        with store.begin() as transaction:
            assert transaction.directions.find() == (make_direction(),)
            for kind, _ in KINDS:
                assert kind == "directions" or getattr(transaction, kind).find() == ()
            assert transaction.steps.find() == ()
            assert transaction.events.since(DIR) == ()
            assert transaction.ledger.entries(DIR) == ()

    def test_of_many_saved_at_once_all_are_kept_or_none(self, store: AnyStore) -> None:
        directions = [make_direction(id=DirectionId(f"dir_{number:026}"), seed=number) for number in range(70)]
        with store.begin() as transaction:
            transaction.directions.save()
            transaction.directions.save(*directions)
            changed = dataclasses.replace(directions[3], seed=99)
            transaction.directions.save(changed, make_direction(id=DirectionId("dir_new")))
            transaction.events.append()
            transaction.events.append(*(make_event(number) for number in range(70)))
        with store.begin() as transaction:
            found = transaction.directions.find()
            assert [one.id for one in found[1:71]] == [one.id for one in directions]
            assert transaction.directions.get(directions[3].id) == changed
            assert len({one.seq for one in transaction.events.since(DIR)}) == 70
            assert [one.text for one in transaction.events.since(DIR)] == [make_event(n).text for n in range(70)]
            fine, orphan = make_step(1), make_step(2, direction_id=DirectionId("dir_none"))
            with pytest.raises(ConflictError, match="step_"):
                transaction.steps.add(fine, orphan)
            runs = [dataclasses.replace(RUN, id=f"run_{number}") for number in range(2)]
            with pytest.raises(ConflictError):
                transaction.runs.save(runs[0], dataclasses.replace(runs[1], direction_id=DirectionId("dir_none")))
            transaction.events.append(make_event(71))
        with store.begin() as transaction:
            assert transaction.steps.find() == transaction.runs.find() == ()
            assert len(transaction.events.since(DIR)) == 71

    def test_transactions_do_not_nest(self, store: AnyStore) -> None:
        with store.begin(), pytest.raises(ConflictError, match="nest"), store.begin():
            pass
        with store.begin() as transaction:
            assert transaction.directions.get(DIR)

    def test_a_reading_transaction_reads_and_cannot_write(self, store: AnyStore) -> None:
        with store.begin(write=False) as transaction:
            assert transaction.directions.get(DIR)
        with pytest.raises(ConflictError, match="reading only"), store.begin(write=False) as transaction:
            transaction.events.append(EVENT)
        with store.begin() as transaction:
            assert transaction.events.since(DIR) == ()
            transaction.events.append(EVENT)

    def test_no_update_is_lost_between_threads(self, store: AnyStore) -> None:
        def raise_by_ten(_: int) -> None:
            for _ in range(10):
                with store.begin() as transaction:
                    direction = transaction.directions.get(DIR)
                    transaction.directions.save(dataclasses.replace(direction, seed=direction.seed + 1))

        with store.begin() as transaction:
            transaction.directions.save(make_direction(seed=0))
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(raise_by_ten, range(8)))
        with store.begin() as transaction:
            assert transaction.directions.get(DIR).seed == 80

    def test_the_version_changes_with_a_commit_and_stays_without(self, store: AnyStore) -> None:
        seen = [store.version()]
        assert store.version() == seen[0]
        with store.begin() as transaction:
            transaction.directions.find()
            assert transaction.steps.claim(Side.WRITE, now=1.0, lease_s=1.0) is None
            assert transaction.steps.wake(now=1.0) == 0
        assert store.version() == seen[0]
        for number in range(3):
            with store.begin() as transaction:
                transaction.events.append(make_event(number))
            seen.append(store.version())
        assert len(set(seen)) == 4


class TestSteps:
    def test_a_step_comes_back_equal(self, store: AnyStore) -> None:
        with store.begin() as transaction:
            assert transaction.steps.add(STEP)
        with store.begin() as transaction:
            assert transaction.steps.get(STEP.id) == STEP
            assert transaction.steps.find(key=STEP.key, state=StepState.WAITING) == (STEP,)
            with pytest.raises(NotFoundError):
                transaction.steps.get("step_none")

    def test_a_step_asked_for_twice_is_one_step(self, store: AnyStore) -> None:
        with store.begin() as transaction:
            assert transaction.steps.add(make_step(1, key="same"))
            assert not transaction.steps.add(make_step(2, key="same", name="other"))
        with store.begin() as transaction:
            assert not transaction.steps.add(make_step(3, key="same"))
            assert transaction.steps.find() == (make_step(1, key="same"),)

    def test_of_many_steps_those_are_added_whose_key_is_new(self, store: AnyStore) -> None:
        with store.begin() as transaction:
            assert transaction.steps.add() == 0
            assert transaction.steps.add(make_step(1), make_step(2)) == 2
            assert transaction.steps.add(make_step(3, key=make_step(1).key), make_step(4), make_step(5, key="4")) == 2
            assert transaction.steps.add(make_step(6, key="new"), make_step(7, key="new")) == 1
        with store.begin() as transaction:
            ids = [step.id for step in transaction.steps.find()]
            assert ids == [make_step(number).id for number in (1, 2, 4, 5, 6)]

    def test_a_step_needs_its_direction_and_an_id_of_its_own(self, store: AnyStore) -> None:
        with store.begin() as transaction, pytest.raises(ConflictError):
            transaction.steps.add(make_step(direction_id=DirectionId("dir_none")))
        with store.begin() as transaction:
            transaction.steps.add(make_step(1))
            with pytest.raises(ConflictError):
                transaction.steps.add(make_step(1, key="another"))

    def test_the_oldest_due_step_of_the_side_is_claimed(self, store: AnyStore) -> None:
        with store.begin() as transaction:
            transaction.steps.add(make_step(1, due_at=3.0))
            transaction.steps.add(make_step(2, due_at=2.0))
            transaction.steps.add(make_step(3, due_at=2.0))
            transaction.steps.add(make_step(4, due_at=1.0, side=Side.RUN))
            transaction.steps.add(make_step(5, due_at=100.0))
            transaction.steps.add(make_step(6, state=StepState.DONE))
            transaction.steps.add(make_step(7, state=StepState.WAITING))
            transaction.steps.add(make_step(8, state=StepState.FAILED))
        with store.begin() as transaction:
            claimed = [transaction.steps.claim(Side.WRITE, now=10.0, lease_s=5.0) for _ in range(4)]
        assert [step.id if step else None for step in claimed] == ["step_2", "step_3", "step_1", None]
        assert claimed[0] == make_step(2, due_at=2.0, state=StepState.CLAIMED, fence=1, tries=1, lease_until=15.0)
        with store.begin() as transaction:
            assert transaction.steps.get("step_2") == claimed[0]

    def claimed_of(self, store: AnyStore, count: int) -> list[str]:
        with store.begin() as transaction:
            taken = [transaction.steps.claim(Side.WRITE, now=1000.0, lease_s=5.0) for _ in range(count)]
        return [step.id for step in taken if step]

    def test_a_higher_priority_goes_first_but_not_past_what_has_waited_long(self, store: AnyStore) -> None:
        with store.begin() as transaction:
            transaction.directions.save(make_direction(priority=0))
            transaction.directions.save(make_direction(id=OTHER, priority=2))
            transaction.steps.add(make_step(1, due_at=100.0))
            transaction.steps.add(make_step(2, due_at=101.0))
            transaction.steps.add(make_step(3, due_at=159.0, direction_id=OTHER))
            transaction.steps.add(make_step(4, due_at=161.5, direction_id=OTHER))
            transaction.steps.add(make_step(5, due_at=900.0, direction_id=OTHER))
        assert self.claimed_of(store, 6) == ["step_3", "step_1", "step_2", "step_4", "step_5"]

    def test_a_priority_passes_nobody_elses_turn(self, store: AnyStore) -> None:
        with store.begin() as transaction:
            transaction.directions.save(make_direction(priority=-5))
            transaction.directions.save(make_direction(id=OTHER, tenant=TenantId("ten_2"), priority=5))
            transaction.steps.add(make_step(1, due_at=1.0))
            transaction.steps.add(make_step(2, due_at=2.0, direction_id=OTHER))
            transaction.steps.add(make_step(3, due_at=3.0))
        assert self.claimed_of(store, 4) == ["step_1", "step_2", "step_3"]

    def test_a_lease_that_ran_out_is_claimed_anew_and_its_holder_is_shut_out(self, store: AnyStore) -> None:
        with store.begin() as transaction:
            transaction.steps.add(make_step())
            old = transaction.steps.claim(Side.WRITE, now=10.0, lease_s=5.0)
            assert old
            assert transaction.steps.claim(Side.WRITE, now=14.9, lease_s=5.0) is None
        with store.begin() as transaction:
            new = transaction.steps.claim(Side.WRITE, now=15.0, lease_s=5.0)
            assert new
        assert (new.id, new.fence, new.tries, new.lease_until) == (old.id, 2, 2, 20.0)
        with store.begin() as transaction:
            assert not transaction.steps.renew(old, until=99.0)
            assert not transaction.steps.finish(dataclasses.replace(old, state=StepState.DONE))
            assert transaction.steps.get(new.id) == new
            assert transaction.steps.renew(new, until=30.0)
            assert transaction.steps.claim(Side.WRITE, now=29.0, lease_s=5.0) is None
            done = dataclasses.replace(new, state=StepState.DONE, error="none")
            assert transaction.steps.finish(done)
            assert not transaction.steps.renew(new, until=40.0)
            assert transaction.steps.get(new.id) == done
            assert transaction.steps.claim(Side.WRITE, now=1000.0, lease_s=5.0) is None

    def test_a_step_that_is_not_there_is_neither_renewed_nor_finished(self, store: AnyStore) -> None:
        with store.begin() as transaction:
            assert not transaction.steps.renew(make_step(), until=1.0)
            assert not transaction.steps.finish(make_step())
            assert transaction.steps.find() == ()

    @pytest.mark.parametrize("hold", [Hold.APPROVAL, Hold.PAUSED, Hold.OVER_BUDGET])
    @pytest.mark.parametrize("side", list(Side))
    @pytest.mark.parametrize("held", ["direction", "experiment"])
    def test_what_is_held_is_not_claimed_until_it_is_let_go(
        self, store: AnyStore, hold: Hold, side: Side, held: str
    ) -> None:
        def set_hold(value: Hold) -> None:
            with store.begin() as transaction:
                on_direction = value if held == "direction" else Hold.NONE
                on_experiment = value if held == "experiment" else Hold.NONE
                transaction.directions.save(make_direction(hold=on_direction))
                transaction.experiments.save(dataclasses.replace(EXPERIMENT, hold=on_experiment))

        set_hold(hold)
        with store.begin() as transaction:
            transaction.directions.save(make_direction(id=OTHER))
            transaction.steps.add(make_step(1, side=side, experiment_id=EXP))
            transaction.steps.add(make_step(2, side=side, direction_id=OTHER, due_at=5.0))
            other = transaction.steps.claim(side, now=10.0, lease_s=60.0)
            assert other
            assert other.id == "step_2"
            assert transaction.steps.claim(side, now=10.0, lease_s=60.0) is None
        set_hold(Hold.NONE)
        with store.begin() as transaction:
            mine = transaction.steps.claim(side, now=10.0, lease_s=60.0)
            assert mine
            assert mine.id == "step_1"

    def test_a_worker_of_one_direction_leaves_the_others_alone_but_for_clearing(self, store: AnyStore) -> None:
        with store.begin() as transaction:
            transaction.directions.save(make_direction())
            transaction.directions.save(make_direction(id=OTHER))
            transaction.steps.add(make_step(1, side=Side.RUN, name="launch", direction_id=OTHER))
            transaction.steps.add(make_step(2, side=Side.RUN, name="remove", direction_id=OTHER, due_at=3.0))
            transaction.steps.add(make_step(3, side=Side.RUN, name="launch", due_at=5.0))
            claims = [
                transaction.steps.claim(Side.RUN, now=10.0, lease_s=60.0, direction_id=make_direction().id)
                for _ in range(3)
            ]
            assert [step.id if step else None for step in claims] == ["step_2", "step_3", None]
            left = transaction.steps.claim(Side.RUN, now=10.0, lease_s=60.0)
            assert left
            assert left.id == "step_1"

    def test_a_worker_of_all_directions_leaves_alone_those_of_others_but_for_clearing(self, store: AnyStore) -> None:
        with store.begin() as transaction:
            transaction.directions.save(make_direction())
            transaction.directions.save(make_direction(id=OTHER))
            transaction.steps.add(make_step(1, side=Side.RUN, name="launch", direction_id=OTHER))
            transaction.steps.add(make_step(2, side=Side.RUN, name="remove", direction_id=OTHER, due_at=3.0))
            transaction.steps.add(make_step(3, side=Side.RUN, name="launch", due_at=5.0))
            claims = [
                transaction.steps.claim(Side.RUN, now=10.0, lease_s=60.0, apart_from=frozenset({OTHER}))
                for _ in range(3)
            ]
        assert [step.id if step else None for step in claims] == ["step_2", "step_3", None]

    @pytest.mark.parametrize("state", list(DirectionState))
    @pytest.mark.parametrize("hold", [Hold.NONE, Hold.PAUSED])
    def test_of_a_stopped_direction_only_the_run_side_goes_on(
        self, store: AnyStore, state: DirectionState, hold: Hold
    ) -> None:
        with store.begin() as transaction:
            transaction.directions.save(make_direction(state=state, hold=hold))
            transaction.steps.add(make_step(1, side=Side.WRITE))
            transaction.steps.add(make_step(2, side=Side.RUN))
            write = transaction.steps.claim(Side.WRITE, now=1.0, lease_s=1.0)
            run = transaction.steps.claim(Side.RUN, now=1.0, lease_s=1.0)
        stopped = state in {DirectionState.CANCELLED, DirectionState.FAILED}
        assert bool(write) == (not stopped and hold is Hold.NONE)
        assert bool(run) == (stopped or hold is Hold.NONE)

    def test_a_waiting_step_wakes_when_all_its_executions_are_over(self, store: AnyStore) -> None:
        def set_states(*states: ExecutionState) -> int:
            with store.begin() as transaction:
                for number, state in enumerate(states):
                    execution = dataclasses.replace(EXECUTION, id=ExecutionId(f"exec_{number}"), state=state)
                    transaction.executions.save(execution)
            with store.begin() as transaction:
                return transaction.steps.wake(now=50.0)

        both = (ExecutionId("exec_0"), ExecutionId("exec_1"))
        state = ExecutionState
        with store.begin() as transaction:
            transaction.steps.add(make_step(1, state=StepState.WAITING, waits_for=both, due_at=7.0))
            transaction.steps.add(make_step(2, state=StepState.WAITING, waits_for=(ExecutionId("exec_none"),)))
            transaction.steps.add(make_step(3, state=StepState.DONE, waits_for=both))
        assert set_states(state.WANTED, state.COLLECTED) == 0
        assert set_states(state.LAUNCHED, state.COLLECTED) == 0
        assert set_states(state.ENDED, state.REMOVED) == 0
        assert set_states(state.COLLECTED, state.REMOVED) == 1
        assert set_states(state.COLLECTED, state.REMOVED) == 0
        with store.begin() as transaction:
            woken = make_step(1, state=StepState.DUE, waits_for=both, due_at=50.0)
            assert transaction.steps.get("step_1") == woken
            assert transaction.steps.get("step_2").state is StepState.WAITING
            assert transaction.steps.get("step_3").state is StepState.DONE

    def test_a_step_that_waits_for_nothing_wakes(self, store: AnyStore) -> None:
        with store.begin() as transaction:
            transaction.steps.add(make_step(1, state=StepState.WAITING, side=Side.RUN))
            assert transaction.steps.wake(now=1.0) == 1

    def test_the_oldest_that_wait_for_their_turn_are_hastened_and_nothing_else(self, store: AnyStore) -> None:
        ours, theirs = TenantId("ten_a"), TenantId("ten_b")
        launches: list[tuple[TenantId, float, dict[str, Any]]] = [
            (ours, 3.0, {"due_at": 90.0}),
            (ours, 2.0, {"due_at": 70.0}),
            (theirs, 2.0, {"due_at": 70.0}),
            (theirs, 1.0, {"due_at": 60.0}),
            (theirs, 0.0, {"due_at": 55.0}),
            # What has looked already, waits for something else, has failed, or is being looked at.
            (ours, 0.0, {"due_at": 20.0}),
            (ours, 0.0, {"due_at": 70.0, "payload": {"waits": 1}}),
            (ours, 0.0, {"due_at": 70.0, "error": "no room"}),
            (ours, 0.0, {"due_at": 70.0, "state": StepState.CLAIMED, "lease_until": 99.0}),
            (ours, 0.0, {"due_at": 70.0, "side": Side.WRITE}),
        ]
        with store.begin() as transaction:
            for number, (tenant, made_at, changes) in enumerate(launches):
                direction, execution = DirectionId(f"dir_{number}"), ExecutionId(f"exec_{number}")
                transaction.directions.save(make_direction(id=direction, tenant=tenant))
                made = dataclasses.replace(EXECUTION, id=execution, direction_id=direction, created_at=made_at)
                transaction.executions.save(made)
                payload = {"execution": execution, **changes.pop("payload", {"turns": 3})}
                step = {"side": Side.RUN, "direction_id": direction, "payload": payload, **changes}
                transaction.steps.add(make_step(number, **step))

        def hastened(most: int) -> list[str]:
            with store.begin() as transaction:
                count = transaction.steps.hasten("turns", ours, now=50.0, most=most)
                found = [step.id for step in transaction.steps.find() if step.due_at == 50.0]
                for step in transaction.steps.find(due_at=50.0):
                    transaction.steps.finish(dataclasses.replace(step, due_at=0.0))
            assert count == len(found)
            return found

        assert hastened(1) == ["step_1", "step_4"]
        with store.begin() as transaction:
            preferred = transaction.directions.get(DirectionId("dir_2"))
            transaction.directions.save(dataclasses.replace(preferred, priority=preferred.priority + 1))
        assert hastened(1) == ["step_0", "step_2"]
        assert hastened(9) == ["step_3"]
        assert hastened(9) == []

    def test_eight_threads_claim_each_step_once(self, store: AnyStore) -> None:
        with store.begin() as transaction:
            for number in range(80):
                transaction.steps.add(make_step(number))
        start = threading.Barrier(8)

        def work(_: int) -> list[str]:
            claimed: list[str] = []
            start.wait(30)
            while True:
                with store.begin() as transaction:
                    step = transaction.steps.claim(Side.WRITE, now=1.0, lease_s=600.0)
                if step is None:
                    return claimed
                claimed.append(step.id)

        with ThreadPoolExecutor(8) as pool:
            claimed = [key for keys in pool.map(work, range(8)) for key in keys]
        assert sorted(claimed) == sorted(f"step_{number}" for number in range(80))


class TestEvents:
    def test_events_come_back_in_order_with_a_growing_number(self, store: AnyStore) -> None:
        with store.begin() as transaction:
            assert transaction.events.newest(DIR) == 0
            transaction.events.append(EVENT)
        for number in range(6):
            with store.begin() as transaction:
                transaction.events.append(make_event(number, OTHER if number % 2 else DIR))
        with store.begin() as transaction:
            mine, others = transaction.events.since(DIR), transaction.events.since(OTHER)
            assert dataclasses.replace(mine[0], seq=0) == EVENT
            assert [event.text for event in mine[1:]] == ["event 0", "event 2", "event 4"]
            assert [event.text for event in others] == ["event 1", "event 3", "event 5"]
            assert transaction.events.since(DIR, mine[1].seq) == mine[2:]
            assert transaction.events.since(DIR, mine[0].seq, limit=2) == mine[1:3]
            assert transaction.events.since(DIR, mine[-1].seq) == ()
            assert [transaction.events.newest(key) for key in (DIR, OTHER)] == [mine[-1].seq, others[-1].seq]
        numbers = [event.seq for event in mine]
        assert numbers == sorted(set(numbers))
        assert numbers[0] > 0
        assert not set(numbers) & {event.seq for event in others}


class TestLedger:
    def test_a_reservation_and_its_settlement_sum_to_what_was_spent(self, store: AnyStore) -> None:
        settled = dataclasses.replace(ENTRY, id="evt_2", kind="settled", usd=-0.375)
        open_one = dataclasses.replace(ENTRY, id="evt_3", call_id="call_2", usd=2.0, experiment_id=None)
        other = dataclasses.replace(ENTRY, id="evt_4", direction_id=OTHER, usd=8.0)
        with store.begin() as transaction:
            assert transaction.ledger.spent_usd(DIR) == 0.0
            for entry in (ENTRY, settled, other, open_one):
                transaction.ledger.add(entry)
        with store.begin() as transaction:
            assert transaction.ledger.entries(DIR) == (ENTRY, settled, open_one)
            assert transaction.ledger.spent_usd(DIR) == pytest.approx(2.125)
            assert transaction.ledger.spent_usd(DirectionId("dir_none")) == 0.0
            assert isinstance(transaction.ledger.spent_usd(DIR), float)

    def test_a_call_is_open_until_a_second_line_closes_it(self, store: AnyStore) -> None:
        settled = dataclasses.replace(ENTRY, id="evt_2", kind="settled", usd=-0.375)
        left = dataclasses.replace(ENTRY, id="evt_3", call_id="call_2", direction_id=OTHER)
        of_an_execution = dataclasses.replace(ENTRY, id="evt_4", call_id="exec_1", model="")
        with store.begin() as transaction:
            for entry in (ENTRY, of_an_execution, left):
                transaction.ledger.add(entry)
            assert transaction.ledger.open_calls() == (ENTRY, left)
            transaction.ledger.add(settled)
        with store.begin(write=False) as transaction:
            assert transaction.ledger.open_calls() == (left,)
            assert transaction.ledger.of_call("call_1") == (ENTRY, settled)
            assert transaction.ledger.of_call("call_9") == ()

    def test_balances_are_the_sums_of_the_lines(self, store: AnyStore) -> None:
        other = dataclasses.replace(
            ENTRY,
            id="evt_2",
            direction_id=OTHER,
            usd=-0.25,
            tokens=-7,
            cpu_s=-1.5,
            gpu_s=0.0,
            wall_s=-1.0,
            bytes=-1,
            running=-1,
            gpus=0,
        )
        foreign = dataclasses.replace(
            ENTRY, id="evt_3", tenant=TenantId("ten_2"), day="2026-11-23", experiment_id=None, token=""
        )
        with store.begin() as transaction:
            for entry in (ENTRY, other, foreign):
                transaction.ledger.add(entry)
        day = ledger.day_account(TenantId("ten_1"), "2026-11-22")
        sums = Balance(
            id=day, usd=0.25, tokens=10, cpu_s=0.0, gpu_s=2.5, wall_s=2.5, bytes=2**40 - 1, running=0, gpus=2,
            input_tokens=20, cached_tokens=4, output_tokens=10,
        )  # fmt: skip
        with store.begin(write=False) as transaction:
            assert transaction.ledger.balance(day) == sums
            assert transaction.ledger.balance("ten_1") == dataclasses.replace(sums, id="ten_1")
            assert transaction.ledger.balance(EXP) == dataclasses.replace(sums, id=EXP)
            assert transaction.ledger.balance("tok_1") == dataclasses.replace(sums, id="tok_1")
            assert transaction.ledger.balance("") == Balance(id="")
            assert transaction.ledger.balance(OTHER).running == -1
            assert transaction.ledger.balance("ten_2").tokens == 17
            assert transaction.ledger.balance("nobody") == Balance(id="nobody")
            assert transaction.ledger.entry("evt_2") == other
            assert transaction.ledger.entry("evt_9") is None

    def test_one_question_tells_all_that_a_token_names(self, store: AnyStore) -> None:
        claims = Claims(
            tenant=TenantId("ten_1"),
            direction_id=DIR,
            experiment_id=EXP,
            role="coder",
            model="m",
            id="tok_1",
            step=STEP.id,
        )
        bare = dataclasses.replace(claims, experiment_id=None, id="", step="")
        with store.begin() as transaction:
            unknown = dataclasses.replace(claims, direction_id=DirectionId("dir_none"))
            assert transaction.ledger.admission(unknown, ENTRY.day) is None
            nothing = Admission(
                tenant=DIRECTION.tenant,
                direction=DIRECTION.state,
                budget_usd=DIRECTION.budget_usd,
                budget_usd_per_experiment=DIRECTION.budget_usd_per_experiment,
                budget_usd_per_call=DIRECTION.budget_usd_per_call,
                total=Balance(id="ten_1"),
                day=Balance(id=f"ten_1/{ENTRY.day}"),
            )
            assert transaction.ledger.admission(claims, ENTRY.day) == nothing
            transaction.experiments.save(EXPERIMENT)
            transaction.steps.add(STEP)
            transaction.tenants.save(TENANT)
            transaction.ledger.add(ENTRY)
        sums = {"usd": ENTRY.usd, "tokens": ENTRY.tokens}
        all_of_it = dataclasses.replace(
            nothing,
            experiment=EXPERIMENT.state,
            step=STEP.state,
            fence=STEP.fence,
            quotas=TENANT.quotas,
            token_usd=ENTRY.usd,
            experiment_usd=ENTRY.usd,
            direction_usd=ENTRY.usd,
            total=Balance(id="ten_1", **sums),
            day=Balance(id=f"ten_1/{ENTRY.day}", **sums),
        )
        with store.begin() as transaction:
            assert transaction.ledger.admission(claims, ENTRY.day) == all_of_it
            another_day = transaction.ledger.admission(bare, "2030-01-01")
            assert another_day == dataclasses.replace(
                all_of_it,
                experiment=None,
                step=None,
                fence=None,
                token_usd=0.0,
                experiment_usd=0.0,
                day=Balance(id="ten_1/2030-01-01"),
            )
            transaction.revocations.save(REVOCATION)
            assert transaction.ledger.admission(claims, ENTRY.day) == dataclasses.replace(all_of_it, is_revoked=True)
            assert transaction.ledger.admission(bare, "2030-01-01") == another_day

    @pytest.mark.parametrize(("switch", "stops"), [(PLATFORM, True), ("ten_1", True), ("ten_2", False)])
    def test_a_stop_of_the_tenant_or_of_all_is_told(self, store: AnyStore, switch: str, *, stops: bool) -> None:
        claims = Claims(tenant=TenantId("ten_1"), direction_id=DIR, role="coder", model="m")
        with store.begin() as transaction:
            transaction.switches.save(dataclasses.replace(SWITCH, id=switch, is_killed=False))
            assert not told(transaction, claims).is_killed
            transaction.switches.save(dataclasses.replace(SWITCH, id=switch, is_killed=True))
            assert told(transaction, claims).is_killed is stops

    def test_a_line_is_never_changed(self, store: AnyStore) -> None:
        with store.begin() as transaction:
            transaction.ledger.add(ENTRY)
            with pytest.raises(ConflictError):
                transaction.ledger.add(dataclasses.replace(ENTRY, usd=0.0))
            assert transaction.ledger.entries(DIR) == (ENTRY,)


def told(transaction: Transaction, claims: Claims) -> Admission:
    admission = transaction.ledger.admission(claims, ENTRY.day)
    assert admission is not None
    return admission


class TestAudit:
    def test_entries_are_numbered_sealed_once_and_never_changed(self, store: AnyStore) -> None:
        with store.begin() as transaction:
            for number in range(3):
                transaction.audit.append(dataclasses.replace(AUDIT, id=f"evt_{number}"))
        with store.begin() as transaction:
            first, second, third = transaction.audit.since()
            assert dataclasses.replace(first, seq=0) == dataclasses.replace(AUDIT, id="evt_0")
            assert 0 < first.seq < second.seq < third.seq
            assert transaction.audit.since(first.seq, limit=1) == (second,)
            assert transaction.audit.unsealed(limit=2) == (first, second)
            assert transaction.audit.last_seal() == ""
            transaction.audit.seal(first.seq, "one")
            transaction.audit.seal(second.seq, "two")
            assert transaction.audit.unsealed() == (third,)
            assert transaction.audit.last_seal() == "two"
            with pytest.raises(ConflictError):
                transaction.audit.seal(first.seq, "other")
            assert transaction.audit.since()[0] == dataclasses.replace(first, seal="one")


LEAF = Leaf(index=0, scope=EXP, direction_id=DIR, entry='{"kind":"record"}', hashes=("ab" * 32,))
HEAD = TreeHead(size=1, root="ab" * 32, at=1.5, envelope="{}")


class TestLog:
    def test_leaves_are_added_one_after_another_and_found_again(self, store: AnyStore) -> None:
        leaves = [
            dataclasses.replace(LEAF, index=index, scope=scope, hashes=("ab" * 32,) * (1 + index % 2))
            for index, scope in enumerate([EXP, "run_0", EXP])
        ]
        with store.begin() as transaction:
            assert transaction.log.size() == 0
            for leaf in leaves:
                transaction.log.append(leaf)
        with store.begin(write=False) as transaction:
            assert transaction.log.size() == 3
            assert [transaction.log.at(index) for index in range(3)] == leaves
            assert transaction.log.of(EXP) == (leaves[0], leaves[2])
            assert transaction.log.count(EXP) == 2
            assert transaction.log.of("exp_2") == ()
            assert transaction.log.count("exp_2") == 0
            for index in (3, -1):
                with pytest.raises(NotFoundError):
                    transaction.log.at(index)

    @pytest.mark.parametrize("index", [0, 2, -1])
    def test_a_leaf_has_no_other_place_than_the_next(self, store: AnyStore, index: int) -> None:
        with store.begin() as transaction:
            transaction.log.append(LEAF)
            with pytest.raises(ConflictError):
                transaction.log.append(dataclasses.replace(LEAF, index=index, entry="{}"))
        with store.begin(write=False) as transaction:
            assert transaction.log.size() == 1
            assert transaction.log.at(0) == LEAF

    def test_a_leaf_of_a_transaction_that_fails_leaves_no_gap(self, store: AnyStore) -> None:
        def append_and_fail() -> None:
            with store.begin() as transaction:
                transaction.log.append(LEAF)
                transaction.directions.get("dir_0")

        with pytest.raises(NotFoundError):
            append_and_fail()
        with store.begin() as transaction:
            assert transaction.log.size() == 0
            transaction.log.append(LEAF)

    def test_writers_at_once_never_give_two_leaves_one_index(self, store: AnyStore) -> None:
        def append(number: int) -> None:
            for _ in range(10):
                with store.begin() as transaction:
                    leaf = dataclasses.replace(LEAF, index=transaction.log.size(), scope=f"exp_{number}")
                    transaction.log.append(leaf)

        with ThreadPoolExecutor(4) as threads:
            list(threads.map(append, range(4)))
        with store.begin(write=False) as transaction:
            assert transaction.log.size() == 40
            assert [transaction.log.at(index).index for index in range(40)] == list(range(40))
            assert [transaction.log.count(f"exp_{number}") for number in range(4)] == [10] * 4

    def test_the_tree_head_of_the_largest_size_is_the_newest(self, store: AnyStore) -> None:
        with store.begin() as transaction:
            assert transaction.log.newest_head() is None
            transaction.log.add_head(dataclasses.replace(HEAD, size=0))
            assert transaction.log.newest_head() == dataclasses.replace(HEAD, size=0)
            transaction.log.add_head(HEAD)
        with store.begin() as transaction:
            assert transaction.log.newest_head() == HEAD
            with pytest.raises(ConflictError):
                transaction.log.add_head(dataclasses.replace(HEAD, root="cd" * 32))
            assert transaction.log.newest_head() == HEAD


def claimed(store: AnyStore, side: Side) -> list[str]:
    """Claim all that can be claimed, and return their keys."""
    keys = []
    while True:
        with store.begin() as transaction:
            step = transaction.steps.claim(side, now=100.0, lease_s=60.0)
        if step is None:
            return keys
        keys.append(step.key)


class TestSwitches:
    @pytest.mark.parametrize("side", list(Side))
    @pytest.mark.parametrize("which", [PLATFORM, "ten_1"])
    def test_what_is_paused_is_not_claimed_but_what_clears_the_machine_is(
        self, store: AnyStore, side: Side, which: str
    ) -> None:
        with store.begin() as transaction:
            transaction.directions.save(make_direction())
            transaction.steps.add(make_step(1, key="work", side=side))
            transaction.steps.add(make_step(2, key="clear", side=side, name="collect"))
            transaction.switches.save(Switch(id=which, is_paused=True))
            transaction.switches.save(Switch(id="ten_other", is_paused=True))
        assert claimed(store, side) == ["clear"]
        with store.begin() as transaction:
            transaction.switches.save(Switch(id=which))
        assert claimed(store, side) == ["work"]


class TestCounts:
    def test_a_count_is_that_of_what_would_be_found(self, store: AnyStore) -> None:
        with store.begin() as transaction:
            for number in range(3):
                state = (DirectionState.QUEUED, DirectionState.DONE)[number % 2]
                transaction.directions.save(make_direction(id=DirectionId(f"dir_{number}"), state=state))
            assert transaction.directions.count() == 3
            assert transaction.directions.count(state=DirectionState.QUEUED) == 2
            assert transaction.directions.count(state=DirectionState.QUEUED, tenant="nobody") == 0

    def test_two_tenants_never_have_one_name(self, store: AnyStore) -> None:
        with store.begin() as transaction:
            transaction.tenants.save(TENANT)
            transaction.tenants.save(dataclasses.replace(TENANT, weight=3.0))
            with pytest.raises(ConflictError):
                transaction.tenants.save(dataclasses.replace(TENANT, id=TenantId("ten_2")))


class TestOutputs:
    def keep(self, store: AnyStore, *pieces: Output, **execution: Any) -> None:
        with store.begin() as transaction:
            transaction.directions.save(make_direction())
            transaction.executions.save(dataclasses.replace(EXECUTION, **execution))
            for piece in pieces:
                transaction.outputs.save(piece)

    def piece(self, offset: int, data: bytes, **changes: Any) -> Output:
        fields = {"id": f"{changes}:{offset}", "offset": offset, "data": data}
        return dataclasses.replace(OUTPUT, **(fields | changes))

    def test_pieces_are_read_in_order_from_a_place(self, store: AnyStore) -> None:
        first, second, last = self.piece(0, b"ab"), self.piece(2, b"\xff\0"), self.piece(4, b"")
        other = [self.piece(0, b"zz", fence=4), self.piece(0, b"zz", execution_id=ExecutionId("exec_2"))]
        self.keep(store, second, *other, last, first)
        with store.begin(write=False) as transaction:
            assert transaction.outputs.after(EXEC, 3, 0, 10) == (first, second)
            assert transaction.outputs.after(EXEC, 3, 0, 1) == (first,)
            assert transaction.outputs.after(EXEC, 3, 1, 10) == (second,)
            assert transaction.outputs.end(EXEC, 3) == 4
            assert transaction.outputs.end(EXEC, 9) == 0

    @pytest.mark.parametrize(
        ("state", "is_left"),
        [(ExecutionState.LAUNCHED, False), (ExecutionState.COLLECTED, True), (ExecutionState.REMOVED, True)],
    )
    def test_what_is_over_for_long_is_left_and_can_be_forgotten(
        self, store: AnyStore, state: ExecutionState, is_left: bool
    ) -> None:
        gone = ExecutionId("exec_2")
        self.keep(
            store, self.piece(0, b"a", at=5.0), self.piece(1, b"b", at=7.0),
            self.piece(0, b"a", at=6.0, execution_id=gone), state=state,
        )  # fmt: skip
        with store.begin() as transaction:
            assert transaction.outputs.left(before=7.0) == (gone,)
            assert set(transaction.outputs.left(before=7.5)) == ({EXEC, gone} if is_left else {gone})
            transaction.outputs.forget(gone)
            assert {piece.execution_id for piece in transaction.outputs.find()} == {EXEC}


class TestRevocations:
    def test_old_ones_are_forgotten(self, store: AnyStore) -> None:
        with store.begin() as transaction:
            for number in range(4):
                transaction.revocations.save(Revocation(id=f"tok_{number}", at=float(number)))
            transaction.revocations.forget(before=2.0)
            assert [one.id for one in transaction.revocations.find()] == ["tok_2", "tok_3"]


class TestWorkers:
    def test_a_worker_is_one_however_often_it_is_seen(self, store: AnyStore) -> None:
        with store.begin() as transaction:
            for number, at in ((1, 10.0), (2, 11.0), (1, 12.0)):
                transaction.workers.save(Worker(id=f"worker_{number}", part=Part.RUN, seen_at=at))
            transaction.workers.save(Worker(id="worker_3", part=Part.WATCH, seen_at=5.0))
        with store.begin(write=False) as transaction:
            seen = {worker.id: worker.seen_at for worker in transaction.workers.find()}
            assert seen == {"worker_1": 12.0, "worker_2": 11.0, "worker_3": 5.0}
            assert [worker.id for worker in transaction.workers.find(part=Part.WATCH)] == ["worker_3"]

    def test_who_was_not_seen_for_long_is_forgotten(self, store: AnyStore) -> None:
        with store.begin() as transaction:
            for number in range(4):
                transaction.workers.save(Worker(id=f"worker_{number}", part=Part.RUN, seen_at=float(number)))
            transaction.workers.forget(before=2.0)
            assert [worker.id for worker in transaction.workers.find()] == ["worker_2", "worker_3"]


class TestReplies:
    def test_of_the_first_and_of_one_more_those_are_forgotten_that_are_too_old(self, store: AnyStore) -> None:
        with store.begin() as transaction:
            for number in range(8):
                made = dataclasses.replace(REPLY, id=f"reply_{number}", at=20.0 if number == 1 else float(number))
                transaction.replies.save(made)
            transaction.replies.forget("reply_4", before=5.0, most=3)
            assert [one.id for one in transaction.replies.find()] == [f"reply_{number}" for number in (1, 3, 5, 6, 7)]
            transaction.replies.forget("reply_6", before=5.0, most=2)
            assert [one.id for one in transaction.replies.find()] == [f"reply_{number}" for number in (1, 5, 6, 7)]


class TestFigures:
    def test_an_empty_store_has_none(self) -> None:
        with MemoryStore().begin(write=False) as transaction:
            figures = transaction.figures(0.0)
        assert [getattr(figures, field.name) for field in dataclasses.fields(figures)] == [*[()] * 6, 0]

    def test_a_live_step_stands_as_a_claim_sees_it(self, store: AnyStore) -> None:
        now = 100.0
        held = make_direction(id=OTHER, hold=Hold.PAUSED)
        stopped = make_direction(id=DirectionId("dir_3"), state=DirectionState.CANCELLED, hold=Hold.PAUSED)
        changes: tuple[dict[str, Any], ...] = (
            {"due_at": 70.0},
            {"due_at": 60.0, "state": StepState.CLAIMED, "lease_until": 99.0},
            {"due_at": 101.0},
            {"state": StepState.CLAIMED, "lease_until": 101.0, "due_at": 3.0},
            {"state": StepState.WAITING, "waits_for": (EXEC,)},
            {"direction_id": OTHER, "due_at": 1.0},
            {"direction_id": OTHER, "due_at": 1.0, "experiment_id": EXP, "side": Side.RUN},
            {"direction_id": stopped.id, "due_at": 50.0, "side": Side.RUN},
            {"direction_id": stopped.id, "due_at": 50.0},
            {"state": StepState.DONE},
            {"state": StepState.FAILED},
        )
        with store.begin() as transaction:
            transaction.directions.save(held)
            transaction.directions.save(stopped)
            for number, change in enumerate(changes):
                transaction.steps.add(make_step(number, **change))
        with store.begin(write=False) as transaction:
            steps = transaction.figures(now).steps
        assert [(one.side, one.standing, one.number) for one in steps] == [
            (Side.RUN, Standing.DUE, 1),
            (Side.RUN, Standing.HELD, 1),
            (Side.WRITE, Standing.CLAIMED, 1),
            (Side.WRITE, Standing.DUE, 2),
            (Side.WRITE, Standing.HELD, 2),
            (Side.WRITE, Standing.LATER, 1),
            (Side.WRITE, Standing.WAITING, 1),
        ]
        assert {one.side: one.oldest_due_at for one in steps if one.standing is Standing.DUE} == {
            Side.RUN: 50.0,
            Side.WRITE: 60.0,
        }

    @settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        steps=st.lists(
            st.tuples(
                st.sampled_from([StepState.DUE, StepState.CLAIMED, StepState.DONE]),
                st.sampled_from(list(Side)),
                st.sampled_from([DIR, OTHER]),
                st.integers(0, 4),
            ),
            max_size=8,
        ),
        hold=st.sampled_from(list(Hold)),
        state=st.sampled_from(list(DirectionState)),
    )
    def test_what_is_counted_as_due_is_what_can_be_claimed(
        self, steps: list[tuple[StepState, Side, DirectionId, int]], hold: Hold, state: DirectionState
    ) -> None:
        store = MemoryStore()
        with store.begin() as transaction:
            transaction.directions.save(make_direction())
            transaction.directions.save(make_direction(id=OTHER, hold=hold, state=state))
            for number, (stands, side, owner, at) in enumerate(steps):
                changes = {"state": stands, "side": side, "direction_id": owner, "due_at": at, "lease_until": at}
                transaction.steps.add(make_step(number, **changes))
        with store.begin() as transaction:
            due = {one.side: one.number for one in transaction.figures(2.0).steps if one.standing is Standing.DUE}
            for side in Side:
                claimed = 0
                while transaction.steps.claim(side, now=2.0, lease_s=60.0):
                    claimed += 1
                assert claimed == due.get(side, 0)

    def test_directions_experiments_and_executions_are_counted_by_where_they_stand(self, store: AnyStore) -> None:
        with store.begin() as transaction:
            transaction.directions.save(make_direction(id=OTHER, state=DirectionState.DONE))
            for number, hold in enumerate((Hold.NONE, Hold.PAUSED, Hold.PAUSED)):
                identity = ExperimentId(f"exp_{number}")
                transaction.experiments.save(dataclasses.replace(EXPERIMENT, id=identity, hold=hold))
            for number, verdict in enumerate((Verdict.FAILED, Verdict.FAILED, None, Verdict.LOST)):
                outcome = dataclasses.replace(EXECUTION.outcome, verdict=verdict) if verdict else None
                state = ExecutionState.REMOVED if verdict else ExecutionState.LAUNCHED
                identity = ExecutionId(f"exec_{number}")
                changed = dataclasses.replace(EXECUTION, id=identity, kind=Kind.RUN, outcome=outcome, state=state)
                transaction.executions.save(changed)
        with store.begin(write=False) as transaction:
            figures = transaction.figures(1.0)
        assert figures.directions == (
            StateCount(state="done", hold="none", number=1),
            StateCount(state="running", hold="none", number=1),
        )
        assert figures.experiments == (
            StateCount(state="writing", hold="none", number=1),
            StateCount(state="writing", hold="paused", number=2),
        )
        launched, removed = ExecutionState.LAUNCHED, ExecutionState.REMOVED
        assert figures.executions == (
            ExecutionCount(kind=Kind.RUN, state=launched, verdict=None, number=1),
            ExecutionCount(kind=Kind.RUN, state=removed, verdict=Verdict.FAILED, number=2),
            ExecutionCount(kind=Kind.RUN, state=removed, verdict=Verdict.LOST, number=1),
        )

    def test_a_verdict_is_counted_when_it_comes(self, store: AnyStore) -> None:
        waiting = dataclasses.replace(EXECUTION, outcome=None, state=ExecutionState.LAUNCHED)
        with store.begin() as transaction:
            transaction.executions.save(waiting)
            assert [one.verdict for one in transaction.figures(1.0).executions] == [None]
            transaction.executions.save(waiting.to(ExecutionState.COLLECTED, outcome=EXECUTION.outcome))
            assert [one.verdict for one in transaction.figures(1.0).executions] == [EXECUTION.outcome.verdict]

    def test_what_was_paid_is_apart_from_what_is_set_aside(self, store: AnyStore) -> None:
        settled = dataclasses.replace(ENTRY, id="evt_2", kind="settled", usd=-0.375)
        lines = (
            dataclasses.replace(ENTRY, input_tokens=0, cached_tokens=0, output_tokens=0),
            settled,
            dataclasses.replace(ENTRY, id="evt_3", call_id="call_2", usd=2.0, input_tokens=0, output_tokens=0),
            dataclasses.replace(ENTRY, id="evt_4", call_id="call_3", usd=8.0, role="review", direction_id=OTHER),
            dataclasses.replace(ENTRY, id="evt_5", call_id="call_3", kind="released", usd=-8.0, role="review"),
        )
        with store.begin() as transaction:
            for line in lines:
                transaction.ledger.add(line)
        with store.begin(write=False) as transaction:
            spending = transaction.figures(1.0).spending
        assert spending == (
            Spending(
                model="offline",
                role="idea",
                usd=0.125,
                reserved_usd=2.0,
                input_tokens=10,
                cached_tokens=4,
                output_tokens=5,
            ),
            Spending(
                model="offline",
                role="review",
                usd=0.0,
                reserved_usd=0.0,
                input_tokens=20,
                cached_tokens=4,
                output_tokens=10,
            ),
        )

    def test_what_executions_took_is_apart_from_what_models_cost(self, store: AnyStore) -> None:
        reserved = dataclasses.replace(
            ENTRY, id="exec_1:1:reserved", call_id="exec_1", role="run", model="", usd=0.0, input_tokens=0,
            cached_tokens=0, output_tokens=0, cpu_s=20.0, gpu_s=10.0, running=1, gpus=1,
        )  # fmt: skip
        settled = dataclasses.replace(
            reserved, id="exec_1:1:settled", kind="settled", cpu_s=-12.0, gpu_s=-6.0, running=-1, gpus=-1
        )
        again = dataclasses.replace(reserved, id="exec_1:2:reserved")
        lease = dataclasses.replace(LEASE, gpus=("0",), ended_at=None)
        with store.begin() as transaction:
            for line in (reserved, settled, again):
                transaction.ledger.add(line)
            # Two share one GPU, a third has none, and what has ended holds nothing.
            shares, without = (
                dataclasses.replace(lease, id="exec_2:0"),
                dataclasses.replace(lease, id="exec_3:0", gpus=()),
            )
            transaction.leases.save(lease, shares, without, dataclasses.replace(LEASE, id="exec_4:0"))
        with store.begin(write=False) as transaction:
            figures = transaction.figures(1.0)
        assert figures.takings == (Taking(kind=Kind.RUN, cpu_s=8.0, gpu_s=4.0),)
        assert figures.gpus_held == 1
        assert figures.spending == ()


class TestLeases:
    def test_whatever_held_something_between_two_times_is_found_in_order(self, store: AnyStore) -> None:
        spans = [(1.0, 2.0), (3.0, None), (2.0, 4.0), (6.0, None), (0.0, 9.0)]
        made = [
            dataclasses.replace(LEASE, id=f"exec_{number}:0", since=since, ended_at=until)
            for number, (since, until) in enumerate(spans)
        ]
        with store.begin() as transaction:
            transaction.leases.save(*made)
        with store.begin(write=False) as transaction:
            during = transaction.leases.during
            assert during(2.5, 5.0) == (made[1], made[2], made[4])
            assert during(2.0, 2.0) == (made[0], made[2], made[4])
            assert during(10.0, 11.0) == (made[1], made[3])
            assert during(-2.0, -1.0) == ()
            assert transaction.leases.find(ended_at=None) == (made[1], made[3])
            assert transaction.leases.page(made[1].id, 5, ended_at=None) == (made[3],)


class TestQueue:
    def test_a_commit_wakes_who_waits(self, store: AnyStore) -> None:
        def commit() -> None:
            with store.begin() as transaction:
                transaction.events.append(EVENT)

        before = store.version()
        timer = threading.Timer(0.1, commit)
        timer.start()
        assert wait_for_change(store, before, timeout_s=60.0) != before
        timer.join()

    def test_nothing_new_lets_the_time_run_out(self, store: AnyStore) -> None:
        version = store.version()
        assert wait_for_change(store, version, timeout_s=0.05) == version

    def test_a_commit_between_two_waits_is_not_slept_over(self, store: AnyStore) -> None:
        queue = LocalQueue(store)
        queue.wait(60.0)
        with store.begin() as transaction:
            transaction.events.append(EVENT)
        queue.wait(60.0)
        queue.wait(0.01)

    def test_a_stop_ends_the_wait(self, store: AnyStore) -> None:
        stop = threading.Event()
        stop.set()
        wait_for_change(store, store.version(), 60.0, stop)


class TestSql:
    def test_four_processes_claim_each_step_once(self, sql: SqlStore, tmp_path: Path) -> None:
        script = (
            "import sys\n"
            "from fumehood.domain.step import Side\n"
            "from fumehood.store.sql import SqlStore\n"
            "store = SqlStore(sys.argv[1])\n"
            "step = True\n"
            "while step:\n"
            "    with store.begin() as transaction:\n"
            "        step = transaction.steps.claim(Side.WRITE, now=1.0, lease_s=600.0)\n"
            "    if step:\n"
            "        print(step.id)\n"
            "store.close()\n"
        )
        with sql.begin() as transaction:
            transaction.directions.save(make_direction())
            for number in range(200):
                transaction.steps.add(make_step(number))
        workers = [
            subprocess.Popen([sys.executable, "-c", script, url_of(tmp_path)], stdout=subprocess.PIPE, text=True)
            for _ in range(4)
        ]
        claimed = [key for worker in workers for key in worker.communicate(timeout=120)[0].split()]
        assert [worker.returncode for worker in workers] == [0] * 4
        assert sorted(claimed) == sorted(f"step_{number}" for number in range(200))

    def test_the_version_sees_another_store_on_the_same_file(self, sql: SqlStore, tmp_path: Path) -> None:
        other = SqlStore(url_of(tmp_path))
        before = sql.version(), other.version()
        with other.begin() as transaction:
            transaction.events.append(EVENT)
        after = sql.version(), other.version()
        other.close()
        assert before[0] != after[0]
        assert before[1] != after[1]

    def test_a_reader_does_not_wait_for_a_writer(self, sql: SqlStore, tmp_path: Path) -> None:
        other = SqlStore(url_of(tmp_path))
        with sql.begin() as writing:
            writing.events.append(EVENT)
            with other.begin(write=False) as reading:
                assert reading.events.since(DIR) == ()
        with other.begin(write=False) as reading:
            assert len(reading.events.since(DIR)) == 1
        other.close()

    def test_the_database_is_kept_as_it_should_be(self, sql: SqlStore) -> None:
        with sql.begin() as transaction:
            connection = transaction.events._connection  # type: ignore[attr-defined]
            told = [
                connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()
                for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
            ]
        assert told == ["wal", 2, 1, 30_000]

    def test_only_what_is_durable_waits_for_the_disk(self, sql: SqlStore) -> None:
        for durable in (False, True, False, False, True):
            with sql.begin(durable=durable) as transaction:
                transaction.calls.save(CALL)
                connection = transaction.events._connection  # type: ignore[attr-defined]
                assert connection.exec_driver_sql("PRAGMA synchronous").scalar_one() == (2 if durable else 1)
            with sql.begin(write=False) as transaction:
                assert transaction.calls.get(CALL.id) == CALL

    def test_a_claim_reads_only_the_live_steps_of_its_side(self, sql: SqlStore) -> None:
        with sql.begin() as transaction:
            steps: Any = transaction.steps
            oldest = steps._oldest(Side.WRITE, 1.0, None)
            query = str(oldest.compile(steps._connection.engine, compile_kwargs={"literal_binds": True}))
            plan = steps._connection.exec_driver_sql(f"EXPLAIN QUERY PLAN SELECT {query}").all()
        searches = [row[-1] for row in plan if "steps" in row[-1]]
        assert len(searches) == 2, plan
        assert all("INDEX ix_steps_side_state_" in one for one in searches), plan

    def test_executions_are_counted_without_reading_them(self, sql: SqlStore) -> None:
        with sql.begin() as transaction:
            connection = transaction.events._connection  # type: ignore[attr-defined]
            query = "SELECT kind, state, verdict, count(*) FROM executions GROUP BY kind, state, verdict"
            plan = [row[-1] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {query}").all()]
        assert plan == ["SCAN executions USING COVERING INDEX ix_executions_kind_state_verdict"]

    def test_a_full_disk_is_called_one(self, sql: SqlStore) -> None:
        long = dataclasses.replace(make_direction(), text="x" * 1_000_000)
        with sql.begin() as transaction:
            connection = transaction.events._connection  # type: ignore[attr-defined]
            pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
            connection.exec_driver_sql(f"PRAGMA max_page_count = {pages + 10}")
        with (
            pytest.raises(StoreUnavailableError, match="The disk of the database is full"),
            sql.begin() as transaction,
        ):
            transaction.directions.save(long)

    @pytest.mark.parametrize("url", ["nonsense", "mysql://x/y", "sqlite://", "sqlite:///:memory:"])
    def test_an_unusable_address_is_refused_in_one_sentence(self, url: str) -> None:
        with pytest.raises(BadInputError):
            SqlStore(url)

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files for others")
    def test_a_user_goes_on_with_a_database_that_root_made(self) -> None:
        user = 54321
        with tempfile.TemporaryDirectory(dir="/tmp") as name:
            folder = Path(name)
            os.chown(folder, user, user)
            store = open_store(f"sqlite:///{folder / 'store.db'}")
            with store.begin() as transaction:
                transaction.directions.save(make_direction())
            files = list(folder.iterdir())
            assert {path.name for path in files} == {"store.db", "store.db-shm", "store.db-wal"}
            assert {(path.stat().st_uid, path.stat().st_mode & 0o777) for path in files} == {(user, 0o600)}
            script = (
                "import sqlite3,sys\nc=sqlite3.connect(sys.argv[1])\nc.execute('DELETE FROM directions')\nc.commit()"
            )
            python = next(path for path in (Path("/usr/bin/python3"), Path(sys.executable)) if path.exists())
            try:
                subprocess.run([python, "-c", script, folder / "store.db"], user=user, cwd="/", check=True)
            except PermissionError:
                pytest.skip("no Python that another user may start")
            with store.begin() as transaction:
                assert transaction.directions.find() == ()
            store.close()


class TestClocks:
    @pytest.mark.parametrize("clock", [SystemClock(), FixedClock()], ids=["system", "fixed"])
    def test_ids_grow_and_never_repeat(self, clock: SystemClock | FixedClock) -> None:
        from fumehood.domain.ids import ID

        with ThreadPoolExecutor(4) as pool:
            batches = list(pool.map(lambda _: [clock.new_id("dir") for _ in range(500)], range(4)))
        made = [key for batch in batches for key in batch]
        assert len(set(made)) == 2000
        assert all(batch == sorted(batch) for batch in batches)
        assert all(ID.match(key) for key in made)

    def test_a_fixed_clock_moves_only_when_told(self) -> None:
        clock = FixedClock(5.0)
        assert clock.now() == 5.0
        clock.advance(1.5)
        assert clock.now() == 6.5

    def test_the_system_clock_tells_the_time(self) -> None:
        assert SystemClock().now() > 1_700_000_000.0
