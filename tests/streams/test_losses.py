"""Whole pipelines without a cluster: messages in any order, workers lost at any time."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from handoff_dask.client.stream_window import Window
from handoff_dask.worker.stage_items import StageItems

ITEMS = 12


class Pipeline:
    """Two stages in a row beside a third, and one that joins them; what they do with items is real."""

    #: ``{stage: (who it takes from, who takes it from slot)}``; -1 is the client.
    TARGETS = ([(2, 0)], [(3, 1)], [(3, 0)], [(-1, 0)])
    SLOTS = (1, 1, 1, 2)
    SOURCES = (0, 1)

    def __init__(
        self, parallelism: list[int], stateful: list[bool], keeps: list[bool], batch: int | None
    ) -> None:
        self.parallelism, self.stateful, self.keeps, self.batch = parallelism, stateful, keeps, batch
        self.window = Window([False], ITEMS, ordered=True)
        self.workers = {(s, w): self.new(s, w) for s in range(4) for w in range(parallelism[s])}
        #: On their way: ``(stage, slot, number)``.
        self.messages: list[tuple[int, int, int]] = []
        #: How often each worker has worked on an item, since it began.
        self.worked: Counter[tuple[int, int, int]] = Counter()
        self.out: list[int] = []

    def new(self, stage: int, worker: int) -> StageItems:
        return StageItems(
            [False] * self.SLOTS[stage],
            worker=worker,
            parallelism=self.parallelism[stage],
            batch_size=self.batch if stage == 3 else None,
            in_order=self.stateful[stage],
        )

    def push(self, number: int) -> None:
        self.messages += [(stage, 0, number) for stage in self.SOURCES]

    def send(self, stage: int, number: int) -> None:
        self.messages += [(target, slot, number) for target, slot in self.TARGETS[stage]]

    def deliver(self, at: int) -> None:
        stage, slot, number = self.messages.pop(at)
        if stage == -1:
            self.window.arrive(number, 0, number)
            while (taken := self.window.take()) is not None:
                self.out.append(taken[0])
            return
        self.workers[stage, number % self.parallelism[stage]].arrive(number, slot, "value", 0)

    def work(self, stage: int, worker: int) -> None:
        items = self.workers[stage, worker]
        for ready in items.take(0):
            self.worked[stage, worker, ready.number] += 1
            if items.settle(ready.number, "result", 0):
                self.send(stage, ready.number)
                if not self.keeps[stage] and not self.stateful[stage]:
                    items.keep(ready.number, None)

    def tell_done(self) -> None:
        for items in self.workers.values():
            items.done(self.window.watermark, self.window.done_above(), 0)

    def lose(self, stage: int, worker: int, kept_messages: list[bool]) -> None:
        """Its messages are gone, some of others too; then come new routes."""
        lost = (stage, worker)
        self.messages = [
            message
            for message, is_kept in zip(self.messages, kept_messages, strict=True)
            if is_kept and (message[0], message[2] % self.parallelism[message[0]]) != lost
        ]
        for key in [key for key in self.worked if key[:2] == lost]:
            del self.worked[key]
        self.workers[lost] = self.new(*lost)
        self.tell_done()
        for (of, _), items in self.workers.items():
            for number, _ in items.again():
                self.send(of, number)
        for number in self.window.unfinished:
            self.push(number)


@settings(max_examples=60)
@given(st.data())
def test_nothing_is_lost_or_doubled_whatever_goes(data):
    """As a plain loop gives it; a worker that stays does an item again only if nothing was kept."""
    draw = data.draw
    parallelism = [draw(st.integers(1, 2), label="parallelism") for _ in range(4)]
    stateful = [draw(st.booleans(), label="stateful") for _ in range(4)]
    keeps = [draw(st.booleans(), label="keeps") for _ in range(4)]
    pipeline = Pipeline(parallelism, stateful, keeps, draw(st.sampled_from([None, 2])))
    for number in range(ITEMS):
        assert pipeline.window.push(number) == number
        pipeline.push(number)
    losses = 0
    for _ in range(draw(st.integers(0, 60))):
        keys = sorted(pipeline.workers)
        what = draw(st.sampled_from(["deliver", "deliver", "work", "work", "done", "lose"]))
        if what == "deliver" and pipeline.messages:
            pipeline.deliver(draw(st.integers(0, len(pipeline.messages) - 1)))
        elif what == "work":
            pipeline.work(*draw(st.sampled_from(keys)))
        elif what == "done":
            pipeline.tell_done()
        elif what == "lose" and losses < 3:
            losses += 1
            count = len(pipeline.messages)
            pipeline.lose(
                *draw(st.sampled_from(keys)), draw(st.lists(st.booleans(), min_size=count, max_size=count))
            )
    for _ in range(10 * ITEMS):  # whatever is left goes its way
        if len(pipeline.out) == ITEMS:
            break
        while pipeline.messages:
            pipeline.deliver(0)
        for stage, worker in sorted(pipeline.workers):
            pipeline.workers[stage, worker].flush()
            pipeline.work(stage, worker)
    assert pipeline.out == list(range(ITEMS))
    for (stage, _, number), times in pipeline.worked.items():
        assert times == 1 or not (keeps[stage] or stateful[stage]), (stage, number, times)
