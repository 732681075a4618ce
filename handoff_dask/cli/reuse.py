"""``dask handoff why-rerun`` and ``dask handoff cache``."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import click
from dask.utils import format_bytes, parse_bytes, parse_timedelta
from toolz import countby

from handoff_dask.cli.loading import load_dag
from handoff_dask.cli.parsing import inputs_from
from handoff_dask.errors import ValidationError
from handoff_dask.reuse.cache import Cache
from handoff_dask.reuse.reasons import why_rerun
from handoff_dask.visualization.texts import id_texts, visible

#: What fsspec's file system of a cache is made with.
STORAGE_OPTIONS = click.option(
    "--storage-option",
    "storage_options",
    metavar="NAME=VALUE",
    multiple=True,
    help="What the file system of the cache is made with, the value as JSON or text; may be repeated.",
)


def cache_at(url: str, storage_options: Iterable[str]) -> Cache:
    """The cache at a place.

    Raises
    ------
    ValidationError
        If an option is no ``NAME=VALUE``, or the place cannot be used.
    """
    options = {}
    for text in storage_options:
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise ValidationError(f"--storage-option {text!r} is none; write NAME=VALUE")
        try:
            options[name] = json.loads(value)
        except json.JSONDecodeError:
            options[name] = value
    return Cache(url, storage_options=options)


@click.command("why-rerun")
@click.argument("target", metavar="FILE[:NAME]")
@click.option("--cache", "url", metavar="URL", required=True, help="Where results are kept.")
@STORAGE_OPTIONS
@click.option(
    "--input", "inputs", metavar="ID=VALUE", multiple=True, help="An input's value, as JSON or text."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def why(
    target: str, url: str, storage_options: tuple[str, ...], inputs: tuple[str, ...], as_json: bool
) -> None:
    """Say why each function of a DAG would run again; execute nothing."""
    dag = load_dag(target)
    texts = id_texts(dag.functions)
    reasons = why_rerun(dag, cache=cache_at(url, storage_options), inputs=inputs_from(inputs, dag))
    if as_json:
        told = {texts[i]: {"kind": reason.kind, "why": str(reason)} for i, reason in reasons.items()}
        click.echo(json.dumps(told, indent=2))
        return
    for i, reason in reasons.items():
        if reason.kind != "reused":
            click.echo(f"{visible(texts[i])}: {reason.kind}: {visible(str(reason))}")
    counts = countby(lambda reason: reason.kind == "reused", reasons.values())
    click.echo(f"{counts.get(False, 0)} would run, {counts.get(True, 0)} are reused", err=True)


@click.command("cache")
@click.argument("url")
@STORAGE_OPTIONS
@click.option("--prune", metavar="TIME", help="Remove what was not used for so long: 30d, 12h.")
@click.option("--keep", metavar="SIZE", help="Remove what was used longest ago until so much is left: 10GB.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def cache(
    url: str, storage_options: tuple[str, ...], prune: str | None, keep: str | None, as_json: bool
) -> None:
    """Show what a cache holds, and remove what is old or too much."""
    place = cache_at(url, storage_options)
    removed = []
    if prune is not None or keep is not None:
        removed = place.prune(older_than=_seconds(prune), keep=_bytes(keep))
    entries = place.entries()
    told = {
        "url": place.url,
        "entries": len(entries),
        "nbytes": sum(entry.nbytes for entry in entries),
        "removed": len(removed),
        "removed_nbytes": sum(entry.nbytes for entry in removed),
    }
    if as_json:
        click.echo(json.dumps(told, indent=2))
        return
    if removed:
        click.echo(f"removed {told['removed']} entries, {format_bytes(sum(e.nbytes for e in removed))}")
    click.echo(f"{place.url}: {len(entries)} entries, {format_bytes(sum(e.nbytes for e in entries))}")


def _seconds(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        # Dask knows no letter for days.
        return float(parse_timedelta(text.replace("d", "days") if text.endswith("d") else text, default="s"))
    except Exception as error:  # whatever Dask's reading of it raises
        raise ValidationError(f"--prune is {text!r}; give a time, such as 30d or 12h") from error


def _bytes(text: str | None) -> int | None:
    if text is None:
        return None
    try:
        return int(parse_bytes(text))
    except Exception as error:  # whatever Dask's reading of it raises
        raise ValidationError(f"--keep is {text!r}; give a size, such as 10GB") from error


#: What ``dask handoff`` has of these.
COMMANDS: tuple[Any, ...] = (why, cache)
