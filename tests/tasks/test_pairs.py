"""Pairs of texts: which columns they are read from, GLUE's files, and what becomes of them up to the metric."""

import json
import random
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from kd_scratch.common.errors import UserError
from kd_scratch.config import DataConfig
from kd_scratch.data.batches import collate
from kd_scratch.tasks import TASKS, Predictions
from kd_scratch.tasks.augment import Altered
from kd_scratch.tasks.classification import Example, featurize, matthews, reworded, tally_by_label
from kd_scratch.tasks.text_files import read_texts
from kd_scratch.training.preflight import Sample, about_overlap
from tests.conftest import tiny_model

CSV, COLA = TASKS["csv"], TASKS["cola"]
AB = [("a one", "b two", "1"), ("c", "d", "0")]


def tsv(*rows, mark=""):
    """Lines of cells, with tabs."""
    return mark + "".join("\t".join(row) + "\n" for row in rows)


MNLI = "index promptID pairID genre sentence1_binary_parse sentence2_binary_parse sentence1_parse".split()
MNLI += ["sentence2_parse", "sentence1", "sentence2"]


def mnli(labels, *rows):
    """MNLI's files have parses before the texts and, on dev, each person's label before the gold one."""
    names = [*MNLI, *(f"label{i + 1}" for i in range(labels)), "gold_label"]
    before = ["0", "1", "1e", "fiction", "( a one )", "( b two )", "(ROOT a)", "(ROOT b)"]
    return tsv(names, *([*before, a, b, *["neutral"] * labels, gold] for a, b, gold in rows))


