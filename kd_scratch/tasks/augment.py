"""More text for distillation: copies of the training texts in which words are masked or exchanged."""

from collections.abc import Sequence

import numpy as np

from kd_scratch.common.errors import UserError
from kd_scratch.data.rows import Subset
from kd_scratch.data.tokenizer import Tokenizer
from kd_scratch.tasks.base import Task

MASKED = 0.1  # share of the words
EXCHANGED = 0.1  # share of the words
SEED = 8  # copies are the same in every run, so they are tokenized, and the teacher's logits computed, once


class Altered(Sequence):
    """`copies` altered copies of each example, without labels, made when asked for. Number i is always the same text.

    Each word becomes [MASK] with probability 0.1, and with probability 0.1 a random word of a random training text
    (after Tang et al. 2019, section 3.3; they draw words of the same part of speech, for which one needs a tagger).
    Example: "book a table for two" -> "book a [MASK] for tomorrow".
    Raises UserError where the task has no altered copies, or the tokenizer no [MASK].
    """

    def __init__(self, examples: Sequence, copies: int, task: Task, tokenizer: Tokenizer):
        if task.reworded is None:
            raise UserError(f"--augment {copies}: altered texts are no input for {task.name}; leave it out")
        if tokenizer.mask_id is None:
            raise UserError(f"--augment {copies}: the tokenizer has no [MASK]; leave it out")
        self.examples = examples
        self.copies = copies
        self.task = task
        self.mask = tokenizer.special["mask_token"]

    def __len__(self) -> int:
        return self.copies * len(self.examples)

    def __getitem__(self, i):
        if isinstance(i, slice):
            return Subset(self, range(len(self))[i])
        i = range(len(self))[i]  # IndexError behind the end; negative numbers count from there
        rng = np.random.default_rng([SEED, i])
        example = self.examples[i % len(self.examples)]
        copy = f"{example.id}~{i // len(self.examples) + 1}"
        return self.task.reworded(example, lambda words: self.alter(words, rng), copy)

    def alter(self, words: Sequence[str], rng: np.random.Generator) -> list[str]:
        """The words of one text, some masked, some exchanged."""
        altered = []
        for word, chance in zip(words, rng.random(len(words)), strict=True):
            if chance < MASKED:
                altered.append(self.mask)
            elif chance < MASKED + EXCHANGED:
                altered.append(self.another(rng) or word)
            else:
                altered.append(word)
        return altered

    def another(self, rng: np.random.Generator) -> str:
        """A random word of a random training text; an empty string where that text has none."""
        [text] = self.task.texts([self.examples[int(rng.integers(len(self.examples)))]])
        words = text.split()
        return words[int(rng.integers(len(words)))] if words else ""
