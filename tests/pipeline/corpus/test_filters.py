"""Each rule on both sides of its threshold, and the stage on files."""

import gzip
import json
from collections import Counter
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.common.config import ConfigError, read
from pipeline.common.errors import StageError
from pipeline.common.files import read_arrow, write_arrow
from pipeline.common.schemas import DOCUMENT_SCHEMA
from pipeline.corpus.filters import RULES, filter_documents, is_blocked, read_domains
from pipeline.corpus.measures import Document, repeated, repeated_ngrams, top_ngram
from pipeline.corpus.options import RULE_NAMES, Filter
from pipeline.corpus.words import MULTIPLIER, hash_ngrams, ngram_sums, shortest_runs, split_words

WORDS = ["".join(letters) for letters in product("bcdfghjk", "aeiou", "lmnprst", "aeiou")]  # 1,400 of 4 letters


def words(count):
    return " ".join(WORDS[i % len(WORDS)] for i in range(count))


def lines(*kinds):
    """Different lines: for each (number, form), form with three words in place of {}."""
    texts = [form for number, form in kinds for _ in range(number)]
    return "\n".join(form.format(f"{WORDS[i]} {WORDS[-i - 1]} {WORDS[2 * i]}") for i, form in enumerate(texts))


def repeating(size, count):
    """`count` words, of which the last `size` are the first ones again."""
    found = words(count - size).split()
    return " ".join(found + found[:size])


def parts(different, again, gap):
    found = [words(60).split()[i] for i in range(different)]
    return gap.join(found + found[:again])


def twenty_again(different, gap):
    return gap.join(["a" * different, "b" * 20, "b" * 20])


LONG = "{} and as much again as makes a line that is not short"
CASES = [  # rule, kept, dropped
    ("gopher_word_count", words(50), words(49)),
    ("gopher_word_count", words(100_000), words(100_001)),
    ("gopher_word_length", "abc def ghi", "abc def gh"),
    ("gopher_word_length", "a" * 10 + " " + "b" * 10, "a" * 10 + " " + "b" * 11),
    ("gopher_hashes", words(100) + " #" * 10, words(100) + " #" * 11),
    ("gopher_ellipses", words(100) + " ..." * 5 + " …" * 5, words(100) + " ..." * 6 + " …" * 5),
    ("gopher_bullet_lines", lines((9, "• {}"), (1, "{}")), lines((10, "- {}"), (1, "{}"))),
    ("gopher_ellipsis_lines", lines((3, "{}…"), (7, "{}")), lines((31, "{}..."), (69, "{}"))),
    ("gopher_alphabetic_words", words(80) + " 1984 |" * 10, words(79) + " 1984 |" * 10 + " 7"),
    ("gopher_stop_words", "The end of days", "the the the"),
    ("gopher_repeated_lines", parts(7, 3, "\n"), parts(6, 3, "\n")),
    ("gopher_repeated_paragraphs", parts(7, 3, "\n\n"), parts(6, 3, "\n \n")),
    ("gopher_repeated_lines_chars", twenty_again(60, "\n"), twenty_again(59, "\n")),
    ("gopher_repeated_paragraphs_chars", twenty_again(60, "\n\n"), twenty_again(59, "\n\n")),
    ("gopher_top_2gram", repeating(2, 20), repeating(2, 19)),
    ("gopher_top_3gram", repeating(3, 34), repeating(3, 33)),
    ("gopher_top_4gram", repeating(4, 50), repeating(4, 49)),
    ("gopher_repeated_5grams", repeating(5, 34), repeating(5, 33)),
    ("gopher_repeated_6grams", repeating(6, 43), repeating(6, 42)),
    ("gopher_repeated_7grams", repeating(7, 54), repeating(7, 53)),
    ("gopher_repeated_8grams", repeating(8, 67), repeating(8, 66)),
    ("gopher_repeated_9grams", repeating(9, 82), repeating(9, 81)),
    ("gopher_repeated_10grams", repeating(10, 100), repeating(10, 99)),
    ("c4_terminal_punctuation", words(5) + ".", words(4) + "."),
    ("c4_terminal_punctuation", words(5) + "!\n" + words(9), words(5) + "...\n" + words(9)),
    ("c4_sentences", "Il dort. Elle lit un livre. Et nous ?", "Il dort. Elle lit un livre"),
    ("c4_lorem_ipsum", "lorem", "Lorem ipsum dolor"),
    ("c4_curly_bracket", "f(x)", "f() {"),
    ("fineweb_line_punctuation", lines((13, "{}."), (87, "{}")), lines((12, "{}."), (88, "{}"))),
    ("fineweb_repeated_lines", f"{'a' * 81}\n{'b' * 10}\n{'b' * 10}", f"{'a' * 80}\n{'b' * 10}\n{'b' * 10}"),
    ("fineweb_short_lines", lines((66, "{}"), (34, LONG)), lines((67, "{}"), (33, LONG))),
    ("fineweb_short_lines", "a" * 31, "a" * 30),
]  # fmt: skip


