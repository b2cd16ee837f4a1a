"""Named entities: CoNLL files, windows and labels, one tag a word whatever the word, and the loss over words alone."""

import math
import random
import time

import numpy as np
import pytest
import torch

from kd_scratch.common.errors import UserError
from kd_scratch.config import DataConfig
from kd_scratch.data.batches import IGNORE, UNLABELLED, collate, pad
from kd_scratch.distillation.losses import distillation_loss
from kd_scratch.distillation.units import count_units
from kd_scratch.evaluation.inference import compute_logits
from kd_scratch.tasks import TASKS, Predictions
from kd_scratch.tasks.conll_metric import to_iob2
from kd_scratch.tasks.spans import split_words
from kd_scratch.tasks.token_classification import (
    EncodedSentences,
    Example,
    featurize,
    label_list,
    read_conll,
    score,
    sentence_groups,
    sentence_windows,
    trainable,
)
from tests.conftest import tiny_model, units

CONLL = TASKS["conll"]
PLAIN = DataConfig()
LABELS = ("O", "B-LOC", "I-LOC", "B-PER", "I-PER")
#: Words of which a tokenizer may leave nothing, or very much.
ODD_WORDS = ["\x07", "\u200b", "\ufeff", "\u0301", "\ufffd", "🙂", "漢字", "[SEP]", "x" * 300, "a-b-c-" * 40, "\u00a0"]


def read(tmp_path, content: str | bytes, name="x.txt"):
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_conll(path, "", PLAIN)


def sentence(words: str, tags: str = "", number: int = 0, document: str = "") -> Example:
    words = tuple(words.split(" "))
    return Example(f"s:{number}", words, tuple(tags.split()) or ("O",) * len(words), document or f"s:{number}")


# --- file -> examples ---

SMALL = "Ada NNP B-PER\nBerg NNP I-PER\nflew VBD O\n\nTorvia NNP B-LOC\n"


def test_the_word_is_the_first_column_and_the_tag_the_last(tmp_path):
    assert read(tmp_path, SMALL) == [
        Example("x.txt:1", ("Ada", "Berg", "flew"), ("B-PER", "I-PER", "O"), "x.txt:1"),
        Example("x.txt:5", ("Torvia",), ("B-LOC",), "x.txt:5"),
    ]


@pytest.mark.parametrize(
    "content",
    [
        SMALL.replace("\n", "\r\n"),
        SMALL.replace(" ", "\t"),
        SMALL.replace(" ", "   ").replace("\n", "  \n"),
        SMALL.replace("\n\n", "\n \t\n\n\n"),
        SMALL.rstrip("\n"),
        "\ufeff" + SMALL,
        SMALL.replace("NNP ", "").replace("VBD ", ""),
        SMALL.replace("NNP", "NNP x y z").replace("VBD", "VBD 1 2 3"),
    ],
    ids=["CRLF", "tabs", "spaces", "blank lines", "no final newline", "byte-order mark", "two columns", "six columns"],
)
def test_the_same_sentences_in_other_clothes(tmp_path, content):
    words = [(example.words, example.tags) for example in read(tmp_path, content)]
    assert words == [(("Ada", "Berg", "flew"), ("B-PER", "I-PER", "O")), (("Torvia",), ("B-LOC",))]


def test_docstart_begins_a_document_and_is_no_sentence(tmp_path):
    content = "-DOCSTART- -X- O\n\nA x O\n\nB x O\n\n-DOCSTART- O\nC x O\n"
    assert [(e.words, e.document) for e in read(tmp_path, content)] == [
        (("A",), "x.txt:1"), (("B",), "x.txt:1"), (("C",), "x.txt:7"),
    ]  # fmt: skip


def test_a_word_may_hold_spaces_in_a_file_of_tabs_and_odd_characters_anywhere(tmp_path):
    [example] = read(tmp_path, "New York\tB-LOC\n\u00a0\tO\n#\tO\n")
    assert example.words == ("New York", "\u00a0", "#")
    [example] = read(tmp_path, "a\u00a0b O\n\u2028 O\n")  # neither a no-break space nor a line separator parts anything
    assert example.words == ("a\u00a0b", "\u2028")


