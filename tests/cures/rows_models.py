"""Cures for model directories, and for what is asked of them."""

import json
import re
import struct
from pathlib import Path

import torch

from kd_scratch.checkpoints.checkpoint import load_model
from kd_scratch.checkpoints.safetensors import load_file, save_file
from kd_scratch.data.tokenizer import train_tokenizer
from kd_scratch.nn import int8
from kd_scratch.nn.fast import make_fast
from tests.cures.world import EACCES, Cure, drop, find, leave_out, main, put, undo, use

OPEN = "error: (?:--model |--teacher )?(.*?): "


def other_version(world):
    """An int8 model of another version of the program."""
    model = world.copy(world.base.int8)
    config = json.loads((model / "config.json").read_text())
    config["quantization_config"]["version"] = "of old"
    (model / "config.json").write_text(json.dumps(config))
    return world.evaluate(model=model)


def unreadable(world):
    """Weights that the system does not let us read."""
    model = world.copy(world.base.model(), "full")
    world.full(EACCES, "full/model.safetensors", "builtins.open")
    return world.evaluate(model=model)


def weights_of_8_bits(world):
    """Weights of a type that is not known here."""
    model = world.copy(world.base.model())
    raw = (model / "model.safetensors").read_bytes()
    end = 8 + struct.unpack("<Q", raw[:8])[0]
    header = raw[8:end].replace(b'"F32"', b'"F4"', 1)
    (model / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + raw[end:])
    return world.evaluate(model=model)


def convert(world, argv, line):
    """Another program writes the same tensors in one of the types in the line."""
    path, types = re.search(r"error: (.*?): not .*convert it to one of (.*)", line).groups()
    assert "F32" in types.split(", ")
    save_file(load_file(world.base.model() / "model.safetensors"), path)


def shortened(world, size):
    """A file of weights that did not arrive whole."""
    model = world.copy(world.base.model())
    (model / "model.safetensors").write_bytes((model / "model.safetensors").read_bytes()[:size])
    return world.evaluate(model=model)


def fetched_again(world, argv, line):
    """Copies the whole file to where it should be."""
    path = Path(find("error: (.*?): not a valid safetensors file: .*; fetch it again", line))
    world.copy(world.base.model() / path.name, str(path))


def cut_off(world):
    """A model directory without the files of its tokenizer."""
    model = world.copy(world.base.model())
    for name in ("tokenizer.json", "vocab.txt", "tokenizer_config.json"):
        (model / name).unlink()
    return world.evaluate(model=model)


def copy_them(world, argv, line):
    """Copies the files in the line from where the model came from."""
    directory, *names = re.search(r"error: (.*?): has no (\S+) and no (\S+); copy them", line).groups()
    for name in names:
        world.copy(world.base.model() / name, f"{directory}/{name}")


def trained(world, argv, line):
    """The same command with the model in the line after a fine-tuning."""
    model = find(OPEN, line)
    assert main(world.train(model=model)) == 0
    return [str(world.folder / "trained") if word == model else word for word in argv]


def float_model(world, argv, line):
    """The same command with the float model that the one in the line was made of, which its folder names."""
    model = find(rf"{OPEN}.*the float model (?:that )?it was made of", line)
    source = json.loads((Path(model) / "quantization.json").read_text())["model"]
    return [source if word == model else word for word in argv]


def quantized_again(world, argv, line):
    """The same command with the model in the line quantized once more."""
    model = Path(find("error: (.*)/config.json: .*quantize the float model again", line))
    source = json.loads((model / "quantization.json").read_text())["model"]
    assert main(["quantize", "--model", source, "--output", str(world.folder / "again")]) == 0
    return put(argv, "--model", world.folder / "again")


def predict(world, model, *more):
    return ["predict", "--model", str(model), "--device", "cpu", *map(str, more)]


def on_mps(world):
    """A machine that has an MPS device."""
    world.patch.setattr("torch.backends.mps.is_available", lambda: True)
    return put(world.evaluate(model=world.base.int8), "--device", "mps")


def saving(world, tensors):
    return lambda: save_file(tensors, world.folder / "x.safetensors")


