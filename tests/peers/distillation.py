"""Wall time of a whole distillation: ours against two scripts with the Trainer of `transformers`.

    make bench-peers TASK=agnews MODEL=DIR ARGS="--rows 6000 --test data/ag_news_csv/test.csv"
    make bench-peers TASK=agnews MODEL=DIR ARGS="--size bert-base --layers 0,2,4,6,8,10 --rows 320"
    make bench-peers TASK=squad MODEL=DIR ARGS="--file data/policyqa/dev.json --rows 120 --attention-dropout 0"

The job: a teacher into some of its layers; batches of 32 texts (squad: of 12 windows of up to 384 pieces), 3 epochs.
With --size the teacher has that shape and random weights (the cost is the same), and MODEL gives its tokenizer only.
All start from the same texts and checkpoint, and do everything from tokenising to the last step; ours saves its state
after each epoch too, the others save nothing.

- usual: pads every text to the longest that there may be, and runs the teacher in every step. All steps cost the same,
  so `--steps` of them are run and the total is extrapolated.
- tuned: pads to the longest text of a batch, groups texts by length, fused AdamW; the teacher still runs in every step.

Each is a process of its own. They take turns of a few seconds, the others stopped meanwhile, so that all see the same
machine, however its speed drifts; a second counts for the one whose turn it is. Starting Python counts for nobody. Also
shown: the share of this machine's rate of large products (in the precision of --amp, which holds for all) that ours
reaches, measured between the turns. It counts the floating-point operations of the plain computation over real tokens
only. With --test FILE (and a fine-tuned teacher as MODEL) the students of both whole runs are scored on it.
"""

import argparse
import copy
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median

import torch

from kd_scratch.checkpoints.checkpoint import load_model, save_model, take_layers
from kd_scratch.commands.flags import layer_list
from kd_scratch.common.console import table
from kd_scratch.common.device import amp_dtype, describe, seed_everything
from kd_scratch.common.timing import matmul_rate
from kd_scratch.config import SIZES, DataConfig, RunConfig, TrainConfig
from kd_scratch.data.tokenizer import load_tokenizer
from kd_scratch.evaluation.inference import compute_logits
from kd_scratch.nn.model import Model, forward_operations
from kd_scratch.tasks import TASKS, Predictions, Task, limited
from kd_scratch.training.examples import TrainingData
from kd_scratch.training.loop import train_model
from kd_scratch.training.run import add_teacher_outputs
from kd_scratch.training.setup import Run
from kd_scratch.training.spec import RunSpec

EPOCHS, BATCH, LENGTH = 3, 32, 128
SETTINGS = dict(epochs=EPOCHS, batch_size=BATCH, learning_rate=1e-4, warmup_steps=50, temperature=2.0, alpha=0.5)
CPU = torch.device("cpu")
TURN = 3  # seconds
FILES = {"agnews": "ag_news_csv/train.csv", "clinc": "clinc150/data_full.json", "squad": "squad/train-v1.1.json"}


def settings_of(task: Task) -> dict:
    """The settings of both sides."""
    return SETTINGS | (dict(batch_size=12, max_length=384) if task.head == "span" else dict(max_length=LENGTH))


def ours(
    task, examples, labels, directory: Path, folder: Path, seed: int, layers: list[int], **more
) -> tuple[float, int, Model]:
    """Seconds of the whole job with kd_scratch, the real tokens of its three epochs, and the student."""
    seed_everything(seed)
    started = time.perf_counter()
    tokenizer = load_tokenizer(directory)
    config = task.train_config(**settings_of(task) | dict(amp="off") | more)
    dropout = config.dropout, config.attention_dropout
    teachers = [load_model(directory)]
    spec = RunSpec(
        task=task.name,
        train=folder,  # the examples are there already
        dev="",
        model=str(directory),
        output=folder,
        teachers=(str(directory),),
        cache=folder / "cache",
        config=config,
        run=RunConfig(seed=seed, device="cpu"),
    )
    run = Run(
        spec=spec,
        task=task,
        device=CPU,
        data=TrainingData(task, examples, examples[:1], labels, tokenizer, hashes={}, notes=[]),
        dev_inputs=task.featurize(examples[:1], tokenizer, labels, config.max_length, DataConfig()),
        model=take_layers(load_model(directory, task.head, labels, lambda note: None, *dropout), layers),
        teachers=teachers,
        hidden_losses=None,
        identity={},
        resume=False,
        train_inputs=task.featurize(examples, tokenizer, labels, config.max_length, DataConfig()),
    )
    add_teacher_outputs(run)  # after which the teacher is gone
    train_model(run)
    return time.perf_counter() - started, EPOCHS * len(run.train_inputs.tokens), run.model


