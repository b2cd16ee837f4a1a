"""Which head the model in a folder has and what its classes mean.

config.json tells it, and where that is silent, the names of the parameters. Old folders lack
keys, others contradict themselves. What is not decided is never guessed: it is a problem, told in
one line with its cure where the head is used, and harmless where another head takes its place.
"""

import re
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass

from kd_scratch.common.errors import UserError

#: Head -> how the names of architectures with it end, in the order of preference for what is written.
ARCHITECTURES = {
    "sequence": ("ForSequenceClassification",),
    "token": ("ForTokenClassification",),
    "span": ("ForQuestionAnswering",),
    "mlm": ("ForMaskedLM", "ForPreTraining", "LMHeadModel"),
}
#: model_type -> what the names of its architectures begin with.
CLASSES = {"bert": "Bert", "distilbert": "DistilBert", "kd_scratch": "KdScratch"}
#: What a parameter's name holds, and how it ends, where it proves a model_type. RoBERTa's are BERT's without "bert.".
MODEL_TYPES = {
    "bert": (".bert.", "attention.self.query.weight"),
    "distilbert": ("", "attention.q_lin.weight"),
}
#: What wrappers put before the names of all parameters: PyTorch's, those of trainers, and one's own classes.
WRAPPER = r"(module|_orig_mod|_forward_module|model|base_model|auto_model|encoder|backbone|net|bert|distilbert|\d+)\."
WORDS = re.compile(rf"(?P<wrapper>({WRAPPER})*?)((bert|distilbert)\.)?embeddings\.word_embeddings\.weight")
#: The kinds of problems that a sequence head of the hub may be for: the values of problem_type.
#: (regression: false is a key of our own, with which one label is one; transformers 5 refuses ONE with it.)
ONE, MULTI_LABEL, NUMBERS = "single_label_classification", "multi_label_classification", "regression"
MOST_LABELS = 2**20
REGRESSION = "gives numbers instead of labels (regression), which is not supported"
AS_A_BODY = "its body can be trained for a task with labels (train --model)"


@dataclass(frozen=True)
class OwnHead:
    """A model's own head: its kind, its labels by number, and why it cannot be used, if so.

    Then it has no labels: a new head takes its place whatever that one's are called.
    """

    kind: str | None
    labels: tuple[str, ...] = ()
    problem: str = ""
    multi_label: bool = False  # whether each label is there or not by itself


def wrapper_prefix(names: Collection[str]) -> str:
    """What wrappers put before the names of all parameters, such as "module."; "" where not all have it."""
    found = {match["wrapper"] for name in names if (match := WORDS.fullmatch(name))}
    prefix = found.pop() if len(found) == 1 else ""
    return prefix if all(name.startswith(prefix) for name in names) else ""


def completed(raw: dict, names: Collection[str], place: str) -> tuple[dict, list[str]]:
    """A config.json with the model_type and architectures that the parameters' names tell; notes of that.

    UserError where they do not tell the model_type.
    """
    prefix = wrapper_prefix(names)
    names = {name.removeprefix(prefix) for name in names}
    raw, notes, architecture = dict(raw), [], _architecture(raw, place)
    if raw.get("model_type") is None:
        named = [kind for kind in MODEL_TYPES if re.match(f"{kind}(for|model|lm)", architecture.lower())]
        shown = [
            kind for kind, (part, end) in MODEL_TYPES.items() if any(part in f".{n}" and n.endswith(end) for n in names)
        ]
        if not named + shown:
            cure = 'write "model_type": "bert" (or "distilbert") into it, if the model is one'
            raise UserError(f"{place}: has no model_type, and its parameters do not tell it; {cure}")
        raw["model_type"] = (named + shown)[0]
        notes.append(f"{place}: has no model_type; it is a {raw['model_type']}, by its parameters")
    if not architecture:
        head = _head_of(names, raw)
        end = ARCHITECTURES[head][0] if head in ARCHITECTURES else head or "Model"
        raw["architectures"] = [CLASSES.get(str(raw["model_type"]), "") + end]
        if head in ARCHITECTURES:
            notes.append(f"{place}: has no architectures; it has a {head} head, by its parameters")
    return raw, notes


UNDECIDED = "ForSequenceOrTokenClassification"  # until 2020 BERT's token classifiers had a pooler, too


def _head_of(names: Collection[str], raw: dict) -> str | None:
    """The head that parameters belong to; UNDECIDED between two."""
    if "qa_outputs.weight" in names:
        return "span"
    if any(name.startswith(("cls.predictions.", "vocab_transform.")) for name in names):
        return "mlm"
    if "classifier.weight" not in names:
        return None
    if "pre_classifier.weight" in names:
        return "sequence"
    if not any(name.endswith("pooler.dense.weight") for name in names):
        return "token"
    labels = raw.get("id2label")
    if not isinstance(labels, dict) or "LABEL_0" in labels.values():
        return UNDECIDED
    return "token" if "O" in labels.values() else "sequence"


