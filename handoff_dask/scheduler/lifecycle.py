"""The life of a function on the scheduler: states, events, and what must be done.

:data:`TRANSITIONS` says which event leads from which state to which.  :class:`Lifecycle` applies
one event and answers with actions; it knows neither Dask nor a clock.

=============  =================  =====================  ==========================================
state          event              next state             what must be done
=============  =================  =====================  ==========================================
pending        ArgumentsReady     waiting                offer it to the engine; refuse it if its
                                                         run is over
pending        ArgumentsReady     waiting                after a failure: wait until the next attempt
waiting        WaitOver           the same               offer it to the engine
pending        ArgumentFailed     skipped
skipped        ArgumentsReady     the same               pass the failure on to what it feeds
waiting        Placed             running, prefetched    send it to its node
waiting        Withdrawn          pending                withdraw it from the engine
waiting        GivenUp            failed                 withdraw it from the engine
waiting        Rejected           failed                 fail its task, or give it the failure as its
                                                         result; give its result up if its run is over
prefetched     TurnCame           running
running,       NotTaken           waiting                hold it, return its claim, offer it again
prefetched
running,       Began, Raised      the same
prefetched
running,       Seceded, Paused,   running                return its thread, and its cpu if it is paused;
prefetched     Resuming                                  claim both again
running,       Recalled           the same               take it back from its node
prefetched
running,       Ended              finished               hold it, return its claim
prefetched
running,       FailedForGood      failed                 hold it; return its claim, or keep the claim
prefetched                                               until its thread is over; give its task the
                                                         failure as its result
running,       Dropped            pending, cancelled     hold it; return its claim, or keep the claim
prefetched                                               until its thread is over
finished       ResultLost         the same
finished,      NeededAgain        pending
failed,
cancelled
finished,      ArgumentsReady     waiting                as for pending
failed,
cancelled
=============  =================  =====================  ==========================================
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from handoff_dask.errors import HandoffError
from handoff_dask.protocol.names import USED
from handoff_dask.record.status import FINISHED
from handoff_dask.scheduler.runs import FunctionState
from handoff_dask.scheduler.states import (
    Attempt,
    Cancelled,
    Failed,
    Finished,
    Pending,
    Prefetched,
    Running,
    Skipped,
    Waiting,
    WorkerEnd,
)

# ---------------------------------------------------------------------- events


@dataclass(frozen=True, slots=True)
class ArgumentsReady:
    """Every argument is there, and Dask has parked the task."""


@dataclass(frozen=True, slots=True)
class Placed:
    """The engine has given the function a node."""

    attempt: Attempt
    #: Whether others of its prefetch queue come first.
    behind: bool = False
    #: Seconds that it has waited, by the engine's clock.
    waited_s: float = 0.0


@dataclass(frozen=True, slots=True)
class TurnCame:
    """The function before it in its prefetch queue has ended."""


@dataclass(frozen=True, slots=True)
class NotTaken:
    """Dask has not sent the function: its worker has just paused, say."""


@dataclass(frozen=True, slots=True)
class Began:
    """The worker has reported that the attempt began; only while somebody listens to telemetry.

    It changes the start that is recorded, and nothing that is decided.
    """

    #: Seconds since the epoch.
    at: float


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a function has failed, as Dask has it."""

    exception: Any
    traceback: Any
    #: Both as text.
    text: str


@dataclass(frozen=True, slots=True)
class Raised:
    """An attempt has raised; Dask decides next whether it is repeated."""

    exception: Any
    startstops: Any = ()
    #: Whether its thread goes on nevertheless: its time was over.
    left_behind: bool = False
    #: The exception as text.
    text: str = ""
    #: Given if it is not repeated, and the failure is passed on as the result of the function.
    failure: Failure | None = None


@dataclass(frozen=True, slots=True)
class ArgumentFailed:
    """Something that the function needs has failed, in a run that goes on."""

    #: Position of the function that failed.
    by: int


@dataclass(frozen=True, slots=True)
class Seceded:
    """The function has given its thread back and waits for others; all else it keeps."""


@dataclass(frozen=True, slots=True)
class Paused:
    """The function waits for an execution of its own: it has given back its thread and its cpu."""


