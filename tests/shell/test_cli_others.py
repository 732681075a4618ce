"""``dask handoff``: executions that go on, and those of others."""

from __future__ import annotations

import json

from commands import error_of, run

from handoff_dask import DAG, Function


def test_a_run_that_is_detached_and_attached_to(file, on_cluster):
    out, _ = run("run", file, "--input", "n=21", "--detach", "--quiet", *on_cluster)
    token = out.split("(")[1].rstrip(")\n")

    assert out.startswith("detached: sums (")
    assert run("attach", token, *on_cluster)[0] == "unpack: 42\n"
    assert run("attach", "sums", "--quiet", *on_cluster)[0] == ""
    listed = json.loads(run("ps", "--json", *on_cluster)[0])
    one = next(one for one in listed if one["token"] == token)
    assert (one["dag_id"], one["status"], one["detached"]) == ("sums", "finished", True)
    assert token in run("ps", *on_cluster)[0]
    assert "finished already" in run("cancel", token, *on_cluster)[1]
    assert "no execution 'nobody'" in error_of("cancel", "nobody", *on_cluster, code=2)


def test_costs_are_suggested_from_what_the_cluster_remembers(file, on_cluster, session):
    dag = [Function("f", [], sum, extra_args=[range(3_000_000)], cost={"cpu": 0.5, "memory": 200})]
    session.execute(DAG("sums of many").add_function(dag[0]))

    suggested = json.loads(run("costs", "sums of many", "--json", *on_cluster)[0])

    assert suggested["sum"]["asked"] == {"cpu": 0.5, "memory": 200}
    assert (suggested["sum"]["runs"], suggested["sum"]["exact"]) == (1, False)
    assert suggested["sum"]["cost"]["memory"] >= 1
    line = next(line for line in run("costs", *on_cluster)[0].splitlines() if line.startswith("sum "))
    assert "cpu 0.5, memory 200" in line
    assert "no execution 'nobody'" in error_of("costs", "nobody", *on_cluster, code=2)
