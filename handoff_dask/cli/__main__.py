"""``python -m handoff_dask.cli``: the commands where Dask's own program is not installed."""

from handoff_dask.cli.commands import handoff

if __name__ == "__main__":
    handoff(prog_name="dask handoff")
