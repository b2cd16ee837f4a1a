"""Exact match and F1, rule by rule, by hand; then 10,000 generated pairs against a long-hand second implementation."""

import random

import pytest

from kd_scratch.tasks.squad_metric import (
    best_threshold,
    exact_match,
    f1,
    normalize,
    official_scores,
    squad_metrics,
)


@pytest.mark.parametrize(
    "answer, left",
    [
        ("The  Eiffel\tTower", "eiffel tower"),
        ("an apple, a day.", "apple day"),
        ("U.S.A.", "usa"),
        ("well-known", "wellknown"),  # punctuation goes without leaving a space
        ("theatre anatomy a1", "theatre anatomy a1"),  # articles are whole words
        ("a.b the.", "ab"),  # punctuation goes first: "a.b" is no article, "the." is one
        ("“quoted”", "“quoted”"),  # only ASCII punctuation
        ("ÉCOLE Straße", "école straße"),
        ("the", ""),
        ("...", ""),
        ("", ""),
        ("a\u00a0b", "b"),  # any whitespace separates
    ],
)
def test_normalizing_drops_case_punctuation_articles_and_spare_spaces(answer, left):
    assert normalize(answer) == left


@pytest.mark.parametrize(
    "gold, answer, exact, overlap",
    [
        ("the Broncos", "Broncos", 1.0, 1.0),
        ("Denver Broncos", "Broncos", 0.0, 2 / 3),  # precision 1, recall 1/2
        ("one two three", "two three four five", 0.0, 4 / 7),  # precision 2/4, recall 2/3
        ("a b b c", "b b b", 0.0, 4 / 6),  # a repeated word counts as often as both have it; "a" is an article
        ("x", "y", 0.0, 0.0),
    ],
)
def test_exact_match_and_f1_by_hand(gold, answer, exact, overlap):
    assert exact_match(gold, answer) == exact
    assert f1(gold, answer) == f1(gold, answer, version2=True) == pytest.approx(overlap)


@pytest.mark.parametrize(
    "gold, answer, in_1, in_2", [("the", "a", 0.0, 1.0), ("", "", 0.0, 1.0), ("the", "x", 0.0, 0.0)]
)
def test_where_nothing_is_left_f1_is_0_in_version_1_and_is_agreement_in_version_2(gold, answer, in_1, in_2):
    assert (f1(gold, answer), f1(gold, answer, version2=True)) == (in_1, in_2)


def scores(golds, answer, version2):
    return official_scores([("q", golds)], {"q": answer}, version2)[0][1:]


def test_the_best_of_several_gold_answers_counts():
    assert scores(("no", "two words", "words"), "Words!", False) == (1.0, 1.0)


def test_the_against_an_unanswerable_question_is_right_in_version_2_only_by_its_normal_form():
    assert scores((), "", True) == (1.0, 1.0)
    assert scores((), "the", True) == (1.0, 1.0), "nothing is left of 'the', so it is empty"
    assert scores((), "x", True) == (0.0, 0.0)


def test_gold_answers_of_which_nothing_is_left_do_not_count_in_version_2():
    assert scores(("the", "word"), "", True) == (0.0, 0.0)
    assert scores(("the",), "", True) == (1.0, 1.0), "no gold is left: nothing is the right answer"
    assert scores(("the",), "", False) == (1.0, 0.0), "in version 1.1 'the' equals nothing, but they share no word"


def test_a_missing_prediction_is_wrong_in_version_1_and_left_out_in_version_2():
    questions = [("p", ("x",)), ("q", ("y",))]
    assert official_scores(questions, {"p": "x"}, False) == [(0, 1.0, 1.0), (1, 0.0, 0.0)]
    assert official_scores(questions, {"p": "x"}, True) == [(0, 1.0, 1.0)]


def test_duplicate_ids_count_each_in_version_1_and_once_as_the_last_in_version_2():
    questions = [("q", ("x",)), ("q", ("y",))]
    assert official_scores(questions, {"q": "x"}, False) == [(0, 1.0, 1.0), (1, 0.0, 0.0)]
    assert official_scores(questions, {"q": "x"}, True) == [(1, 0.0, 0.0)]