NLI = [("a one", "b two", "neutral"), ("c", "d", "entailment")]
SNLI = [
    {"annotator_labels": ["neutral"], "gold_label": gold, "pairID": "1", "sentence1": a, "sentence1_parse": "(a)",
     "sentence2": b} for a, b, gold in [*NLI, ("e", "f", "-")]
]  # fmt: skip
MRPC = ("Quality", "#1 ID", "#2 ID", "#1 String", "#2 String")
QQP = ("id", "qid1", "qid2", "question1", "question2", "is_duplicate")
#: variant -> name of the file, content, settings, what is read (or what the refusal holds), what is told
VARIANTS = {
    "MRPC, a byte-order mark, open quotes": (
        "train.tsv", tsv(MRPC, ("1", "7", "8", 'He said "no', "b"), ("0", "7", "8", "c", '" d "'), mark="\ufeff"), {},
        [('He said "no', "b", "1"), ("c", '" d "', "0")], "'#1 String' and '#2 String' are read as pairs of texts"),
    "RTE": ("train.tsv", tsv(("index", "sentence1", "sentence2", "label"), *(("0", *row) for row in AB)), {}, AB,
            "'sentence1' and 'sentence2' are read as pairs"),
    "QNLI": ("dev.tsv", tsv(("index", "question", "sentence", "label"), *(("0", *row) for row in AB)), {}, AB,
             "'question' and 'sentence' are read as pairs"),
    "QQP": ("dev.tsv", tsv(QQP, *(("0", "1", "2", *row) for row in AB)), {}, AB, "'is_duplicate' is read as the label"),
    "QQP, broken rows": (
        "train.tsv", tsv(QQP, *[("0", "1", "2", "a", "b", "1")] * 1000, ("7", "1", "2", "cut"),
                         *[("0", "1", "2", "a", "b", "0")] * 1000, ("and here",)), {},
        [("a", "b", "1")] * 1000 + [("a", "b", "0")] * 1000,
        "train.tsv: line 1002: 4 columns instead of the header's 6; so many rows are cut like it, and left out: 2"),
    "QQP, too many broken rows": ("train.tsv", tsv(QQP, ("0", "1", "2", "a", "b", "1"), ("7", "1")), {},
                                  "train.tsv: line 3: 2 columns instead of the header's 6", ""),
    "MNLI, train": ("train.tsv", mnli(1, *NLI), {}, NLI, "'gold_label' is read as the label column"),
    "MNLI, dev matched": ("dev_matched.tsv", mnli(5, *NLI), {}, NLI, "'gold_label' is read"),
    "MNLI, dev mismatched, no agreement": ("dev_mismatched.tsv", mnli(5, *NLI, ("e", "f", "-")), {}, NLI,
                                           "did not agree (gold_label -), left out: 1"),
    "SNLI, JSON lines": ("dev.jsonl", "".join(json.dumps(row) + "\n" for row in SNLI), {}, NLI,
                         "did not agree (gold_label -), left out: 1"),
    "SST-2": ("dev.tsv", tsv(("sentence", "label"), ("it 's fine . ", "1"), ("bleak ", "0")), {},
              [("it 's fine . ", None, "1"), ("bleak ", None, "0")], "'sentence' is read as the text column"),
    "CoLA": ("dev.tsv", tsv(("gj04", "1", "", 'He "left.'), ("gj04", "0", "*", "Him left.")), {},
             [('He "left.', None, "1"), ("Him left.", None, "0")], "columns as in CoLA"),
    "a table of the hub": ("x.csv", 'premise,hypothesis,label,idx\n"a, b",c,0,0\n', {}, [("a, b", "c", "0")],
                           "'premise' and 'hypothesis' are read"),
    "chosen": ("x.csv", "l,x,y\n1,a one,b two\n0,c,d\n", {"text_column": "x,y", "label_column": "l"}, AB, ""),
    "chosen, other way round": ("x.csv", "l,y,x\n1,b two,a one\n", {"text_column": " x, y", "label_column": "l"},
                                AB[:1], ""),
    "chosen, case": ("x.csv", "label,X,y\n1,a one,b two\n", {"text_column": "x,y"}, AB[:1], "'X' is read as the text"),
    "by number": ("x.csv", "1,a one,b two\n0,c,d\n1,e,f\n", {"text_column": "2,3", "label_column": "1"},
                  [*AB, ("e", "f", "1")], "line 1 is taken as data"),
    "by number, a header": ("x.tsv", tsv(("sentence1", "sentence2", "l"), *AB), {"text_column": "1,2",
                            "label_column": "3"}, AB, "line 1 is taken as the header"),
    "JSON lines": ("x.jsonl", '{"x": "a one", "y": "b two", "label": 1}\n', {"text_column": "x,y"}, AB[:1], ""),
    "one of two": ("x.tsv", tsv(("sentence1", "sentence2", "label"), *AB), {"text_column": "sentence2"},
                   [("b two", None, "1"), ("d", None, "0")], ""),
    "text before pairs": ("x.csv", "text,sentence1,sentence2,label\nt,a,b,1\n", {}, [("t", None, "1")], ""),
    "a name with a comma": ("x.csv", '"x,y",label\na,1\n', {"text_column": "x,y"}, [("a", None, "1")], ""),
    "lines within": ("x.csv", 'x,y,label\n"a\none","b\ntwo",1\n', {"text_column": "x,y"}, [("a\none", "b\ntwo", "1")],
                     ""),
    "a quote left open in the second": ("x.csv", 'x,y,label\nk,l,1\na,"b,1\nc,d,0\ne,f,1\ng,h",0\n',
                                        {"text_column": "x,y"}, "line 3: the text that begins there holds 3 lines", ""),
    "an empty second text": ("x.csv", "x,y,label\na,,1\n", {"text_column": "x,y"}, [("a", "", "1")], ""),
    "three": ("x.csv", "x,y,z,label\na,b,c,1\n", {"text_column": "x,y,z"}, "--text-column names 3 columns; give one,",
              ""),
    "twice the same": ("x.csv", "x,y,label\na,b,1\n", {"text_column": "x,x"}, "line 1: both texts are 'x'; choose",
                       ""),
    "text and label the same": ("x.csv", "x,y,label\na,b,1\n", {"text_column": "x,y", "label_column": "y"},
                                "line 1: text and label are both 'y'; choose another one with --label-column", ""),
    "one is not there": ("x.csv", "x,label\na,1\n", {"text_column": "x,y"}, "0 columns are called 'y' among x, label",
                         ""),
    "a number too high": ("x.csv", "a,1\n", {"text_column": "1,3", "label_column": "2"},
                          "line 1: --text-column 3: there are 2 columns", ""),
    "JSON lines, the second a number": ("x.jsonl", '{"x": "a", "y": 2, "label": 1}\n', {"text_column": "x,y"},
                                        "line 1: 'y' must be a text in quotes, not a number", ""),
    "a label - of another column": ("x.csv", "x,y,label\na,b,-\n", {"text_column": "x,y"}, [("a", "b", "-")], ""),
    "a second text too long": ("x.jsonl", json.dumps({"x": "a", "y": "b" * 1_000_001, "label": 1}),
                               {"text_column": "x,y"}, "line 1: a text of 1,000,001 characters", ""),
    "a row too short": ("x.csv", "x,y,label\na,b,1\nc,d\n", {"text_column": "x,y"}, "line 3: 2 columns instead of", ""),
}  # fmt: skip


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_is_read_right_and_told_or_refused_in_one_line(tmp_path, variant):
    name, content, settings, expected, note = VARIANTS[variant]
    path, notes = tmp_path / name, []
    path.write_text(content)
    if isinstance(expected, str):
        with pytest.raises(UserError) as error:
            CSV.read(path, "", DataConfig(**settings), notes.append)
        assert expected in str(error.value) and "\n" not in str(error.value)
        return
    examples = CSV.read(path, "", DataConfig(**settings), notes.append)
    assert [(e.text, e.pair, e.label) for e in examples] == expected
    told = "\n".join(line for line in notes if "quotes are characters" not in line)
    assert note in told if note else not told, told


