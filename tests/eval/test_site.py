"""The site: what stands on its pages."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from functools import reduce
from pathlib import Path

import numpy as np
import pytest

from eval.report import site as site_module
from eval.report.__main__ import main as report
from eval.report.columns import column_ranks, headline_columns, number_tables, rank
from eval.report.inputs import Evaluated, read_inputs, same_models
from eval.report.page import build_page
from eval.report.plots import Series, compute_plot, nominal_bps, quality_plot, sweep_plot, zero_shot_plot
from eval.report.samples import collect_takes
from eval.report.spectrogram import BANDS, RANGE_DB, encode_png, log_mel_db
from eval.report.table import results_markdown
from eval.report.wording import few, run_name, who
from eval.results import read_results
from slm.errors import UsageError
from slm.files import temporary_name, write_text
from tests.eval.material import scores, write_level
from tests.eval.site_material import JUDGED, SWEPT, build
from tests.eval.test_page import parse


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
    runs[1].record["results"][1]["scores"]["model"][0]["value"] = None  # what results.json has for no number
    made = rank("all", headline_columns(runs))
    assert made is not None
    assert made.means == {"a": 3.0, "b": 1.0, "c": 2.0}
    assert made.without[0] == "abx_error all, abx error (not there for b)"
    assert [few("abcdef"), few("abcdefg")] == ["a, b, c, d, e, f", "a, b, c, d, e, 2 others"]


def test_columns_of_one_number_say_what_makes_them_two():
    """Of conventions that begin alike, and are cut short in a heading."""
    common, removed, none = "16000 Hz, window/bands 32/5, 64/10, hop a quarter", "one delay removed", "none removed"
    runs = [_fake(name, pair_accuracy=1.0) for name in "abc"]
    for run, aligned in zip(runs, (removed, none, removed), strict=True):
        run.record["results"][0]["scores"]["model"][0]["convention"] = f"{common}; {aligned}, cut to the shorter"
    made = headline_columns(runs)
    assert [(c.own, sorted(c.scores)) for c in made] == [(removed, ["a", "c"]), (none, ["b"])]
    assert [c.own for c in headline_columns(runs[:1])] == [""]


def test_no_model_is_hidden_at_first_by_the_convention_of_another():
    """The recordings of b had no delay to remove, so its number is made otherwise."""
    runs = [_fake(name, mel_distance=1.0) for name in "ab"]
    for run in runs:
        run.record["results"][0] |= {"about": "", "left_out": [], "details": {"note": "short"}}
    (table,) = number_tables(runs)
    assert table.first == {"metric": "mel distance", "convention": "c"}
    assert table.notes == ("a, b: short.",)
    runs[1].record["results"][0]["scores"]["model"][0]["convention"] = "d"
    assert number_tables(runs)[0].first == {"metric": "mel distance"}


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


@pytest.mark.parametrize("number", [1, 12, 13, 25, 40])
def test_the_table_of_a_plot_has_its_first_and_last_point_and_none_twice(number):
    points = [(float(i), float(-i)) for i in range(number)]
    rows = Series("a", points).table()
    assert rows[0][1:] == points[0]
    assert rows[-1][1:] == points[-1]
    assert rows == sorted(set(rows), key=lambda row: row[1])
    assert len(rows) <= 13


def test_a_curve_is_drawn_once_though_two_results_of_its_model_are_given(given, tmp_path):
    again = tmp_path / "again"
    shutil.copytree(given[0], again)
    once, twice = read_inputs(given[:1]), read_inputs([given[0], again])
    assert [t.name for t in twice.trainings] == [t.name for t in once.trainings] == ["good"]
    assert len(twice.evaluated) == 2
    moved = tmp_path / "moved"  # its results name the folder where it was trained
    moved.mkdir()
    shutil.copy(given[0] / "training.jsonl", moved / "metrics.jsonl")
    record = json.loads((again / "results.json").read_text())
    record["model"]["path"] = "not/here/final"
    (again / "results.json").write_text(json.dumps(record))
    for folders in ([again, moved], [moved, again]):
        (curve,) = read_inputs(folders).trainings
        assert curve.run == moved
    shutil.copytree(moved, tmp_path / "other")
    assert len(read_inputs([moved, tmp_path / "other"]).trainings) == 2  # two runs that are there are two


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


def test_models_of_deduplicated_units_are_named_where_bits_are_compared(given, tmp_path):
    """They code no durations, so their bits say less."""
    good, bad = (e for e in read_inputs(given).evaluated if e.name in ("good", "bad"))
    assert "deduplicated" not in zero_shot_plot([good, bad]).about
    folders = [tmp_path / e.name for e in (good, bad)]
    for folder, run in zip(folders, (good, bad), strict=True):
        convention = {**run.record["model"]["convention"], "dedup": run is bad}
        folder.mkdir()
        record = {**run.record, "model": {**run.record["model"], "convention": convention}}
        (folder / "results.json").write_text(json.dumps(record))
    said = "Models of deduplicated units (bad) read runs of equal codes as one"
    assert said in zero_shot_plot(read_inputs(folders).evaluated).about
    assert report([*map(str, folders), "--out", str(tmp_path / "site")]) == 0
    assert said in (tmp_path / "site/index.html").read_text()
    assert said in (tmp_path / "site/plots.html").read_text()
    training = (tmp_path / "site/training.html").read_text()
    assert "which code no durations" in training
    assert "a byte pair and a run of equal codes each count as one code" in training


def test_what_has_no_first_number_is_said_to_have_none(given, site):
    text = " ".join(" ".join(parse(site / "index.html").text).split())
    assert "No single number stands for continuation or generation or reconstruction: their tables are below." in text


def test_the_sweep_is_drawn_by_temperature_and_meets_the_recordings(given):
    plot = sweep_plot(read_inputs(given).evaluated)
    (view,) = plot.views
    found = {s.name: (s.points, s.labels) for s in view.series}
    assert found == {
        "good": ([(50.0, 20.0), (30.0, 60.0), (35.0, 150.0)], ("T=0.5", "T=0.8", "T=1.1")),
        "recordings": ([(40.0, 80.0)], ()),
        "good at the recordings' VERT": ([(40.0, 40.0)], ()),
    }  # nothing at their perplexity, where the curve does not come
    assert len(SWEPT["points"]) == 4  # of which one has no perplexity
    trace = view.figure()["data"][0]
    assert (trace["x"], trace["text"]) == ([50.0, 30.0, 35.0], ["T=0.5", "T=0.8", "T=1.1"])
    assert sweep_plot([]).absent


def test_transcripts_and_ratings_stand_beside_the_players(given, site):
    takes = collect_takes(read_inputs(given).evaluated)
    said = {take.what: (take.heard, take.ratings) for take in takes["p1"][1] if take.run.name == "good"}
    ratings = ("dnsmos ovrl 3.21", "utmos 2.50", "makes sense 1.75 of 5, says the text model", "perplexity 20")
    assert said == {"prompt": ("well <then>", ()), "whole": ("so it goes", ratings)}
    text = " ".join(parse(site / "samples.html").text)
    for part in (JUDGED[1]["texts"]["continuation"], *ratings, "well <then>", "nothing that was understood"):
        assert part in text
    assert [t.heard for t in takes["p1"][1] if t.run.name == "bad"] == [None]  # nobody listened, and it is not empty


def test_pages_are_whole_and_every_link_leads_somewhere(given, site):
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
    index = (site / "index.html").read_text()  # what its script draws leads somewhere too
    tables = [json.loads(data) for data in re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', index)]
    anchors = {anchor for table in tables for anchor in dict(table["words"])["anchor"]}
    assert anchors
    assert anchors <= ids[site / "config.html"]
    results = [r for f in given if (f / "results.json").is_file() for r in read_results(f)["results"]]
    assert sum(len(t["rows"]) for t in tables) == sum(len(s) for r in results for s in r["scores"].values())
    assert max(len(json.dumps(row)) for table in tables for row in table["rows"]) < 100
    assert "media/000-00-prompt.wav" in pages[site / "samples.html"].sources


def test_a_recording_outside_the_results_is_not_shown(given):
    takes = collect_takes([e for e in read_inputs(given).evaluated if e.name == "mimi"])
    assert [take.what for take in takes["p0"][1]] == ["original", "reconstruction"]


def test_strangers_results_bring_nothing_from_elsewhere_and_steer_nothing(given, tmp_path):
    """Recordings beside the folder, by `..`, by a link or by an absolute path, come on no page; names turn no direction
    and no terminal, and stay in their cell of a table in Markdown. What is of another type than it should be is named.
    """
    (tmp_path / "secret").mkdir()
    write_level(tmp_path / "secret/prompt.wav", 0.5)
    whole = json.loads((given[0] / "results.json").read_text())
    prompts = next(r for r in whole["results"] if r["benchmark"] == "continuation")["details"]["prompts"]
    results = tmp_path / "results"
    for folder in ("../secret", "link", str(tmp_path / "secret"), "\0", "x" * 300):
        shutil.rmtree(results, ignore_errors=True)
        results.mkdir()
        (results / "link").symlink_to(tmp_path / "secret")
        for prompt in prompts:
            prompt |= {"folder": folder, "files": {"prompt": "prompt.wav"}}
        (results / "results.json").write_text(json.dumps(whole))
        assert all("audio" not in parse(page).tags for page in build([results], tmp_path / "site").glob("**/*.html"))
    assert not list((tmp_path / "site").rglob("*.wav"))
    name = "a|b\n# c\x1b[31m\u202e<img src=x>[d](javascript:1)"
    told = json.loads(json.dumps(whole).replace("swuggy/dev/all", json.dumps(f"swuggy/dev/{name}")[1:-1]))
    told["results"][0]["scores"]["model"][0]["unit"] = name
    (results / "results.json").write_text(json.dumps(told))
    text = build_page([results], results).read_text() + results_markdown(told)
    packed = [table.packed() for table in number_tables([Evaluated("x", results, told)])]
    text += json.dumps(packed, ensure_ascii=False)
    assert not set("\x1b\u202e") & set(text)
    assert "| accuracy, a\\|b # c\\x1b[31m\\x202e&#60;img src=x>[d]&#40;javascript:1) |" in results_markdown(told)
    for place, value, said in (
        (("results", 0, "scores", "model", 1, "value"), "<b>", "scores.model[1].value: '<b>' is not of type 'number'"),
        (("results", 0, "headline"), "no/such/one", "$.results[0].headline: 'no/such/one' is no item"),
        (("results", -1, "headline"), "no/such/one", "headline: 'no/such/one' is no item"),
        (("tokenizer", "codebook_sizes"), [0], "codebook_sizes[0]: 0 is less than the minimum of 1"),
        (("results", 0, "counts"), "x" * 999, "x .. xxx"),
        (("results", 0, "left_out"), [3], "left_out[0]: 3 is not of type 'object'"),
    ):  # fmt: skip
        record = json.loads(json.dumps(whole))
        reduce(lambda part, key: part[key], place[:-1], record)[place[-1]] = value
        (results / "results.json").write_text(json.dumps(record))
        with pytest.raises(UsageError, match=re.escape(said)):
            read_inputs([results])


def test_tokenizers_alone_are_not_called_models(given, tmp_path):
    """Nor have they a page of a model, a column of their own name, or an explanation of what nobody measured."""
    folders = []
    for folder in given[2:4]:
        record = json.loads((folder / "results.json").read_text())
        model = {"path": "x", "fingerprint": "f", "convention": {"pattern": {"name": "none"}}, "kind": "tokenizer"}
        folders.append(tmp_path / folder.name)
        folders[-1].mkdir()
        (folders[-1] / "results.json").write_text(json.dumps({**record, "model": model}))
    site = build(folders, tmp_path / "site")
    index = (site / "index.html").read_text()
    assert index.count('<th scope="col">Tokenizer</th>') == index.count("<table")
    assert "Model" not in index
    assert "the worst has rank 1" in index
    assert "bits per second" not in index
    assert same_models(read_inputs(folders).evaluated) == []
    assert not list(site.glob("models/*/index.html"))
    page = " ".join(" ".join(parse(build_page(folders, tmp_path / "page")).text).split())
    assert "Tokenizer evaluation 2 tokenizers compared" in page
    assert "The model that is evaluated" not in page
    assert "visqol is absent: pip install it" in page
    subjects = (["model"], ["tokenizer", "model"], ["recordings"], ["recordings", "model", "tokenizer"])
    assert [who(kinds) for kinds in subjects] == [
        "Model", "Model or tokenizer", "Recordings", "Model, tokenizer or recordings"
    ]  # fmt: skip


@pytest.mark.parametrize("model", [{"kind": "recordings"}, {}, {"kind": "other"}])
def test_page_and_site_agree_on_what_was_judged(given, tmp_path, model):
    record = json.loads((given[2] / "results.json").read_text())
    told = {"path": "x", "fingerprint": "", "convention": {"pattern": {"name": "none"}}} if model else {}
    (tmp_path / "results.json").write_text(json.dumps({**record, "model": told | model}))
    [run] = read_inputs([tmp_path]).evaluated
    page = " ".join(" ".join(parse(build_page([tmp_path], tmp_path / "page")).text).split())
    assert not run.has_model
    assert run.name in page
    assert "Spoken language model" not in page
    assert ("Evaluation of recordings" in page) == (model.get("kind") == "recordings")


def test_fewer_samples_are_counted(given, tmp_path):
    assert report([*map(str, given), "--out", str(tmp_path / "site"), "--samples", "2"]) == 0
    assert "2 of 3 recordings are shown" in (tmp_path / "site/samples.html").read_text()
    assert {f.name[:3] for f in (tmp_path / "site/media").iterdir()} == {"000", "001"}


def test_names_of_any_kind_and_values_that_are_no_numbers(given, tmp_path):
    """Names that are markup, too long for a folder, or alike in a folder's name; each model has a page of its own."""
    names = [
        "</script><script>alert(1)</script>",
        "a & \"b\" 'c'",
        "x" * 255,
        "x" * 255 + "y",
        "Good",
        "good",
        "שלום",
        "日本",
    ]
    folders = [tmp_path / f"{i}" for i in range(len(names))]
    for folder, name in zip(folders, names, strict=True):
        record = json.loads((given[0] / "results.json").read_text())
        record["model"]["path"] = name
        for s in record["results"][0]["scores"]["model"]:
            s |= {"value": None, "interval": [None, None]}
        folder.mkdir()
        (folder / "results.json").write_text(json.dumps(record))
    site = build(folders, tmp_path / "site")
    assert len({f.name.lower() for f in (site / "models").iterdir()}) == len(names)
    for page in site.glob("**/*.html"):
        outline = parse(page)
        assert "alert(1)" not in "".join(outline.scripts)
        assert 'None"' not in page.read_text()
    text = "".join(parse(site / "index.html").text)
    assert all(run_name(name) in text for name in names)