def distillation_trainer(mark: Callable[[], None], *, teacher, **options):
    """The usual subclass of `Trainer`: the teacher runs inside compute_loss, in every step.

    mark is called when the first step has been taken.
    """
    from transformers import Trainer, TrainerCallback

    class DistillationTrainer(Trainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            output = model(**inputs)
            with torch.no_grad():
                taught = teacher(**inputs)
            t, alpha = SETTINGS["temperature"], SETTINGS["alpha"]
            names = [name for name in ("logits", "start_logits", "end_logits") if name in output]
            soft = sum(
                torch.nn.functional.kl_div(
                    (output[name] / t).log_softmax(-1), (taught[name] / t).softmax(-1), reduction="batchmean"
                )
                for name in names
            ) / len(names)
            loss = (1 - alpha) * output.loss + alpha * t * t * soft
            return (loss, output) if return_outputs else loss

    class FirstStep(TrainerCallback):
        def on_step_end(self, args, state, *_, **__):
            if state.global_step == 1:
                mark()

    return DistillationTrainer(callbacks=[FirstStep()], **options)


def question_rows(tokenizer, examples, **common) -> list[dict]:
    """Windows of questions, as the usual script for SQuAD makes them: without an answer both ends are [CLS]."""
    overlap = dict(truncation="only_second", stride=DataConfig.overlap, return_overflowing_tokens=True)
    questions, contexts = [example.question for example in examples], [example.context for example in examples]
    encoded = tokenizer(questions, contexts, return_offsets_mapping=True, **overlap, **common)
    rows = []
    for i, n in enumerate(encoded["overflow_to_sample_mapping"]):
        first, last = examples[n].start, examples[n].start + len(examples[n].answers[0])
        sides, offsets = encoded.sequence_ids(i), encoded["offset_mapping"][i]
        inside = [k for k, side in enumerate(sides) if side == 1]
        start = end = 0
        if offsets[inside[0]][0] <= first and offsets[inside[-1]][1] >= last:
            start = max(k for k in inside if offsets[k][0] <= first)
            end = min(k for k in inside if offsets[k][1] >= last)
        names = ("input_ids", "token_type_ids", "attention_mask")
        rows.append({name: encoded[name][i] for name in names} | {"start_positions": start, "end_positions": end})
    return rows


def with_trainer(
    task,
    examples,
    labels,
    directory: Path,
    folder: Path,
    seed: int,
    layers: list[int],
    tuned: bool,
    steps: int = -1,
    mark=lambda: None,
    **more,
) -> tuple[float, Model]:
    """Seconds of the whole job (or of so many steps) with transformers and its Trainer, and the student.

    mark is called after the first step.
    """
    from transformers import (
        AutoModelForQuestionAnswering,
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        TrainingArguments,
    )

    seed_everything(seed)
    started = time.perf_counter()
    settings = settings_of(task)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    kind = AutoModelForQuestionAnswering if task.head == "span" else AutoModelForSequenceClassification
    teacher = kind.from_pretrained(directory)
    student = copy.deepcopy(teacher)
    student.bert.encoder.layer = torch.nn.ModuleList(student.bert.encoder.layer[i] for i in layers)
    student.config.num_hidden_layers = len(layers)
    common = dict(padding=False if tuned else "max_length", max_length=settings["max_length"])
    if task.head == "span":
        rows = question_rows(tokenizer, examples, **common)
    else:
        encoded = tokenizer(task.texts(examples), truncation=True, **common)
        rows = [
            {name: encoded[name][i] for name in encoded} | {"label": labels.index(example.label)}
            for i, example in enumerate(examples)
        ]
    arguments = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=settings["batch_size"],
        num_train_epochs=EPOCHS,
        max_steps=steps,
        learning_rate=SETTINGS["learning_rate"],
        warmup_steps=SETTINGS["warmup_steps"],
        weight_decay=task.train_config().weight_decay,
        train_sampling_strategy="group_by_length" if tuned else "random",
        optim="adamw_torch_fused" if tuned else "adamw_torch",
        seed=seed,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        logging_strategy="no",
        dataloader_pin_memory=False,
        **more,
    )
    trainer = distillation_trainer(
        mark,
        teacher=teacher.eval(),
        model=student,
        args=arguments,
        train_dataset=rows,
        data_collator=DataCollatorWithPadding(tokenizer),
    )
    trainer.train()
    return time.perf_counter() - started, student