@pytest.mark.parametrize(
    ("tags", "style", "iob2"),
    [
        (["I-LOC", "I-LOC", "B-LOC", "O"], "IOB1", ("B-LOC", "I-LOC", "B-LOC", "O")),
        (["B-LOC", "E-LOC", "S-LOC", "O"], "IOBES", ("B-LOC", "I-LOC", "B-LOC", "O")),
        (["B-LOC", "I-LOC", "B-LOC", "O"], "IOB2", ("B-LOC", "I-LOC", "B-LOC", "O")),
        (["I-LOC", "O", "B-LOC", "O"], "mixed", ("B-LOC", "O", "B-LOC", "O")),
    ],
)
def test_tags_of_every_scheme_are_read_as_iob2_and_that_is_noted(tmp_path, tags, style, iob2):
    examples = read(tmp_path, "".join(f"w {tag}\n" for tag in tags))
    assert examples[0].tags == iob2
    kept, [note] = trainable(examples)
    assert kept == examples and style in note and ("read as IOB2" in note) == (style != "IOB2")
    predictions = Predictions(CONLL, examples, *perfect(examples, LABELS), LABELS, PLAIN)
    assert score(predictions)["tag_scheme"] == style


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("A x O\nB O\n", "line 2: has 2 columns, the lines before it 3"),
        ("A x O\n\nB\n", "line 3: has no tag"),
        ("A x PER\n", "line 1: tag 'PER' is not O, nor B-"),
        ("A B-\n", "line 1: tag 'B-'"),
        ("A Q-PER\n", "line 1: tag 'Q-PER'"),
        ("\tO\n", "line 1: has no word"),
        (b"\xcf\xf0\xe8\xe2\xe5\xf2 O\n", "UTF-8"),
        ("A O\rB O\n\nC B-LOC\n", "line 1: holds a carriage return"),
        ("", "empty"),
    ],
)
def test_a_malformed_file_is_refused_in_one_line_that_names_the_place(tmp_path, content, complaint):
    with pytest.raises(UserError, match=complaint.replace("(", r"\(")) as refusal:
        read(tmp_path, content)
    assert str(tmp_path / "x.txt") in str(refusal.value) and "\n" not in str(refusal.value)


def test_the_labels_are_o_then_begin_and_inside_of_each_type_by_name():
    examples = [sentence("a b c", "B-PER O B-LOC")]
    assert label_list(examples) == LABELS  # I-PER and I-LOC too, which these happen not to have
    assert label_list([sentence("a")]) == ("O",)


# --- examples -> windows ---


def test_the_first_piece_of_each_word_has_its_label_and_nothing_else(tokenizer):
    words = ["quick", "unfathomable", "fox", "."]
    features = featurize(
        [Example("s", tuple(words), ("B-PER", "I-PER", "O", "B-LOC"), "s")], tokenizer, LABELS, 40, PLAIN
    )
    pieces = [tokenizer.encode([word])[0].ids[1:-1] for word in words]
    cls, sep = tokenizer.encode([""])[0].ids
    assert len(pieces[1]) > 1
    assert features.tokens.tolist() == [cls, *sum(pieces, []), sep]
    expected = [IGNORE]
    for ids, label in zip(pieces, (3, 4, 0, 1), strict=True):
        expected += [label] + [IGNORE] * (len(ids) - 1)
    assert features.labels.tolist() == [*expected, IGNORE]


def test_pieces_are_those_of_a_tokenizer_that_gets_the_words(tokenizer):
    words = "the quick un-fathomable fox isn't here , he said , the fox".split()
    features = featurize([sentence(" ".join(words))], tokenizer, LABELS, 200, PLAIN)
    encoding = tokenizer.backend.encode(words, is_pretokenized=True)
    assert features.tokens.tolist() == encoding.ids
    first = [i for i, word in enumerate(encoding.word_ids) if word is not None and word != encoding.word_ids[i - 1]]
    assert features.word_at.tolist() == first


def test_a_word_of_which_the_tokenizer_leaves_nothing_becomes_unknown_and_keeps_its_label(tokenizer):
    features = featurize([sentence("the \x07 fox", "O B-LOC O")], tokenizer, LABELS, 40, PLAIN)
    at = features.word_at[1]
    assert features.tokens[at] == tokenizer.unknown_id and features.labels[at] == 1
    assert len(features.word_at) == 3


