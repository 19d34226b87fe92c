"""The page in a headless Chromium: a comparison by keyboard alone, on a phone's width, and every way to fail."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager
from typing import Any, cast

import pytest
from fastapi import FastAPI, HTTPException, Request

import dkv
from dkv.engine import Engine, Service, Update
from dkv.errors import BusyError, EngineError
from dkv.lab.common.agreement import agreement
from dkv.outputs import Frame
from dkv.server.playground import playground
from tests.support.browser import CONTROL, Browser, browsers_at, open_browser
from tests.support.web import serving

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(browsers_at() is None, reason="needs chromium and chromedriver (Debian: chromium-driver)"),
]

TAB, ENTER, LEFT, RIGHT, HOME = "\ue004", "\ue007", "\ue012", "\ue014", "\ue011"
PROMPT = "In Spanish, please: the white woman wants the red egg in the garden."
LENGTH = 24
CACHES = ("none", "dllm-cache:kp=1000,kr=1000,rho=0")
DECODERS = ("confidence", "random:seed=1")
"""The second policy never recomputes what it has and fixes tokens in any order: it disagrees with the first."""


class Moody:
    """A service that can be busy, or fail late (after a step)."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.mood = ""

    def status(self) -> Any:
        return self.service.status()

    async def stream(self, request: Any) -> AsyncIterator[Update]:
        if self.mood == "busy":
            raise BusyError("the queue is full")
        async with aclosing(cast("AsyncGenerator[Update]", self.service.stream(request))) as updates:
            async for update in updates:
                yield update
                if self.mood == "late":
                    raise EngineError("the engine has stopped")


