"""The site: what stands on its pages, and that a real browser shows, sorts, filters and plays it, from disk alone."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

from eval.report.__main__ import main as report
from eval.report.columns import column_ranks, headline_columns, rank
from eval.report.inputs import Evaluated, read_inputs
from eval.report.plots import compute_plot, nominal_bps, quality_plot, zero_shot_plot
from eval.report.samples import collect_takes
from eval.report.spectrogram import BANDS, RANGE_DB, encode_png, log_mel_db
from eval.run import main
from slm.tokenizers._catalogue import ListConfig, catalogue, select
from tests.eval.browser import CHROMIUM, browse
from tests.eval.material import LevelLM, config, random_lexical, scores, write_level, write_lexical
from tests.eval.test_page import parse


def write_reconstruction(out: Path, like: Path, name: str, sizes: list[int], rate_hz: float, gain: float) -> Path:
    """Results of a tokenizer alone, at 1, 2, .. codebooks, with one recording: `gain` a codebook more is better."""
    record = json.loads((like / "results.json").read_text())
    spec = {**record["tokenizer"], "name": name, "codebook_sizes": sizes, "frame_rate_hz": rate_hz,
            "sample_rate_hz": 24000, "bitrate_bps": rate_hz * float(np.log2(sizes).sum())}  # fmt: skip
    made = []
    for k in range(1, len(sizes) + 1):
        common = {"item": f"reconstruction/dev/speech/{k}", "convention": "aligned", "count": 7, "interval": None}
        bits = rate_hz * float(np.log2(sizes[:k]).sum())
        made += [{**common, "metric": "bitrate", "value": bits, "unit": "bit/s"},
                 {**common, "metric": "pair_accuracy", "value": gain * k, "unit": "fraction"}]  # fmt: skip
    (out / "rec").mkdir(parents=True)
    for part in ("original", "reconstruction"):
        soundfile.write(str(out / f"rec/{part}.wav"), 0.3 * np.sin(np.arange(4800) / 5), 24000)
    files = {"original": "original.wav", "reconstruction": "reconstruction.wav", "outside": "../../data/p0.wav"}
    result = record["results"][0] | {
        "benchmark": "reconstruction", "headline": "", "scores": {"model": made}, "left_out": [], "meanings": {},
        "details": {"samples": [{"id": "p0", "folder": "rec", "files": files}], "absent": {"visqol": "pip install it"}},
    }  # fmt: skip
    text = json.dumps({**record, "model": None, "tokenizer": spec, "corpus": None, "results": [result]})
    (out / "results.json").write_text(text)
    return out


@pytest.fixture(scope="module")
def given(tmp_path_factory) -> list[Path]:
    """Two models on two benchmarks, two tokenizers alone, a comparison. Nothing is written to them later."""
    base, lm = tmp_path_factory.mktemp("given"), LevelLM()
    root = base / "data"
    write_lexical(root, random_lexical(6, 2, seed=0))
    for i in range(3):
        write_level(root / f"prompts/p{i}.wav", 0.1 * (i + 1), duration_s=0.5)
    made = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("slm.spoken_lm.load_lm", lambda path, device, vocoder: lm)
        for name, right in (("good", -1.0), ("bad", -3.0)):
            lm.right, lm.fingerprint = right, name * 8
            out, model = str(base / f"out-{name}"), str(base / name / "final")
            one = config(root, model=model, out=out, baselines="no", benchmarks="swuggy,continuation")
            (base / name).mkdir()
            (base / name / "metrics.jsonl").write_text((base / "run/metrics.jsonl").read_text())
            main(one)
            made.append(base / f"out-{name}")
    state = base / "good/checkpoints/step-0000090/state"
    state.mkdir(parents=True)
    (state / "progress.json").write_text(json.dumps({"steps": 90, "flops": 1.8e12}))
    test = {
        "benchmark": "swuggy", "split": "dev", "name": "all", "convention": "sum", "first": "good", "second": "bad",
        "difference": -1.0, "interval": [-1.0, -1.0], "p_value": 0.03, "count": 6, "within_noise": False,
    }  # fmt: skip
    (base / "both").mkdir()
    models = [{"name": "good"}, {"name": "bad"}]
    (base / "both/comparison.json").write_text(json.dumps({"models": models, "rows": [], "tests": [test]}))
    made += [write_reconstruction(base / "a", made[0], "mimi", [2048] * 4, 12.5, 0.2)]
    made += [write_reconstruction(base / "b", made[0], "encodec", [1024] * 2, 75.0, 0.1)]
    return [*made, base / "both"]


@pytest.fixture(scope="module")
def site(given, tmp_path_factory) -> Path:
    return build(given, tmp_path_factory.mktemp("made") / "site")


def build(given: list[Path], site: Path) -> Path:
    assert report([*map(str, given), "--out", str(site)]) == 0
    return site


def test_ranks_are_those_of_scipy():
    from scipy.stats import rankdata

    values = np.random.default_rng(0).integers(0, 6, (20, 8))
    for row in values:
        assert column_ranks(row).tolist() == rankdata(row).tolist()


def _fake(name: str, **values: float) -> Evaluated:
    results = [
        {"benchmark": metric, "split": "dev", "headline": f"{metric}/dev/all",
         "scores": {"model": [{"item": f"{metric}/dev/all", "metric": metric, "value": value, "unit": "fraction",
                               "convention": "c", "interval": None, "count": 3}]}}
        for metric, value in values.items()
    ]  # fmt: skip
    return Evaluated(name, Path(name), {"results": results})


def test_the_worst_has_rank_one_whichever_way_is_better():
    """a is best at both, b worst at both: accuracy wants much, ABX error little. What not all have is not ranked by."""
    runs = [_fake("a", pair_accuracy=0.9, abx_error=0.1, odd=1.0), _fake("b", pair_accuracy=0.5, abx_error=0.3),
            _fake("c", pair_accuracy=0.6, abx_error=0.2, odd=2.0)]  # fmt: skip
    made = rank("all", headline_columns(runs))
    assert made is not None
    assert made.means == {"a": 3.0, "b": 1.0, "c": 2.0}
    assert [c.metric for c in made.columns] == ["pair_accuracy", "abx_error"]
    assert made.without == ("odd all, odd (which way is better is not said)",)
    assert rank("one", headline_columns(runs[:1])) is None


def test_a_tone_is_bright_at_its_own_band_and_silence_is_dark():
    """Slaney's scale is linear below 1 kHz (15 a kHz) and logarithmic above (27 a factor 6.4)."""
    rate_hz, tone_hz = 16000, 2000.0
    mel = log_mel_db(np.sin(2 * np.pi * tone_hz * np.arange(rate_hz) / rate_hz), rate_hz)
    scale = [15 + 27 * np.log(f / 1000) / np.log(6.4) for f in (tone_hz, rate_hz / 2)]
    assert mel.shape[0] == BANDS
    assert abs(int(mel[:, 20].argmax()) - (scale[0] / scale[1] * (BANDS + 1) - 1)) <= 1
    assert mel.max() == 0
    assert (log_mel_db(np.zeros(800), rate_hz) == -RANGE_DB).all()
    assert log_mel_db(np.zeros(0), rate_hz).shape == (BANDS, 1)


