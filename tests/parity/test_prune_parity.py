"""A pruned model and its tokenizer against transformers, which opens the folder as any other."""

import random

import pytest
import torch

from kd_scratch.__main__ import main
from kd_scratch.checkpoints.checkpoint import load_model, save_model
from kd_scratch.data.tokenizer import load_tokenizer
from kd_scratch.nn.model import Model
from tests.conftest import TEXTS
from tests.parity.reference import AUTO

transformers = pytest.importorskip("transformers")


@pytest.mark.parametrize("head", ["sequence", "mlm"])
@torch.no_grad()
def test_a_pruned_minilm_gives_the_ids_and_numbers_of_the_reference(minilm, head, tmp_path):
    labels = ("no", "yes") if head == "sequence" else ()
    model: Model = load_model(minilm, head=head, labels=labels)
    tokenizer = load_tokenizer(minilm)
    save_model(model, tmp_path / "whole")
    tokenizer.save(tmp_path / "whole", 128)
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS))
    argv = ["prune", "--model", tmp_path / "whole", "--output", tmp_path / "small", "--feed-forward", "100"]
    assert main([*map(str, argv), "--words", str(tmp_path / "texts.txt"), "--quiet"]) == 0
    ours, own = load_model(tmp_path / "small"), load_tokenizer(tmp_path / "small")
    reference = transformers.AutoTokenizer.from_pretrained(tmp_path / "small")
    other = AUTO[head].from_pretrained(tmp_path / "small", dtype=torch.float32).eval()
    assert other.config.intermediate_size == 100 and other.config.vocab_size == len(reference) == own.vocab_size < 2500
    assert other.config.pad_token_id == reference.pad_token_id
    pieces, draw = list(tokenizer.backend.get_vocab()), random.Random(0)
    texts = [*TEXTS, *(" ".join(draw.choices(pieces, k=20)).replace(" ##", "") for _ in range(50))]
    for text in texts:
        ids = own.encode([text])[0].ids
        assert ids == reference(text)["input_ids"], text
        found, expected = ours(torch.tensor([ids])).logits, other(torch.tensor([ids])).logits
        torch.testing.assert_close(found.flatten(), expected.flatten(), rtol=0, atol=2e-4)
