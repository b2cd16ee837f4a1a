"""word_proposals.py: words that a head for masked words finds likely in a place."""

import numpy as np
import pytest
import torch

from kd_scratch.checkpoints.checkpoint import save_model
from kd_scratch.common.errors import UserError
from kd_scratch.data.tokenizer import train_tokenizer
from kd_scratch.training.spec import RunSpec
from kd_scratch.training.word_proposals import LIKELIEST, WordProposer
from tests.conftest import TEXTS, tiny_model

WORDS = [text.split() for text in TEXTS]


@pytest.fixture
def proposer(tmp_path, tokenizer):
    save_model(tiny_model("mlm", vocab_size=tokenizer.vocab_size), tmp_path)
    tokenizer.save(tmp_path, 40)
    return WordProposer(RunSpec("csv", "", "", "", "", augment_model=str(tmp_path)), tokenizer)


def test_a_word_is_drawn_of_the_likeliest_by_their_probability(proposer, tokenizer):
    """Long-hand: the text with one [MASK], its logits there, whole words other than the one that stood there."""
    words = ["the", "fox", "(again).", "lazy", "and"]
    for place, shown in ((1, "the [MASK] (again). lazy and"), (3, "the fox (again). [MASK] and")):
        ids = tokenizer.encode([shown])[0].ids
        at = ids.index(tokenizer.mask_id)
        with torch.no_grad():
            logits = proposer.model(torch.tensor([ids])).logits.reshape(len(ids), -1)[at]
        for i in range(len(logits)):
            word = tokenizer.backend.id_to_token(i)
            if not word.isalnum() or word == words[place]:
                logits[i] = -torch.inf
        values, best = logits.topk(LIKELIEST)
        p = values.softmax(0)
        for k in range(LIKELIEST):
            middle = float(p[:k].sum() + p[k] / 2)
            assert proposer([words], [{place: middle}]) == [{place: tokenizer.backend.id_to_token(int(best[k]))}]


def test_what_is_proposed_is_a_whole_word_in_a_place_that_was_asked_for(proposer, tokenizer):
    rng = np.random.default_rng(0)
    texts = [[word.strip(",;") for word in words] for words in WORDS] * 40
    gaps = [{place: rng.random() for place in range(len(words)) if rng.random() < 0.3} for words in texts]
    found = proposer(texts, gaps)
    assert [list(f) for f in found] == [list(g) for g in gaps] and found == proposer(texts, gaps)
    assert sum(map(len, found)) > 300
    for words, proposed in zip(texts, found, strict=True):
        for place, word in proposed.items():
            assert word.isalnum() and word != words[place] and len(tokenizer.encode([word])[0].ids) == 3


def test_places_behind_the_models_reach_get_none(proposer):
    assert proposer([["the", "fox"], [], ["a"] * 60], [{}, {}, {59: 0.5}]) == [{}, {}, {}]
    assert list(proposer([["a"] * 60], [{30: 0.5, 59: 0.5}])[0]) == [30]


def test_another_tokenizer_or_head_is_refused(proposer, tmp_path):
    other, spec = train_tokenizer(TEXTS, vocab_size=110), RunSpec("csv", "", "", "", "", augment_model=tmp_path)
    with pytest.raises(UserError, match="its tokenizer differs from that of the training: the vocabulary"):
        WordProposer(spec, other)
    save_model(tiny_model("span", vocab_size=120), tmp_path)
    with pytest.raises(UserError, match="has a span head, it needs one for masked words"):
        WordProposer(spec, other)
