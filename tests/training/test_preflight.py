"""preflight.py: what is found before work starts, and what it would have cost to find it later."""

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from kd_scratch.checkpoints.checkpoint import save_model
from kd_scratch.common import device
from kd_scratch.common.device import free_memory
from kd_scratch.common.errors import UserError
from kd_scratch.config import SIZES, DataConfig, TrainConfig
from kd_scratch.distillation.hidden_losses import make_hidden_losses
from kd_scratch.tasks import TASKS
from kd_scratch.tasks.classification import Example as Text
from kd_scratch.tasks.question_answering import Example as Question
from kd_scratch.tasks.token_classification import Example as Sentence
from kd_scratch.training import preflight as module
from kd_scratch.training.examples import TrainingData
from kd_scratch.training.preflight import (
    Sample,
    about_disk,
    about_gain,
    about_layers,
    about_loss,
    about_overlap,
    memory_bytes,
    preflight,
    training_bytes,
)
from kd_scratch.training.setup import Run
from kd_scratch.training.spec import RunSpec
from tests.conftest import TEXTS, tiny_model
from tests.evaluation.test_advice import DISTILLED, changed

CPU = torch.device("cpu")
CONTEXT = "the quick brown fox jumps over the lazy dog again and again and again"


def make_run(tmp_path, tokenizer, task, examples, model, dev=None, teachers=(), spec=None, **settings) -> Run:
    """A run that has been set up, but for what preflight does not look at."""
    fields = {"model": "tiny-student", "output": tmp_path / "a" / "out", "cache": tmp_path / "b"} | (spec or {})
    config = TrainConfig(**{"max_length": 24} | settings)
    spec = RunSpec(task, tmp_path, "10%", config=config, **fields)
    labels = model.config.labels
    return Run(
        spec=spec,
        task=TASKS[task],
        device=CPU,
        data=TrainingData(TASKS[task], examples, dev or examples, labels, tokenizer, hashes={}, notes=[]),
        dev_inputs=None,
        model=model,
        teachers=list(teachers),
        hidden_losses=make_hidden_losses(config, model.config, teachers[0].config) if teachers else None,
        identity={},
        resume=False,
    )


def found(tmp_path, tokenizer, task, examples, dev=None, labels=(), teachers=(), data=None, resume=False, **settings):
    """The table, by its first column."""
    model = tiny_model(head=TASKS[task].head, labels=labels, vocab_size=tokenizer.vocab_size)
    spec = {"data": data or DataConfig()}
    run = make_run(tmp_path, tokenizer, task, examples, model, dev, teachers, spec, **settings)
    run.resume = resume
    rows = dict(preflight(run))
    assert not list(tmp_path.iterdir()), "nothing is written"
    return rows


def texts(count: int = 40, label=lambda i: "ab"[i % 2]) -> list[Text]:
    return [Text(f"x:{i}", TEXTS[i % 4], label(i)) for i in range(count)]


def test_the_table_tells_labels_vocabulary_length_layers_disk_and_memory(tmp_path, tokenizer):
    dev = [replace(example, text=f"{example.text} too") for example in texts()]
    rows = found(tmp_path, tokenizer, "csv", texts(), dev, labels=("a", "b"))
    assert list(rows) == ["labels", "vocabulary", "length", "  train", "  dev", "layers", "disk", "memory"]
    assert rows["labels"] == "2: a, b"
    size = tokenizer.vocab_size
    assert rows["vocabulary"] == f"{size} pieces, the model has room for {size}; of those in train 0.0% are unknown"
    assert rows["length"] == "--max-length 24 of the model's 40 positions"
    assert rows["layers"] == "3, with random weights"
    assert "are free" in rows["disk"] and rows["memory"].startswith("up to about ")


def test_the_share_of_texts_that_are_cut_is_exact(tmp_path, tokenizer):
    lengths = [len(encoding.ids) for encoding in tokenizer.encode(TEXTS)]
    rows = found(tmp_path, tokenizer, "csv", texts(), labels=("a", "b"), max_length=max(lengths) - 1)
    assert sum(length == max(lengths) for length in lengths) == 1
    assert rows["  train"] == "25.0% of the texts are cut (a larger --max-length would read more of them)"
    for enough in (max(lengths), 39):  # the longest just fits, and with room to spare
        rows = found(tmp_path, tokenizer, "csv", texts(), labels=("a", "b"), max_length=enough)
        assert rows["  train"].startswith("0.0%") and rows["  dev"].startswith("0.0%")


