"""Prefect's server as this project starts it: on SQLite, too, nobody is told that the database is locked."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa
from prefect.server.api.server import is_client_retryable_exception

from responder.server import WritersTakeTurns
from tests.lab_runs import save_unreachable
from tests.prefect_api import client, csrf_headers


def test_who_starts_runs_at_the_same_moment_as_others_is_not_sent_away(installation):
    service = save_unreachable("crowd")
    run = {
        "parameters": {"summary": "It seems slow", "service": service},
        "state": {"type": "SCHEDULED", "state_details": {"scheduled_time": "2100-01-01T00:00:00Z"}},
    }

    def start(_: int) -> list[int]:
        with client() as knows:
            path = f"/deployments/{deployment}/create_flow_run"
            headers = csrf_headers(knows)
            return [knows.post(path, json=run, headers=headers).status_code for _ in range(5)]

    with client() as knows:
        deployment = knows.get("/deployments/name/incident/incident").raise_for_status().json()["id"]
    with ThreadPoolExecutor(8) as crowd:
        answers = [status for each in crowd.map(start, range(8)) for status in each]
    assert answers == [201] * 40


@pytest.fixture
def count(tmp_path):
    """A table with a number in it, as Prefect opens its database; what is called with a coroutine runs it."""
    database = WritersTakeTurns(f"sqlite+aiosqlite:///{tmp_path / 'prefect.db'}", patience_s=2)

    def played(what):
        async def all_of_it():
            engine = await database.engine()
            async with engine.begin() as connection:
                await connection.execute(sa.text("create table number (value int)"))
                await connection.execute(sa.text("insert into number values (0)"))
            await what(database, engine)
            async with engine.connect() as connection:
                return (await connection.execute(sa.text("select value from number"))).scalar_one()

        return asyncio.run(all_of_it())

    return played


async def add_one(session):
    value = (await session.execute(sa.text("select value from number"))).scalar_one()
    await asyncio.sleep(0.01)
    await session.execute(sa.text("update number set value = :value"), {"value": value + 1})


async def add_one_in_a_transaction(database, engine):
    async with await database.session(engine) as session, database.begin_transaction(session):
        await add_one(session)


def test_what_is_read_before_it_is_written_is_read_in_turn(count):
    async def twenty(database, engine):
        await asyncio.gather(*[add_one_in_a_transaction(database, engine) for _ in range(20)])

    assert count(twenty) == 20


def test_one_that_fails_leaves_the_turn_to_the_next(count):
    async def add_one_and_fail(database, engine):
        async with await database.session(engine) as session, database.begin_transaction(session):
            await add_one(session)
            raise ConnectionError

    async def fails(database, engine):
        with pytest.raises(ConnectionError):
            await add_one_and_fail(database, engine)
        await add_one_in_a_transaction(database, engine)

    assert count(fails) == 1


def test_who_waits_too_long_for_its_turn_is_told_to_come_again(count):
    async def two_wait_for_each_other(database, engine):
        began = asyncio.Event()

        async def second():
            await began.wait()
            await add_one_in_a_transaction(database, engine)

        other = asyncio.create_task(second())
        async with await database.session(engine) as session, database.begin_transaction(session):
            await add_one(session)
            began.set()
            with pytest.raises(sa.exc.OperationalError) as told:
                await other
            assert is_client_retryable_exception(told.value)
        await add_one_in_a_transaction(database, engine)

    assert count(two_wait_for_each_other) == 2


def test_a_transaction_within_another_does_not_wait_for_it(count):
    async def nested(database, engine):
        async with await database.session(engine) as outer, database.begin_transaction(outer):
            await asyncio.gather(read(database, engine), read(database, engine))
            await add_one(outer)

    async def read(database, engine):
        async with await database.session(engine) as inner, database.begin_transaction(inner):
            await inner.execute(sa.text("select value from number"))

    assert count(nested) == 1