def test_a_png_is_read_back_by_another_program(tmp_path):
    image = pytest.importorskip("PIL.Image")
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3)).astype(np.uint8)
    (tmp_path / "x.png").write_bytes(encode_png(pixels))
    assert np.array_equal(np.asarray(image.open(tmp_path / "x.png")), pixels)


def test_plots_stand_where_the_numbers_say(given):
    inputs = read_inputs(given)
    quality = quality_plot(inputs.evaluated)
    (view,) = [v for v in quality.views if v.name == "accuracy"]
    assert {s.name: s.points for s in view.series} == {
        "mimi, speech": [(12.5 * 11 * k, 0.2 * k) for k in (1, 2, 3, 4)],
        "encodec, speech": [(750.0, 0.1), (1500.0, 0.2)],
    }
    mimi = next(e for e in inputs.evaluated if e.name == "mimi")
    assert nominal_bps(mimi, "reconstruction/dev/speech/2 codebooks") == 275
    assert nominal_bps(mimi, "reconstruction/dev/speech") == 550
    bits = scores(given[0], "swuggy", metric="bits_per_s")["right items", "sum+eos"]["value"]
    points = {s.name: s.points for s in zero_shot_plot(inputs.evaluated).views[0].series}
    assert points["good"] == [(bits, 100.0)]
    assert points["bad"][0][1] == 0.0
    compute = compute_plot(inputs.trainings)
    (line,) = next(v for v in compute.views if v.name == "held out, nats per code").series
    assert line.points == [(1e12, 3.7), (1.8e12, 3.321)]
    assert "Without bad" in compute.about


