"""Which tokens of an input are masked, to be predicted by the model (Devlin et al. 2019, section 3.1)."""

from dataclasses import dataclass

import numpy as np

from kd_scratch.data.batches import IGNORE, EncodedInputs


def num_masked(words: int) -> int:
    """How many of an input's words are masked: 15%, but one at least where there is any."""
    return min(words, max(1, round(0.15 * words)))


@dataclass
class MaskedLMSampler:
    """Draws which tokens are masked: a function of seed, epoch, the input's number and the data, and of nothing else.

    So it does not matter in which batch, process or order an input comes.
    """

    seed: int
    epoch: int

    def mask_input(self, features: EncodedInputs, i: int) -> tuple[np.ndarray, np.ndarray]:
        """Input i with 15% of its tokens masked: its tokens S, and its labels S, IGNORE where none is masked.

        Of those, 80% become [MASK], 10% another token of the data, 10% stay as they are. Special tokens ([CLS], [SEP])
        are neither masked nor drawn.
        """
        span = slice(features.starts[i], features.starts[i + 1])
        tokens = features.tokens[span].copy()
        labels = features.labels[span]
        words = np.flatnonzero(labels != IGNORE)
        rng = np.random.default_rng([self.seed, self.epoch, i])
        chosen = rng.choice(words, num_masked(len(words)), replace=False)
        places = rng.integers(len(features.tokens), size=len(chosen))  # anywhere in the data
        special = features.labels[places] == IGNORE  # then the masked token stays
        others = np.where(special, tokens[chosen], features.tokens[places])
        fates = rng.random(len(chosen))
        tokens[chosen] = np.where(fates < 0.8, features.mask_id, np.where(fates < 0.9, others, tokens[chosen]))
        wanted = np.full(len(labels), IGNORE, labels.dtype)
        wanted[chosen] = labels[chosen]
        return tokens, wanted

    def mask_rows(self, features: EncodedInputs, indices: np.ndarray, input_ids: np.ndarray) -> np.ndarray:
        """The labels B,S of some inputs, IGNORE where nothing is masked; their tokens, B,S, are masked in place."""
        labels = np.full(input_ids.shape, IGNORE, np.int64)
        for row, i in enumerate(indices):
            tokens, wanted = self.mask_input(features, i)
            input_ids[row, : len(tokens)] = tokens
            labels[row, : len(tokens)] = wanted
        return labels
