"""Reading a template's folder: what is kept of it, what it says of itself, and what it lacks."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from fumehood.artifacts.memory import MemoryArtifacts
from fumehood.cli import lacking
from fumehood.domain.execution import Kind
from fumehood.domain.template import REQUIRED_FILES, Template
from fumehood.errors import BadInputError
from fumehood.latex import skeleton
from fumehood.services import data_above, templates
from tests.fakes.laboratory import CONFIRMING, PLAIN, TINY, write_template


@pytest.fixture
def artifacts() -> MemoryArtifacts:
    return MemoryArtifacts()


def kept(files: Mapping[str, str], artifacts: MemoryArtifacts) -> dict[str, str]:
    return {path: artifacts.put(text.encode()) for path, text in files.items()}


def problems(artifacts: MemoryArtifacts, files: Mapping[str, str] = TINY, **changes: str | None) -> tuple[str, ...]:
    """Return what a template lacks whose files were changed: `evaluate_py=None` leaves one out."""
    named = {path.replace("/", "__").replace(".", "_"): path for path in files} | {"serve_py": "serve.py"}
    told = {named[name]: text for name, text in changes.items()}
    after = {path: text for path, text in {**files, **told}.items() if text is not None}
    return templates.check(kept(after, artifacts), artifacts, "tiny")


class TestFind:
    def test_a_name_is_a_shipped_template(self, tmp_path: Path) -> None:
        folder = write_template(tmp_path / "tiny")
        assert templates.find("tiny", tmp_path) == folder

    def test_a_path_is_any_folder(self, tmp_path: Path) -> None:
        folder = write_template(tmp_path / "mine")
        assert templates.find(str(folder), tmp_path / "shipped") == folder.resolve()

    @pytest.mark.parametrize("name", ["", "  ", "nope", "./nope", "a" * 5000, "tiny/experiment.py", "a\0b"])
    def test_what_is_neither_is_refused_with_one_sentence(self, tmp_path: Path, name: str) -> None:
        write_template(tmp_path / "tiny")
        with pytest.raises(BadInputError) as refused:
            templates.find(name, tmp_path)
        assert str(refused.value).endswith(".")
        assert "\n" not in str(refused.value)

    def test_the_known_names_are_told(self, tmp_path: Path) -> None:
        write_template(tmp_path / "tiny")
        with pytest.raises(BadInputError, match="nor one of tiny"):
            templates.find("nope", tmp_path)

    def test_dots_do_not_lead_out_of_the_shipped_templates(self, tmp_path: Path) -> None:
        shipped = tmp_path / "shipped"
        write_template(shipped / "tiny")
        assert templates.find("..", shipped) == Path("..").resolve()
        assert templates.names(shipped) == ("tiny",)
        assert templates.names(tmp_path / "nowhere") == ()


class TestSnapshot:
    def test_every_file_is_kept_by_its_hash(self, tmp_path: Path, artifacts: MemoryArtifacts) -> None:
        files = templates.snapshot(write_template(tmp_path / "t"), artifacts)
        assert set(files) == set(TINY)
        assert artifacts.get(files["latex/template.tex"]).decode() == TINY["latex/template.tex"]

    def test_links_are_followed_nowhere(self, tmp_path: Path, artifacts: MemoryArtifacts) -> None:
        folder = write_template(tmp_path / "t")
        secret = tmp_path / "secret"
        secret.mkdir()
        (secret / "key").write_text("private")
        (folder / "key").symlink_to(secret / "key")
        (folder / "all").symlink_to(secret)
        os.mkfifo(folder / "pipe")
        assert set(templates.snapshot(folder, artifacts)) == set(TINY)

    @pytest.mark.parametrize("place", ["run_0", "run_1", "run_12", "__pycache__", ".git", "deep/run_3"])
    def test_what_a_run_by_hand_left_is_no_part_of_it(
        self, tmp_path: Path, artifacts: MemoryArtifacts, place: str
    ) -> None:
        folder = write_template(tmp_path / "t")
        (folder / place).mkdir(parents=True)
        (folder / place / "final_info.json").write_text("{}")
        assert set(templates.snapshot(folder, artifacts)) == set(TINY)

    def test_a_large_file_is_refused_by_name(self, tmp_path: Path, artifacts: MemoryArtifacts) -> None:
        folder = write_template(tmp_path / "t")
        with (folder / "data.bin").open("wb") as file:
            file.truncate(templates.MAX_FILE_BYTES + 1)
        with pytest.raises(BadInputError, match=r"file data\.bin is larger than 64 MiB"):
            templates.snapshot(folder, artifacts)

    def test_too_many_files_are_refused(self, tmp_path: Path, artifacts: MemoryArtifacts) -> None:
        for number in range(templates.MAX_FILES + 1):
            (tmp_path / f"{number}.txt").write_text("x")
        with pytest.raises(BadInputError, match="more than 500 files"):
            templates.snapshot(tmp_path, artifacts)


READS = """import os
at_home = os.path.join("../../data", "plays")
elsewhere = "../../../data/plays"
"""


@pytest.fixture
def above(tmp_path: Path) -> Path:
    """A template as the original's repository has them, with data two folders above it."""
    folder = write_template(tmp_path / "templates" / "plays", {**PLAIN, "experiment.py": READS})
    (tmp_path / "data" / "plays").mkdir(parents=True)
    (tmp_path / "data" / "plays" / "train.bin").write_bytes(b"to be")
    return folder


