"""vocabulary.py: training only the rows of the word table that the training set uses."""

import numpy as np
import pytest
import torch

from kd_scratch.config import TrainConfig
from kd_scratch.training.optimizer import Stepper, make_optimizer
from kd_scratch.training.vocabulary import UsedRows, UsedWords
from tests.conftest import tiny_model

TOKENS = np.array([5, 9, 5, 40, 77, 9, 100], np.int32)
USED = [0, 5, 9, 40, 77, 100]  # 0 is the padding


def train_steps(model, steps=4):
    """A few steps on the tokens; returns the losses."""
    config = TrainConfig(learning_rate=1e-2, weight_decay=0.0)
    stepper = Stepper(make_optimizer(model, config), torch.amp.GradScaler("cpu", enabled=False), config, steps)
    ids, losses = torch.from_numpy(TOKENS).long().view(1, -1), []
    for i in range(steps):
        loss = model(ids).logits.square().sum()
        loss.backward()
        losses.append(stepper.step(i, loss.detach()).item())
    return losses


def test_training_the_used_rows_is_training_the_whole_table():
    whole, narrow = tiny_model(), tiny_model()
    before = whole.embeddings.word.weight.detach().clone()
    expected = train_steps(whole)
    vocabulary = UsedWords(narrow, TOKENS)
    vocabulary.use_rows()
    assert narrow.embeddings.word.weight.shape == (len(USED), 16)
    np.testing.assert_allclose(train_steps(narrow), expected, rtol=1e-5)
    vocabulary.restore_table()
    assert narrow.state_dict().keys() == whole.state_dict().keys()
    for name, tensor in narrow.state_dict().items():
        torch.testing.assert_close(tensor, whole.state_dict()[name], rtol=1e-4, atol=1e-6)
    table = narrow.embeddings.word.weight.detach()
    unused = sorted(set(range(120)) - set(USED))
    assert torch.equal(table[unused], before[unused]), "words that the data do not use stay exactly as they were"
    assert all(not torch.equal(table[i], before[i]) for i in USED[1:])


def test_a_model_with_its_table_again_knows_all_words_and_goes_on_training_where_it_was():
    model = tiny_model()
    vocabulary = UsedWords(model, TOKENS)
    vocabulary.use_rows()
    trained = model.embeddings.word.weight
    with torch.no_grad():
        trained.add_(1)
    vocabulary.restore_table()
    assert model(torch.tensor([[1, 2, 119]])).logits.isfinite().all()
    assert torch.equal(model.embeddings.word.weight[USED], trained)
    vocabulary.use_rows()
    assert model.embeddings.word.weight is trained, "the optimizer's moments belong to this very parameter"


def test_an_id_that_the_data_did_not_have_is_an_error_and_no_other_word():
    table = UsedRows(torch.nn.Embedding(120, 16), torch.tensor(USED))
    assert torch.equal(table(torch.tensor([9, 100])), table.weight[[2, 5]])
    with pytest.raises(IndexError):
        table(torch.tensor([9, 10]))


def test_the_padding_is_always_among_the_used_and_tokens_are_looked_at_slice_by_slice(monkeypatch):
    monkeypatch.setattr("kd_scratch.training.vocabulary.SLICE", 2)
    assert UsedWords(tiny_model(pad_id=119), TOKENS).used.tolist() == [*USED[1:], 119]
