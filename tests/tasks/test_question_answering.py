"""Question answering: the file format, windows, labels, decoding, and the way back to the original context."""

import json
import math
import random

import numpy as np
import pytest
import torch

from kd_scratch.common.errors import UserError
from kd_scratch.config import DataConfig
from kd_scratch.data.batches import IGNORE, collate
from kd_scratch.data.tokenizer import load_tokenizer, train_tokenizer
from kd_scratch.distillation.losses import distillation_loss
from kd_scratch.distillation.units import count_units
from kd_scratch.evaluation.evaluate import LoadedModel
from kd_scratch.evaluation.inference import compute_logits
from kd_scratch.evaluation.predict import find_answers
from kd_scratch.tasks import TASKS, Predictions
from kd_scratch.tasks.question_answering import (
    Example,
    candidates,
    decide,
    featurize,
    mistakes,
    prediction_records,
    read_squad,
    trainable,
)
from kd_scratch.tasks.spans import best_spans, context_windows, merge, span_scores
from tests.conftest import TEXTS, tiny_model, units

CONTEXT = "The quick brown fox jumps over the lazy dog. The goalkeeper saved a penalty."
DATA = DataConfig(overlap=4, question_length=8)
CPU = torch.device("cpu")


def squad(*qas, context=CONTEXT) -> dict:
    """A file of one paragraph; a question is (id, text, [(answer, start), …])."""
    questions = [
        {"id": id, "question": text, "answers": [{"text": a, "answer_start": start} for a, start in answers]}
        for id, text, answers in qas
    ]
    return {"version": "1.1", "data": [{"title": "t", "paragraphs": [{"context": context, "qas": questions}]}]}


def read(tmp_path, content) -> list[Example]:
    path = tmp_path / "squad.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return read_squad(path, "", DATA)


# --- file -> examples ---


def test_every_question_is_read_with_its_context_and_all_its_answers(tmp_path):
    examples = read(
        tmp_path, squad(("a", "who?", [("fox", 16), ("quick brown fox", 4)]), ("b", "what?", [("dog", 40)]))
    )
    assert [(e.id, e.question, e.answers, e.start, e.moved) for e in examples] == [
        ("a", "who?", ("fox", "quick brown fox"), 16, False),
        ("b", "what?", ("dog",), 40, False),
    ]
    assert examples[0].context == CONTEXT
    assert not examples[0].may_be_unanswerable


def test_version_2_is_recognized_by_is_impossible_or_by_a_question_without_answers(tmp_path):
    content = squad(("a", "who?", [("fox", 16)]), ("b", "who?", []))
    assert all(example.may_be_unanswerable for example in read(tmp_path, content))
    content = squad(("a", "who?", [("fox", 16)]))
    content["data"][0]["paragraphs"][0]["qas"][0]["is_impossible"] = False
    assert all(example.may_be_unanswerable for example in read(tmp_path, content))


def test_a_wrong_answer_start_is_repaired_where_the_text_occurs_once_and_else_not_trained_on_but_kept(tmp_path):
    content = squad(("right", "?", [("fox", 16)]), ("once", "?", [("fox", 17)]), ("twice", "?", [("The", 20)]),
                    ("never", "?", [("cat", 16)]))  # fmt: skip
    examples = read(tmp_path, content)
    assert [(e.start, e.moved) for e in examples] == [(16, False), (16, True), *[(None, False)] * 2]
    keep, notes = trainable(examples)
    assert [e.id for e in keep] == ["right", "once"]
    assert len(notes) == 2
    assert notes[0].startswith("answer_start wrong or missing, repaired: 1")
    assert notes[1].startswith("questions left out of training: 2 of 4") and notes[1].endswith("twice, never")
    assert trainable(examples[:1]) == (examples[:1], [])
    assert trainable([Example("q", "?", "c", may_be_unanswerable=True)])[0], "unanswerable questions are trained on"


def test_is_impossible_needs_no_answers_key(tmp_path):
    content = squad(("a", "who?", []))
    qa = content["data"][0]["paragraphs"][0]["qas"][0]
    del qa["answers"]
    qa["is_impossible"] = True
    assert read(tmp_path, content)[0].answers == ()