@pytest.mark.parametrize("max_length", [3, 4, 7, 12, 33])
@pytest.mark.parametrize("overlap", [0, 1, 5, 128])
@pytest.mark.parametrize("documents", [False, True])
def test_words_in_are_tags_out_in_their_order_whatever_the_window(tokenizer, max_length, overlap, documents):
    rng = random.Random(f"{max_length} {overlap}")
    vocabulary = [*"the quick brown fox unfathomable goalkeepers , .".split(), *ODD_WORDS]
    examples = []
    for i, length in enumerate([1, 2, 3, 60, 5, 17, 1, 40]):
        words = tuple(rng.choice(vocabulary) for _ in range(length))
        tags = to_iob2([rng.choice(LABELS) for _ in words])
        examples.append(Example(f"s:{i}", words, tags, f"document {i // 3}"))
    data = DataConfig(overlap=overlap, documents=documents)
    features = featurize(examples, tokenizer, LABELS, max_length, data)
    assert features.lengths.max() <= max_length
    assert len(set(features.word_at)) == len(features.word_at)  # each word has a place of its own
    words = [word for example in examples for word in example.words]
    firsts = [(tokenizer.encode([word])[0].ids[1:-1] or [tokenizer.unknown_id])[0] for word in words]
    assert features.tokens[features.word_at].tolist() == firsts
    tags = [tag for example in examples for tag in example.tags]
    assert [LABELS[i] for i in features.labels[features.word_at]] == tags
    assert (features.labels != IGNORE).sum() == len(words)  # and no position beside these has a label
    assert count_units(features, np.arange(len(features))) == len(words)
    logits = np.zeros((len(features.tokens), len(LABELS)), np.float32)
    logits[features.word_at, [LABELS.index(tag) for tag in tags]] = 1
    decisions = Predictions(CONLL, examples, features, logits, LABELS, data).decisions
    assert decisions == [example.tags for example in examples]


def test_a_sentence_of_2000_words_has_2000_tags(tokenizer):
    words = tuple(random.Random(0).choices([*ODD_WORDS, "fox", "the"], k=2000))
    example = Example("long", words, ("O",) * 2000, "long")
    features = featurize([example], tokenizer, LABELS, 40, PLAIN)
    logits = compute_logits(tiny_model("token", LABELS, vocab_size=tokenizer.vocab_size), features, torch.device("cpu"))
    [tags] = Predictions(CONLL, [example], features, logits, LABELS, PLAIN).decisions
    assert len(tags) == 2000 and set(tags) <= set(LABELS)


def test_windows_by_hand():
    assert sentence_windows([1] * 6, 6, 2) == [(0, 6, 0, 6)]
    assert sentence_windows([1] * 10, 6, 2) == [(0, 6, 0, 5), (4, 10, 5, 10)]
    assert sentence_windows([1] * 10, 6, 0) == [(0, 6, 0, 6), (6, 10, 6, 10)]
    assert sentence_windows([1] * 8, 4, 99) == [(0, 4, 0, 3), (2, 6, 3, 5), (4, 8, 5, 8)]  # at most half is shared
    assert sentence_windows([6, 6, 6], 6, 3) == [(0, 1, 0, 1), (1, 2, 1, 2), (2, 3, 2, 3)]  # nothing can be shared
    assert sentence_windows([], 6, 3) == [(0, 0, 0, 0)]