@pytest.fixture(scope="module")
def tiny() -> dkv.DiffusionLM:
    return dkv.load("tiny", device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def service(tiny: dkv.DiffusionLM) -> Moody:
    return Moody(Service(Engine(tiny)))


def app_of(service: Moody, lm: dkv.DiffusionLM, **settings: Any) -> FastAPI:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with service.service:
            yield

    app = FastAPI(lifespan=lifespan)
    app.include_router(playground(service, lm, **settings))  # type: ignore[arg-type]
    return app


@pytest.fixture(scope="module")
def url(service: Moody, tiny: dkv.DiffusionLM) -> Iterator[str]:
    with serving(app_of(service, tiny)) as address:
        yield address


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with open_browser(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture
def page(window: Browser, url: str, service: Moody) -> Browser:
    service.mood = ""
    window.resize(1440, 900)
    window.open(url)
    window.wait("document.querySelector('#examples button') !== null")
    window.complaints()
    window.hosts()
    return window


def tab_to(page: Browser, wanted: str) -> None:
    """Press Tab until the focus is on the element with this id; each on the way must show that it has the focus."""
    for _ in range(60):
        page.press(TAB)
        shown = page.run(
            "const style = getComputedStyle(document.activeElement); return style.outlineStyle + style.outlineWidth"
        )
        if page.focused() == wanted:
            assert shown == "solid2px"
            return
    raise AssertionError(f"Tab does not lead to {wanted}")


def enter(page: Browser, wanted: str, text: str) -> None:
    """Go to a field by Tab and write over what it holds."""
    tab_to(page, wanted)
    page.hold(CONTROL, "a")
    page.press(*text)


def done(page: Browser) -> None:
    page.wait("/^(Done|Stopped)/.test(document.querySelector('#status').textContent)")


def cells(page: Browser, side: str) -> list[tuple[str, str]]:
    found = page.run(
        "return [...document.querySelectorAll(arguments[0])].map((c) => [c.dataset.state, c.dataset.origin])",
        f"#canvas-{side} .cell",
    )
    return [(state, origin) for state, origin in found]


def frames_of(lm: dkv.DiffusionLM, number: int) -> list[Frame]:
    """What the first or the second policy does, without the engine."""
    return list(lm.stream(PROMPT, gen_length=LENGTH, cache=CACHES[number], decoder=DECODERS[number]))


def cells_of(frame: Frame) -> list[tuple[str, str]]:
    flags = zip(frame.committed, frame.provisional, frame.computed, strict=True)
    return [
        ("committed" if c else "provisional" if p else "masked", "computed" if rows else "cached")
        for c, p, rows in flags
    ]


def start_comparison(page: Browser) -> None:
    """By keyboard alone, from wherever the focus is at first."""
    enter(page, "prompt", PROMPT)
    enter(page, "cache-spec-a", CACHES[0])
    enter(page, "cache-spec-b", CACHES[1])
    enter(page, "decoder-spec-b", DECODERS[1])
    enter(page, "gen_length", str(LENGTH))
    tab_to(page, "compare")
    page.press(ENTER)


def test_a_comparison_by_keyboard(page: Browser, tiny: dkv.DiffusionLM) -> None:
    page.run(
        "window.said = []; new MutationObserver(() => said.push(document.querySelector('#status').textContent))"
        ".observe(document.querySelector('#status'), { childList: true })"
    )
    start_comparison(page)
    done(page)
    frames = [frames_of(tiny, number) for number in (0, 1)]
    one, other = (seen[-1].generation for seen in frames)
    assert one is not None
    assert other is not None
    length = max(one.stats.new_tokens, other.stats.new_tokens)
    differing = [p for p in range(length) if one.token_ids[p] != other.token_ids[p]]
    assert differing  # else nothing is tested below
    for side, result in zip("ab", (one, other), strict=True):
        assert page.text(f"#text-{side}") == result.text
        assert f"{result.stats.new_tokens} tokens" in page.text(f"#run-{side} .speeds")
        share = result.stats.rows_computed / result.stats.rows_total
        assert f"{share:.1%}" in page.text(f"#run-{side} .speeds")
        marked = page.run(
            "return [...document.querySelectorAll(arguments[0])].map((c) => Number(c.dataset.position))",
            f"#canvas-{side} [data-differs]",
        )
        assert marked == differing
    told = page.text("#agreement")
    assert f"{length - len(differing)} of {length} positions ({100 * agreement(one, other):.1f}%)" in told
    assert f"The first disagreement is position {differing[0] + 1}:" in told
    said = page.run("return said")
    assert 3 <= len(said) <= 6  # a word at each turn, none at a step
    assert page.complaints() == []
    assert page.hosts() == {"127.0.0.1"}


def test_a_replay_shows_what_each_step_left(page: Browser, tiny: dkv.DiffusionLM) -> None:
    start_comparison(page)
    done(page)
    tab_to(page, "step")
    page.press(HOME, *[RIGHT] * 4)  # the fifth step
    page.wait("document.querySelector('#step-label').textContent.startsWith('Step 5 of ')")
    for number, side in enumerate("ab"):
        frame = frames_of(tiny, number)[4]
        assert cells(page, side) == cells_of(frame)
        assert page.text(f"#now-{side}").startswith(f"Step 5: {sum(frame.committed)} of {LENGTH} committed")
    tab_to(page, "canvas-b")
    page.press(*[RIGHT] * 4, LEFT)
    assert page.run("return document.activeElement.getAttribute('aria-activedescendant')") == "cell-b-2"
    assert page.text("#detail-a").startswith(f"Position 3 of {LENGTH}: ")
    assert page.text("#detail-b") == page.run("return document.querySelector('#cell-b-2').getAttribute('aria-label')")


def test_play_goes_through_all_steps(page: Browser) -> None:
    start_comparison(page)
    done(page)
    tab_to(page, "play")
    page.press(ENTER)
    page.wait("document.querySelector('#play').textContent === 'Pause'", 5)
    page.wait("document.querySelector('#play').textContent === 'Play'", 20)
    assert page.text("#step-label") == f"Step {LENGTH} of {LENGTH}"


def test_one_policy_runs_alone(page: Browser, tiny: dkv.DiffusionLM) -> None:
    page.run("window.requestAnimationFrame = () => 0")  # what is said to be done is drawn, frame or no frame
    enter(page, "prompt", PROMPT)
    enter(page, "gen_length", "8")
    tab_to(page, "run")
    page.press(ENTER)
    done(page)
    assert page.text("#text-a") == tiny.generate(PROMPT, gen_length=8, cache="none")[0].text
    assert page.run("return document.querySelector('#run-b') === null && document.querySelector('#verdict').hidden")


def test_a_phone_needs_no_sideways_scrolling(page: Browser, url: str) -> None:
    page.resize(360, 740, 2, phone=True)
    page.open(url)
    page.wait("document.querySelector('#examples button') !== null")
    widths = "return [document.documentElement.scrollWidth, innerWidth]"
    assert page.run(widths) == [360, 360]
    start_comparison(page)
    done(page)
    assert page.run(widths) == [360, 360]
    beyond = (
        "return [...document.querySelectorAll('body *')].filter((e) => e.getBoundingClientRect().right > 360.5)"
        ".map((e) => e.tagName + '.' + e.className)"
    )
    assert page.run(beyond) == []
    page.wait("document.querySelector('#replay').getBoundingClientRect().top < innerHeight / 2", 5)


def test_every_control_has_a_name(page: Browser) -> None:
    nameless = (
        "return [...document.querySelectorAll('button, input, select, textarea')].filter((e) => !(e.labels?.length || "
        "e.textContent.trim() || e.getAttribute('aria-label') || e.getAttribute('aria-labelledby'))).map((e) => e.id)"
    )
    assert page.run(nameless) == []


CONTRASTS = """
const channel = (v) => (v / 255 <= .03928 ? v / 255 / 12.92 : ((v / 255 + .055) / 1.055) ** 2.4);
const light = (c) => .2126 * channel(c[0]) + .7152 * channel(c[1]) + .0722 * channel(c[2]);
const parse = (text) => text.match(/[\\d.]+/g).map(Number);
const behind = (e) => { for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor); if (c.length < 4 || c[3] > 0) return c; } };
document.querySelector("#error").hidden = false;
document.querySelector("#error").textContent = "x";
const poor = [];
for (const e of document.querySelectorAll("label, .hint, .cell, .badge, h1, h1 span, #model, #empty p, button:not([aria-disabled=true]), input, select, textarea, #error, .label")) {
  const [a, b] = [light(parse(getComputedStyle(e).color)), light(behind(e))].sort();
  if ((Math.max(a, b) + .05) / (Math.min(a, b) + .05) < 4.5) poor.push(e.tagName + "." + e.className);
}
return poor;
"""  # noqa: E501


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_in_both_schemes(page: Browser, scheme: str) -> None:
    page.prefer(prefers_color_scheme=scheme)
    dark = page.run("return getComputedStyle(document.body).backgroundColor") != "rgb(246, 246, 243)"
    assert dark == (scheme == "dark")
    assert page.run(CONTRASTS) == []


def test_nothing_moves_for_who_wants_no_motion(page: Browser) -> None:
    start_comparison(page)
    done(page)
    length = "return getComputedStyle(document.querySelector('#canvas-a .cell')).transitionDuration"
    page.prefer(prefers_reduced_motion="no-preference")
    assert page.run(length) != "0s"
    page.prefer(prefers_reduced_motion="reduce")
    assert page.run(length) == "0s"


def shown_error(page: Browser) -> str:
    page.wait("!document.querySelector('#error').hidden")
    return page.text("#error")


def test_a_setting_that_cannot_be_honoured_is_named(page: Browser) -> None:
    enter(page, "cache-spec-a", "<img src=x onerror=alert(1)>")
    tab_to(page, "compare")
    page.press(ENTER)
    assert shown_error(page).startswith(
        "cache='<img src=x onerror=alert(1)>': unknown name '<img src=x onerror=alert(1)>'"
    )
    assert page.run("return document.querySelector('img') === null")
    assert page.run("return document.querySelector('#error').childElementCount") == 0


def test_half_a_number_is_refused_by_the_page(page: Browser) -> None:
    enter(page, "steps", "1.5")
    page.press(ENTER)
    assert shown_error(page) == "Steps: give a whole number below 2^53."
    assert page.focused() == "steps"


@pytest.mark.parametrize(
    ("mood", "line"),
    [
        ("busy", "The server is busy: the queue is full. Try again in 1 s."),
        ("late", "the engine has stopped"),
    ],
)
def test_what_the_engine_says_is_shown(page: Browser, service: Moody, mood: str, line: str) -> None:
    service.mood = mood
    page.run("document.querySelector('#compare').click()")
    assert shown_error(page) == line
    service.mood = ""
    page.run("document.querySelector('#compare').click()")
    done(page)
    assert page.run("return document.querySelector('#error').hidden")


def test_stop_frees_the_engine(page: Browser, service: Moody) -> None:
    before = service.status().requests_cancelled
    enter(page, "prompt", PROMPT)
    enter(page, "gen_length", "1024")  # the engine does not wait for its readers; this takes it seconds
    page.press(ENTER)
    page.wait("document.querySelectorAll('#canvas-a [data-state=committed]').length > 2")
    tab_to(page, "stop")
    page.press(ENTER)
    done(page)
    assert page.text("#status") == "Stopped."
    page.wait(lambda: service.status().requests_cancelled == before + 1, 10)
    assert service.status().active == 0


def test_a_server_that_is_gone_is_said_so(window: Browser, service: Moody, tiny: dkv.DiffusionLM) -> None:
    other = Moody(Service(Engine(tiny)))
    with serving(app_of(other, tiny)) as address:
        window.open(address)
        window.wait("document.querySelector('#examples button') !== null")
    window.run("document.querySelector('#compare').click()")
    assert shown_error(window) == "The server does not answer. Is dkv serve still running?"


def test_a_server_with_a_key_is_given_it(window: Browser, tiny: dkv.DiffusionLM) -> None:
    def guard(request: Request) -> None:
        if request.headers.get("authorization") != "Bearer sesame":
            raise HTTPException(401, "give a valid API key")

    with serving(app_of(Moody(Service(Engine(tiny))), tiny, guard=guard)) as address:
        window.open(address)
        assert shown_error(window) == "The server wants its API key: give a valid API key"
        assert window.focused() == "key"
        window.press(*"simsalabim", ENTER)
        window.wait("!document.querySelector('#error').hidden && document.activeElement.id === 'key'")
        window.hold(CONTROL, "a")
        window.press(*"sesame", ENTER)
        window.wait("document.querySelector('#examples button') !== null")
        assert window.run("return document.querySelector('#key-form').hidden")
        enter(window, "gen_length", "8")
        window.press(ENTER)
        done(window)
        assert window.text("#status").startswith("Done.")
