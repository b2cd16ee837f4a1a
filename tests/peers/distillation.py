"""Wall time of a whole distillation: ours against `transformers` + Trainer as such projects are usually written.

    make bench-peers TASK=agnews MODEL=DIR ARGS="--rows 1500 --rounds 3"

The job: a 6-layer teacher into its layers 0, 2, 4; batches of 32, 3 epochs. Both sides start from the same texts and
checkpoint, and do everything from tokenising to the last step; the ordinary `train` saves its state
after each epoch too, the other side saves nothing. The usual way pads every
text to 128 tokens and runs the teacher in every step. All its steps cost the same, so a few of them are timed and the
total is their median times the number of steps. The two sides take turns, `--rounds` times; the ratio is that of the
medians. Also said: the share of this machine's sgemm rate that ours reaches, counting the floating-point operations of
the plain computation over real tokens only.
"""

import argparse
import copy
import os
import tempfile
import time
from pathlib import Path
from statistics import median

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, Trainer, TrainerCallback, TrainingArguments

from kd_scratch.checkpoint import load_model, save_model, take_layers
from kd_scratch.config import DataConfig, train_config
from kd_scratch.distill import teacher_logits
from kd_scratch.runtime import describe, seed_everything
from kd_scratch.tasks import TASKS, limited
from kd_scratch.tokenization import load_tokenizer
from kd_scratch.train import Job, train

EPOCHS, BATCH, LENGTH, LAYERS = 3, 32, 128, [0, 2, 4]
CPU = torch.device("cpu")
FILES = {"agnews": "ag_news_csv/train.csv", "clinc": "clinc150/data_full.json"}


def ours(task, examples, labels, directory: Path, folder: Path) -> tuple[float, int]:
    """Seconds of the whole job with kd_scratch, and the real tokens of its three epochs."""
    seed_everything(0)
    started = time.perf_counter()
    tokenizer = load_tokenizer(directory)
    teacher = load_model(directory)
    student = take_layers(teacher, LAYERS)
    features = task.featurize(examples, tokenizer, labels, LENGTH, DataConfig())
    dev = task.featurize(examples[:1], tokenizer, labels, LENGTH, DataConfig())
    config = train_config(task.name, epochs=EPOCHS, batch_size=BATCH, max_length=LENGTH, amp="off")
    logits = teacher_logits(teacher, tokenizer.fingerprint, features, labels, folder / "cache", CPU)
    job = Job(task, student, tokenizer, features, examples[:1], dev, config, DataConfig(), 0, CPU, folder, {}, logits)
    train(job)
    return time.perf_counter() - started, EPOCHS * len(features.tokens)


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


def usual(task, examples, labels, directory: Path, folder: Path, steps: int) -> float:
    """Seconds of the whole job with transformers and its Trainer: `steps` steps are run, the rest is extrapolated."""
    seed_everything(0)
    started = time.perf_counter()
    tokenizer = AutoTokenizer.from_pretrained(directory)
    teacher = AutoModelForSequenceClassification.from_pretrained(directory)
    student = copy.deepcopy(teacher)
    student.bert.encoder.layer = torch.nn.ModuleList(student.bert.encoder.layer[i] for i in LAYERS)
    texts = task.texts(examples)
    encoded = tokenizer(texts, truncation=True, padding="max_length", max_length=LENGTH)
    rows = [
        {name: encoded[name][i] for name in encoded} | {"label": labels.index(example.label)}
        for i, example in enumerate(examples)
    ]
    config = train_config(task.name)
    times = StepTimes()
    arguments = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=BATCH,
        max_steps=steps,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    trainer = DistillationTrainer(
        model=student,
        args=arguments,
        train_dataset=rows,
        callbacks=[times],
        teacher=teacher,
        temperature=config.temperature,
        alpha=config.alpha,
    )
    prepared = time.perf_counter() - started
    trainer.train()
    step = median(b - a for a, b in zip(times.ends[1:], times.ends[2:], strict=False))  # the first steps warm up
    return prepared + step * EPOCHS * -(-len(examples) // BATCH)


def sgemm_rate() -> float:
    """Floating-point operations per second of a large float32 matrix product."""
    a, rates = torch.randn(2048, 2048), []
    for _ in range(8):
        started = time.perf_counter()
        a @ a
        rates.append(2 * 2048**3 / (time.perf_counter() - started))
    return median(rates[2:])


def operations(features_tokens: int, mean_length: float, width: int, inner: int) -> float:
    """Of the plain job: 3 student layers forward and backward (3x) in each epoch, 6 teacher layers forward once.

    Per token and layer: 4 projections, 2 feed-forward maps, and 2 products with all positions of its text.
    """
    layer = 2 * (4 * width**2 + 2 * width * inner + 2 * mean_length * width)
    return features_tokens * layer * (3 * len(LAYERS) * EPOCHS + 6)


def main() -> None:
    """Take turns, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--task", choices=list(FILES), default="agnews")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("KD_DATA") or "data"), help="the data folder")
    parser.add_argument(
        "--model", type=Path, required=True, help="a 6-layer BERT checkpoint; its head may be untrained"
    )
    parser.add_argument("--rows", default="1500", help="training rows, or a percentage")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=10, help="steps of the usual way that are timed in each round")
    arguments = parser.parse_args()
    task = TASKS[arguments.task]
    everything = task.read(arguments.data / FILES[arguments.task], "train" if task.splits else "", DataConfig())
    labels = task.label_list(everything)
    examples = limited(everything, arguments.rows)
    seconds, usual_seconds, rates = [], [], []
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch) / "teacher"  # the checkpoint with a head of the right size; untrained is as fast
        tokenizer = load_tokenizer(arguments.model)
        model = load_model(arguments.model, task.head, labels, say=lambda *_: None)
        save_model(model, directory)
        tokenizer.save(directory, LENGTH)
        for i in range(arguments.rounds):
            folder = Path(scratch) / f"ours-{i}"
            folder.mkdir()
            rates.append(sgemm_rate())
            took, tokens = ours(task, examples, labels, directory, folder)
            seconds.append(took)
            usual_seconds.append(usual(task, examples, labels, directory, Path(scratch) / "usual", arguments.steps))
            print(f"round {i + 1}: ours {took:.1f} s, usual {usual_seconds[-1]:.1f} s, {rates[-1] / 1e9:.0f} GFLOP/s")
    mean_length = tokens / EPOCHS / len(examples)
    work = operations(tokens // EPOCHS, mean_length, model.config.width, model.config.feed_forward)
    print(f"{arguments.task}: {len(examples):,} rows, {mean_length:.1f} tokens each, {EPOCHS} epochs; {describe(CPU)}")
    print(f"ours   {tokens / median(seconds):8,.0f} real tokens/s")
    print(f"usual  {tokens / median(usual_seconds):8,.0f} real tokens/s")
    print(f"ratio  {median(usual_seconds) / median(seconds):8.2f}")
    share = work / median(seconds) / median(rates)
    print(f"ours reaches {share:.0%} of the sgemm rate ({median(rates) / 1e9:.0f} GFLOP/s)")


if __name__ == "__main__":
    main()