def fine_tuned(world, model):
    """A model directory's model after a fine-tuning."""
    assert main(world.train(model=model, output=world.folder / "fine-tuned")) == 0
    return world.folder / "fine-tuned"


def broken(world):
    """A model whose training has gone wrong."""
    model = world.copy(world.base.model(), "broken")
    tensors = load_file(model / "model.safetensors")
    tensors["classifier.bias"] = tensors["classifier.bias"] * float("nan")
    save_file(dict(tensors), model / "model.safetensors")
    return model


def large(world):
    """A model with a number that float16 cannot hold."""
    model = world.copy(world.base.model(), "large")
    tensors = load_file(model / "model.safetensors")
    tensors["classifier.weight"] = tensors["classifier.weight"] * 1e6
    save_file(dict(tensors), model / "model.safetensors")
    return model


def exporting(world, model, precision):
    """A command that writes ONNX files."""
    argv = ["export", "--model", model, "--output", world.folder / "exported", "--precision", precision]
    return list(map(str, argv))


def no_tags(world):
    """A tagger of something else than entities."""
    model = world.folder / "no-tags"
    if not model.exists():
        config = (world.copy(world.base.model("token"), model.name) / "config.json").read_text()
        (model / "config.json").write_text(
            config.replace('"O"', '"other"').replace("B-PER", "noun").replace("I-PER", "verb")
        )
    return model


def other_tokenizer(world):
    """A teacher that reads texts with another vocabulary."""
    model = world.folder / "other-tokenizer"
    if not model.exists():
        world.copy(world.base.model(), model.name)
        tokenizer = train_tokenizer(["the other words of the other texts"], vocab_size=world.base.tokenizer.vocab_size)
        tokenizer.save(model, max_length=20)
    return model


def other_words(world):
    """A model with a head for masked words that reads texts with another vocabulary."""
    model = world.copy(world.base.model("mlm"), "other-words")
    train_tokenizer(["the other words of the other texts"], vocab_size=60).save(model, max_length=20)
    return model


def masked_words_learned(world, argv, line):
    """The same command with what `train --task mlm` has made of the model in the line."""
    path, command = world.folder / "masked-words", find(r"\((train --task mlm) makes it\)", line).split()
    made = world.mlm(model=find("--augment-model (.*?): ", line), output=path)
    assert made[: len(command)] == command and main(made) == 0
    return put(argv, "--augment-model", path)


def other_labels(world):
    """A teacher that knows other labels."""
    model = world.copy(world.base.model(), "other-labels")
    config = (model / "config.json").read_text()
    (model / "config.json").write_text(config.replace("sport", "sports"))
    return model


