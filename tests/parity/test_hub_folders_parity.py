"""Folders as published repositories look (hub_folders.py): ids, numbers and decisions are those of the reference."""

import json
import re
from itertools import pairwise

import pytest
import torch

from kd_scratch.__main__ import main
from kd_scratch.checkpoints.checkpoint import load_model, save_model
from kd_scratch.data.tokenizer import load_tokenizer
from kd_scratch.tasks.spans import split_words
from tests.checkpoints.hub_folders import PRETRAINED, SHAPES, TEXTS, write_shape
from tests.parity.reference import AUTO

transformers = pytest.importorskip("transformers")

BERT = {"mlm": transformers.BertForMaskedLM, None: transformers.BertModel}  # where config.json has no model_type
EQUAL = 1e-5  # largest difference of a logit or a probability
#: The reference finds none of the weights under such names, and draws new ones with a warning: it gets them without.
PREFIX = {"data-parallel": "module."}
QUESTIONS = ["Where did Ada Berg fly to?", "Möchten Sie über die Straße?"]
CONTEXT = "In May Ada Berg flew from Zürich to New York; 王小明 stayed in 東京 with Zoë."
every_shape = pytest.mark.parametrize("name", SHAPES)


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory):
    """A function: name of a shape -> its folder, written once."""
    parent, made = tmp_path_factory.mktemp("hub"), {}

    def folder(name):
        if name not in made:
            made[name] = write_shape(name, parent)
        return made[name]

    return folder


def reference_tokenizer(folder):
    """The reference's tokenizer; where config.json has no model_type, BERT's, for which one asks by name."""
    named = "model_type" in json.loads((folder / "config.json").read_text())
    return (transformers.AutoTokenizer if named else transformers.BertTokenizer).from_pretrained(folder)


def reference(folder, head):
    """The reference's tokenizer and model, every weight of which is in the folder."""
    tokenizer = reference_tokenizer(folder)
    named = "model_type" in json.loads((folder / "config.json").read_text())
    auto = AUTO[head] if named else BERT[head]
    if folder.name in PREFIX:
        weights = torch.load(folder / "pytorch_model.bin").items()
        model = auto.from_config(transformers.AutoConfig.from_pretrained(folder))
        missing = set(
            model.load_state_dict(
                {name.removeprefix(PREFIX[folder.name]): tensor for name, tensor in weights}, strict=False
            ).missing_keys
        )
    else:
        model, info = auto.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
        missing = info["missing_keys"]
    assert not missing - {"pooler.dense.weight", "pooler.dense.bias"}, missing
    return tokenizer, model.eval()


@torch.no_grad()
def reference_logits(model, inputs):
    """The numbers that a model gives: of its head, or the encoder's last states."""
    found = model(**inputs)
    if "start_logits" in found:
        return torch.stack([found.start_logits, found.end_logits], dim=-1)[0]
    return found.get("logits", found.get("last_hidden_state"))[0]


@torch.no_grad()
def our_logits(model, inputs):
    """The same of ours."""
    found = model(inputs["input_ids"], inputs["attention_mask"], inputs.get("token_type_ids"))
    if model.config.head == "mlm":
        return found.logits  # of every place, without the batch
    return (found.hidden_states[-1] if model.config.head is None else found.logits)[0]


# --- decisions of the reference, long-hand ---


def classes(tokenizer, model, text):
    """Label -> probability."""
    logits = reference_logits(model, tokenizer(text, return_tensors="pt")).double()
    multi_label = model.config.problem_type == "multi_label_classification"
    probability = logits.sigmoid() if multi_label else logits.softmax(-1)
    return {str(model.config.id2label[i]): float(p) for i, p in enumerate(probability)}


def chunks(tags):
    """(type, first, end) of the entities, read as conlleval does whatever the scheme; a bare type is an I."""
    tags = [tag if tag == "O" or re.match("[BIES]-", tag) else f"I-{tag}" for tag in tags]
    found = []
    for i, (previous, tag) in enumerate(pairwise(["O", *tags])):
        if tag == "O":
            continue
        goes_on = tag[0] in "IE" and previous[0] in "BI" and previous[2:] == tag[2:]
        if goes_on:
            found[-1][2] = i + 1
        else:
            found.append([tag[2:], i, i + 1])
    return [tuple(chunk) for chunk in found]


def named_entities(tokenizer, model, text):
    """(slice, type, start, end) of each entity: the label of a word is that of its first piece."""
    spans = split_words(text)
    if not spans:
        return []
    words = [text[a:b] for a, b in spans]
    words = [word if tokenizer.tokenize(word) else "[UNK]" for word in words]  # lone control characters
    inputs = tokenizer(words, is_split_into_words=True, return_tensors="pt")
    helpers = [label in ("X", "[CLS]", "[SEP]", "[PAD]") for label in model.config.id2label.values()]
    best = reference_logits(model, inputs).masked_fill(torch.tensor(helpers), -torch.inf).argmax(-1)
    first = {word: i for i, word in reversed(list(enumerate(inputs.word_ids()))) if word is not None}
    tags = [model.config.id2label[int(best[first[word]])] for word in range(len(words))]
    ends = [(kind, spans[a][0], spans[b - 1][1]) for kind, a, b in chunks(tags)]
    return [(text[start:end], kind, start, end) for kind, start, end in ends]


