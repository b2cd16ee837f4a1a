"""What a run learns from: its files read, divided, and turned into token ids."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from kd_scratch.checkpoints.weight_files import way_from_hub, weight_files
from kd_scratch.common.console import Say, say
from kd_scratch.common.device import pick_device
from kd_scratch.common.errors import UserError
from kd_scratch.common.files import sha256, sha256_of_file
from kd_scratch.common.source_hash import source_hash
from kd_scratch.config import SIZES
from kd_scratch.data.batches import EncodedInputs, require_inputs
from kd_scratch.data.rows import Concat, Subset, WithoutLabels
from kd_scratch.data.tokenizer import Tokenizer, load_tokenizer, train_tokenizer
from kd_scratch.tasks import Task, kept_together, limited
from kd_scratch.tasks.augment import Altered, Propose
from kd_scratch.tasks.base import are_pairs, articles_of, has_groups, require_kind
from kd_scratch.tasks.feature_cache import cached_features
from kd_scratch.tasks.folds import outside_fold, parse_fold
from kd_scratch.tasks.text_files import read_unlabelled
from kd_scratch.training.spec import RunSpec, in_config

PIECES = 4000  # of a vocabulary learned for a size, where --vocab-size does not say
VOCABULARY_SAMPLE = 200_000  # examples to learn a vocabulary from; of more, so many are drawn at random


@dataclass
class TrainingData:
    """The examples of a run, and what was found out about them on the way."""

    task: Task
    examples: Sequence  # to train on, those of --unlabelled among them
    dev_examples: Sequence
    labels: tuple[str, ...]  # of the whole training file, however much of it is used
    tokenizer: Tokenizer
    hashes: dict[str, str | None]  # of the data files, before they were read; and how dev was drawn, if by article
    notes: list[str]
    own: Sequence = ()  # the examples of --train alone
    has_label: np.ndarray | None = None  # whether each of those has its label; None: all have
    copies: Sequence = ()  # of the examples, for --augment: those of all epochs (see epochs.py)


def read_training_data(spec: RunSpec, task: Task, open_proposer: Callable[..., Propose] | None = None) -> TrainingData:
    """All that a run reads. Raises UserError for files that cannot be used. open_proposer: WordProposer, which this
    file must not import, since what inputs are does not depend on the network otherwise."""
    hashes = data_hashes(spec)
    notes: list[str] = []
    examples, labels = read_labelled(spec, task, notes.append)
    unlabelled: Sequence = ()
    if spec.unlabelled:
        flag = f"--unlabelled {spec.unlabelled}"
        questions = "" if spec.config.cloze else "add --cloze 4 (say) to have some made of them"
        unlabelled = read_unlabelled(
            task, spec.unlabelled, spec.data, flag, say=notes.append, questions=questions, pairs=are_pairs(examples)
        )
    dev_examples, examples = split_dev(spec, task, examples, hashes, notes)
    require_kind("--train", are_pairs(examples), f"--dev {spec.dev}", are_pairs(dev_examples))
    examples, more = task.trainable(limited(examples, spec.data.limit))
    notes += more
    if not examples or not dev_examples:
        raise UserError(f"{spec.train}: leaves {len(examples)} training and {len(dev_examples)} dev examples")
    has_label = None
    if spec.config.labelled:
        has_label = draw(task, examples, spec.config.labelled, "--labelled", spec.run.seed)
        examples = keep_some_labels(spec, task, examples, has_label, notes)
        has_label = has_label if spec.is_taught else None
    if fold := parse_fold(spec.fold):
        kept = outside_fold(task, examples, fold)
        examples = Subset(examples, kept)
        has_label = has_label[kept] if has_label is not None else None
        notes.append(f"--fold {spec.fold}: {len(examples):,} examples are left")
    own = examples
    if unlabelled:
        examples = Concat(examples, unlabelled)
        notes.append(f"{len(unlabelled):,} texts of {spec.unlabelled} have no label: learned from the teacher alone")
    tokenizer = choose_tokenizer(spec, task, examples)
    if spec.config.cloze:
        longest = min(spec.data.question_length, spec.config.max_length // 2)  # the context has the other half
        examples, more = task.add_questions(examples, spec.config.cloze, longest, tokenizer)
        notes += more
    copies: Sequence = ()
    if count := spec.config.augment * spec.config.epochs:
        propose = open_proposer(spec, tokenizer) if spec.augment_model else None
        copies = Altered(examples, count, task, tokenizer, propose)
    # dev is scored again and again: from memory, whatever becomes of its file
    return TrainingData(task, examples, list(dev_examples), labels, tokenizer, hashes, notes, own, has_label, copies)


def read_labelled(spec: RunSpec, task: Task, say: Say = say) -> tuple[Sequence, tuple[str, ...]]:
    """The examples of --train, and the labels in the order of the logits."""
    examples = task.read(spec.train, "train" if task.splits else "", spec.data, say=say)
    return examples, task.label_list(examples)


def split_dev(
    spec: RunSpec, task: Task, examples: Sequence, hashes: dict[str, str], notes: list[str]
) -> tuple[Sequence, Sequence]:
    """Dev examples and training examples: those of --dev, or a part of the training examples held out.

    hashes get how those were drawn, where that is by article.
    """
    if not spec.holds_out_dev:
        return task.read(Path(spec.dev), task.dev_split, spec.data, say=notes.append), examples
    articles = articles_of(task, examples)
    mask = draw_articles(articles, len(limited(examples, spec.dev, "--dev"))) if articles else None
    if mask is None:
        mask = draw(task, examples, spec.dev, "--dev")
    else:
        hashes["dev drawn by"] = "article"
        count = len({article for article, is_dev in zip(articles, mask, strict=True) if is_dev})
        notes.append(f"--dev {spec.dev}: {mask.sum():,} questions about {count} of {len(set(articles))} articles")
    return Subset(examples, mask.nonzero()[0]), Subset(examples, (~mask).nonzero()[0])


def keep_some_labels(spec: RunSpec, task: Task, examples: Sequence, mask: np.ndarray, notes: list[str]) -> Sequence:
    """The examples, with labels only where the mask says so. The others are left out where no teacher is there for
    them. Examples of one group stay side by side: windows may span them."""
    labelled, others = int(mask.sum()), int((~mask).sum())
    notes.append(f"--labelled {spec.config.labelled}: {labelled:,} examples have a label, {others:,} have none")
    if spec.is_taught:
        return WithoutLabels(examples, ~mask, task.unlabel)
    return Subset(examples, mask.nonzero()[0])


def draw_articles(articles: Sequence[str], wanted: int) -> np.ndarray | None:
    """Which examples are of articles drawn at random, N booleans: as many whole ones as fit into so many examples; None
    where those are fewer than half of them."""
    names, number, sizes = np.unique(articles, return_inverse=True, return_counts=True)
    is_drawn, count = np.zeros(len(names), bool), 0
    for i in np.random.default_rng(0).permutation(len(names)):
        if count + sizes[i] <= wanted:
            is_drawn[i] = True
            count += sizes[i]
    return is_drawn[number] if 2 * count >= wanted else None


def draw(task: Task, examples: Sequence, amount: str, flag: str, seed: int = 0) -> np.ndarray:
    """Which of the examples are among so many drawn at random, N booleans.

    Those of one group (a context, a document) are drawn together, and so are those of the same text.
    """
    hashes = np.fromiter((hash(kept_together(task, example)) for example in examples), np.int64, len(examples))
    _, first, group, sizes = np.unique(hashes, return_index=True, return_inverse=True, return_counts=True)
    by_place = np.argsort(first)  # groups as they come: what is drawn does not depend on the hashes
    if has_groups(task, examples):  # so many groups
        drawn = list(limited(range(len(first)), amount, flag, seed))
    else:  # so many examples, or as many more as have the last one's text
        wanted = len(limited(examples, amount, flag))
        drawn = np.random.default_rng(seed).permutation(len(first))
        drawn = drawn[: 1 + np.searchsorted(sizes[by_place][drawn].cumsum(), wanted)]
    is_drawn = np.zeros(len(first), bool)
    is_drawn[by_place[drawn]] = True
    return is_drawn[group]


def choose_tokenizer(spec: RunSpec, task: Task, examples: Sequence) -> Tokenizer:
    """--model's where that is a folder; else --tokenizer's, or one that is learned now.

    A teacher's is taken where neither --tokenizer nor --vocab-size says otherwise.
    """
    if spec.model not in SIZES:
        if not Path(spec.model).is_dir():
            where = f"no such model directory{way_from_hub(Path(spec.model))}"
            sizes = f"no size (random weights): {', '.join(SIZES)}"
            raise UserError(f"--model {spec.model}: {where}, and {sizes}")
        if spec.tokenizer:
            raise UserError("--tokenizer is for a size, a model directory has its own; leave it out")
        if spec.vocab_size is not None:
            raise UserError("--vocab-size is for a size, a model directory has its own vocabulary; leave it out")
        return load_tokenizer(spec.model)
    if spec.tokenizer and spec.vocab_size is not None:
        raise UserError("--vocab-size learns a vocabulary, --tokenizer takes another's; leave one of them out")
    if spec.tokenizer or (spec.teachers and spec.vocab_size is None):
        tokenizer = load_tokenizer(folder := spec.tokenizer or spec.teachers[0])
        tokenizer.has_token_types |= in_config(Path(folder), "type_vocab_size") < 2  # then a new student may know them
        return tokenizer
    pieces = PIECES if spec.vocab_size is None else spec.vocab_size
    if not 10 <= pieces <= 1_000_000:
        raise UserError(f"--vocab-size {pieces}: must lie between 10 and 1,000,000")
    if len(examples) > VOCABULARY_SAMPLE:
        examples = limited(examples, str(VOCABULARY_SAMPLE))
    return train_tokenizer(task.texts(examples), pieces)


def encode_training_data(
    spec: RunSpec, data: TrainingData, say: Callable[[str], None] = say, tokenizer: Tokenizer | None = None
) -> EncodedInputs:
    """The training examples as token ids, from the cache or made now. tokenizer: another than the student's.

    Raises UserError where a data file has changed since it was hashed, and where nothing is left of any text.
    """
    source = [
        str(data.hashes["train"]),
        str(data.hashes["unlabelled"]),
        spec.train.name,  # ids begin with it, and its ending tells how a file is read
        spec.unlabelled.name if spec.unlabelled else "",
        spec.dev if spec.holds_out_dev else "",
        f"{spec.config.labelled} {spec.run.seed}" if spec.config.labelled else "",
        f"{len(data.copies)} {spec.config.cloze}",
        spec.fold,
        str(spec.is_taught),  # without one, text that has no label is left out
        str(data.hashes["augment model"]),
        source_hash("training.examples"),
    ]
    if spec.augment_model:  # what it proposes depends on how it is computed
        source += [source_hash("training.word_proposals", versions=(torch.__version__,))]
        source += [pick_device(spec.run.device).type]
    inputs = cached_features(
        data.task,
        Concat(data.examples, data.copies),
        tokenizer or data.tokenizer,
        data.labels,
        spec.config.max_length,
        spec.data,
        source,
        unchanged=lambda: data_hashes(spec).items() <= data.hashes.items(),  # how dev was drawn is in none
        folder=spec.cache,
        say=say,
    )
    return require_inputs(inputs, "--train")


def data_hashes(spec: RunSpec) -> dict[str, str | None]:
    """SHA-256 of each data file's content; of --dev the flag itself, where it is a percentage; of the files that make
    the network of --augment-model together (its tokenizer is that of the run). UserError where there is none."""
    if (model := spec.augment_model) and not Path(model).is_dir():
        raise UserError(f"--augment-model {model}: no such model directory")
    files = [Path(model) / "config.json", *weight_files(Path(model))] if model else ()
    return {
        "train": sha256_of_file(spec.train),
        "unlabelled": sha256_of_file(spec.unlabelled) if spec.unlabelled else None,
        "dev": spec.dev if spec.holds_out_dev else sha256_of_file(Path(spec.dev)),
        "augment model": sha256(*map(sha256_of_file, files)) if model else None,
    }