def test_windows_hold_as_many_words_as_fit_and_each_word_belongs_to_one():
    rng = random.Random(0)
    for _ in range(500):
        room, overlap = rng.randrange(1, 20), rng.randrange(0, 12)
        lengths = [rng.randrange(1, room + 1) for _ in range(rng.randrange(1, 60))]
        windows = sentence_windows(lengths, room, overlap)
        assert [w for _, _, first, last in windows for w in range(first, last)] == list(range(len(lengths)))
        for start, end, first, last in windows:
            assert start <= first <= last <= end and sum(lengths[start:end]) <= room
            assert end == len(lengths) or sum(lengths[start : end + 1]) > room
        for (_, end, _, last), (again, _, first, _) in zip(windows, windows[1:], strict=False):
            assert sum(lengths[again:end]) <= min(overlap, room // 2) and last == first
            for w in range(
                again, end
            ):  # shared words: so many words to the cut before the next window, or after this one
                assert (w < last) == (end - w > w - again + 1) or end - w == w - again + 1


def test_with_documents_a_window_shows_the_neighbouring_sentences(tokenizer):
    examples = [
        sentence("the fox", number=0, document="a"),
        sentence("a moon", "O B-LOC", 1, "a"),
        sentence("dog", number=2),
    ]
    assert [len(group) for group in sentence_groups(examples, True)] == [2, 1]
    apart, together = (featurize(examples, tokenizer, LABELS, 40, DataConfig(documents=d)) for d in (False, True))
    assert len(apart) == 3 and len(together) == 2
    assert together.tokens[together.word_at].tolist() == apart.tokens[apart.word_at].tolist()
    assert together.labels[together.word_at].tolist() == apart.labels[apart.word_at].tolist() == [0, 0, 0, 1, 0]
    assert together.word_starts.tolist() == [0, 2, 4, 5]


def test_encoded_windows_by_hand(tokenizer):
    examples = [
        sentence("the . the . ,", "O B-LOC B-EVENT O O", number=0, document="a"),
        Example("s:1", (",", "the", ".", "the", "."), (None,) * 5, "a"),
    ]
    features = featurize(examples, tokenizer, LABELS, 8, DataConfig(documents=True, overlap=2))
    cls, the, dot, comma, sep = tokenizer.encode(["the . ,"])[0].ids
    first, second = [cls, the, dot, the, dot, comma, comma, sep], [cls, comma, comma, the, dot, the, dot, sep]
    assert features.tokens.tolist() == first + second and features.starts.tolist() == [0, 8, 16]
    assert features.ids == ["s:0", "s:1"], "that of the first word that is decided there, not shown"
    assert features.labels[:8].tolist() == [IGNORE, 0, LABELS.index("B-LOC"), IGNORE, 0, 0, IGNORE, IGNORE]
    assert features.labels[8:].tolist() == [IGNORE, IGNORE, *[UNLABELLED] * 5, IGNORE]
    assert features.word_at.tolist() == [1, 2, 3, 4, 5, 10, 11, 12, 13, 14]
    assert features.word_starts.tolist() == [0, 5, 10]


def test_no_room_is_refused(tokenizer):
    with pytest.raises(UserError, match="--max-length 2"):
        featurize([sentence("fox")], tokenizer, LABELS, 2, PLAIN)


@pytest.mark.parametrize("labels", [("LABEL_0", "LABEL_1"), ("yes", "no"), ("O", "B-PER", "U-PER", "E-PER")])
def test_a_models_labels_that_are_no_tags_are_refused(tokenizer, labels):
    with pytest.raises(UserError, match="holds no names|not tags of entities|mix schemes"):
        featurize([sentence("fox")], tokenizer, labels, 20, PLAIN)


def test_documents_are_held_out_whole_and_never_thinned_out():
    a, b, c = sentence("a", document="x"), sentence("b", document="x"), sentence("c", document="y")
    assert CONLL.group(a) == CONLL.group(b) != CONLL.group(c)
    with pytest.raises(UserError, match="--documents needs whole documents"):
        DataConfig(documents=True, limit="10")


def test_every_word_of_the_real_files_has_one_tag(real_data, tokenizer):
    for name, sentences in (("train", 14_041), ("valid", 3_250), ("test", 3_453)):
        examples = read_conll(real_data(f"conll2003/{name}.txt"), "", PLAIN)
        assert len(examples) == sentences and examples[0].scheme == "IOB2"
        lines = real_data(f"conll2003/{name}.txt").read_text().split("\n")
        columns = [line.split(" ") for line in lines if line and not line.startswith("-DOCSTART-")]
        assert [word for e in examples for word in e.words] == [cells[0] for cells in columns]
        assert [tag for e in examples for tag in e.tags] == [cells[-1] for cells in columns]
        for data in (PLAIN, DataConfig(documents=True)):
            features = featurize(examples, tokenizer, label_list(examples), 64, data)
            logits = np.zeros((len(features.tokens), 9), np.float32)
            logits[np.arange(len(logits)), features.labels % 9] = 1  # at IGNORE too, where nobody may look
            decisions = Predictions(CONLL, examples, features, logits, label_list(examples), data).decisions
            assert decisions == [example.tags for example in examples]


# --- the loss ---


def logits_of(seed: int, features) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(len(features.tokens), len(LABELS))).astype(np.float32)