def test_texts_in_another_script_are_told_by_their_unknown_pieces(tmp_path, tokenizer):
    rows = found(tmp_path, tokenizer, "csv", [Text("x:1", "木 木 木 fox", "a")] * 20, labels=("a",))
    assert "% are unknown (is this the vocabulary of that language?)" in rows["vocabulary"]


def test_a_label_column_that_is_none_is_told(tmp_path, tokenizer):
    labels = tuple(f"l{i:02}" for i in range(40))
    rows = found(tmp_path, tokenizer, "csv", texts(label=lambda i: labels[i]), labels=labels)
    assert rows["labels"].startswith("40: l00, l01, l02, l03, l04, …; 40 DIFFERENT ONES among 40 examples")
    few = found(tmp_path, tokenizer, "csv", texts(label=lambda i: labels[i % 20]), labels=labels)  # as with --limit
    assert "DIFFERENT ONES" not in few["labels"]
    unlabelled = [Text("x:1", "fox", None)] * 500
    mixed = found(tmp_path, tokenizer, "csv", texts(label=lambda i: labels[i]) + unlabelled, labels=labels)
    assert "40 DIFFERENT ONES among 40 examples" in mixed["labels"]


def test_a_label_of_dev_that_train_lacks_is_refused(tmp_path, tokenizer):
    with pytest.raises(UserError, match="x:0: label 'c' is not one of the 2 that the model has"):
        found(tmp_path, tokenizer, "csv", texts(), [Text("x:0", "fox", "c")], labels=("a", "b"))


def test_tags_of_dev_that_train_lacks_are_counted(tmp_path, tokenizer):
    train = [Sentence("x:1", ("Ada", "slept"), ("B-PER", "O"), "d")] * 10
    dev = [Sentence("x:2", ("Ada", "slept", "in", "Torvia"), ("B-PER", "O", "O", "B-LOC"), "d")]
    rows = found(tmp_path, tokenizer, "conll", train, dev, labels=("O", "B-PER", "I-PER"))
    assert "25.0% of the words of dev have a tag that train lacks (are both of one kind?)" in rows["labels"]
    assert rows["  dev"] == "1.00 windows for each sentence"


def test_answers_out_of_reach_are_counted(tmp_path, tokenizer):
    """Of four questions one has its answer in no window, and one an answer of more pieces than may be answered."""
    common = dict(question="fox?", context=CONTEXT)
    examples = [
        Question("1", answers=("quick",), start=4, **common),
        Question("2", answers=("dog",), start=CONTEXT.index("dog"), **common),
        Question("3", answers=(CONTEXT,), start=0, **common),  # longer than any window
        Question("4", answers=("quick brown fox",), start=4, **common),
    ]
    rows = found(tmp_path, tokenizer, "squad", examples, data=DataConfig(answer_length=5, overlap=4))
    nowhere = Question("5", answers=("cat",), start=None, **common)  # which is another fault, told elsewhere
    examples += [nowhere, Question("6", **common)]
    assert rows == found(tmp_path, tokenizer, "squad", examples, data=DataConfig(answer_length=5, overlap=4)) | {
        name: rows[name] for name in ("disk", "memory")
    }
    assert "25.0% of the answers are whole in no window (try a larger --max-length or --overlap)" in rows["  train"]
    assert "25.0% longer than --answer-length 5 (a larger one would reach them)" in rows["  train"]


def test_labels_texts_sentences_and_questions_that_look_wrong_are_shown_and_right_ones_are_not(tmp_path, tokenizer):
    rows = found(tmp_path, tokenizer, "csv", texts(label=lambda i: "a"), labels=("a", "A "))
    assert "ONE CLASS ONLY among 40 examples, 'a'" in rows["labels"] and "NEARLY THE SAME LABEL" in rows["labels"]
    rows = found(tmp_path, tokenizer, "csv", [*texts(), Text("x:9", " ", "a")], texts(), labels=("a", "b"))
    assert rows["examples"] == "train: 1 of 41 texts are EMPTY: is that the column of the texts?"
    short = [Sentence(f"x:{i}", ("fox",), ("B-PER",), f"x:{i}") for i in range(30)]
    rows = found(tmp_path, tokenizer, "conll", short, labels=("O", "B-PER", "I-PER", "B-per", "I-per"))
    assert "NEARLY THE SAME LABEL: 'PER' and 'per'" in rows["labels"]
    assert "train: MOST SENTENCES ARE ONE WORD" in rows["examples"] and "dev: MOST" in rows["examples"]
    nowhere = [Question("1", "fox?", CONTEXT, ("cat",)), Question("2", "", "", ("cat",))]
    rows = found(tmp_path, tokenizer, "squad", nowhere)
    assert "HARDLY ANY ANSWER IS FOUND" in rows["examples"] and "contexts are EMPTY" in rows["examples"]
    well = [Question(f"{i}", f"fox {i}?", CONTEXT, ("quick",), 4) for i in range(5)]
    assert "examples" not in found(tmp_path, tokenizer, "squad", well)


