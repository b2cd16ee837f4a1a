"""Whole files answered: as `evaluate` decides, whatever is odd in them, and wherever the run was killed."""

import csv
import errno
import io
import json
import sys
import types
from itertools import product

import pytest
import torch

from kd_scratch import save_model
from kd_scratch.__main__ import main
from kd_scratch.checkpoints.checkpoint import load_model
from kd_scratch.common.errors import UserError
from kd_scratch.config import DataConfig
from kd_scratch.data.batches import length_sorted_batches
from kd_scratch.evaluation import inputs as inputs_module
from kd_scratch.evaluation import predict_file as library
from kd_scratch.evaluation.evaluate import evaluate, load_for_inference, read_evaluation_set
from kd_scratch.evaluation.predict import predict
from kd_scratch.evaluation.predict_file import Answerer, next_part, predict_file
from kd_scratch.nn.int8 import quantize
from kd_scratch.tasks import TASKS
from tests.conftest import TEXTS, tiny_model

CPU = torch.device("cpu")
LABELS = {"sequence": ("World", "Sports", "Business", "Sci/Tech"), "token": ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")}
WORDS = [text.split() for text in TEXTS]


def conll(sentences, numbered=False):
    """Words with tags, as CoNLL writes them."""
    if numbered:
        sentences = [[f"{i}\t{word}\tX\tO" for i, word in enumerate(words, 1)] for words in sentences]
        return "\n\n".join("\n".join(lines) for lines in sentences)
    return "\n\n".join(
        "\n".join(f"{word} X {'B-PER' if i == 1 else 'O'}" for i, word in enumerate(s)) for s in sentences
    )


def squad(version2=False):
    """Questions about two contexts, as SQuAD's JSON."""
    paragraphs = []
    for i, text in enumerate(TEXTS[:2]):
        questions = [{"id": f"{i}{j}", "question": f"what of {word}", "answers": [{"text": word, "answer_start": 0}]}
                     for j, word in enumerate(text.split()[:3])]  # fmt: skip
        for question in questions if version2 else ():
            question |= {"is_impossible": True, "answers": []}
        paragraphs.append({"context": text, "qas": questions})
    return json.dumps({"data": [{"paragraphs": paragraphs}]}, indent=1)


def json_lines(rows):
    """Objects, one a line."""
    return "".join(json.dumps(row) + "\n" for row in rows)


#: task, name of the file, what it holds
FILES = {
    "csv": ("csv", "a.csv", "label,text\n" + "".join(f'World,"{text}"\n' for text in TEXTS)),
    "agnews": ("agnews", "a.csv", "".join(f'"{i + 1}","{t[:9]}","{t[9:]}\\and"\n' for i, t in enumerate(TEXTS))),
    "clinc": ("clinc", "c.json", json.dumps({"test": [[text, "World"] for text in TEXTS], "train": []})),
    "conll": ("conll", "c.txt", f"-DOCSTART- X O\n\n{conll(WORDS)}\n"),
    "conll numbered": ("conll", "c.txt", conll(WORDS, numbered=True)),
    "conll json": (
        "conll",
        "c.jsonl",
        json_lines({"tokens": words, "ner_tags": ["O"] * len(words)} for words in WORDS),
    ),
    "squad": ("squad", "s.json", squad()),
    "squad 2": ("squad", "s.json", squad(version2=True)),
    "squad lines": ("squad", "s.jsonl", json_lines(dict(question="who", context=t, answers=["the"]) for t in TEXTS)),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory, tokenizer):
    """A folder with a tiny model of each head, and an int8 one of texts."""
    folder = tmp_path_factory.mktemp("models")
    for head in ("sequence", "token", "span"):
        model = tiny_model(head, LABELS.get(head, ()), vocab_size=tokenizer.vocab_size)
        save_model(model, folder / head, tokenizer)
        if head == "sequence":
            save_model(quantize(model), folder / "int8", tokenizer)
    return folder


@pytest.fixture
def small_parts(monkeypatch):
    """Parts of three rows, so that a small file has several."""
    monkeypatch.setattr(library, "ROWS", 3)


def answer(model, *flags):
    """`predict` with a model, and what ends well."""
    assert main(["predict", "--model", str(model), "--device", "cpu", "--quiet", *map(str, flags)]) == 0


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("kind", FILES)
def test_a_whole_file_is_decided_as_evaluate_decides_it(kind, models, tmp_path, small_parts):
    name, file, text = FILES[kind]
    task = TASKS[name]
    path = tmp_path / file
    path.write_text(text)
    answer(models / task.head, "--task", name, "--file", path, "--output", tmp_path / "out.jsonl", "--probabilities")
    found = lines_of(tmp_path / "out.jsonl")
    loaded = load_for_inference(models / task.head)
    test_set = read_evaluation_set(task, path, "", DataConfig(), lambda note: None)
    decisions = evaluate(loaded, task, test_set.examples, DataConfig(), CPU).decisions
    if task.head == "span":
        decisions = [decision.text for decision in decisions]
    assert [row["prediction"] for row in found] == [list(d) if isinstance(d, tuple) else d for d in decisions]
    assert not any("error" in row for row in found) and all(0 < row["confidence"] <= 1 for row in found)
    for row in found:
        if task.head == "sequence":
            assert sum(row["probabilities"].values()) == pytest.approx(1, abs=1e-5)
            assert max(row["probabilities"], key=row["probabilities"].get) == row["prediction"]
        elif task.head == "token":
            assert len(row["words"]) == len(row["prediction"]) == len(row["probabilities"])
        elif row["prediction"]:
            assert row["context"][row["start"] : row["end"]] == row["prediction"] == row["probabilities"][0][0]


def test_a_question_may_be_left_unanswered_where_the_flag_asks_for_it(models, tmp_path):
    (tmp_path / "s.json").write_text(squad())
    for threshold in ("0", "1"):
        answer(models / "span", "--file", tmp_path / "s.json", "--output", tmp_path / f"{threshold}.jsonl",
               "--null-threshold", threshold)  # fmt: skip
    assert {row["prediction"] for row in lines_of(tmp_path / "0.jsonl")} == {""}
    assert "" not in {row["prediction"] for row in lines_of(tmp_path / "1.jsonl")}


#: head of the model, name of the file, its bytes, what `error` begins with in each row (None: it is answered)
ODD = {
    "table": (
        "sequence", "a.csv",
        b'text,n\nthe fox,1\n,2\n"the "dog",3\ncaf\xc3\xa9,4\none\na,b,c\ntext,n\n,\nfin\xff,5\n',
        [None, "line 3: there is no text", "line 4: malformed CSV", None, "line 6: 1 columns instead of 2",
         "line 7: 3 columns instead of 2", "line 8: repeats the header", "line 9: there is no text",
         "line 10: byte 0xff is not UTF-8"]),
    "an open quote": (
        "sequence", "a.csv", b'text,n\nfox,1\n"dog,2\nthe lazy dog,3\nfox,4\n',
        [None, "line 3: malformed CSV", None, None]),
    "lines": (
        "sequence", "a.txt",
        b"the fox\n\n \xc3\xa9 \xff fox\r\nthe\0dog\n" + b"a" * 1_000_001 + b"\nlast",
        [None, "line 2: there is no text", "line 3: byte 0xff is not UTF-8", "line 4: NUL character",
         "line 5: a text of 1,000,001 characters", None]),
    "json lines": (
        "sequence", "a.jsonl",
        b'{"text": "fox"}\n{"text": 5}\n\n{oh\n[1]\n{"txt": "a"}\n{"text": "\\ud83d"}\n{"text": " "}\n',
        [None, "line 2: 'text' must be a text in quotes, not a number", "line 4: not JSON", "line 5: is not an object",
         "line 6: has no field 'text'", "line 7: not usable JSON", "line 8: there is no text"]),
    "words": (
        "token", "c.txt", b"EU X O\nno\n\nfox X O\ncaf\xc3\xa9 X O\n\nthe\xff X O\n\ndog X O\n",
        ["line 2: has no tag", None, "line 7: byte 0xff is not UTF-8", None]),
    "sentences told apart by a column": (
        "token", "c.csv",
        b"Sentence #,Word,POS,Tag\nSentence: 1,the,D,O\n,fox,N,O\nSentence: 2,fox,N\n,x,N,O\nSentence: 3,a,D,O\n",
        [None, "line 4: has 3 columns", None]),
    "sentences whose number is repeated": (
        "token", "c.csv", b"Sentence #,Word,Tag\n1,the,O\n,fox,O\n1,x,O\n2,a,O\n,b,B-PER\n", [None, None]),
    "sentences numbered anew in each document": (
        "token", "c.csv", b"doc,sentence_id,word,tag\nA,1,the,O\nB,1,fox,O\nB,2,a,O\n,,dog,O\n", [None, None, None]),
    "lists of words beside texts": (
        "token", "c.jsonl", b'{"text": "the fox", "tokens": ["a", "b", "c"]}\n{"text": "a", "tokens": [1]}\n',
        [None, "line 2: each of the words must be a text"]),
    "lists of words": (
        "token", "c.jsonl",
        b'{"tokens": ["a"]}\n{"tokens": []}\n{"tokens": [1]}\n{"text": "a fox"}\n{"n": 1}\n',
        [None, "line 2: there is no text", "line 3: each of the words must be a text", None, "line 5: has no field"]),
    "sentences": (
        "token", "c.txt", b"the fox runs.\n\nO my fox\n", [None, "line 2: there is no text", None]),
    "questions": (
        "span", "s.jsonl",
        b'{"question": "who", "context": "the fox"}\n{"question": "who"}\n{"question": "", "context": "a"}\nx\n',
        [None, "is not SQuAD's JSON: line 2: context must be", "line 3: there is no text", "line 4: not JSON"]),
    "paragraphs": (
        "span", "s.json",
        b'{"data": [{"paragraphs": [{"context": null, "qas": [{"question": "who"}]}, {"context": "the fox", "qas": '
        b'[{"question": "who"}, {"question": null}]}]}]}',
        ["is not SQuAD's JSON: data[0].paragraphs[0].context must be", None,
         "is not SQuAD's JSON: data[0].paragraphs[1].qas[1].question must be"]),
    "questions that have lists of their own": (
        "span", "s.jsonl", b'{"question": "who", "context": "the fox", "data": [], "paragraphs": ["p1"]}\n' * 2,
        [None, None]),
    "lines of paragraphs": (
        "span", "s.jsonl",
        b'{"context": "the fox", "qas": [{"question": "who"}, {"question": 1}]}\n{"context": "a dog", "qas": []}\n',
        [None, "is not SQuAD's JSON: [0].qas[1].question must be"]),
    "a table of questions with capitals": (
        "span", "s.csv", b"Question,n,Context\nwho,1,the fox\nwho,2,\n", [None, "line 3: there is no text"]),
    "a table of questions": (
        "span", "s.csv", b"question,context\nwho,the fox\nwho,the fox, the dog\nwho,\n",
        [None, "line 3: 3 columns instead of 2", "line 4: there is no text"]),
}  # fmt: skip


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("ending", ["jsonl", "csv"])
def test_an_odd_input_is_a_row_with_an_error_and_not_the_end(kind, ending, models, tmp_path, capsys):
    head, name, content, wanted = ODD[kind]
    (tmp_path / name).write_bytes(content)
    output = tmp_path / f"out.{ending}"
    argv = ["predict", "--model", models / head, "--device", "cpu", "--file", tmp_path / name, "--output", output]
    assert main([*map(str, argv), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["inputs"], summary["odd"]) == (len(wanted), len(wanted) - wanted.count(None))
    rows = lines_of(output) if ending == "jsonl" else list(csv.DictReader(io.StringIO(output.read_text())))
    for row, error in zip(rows, wanted, strict=True):
        assert bool(row.get("prediction")) == (error is None), row
        assert (row.get("error") or "").startswith(error or "") and bool(row.get("error")) == bool(error)


@pytest.mark.parametrize("head", ["sequence", "token"])
def test_the_objects_of_an_array_are_answered_as_those_of_lines(head, models, tmp_path):
    objects = ['{"text": "a fox"}', '{"text":\n"a dog", "id": 5}', '{"text": ""}']
    (tmp_path / "a.json").write_text("[\n" + ",\n".join(objects) + "\n]\n")
    (tmp_path / "a.jsonl").write_text("\n".join(text.replace("\n", " ") for text in objects))
    for name in ("a.json", "a.jsonl"):
        argv = ["predict", "--model", models / head, "--file", tmp_path / name, "--output", tmp_path / f"o-{name}.csv"]
        assert main([*map(str, argv), "--device", "cpu"]) == 0
    written = (tmp_path / "o-a.json.csv").read_text()
    assert written.count("\n") == 4 and "line 5: there is no text" in written, "where it begins"
    assert written.replace("line 5", "line 3") == (tmp_path / "o-a.jsonl.csv").read_text()


def open_file(path, task, content, **settings):
    """The inputs of a file."""
    path.write_text(content)
    read, *_ = inputs_module.open_inputs(TASKS[task], path, "", DataConfig(**settings), False, (), lambda note: None)
    return [row.example or row.error for row in read()]


def test_labels_of_fasttext_are_no_part_of_a_text(tmp_path):
    found = open_file(tmp_path / "a.txt", "csv", "__label__x a fox\na dog  __label__y\n__label__x\n")
    assert [getattr(example, "text", example) for example in found] == ["a fox", "a dog", "line 3: there is no text"]
    lines = ["__label__x a fox\n", "a __label__ in a text\n"]  # of a pipe, each by itself
    stream = inputs_module.open_stream(TASKS["csv"], lines, DataConfig(), False, ())
    assert [row.example.text for row in stream] == ["a fox", "a __label__ in a text"]


@pytest.mark.parametrize("content, texts", [
    ("3,A title,the text\n", ["A title the text"]),
    ("Class,Headline,Body\n3,A title,the text\n", ["A title the text"]),
    ("id,Title,Source,Description\n7,A title,us,the text\n", ["A title the text"]),
    ("Title,Description\nA title,the text\n\ufeffTITLE,description\n",
     ["A title the text", "line 3: repeats the header"]),
    ("2024-05-01,the text,BBC\n2024-05-02,another,BBC\n", None),
    ("date,story,source\n2024-05-01,the text,BBC\n2024-05-02,another,BBC\n", None),
])  # fmt: skip
def test_of_three_columns_a_title_is_joined_only_where_the_first_holds_classes_of_ag_news(tmp_path, content, texts):
    if texts:
        found = open_file(tmp_path / "a.csv", "agnews", content)
        assert [getattr(example, "text", example) for example in found] == texts
        return
    message = "first of three columns holds no classes of AG News, and none called text; choose with --text-column$"
    with pytest.raises(UserError, match=message):
        open_file(tmp_path / "a.csv", "agnews", content)
    assert open_file(tmp_path / "a.csv", "agnews", content, text_column="2")[-2].text in ("the text", "story")


def test_words_one_a_line_are_sentences_where_blank_lines_end_them(tmp_path):
    found = open_file(tmp_path / "a.txt", "conll", "EU\nrejects\n#tag\n\nPeter\n")
    assert [example.words for example in found] == [("EU", "rejects", "#tag"), ("Peter",)]
    for texts in ("EU\n\nrejects\n", "EU\nrejects\n", "EU rejects\nit\n\nPeter\n"):
        assert [row.words[0] for row in open_file(tmp_path / "a.txt", "conll", texts) if row.__class__ is not str] == [
            line.split()[0] for line in texts.split("\n") if line
        ]
    prose = open_file(tmp_path / "a.txt", "conll", "今天天气很好。\n我们去公园。\n\n他说下雨。\n不去了。\n")
    assert [row if isinstance(row, str) else len(row.words) for row in prose][:3] == [7, 6, "line 3: there is no text"]


def test_quotes_of_a_csv_writer_are_found_however_late_the_first_stands(tmp_path):
    content = "EU O\nrejects O\n\n" * 600 + '"""" O\nx O\n'
    assert open_file(tmp_path / "a.txt", "conll", content)[-1].words == ('"', "x")


def test_a_header_is_repeated_only_where_it_has_several_names(tmp_path):
    for content, expected in (
        ("text\nhello\nText\n", ["hello", "Text"]),
        ('text,label\na,x\n\ufeffText,label\n\ufeff"b",y\n', ["a", "line 3: repeats the header", "b"]),
    ):
        rows = open_file(tmp_path / "a.csv", "csv", content)
        assert [row if isinstance(row, str) else row.text for row in rows] == expected


def test_an_example_that_the_task_refuses_is_odd_too(models, tmp_path):
    rows = [{"question": "who " * n, "context": "the fox"} for n in (1, 60, 2)]
    (tmp_path / "s.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    answer(models / "span", "--file", tmp_path / "s.jsonl", "--output", tmp_path / "out.jsonl")
    first, second, third = lines_of(tmp_path / "out.jsonl")
    assert "leave no room for the context" in second["error"] and first["prediction"] and third["prediction"]


def test_a_file_of_another_format_is_refused_at_once(models, tmp_path, capsys):
    (tmp_path / "a.jsonl").write_text("the fox\n" * 200)
    argv = ["predict", "--model", models / "sequence", "--file", tmp_path / "a.jsonl", "--output", tmp_path / "o.csv"]
    assert main([*map(str, argv)]) == 2
    assert "a.jsonl: none of its first 100 inputs can be read: line 1: not JSON" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jsonl"]


def test_tables_keep_all_columns_and_are_read_back_as_they_were(models, tmp_path):
    texts = ['the "fox"', "a\ttab, a comma", "two\nlines", "a\rreturn", "=1+1"]
    with open(tmp_path / "a.csv", "w", newline="") as file:
        csv.writer(file).writerows(
            [["text", "prediction", "n", "n"], *([text, "old", i, ""] for i, text in enumerate(texts))]
        )
    for ending, delimiter in (("csv", ","), ("tsv", "\t")):
        output = tmp_path / f"out.{ending}"
        answer(models / "sequence", "--file", tmp_path / "a.csv", "--output", output, "--probabilities")
        rows = list(csv.reader(io.StringIO(output.read_bytes().decode(), newline=""), delimiter=delimiter))
        every = [f"probability_{label}" for label in LABELS["sequence"]]
        assert rows[0] == ["text", "input_prediction", "n", "column_4", "prediction", "confidence", *every, "error"]
        assert [row[0] for row in rows[1:]] == texts and {row[1] for row in rows[1:]} == {"old"}
        for row in rows[1:]:
            best = max(range(4), key=lambda i: float(row[6 + i]))
            assert row[4] == LABELS["sequence"][best] and float(row[5]) == float(row[6 + best])


PAIR = {"premise": "the fox", "hypothesis": "a dog jumps"}
PAIRS = {
    "p.csv": "n,premise,hypothesis\n1,the fox,a dog jumps\n2,,a\n3,the fox,\n",
    "p.jsonl": json_lines([PAIR, PAIR | {"premise": ""}, PAIR | {"hypothesis": 5}]),
}


@pytest.fixture
def reader_of_pairs(tmp_path, tokenizer):
    """A model that was trained on pairs."""
    save_model(tiny_model("sequence", vocab_size=tokenizer.vocab_size, pairs=True), tmp_path / "model", tokenizer)
    return tmp_path / "model"


@pytest.mark.parametrize("name", PAIRS)
def test_pairs_of_texts_are_answered_as_one_by_one(name, reader_of_pairs, tmp_path, monkeypatch, capsys):
    (tmp_path / name).write_text(PAIRS[name])
    answer(reader_of_pairs, "--file", tmp_path / name, "--output", tmp_path / "out.jsonl", "--probabilities")
    first, *others = lines_of(tmp_path / "out.jsonl")
    [alone] = predict(load_for_inference(reader_of_pairs), [PAIR["premise"]], pairs=[PAIR["hypothesis"]]).values()
    assert first["probabilities"] == pytest.approx(alone, abs=1e-5) and all("error" in row for row in others)
    capsys.readouterr()
    monkeypatch.setattr(sys, "stdin", Source(json.dumps(PAIR).encode()))
    assert main(["predict", "--model", str(reader_of_pairs)]) == 0
    assert json.loads(capsys.readouterr().out)["prediction"] == first["prediction"]


def test_a_model_of_pairs_refuses_single_texts_before_it_writes_anything(reader_of_pairs, tmp_path, capsys):
    (tmp_path / "a.txt").write_text("the fox\n")
    flags = "--model", reader_of_pairs, "--file", tmp_path / "a.txt", "--output", tmp_path / "o.csv"
    assert main([*map(str, ["predict", *flags])]) == 2 and "is of pairs of texts" in capsys.readouterr().err
    assert not (tmp_path / "o.csv.part").exists()


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_a_text_and_its_label_are_no_pair(name, reader_of_pairs, tmp_path, capsys):
    rows = "text,label\nthe fox,no\n" if name == "a.csv" else '{"text": "the fox", "label": "no"}\n'
    (tmp_path / name).write_text(rows)
    flags = "--model", reader_of_pairs, "--file", tmp_path / name, "--output", tmp_path / "o.csv"
    assert main([*map(str, ["predict", *flags])]) == 2
    assert "which two of these are the pairs' texts, text, label?" in capsys.readouterr().err


def test_an_odd_line_of_standard_input_does_not_spoil_the_next(reader_of_pairs, monkeypatch, capsys):
    lines = [{"text": "the fox"}, PAIR, {"sentence1": "a", "sentence2": "b"}]
    monkeypatch.setattr(sys, "stdin", Source("\n".join(map(json.dumps, lines)).encode()))
    assert main(["predict", "--model", str(reader_of_pairs)]) == 0
    first, *others = map(json.loads, capsys.readouterr().out.splitlines())
    assert first["error"] == "line 1: has one text, the model reads pairs; call them sentence1 and sentence2"
    assert all(row["prediction"] and "error" not in row for row in others) and len(others) == 2


def test_of_a_very_long_line_only_what_is_long_is_shortened(models, tmp_path):
    row = {
        "id": 123456789,
        "text": "the moon " * 20,
        "html": "x" * 1_200_000,
        "numbers": [0.5] * 5,
        "more": [1] * 600_000,
    }
    (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n")
    answer(models / "sequence", "--file", tmp_path / "a.jsonl", "--output", tmp_path / "o.jsonl")
    [found] = lines_of(tmp_path / "o.jsonl")
    assert found.pop("prediction") and 0 < found.pop("confidence") <= 1
    assert found == row | {"html": "x" * 100, "more": None}


# --- killed, and begun again ---


class Killed(BaseException):
    """What no code catches."""


@pytest.mark.parametrize("model", ["sequence", "int8"])
@pytest.mark.parametrize("ending", ["jsonl", "csv"])
def test_killed_anywhere_the_same_command_ends_with_the_same_bytes(
    model, ending, models, tmp_path, monkeypatch, small_parts
):
    texts = [f"{TEXTS[i % 4]} {'fox ' * (i % 5)}" for i in range(4)]
    path, output = tmp_path / "a.txt", tmp_path / f"out.{ending}"
    path.write_text("\n".join([*texts, "", *texts]))
    answerer = Answerer(load_for_inference(models / model), TASKS["csv"], DataConfig(), CPU)
    predict_file(answerer, path, output)
    whole, points = output.read_bytes(), 0
    names = ("write_json", "replace_file", "remove")
    calls = [(library.os, "fsync"), *((library.files, name) for name in names), (library, "compute_logits")]
    for (owner, name), survived, after in product(calls, range(3), (False, True)):
        output.unlink()
        real, left = getattr(owner, name), [survived]

        def killed(*arguments, real=real, left=left, after=after, **options):
            left[0] -= 1
            result = real(*arguments, **options) if left[0] >= 0 or after else None
            if left[0] < 0:
                raise Killed
            return result

        with monkeypatch.context() as patch:
            patch.setattr(owner, name, killed)
            try:
                predict_file(answerer, path, output)
            except Killed:
                points += 1
        if not output.exists():
            predict_file(answerer, path, output)
        assert output.read_bytes() == whole, (name, survived, after)
        (tmp_path / f"{output.name}.part.json").unlink(missing_ok=True)  # where only that was not reached
    assert points > 20


def test_what_is_answered_already_is_not_computed_again(models, tmp_path, monkeypatch, small_parts, capsys):
    (tmp_path / "a.txt").write_text("fox\n" * 8)
    real, calls = library.compute_logits, []

    def logits(*arguments, **options):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    monkeypatch.setattr(library, "compute_logits", logits)
    flags = ["--model", models / "sequence", "--file", tmp_path / "a.txt", "--output", tmp_path / "o.csv"]
    argv = [*map(str, ["predict", *flags])]
    assert main(argv) == 130 and capsys.readouterr().err == "interrupted; the same command goes on where it stopped\n"
    assert main(argv) == 0 and len(calls) == 4 and "8 inputs" in capsys.readouterr().out


def test_an_int8_model_goes_on_with_the_scales_that_it_began_with(models, tmp_path, monkeypatch, capsys, small_parts):
    (tmp_path / "a.txt").write_text("a fox\n" * 8)
    argv = ["predict", "--model", str(models / "int8"), "--output", str(tmp_path / "o.csv"), "--file"]
    argv += [str(tmp_path / "a.txt"), "--int8-scale"]
    with monkeypatch.context() as patch:
        patch.setattr(library.files, "replace_file", lambda *paths: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            main([*argv, "text"])
    assert main([*argv, "token"]) == 2 and "is what another run has left" in capsys.readouterr().err
    assert main([*argv, "auto"]) == 0, "which are a text's here"


def test_what_another_run_has_left_is_refused_and_replaced_by_force(models, tmp_path, monkeypatch, capsys, small_parts):
    for name in ("a", "b"):
        (tmp_path / f"{name}.txt").write_text(f"{name} fox\n" * 8)
    output = tmp_path / "o.jsonl"
    argv = ["predict", "--model", str(models / "sequence"), "--output", str(output), "--file"]
    with monkeypatch.context() as patch:
        patch.setattr(library.files, "replace_file", lambda *paths: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            main([*argv, str(tmp_path / "a.txt")])
    assert main([*argv, str(tmp_path / "b.txt")]) == 2
    assert "o.jsonl.part: is what another run has left" in capsys.readouterr().err
    assert main([*argv, str(tmp_path / "a.txt"), "--probabilities"]) == 2
    assert main([*argv, str(tmp_path / "b.txt"), "--force"]) == 0 and "b fox" in output.read_text()
    capsys.readouterr()
    assert main([*argv, str(tmp_path / "a.txt")]) == 2 and "is there already" in capsys.readouterr().err
    assert main([*argv, str(tmp_path / "a.txt"), "--force"]) == 0 and "a fox" in output.read_text()
    output.with_name("o.jsonl.part").write_text("somebody's own")
    assert (
        main([*argv, str(tmp_path / "a.txt")]) == 2 and output.with_name("o.jsonl.part").read_text() == "somebody's own"
    )


@pytest.mark.parametrize(
    ("file", "output", "message"),
    [
        ("a.csv", "a.csv", "would overwrite"),
        ("a.csv.part", "a.csv", "would overwrite"),
        ("a.txt", "model/model.jsonl", ""),
        ("a.txt", "o.json", "give it a name that ends with .csv, .tsv or .jsonl"),
        ("a.txt", "", "needs a file for the answers: add --output"),
        ("none.txt", "o.csv", "no such file"),
    ],
)
def test_nothing_is_overwritten_and_bad_names_are_refused(file, output, message, models, tmp_path, capsys):
    for name in ("a.csv", "a.csv.part", "a.txt"):
        (tmp_path / name).write_text("text\nfox\n")
    argv = ["predict", "--model", models / "sequence", "--file", tmp_path / file]
    argv += ["--output", tmp_path / output] if output else []
    assert main([*map(str, argv)]) == (2 if message else 0)
    assert message in capsys.readouterr().err


# --- how much is held, and computed, at once ---


def test_parts_are_bounded_by_rows_and_by_characters(monkeypatch):
    row = inputs_module.Row({"text": "a" * 300_000}, object())
    assert [len(next_part(iter([row] * 5))) for _ in range(2)] == [2, 2]
    monkeypatch.setattr(library, "ROWS", 4)
    assert len(next_part(iter([inputs_module.Row({}, None, "odd")] * 9))) == 4 and next_part(iter([])) == []


def test_rows_are_read_when_they_are_asked_for(tmp_path):
    (tmp_path / "a.txt").write_text("fox\n" * 5000)
    read, count, columns = inputs_module.open_inputs(
        TASKS["csv"], tmp_path / "a.txt", "", DataConfig(), False, (), print
    )
    assert count == 5000 and columns == ["text"] and isinstance(read(), types.GeneratorType)


def test_batches_are_cut_by_their_tokens_too():
    lengths = torch.tensor([5, 40, 10, 10, 3]).numpy()
    assert [b.tolist() for b in length_sorted_batches(lengths, tokens=20)] == [[1], [2, 3], [0, 4]]
    assert [b.tolist() for b in length_sorted_batches(lengths, 2)] == [[1, 2], [3, 0], [4]]


def test_blanks_behind_the_last_comma_are_no_column(models, tmp_path):
    (tmp_path / "x.csv").write_text("text,label\nthe fox,a, \nthe dog,b,x\n")
    answer(models / "sequence", "--file", tmp_path / "x.csv", "--output", tmp_path / "y.jsonl")
    assert ["error" in row for row in lines_of(tmp_path / "y.jsonl")] == [False, True]


def test_columns_may_be_chosen_by_name_or_number(models, tmp_path):
    (tmp_path / "a.csv").write_text("7,the fox\n8,the dog\n")
    answer(models / "sequence", "--file", tmp_path / "a.csv", "--output", tmp_path / "o.jsonl", "--text-column", 2)
    assert [row["column_2"] for row in lines_of(tmp_path / "o.jsonl") if row["prediction"]] == ["the fox", "the dog"]
    (tmp_path / "t.csv").write_text("said,n\nthe fox,7\n")
    answer(models / "token", "--file", tmp_path / "t.csv", "--output", tmp_path / "t.jsonl", "--text-column", "said")
    assert lines_of(tmp_path / "t.jsonl")[0]["words"] == ["the", "fox"]


def test_a_full_disk_and_a_model_without_a_task_are_one_line(models, tmp_path, tokenizer, monkeypatch, capsys):
    (tmp_path / "a.txt").write_text("fox\n")
    argv = ["predict", "--file", str(tmp_path / "a.txt"), "--output", str(tmp_path / "o.csv"), "--model"]
    real, calls = library.os.fsync, []

    def fsync(number):
        calls.append(number)
        if len(calls) == 3:  # the state before it: the file and its folder
            raise OSError(errno.ENOSPC, "no space")
        real(number)

    with monkeypatch.context() as patch:
        patch.setattr(library.os, "fsync", fsync)
        assert main([*argv, str(models / "sequence")]) == 2
    assert "o.csv.part: cannot be written: no space; make room on the disk; the same command" in capsys.readouterr().err
    save_model(tiny_model(None, vocab_size=tokenizer.vocab_size), tmp_path / "bare", tokenizer)
    assert main([*argv, str(tmp_path / "bare")]) == 2 and "has no head for a task" in capsys.readouterr().err


# --- standard input ---


def Source(content):
    """What a pipe holds, in place of standard input."""
    return io.TextIOWrapper(io.BytesIO(content))


@pytest.mark.parametrize("flags", [[], ["--file", "-"]])
def test_each_line_of_standard_input_is_answered_as_json(flags, models, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", Source(b"the fox\n\nfi\xff\nthe dog"))
    assert main(["predict", "--model", str(models / "sequence"), *flags]) == 0
    first, second, third, fourth = map(json.loads, capsys.readouterr().out.splitlines())
    assert first["text"] == "the fox" and first["prediction"] in LABELS["sequence"] and fourth["prediction"]
    assert "there is no text" in second["error"] and "0xff" in third["error"]


@pytest.mark.parametrize(
    "head, value", [("sequence", {"text": "the fox", "n": 1}), ("token", {"tokens": ["the", "fox"]})]
)
def test_an_object_in_a_line_of_standard_input_is_answered_as_in_a_file(
    head, value, models, tmp_path, monkeypatch, capsys
):
    lines = json.dumps(value) + "\n"
    (tmp_path / "a.jsonl").write_text(lines)
    flags = ["predict", "--model", str(models / head)]
    assert main([*flags, "--file", str(tmp_path / "a.jsonl"), "--output", str(tmp_path / "o.jsonl")]) == 0
    capsys.readouterr()
    monkeypatch.setattr(sys, "stdin", Source(f'the fox\n{lines}{{"text": 5, "text": 6}}\n{{no object'.encode()))
    assert main(flags) == 0
    first, second, third, fourth = map(json.loads, capsys.readouterr().out.splitlines())
    assert second == lines_of(tmp_path / "o.jsonl")[0] and "error" not in first and "error" not in fourth
    assert third["error"].startswith("line 3: ") and "twice" in third["error"]


@pytest.mark.parametrize("encoding", ["cp1252", "utf-16", "utf-16-be"])
def test_standard_input_is_read_in_the_encoding_that_is_named(encoding, models, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", Source("cafés\nĊ".encode(encoding, "replace")))  # Ċ holds the byte of a line end
    assert main(["predict", "--model", str(models / "sequence"), "--encoding", encoding]) == 0
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert first["text"] == "cafés" and second["text"] == ("?" if encoding == "cp1252" else "Ċ")


def test_an_answer_is_there_before_the_next_line(models):
    loaded = load_for_inference(models / "span")
    written = []

    def lines():
        for i in range(3):
            assert len(written) == i
            yield '{"question": "who", "context": "the fox"}\n'

    counts = library.answer_stream(Answerer(loaded, TASKS["squad"], DataConfig(), CPU), lines(), written.append)
    assert counts == {"inputs": 3, "odd": 0} and json.loads(written[2])["prediction"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "predict needs --text for it"),
        (
            ["--file", "-", "--json"],
            "--json: standard input is answered in JSON lines, on standard output; leave it out",
        ),
        (["--file", "-", "--output", "x.csv"], "--output: standard input"),
        (["--file", "a.csv", "--text", "fox"], "--file and --text: leave out one of them"),
        (["--text", "fox", "--oos-threshold", "0.9"], "--oos-threshold: is for --file FILE; leave it out"),
        (["--text", "fox", "--null-threshold", "0"], "--null-threshold: is for --file FILE; leave it out"),
        (["--text", "fox", "--task", "csv"], "--task: is for --file FILE; leave it out"),
        (["--text", "fox", "--force"], "--force: is for --file FILE; leave it out"),
        (["--text", "fox", "--label-threshold", "0.9"], "--label-threshold: is for a model that gives a text several"),
        (
            ["--file", "a.csv", "--label-threshold", "0.9"],
            "--label-threshold: is for a model that gives a text several",
        ),
        (["--file", "-", "--split", "nonsense"], "--split: is for --file FILE; leave it out"),
        (["--file", "-", "--label-column", "a"], "--label-column: is for --file FILE; leave it out"),
        (["--text", "fox", "\xa0"], "--text: there is no text in '\\xa0'"),
        (["--file", "a.csv", "--task", "conll"], "has a sequence head, conll needs a token head"),
    ],
)
def test_flags_that_do_not_go_together_are_refused(flags, message, models, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", Source(b""))
    assert main(["predict", "--model", str(models / "sequence"), *flags]) == 2
    assert message in capsys.readouterr().err


def test_the_objects_of_a_pipe_may_name_their_text_otherwise(models, monkeypatch, capsys):
    rows = [{"said": "the goal"}, {"text": "the goal"}]
    monkeypatch.setattr(sys, "stdin", Source((json_lines(rows) + "the goal\n").encode()))
    assert main(["predict", "--model", str(models / "sequence"), "--file", "-", "--text-column", "said"]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert ["error" in record for record in found] == [False, True, True]
    assert "said" in found[1]["error"] and "not JSON" in found[2]["error"]


def test_numbers_that_json_has_not_are_null_in_the_answers():
    record = {"prediction": "a", "input_x": [float("nan"), 1.5, {"y": float("-inf")}], "text": "Hér"}
    line = library.json_line(record)
    assert json.loads(line) == record | {"input_x": [None, 1.5, {"y": None}]} and "Hér" in line
    assert "NaN" not in line and "Infinity" not in line


def test_a_table_of_two_texts_is_read_as_the_message_says(models, tmp_path, capsys):
    """As where a model of pairs comes from a hub, whose folder doesn't say that it reads pairs."""
    (tmp_path / "a.csv").write_text("premise,hypothesis\nthe goal is,the fox was\nthe bank is,the goal was\n")
    argv = ["predict", "--model", str(models / "sequence"), "--file", str(tmp_path / "a.csv")]
    argv += ["--output", str(tmp_path / "o.jsonl")]
    assert main(argv) == 2
    assert "premise, hypothesis? Choose with --text-column, two for a model of pairs" in capsys.readouterr().err
    assert main([*argv, "--text-column", "premise,hypothesis"]) == 0
    assert [json.loads(line)["error"] for line in (tmp_path / "o.jsonl").open() if "error" in line] == []


def test_a_model_that_is_asked_knows_the_labels_by_numbers_or_another_scheme(models, tmp_path, tokenizer, capsys):
    pairs = {
        "csv": (("0", "1"), ("LABEL_0", "LABEL_1")),
        "conll": (("O", "B-PER", "I-PER"), ("O", "B-PER", "I-PER", "E-PER", "S-PER")),
        "other": (("0", "1"), ("0", "2")),
    }
    (tmp_path / "a.txt").write_text("the fox\n")
    for task, both in pairs.items():
        head = "token" if task == "conll" else "sequence"
        for name, labels in zip(("own", "asked"), both, strict=True):
            model = tiny_model(head, labels, vocab_size=tokenizer.vocab_size)
            save_model(model, tmp_path / task / name, tokenizer)
        for own, asked in (("own", "asked"), ("asked", "own")):
            flags = "--ask", tmp_path / task / asked, "--below", "1", "--file", tmp_path / "a.txt"
            output = tmp_path / f"{task}-{own}.jsonl"
            argv = ["predict", "--model", tmp_path / task / own, *flags, "--output", output]
            if task == "other":
                assert main([*map(str, argv)]) == 2 and "has other labels than --model" in capsys.readouterr().err
                continue
            answer(tmp_path / task / own, *argv[3:])
            [row] = lines_of(output)
            assert row["asked"] and set(row["prediction"]) <= {*"01"} | {"O", "B-PER", "I-PER"}


def test_a_model_of_pairs_is_not_asked_about_single_texts(reader_of_pairs, tmp_path, tokenizer, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", Source(b"the fox\n"))
    save_model(tiny_model("sequence", vocab_size=tokenizer.vocab_size), tmp_path / "single", tokenizer)
    flags = "--ask", str(reader_of_pairs), "--below", "1", "--file", "-"
    assert main(["predict", "--model", str(tmp_path / "single"), *flags]) == 2
    assert "is of pairs of texts, standard input of single ones" in capsys.readouterr().err


def test_a_model_that_gives_no_numbers_ends_the_run(models, tmp_path, tokenizer):
    model = tiny_model("sequence", LABELS["sequence"], vocab_size=tokenizer.vocab_size)
    with torch.no_grad():
        model.head.out.bias.fill_(float("nan")) if hasattr(model.head, "out") else next(model.head.parameters()).fill_(
            float("nan")
        )
    save_model(model, tmp_path / "nan", tokenizer)
    (tmp_path / "a.txt").write_text("fox\n")
    answerer = Answerer(load_for_inference(tmp_path / "nan"), TASKS["csv"], DataConfig(), CPU)
    with pytest.raises(UserError, match="not finite"):
        predict_file(answerer, tmp_path / "a.txt", tmp_path / "o.csv")


@pytest.mark.parametrize("ending", [".jsonl", ".csv"])
def test_another_model_answers_where_the_first_is_not_sure(ending, models, tokenizer, tmp_path, small_parts):
    labels = tuple(reversed(load_model(models / "sequence").config.labels))
    other = tiny_model("sequence", labels, vocab_size=tokenizer.vocab_size, seed=7)
    save_model(other, tmp_path / "other", tokenizer)
    (tmp_path / "in.txt").write_text("\n".join(f"{text[:n]}" for text in TEXTS for n in (9, 14, 19, 24)) + "\n")
    flags = ["--file", tmp_path / "in.txt", "--probabilities", "--output"]

    def rows(name, model, *more):
        answer(model, *flags, tmp_path / f"{name}{ending}", *more)
        text = (tmp_path / f"{name}{ending}").read_text()
        if ending == ".csv":
            return list(csv.DictReader(io.StringIO(text)))
        return [json.loads(line) for line in text.splitlines()]

    own, others = rows("own", models / "sequence"), rows("others", tmp_path / "other")
    below = sorted(float(row["confidence"]) for row in own)[len(own) // 2]
    both = rows("both", models / "sequence", "--ask", tmp_path / "other", "--below", repr(below))
    asked = [str(row.pop("asked")).lower() == "true" for row in both]
    assert asked == [float(row["confidence"]) < below for row in own] and 0 < sum(asked) < len(asked)
    assert both == [b if ask else a for ask, a, b in zip(asked, own, others, strict=True)]


@pytest.mark.parametrize("change", ["the other model first", "another ending", "--kernels", "threads"])
def test_what_was_begun_in_another_way_is_not_gone_on_with(
    change, models, tokenizer, tmp_path, small_parts, monkeypatch
):
    labels = load_model(models / "sequence").config.labels
    save_model(tiny_model("sequence", labels, vocab_size=tokenizer.vocab_size, seed=7), tmp_path / "other", tokenizer)
    (tmp_path / "in.txt").write_text("text\n" + "\n".join(TEXTS * 3) + "\n")
    argv = ["--file", "in.txt", "--output", "out.csv", "--ask", "other", "--below", "0.5"]
    monkeypatch.chdir(tmp_path)
    append, calls = library.append, []

    def stopped(*arguments):
        calls.append(append(*arguments))
        if len(calls) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(library, "append", stopped)
    model = str(models / "sequence")
    assert main(["predict", "--model", model, *argv]) not in (0, 2) and (tmp_path / "out.csv.part").stat().st_size
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    if change == "another ending":
        (tmp_path / "in.txt").rename(tmp_path / "in.csv")
        argv[1] = "in.csv"
    elif change == "--kernels":
        argv += ["--kernels", "exact"]
    elif change == "threads":
        monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    else:
        model, argv[argv.index("other")] = "other", model
    assert main(["predict", "--model", model, *argv]) == 2, "there is something of another run"


def test_no_column_takes_the_place_of_another():
    columns = {"prediction": 1, "input_prediction": 2, "text": 3}
    found = inputs_module.renamed(columns, {"prediction"})
    assert found == {"input_input_prediction": 1, "input_prediction": 2, "text": 3} and list(found.values()) == [
        1,
        2,
        3,
    ]


def test_a_mark_of_the_encoding_is_no_part_of_the_first_line(models):
    answerer = Answerer(load_for_inference(models / "sequence"), TASKS["csv"], DataConfig(), torch.device("cpu"))
    lines = []
    library.answer_stream(answerer, ["\ufeffa goal\n", "a goal\n"], lines.append)
    assert json.loads(lines[0]) == json.loads(lines[1])