ROWS = [
    # --- files of a model ---
    Cure("{}: cannot be read: {}; check the path and its rights", unreadable, undo("check the path and its rights")),
    Cure("{}: dtype {} is not supported; convert it to one of {}", weights_of_8_bits, convert),
    Cure(
        "{} cannot name a tensor; use another string",
        lambda w: saving(w, {"__metadata__": torch.ones(1)}),
        lambda w, argv, line: saving(w, {find("use (another) string", line): torch.ones(1)}),
    ),
    Cure(
        "{} is not a dense tensor with values; convert it to one",
        lambda w: saving(w, {"a": torch.ones(1).to_sparse()}),
        lambda w, argv, line: saving(w, {find("'(a)' .*dense", line): torch.ones(1).to_sparse().to_dense()}),
    ),
    Cure(
        "tensor {}: {} is not supported; convert it to another dtype",
        lambda w: saving(w, {"a": torch.ones(1).to(torch.float8_e4m3fnuz)}),
        lambda w, argv, line: saving(w, {find("tensor '(a)'", line): torch.ones(1)}),
    ),
    *(Cure("; fetch it again", lambda w, size=size: shortened(w, size), fetched_again) for size in (100, 20_000)),
    Cure("has no tokenizer.json and no vocab.txt; copy them from where the model came from", cut_off, copy_them),
    # --- int8 ---
    Cure(
        "is an int8 model, which cannot be trained; take the float model it was made of",
        lambda w: w.train(model=w.base.int8),
        float_model,
    ),
    Cure(
        "is an int8 model; distil from the float model that it was made of",
        lambda w: w.train(teacher=w.base.int8),
        float_model,
    ),
    Cure(
        "was quantized by another version of this program; quantize the float model again",
        other_version,
        quantized_again,
    ),
    Cure("is an int8 model, which runs on the CPU only; add --device cpu", on_mps, use("add (--device cpu)")),
    Cure(
        "a head for masked words needs the table of tokens in float; train the model for a task first",
        lambda w: ["quantize", "--model", str(w.base.model("mlm")), "--output", str(w.folder / "small")],
        trained,
    ),
    Cure(
        "a model in its fast form has no weights to save, compare or quantize any more; load it anew",
        lambda w: lambda: int8.quantize(make_fast(load_model(w.base.model()))),
        lambda w, argv, line: lambda: int8.quantize(load_model(w.base.model())),
    ),
    Cure(
        "kept in {} ({}, {} threads); evaluate it next",
        lambda w: ["quantize", "--model", str(w.base.model()), "--output", str(w.folder / "small")],
        lambda w, argv, line: w.evaluate(model=find(r"kept in (.*?) \(.*evaluate it next", line)),
        note=True,
    ),
    # --- export ---
    *(
        Cure(
            "is an int8 model; give --precision int8, or the float model that it was made of",
            lambda w: exporting(w, w.base.int8, "float32"),
            follow,
        )
        for follow in (lambda w, argv, line: put(argv, *find("give (--precision int8)", line).split()), float_model)
    ),
    Cure(
        "{}: holds numbers above 65504, the largest of float16; give --precision float32",
        lambda w: exporting(w, large(w), "float16"),
        lambda w, argv, line: put(argv, *find("give (--precision float32)", line).split()),
    ),
    # --- pruning ---
    Cure(
        "{}: is an int8 model; give the float model that it was made of",
        lambda w: w.prune("--words", model=w.base.int8),
        float_model,
    ),
    Cure(
        "nothing is to be pruned; give --feed-forward {} (say), or --words FILE",
        lambda w: w.prune(),
        use(r"give (--feed-forward \d+) \(say\)"),
    ),
    Cure(
        "nothing is to be pruned; give --feed-forward {} (say), or --words FILE",
        lambda w: drop(drop(w.prune(), "--task"), "--data"),
        lambda w, argv, line: [*argv, find("or (--words) FILE", line), str(w.write("texts.txt", "goal\nbank\n"))],
    ),
    Cure(
        "--feed-forward {}: the model has {} units; give 1 to {}",
        lambda w: w.prune("--feed-forward", 32),
        lambda w, argv, line: put(argv, "--feed-forward", find(r"give 1 to (\d+)", line)),
    ),
    Cure(
        "texts tell what can be pruned; give --task and --data, or --words FILE",
        lambda w: drop(drop(w.prune("--feed-forward", 9), "--task"), "--data"),
        lambda w, argv, line: [*argv, "--words", str(w.write("texts.txt", "goal\nbank\n"))],
    ),
    Cure(
        "--data: of which task? Add --task, or give it to --words if it holds texts alone",
        lambda w: drop(w.prune("--feed-forward", 9), "--task"),
        lambda w, argv, line: [*argv, "--task", "csv"],
    ),
    Cure(
        "--dev: of which task? Add --task",
        lambda w: [
            "prune",
            "--words",
            str(w.write("more.txt", "goal\n")),
            *drop(drop(w.prune("--dev", w.base.csv("dev", 4)), "--task"), "--data")[1:],
        ],
        lambda w, argv, line: [*argv, "--task", "csv"],
    ),  # fmt: skip
    Cure(
        "{}: holds nothing to prune by; give one text a line",
        lambda w: put(put(w.prune("--words"), "--task", "mlm"), "--data", w.write("texts.txt", "\n  \n")),
        lambda w, argv, line: (w.write("texts.txt", "goal\n"), argv)[1],
    ),
    Cure(
        "kept in {}, not trained since: distil into it (train --model), then quantize it",
        lambda w: w.prune("--words"),
        lambda w, argv, line: w.train(model=find("kept in (.*?), not", line), teacher=find("kept in (.*?), not", line)),
        note=True,
    ),
    # --- what a model is for ---
    Cure(
        "{}: has {} head, {} needs a {} head; train it first",
        lambda w: w.evaluate(model=w.base.model("token")),
        trained,
    ),
    Cure(
        "{}: has {} head, {} needs a {} head; train it first", lambda w: w.evaluate(model=w.base.model(None)), trained
    ),
    Cure(
        "predict needs a model trained for a task (train --model)",
        lambda w: predict(w, w.base.model("mlm"), "--text", "the goal"),
        trained,
    ),
    Cure(
        "predict needs {} for it, and no more",
        lambda w: predict(w, w.base.model(), "--question", "who?", "--context", "the goal"),
        lambda w, argv, line: put(
            drop(drop(argv, "--question"), "--context"), find("predict needs (--text) for", line), "x"
        ),
    ),
    Cure(
        "predict needs {} for it, and no more",
        lambda w: predict(w, w.base.model("span"), "--text", "the goal"),
        lambda w, argv, line: [
            *drop(argv, "--text"),
            *(word for flag in find("predict needs (.*) for it", line).split(" and ") for word in (flag, "the goal")),
        ],
    ),
    Cure(
        "the model's labels are not {}: {}; fine-tune it for this task first",
        lambda w: w.conll("evaluate", model=no_tags(w)),
        lambda w, argv, line: main(w.conll("train", model=no_tags(w))) or put(argv, "--model", w.folder / "trained"),
    ),
    *(
        Cure(
            "train it again with a lower --learning-rate, or fetch it ",
            lambda w, start=start: start(w, broken(w)),
            follow,
        )
        for start in (
            lambda w, model: w.evaluate(model=model),
            lambda w, model: predict(w, model, "--text", "the goal"),
        )
        for follow in (
            lambda w, argv, line: (
                main(w.train(find("with a lower (--learning-rate)", line), "1e-5"))
                or put(argv, "--model", w.folder / "trained")
            ),
            lambda w, argv, line: find("or (fetch it again)", line) and put(argv, "--model", w.base.model()),
        )
    ),
    # --- teachers ---
    Cure(
        "head; fine-tune it first (train without --teacher)",
        lambda w: w.train(teacher=w.base.model(None)),
        lambda w, argv, line: put(
            argv, "--teacher", fine_tuned(w, find(r"--teacher (.*?): .*\(train without --teacher\)", line))
        ),
    ),
    Cure(
        "fine-tune it for these labels first (train without --teacher)",
        lambda w: w.train(teacher=other_labels(w)),
        lambda w, argv, line: put(
            argv, "--teacher", fine_tuned(w, find(r"--teacher (.*?): .*fine-tune it for these labels first", line))
        ),
    ),
    Cure(
        "give a model with one (train --task mlm makes it)",
        lambda w: w.train("--augment", 1, "--augment-model", w.base.model(), teacher=w.base.model()),
        masked_words_learned,
    ),
    *(
        Cure(
            "give a model of that tokenizer, or leave it out",
            lambda w: w.train("--augment", 1, "--augment-model", other_words(w), teacher=w.base.model()),
            follow,
        )
        for follow in (
            lambda w, argv, line: put(
                argv, find("(--augment-model) .*give a model of that", line), w.base.model("mlm")
            ),
            leave_out("(--augment-model) .*, or leave it out"),
        )
    ),
    Cure(
        "make the student of the teacher's layers (--model {} --init-layers {}), or of a size with --tokenizer {}",
        lambda w: w.train("--losses", "hidden", teacher=other_tokenizer(w)),
        lambda w, argv, line: [*argv, *find(r"teacher's layers \((--model \S+ --init-layers \S+)\)", line).split(" ")],
    ),
    *(
        Cure(
            "make the student of the teacher's layers (--model {} --init-layers {}), or of a size with --tokenizer {}",
            start,
            lambda w, argv, line: put(
                put(argv, "--model", "tiny-student"), *find("of a size with (--tokenizer .*)", line).split(" ")
            ),
        )
        for start in (
            lambda w: w.train("--losses", "hidden", teacher=other_tokenizer(w)),
            lambda w: w.train(
                *("--losses", "hidden", "--tokenizer", w.base.model()), model="tiny-student", teacher=other_tokenizer(w)
            ),
        )
    ),
]