class TestDataAbove:
    def test_what_a_program_reads_from_above_its_folder_comes_along(
        self, above: Path, artifacts: MemoryArtifacts
    ) -> None:
        files = templates.snapshot(above, artifacts)
        assert set(files) == {*PLAIN, "data/plays/train.bin"}
        assert artifacts.get(files["data/plays/train.bin"]) == b"to be"
        assert templates.workspace(files)["data/plays/train.bin"] == files["data/plays/train.bin"]

    @pytest.mark.parametrize(
        ("source", "found"),
        [
            (b'open("../../data/x")', (2,)),
            (b"f'{HERE}/../data' + './../../../data'", (1, 3)),
            (b'HERE + "/../../data"', (2,)),
            (b"'../dataset' '../data.csv' '../data-old' '/usr/../data' 'a../data' '../../my/data'", ()),
        ],
    )
    def test_how_far_up_is_read_off_the_program(self, source: bytes, found: tuple[int, ...]) -> None:
        assert data_above.levels([source]) == found

    @pytest.mark.parametrize(
        "changes",
        [{"data/own.txt": "ours"}, {"prepare.py": "", "evaluate.py": ""}, {"experiment.py": "x = '../database'"}],
    )
    def test_where_it_has_its_own_draws_them_or_reads_none_nothing_does(
        self, above: Path, artifacts: MemoryArtifacts, changes: dict[str, str]
    ) -> None:
        write_template(above, changes)
        assert set(templates.snapshot(above, artifacts)) == {*PLAIN, *changes}

    def test_links_are_not_followed_there_either(self, above: Path, artifacts: MemoryArtifacts, tmp_path: Path) -> None:
        (tmp_path / "data").rename(tmp_path / "elsewhere")
        (tmp_path / "data").symlink_to(tmp_path / "elsewhere")
        assert set(templates.snapshot(above, artifacts)) == set(PLAIN)

    def test_too_large_a_file_is_refused_by_name(self, above: Path, artifacts: MemoryArtifacts, tmp_path: Path) -> None:
        with (tmp_path / "data" / "huge").open("wb") as file:
            file.truncate(templates.MAX_DATA_BYTES + 1)
        with pytest.raises(BadInputError, match=r"file data/huge is larger than 256 MiB"):
            templates.snapshot(above, artifacts)