@dataclass(frozen=True, slots=True)
class Resuming:
    """That execution is over: the function needs again what it has given back."""

    #: Whether it needs its thread; not if it had seceded before.
    with_thread: bool


@dataclass(frozen=True, slots=True)
class Recalled:
    """The worker has given a prefetched function back before it began."""


@dataclass(frozen=True, slots=True)
class Ended:
    """The attempt has a result."""

    startstops: Any = ()
    nbytes: int | None = None


@dataclass(frozen=True, slots=True)
class FailedForGood:
    """The attempt has raised, and is not repeated."""

    startstops: Any = ()
    #: None if another function's failure is the reason.
    failure: Failure | None = None
    #: False if its node has died, and Dask gives it up for that.
    node_is_there: bool = True
    #: Whether the failure is the function's result, so that what accepts it may run.
    is_passed_on: bool = False
    #: Whether its task has that result; it is to be given it otherwise.
    has_value: bool = True


@dataclass(frozen=True, slots=True)
class Dropped:
    """Dask has taken the function off its node before it ended."""

    #: Whether the node is still there, so that a thread may go on.
    node_is_there: bool
    #: A random number from 0 to 1, which spreads the waits before further attempts.
    chance: float = 0.5
    #: What is known of the end of its worker.
    death: WorkerEnd | None = None


@dataclass(frozen=True, slots=True)
class WaitOver:
    """The next attempt may be made."""


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """A function that waited is not wanted any more, or an argument was lost."""


@dataclass(frozen=True, slots=True)
class GivenUp:
    """Somebody else than handoff has failed a function that waited."""

    failure: Failure | None = None


@dataclass(frozen=True, slots=True)
class Rejected:
    """The engine, or handoff itself, cannot place the function: it fails with this error."""

    error: BaseException
    #: ``({node: why not}, what else there is to say)``.
    refusal: tuple[dict[str, str], str | None]


@dataclass(frozen=True, slots=True)
class ResultLost:
    """Nobody has the result any more, or nobody wants it."""


@dataclass(frozen=True, slots=True)
class NeededAgain:
    """The result is to be computed again."""


LifeEvent: TypeAlias = (
    ArgumentsReady
    | ArgumentFailed
    | WaitOver
    | Placed
    | TurnCame
    | NotTaken
    | Began
    | Raised
    | Seceded
    | Paused
    | Resuming
    | Recalled
    | Ended
    | FailedForGood
    | Dropped
    | Withdrawn
    | GivenUp
    | Rejected
    | ResultLost
    | NeededAgain
)

# ---------------------------------------------------------------------- actions


@dataclass(frozen=True, slots=True)
class Offer:
    """Tell the engine that the function is ready."""


@dataclass(frozen=True, slots=True)
class Postpone:
    """Tell :class:`WaitOver` after so many seconds, if the function still waits then."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Refuse:
    """Fail the task soon: its run is over, and nobody places it."""


@dataclass(frozen=True, slots=True)
class PassOn:
    """Let Dask run the task soon, on any worker: it passes on that an argument has failed, no more."""


@dataclass(frozen=True, slots=True)
class Withdraw:
    """Tell the engine that the function does not wait any more."""


@dataclass(frozen=True, slots=True)
class Send:
    """Let Dask send the task to the node of its attempt."""

    attempt: Attempt


@dataclass(frozen=True, slots=True)
class Hold:
    """Put back the restriction that no worker matches: whatever runs the task again asks the engine."""


@dataclass(frozen=True, slots=True)
class LeaveQueue:
    """Take the attempt out of its prefetch queue: the turn of the next one comes."""

    attempt: Attempt
    #: Whether its node is there and goes on with the queue.
    goes_on: bool
    #: Whether a thread that nobody wants goes on in its place.
    is_stuck: bool = False


@dataclass(frozen=True, slots=True)
class ReturnClaim:
    """Tell the engine that what the attempt held is free."""

    attempt: Attempt
    #: Seconds that it ran, if it ended well.
    took_s: float | None = None


@dataclass(frozen=True, slots=True)
class ChangeClaim:
    """Tell the engine what the attempt holds from now on: not all that it was placed with."""

    attempt: Attempt


@dataclass(frozen=True, slots=True)
class KeepClaim:
    """The claim outlives the function: ask the worker to say when the thread is over."""

    attempt: Attempt


@dataclass(frozen=True, slots=True)
class TakeBack:
    """Have Dask take the task off its node; it is placed again."""


@dataclass(frozen=True, slots=True)
class FailTask:
    """Make the task fail with this error."""

    error: BaseException


@dataclass(frozen=True, slots=True)
class GiveFailure:
    """Let the task have its failure as its result, without running it."""

    #: The exception: an object, or as Dask serialises it.
    exception: Any


@dataclass(frozen=True, slots=True)
class GiveResultUp:
    """Let nobody wait for the task's result: it was lost, and is not computed again."""

    error: BaseException


