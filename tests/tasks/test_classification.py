"""Text classification: what is read from files and what is refused, and every metric worked out by hand."""

import csv
import json
import math
import re
from collections import Counter

import numpy as np
import pytest

from kd_scratch.common.errors import UserError
from kd_scratch.config import DataConfig
from kd_scratch.data.batches import IGNORE
from kd_scratch.tasks import TASKS, Predictions, limited
from kd_scratch.tasks.classification import (
    AGNEWS_LABELS,
    OOS,
    Example,
    decide,
    featurize,
    mistakes,
    per_class,
    prediction_records,
)

AGNEWS, CLINC, CSV = TASKS["agnews"], TASKS["clinc"], TASKS["csv"]


@pytest.fixture
def read(tmp_path):
    """A function: task and the content of its file (text, bytes, or a value for JSON) -> examples."""

    def call(task, content, split="", **data):
        if not isinstance(content, str | bytes):
            content = json.dumps(content)
        (tmp_path / "data.file").write_bytes(content.encode() if isinstance(content, str) else content)
        return list(task.read(tmp_path / "data.file", split, DataConfig(**data)))

    return call


def texts_of(examples):
    return [example.text for example in examples]


# --- AG News ---


def test_agnews_rows_become_title_and_description_with_the_name_of_the_class(read):
    examples = read(AGNEWS, '"3","Title","Text"\n"1","","No title"\n4,Bare,fields\n"2","Last","no line end"')
    assert examples == [
        Example("data.file:1", "Title Text", "Business"),
        Example("data.file:2", "No title", "World"),
        Example("data.file:3", "Bare fields", "Sci/Tech"),
        Example("data.file:4", "Last no line end", "Sports"),
    ]


def test_agnews_a_backslash_becomes_a_space_and_no_letter_after_it_is_eaten(read):
    examples = read(AGNEWS, '"4","On\\network news","was \\not\\nuclear \\\\"\n')
    assert texts_of(examples)[0].split() == ["On", "network", "news", "was", "not", "nuclear"]


def test_agnews_doubled_quotes_are_one_quote_and_commas_inside_quotes_part_nothing(read):
    assert texts_of(read(AGNEWS, '"1","He said ""no"", twice","a, b"\n')) == ['He said "no", twice a, b']


def test_agnews_line_numbers_count_lines_of_the_file_also_after_fields_of_several_lines(read):
    rows = '"1","two\nlines","x"\r\n\n"2","a","b"\n'
    assert [example.id for example in read(AGNEWS, rows)] == ["data.file:1", "data.file:4"]
    with pytest.raises(UserError, match=r"data\.file: line 5: 2 columns instead of the first row's 3"):
        read(AGNEWS, rows + '"2","a"\n')


REFUSED = {
    "two columns": ('"1","a","b"\n"2","c"\n', "line 2: 2 columns instead of the first row's 3"),
    "four columns": ('"1","a","b","c"\n', "line 1: 4 columns instead of 3"),
    "class 5": ('"1","a","b"\n"5","a","b"\n', "line 2: class '5' is not one of 1, 2, 3, 4"),
    "classes 0 and 4": ('"0","a","b"\n"4","a","b"\n', "line 2: class 4, though line 1 has class 0"),
    "class 01": ('"01","a","b"\n', "line 1: class '01' is not one of"),
    "class as an Arabic digit": ('"\u0661","a","b"\n', "line 1: class '\u0661' is not one of"),
    "two headers": ("class,title,text\nclass,title,body\n", "line 2: class 'class' is not one of"),
    "text behind a closed quote": ('"1","a","b"\n"1","a"b,"c"\n', "line 2: malformed CSV"),
    "a quote never closed": ('"1","a","b"\n"1","a","b\nc\nd\n', "line 2: malformed CSV"),
    "empty": ("", "the file is empty"),
    "Cyrillic": ('"1","a","b"\n"1","\u043c\u0438\u0440","b"\n'.encode("cp1251"), "line 2: byte 0xec is not UTF-8"),
    "NUL": ('"1","a","b"\n"1","a\0","b"\n', "line 2: NUL character"),
}


