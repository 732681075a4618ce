"""Hosts on one machine, and what they send to each other.

:class:`NamespaceHosts` are network namespaces joined by a bridge, each with a link of limited rate; the
kernel counts what they send.  They need root and the programs ``ip`` and ``tc`` (Debian: iproute2).  Nothing
leaves the machine: the namespaces have no other route.

:class:`LoopbackHosts` are nothing but names: all processes talk over the loopback device, without limits, and
Dask's workers count what they send.  Their seconds say nothing about data; their bytes do.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

#: Namespaces are called ``handoff-<process>-<host>``.
PREFIX = "handoff"
#: Seconds that processes are given to end.
END_S = 5.0


class Hosts:
    """A context in which processes can be started on hosts; number 0 is for scheduler and client.

    Parameters
    ----------
    count
        Hosts for workers.
    rates
        Rate of each link, as ``tc`` takes it (``"1gbit"``): one for all, or ``{host: rate}`` for some.
    """

    #: What the table calls it.
    kind = "loopback"

    def __init__(self, count: int, rate: str = "1gbit", slow: dict[int, str] | None = None) -> None:
        self.count = count
        #: The process that they belong to.
        self.pid = os.getpid()
        self._rates = dict.fromkeys(range(1, count + 1), rate) | (slow or {})
        self._processes: list[subprocess.Popen[Any]] = []
        self._stack = ExitStack()

    def __enter__(self) -> Hosts:
        try:
            self._stack.enter_context(_Terminated())
            self._stack.callback(self._end_processes)
            self._build(self._stack.callback)
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()

    def address(self, host: int) -> str:
        """The address at which others reach a host."""
        return "127.0.0.1"

    def start(self, host: int, words: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
        """Start a process on a host; it ends with the context.

        It is in a session of its own, so that Ctrl-C reaches only the one who waits for it.
        """
        process = subprocess.Popen(self._on(host, words), start_new_session=True, **options)
        self._processes.append(process)
        return process

    def sent_bytes(self) -> int | None:
        """What the hosts of workers have sent so far; None if nobody but Dask counts."""
        return None

    def _on(self, host: int, words: Sequence[str]) -> list[str]:
        return list(words)

    def _build(self, at_end: Callable[..., Any]) -> None:
        """Make the hosts; what removes them is given to ``at_end``."""

    def _end_processes(self) -> None:
        for process in self._processes:
            process.terminate()
        until = time.monotonic() + END_S
        for process in self._processes:
            try:
                process.wait(max(0.1, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


class LoopbackHosts(Hosts):
    """All on the loopback device."""


class NamespaceHosts(Hosts):
    """Network namespaces with links of limited rate."""

    kind = "namespaces"

    @staticmethod
    def can_be_made() -> bool:
        """Whether this process may make them, and has the programs that it takes."""
        if os.geteuid() or not (shutil.which("ip") and shutil.which("tc")):
            return False
        # Root of a container, as a rule, may not.
        try:
            _said("ip", "netns", "add", _name("probe"))
            _said("ip", "-n", _name("probe"), "link", "add", "br0", "type", "bridge")
        except subprocess.CalledProcessError:
            return False
        finally:
            _remove(_name("probe"))
        return True

    def address(self, host: int) -> str:
        """The address of a host in the network that only these hosts are in."""
        return f"10.77.0.{host + 1}"

    def sent_bytes(self) -> int:
        """What has gone out through the links of the workers' hosts."""
        path = "/sys/class/net/eth0/statistics/tx_bytes"
        counts = (_said(*self._on(host, ["cat", path])) for host in range(1, self.count + 1))
        return sum(map(int, counts))

    def _on(self, host: int, words: Sequence[str]) -> list[str]:
        return ["ip", "netns", "exec", _name(host), *words]

    def _build(self, at_end: Callable[..., Any]) -> None:
        remove_abandoned()
        hub = _name("hub")
        at_end(_remove, hub)
        _said("ip", "netns", "add", hub)
        _said("ip", "-n", hub, "link", "add", "br0", "type", "bridge")
        _said("ip", "-n", hub, "link", "set", "br0", "up")
        for host in range(self.count + 1):
            self._add(hub, host, at_end)

    def _add(self, hub: str, host: int, at_end: Callable[..., Any]) -> None:
        name, port = _name(host), f"port{host}"
        at_end(_remove, name)
        _said("ip", "netns", "add", name)
        _said("ip", "-n", hub, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", name)
        _said("ip", "-n", hub, "link", "set", port, "master", "br0")
        _said("ip", "-n", hub, "link", "set", port, "up")
        _said("ip", "-n", name, "addr", "add", f"{self.address(host)}/24", "dev", "eth0")
        for device in ("eth0", "lo"):
            _said("ip", "-n", name, "link", "set", device, "up")
        # The link of scheduler and client is not what is measured.
        rate = self._rates.get(host)
        for where, device in ((name, "eth0"), (hub, port)) if rate else ():
            limit = ("rate", str(rate), "burst", "256kb", "latency", "400ms")
            _said("tc", "-n", where, "qdisc", "add", "dev", device, "root", "tbf", *limit)


def hosts(count: int, rate: str, slow: dict[int, str] | None = None, *, loopback: bool = False) -> Hosts:
    """Namespaces where that is possible and not unwanted, else hosts on the loopback device."""
    if loopback or not NamespaceHosts.can_be_made():
        return LoopbackHosts(count, rate, slow)
    return NamespaceHosts(count, rate, slow)


def remove_abandoned() -> None:
    """Remove the namespaces of processes that were killed, and what runs in them."""
    for line in _said("ip", "netns", "list").splitlines():
        name = line.split(" ")[0]
        prefix, _, rest = name.partition("-")
        owner = rest.partition("-")[0]
        if prefix == PREFIX and owner.isdigit() and not Path("/proc", owner).exists():
            for process in _said("ip", "netns", "pids", name).split():
                os.kill(int(process), signal.SIGKILL)
            _remove(name)


class _Terminated:
    """A context in which the signal to terminate raises, so that whoever has to clean up does."""

    def __enter__(self) -> None:
        self._before = signal.signal(signal.SIGTERM, self._raise)

    def __exit__(self, *error: object) -> None:
        signal.signal(signal.SIGTERM, self._before)

    @staticmethod
    def _raise(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)


def _name(host: int | str) -> str:
    return f"{PREFIX}-{os.getpid()}-{host}"


def _remove(name: str) -> None:
    subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


def _said(*words: str) -> str:
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout
