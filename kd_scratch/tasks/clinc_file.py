"""CLINC150 (Larson et al. 2019): one JSON file of three splits; or one split as JSON lines or a table."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from kd_scratch.common.console import Say, say
from kd_scratch.common.errors import UserError
from kd_scratch.common.files import check_length
from kd_scratch.common.text_file import TextFile
from kd_scratch.config import DataConfig
from kd_scratch.data.json_lines import find_object, open_rows, refuse_array
from kd_scratch.tasks.text_files import Example, example_of_row, read_rows

OOS = "oos"  # out of scope
SPLITS = {"train": ("train",), "val": ("val", "validation", "valid", "dev"), "test": ("test",)}  # the keys


def read_clinc(path: Path, split: str, data: DataConfig, say: Say = say) -> Sequence[Example]:
    """CLINC150: {"train": [[text, intent], …], "val": …, "test": …, "oos_train": …, "oos_val": …, "oos_test": …}; or
    one split as JSON lines or a table of text and intent, in which "oos" is the intent of what is out of
    scope.

    The out-of-scope texts of dev and test are always read (they are scored apart), those of train only with
    --oos.
    """
    file, names = open_rows(path, data.encoding, say), set()
    if holds_splits(file):
        return clinc_examples(file, split, data, say)

    def make(line: int, text: str, label: str, pair: str | None) -> Example | None:
        names.add(label)
        if label == OOS and split == "train" and not data.oos:
            return None
        example = example_of_row(path, line, text, label, pair)
        return replace(example, in_scope=label != OOS or split == "train")

    rows = read_rows(file, data, say, make)
    if names and all(map(str.isdecimal, names)):
        say(f"{path}: intents are numbers, so none is out of scope; write {OOS} for it (in the hub's files 42)")
    return rows


def holds_splits(file: TextFile) -> bool:
    """Whether a file is CLINC150's JSON, as far as its first line shows."""
    first = file.first_line()
    row = find_object(first)
    known = {key for keys in SPLITS.values() for key in keys}
    return first[:1] in ("{", "[") if row is None else bool(known & row.keys())


def clinc_examples(file: TextFile, split: str, data: DataConfig, say: Say) -> list[Example]:
    """The examples of a split of the JSON that holds them all."""
    path, raw = file.path, file.json()
    if isinstance(raw, list):
        refuse_array(file)
    names = [key for key in SPLITS[split] if isinstance(raw, dict) and key in raw]
    if not names:
        raise UserError(f"{path}: is not CLINC150's JSON: it has no key {split!r}")
    name = names[0]
    if name != split:
        say(f"{path}: its key {name!r} is the split {split}")
    keys = [name] if split == "train" and not data.oos else [name, f"oos_{name}"]
    if data.oos and keys[-1] not in raw:
        raise UserError(f"{path}: --oos needs out-of-scope texts, there is no key {keys[-1]!r}")
    examples = []
    for key in keys:
        rows = raw.get(key, [])
        if not isinstance(rows, list):
            raise UserError(f"{path}: is not CLINC150's JSON: {key!r} is not a list")
        for i, row in enumerate(rows):
            if not (isinstance(row, list) and len(row) == 2 and all(isinstance(part, str) for part in row)):
                raise UserError(f"{path}: {key}[{i}]: is not a pair [text, intent]")
            check_length(row[0], f"{path}: {key}[{i}]")
            examples.append(Example(f"{key}:{i}", row[0], row[1], in_scope=key == name))
    return examples
