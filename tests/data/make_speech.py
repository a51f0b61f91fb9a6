"""Make `tests/data/speech/`: 108 clips of real recorded speech in five languages, with transcripts and attribution.

    python tests/data/make_speech.py [--debs FOLDER] [--out tests/data/speech]

The source is the Debian packages asterisk-core-sounds-{en,es,fr,it,ru}-g722 (audio, headerless G.722 at 16 kHz) and
the same names without -g722 (transcripts). `--debs` is a folder that holds them; without it they are fetched with
`apt-get download`. Needs dpkg-deb and the extra `formats` (PyAV). The same packages give the same choice of clips.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import re
import subprocess
import tempfile
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import soundfile as sf

RATE_HZ = 16_000
SHORTEST_S, LONGEST_S = 1.2, 9.0
UNUSABLE = re.compile(r"[\[(]|\?\s*[a-zà-ÿ]")
LICENCE_URLS = {
    "CC-BY-SA-3.0": "https://creativecommons.org/licenses/by-sa/3.0/",
    "CC-BY-3.0": "https://creativecommons.org/licenses/by/3.0/",
}


@dataclass(frozen=True)
class Source:
    """One language of the packages: how many clips to take, who speaks, on which terms."""

    language: str
    clips: int
    speaker: str
    credit: str
    licence: str

    @property
    def packages(self) -> tuple[str, str]:
        name = f"asterisk-core-sounds-{self.language}"
        return name, f"{name}-g722"


ALLISON = "recorded by Allison Smith (http://www.theivrvoice.com), copyright 2003-2010 Allison Smith"
SOURCES = (
    Source("en", 60, "allison", ALLISON, "CC-BY-SA-3.0"),
    Source("es", 12, "allison", ALLISON, "CC-BY-SA-3.0"),
    Source("fr", 12, "june", "recorded by June Wallack (http://www.junewallack.com), copyright 2006-2008 June Wallack; "
           "translated by Clod Patry, Kristopher Lalletti and June Wallack", "CC-BY-SA-3.0"),
    Source("it", 12, "carlo", "recorded by Carlo Flora (http://www.carloflora.com), copyright 2012 Carlo Flora, "
           "http://www.segreterietelefoniche.it; translated by Silvia Petrin", "CC-BY-3.0"),
    Source("ru", 12, "ivrvoice", "provided by Maxim Topal (http://www.ivrvoice.ru), copyright 2010 Maxim Topal",
           "CC-BY-3.0"),
)  # fmt: skip


def unpack(debs: Path | None, folder: Path) -> dict[str, str]:
    """Unpack all packages into `folder`; returns package -> version."""
    wanted = [name for source in SOURCES for name in source.packages]
    if debs is None:
        debs = folder / "debs"
        debs.mkdir()
        subprocess.run(["apt-get", "download", *wanted], cwd=debs, check=True)
    versions = {}
    for name in wanted:
        found = sorted(debs.glob(f"{name}_*.deb"))
        if not found:
            raise SystemExit(f"error: no {name}_*.deb in {debs}; fetch it with: apt-get download {name}")
        subprocess.run(["dpkg-deb", "-x", found[-1], folder], check=True)
        versions[name] = found[-1].name.split("_")[1]
    return versions


def read_transcripts(path: Path) -> dict[str, str]:
    """`key: text` lines; `;` starts a comment."""
    lines = gzip.decompress(path.read_bytes()).decode("utf-8-sig").splitlines()
    rows = (line.split(":", 1) for line in lines if ":" in line and not line.startswith(";"))
    return {key.strip(): " ".join(text.split()) for key, text in rows}


def decode_g722(path: Path) -> np.ndarray:
    """Headerless G.722 (64 kbit/s) -> int16 `[N]` at 16 kHz."""
    import av

    with av.open(str(path), format="g722") as container:
        return np.concatenate([frame.to_ndarray().ravel() for frame in container.decode(audio=0)])


def choose(root: Path, source: Source) -> list[tuple[str, str, Path]]:
    """(key, text, path) of the clips taken: one from each of `source.clips` equal strata of duration.

    Left out are short and long ones, fewer than three words, anything bracketed (not speech), and transcripts that
    lost a letter to `?`; of clips with one text, all but the first. Within a stratum the smallest hash wins: a choice
    with no generator behind it, and much the same prompts in every language.
    """
    text_of = read_transcripts(next(root.glob(f"usr/share/doc/{source.packages[0]}/core-sounds-*.txt.gz")))
    (folder,) = (root / "usr/share/asterisk/sounds").glob(f"{source.language}_*")
    usable: dict[str, tuple[int, str, Path]] = {}
    for key, text in sorted(text_of.items()):
        path = folder / f"{key}.g722"
        size = path.stat().st_size if path.is_file() else 0  # 8,000 bytes a second
        if not UNUSABLE.search(text) and len(text.split()) >= 3 and SHORTEST_S <= size / 8000 <= LONGEST_S:
            usable.setdefault(text, (size, key, path))
    by_length = sorted((size, key, text, path) for text, (size, key, path) in usable.items())
    bounds = [round(i * len(by_length) / source.clips) for i in range(source.clips + 1)]
    strata = [by_length[a:b] for a, b in pairwise(bounds)]
    taken = [min(s, key=lambda row: hashlib.sha256(row[1].encode()).digest()) for s in strata]
    return sorted((key, text, path) for _, key, text, path in taken)


def write_clips(root: Path, out: Path) -> list[dict]:
    rows = []
    for source in SOURCES:
        (out / source.language).mkdir(parents=True, exist_ok=True)
        for key, text, path in choose(root, source):
            name = key.replace("/", "-")
            relative = f"{source.language}/{name}.opus"
            samples = decode_g722(path)
            sf.write(out / relative, samples, RATE_HZ, format="OGG", subtype="OPUS")
            rows.append({
                "id": f"{source.language}-{name}", "path": relative, "text": text, "language": source.language,
                "speaker": source.speaker, "duration_s": round(len(samples) / RATE_HZ, 4), "licence": source.licence,
            })  # fmt: skip
    return rows


def readme(rows: list[dict], versions: dict[str, str]) -> str:
    minutes = sum(row["duration_s"] for row in rows) / 60
    lines = [
        "# Real recorded speech",
        "",
        f"{len(rows)} telephone prompts in five languages by four people, {minutes:.1f} minutes: Ogg/Opus, 16 kHz,"
        " mono. `manifest.jsonl` holds one clip a line: id, path, text, language, speaker, duration_s, licence.",
        "",
        "The audio and the transcripts are **not** under the licence of this project's code. They come from the"
        " Asterisk core sounds (http://downloads.asterisk.org/pub/telephony/asterisk/), by way of Debian:",
        "",
        "| language | clips | speaker | attribution | licence |",
        "|---|---|---|---|---|",
    ]
    for source in SOURCES:
        link = f"[{source.licence}]({LICENCE_URLS[source.licence]})"
        lines.append(f"| {source.language} | {source.clips} | `{source.speaker}` | {source.credit} | {link} |")
    packages = ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))
    lines += [
        "",
        "English and Spanish are spoken by the same person (`allison`). The English, Spanish and French recordings"
        " were paid for by Digium, Inc.; the French ones also by Unlimitel and BGM Informatique.",
        "",
        f"Source packages: {packages}.",
        "",
        "Changes made: a selection; decoded from G.722 and encoded again as Opus; subfolders of file names joined with"
        " `-`; runs of spaces in transcripts made one. Adaptations of the CC-BY-SA-3.0 clips stay under that licence.",
        "",
        "Made by `python tests/data/make_speech.py`, which says how clips are chosen.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--debs", type=Path, help="folder of the .deb files; fetched with apt-get when not given")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "speech")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        versions = unpack(args.debs and args.debs.resolve(), Path(folder))
        rows = write_clips(Path(folder), args.out)
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    (args.out / "manifest.jsonl").write_text("".join(lines), encoding="utf-8")
    (args.out / "README.md").write_text(readme(rows, versions), encoding="utf-8")
    print(f"{len(rows)} clips in {args.out}")


if __name__ == "__main__":
    main()
