"""Pages in headless Chromium, by its DevTools protocol."""

from __future__ import annotations

import asyncio
import itertools
import json
import shutil
import subprocess
import time
from collections.abc import Iterator

import pytest
from tornado.websocket import websocket_connect

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-port=0",
    "--window-size=1280,900",
]


class Browser:
    """A page in headless Chromium, by its DevTools protocol."""

    def __init__(self, address: str) -> None:
        self.loop = asyncio.new_event_loop()
        self.numbers = itertools.count(1)
        self.events: list[dict] = []
        self.session: str | None = None
        self.socket = self.run(lambda: websocket_connect(address, max_message_size=64 << 20))
        target = self.send("Target.getTargets")["targetInfos"][0]["targetId"]
        self.session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.send(f"{domain}.enable")
        self.send("Page.setLifecycleEventsEnabled", enabled=True)

    def run(self, call):
        async def bounded():
            return await asyncio.wait_for(call(), 60)

        return self.loop.run_until_complete(bounded())

    def send(self, method: str, **params):
        number = next(self.numbers)
        message = {"id": number, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        self.run(lambda: self.socket.write_message(json.dumps(message)))
        while (answer := self.receive()).get("id") != number:
            self.events.append(answer)
        assert "error" not in answer, answer
        return answer["result"]

    def receive(self):
        return json.loads(self.run(self.socket.read_message))

    def open(self, path) -> None:
        self.go(path.as_uri())

    def go(self, url: str) -> None:
        self.events.clear()
        loader = self.send("Page.navigate", url=url)["loaderId"]
        # Of this page: the end of the one before may be told after it was left.
        while not any(
            event.get("method") == "Page.lifecycleEvent"
            and (event["params"]["loaderId"], event["params"]["name"]) == (loader, "load")
            for event in self.events
        ):
            self.events.append(self.receive())

    def value(self, expression: str):
        """What an expression of JavaScript comes to."""
        answer = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def press(self, key: str, code: int, text: str = "") -> None:
        for kind in ("keyDown", "keyUp"):
            written = {"text": text} if text and kind == "keyDown" else {}
            self.send(
                "Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **written
            )

    def complaints(self, *allowed: str) -> list[str]:
        """What went wrong in the page, and what it asked the network for, other than what begins so."""
        methods = ("Runtime.exceptionThrown", "Log.entryAdded", "Page.javascriptDialogOpening")
        wrong = [str(event) for event in self.events if event.get("method") in methods]
        requests = [
            e["params"]["request"]["url"]
            for e in self.events
            if e.get("method") == "Network.requestWillBeSent"
        ]
        return wrong + [url for url in requests if not url.startswith(("file:", "data:", "blob:", *allowed))]

    def close(self) -> None:
        self.session = None
        self.send("Browser.close")
        self.run(self._closed)
        self.loop.close()

    async def _closed(self) -> None:
        self.socket.close()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert program, "this test needs Chromium: apt install chromium"
    folder = f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"
    with subprocess.Popen(
        [program, *FLAGS, folder, "about:blank"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            page = Browser(next(line.split()[-1] for line in process.stderr if "DevTools listening" in line))
            yield page
            page.close()
            process.wait(20)
        finally:
            process.kill()


def eventually(look, expected) -> None:
    """The page draws when it has time: look until it shows what is expected, or time is up."""
    deadline = time.monotonic() + 10
    while (seen := look()) != expected and time.monotonic() < deadline:
        pass
    assert seen == expected