class TestWhatItDoesWithout:
    def costs(self, artifacts: MemoryArtifacts, files: Mapping[str, str]) -> str:
        snapshot = kept(files, artifacts)
        return "\n".join(lacking.costs(Path("t"), snapshot, artifacts, templates.load(snapshot, artifacts, "t")))

    def test_a_template_of_the_original_system_is_told_what_that_costs(self, artifacts: MemoryArtifacts) -> None:
        told = self.costs(artifacts, {**PLAIN, "experiment.py": READS})
        begins = (
            "experiment.py reads ../data above",
            "No prepare.py and evaluate.py: every number is the program's own word",
            "No primary metric",
            "No seeds",
            "No template.toml: one size, and the usual limits (7,200 s a run).",
            "No offline.toml",
            "No gaps of ours",
        )
        assert len(told.splitlines()) == len(begins)
        assert all(line.startswith(begin) for line, begin in zip(told.splitlines(), begins, strict=True))

    def test_data_that_came_along_are_told(self, above: Path, artifacts: MemoryArtifacts, tmp_path: Path) -> None:
        # Whatever else a stranger's folder has, it is said where they came from, and nothing else is named or read.
        (above / "data" / "run_0").mkdir(parents=True)
        (above / "data" / "run_0" / "kept").touch()
        (above / "elsewhere.py").symlink_to("/proc/self/mem")
        (above / "other.py").symlink_to(tmp_path / "names_another.py")
        (tmp_path / "names_another.py").write_text("'../data'")
        (above.parent / "data").mkdir()
        files = templates.snapshot(above, artifacts)
        assert "data/plays" in {path[:10] for path in files}
        first, *_ = lacking.costs(above, files, artifacts, Template(title="t"))
        assert first.startswith(f"1 file comes along from '{tmp_path / 'data'}', which a program of the template names")
        write_template(above, {"data/own.txt": "ours"})
        files = templates.snapshot(above, artifacts)
        assert not any("along from" in one for one in lacking.costs(above, files, artifacts, Template(title="t")))

    def test_what_it_has_is_not_missed(self, artifacts: MemoryArtifacts) -> None:
        assert "promising" in self.costs(artifacts, TINY)
        ours = "".join(map(skeleton.gap, skeleton.GAPS)) + r"\begin{document}"
        whole = {**CONFIRMING, "offline.toml": "", "latex/template.tex": ours}
        assert self.costs(artifacts, whole) == ""


class TestCheck:
    def test_a_full_template_keeps_the_contract(self, artifacts: MemoryArtifacts) -> None:
        assert problems(artifacts) == ()

    def test_a_template_of_the_original_system_keeps_it_too(self, artifacts: MemoryArtifacts) -> None:
        assert problems(artifacts, PLAIN) == ()

    @pytest.mark.parametrize("path", REQUIRED_FILES)
    def test_each_missing_file_is_named(self, artifacts: MemoryArtifacts, path: str) -> None:
        found = templates.check(kept({one: PLAIN[one] for one in PLAIN if one != path}, artifacts), artifacts, "t")
        assert found == (f"The required file {path} is missing.",)

    def test_a_syntax_error_is_named_with_file_and_line(self, artifacts: MemoryArtifacts) -> None:
        (found,) = problems(artifacts, experiment_py="import json\n\ndef f(:\n    pass\n")
        assert found.startswith("experiment.py is not valid Python in line 3: ")

    @pytest.mark.parametrize("source", ["a\0b", "(" * 5000 + ")" * 5000, "\ud800".encode("utf-8", "surrogatepass")])
    def test_what_python_cannot_even_read_is_a_problem_too(
        self, artifacts: MemoryArtifacts, source: str | bytes
    ) -> None:
        data = source.encode() if isinstance(source, str) else source
        files = kept(TINY, artifacts) | {"experiment.py": artifacts.put(data)}
        (found,) = templates.check(files, artifacts, "t")
        assert found.startswith("experiment.py is not valid Python")

    @pytest.mark.parametrize(("gone", "left"), [("evaluate_py", "prepare.py"), ("prepare_py", "evaluate.py")])
    def test_the_frozen_pair_goes_together(self, artifacts: MemoryArtifacts, gone: str, left: str) -> None:
        (found,) = problems(artifacts, **{gone: None})
        assert found.startswith(f"{left} is there without ")

    @pytest.mark.parametrize("text", ["", "[]", "{}", '{"system": "x"}', "5", "\udcff"])
    def test_a_broken_prompt_is_a_problem(self, artifacts: MemoryArtifacts, text: str) -> None:
        data = text.encode(errors="surrogateescape")
        files = kept(TINY, artifacts) | {"prompt.json": artifacts.put(data)}
        (found,) = templates.check(files, artifacts, "t")
        assert "prompt.json must be JSON with system and task_description" in found

    @pytest.mark.parametrize("text", ["", "5", "[5]", "null", '["x"]'])
    def test_broken_seed_ideas_are_a_problem(self, artifacts: MemoryArtifacts, text: str) -> None:
        (found,) = problems(artifacts, seed_ideas_json=text)
        assert "seed_ideas.json must be a JSON list of ideas" in found

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("title = ", "not readable TOML"),
            ("summary = 'no title'", "wrong at title"),
            ("title = 'x'\ncolour = 'red'", "wrong at colour"),
            ("title = 'x'\n[llm]", r"wrong at llm\.usd_per_run"),
            ("title = 'x'\n[llm]\nusd_per_run = -0.1", r"wrong at llm\.usd_per_run"),
            ("title = 'x'\n[llm]\nusd_per_run = inf", r"wrong at llm\.usd_per_run"),
            ("title = 'x'\n[llm]\nusd_per_run = 1\nmodel = 'other'", r"wrong at llm\.model"),
            ("title = 'x'\n[metrics.m]\ndirection = 'up'", r"wrong at metrics\.m\.direction"),
            ("title = 'x'\n[profiles.tiny.limits.run]\nwall_s = -1", "profile tiny has unusable limits of run"),
            ("title = 'x'\n[profiles.tiny.limits.run]\nwall_s = nan", "profile tiny has unusable limits of run"),
            ("title = 'x'\n[profiles.tiny]\ngpu_memory_mib = 10", "asks for no GPU"),
            ("title = 'x'\n[profiles.tiny]\ngpus = 1\ngpu_memory_mib = 0", r"wrong at profiles\.tiny\.gpu_memory_mib"),
            ("title = 'x'\neditable = ['evaluate.py']", r"frozen evaluate\.py editable"),
            ("title = 'x'\n[query]\nkind = 'sample'", r"needs serve\.py"),
        ],
    )
    def test_what_would_break_later_is_said_at_once(self, artifacts: MemoryArtifacts, text: str, words: str) -> None:
        with pytest.raises(BadInputError, match=words):
            raise BadInputError(" ".join(problems(artifacts, template_toml=text)))

    def test_a_query_with_its_answerer_is_fine(self, artifacts: MemoryArtifacts) -> None:
        assert problems(artifacts, template_toml="title = 'x'\n[query]\nkind = 'sample'", serve_py="") == ()