def loss_of(features, indices, student, teacher) -> float:
    """Distillation loss per word over a batch, from precomputed logits, in float64."""
    batch = collate(features, np.array(indices), torch.device("cpu"))
    cut = [
        units("token", torch.from_numpy(pad(z, features.starts, np.array(indices), 7.0)), batch)
        for z in (student, teacher)
    ]
    (z, labels), (t, _) = cut
    return distillation_loss(z.double(), t.double(), labels, 2.0, 0.5).item()


@pytest.fixture
def three(tokenizer):
    """Three sentences of 2, 4 and 9 words, their features, and logits of a student and a teacher."""
    examples = [
        sentence("unfathomable goalkeepers", "B-PER I-PER", 0),
        sentence("the quick brown fox", "O O B-LOC I-LOC", 1),
        sentence("a dog jumps over the fox and the moon", number=2),
    ]
    features = featurize(examples, tokenizer, LABELS, 40, PLAIN)
    return features, logits_of(0, features), logits_of(1, features)


def test_the_loss_is_the_formula_over_words_alone(three):
    features, student, teacher = three
    expected = 0.0
    for at, label in zip(features.word_at, features.labels[features.word_at], strict=True):
        z, t = student[at].astype(np.float64), teacher[at].astype(np.float64)
        p, q = (np.exp(x / 2) / np.exp(x / 2).sum() for x in (t, z))
        hard = -math.log(np.exp(z[label]) / np.exp(z).sum())
        expected += 0.5 * hard + 0.5 * 4 * float((p * np.log(p / q)).sum())
    assert loss_of(features, [0, 1, 2], student, teacher) == pytest.approx(expected, rel=1e-6)


def test_the_loss_does_not_depend_on_padding_or_on_the_batch(three):
    features, student, teacher = three
    alone = [loss_of(features, [i], student, teacher) for i in range(3)]
    assert loss_of(features, [0, 1, 2], student, teacher) == pytest.approx(sum(alone), rel=1e-12)
    assert loss_of(features, [2, 0], student, teacher) == pytest.approx(alone[0] + alone[2], rel=1e-12)


def test_the_loss_does_not_depend_on_how_many_pieces_a_word_has(tokenizer):
    short = featurize([sentence("the fox", "O B-PER")], tokenizer, LABELS, 40, PLAIN)
    long = featurize([sentence("the unfathomable-goalkeepers", "O B-PER")], tokenizer, LABELS, 40, PLAIN)
    assert len(long.tokens) > len(short.tokens) + 5
    losses = []
    for features in (short, long):
        student, teacher = logits_of(2, features), logits_of(3, features)
        student[features.word_at] = [[1, 2, 3, 4, 5], [5, 3, 0, 1, 1]]
        teacher[features.word_at] = [[2, 0, 1, 0, 0], [0, 0, 4, 0, 1]]
        losses.append(loss_of(features, [0], student, teacher))
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)


# --- logits -> metrics ---


def perfect(examples, labels):
    """Features and logits of a model that is always right, with probability e² / (e² + C − 1)."""
    words = [tag for example in examples for tag in example.tags]
    lengths = [len(example.words) for example in examples]
    starts = np.cumsum([0, *lengths])
    gold = np.array([labels.index(tag) if tag in labels else IGNORE for tag in words])
    features = EncodedSentences(
        head="token", ids=[e.id for e in examples], tokens=np.zeros(len(words), np.int32), starts=starts,
        labels=gold, word_at=np.arange(len(words)), word_starts=starts,
    )  # fmt: skip
    logits = np.zeros((len(words), len(labels)), np.float32)
    logits[np.arange(len(words)), np.where(gold == IGNORE, 0, gold)] = 2
    return features, logits


