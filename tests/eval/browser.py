"""A real headless Chromium, driven over its DevTools protocol: what a page says, requests and does."""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-dev-shm-usage", "--mute-audio",
         "--autoplay-policy=no-user-gesture-required",
         "--disable-background-networking", "--disable-extensions", "--remote-debugging-port=0")  # fmt: skip


class Tab:
    """One page. `complaints` are console errors, exceptions and failed requests; `requested` the URLs asked for."""

    def __init__(self, socket: Any):
        self.socket, self.number = socket, 0
        self.complaints: list[str] = []
        self.requested: list[str] = []
        self.loaded = 0

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        self.number += 1
        number = self.number
        await self.socket.send_json({"id": number, "method": method, "params": params})
        while True:
            message = await asyncio.wait_for(self._next(), 30)
            if message.get("id") == number:
                assert "error" not in message, message["error"]
                return message["result"]

    async def _next(self) -> dict[str, Any]:
        message = json.loads((await self.socket.receive()).data)
        params = message.get("params", {})
        match message.get("method"):
            case "Network.requestWillBeSent":
                self.requested.append(params["request"]["url"])
            case "Network.loadingFailed" if not params.get("canceled"):
                self.complaints.append(f"failed: {params['errorText']}")
            case "Runtime.exceptionThrown":
                self.complaints.append(json.dumps(params["exceptionDetails"])[:500])
            case "Runtime.consoleAPICalled" if params["type"] in ("error", "warning", "assert"):
                self.complaints.append(json.dumps(params["args"])[:500])
            case "Log.entryAdded" if params["entry"]["level"] == "error":
                self.complaints.append(params["entry"]["text"])
            case "Page.loadEventFired":
                self.loaded += 1
        return message

    async def open(self, page: Path) -> None:
        before = self.loaded
        await self.call("Page.navigate", url=page.resolve().as_uri())
        while self.loaded == before:
            await asyncio.wait_for(self._next(), 30)

    async def run(self, script: str) -> Any:
        """The value of a JavaScript expression, which may be a promise."""
        made = await self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in made, made["exceptionDetails"]
        return made["result"].get("value")

    async def press(self, key: str, code: int, text: str = "") -> None:
        keys = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        await self.call("Input.dispatchKeyEvent", type="keyDown", **keys, **({"text": text} if text else {}))
        await self.call("Input.dispatchKeyEvent", type="keyUp", **keys)

    async def size(self, width: int, height: int, dark: bool = False) -> None:
        await self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1,
                        mobile=width < 600)  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.call("Emulation.setEmulatedMedia", features=[scheme])

    async def shoot(self, path: Path) -> None:
        made = await self.call("Page.captureScreenshot", format="png")
        path.write_bytes(base64.b64decode(made["data"]))


def browse(visit: Any, profile: Path) -> None:
    """Run `await visit(tab)` in a Chromium of its own."""
    profile.mkdir(parents=True, exist_ok=True)
    (profile / "DevToolsActivePort").unlink(missing_ok=True)  # of an earlier one
    command = [str(CHROMIUM), *FLAGS, f"--user-data-dir={profile}", "about:blank"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        asyncio.run(_visit(visit, _port(process, profile / "DevToolsActivePort")))
    finally:
        process.terminate()
        process.wait(20)


def _port(process: subprocess.Popen, file: Path) -> int:
    for _ in range(600):
        if file.is_file() and (lines := file.read_text().split()):
            return int(lines[0])
        assert process.poll() is None, "Chromium did not start"
        time.sleep(0.05)
    raise AssertionError("Chromium opened no port")


async def _visit(visit: Any, port: int) -> None:
    import aiohttp

    async with aiohttp.ClientSession() as session:
        async with session.get(f"http://127.0.0.1:{port}/json") as answer:
            targets = await answer.json()
        url = next(t["webSocketDebuggerUrl"] for t in targets if t["type"] == "page")
        async with session.ws_connect(url, max_msg_size=0) as socket:
            tab = Tab(socket)
            for domain in ("Page", "Runtime", "Log", "Network"):
                await tab.call(f"{domain}.enable")
            await visit(tab)