def test_dev_texts_that_stand_in_train_are_noticed_and_the_same_file_too(tmp_path, tokenizer, monkeypatch):
    def overlap(train, dev, task="csv", hashes=None):
        model = tiny_model(labels=("a", "b"), vocab_size=tokenizer.vocab_size)
        run = make_run(tmp_path, tokenizer, task, train, model, dev)
        run.data.hashes = hashes or {}
        return about_overlap(run, Sample(dev, inputs=None))

    train = [Text(f"t:{i}", f"fox {i}", "ab"[i % 2]) for i in range(60)]
    others = [Text(f"d:{i}", f"dog {i}", "a") for i in range(45)]
    assert overlap(train, others + train[:5]) == ""
    assert overlap(train, others + train[:15]).startswith("25% OF DEV STANDS IN TRAIN TOO")
    same = {"train": "x", "dev": "x"}
    assert overlap(train, others, hashes=same).startswith("--dev IS THE SAME FILE as --train")
    assert overlap(train, others, "clinc", same) == "", "one file holds both splits"
    context = [Question(f"{i}", f"fox {i}?", CONTEXT, ("quick",), 4) for i in range(60)]
    assert overlap(context[:30], context[30:], "squad") == "", "another question about a context is another example"
    monkeypatch.setattr(module, "COMPARED", 20)  # a third of them is looked at
    assert overlap(train, train).startswith("100% OF DEV")
    usual = [Text(f"t:{i}", f"fox {i}" if i % 20 else "ok", "a") for i in range(1000)]
    few = [Text("d:0", "ok", "a"), Text("d:1", "ok", "a"), *others]
    monkeypatch.setattr(module, "COMPARED", 100)
    assert overlap(usual, few) == "", "4% of dev stand in train: a text that many examples have is not one of many"