def test_the_threshold_search_by_hand():
    rows = [(0.1, "a", 1.0, True), (0.2, "b", 0.0, False), (0.3, "c", 0.5, True), (0.9, "d", 0.0, False)]
    # nothing answered: 2 right. + a: 3. + b: 2. + c: 2.5. + d: 1.5
    assert best_threshold(rows[::-1]) == (3 / 4, 0.1)
    assert best_threshold([(0.0, "x", 0.0, False)]) == (1.0, 0.0), "answering nothing is best"
    assert best_threshold([(0.7, "x", 1.0, True)]) == (1.0, 0.7)
    tie = [(0.5, "a", 1.0, True), (0.5, "b", 0.0, False)]
    assert best_threshold(tie) == (1.0, 0.5), "as the script has it"
    no_span = [(0.5, "", 0.0, False), (0.6, "x", 1.0, True)]
    assert best_threshold(no_span) == (1.0, 0.6), "nothing to lose"


def test_metrics_of_version_2_split_by_whether_there_is_an_answer():
    questions = [("a", ("one two",)), ("b", ("x y z",)), ("c", ())]
    predicted = {"a": "one", "b": "x y z", "c": "w"}
    spans = {"a": ("one", 0.1), "b": ("x y z", 0.2), "c": ("w", 0.8)}
    metrics = squad_metrics(questions, predicted, spans)
    assert metrics["exact_match"] == pytest.approx(1 / 3)
    assert metrics["f1"] == pytest.approx((2 / 3 + 1) / 3)
    assert (metrics["answerable_exact_match"], metrics["unanswerable_f1"]) == (0.5, 0.0)
    assert (metrics["best_exact_match"], metrics["best_exact_match_threshold"]) == (pytest.approx(2 / 3), 0.2)
    assert (metrics["best_f1"], metrics["best_f1_threshold"]) == (pytest.approx(8 / 9), 0.2)
    assert {name: row["questions"] for name, row in metrics["per_class"].items()} == {
        "no answer": 1, "1-2 words": 1, "3-5 words": 1,
    }  # fmt: skip


# --- a second implementation, long-hand: no regular expression, no Counter ---


def longhand_words(text: str) -> list[str]:
    kept = ""
    for character in text.lower():
        if not (33 <= ord(character) <= 47 or 58 <= ord(character) <= 64 or 91 <= ord(character) <= 96
                or 123 <= ord(character) <= 126):  # fmt: skip
            kept += character
    # An article is one between two word boundaries: its neighbours are no letters, digits or underscores.
    out, i = "", 0
    while i < len(kept):
        for article in ("the", "an", "a"):
            before = i == 0 or not (kept[i - 1].isalnum() or kept[i - 1] == "_")
            end = i + len(article)
            after = end >= len(kept) or not (kept[end].isalnum() or kept[end] == "_")
            if kept.startswith(article, i) and before and after:
                out, i = out + " ", end
                break
        else:
            out, i = out + kept[i], i + 1
    words, word = [], ""
    for character in out + " ":
        if character.isspace():
            if word:
                words.append(word)
            word = ""
        else:
            word += character
    return words


def longhand_f1(gold: str, answer: str, version2: bool) -> float:
    gold_words, words = longhand_words(gold), longhand_words(answer)
    if version2 and (not gold_words or not words):
        return 1.0 if gold_words == words else 0.0
    left, same = list(gold_words), 0
    for word in words:
        if word in left:
            left.remove(word)
            same += 1
    if same == 0:
        return 0.0
    precision, recall = same / len(words), same / len(gold_words)
    return (2 * precision * recall) / (precision + recall)


def test_10000_generated_pairs_agree_exactly_with_a_longhand_implementation():
    rng = random.Random(0)
    vocabulary = ["the", "The", "a", "an", "A.", "x", "X", "yes,", "no", "é", "an-a", "(b)", "u.s.", "``", "b", "日本",
                  "ß", "Ünder", "_", "a_b", "the's", "1,000", "\u00a0", "\t", "…", "ﬁ", "İ"]  # fmt: skip
    for _ in range(10_000):
        gold, answer = (
            rng.choice(["", " "]) + rng.choice([" ", "  ", "-", ""]).join(rng.choices(vocabulary, k=rng.randint(0, 6)))
            for _ in range(2)
        )
        if rng.random() < 0.3:  # make equals likely
            answer = " ".join(gold.upper().split())
        assert normalize(gold).split() == longhand_words(gold), repr(gold)
        assert exact_match(gold, answer) == float(longhand_words(gold) == longhand_words(answer)), (gold, answer)
        for version2 in (False, True):
            assert f1(gold, answer, version2) == longhand_f1(gold, answer, version2), (gold, answer)
