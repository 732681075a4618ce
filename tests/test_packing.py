"""What is sent is bytes until it is used; modules beside the script travel."""

from __future__ import annotations

import importlib
import os
import pickle
import subprocess
import sys
import textwrap

import dask
import numpy as np
import pytest

import handoff_dask as handoff
from handoff_dask.protocol import shipping
from handoff_dask.protocol.packing import Packed, Packer, is_plain


def sent(value):
    return pickle.loads(pickle.dumps(value))


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    """A module beside what the user has started."""
    (tmp_path / "own_module.py").write_text(
        "FACTOR = 2\nclass Own:\n    pass\ndef f(x):\n    return FACTOR * x\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(shipping, "_folders", [tmp_path])
    yield importlib.import_module("own_module")
    del sys.modules["own_module"]


def test_plain_values_stay_and_others_are_packed():
    assert is_plain((1, "a", [None, {"k": b"x"}]))
    assert not is_plain(np.zeros(2))
    packer = Packer()
    assert packer.value((1, "a")) == (1, "a")
    packed = sent(packer.value(np.arange(3)))
    assert isinstance(packed, Packed)
    assert packed.open().tolist() == [0, 1, 2]


def test_large_arrays_are_not_copied_into_the_bytes_and_can_be_written_to():
    packed = sent(Packer().value(np.zeros(1_000_000)))
    assert len(packed.data) < 1000
    first, second = packed.open(), packed.open()
    first[0] = 1
    assert second[1] == 0


def test_a_module_that_travels_goes_in_its_present_state(own_module):
    own_module.FACTOR = 5
    packed = sent(Packer().code(own_module.f))
    assert packed.open()(2) == 10
    assert packed.by_name is not None  # in this process it is the very function
    assert packed.open() is own_module.f
    packed.process = "another"
    del sys.modules["own_module"]
    assert packed.open()(2) == 10
    sys.modules["own_module"] = own_module


def test_what_is_off_goes_by_name(own_module):
    with dask.config.set({"handoff.ship": "off"}):
        assert b"FACTOR" not in sent(Packer().code(own_module.f)).data
    with dask.config.set({"handoff.ship": ["own_module"]}):
        assert b"FACTOR" in sent(Packer().code(own_module.f)).data
    with (
        dask.config.set({"handoff.ship": "nowhere"}),
        pytest.raises(handoff.ValidationError, match="nowhere"),
    ):
        Packer()


def test_a_class_of_the_users_is_packed_once_for_all_values(own_module):
    packer = Packer()
    first, second = sent([packer.value(own_module.Own()), packer.value(own_module.Own())])
    assert first.shared[0] is second.shared[0]
    first.process = second.process = "another"
    assert type(first.open()) is type(second.open())


def test_what_cannot_be_pickled_by_value_goes_by_name(own_module):
    own_module.lock = __import__("threading").Lock()
    exec("def g():\n    return lock", vars(own_module))
    packed = sent(Packer().code(own_module.g))
    assert b"own_module" in packed.data
    assert packed.by_name is None


SCRIPT = """
    import sys
    import beside
    from distributed import Client
    import handoff_dask as handoff

    with Client(sys.argv[1]) as client, handoff.Handoff(client) as session:
        dag = [handoff.Function("f", [], beside.double, extra_args=[beside.Thing(4)])]
        print(session.execute(dag).results)
"""


def test_modules_beside_a_script_reach_nodes_that_lack_them(tmp_path):
    (tmp_path / "script.py").write_text(textwrap.dedent(SCRIPT))
    thing = "class Thing:\n    def __init__(self, n):\n        self.n = n\n"
    (tmp_path / "beside.py").write_text(f"{thing}\ndef double(thing):\n    return 2 * thing.n\n")
    start = (
        "from distributed import LocalCluster\n"
        "if __name__ == '__main__':\n"
        "    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None) as cluster:\n"
        "        print(cluster.scheduler_address, flush=True)\n"
        "        input()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", start],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd="/", env=dict(os.environ),
    ) as cluster:  # fmt: skip
        assert cluster.stdin is not None
        assert cluster.stdout is not None
        address = cluster.stdout.readline().strip()
        try:
            told = subprocess.run(
                [sys.executable, str(tmp_path / "script.py"), address],
                capture_output=True, text=True, timeout=60, check=False,
            )  # fmt: skip
        finally:
            cluster.stdin.write("\n")
            cluster.stdin.close()
    assert told.stdout.strip() == "{'f': 8}", told.stderr[-2000:]
