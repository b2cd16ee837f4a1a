"""Text without labels: altered copies of the training texts, and --labelled."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from kd_scratch.__main__ import main
from kd_scratch.common.errors import UserError
from kd_scratch.config import DataConfig
from kd_scratch.data.batches import IGNORE, UNLABELLED, collate
from kd_scratch.data.rows import WithoutLabels
from kd_scratch.data.tokenizer import Tokenizer
from kd_scratch.distillation.losses import cross_entropy
from kd_scratch.tasks import TASKS, limited
from kd_scratch.tasks.augment import BLOCK, EXCHANGED, MASKED, PROPOSED, Altered
from kd_scratch.tasks.classification import Example as Text
from kd_scratch.tasks.folds import fold_numbers
from kd_scratch.tasks.masked_lm import Example as Line
from kd_scratch.tasks.question_answering import Example as Question
from kd_scratch.tasks.token_classification import Example as Sentence
from kd_scratch.training.examples import draw
from tests.commands.test_commands import FAST, write_csv
from tests.conftest import TEXTS, units

MASK = "[MASK]"
CSV, CONLL, SQUAD = TASKS["csv"], TASKS["conll"], TASKS["squad"]
LONG = [Text(f"x:{i}", " ".join(f"w{i}-{j}" for j in range(200)), "a") for i in range(50)]


def test_a_tenth_of_the_words_is_masked_and_a_tenth_drawn_from_other_texts(tokenizer):
    copies = Altered(LONG, 2, CSV, tokenizer)
    assert len(copies) == 100
    masked = exchanged = 0
    sources = set()
    for i, copy in enumerate(copies):
        original = LONG[i % 50].text.split()
        words = copy.text.split()
        assert len(words) == len(original) and copy.label is None and copy.id == f"x:{i % 50}~{i // 50 + 1}"
        masked += sum(word == MASK for word in words)
        other = [a for a, b in zip(words, original, strict=True) if a not in (b, MASK)]
        exchanged += len(other)
        sources |= {word.split("-")[0] for word in other}
        assert all(word in LONG[int(word[1:].split("-")[0])].text for word in other)
    assert masked / 20_000 == pytest.approx(MASKED, abs=0.01) and exchanged / 20_000 == pytest.approx(
        EXCHANGED, abs=0.01
    )
    assert len(sources) > 40, "from all over the file"


def test_copy_number_i_is_always_the_same_text_and_no_two_are_alike(tokenizer):
    copies = Altered(LONG, 3, CSV, tokenizer)
    again = Altered(LONG, 3, CSV, tokenizer)
    assert [c.text for c in reversed(copies[10:20])] == [again[i].text for i in range(19, 9, -1)]
    assert copies[-1] == again[149] and len({copies[i].text for i in (7, 57, 107)}) == 3
    with pytest.raises(IndexError):
        copies[150]


def test_a_mask_is_one_piece_in_a_text_and_as_a_word(tokenizer):
    mask = tokenizer.backend.token_to_id(MASK)
    for task, example in (
        (CSV, Text("x", f"the {MASK} fox", None)),
        (CONLL, Sentence("x", ("the", MASK, "fox"), (None,) * 3, "d")),
    ):
        features = task.featurize([example], tokenizer, ("O",), 32, DataConfig())
        assert (features.tokens == mask).sum() == 1 and len(features.tokens) == len(
            tokenizer.encode(["the fox"])[0].ids
        ) + 1


def test_a_sentence_keeps_its_place_and_length_and_loses_its_tags(tokenizer):
    sentences = [Sentence(f"s:{i}", tuple(f"W{i}{j}" for j in range(30)), ("B-PER",) * 30, f"d:{i}") for i in range(20)]
    for i, copy in enumerate(Altered(sentences, 1, CONLL, tokenizer)):
        assert copy.document == f"d:{i}~1" and len(copy.words) == 30 and copy.tags == (None,) * 30
        kept = sum(a == b for a, b in zip(copy.words, sentences[i].words, strict=True))
        assert 15 <= kept <= 30
    assert (
        sum(copy.words != s.words for copy, s in zip(Altered(sentences, 1, CONLL, tokenizer), sentences, strict=True))
        > 15
    )


def test_texts_without_words_and_of_one_word_are_no_trouble(tokenizer):
    copies = Altered([Text("x:0", "", "a"), Text("x:1", "fox", "a")], 20, CSV, tokenizer)
    assert {copy.text for copy in copies} <= {"", "fox", MASK}


def test_what_cannot_be_altered_is_refused(tokenizer):
    with pytest.raises(UserError, match="--augment: altered texts are no input for mlm"):
        Altered([Line("q", "c")], 1, TASKS["mlm"], tokenizer)
    content = json.loads(tokenizer.backend.to_str())
    content["added_tokens"] = [t for t in content["added_tokens"] if t["content"] != MASK]
    del content["model"]["vocab"][MASK]
    content["model"]["vocab"] = {piece: i for i, piece in enumerate(content["model"]["vocab"])}
    single = content["post_processor"]
    for pair in ("sep", "cls"):
        single[pair][1] = content["model"]["vocab"][single[pair][0]]
    without = Tokenizer(type(tokenizer.backend).from_str(json.dumps(content)))
    with pytest.raises(UserError, match=r"the tokenizer has no \[MASK\]"):
        Altered(LONG, 1, CSV, without)


def test_of_a_question_the_words_change_and_the_context_stays(tokenizer):
    questions = [Question(f"q{i}", f"what w{i} is x{i} now", f"c{i} " * 9, (f"c{i}",), 0) for i in range(40)]
    copies = list(Altered(questions, 5, SQUAD, tokenizer))
    for i, copy in enumerate(copies):
        question = questions[i % 40]
        assert copy.context == question.context and not copy.labelled and copy.answers == () and copy.start is None
        assert len(copy.question.split()) == 5 and copy.id == f"q{i % 40}~{i // 40 + 1}"
    words = {word for copy in copies for word in copy.question.split()}
    assert MASK in words and not any(word.startswith("c") for word in words), "random words are those of questions"
    assert sum(copy.question != questions[i % 40].question for i, copy in enumerate(copies)) > 100
    features = SQUAD.featurize(copies, tokenizer, (), 40, DataConfig())
    assert (features.labels == UNLABELLED).all()


def test_a_fifth_of_the_words_is_proposed_by_a_model_that_sees_the_text(tokenizer):
    asked = []

    def propose(texts, gaps):
        asked.append([list(words) for words in texts])
        return [{place: f"new-{words[place]}" for place in places} for words, places in zip(texts, gaps, strict=True)]

    plain = [replace(text, text=" ".join(text.text.replace("-", "x").split()[:38]) + " a, (b)") for text in LONG]
    copies = Altered(plain, 20, CSV, tokenizer, propose)
    texts = [copy.text.split() for copy in copies]
    assert [len(block) for block in asked] == [BLOCK, 1000 - BLOCK]
    assert all(words == plain[i % 50].text.split() for i, words in enumerate(asked[0]))
    proposed = sum(word.startswith("new-") for words in texts for word in words)
    assert proposed / 38_000 == pytest.approx(PROPOSED, abs=0.005), "two of each forty hold signs"
    assert sum(word == MASK for words in texts for word in words) / 40_000 == pytest.approx(MASKED, abs=0.005)
    for words, original in zip(texts, plain * 20, strict=True):
        pairs = zip(words, original.text.split(), strict=True)
        assert all(word == f"new-{before}" for word, before in pairs if word.startswith("new-"))
    again = Altered(plain, 20, CSV, tokenizer, propose)
    assert [again[i].text.split() for i in (999, 512, 3, 511)] == [texts[i] for i in (999, 512, 3, 511)]
    assert not any(word.startswith("new-") and not word[4:].isalnum() for words in texts for word in words)
    nothing = Altered(plain, 20, CSV, tokenizer, lambda texts, gaps: [{} for _ in texts])
    assert not any(word.startswith("new-") for word in nothing[7].text.split())


# --- --labelled ---


def test_examples_of_one_group_are_drawn_together():
    sentences = [Sentence(f"s:{i}", ("a",), ("O",), f"d:{i // 5}") for i in range(100)]
    mask = draw(CONLL, sentences, "25%", "--labelled")
    assert mask.sum() == 25 and all(len(set(mask[i : i + 5])) == 1 for i in range(0, 100, 5))
    texts = [Text(str(i), f"text {i % 80}", "a") for i in range(100)]  # 20 of them stand twice
    mask = draw(CSV, texts, "25%", "--dev")
    assert 25 <= mask.sum() <= 26 and (mask[80:] == mask[:20]).all() and mask[80:].any(), "with each other"
    alone = draw(CSV, texts[:80], "25%", "--dev")
    assert alone.nonzero()[0].tolist() == list(limited(range(80), "25%")), "does not depend on hashes"
    boilerplate = [*texts[:50], *([texts[0]] * 50)]
    counts = {int(draw(CSV, boilerplate, "10", "--labelled", seed).sum()) for seed in range(20)}
    assert min(counts) == 10 and max(counts) <= 9 + 51, counts
    fold = fold_numbers(CSV, texts, 3)
    assert (fold[80:] == fold[:20]).all() and set(fold) == {0, 1, 2}
    with pytest.raises(UserError, match="--labelled 0: leaves none"):
        draw(CSV, texts, "0", "--labelled")


@pytest.mark.parametrize("task", ["csv", "conll", "squad"])
def test_an_unlabelled_example_has_units_and_no_label_among_labelled_ones(task, tokenizer):
    """What the model sees of it is the same; its units learn from the teacher alone."""
    task = TASKS[task]
    examples = {
        "csv": [Text(str(i), text, "ab"[i % 2]) for i, text in enumerate(TEXTS)],
        "conll": [
            Sentence(str(i), tuple(text.split()), ("O",) * len(text.split()), str(i)) for i, text in enumerate(TEXTS)
        ],
        "squad": [
            Question(str(i), "what", text, (text.split()[2],), text.index(text.split()[2]))
            for i, text in enumerate(TEXTS)
        ],
    }[task.name]
    labels = {"csv": ("a", "b"), "conll": ("O",), "squad": ()}[task.name]
    which = np.array([False, True, False, True])
    some = WithoutLabels(examples, which, task.unlabel)
    assert len(some) == 4 and some[0] == examples[0] and some[1] != examples[1] and some[1:3][0] == some[1]
    whole, part = (task.featurize(list(x), tokenizer, labels, 40, DataConfig()) for x in (examples, some))
    np.testing.assert_array_equal(whole.tokens, part.tokens)
    np.testing.assert_array_equal(whole.starts, part.starts)
    inputs = np.array([name in ("1", "3") for name in part.ids])
    if task.name == "conll":
        inputs = np.repeat(inputs, part.lengths)
    labelled = whole.labels != IGNORE
    assert np.array_equal(part.labels[~inputs], whole.labels[~inputs])
    assert (part.labels[inputs][labelled[inputs]] == UNLABELLED).all() and labelled[inputs].any()


def test_a_question_without_label_has_soft_targets_and_no_cross_entropy(tokenizer):
    question = SQUAD.unlabel(Question("q", "what", TEXTS[0], ("fox",), TEXTS[0].index("fox")))
    features = SQUAD.featurize([question], tokenizer, (), 40, DataConfig())
    batch = collate(features, np.arange(len(features)), torch.device("cpu"))
    logits, labels = units("span", torch.randn(*batch.input_ids.shape, 2), batch)
    assert len(logits) == 2 * len(features) and (labels == UNLABELLED).all() and cross_entropy(logits, labels) == 0


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("labelled")
    data = [
        "--task",
        "csv",
        "--train",
        write_csv(folder / "train.csv", 60),
        "--dev",
        write_csv(folder / "dev.csv", 12, 1),
    ]
    common = ["train", *data, *FAST, "--cache", str(folder / "cache")]
    assert main([*common, "--model", "tiny-student", "--vocab-size", "80", "--output", str(folder / "teacher")]) == 0
    return folder, [*common, "--model", str(folder / "teacher")]


def test_with_a_teacher_the_others_are_text_and_without_one_they_are_left_out(files, capsys):
    folder, common = files
    assert main([*common, "--labelled", "25%", "--output", str(folder / "alone")]) == 0
    out = capsys.readouterr().out
    assert "15 examples have a label, 45 have none" in out and ": 15 inputs" in out
    teach = ["--teacher", str(folder / "teacher")]
    assert main([*common, *teach, "--labelled", "25%", "--augment", "2", "--output", str(folder / "taught")]) == 0
    assert ": 300 inputs" in (out := capsys.readouterr().out) and "an epoch has 180," in out
    assert main([*common, *teach, "--labelled", "25%", "--alpha", "0", "--output", str(folder / "x")]) == 2
    assert "nothing is learned from the other texts" in capsys.readouterr().err
    assert main([*common, "--augment", "1", "--output", str(folder / "x")]) == 2
    assert "--augment: only a teacher can teach" in capsys.readouterr().err
    assert main([*common, "--losses", "hidden", "--output", str(folder / "x")]) == 2
    assert "--losses compares student and teacher; give --teacher" in capsys.readouterr().err
    assert main([*common, *teach, "--augment", "-1", "--output", str(folder / "x")]) == 2
    assert "--augment must be 0 or more" in capsys.readouterr().err


def test_copies_are_documents_of_their_own(tokenizer):
    sentences = [Sentence(f"s:{i}", ("the", "fox"), ("O", "O"), "d") for i in range(3)]
    both = [*sentences, *Altered(sentences, 2, CONLL, tokenizer)]
    windows = CONLL.featurize(both, tokenizer, ("O",), 40, DataConfig(documents=True))
    assert len(windows) == 3, "three passages of three sentences"