def score_on(task, student, tests, labels, directory: Path, folder: Path) -> float:
    """The student's score on the test examples; one of transformers' goes the way of the files."""
    if not isinstance(student, Model):
        student.save_pretrained(folder)
        student = load_model(folder)
    longest = settings_of(task)["max_length"]
    features = task.featurize(tests, load_tokenizer(directory), labels, longest, DataConfig())
    logits = compute_logits(student, features, CPU)
    return task.score(Predictions(task, tests, features, logits, labels, DataConfig()))[task.score_name]


def play(name: str, arguments: argparse.Namespace) -> None:
    """One way, in this process: gets ready, waits for its turn, works, and with --test writes its score."""
    folder, task = arguments.folder, TASKS[arguments.task]
    examples, labels = job_data(arguments)
    (folder / f"{name}.ready").touch()
    sys.stdin.readline()
    common = task, examples, labels, folder / "teacher", folder / name, arguments.seed, arguments.layers
    if name == "ours":
        more = dict(attention_dropout=arguments.attention_dropout, amp=arguments.amp)
        _, _, student = ours(*common, **more)
    else:
        steps, more = arguments.steps if name == "usual" else -1, dict(bf16=arguments.amp == "bf16")
        _, student = with_trainer(
            *common, tuned=name == "tuned", steps=steps, mark=(folder / f"{name}.first").touch, **more
        )
    (folder / f"{name}.done").touch()
    if arguments.test and name != "usual":
        sys.stdin.readline()
        tests = task.read(arguments.test, "test" if task.splits else "", DataConfig())
        score = score_on(task, student, tests, labels, folder / "teacher", folder / f"{name}-student")
        (folder / f"{name}.score").write_text(str(score))


def job_data(arguments: argparse.Namespace) -> tuple[list, tuple[str, ...]]:
    """The training examples and all labels."""
    task = TASKS[arguments.task]
    path = arguments.file or arguments.data / FILES[arguments.task]
    everything = task.read(path, "train" if task.splits else "", DataConfig())
    return list(limited(everything, arguments.rows)), task.label_list(everything)


def take_turns(
    players: dict[str, subprocess.Popen], folder: Path, dtype: torch.dtype | None
) -> tuple[dict[str, dict[str, float]], float]:
    """Seconds that each process had when its `first` and `done` came, and this machine's rate of matrix products."""
    seconds, events, rates = dict.fromkeys(players, 0.0), {name: {} for name in players}, []
    while waiting := [name for name in players if "done" not in events[name]]:
        for name in waiting:
            started = now = time.perf_counter()
            players[name].send_signal(signal.SIGCONT)
            while now - started < TURN and "done" not in events[name]:
                time.sleep(0.01)
                now = time.perf_counter()
                for event in ("first", "done"):
                    if event not in events[name] and (folder / f"{name}.{event}").exists():
                        events[name][event] = seconds[name] + now - started
                if players[name].poll() not in (None, 0):
                    sys.exit(f"{name} failed, see {folder / name}.log")
            players[name].send_signal(signal.SIGSTOP)
            seconds[name] += now - started
        rates.append(matmul_rate(CPU, dtype))
    return events, median(rates)