@pytest.mark.parametrize(
    "content, complaint",
    [
        ("7", "it must be an object or a list"),
        ("{}", "data must be a list"),
        ('{"data": [7]}', r"data\[0\] must be an object"),
        ('{"data": [{}]}', r"data\[0\].question must be a string; there is only an empty object"),
        (
            '{"data": [{"paragraphs": [{"qas": [{"question": "?"}]}]}]}',
            r"data\[0\].paragraphs\[0\].qas\[0\].context must be a string",
        ),
        ('{"data": [{"paragraphs": [{"context": 7, "qas": []}]}]}', r"paragraphs\[0\].context must be a string"),
        ('{"data": [{"paragraphs": [{"context": "c"}]}]}', r"data\[0\].paragraphs\[0\].question must be a string"),
        (
            '{"data": [{"paragraphs": [{"context": "c", "qas": [{"id": "q", "question": "?"}]}]}]}',
            r"qas\[0\].answers must be a list",
        ),
        (
            '{"data": [{"paragraphs": [{"context": "c", "qas": [{"id": [5], "question": "?", "answers": []}]}]}]}',
            r"qas\[0\].id must be a string or a number",
        ),
        (
            '{"data": [{"paragraphs": [{"context": "c", "qas": [{"id": "q", "question": "?", "answers": '
            '[{"text": "c", "answer_start": "x"}]}]}]}]}',
            r"answers\[0\].answer_start must be a whole number",
        ),
        (
            '{"data": [{"paragraphs": [{"context": "c", "qas": [{"id": "q", "question": "?", "answers": '
            '[{"text": 7, "answer_start": -1}]}]}]}]}',
            r"answers\[0\].text must be a string",
        ),
        ('{"data": [', "not JSON"),
        ("", "empty"),
    ],
)
def test_what_is_not_squad_is_refused_with_its_place(tmp_path, content, complaint):
    with pytest.raises(UserError, match=complaint):
        read(tmp_path, content)


def test_an_answer_start_of_any_size_is_only_a_wrong_one(tmp_path):
    assert read(tmp_path, squad(("q", "?", [("fox", 10**30)])))[0].moved


# --- windows ---


@pytest.mark.parametrize(
    "pieces, room, overlap, bounds",
    [
        (10, 6, 2, [(0, 6), (4, 10)]),
        (6, 6, 2, [(0, 6)]),
        (7, 6, 2, [(0, 6), (4, 7)]),
        (0, 6, 2, [(0, 0)]),
        (9, 6, 50, [(0, 6), (3, 9)]),  # neighbours share at most half of the room
        (3, 1, 50, [(0, 1), (1, 2), (2, 3)]),
        (9, 3, 0, [(0, 3), (3, 6), (6, 9)]),
    ],
)
def test_context_windows_by_hand(pieces, room, overlap, bounds):
    assert context_windows(pieces, room, overlap) == bounds


def test_windows_cover_everything_and_neighbours_share_exactly_the_overlap():
    for pieces in range(1, 60):
        bounds = context_windows(pieces, 11, 4)
        assert bounds[0][0] == 0 and bounds[-1][1] == pieces
        assert all(a_end - b_start == 4 for (_, a_end), (b_start, _) in zip(bounds, bounds[1:]))  # noqa: B905, RUF007
        assert all(end - start <= 11 for start, end in bounds)


def test_a_question_that_leaves_no_room_for_the_context_is_named(tokenizer):
    examples = [Example("short", "fox", CONTEXT), Example("long", "fox " * 50, CONTEXT)]
    with pytest.raises(UserError, match="long: inputs of 40 pieces leave no room .* a question of 37;"):
        featurize(examples, tokenizer, (), 40, DataConfig(question_length=37))


