"""What went wrong in others' caches, by their threads."""

from __future__ import annotations

import handoff_dask as handoff
from handoff_dask import Function, Retry


class Unseen(list):
    """A list on which no result depends."""

    def __handoff_value__(self):
        return None


attempts, ran = Unseen(), Unseen()


def flaky(n):
    attempts.append(n)
    if attempts.count(n) < 3:
        raise OSError("preempted")
    ran.append(n)
    return n


def gather(*values):
    return sum(values)


def job(**fields):
    return [
        *[Function(n, [], flaky, extra_args=[n], **fields) for n in range(3)],
        Function("all", [0, 1, 2], gather),
    ]


def test_what_succeeded_in_a_later_attempt_is_found_again(tmp_path):
    """Attempts are no part of a fingerprint, nor is what an earlier run has tried (nextflow#6884)."""
    attempts.clear(), ran.clear()
    first = handoff.execute_local(job(), cache=tmp_path)
    again = handoff.execute_local(job(), cache=tmp_path)

    assert (first.results, first.reused) == (again.results, frozenset())
    assert again.reused == {0, 1, 2, "all"}
    assert sorted(ran) == [0, 1, 2]


def test_more_memory_time_or_retries_are_no_other_function(tmp_path):
    """Whoever gives a failed function more room keeps all the others (nextflow#1629)."""
    attempts.clear()
    handoff.execute_local(job(), cache=tmp_path)
    more = job(cost={"cpu": 2, "memory": "8GB"}, retry=Retry(9), timeout=3600.0, priority=4, duration=7.0)

    assert handoff.execute_local(more, cache=tmp_path).reused == {0, 1, 2, "all"}


def test_the_order_in_which_results_come_does_not_matter(tmp_path):
    """Arguments enter in the order of the DAG, not in that of their ends."""
    attempts.clear()
    handoff.execute_local(job(), cache=tmp_path)
    shuffled = list(reversed(job()))

    assert handoff.execute_local(shuffled, cache=tmp_path).reused == {0, 1, 2, "all"}


def test_a_place_that_fsspec_knows_and_its_options():
    """A cache in memory keeps what this process computes."""
    attempts.clear()
    cache = handoff.Cache("memory://lessons", storage_options={"use_listings_cache": False})
    handoff.execute_local(job(), cache=cache)

    assert handoff.execute_local(job(), cache="memory://lessons").reused == {0, 1, 2, "all"}
