"""The card of a model folder: what it says is in the folder's files, nothing in it is obeyed, its code runs."""

import json
import os
import re
import shutil
import sys
import tempfile
import traceback
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from kd_scratch.__main__ import main
from kd_scratch.checkpoints.checkpoint import save_model
from kd_scratch.common.console import cell, table
from kd_scratch.common.device import pick_device
from kd_scratch.common.files import sha256_of_file
from kd_scratch.config import DataConfig
from kd_scratch.evaluation.calibrate import calibrate
from kd_scratch.evaluation.compare import quality
from kd_scratch.evaluation.evaluate import evaluate_set, load_for_inference, read_evaluation_set
from kd_scratch.evaluation.export import export_onnx
from kd_scratch.evaluation.prune import prune
from kd_scratch.evaluation.quantize import quantize
from kd_scratch.evaluation.significance import score_interval
from kd_scratch.pages.card import CARD, code, is_generated, made_of, write_card
from kd_scratch.tasks import TASKS
from kd_scratch.training.run import about_sources
from tests.conftest import KINDS, ROOT, TEXTS, tiny_model

HOSTILE = "a`b``<script>alert(1)</script>|[x](javascript:y) **b** \x1b[31m\u202e\n# h"


def python_in(card: str) -> list[str]:
    """The programs that a card shows."""
    return re.findall(r"```python\n(.*?)```", card, re.DOTALL)


def run_in(folder: Path, program: str) -> str:
    """What a program prints that is run in a folder: in a fork, for which its imports are made here, once for all."""
    exec("\n".join(line for line in program.split("\n") if line.startswith(("import ", "from "))), {})
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        sys.stdout.flush()
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                os.chdir(folder)
                for number, file in enumerate((out, err), 1):
                    os.dup2(file.fileno(), number)
                with open(1, "w", closefd=False) as sys.stdout, open(2, "w", closefd=False) as sys.stderr:
                    exec(program, {"__name__": "__main__"})
                    status = 0
            except BaseException:
                os.write(2, traceback.format_exc().encode())
            finally:
                os._exit(status)
        status = os.waitpid(pid, 0)[1]
        for file in (out, err):
            file.seek(0)
        assert status == 0, err.read()
        return out.read()


@pytest.fixture(scope="module")
def folders(tmp_path_factory, tokenizer) -> Path:
    """A teacher with a licence and a card, a student distilled from it by `train`, and that one's int8 form."""
    folder = tmp_path_factory.mktemp("private")
    labels = ("money", "sport")
    lines = [f"{labels[i % 2]},{TEXTS[1 + i % 2].replace(',', '')} {'again ' * (i % 5)}" for i in range(40)]
    (folder / "my data.csv").write_text("label,text\n" + "\n".join(lines) + "\n")
    (folder / "dev.csv").write_text("label,text\n" + "\n".join(lines[:12]) + "\n")
    for name, seed in (("teacher", 1), ("base", 2)):
        save_model(tiny_model(labels=labels, seed=seed, depth=2, vocab_size=tokenizer.vocab_size), folder / name)
        tokenizer.save(folder / name, max_length=24)
        (folder / name / "LICENSE").write_text(f"The licence of {name}\n")
        (folder / name / CARD).write_text("---\nlanguage: en\nlicense: 'apache-2.0'\n---\n# A teacher\n")
    (folder / "teacher" / "NOTICE.txt").write_text("Made by somebody\n")
    paths = {"train": "my data.csv", "dev": "dev.csv", "model": "base", "teacher": "teacher"}
    paths |= {"output": "student", "cache": "cache"}
    argv = ["train", *"--task csv --epochs 2 --batch-size 10 --max-length 24 --alpha 0.3 --threads 1 --quiet".split()]
    argv += ["--init-layers", "1", *(word for k, v in paths.items() for word in (f"--{k}", str(folder / v)))]
    assert main(argv) == 0
    quantize(load_for_inference(folder / "student", fast=False), folder / "int8")
    return folder


def test_a_trained_folder_says_what_it_is_and_of_what(folders):
    card = (folders / "student" / CARD).read_text()
    record = json.loads((folders / "student" / "training.json").read_text())
    front = card.split("---")[1]
    assert 'license: "apache-2.0"' in front and 'library_name: "transformers"' in front and "language" not in front
    assert 'tags: ["kd_scratch", "knowledge-distillation"]' in front and 'metrics: ["accuracy"]' in front
    assert "A BERT of 1 layer, 16 wide. It gives one label to a text: `money`, `sport`." in card
    assert "It was distilled from `teacher`, starting from layers `1` of `base`." in card
    for name, count in (("my data.csv", 40), ("dev.csv", 12)):
        row = next(line for line in card.splitlines() if f"`{name}`" in line)
        assert f"| {count} |" in " ".join(row.split()) and sha256_of_file(folders / name) in row
    kept = record["history"][record["best_epoch"] - 1]
    low, high = kept["interval"]
    row = next(line.split() for line in card.splitlines() if line.startswith("| accuracy"))
    assert row[3::2] == [f"{record['best_score']:.4f}", f"{low:.4f}", f"{high:.4f}"]
    for key, value in (("alpha", 0.3), ("temperature", 2.0), ("epochs", 2), ("seed", 0)):
        assert re.search(rf"\| `{key}` +\| +`{value}` \|", card), key
    assert "`weight_decay`" not in card, "of the settings only those that matter"
    older = record | {"settings": record["settings"] | {"a_switch_that_is_no_more": False}}
    assert made_of(older) == made_of(record)
    assert str(folders) not in card and folders.name not in card and str(ROOT) not in card


def test_the_interval_is_that_of_the_comparison(folders):
    """Of `compare`, whose numbers tests/evaluation hold to the formula."""
    test_set = read_evaluation_set(TASKS["csv"], folders / "dev.csv", "", DataConfig())
    found = evaluate_set(load_for_inference(folders / "student"), test_set, pick_device("cpu"))
    [row] = quality(TASKS["csv"], {"a": found.predictions}, {"a": found.metrics}).values()
    record = json.loads((folders / "student" / "training.json").read_text())
    assert score_interval(found.predictions) == row.interval
    assert tuple(record["history"][record["best_epoch"] - 1]["interval"]) == pytest.approx(row.interval, abs=1e-9)


def test_the_interval_draws_whole_groups():
    """Ten documents of ten sentences, each all right or all wrong: as wide as of ten sentences, by hand."""
    right = np.repeat([1, 0, 1, 1, 0, 1, 1, 1, 0, 1], 10)
    task = SimpleNamespace(
        tally=lambda found: np.stack([right, np.ones(100)], axis=1),
        tally_score=lambda sums: sums[:, 0] / sums[:, 1],
        lowest_score=0.0,
    )
    groups = np.repeat(np.arange(10), 10)
    found = score_interval(SimpleNamespace(task=task, groups=groups, num_groups=10, examples=range(100)))
    rng = np.random.default_rng(0)
    means = [right[::10][rng.integers(10, size=10)].mean() for _ in range(2000)]
    wider = np.mean(means) + 2.2622 / 1.96 * (10 / 9) ** 0.5 * (means - np.mean(means))  # of ten, by Student's t
    assert found == pytest.approx((np.percentile(wider, 2.5), 1.0), abs=1e-4) and found[1] - found[0] > 0.4


def test_licences_are_carried_on_and_none_is_overwritten(folders):
    for name in ("student", "int8"):
        folder = folders / name
        card = (folder / CARD).read_text()
        assert (folder / "LICENSE").read_text() == "The licence of teacher\n"
        assert (folder / "LICENSE-2").read_text() == "The licence of base\n"
        assert (folder / "NOTICE.txt").read_text() == "Made by somebody\n"
        for file in ("LICENSE", "LICENSE-2", "NOTICE.txt"):
            assert f"`{file}`, a copy of its file" in card
        assert 'license: "apache-2.0"' in card
    before = sorted(os.listdir(folders / "student"))
    write_card(folders / "student", [folders / "teacher", folders / "base"])
    assert sorted(os.listdir(folders / "student")) == before, "what is there is not copied again"


def test_a_folder_in_a_licences_place_is_no_licence(folders, tmp_path):
    shutil.copytree(folders / "base", tmp_path / "model")
    (tmp_path / "model" / CARD).unlink()
    (tmp_path / "model" / "LICENSE").unlink()
    (tmp_path / "model" / "LICENSE").mkdir()
    write_card(tmp_path / "model", [folders / "teacher"])
    assert (tmp_path / "model" / "LICENSE-2").read_text() == "The licence of teacher\n"


