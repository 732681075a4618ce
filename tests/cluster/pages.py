"""The scheduler's page, fetched and read."""

from __future__ import annotations

import json
from functools import partial
from html.parser import HTMLParser

from distributed import Event
from distributed.utils_test import gen_cluster
from tornado.httpclient import AsyncHTTPClient

import handoff_dask as handoff

HTTP = {"dashboard_address": "127.0.0.1:0"}
clustered = partial(
    gen_cluster, client=True, scheduler_kwargs=HTTP, config={"distributed.scheduler.validate": True}
)
HOSTILE = [
    "<script>alert(1)</script>",
    "\"'><img src=x onerror=alert(1)>",
    "line\nbreak\r\ttab\x00\x1b[31m\u202e\ud800",
    "</style><style>* { display: none }",
    "{{ 7 * 7 }} {% raw %} &lt;b&gt;",
    "x" * 10_000,
]


async def fetch(scheduler, path, **options):
    """The answer of the scheduler's HTTP server, errors too."""
    url = f"http://127.0.0.1:{scheduler.http_server.port}{path}"
    return await AsyncHTTPClient(force_instance=True).fetch(url, raise_error=False, **options)


async def fetch_json(scheduler, path):
    answer = await fetch(scheduler, path)
    assert answer.code == 200
    assert answer.headers["Content-Type"] == "application/json; charset=utf-8"
    return json.loads(answer.body)


class Document(HTMLParser):
    """What a browser would find in a page: elements with their attributes, and texts."""

    def __init__(self, html):
        super().__init__()
        self.elements, self.texts = [], []
        self.feed(html)
        self.text = " ".join(" ".join(self.texts).split())

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.texts.append(data)

    def attributes(self, tag, name):
        return [
            attributes[name] for found, attributes in self.elements if found == tag and name in attributes
        ]


async def document(scheduler, path="/handoff"):
    answer = await fetch(scheduler, path)
    assert answer.code == 200
    return Document(answer.body.decode())


def wait_for(name, *args):
    Event(name).wait()
    return name


def boom(*args):
    raise ValueError("<b>boom</b>")


class Rude:
    """An id that cannot be shown."""

    def __repr__(self):
        raise RuntimeError("no")


class Waiting:
    """One function runs on node 1, two wait for room there, one for its arguments."""

    def __init__(self, session):
        self.session = session

    async def __aenter__(self):
        dag = handoff.DAG("busy")
        dag.add_function(handoff.Function("holds", [], wait_for, extra_args=["go"], cost={"cpu": 2}))
        for i in (1, 2):
            dag.add_function(handoff.Function(("next", i), [], int, cost={"cpu": 2}, priority=-i))
        dag.add_function(handoff.Function("last", ["holds"], str))
        self.execution = await self.session.submit(dag)
        while self.execution.status != "running":
            await self.session.ask("ping")
        return self.execution

    async def __aexit__(self, *exc_info):
        await Event("go").set()
        await self.execution
