"""What a folder or a manifest says there is."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path

import pytest

from slm.corpus.plan import NothingUsableError
from slm.corpus.planning import PlanSettings, make_plan
from slm.corpus.sources import list_clips, open_source
from slm.errors import UsageError
from tests.fakes import ArithmeticTokenizer


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def manifest(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def complaint(source):
    with pytest.raises(UsageError) as caught:
        list_clips(source)
    return str(caught.value)


def test_ids_of_a_folder_keep_the_suffix_only_where_it_tells_apart(tmp_path):
    touch(tmp_path, "x/a.wav", "x/a.flac", "x/b.WAV", "日本.opus", "a.b.wav")
    clips = list_clips(tmp_path)
    assert [clip.id for clip in clips] == ["a.b", "日本", "x/a.flac", "x/a.wav", "x/b"]
    assert all(Path(clip.path).is_file() and not clip.metadata for clip in clips)


def test_ids_of_a_folder_never_meet(tmp_path):
    """The stem of one file may be the name of another."""
    touch(tmp_path, "a.wav", "a.flac", "a.wav.wav", "b.wav", "b.wav.flac")
    assert [clip.id for clip in list_clips(tmp_path)] == ["a.flac", "a.wav", "a.wav.wav", "b", "b.wav.flac"]
    with open(bytes(tmp_path) + b"/caf\xe9.wav", "wb"):
        pass
    touch(tmp_path, "caf\\xe9.wav")
    assert "ids more than once, such as 'caf\\\\xe9.wav'; rename the files" in complaint(tmp_path)


def test_cells_may_be_long(tmp_path):
    path = manifest(tmp_path / "m.csv", f"path,text\na.wav,{'x' * 200_000}\n")
    assert len(list_clips(path)[0].metadata["text"]) == 200_000


def test_a_name_that_is_not_utf8_gets_an_id_that_can_be_stored(tmp_path):
    with open(bytes(tmp_path) + b"/caf\xe9.wav", "wb"):
        pass
    (clip,) = list_clips(tmp_path)
    assert clip.id == "caf\\xe9"
    assert Path(clip.path).is_file()


@pytest.mark.parametrize("column", ["path", "audio", "audio_path", "file", "filename", "wav", "file_name"])
def test_jsonl(tmp_path, column):
    rows = [{"id": 7, column: "x/a.wav", "start_s": 1, "end_s": 2.5, "text": "hé", "n": 3}, {column: "b.wav"}]
    path = manifest(tmp_path / "m.jsonl", "\n".join(json.dumps(row) for row in rows) + "\n\n")
    first, second = list_clips(path)
    assert (first.id, first.path, first.start_s, first.end_s) == ("7", str(tmp_path / "x/a.wav"), 1.0, 2.5)
    assert first.metadata == {"text": "hé", "n": 3}
    assert (second.id, second.start_s, second.end_s, second.metadata) == ("b", 0.0, None, {})


def test_csv_quotes_and_tsv_does_not(tmp_path):
    touch(tmp_path, "a.wav")
    csv = manifest(tmp_path / "m.csv", '\ufeffpath,text,start,end\na.wav,"one, ""two""\nthree",0.5,\n')
    tsv = manifest(tmp_path / "m.tsv", 'path\ttext\na.wav\t"one, two\n')
    (clip,) = list_clips(csv)
    assert (clip.id, clip.start_s, clip.end_s) == ("a@0.5-", 0.5, None)
    assert clip.metadata == {"text": 'one, "two"\nthree'}
    assert list_clips(tsv)[0].metadata == {"text": '"one, two'}


def test_absolute_paths_and_paths_above_the_manifest(tmp_path):
    rows = f"path\n{tmp_path}/x/a.wav\n../b.wav\n"
    (tmp_path / "m").mkdir()
    first, second = list_clips(manifest(tmp_path / "m" / "m.csv", rows))
    assert (first.path, first.id) == (str(tmp_path / "x/a.wav"), "../x/a")
    assert (Path(second.path).resolve(), second.id) == (tmp_path / "b.wav", "../b")


def test_files_lie_beside_the_manifest_or_in_its_clips_or_below_a_root(tmp_path):
    """As Common Voice has them."""
    touch(tmp_path, "cv/clips/b.mp3", "other/a.mp3")
    path = manifest(tmp_path / "cv" / "validated.tsv", 'client_id\tpath\tsentence\nx\ta.mp3\t"Oh\nx\tb.mp3\tNo\n')
    assert [clip.path for clip in list_clips(path)] == [f"{tmp_path}/cv/a.mp3", f"{tmp_path}/cv/b.mp3"]
    touch(tmp_path, "cv/clips/a.mp3")
    assert [(clip.id, clip.path) for clip in list_clips(path)] == [
        ("a", f"{tmp_path}/cv/clips/a.mp3"), ("b", f"{tmp_path}/cv/clips/b.mp3"),
    ]  # fmt: skip
    source = open_source(path, root=str(tmp_path / "other"))
    assert next((clip.id, clip.path) for clip in source.clips()) == ("a", f"{tmp_path}/other/a.mp3")
    touch(tmp_path, "cv/a.mp3")
    assert list_clips(path)[0].path == f"{tmp_path}/cv/a.mp3"


def test_a_file_that_is_missing_is_named_whole(tmp_path):
    path = manifest(tmp_path / "m.csv", "path\na.wav\n")
    with pytest.raises(NothingUsableError, match=rf"the first is {re.escape(str(tmp_path))}/a\.wav: missing file"):
        make_plan(tmp_path, open_source(path), ArithmeticTokenizer().spec, PlanSettings(1), 0)


@pytest.mark.parametrize("name", ["m.json", "m.json.gz"])
def test_nemo_says_json_for_json_lines(tmp_path, name):
    lines = b'{"audio_filepath": "a.wav", "duration": 2.5, "text": "x"}\n{"audio_filepath": "b.wav", "duration": 1}\n'
    (tmp_path / name).write_bytes(gzip.compress(lines) if name.endswith("gz") else lines)
    assert [(clip.id, clip.metadata) for clip in list_clips(tmp_path / name)] == [
        ("a", {"duration": 2.5, "text": "x"}), ("b", {"duration": 1}),
    ]  # fmt: skip


def test_ids_of_segments_tell_samples_of_long_recordings_apart(tmp_path):
    rows = "path,start,end\na.wav,3600.00005,3601\na.wav,3600.00011,3601\na.wav,0.5,12345.678\n"
    ids = [clip.id for clip in list_clips(manifest(tmp_path / "m.csv", rows))]
    assert ids == ["a@3600.00005-3601", "a@3600.00011-3601", "a@0.5-12345.678"]


def test_columns_of_a_csv_without_a_name_are_its_index(tmp_path):
    """As pandas writes it."""
    (clip,) = list_clips(manifest(tmp_path / "m.csv", ",path,text\n0,a.wav,b\n"))
    assert clip.metadata == {"text": "b"}


def test_wrong_use_is_told_with_the_remedy(tmp_path):
    (tmp_path / "empty").mkdir()
    assert "no audio files in" in complaint(tmp_path / "empty")
    touch(tmp_path / "others", "x/0.tar", "x/1.tar", "README")
    afar = f"file://{tmp_path}/others"  # whose kind is not told by what is in it
    said = f"no audio files in {afar} (but 2 .tar, 1 without a suffix: say with --source what holds audio); give a fol"
    assert complaint(afar).startswith(said)
    with pytest.raises(UsageError) as caught:
        make_plan(tmp_path, open_source(afar), ArithmeticTokenizer().spec, PlanSettings(1), 0)
    assert str(caught.value).startswith(said)
    assert "no such folder or manifest" in complaint(tmp_path / "absent")
    touch(tmp_path, "a.wav")
    assert "cannot be read as audio" in complaint(tmp_path / "a.wav")
    assert "has no rows" in complaint(manifest(tmp_path / "0.csv", "path,text\n"))
    assert "has no rows" in complaint(manifest(tmp_path / "0.jsonl", ""))
    assert "it has location, text; name one of path, audio" in complaint(
        manifest(tmp_path / "1.csv", "location,text\na.wav,b\n")
    )
    assert "not one line can be read; the first is no row: line 1: not JSON" in complaint(
        manifest(tmp_path / "2.jsonl", '{"path"\n\n[')
    )
    assert "it has text; name one of path, audio" in complaint(manifest(tmp_path / "2b.jsonl", '{"path"\n{"text": 1}'))
    assert "line 1: not a JSON object" in complaint(manifest(tmp_path / "3.jsonl", '["a.wav"]\n'))
    assert "the first is no row: line 2: 3 cells for 2 columns" in complaint(
        manifest(tmp_path / "6.tsv", "path\ttext\na.wav\tb\tc\n")
    )
    swallowed = 'path,text\n0.wav,b\n1.wav,"abc\n2.wav,x\n3.wav,y\n'
    assert "line 3 and after: not CSV (unexpected end" in complaint(manifest(tmp_path / "q.csv", swallowed))
    closed_later = 'path,text\n0.wav,"abc\n1.wav,"x"\n'
    assert "line 2 and after: not CSV (',' expected" in complaint(manifest(tmp_path / "p.csv", closed_later))
    assert "has two columns 'text': rename one" in complaint(manifest(tmp_path / "c.csv", "path,text,text\na,b,c\n"))
    deep = '{"path": "a.wav", "x": ' + "[" * 99_999 + "]" * 99_999 + "}\n"
    assert "line 1: nested too deeply" in complaint(manifest(tmp_path / "n.jsonl", deep))
    with pytest.raises(UsageError, match=r"m\.txt is no \.jsonl, .*: name it by what it is"):
        list_clips(manifest(tmp_path / "m.txt", "path\na.wav\n"), "manifest")
    half = '{"path": "a.wav", "text": "\\ud83d"}\n'
    assert "line 1: half a surrogate pair" in complaint(manifest(tmp_path / "s.jsonl", half))
    assert list_clips(manifest(tmp_path / "t.jsonl", half.replace("d83d", "d83d\\ude00")))[0].metadata["text"] == "😀"
    digits = f'{{"path": "a.wav", "n": {"9" * 5000}}}\n'
    assert "line 1: Exceeds the limit" in complaint(manifest(tmp_path / "d.jsonl", digits))
    assert "no such folder or manifest" in complaint(tmp_path / ("x" * 300))
    assert "'x'" in complaint(manifest(tmp_path / "7.csv", "path,id\na.wav,x\nb.wav,x\n"))
    assert "ids more than once, such as 'a@0-1'" in complaint(
        manifest(tmp_path / "8.csv", "path,start,end\na.wav,0,1\na.wav,0,1\n")
    )
    (tmp_path / "9.csv").write_bytes(b"path\ncaf\xe9.wav\n")
    assert "is not UTF-8" in complaint(tmp_path / "9.csv")


@pytest.mark.parametrize("setting", ["path_column", "id_column", "start_column", "end_column"])
def test_a_given_column_must_be_in_some_row(tmp_path, setting):
    """A misspelt start was the beginning of every file."""
    path = manifest(tmp_path / "m.jsonl", '{"path": "a.wav", "id": "a"}\n{"path": "b.wav", "x": "0.5"}\n')
    with pytest.raises(UsageError, match=r"m\.jsonl has no column 'y': it has id, path, x$"):
        list(open_source(path, **{setting: "y"}).clips())
    assert len(list(open_source(path, **{setting: "x"}).clips())) == 2


@pytest.mark.parametrize("suffix", ["csv", "tsv"])
def test_rows_with_too_few_or_too_many_cells_are_left_out_by_name(tmp_path, suffix):
    rows = "path,text,n\na.wav,b\na.wav,b,1\n\nx.wav,a, b,2\nb.wav,,\n,,\nx\n"
    path = manifest(tmp_path / f"m.{suffix}", rows.replace(",", "," if suffix == "csv" else "\t"))
    clips = list_clips(path)
    assert [(clip.id, clip.member) for clip in clips] == [
        ("line 2", "refused:no row: line 2: 2 of 3 cells"),
        ("a", ""),
        ("line 5", "refused:no row: line 5: 4 cells for 3 columns"),
        ("b", ""),
        ("line 7", "refused:no path: `path` of line 7 is ''"),
        ("line 8", "refused:no row: line 8: 1 of 3 cells"),
    ]
    assert [clip.metadata for clip in clips[:2]] == [{}, {"text": "b", "n": "1"}]
    assert list(open_source(path, path_column="path").clips()) == clips
    assert "not one line can be read" in complaint(manifest(tmp_path / "none.csv", "path,text\na.wav\nb.wav,c,d\n"))


def test_lines_that_are_no_json_are_left_out_by_name(tmp_path):
    """The last of them as an interrupted copy leaves it."""
    deep = '{"path": "c.wav", "x": ' + "[" * 99_999 + "]" * 99_999 + "}"
    lines = ['{"path" "a.wav"}', '{"path": "a.wav"}', '["a.wav"]', '{"path": "s.wav", "text": "\\ud83d"}', deep]
    path = manifest(tmp_path / "m.jsonl", "\n".join([*lines, '{"path": "b.wav", "n": 1}', '{"path": "c.w']))
    clips = list_clips(path)
    assert [(clip.id, clip.member) for clip in clips] == [
        ("line 1", "refused:no row: line 1: not JSON (Expecting ':' delimiter)"),
        ("a", ""),
        ("line 3", "refused:no row: line 3: not a JSON object"),
        ("line 4", "refused:no row: line 4: half a surrogate pair, which is no text"),
        ("line 5", "refused:no row: line 5: nested too deeply"),
        ("b", ""),
        ("line 7", "refused:no row: line 7: not JSON (Unterminated string starting at)"),
    ]
    assert clips[5].metadata == {"n": 1}


def test_rows_without_a_path_or_with_times_that_are_none_are_left_out_by_name(tmp_path):
    rows = '{"path": "a.wav"}\n{"text": "b"}\n{"path": "", "id": "c"}\n{"path": "a.wav", "id": "d", "start": "soon"}\n'
    clips = list_clips(manifest(tmp_path / "m.jsonl", rows))
    assert [(clip.id, clip.member) for clip in clips] == [
        ("a", ""),
        ("line 2", "refused:no path: `path` of line 2 is None"),
        ("c", "refused:no path: `path` of line 3 is ''"),
        ("d", "refused:no time: `start_s` of line 4 is 'soon', not in seconds"),
    ]
    assert clips[1].metadata == {"text": "b"}
