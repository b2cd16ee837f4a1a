"""Wall time of a whole distillation: ours against two scripts with the Trainer of `transformers`.

    make bench-peers TASK=agnews MODEL=DIR ARGS="--rows 1500 --rounds 3"
    make bench-peers TASK=agnews MODEL=DIR ARGS="--size bert-base --layers 0,2,4,6,8,10 --rows 320 --rounds 1"

The job: a teacher into some of its layers; batches of 32, 3 epochs. With --size the teacher has that shape and random
weights (the cost is the same), and MODEL gives its tokenizer only. All start from the same texts and
checkpoint, and do everything from tokenising to the last step; the ordinary `train` saves its state after each epoch
too, the others save nothing.

- usual: pads every text to 128 tokens and runs the teacher in every step. All steps cost the same, so `--steps` of them
  are timed and the total is their median times the number of steps.
- tuned: pads to the longest text of a batch, groups texts by length, fused AdamW; the teacher still runs in every step.
  Runs whole.

The three take turns, `--rounds` times; a ratio is the median of the rounds' ratios. Also said: the share of this
machine's rate of large float32 matrix products that ours reaches, counting the floating-point operations of the plain
computation over real tokens only. With --test FILE (and a fine-tuned teacher as MODEL) both whole runs are scored on
it, for each round another seed.
"""

import argparse
import copy
import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import median

import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from kd_scratch.checkpoint import load_model, save_model, take_layers
from kd_scratch.clock import forward_operations, matmul_rate
from kd_scratch.config import SIZES, DataConfig, train_config
from kd_scratch.distill import teacher_logits
from kd_scratch.inference import compute_logits
from kd_scratch.launch import layer_list
from kd_scratch.model import Model
from kd_scratch.runtime import describe, seed_everything
from kd_scratch.tasks import TASKS, Outcome, limited
from kd_scratch.tokenization import load_tokenizer
from kd_scratch.train import Job, train

EPOCHS, BATCH, LENGTH = 3, 32, 128
SETTINGS = dict(epochs=EPOCHS, batch_size=BATCH, learning_rate=1e-4, warmup_steps=50, temperature=2.0, alpha=0.5)
CPU = torch.device("cpu")
FILES = {"agnews": "ag_news_csv/train.csv", "clinc": "clinc150/data_full.json"}


def ours(
    task, examples, labels, directory: Path, folder: Path, seed: int, layers: list[int], **more
) -> tuple[float, int, Model]:
    """Seconds of the whole job with kd_scratch, the real tokens of its three epochs, and the student."""
    seed_everything(seed)
    started = time.perf_counter()
    tokenizer = load_tokenizer(directory)
    teacher = load_model(directory)
    student = take_layers(teacher, layers)
    features = task.featurize(examples, tokenizer, labels, LENGTH, DataConfig())
    dev = task.featurize(examples[:1], tokenizer, labels, LENGTH, DataConfig())
    config = train_config(task.name, **SETTINGS | more, max_length=LENGTH, amp="off")
    logits = teacher_logits(teacher, tokenizer.fingerprint, features, labels, folder / "cache", CPU)
    del teacher
    job = Job(
        task, student, tokenizer, features, examples[:1], dev, config, DataConfig(), seed, CPU, folder, {}, logits
    )
    train(job)
    return time.perf_counter() - started, EPOCHS * len(features.tokens), student


class DistillationTrainer(Trainer):
    """The usual subclass: the teacher runs inside compute_loss, in every step."""

    def __init__(self, *args, teacher, temperature, alpha, **kwargs):
        super().__init__(*args, **kwargs)
        self.teacher, self.temperature, self.alpha = teacher.eval(), temperature, alpha

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        output = model(**inputs)
        with torch.no_grad():
            teacher = self.teacher(**inputs).logits
        t = self.temperature
        soft = torch.nn.functional.kl_div(
            (output.logits / t).log_softmax(-1), (teacher / t).softmax(-1), reduction="batchmean"
        )
        loss = (1 - self.alpha) * output.loss + self.alpha * t * t * soft
        return (loss, output) if return_outputs else loss


class StepTimes(TrainerCallback):
    """When each step ended."""

    def __init__(self):
        self.ends = []

    def on_step_end(self, *args, **kwargs):
        self.ends.append(time.perf_counter())