def test_a_licence_that_cannot_be_copied_is_said(folders, tmp_path):
    shutil.copytree(folders / "base", tmp_path / "model")
    (tmp_path / "model" / CARD).unlink()
    for i in range(2, 100):
        (tmp_path / "model" / f"LICENSE-{i}").write_text(f"Another one, {i}\n")
    shutil.copytree(folders / "teacher", tmp_path / "teacher")
    (tmp_path / "teacher" / "NOTICE.txt").write_text("")
    (tmp_path / "private").write_text("a key")
    (tmp_path / "teacher" / "NOTICE\x1b[2J").symlink_to(tmp_path / "private")
    said, reasons = [], ("files of all such names", r"\x1b[2J: is a link", "is empty")
    write_card(tmp_path / "model", [tmp_path / "teacher"], say=said.append)
    assert all(word in line for word, line in zip(reasons, said, strict=True)), said
    assert (tmp_path / "model" / "LICENSE").read_text() == "The licence of base\n"
    assert not (tmp_path / "model" / "NOTICE.txt").exists()


@pytest.mark.parametrize("other", ["license: mit\n", "licence: x\n", "", None])
def test_a_licence_is_named_only_where_all_sources_name_it(folders, tmp_path, other):
    shutil.copytree(folders / "base", tmp_path / "base")
    (tmp_path / "base" / CARD).unlink()
    if other is not None:
        (tmp_path / "base" / CARD).write_text(f"---\n{other}---\n")
    shutil.copytree(folders / "student", tmp_path / "student")
    write_card(tmp_path / "student", [folders / "teacher", tmp_path / "base"])
    card = (tmp_path / "student" / CARD).read_text()
    assert "license:" not in card.split("---")[1] and "- `teacher`: `apache-2.0`, by its card" in card


def test_the_int8_folder_has_the_floats_record_and_what_quantize_measured(folders):
    record = json.loads((folders / "int8" / "quantization.json").read_text())
    card = (folders / "int8" / CARD).read_text()
    assert record["training"] == json.loads((folders / "student" / "training.json").read_text())
    assert "An int8 BERT of 1 layer" in card and '"int8"]' in card and "library_name" not in card
    assert (
        "It was distilled from `teacher`" in card
        and "**These are the scores of the model before it was quantized." in card
    )
    for key in ("megabytes", "ms_16_tokens"):
        row = next(line for line in card.splitlines() if line.startswith(f"| `{key.replace('_', ' ')}`"))
        shown = [text.strip() for text in row.split("|")[2:4]]
        assert shown == [cell(record["rows"][name][key]) for name in ("float", "int8")]
    assert "from_pretrained" not in card and "Only kd_scratch opens it" in card


def test_what_is_made_of_a_pruned_model_has_its_own_size_and_the_licences_of_its_origin(folders, tmp_path):
    """Pruned, then calibrated, then quantized; and the int8 form calibrated."""
    dev = read_evaluation_set(TASKS["csv"], folders / "dev.csv", "", DataConfig())
    model = load_for_inference(folders / "student", fast=False)
    prune(model, tmp_path / "pruned", 8, task=TASKS["csv"], data=[folders / "dev.csv"])
    calibrate(load_for_inference(tmp_path / "pruned", fast=False), dev, tmp_path / "calibrated")
    quantize(load_for_inference(tmp_path / "calibrated", fast=False), tmp_path / "int8")
    calibrate(load_for_inference(folders / "int8", fast=False), dev, tmp_path / "int8 calibrated")
    for name, since in {"pruned": "pruned", "calibrated": "pruned, then calibrated",
                        "int8": "pruned, then calibrated, then quantized",
                        "int8 calibrated": "quantized, then calibrated"}.items():  # fmt: skip
        card = (tmp_path / name / CARD).read_text()
        count = (model if name == "int8 calibrated" else load_for_inference(tmp_path / name)).model.num_parameters()
        assert f"\n{count:,} parameters." in card
        assert f"**These are the scores of the model before it was {since}. What is here was" in card
        assert 'license: "apache-2.0"' in card and "`LICENSE-2`, a copy of its file" in card
        assert (tmp_path / name / "LICENSE-2").read_text() == "The licence of base\n"


