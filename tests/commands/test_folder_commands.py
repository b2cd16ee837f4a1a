"""Folders of other programs through the command line: a tagger whose labels are IOB1, and heads that cannot be used."""

import json
from dataclasses import replace

import pytest
import torch

from data_scripts import make_sample
from kd_scratch.__main__ import main
from kd_scratch.checkpoints.checkpoint import load_config, load_model, save_model
from kd_scratch.config import SIZES
from kd_scratch.data.tokenizer import load_tokenizer, train_tokenizer
from kd_scratch.nn.model import Model
from tests.commands.test_squad_commands import run
from tests.conftest import TEXTS, tiny_model

IOB1 = ("B-LOC", "B-MISC", "B-ORG", "I-LOC", "I-MISC", "I-ORG", "I-PER", "O")  # of an often downloaded model
FAST = ["--epochs", "3", "--batch-size", "8", "--learning-rate", "4e-3", "--device", "cpu", "--threads", "1"]


def sentences(path):
    """The words and tags of a file, read by hand."""
    blocks = path.read_text().replace("-DOCSTART- -X- -X- O\n", "").split("\n\n")
    rows = [[line.split(" ") for line in block.split("\n") if line] for block in blocks]
    return [([cells[0] for cells in block], [cells[-1] for cells in block]) for block in rows if block]


def spans(labels):
    """Entities of labels in any mixture of IOB1 and IOB2, written out: a word goes on with the entity before it if it
    is an I of its type."""
    found, kind = [], None
    for i, label in enumerate(labels):
        if label == "O":
            kind = None
        elif label[0] == "I" and label[2:] == kind:
            found[-1] = (*found[-1][:2], i + 1)
        else:
            kind = label[2:]
            found.append((kind, i, i + 1))
    return set(found)


def long_hand_f1(directory, path):
    """Entity F1, one sentence after the other, without the code of the task."""
    model, tokenizer = load_model(directory), load_tokenizer(directory)
    correct = total = 0
    for words, gold in sentences(path):
        pieces = [tokenizer.encode([word])[0].ids[1:-1] for word in words]
        ids = [i for word in pieces for i in word]
        firsts = [1 + sum(map(len, pieces[:w])) for w in range(len(words))]
        cls, sep = tokenizer.encode([""])[0].ids
        with torch.no_grad():
            logits = model(torch.tensor([[cls, *ids, sep]])).logits[0]
        predicted = spans([model.config.labels[logits[first].argmax()] for first in firsts])
        correct += 2 * len(predicted & spans(gold))
        total += len(predicted) + len(spans(gold))
    return correct / total


@pytest.fixture(scope="module")
def iob1(tmp_path_factory):
    """A sample, a teacher with the eight labels (which learned from the gold tags alone), and its student."""
    folder = tmp_path_factory.mktemp("iob1")
    make_sample.make_conll(folder, rows=150)
    files = [folder / "conll2003" / f"{split}.txt" for split in ("train", "valid")]
    tokenizer = train_tokenizer([" ".join(words) for words, _ in sentences(files[0])], 400)
    torch.manual_seed(0)
    shape = replace(SIZES["tiny-student"], width=64, feed_forward=128, head="token", labels=IOB1)
    shape = replace(shape, vocab_size=tokenizer.vocab_size)
    save_model(Model(shape), folder / "random")
    tokenizer.save(folder / "random", max_length=128)
    data = [
        "--task",
        "conll",
        "--train",
        str(files[0]),
        "--dev",
        str(files[1]),
        *FAST,
        "--cache",
        str(folder / "cache"),
    ]
    for name, model, more in (("teacher", "random", ["--alpha", "0"]), ("student", "teacher", ["--init-layers", "0"])):
        teacher = ["--model", str(folder / model), "--teacher", str(folder / model), "--output", str(folder / name)]
        assert main(["train", *data, *teacher, *more]) == 0
    assert main(["quantize", "--model", str(folder / "student"), "--output", str(folder / "int8")]) == 0
    return folder


def test_a_student_has_the_labels_of_its_iob1_teacher(iob1):
    for name in ("teacher", "student", "int8"):
        config = json.loads((iob1 / name / "config.json").read_text())
        assert tuple(config["id2label"].values()) == IOB1


@pytest.mark.parametrize("name", ["teacher", "student"])
def test_the_score_of_an_iob1_model_is_that_worked_out_long_hand(iob1, name, tmp_path, capsys):
    data = iob1 / "conll2003" / "test.txt"
    status, out, _ = run(capsys, "evaluate", "--task", "conll", "--data", data, "--model", iob1 / name,
                         "--output", tmp_path / "m.json", "--predictions", tmp_path / "p.json")  # fmt: skip
    metrics = json.loads((tmp_path / "m.json").read_text())["metrics"]
    assert status == 0 and metrics["f1"] == pytest.approx(long_hand_f1(iob1 / name, data), abs=1e-12)
    assert metrics["f1"] > 0.3 and metrics["accuracy"] > 0.7  # so it did learn, with tags that became IOB1
    rows = json.loads((tmp_path / "p.json").read_text()).values()
    assert all(spans(row["tags"]) == {e for e in spans(row["tags"]) if row["tags"][e[1]][0] == "B"} for row in rows)


def test_the_int8_student_predicts_entities(iob1, tmp_path, capsys):
    rows = sentences(iob1 / "conll2003" / "train.txt")[:40]
    texts = [text for words, _ in rows if (text := " ".join(words))[0] != "-"]
    output = tmp_path / "p.json"
    status, *_ = run(capsys, "predict", "--model", iob1 / "int8", "--text", *texts, "--output", output)
    found = [entity["type"] for entities in json.loads(output.read_text()).values() for entity in entities]
    assert status == 0 and found and set(found) <= {"PER", "LOC", "ORG", "MISC"}


@pytest.mark.usefixtures("no_memory_processes")
def test_compare_and_trace_take_them(iob1, tmp_path, capsys):
    data = iob1 / "conll2003" / "test.txt"
    models = [f"{name}={iob1 / name}" for name in ("teacher", "student", "int8")]
    status, *_ = run(capsys, "compare", "--task", "conll", "--data", data, "--limit", 20, "--models", *models,
                     "--output", tmp_path / "c")  # fmt: skip
    assert status == 0
    status, out, err = run(capsys, "trace", "--task", "conll", "--data", data, "--model", iob1 / "student",
                           "--teacher", iob1 / "teacher", "--output", tmp_path / "trace")  # fmt: skip
    assert (status, err) == (0, "") and "The decision" in out


def edit_config(directory, **changes):
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


HEADS = {
    "regression": ("sequence", dict(problem_type="regression"), "problem_type"),
    "names with gaps": ("sequence", dict(id2label={"0": "no", "2": "yes", "3": "maybe"}), "id2label must name"),
}


@pytest.mark.usefixtures("no_memory_processes")
@pytest.mark.parametrize(("head", "changes", "message"), HEADS.values(), ids=HEADS)
def test_a_head_that_cannot_be_used_is_refused_by_every_command_and_its_body_trained(
    tmp_path, tokenizer, capsys, head, changes, message
):
    model = tmp_path / "model"
    save_model(tiny_model(head, vocab_size=tokenizer.vocab_size), model)
    tokenizer.save(model, max_length=32)
    edit_config(model, **changes)
    data = tmp_path / "data.csv"
    data.write_text("text,label\n" + "".join(f"{text},{'ab'[i % 2]}\n" for i, text in enumerate(["fox", "dog"] * 4)))
    csv = ["--task", "csv", "--train", data, "--dev", data, "--epochs", 1, "--device", "cpu", "--max-length", 16]
    for command in (
        ["predict", "--model", model, "--text", TEXTS[0]],
        ["evaluate", "--task", "csv", "--data", data, "--model", model],
        ["train", *csv, "--model", "tiny-student", "--teacher", model, "--output", tmp_path / "out"],
        ["quantize", "--model", model, "--output", tmp_path / "int8"],
        ["compare", "--task", "csv", "--data", data, "--models", f"m={model}", "--output", tmp_path / "c"],
        ["demo", "--models", f"m={model}", "--port", 0],
        ["trace", "--task", "csv", "--data", data, "--model", model, "--teacher", model, "--output", tmp_path / "t"],
    ):
        status, _, err = run(capsys, *command)
        assert status == 2 and message in err and str(model) in err and len(err.strip().split("\n")) == 1, command
    status, _, err = run(capsys, "train", *csv, "--model", model, "--output", tmp_path / "trained")  # the cure
    assert (status, err) == (0, "")
    status, out, _ = run(capsys, "predict", "--model", tmp_path / "trained", "--text", TEXTS[0])
    assert status == 0
    assert "problem_type" not in json.loads((tmp_path / "trained" / "config.json").read_text())


