"""Words that a model with a head for masked words finds likely in some places of a text, for --augment-model."""

import re
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from kd_scratch.checkpoints.checkpoint import load_config, load_model
from kd_scratch.common.device import pick_device
from kd_scratch.common.errors import UserError
from kd_scratch.data.tokenizer import Tokenizer, load_tokenizer
from kd_scratch.nn.model import Model
from kd_scratch.tasks.augment import Gaps
from kd_scratch.tasks.base import Words
from kd_scratch.training.spec import RunSpec

LIKELIEST = 10  # of the words that fit into a place, those that one is drawn of
BATCH = 64  # texts
PARTS = re.compile(r"(\W*)(.*?)(\W*)", re.DOTALL)  # (two). -> (, two, ).


class WordProposer:
    """A function: texts as words, and their gaps -> by place the words that are proposed there.

    A word is proposed if it is whole (no ##piece, no special token) and another than the one that stands there. Signs
    around a word stay. propose([["book", "a", "table."]], [{2: 0.3}]) == [{2: "flight."}]
    Raises UserError where the model has no such head, or another tokenizer.
    """

    def __init__(self, directory: str, tokenizer: Tokenizer, device: torch.device):
        self.directory = directory
        self.tokenizer = tokenizer
        self.device = device
        self.config = load_config(directory)
        if self.config.head != "mlm":
            raise UserError(
                f"--augment-model {directory}: has a {self.config.head or 'pre-training'} head, not one for masked "
                "words; give a model that has one (train --task mlm makes it)"
            )
        difference = load_tokenizer(directory).difference(tokenizer)
        if difference:
            what = f"its tokenizer differs from that of the training: {difference}"
            raise UserError(f"--augment-model {directory}: {what}; leave it out, or give a model of that tokenizer")
        whole = {i for word, i in tokenizer.backend.get_vocab().items() if word.isalnum()} - {*tokenizer.special_ids}
        self.no_words = torch.tensor([i not in whole for i in range(self.config.vocab_size)], device=device)  # V

    @cached_property
    def model(self) -> Model:
        """The model, opened when it is first needed: what it has proposed may be in the cache."""
        return load_model(self.directory).to(self.device)

    def __call__(self, texts: Sequence[Words], gaps: Sequence[Gaps]) -> list[dict[int, str]]:
        """The words that are proposed for each text, by place."""
        flat = {part for words in texts for word in words for part in (word, *PARTS.fullmatch(word).groups())}
        encodings = self.tokenizer.encode(list(flat))
        pieces = {part: encoding.ids[1:-1] for part, encoding in zip(flat, encodings, strict=True)}
        rows = [self.mask(words, places, pieces) for words, places in zip(texts, gaps, strict=True)]
        proposed: list[dict[int, str]] = [{} for _ in texts]
        order = sorted((n for n, (_, at) in enumerate(rows) if at), key=lambda n: len(rows[n][0]))
        for start in range(0, len(order), BATCH):
            numbers = order[start : start + BATCH]
            places = [(n, place) for n in numbers for place in rows[n][1]]  # U
            logits = self.logits([rows[n] for n in numbers])
            for u, (n, place) in enumerate(places):  # not the word that stands there
                own = pieces[PARTS.fullmatch(texts[n][place])[2]]
                logits[u, own[0] if len(own) == 1 else self.tokenizer.mask_id] = -torch.inf
            values, ids = (t.cpu() for t in logits.topk(min(LIKELIEST, logits.shape[1])))  # U,k
            sums = values.softmax(dim=-1).cumsum(dim=-1).numpy()
            for (n, place), value, ids_here, upto in zip(places, values, ids, sums, strict=True):
                k = min(int(np.searchsorted(upto, gaps[n][place], side="right")), len(upto) - 1)
                if value[k].isfinite():
                    before, _, behind = PARTS.fullmatch(texts[n][place]).groups()
                    proposed[n][place] = before + self.tokenizer.backend.id_to_token(int(ids_here[k])) + behind
        return proposed

    def mask(self, words: Words, gaps: Gaps, pieces: dict[str, list[int]]) -> tuple[list[int], dict[int, int]]:
        """A text as token ids, each gap one [MASK]; and by place where that stands, if it is not cut off."""
        cls, sep = self.tokenizer.encode([""])[0].ids
        ids, at = [cls], {}
        for place, word in enumerate(words):
            before, core, behind = PARTS.fullmatch(word).groups()
            if place in gaps and core:
                at[place] = len(ids) + len(pieces[before])
                ids += [*pieces[before], self.tokenizer.mask_id, *pieces[behind]]
            else:
                ids += pieces[word]
        last = self.config.max_positions - 1
        return [*ids[:last], sep], {place: position for place, position in at.items() if position < last}

    @torch.inference_mode()
    def logits(self, rows: list[tuple[list[int], dict[int, int]]]) -> Tensor:
        """The logits U,V of the U gaps of some texts; of what is no whole word minus infinity."""
        longest = max(len(ids) for ids, _ in rows)
        input_ids = torch.full((len(rows), longest), self.config.pad_id)  # B,S
        for row, (ids, _) in zip(input_ids, rows, strict=True):
            row[: len(ids)] = torch.tensor(ids)
        lengths = torch.tensor([[len(ids)] for ids, _ in rows])  # B,1
        at = torch.tensor([longest * b + position for b, (_, at) in enumerate(rows) for position in at.values()])
        inputs = (x.to(self.device) for x in (input_ids, torch.arange(longest) < lengths))
        return self.model(*inputs, at=at.to(self.device)).logits.float().masked_fill(self.no_words, -torch.inf)


def open_proposer(spec: RunSpec, tokenizer: Tokenizer) -> WordProposer:
    """What proposes words for a run with --augment-model."""
    return WordProposer(spec.augment_model, tokenizer, pick_device(spec.run.device))