@pytest.mark.parametrize("content, place", REFUSED.values(), ids=REFUSED)
def test_agnews_a_file_of_another_make_is_refused_with_its_line(read, content, place):
    with pytest.raises(UserError) as error:
        read(AGNEWS, content)
    assert f"data.file: {place}" in str(error.value)
    assert "\n" not in str(error.value)


def test_agnews_a_byte_order_mark_is_no_part_of_the_first_class(read):
    assert read(AGNEWS, b'\xef\xbb\xbf"1","a","b"\n')[0].label == "World"


def test_agnews_test_file_has_1900_rows_of_each_class_and_keeps_the_words_behind_its_backslashes(real_data):
    path = real_data("ag_news_csv/test.csv")
    examples = AGNEWS.read(path, "", DataConfig())
    assert Counter(example.label for example in examples) == dict.fromkeys(AGNEWS_LABELS, 1900)
    raw = [" ".join(row[1:]) for row in csv.reader(path.open(encoding="utf-8", newline=""))]
    marked = [(text, example.text) for text, example in zip(raw, examples, strict=True) if "\\" in text]
    assert len(marked) == 808
    assert not any("\\" in read for _, read in marked)
    for text, read in marked:
        assert re.findall(r"[^\s\\]+", text) == read.split(), "the same words: split, never shortened"
    behind = [
        word for text, read in marked for word in re.findall(r"\\(n\w*)", text) if re.search(rf"\b{word}\b", read)
    ]
    assert sorted(behind) == "national network network networking new news no northern not not nuclear".split()


def test_agnews_train_file_has_6000_rows_without_titles(real_data):
    examples = AGNEWS.read(real_data("ag_news_csv/train.csv"), "", DataConfig())
    counts = {"World": 1498, "Sports": 1508, "Business": 1542, "Sci/Tech": 1452}
    assert Counter(example.label for example in examples) == counts
    assert all(example.text and example.text == example.text.strip() for example in examples)


# --- CLINC150 ---

INTENTS = {
    "train": [["what is my balance", "balance"], ["wake me at six", "alarm"]],
    "oos_train": [["who won", "oos"]],
    "val": [["set an alarm", "alarm"]],
    "oos_val": [["why is the sky blue", "oos"], ["sing", "oos"]],
}


def test_clinc_out_of_scope_texts_are_always_read_for_dev_but_for_train_only_with_oos(read):
    assert [e.id for e in read(CLINC, INTENTS, "train")] == ["train:0", "train:1"]
    assert [e.id for e in read(CLINC, INTENTS, "train", oos=True)] == ["train:0", "train:1", "oos_train:0"]
    for oos in (False, True):
        examples = read(CLINC, INTENTS, "val", oos=oos)
        assert [(e.id, e.label, e.in_scope) for e in examples] == [
            ("val:0", "alarm", True),
            ("oos_val:0", "oos", False),
            ("oos_val:1", "oos", False),
        ]


def test_clinc_labels_are_sorted_and_oos_is_one_of_them_only_with_oos(read):
    assert CLINC.label_list(read(CLINC, INTENTS, "train")) == ("alarm", "balance")
    assert CLINC.label_list(read(CLINC, INTENTS, "train", oos=True)) == ("alarm", "balance", "oos")


@pytest.mark.parametrize(
    "content, place",
    [
        ([], "is a JSON array of no objects"),
        ({"val": []}, "it has no key 'train'"),
        ({"train": {}}, "'train' is not a list"),
        ({"train": [["a", "b"], ["a"]]}, r"train\[1\]: is not a pair"),
        ({"train": [["a", 5]]}, r"train\[0\]: is not a pair"),
        ({"train": ["ab"]}, r"train\[0\]: is not a pair"),
        ("{", "line 1: not JSON"),
    ],
)
def test_clinc_a_file_of_another_make_is_refused_with_its_place(read, content, place):
    with pytest.raises(UserError, match=f"data.file: .*{place}"):
        read(CLINC, content, "train")