def test_pages_are_whole_and_every_link_leads_somewhere(site):
    pages = {page: parse(page) for page in site.glob("**/*.html")}
    assert len(pages) == 8
    ids = {page: set(outline.ids) for page, outline in pages.items()}
    for page, outline in pages.items():
        for source in outline.sources:
            if not source.startswith("data:"):
                file, _, anchor = source.partition("#")
                assert (page.parent / file).is_file(), source
                assert not anchor or anchor in ids[page.parent / file], source
    text = " ".join(" ".join(pages[site / "index.html"].text).split())
    assert "visqol is absent: pip install it" in text
    assert "A larger mean rank is better" in text.replace(" . ", ". ")
    assert "told apart" in text
    assert "media/000-00-prompt.wav" in pages[site / "samples.html"].sources


def test_a_recording_outside_the_results_is_not_shown(given):
    takes = collect_takes([e for e in read_inputs(given).evaluated if e.name == "mimi"])
    assert [take.what for take in takes["p0"][1]] == ["original", "reconstruction"]


def test_fewer_samples_are_counted(given, tmp_path):
    assert report([*map(str, given), "--out", str(tmp_path / "site"), "--samples", "2"]) == 0
    assert "2 of 3 recordings are shown" in (tmp_path / "site/samples.html").read_text()
    assert {f.name[:3] for f in (tmp_path / "site/media").iterdir()} == {"000", "001"}


def test_wrong_folders_are_wrong_use(given, tmp_path, capsys):
    assert report([str(given[0]), "--out", str(given[0])]) == 2
    assert "whose own page would be lost" in capsys.readouterr().err
    assert report([str(given[0]), str(given[0]), "--out", str(tmp_path / "site")]) == 2
    assert "given twice" in capsys.readouterr().err
    assert not (tmp_path / "site").exists()