def test_a_window_is_question_and_context_part_with_types_and_allowed_positions(tokenizer):
    example = Example("q", "quick fox", CONTEXT, ("lazy dog",), CONTEXT.index("lazy"))
    windows = featurize([example], tokenizer, (), 24, DATA)
    context = tokenizer.encode([CONTEXT])[0].ids[1:-1]
    question = tokenizer.encode(["quick fox"], max_length=10)[0].ids
    assert len(windows) > 1
    rebuilt = []
    for w in range(len(windows)):
        row = slice(windows.starts[w], windows.starts[w + 1])
        tokens, types, allowed = windows.tokens[row], windows.token_types[row], windows.allowed[row]
        at = windows.context_at[w]
        assert tokens[:at].tolist() == question and tokens[-1] == 3
        assert types.tolist() == [0] * at + [1] * (len(tokens) - at)
        assert allowed.tolist() == [True] + [False] * (at - 1) + [True] * (len(tokens) - at - 1) + [False]
        part = tokens[at:-1].tolist()
        assert rebuilt[len(rebuilt) - 4 :] == part[:4] or not rebuilt
        rebuilt += part if not rebuilt else part[4:]
        for j in range(len(part)):  # each piece has its place in the original text
            a, b = windows.piece_spans[windows.first_piece[w] + j]
            piece = tokenizer.backend.id_to_token(int(part[j])).removeprefix("##")
            assert piece in (CONTEXT[a:b].lower(), "[UNK]")
    assert rebuilt == context


def test_a_question_is_cut_to_its_cap_and_every_window_holds_it(tokenizer):
    windows = featurize([Example("q", "fox " * 50, CONTEXT)], tokenizer, (), 24, DATA)
    assert windows.context_at.tolist() == [10] * len(windows)  # [CLS] + 8 + [SEP]
    assert windows.lengths.max() == 24


def test_only_a_window_that_holds_the_whole_answer_is_labelled_with_it(tokenizer):
    """An answer cut by a window counts as not being there: positions 0, 0."""
    example = Example("q", "fox", CONTEXT, ("dog. The",), CONTEXT.index("dog."))
    cut = 0
    for max_length in range(16, 30):  # windows end before, in and behind the answer
        windows = featurize([example], tokenizer, (), max_length, DATA)
        for w, (start, end) in enumerate(windows.labels.tolist()):
            pieces = windows.piece_spans[windows.first_piece[w] :][: windows.lengths[w] - windows.context_at[w] - 1]
            part = CONTEXT[pieces[0, 0] : pieces[-1, 1]]
            if "dog. The" in part:
                at = windows.context_at[w]
                assert CONTEXT[pieces[start - at, 0] : pieces[end - at, 1]] == "dog. The"
            else:
                assert (start, end) == (0, 0)
                cut += part.endswith(("dog", "dog.")) or part.startswith((". The", "The goal"))
    assert cut


def test_no_answer_is_labelled_as_position_0_and_an_unknown_place_as_nothing_to_learn(tokenizer):
    examples = [Example("none", "?", CONTEXT, may_be_unanswerable=True), Example("lost", "?", CONTEXT, ("cat",))]
    assert featurize(examples, tokenizer, (), 40, DATA).labels.tolist()[:1] == [[0, 0]]
    lost = featurize(examples[1:], tokenizer, (), 40, DATA).labels
    assert (lost == IGNORE).all()
    dropped = Example("control", "?", "ab \x07 cd", ("\x07",), 3)  # the tokenizer drops the character
    assert (featurize([dropped], tokenizer, (), 40, DATA).labels == IGNORE).all()


def test_an_answer_that_no_window_holds_is_not_learned_as_no_answer(tokenizer):
    example = Example("q", "fox", CONTEXT, (CONTEXT[4:70],), 4)
    assert (featurize([example], tokenizer, (), 30, DATA).labels == IGNORE).all()
    assert (featurize([example], tokenizer, (), 80, DATA).labels > 0).all()


@pytest.mark.parametrize("context", ["", " \n ", "\x07", "\u00a0", "\u3000\u200b", "\u200b"])
def test_a_context_without_any_piece_has_one_window_and_no_answer(tokenizer, context):
    examples = [Example("q", "fox", context), Example("r", "fox", CONTEXT)]
    windows = featurize(examples, tokenizer, (), 64, DATA)
    assert windows.ids == ["q", "r"] and windows.allowed[: windows.starts[1]].sum() == 1
    texts = [a.text for a in decide(predictions(examples, windows, logits_for(windows)))]
    assert texts[0] == "" and texts[1]


def test_inputs_without_a_label_have_no_part_in_the_loss(tokenizer):
    examples = [Example("lost", "?", CONTEXT, ("cat",)), Example("q", "?", CONTEXT, ("fox",), 16)]
    windows = featurize(examples, tokenizer, (), 64, DATA)
    both, one = collate(windows, np.arange(2), CPU), collate(windows, np.array([1]), CPU)
    logits = torch.randn(2, both.input_ids.size(1), 2)
    (z, labels), (y, gold) = units("span", logits, both), units("span", logits[1:], one)
    assert torch.equal(z, y) and torch.equal(labels, gold)
    assert count_units(windows, np.arange(2)) == count_units(windows, np.array([1])) == 2


