"""More text for distillation: copies of the training texts in which words are masked, exchanged, or proposed anew."""

from collections.abc import Callable, Sequence

import numpy as np

from kd_scratch.common.console import say
from kd_scratch.common.errors import UserError
from kd_scratch.data.rows import Subset
from kd_scratch.data.tokenizer import Tokenizer
from kd_scratch.tasks.base import Task, Words

MASKED = 0.1  # share of the words
EXCHANGED = 0.1  # share of the words
PROPOSED = 0.2  # share of the words, where a model proposes others
SEED = 8  # copies are the same in every run, so they are tokenized, and the teacher's logits computed, once
COPY = "~"  # between the id of an example and the number of its copy
BLOCK = 512  # copies for which words are proposed together

Gaps = dict[int, float]  # the places of some words in a text -> a random number of [0, 1) for each
#: texts, their gaps -> by place the words that are proposed there; a place for which there is none is left out
Propose = Callable[[Sequence[Words], Sequence[Gaps]], list[dict[int, str]]]


class Altered(Sequence):
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
        self.block: tuple[int, list] = (-1, [])  # the last one that was made: its number, its copies

    def __len__(self) -> int:
        return self.copies * len(self.examples)

    def __getitem__(self, i):
        if isinstance(i, slice):
            return Subset(self, range(len(self))[i])
        i = range(len(self))[i]  # IndexError behind the end; negative numbers count from there
        if self.propose is None:
            return self.copy(i, self.alter(i)[0])
        if self.block[0] != i // BLOCK:
            self.block = i // BLOCK, self.make_block(i // BLOCK)
        return self.block[1][i % BLOCK]

    def make_block(self, number: int) -> list:
        """BLOCK copies with proposed words: always the same ones together, on which a number's last bits depend."""
        if self.block[0] < 0:
            say(f"words are proposed once for {len(self):,} copies, {self.copies} of each text, and kept in --cache")
        numbers = range(len(self))[number * BLOCK : (number + 1) * BLOCK]
        altered = [self.alter(i) for i in numbers]
        texts = [self.words(self.examples[i % len(self.examples)]) for i in numbers]
        block = []
        for i, (words, _), proposed in zip(
            numbers, altered, self.propose(texts, [gaps for _, gaps in altered]), strict=True
        ):
            block.append(self.copy(i, [proposed.get(place, word) for place, word in enumerate(words)]))
        return block

    def copy(self, i: int, words: Words):
        """Copy number i, of these words."""
        example = self.examples[i % len(self.examples)]
        return self.task.reworded(example, lambda _: words, f"{example.id}{COPY}{i // len(self.examples) + 1}")

    def words(self, example) -> Words:
        """The words of an example that a copy may change."""
        found = []

        def look(words: Words) -> Words:
            found.extend(words)
            return words

        self.task.reworded(example, look, example.id)
        return found

    def alter(self, i: int) -> tuple[list[str], Gaps]:
        """The words of copy number i, some masked, some exchanged, and the places for which others are proposed."""
        rng = np.random.default_rng([SEED, i])
        words = self.words(self.examples[i % len(self.examples)])
        altered, gaps = list(words), {}
        for place, chance in enumerate(rng.random(len(words))):
            if chance < MASKED:
                altered[place] = self.mask
            elif chance < MASKED + EXCHANGED:
                altered[place] = self.another(rng) or words[place]
            elif self.propose and chance < MASKED + EXCHANGED + PROPOSED:
                gaps[place] = rng.random()
        return altered, gaps

    def another(self, rng: np.random.Generator) -> str:
        """A random word of a random training text; an empty string where that text has none."""
        words = self.words(self.examples[int(rng.integers(len(self.examples)))])
        return words[int(rng.integers(len(words)))] if words else ""
