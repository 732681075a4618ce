"""A process that was forked from one with a session: what it can use, and that its parent is unharmed."""

from __future__ import annotations

import json
import subprocess
import sys

PROGRAM = """
import json, os, signal, sys, warnings

from distributed import Client, LocalCluster

import handoff_dask as handoff


def told(call):
    try:
        return repr(call())
    except handoff.HandoffError as error:
        return f"{type(error).__name__}: {error}"


def own(address):
    with Client(address, set_as_default=False) as client, handoff.Handoff(client) as session:
        return session.execute([handoff.Function("y", [], int)], timeout=15).results


def child(session, run, address):
    signal.alarm(20)  # a hang is a failure
    dag = [handoff.Function("x", [], int)]
    seen = {
        "execute": told(lambda: handoff.execute(dag)),
        "session": told(lambda: session.execute(dag)),
        "result": told(run.result),
        "printed": told(lambda: str(run) and str(session) and "yes"),
        "stop": told(session.stop),
        "own": told(lambda: own(address)),
    }
    print("CHILD", json.dumps(seen), flush=True)
    os._exit(0)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    with LocalCluster(n_workers=1, processes=False, protocol="tcp://", dashboard_address=None) as cluster:
        with Client(cluster) as client:
            session = handoff.start(client)
            run = session.submit([handoff.Function("z", [], int)])
            pid = os.fork()
            if not pid:
                child(session, run, cluster.scheduler_address)
            assert os.waitpid(pid, 0)[1] == 0
            print("PARENT", run.result(10).results, session.execute([handoff.Function("x", [], int)]).results)
"""


def test_a_child_is_refused_what_is_its_parents(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, timeout=120, check=False)
    said = dict(
        line.split(" ", 1) for line in done.stdout.splitlines() if line.startswith(("CHILD", "PARENT"))
    )
    assert said.keys() == {"CHILD", "PARENT"}, done.stderr
    refused = "SessionEndedError: this process was forked from the one that has this client"
    child = json.loads(said["CHILD"])
    for name in ("execute", "session", "result"):
        assert child[name].startswith(refused)
    assert (child["printed"], child["stop"], child["own"]) == ("'yes'", "None", "{'y': 0}")
    assert said["PARENT"] == "{'z': 0} {'x': 0}"