Action: TypeAlias = (
    Offer
    | Postpone
    | Refuse
    | PassOn
    | Withdraw
    | Send
    | Hold
    | LeaveQueue
    | ReturnClaim
    | ChangeClaim
    | KeepClaim
    | TakeBack
    | FailTask
    | GiveFailure
    | GiveResultUp
)

# ---------------------------------------------------------------------- the table

_ON_NODE: Mapping[type, tuple[type, ...]] = {
    NotTaken: (Waiting,),
    Ended: (Finished,),
    FailedForGood: (Failed,),
    Dropped: (Pending, Cancelled),
}

#: ``{state: {event: the states that may follow}}``.
TRANSITIONS: Mapping[type, Mapping[type, tuple[type, ...]]] = {
    Pending: {ArgumentsReady: (Waiting,), ArgumentFailed: (Skipped,)},
    Skipped: {ArgumentsReady: (Skipped,)},
    Waiting: {
        WaitOver: (Waiting,),
        Placed: (Running, Prefetched),
        Withdrawn: (Pending,),
        GivenUp: (Failed,),
        Rejected: (Failed,),
    },
    Prefetched: {
        **_ON_NODE,
        TurnCame: (Running,),
        Began: (Prefetched,),
        Raised: (Prefetched,),
        Seceded: (Running,),
        Paused: (Running,),
        Recalled: (Prefetched,),
    },
    Running: {
        **_ON_NODE,
        Began: (Running,),
        Raised: (Running,),
        Seceded: (Running,),
        Paused: (Running,),
        Resuming: (Running,),
        Recalled: (Running,),
    },
    Finished: {ResultLost: (Finished,), NeededAgain: (Pending,), ArgumentsReady: (Waiting,)},
    Failed: {NeededAgain: (Pending,), ArgumentsReady: (Waiting,)},
    Cancelled: {NeededAgain: (Pending,), ArgumentsReady: (Waiting,)},
}


class LifecycleError(HandoffError):
    """An event came that cannot follow the state of its function: a defect in handoff_dask."""

    def __init__(self, function: str, state: str, event: str) -> None:
        super().__init__(function, state, event)
        self.function, self.state, self.event = function, state, event

    def __str__(self) -> str:
        return (
            f"{self.event} cannot happen to {self.function!r}, which is {self.state}; "
            "this is a defect in handoff_dask, please report it"
        )


