"""The classes of transformers with which the parity tests open a folder, by our name of its head."""

import pytest

transformers = pytest.importorskip("transformers")

AUTO = {
    "sequence": transformers.AutoModelForSequenceClassification,
    "token": transformers.AutoModelForTokenClassification,
    "span": transformers.AutoModelForQuestionAnswering,
    "mlm": transformers.AutoModelForMaskedLM,
    None: transformers.AutoModel,
}