def test_contexts_shared_or_not_and_in_whatever_chunks_give_the_same_windows(tokenizer, monkeypatch):
    examples = [Example(f"q{i}", TEXTS[i % 3], TEXTS[i % 4] * 3, ("the",)) for i in range(23)]
    whole = featurize(examples, tokenizer, (), 30, DATA)
    monkeypatch.setattr("kd_scratch.tasks.question_answering.CHUNK", 5)
    parts = featurize(examples, tokenizer, (), 30, DATA)
    alone = [featurize([example], tokenizer, (), 30, DATA) for example in examples]
    assert parts.ids == whole.ids == [id for a in alone for id in a.ids]
    for name in ("tokens", "labels", "token_types", "allowed", "context_at"):
        assert np.array_equal(getattr(parts, name), getattr(whole, name))
        assert np.array_equal(np.concatenate([getattr(a, name) for a in alone]), getattr(whole, name))
    assert np.array_equal(parts.piece_spans, whole.piece_spans)
    assert np.array_equal(parts.first_piece, whole.first_piece)


# --- decoding ---


def exhaustive(logits: np.ndarray, longest: int) -> list[tuple[float, int, int]]:
    """All legal spans, best first; ties: the earlier start, then the shorter."""
    size = len(logits)
    spans = [
        (float(logits[s, 0]) + float(logits[e, 1]), s, e) for s in range(size) for e in range(s, min(size, s + longest))
    ]
    return sorted(spans, key=lambda span: (-span[0], span[1], span[2]))


@pytest.mark.parametrize("seed", range(40))
def test_best_spans_are_those_of_an_exhaustive_search_ties_included(seed):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(rng.integers(1, 40), 2)).astype(np.float32)
    if seed % 2:
        logits = np.round(logits)  # many ties
    longest, most = int(rng.integers(1, 50)), int(rng.integers(1, 30))
    expected = exhaustive(logits, longest)
    scores = span_scores(logits, longest)
    assert [(score, start, end) for start, end, score in best_spans(scores, most)] == expected[:most]


def test_merged_scores_are_the_better_of_both_where_a_span_is_in_both():
    a, b = np.array([[1, 5], [2, -np.inf]]), np.array([[3, 4], [6, -np.inf]])
    assert merge(a, b, 1).tolist() == [[1, 5], [3, 4], [6, -np.inf]]
    assert merge(a, b[:1], 1).tolist() == [[1, 5], [3, 4]]


def logits_for(windows, *spans, background=-5.0) -> np.ndarray:
    """Logits that point at (window, start position, end position, score) and at nothing else."""
    logits = np.full((len(windows.tokens), 2), background, np.float32)
    for w, start, end, score in spans:
        logits[windows.starts[w] + start, 0] = logits[windows.starts[w] + end, 1] = score / 2
    return logits


def predictions(examples, windows, logits, **data) -> Predictions:
    return Predictions(TASKS["squad"], examples, windows, logits, (), DataConfig(**data))


def test_nothing_outside_the_context_is_ever_an_answer(tokenizer):
    examples = [Example("q", "quick brown fox", CONTEXT)]
    windows = featurize(examples, tokenizer, (), 64, DATA)
    at, end = windows.context_at[0], windows.lengths[0] - 1
    logits = logits_for(windows, (0, 1, 2, 90), (0, end, end, 80), (0, at + 3, at + 3, 1))  # question, final [SEP]
    ((answers, _),) = candidates(examples, windows, logits, 30, 5)
    a, b = windows.piece_spans[3]
    assert (answers[0].text, answers[0].start, answers[0].end) == (CONTEXT[a:b], a, b)
    assert all(0 <= answer.start < answer.end <= len(CONTEXT) for answer in answers)


