"""The page: well-formed, self-contained, truthful about what it holds; and for benchmarks unlike our own."""

from __future__ import annotations

import json
import re
from functools import reduce
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

from jsonschema import Draft202012Validator

from eval.record import SCHEMA
from eval.report.page import build_page
from eval.report.table import results_markdown
from eval.run import main
from slm.yaml_files import read_yaml
from tests.eval.material import config, scores


class Outline(HTMLParser):
    """Checks that every element is closed in its order; collects text, ids, links and sources."""

    def __init__(self):
        super().__init__()
        self.open, self.text, self.ids, self.targets, self.sources, self.tags = [], [], [], [], [], []
        self.scripts = []

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.tags.append(tag)
        if tag not in ("meta", "link", "img", "input"):
            self.open.append(tag)
        if "id" in values:
            self.ids.append(values["id"])
        self.targets += [values["href"][1:]] if values.get("href", "").startswith("#") else []
        self.targets += [values["aria-labelledby"]] if "aria-labelledby" in values else []
        self.sources += [values[k] for k in ("src", "href") if k in values and not values[k].startswith("#")]

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)
        if self.open and self.open[-1] == "script":
            self.scripts.append(data)


def parse(page: Path) -> Outline:
    outline = Outline()
    outline.feed(page.read_text())
    assert outline.open == []
    assert len(outline.ids) == len(set(outline.ids))
    assert set(outline.targets) <= set(outline.ids)
    assert outline.tags.count("table") == outline.tags.count("caption")
    return outline


def test_the_page_is_whole_and_needs_no_network(root, lm):
    (root / "prompts/prompts.jsonl").write_text(json.dumps({"path": "p0.wav", "text": "<b>bold & brave</b>"}))
    main(config(root, prompts=str(root / "prompts/prompts.jsonl")))
    page = parse(root.parent / "out/index.html")
    text = " ".join(" ".join(page.text).split())
    assert page.tags.count("audio") == 2
    assert all(s.startswith("data:audio/wav;base64,") for s in page.sources)
    assert "<b>bold & brave</b>" in text
    assert "3.321 at the end" in text
    assert "This benchmark is synthetic" in text
    bits = scores(root.parent / "out", "swuggy", metric="bits_per_s")["right items", "sum+eos"]["value"]
    assert f"Bits per s of audio, right items (sum+eos): {bits:.1f} (model," in text
    assert text.count("100.0 %") >= 4
    assert text.index("expect babble") < text.index("frames added")  # before what one hears


def test_one_page_about_two_models_copies_long_recordings(root, lm, monkeypatch, tmp_path):
    monkeypatch.setattr("eval.report.page.EMBED_BYTES", 10_000)  # one prompt
    main(config(root))
    lm.fingerprint = "second"
    lm.right, lm.wrong = -2.0, -1.0
    main(config(root, benchmarks="swuggy,continuation", out=str(tmp_path / "second")))
    page = parse(build_page([tmp_path / "out", tmp_path / "second"], tmp_path / "site"))
    files = [s for s in page.sources if not s.startswith("data:")]
    assert len(files) == len(set(files)) == 11
    assert all((tmp_path / "site" / s).is_file() for s in files)
    assert "2 models compared" in page.text


def test_a_folder_without_results_is_refused(tmp_path, capsys, monkeypatch):
    from eval.report.__main__ import main as report

    assert report([str(tmp_path), "--out", str(tmp_path / "site")]) == 2
    assert "no results.json" in capsys.readouterr().err
    assert report([str(tmp_path), "--out", ""]) == 2
    assert "--out is empty" in capsys.readouterr().err
    assert report(["w" * 300, "--out", str(tmp_path / "site")]) == 2
    # From Python 3.14 on, a path that cannot be is one that is not there.
    assert re.search("a name longer than any file can have|no results.json in w+", capsys.readouterr().err)

    def stop(*given):
        raise KeyboardInterrupt

    monkeypatch.setattr("eval.report.site.build_site", stop)
    assert report([str(tmp_path), "--out", str(tmp_path / "site")]) == 130
    assert capsys.readouterr().err == "interrupted; run the same command again\n"


