"""The registry of telemetry handlers: which handler gets which event."""

from __future__ import annotations

import inspect
import logging
import os
import threading
import time
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any, NamedTuple, TypeAlias

from toolz import concat, groupby, valmap

from handoff_dask.errors import NotFoundError, ValidationError
from handoff_dask.telemetry.events import EVENTS, HANDLER_FAILURE, Event, event_name, starts_with

__all__ = ["Handler", "HandlerFunction", "Registry"]

#: Called as ``fn(event, measurements, metadata, config)``; what it returns is dropped.
HandlerFunction: TypeAlias = Callable[[Event, dict[str, Any], dict[str, Any], Any], object]

logger = logging.getLogger("handoff_dask.telemetry")


class Handler(NamedTuple):
    """A function that listens to one event."""

    #: The name it was attached under; the handlers of one ``attach_many`` share it.
    handler_id: Hashable
    #: The event it listens to.
    event: Event
    #: What is called.
    fn: HandlerFunction
    #: Passed to each call as it is.
    config: Any


class Registry:
    """Handlers by event.  Every method may be called from any thread, and from a handler.

    The functions of :mod:`handoff_dask.telemetry` are the methods of the one registry of this
    process.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_id: dict[Hashable, tuple[Handler, ...]] = {}
        # Replaced as a whole and never changed, so that dispatching needs no lock: a handler may
        # attach and detach, and threads that emit events do not wait for each other.
        self._by_event: dict[Event, tuple[Handler, ...]] = {}
        self._watchers: tuple[Callable[[], object], ...] = ()

    def attach(self, handler_id: Hashable, event: Event, fn: HandlerFunction, config: Any = None) -> None:
        """Call ``fn(event, measurements, metadata, config)`` whenever the event happens.

        Parameters
        ----------
        handler_id
            Any hashable; what :meth:`detach` takes.
        event
            The whole name, such as ``("handoff", "execution", "dag", "start")``.
        fn
            A plain function (no coroutine function) that takes four arguments.  It is called in
            this process, in the thread that emits the event, so it should be quick.  If it
            raises it is detached and logged, and nothing else is disturbed.
        config
            Anything; passed along.

        Raises
        ------
        ValidationError
            If a handler of that id is attached, or for an event or function that cannot be one.

        Examples
        --------
        >>> telemetry = Registry()
        >>> telemetry.attach("show", ("app", "work"), lambda event, measurements, metadata, config:
        ...                  print(config, measurements, metadata), ">")
        >>> telemetry.execute(("app", "work"), {"items": 3}, {"by": "me"})
        > {'items': 3} {'by': 'me'}
        """
        self.attach_many(handler_id, [event_name(event)], fn, config)

    def attach_many(
        self, handler_id: Hashable, events: Iterable[Event], fn: HandlerFunction, config: Any = None
    ) -> None:
        """Attach one function to several events under one id; see :meth:`attach`.

        Raises
        ------
        ValidationError
            As :meth:`attach`, and if there are no events.
        """
        names = _event_names(events)
        _check_handler(handler_id, fn)
        for name in names:
            if name[0] == "handoff" and name not in EVENTS and name != HANDLER_FAILURE:
                logger.warning("handoff never emits %r; see handoff_dask.telemetry.EVENTS", name)
        with self._lock:
            if handler_id in self._by_id:
                raise ValidationError(
                    f"telemetry: a handler {handler_id!r} is attached already; detach it, or take another id"
                )
            self._by_id[handler_id] = tuple(Handler(handler_id, name, fn, config) for name in names)
            changed = self._index()
        if changed:
            self._notify_watchers()

    def detach(self, handler_id: Hashable) -> None:
        """Stop calling a handler.  A call that is under way in another thread is not ended.

        Raises
        ------
        NotFoundError
            If nothing is attached under that id; it may have raised and been detached for that.
        """
        with self._lock:
            if handler_id not in self._by_id:
                raise NotFoundError(
                    "telemetry handler", handler_id, "it was not attached, or was detached because it raised"
                )
            del self._by_id[handler_id]
            changed = self._index()
        if changed:
            self._notify_watchers()

    def list_handlers(self, prefix: Event = ()) -> list[Handler]:
        """The handlers of events whose names begin with the prefix, in the order of attachment.

        Raises
        ------
        ValidationError
            For a prefix that is no tuple of strings.
        """
        wished = event_name(prefix, what="prefix", empty=True)
        with self._lock:
            return [h for group in self._by_id.values() for h in group if starts_with(h.event, wished)]

    def execute(
        self, event: Event, measurements: Mapping[str, Any], metadata: Mapping[str, Any] | None = None
    ) -> None:
        """Tell an event, of handoff or of your own, to those who listen to it.

        Each handler gets its own shallow copy of the two mappings.  The call returns when all
        have been called; what they raise stays here.

        Raises
        ------
        ValidationError
            For an event that is no name, or measurements or metadata that are no mappings.
        """
        name = event_name(event)
        metadata = {} if metadata is None else metadata
        for what, given in (("measurements", measurements), ("metadata", metadata)):
            if not isinstance(given, Mapping):
                raise ValidationError(
                    f"telemetry: the {what} of {name!r} are {given!r}, not a mapping; write {{name: value}}"
                )
        self._dispatch(name, measurements, metadata)

    def has_handlers(self, prefix: Event = ()) -> bool:
        """Whether anybody listens to an event whose name begins with the prefix."""
        by_event = self._by_event
        return any(starts_with(event, prefix) for event in by_event)

    def wanted(self) -> frozenset[Event]:
        """The events that somebody listens to, the user's own among them."""
        return frozenset(self._by_event)

    def subscribe_changes(self, callback: Callable[[], object]) -> Callable[[], None]:
        """Call back whenever :meth:`wanted` has changed; return what ends that.

        The callback takes nothing and reads :meth:`wanted` itself: after changes in two threads
        the last call then sees the last state.  It must not block.
        """

        def watcher() -> None:
            callback()

        def unsubscribe() -> None:
            with self._lock:
                self._watchers = tuple(w for w in self._watchers if w is not watcher)

        with self._lock:
            self._watchers = (*self._watchers, watcher)
        return unsubscribe

    def deliver(self, batch: Iterable[tuple[Event, Mapping[str, Any], Mapping[str, Any]]]) -> None:
        """Dispatch events of another process, in their order; their form is not checked again.

        It is called in a thread of handoff's own: what a handler raises to end its thread or process
        counts as any error.
        """
        for event, measurements, metadata in batch:
            self._dispatch(event, measurements, metadata, ends=())

    def forked(self) -> None:
        """This process has just been forked: another thread of its parent may have held the lock."""
        self._lock = threading.Lock()

    def _dispatch(
        self,
        event: Event,
        measurements: Mapping[str, Any],
        metadata: Mapping[str, Any],
        ends: tuple[type[BaseException], ...] = (KeyboardInterrupt, SystemExit),
    ) -> None:
        for handler in self._by_event.get(event, ()):
            try:
                handler.fn(event, dict(measurements), dict(metadata), handler.config)
            except ends:
                raise
            except BaseException as error:  # CancelledError among them: it must not end the emitting thread
                self._fail(handler, error)

    def _fail(self, handler: Handler, error: BaseException) -> None:
        """Detach a handler that raised; log it and announce it, once."""
        with self._lock:
            attached = self._by_id.get(handler.handler_id, ())
            # Another thread may have met the same failure, or the id may be in new hands.
            if not any(h is handler for h in attached):
                return
            del self._by_id[handler.handler_id]
            changed = self._index()
        logger.error(
            "telemetry handler %r raised at %r and has been detached",
            handler.handler_id,
            handler.event,
            exc_info=error,
        )
        if changed:
            self._notify_watchers()
        about = {
            "handler_id": handler.handler_id,
            "event": handler.event,
            "config": handler.config,
            "exception": error,
        }
        self._dispatch(HANDLER_FAILURE, {"system_time": time.time()}, about)

    def _index(self) -> bool:
        """Sort the handlers by event (the lock is held); whether the wanted events changed."""
        before = self._by_event.keys()
        by_event = groupby(lambda handler: handler.event, concat(self._by_id.values()))
        self._by_event = valmap(tuple, by_event)
        return before != self._by_event.keys()

    def _notify_watchers(self) -> None:
        for watcher in self._watchers:
            try:
                watcher()
            except Exception:
                logger.exception("a callback for changed telemetry handlers raised")