def test_clinc_file_has_150_intents_and_the_published_counts(real_data):
    path = real_data("clinc150/data_full.json")
    counts = {}
    for split in CLINC.splits:
        examples = CLINC.read(path, split, DataConfig(oos=True))
        counts[split] = tuple(sum(e.in_scope is inside for e in examples) for inside in (True, False))
        assert {e.label for e in examples if not e.in_scope} == {"oos"}
    assert counts == {"train": (15_000, 100), "val": (3_000, 100), "test": (4_500, 1_000)}
    train = CLINC.read(path, "train", DataConfig())
    assert len(CLINC.label_list(train)) == 150
    assert set(Counter(e.label for e in train).values()) == {100}


# --- anybody's CSV and TSV ---


def test_csv_columns_are_found_by_the_names_in_the_header_wherever_they_stand(read):
    content = 'id,label,text\n1,good,"fine, ""really"""\n2,bad,\n\n3,good,x\n'
    expected = [("data.file:2", 'fine, "really"', "good"), ("data.file:3", "", "bad"), ("data.file:5", "x", "good")]
    assert [(e.id, e.text, e.label) for e in read(CSV, content)] == expected
    renamed = content.replace("label", "mood").replace("text", "review")
    examples = read(CSV, renamed, text_column="review", label_column="mood")
    assert [(e.id, e.text, e.label) for e in examples] == expected


def test_csv_a_tab_in_the_header_makes_it_a_tsv_where_commas_part_nothing(read):
    assert read(CSV, "label\ttext\ngood\ta, b\n")[0] == Example("data.file:2", "a, b", "good")
    assert read(CSV, "label,text\ngood,a\tb\n")[0].text == "a\tb", "a tab in the body does not"


def test_csv_a_line_break_inside_a_field_stays_as_it_is(read):
    assert read(CSV, 'text,label\r\n"two\r\nlines",good\r\n')[0].text == "two\r\nlines"


def test_csv_a_field_of_200_kilobytes_is_read(read):
    assert len(read(CSV, "text,label\n" + "word " * 40_000 + ",good\n")[0].text) == 200_000


@pytest.mark.parametrize(
    "content, place",
    [
        (
            "review,label\nx,good\n",
            "line 1: 0 columns are called 'text' among review, label; choose one with --text-column",
        ),
        ("text,mood\nx,good\n", "line 1: 0 columns are called 'label' .*--label-column"),
        ("text,label,text\nx,good,y\n", "line 1: 2 columns are called 'text'"),
        ("text,label\nx,good\na,b,c\n", "line 3: 3 columns instead of the header's 2"),
        ('text,label\n"two\nlines",good\nragged\n', "line 4: 1 columns instead of the header's 2"),
        ("text,label\nx,\n", "line 2: the label is empty"),
        ('text,label\nx,"good\n', "line 2: malformed CSV"),
        ("\n\n", "line 1: 0 columns are called 'text'"),
        (b"text,label\n\xc3\xa9t\xc3\xa9,good\ncaf\xe9,good\n", "line 3: byte 0xe9 is not UTF-8, though others are"),
    ],
)
def test_csv_a_malformed_file_is_refused_with_its_line(read, content, place):
    with pytest.raises(UserError, match=rf"data\.file: {place}"):
        read(CSV, content)


def test_csv_labels_are_sorted_whatever_the_order_of_the_file(read):
    rows = ["x,b", "y,c", "z,a", "w,b"]
    for order in (rows, rows[::-1]):
        assert CSV.label_list(read(CSV, "\n".join(["text,label", *order]))) == ("a", "b", "c")


# --- features ---


