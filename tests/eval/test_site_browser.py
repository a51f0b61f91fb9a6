"""The site in a real browser, which shows, sorts, filters and plays it, from disk alone."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import soundfile

from eval.report.columns import number_tables
from eval.report.inputs import read_inputs
from slm.tokenizers._catalogue import ListConfig, catalogue, select
from tests.eval.browser import CHROMIUM, browse

needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt-get install chromium")
CHOOSE = """document.querySelectorAll('[data-table=%s] select').forEach((s, i) => {
  s.value = %s[i] ?? s.value; s.dispatchEvent(new Event('input', {bubbles: true})); })"""
VISIBLE = "[...document.querySelectorAll('#%s tbody tr')].filter(r => !r.hidden).map(r => %s)"


@needs_chromium
def test_in_a_browser(given, site, tmp_path):
    """One start for all: sorting and filtering by keyboard, players, plots, dark and phone; no complaint."""
    pytest.importorskip("aiohttp")
    seen = SimpleNamespace()

    async def visit(tab):
        await tab.size(1200, 900)
        await _check_sorting(tab, site)
        await _check_filters(tab, site, given)
        await _check_players(tab, site)
        await _check_plots(tab, site)
        for page in [*site.glob("*.html"), *site.glob("models/*/index.html")]:
            await tab.size(360, 740, dark=True)
            await tab.open(page)
            assert await tab.run("document.documentElement.scrollWidth <= innerWidth"), f"{page.name} is too wide"
            assert await tab.run("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 26)"
            assert await tab.run(UNNAMED) == []
        await tab.size(1200, 900)
        await tab.run("localStorage.setItem('theme', 'dark')")  # as its button does, on whichever page
        for _ in range(20):  # the browser passes on what is stored when it has time
            await tab.open(next(site.glob("models/*/index.html")))
            if (colour := await tab.run("getComputedStyle(document.body).backgroundColor")) == "rgb(20, 23, 26)":
                break
        assert colour == "rgb(20, 23, 26)"
        await tab.open(site / "tokenizers.html")
        await tab.call("Emulation.setEmulatedMedia", media="print")
        style = "(s => [s('body').color, s('.scroll').overflowX])(e => getComputedStyle(document.querySelector(e)))"
        assert await tab.run(style) == ["rgb(29, 27, 24)", "visible"]  # paper is light, and does not scroll
        seen.complaints, seen.requested = tab.complaints, tab.requested

    browse(visit, tmp_path / "profile")
    assert seen.complaints == []
    assert [url for url in seen.requested if not url.startswith((site.as_uri(), "data:", "blob:"))] == []


# Controls and pictures without a name for screen readers.
UNNAMED = """[...document.querySelectorAll('button, select, input, img, audio, table, [role=img]')].filter(e =>
  !(e.textContent.trim() && e.matches('button')) && !e.caption?.textContent &&
  !e.labels?.length && !e.alt && !e.getAttribute('aria-label')
).map(e => e.outerHTML.slice(0, 80))"""


async def _check_sorting(tab, site: Path) -> None:
    await tab.open(site / "index.html")
    for _ in range(60):
        await tab.press("Tab", 9)
        if await tab.run("document.activeElement.closest('#overview-table th:nth-child(3)') !== null"):
            break
    orders = []
    for _ in range(2):
        await tab.press("Enter", 13, "\r")
        orders.append(await tab.run(VISIBLE % ("overview-table", "Number(r.cells[2].dataset.sort)")))
        orders.append([await tab.run("document.querySelector('#overview-table [aria-sort]').ariaSort")])
    values = [1500.0, 550.0, 200.0, 200.0]
    assert orders == [values, ["descending"], values[::-1], ["ascending"]]
    measures = []  # of two units: each is sorted by itself
    for way in (-1, 1):
        await tab.run("document.querySelector('#table-reconstruction-dev th:nth-child(4) button').click()")
        rows = await tab.run(
            VISIBLE % ("table-reconstruction-dev", "[r.cells[2].textContent, Number(r.cells[3].dataset.sort)]")
        )
        assert rows == sorted(rows, key=lambda row: (row[0], way * row[1]))
        measures.append(sorted({metric for metric, _ in rows}))
    assert measures == [["accuracy", "bitrate"]] * 2
    for word in ("mimi", ""):  # what a filter brings back is drawn anew, in the order that was asked for
        await tab.run(CHOOSE % ("table-reconstruction-dev", f"[{word!r}]"))
    assert rows == await tab.run(
        VISIBLE % ("table-reconstruction-dev", "[r.cells[2].textContent, Number(r.cells[3].dataset.sort)]")
    )


async def _check_filters(tab, site: Path, given: list[Path]) -> None:
    await tab.open(site / "index.html")
    made = VISIBLE % ("table-swuggy-dev", "r.cells[6].textContent + ' ' + r.cells[2].textContent")
    first = set(await tab.run(made))
    assert first == {"mean+eos accuracy"}
    await tab.run("document.querySelector('[data-table=table-swuggy-dev] [data-field=metric]').focus()")
    await tab.press("b", 66, "b")  # bits per second, which have another convention: that of accuracies gives way
    bits = set(await tab.run(made))
    assert bits == {"sum+eos bits per s of audio"}
    await tab.run(CHOOSE % ("table-swuggy-dev", "['', '', '', '']"))
    drawn = "[r.cells[0], r.cells[1], r.cells[4], r.cells[5], r.cells[6]].map(c => c.textContent)"
    rows = [row for t in number_tables(read_inputs(given).evaluated) if t.title == "swuggy" for row in t.rows]
    assert await tab.run(VISIBLE % ("table-swuggy-dev", drawn)) == [
        [row.run, row.subset, row.interval, f"{row.count:,}", row.convention] for row in rows
    ]
    link = VISIBLE % ("table-swuggy-dev", "r.querySelector('a').getAttribute('href')")
    assert await tab.run(link) == [f"config.html#{row.anchor}" for row in rows]
    await tab.open(site / "tokenizers.html")
    names = VISIBLE % ("tokenizer-table", "r.cells[0].querySelector('summary').textContent")
    assert await tab.run(names) == [row.name for row in catalogue()]
    await tab.run("document.querySelector('.scroll').scrollTop = 300")  # the headings stay in sight
    tops = "['.scroll', '#tokenizer-table th + th'].map(e => document.querySelector(e).getBoundingClientRect().top)"
    assert len(set(await tab.run(tops))) == 1
    await tab.run("document.querySelector('[data-field=quantizer]').focus()")
    await tab.press("r", 82, "r")  # RVQ is the first that begins so
    await tab.run("document.querySelector('[data-max=bps]').focus()")
    for digit in "6000":
        await tab.press(digit, ord(digit), digit)
    found, _ = select(catalogue(), ListConfig(quantizer="RVQ", max_bitrate_bps=6000))
    assert 0 < len(found) < len(catalogue())
    assert await tab.run(names) == [row.name for row in found]
    told = await tab.run("document.querySelector('.facets output').textContent")
    assert told == f"{len(found)} of {len(catalogue())} rows"
    await tab.run("document.querySelector('.facets button[type=reset]').click()")
    assert len(await tab.run(f"new Promise(r => setTimeout(() => r({names}), 50))")) == len(catalogue())


async def _check_players(tab, site: Path) -> None:
    await tab.open(site / "samples.html")
    told = """Promise.all([...document.querySelectorAll('audio')].map(a => new Promise((done, fail) => {
        const tell = () => done([decodeURIComponent(a.src.split('/').pop()), a.duration]);
        a.onerror = () => fail(new Error(a.src)); if (a.readyState > 0) tell(); else a.onloadedmetadata = tell; })))"""
    lengths = dict(await tab.run(told))
    assert len(lengths) == len(list((site / "media").glob("*.wav")))
    for name, duration_s in lengths.items():
        assert duration_s == pytest.approx(soundfile.info(str(site / "media" / name)).duration, abs=0.01)
    assert await tab.run("""new Promise(done => { const a = document.querySelector('audio');
        a.ontimeupdate = () => { if (a.currentTime > 0) done(true); }; a.play(); })""")
    middle = await tab.run("""new Promise(done => { const a = [...document.querySelectorAll('audio')].pop();
        a.preload = 'none'; a.load();
        a.ontimeupdate = () => { if (a.currentTime > 0) done(a.currentTime / a.duration); };
        const wave = a.closest('.sound').querySelector('.wave'), box = wave.getBoundingClientRect();
        wave.dispatchEvent(new MouseEvent('click', {clientX: box.left + box.width / 2, clientY: box.top})); })""")
    assert middle == pytest.approx(0.55, abs=0.06)  # a click into a waveform whose file is not open yet
    assert await tab.run("""Promise.all([...document.images].map(i => { i.loading = 'eager'; return i.decode(); }))
        .then(() => [...document.images].every(i => i.naturalHeight === 80))""")


async def _check_plots(tab, site: Path) -> None:
    await tab.open(site / "plots.html")
    shown = "document.querySelector('#plot-quality').data.map(t => [t.name, t.y])"
    options = await tab.run("[...document.querySelector('[data-plot=quality]').options].map(o => o.text)")
    assert options == ["accuracy"]
    assert dict(await tab.run(shown)) == {"mimi, speech": [0.2, 0.4, 0.2 * 3, 0.8], "encodec, speech": [0.1, 0.2]}
    assert await tab.run("document.querySelectorAll('.plotly svg.main-svg').length > 0")
    ends = "document.querySelector('#plot-quality%s').getBoundingClientRect().right"
    assert await tab.run(ends % " svg.main-svg") <= await tab.run(ends % "") + 1
    drawn = "[...document.querySelectorAll('#plot-sweep .textpoint text')].map(t => t.textContent)"
    assert await tab.run(drawn) == ["T=0.5", "T=0.8", "T=1.1"]
    await tab.run("document.querySelector('[data-plot=zero-shot]').focus()")
    await tab.press("ArrowDown", 40)
    assert await tab.run("document.querySelector('[data-plot=zero-shot]').value") == "1"
    assert await tab.run("document.querySelector('.view[data-view=zero-shot-0]').hidden")
    assert "codes" in await tab.run("document.querySelector('#plot-zero-shot').layout.xaxis.title.text")
    ink = "document.querySelector('#plot-quality').layout.font.color"
    assert await tab.run(ink) == "rgb(29, 27, 24)"
    await tab.run("document.querySelector('#theme').click()")
    assert await tab.run(ink) == "rgb(236, 232, 225)"
    await tab.run("localStorage.removeItem('theme')")
