"""More text for distillation: copies of the training texts in which words are masked, exchanged, or proposed anew."""

from collections.abc import Callable, Sequence

import numpy as np

from kd_scratch.common.console import say
from kd_scratch.common.errors import UserError
from kd_scratch.data.rows import MadeWhenAsked
from kd_scratch.data.tokenizer import Tokenizer
from kd_scratch.tasks.base import Task, Words

MASKED = 0.1  # share of the words
EXCHANGED = 0.1  # share of the words
PROPOSED = 0.2  # share of the words without signs, where a model proposes others
SEED = 8  # copies are the same in every run, so they are tokenized, and the teacher's logits computed, once
COPY = "~"  # between the id of an example and the number of its copy
BLOCK = 512  # copies for which words are proposed together

Gaps = dict[int, float]  # the places of some words in a text -> a random number of [0, 1) for each
#: texts, their gaps -> by place the words that are proposed there; a place for which there is none is left out
Propose = Callable[[Sequence[Words], Sequence[Gaps]], list[dict[int, str]]]


class Altered(MadeWhenAsked):
    """`copies` altered copies of each example, without labels, made when asked for. Number i is always the same text.

    Each word becomes [MASK] with probability 0.1, and with probability 0.1 a random word of a random training text
    (after Tang et al. 2019, section 3.3; they draw words of the same part of speech, for which one needs a tagger).
    With `propose` a word becomes with probability 0.2 one that a model finds likely in its place (after Jiao et al.
    2020, section 4). Example: "book a table for two" -> "book a [MASK] for tomorrow".
    Raises UserError where the task has no altered copies, or the tokenizer no [MASK].
    """

    def __init__(
        self, examples: Sequence, copies: int, task: Task, tokenizer: Tokenizer, propose: Propose | None = None
    ):
        if task.reworded is None:
            raise UserError(f"--augment: altered texts are no input for {task.name}; leave it out")
        if tokenizer.mask_id is None:
            raise UserError("--augment: the tokenizer has no [MASK]; leave it out")
        self.examples = examples
        self.copies = copies
        self.task = task
        self.mask = tokenizer.special["mask_token"]
        self.propose = propose
        self.block: tuple[int, list] = (-1, [])  # the last one that was made: its number, the words of its copies

    def __len__(self) -> int:
        return self.copies * len(self.examples)

    def item(self, i: int):
        size = BLOCK if self.propose else 1
        if self.block[0] != i // size:
            self.block = i // size, self.make_block(range(len(self))[i // size * size : (i // size + 1) * size])
        words, example = self.block[1][i % size], self.examples[i % len(self.examples)]
        return self.task.reworded(example, lambda _: words, f"{example.id}{COPY}{i // len(self.examples) + 1}")

    def make_block(self, numbers: range) -> list[list[str]]:
        """The words of these copies. Always the same ones are made together: a model's last bits depend on that."""
        texts = [self.words(self.examples[i % len(self.examples)]) for i in numbers]
        drawn = [self.alter(list(words), i) for i, words in zip(numbers, texts, strict=True)]
        if self.propose:
            if self.block[0] < 0:
                say(f"words are proposed for {len(self):,} copies, {self.copies} of each text, and kept in --cache")
            proposed = self.propose(texts, [gaps for _, gaps in drawn])
            for (words, _), new in zip(drawn, proposed, strict=True):
                for place, word in new.items():
                    words[place] = word
        return [words for words, _ in drawn]

    def words(self, example) -> list[str]:
        """The words of an example that a copy may change."""
        found = []
        self.task.reworded(example, lambda words: found.extend(words) or words, example.id)
        return found

    def alter(self, words: list[str], i: int) -> tuple[list[str], Gaps]:
        """The words of copy number i, some masked, some exchanged, and the gaps for which others are to be proposed."""
        rng, gaps = np.random.default_rng([SEED, i]), {}
        for place, chance in enumerate(rng.random(len(words))):
            if chance < MASKED:
                words[place] = self.mask
            elif chance < MASKED + EXCHANGED:
                words[place] = self.another(rng) or words[place]
            elif self.propose and chance < MASKED + EXCHANGED + PROPOSED and words[place].isalnum():
                gaps[place] = rng.random()
        return words, gaps

    def another(self, rng: np.random.Generator) -> str:
        """A random word of a random training text; an empty string where that text has none."""
        words = self.words(self.examples[int(rng.integers(len(self.examples)))])
        return words[int(rng.integers(len(words)))] if words else ""
