"""Words that a model with a head for masked words finds likely in some places of a text, for --augment-model."""

import re
from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import torch

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


class Place(NamedTuple):
    """Where a word is proposed."""

    text: int
    word: int
    position: int  # of its [MASK] among the text's tokens
    own: int  # the token that stands there now; that of [MASK] where it is several
    chance: float  # which of the likeliest words it becomes: a number of [0, 1)


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
        words = {i for word, i in tokenizer.backend.get_vocab().items() if word.isalnum()}
        self.whole = words - {*tokenizer.special_ids}
        self.no_words = torch.tensor([i not in self.whole for i in range(self.config.vocab_size)], device=device)  # V

    @cached_property
    def model(self) -> Model:
        """The model, opened when it is first needed: what it has proposed may be in the cache."""
        return load_model(self.directory).to(self.device)

    @torch.inference_mode()
    def __call__(self, texts: Sequence[Words], gaps: Sequence[Gaps]) -> list[dict[int, str]]:
        """The words that are proposed for each text, by place."""
        rows, places = self.mask(texts, gaps)
        proposed: list[dict[int, str]] = [{} for _ in texts]
        order = sorted((n for n in range(len(texts)) if places[n]), key=lambda n: len(rows[n]))
        for start in range(0, len(order), BATCH):
            numbers = order[start : start + BATCH]
            tokens = self.draw([rows[n] for n in numbers], [places[n] for n in numbers])
            for place, token in zip((place for n in numbers for place in places[n]), tokens, strict=True):
                before, _, behind = PARTS.fullmatch(texts[place.text][place.word]).groups()
                if token in self.whole:  # it is not where the vocabulary has hardly any whole word
                    proposed[place.text][place.word] = before + self.tokenizer.backend.id_to_token(token) + behind
        return proposed

    def mask(self, texts: Sequence[Words], gaps: Sequence[Gaps]) -> tuple[list[list[int]], list[list[Place]]]:
        """The token ids of each text, one [MASK] for each gap; and where those stand that are not cut off."""
        parts = [(word, *PARTS.fullmatch(word).groups()) for words in texts for word in words]
        distinct = list(dict.fromkeys(part for of_word in parts for part in of_word))
        encodings = self.tokenizer.encode(distinct)
        pieces = {part: encoding.ids[1:-1] for part, encoding in zip(distinct, encodings, strict=True)}
        cls, sep = self.tokenizer.encode([""])[0].ids
        mask, last = self.tokenizer.mask_id, self.config.max_positions - 1
        rows, places, of_word = [], [], iter(parts)
        for n, words in enumerate(texts):
            ids, found = [cls], []
            for i in range(len(words)):
                word, before, core, behind = next(of_word)
                if i in gaps[n] and core:
                    own = pieces[core][0] if len(pieces[core]) == 1 else mask
                    found.append(Place(n, i, len(ids) + len(pieces[before]), own, gaps[n][i]))
                    ids += [*pieces[before], mask, *pieces[behind]]
                else:
                    ids += pieces[word]
            rows.append([*ids[:last], sep])
            places.append([place for place in found if place.position < last])
        return rows, places

    def draw(self, rows: list[list[int]], places: list[list[Place]]) -> list[int]:
        """The token that is drawn for each of the U places of some texts, of the likeliest by their probability."""
        longest = max(map(len, rows))
        input_ids = torch.full((len(rows), longest), self.config.pad_id)  # B,S
        for row, ids in zip(input_ids, rows, strict=True):
            row[: len(ids)] = torch.tensor(ids)
        real = torch.arange(longest) < torch.tensor([[len(ids)] for ids in rows])  # S < B,1 -> B,S
        at = torch.tensor([longest * b + place.position for b, found in enumerate(places) for place in found])  # U
        logits = self.model(*(x.to(self.device) for x in (input_ids, real)), at=at.to(self.device)).logits  # U,V
        logits = logits.float().masked_fill(self.no_words, -torch.inf)
        own = torch.tensor([[place.own] for found in places for place in found], device=self.device)  # U,1
        values, best = (x.cpu() for x in logits.scatter(1, own, -torch.inf).topk(LIKELIEST))  # U,k
        sums = values.softmax(dim=-1).cumsum(dim=-1)
        chances = torch.tensor([[place.chance] for found in places for place in found])  # U,1
        k = (sums <= chances).sum(dim=-1, keepdim=True).clamp(max=LIKELIEST - 1)
        return best.gather(1, k).flatten().tolist()


def open_proposer(spec: RunSpec, tokenizer: Tokenizer) -> WordProposer:
    """What proposes words for a run with --augment-model."""
    return WordProposer(spec.augment_model, tokenizer, pick_device(spec.run.device))
