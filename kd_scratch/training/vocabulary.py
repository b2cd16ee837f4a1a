"""The rows of the word table that a training set uses: the only ones worth training."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_scratch.nn.model import Model

SLICE = 2**20  # tokens that are looked at together


class UsedRows(nn.Module):
    """A table of some rows of another, looked up by the other's row numbers.

    Example: of rows [2, 5], id 5 is found in row 1. An id that is not among them raises IndexError.
    """

    def __init__(self, whole: nn.Embedding, used: Tensor):
        super().__init__()
        rows = torch.full((whole.num_embeddings,), len(used))  # behind the last row: an error if looked up
        rows[used] = torch.arange(len(used))
        self.register_buffer("row_of", rows.to(whole.weight.device), persistent=False)  # V
        self.weight = nn.Parameter(whole.weight.detach()[used])  # rows,D

    def forward(self, input_ids: Tensor) -> Tensor:
        """B,S -> B,S,D"""
        return F.embedding(self.row_of[input_ids], self.weight)


class UsedWords:
    """Lets a model train on the words of its training set only; the others stay exactly as they are.

    BERT's table has 30,522 rows, most of a small student's parameters; CLINC150's questions use 5,137 of them. No other
    row ever has a gradient, yet an optimizer visits all of them in each step, as do the gradient's zeros and its norm:
    in short texts that is a third of the time. (All that AdamW would do to an unused row is weight decay: 0.01% in a
    thousand steps at a learning rate of 1e-5.)
    """

    def __init__(self, model: Model, tokens: np.ndarray):
        self.embeddings, self.whole, self.head = model.embeddings, model.embeddings.word, model.config.head
        used = np.zeros(model.config.vocab_size, bool)
        used[model.config.pad_id] = True
        for start in range(0, len(tokens), SLICE):  # they may be more than fit into memory
            used[tokens[start : start + SLICE]] = True
        self.used = torch.from_numpy(used.nonzero()[0]).to(self.whole.weight.device)
        self.rows = UsedRows(self.whole, self.used)

    def use_rows(self) -> None:
        """Let the model know the training set's words only: this is its form for training.

        A table that is frozen stays whole: nothing ever walks through it. So does that of a model which guesses words.
        """
        if self.whole.weight.requires_grad and self.head != "mlm":
            self.embeddings.word = self.rows

    @contextmanager
    def whole_table(self) -> Iterator[None]:
        """A context in which the model has its whole table, to score and to save it."""
        self.restore_table()
        yield
        self.use_rows()

    @torch.no_grad()
    def restore_table(self) -> None:
        """Give it the whole table again, with what has been learned written into it."""
        if self.embeddings.word is self.rows:
            self.whole.weight[self.used] = self.rows.weight
            self.embeddings.word = self.whole