def test_a_broken_record_and_a_file_in_the_way_are_wrong_use(root, lm, capsys):
    from eval.report.__main__ import main as report

    main(config(root, benchmarks="swuggy"))
    out = root.parent / "out"
    assert report([str(out), "--out", str(out / "results.md")]) == 2
    assert "results.md is a file" in capsys.readouterr().err
    whole = (out / "results.json").read_text()
    first = ("results", 0)
    for *place, name in (
        (*first, "headline"), (*first, "created"), ("model", "path"), ("corpus",), (*first, "scores", "model"),
        (*first, "scores", "model", 2, "value"),
    ):  # fmt: skip
        record = json.loads(whole)
        part = reduce(lambda part, key: part[key], place, record)
        del part[name]
        (out / "results.json").write_text(json.dumps(record))
        assert report([str(out), "--out", str(out)]) == 2
        assert f"{name!r} is a required property; it was edited" in capsys.readouterr().err
    (out / "results.json").write_text('{"format"')
    assert report([str(out), "--out", str(out)]) == 2
    assert "is not JSON" in capsys.readouterr().err
    (out / "results.json").write_text('{"format": 2, "results": []}')
    assert report([str(out), "--out", str(out)]) == 2
    assert "results.json, $: 'model' is a required property; it was edited" in capsys.readouterr().err
    as_others_read_it = Draft202012Validator(read_yaml(SCHEMA))
    assert as_others_read_it.is_valid(json.loads(whole))
    assert not as_others_read_it.is_valid({"format": 2, "results": []})


def test_baselines_show_their_intervals_and_whether_guessing_lies_inside(root, lm):
    """The untrained model ties everywhere, the unigram of the fake is wrong everywhere: that tells of all 6 items, but
    of no subset: 5 may well be wrong by guessing."""
    main(config(root, benchmarks="swuggy", convention="mean"))
    out = root.parent / "out"
    text, markdown = (out / "index.html").read_text(), (out / "results.md").read_text()
    outside = "lies outside the 95 % interval of unigram on all."
    assert f"WARNING: Chance (50 %) {outside}" in markdown
    assert outside in text
    assert "untrained on" not in markdown
    assert "50.0 % (27.0–73.0)" in markdown  # 0.5 x 0.025^(1/6) to either side
    assert "<td>50.0 %<span>27.0–73.0</span></td>" in text
    lm.unigram = lambda: lm.untrained(1)
    main(config(root, benchmarks="swuggy", convention="mean"))
    assert "WARNING" not in (out / "results.md").read_text()
    assert "inside every 95 % interval of untrained and unigram" in (out / "index.html").read_text()


def test_a_benchmark_with_other_measures_has_its_table_and_page(root, lm):
    """One whose headline is an error in its own unit, that has no pairs, no baselines everywhere, and no interval."""
    main(config(root, benchmarks="swuggy"))
    out = root.parent / "out"
    record = json.loads((out / "results.json").read_text())

    def score(item: str, value: float, unit: str = "points") -> dict:
        return {"item": item, "metric": "abx_error", "value": value, "unit": unit, "convention": "dtw", "count": 5,
                "interval": None}  # fmt: skip

    record["results"][0] |= {
        "benchmark": "abx", "headline": "abx/dev/all", "counts": {"items": 5}, "meanings": {},
        "scores": {"model": [score("abx/dev/all", 12.5), score("abx/dev/within", 7.5)],
                   "unigram": [score("abx/dev/all", 40.0)]},
    }  # fmt: skip
    (out / "results.json").write_text(json.dumps(record))
    assert "| abx error, within |  7.5 points |" in results_markdown(record)
    page = parse(build_page([out], out))
    assert {"12.5 points", "40.0 points", "Abx error"} <= {text.strip() for text in page.text}
    assert "bits per second" not in page.text


def test_links_are_quoted_and_the_page_says_what_lies_beside_it(root, lm, monkeypatch):
    main(config(root, benchmarks="continuation", out=str(root.parent / "out#1 ?")))
    monkeypatch.setattr("eval.report.page.EMBED_BYTES", 20_000)
    page = parse(build_page([root.parent / "out#1 ?"], root.parent))
    links = [s for s in page.sources if not s.startswith("data:")]
    assert links
    for link in links:
        assert not set("#? ") & set(link)
        assert (root.parent / unquote(link)).is_file()
    said = next(text for text in page.text if "recordings" in text)
    assert f"{len(links)} of its 6 recordings are files in folders beside it" in said


def test_a_page_is_called_after_its_run(root, lm):
    main(config(root, benchmarks="swuggy"))
    text = (root.parent / "out/index.html").read_text()
    assert "<h1>run</h1>" in text
    assert f"<code>{root.parent}/run/final</code>" in text
