"""The code that a model card shows: for this program, transformers and ONNX Runtime. Tests run all of it."""

from collections.abc import Sequence

from kd_scratch.config import ModelConfig

#: By head, with " pair" for pairs of texts: how `predict` is asked.
ASK = {
    "sequence": 'predict(".", ["a text"])',
    "sequence pair": 'predict(".", ["a text"], pairs=["another"])',
    "token": 'predict(".", ["a text"])',
    "span": 'predict(".", questions=["a question"], context="a text")',
}
OURS = """With kd_scratch:

```python
from kd_scratch import predict

print({call})
```"""

TRANSFORMERS = """With `transformers`:

```python
import torch
from transformers import {auto}, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(".")
model = {auto}.from_pretrained(".")
inputs = tokenizer({texts}, truncation=True, return_tensors="pt")
with torch.no_grad():
    output = model(**inputs)
{show}
```"""
AUTO = {
    "sequence": "AutoModelForSequenceClassification",
    "token": "AutoModelForTokenClassification",
    "span": "AutoModelForQuestionAnswering",
    "mlm": "AutoModelForMaskedLM",
    None: "AutoModel",
}
#: By head, or for a text's several labels: what is done with the output of transformers.
SHOW = {
    "multi_label": "for i, p in enumerate(output.logits[0].sigmoid().tolist()):\n"
    "    print(model.config.id2label[i], p, p >= {threshold})",
    "sequence": "probabilities = output.logits[0].softmax(-1)\n"
    "print(model.config.id2label[int(probabilities.argmax())], float(probabilities.max()))",
    "token": "for piece, logits in zip(inputs.tokens(), output.logits[0]):\n"
    "    print(piece, model.config.id2label[int(logits.argmax())])",
    "span": "start, end = int(output.start_logits.argmax()), int(output.end_logits.argmax())\n"
    'print(tokenizer.decode(inputs["input_ids"][0, start : end + 1], skip_special_tokens=True))',
    "mlm": "print(output.logits.shape)",
    None: "print(output.last_hidden_state.shape)",
}

ONNX = """With ONNX Runtime:

```python
import json

import numpy as np
from onnxruntime import InferenceSession, SessionOptions
from tokenizers import Tokenizer

tokenizer = Tokenizer.from_file("tokenizer.json")
tokenizer.enable_truncation({longest})
options = SessionOptions()
options.add_session_config_entry("session.x64quantprecision", "1")  # else int8 overflows on x86 without VNNI
session = InferenceSession("onnx/{file}", options)
text = tokenizer.encode({texts})
arrays = {{"input_ids": text.ids, "attention_mask": text.attention_mask, "token_type_ids": {types}}}
wanted = [each.name for each in session.get_inputs()]
{show}
```"""
RUN = "session.run(None, {name: np.array([arrays[name]], np.int64) for name in wanted})"
LABELS = 'labels = json.load(open("config.json"))["id2label"]'
#: The same with the output of ONNX Runtime.
SHOW_ARRAYS = {
    "multi_label": f"[[logits]] = {RUN}\n{LABELS}\n"
    "for i, p in enumerate(1 / (1 + np.exp(-logits))):\n    print(labels[str(i)], p, p >= {threshold})",
    "sequence": f"[[logits]] = {RUN}\n{LABELS}\nprint(labels[str(logits.argmax())])",
    "token": f"[[logits]] = {RUN}\n{LABELS}\n"
    "for piece, row in zip(text.tokens, logits):\n    print(piece, labels[str(row.argmax())])",
    "span": f"[starts], [ends] = {RUN}\nprint(tokenizer.decode(text.ids[starts.argmax() : ends.argmax() + 1]))",
}


def usage(
    config: ModelConfig, longest: int, token_types: bool, ours: bool, transformers: bool, onnx: Sequence[str]
) -> str:
    """How a model is used by each program that can use it; "" where none can.

    longest: input in pieces. token_types: whether the tokenizer gives them; else all are 0.
    ours, transformers: whether they can. onnx: names of the files in onnx/.
    """
    texts = '"a text", "another"' if config.pairs else '"a text"'
    texts = '"a question", "a text"' if config.head == "span" else texts
    words = {"texts": texts, "longest": longest, "auto": AUTO[config.head]}
    kind = "multi_label" if config.multi_label else config.head
    threshold = repr(config.threshold)
    parts = []
    if ours and config.head in ASK:
        parts.append(OURS.format(call=ASK[config.head + " pair" * bool(config.pairs)]))
    if transformers:
        parts.append(TRANSFORMERS.format(show=SHOW[kind].replace("{threshold}", threshold), **words))
    if onnx and kind in SHOW_ARRAYS:
        types = "text.type_ids" if token_types else "[0] * len(text.ids)"
        file = "model.onnx" if "model.onnx" in onnx else onnx[0]
        show = SHOW_ARRAYS[kind].replace("{threshold}", threshold)
        parts.append(ONNX.format(file=file, types=types, show=show, **words))
    return "\n\n".join(["In this folder:", *parts]) if parts else ""
