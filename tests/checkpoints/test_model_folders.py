"""Model folders of any age: usable with the same outputs, or refused in a line with a cure; always usable as a body."""

import json
import re
import time
from dataclasses import replace

import pytest
import torch

from kd_scratch.checkpoints import own_head as own_head_module
from kd_scratch.checkpoints.checkpoint import load_config, load_model, save_model
from kd_scratch.checkpoints.own_head import completed, own_head
from kd_scratch.checkpoints.safetensors import save_file
from kd_scratch.common.errors import UserError
from tests.checkpoints.folders import FOLDERS, Folder
from tests.conftest import tiny_model

IDS = torch.tensor([[2, 17, 45, 99, 3]])


@torch.no_grad()
def outputs(model):
    output = model(IDS, output_hidden_states=True)
    return output.hidden_states[-1] if output.logits is None else output.logits


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_folder_is_usable_with_the_same_outputs_or_refused_with_a_cure(tmp_path, folder):
    directory = folder.write(tmp_path / "model")
    if folder.refused:
        with pytest.raises(UserError) as error:
            load_model(directory)
        assert re.search(folder.refused, str(error.value)) and str(error.value).startswith(str(directory))
        assert "\n" not in str(error.value)
        return
    model = load_model(directory)
    assert (model.config.head, model.config.labels) == (folder.head, folder.labels)
    assert load_config(directory) == model.config
    torch.testing.assert_close(outputs(model), outputs(folder.model()), rtol=0, atol=folder.tolerance)
    save_model(model, tmp_path / "again")
    raw = json.loads((tmp_path / "again/config.json").read_text())
    kept = {key: folder.config.get(key) for key in ("problem_type", "label_threshold")}
    multi_label = folder.head == "sequence" and kept["problem_type"] == "multi_label_classification"
    kept["label_threshold"] = kept["label_threshold"] or 0.5
    assert {key: raw.get(key) for key in kept} == (kept if multi_label else dict.fromkeys(kept))
    notes = []
    assert load_model(tmp_path / "again", say=notes.append).config == model.config and not notes


@pytest.mark.parametrize("folder", [f for f in FOLDERS if f.cure], ids=lambda folder: folder.name)
def test_the_printed_cure_works(tmp_path, folder):
    model = load_model(replace(folder, config=folder.config | folder.cure).write(tmp_path))
    assert (model.config.head, model.config.labels) == (folder.head, folder.labels)
    torch.testing.assert_close(outputs(model), outputs(folder.model()), rtol=0, atol=folder.tolerance)


@pytest.mark.parametrize(
    ("head", "own", "written"),
    [
        ("sequence", "BertForMultiLabelClassification", "BertForSequenceClassification"),
        ("token", "BertSpanTagger", "BertForTokenClassification"),
        ("span", "MyReader", "BertForQuestionAnswering"),
    ],
)
def test_a_head_of_a_class_of_ones_own_is_told_with_what_to_write_if_it_is_a_usual_one(tmp_path, head, own, written):
    folder, notes = Folder("own", head=head, config=dict(architectures=[own])), []
    if head == "span":
        folder = replace(folder, saved_labels=())
    assert load_model(folder.write(tmp_path / "own"), say=notes.append).config.head is None
    [note] = [note for note in notes if own in note]
    assert f'"{written}"' in note and "a class of its own, whose head is not read" in note
    assert ("ForSequenceClassification" in note) == (head == "sequence"), "which has a pooler"
    usual = replace(folder, config=dict(architectures=[written])).write(tmp_path / "usual")
    torch.testing.assert_close(outputs(load_model(usual)), outputs(folder.model()))
    for other in ("BertModel", "BertForMultipleChoice"):
        notes.clear()
        load_model(replace(folder, config=dict(architectures=[other])).write(tmp_path / other), say=notes.append)
        assert not any("class of its own" in note for note in notes)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_the_labels_of_a_head_that_is_replaced_do_no_harm(tmp_path, folder):
    directory = folder.write(tmp_path / "model")
    if not folder.body:
        with pytest.raises(UserError, match=folder.refused):
            load_model(directory, "sequence", ("a", "b"))
        return
    model = load_model(directory, "sequence", ("a", "b"))
    assert model.config.labels == ("a", "b")
    with torch.no_grad():
        bodies = [m(IDS, output_hidden_states=True).hidden_states[-1] for m in (model, folder.model())]
    torch.testing.assert_close(*bodies, rtol=0, atol=folder.tolerance)


