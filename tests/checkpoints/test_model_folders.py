"""Model folders of any age: usable with the same outputs, or refused in a line with a cure; always usable as a body."""

import json
import re

import pytest
import torch

from kd_scratch.checkpoints.checkpoint import load_config, load_model, save_model
from kd_scratch.common.errors import UserError
from tests.checkpoints.folders import FOLDERS

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
    assert "problem_type" not in json.loads((tmp_path / "again/config.json").read_text())
    notes = []
    assert load_model(tmp_path / "again", say=notes.append).config == model.config and not notes


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