def theirs(
    task, examples, labels, directory: Path, folder: Path, seed: int, layers: list[int], tuned: bool, steps=-1, **more
) -> tuple[float, Model]:
    """Seconds of the whole job with transformers and its Trainer, and the student.

    With `steps` only so many are run, and the rest is extrapolated.
    """
    seed_everything(seed)
    started = time.perf_counter()
    tokenizer = AutoTokenizer.from_pretrained(directory)
    teacher = AutoModelForSequenceClassification.from_pretrained(directory)
    student = copy.deepcopy(teacher)
    student.bert.encoder.layer = torch.nn.ModuleList(student.bert.encoder.layer[i] for i in layers)
    student.config.num_hidden_layers = len(layers)
    texts = task.texts(examples)
    encoded = tokenizer(texts, truncation=True, padding=False if tuned else "max_length", max_length=LENGTH)
    rows = [
        {name: encoded[name][i] for name in encoded} | {"label": labels.index(example.label)}
        for i, example in enumerate(examples)
    ]
    times = StepTimes()
    arguments = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=BATCH,
        num_train_epochs=EPOCHS,
        max_steps=steps,
        learning_rate=SETTINGS["learning_rate"],
        warmup_steps=SETTINGS["warmup_steps"],
        weight_decay=train_config(task.name).weight_decay,
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
    trainer = DistillationTrainer(
        model=student,
        args=arguments,
        train_dataset=rows,
        data_collator=DataCollatorWithPadding(tokenizer),
        callbacks=[times],
        teacher=teacher,
        temperature=SETTINGS["temperature"],
        alpha=SETTINGS["alpha"],
    )
    prepared = time.perf_counter() - started
    trainer.train()
    if steps < 0:
        return time.perf_counter() - started, student
    step = median(b - a for a, b in zip(times.ends[1:], times.ends[2:], strict=False))  # the first steps warm up
    return prepared + step * EPOCHS * -(-len(examples) // BATCH), student


def accuracy(task, student, tests, labels, directory: Path, folder: Path) -> float:
    """The student's score on the test examples; one of transformers' goes the way of the files."""
    if not isinstance(student, Model):
        student.save_pretrained(folder)
        student = load_model(folder)
    features = task.featurize(tests, load_tokenizer(directory), labels, LENGTH, DataConfig())
    logits = compute_logits(student, features, CPU)
    return task.score(Outcome(task, tests, features, logits, labels, DataConfig()))["accuracy"]


def main() -> None:
    """Take turns, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--task", choices=list(FILES), default="agnews")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("KD_DATA") or "data"), help="the data folder")
    parser.add_argument(
        "--model", type=Path, required=True, help="the teacher, a BERT checkpoint; its head may be untrained"
    )
    parser.add_argument("--size", choices=list(SIZES), help="a teacher of this shape with random weights instead")
    parser.add_argument("--layers", type=layer_list, default=[0, 2, 4], metavar="0,2,4")
    parser.add_argument("--rows", default="1500", help="training rows, or a percentage")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=10, help="steps of the usual way that are timed in each round")
    parser.add_argument("--test", type=Path, help="score the students on this file too")
    arguments = parser.parse_args()
    task = TASKS[arguments.task]
    everything = task.read(arguments.data / FILES[arguments.task], "train" if task.splits else "", DataConfig())
    labels = task.label_list(everything)
    examples = limited(everything, arguments.rows)
    tests = task.read(arguments.test, "test" if task.splits else "", DataConfig()) if arguments.test else []
    rounds = []
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch) / "teacher"  # the checkpoint with a head of the right size; untrained is as fast
        tokenizer = load_tokenizer(arguments.model)
        if arguments.size:
            shape = replace(SIZES[arguments.size], vocab_size=tokenizer.vocab_size, head=task.head, labels=labels)
            model = Model(shape)
        else:
            model = load_model(arguments.model, task.head, labels, say=lambda *_: None)
        save_model(model, directory)
        tokenizer.save(directory, LENGTH)
        lengths = task.featurize(examples, tokenizer, labels, LENGTH, DataConfig()).lengths
        for seed in range(arguments.rounds):
            folder = Path(scratch) / f"round-{seed}"
            folder.mkdir()
            rate = matmul_rate(CPU)
            common = task, examples, labels, directory, folder, seed, arguments.layers
            a, tokens, student = ours(*common)
            b, tuned_student = theirs(*common, tuned=True)
            c, _ = theirs(*common, tuned=False, steps=arguments.steps)
            rounds.append((tokens / a, tokens / b, tokens / c, rate))
            print(f"round {seed + 1}: ours {a:.1f} s, tuned {b:.1f} s, usual {c:.1f} s, {rate / 1e9:.0f} GFLOP/s")
            if tests:
                scores = (accuracy(task, x, tests, labels, directory, folder) for x in (student, tuned_student))
                print("         accuracy on test: ours {:.4f}, tuned {:.4f}".format(*scores), flush=True)
    teaching = forward_operations(model.config, lengths, plain=True)
    learning = 3 * EPOCHS * teaching * len(arguments.layers) / model.config.depth
    share = median((teaching + learning) / (tokens / speed) / rate for speed, _, _, rate in rounds)
    print(
        f"{arguments.task}: {len(examples):,} rows, {lengths.mean():.1f} tokens each, {EPOCHS} epochs; {describe(CPU)}"
    )
    print(f"ours   {median(r[0] for r in rounds):8,.0f} real tokens/s, {share:.0%} of the matrix-product rate")
    for i, name in enumerate(("tuned", "usual"), 1):
        speed, ratio = median(r[i] for r in rounds), median(r[0] / r[i] for r in rounds)
        print(f"{name}  {speed:8,.0f} real tokens/s: ours is {ratio:.2f} times as fast")


if __name__ == "__main__":
    main()