def test_an_answer_is_at_most_so_many_pieces_long(tokenizer):
    examples = [Example("q", "fox", CONTEXT)]
    windows = featurize(examples, tokenizer, (), 64, DATA)
    at = windows.context_at[0]
    logits = logits_for(windows, (0, at, at, 1))
    logits[at, 0] = logits[at + 4, 1] = 9
    for longest, text in ((5, 5), (4, 4)):
        ((answers, _),) = candidates(examples, windows, logits, longest, 1)
        assert len(tokenizer.encode([answers[0].text])[0].ids) - 2 <= text
    spans = windows.piece_spans
    assert candidates(examples, windows, logits, 5, 1)[0][0][0].end == spans[4, 1]
    assert candidates(examples, windows, logits, 4, 1)[0][0][0].end < spans[4, 1]


def test_no_answer_needs_every_window_to_have_none(tokenizer):
    """The score of "no answer" is the lowest over the windows, not that of the first or the last."""
    examples = [Example("q", "fox", CONTEXT * 4, may_be_unanswerable=True)]
    windows = featurize(examples, tokenizer, (), 40, DATA)
    assert len(windows) >= 3
    for sure in range(len(windows)):
        at = windows.context_at[sure]
        nulls = [(w, 0, 0, -8 if w == sure else 20) for w in range(len(windows))]
        logits = logits_for(windows, *nulls, (sure, at + 1, at + 1, 6))
        answer = decide(predictions(examples, windows, logits))[0]
        assert answer.text and answer.no_answer < 0.01, f"window {sure} has the answer"
        assert answer.score == 6
    logits = logits_for(windows, *[(w, 0, 0, 8) for w in range(len(windows))])
    answer = decide(predictions(examples, windows, logits))[0]
    assert (answer.text, answer.score) == ("", 8) and answer.best_span
    assert decide(predictions(examples, windows, logits, null_threshold=1.0))[0].text == answer.best_span


def test_a_file_of_version_1_never_gets_an_empty_answer_unless_the_context_is_empty(tokenizer):
    examples = [Example("q", "fox", CONTEXT, ("fox",), 16), Example("e", "fox", "", ("fox",))]
    windows = featurize(examples, tokenizer, (), 64, DATA)
    logits = logits_for(windows, (0, 0, 0, 50), (1, 0, 0, 50))
    texts = [answer.text for answer in decide(predictions(examples, windows, logits))]
    assert texts[0] and texts[1] == ""


def test_the_same_span_seen_by_two_windows_is_one_answer_with_its_better_score(tokenizer):
    examples = [Example("q", "fox", CONTEXT)]
    windows = featurize(examples, tokenizer, (), 24, DATA)
    overlap = windows.first_piece[1]  # the second window's first piece stands in the first window too
    a, b = windows.context_at[0] + overlap, windows.context_at[1]
    ((answers, _),) = candidates(examples, windows, logits_for(windows, (0, a, a, 3), (1, b, b, 5)), 30, 9)
    place = windows.piece_spans[overlap].tolist()
    assert [answer.score for answer in answers if [answer.start, answer.end] == place] == [5.0]


def test_probabilities_are_a_softmax_over_all_legal_spans_and_no_answer(tokenizer):
    examples = [Example("q", "fox", "a fox", may_be_unanswerable=True)]
    windows = featurize(examples, tokenizer, (), 64, DATA)
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(len(windows.tokens), 2)).astype(np.float32)
    ((answers, nothing),) = candidates(examples, windows, logits, 30, 1000)
    context = logits[windows.context_at[0] : -1]
    scores = [s for s, _, _ in exhaustive(context, 30)]
    none = float(logits[0].astype(float).sum())
    total = sum(math.exp(s) for s in [*scores, none])
    assert [a.probability for a in answers] == pytest.approx([math.exp(s) / total for s in scores])
    assert nothing.probability == pytest.approx(math.exp(none) / total)
    assert sum(a.probability for a in answers) + nothing.probability == pytest.approx(1)
    assert nothing.no_answer == pytest.approx(math.exp(none) / (math.exp(none) + math.exp(scores[0])))


def test_probabilities_sum_to_1_over_several_windows_too(tokenizer):
    examples = [Example("q", "fox", CONTEXT * 2)]
    windows = featurize(examples, tokenizer, (), 24, DATA)
    assert len(windows) > 2
    logits = np.random.default_rng(0).normal(size=(len(windows.tokens), 2)).astype(np.float32)
    ((answers, nothing),) = candidates(examples, windows, logits, 30, 10_000)
    assert len({(a.start, a.end) for a in answers}) == len(answers)
    assert sum(a.probability for a in answers) + nothing.probability == pytest.approx(1)
    twice = windows.first_piece[1]  # seen by two windows, both of them sure
    spans = [(w, windows.context_at[w] + twice - windows.first_piece[w]) for w in (0, 1)]
    ((answers, _),) = candidates(examples, windows, logits_for(windows, *[(w, a, a, 60) for w, a in spans]), 30, 2)
    assert answers[0].probability == pytest.approx(1)