def test_without_plotly_the_numbers_are_there_and_the_install_line_too(given, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("eval.report.plots.find_spec", lambda name: None)
    site = build(given[:1], tmp_path / "site")
    text = (site / "plots.html").read_text()
    assert "slm-toolkit[report]" in text
    assert "as a table" in text
    assert "plotly.min.js" not in text
    assert "not installed" in capsys.readouterr().err


def test_a_corpus_and_a_run_alone_are_shown(tmp_path):
    import tokenize_corpus
    from slm.corpus.config import CorpusConfig

    for i in range(3):
        write_level(tmp_path / f"audio/a{i}.wav", 0.1 * (i + 1), duration_s=0.5)
    pytest.importorskip("pycodec2")
    audio, out = str(tmp_path / "audio"), str(tmp_path / "c")
    tokenize_corpus.main(CorpusConfig(audio=audio, tokenizer="codec2-700c", out=out, device="cpu", num_workers=0))
    (tmp_path / "run").mkdir()
    (tmp_path / "run/metrics.jsonl").write_text('{"step": 1, "lr": 0.5}\n{"step": 2, "lr": 0.25}\n')
    site = build([tmp_path / "c", tmp_path / "run"], tmp_path / "site")
    text = " ".join(" ".join(parse(site / "training.html").text).split())
    assert "3 clips" in text
    assert "lr as a table" in text
    assert "No benchmark results were given" in (site / "index.html").read_text()


needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt-get install chromium")
VISIBLE = "[...document.querySelectorAll('#%s tbody tr')].filter(r => !r.hidden).map(r => %s)"


@needs_chromium
def test_in_a_browser(site, tmp_path):
    """One start for all: sorting and filtering by keyboard, players, plots, dark and phone; no complaint."""
    pytest.importorskip("aiohttp")
    seen = SimpleNamespace()

    async def visit(tab):
        await tab.size(1200, 900)
        await _check_sorting(tab, site)
        await _check_filters(tab, site)
        await _check_players(tab, site)
        await _check_plots(tab, site)
        for page in [*site.glob("*.html"), *site.glob("models/*/index.html")]:
            await tab.size(360, 740, dark=True)
            await tab.open(page)
            assert await tab.run("document.documentElement.scrollWidth <= innerWidth"), f"{page.name} is too wide"
            assert await tab.run("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 26)"
            assert await tab.run(UNNAMED) == []
        seen.complaints, seen.requested = tab.complaints, tab.requested

    browse(visit, tmp_path / "profile")
    assert seen.complaints == []
    assert [url for url in seen.requested if not url.startswith((site.as_uri(), "data:", "blob:"))] == []


# Controls and pictures without a name for screen readers.
UNNAMED = """[...document.querySelectorAll('button, select, input, img, audio, table, [role=img]')].filter(e =>
  !(e.textContent.trim() && e.matches('button, table')) && !e.labels?.length && !e.alt && !e.getAttribute('aria-label')
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


async def _check_filters(tab, site: Path) -> None:
    await tab.open(site / "index.html")
    first = set(await tab.run(VISIBLE % ("table-swuggy-dev", "r.dataset.convention + ' ' + r.dataset.metric")))
    assert first == {"mean+eos accuracy"}
    await tab.open(site / "tokenizers.html")
    names = VISIBLE % ("tokenizer-table", "r.cells[0].querySelector('summary').textContent")
    assert await tab.run(names) == [row.name for row in catalogue()]
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
    assert await tab.run("""Promise.all([...document.images].map(i => { i.loading = 'eager'; return i.decode(); }))
        .then(() => [...document.images].every(i => i.naturalHeight === 80))""")


async def _check_plots(tab, site: Path) -> None:
    await tab.open(site / "plots.html")
    shown = "document.querySelector('#plot-quality').data.map(t => [t.name, t.y])"
    options = await tab.run("[...document.querySelector('[data-plot=quality]').options].map(o => o.text)")
    assert options == ["accuracy"]
    assert dict(await tab.run(shown)) == {"mimi, speech": [0.2, 0.4, 0.2 * 3, 0.8], "encodec, speech": [0.1, 0.2]}
    assert await tab.run("document.querySelectorAll('.plotly svg.main-svg').length > 0")
    await tab.run("document.querySelector('[data-plot=zero-shot]').focus()")
    await tab.press("ArrowDown", 40)
    assert await tab.run("document.querySelector('[data-plot=zero-shot]').value") == "1"
    assert await tab.run("document.querySelector('.view[data-view=zero-shot-0]').hidden")
    assert "codes" in await tab.run("document.querySelector('#plot-zero-shot').layout.xaxis.title.text")
    before = await tab.run("document.querySelector('#plot-quality').layout.font.color")
    await tab.run("document.querySelector('#theme').click()")
    assert await tab.run("document.querySelector('#plot-quality').layout.font.color") != before
