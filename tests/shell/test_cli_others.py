"""``dask handoff``: executions that go on, and those of others."""

from __future__ import annotations

import json

from commands import error_of, run


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