def test_an_answer_length_beyond_the_context_costs_nothing(tokenizer):
    examples = [Example("q", "fox", CONTEXT)]
    windows = featurize(examples, tokenizer, (), 24, DATA)
    logits = np.random.default_rng(0).normal(size=(len(windows.tokens), 2)).astype(np.float32)
    assert candidates(examples, windows, logits, 10**12, 3) == candidates(examples, windows, logits, 24, 3)


def test_scores_of_any_size_give_finite_probabilities(tokenizer):
    examples = [Example("q", "fox", CONTEXT)]
    windows = featurize(examples, tokenizer, (), 64, DATA)
    for size in (3e4, -3e4):
        ((answers, nothing),) = candidates(examples, windows, logits_for(windows, (0, 0, 0, size)), 30, 3)
        assert all(0 <= answer.probability <= 1 and 0 <= answer.no_answer <= 1 for answer in [*answers, nothing])


# --- round trips: label -> decode -> the same text ---


def decoded_from_labels(examples, tokenizer, max_length, data) -> list[str]:
    """What decoding gives where the logits point exactly at the labels."""
    windows = featurize(examples, tokenizer, (), max_length, data)
    spans = [(w, start, end, 20 + 2 * (start > 0)) for w, (start, end) in enumerate(windows.labels) if start >= 0]
    found = candidates(examples, windows, logits_for(windows, *spans), data.answer_length, 1)
    return [answers[0].text if answers else "" for answers, _ in found]


ALPHABET = [*"abcxyz0129.,'-\"", "é", "e\u0301", "ñ", "ß", "İ", "ﬁ", "Å", "日", "本", "語", "한", "국", "😀"]
ALPHABET += ["👩\u200d👩\u200d👧", "🇩🇪", "‘", "—", "क्षि", "שָׁ", "𝔘", "o\u0301\u0302", "\ufeff", "\u200b", "\x07"]
DROPPED = "\x07\u200b\u200d\ufeff"  # the tokenizer's cleaning deletes these


@pytest.mark.parametrize("lowercase", [True, False])
def test_offsets_survive_emoji_combining_marks_cjk_and_control_characters(lowercase):
    """A word in a text of awkward characters comes back as the very same characters."""
    rng, examples = random.Random(5), []
    for i in range(300):
        words = ["".join(rng.choices(ALPHABET, k=rng.randint(1, 6))) for _ in range(30)]
        gaps = [rng.choice([" ", "  ", "\n", "\u00a0", " \x07 ", " \u200b ", "\u3000", "\t"]) for _ in words]
        context = "".join(word + gap for word, gap in zip(words, gaps, strict=True))
        k = rng.choice([k for k, word in enumerate(words) if word.strip(DROPPED)])
        start = sum(len(word + gap) for word, gap in zip(words[:k], gaps[:k], strict=True))
        examples.append(Example(f"q{i}", "?", context, (words[k],), start))
    tokenizer = train_tokenizer([example.context for example in examples], 500, lowercase)
    for example, predicted in zip(examples, decoded_from_labels(examples, tokenizer, 400, DataConfig()), strict=True):
        assert predicted.strip(DROPPED) == example.answers[0].strip(DROPPED), example.id


@pytest.mark.parametrize("file", ["dev.json", "test.json"])
def test_every_gold_answer_of_policyqa_comes_back_or_cuts_a_word_piece(real_data, file):
    examples = read_squad(real_data(f"policyqa/{file}"), "", DATA)
    assert len(examples) == {"dev.json": 3809, "test.json": 4152}[file]
    assert trainable(examples) == (examples, [])
    tokenizer = train_tokenizer(TASKS["squad"].texts(examples[::4]), 3000)
    data = DataConfig(answer_length=600)
    lost = []
    for example, predicted in zip(examples, decoded_from_labels(examples, tokenizer, 1000, data), strict=True):
        gold, end = example.answers[0], example.start + len(example.answers[0])
        if predicted == gold:
            continue
        # The gold answer starts or ends inside a word, and the piece there reaches beyond it.
        begins_inside = example.context[max(0, example.start - 1) : example.start + 1].isalnum() and example.start > 0
        ends_inside = example.context[end - 1 : end + 1].isalnum() and end < len(example.context)
        assert (begins_inside or ends_inside) and gold in predicted, (example.id, gold, predicted)
        lost.append(example.id)
    assert len(lost) < 0.03 * len(examples)


