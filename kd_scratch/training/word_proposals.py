"""Words that a model with a head for masked words finds likely in some places of a text, for --augment-model."""

from collections.abc import Sequence

import numpy as np
import torch

from kd_scratch.checkpoints.checkpoint import load_model
from kd_scratch.common.device import pick_device
from kd_scratch.common.errors import UserError
from kd_scratch.data.batches import IGNORE, TOKENS, EncodedInputs, collate, length_sorted_batches
from kd_scratch.data.tokenizer import Tokenizer, load_tokenizer
from kd_scratch.tasks.augment import Gaps
from kd_scratch.tasks.base import Words
from kd_scratch.training.spec import RunSpec

LIKELIEST = 10  # of the words that fit into a gap, those that one is drawn of


class WordProposer:
    """A function: texts as words, and their gaps -> by place the words that are proposed there.

    They are whole words (no ##piece, no special token) and others than those that stand there.
    propose([["book", "a", "table"]], [{2: 0.3}]) == [{2: "flight"}]
    Raises UserError where the model has no such head, or another tokenizer.
    """

    def __init__(self, spec: RunSpec, tokenizer: Tokenizer):
        self.tokenizer, self.device = tokenizer, pick_device(spec.run.device)
        self.model = load_model(spec.augment_model)
        place, config = f"--augment-model {spec.augment_model}", self.model.config
        if config.head != "mlm":
            what = f"has {f'a {config.head}' if config.head else 'no'} head, it needs one for masked words"
            raise UserError(f"{place}: {what}; give a model with one (train --task mlm makes it)")
        if difference := load_tokenizer(spec.augment_model).difference(tokenizer):
            what = f"its tokenizer differs from that of the training: {difference}"
            raise UserError(f"{place}: {what}; give a model of that tokenizer, or leave it out")
        words = {token for piece, token in tokenizer.backend.get_vocab().items() if piece.isalnum()}
        self.words = words - {*tokenizer.special_ids}
        self.others = torch.tensor([i not in self.words for i in range(config.vocab_size)], device=self.device)  # V

    @torch.inference_mode()
    def __call__(self, texts: Sequence[Words], gaps: Sequence[Gaps]) -> list[dict[int, str]]:
        """The words that are proposed for each text, by place: drawn of the likeliest, by their probability."""
        inputs, proposed, model = self.with_gaps(texts, gaps), [{} for _ in texts], self.model.to(self.device)
        for indices in length_sorted_batches(inputs.lengths, tokens=TOKENS[self.device.type]):
            batch = collate(inputs, indices, self.device, model.config.pad_id)
            output = model(batch.input_ids, batch.attention_mask, masked_positions=batch.counted)
            logits = output.logits.float()  # U,V
            own = batch.labels.flatten()[batch.counted, None]  # U,1
            logits = logits.masked_fill(self.others, -torch.inf).scatter(1, own, -torch.inf)
            values, tokens = (x.cpu() for x in logits.topk(LIKELIEST))  # U,k
            counts = (batch.labels != IGNORE).sum(dim=1).tolist()  # B
            places = [(n, place) for n, count in zip(indices, counts, strict=True) for place in list(gaps[n])[:count]]
            chances = torch.tensor([[gaps[n][place]] for n, place in places]).reshape(-1, 1)  # U,1
            drawn = (values.softmax(dim=-1).cumsum(dim=-1) <= chances).sum(dim=-1, keepdim=True)  # U,1
            tokens = tokens.gather(1, drawn.clamp(max=LIKELIEST - 1)).flatten().tolist()
            for (n, place), token in zip(places, tokens, strict=True):
                if token in self.words:  # it is not where the vocabulary has hardly any
                    proposed[n][place] = self.tokenizer.backend.id_to_token(token)
        return proposed

    def with_gaps(self, texts: Sequence[Words], gaps: Sequence[Gaps]) -> EncodedInputs:
        """The texts as far as the model reaches, each gap one [MASK]. Its label is the token that stands there, or
        [MASK] itself where those are several; nothing else has one."""
        distinct = list(dict.fromkeys(word for words in texts for word in words))
        encodings = self.tokenizer.encode(["", *distinct])
        cls, sep = encodings[0].ids
        pieces = {word: encoding.ids[1:-1] for word, encoding in zip(distinct, encodings[1:], strict=True)}
        mask, last = self.tokenizer.mask_id, self.model.config.max_positions - 1
        pairs, starts = [], [0]  # of token and label, end to end
        for words, gap in zip(texts, gaps, strict=True):
            row = [(cls, IGNORE)]
            for place, word in enumerate(words):
                own = pieces[word][0] if len(pieces[word]) == 1 else mask
                row += [(mask, own)] if place in gap else [(token, IGNORE) for token in pieces[word]]
            pairs += [*row[:last], (sep, IGNORE)]
            starts.append(len(pairs))
        tokens, labels = np.array(pairs).T.copy()  # ΣS each
        return EncodedInputs("token", range(len(texts)), tokens.astype(np.int32), np.array(starts), labels)
