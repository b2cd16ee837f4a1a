"""The code that a model card shows: for this program, transformers and ONNX Runtime. Tests run all of it."""

from collections.abc import Sequence

from kd_scratch.config import DataConfig, ModelConfig

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
{given}inputs = tokenizer({texts}, truncation=True, return_tensors="pt")
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
#: The texts, where the result is about parts of them.
GIVEN = {
    "token": 'words = ["a", "text"]  # a punctuation mark is a word, too\n',
    "span": 'question, context = "a question", "a text"\n',
}
#: Each word with the tag of its first piece. `pieces` is an Encoding of the tokenizers library.
TAGS = """for i, word in enumerate(pieces.word_ids):
    if word is not None and word != pieces.word_ids[i - 1]:  # the first piece of a word
        print(words[word], {tag})"""
#: The best answer, as `predict` finds it: a span of the context that is not too long, or none.
ANSWER = f"""inside = [i for i, part in enumerate(pieces.sequence_ids) if part == 1]  # the context
spans = [(i, j) for i in inside for j in inside if i <= j < i + {DataConfig().answer_length}]
first, last = max([(0, 0), *spans], key=lambda span: starts[span[0]] + ends[span[1]])  # (0, 0): no answer
print(context[pieces.offsets[first][0] : pieces.offsets[last][1]])"""
#: By head, or for a text's several labels: what is done with the output of transformers.
SHOW = {
    "multi_label": "for i, p in enumerate(output.logits[0].sigmoid().tolist()):\n"
    "    print(model.config.id2label[i], p, p >= {threshold})",
    "sequence": "probabilities = output.logits[0].softmax(-1)\n"
    "print(model.config.id2label[int(probabilities.argmax())], float(probabilities.max()))",
    "token": "pieces = inputs.encodings[0]\n"
    + TAGS.format(tag="model.config.id2label[int(output.logits[0, i].argmax())]"),
    "span": "pieces = inputs.encodings[0]\n"
    "[starts], [ends] = output.start_logits.tolist(), output.end_logits.tolist()\n" + ANSWER,
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
{given}pieces = tokenizer.encode({texts})
arrays = {{"input_ids": pieces.ids, "attention_mask": pieces.attention_mask, "token_type_ids": {types}}}
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
    "token": f"[[logits]] = {RUN}\n{LABELS}\n" + TAGS.format(tag="labels[str(logits[i].argmax())]"),
    "span": f"[starts], [ends] = {RUN}\n{ANSWER}",
}


def usage(
    config: ModelConfig, longest: int, token_types: bool, ours: bool, transformers: bool, onnx: Sequence[str]
) -> str:
    """How a model is used by each program that can use it; "" where none can.

    longest: input in pieces. token_types: whether the tokenizer gives them; else all are 0.
    ours, transformers: whether they can. onnx: names of the files in onnx/.
    """
    texts = '"a text", "another"' if config.pairs else '"a text"'
    texts = {"token": "words, {split}=True", "span": "question, context"}.get(config.head, texts)
    given = GIVEN.get(config.head, "")
    kind = "multi_label" if config.multi_label else config.head
    threshold = repr(config.threshold)
    parts = []
    if ours and config.head in ASK:
        parts.append(OURS.format(call=ASK[config.head + " pair" * bool(config.pairs)]))
    if transformers:
        show = SHOW[kind].replace("{threshold}", threshold)
        texts_there = texts.replace("{split}", "is_split_into_words")
        parts.append(TRANSFORMERS.format(auto=AUTO[config.head], given=given, texts=texts_there, show=show))
    if onnx and kind in SHOW_ARRAYS:
        types = "pieces.type_ids" if token_types else "[0] * len(pieces.ids)"
        file = "model.onnx" if "model.onnx" in onnx else onnx[0]
        show = SHOW_ARRAYS[kind].replace("{threshold}", threshold)
        texts_there = texts.replace("{split}", "is_pretokenized")
        parts.append(ONNX.format(longest=longest, file=file, given=given, texts=texts_there, types=types, show=show))
    return "\n\n".join(["In this folder:", *parts]) if parts else ""
