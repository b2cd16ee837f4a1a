"""Folders of any age against transformers: where both open one, the same numbers and the same names of labels."""

import pytest
import torch

from kd_scratch.checkpoints.checkpoint import load_model, save_model
from kd_scratch.checkpoints.convert import convert
from tests.checkpoints.folders import FOLDERS
from tests.parity.reference import AUTO

transformers = pytest.importorskip("transformers")

IDS = torch.tensor([[2, 17, 45, 99, 3]])
TOLERANCE = 2e-5


@torch.no_grad()
def reference_on(directory, head):
    """The reference's configuration, and its logits (or last hidden state)."""
    model = AUTO[head].from_pretrained(directory, dtype=torch.float32).eval()
    output = model(IDS)
    if "start_logits" in output:
        return model.config, torch.stack([output.start_logits, output.end_logits], dim=-1)
    if head == "mlm":
        return model.config, output.logits.flatten(0, 1)  # B,S,V -> B·S,V
    return model.config, output.logits if "logits" in output else output.last_hidden_state


@torch.no_grad()
def ours_on(model):
    output = model(IDS, output_hidden_states=True)
    return output.hidden_states[-1] if output.logits is None else output.logits


@pytest.mark.parametrize("folder", [f for f in FOLDERS if not f.refused], ids=lambda folder: folder.name)
def test_a_usable_folder_gives_the_numbers_and_names_of_the_reference(tmp_path, folder):
    """Where the reference does not open the folder, it opens the untouched one."""
    directory = folder.write(tmp_path / "model")
    ours = load_model(directory)
    untouched = tmp_path / "untouched"
    save_model(folder.model(), untouched)
    config, expected = reference_on(directory if folder.reference else untouched, folder.head)
    torch.testing.assert_close(ours_on(ours), expected, rtol=0, atol=TOLERANCE)
    if folder.reference and ours.config.labels:
        assert [str(label) for _, label in sorted(config.id2label.items())] == list(ours.config.labels)
    save_model(ours, tmp_path / "again")
    config, again = reference_on(tmp_path / "again", folder.head)
    torch.testing.assert_close(again, expected, rtol=0, atol=TOLERANCE)
    assert config.problem_type == ("multi_label_classification" if ours.config.multi_label else None)
    if ours.config.labels:
        assert config.id2label == dict(enumerate(ours.config.labels))


UNREAD = ("label2id alone", "a classifier of one label, by its problem_type")  # in any folder
CONVERTED = [f for f in FOLDERS if not f.refused and f.name not in UNREAD]


@pytest.mark.parametrize("folder", CONVERTED, ids=lambda folder: folder.name)
def test_a_converted_folder_gives_the_reference_the_same_numbers(tmp_path, folder):
    """Also one that it does not open itself: without the wrapper's prefix, with the keys that config.json lacked."""
    directory = folder.write(tmp_path / "model")
    convert(directory, tmp_path / "new", lambda note: None)
    ours = load_model(directory)
    config, found = reference_on(tmp_path / "new", folder.head)
    torch.testing.assert_close(ours_on(ours), found, rtol=0, atol=TOLERANCE)
    assert folder.head is None or hasattr(transformers, config.architectures[0])