def test_a_site_that_is_made_anew_keeps_nothing_of_what_is_no_longer_given(given, site, tmp_path, monkeypatch):
    def on_several_disks(source, path):
        if Path(source).parent != Path(path).parent:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        os.rename(source, path)

    site = shutil.copytree(site, tmp_path / "site")
    folder, *_ = set(site.glob("models/*")) - {site / "models" / read_inputs(given[:1]).evaluated[0].key}
    mine = {folder, folder / "notes.txt", site / "media/mine.wav", tmp_path / "of-another"}
    for file in mine - {folder}:
        file.touch()
    for name in ("site", "media/1.wav"):  # of a process that was killed
        left = (site / name).with_name(temporary_name(Path(name).name).replace(f"-{os.getpid()}", f"-{1 << 30}"))
        left.mkdir() if name == "site" else left.touch()
    with (site / "assets/files.txt").open("a") as listed:
        listed.write("../of-another\n")
    write_text(tmp_path / "alone/assets/files.txt", "notes.txt\n")  # a list of something else
    write_text(tmp_path / "alone/notes.txt", "")
    monkeypatch.setattr(site_module, "copy_file", lambda made, path: None)  # which a full disk might end half-way
    write_text(tmp_path / "made/media/1.wav", "")
    site_module.put_in_place(tmp_path / "made", tmp_path / "moved")
    assert not [path for path in (tmp_path / "made").rglob("*") if path.is_file()]
    monkeypatch.undo()
    monkeypatch.setattr("os.replace", on_several_disks)
    alone = build(given[:1], tmp_path / "alone")
    (alone / "notes.txt").unlink()
    assert build(given[:1], site) == site

    made, wanted = (set(at.rglob("*")) for at in (site, alone))
    assert made == {site / path.relative_to(alone) for path in wanted} | mine - {tmp_path / "of-another"}
    assert (tmp_path / "of-another").exists()