def best_answer(tokenizer, model, question, context, longest=30):
    """(start, end) of the best span within the context, of at most `longest` pieces."""
    inputs = tokenizer(question, context, return_tensors="pt", return_offsets_mapping=True)
    offsets = inputs.pop("offset_mapping")[0].tolist()
    start, end = reference_logits(model, inputs).double().T
    places = [i for i, part in enumerate(inputs.sequence_ids()) if part == 1]
    spans = [(float(start[i] + end[j]), i, j) for i in places for j in places if i <= j < i + longest]
    _, i, j = max(spans, key=lambda span: (span[0], -span[1], -span[2]))
    return offsets[i][0], offsets[j][1]


def check_prediction(head, found, tokenizer, model, inputs):
    """What `predict` printed against the reference's decision for each input."""
    for text in inputs:
        if head == "sequence":
            expected = classes(tokenizer, model, text)
            multi_label = model.config.problem_type == "multi_label_classification"
            p = found[text]["probabilities"] if multi_label else found[text]
            assert p.keys() == expected.keys()
            assert max(abs(p[label] - other) for label, other in expected.items()) < EQUAL, text
            assert list(p) == sorted(expected, key=lambda label: -p[label])
            assert not multi_label or found[text]["labels"] == [label for label in p if p[label] >= 0.5]
        elif head == "token":
            entities = [(e["entity"], e["type"], e["start"], e["end"]) for e in found[text]]
            assert entities == named_entities(tokenizer, model, text), text
        else:
            answer = next(answer for answer in found[text] if answer["answer"])
            assert (answer["start"], answer["end"]) == best_answer(tokenizer, model, text, CONTEXT), text


def inputs_of(head):
    """The flags of `predict` for a head, and the inputs that it answers."""
    if head == "span":
        return ["--question", *QUESTIONS, "--context", CONTEXT], QUESTIONS
    texts = [text for text in TEXTS if text.strip() and len(text) < 100]
    return ["--text", *texts], texts


def check_ids(folder):
    """Our ids of all texts, alone and as pairs, are the reference's."""
    theirs, ours = reference_tokenizer(folder), load_tokenizer(folder)
    assert [encoding.ids for encoding in ours.encode(TEXTS)] == theirs(TEXTS, padding=False).input_ids
    pairs = ours.encode(TEXTS, TEXTS[::-1])
    expected = theirs(TEXTS, TEXTS[::-1], padding=False)
    assert [encoding.ids for encoding in pairs] == expected.input_ids
    if "token_type_ids" in expected:
        assert [encoding.type_ids for encoding in pairs] == expected.token_type_ids


def check_numbers(folder, head):
    """Our logits of some texts are the reference's."""
    ours = load_model(folder, say=lambda line: None)
    assert head in (ours.config.head, None)  # None: nothing but the tensors says what it is
    tokenizer, model = reference(folder, ours.config.head)
    for text in TEXTS[:8]:
        inputs = tokenizer(text, return_tensors="pt")
        assert torch.allclose(our_logits(ours, inputs), reference_logits(model, inputs), atol=EQUAL, rtol=EQUAL), text


def needs(name, model=False):
    """The shape of this name. Skips what is refused: the last test has them."""
    shape = SHAPES[name]
    if "model_type" in shape.refused or (model and shape.refused not in ("", PRETRAINED)):
        pytest.skip("no such model here")
    return shape


@every_shape
def test_ids_are_the_references(name, folder_of):
    needs(name)
    check_ids(folder_of(name))


@every_shape
def test_logits_are_the_references(name, folder_of):
    check_numbers(folder_of(name), needs(name, model=True).head)


@every_shape
def test_what_we_save_of_it_the_reference_reads_alike(name, folder_of, tmp_path):
    shape = needs(name, model=True)
    model, tokenizer = load_model(folder_of(name), say=lambda line: None), load_tokenizer(folder_of(name))
    save_model(model, tmp_path)
    tokenizer.save(tmp_path, max_length=512, token_types=model.config.token_types > 0)
    check_ids(tmp_path)
    check_numbers(tmp_path, shape.head)
    expected = reference_tokenizer(folder_of(name))(TEXTS).input_ids
    assert reference_tokenizer(tmp_path)(TEXTS).input_ids == expected


@every_shape
def test_predictions_are_the_references_or_refused(name, folder_of, capsys):
    shape = SHAPES[name]
    flags, inputs = inputs_of(shape.head)
    status = main(["predict", "--model", str(folder_of(name)), *flags, "--device", "cpu", "--json"])
    out, err = capsys.readouterr()
    if shape.refused:
        assert status == 2 and re.search(shape.refused, err) and err.count("\n") == 1, err
        return
    assert status == 0, err
    check_prediction(shape.head, json.loads(out), *reference(folder_of(name), shape.head), inputs)