# --- padding, training, prediction ---


def test_padding_changes_neither_logits_nor_answer_nor_loss(tokenizer):
    examples = [Example(f"q{i}", TEXTS[i % 4][: 8 + 5 * i], CONTEXT * (1 + i % 2), ("fox",), 16) for i in range(6)]
    windows = featurize(examples, tokenizer, (), 40, DATA)
    student, teacher = (tiny_model("span", seed=s, vocab_size=tokenizer.vocab_size).double() for s in (0, 1))
    everything = np.arange(len(windows))
    assert windows.lengths.min() < windows.lengths.max()

    def loss(indices):
        batch = collate(windows, indices, CPU)
        (z, labels), (t, _) = (units("span", m(**batch.inputs).logits.double(), batch) for m in (student, teacher))
        return distillation_loss(z, t, labels, temperature=2.0, alpha=0.5)

    alone = sum(loss(np.array([i])) for i in everything)
    torch.testing.assert_close(loss(everything), alone, rtol=1e-6, atol=1e-6)
    one_by_one = compute_logits(student, windows, CPU, batch_size=1)
    together = compute_logits(student, windows, CPU, batch_size=64)
    np.testing.assert_allclose(one_by_one, together, atol=1e-6)
    answers = [[a.text for a in decide(predictions(examples, windows, logits))] for logits in (one_by_one, together)]
    assert answers[0] == answers[1]


def test_predictions_are_the_official_form_and_metrics_those_of_them(tokenizer):
    examples = [Example("a", "fox", CONTEXT, ("The quick",), 0), Example("b", "fox", CONTEXT, ("fox",), 16)]
    windows = featurize(examples, tokenizer, (), 64, DATA)
    (start, end), _ = windows.labels
    logits = logits_for(windows, (0, start, end, 9), (1, start, end, 9))
    result = predictions(examples, windows, logits)
    assert prediction_records(result) == {"a": "The quick", "b": "The quick"}
    metrics = TASKS["squad"].score(result)
    assert (metrics["exact_match"], metrics["f1"], metrics["examples"]) == (0.5, 0.5, 2)
    assert "best_f1" not in metrics
    assert metrics["gold_beyond_answer_length"] == 0
    assert (
        TASKS["squad"].score(predictions(examples, windows, logits, answer_length=1))["gold_beyond_answer_length"] == 2
    )
    lines = mistakes(result, 5).split("\n")
    assert lines[0].startswith("surest mistakes, of 1")
    assert lines[3] == "    predicted 'The quick', gold 'fox'"
    assert "1-2 words" in TASKS["squad"].details(metrics)


def test_find_answers_lists_no_answer_among_the_best_most_probable_first(tokenizer):
    model = tiny_model("span", vocab_size=tokenizer.vocab_size)
    (best,) = find_answers(LoadedModel(model, tokenizer, 40), ["quick fox"], CONTEXT, DATA, CPU)
    assert len(best) == 6 and sum(answer.text == "" for answer in best) == 1
    assert [a.probability for a in best] == sorted((a.probability for a in best), reverse=True)
    assert all(answer.text == CONTEXT[answer.start : answer.end] for answer in best)
    (best,) = find_answers(LoadedModel(model, tokenizer, 40), ["quick fox"], "", DATA, CPU)
    assert [(answer.text, answer.probability) for answer in best] == [("", 1.0)]


def test_a_tokenizer_that_was_saved_and_opened_makes_the_same_windows(tmp_path, tokenizer):
    tokenizer.save(tmp_path, 40)
    examples = [Example("q", "fox", CONTEXT)]
    a, b = (featurize(examples, t, (), 40, DATA) for t in (tokenizer, load_tokenizer(tmp_path)))
    assert np.array_equal(a.tokens, b.tokens) and np.array_equal(a.piece_spans, b.piece_spans)