@pytest.mark.parametrize(("name", "kept", "dropped"), CASES)
def test_a_rule_drops_only_beyond_its_threshold(name, kept, dropped):
    assert [RULES[name].broken_by(Document("", text, "en")) for text in (kept, dropped)] == [False, True]


def test_every_rule_has_a_case_and_a_group():
    assert set(RULES) == {name for name, *_ in CASES} == set(RULE_NAMES)
    assert all(rule.doc for rule in RULES.values())


# The same in many scripts: a boat leaves an island each morning, people know each other, drink tea and read.
PROSE = {
    "fr": "Le bateau quitte l'île chaque matin à six heures. Les gens se connaissent bien. Ils boivent du thé.",
    "de": "Er sagte: „Das Boot verlässt die Insel jeden Morgen.“ „Wir kennen uns alle.“ „Wir trinken heute Tee.“",
    "zh": "每天早上渡船六点离开小岛，海水还很平静，码头上的灯还亮着。他们喝茶，看报纸，谈论鱼的价格。",
    "ja": "船は毎朝六時に島を出ます。海はまだ静かです。人々はお茶を飲み、新聞を読んでいます。",
    "ja of one grammar": "船に乗ることができます。海を見ることができます。町を歩くことができます。",
    "ja in quotes": "「船は毎朝六時に島を出ます。」「海はまだ静かですね。」「お茶を飲みましょう。」",
    "ko": "매일 아침 배는 여섯 시에 섬을 떠난다. 사람들은 서로 잘 알고 일하러 간다. 차를 마시고 신문을 읽는다.",
    "th": "เรือออกจากเกาะทุกเช้าเวลาหกโมง ทุกคนรู้จักกันดีและไปทำงานด้วยเรือลำเดียวกัน พวกเขาดื่มชา และอ่านหนังสือพิมพ์",
    "lo": "ເຮືອອອກຈາກເກາະທຸກເຊົ້າເວລາຫົກໂມງ ທຸກຄົນຮູ້ຈັກກັນ ແລະ ເຮັດວຽກຮ່ວມກັນ ພວກເຂົາດື່ມຊາ ແລະ ອ່ານໜັງສືພິມ",
    "km": "ទូកចេញពីកោះរៀងរាល់ព្រឹកនៅម៉ោងប្រាំមួយ។ ប្រជាជនស្គាល់គ្នាទាំងអស់។ ពួកគេផឹកតែ និងអានកាសែត។",
    "my": "လှေသည် မနက်တိုင်း ခြောက်နာရီတွင် ကျွန်းမှ ထွက်သည်။ လူတိုင်း သိကြသည်။ သူတို့သည် သတင်းစာဖတ်ကြသည်။",
    "bo": "གྲུ་གཟིངས་ཞོགས་པ་ལྟར་གླིང་ཕྲན་ནས་ཐོན། མི་ཚང་མས་ཕན་ཚུན་ངོ་ཤེས། ཁོ་ཚོས་ཇ་འཐུང་ཞིང་ཚགས་པར་ཀློག",
    "hy": "Նավը կղզուց մեկնում է ամեն առավոտ։ Մարդիկ լավ գիտեն իրար։ Նրանք թեյ են խմում եւ թերթ կարդում։",
    "hy with colons": "Նավը կղզուց մեկնում է ամեն առավոտ: Մարդիկ լավ գիտեն իրար: Նրանք թեյ են խմում:",
    "ur": "کشتی ہر صبح جزیرے سے نکلتی ہے۔ لوگ ایک دوسرے کو جانتے ہیں۔ وہ چائے پیتے اور اخبار پڑھتے ہیں۔",
    "ar": "يغادر القارب الجزيرة كل صباح. يعرف الناس بعضهم جيدا. أليسوا يشربون الشاي ويقرؤون الجريدة؟\u200f",
    "am": "ጀልባው በየቀኑ ጠዋት ከደሴቱ ይነሳል። ሰዎቹ ይተዋወቃሉ አብረውም ይሠራሉ። ሻይ ይጠጣሉ ጋዜጣም ያነባሉ።",
    "am with its own spaces": "ጀልባው፡በየቀኑ፡ጠዋት፡ከደሴቱ፡ይነሳል፡፡ ሰዎቹ፡ይተዋወቃሉ፡፡ ሻይ፡ይጠጣሉ፡ጋዜጣም፡ያነባሉ፡፡",
    "hi": "नाव हर सुबह छह बजे द्वीप से निकलती है। लोग एक दूसरे को जानते हैं। वे चाय पीते हैं और अख़बार पढ़ते हैं।",
    "ml": "ബോട്ട് എല്ലാദിവസവും രാവിലെ ദ്വീപിൽനിന്ന് പുറപ്പെടുന്നു. ആളുകൾക്ക് പരസ്പരമറിയാം. അവർ ചായകുടിക്കുകയും പത്രംവായിക്കുകയുംചെയ്യുന്നു.",
}  # fmt: skip