def test_the_folder_of_the_hubs_cache_is_answered_with_the_path_that_works(tmp_path, model_directory, capsys):
    cache = tmp_path / "models--owner--name"
    for commit in ("aaa", "bbb"):
        snapshot = cache / "snapshots" / commit
        snapshot.mkdir(parents=True)
        (cache / "blobs").mkdir(exist_ok=True)
        for file in model_directory.iterdir():  # links, as the cache has them
            blob = cache / "blobs" / f"{commit}{file.name}"
            blob.write_bytes(file.read_bytes())
            (snapshot / file.name).symlink_to(f"../../blobs/{blob.name}")
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("bbb")
    status, _, err = run(capsys, "predict", "--model", cache, "--text", "fox")
    assert status == 2 and err.strip().endswith(f"a model is in {cache / 'snapshots' / 'bbb'}")
    status, out, _ = run(capsys, "predict", "--model", err.strip().rsplit(" ", 1)[1], "--text", "fox")
    assert status == 0 and "maybe" in out
    data = tmp_path / "data.csv"
    data.write_text("text,label\nfox,a\ndog,b\n")
    for flags in (["--model", cache], ["--model", "tiny-student", "--teacher", cache]):
        status, _, err = run(capsys, "train", "--task", "csv", "--train", data, "--dev", data, *flags,
                             "--output", tmp_path / "out")  # fmt: skip
        assert status == 2 and f"a model is in {cache / 'snapshots' / 'bbb'}" in err


@pytest.mark.usefixtures("no_memory_processes")
def test_a_tagger_whose_labels_have_no_names_is_refused_until_they_are_written_in(tmp_path, tokenizer, capsys):
    model = tmp_path / "model"
    save_model(tiny_model("token", labels=("LABEL_0", "LABEL_1", "LABEL_2"), vocab_size=tokenizer.vocab_size), model)
    tokenizer.save(model, max_length=32)
    data = tmp_path / "data.txt"
    data.write_text("fox B-PER\nruns O\n\ndog B-PER\n")
    commands = (
        ["predict", "--model", model, "--text", "fox"],
        ["evaluate", "--task", "conll", "--data", data, "--model", model],
        ["compare", "--task", "conll", "--data", data, "--models", f"m={model}", "--output", tmp_path / "c"],
        ["train", "--task", "conll", "--train", data, "--dev", data, "--model", "tiny-student", "--teacher", model,
         "--epochs", 1, "--device", "cpu", "--max-length", 16, "--output", tmp_path / "out"],
    )  # fmt: skip
    for command in commands:
        status, _, err = run(capsys, *command)
        assert status == 2 and "LABEL_0" in err and "id2label" in err and str(model) in err, command
    edit_config(model, id2label={"0": "O", "1": "B-PER", "2": "I-PER"})
    for command in commands:
        status, _, err = run(capsys, *command)
        assert (status, err) == (0, ""), command


def test_a_teacher_of_nine_labels_that_learned_iob1_is_noticed(tmp_path, tokenizer, capsys):
    labels = ("O", "B-PER", "I-PER")
    teacher = tiny_model("token", labels=labels, vocab_size=tokenizer.vocab_size)
    data = tmp_path / "data.txt"
    data.write_text("fox B-PER\nruns O\n\ndog B-PER\n")
    for label, noticed in (("I-PER", True), ("B-PER", False)):
        torch.nn.init.zeros_(teacher.head.classifier.bias)
        teacher.head.classifier.bias.data[labels.index(label)] = 100
        save_model(teacher, tmp_path / label)
        tokenizer.save(tmp_path / label, max_length=32)
        status, out, _ = run(capsys, "train", "--task", "conll", "--train", data, "--dev", data, "--max-length", 16,
                             "--model", "tiny-student", "--teacher", tmp_path / label, "--epochs", 1, "--device", "cpu",
                             "--output", tmp_path / f"{label} student", "--cache", tmp_path / "cache")  # fmt: skip
        assert status == 0 and ("learned tags in IOB1" in out) is noticed


