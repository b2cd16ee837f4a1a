"""Question answering against references: windows as transformers' tokenizer cuts them, decoding as an exhaustive search
over all legal spans finds them."""

from itertools import chain

import numpy as np
import pytest

from kd_scratch.config import DataConfig
from kd_scratch.data.tokenizer import load_tokenizer
from kd_scratch.tasks import TASKS, Predictions
from kd_scratch.tasks.question_answering import EncodedWindows, Example, candidates, decide, featurize, read_squad

transformers = pytest.importorskip("transformers")


@pytest.mark.parametrize("file", ["policyqa/dev.json", "policyqa/test.json"])
@pytest.mark.parametrize("max_length, overlap", [(384, 128), (96, 32), (64, 0)])
def test_windows_are_those_of_transformers(minilm, real_data, file, max_length, overlap):
    examples = read_squad(real_data(file), "", DataConfig())
    data = DataConfig(overlap=overlap, question_length=16)
    windows = featurize(examples, load_tokenizer(minilm), (), max_length, data)
    reference = transformers.AutoTokenizer.from_pretrained(minilm)
    cut = reference([e.question for e in examples], truncation=True, max_length=16, add_special_tokens=False)[
        "input_ids"
    ]
    questions = ["" for _ in examples]
    # The cap on questions is ours; the reference gets them cut already, as the text that the first 16 pieces cover.
    spans = reference([e.question for e in examples], return_offsets_mapping=True, add_special_tokens=False)
    for i, example in enumerate(examples):
        end = spans["offset_mapping"][i][: len(cut[i])][-1][1]
        questions[i] = example.question[:end]
    theirs = reference(
        questions, [e.context for e in examples], truncation="only_second", max_length=max_length, stride=overlap,
        return_overflowing_tokens=True, return_offsets_mapping=True, return_token_type_ids=True,
    )  # fmt: skip
    assert theirs["overflow_to_sample_mapping"] == windows.example.tolist()
    assert list(chain(*theirs["input_ids"])) == windows.tokens.tolist()
    assert list(chain(*theirs["token_type_ids"])) == windows.token_types.tolist()
    for w, offsets in enumerate(theirs["offset_mapping"]):
        at, pieces = windows.context_at[w], windows.lengths[w] - windows.context_at[w] - 1
        mine = windows.piece_spans[windows.first_piece[w] :][:pieces]
        assert [tuple(span) for span in mine.tolist()] == [tuple(span) for span in offsets[at:-1]]


def random_case(rng) -> tuple[Example, EncodedWindows, np.ndarray]:
    """One question, a context of numbered words, windows of random sizes over it, random logits, often with ties."""
    size, overlap = int(rng.integers(1, 60)), int(rng.integers(0, 4))
    words = [f"w{i}" for i in range(size)]
    ends = np.cumsum([len(word) + 1 for word in words]) - 1
    spans = np.stack([ends - [len(word) for word in words], ends], axis=1).astype(np.int32)
    room, question = int(rng.integers(5, 40)), int(rng.integers(1, 5))
    bounds = [(0, min(room, size))]
    while bounds[-1][1] < size:
        start = bounds[-1][1] - overlap
        bounds.append((start, min(start + room, size)))
    lengths = [question + 3 + end - start for start, end in bounds]
    starts = np.cumsum([0, *lengths])
    context_at = np.full(len(bounds), question + 2)
    allowed = np.zeros(starts[-1], bool)
    for start, end in zip(starts[:-1], starts[1:], strict=True):
        allowed[start] = allowed[start + question + 2 : end - 1] = True
    windows = EncodedWindows(
        head="span", ids=["q"] * len(bounds), tokens=np.zeros(starts[-1], np.int32), starts=starts,
        labels=np.zeros((len(bounds), 2), np.int64), allowed=allowed, example=np.zeros(len(bounds), int),
        context_at=context_at, first_piece=np.array([start for start, _ in bounds]), piece_spans=spans,
    )  # fmt: skip
    logits = rng.normal(scale=3, size=(starts[-1], 2)).astype(np.float32)
    if rng.random() < 0.3:
        logits = np.round(logits)
    return Example("q", "?", " ".join(words), may_be_unanswerable=True), windows, logits


def search(
    example: Example, windows: EncodedWindows, logits: np.ndarray, longest: int
) -> tuple[tuple[int, int], float, float]:
    """By trying everything: place and score of the best span, the first by start and end where several are best; and
    the lowest score of position 0."""
    best, place, none = -np.inf, (0, 0), np.inf
    for w in range(len(windows)):
        begin, end = int(windows.starts[w]), int(windows.starts[w + 1])
        none = min(none, float(logits[begin, 0]) + float(logits[begin, 1]))
        for a in range(begin + 1, end):
            for b in range(a, min(end, a + longest)):
                if windows.allowed[a] and windows.allowed[b]:
                    pieces = [int(windows.first_piece[w]) + i - begin - int(windows.context_at[w]) for i in (a, b)]
                    here = int(windows.piece_spans[pieces[0], 0]), int(windows.piece_spans[pieces[1], 1])
                    score = float(logits[a, 0]) + float(logits[b, 1])
                    if score > best or (score == best and here < place):
                        best, place = score, here
    return place, best, none


def test_1000_random_cases_decode_as_an_exhaustive_search_does():
    rng, empty, several, tied = np.random.default_rng(0), 0, 0, 0
    for _ in range(1000):
        example, windows, logits = random_case(rng)
        longest = int(rng.integers(1, 40))
        place, best, none = search(example, windows, logits, longest)
        ((answers, nothing),) = candidates([example], windows, logits, longest, 3)
        assert ((answers[0].start, answers[0].end), answers[0].score, nothing.score) == (place, best, none)
        assert answers[0].text == example.context[slice(*place)]
        data = DataConfig(answer_length=longest)
        (said,) = decide(Predictions(TASKS["squad"], [example], windows, logits, (), data))
        assert said.text == ("" if none > best else example.context[slice(*place)])
        empty, several = empty + (none > best), several + (len(windows) > 1)
        tied += len(answers) > 1 and answers[0].score == answers[1].score
    assert empty > 20 and several > 300 and tied > 20
