"""Dask's tasks as handoff controls them: held, sent, taken back, failed.

A task is *held* by a worker restriction that no worker matches: Dask tracks its arguments, and
parks it in the state ``no-worker`` when they are there.  To send it, the restriction is exchanged
for the address of one worker, and the task is moved to ``processing``.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from dask._task_spec import DataNode
from dask.typing import Key
from distributed.metrics import time
from distributed.protocol import pickle

from handoff_dask.placement.devices import DEVICE
from handoff_dask.protocol.failed_values import LAST_ATTEMPT, FailedValue, guard_of
from handoff_dask.protocol.names import ADMISSION, ATTEMPT, COST, DEVICES, LIMIT, is_barrier
from handoff_dask.protocol.telemetry import pack_exception
from handoff_dask.resources import Cost
from handoff_dask.scheduler.lifecycle import Failure

if TYPE_CHECKING:
    from distributed import Scheduler
    from distributed.scheduler import TaskState

#: The client in whose name tasks are kept that nobody else wants.
KEEPER = "handoff-runs"

#: The worker restriction of a held task: no worker has such an address.
HELD = {"handoff://held"}


#: What Dask's count of suspicion begins with for a task that can harm nobody.
UNSUSPECTED = -(1 << 30)


class Tasks:
    """Dask's tasks, by key.

    Parameters
    ----------
    scheduler
        Dask's.
    """

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._tasks: Mapping[Any, TaskState] = scheduler.tasks
        #: ``{address: the restriction to it}``, shared by all tasks that are sent there.
        self._only: dict[str, set[str]] = {}

    def bandwidth(self) -> float:
        """Bytes per second between workers, as Dask has measured."""
        return self._scheduler.bandwidth

    def get(self, key: Hashable) -> TaskState | None:
        """Dask's task, if it knows the key."""
        return self._tasks.get(key)

    def is_held(self, key: Hashable) -> bool:
        """Whether a task is parked, its arguments there."""
        task = self._tasks.get(key)
        return task is not None and task.state == "no-worker"

    def is_in_memory(self, key: Hashable) -> bool:
        """Whether some worker has the result of a task."""
        task = self._tasks.get(key)
        return task is not None and task.state == "memory"

    def has_ended(self, key: Hashable) -> bool:
        """Whether a task has failed, or some worker has its result, also while its node is being removed."""
        task = self._tasks.get(key)
        return task is not None and (task.state == "erred" or bool(task.who_has))

    def is_present(self, key: Hashable, run_id: int) -> bool:
        """Whether a worker speaks of the present attempt of a task."""
        task = self._tasks.get(key)
        return task is not None and task.run_id == run_id

    # ------------------------------------------------------------------ control

    def hold_first(self, key: str, amounts: dict[str, Any], retries: int) -> None:
        """Hold a task that has just arrived; Dask shows what it costs."""
        task = self._tasks[key]
        self.hold(task)
        task.annotations = amounts
        task.retries = retries

    def hold_too(self, key: Key) -> None:
        """Hold a task of Dask's own: what is written at it, and its retries, stay."""
        self.hold(self._tasks[key])

    def ask_for_nothing(self, keys: Iterable[Any]) -> None:
        """Let tasks of Dask's own that have just arrived ask for no resources."""
        for key in keys:
            self._tasks[key].resource_restrictions = {}

    @staticmethod
    def hold(task: TaskState) -> None:
        """Let no worker match a task.  The ledger decides, not Dask's own count on the worker."""
        task.worker_restrictions = HELD
        # With allow_other_workers= nothing would hold it.
        task.loose_restrictions = False
        task.host_restrictions = set()
        task.resource_restrictions = {}

    def restrict(self, task: TaskState, address: str, *, attempt: int) -> None:
        """Let a task go to one worker only, and say which attempt it is."""
        if attempt > 1 or ATTEMPT in (task.annotations or {}):
            task.annotations = {**(task.annotations or {}), ATTEMPT: attempt}
        only = self._only.get(address)
        if only is None:
            only = self._only[address] = {address}
        task.worker_restrictions = only

    def say_cost(self, key: str, cost: Cost, limit: str) -> None:
        """Tell a task what it claims from now on, and why it cannot be more, if it cannot."""
        task = self._tasks[key]
        task.annotations = {
            **(task.annotations or {}),
            "resources": cost.to_amounts(),
            COST: cost.to_dict(),
            LIMIT: limit,
        }

    def nbytes(self, key: Hashable) -> int:
        """Bytes of a result; 0 if Dask does not know the task."""
        task = self._tasks.get(key)
        return 0 if task is None else int(task.get_nbytes())

    @staticmethod
    def give_devices(task: TaskState, indices: tuple[int, ...]) -> None:
        """Tell a task which devices of its node it has."""
        annotations = task.annotations or {}
        if indices or DEVICES in annotations:
            task.annotations = {**annotations, DEVICES: {DEVICE: list(indices)} if indices else {}}

    @staticmethod
    def admit_by(task: TaskState, taken: Mapping[str, float]) -> None:
        """Have the worker admit a task only when there is so much left of its lane; any time if of none."""
        annotations = task.annotations or {}
        if taken or annotations.get(ADMISSION):
            task.annotations = {**annotations, ADMISSION: taken}

    def send(self, keys: Iterable[str]) -> None:
        """Have Dask send tasks that have been restricted to a worker, in this order."""
        # Dask takes recommendations from the end.
        self._transitions(dict.fromkeys(reversed(list(keys)), "processing"), "place")

    def free(self, key: str) -> None:
        """Let Dask run a task that is held, wherever it likes."""
        task = self._tasks.get(key)
        if task is not None and task.state == "no-worker":
            self._let_pass(task)
            self._transitions({key: "processing"}, "free")

    def _let_pass(self, task: TaskState) -> None:
        """Let a task that only passes a failure on go to any worker; whose death is not its fault."""
        task.worker_restrictions = set()
        task.resource_restrictions = {}
        self.admit_by(task, {})
        task.suspicious = UNSUSPECTED

    def keep(self, keys: Iterable[str]) -> None:
        """Want tasks that nobody else may want."""
        known = [key for key in keys if key in self._tasks]
        self._scheduler.client_desires_keys(keys=known, client=KEEPER)

    def let_go(self, keys: Iterable[str]) -> None:
        """Want them no longer.  Not from within a transition."""
        self._scheduler.client_releases_keys(
            keys=[key for key in keys if key in self._tasks],
            client=KEEPER,
            stimulus_id=f"handoff-let-go-{time()}",
        )

    def note_last_attempt(self, key: str) -> None:
        """Tell a function that is about to be sent that it will not be tried again, if that is so."""
        task = self._tasks[key]
        if task.retries == 0:
            task.annotations = {**(task.annotations or {}), LAST_ATTEMPT: True}

    def release(self, keys: Iterable[str], state: str, why: str) -> None:
        """Release those tasks that are in this state: what is wanted of them is computed again."""
        found = [key for key in keys if key in self._tasks and self._tasks[key].state == state]
        if found:
            self._transitions(dict.fromkeys(found, "released"), why)

    def fail_if_held(self, key: str, error: BaseException) -> None:
        """Make a task fail that was held a turn of the event loop ago, if it still is."""
        if self.is_held(key):
            self.fail(key, error, "refused")

    def fail(self, key: str, error: BaseException, why: str) -> None:
        """Make a task that is held fail."""
        more = self._scheduler.transition(
            key, "erred", exception=pickle.dumps(error), cause=key, stimulus_id=f"handoff-{why}-{time()}"
        )
        self._transitions(more, why)

    def give_failure(self, key: str, packed_id: bytes, exception: Any) -> None:
        """Let a task that waits have the failure of its function as its result; it needs nothing any more.

        Parameters
        ----------
        packed_id
            The function's id, where its task does not know it: of a type that may be unknown here.
        exception
            An object, or as Dask serialises it.
        """
        task = self._tasks.get(key)
        if task is None or task.state not in ("waiting", "no-worker"):
            return
        packed = pack_exception(exception)
        if isinstance(packed, str):
            packed = pickle.dumps(Exception(packed))
        guard = guard_of(getattr(task.run_spec, "func", None))
        known = None if guard is None else guard.packed_id
        task.run_spec = DataNode(key, FailedValue(known or packed_id, packed))
        self._let_pass(task)
        # What it would have taken may be what has killed its workers: it must not be fetched.
        unneeded = self._need_nothing(task)
        self._transitions({**unneeded, key: "processing"}, "failure")

    @staticmethod
    def _need_nothing(task: TaskState) -> dict[Any, Any]:
        """Let a task that waits take nothing; what becomes of the tasks that it took."""
        unneeded = {}
        for needed in task.dependencies:
            needed.dependents.discard(task)
            if needed.waiters:
                needed.waiters.discard(task)
            if not needed.who_wants and not needed.dependents:
                unneeded[needed.key] = "forgotten"
            elif not needed.who_wants and not needed.waiters and needed.state != "erred":
                unneeded[needed.key] = "released"
        task.dependencies.clear()
        task.waiting_on = set()
        return unneeded

    def give_up(self, key: str, error: BaseException, client: str) -> None:
        """Make a task that is held fail, its result having been lost after its run.

        Where results that were made of it are there, Dask forbids that: if one of them is lost later,
        it would wait for a task that has failed.  There the task, and all that waits for it, is let go of
        as if the client had cancelled it.
        """
        waiting, look_at = {key}, [key]
        for waited_for in look_at:
            more = {str(waiter.key) for waiter in self._tasks[waited_for].waiters or ()} - waiting
            waiting |= more
            look_at.extend(more)
        if any(after.state == "memory" for one in waiting for after in self._tasks[one].dependents):
            self.drop(waiting, client, str(error))
        if self.is_held(key):
            self.fail(key, error, "reject")

    def drop(self, keys: Iterable[str], client: str, reason: str) -> None:
        """Let go of what a client wants, as if it had cancelled its futures."""
        rest = [k for k in keys if k in self._tasks and self._tasks[k].state not in ("memory", "erred")]
        if not rest or client not in self._scheduler.clients:
            return
        # Scheduler.stimulus_cancel would do both, but calls itself once for each link of a chain.
        self._scheduler.client_releases_keys(keys=rest, client=client, stimulus_id=f"handoff-cancel-{time()}")
        self._scheduler.report(
            {"op": "cancelled-keys", "keys": rest, "reason": reason, "msg": ""}, client=client
        )

    def node_left(self, address: str) -> None:
        """A worker is gone."""
        self._only.pop(address, None)

    def _transitions(self, recommendations: dict[Any, Any], why: str) -> None:
        self._scheduler.transitions(recommendations, f"handoff-{why}-{time()}")

    def failure(self, key: str) -> Failure | None:
        """Why a task has failed; None if another task is to blame."""
        task = self._tasks[key]
        if task.exception_blame is not task:
            return None
        return Failure(task.exception, task.traceback, f"{task.traceback_text}{task.exception_text}")

    def forbid_retries(self, key: str) -> None:
        """Let the next failure of a task be final."""
        self._tasks[key].retries = 0

    def forgive(self, key: str) -> None:
        """Hold no earlier death of a worker against a task."""
        task = self._tasks.get(key)
        if task is not None:
            task.suspicious = 0

    # ------------------------------------------------------------------ graph

    def dependents(self, key: Key) -> Iterator[Key]:
        """Keys of the tasks that take a task's result, or run after it."""
        for dependent in self._tasks[key].dependents:
            if is_barrier(dependent.key):
                yield from (after.key for after in dependent.dependents)
            else:
                yield dependent.key

    def takes(self, key: Key, of: Key) -> bool:
        """Whether a task takes the result of another one, and does not just run after it."""
        return any(dependent.key == key for dependent in self._tasks[of].dependents)

    def next_ready(self, key: Key) -> list[Key]:
        """Keys of the tasks that lack nothing but a task's result."""
        task = self._tasks.get(key)
        return [] if task is None else [t.key for t in task.dependents if len(t.waiting_on or ()) == 1]