def own_head(raw: dict, place: str) -> OwnHead:
    """The head that a completed config.json describes. UserError where architectures is no list."""
    architecture = _architecture(raw, place)
    kind = next((head for head, ends in ARCHITECTURES.items() if architecture.endswith(ends)), None)
    if architecture.endswith(UNDECIDED):
        cure = '["BertForSequenceClassification"] (of texts) or ["BertForTokenClassification"] (of words)'
        return OwnHead("sequence", (), f'{place}: has no architectures; write "architectures": {cure} into it')
    if kind == "mlm" and raw.get("tie_word_embeddings") is False:
        return OwnHead(None)  # ours shares the table of tokens; what is left is an encoder as any other
    if kind not in ("sequence", "token"):
        return OwnHead(kind)
    try:
        if kind == "sequence":
            _check_problem(raw, place)
        multi_label = kind == "sequence" and raw.get("problem_type") == MULTI_LABEL
        return OwnHead(kind, _labels(raw, place), multi_label=multi_label)
    except UserError as error:
        return OwnHead(kind, (), str(error))


def note_of_own_class(raw: dict, names: Collection[str], place: str) -> str:
    """What to write into a completed config.json whose architecture is somebody's own class, where a parameter is
    called as a usual head's; "" for all others. Whether it computes the same only its owner knows.
    """
    architecture = _architecture(raw, place)
    if own_head(raw, place).kind or architecture.endswith(("Model", "ForMultipleChoice")):
        return ""
    has_pooler = any(name.endswith(("pre_classifier.weight", "pooler.dense.weight")) for name in names)
    heads = {"sequence": has_pooler and "classifier.weight" in names, "token": "classifier.weight" in names}
    fitting = [head for head, fits in (heads | {"span": "qa_outputs.weight" in names}).items() if fits]
    if not fitting:
        return ""
    classes = " or ".join(f'"{CLASSES[raw["model_type"]]}{ARCHITECTURES[head][0]}"' for head in fitting)
    why = "a class of its own, whose head is not read; if it computes what a usual one does"
    return f"{place}: architectures is {architecture[:60]}, {why}, write {classes} in its place"


def is_nameless(labels: Collection[str]) -> bool:
    """Whether labels are what `transformers` calls those without names: LABEL_0, LABEL_1, …"""
    return len(labels) > 0 and tuple(labels) == tuple(f"LABEL_{i}" for i in range(len(labels)))


def numbered(labels: tuple[str, ...], wanted: Collection[str]) -> tuple[str, ...]:
    """Nameless labels as their numbers, "0", "1", …, where those are what is wanted; else the labels as they are."""
    numbers = tuple(map(str, range(len(labels))))
    return numbers if is_nameless(labels) and wanted and set(wanted) <= set(numbers) else labels


def note_of_numbers(labels: tuple[str, ...]) -> str:
    """What is said where labels were taken so."""
    return f"its labels LABEL_0 to LABEL_{len(labels) - 1} are taken for the data's labels 0 to {len(labels) - 1}"


def _architecture(raw: dict, place: str) -> str:
    architectures = raw.get("architectures") or [""]
    if not isinstance(architectures, list) or not isinstance(architectures[0], str):
        raise UserError(f"{place}: architectures is {str(architectures)[:40]!r}, it must be a list of names")
    return architectures[0]


def _check_problem(raw: dict, place: str) -> None:
    """UserError where a sequence head is for something else than labels: one of them, or each by itself."""
    problem = raw.get("problem_type")
    if problem == NUMBERS:
        raise UserError(f"{place}: problem_type is {problem!r}: it {REGRESSION}; {AS_A_BODY}")
    if problem not in (None, ONE, MULTI_LABEL):
        raise UserError(f"{place}: problem_type is {str(problem)[:40]!r}, which is none; remove it")
    id2label = raw.get("id2label")
    only = len(id2label) == 1 if isinstance(id2label, dict) else raw.get("num_labels") == 1
    if only and problem is None and raw.get(NUMBERS) is not False:
        raise UserError(f"{place}: id2label or num_labels: one label only, so it {REGRESSION}; {AS_A_BODY}")


def _labels(raw: dict, place: str) -> tuple[str, ...]:
    """The names of the labels in the order of the ids. UserError, with a cure, where they are not decided.

    They are in id2label, else in label2id; without both there are num_labels nameless ones, by default two.
    """
    count, names, key = raw.get("num_labels"), raw.get("id2label"), "id2label"
    if count is not None and (type(count) is not int or not 0 < count <= MOST_LABELS):
        raise UserError(f"{place}: num_labels is {str(count)[:40]!r}, it must be a number of labels")
    if names is None and raw.get("label2id") is not None:
        key, names = "label2id", raw["label2id"]
        if isinstance(names, dict) and len(set(map(str, names.values()))) == len(names):
            names = {str(i): name for name, i in names.items()}
    if names is None:
        return tuple(f"LABEL_{i}" for i in range(2 if count is None else count))
    if not isinstance(names, dict) or not names or set(names) != {str(i) for i in range(len(names))}:
        raise UserError(f"{place}: {key} must name the labels 0 to N-1, without a gap; write them in")
    if count is not None and count != len(names):
        raise UserError(f"{place}: {key} names {len(names)} labels and num_labels is {count}; correct the wrong one")
    if len(names) > MOST_LABELS:
        raise UserError(f"{place}: {key} names {len(names):,} labels, at most {MOST_LABELS:,} are read")
    labels = [names[str(i)] for i in range(len(names))]
    if not all(isinstance(label, str) or type(label) is int for label in labels):
        raise UserError(f"{place}: {key} must hold names, each a string; write them in")
    labels = tuple(map(str, labels))
    twice = next((label for label, times in Counter(labels).items() if times > 1), None)
    if twice is not None:
        raise UserError(f"{place}: {key} holds {twice[:40]!r} twice; give each number a name of its own")
    return labels