def test_a_model_whose_labels_have_no_names_is_taken_for_the_numbers_of_the_data(tmp_path, capsys):
    """By evaluate, compare, a teacher and fine-tuning, told in a line; other labels are refused with the cure."""
    rows = [(f"{word} {other}", i) for i, word in enumerate(("goal", "shares")) for other in "abcd"]
    numbers = tmp_path / "numbers.csv"
    numbers.write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in rows))
    words = tmp_path / "words.csv"
    words.write_text(numbers.read_text().replace(",0", ",sport").replace(",1", ",trade"))
    tokenizer = train_tokenizer([text for text, _ in rows], vocab_size=60)
    for name, labels in {"nameless": ("LABEL_0", "LABEL_1"), "named": ("0", "1")}.items():
        save_model(tiny_model("sequence", labels, vocab_size=tokenizer.vocab_size), tmp_path / name)
        tokenizer.save(tmp_path / name, 16)
    told, usual = "its labels LABEL_0 to LABEL_1 are taken for the data's labels 0 to 1", ["--task", "csv"]
    metrics = []
    for name in ("nameless", "named"):
        command = ["evaluate", *usual, "--model", str(tmp_path / name), "--device", "cpu", "--json"]
        assert main([*command, "--data", str(numbers)]) == 0
        metrics.append(json.loads(capsys.readouterr().out)["metrics"])
        assert main([*command[:-1], "--data", str(numbers)]) == 0
        assert (told in capsys.readouterr().out) == (name == "nameless")
    assert metrics[0] == metrics[1]
    assert main([*command[:-1], "--model", str(tmp_path / "nameless"), "--data", str(words)]) == 2
    assert "write their names into id2label of its config.json" in capsys.readouterr().err
    models = ["--models", f"a={tmp_path / 'nameless'}", f"b={tmp_path / 'named'}"]
    compare = ["compare", *usual, "--data", str(numbers), *models, "--device", "cpu", "--output"]
    assert main([*compare, str(tmp_path / "compared")]) == 0
    assert told in capsys.readouterr().out
    train = ["train", *usual, "--train", str(numbers), "--dev", str(numbers), "--cache", str(tmp_path / "cache")]
    train += "--batch-size 4 --steps 1 --max-length 16 --device cpu --threads 1".split()
    for name, more in {
        "tuned": ["--model", "nameless"],
        "student": ["--model", "named", "--teacher", "nameless"],
    }.items():
        more = [str(tmp_path / word) if word[0] != "-" else word for word in more]
        assert main([*train, *more, "--output", str(tmp_path / name)]) == 0
        out = "".join(capsys.readouterr())
        assert told in out and "new random weights" not in out
        assert load_config(tmp_path / name).labels == ("0", "1")


def test_a_task_that_does_not_fit_a_model_is_refused_with_one_that_does_and_a_name_of_the_hub_with_its_download(
    tmp_path, capsys
):
    tokenizer = train_tokenizer(TEXTS, vocab_size=60)
    save_model(tiny_model("token", ("O", "B-PER", "I-PER"), vocab_size=tokenizer.vocab_size), tmp_path / "ner")
    tokenizer.save(tmp_path / "ner", 16)
    (tmp_path / "data.csv").write_text("text,label\na,b\n")
    usual = ["evaluate", "--task", "csv", "--data", str(tmp_path / "data.csv"), "--device", "cpu", "--model"]
    for model, message in {
        str(tmp_path / "ner"): "train it first (as it is, it fits --task conll)",
        "dslim/bert-base-NER": "(one of the hub comes with `make weights MODEL=dslim/bert-base-NER`)",
        "bert-base-cased": "MODEL=bert-base-cased`)",
        str(tmp_path / "none"): "no such model directory\n",
    }.items():
        assert main([*usual, model]) == 2
        assert message in capsys.readouterr().err
