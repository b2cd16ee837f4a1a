"""A model and a text in, a prediction out: its label, its entities, or the answer to a question."""

from collections.abc import Sequence

import numpy as np
import torch

from kd_scratch.common.errors import UserError
from kd_scratch.config import DataConfig, flag_name
from kd_scratch.evaluation.evaluate import LoadedModel, evaluate, require_fit
from kd_scratch.evaluation.inference import compute_logits
from kd_scratch.tasks import classification, question_answering, token_classification
from kd_scratch.tasks.conll_metric import entities
from kd_scratch.tasks.question_answering import Answer
from kd_scratch.tasks.spans import split_words

ANSWERS = 5  # the best answers that are given to each question
#: Head -> the flags that `predict` needs for it; of a pair of texts, text_pair as well.
INPUTS = {"sequence": ("text",), "token": ("text",), "span": ("question", "context")}
BOTH = " | "  # between the texts of a pair, where one text names them


def predict(
    loaded: LoadedModel,
    texts: Sequence[str] | str | None = None,
    questions: Sequence[str] | str | None = None,
    context: str | None = None,
    data: DataConfig | None = None,
    device: torch.device | None = None,
    pairs: Sequence[str] | str | None = None,
) -> dict[str, dict | list]:
    """Predictions for texts, or for questions about a context, as JSON can hold them, by text or question.

    sequence head: each label with its probability, the most probable first, or, where a text may have several, what
    `multi_label_answer` gives; pairs: the second text of each, and the result is by "text | second text".
    token head: a list of entities, see `find_entities`.
    span head: a list of answers with start, end (code points), probability and whether it is "no answer".
    device: where the model is (None: the CPU).
    Raises UserError where the model's head needs other inputs.
    """
    data = data or DataConfig()
    device = device or torch.device("cpu")
    # A string is one text: as a sequence it would be one of letters.
    texts, questions, pairs = ([each] if isinstance(each, str) else each for each in (texts, questions, pairs))
    check_inputs(loaded, {"text": texts, "text_pair": pairs, "question": questions, "context": context})
    head = loaded.model.config.head
    if head == "sequence":
        require_fit(loaded, pairs is not None, "this")
    if pairs is not None:
        if len(pairs) != len(texts):
            raise UserError(f"--text has {len(texts)} texts, --text-pair {len(pairs)}; give as many, in the same order")
    if head == "sequence":
        inputs = [(text,) for text in texts] if pairs is None else list(zip(texts, pairs, strict=True))
        found = {BOTH.join(each): classify(loaded, device, *each) for each in inputs}
        config = loaded.model.config
        threshold = data.threshold_or(config.threshold)
        if config.multi_label:
            found = {text: multi_label_answer(each, threshold) for text, each in found.items()}
        return found
    if head == "token":
        return {text: find_entities(loaded, text, data, device) for text in texts}
    found = find_answers(loaded, list(questions), context, data, device)
    return {question: list(map(answer_record, best)) for question, best in zip(questions, found, strict=True)}


def check_inputs(loaded: LoadedModel, inputs: dict[str, object]) -> None:
    """UserError where the given inputs (those that are not None) are not those that the model's head needs."""
    head = loaded.model.config.head
    if head not in INPUTS:
        cure = "predict needs a model trained for a task (train --model)"
        raise UserError(f"{loaded.directory}: has no head for a task; {cure}")
    given, needed = {name for name, value in inputs.items() if value is not None}, INPUTS[head]
    pairs = loaded.model.config.pairs
    if head == "sequence" and (pairs or (pairs is None and "text_pair" in given)):
        needed = ("text", "text_pair")
    if given != set(needed):
        flags = " and ".join(map(flag_name, needed))
        if pairs:
            raise UserError(f"{loaded.directory}: was trained on pairs of texts; predict needs {flags}, and no more")
        raise UserError(f"{loaded.directory}: has a {head} head; predict needs {flags} for it, and no more")


def classify(loaded: LoadedModel, device: torch.device, text: str, pair: str | None = None) -> dict[str, float]:
    """Every label of a text (or a pair) with its probability, the most probable first. They sum to 1, unless a text
    may have several.

    UserError where logits are not finite numbers.
    """
    example = classification.Example("text", text, None, pair=pair)
    features = classification.featurize([example], loaded.tokenizer, (), loaded.max_length, DataConfig())
    logits = torch.from_numpy(compute_logits(loaded.model, features, device)[0]).double()  # C
    probability = (logits.sigmoid() if loaded.model.config.multi_label else logits.softmax(dim=0)).numpy()
    labels = loaded.model.config.labels
    return {labels[i]: float(probability[i]) for i in np.argsort(-probability, kind="stable")}


def multi_label_answer(probabilities: dict[str, float], threshold: float) -> dict:
    """What a text gets of labels that do not exclude each other: those that reach the threshold, and all."""
    labels = [label for label, p in probabilities.items() if p >= threshold]
    return {"labels": labels, "threshold": threshold, "probabilities": probabilities}


def look_for_answers(
    loaded: LoadedModel, questions: list[str], context: str, data: DataConfig, device: torch.device
) -> tuple[question_answering.EncodedWindows, np.ndarray, list[tuple[list[Answer], Answer]]]:
    """The windows over a context for each question, their logits, and its best answers and "no answer"."""
    examples = [
        question_answering.Example(f"question {i}", question, context) for i, question in enumerate(questions, 1)
    ]
    windows = question_answering.featurize(examples, loaded.tokenizer, (), loaded.max_length, data)
    logits = compute_logits(loaded.model, windows, device)
    return windows, logits, question_answering.candidates(examples, windows, logits, data.answer_length, ANSWERS)


def find_answers(
    loaded: LoadedModel, questions: list[str], context: str, data: DataConfig, device: torch.device
) -> list[list[Answer]]:
    """The best answers to each question about a context, with "no answer" among them, the most probable first."""
    _, _, found = look_for_answers(loaded, questions, context, data, device)
    return [sorted([*answers, no_answer], key=lambda answer: -answer.probability) for answers, no_answer in found]


def answer_record(answer: Answer) -> dict:
    """An answer as JSON can hold it."""
    return {
        "answer": answer.text,
        "start": answer.start,
        "end": answer.end,
        "probability": answer.probability,
        "no_answer": answer.no_answer,
    }


def tag_words(
    loaded: LoadedModel, text: str, data: DataConfig, device: torch.device
) -> tuple[token_classification.EncodedSentences, tuple[str, ...], np.ndarray]:
    """The words of a text as the model reads them, the tag of each, and how probable that is."""
    example = token_classification.from_text("text", text)
    predictions = evaluate(loaded, token_classification.TASK, [example], data, device)
    return predictions.features, predictions.decisions[0], token_classification.probabilities(predictions)


def find_entities(loaded: LoadedModel, text: str, data: DataConfig, device: torch.device) -> list[dict]:
    """The entities in a text, in order: their slice of it, start and end (code points), type, and probability."""
    _, tags, probability = tag_words(loaded, text, data, device)
    return entities_in(text, tags, probability)


def entities_in(text: str, tags: Sequence[str], probability: np.ndarray) -> list[dict]:
    """The entities that the tags of a text's words make; each as probable as the least certain of its tags."""
    spans = split_words(text)
    found = []
    for kind, first, end in entities(tags):
        start, _ = spans[first]
        _, stop = spans[end - 1]
        least = float(probability[first:end].min())
        found.append({"entity": text[start:stop], "type": kind, "start": start, "end": stop, "probability": least})
    return found