class Lifecycle:
    """Applies events to functions."""

    def __init__(self) -> None:
        self._apply: dict[type, Callable[[FunctionState, Any, float], list[Action]]] = {
            ArgumentsReady: self._arguments_ready,
            ArgumentFailed: self._argument_failed,
            WaitOver: self._wait_over,
            Placed: self._placed,
            TurnCame: self._turn_came,
            NotTaken: self._not_taken,
            Began: self._began,
            Raised: self._raised,
            Seceded: self._seceded,
            Paused: self._paused,
            Resuming: self._resuming,
            Recalled: self._recalled,
            Ended: self._ended,
            FailedForGood: self._failed_for_good,
            Dropped: self._dropped,
            Withdrawn: self._withdrawn,
            GivenUp: self._given_up,
            Rejected: self._rejected,
            ResultLost: lambda function, event, now: [],
            NeededAgain: self._needed_again,
        }

    def apply(self, function: FunctionState, event: LifeEvent, now: float) -> list[Action]:
        """Change the state of a function; return what must be done, in the order to do it.

        Parameters
        ----------
        now
            Seconds since the epoch.

        Raises
        ------
        LifecycleError
            If the event cannot follow the function's state.
        """
        kind = type(event)
        if kind not in TRANSITIONS[type(function.state)]:
            raise LifecycleError(function.key, type(function.state).__name__, kind.__name__)
        return self._apply[kind](function, event, now)

    # ------------------------------------------------------------------ before it is placed

    def _arguments_ready(self, function: FunctionState, event: ArgumentsReady, now: float) -> list[Action]:
        if isinstance(function.state, Skipped):
            return [PassOn()]
        function.state = Waiting(now)
        run = function.run
        # What is asked for after the end of its run must not wait for ever.
        if run.over and run.status != FINISHED:
            return [Refuse()]
        if function.not_before > now:
            return [Postpone(function.not_before - now)]
        function.not_before = 0.0
        return [Offer()]

    def _wait_over(self, function: FunctionState, event: WaitOver, now: float) -> list[Action]:
        if not function.not_before:  # offered already
            return []
        function.not_before = 0.0
        function.state = Waiting(now)
        return [Offer()]

    def _argument_failed(self, function: FunctionState, event: ArgumentFailed, now: float) -> list[Action]:
        function.state = Skipped(event.by)
        return []

    def _withdrawn(self, function: FunctionState, event: Withdrawn, now: float) -> list[Action]:
        function.state = Pending()
        return [Withdraw()]

    def _given_up(self, function: FunctionState, event: GivenUp, now: float) -> list[Action]:
        function.state = Failed(function.attempt)
        return [Withdraw()]

    def _rejected(self, function: FunctionState, event: Rejected, now: float) -> list[Action]:
        gives = function.run.passes_failures
        function.state = Failed(function.attempt, gives)
        if gives:
            return [GiveFailure(event.error)]
        # A lost result, of a run that is over: what was made of it may be there, so it must not fail.
        return [GiveResultUp(event.error) if function.run.over else FailTask(event.error)]

    # ------------------------------------------------------------------ on its node

    def _placed(self, function: FunctionState, event: Placed, now: float) -> list[Action]:
        attempt = function.attempt = event.attempt
        if event.behind:
            function.state = Prefetched(attempt)
        else:
            function.state = Running(attempt)
            function.attempts += 1
        return [Send(attempt)]

    def _turn_came(self, function: FunctionState, event: TurnCame, now: float) -> list[Action]:
        function.state = Running(_attempt_of(function))
        function.attempts += 1
        return []

    def _not_taken(self, function: FunctionState, event: NotTaken, now: float) -> list[Action]:
        attempt = _attempt_of(function)
        if isinstance(function.state, Running) and not attempt.recalled:
            function.attempts -= 1
        function.state = Waiting(now)
        return [Hold(), LeaveQueue(attempt, goes_on=True), ReturnClaim(attempt), Offer()]

    def _began(self, function: FunctionState, event: Began, now: float) -> list[Action]:
        attempt = _attempt_of(function)
        if attempt.start is None:
            attempt.start = min(max(event.at, attempt.placed), now)
        return []

    def _raised(self, function: FunctionState, event: Raised, now: float) -> list[Action]:
        attempt = _attempt_of(function)
        _take_times(attempt, event.startstops, now)
        attempt.raised = event.exception
        attempt.left_behind = event.left_behind
        attempt.raised_text = event.text
        attempt.failure = event.failure
        function.failed_on.append(attempt.node)
        return []

    def _seceded(self, function: FunctionState, event: Seceded, now: float) -> list[Action]:
        attempt = _attempt_of(function)
        if attempt.seceded:
            return []
        return self._gives_back(function, attempt)

    def _paused(self, function: FunctionState, event: Paused, now: float) -> list[Action]:
        attempt = _attempt_of(function)
        attempt.paused = True
        return self._gives_back(function, attempt)

    def _gives_back(self, function: FunctionState, attempt: Attempt) -> list[Action]:
        """A function that runs has given back its thread at least."""
        is_first, attempt.seceded = not attempt.seceded, True
        attempt.has_thread = False
        if isinstance(function.state, Prefetched):  # whatever its turn was, it has begun
            function.state = Running(attempt)
            function.attempts += 1
        if not is_first:
            return [ChangeClaim(attempt)]
        # Its worker keeps the resource of its queue until it ends: nobody can begin behind it.
        return [LeaveQueue(attempt, goes_on=True, is_stuck=True), ChangeClaim(attempt)]

    def _resuming(self, function: FunctionState, event: Resuming, now: float) -> list[Action]:
        attempt = _attempt_of(function)
        attempt.resumes(event.with_thread)
        return [ChangeClaim(attempt)]

    def _recalled(self, function: FunctionState, event: Recalled, now: float) -> list[Action]:
        attempt = _attempt_of(function)
        if isinstance(function.state, Running) and not attempt.recalled:
            # Its turn had come by the scheduler's account; its worker says that it had not begun.
            function.attempts -= 1
        attempt.recalled = True
        return [TakeBack()]

    def _ended(self, function: FunctionState, event: Ended, now: float) -> list[Action]:
        attempt = self._begun(function)
        _take_times(attempt, event.startstops, now)
        attempt.nbytes = event.nbytes
        function.state = Finished(attempt)
        return [Hold(), LeaveQueue(attempt, goes_on=True), ReturnClaim(attempt, attempt.took_s)]

    def _failed_for_good(self, function: FunctionState, event: FailedForGood, now: float) -> list[Action]:
        attempt = self._begun(function)
        _take_times(attempt, event.startstops, now)
        gives = event.is_passed_on and not event.has_value
        function.state = Failed(attempt, gives)
        stays = attempt.left_behind and event.node_is_there
        queue = LeaveQueue(attempt, goes_on=event.node_is_there, is_stuck=stays)
        actions: list[Action] = [Hold(), queue, KeepClaim(attempt) if stays else ReturnClaim(attempt)]
        if gives:
            assert event.failure is not None
            actions.append(GiveFailure(event.failure.exception))
        return actions

    def _dropped(self, function: FunctionState, event: Dropped, now: float) -> list[Action]:
        attempt, was_running = _attempt_of(function), isinstance(function.state, Running)
        function.state = Cancelled(attempt) if function.run.over else Pending()
        # What is on a node and has not begun is not to blame.
        attempt.death = event.death if was_running and not attempt.recalled else None
        has_ended = attempt.raised is not None and not attempt.left_behind
        is_over = not event.node_is_there or has_ended or attempt.recalled
        if attempt.raised is not None and function.failed_on:
            wait_s = function.retry.wait(len(function.failed_on), event.chance)
            function.not_before = now + wait_s if wait_s else 0.0
        stuck = was_running and not is_over
        queue = LeaveQueue(attempt, goes_on=event.node_is_there, is_stuck=stuck)
        return [Hold(), queue, ReturnClaim(attempt) if is_over else KeepClaim(attempt)]

    def _needed_again(self, function: FunctionState, event: NeededAgain, now: float) -> list[Action]:
        function.state = Pending()
        return []

    def _begun(self, function: FunctionState) -> Attempt:
        """The attempt of a function that has ended; it had begun, whatever its turn was."""
        attempt = _attempt_of(function)
        if isinstance(function.state, Prefetched) or attempt.recalled:
            function.attempts += 1
        return attempt