def test_features_hold_each_text_cut_to_length_end_to_end_with_its_class(tokenizer):
    examples = [
        Example("a", "the quick brown fox", "yes"),
        Example("b", "", "no"),
        Example("c", "the fox", "oos", False),
    ]
    features = featurize(examples, tokenizer, ("no", "yes"), 5, DataConfig())
    ids = [encoding.ids for encoding in tokenizer.encode(texts_of(examples), max_length=5)]
    assert len(ids[0]) == 5
    assert ids[1] == [2, 3]
    assert features.tokens.tolist() == sum(ids, [])
    assert features.starts.tolist() == [0, 5, 7, 7 + len(ids[2])]
    assert features.ids == ["a", "b", "c"]
    assert features.labels.tolist() == [1, 0, IGNORE], "no class for what is out of scope"
    assert featurize(examples, tokenizer, ("no", "oos", "yes"), 5, DataConfig()).labels.tolist() == [2, 0, 1]
    assert (features.head, features.token_types, features.allowed) == ("sequence", None, None)


def test_a_label_that_the_model_does_not_have_is_refused_with_its_place(tokenizer):
    examples = [Example("data.file:7", "text", "never")]
    with pytest.raises(UserError, match="data.file:7: label 'never' is not one of the 2 that the model has: no, yes"):
        featurize(examples, tokenizer, ("no", "yes"), 8, DataConfig())


# --- metrics ---

LABELS = ("a", "b", "oos")
#: gold -> predicted: a -> a, a -> b, b -> b, b -> oos, and out of scope: -> oos, -> a
GOLD = [
    *(Example(str(i), f"text {i}", gold) for i, gold in enumerate("aabb")),
    *(Example(str(i), f"text {i}", "oos", in_scope=False) for i in (4, 5)),
]
LOGITS = np.array([[4, 0, 0], [0, 2, 0], [0, 4, 0], [0, 0, 2], [0, 0, 4], [3, 0, 0]], np.float32)


def predictions(examples, logits, labels=LABELS, **data) -> Predictions:
    """What a model that gave these logits made of these examples (scoring looks at no features)."""
    return Predictions(CLINC, examples, None, logits, labels, DataConfig(**data))


def test_per_class_figures_by_hand():
    rows = per_class(["a", "a", "a", "b", "c"], ["a", "a", "b", "b", "d"])
    assert rows == {
        "a": {"precision": 1.0, "recall": 2 / 3, "f1": 0.8, "support": 3},
        "b": {"precision": 0.5, "recall": 1.0, "f1": 2 / 3, "support": 1},
        "c": {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 1},
        "d": {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 0},
    }


def test_in_scope_and_out_of_scope_are_scored_apart_by_hand():
    metrics = CLINC.score(predictions(GOLD, LOGITS))
    assert (metrics["examples"], metrics["oos_examples"]) == (4, 2)
    assert metrics["accuracy"] == 2 / 4, "b called out of scope is an error as any other"
    assert metrics["oos_recall"] == 1 / 2
    f1 = {"a": 2 / 3, "b": 1 / 2, "oos": 0.0}
    assert {label: row["f1"] for label, row in metrics["per_class"].items()} == pytest.approx(f1)
    assert metrics["macro_f1"] == pytest.approx(sum(f1.values()) / 3)
    probabilities = [math.exp(4) / (math.exp(4) + 2), 1 / (math.exp(2) + 2)] * 2  # of the gold label, of each in scope
    assert metrics["loss"] == pytest.approx(-sum(map(math.log, probabilities)) / 4, rel=1e-6)


def test_without_an_oos_class_recall_is_unknown_until_there_is_a_threshold():
    labels, logits = LABELS[:2], LOGITS[:, :2]
    metrics = CLINC.score(predictions(GOLD, logits, labels))
    assert (metrics["accuracy"], metrics["oos_recall"]) == (0.5, None), "a tie goes to the first label"
    metrics = CLINC.score(predictions(GOLD, logits, labels, oos_threshold=0.9))
    assert decide(predictions(GOLD, logits, labels, oos_threshold=0.9)) == ["a", "oos", "b", "oos", "oos", "a"]
    assert (metrics["accuracy"], metrics["oos_recall"]) == (0.5, 0.5)
    assert set(metrics["per_class"]) == {"a", "b", "oos"}