def test_metrics_by_hand():
    examples = [sentence("a b c d", "B-PER I-PER O B-LOC", 0), sentence("e f", "O B-LOC", 1)]
    features, logits = perfect(examples, LABELS)
    logits[3] = [0, 0, 0, 2, 0]  # d: B-PER instead of B-LOC
    predictions = Predictions(CONLL, examples, features, logits, LABELS, PLAIN)
    assert predictions.decisions == [("B-PER", "I-PER", "O", "B-PER"), ("O", "B-LOC")]
    metrics = score(predictions)
    right, wrong = math.log((math.e**2 + 4) / math.e**2), math.log(math.e**2 + 4)
    assert metrics["loss"] == pytest.approx((5 * right + wrong) / 6, rel=1e-6)
    assert (metrics["examples"], metrics["words"], metrics["accuracy"]) == (2, 6, 5 / 6)
    assert (metrics["precision"], metrics["recall"], metrics["f1"]) == (2 / 3, 2 / 3, 2 / 3)
    assert metrics["unreachable_words"] == 0 and metrics["unreachable_tags"] == {}
    assert list(metrics["per_class"]) == ["LOC", "PER"]
    assert CONLL.tally(predictions).tolist() == [[1, 2, 2], [1, 1, 1]]
    assert CONLL.tally_score(CONLL.tally(predictions).sum(axis=0)) == metrics["f1"]
    records = CONLL.prediction_records(predictions)
    assert records["s:0"] == {
        "words": ("a", "b", "c", "d"),
        "tags": ("B-PER", "I-PER", "O", "B-PER"),
        "gold": ("B-PER", "I-PER", "O", "B-LOC"),
    }
    assert "d  B-LOC -> B-PER" in CONLL.mistakes(predictions, 5) and "of 1" in CONLL.mistakes(predictions, 5)
    assert "LOC" in CONLL.details(metrics)


def test_unknown_tags_are_missed_entities_and_are_named():
    examples = [sentence("a b c", "B-EVT I-EVT B-LOC", 0)]
    metrics = score(Predictions(CONLL, examples, *perfect(examples, LABELS), LABELS, PLAIN))
    assert metrics["unreachable_words"] == 2 and metrics["unreachable_tags"] == {"B-EVT": 1, "I-EVT": 1}
    assert metrics["recall"] == 1 / 2 and metrics["accuracy"] == 1 / 3
    assert metrics["per_class"]["EVT"]["gold_entities"] == 1
    assert metrics["loss"] == pytest.approx(math.log((math.e**2 + 4) / math.e**2), rel=1e-6)  # of the known ones
    assert "B-EVT (1), I-EVT (1)" in CONLL.details(metrics)


def test_a_file_of_unknown_tags_alone_has_no_loss():
    examples = [sentence("a", "B-EVT")]
    metrics = score(Predictions(CONLL, examples, *perfect(examples, LABELS), LABELS, PLAIN))
    assert metrics["loss"] is None and metrics["f1"] == 0.0


# --- plain text ---


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Ada (34) left the U.S. for Berlin, Germany.", "Ada ( 34 ) left the U.S. for Berlin , Germany ."),
        ("Ada's «Bergs’» at 's O'Neil’s. It", "Ada 's « Bergs ’ » at ' s O'Neil ’s . It"),
        ("wait... -- (A.B.) x.y.", "wait ... -- ( A.B. ) x.y."),
        ("don't re-use 2-1", "don't re-use 2-1"),
        ("  two\n lines\t", "two lines"),
        ("...?!!", "... ? !!"),
        ("漢字 🙂!", "漢 字 🙂 !"),
        ("馬雲在杭州工作。iPhone手機", "馬 雲 在 杭 州 工 作 。 iPhone 手 機"),
        ("ความ", "ค ว า ม"),
        ("กิน «ที่»", "กิ น « ที่ »"),
        ("서울은 수도다.", "서울은 수도다 ."),
        ("Cafe\u0301 «x»", "Cafe\u0301 « x »"),
        (" \u00a0 ", ""),
    ],
)
def test_words_of_a_plain_text(text, words):
    spans = split_words(text)
    assert [text[start:end] for start, end in spans] == words.split()
    assert all(a[1] <= b[0] for a, b in zip(spans, spans[1:], strict=False))


@pytest.mark.parametrize("text", [".," * 300_000, "a." * 100_000 + ".," * 100_000])
def test_many_marks_are_cut_in_moments(text):
    start = time.process_time()
    assert sum(end - start for start, end in split_words(text)) == len(text)
    assert time.process_time() - start < 2


def test_plain_text_without_labels_is_cut_into_words_that_learn_from_the_teacher_only(tokenizer):
    example = CONLL.unlabelled("text.txt:3", "Ada's trip, 1999.")
    assert example.words == ("Ada", "'s", "trip", ",", "1999", ".") and example.id == "text.txt:3"
    features = featurize([example], tokenizer, LABELS, 32, DataConfig())
    assert (features.labels[features.word_at] == UNLABELLED).all()
    assert (features.labels == UNLABELLED).sum() == len(example.words) == count_units(features, np.array([0]))