#: real file -> examples, pairs or not, how often each label occurs
REAL = {
    "MRPC/train.tsv": (True, {"1": 2473, "0": 1194}),
    "MRPC/dev.tsv": (True, {"1": 279, "0": 129}),
    "RTE/train.tsv": (True, {"entailment": 1249, "not_entailment": 1241}),
    "RTE/dev.tsv": (True, {"entailment": 146, "not_entailment": 131}),
    "CoLA/train.tsv": (False, {"1": 6023, "0": 2528}),
    "CoLA/dev.tsv": (False, {"1": 721, "0": 322}),
    "SST-2/dev.tsv": (False, {"1": 444, "0": 428}),
}


@pytest.mark.parametrize("name", REAL)
def test_real_files_of_glue_need_no_flag(real_data, name):
    is_pair, counts = REAL[name]
    path = real_data(f"glue/{name}")
    examples = list(CSV.read(path, "", DataConfig(), lambda note: None))
    assert Counter(example.label for example in examples) == counts
    raw = path.read_text(encoding="utf-8-sig").rstrip("\n").split("\n")[0 if "CoLA" in name else 1 :]
    at = {"MRPC": (3, 4), "RTE": (1, 2), "CoLA": (3,), "SST-2": (0,)}[name.split("/")[0]]
    assert [[line.split("\t")[i] for i in at] for line in raw] == [example.texts for example in examples]
    assert all((example.pair is not None) == is_pair for example in examples)


# --- unlabelled ---


#: name of the file, content, --text-column, the pairs (or what the refusal holds)
UNLABELLED = {
    "as in --train": ("u.csv", "id,x,y\n1,a one,b two\n", "x,y", [("a one", "b two")]),
    "a usual pair, another than in --train": ("u.tsv", "question1\tquestion2\na one\tb two\n", "x,y", None),
    "as GLUE's": ("u.tsv", tsv(("index", "sentence1", "sentence2"), ("0", "a one", "b two")), "text", None),
    "GLUE's of another ending": ("u.txt", tsv(("sentence1", "sentence2"), ("a one", "b two")), "text", None),
    "the two columns of texts": ("u.csv", "n,q,p\n1,is it so,it is so\n2,was it so,it was so\n", "text",
                                 [("is it so", "it is so"), ("was it so", "it was so")]),
    "two columns, no header": ("u.csv", "a one,b two\nc one,d two\n", "text", [("a one", "b two"), ("c one", "d two")]),
    "by number": ("u.csv", "1,a one,b two\n", "2,3", [("a one", "b two")]),
    "JSON lines": ("u.jsonl", '{"y": "b two", "x": "a one"}\n', "x,y", [("a one", "b two")]),
    "JSON lines, other names": ("u.jsonl", '{"p": "a one", "q": "b two", "n": 1}\n', "x,y", [("a one", "b two")]),
    "three of texts": ("u.csv", "n,q,p\na b,is it so,it is so\nc d,was it so,it was so\n", "text",
                       "line 1: which two of these are the pairs' texts, n, q, p? Write sentence1 and sentence2 for"),
    "lines": ("u.txt", "a one\nb two\n", "text", "u.txt: holds single texts, --train pairs; give a table with two"),
}  # fmt: skip


