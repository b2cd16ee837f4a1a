"""transformers must not take an int8 directory's whole numbers for weights."""

import pytest

from kd_scratch.checkpoints.checkpoint import save_model
from kd_scratch.nn.int8 import quantize
from tests.conftest import tiny_model

transformers = pytest.importorskip("transformers")


@pytest.mark.parametrize("shape", [{}, dict(model_type="distilbert", token_types=0)], ids=["bert", "distilbert"])
def test_transformers_refuses_an_int8_directory(shape, tmp_path):
    model = tiny_model("sequence", **shape)
    save_model(model, tmp_path)
    transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path)
    save_model(quantize(model), tmp_path)
    with pytest.raises(ValueError, match="quant_method"):
        transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path)