def _event_names(events: Any) -> list[Event]:
    if isinstance(events, str) or not isinstance(events, Iterable):
        raise ValidationError(f"telemetry: events {events!r} is not a list of events; write [event, …]")
    listed = list(events)
    if not listed:
        raise ValidationError("telemetry: there is no event to attach to; name at least one")
    if isinstance(listed[0], str):
        raise ValidationError(f"telemetry: {events!r} is one event, not a list of them; write [event, …]")
    return list(dict.fromkeys(event_name(event) for event in listed))


def _check_handler(handler_id: Hashable, fn: HandlerFunction) -> None:
    try:
        hash(handler_id)
    except TypeError:
        raise ValidationError(f"telemetry: handler id {handler_id!r} is not hashable; use a string") from None
    if not callable(fn):
        raise ValidationError(f"telemetry: the handler {handler_id!r} is {fn!r}, which cannot be called")
    if inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(type(fn).__call__):
        raise ValidationError(
            f"telemetry: the handler {handler_id!r} is a coroutine function, which nobody would await; "
            "give a plain one"
        )
    try:
        signature = inspect.signature(fn)
    except (TypeError, ValueError):
        return  # some functions written in C have none; the first call will tell
    try:
        signature.bind((), {}, {}, None)
    except TypeError:
        raise ValidationError(
            f"telemetry: the handler {handler_id!r} takes {signature}; it is called with four arguments: "
            "event, measurements, metadata, config"
        ) from None


_registry = Registry()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_registry.forked)

attach = _registry.attach
attach_many = _registry.attach_many
detach = _registry.detach
list_handlers = _registry.list_handlers
execute = _registry.execute
has_handlers = _registry.has_handlers
wanted = _registry.wanted
subscribe_changes = _registry.subscribe_changes
deliver = _registry.deliver