def test_a_folder_without_records_has_a_card_of_what_is_known(tmp_path, tokenizer):
    save_model(tiny_model("token", ("O", "B-PER", "I-PER"), vocab_size=tokenizer.vocab_size), tmp_path / "model")
    tokenizer.save(tmp_path / "model", max_length=32)
    write_card(tmp_path / "model", ["tiny-student"])
    card = (tmp_path / "model" / CARD).read_text()
    assert "It gives a tag to each word: `O`, `B-PER`, `I-PER`." in card and "Scores" not in card
    assert "metrics" not in card and "license" not in card.split("---")[1] and "up to whoever trained it" in card
    assert "what is beyond 32 word pieces" in card


# --- a card that a person has written, or edited ---


@pytest.mark.parametrize("edit", ["a word", "above", "below", "line ends", "written", "bytes", "none", "folder"])
def test_an_edited_card_is_never_overwritten(folders, tmp_path, edit):
    folder = tmp_path / "student"
    shutil.copytree(folders / "student", folder)
    path = folder / CARD
    raw = path.read_bytes()
    assert is_generated(path)
    edited = {
        "a word": raw.replace(b"distilled", b"Distilled", 1),
        "above": b"mine\n" + raw,
        "below": raw + b"\nmine\n",
        "line ends": raw.replace(b"\n", b"\r\n"),
        "written": b"# Mine\n",
        "bytes": b"\xff\xfe",
        "none": b"",
    }
    path.unlink()
    if edit == "folder":
        path.mkdir()
    else:
        path.write_bytes(edited[edit])
    notes = []
    write_card(folder, [folders / "teacher"], say=notes.append)
    assert edit == "folder" or path.read_bytes() == edited[edit]
    assert any("it stays as it is" in note for note in notes)


def test_a_card_that_nobody_has_edited_is_made_anew_and_is_the_same(folders, tmp_path):
    folder = tmp_path / "student"
    shutil.copytree(folders / "student", folder)
    raw = (folder / CARD).read_bytes()
    record = json.loads((folder / "training.json").read_text())
    write_card(folder, [folders / "teacher", folders / "base"], record)
    assert (folder / CARD).read_bytes() == raw, "the same files make the same text"
    write_card(folder, [folders / "teacher"], record | {"seed": 7})
    assert re.search(r"`seed` +\| +`7`", (folder / CARD).read_text())


# --- names that would be obeyed ---


class Tags(HTMLParser):
    """The tags and links of a rendered page."""

    def __init__(self, html: str):
        super().__init__()
        self.seen, self.text = [], ""
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.seen.append(tag)

    def handle_data(self, data):
        self.text += data


@pytest.mark.parametrize("text", [HOSTILE, "```", "`", "", " ", "|", "\\", "\\|", "a" * 500, "--- x", "www.a.b <b>"])
def test_text_from_a_file_is_a_code_span_of_one_line(text):
    found = code(text)
    assert "\n" not in found and "\x1b" not in found and "\u202e" not in found and len(found) < 220
    fence = re.match("`+", found)[0]
    inside = found[len(fence) : -len(fence)]
    assert found.endswith(fence) and fence not in re.split("[^`]", inside), "nothing inside ends it"
    row = table(("a", "b"), [(code(text), 1)], markdown=True).splitlines()[2]
    assert len(re.findall(r"(?<!\\)\|", row)) == 3, "nothing inside ends the cell"


@pytest.fixture
def hostile_card(folders, tmp_path, tokenizer) -> str:
    """A card of a folder, a model and a record full of names that would like to be obeyed."""
    folder = tmp_path / "<b>mo*del`s` "
    save_model(tiny_model(labels=(HOSTILE, "<img src=x>"), vocab_size=tokenizer.vocab_size), folder)
    tokenizer.save(folder, max_length=32)
    record = json.loads((folders / "student" / "training.json").read_text())
    record |= {"train": HOSTILE, "seed": HOSTILE, "examples": {"train": HOSTILE}}
    record["sources"] = {"teachers": [HOSTILE, 3, None], "model": HOSTILE, "layers": HOSTILE, "train": HOSTILE}
    record["data settings"] |= {HOSTILE: HOSTILE}
    record["history"][-1]["dev"] |= {"loss": HOSTILE, HOSTILE: 1.0}
    write_card(folder, [], record)
    return (folder / CARD).read_text()