def test_a_full_disk_and_one_that_cannot_be_written_to_are_refused(tmp_path, tokenizer, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(UserError, match=r"out and .*b: needs about 0 MB, 0 MB are free; make room first"):
        found(tmp_path, tokenizer, "csv", texts(), labels=("a", "b"))
    resumed = found(tmp_path, tokenizer, "csv", texts(), labels=("a", "b"), resume=True)
    assert "0 MB are free" in resumed["disk"], "a part of what is needed lies there already: told, not refused"
    monkeypatch.setattr(module.os, "access", lambda *_: False)
    with pytest.raises(UserError, match="cannot be written to; choose another folder"):
        found(tmp_path, tokenizer, "csv", texts(), labels=("a", "b"))


class Repeated(list):
    """Examples that count as so many times as many."""

    def __init__(self, examples, times: int):
        super().__init__(examples)
        self.times = times

    def __len__(self) -> int:
        return self.times * super().__len__()


def test_what_goes_to_the_disk_is_counted_with_state_cache_and_teachers_logits(tmp_path, tokenizer):
    model = tiny_model(labels=("a", "b"), vocab_size=tokenizer.vocab_size)
    features = TASKS["csv"].featurize(texts(), tokenizer, ("a", "b"), 24, DataConfig())
    sizes = []
    for teachers, scale in (([], 1), ([], 10**9), ([model], 10**9)):
        examples = Repeated(texts(), scale)
        spec = {"output": tmp_path, "cache": tmp_path}
        run = make_run(tmp_path, tokenizer, "csv", examples, model, teachers=teachers, spec=spec)
        try:
            sizes.append(about_disk(run, Sample(texts(), features)))
        except UserError as error:
            sizes.append(str(error))
    numbers = [int(text.split("about ")[1].split(" MB")[0].replace(",", "")) for text in sizes]
    tokens = features.tokens.nbytes + features.labels.nbytes + features.starts.nbytes
    assert numbers[0] == round(12 * 4 * model.num_parameters() / 1e6)
    assert numbers[1] == pytest.approx(tokens * 1000, rel=0.01)
    assert numbers[2] - numbers[1] == pytest.approx(2 * 4 * 2 * len(features) * 1000, rel=0.01)


def test_what_the_cache_holds_already_needs_no_room_and_makes_none_for_the_output(tmp_path, tokenizer, monkeypatch):
    (tmp_path / "cache").mkdir()
    model = tiny_model(labels=("a", "b"), vocab_size=tokenizer.vocab_size)
    spec = {"output": tmp_path / "out", "cache": tmp_path / "cache"}
    run = make_run(tmp_path, tokenizer, "csv", Repeated(texts(), 10**6), model, spec=spec)
    sample = Sample(texts(), TASKS["csv"].featurize(texts(), tokenizer, ("a", "b"), 24, DataConfig()))
    usage = shutil.disk_usage(tmp_path)

    def about(free: int) -> str:
        monkeypatch.setattr(module.shutil, "disk_usage", lambda _: usage._replace(free=free))
        return about_disk(run, sample)

    enough = module.output_bytes(run)
    with pytest.raises(UserError, match="make room first"):
        about(enough)
    with open(tmp_path / "cache" / "features-of-an-earlier-run.safetensors", "wb") as file:
        file.truncate(10 * module.cache_bytes(run, sample))  # takes no room
    assert about(enough).endswith("are free; TOO LITTLE, unless the cache has this run's files already")
    assert about(enough + module.cache_bytes(run, sample)).endswith("are free")
    with pytest.raises(UserError, match="make room first"):
        about(enough - 1)


def test_too_little_memory_is_told_with_what_helps(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr(module, "free_memory", lambda device: 10**6)
    rows = found(tmp_path, tokenizer, "csv", texts(), labels=("a", "b"))
    assert "1 MB are free; TOO LITTLE: try --accumulation" in rows["memory"]
    monkeypatch.setattr(module, "free_memory", lambda device: None)
    assert "free" not in found(tmp_path, tokenizer, "csv", texts(), labels=("a", "b"))["memory"]


def test_memory_grows_with_batch_length_and_parameters_and_shrinks_with_what_saves_it():
    shape, config = SIZES["distilbert-base"], TrainConfig()
    base = training_bytes(shape, 66_000_000, config, 128)
    assert base == pytest.approx(3.07e9, rel=0.2)  # measured, CPU: 3,070 MB
    assert training_bytes(shape, 66_000_000, replace(config, batch_size=16), 384) == pytest.approx(5.49e9, rel=0.2)
    assert training_bytes(shape, 66_000_000, replace(config, gradient_checkpointing=True), 128) == pytest.approx(
        2.18e9, rel=0.2
    )
    assert training_bytes(shape, 66_000_000, config, 128, processes=2) < base
    halved = training_bytes(shape, 66_000_000, replace(config, accumulation=2), 128)
    assert halved == training_bytes(shape, 66_000_000, replace(config, batch_size=16), 128) < base
    assert training_bytes(shape, 67_000_000, config, 128) - base == 16_000_000
    for amp in ("off", "bf16"):  # a GPU's fused kernel drops attention weights, and takes bf16, without the maps
        on_gpu = training_bytes(shape, 66_000_000, replace(config, amp=amp), 128, device="cuda")
        assert base - on_gpu == 4 * config.batch_size * 128 * shape.depth * 2 * shape.heads * 128


def test_free_memory_is_what_the_system_says_or_less_in_a_container(tmp_path, monkeypatch):
    monkeypatch.setattr(device, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(device, "CGROUP", tmp_path)
    assert free_memory(CPU) is None and free_memory(torch.device("mps")) is None
    (tmp_path / "meminfo").write_text("MemTotal:       2000 kB\nMemAvailable:   1000 kB\n")
    assert free_memory(CPU) == 1_024_000
    for name, content in (("max", "500000"), ("current", "400000"), ("stat", "anon 5\ninactive_file 30000\n")):
        (tmp_path / f"memory.{name}").write_text(content)
    assert free_memory(CPU) == 500_000 - 400_000 + 30_000
    (tmp_path / "memory.max").write_text("max\n")
    assert free_memory(CPU) == 1_024_000


def test_the_layers_are_told_with_where_they_come_from(tmp_path, tokenizer):
    model, teacher = tiny_model(), tiny_model(depth=1)
    for chosen, name, expected in (
        ((0, 2, 1), tmp_path, f"0, 2, 1 of {tmp_path} become 0, 1, 2; the teacher has 1"),
        ((), tmp_path, f"3, all of {tmp_path}; the teacher has 1"),
        ((), "tiny-student", "3, with random weights; the teacher has 1"),
    ):
        spec = {"model": str(name), "init_layers": chosen}
        assert (
            about_layers(make_run(tmp_path, tokenizer, "csv", texts(), model, teachers=[teacher], spec=spec))
            == expected
        )


def test_the_terms_of_the_loss_and_their_layers_are_told(tmp_path, tokenizer):
    teacher = tiny_model(labels=("a", "b"), vocab_size=tokenizer.vocab_size, depth=6)
    both = dict(labels=("a", "b"), teachers=[teacher])
    plain = found(tmp_path, tokenizer, "csv", texts(), **both, alpha=0.25, temperature=4.0)
    assert plain["loss"] == "0.75 · labels + 0.25 · soft targets (T = 4)"
    two = both | dict(teachers=[teacher, teacher], alpha=0.25, temperature=4.0, teacher_mean="probabilities")
    mean = "0.75 · labels + 0.25 · soft targets (T = 4, mean of 2 teachers' probabilities)"
    assert found(tmp_path, tokenizer, "csv", texts(), **two)["loss"] == mean
    hidden_losses = found(
        tmp_path, tokenizer, "csv", texts(), **both, losses="hidden,relations=0.5", layer_map="1:2,3:6"
    )
    told = " + 1 · hidden (1→2, 3→6) + 0.5 · relations (3→6), student→teacher; 0: embeddings"
    assert hidden_losses["loss"] == "0.5 · labels + 0.5 · soft targets (T = 2)" + told


def test_it_is_told_why_these_layers_are_compared(tmp_path, tokenizer):
    def told(model: str, teacher_depth: int, layer_map: str, layers=()):
        shape = dict(labels=("a", "b"), vocab_size=tokenizer.vocab_size)
        student, teacher = tiny_model(**shape, depth=len(layers) or 2), tiny_model(**shape, depth=teacher_depth)
        spec = {"model": model, "init_layers": layers}
        more = dict(losses="hidden", layer_map=layer_map)
        run = make_run(tmp_path, tokenizer, "csv", texts(), student, teachers=[teacher], spec=spec, **more)
        return about_loss(run).partition("0: embeddings")[2]

    save_model(tiny_model(depth=3), tmp_path / "model")
    whole = str(tmp_path / "model")
    own = "; each with the layer that it was made of"
    assert told(whole, 3, "0:0,1:1,2:3", (0, 2)) == own
    assert told(whole, 3, "1:3", (0, 2)) == "", "somebody has asked for this"
    spread = "; evenly spread, as --model is no model of the teacher's depth"
    assert told("tiny-student", 6, "0:0,1:3,2:6") == spread
    assert told("tiny-student", 2, "0:0,1:1,2:2") == spread, "random weights were made of no layers"


def test_the_memory_of_a_teacher_that_stays_and_of_products_of_all_tokens_is_counted(tmp_path, tokenizer):
    student, teacher = tiny_model(), tiny_model(vocab_size=10_000, width=64, heads=4)

    def megabytes(teachers, losses=""):
        run = make_run(tmp_path, tokenizer, "csv", texts(), student, teachers=teachers, losses=losses)
        return memory_bytes(run, longest=128) / 1e6

    alone, with_states, with_relations = (
        megabytes([]),
        megabytes([teacher], "hidden"),
        megabytes([teacher], "relations"),
    )
    states = 4 * 32 * 128 * (3 + 10) * 64 / 1e6
    assert with_states - alone == pytest.approx(4 * teacher.num_parameters() / 1e6 + states, abs=1.1)
    assert with_relations - with_states == pytest.approx(4 * 32 * 128 * 8 * 4 * 128 / 1e6, abs=1.1)


def test_without_max_length_a_run_takes_no_more_positions_than_its_models_have(tmp_path, capsys):
    """What is given stays; a folder that cannot be read is told of elsewhere."""
    for name, content in {"short": '{"max_position_embeddings": 40}', "odd": "[]", "broken": "{"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(content)
    usual = TASKS["csv"].train_config().max_length
    short, odd, broken = (str(tmp_path / name) for name in ("short", "odd", "broken"))
    settings = dict(train=tmp_path / "x", dev="x", output=tmp_path / "y")
    for model, teachers, expected in (
        (short, (), 40),
        ("tiny-student", (odd, short), 40),
        (odd, (broken,), usual),
        (str(tmp_path / "none"), (), usual),
    ):
        assert RunSpec.of("csv", model=model, teachers=teachers, **settings).config.max_length == expected
        assert ("--max-length is 40: a model has no more positions" in capsys.readouterr().out) == (expected == 40)
    assert RunSpec.of("csv", model=short, max_length=50, **settings).config.max_length == 50
    assert RunSpec.of("squad", model="tiny-student", **settings).config.max_length == 128, "a size has no more"


# --- the gain that is to be expected ---

EPOCH = {"epoch": 1, "loss": 1.0, "losses": [1.0], "tokens_per_second": 1.0, "dev": {"accuracy": 0.5}, "steps": 1}


@pytest.fixture
def known_runs(tmp_path):
    """A teacher of 96.00, and beside the output a baseline of 93.00, one of 94.00, and others that are none."""

    def write(name, score, record):
        (tmp_path / name).mkdir(parents=True)
        more = {"history": [EPOCH], "machine": {}, "seconds by phase": {}, "parameters": 1, "best_epoch": 1, "step": 1}
        text = json.dumps(record | more | {"seconds": 1.0, "best_score": score})
        (tmp_path / name / "training.json").write_text(text)

    alone = DISTILLED | {"teacher": None}
    write("teacher", 0.96, changed(alone, train="x", **{"initial weights": "other"}))
    write("runs/baseline", 0.93, alone)
    write("runs/baseline-longer", 0.94, changed(alone, settings={"epochs": 9}))
    write("runs/another-seed", 0.99, changed(alone, seed=1))
    write("runs/distilled", 0.99, DISTILLED)
    write("runs/other-start", 0.99, changed(alone, **{"initial weights": "x"}))
    (tmp_path / "runs" / "odd").mkdir()
    (tmp_path / "runs" / "odd" / "training.json").write_text("[]")
    return tmp_path


def gain(folder, identity=DISTILLED, teachers=("teacher",), examples=3000, layers=()):
    teachers = tuple(str(folder / name) for name in teachers)
    spec = RunSpec("clinc", "x", "y", "m", folder / "runs" / "new", teachers, init_layers=layers)
    data = SimpleNamespace(dev_examples=range(examples))
    return about_gain(SimpleNamespace(spec=spec, identity=identity, data=data, task=TASKS["clinc"]))


def test_the_gain_is_that_of_the_teacher_above_the_best_baseline(known_runs, capsys):
    assert gain(known_runs).startswith("teacher 96.00, baseline 94.00: 2.00 points to gain; what is left to try: ")
    assert "odd" not in "".join(capsys.readouterr()), "what else lies beside the output is nobody's business"
    assert "so no gap is shown; score both on more examples" in gain(known_runs, examples=300)
    assert gain(known_runs, teachers=("nowhere", "teacher")) == gain(known_runs)
    assert "--unlabelled" in gain(known_runs) and "--unlabelled" not in gain(
        known_runs, changed(DISTILLED, unlabelled="u")
    )


def test_what_is_not_known_is_not_guessed(known_runs):
    alone = "the teacher has 96.00 on this dev; no baseline beside the output to compare it with"
    assert gain(known_runs, changed(DISTILLED, seed=5)) == alone
    assert gain(known_runs, layers="auto:2") == alone, "before they are chosen, its first weights are those of others"
    assert gain(known_runs, changed(DISTILLED, dev="x")) == gain(known_runs, teachers=("nowhere",)) == ""
    (known_runs / "teacher" / "training.json").write_text("{}")
    assert gain(known_runs) == ""


def test_a_file_that_leaves_the_cache_meanwhile_counts_nothing(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(b"123")
    (tmp_path / "b.safetensors").symlink_to(tmp_path / "gone")
    assert module.cached_bytes(tmp_path) == 3