@pytest.mark.parametrize("variant", UNLABELLED)
def test_unlabelled_pairs_are_found(tmp_path, variant):
    name, content, column, expected = UNLABELLED[variant]
    path, data = tmp_path / name, DataConfig(text_column=column)
    path.write_text(content)
    if isinstance(expected, str):
        with pytest.raises(UserError) as error:
            read_texts(path, data, lambda note: None, CSV.unlabelled, "--unlabelled", pairs=True)
        assert expected in str(error.value)
        return
    examples = list(read_texts(path, data, lambda note: None, CSV.unlabelled, "--unlabelled", pairs=True))
    assert [(e.text, e.pair) for e in examples] == (expected or [("a one", "b two")])
    assert all(example.label is None for example in examples)


def test_masked_words_are_those_of_both_texts(tmp_path):
    (tmp_path / "x.tsv").write_text(tsv(("sentence1", "sentence2", "label"), *AB))
    assert TASKS["mlm"].texts(TASKS["mlm"].read(tmp_path / "x.tsv", "", DataConfig(), print)) == ["a one b two", "c d"]


# --- inputs ---


def encode(tokenizer, pairs, max_length=40):
    examples = [Example(str(i), a, "no", pair=b) for i, (a, b) in enumerate(pairs)]
    return featurize(examples, tokenizer, ("no", "yes"), max_length, DataConfig())


def test_a_pair_is_cls_a_sep_b_sep_of_types_0_and_1(tokenizer):
    features = encode(tokenizer, [("the fox", "a dog"), ("the", "")])
    assert tokenizer.pieces(features.tokens.tolist())[:3] == ["[CLS]", "the", "f"]
    first, second = features.starts[1], features.starts[2] - features.starts[1]
    a, b = (len(tokenizer.encode([text])[0].ids) for text in ("the fox", "a dog"))
    assert features.token_types.tolist() == [0] * a + [1] * (b - 1) + [0] * 3 + [1]
    assert (first, second) == (a + b - 1, 4)


def test_the_longer_text_is_cut(tokenizer):
    long, short = "the quick brown fox jumps over the lazy dog", "a probe"
    whole = len(tokenizer.encode([short])[0].ids) - 1
    for pair in ((long, short), (short, long)):
        features = encode(tokenizer, [pair], max_length=12)
        assert len(features.tokens) == 12
        counts = [int((features.token_types == 0).sum()), int((features.token_types == 1).sum())]
        assert counts[pair.index(short)] == whole + (pair.index(short) == 0)
    with pytest.raises(UserError, match="--max-length 3: leaves no room"):
        encode(tokenizer, [(long, short)], max_length=3)


def test_a_model_with_types_tells_the_texts_apart_and_one_without_takes_them_too(tokenizer):
    features = encode(tokenizer, [("the fox", "a dog jumps"), ("a dog", "the")])
    batch = collate(features, np.arange(2), torch.device("cpu"))
    assert batch.token_type_ids.shape == batch.input_ids.shape
    bert, distil = tiny_model(), tiny_model(model_type="distilbert", token_types=0)
    plain = {**batch.inputs, "token_type_ids": None}
    assert not torch.allclose(bert(**batch.inputs).logits, bert(**plain).logits)
    assert torch.equal(distil(**batch.inputs).logits, distil(**plain).logits)


def test_a_tokenizer_that_gives_no_types_gives_type_0_to_both(tokenizer):
    without = type(tokenizer)(tokenizer.backend, has_token_types=False)
    features = encode(without, [("the fox", "a dog")])
    assert features.token_types is not None and not features.token_types.any()


def test_single_texts_have_no_types(tokenizer):
    assert featurize([Example("1", "a", "no")], tokenizer, ("no",), 40, DataConfig()).token_types is None


# --- copies, and what looks odd ---


def test_a_copy_of_a_pair_stays_a_pair_and_words_do_not_change_sides(tokenizer):
    example = Example("1", "the quick fox", "yes", pair="a lazy dog jumps")
    copy = reworded(example, lambda words: [word.upper() for word in words], "1~1")
    assert copy == Example("1~1", "THE QUICK FOX", None, pair="A LAZY DOG JUMPS")
    copies = Altered([example, replace(example, id="2", pair="over")], 20, CSV, tokenizer)
    assert {(len(c.text.split()), len(c.pair.split())) for c in copies} == {(3, 4), (3, 1)}
    assert any("[MASK]" in c.text for c in copies) and any("[MASK]" in c.pair for c in copies)
    assert reworded(Example("1", " the\n fox", "no"), lambda words: ["a", words[1]], "c").text == "a fox"


