"""Make docs/playground.png and docs/playground-phone.png: `python -m docs.playground_shots` from the repository's root.

Needs chromium and chromedriver. The speeds in the pictures are those of the machine that made them.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import torch
from fastapi import FastAPI

import dkv
from dkv.engine import Engine, Service
from dkv.server.playground import playground
from tests.support.browser import Browser, open_browser
from tests.support.web import serving

HERE = Path(__file__).parent
CACHE = "dkv-decode:refresh=16,delay=0"
"""Of B; A computes everything at every step."""
EXAMPLE, STEP = "List", 62
"""Of 64 steps: late enough for disagreements, early enough for provisional tokens."""


def main() -> None:
    """Run a comparison at a desktop's width and at a phone's, each stopped at one step of its replay."""
    torch.set_num_threads(1)
    lm = dkv.load("tiny", device="cpu", dtype="float32")
    service = Service(Engine(lm))

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with service:
            yield

    app = FastAPI(lifespan=lifespan)
    app.include_router(playground(service, lm))
    with tempfile.TemporaryDirectory() as profile, serving(app) as url, open_browser(Path(profile)) as browser:
        browser.prefer(prefers_color_scheme="light", prefers_reduced_motion="reduce")
        browser.resize(1440, 1000)
        compare(browser, url)
        write(HERE / "playground.png", browser.shoot(whole=True))
        browser.resize(360, 780, 2, phone=True)
        compare(browser, url)
        browser.run("document.querySelector('#run-b').scrollIntoView()")
        time.sleep(0.3)
        write(HERE / "playground-phone.png", browser.shoot())


def compare(browser: Browser, url: str) -> None:
    """The example under no cache and under CACHE, left at step STEP."""
    browser.open(url)
    browser.wait("document.querySelector('#examples button') !== null")
    browser.run(
        "[...document.querySelectorAll('#examples button')].find((b) => b.textContent == arguments[0]).click()", EXAMPLE
    )
    set_value(browser, "cache-spec-b", CACHE)
    set_value(browser, "seed", "1")
    browser.run("document.querySelector('#compare').focus(); document.querySelector('#compare').click()")
    browser.wait("document.querySelector('#status').textContent.startsWith('Done')", 120)
    set_value(browser, "step", str(STEP))
    browser.wait(f"document.querySelector('#step-label').textContent.startsWith('Step {STEP} ')")
    browser.run("document.activeElement.blur()")


def set_value(browser: Browser, field: str, value: str) -> None:
    """As if it had been typed."""
    script = (
        "const e = document.getElementById(arguments[0]); e.value = arguments[1]; e.dispatchEvent(new Event('input'))"
    )
    browser.run(script, field, value)


def write(path: Path, png: bytes) -> None:
    """Whole or not at all."""
    part = path.with_suffix(".part")
    part.write_bytes(png)
    os.replace(part, path)


if __name__ == "__main__":
    main()