@pytest.mark.parametrize("language", PROSE)
def test_prose_in_any_script_passes_every_rule_but_that_of_fifty_words(language):
    document = Document("", PROSE[language], language)
    assert [name for name in RULES if RULES[name].broken_by(document)] == ["gopher_word_count"]
    assert 9 <= document.word_count <= 35


@pytest.mark.parametrize("language", [name for name in PROSE if name != "ja of one grammar"])
def test_what_repeats_or_has_no_sentences_is_dropped_in_any_script(language):
    again = Document("", f"{PROSE[language]} " * 5, language)
    letters = "".join(split_words(PROSE[language]))
    menu = Document("", "\n".join(letters[i : i + 7] for i in range(0, 49, 7)), language)
    broken = {name for name in RULES if RULES[name].broken_by(again)}
    assert {f"gopher_repeated_{size}grams" for size in (5, 6, 7, 8, 9, 10)} <= broken
    broken = {name for name in RULES if RULES[name].broken_by(menu)}
    assert {"c4_terminal_punctuation", "fineweb_line_punctuation"} <= broken


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("中" * 75, 50),
        ("中" * 15 + " ten words", 12),
        ("ไ" * 51, 10),
        ("ひらカタナー。", 6 / 3.5),
        ("བོད་ཡིག", 2 / 1.8),
    ],
)
def test_words_without_spaces_between_them_are_counted_by_their_characters(text, count):
    assert Document("", text, "").word_count == pytest.approx(count)


def test_blocks_between_empty_lines_are_paragraphs_and_empty_lines_are_no_lines():
    blocks = [f"{WORDS[i]} one\n{WORDS[i + 1]} two" for i in (0, 2, 4)]
    document = Document("", "\n\n".join([*blocks, blocks[0], blocks[0]]), "en")
    assert repeated(document, "paragraphs", "number") == 2 / 5
    assert len(document.lines) == 10
    assert RULES["gopher_repeated_paragraphs"].broken_by(document)