def test_a_copy_of_text_without_blanks_has_other_characters_and_no_blanks(tokenizer):
    example = Example("1", "馬雲在 iPhone手機店。", "no")
    assert reworded(example, lambda words: words, "c").text == example.text
    seen = []
    reworded(example, lambda words: seen.extend(words) or words, "c")
    assert seen == "馬 雲 在 iPhone 手 機 店 。".split()
    copies = [copy.text for copy in Altered([example], 40, CSV, tokenizer)]
    assert any(text.startswith("馬[MASK]在 iPhone") for text in copies) and len(set(copies)) > 20


def test_what_is_odd_about_one_of_the_two_columns_is_seen():
    examples = [Example(str(i), f"the number {i} of texts", "0", pair=str(i)) for i in range(9)]
    assert CSV.odd(examples) == ["9 of 9 texts are NUMBERS: is that the column of the texts?"]
    assert CSV.odd([]) == [] and CSV.odd([Example("1", "a b", "0")]) == []


def test_dev_overlaps_where_both_texts_are_the_same():
    train = [Example(str(i), f"the premise {i // 3}", "0", pair=f"it is {i % 3}") for i in range(12)]
    run = SimpleNamespace(task=CSV, data=SimpleNamespace(hashes={}, examples=train))
    other = [replace(example, pair="it is not") for example in train]
    assert about_overlap(run, Sample(train[:6], None)).startswith("100% OF DEV STANDS IN TRAIN TOO")
    assert about_overlap(run, Sample(other, None)) == ""


# --- metrics ---


def predictions(gold, decided, labels=("0", "1"), task=CSV):
    logits = np.array([[4.0 * (label == one) for label in labels] for one in decided], np.float32)
    return Predictions(task, [Example(str(i), "t", g) for i, g in enumerate(gold)], None, logits, labels, DataConfig())


def test_metrics_of_two_labels_are_those_of_the_formulas():
    gold, decided = "11101000", "10100010"  # 2 right ones, 1 wrong one, 2 missed, 3 right zeros; 4 ones and 3
    found = CSV.score(predictions(gold, decided))
    tp, fp, fn, tn = 2, 1, 2, 3
    assert found["f1"] == pytest.approx(2 * tp / (2 * tp + fp + fn))
    expected = (tp * tn - fp * fn) / ((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)) ** 0.5
    assert found["matthews"] == pytest.approx(expected, abs=1e-15)


def test_metrics_that_a_task_has_follow_from_its_labels():
    assert {"f1", "matthews"} <= CSV.score(predictions("01", "01")).keys()
    words = CSV.score(predictions(["no", "yes"], ["no", "no"], ("no", "yes")))
    assert "f1" not in words and words["matthews"] == 0.0
    assert not {"f1", "matthews"} & CSV.score(predictions("012", "012", ("0", "1", "2"))).keys()
    assert COLA.score(predictions("012", "011", ("0", "1", "2"), COLA))["matthews"] > 0
    assert CSV.score(predictions("000", "000"))["f1"] == 0.0


def test_colas_score_is_that_of_its_tally_and_cannot_be_divided_by_zero():
    rng = random.Random(0)
    for _ in range(50):
        gold, decided = (rng.choices("01", k=rng.randrange(1, 9)) for _ in range(2))
        decided = (decided * 9)[: len(gold)]
        one = predictions(gold, decided, task=COLA)
        assert COLA.score(one)["matthews"] == float(COLA.tally_score(COLA.tally(one).sum(axis=0)))
    sure = [
        replace(predictions("01", decided, task=COLA), data=replace(DataConfig(), oos_threshold=threshold))
        for decided, threshold in (("01", 0.5), ("01", 0.999))
    ]
    assert "oos" in sure[1].decisions and "oos" not in sure[0].decisions
    assert COLA.tally(sure[0]).shape == COLA.tally(sure[1]).shape, "which one model says, and the other does not"
    sums = np.stack([tally_by_label(one).sum(axis=0)] * 3)
    assert matthews(sums).shape == (3,)
    assert matthews(np.array([3.0, 0, 3, 0, 3])) == 0.0