def test_scores_of_a_file_without_out_of_scope_texts_do_not_mention_them():
    metrics = AGNEWS.score(predictions(GOLD[:4], LOGITS[:4]))
    assert not [name for name in metrics if name.startswith("oos")]
    with pytest.raises(UserError, match="no text to score"):
        CLINC.score(predictions(GOLD[4:], LOGITS[4:]))


def test_the_loss_is_finite_for_logits_of_any_size():
    logits = np.array([[1e4, 0, 0]] * 4, np.float32)
    assert AGNEWS.score(predictions(GOLD[:4], logits))["loss"] == pytest.approx(5000)


def test_predictions_name_label_probability_and_gold_of_every_text():
    records = prediction_records(predictions(GOLD, LOGITS))
    assert list(records) == ["0", "1", "2", "3", "4", "5"]
    assert records["1"] == {"label": "b", "probability": round(math.exp(2) / (math.exp(2) + 2), 6), "gold": "a"}
    assert [row["label"] for row in records.values()] == ["a", "b", "b", "oos", "oos", "a"]


def test_mistakes_show_the_surest_first_each_followed_by_its_text():
    lines = mistakes(predictions(GOLD, LOGITS), 2).split("\n")
    assert lines[0].startswith("surest mistakes, of 3")
    assert [line.split("  ")[:2] for line in lines[2::2]] == [["5", "oos -> a"], ["1", "a -> b"]]
    assert lines[3::2] == ["    text 5", "    text 1"]
    assert mistakes(predictions(GOLD, LOGITS[:, :2], ("a", "b"))).split("\n")[0].startswith("surest mistakes, of 2")
    assert "of 0" in mistakes(predictions(GOLD[:1], LOGITS[:1]))


def test_details_list_the_twelve_classes_with_the_lowest_f1():
    gold = [f"class {i}" for i in range(20)]
    rows = CLINC.details({"per_class": per_class(gold, gold[:15] + gold[:5])}).split("\n")
    assert rows[0].startswith("the 12 classes with the lowest F1, of 20")
    assert [row[:8].strip() for row in rows[2:7]] == [f"class {i}" for i in (15, 16, 17, 18, 19)]
    assert len(rows) == 2 + 12


# --- a part of the examples ---


def test_limited_takes_the_same_random_part_every_time_in_the_order_of_the_file():
    examples = list(range(1000))
    part = list(limited(examples, "100"))
    assert part == list(limited(examples, "10%")) == sorted(set(part))
    assert len(part) == 100
    assert 300 < np.mean(part) < 700, "from everywhere, not from the beginning"
    assert all(list(limited(examples, limit)) == examples for limit in ("", "100%", "5000"))


@pytest.mark.parametrize("limit", ["0", "-5", "0.01%", "-10%", "ten", "%", "nan%", "inf%", "1.5", "1e3"])
def test_a_limit_that_is_no_number_or_leaves_nothing_is_refused(limit):
    with pytest.raises(UserError, match="--limit"):
        limited(list(range(1000)), limit)


def test_the_tally_makes_the_accuracy_and_leaves_out_of_scope_texts_out():
    examples = [Example("0", "", "a"), Example("1", "", "b"), Example("2", "", OOS, in_scope=False)]
    logits = np.array([[2, 0], [2, 0], [0, 2]], np.float32)
    predictions = Predictions(TASKS["clinc"], examples, None, logits, ("a", "b"), DataConfig())
    tally = TASKS["clinc"].tally(predictions)
    assert tally.tolist() == [[1, 1], [0, 1], [0, 0]]
    assert TASKS["clinc"].tally_score(tally.sum(axis=0)) == TASKS["clinc"].score(predictions)["accuracy"] == 0.5


def test_reading_a_small_file_does_not_forbid_long_fields_elsewhere(tmp_path):
    (tmp_path / "small.csv").write_text("text,label\na,b\n")
    usual = csv.field_size_limit(2_000_000)
    TASKS["csv"].read(tmp_path / "small.csv", "", DataConfig())
    assert csv.field_size_limit(usual) == 2_000_000  # the limit of the process: other tests rely on the usual one