def test_a_hostile_record_and_hostile_labels_are_text(hostile_card):
    card = hostile_card
    outside = re.sub(r"(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)", "", re.sub(r"```python\n.*?```", "", card, flags=re.DOTALL))
    outside = outside.rsplit("<!-- written by", 1)[0]
    assert "<" not in outside and "javascript" not in outside and "\x1b" not in card and "alert" not in outside


def test_rendered_it_is_text_too(hostile_card):
    markdown = pytest.importorskip("markdown_it").MarkdownIt("commonmark", {"html": True}).enable("table")
    page = Tags(markdown.render(hostile_card.split("---\n", 2)[2]))
    assert not {"script", "img", "a", "b", "strong"} & set(page.seen) and "<script>alert(1)</script>" in page.text


@pytest.mark.parametrize("change", [{"rows": {}}, {"rows": {"float": {"a": "x"}, "int8": {}}}, {"machine": 1},
                                    {"training": {"task": "cooking"}}, []])  # fmt: skip
def test_a_quantization_record_is_checked_before_it_is_shown(folders, tmp_path, change):
    folder = tmp_path / "int8"
    shutil.copytree(folders / "int8", folder)
    record = json.loads((folder / "quantization.json").read_text())
    (folder / "quantization.json").write_text(json.dumps(record | change if change else []))
    notes = []
    write_card(folder, [], say=notes.append)
    assert any("is not what `quantize` writes; it is left out" in note for note in notes)
    assert "Scores" not in (folder / CARD).read_text() and "Measured by" not in (folder / CARD).read_text()


# --- its code runs ---


@pytest.mark.parametrize(
    ("head", "labels", "pairs"),
    [
        ("sequence", ("no", "yes"), None),
        ("sequence", ("no", "yes"), True),
        ("token", ("O", "B-X", "I-X"), None),
        ("span", (), None),
    ],
)
def test_the_code_for_here_runs(tmp_path, tokenizer, head, labels, pairs):
    save_model(tiny_model(head, labels, vocab_size=tokenizer.vocab_size, pairs=pairs), tmp_path / "model")
    tokenizer.save(tmp_path / "model", max_length=32)
    write_card(tmp_path / "model", [])
    program = python_in((tmp_path / "model" / CARD).read_text())[0]
    assert "kd_scratch" in program and run_in(tmp_path / "model", program).startswith("{")


def test_the_int8_folder_can_be_asked_as_its_card_says(folders):
    [program] = python_in((folders / "int8" / CARD).read_text())
    assert "money" in run_in(folders / "int8", program)


def test_an_onnx_folder_counts_the_parameters_of_the_model_that_it_was_made_of(tmp_path, tokenizer):
    """Its config.json calls our own shapes BERT, which has more: positions that are learned, and a pooler."""
    model = tiny_model(vocab_size=tokenizer.vocab_size, **KINDS["scratch"])
    save_model(model, tmp_path / "model")
    tokenizer.save(tmp_path / "model", max_length=24)
    export_onnx(load_for_inference(tmp_path / "model", fast=False), tmp_path / "onnx", ("float32", "int8"))
    text = (tmp_path / "onnx" / CARD).read_text()
    assert f"\n{model.num_parameters():,} parameters." in text


def test_names_are_without_their_paths(tmp_path):
    spec = SimpleNamespace(
        train=tmp_path / "secret" / "a.csv", dev="10%", holds_out_dev=True, unlabelled=None, init_layers=(0, 2),
        model="tiny-student", teachers=("..",), answers=(f"{tmp_path}/secret/b.jsonl/",),
    )  # fmt: skip
    data = SimpleNamespace(own=[1, 2], examples=[1, 2, 3], dev_examples=[1])
    assert about_sources(SimpleNamespace(spec=spec, data=data)) == {
        "sources": {"train": "a.csv", "dev": "10% of train", "unlabelled": None,
                    "model": "random weights (tiny-student)", "layers": "0, 2",
                    "teachers": [Path("..").resolve().name, "b.jsonl"]},
        "examples": {"train": 2, "dev": 1, "unlabelled": 1},
    }  # fmt: skip