def test_a_new_head_takes_the_place_of_one_that_cannot_be_used(tmp_path):
    """Also where its labels have the same names: in a model of several labels at once they mean something else."""
    several = Folder("several", config=dict(problem_type="multi_label_classification")).write(tmp_path / "a")
    usual = Folder("usual").write(tmp_path / "b")
    old = tiny_model().head.classifier.weight
    assert torch.equal(load_model(usual, "sequence", ("no", "yes", "maybe")).head.classifier.weight, old)
    assert not torch.equal(load_model(several, "sequence", ("no", "yes", "maybe")).head.classifier.weight, old)


@pytest.mark.parametrize("folder", [f for f in FOLDERS if "of its own" in f.name and f.head == "mlm"])
def test_a_head_that_does_not_share_the_table_of_tokens_is_left_out_after_the_cure(tmp_path, folder):
    config = load_model(replace(folder, config={"tie_word_embeddings": False}).write(tmp_path)).config
    assert config.head is None


def test_the_body_of_a_sentence_embedder_is_usable(tmp_path):
    """modules.json, a pooling and a dense layer stand beside it; of older ones it has a folder of its own."""
    body = Folder("body", head=None, renamed=(("^bert[.]", ""),))
    body.write(tmp_path / "new")
    body.write(tmp_path / "old" / "0_Transformer")
    for folder in (tmp_path / "new", tmp_path / "old"):
        (folder / "1_Pooling").mkdir()
        (folder / "1_Pooling" / "config.json").write_text('{"word_embedding_dimension": 16}')
        (folder / "2_Dense").mkdir()
        save_file({"linear.weight": torch.zeros(4, 16)}, folder / "2_Dense" / "model.safetensors")
        (folder / "modules.json").write_text("[]")
    assert load_model(tmp_path / "new", "sequence", ("a", "b")).config.labels == ("a", "b")
    with pytest.raises(UserError, match=f"it has no config.json; a model is in {tmp_path}/old/0_Transformer$"):
        load_model(tmp_path / "old", "sequence", ("a", "b"))


def test_long_names_and_many_labels_take_no_time(tmp_path):
    """What a file of a few hundred kilobytes can hold: a name of so many words, a label that comes twice at the end."""
    started = time.perf_counter()
    for name in ("a." * 80_000, "bert." * 40_000, "1." * 80_000):
        with pytest.raises(UserError, match="has no model_type"):
            completed({}, [name], "config.json")
    names = {str(i): str(min(i, 59_998)) for i in range(60_000)}
    problem = own_head(dict(architectures=["BertForTokenClassification"], id2label=names), "config.json").problem
    assert "id2label holds '59998' twice" in problem
    assert time.perf_counter() - started < 5


def test_more_labels_than_a_model_can_have_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(own_head_module, "MOST_LABELS", 2)
    with pytest.raises(UserError, match="id2label names 3 labels, at most 2 are read"):
        load_model(Folder("x").write(tmp_path))


def test_what_stood_on_a_body_is_ignored_and_told(tmp_path):
    notes, folder = [], next(folder for folder in FOLDERS if folder.name == "a body and what stood on it")
    load_model(folder.write(tmp_path), say=notes.append)
    assert notes == [f"{tmp_path}: ignored, no part of this model: crf.transitions, fc.weight, logit_scale"]


def test_notes_tell_what_was_found_in_the_parameters(tmp_path):
    notes = []
    keys = dict(model_type=None, architectures=None)
    load_model(Folder("x", config=keys, renamed=(("^", "module."),)).write(tmp_path), say=notes.append)
    expected = "no model_type; it is a bert", "no architectures; it has a sequence", "'module.'"
    for note, words in zip(notes, expected, strict=True):
        assert note.startswith(str(tmp_path)) and words in note


def test_a_head_without_names_is_kept_where_the_data_calls_labels_by_its_numbers(tmp_path):
    """LABEL_2 is 2, whatever the order that is asked for; where there are others, the head is a new one."""
    nameless = Folder("nameless", config=dict(id2label=None, label2id=None, num_labels=3))
    directory, notes = nameless.write(tmp_path), []
    kept = load_model(directory, "sequence", ("2", "0", "1"), notes.append)
    assert kept.config.labels == ("2", "0", "1")
    assert notes == [f"{directory}: its labels LABEL_0 to LABEL_2 are taken for the data's labels 0 to 2"]
    assert torch.equal(kept.head.classifier.weight, tiny_model().head.classifier.weight[[2, 0, 1]])
    for labels in (("1", "2", "3"), ("0", "1"), ("0", "1", "2", "3"), ("LABEL_0", "1", "2")):
        notes.clear()
        load_model(directory, "sequence", labels, notes.append)
        assert "new random weights" in notes[0], labels
