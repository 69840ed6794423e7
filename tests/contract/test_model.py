"""What any sequence of calls does to a run, against a model of a few lines."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streambridge_app import END_SENTINEL, HEARTBEAT_SENTINEL, StreamBridge, StreamEvent
from streambridge_app.exceptions import RunEnded, RunExists, RunNotFound
from tests.conftest import STACKS
from tests.contract.clients import deadline, replay
from tests.contract.conftest import DATABASE_STACKS

READERS = 2
HEARTBEAT = 0.03

publishes = st.tuples(st.just("publish"), st.integers(1, 5))
pipelines = st.tuples(st.just("pipeline"), st.integers(1, 12))
reads = st.tuples(st.just("read"), st.integers(0, READERS - 1), st.integers(1, 8))
reconnects = st.tuples(st.just("reconnect"), st.integers(0, READERS - 1))
keyed = st.tuples(st.just("keyed"), st.integers(1, 4))
trims = st.tuples(st.just("trim"), st.integers(0, 6))
others = st.sampled_from([("end",), ("cleanup",), ("create",), ("cancel",)])
operations = st.lists(
    st.one_of(
        publishes, publishes, pipelines, keyed, reads, reads, reads, reconnects, trims, others
    ),
    max_size=25,
)


@dataclasses.dataclass
class Incarnation:
    epoch: int
    data: list[int] = dataclasses.field(default_factory=list)
    keys: set[int] = dataclasses.field(default_factory=set)
    floor: int = 0
    floors: set[int] = dataclasses.field(default_factory=lambda: {0})
    """All that the floor has been: a reader may be told of an earlier one first."""
    ended: bool = False
    deleted: bool = False

    @property
    def head(self) -> int:
        return len(self.data)

    def id(self, seq: int) -> str:
        return f"{self.epoch}-{seq}"


class Model:
    """A run id, its incarnations so far, and what every call must answer."""

    def __init__(self, bridge: StreamBridge, run_id: str) -> None:
        self.bridge = bridge
        self.run_id = run_id
        self.incarnations: list[Incarnation] = []
        self.readers = [Reader(self) for _ in range(READERS)]
        self.numbers = itertools.count()

    @property
    def run(self) -> Incarnation | None:
        newest = self.incarnations[-1] if self.incarnations else None
        return None if newest is None or newest.deleted else newest

    async def _made(self) -> Incarnation:
        if self.run is None:
            epoch = (await self.bridge.get_run(self.run_id)).epoch
            assert all(epoch > earlier.epoch for earlier in self.incarnations)
            self.incarnations.append(Incarnation(epoch))
        assert self.run is not None
        return self.run

    async def publish(self, count: int) -> None:
        for _ in range(count):
            number = next(self.numbers)
            if self.run is not None and self.run.ended:
                with pytest.raises(RunEnded):
                    await self.bridge.publish(self.run_id, "number", number)
            else:
                await self.bridge.publish(self.run_id, "number", number)
                (await self._made()).data.append(number)

    async def keyed(self, key: int) -> None:
        number = next(self.numbers)
        publishing = self.bridge.publish(self.run_id, "number", number, key=str(key))
        known = self.run is not None and key in self.run.keys
        if self.run is not None and self.run.ended and not known:
            with pytest.raises(RunEnded):
                await publishing
            return
        await publishing
        run = await self._made()
        if not known:
            run.keys.add(key)
            run.data.append(number)

    async def pipeline(self, count: int) -> None:
        if self.run is not None and self.run.ended:
            return
        handle = self.bridge.producer(self.run_id)
        numbers = [next(self.numbers) for _ in range(count)]
        for number in numbers:
            await handle.publish("number", number)
        await handle.flush()
        (await self._made()).data.extend(numbers)

    async def end(self) -> None:
        await self.bridge.publish_end(self.run_id)
        (await self._made()).ended = True

    async def create(self) -> None:
        if self.run is None:
            await self.bridge.create_run(self.run_id)
            await self._made()
        else:
            with pytest.raises(RunExists):
                await self.bridge.create_run(self.run_id)

    async def trim(self, keep: int) -> None:
        if self.run is None:
            with pytest.raises(RunNotFound):
                await self.bridge.trim(self.run_id, keep=keep)
        else:
            trimmed = max(0, self.run.head - self.run.floor - keep)
            assert await self.bridge.trim(self.run_id, keep=keep) == trimmed
            self.run.floor += trimmed
            self.run.floors.add(self.run.floor)

    async def cancel(self) -> None:
        expected = RunNotFound if self.run is None else RunEnded if self.run.ended else None
        if expected:
            with pytest.raises(expected):
                await self.bridge.request_cancel(self.run_id)
        else:
            await self.bridge.request_cancel(self.run_id)

    async def cleanup(self) -> None:
        await self.bridge.cleanup(self.run_id)
        if self.run is not None:
            self.run.deleted = True

    async def read(self, reader: int, count: int) -> None:
        await self.readers[reader].read(count)

    async def reconnect(self, reader: int) -> None:
        await self.readers[reader].disconnect()

    async def check_state(self) -> None:
        if self.run is None:
            with pytest.raises(RunNotFound):
                await self.bridge.get_run(self.run_id)
            return
        state = await self.bridge.get_run(self.run_id)
        assert (state.epoch, state.head, state.ended) == (
            self.run.epoch,
            self.run.head,
            self.run.ended,
        )
        assert state.earliest == (self.run.floor + 1 if self.run.head > self.run.floor else None)

    async def check_replays(self) -> None:
        """Read the ended run from every cursor that any reader ever may have."""
        run = self.run
        assert run is not None
        for cursor in [None, *(old.id(1) for old in self.incarnations[:-1])]:
            await self._check_replay(cursor, run.floor, gap=cursor is not None or run.floor > 0)
        for seq in range(run.floor, run.head + 2):  # the last one is the end's own cursor
            await self._check_replay(run.id(seq), min(seq, run.head), gap=False)
        for seq in (run.floor - 1, run.head + 2):
            if seq >= 0:
                await self._check_replay(run.id(seq), run.floor, gap=True)

    async def _check_replay(self, cursor: str | None, after: int, *, gap: bool) -> None:
        run = self.run
        assert run is not None
        items = await replay(self.bridge, self.run_id, after=cursor)
        if gap:
            assert items.pop(0).data == {
                "requested": cursor,
                "earliest": run.id(run.floor + 1) if run.head > run.floor else None,
                "latest": run.id(run.head) if run.head else None,
            }
        assert [(item.id, item.data) for item in items] == [
            (run.id(seq), run.data[seq - 1]) for seq in range(after + 1, run.head + 1)
        ]


class Reader:
    """A client that comes and goes; it judges every item it gets."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.last: str | None = None
        """The cursor to come back with."""
        self.run: Incarnation | None = None
        """What it reads; None while it can't know."""
        self.seq = 0
        self._items = None
        self._deletions = 0
        """How many incarnations were gone when it connected."""

    def _gone(self) -> int:
        return sum(run.deleted for run in self.model.incarnations)

    def _due(self) -> bool:
        """Say whether the bridge owes it an item."""
        run = self.model.run
        if self._gone() > self._deletions:
            return self.run is not None or run is not None
        if run is None:
            return False
        return run.ended or run.head > (self.seq if self.run is run else run.floor)

    async def read(self, count: int) -> None:
        if self._items is None:
            self._items = self.model.bridge.subscribe(
                self.model.run_id, last_event_id=self.last, heartbeat_interval=HEARTBEAT
            )
            self._deletions = self._gone()
            if self.run is not self.model.run:
                self.run = None
        while count:
            async with deadline():
                item = await anext(self._items)
            if item is HEARTBEAT_SENTINEL:
                if not self._due():
                    return
            elif item is END_SENTINEL:
                self._check_end()
                await self.disconnect()
                return
            else:
                self._check(item)
                count -= 1

    async def disconnect(self) -> None:
        if self._items is not None:
            await self._items.aclose()
            self._items = None

    def _check_end(self) -> None:
        run = self.run or self.model.run
        if self._gone() == self._deletions:
            assert run is not None
            assert run.ended
            assert self.run is None or self.seq == run.head

    def _check(self, item: StreamEvent) -> None:
        if item.event == "__gap__":
            self._check_gap(item)
            return
        epoch, seq = map(int, item.id.split("-"))
        (run,) = (run for run in self.model.incarnations if run.epoch == epoch)
        if self.run is None:
            assert self.last is None, "a cursor of another incarnation gets a gap first"
            self.seq = seq - 1 if seq - 1 == run.floor == 0 else 0
        assert self.run in {None, run} or self._gone() > self._deletions
        assert seq == self.seq + 1
        assert item.data == run.data[seq - 1]
        self.run, self.seq, self.last = run, seq, item.id

    def _check_gap(self, item: StreamEvent) -> None:
        latest, earliest = item.data["latest"], item.data["earliest"]
        runs = {run.epoch: run for run in self.model.incarnations}
        if earliest is not None:
            run = runs[int(earliest.split("-")[0])]
            self.seq = int(earliest.split("-")[1]) - 1
            assert self.seq in run.floors
        elif latest is not None:
            run = runs[int(latest.split("-")[0])]
            self.seq = int(latest.split("-")[1])
        else:  # of a run without an event
            assert self.model.run is not None or self._gone() > self._deletions
            run, self.seq = self.model.incarnations[-1], 0
        whole = self.last is None or self.last.startswith(f"{run.epoch}-")
        assert not whole or run.floor > 0 or run.deleted
        self.run, self.last = run, run.id(self.seq)

    __hash__ = object.__hash__


Incarnation.__hash__ = object.__hash__  # type: ignore[method-assign]
run_ids = (f"model-{number}" for number in itertools.count())


async def _drive(bridge: StreamBridge, steps: list[tuple]) -> None:
    model = Model(bridge, next(run_ids))
    for step, *arguments in steps:
        await getattr(model, step)(*arguments)
    await model.check_state()
    await model.end()
    for reader in model.readers:
        await reader.read(1000)
        await reader.disconnect()
    await model.check_replays()


@pytest.mark.parametrize("stack", [STACKS[0]], indirect=True)
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(steps=operations)
async def test_the_memory_backend_follows_the_model(bridge, steps):
    await _drive(bridge, steps)


@pytest.mark.parametrize("stack", [DATABASE_STACKS[0]], indirect=True)
@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(steps=operations)
async def test_the_channel_layer_backend_follows_the_model(bridge, steps):
    await _drive(bridge, steps)