class TestWords:
    def test_without_a_toml_there_are_defaults_and_one_profile_of_any_name(self, artifacts: MemoryArtifacts) -> None:
        template = templates.load(kept(PLAIN, artifacts), artifacts, "plain")
        assert (template.title, template.primary, template.outputs) == ("plain", None, ("**",))
        for name in ("tiny", "cpu", "gpu"):
            profile = templates.profile_of(template, name)
            assert profile.seeds == ()
            assert profile.limits_of(Kind.RUN).wall_s == 7200

    def test_an_unknown_profile_is_refused_and_the_known_are_told(self, artifacts: MemoryArtifacts) -> None:
        template = templates.load(kept(TINY, artifacts), artifacts, "tiny")
        with pytest.raises(BadInputError, match="no profile 'huge'; it has cpu, tiny"):
            templates.profile_of(template, "huge")

    def test_the_workspace_holds_nothing_frozen_and_nothing_for_models(self, artifacts: MemoryArtifacts) -> None:
        found = templates.workspace(kept({**TINY, "offline.toml": "", "notes/data.csv": "1"}, artifacts))
        assert set(found) == {"experiment.py", "plot.py"}

    def test_a_template_that_prepares_nothing_keeps_its_own_data(self, artifacts: MemoryArtifacts) -> None:
        found = templates.workspace(kept({**PLAIN, "data.csv": "1"}, artifacts))
        assert set(found) == {"experiment.py", "plot.py", "data.csv"}

    def test_the_hash_depends_on_every_byte_and_on_no_order(self, artifacts: MemoryArtifacts) -> None:
        files = kept(TINY, artifacts)
        assert templates.template_hash(files) == templates.template_hash(dict(reversed(files.items())))
        assert templates.template_hash(files) != templates.template_hash({**files, "a": files["plot.py"]})

    def test_the_prompt_and_the_seed_ideas_are_read(self, artifacts: MemoryArtifacts) -> None:
        files = kept(TINY, artifacts)
        assert templates.prompt_of(files, artifacts) == ("You are careful.", "Make the scale small.")
        assert templates.seed_ideas(files, artifacts) == tuple(json.loads(TINY["seed_ideas.json"]))

    def test_imports_are_top_level_names_and_never_relative_ones(self) -> None:
        source = (
            b"import os.path, numpy as np\nfrom torch.nn import Linear\nfrom . import mine\ndef f():\n    import tqdm\n"
        )
        assert templates.imports(source) == {"os", "numpy", "torch", "tqdm"}