def main(argv: list[str] | None = None) -> None:
    """Take turns, print the table."""
    flags = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--task", choices=list(FILES), default="agnews")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("KD_DATA") or "data"), help="the data folder")
    parser.add_argument(
        "--model", type=Path, required=True, help="the teacher, a BERT checkpoint; its head may be untrained"
    )
    parser.add_argument("--size", choices=list(SIZES), help="a teacher of this shape with random weights instead")
    parser.add_argument("--layers", type=layer_list, default=[0, 2, 4], metavar="0,2,4")
    parser.add_argument("--file", type=Path, help="the training file, instead of the task's in the data folder")
    parser.add_argument("--attention-dropout", type=float, default=TrainConfig.attention_dropout, help="of ours")
    parser.add_argument("--amp", choices=("off", "bf16"), default="off", help="of all")
    parser.add_argument("--rows", default="1500", help="training rows, or a percentage")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=10, help="steps of the usual way that are run")
    parser.add_argument("--test", type=Path, help="score the students on this file too")
    parser.add_argument("--play", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args(flags)
    if arguments.play:
        play(arguments.play, arguments)
        return
    task, (examples, labels) = TASKS[arguments.task], job_data(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        tokenizer = load_tokenizer(arguments.model)
        if arguments.size:
            shape = replace(SIZES[arguments.size], vocab_size=tokenizer.vocab_size, head=task.head, labels=labels)
            model = Model(shape)
        else:
            model = load_model(arguments.model, task.head, labels, say=lambda *_: None)
        save_model(model, folder / "teacher")
        tokenizer.save(folder / "teacher", settings_of(task)["max_length"])
        players = {}
        for name in ("ours", "tuned", "usual"):
            (folder / name).mkdir()
            argv = [
                sys.executable,
                "-m",
                "tests.peers.distillation",
                *flags,
                "--play",
                name,
                "--folder",
                scratch,
            ]
            with open(folder / f"{name}.log", "w") as log:
                players[name] = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=log, stderr=log, text=True)
            while not (folder / f"{name}.ready").exists():
                time.sleep(0.1)
                if players[name].poll() is not None:
                    sys.exit((folder / f"{name}.log").read_text())
            players[name].send_signal(signal.SIGSTOP)
            players[name].stdin.write("go\n")
            players[name].stdin.flush()
        events, rate = take_turns(players, folder, amp_dtype(arguments.amp, CPU))
        scores = {}
        for name, player in players.items():
            player.send_signal(signal.SIGCONT)
            player.communicate("score\n")
            if (folder / f"{name}.score").exists():
                scores[name] = float((folder / f"{name}.score").read_text())
    settings = settings_of(task)
    lengths = task.featurize(examples, tokenizer, labels, settings["max_length"], DataConfig()).lengths
    tokens, steps = EPOCHS * int(lengths.sum()), EPOCHS * -(-len(lengths) // settings["batch_size"])
    seconds = {name: event["done"] for name, event in events.items()}
    step = (events["usual"]["done"] - events["usual"]["first"]) / (arguments.steps - 1)
    seconds["usual"] += step * (steps - arguments.steps)
    teaching = forward_operations(model.config, lengths, plain=True)
    learning = 3 * EPOCHS * teaching * len(arguments.layers) / model.config.depth
    share = (teaching + learning) / seconds["ours"] / rate
    print(f"{arguments.task}: {len(examples):,} rows, {lengths.mean():.1f} tokens each, {EPOCHS} epochs")
    print(f"ours reaches {share:.0%} of the matrix-product rate, {rate / 1e9:.0f} GFLOP/s; {describe(CPU)}")
    rows = [
        (name, f"{took:,.1f}", round(tokens / took), f"{took / seconds['ours']:.2f}", scores.get(name))
        for name, took in seconds.items()
    ]
    print(table(("", "seconds", "real tokens/s", "times ours", f"{task.score_name} on test"), rows))


if __name__ == "__main__":
    main()