def _attempt_of(function: FunctionState) -> Attempt:
    assert function.attempt is not None
    return function.attempt


def _take_times(attempt: Attempt, startstops: Any, now: float) -> None:
    moves = [part for part in startstops or () if part["action"] == "transfer"]
    if moves:
        # Several arguments may come at once.
        until = max(part["stop"] for part in moves)
        attempt.transfer_s = max(0.0, until - min(part["start"] for part in moves))
    for part in startstops or ():
        if part["action"] == "compute":
            start, stop = within(attempt, now, part["start"], part["stop"])
            attempt.took_s = stop - start
            # A start that has been told stays what it is.
            attempt.start = start if attempt.start is None else min(attempt.start, stop)
            attempt.stop = stop
            attempt.used = part.get(USED)


def within(attempt: Attempt, now: float, start: float, stop: float) -> tuple[float, float]:
    """A worker's times, within what is possible.

    The clocks of workers differ by what Dask's estimate of the difference leaves: some hundred
    milliseconds for a worker that joined while the scheduler was busy.  A function has run between the
    moment when it was placed and now.  Where it seems to have run outside, both times are shifted by as
    much: what lies between them is right, and durations are learned from it.
    """
    took_s = min(max(0.0, stop - start), max(0.0, now - attempt.placed))
    stop = min(max(stop, attempt.placed + took_s), now)
    return stop - took_s, stop