def test_english_stop_words_judge_english_only():
    assert RULES["gopher_stop_words"].broken_by(Document("", "le chat dort", "en"))
    assert RULES["gopher_stop_words"].broken_by(Document("", "le chat dort", "eng_Latn"))
    assert not RULES["gopher_stop_words"].broken_by(Document("", "le chat dort", "fr"))


@pytest.mark.parametrize("text", ["", " \n ", "?!", "\x00", "中文"])
@pytest.mark.parametrize("name", RULES)
def test_rules_take_any_text(name, text):
    assert RULES[name].broken_by(Document("", text, "en")) in (True, False)


FEW_WORDS = st.lists(st.sampled_from("abcd"), max_size=40)


@settings(deadline=None)
@given(found=FEW_WORDS, size=st.integers(2, 6))
def test_ngram_shares_are_those_of_a_plain_count(found, size):
    document = Document("", " ".join(found), "en")
    ngrams = [tuple(found[i : i + size]) for i in range(len(found) - size + 1)]
    covered = {i + k for i, ngram in enumerate(ngrams) if ngram in ngrams[:i] for k in range(size)}
    assert repeated_ngrams(document, size) == pytest.approx(len(covered) / len(found) if found else 0)
    most = max(Counter(ngrams).values(), default=0)
    assert top_ngram(document, size) == pytest.approx(most * size / len(found) if most > 1 else 0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("L'été, 3.14 – don't!", ["l", "été", "3", "14", "don", "t"]),
        ("e\u0301te\u0301", ["été"]),  # decomposed accents
        ("हिन्दी में", ["हिन्दी", "में"]),
        ("中文 abc", ["中", "文", "abc"]),
        ("ラーメン", ["ラ", "ー", "メ", "ン"]),
        ("བོད་ཡིག།", ["བོད", "ཡིག"]),
        ("", []),
    ],
)
def test_words_of_any_script(text, expected):
    assert split_words(text) == expected


HASHES = st.lists(st.integers(0, 2**64 - 1), max_size=12)


@given(hashes=HASHES, size=st.integers(1, 14))
def test_the_hash_of_an_ngram_is_a_polynomial_wherever_it_stands(hashes, size):
    def plain(part):
        total = 0
        for value in part:
            total = (total * int(MULTIPLIER) + value) % 2**64
        return total

    sums = ngram_sums(np.array(hashes, np.uint64))
    ngrams = [plain(hashes[i : i + size]) for i in range(len(hashes) - size + 1)]
    assert hash_ngrams(sums, size).tolist() == ngrams
    assert hash_ngrams(sums, np.full(len(ngrams), size)).tolist() == ngrams


@given(amounts=st.lists(st.sampled_from([0.25, 0.5, 1]), max_size=12), least=st.integers(1, 4))
def test_runs_are_the_shortest_that_reach_a_sum(amounts, least):
    runs = shortest_runs(np.array(amounts), least).tolist()
    plain = [
        next((size for size in range(len(amounts) - i + 1) if sum(amounts[i : i + size]) >= least), None)
        for i in range(len(amounts))
    ]
    assert runs == [size for size in plain if size is not None]


@pytest.mark.parametrize(
    ("url", "blocked"),
    [
        ("https://bad.example/page", True),
        ("http://WWW.Bad.example:8080/", True),
        ("https://notbad.example/bad.example", False),
        ("https://example/", False),
        ("http://[::1/", False),
        ("", False),
    ],
)
def test_block_lists_match_a_host_and_what_is_below_it(url, blocked):
    assert is_blocked(url, frozenset(["bad.example"])) is blocked


