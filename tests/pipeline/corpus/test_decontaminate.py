import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import ROOT, prose
from hypothesis import given, settings
from hypothesis import strategies as st
from test_filters import write_documents

from pipeline.common.config import ConfigError, read
from pipeline.common.errors import StageError
from pipeline.common.files import read_arrow
from pipeline.corpus.decontaminate import build_index, find_set, load_index, read_strings, write_index
from pipeline.corpus.filters import filter_documents
from pipeline.corpus.options import Decontaminate, Filter
from pipeline.corpus.words import hash_words, split_words

EVALUATION = ROOT.parent / "shared" / "eval"  # beside the checkout, where there is one
PROSE = " ".join(f"mot{i}" for i in range(40)).split()


def make_index(folder, sets, ngram=13):
    """An index of sets given as lists of texts, and its report."""
    paths = {}
    for name, texts in sets.items():
        (folder / f"{name}.json").write_text(json.dumps(texts))
        paths[name] = str(folder / f"{name}.json")
    write_index(paths, ngram, 1, str(folder / "index.npy"), str(folder / "index.json"))
    return load_index(str(folder / "index.npy")), json.loads((folder / "index.json").read_text())["sets"]


def found_in(index, text):
    return find_set(index, hash_words(split_words(text)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("sets")


VOCABULARY = st.sampled_from([f"w{i}" for i in range(4)])


@settings(max_examples=50, deadline=None)
@given(
    evaluation=st.lists(st.lists(VOCABULARY, min_size=5, max_size=16), min_size=1, max_size=3),
    document=st.lists(VOCABULARY, max_size=30),
)
def test_a_document_is_contaminated_if_and_only_if_it_has_an_ngram(folder, evaluation, document):
    index, _ = make_index(folder, {"s": [" ".join(words) for words in evaluation]}, ngram=5)
    known = {tuple(words[i : i + 5]) for words in evaluation for i in range(len(words) - 4)}
    shared = any(tuple(document[i : i + 5]) in known for i in range(len(document)))
    assert (found_in(index, " ".join(document)) == "s") is shared


@settings(max_examples=50, deadline=None)
@given(before=st.integers(0, 30), first=st.integers(0, 27), length=st.integers(1, 13), case=st.booleans())
def test_thirteen_words_in_a_row_are_found_and_twelve_are_not(folder, before, first, length, case):
    index, _ = make_index(folder, {"s": [" ".join(PROSE)]})
    planted = ", ".join(PROSE[first : first + length])
    text = f"{' autre' * before} {planted.upper() if case else planted}! {'fin ' * 20}"
    assert (found_in(index, text) == "s") is (length == 13)


def test_short_texts_count_whole_from_eight_words_on(tmp_path):
    texts = [" ".join(PROSE[:8]), " ".join(PROSE[10:17]), "A", " ".join(PROSE[20:40])]
    index, report = make_index(tmp_path, {"s": texts})
    assert report == [{"name": "s", "ngrams": 1 + 8, "texts": 4, "short_texts": 1, "ignored_texts": 2}]
    assert found_in(index, f"x {texts[0]} y") == "s"
    assert found_in(index, " ".join(PROSE[1:9])) is None
    assert found_in(index, f"x {texts[1]} y") is None


NAMES = [
    "กรุงเทพมหานคร",
    "第二次世界大战期间",
    "中华人民共和国香港特别行政区",
    "サウジアラビア王国",
    "ភ្នំពេញ",
    "1 2 3 4 5 6 7 8 9 0",
]
QUESTIONS = {
    "下列哪种气体是造成全球变暖的主要原因之一？": "考试第三题：{}答案是二氧化碳。",
    "地球温暖化の主な原因となっている気体は次のうちどれですか": "第三問。{}。答えは二酸化炭素です。",
    "ก๊าซชนิดใดเป็นสาเหตุหลักที่ทำให้เกิดภาวะโลกร้อน": "ข้อสอบข้อที่สาม{}คำตอบคือคาร์บอนไดออกไซด์",
    "តើឧស្ម័នមួយណាខាងក្រោមជាមូលហេតុចម្បងនៃការឡើងកម្តៅផែនដី": "សំណួរទីបី៖ {}? ចម្លើយគឺកាបូនិច។",
    "ཚ་དྲག་བྱུང་བའི་རྒྱུ་རྐྱེན་གཙོ་བོ་ནི་རླུང་གཟུགས་གང་ཡིན་ནམ་ཞེས་དྲི་བ": "དྲི་བ་གསུམ་པ། {}། ལན།",
}  # fmt: skip


def test_names_are_no_copies_of_a_set_in_any_script(tmp_path):
    index, report = make_index(tmp_path, {"s": [*NAMES, " ".join(PROSE)]})
    assert report[0]["ignored_texts"] == len(NAMES)
    for name in NAMES:
        assert found_in(index, f"x {name} y") is None


@pytest.mark.parametrize("question", QUESTIONS)
def test_questions_are_found_in_scripts_without_spaces(tmp_path, question):
    index, _ = make_index(tmp_path, {"s": [question]})
    assert found_in(index, QUESTIONS[question].format(question)) == "s"
    half = len(question) // 2
    assert found_in(index, QUESTIONS[question].format(question[:half])) is None
    index, _ = make_index(tmp_path, {"s": [question * 2]})  # longer than an n-gram: any of its n-grams
    assert found_in(index, QUESTIONS[question].format(question + question[:half])) == "s"
    assert found_in(index, QUESTIONS[question].format(question[:half])) is None


def test_a_set_of_names_alone_is_empty(tmp_path, caplog):
    index, report = make_index(tmp_path, {"s": NAMES[:2]})
    assert report[0]["ngrams"] == 0 and found_in(index, NAMES[0]) is None
    assert "sets.s: every text in" in caplog.text


def test_the_first_set_that_matches_is_named(tmp_path):
    index, report = make_index(tmp_path, {"b": [" ".join(PROSE[:20])], "a": [" ".join(PROSE[5:25])]})
    assert [entry["ngrams"] for entry in report] == [8, 8]
    assert found_in(index, " ".join(PROSE[5:20])) == "b"
    assert found_in(index, " ".join(PROSE[12:25])) == "a"


def test_a_set_without_text_is_an_error_that_names_the_key(tmp_path):
    with pytest.raises(StageError, match=r"filter\.decontaminate\.sets\.s: .*no text of 8 words or more"):
        make_index(tmp_path, {"s": ["A", "B"]})


ROWS = [{"question": "q1", "choices": ["a", "b"], "n": 3}, {"question": "q2", "choices": [], "n": 4}]


def test_every_text_in_every_kind_of_file(tmp_path):
    table = pa.Table.from_pylist(ROWS)
    (tmp_path / "s.json").write_text(json.dumps({"data": {"deep": ROWS}}))
    (tmp_path / "s.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS) + "\n")
    pq.write_table(table, tmp_path / "s.parquet")
    for name, new in (("stream", pa.ipc.new_stream), ("file", pa.ipc.new_file)):
        with new(str(tmp_path / f"{name}.arrow"), table.schema) as writer:
            writer.write_table(table)
    for name in ("s.json", "s.jsonl", "s.parquet", "stream.arrow", "file.arrow"):
        assert [x.strip() for x in read_strings(str(tmp_path / name)) if x.strip()] == ["q1", "a", "b", "q2"]
    (tmp_path / "s.txt").write_text("one\ntwo\n")
    assert [x.strip() for x in read_strings(str(tmp_path / "s.txt"))] == ["one", "two"]


@pytest.mark.parametrize("name", ["s.json", "s.jsonl", "s.parquet", "s.arrow"])
def test_a_broken_file_is_named(tmp_path, name):
    (tmp_path / name).write_bytes(b"\xff{not a file")
    with pytest.raises(StageError, match=rf"{name}: not (a readable|a sound|UTF-8)"):
        list(read_strings(str(tmp_path / name)))


@pytest.mark.parametrize("content", ["[" * 10**6, '{"a":' * 10**6, "1" * 10_000, '[["a"]'])
@pytest.mark.parametrize("name", ["s.json", "s.jsonl"])
def test_hostile_json_is_refused_in_one_line(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    with pytest.raises(StageError, match=f"{name}: not a readable {name[1:]} file: ") as error:
        list(read_strings(str(tmp_path / name)))
    assert "\n" not in str(error.value)


def test_strings_as_deep_as_json_goes_are_found_in_their_order(tmp_path):
    deep = "x"
    for number in range(400):
        deep = [str(number), {"key": deep}]
    (tmp_path / "s.json").write_text(json.dumps(deep))
    assert list(read_strings(str(tmp_path / "s.json"))) == [*map(str, range(399, -1, -1)), "x"]


@pytest.mark.long
@pytest.mark.slow
def test_sets_that_unpack_to_too_much_are_refused(tmp_path):
    """Some kilobytes of Parquet that hold three texts of 300 MB."""
    words = pa.DictionaryArray.from_arrays(pa.array([0] * 3, pa.int32()), pa.array(["mot " * 75_000_000]))
    pq.write_table(pa.table({"text": words}), tmp_path / "s.parquet", compression="zstd")
    assert (tmp_path / "s.parquet").stat().st_size < 100_000
    sets = Decontaminate(sets={"s": str(tmp_path / "s.parquet")}, sets_gb=1)
    with pytest.raises(StageError, match=r"takes more than 1 GB of memory; .* filter\.decontaminate\.sets_gb"):
        build_index(sets, str(tmp_path / "i.npy"), str(tmp_path / "i.json"))
    assert not (tmp_path / "i.npy").exists()


def test_the_index_of_a_process_with_bounds_is_that_of_this_one(tmp_path):
    _, report = make_index(tmp_path, {"s": [" ".join(PROSE)]})
    own = (tmp_path / "index.npy").read_bytes()
    sets = {"s": str(tmp_path / "s.json")}
    build_index(Decontaminate(sets=sets), str(tmp_path / "index.npy"), str(tmp_path / "index.json"))
    assert (tmp_path / "index.npy").read_bytes() == own
    assert json.loads((tmp_path / "index.json").read_text())["sets"] == report


@pytest.mark.parametrize(
    ("sets", "problem"),
    [
        ({"s": "no/such.json"}, "decontaminate.sets.s: no such file: no/such.json"),
        ({"s": "set.csv"}, "decontaminate.sets.s: set.csv: not a known kind of file; known are .json"),
        ({"a b": __file__}, "decontaminate.sets.a b: a name is made of"),
    ],
)
def test_wrong_sets_fail_in_the_config(sets, problem):
    with pytest.raises(ConfigError) as caught:
        read(Filter, {"decontaminate": {"sets": sets}})
    assert problem in str(caught.value)


def test_contaminated_documents_are_counted_by_set(tmp_path):
    make_index(tmp_path, {"quiz": [" ".join(PROSE)]})
    write_documents(tmp_path / "d.arrow", [("u1", "autre " * 9 + " ".join(PROSE[3:30])), ("u2", "autre texte")])
    filter_documents(Filter(), str(tmp_path / "d.arrow"), str(tmp_path / "index.npy"),
                     str(tmp_path / "o.arrow"), str(tmp_path / "l.json"))  # fmt: skip
    assert json.loads((tmp_path / "l.json").read_text())["dropped"]["contaminated:quiz"]["documents"] == 1
    assert [r["url"] for b in read_arrow(tmp_path / "o.arrow") for r in b.to_pylist()] == ["u2"]


def test_the_index_has_the_same_bytes_each_time(tmp_path):
    contents = []
    for _ in range(2):
        make_index(tmp_path, {"b": prose("fr", 1), "a": prose("en", 2) + prose("fr", 1)})
        contents.append((tmp_path / "index.npy").read_bytes())
    assert contents[0] == contents[1]


@pytest.mark.slow
@pytest.mark.skipif(not EVALUATION.is_dir(), reason="the evaluation sets are not here")
def test_questions_of_real_sets_are_found_in_a_document(tmp_path):
    options = Decontaminate(sets={path.stem: str(path) for path in sorted(EVALUATION.glob("*.json"))})
    assert len(options.sets) > 3
    build_index(options, str(tmp_path / "index.npy"), str(tmp_path / "index.json"))
    index = load_index(str(tmp_path / "index.npy"))
    for path in options.sets.values():
        assert found_in(index, f"Un document. {max(read_strings(path), key=len)} Fin du document.")
    assert found_in(index, "\n".join(prose("fr", 1, 50))) is None
