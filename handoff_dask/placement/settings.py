"""The numbers by which the engine decides, each with its reason."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """All numbers of the engine.  The defaults are those it runs with on a cluster.

    Examples
    --------
    >>> EngineSettings(prefetch_limit=8).prefetch_queues
    4
    """

    # Prefetching

    #: Time from the end of a function to the start of the next one that is placed because of it, in
    #: seconds.  Functions that take no longer are *short* and prefetched.  On a busy machine a round
    #: trip of some milliseconds becomes many: with 20 ms nodes ran dry, with 40 ms they did not.
    round_trip_s: float = 0.04
    #: The most short functions that are prefetched per slot of a prefetch queue.  Functions that take
    #: no time would else be sent without end; with 64 nodes ran dry, for in one round trip of a busy
    #: machine hundreds of no-ops end.
    prefetch_limit: int = 512
    #: The most prefetch queues that a node has open.  Each needs a lane of its own on the
    #: worker (``protocol/names.py``).  Not measured: more than four demands of short functions at once
    #: are rare.
    prefetch_queues: int = 4
    #: A prefetch queue is not continued past the first function of another queue that could use the
    #: node.  So many waiting queues are looked at for it.
    prefetch_looks: int = 64
    #: A short function is prefetched to its preferred node unless that holds more than so many times
    #: as many functions per slot, and so many more, as the emptiest one.  Not measured: functions
    #: follow their arguments, and no node runs dry.
    preferred_times: float = 2.0
    preferred_more: float = 4.0
    #: How long before the expected end of a function the next one is sent that takes over its room, in
    #: seconds; 0 for never.  Long enough for a message on a busy machine, and short beside functions
    #: that are not short: those that are bound early are bound by so little.
    timed_prefetch_lead_s: float = 0.02
    #: The most functions of a node that may be followed so.  Each needs a lane of its own on
    #: the worker, of which there are 48 for both kinds of prefetching and for threads that linger.
    timed_prefetches: int = 28
    #: How far off expected ends are thought to be before any has been seen, in shares of durations.
    #: With a lead of 20 ms, no function of more than 0.1 s is followed until expectations proved good.
    timed_prefetch_doubt: float = 0.2
    #: So many queues are tried for one whose head may take over.
    timed_prefetch_tries: int = 4
    #: Weight of the latest value in running means of errors and durations.
    mean_weight: float = 0.1

    # Backfill reservations

    #: The first in order that has no room gets a node reserved if it takes so long, in seconds.  For
    #: shorter ones, looking for a node takes longer than it would gain.  With it the makespans of the 19
    #: workflows, simulated without a round trip, are 1.8 % shorter in geometric mean.
    reserve_from_s: float = 0.05
    #: A node is reserved for the first in order if no more than so many nodes could hold it: they all
    #: are looked at, and among more nodes gaps are short.
    reserve_among: int = 64
    #: A function may delay the one that a node is reserved for by so many seconds, and by this share
    #: of its own duration.  Expected durations are no better than that.
    backfill_grace_s: float = 0.02
    backfill_grace: float = 0.1
    #: A reservation for the first in order ends when its function is so many seconds late, and by this
    #: share of what it was expected to wait: then expectations have proved wrong.
    reservation_late_s: float = 0.1
    reservation_late: float = 0.5
    #: So many functions at the head of a queue are looked at for one that may start on a reserved node.
    backfill_depth: int = 16

    # Aging

    #: No function has waited too long before this, in seconds.
    aging_floor_s: float = 1.0
    #: After how many durations (its own or the typical one) a demand has been passed over too long.
    #: With less, adversarial cases get better and real workflows worse; both were tried
    #: (``docs/scheduling.md``, "Limits").
    aging_factor: float = 4.0
    #: After how many such times the function that has waited longest goes before all others.
    oldest_first_factor: float = 4.0
    #: One node in so many may be reserved at a time (but always one).
    reserved_share: int = 8
    #: Of the nodes that could hold a function, so many with least missing are looked at closely.
    reserve_looks: int = 64

    # Data

    #: Moving a function's arguments is no matter if it takes less, in seconds; ``handoff.transfer-floor``.
    transfer_floor_s: float = 0.01
    #: What a move takes until something is measured: bytes per second (Dask's configured bandwidth), and
    #: seconds besides.
    bandwidth: float = 100e6
    latency_s: float = 0.001
    #: So many nodes that have a piece of data are looked at as its source, and so many nodes with room
    #: are compared by what moving a function's arguments there takes.  It bounds the work per event.
    data_looks: int = 8
    #: So many functions whose data is elsewhere are passed over when a node is freed that has others to run
    #: whose data is there; then only these are looked at.  It bounds the work per event: with 4 nothing moved
    #: less, and deciding took a tenth longer.
    data_tries: int = 2
    #: A function that waits for the node that has its data goes elsewhere after so many times as long as the
    #: move takes, however soon it is expected to start.  Each wait is shorter than the move, but those
    #: that begin at that node before it may prove that wrong, one after another.
    data_patience: float = 4.0
    #: Arguments move ahead of a function that waits for others of them, if it takes at least so many and this
    #: share of them is known (:mod:`~handoff_dask.placement.gathering`).  With fewer, where it will run is a
    #: guess.
    gathered_arguments: int = 4
    gathered_share: float = 0.25
    #: Data that more functions take does not move ahead: they will run on most nodes.
    gathered_dependents: int = 16
    #: A node whose memory is fuller than this (Dask's ``distributed.worker.memory.target``) is avoided by
    #: functions that free no data.
    memory_target: float = 0.6

    # Finding nodes

    #: With more freed nodes than this every waiting queue looks at all nodes instead.
    few_freed: int = 16
    #: With fewer nodes than this each resource request keeps its own order by load; with more, requests
    #: share one order per resource (``python -m benchmarks engine`` has a case of 1,000 nodes).
    many_nodes: int = 64
    #: So many of the least used nodes are looked at before a request's own order is asked.
    least_loaded_looks: int = 64
    #: How many nodes are looked at to tell a lack of threads from a lack of room.
    cause_looks: int = 8
    #: Up to how many nodes are counted one by one when a placement reports how many had room.
    counted_nodes: int = 16


#: What the engine runs with unless it is told otherwise.
DEFAULT_SETTINGS = EngineSettings()
