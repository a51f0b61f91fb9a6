"""Lookup by name over a real folder of modules, and plug-ins through real package metadata."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import numpy as np
import pytest

from slm.errors import UsageError, did_you_mean
from slm.registry import Registry
from slm.tokenizers import TOKENIZERS, load_tokenizer
from slm.tokenizers._catalogue import catalogue

MODULES = {
    "__init__": "from slm.registry import Registry\nGADGETS = Registry('gadget', 'gadgets_here', 'gadgets_here')\n",
    "round_ones": """
        from gadgets_here import GADGETS

        @GADGETS.register("ball")
        class Ball:
            def __init__(self, radius, colour="red"):
                self.radius, self.colour = radius, colour

        @GADGETS.register("disc", "plate")
        class Disc:
            def __init__(self, name="disc", thickness=1):
                self.name, self.thickness = name, thickness
        """,
    "loose": """
        from gadgets_here import GADGETS

        @GADGETS.register("anything")
        class Anything:
            def __init__(self, **settings):
                self.settings = settings
        """,
    "_helpers": "raise RuntimeError('a module with an underscore is no part of the list')\n",
}


@pytest.fixture
def gadgets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    """The registry of a package of three gadgets, written to disk."""
    package = tmp_path / "gadgets_here"
    package.mkdir()
    for name, text in MODULES.items():
        (package / f"{name}.py").write_text(dedent(text))
    monkeypatch.syspath_prepend(str(tmp_path))
    import gadgets_here  # type: ignore[import-not-found]

    yield gadgets_here.GADGETS
    for name in [name for name in sys.modules if name.split(".")[0] == "gadgets_here"]:
        del sys.modules[name]


def install_plugin(root: Path, group: str, entries: dict[str, str], modules: dict[str, str]) -> None:
    """What pip leaves behind: modules and a `.dist-info` with its entry points."""
    info = root / "gadget_plugin-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: gadget-plugin\nVersion: 1.0\n")
    lines = [f"[{group}]", *(f"{name} = {target}" for name, target in entries.items())]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
    for name, text in modules.items():
        (root / f"{name}.py").write_text(dedent(text))


def test_the_folder_is_the_list(gadgets: Registry) -> None:
    assert gadgets.names() == ["anything", "ball", "disc", "plate"]
    assert gadgets.get("ball").__name__ == "Ball"


def test_create_passes_settings(gadgets: Registry) -> None:
    ball = gadgets.create("ball", radius=3)
    assert (ball.radius, ball.colour) == (3, "red")
    assert gadgets.create("anything", a=1, b=2).settings == {"a": 1, "b": 2}


def test_a_class_of_several_names_is_told_which(gadgets: Registry) -> None:
    assert gadgets.create("plate", thickness=2).name == "plate"
    assert gadgets.create("disc").name == "disc"
    assert gadgets.get("disc") is gadgets.get("plate")


def test_an_unknown_name_suggests_the_closest(gadgets: Registry) -> None:
    with pytest.raises(UsageError, match=r"^unknown gadget 'bal'; did you mean 'ball'\?$"):
        gadgets.get("bal")
    with pytest.raises(UsageError, match=r"^unknown gadget 'xyz'; known: anything, ball, disc, plate$"):
        gadgets.create("xyz")


def test_an_unknown_setting_suggests_the_closest(gadgets: Registry) -> None:
    with pytest.raises(UsageError, match=r"^gadget 'ball' has no setting 'color'; did you mean 'colour'\?$"):
        gadgets.create("ball", radius=1, color="blue")
    with pytest.raises(UsageError, match=r"^gadget 'ball' needs the setting 'radius'$"):
        gadgets.create("ball")


def test_what_is_given_is_no_setting(gadgets: Registry) -> None:
    assert gadgets.create("ball", {"radius": 3}, colour="blue").radius == 3
    with pytest.raises(UsageError, match=r"^gadget 'ball' has no setting 'radius'; known: colour$"):
        gadgets.create("ball", {"radius": 3}, radius=1)


def test_a_setting_of_another_type_is_refused(gadgets: Registry) -> None:
    typed = gadgets.get("ball")
    typed.__init__.__annotations__.update(radius="int | None", colour="str")  # type: ignore[misc]
    for radius in (3, None, np.int64(3)):
        assert gadgets.create("ball", radius=radius).radius == radius
    assert gadgets.create("ball", radius=1, colour=Path("red")).colour == Path("red")
    for wrong in ({"radius": "abc"}, {"radius": 1.5}, {"radius": True}):
        with pytest.raises(UsageError, match=r"gadget 'ball': the setting 'radius' must be int \| None, not "):
            gadgets.create("ball", **wrong)
    with pytest.raises(UsageError, match="'colour' must be str, not 5"):
        gadgets.create("ball", radius=1, colour=5)


def test_tokenizers_refuse_settings_of_another_type() -> None:
    for settings, complaint in (
        ({"layer": "abc"}, "layer is one number or a list of them .*, not 'abc'"),
        ({"centroids": 5}, "'centroids' must be str, not 5"),
    ):
        with pytest.raises(UsageError, match=complaint):
            load_tokenizer("ssl-kmeans", **settings)  # type: ignore[arg-type]


def test_two_classes_under_one_name_are_refused(gadgets: Registry) -> None:
    gadgets.names()
    ball = gadgets.get("ball")
    assert gadgets.register("ball")(ball) is ball  # the same class again is no conflict: a module imported twice
    with pytest.raises(ValueError, match="gadget 'ball' is registered twice"):
        gadgets.register("ball")(type("Other", (), {}))


def test_a_plug_in_joins_through_its_entry_point(
    gadgets: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = "class Cube:\n    def __init__(self, edge=1):\n        self.edge = edge\n"
    entries = {"cube": "cube_plugin:Cube", "broken": "cube_plugin:Missing", "lame": "lame_plugin:Lame"}
    modules = {"cube_plugin": module, "lame_plugin": "import no_such_library\n"}
    install_plugin(tmp_path / "site", "gadgets_here", entries, modules)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    assert gadgets.names() == ["anything", "ball", "broken", "cube", "disc", "lame", "plate"]
    assert "cube_plugin" not in sys.modules  # listing loads no plug-in
    assert gadgets.create("cube", edge=4).edge == 4
    for name, complaint in (("broken", "cube_plugin:Missing of gadget-plugin fails"), ("lame", "no_such_library")):
        with pytest.raises(UsageError, match=f"gadget {name!r} cannot be loaded: .*{complaint}"):
            gadgets.get(name)
    with pytest.raises(UsageError, match="did you mean 'cube'"):
        gadgets.get("cubee")
    with pytest.raises(UsageError, match="has no setting 'edgy'; did you mean 'edge'"):
        gadgets.create("cube", edgy=4)


def test_a_plug_in_of_another_kind_stays_out(
    gadgets: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_plugin(tmp_path / "site", "somebody.else", {"cube": "m:C"}, {})
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    assert "cube" not in gadgets.names()


def test_a_tokenizer_comes_from_a_plug_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = """
        from dataclasses import replace
        from tests.fakes import ArithmeticTokenizer

        class Plugged(ArithmeticTokenizer):
            def __init__(self, calls_itself="plugged", **settings):
                super().__init__(**settings)
                self.spec = replace(self.spec, name=calls_itself)

        class Forgetful(ArithmeticTokenizer):
            def __init__(self, folder, device):
                super().__init__()
                self.spec = replace(self.spec, name="Forgetful")
        """
    entries = {name: f"plugged_tokenizer:{name}" for name in ("Forgetful", "replace")}
    entries["plugged"] = "plugged_tokenizer:Plugged"
    install_plugin(tmp_path, "slm.tokenizers", entries, {"plugged_tokenizer": module})
    monkeypatch.syspath_prepend(str(tmp_path))
    assert "plugged" in TOKENIZERS.names()
    assert load_tokenizer("plugged", num_codebooks=3).spec.num_codebooks == 3
    with pytest.raises(UsageError, match="'plugged' calls itself 'pluged' in its spec"):
        load_tokenizer("plugged", calls_itself="pluged")
    with pytest.raises(UsageError, match="leaves folder out of its spec's settings"):
        load_tokenizer("Forgetful", folder="x")
    with pytest.raises(UsageError, match=r"replace is no class derived from slm\.tokenizers\.base\.Tokenizer"):
        load_tokenizer("replace")
    assert {row.name for row in catalogue()} > {"plugged", "replace"}  # its note says why, the others are there
    settings = tmp_path / "mine.yaml"
    settings.write_text("name: plugged\nnum_codebooks: 4\ncodebook_size: 8\n")
    assert load_tokenizer(str(settings)).spec.codebook_sizes == (8, 8, 8, 8)
    assert load_tokenizer(str(settings), num_codebooks=1).spec.codebook_sizes == (8,)


def test_a_tokenizer_file_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such tokenizer file"):
        load_tokenizer(str(tmp_path / "none.yaml"))
    for text in ("checkpoint: x\n", "- name\n", ""):
        (tmp_path / "bad.yaml").write_text(text)
        with pytest.raises(UsageError, match="needs `name:`"):
            load_tokenizer(str(tmp_path / "bad.yaml"))
    (tmp_path / "bad.yaml").write_text("name: [unclosed\n")
    with pytest.raises(UsageError, match=r"bad\.yaml is no YAML"):
        load_tokenizer(str(tmp_path / "bad.yaml"))
    (tmp_path / "bad.yaml").write_text("name: mimi\ndevice: cuda\n")
    with pytest.raises(UsageError, match="--device"):
        load_tokenizer(str(tmp_path / "bad.yaml"))
    with pytest.raises(UsageError, match="--device gpu cannot be used"):
        load_tokenizer("logmel-kmeans", device="gpu")


def test_suggestions() -> None:
    assert did_you_mean("mimmi", ["mimi", "dac"]) == "; did you mean 'mimi'?"
    assert did_you_mean("mimo", ["mimi", "mimic", "dac"]) == "; did you mean 'mimi' or 'mimic'?"
    assert did_you_mean("zzz", ["mimi", "dac"]) == "; known: dac, mimi"
    assert did_you_mean("zzz", []) == ""
