"""PostgreSQL under the pipeline: it carries a direction, is restarted meanwhile, and says when it is away."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from pathlib import Path

import pytest
from sqlalchemy import NullPool, create_engine

from fumehood.cli.servers import lasting_port
from fumehood.domain.direction import DirectionState
from fumehood.errors import BadInputError, MachineUnfitError, StoreUnavailableError
from fumehood.services import steps
from fumehood.store.engine import PLANNED_AFTER
from fumehood.store.migrate import upgrade
from fumehood.store.sql import SqlStore
from tests.fakes.laboratory import Laboratory
from tests.fakes.postgres import PostgresServer, postgres_server


def test_a_direction_is_carried_out_on_postgresql(postgres: PostgresServer, tmp_path: Path) -> None:
    store = SqlStore(postgres.migrated())
    lab = Laboratory(tmp_path, store=store)
    try:
        lab.submit()
        lab.go_on()
        assert lab.direction().state is DirectionState.DONE, lab.told()
    finally:
        lab.artifacts.close()
        store.close()


def cut_off(store: SqlStore, server: PostgresServer) -> None:
    """Write, and lose the server before the commit."""
    with store.begin() as tx:
        direction = tx.directions.find()[0]
        tx.directions.save(dataclasses.replace(direction, error="never committed"))
        server.stop()
        tx.directions.get(direction.id)


def test_a_restart_in_the_middle_loses_nothing(tmp_path: Path) -> None:
    with postgres_server(lasting_port()) as server:
        store = SqlStore(server.migrated())
        lab = Laboratory(tmp_path, store=store)
        try:
            lab.submit()
            lab.go_on_to("propose")
            with pytest.raises(StoreUnavailableError, match="does not answer"):
                cut_off(store, server)
            with pytest.raises(StoreUnavailableError) as told:
                steps.advance(lab.write)
            assert "\n" not in str(told.value)
            assert told.value.exit_status == 3
            server.start()
            assert lab.direction().error == ""
            lab.go_on()
            assert lab.direction().state is DirectionState.DONE, lab.told()
        finally:
            lab.artifacts.close()
            store.close()


def test_a_step_whose_database_went_away_is_let_go_and_done_again(tmp_path: Path) -> None:
    with postgres_server(lasting_port()) as server:
        store = SqlStore(server.migrated())
        lab = Laboratory(tmp_path, store=store)
        usual = lab.model.answer

        def away(*_: object) -> None:
            raise StoreUnavailableError("The database does not answer.")

        try:
            lab.submit()
            lab.go_on_to("propose")
            lab.model.answer = away  # type: ignore[method-assign, assignment]
            with pytest.raises(StoreUnavailableError):
                steps.advance(lab.write)
            lab.model.answer = usual  # type: ignore[method-assign]
            lab.go_on()
            assert lab.direction().state is DirectionState.DONE, lab.told()
        finally:
            lab.artifacts.close()
            store.close()


def test_a_step_is_let_go_once_its_database_is_back(tmp_path: Path) -> None:
    with postgres_server(lasting_port()) as server:
        store = SqlStore(server.migrated())
        lab = Laboratory(tmp_path, store=store)

        def cut(*_: object) -> None:
            server.stop()
            raise StoreUnavailableError("The database does not answer.")

        def claimed_until() -> list[float]:
            with store.begin(write=False) as tx:
                return [one.lease_until for one in tx.steps.find(name="propose")]

        try:
            lab.submit()
            lab.go_on_to("propose")
            lab.model.answer = cut  # type: ignore[method-assign]
            with pytest.raises(StoreUnavailableError):
                steps.advance(lab.write)
            server.start()
            deadline = time.monotonic() + 10
            while claimed_until() != [lab.clock.now()]:
                assert time.monotonic() < deadline, claimed_until()
                time.sleep(0.05)
        finally:
            lab.artifacts.close()
            store.close()


def test_only_what_is_durable_waits_for_the_disk(postgres: PostgresServer) -> None:
    store = SqlStore(postgres.migrated())
    with store.begin() as tx:
        # The server of tests waits for no disk.
        tx.events._connection.exec_driver_sql("SET synchronous_commit TO on")  # type: ignore[attr-defined]
    for durable in (False, True, False):
        with store.begin(durable=durable) as tx:
            [said] = tx.events._connection.exec_driver_sql("SHOW synchronous_commit").one()  # type: ignore[attr-defined]
            assert said == ("on" if durable else "off")
    store.close()


def test_a_wrong_password_is_one_sentence_without_it(postgres: PostgresServer) -> None:
    url = postgres.empty().replace("tests:", "tests:secretly-wrong")
    with pytest.raises(MachineUnfitError, match="cannot be used") as told:
        upgrade(url)
    assert "secretly" not in str(told.value)
    assert "\n" not in str(told.value)


def _read_often(store: SqlStore) -> None:
    for _ in range(2 * PLANNED_AFTER):
        with store.begin(write=False) as tx:
            tx.switches.find(id="local")


def test_a_plan_that_a_migration_outdates_is_made_again(postgres: PostgresServer) -> None:
    url = postgres.migrated()
    store = SqlStore(url)
    try:
        _read_often(store)
        with create_engine(url, poolclass=NullPool).begin() as other:
            other.exec_driver_sql("ALTER TABLE switches ALTER COLUMN id TYPE text")
        with pytest.raises(StoreUnavailableError, match="cached plan"):
            _read_often(store)
        _read_often(store)
    finally:
        store.close()


def test_a_plan_that_is_lost_is_made_again(postgres: PostgresServer) -> None:
    store = SqlStore(postgres.migrated())
    try:
        _read_often(store)
        _lose_plans(store)
        with pytest.raises(StoreUnavailableError, match="prepared statement"):
            _read_often(store)
        _read_often(store)
    finally:
        store.close()


def test_plans_are_not_kept_where_the_address_says_so(postgres: PostgresServer) -> None:
    url = postgres.migrated()
    query = f"{url}{'&' if '?' in url else '?'}prepare_threshold="
    store = SqlStore(f"{query}none")
    try:
        _read_often(store)
        _lose_plans(store)
        _read_often(store)
    finally:
        store.close()
    with pytest.raises(BadInputError, match="prepare_threshold"):
        SqlStore(f"{query}often")


def _lose_plans(store: SqlStore) -> None:
    """Let the server forget its plans unseen by the driver, as a proxy does that hands on another session."""
    with contextlib.closing(store._engine.raw_connection()) as used:
        used.cursor().execute("DO $$ BEGIN EXECUTE 'DEALLOCATE ALL'; END $$")