def test_recordings_that_are_gone_or_cut_off_are_counted(given, tmp_path):
    for number, folder in enumerate(given[:2]):
        shutil.copytree(folder, tmp_path / folder.name)
        for wav in (tmp_path / folder.name).rglob("*.wav"):
            wav.write_bytes(wav.read_bytes()[:30]) if number else wav.unlink()
    site = build([tmp_path / folder.name for folder in given[:2]], tmp_path / "site")
    page = parse(site / "samples.html")
    assert "12 of the recordings that the results tell of are not there, or cannot be read." in page.text
    assert "audio" not in page.tags
    assert "Its recordings are not there, or cannot be read." in parse(site / "models/good/index.html").text


def test_wrong_folders_are_wrong_use(given, tmp_path, capsys):
    assert report([str(given[0]), "--out", str(given[0])]) == 2
    assert "whose own page would be lost" in capsys.readouterr().err
    assert report([str(given[0]), str(given[0]), "--out", str(tmp_path / "site")]) == 2
    assert "given twice" in capsys.readouterr().err
    assert not (tmp_path / "site").exists()
    other = tmp_path / "www/index.html"
    other.parent.mkdir()
    other.write_text("<!doctype html><title>Of somebody</title>")
    assert report([str(given[0]), "--out", str(other.parent)]) == 2
    assert "an index.html that is no site of results and would be lost" in capsys.readouterr().err
    assert "Of somebody" in other.read_text()
    other.unlink()
    other.mkdir()
    assert report([str(given[0]), "--out", str(other.parent)]) == 2
    assert "an index.html that is no site" in capsys.readouterr().err
    other.rmdir()
    (other.parent / "models").touch()
    assert report([str(given[0]), "--out", str(other.parent)]) == 2
    assert "models is a file; give a folder" in capsys.readouterr().err


