"""Long random courses of events under load: what short ones do not get to."""

from __future__ import annotations

import random

import pytest

from handoff_dask.placement.demand import DataArgument
from tests.placement.test_any_course_of_events import COSTS, NODES, AnyCourse

STRATEGIES = ["first_available", "load_balanced", "cost_optimized", "fastest", "select", "picky", "allocate"]


class Wanderer:
    """Takes the steps of :class:`AnyCourse` at random, keeping the nodes busy."""

    def __init__(self, seed):
        self.rng = random.Random(seed)
        self.course = AnyCourse()
        self.runs = []

    def capabilities(self):
        rng = self.rng
        more = {"gpu": rng.randint(1, 2), "zone": rng.choice(["eu", "us"]), "price": rng.randint(0, 3)}
        some = {name: value for name, value in more.items() if rng.random() < 0.5}
        return {"cpu": rng.randint(2, 6), "memory": rng.randint(4, 10), **some}

    def nodes(self):
        rng, course, name = self.rng, self.course, self.rng.choice(NODES)
        rng.choice([
            lambda: course.node_joins(name=name, capabilities=self.capabilities(), threads=rng.randint(1, 4)),
            lambda: course.node_joins(name=name, capabilities=self.capabilities(), threads=rng.randint(1, 4)),
            lambda: course.node_leaves(name=name, returning=rng.random() < 0.5),
            lambda: course.node_changes(
                name=name, capabilities=self.capabilities(), threads=3, accepting=rng.random() < 0.8
            ),
            lambda: course.others_claim(
                name=name, key=rng.randint(0, 2), cpu=rng.randint(0, 3), threads=1, seats=rng.randint(0, 1)
            ),
            lambda: course.seats_are_registered(seats=rng.randint(1, 4)),
            lambda: course.others_return(key=rng.randint(0, 2)),
            lambda: course.tasks_wait_elsewhere(client=rng.choice("xz"), waits=rng.random() < 0.5),
        ])()  # fmt: skip

    def open(self):
        rng = self.rng
        run = self.course.run_opens(
            strategy=rng.choice(STRATEGIES),
            confined=rng.choice([None, None, None, {"a": {"cpu": 2}, "tcp://b": {"memory": 4}}]),
            max_concurrency=rng.choice([None, None, 1, 3]),
            timeout_s=rng.choice([0.5, 1000.0]),
            permit=rng.choice([None, None, None, lambda function, node: (function + ord(node)) % 3 > 0]),
            turn=rng.choice([{}, {"client": "x"}, {"client": "y", "share": 3.0}, {"priority": -1}]),
        )
        self.runs.append(run)

    def ready(self):
        rng, cost = self.rng, self.rng.choice(COSTS)
        costs = [rng.choice(COSTS) if rng.random() < 0.5 else cost for _ in range(rng.randint(1, 12))]
        self.course.functions_get_ready(
            run=rng.choice(self.runs),
            costs=costs,
            pin=rng.choice([*[None] * 6, "a", "tcp://b"]),
            group=rng.choice([*[None] * 5, "g", "i"]),
            binds=rng.choice([*[None] * 6, "g", "i"]),
            priority=rng.choice([0, 0, 0, 1]),
            rank=rng.uniform(0, 9),
            duration_s=rng.choice([None, 0.001, 0.01, 0.01, 1.0]),
            certain=rng.random() < 0.5,
            arguments=tuple(self.argument() for _ in range(rng.choice([0, 0, 1, 2]))),
            frees=rng.random() < 0.3,
        )

    def argument(self):
        rng = self.rng
        nodes = tuple(name for name in NODES if rng.random() < 0.4)
        return DataArgument(rng.randint(0, 9), rng.choice([1000, 10_000_000, 200_000_000]), nodes)

    def others(self):
        rng, course, run = self.rng, self.course, self.rng.choice(self.runs)
        rng.choice([
            lambda: course.function_is_withdrawn(pick=rng.randint(0, 99)),
            lambda: course.function_runs_again(pick=rng.randint(0, 99)),
            lambda: course.run_is_ranked(run=run, rank=rng.uniform(0, 9)),
            lambda: course.durations_are_learned(run=run, duration_s=rng.choice([0.001, 0.5])),
            lambda: course.time_passes(later=rng.choice([0.1, 5.0])),
        ])()  # fmt: skip

    def step(self):
        rng, course = self.rng, self.course
        self.runs = [run for run in self.runs if run not in course.failed]
        chance = rng.random()
        if chance < 0.1:
            self.nodes()
        elif not self.runs or (chance < 0.13 and len(self.runs) < 6):
            self.open()
        elif chance < 0.14:
            course.run_closes(run=self.runs.pop(rng.randrange(len(self.runs))))
        elif chance < 0.45 and course.engine.waiting < 100:
            self.ready()
        elif chance < 0.9:
            later = rng.choice([0.0, 0.01, 0.1, 0.1, 0.1, 3.0])
            course.functions_finish(pick=rng.randint(0, 99), later=later, many=rng.randint(1, 4))
        else:
            self.others()
        course.everything_holds()


@pytest.mark.parametrize("seed", range(4))
def test_long_course(seed):
    wanderer = Wanderer(seed)
    for _ in range(250):
        wanderer.step()
    assert len(wanderer.course.log) > 150
    wanderer.course.teardown()
