"""Names under which the scheduler, the workers and the client talk to each other."""

from __future__ import annotations

#: The name of both plugins, and of the scheduler's RPC handler.
NAME = "handoff"

#: RPC, worker to scheduler: what the worker offers.
REPORT = "handoff_report"
#: Stream, scheduler to worker: say when this task's thread is over.
WATCH = "handoff-watch"
#: Stream, worker to scheduler: the thread of a watched task is over.
ENDED = "handoff-ended"
#: Stream, scheduler to worker: report each task of ours that starts (or stop doing so).
REPORT_STARTS = "handoff-report-starts"
#: Stream, worker to scheduler: a task of ours has started.
STARTED = "handoff-started"
#: Stream, worker to scheduler: an attempt of a task of ours has raised.
RAISED = "handoff-raised"
#: Stream, worker to scheduler: lines that an attempt of ours has printed or logged.
LOGGED = "handoff-logged"
#: Stream, worker to scheduler: an attempt has failed for good, and its result says so.
GAVE_UP = "handoff-gave-up"
#: Stream, worker to scheduler: tasks, ours or not, need a result that has come and cannot be read.
UNREADABLE = "handoff-unreadable"

#: Stream, scheduler to worker: say which of these tasks have run for longer than :data:`OVERDUE_S`.
RUNS_LONG = "handoff-runs-long"
#: Stream, worker to scheduler: these have, and for how long.
LONG = "handoff-long"
#: Seconds that a function may run which was expected to be short, before those behind it in its prefetch
#: queue are taken back.  Round trips of a busy machine are shorter; a node that idles as long loses little.
OVERDUE_S = 0.2

#: Stream, worker to scheduler: a task, ours or not, has let go of its thread.
SECEDED = "handoff-seceded"

#: Streams, worker to scheduler: a worker of a pipeline's stage can take items; how stages stand.
STAGE_READY, STAGE_STATS = "handoff-stage-ready", "handoff-stage-stats"

#: What admits functions on a node which were sent ahead: one name for each lane of the node, and for each
#: function of it that may be followed; the rest is to spare.  Workers count them as Dask counts resources.
LANES = tuple(f"{NAME}-lane-{i}" for i in range(48))
#: So many of them are for short functions, of which several are under way; so many for functions
#: that may be followed.
SHORT_LANES, RELAYS = 4, 28
#: How much there is of each lane: divisible by any small number of slots.
LANE_UNITS = 720_720
#: The annotation that tells a task what it takes of which lane.
ADMISSION = "handoff-admission"

#: The annotation that tells a task which attempt it is; absent from the first.
ATTEMPT = "handoff-attempt"
#: The annotation that tells a task which devices of its node it has: ``{"gpu": [indices]}``.
DEVICES = "handoff-devices"
#: The annotation that tells a task why it cannot claim more than it does, if it cannot.
LIMIT = "handoff-limit"
#: The annotation that tells a task what it costs, if that is not what it cost at first.
COST = "handoff-cost-now"
#: Where Dask tells the times of an attempt: ``[processor seconds, megabytes, whether that is exact]``.
USED = "handoff-used"

#: The layer annotation by which the scheduler plugin knows our tasks.
ANNOTATION = "handoff"

#: How the key of a task begins that has no value, and ends when a function has: for what runs after it.
BARRIER = "after:"


def barrier_key(key: str) -> str:
    """The key of the barrier of a function, from the function's own."""
    return f"{BARRIER}{key}"


def is_barrier(key: object) -> bool:
    """Whether a key is that of a barrier."""
    return isinstance(key, str) and key.startswith(BARRIER)


#: The layer annotation with what ``resources=`` cannot say of a cost: labels, the node, the duration.
COST_ANNOTATION = "handoff-cost"


def element_key(key: str, number: int) -> str:
    """The key of a large element of a list that an item of a map takes."""
    return f"element:{number}:{key}"


#: What futures of a finished execution are told whose results are lost with their node.
LOST = "its node is gone, and its execution is over; ask the execution for it to have it computed again"