def test_a_block_list_without_an_end_is_refused(tmp_path):
    """20 kB that unpack to 20 MB."""
    with gzip.open(tmp_path / "many.gz", "wt") as file:
        file.write("a.example\n" * 2_000_000)
    with gzip.open(tmp_path / "long.gz", "wt") as file:
        file.write("a" * 20_000_000)
    lists = {
        name: Filter(url_blocklists=[str(tmp_path / name)], max_blocklist_chars=10**6)
        for name in ("many.gz", "long.gz")
    }
    with pytest.raises(
        StageError, match=r"many\.gz: more than 1,000,000 characters; raise filter\.max_blocklist_chars"
    ):
        read_domains(lists["many.gz"])
    with pytest.raises(StageError, match=r"long\.gz, line 1: longer than 65,536 characters"):
        read_domains(lists["long.gz"])


def test_a_block_list_that_is_cut_off_is_refused(tmp_path):
    with gzip.open(tmp_path / "a.gz", "wt") as file:
        file.write("".join(f"{word}.example\n" for word in WORDS))
    (tmp_path / "a.gz").write_bytes((tmp_path / "a.gz").read_bytes()[:-100])
    with pytest.raises(StageError, match=r"a\.gz: not a whole \.gz file"):
        read_domains(Filter(url_blocklists=[str(tmp_path / "a.gz")]))


def test_names_that_no_host_has_are_left_out_of_a_block_list_with_a_warning(tmp_path, caplog):
    longest = ".".join(["a" * 49] * 5) + ".exa"
    (tmp_path / "a.txt").write_text(f"{'b' * 254}\r\n{longest} # the longest\n\n.Bad.example.\n")
    assert len(longest) == 253
    assert read_domains(Filter(url_blocklists=[str(tmp_path / "a.txt")])) == {longest, "bad.example"}
    assert "a.txt: 1 of its lines are no hosts, and are left out" in caplog.text


def write_documents(path, texts):
    rows = [
        dict.fromkeys(DOCUMENT_SCHEMA.names) | {"text": text, "url": url, "language": "en", "paragraphs": [0, 1]}
        for url, text in texts
    ]
    write_arrow(path, DOCUMENT_SCHEMA, rows)


def test_the_ledger_has_the_first_rule_that_each_document_breaks(tmp_path):
    with gzip.open(tmp_path / "domains.gz", "wt") as file:
        file.write("# a comment\nbad.example\n\n")
    documents = [
        ("https://good.example/1", words(60) + " été"),
        ("https://a.bad.example/2", words(60)),
        ("https://good.example/3", "short"),
        ("https://good.example/4", words(20)),
        ("https://good.example/5", words(60) + " # {" * 10),  # breaks two
    ]
    write_documents(tmp_path / "d.arrow", documents)
    options = Filter(
        rules=["c4_curly_bracket", "gopher_hashes"],
        min_words=30,
        min_chars=20,
        url_blocklists=[str(tmp_path / "domains.gz")],
    )
    filter_documents(options, str(tmp_path / "d.arrow"), None, str(tmp_path / "o.arrow"), str(tmp_path / "l.json"))
    assert [r["url"] for b in read_arrow(tmp_path / "o.arrow") for r in b.to_pylist()] == [documents[0][0]]
    ledger = json.loads((tmp_path / "l.json").read_text())
    dropped = {reason: counts["documents"] for reason, counts in ledger["dropped"].items()}
    assert dropped == {"blocked_url": 1, "few_characters": 1, "few_words": 1, "c4_curly_bracket": 1}
    assert ledger["in"] == {"documents": 5, "paragraphs": 10, "bytes": sum(len(t.encode()) for _, t in documents)}
    assert ledger["samples"]["few_words"][0]["url"] == "https://good.example/4"


def test_groups_and_names_mix_and_wrong_ones_are_named():
    assert Filter(rules=["fineweb_short_lines", "fineweb"]).rule_names[:2] == [
        "fineweb_short_lines",
        "fineweb_line_punctuation",
    ]
    with pytest.raises(ConfigError, match=r"rules: 'gopher' is not a choice; choose one of gopher_quality, .*c4"):
        read(Filter, {"rules": ["gopher"]})


def test_nothing_configured_is_no_stage():
    assert not Filter().active
    assert Filter(min_chars=1).active