def test_without_plotly_the_numbers_are_there_and_the_install_line_too(given, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("eval.report.plots.find_spec", lambda name: None)
    site = build(given[:1], tmp_path / "site")
    text = (site / "plots.html").read_text()
    assert "slm-toolkit[report]" in text
    assert "as a table" in text
    assert "plotly.min.js" not in text
    assert "not installed" in capsys.readouterr().err


def test_a_corpus_and_a_run_alone_are_shown(given, tmp_path, capsys):
    import tokenize_corpus
    from slm.corpus.config import CorpusConfig

    for i in range(3):
        write_level(tmp_path / f"audio/a{i}.wav", 0.1 * (i + 1), duration_s=0.5)
    pytest.importorskip("pycodec2")
    audio, out = str(tmp_path / "audio"), str(tmp_path / "c")
    tokenize_corpus.main(CorpusConfig(audio=audio, tokenizer="codec2-700c", out=out, device="cpu", num_workers=0))
    (tmp_path / "run").mkdir()
    (tmp_path / "run/metrics.jsonl").write_text('{"step": 1, "lr": 0.5}\n{"step": 2, "lr": 0.25}\n')
    (tmp_path / "run/checkpoints/step-4/state").mkdir(parents=True)
    spent = {"steps": 4, "audio_s": 4 * 3600 * 1.25, "flops": 4e9}
    (tmp_path / "run/checkpoints/step-4/state/progress.json").write_text(json.dumps(spent))
    site = build([tmp_path / "c", tmp_path / "run"], tmp_path / "site")
    text = " ".join(" ".join(parse(site / "training.html").text).split())
    assert "3 clips" in text
    assert "lr as a table" in text
    assert "Hours heard FLOPs run 2 – – – 2.5 2e+09" in text  # two steps of an hour and a quarter
    record = json.loads((given[0] / "results.json").read_text())
    (tmp_path / "evaluated").mkdir()
    trained_on = {**read_inputs([tmp_path / "c"]).corpora[0].facts, "trained_on": True}
    (tmp_path / "evaluated/results.json").write_text(json.dumps({**record, "corpus": trained_on}))
    assert [c.facts["path"] for c in read_inputs([tmp_path / "evaluated", tmp_path / "c"]).corpora] == [out]
    assert "training.html" in parse(site / "index.html").sources
    assert "No benchmark results were given" in (site / "index.html").read_text()
    (shard,) = (tmp_path / "c").glob("data-*.arrow")
    shard.write_bytes(shard.read_bytes()[:99])
    assert report([str(tmp_path / "c"), "--out", str(tmp_path / "site")]) == 1
    assert f"error: {shard} is damaged or no shard; delete it and run" in capsys.readouterr().err
