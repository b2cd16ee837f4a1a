"""Pairs of texts on the command line: trained, distilled, scored, compared, traced and asked."""

import json
import random
from dataclasses import replace

import pytest

from kd_scratch import predict
from kd_scratch.__main__ import main
from kd_scratch.checkpoints.checkpoint import fingerprint, load_config, load_model, save_model
from kd_scratch.checkpoints.safetensors import load_file
from kd_scratch.data.tokenizer import load_tokenizer
from tests.conftest import tiny_model

FAST = "--epochs 2 --batch-size 8 --learning-rate 1e-3 --max-length 24 --device cpu --threads 1".split()
WORDS = "goal match team coach shares profit market bank".split()


def write_pairs(path, rows, seed=0, names="sentence1\tsentence2\tlabel"):
    """Whether two texts are the same, as a table with tabs."""
    rng, lines = random.Random(seed), [names]
    for i in range(rows):
        first, other = (" ".join(rng.choices(WORDS, k=3)) for _ in range(2))
        lines.append(f"{first}\t{other if i % 2 else first}\t{1 - i % 2}"[: None if "label" in names else -2])
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with data, a teacher, and a student without token types distilled from pairs, copies and more pairs."""
    folder = tmp_path_factory.mktemp("pairs")
    data = ["--task", "csv", "--train", write_pairs(folder / "train.tsv", 40)]
    data += ["--dev", write_pairs(folder / "dev.tsv", 12, 1), "--cache", folder / "cache"]
    more = write_pairs(folder / "more.tsv", 10, 2, names="question1\tquestion2")
    teacher = ["--model", "tiny-student", "--vocab-size", "80", "--output", folder / "teacher"]
    assert main(list(map(str, ["train", *data, *teacher, *FAST]))) == 0
    tokenizer = load_tokenizer(folder / "teacher")
    shape = dict(model_type="distilbert", token_types=0, vocab_size=tokenizer.vocab_size)
    save_model(tiny_model(None, (), **shape), folder / "body")
    tokenizer.save(folder / "body", max_length=24, token_types=False)
    student = ["--model", folder / "body", "--teacher", folder / "teacher", "--output", folder / "student"]
    assert main(list(map(str, ["train", *data, *student, "--augment", 1, "--unlabelled", more, *FAST]))) == 0
    return folder


def run(capsys, *argv):
    """Exit status, stdout, and the last line of stderr."""
    status = main([str(word) for word in argv])
    out, err = capsys.readouterr()
    return status, out, err.replace("\r", "\n").split("\n")[-2] if err.strip() else ""


def test_what_was_trained_on_pairs_has_noted_it_and_its_inputs_had_two_types(runs):
    for name in ("teacher", "student"):
        assert json.loads((runs / name / "config.json").read_text())["text_pairs"] is True
        assert load_config(runs / name).pairs is True
    sizes = {}
    for path in (runs / "cache").glob("features-*"):
        inputs = load_file(path)
        assert set(inputs["token_types"].tolist()) == {0, 1} and len(inputs["token_types"]) == len(inputs["tokens"])
        sizes[len(inputs["starts"]) - 1] = path
    assert set(sizes) == {40, (40 + 10) * 3}, "the pairs of --unlabelled, and one copy of each in each of two epochs"


def test_a_model_of_another_task_has_no_such_note(runs, tmp_path):
    save_model(tiny_model("token", ("O", "B-PER")), tmp_path)
    assert "text_pairs" not in json.loads((tmp_path / "config.json").read_text())
    model = load_model(runs / "teacher", "token", ("O", "B-PER"), say=lambda note: None)
    assert model.config.pairs is None
    noted = load_model(runs / "teacher")
    before = fingerprint(noted)
    noted.config = replace(noted.config, pairs=None)
    assert fingerprint(noted) == before, "a run from before it was noted stays the same run"


def test_evaluate_shows_the_metrics_of_two_labels_and_both_texts_of_a_mistake(runs, tmp_path, capsys):
    argv = ["evaluate", "--task", "csv", "--data", runs / "dev.tsv", "--model", runs / "student"]
    status, out, _ = run(capsys, *argv, "--output", tmp_path / "m.json", "--alone")
    found = json.loads((tmp_path / "m.json").read_text())["metrics"]
    assert status == 0 and {"accuracy", "macro_f1", "f1", "matthews"} <= found.keys() and found["changed_alone"] == 0
    assert "surest mistakes, of 0" in out or " | " in out.split("surest mistakes")[1]


def test_predict_takes_pairs_and_gives_what_evaluate_does(runs, tmp_path, capsys):
    texts, seconds = ["goal match team", "goal bank team"], ["goal match team", "profit"]
    argv = ["predict", "--model", runs / "teacher", "--text", *texts, "--text-pair", *seconds]
    status, out, _ = run(capsys, *argv, "--output", tmp_path / "p.json")
    found = json.loads((tmp_path / "p.json").read_text())
    assert status == 0 and list(found) == ["goal match team | goal match team", "goal bank team | profit"]
    assert found == predict(runs / "teacher", texts, pairs=seconds, device="cpu")
    table = "sentence1\tsentence2\tlabel\n" + "".join(f"{a}\t{b}\t1\n" for a, b in zip(texts, seconds, strict=True))
    (tmp_path / "t.tsv").write_text(table)
    argv = ["evaluate", "--task", "csv", "--data", tmp_path / "t.tsv", "--model", runs / "teacher"]
    run(capsys, *argv, "--predictions", tmp_path / "e.json")
    records = json.loads((tmp_path / "e.json").read_text()).values()
    best = [max(labels.items(), key=lambda item: item[1]) for labels in found.values()]
    assert [(r["label"], r["probability"]) for r in records] == [(k, pytest.approx(p, abs=1e-5)) for k, p in best]


REFUSED = {
    "one text of two": ("predict --model PAIRS --text a", "was trained on pairs of texts; predict needs --text and"),
    "not as many": ("predict --model PAIRS --text a b --text-pair c", "--text has 2 texts, --text-pair 1; give as"),
    "pairs for single texts": ("predict --model SINGLE --text a --text-pair b", "predict needs --text for it, and no"),
    "pairs for a tagger": ("predict --model TAGS --text a --text-pair b", "predict needs --text for it, and no more"),
    "a pair alone": ("predict --model UNKNOWN --text-pair b", "predict needs --text and --text-pair for it"),
    "data of single texts": ("evaluate --task csv --data DATA --model PAIRS --text-column sentence2",
                             "is of pairs of texts, --data of single ones; choose two columns, as in --text-column"),
    "data of pairs": ("evaluate --task csv --data DATA --model SINGLE",
                      "is of single texts, --data of pairs of them; choose one column with --text-column"),
    "one token type": ("evaluate --task csv --data DATA --model ONE", "has one token type only; two texts need two"),
    "dev of single texts": ("train --task csv --train DATA --dev PLAIN --model SINGLE --output OUT --threads 1",
                            "--train: is of pairs of texts, --dev PLAIN of single ones; choose two columns"),
    "a teacher of pairs": ("train --task csv --train PLAIN --dev PLAIN --model SINGLE --teacher PAIRS --output OUT "
                           "--threads 1", "PAIRS: is of pairs of texts, --train of single ones; choose two columns"),
    "a teacher of single texts": ("train --task csv --train DATA --dev DATA --model PAIRS --teacher SINGLE --output "
                                  "OUT --threads 1", "SINGLE: is of single texts, --train of pairs of them; choose"),
    "demo": ("demo --port 0 --models a=PAIRS", "was trained on pairs of texts, the page takes single ones; ask it"),
    "trace of one text": ("trace --task csv --model PAIRS --teacher PAIRS --text a",
                          "PAIRS: is of pairs of texts, --data of single ones"),
    "trace of a pair alone": ("trace --task csv --model PAIRS --teacher PAIRS --text-pair a", "needs --data, or"),
    "trace of a pair of another task": ("trace --task conll --model TAGS --teacher TAGS --text a --text-pair b",
                                        "needs --data, or --text; given: text, text_pair"),
}  # fmt: skip


@pytest.fixture(scope="module")
def models(runs):
    """By name: models that know what they are for, and others; and data."""
    names = {"PAIRS": runs / "teacher", "DATA": runs / "dev.tsv", "OUT": runs / "never", "PLAIN": runs / "plain.csv"}
    (runs / "plain.csv").write_text("text,label\ngoal,1\nbank,0\n" * 4)
    tokenizer = load_tokenizer(runs / "teacher")
    shapes = {"SINGLE": {}, "UNKNOWN": {}, "ONE": {"token_types": 1}}
    for name, shape in shapes.items():
        model = tiny_model(labels=("0", "1"), vocab_size=tokenizer.vocab_size, **shape)
        model.config.__dict__["pairs"] = False if name == "SINGLE" else None
        names[name] = runs / name.lower()
        save_model(model, names[name])
        tokenizer.save(names[name], max_length=24)
    names["TAGS"] = runs / "tags"
    save_model(tiny_model("token", ("O", "B-PER"), vocab_size=tokenizer.vocab_size), names["TAGS"])
    tokenizer.save(names["TAGS"], max_length=24)
    return names


@pytest.mark.parametrize("case", REFUSED)
def test_single_texts_and_pairs_are_not_taken_for_one_another(models, capsys, case):
    line, message = REFUSED[case]
    status, out, error = run(capsys, *(models.get(word, word) for word in line.replace("a=PAIRS", "").split()),
                             *([f"a={models['PAIRS']}"] if "a=PAIRS" in line else []))  # fmt: skip
    for name, path in models.items():
        message = message.replace(name, str(path))
    assert status == 2 and message in error and not models["OUT"].exists()


def test_a_model_that_has_noted_nothing_takes_both(models, capsys):
    for more in ([], ["--text-pair", "bank"]):
        assert run(capsys, "predict", "--model", models["UNKNOWN"], "--text", "goal", *more)[0] == 0
    for more in ([], ["--text-column", "sentence1"]):
        argv = ["evaluate", "--task", "csv", "--data", models["DATA"], "--model", models["UNKNOWN"]]
        assert run(capsys, *argv, *more)[0] == 0


@pytest.mark.slow
def test_compare_trace_and_the_smaller_forms_take_pairs(runs, models, tmp_path, capsys):
    data = ["--task", "csv", "--data", runs / "dev.tsv"]
    assert run(capsys, "quantize", "--model", runs / "teacher", "--output", tmp_path / "int8", "--threads", 1)[0] == 0
    argv = ["prune", *data, "--model", runs / "teacher", "--output", tmp_path / "small", "--feed-forward", 300]
    assert run(capsys, *argv)[0] == 0
    forms = [f"{name}={tmp_path / name}" for name in ("int8", "small")]
    argv = ["compare", *data, "--models", f"teacher={runs / 'teacher'}", f"student={runs / 'student'}", *forms]
    status, out, _ = run(capsys, *argv, "--output", tmp_path / "c", "--threads", 1, "--device", "cpu")
    assert status == 0 and "matthews" in out and all(load_config(tmp_path / name).pairs for name in ("int8", "small"))
    both = ["--task", "csv", "--model", runs / "student", "--teacher", runs / "teacher"]
    for source in (["--data", runs / "dev.tsv"], ["--text", "goal bank", "--text-pair", "team"]):
        status, out, _ = run(capsys, "trace", *both, *source)
        assert status == 0 and "second" in out and "[SEP]" in out


def test_cola_is_chosen_and_compared_by_matthews_correlation(models, tmp_path, capsys):
    kinds = {"0\t*": "are", "1\t": "is"}
    rows = [f"src\t{mark}\tthe {word} {verb}" for word in WORDS for mark, verb in kinds.items()]
    (tmp_path / "cola.tsv").write_text("\n".join(rows) + "\n")
    data = ["--task", "cola", "--train", tmp_path / "cola.tsv", "--dev", tmp_path / "cola.tsv"]
    argv = ["train", *data, "--model", "tiny-student", "--vocab-size", 60, "--output", tmp_path / "m", *FAST]
    assert run(capsys, *argv, "--cache", tmp_path / "cache")[0] == 0
    record = json.loads((tmp_path / "m" / "training.json").read_text())
    assert record["best_score"] == max(epoch["dev"]["matthews"] for epoch in record["history"])
    assert load_config(tmp_path / "m").pairs is False
    argv = ["compare", "--task", "cola", "--data", tmp_path / "cola.tsv", "--models"]
    argv += [f"a={tmp_path / 'm'}", f"b={models['SINGLE']}", "--output", tmp_path / "c", "--threads", 1]
    status, out, _ = run(capsys, *argv)
    assert status == 0 and "intervals are of matthews" in " ".join(out.split())
