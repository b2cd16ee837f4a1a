"""What only a GPU can show, in under five minutes: `make gpu`, on a machine that has a CUDA device.

Without one it prints one line and exits with status 3: nothing was checked, nothing failed. With one each check prints
a line; exit status 1 where one fails. At the end two lines of a table: BERT-base into DistilBERT at the lengths of news
items, with kept logits, and with the teacher beside it in every step.

tests/test_gpu.py runs every check on the CPU in its smallest form: there it must hold too, and find planted faults.
"""

import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from kd_scratch.common.console import table
from kd_scratch.common.device import amp_dtype, autocast, describe, seed_everything
from kd_scratch.common.timing import matmul_rate
from kd_scratch.config import SIZES, ModelConfig, TrainConfig
from kd_scratch.data.batches import Batch, EncodedInputs, collate
from kd_scratch.data.masking import MaskedLMSampler
from kd_scratch.data.tokenizer import train_tokenizer
from kd_scratch.distillation.hidden_losses import HIDDEN_LOSSES, make_hidden_losses
from kd_scratch.distillation.losses import distillation_loss
from kd_scratch.distillation.student import Student
from kd_scratch.distillation.units import unit_labels, unit_logits
from kd_scratch.evaluation.inference import compute_logits
from kd_scratch.nn.model import Model
from kd_scratch.training import bookkeeping, loop
from kd_scratch.training.loop import train_model
from kd_scratch.training.setup import Run
from tests.conftest import KINDS, TEXTS, tiny_model
from tests.data.test_batches import random_features
from tests.training.test_loop import LABELS, change_output, make_run

CPU = torch.device("cpu")
NOTHING_CHECKED = 3  # exit status
#: By how much results may differ from the CPU's, as a share of their size: sums in another order, or bf16.
FULL, MIXED = 2e-3, 6e-2


class Size(NamedTuple):
    """How large the measured models and batches are."""

    teacher: ModelConfig
    student: ModelConfig
    inputs: int
    batch_size: int


LARGE = Size(SIZES["bert-base"], SIZES["distilbert-base"], inputs=8192, batch_size=64)


def far(found: list[torch.Tensor], expected: list[torch.Tensor]) -> float:
    """How far tensors lie from the expected ones: the largest share of a tensor's size (root of mean square)."""
    shares = []
    for a, b in zip(found, expected, strict=True):
        a, b = a.detach().double().cpu(), b.detach().double().cpu()
        shares.append(float((a - b).norm() / b.norm().clamp(min=1e-6)))
    return max(shares)


def require(name: str, distance: float, most: float) -> float:
    """The distance; AssertionError where it is more than it may be, or not a number."""
    assert distance <= most, f"{name}: differs by {distance:.2g} of its size, at most {most:g} is rounding"
    return distance


# --- the same results as on the CPU ---


def inputs_of(head: str) -> EncodedInputs:
    """Seven random inputs for a head."""
    lengths = [5, 12, 3, 30, 12, 7, 4]
    if head != "mlm":
        return random_features(head, lengths)
    features = random_features("token", lengths)
    return replace(features, head="mlm", labels=features.tokens.astype(np.int64), mask_id=1)


def loss_and_gradients(model: Model, head: str, batch: Batch, dtype: torch.dtype | None) -> list[torch.Tensor]:
    """Logits of the units, their distillation loss against random ones, and every gradient of the encoder."""
    device = batch.input_ids.device
    with autocast(device, dtype):
        logits = model(**batch.inputs).logits
    units, labels = unit_logits(head, logits, batch), unit_labels(head, batch)
    generator = torch.Generator().manual_seed(0)  # the CPU's, for both
    teacher = torch.randn(units.shape, generator=generator).to(device).where(units > -1e29, units.detach())
    loss = distillation_loss(units, teacher, labels, 2.0, 0.5)
    names, parameters = zip(*model.named_parameters(), strict=True)
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    # A key's bias moves all scores of a query alike, as qa_outputs.bias all positions: these are rounding alone.
    kept = [g for n, g in zip(names, gradients, strict=True) if g is not None and n.endswith("weight")]
    return [units.clamp(min=-1e3), loss, *kept]


def check_heads(device: torch.device, dtype: torch.dtype | None) -> str:
    """Every head of every kind of model: logits, loss and gradients."""
    worst = 0.0
    for head in ("sequence", "token", "span", "mlm"):
        features = inputs_of(head)
        for kind, shape in KINDS.items():
            results = []
            for place in (CPU, device):
                model = tiny_model(head, **shape).to(place)
                sampler = MaskedLMSampler(0, 0) if head == "mlm" else None
                batch = collate(features, np.arange(len(features)), place, model.config.pad_id, sampler)
                results.append(loss_and_gradients(model, head, batch, dtype if place is device else None))
            worst = max(worst, require(f"{kind}, {head}", far(results[1], results[0]), MIXED if dtype else FULL))
    return f"every head, loss and gradient: at most {worst:.1g} from the CPU's"


def check_hidden_losses(device: torch.device) -> str:
    """Every hidden-state loss, between models of different widths where it can be: value and gradients."""
    features, worst = inputs_of("token"), 0.0
    for name, entry in HIDDEN_LOSSES.items():
        results = []
        for place in (CPU, device):
            student = tiny_model("token", depth=2, width=16 if entry.own_heads else 24, heads=2).to(place)
            teacher = tiny_model("token", seed=1, depth=4).to(place)
            torch.manual_seed(0)
            losses = make_hidden_losses(TrainConfig(losses=f"{name}=1"), student.config, teacher.config).cpu().to(place)
            batch = collate(features, np.arange(len(features)), place)
            *_, loss = Student(student, losses, teacher)(batch.inputs)
            weights = [p for n, p in student.named_parameters() if n.endswith("weight")]
            gradients = torch.autograd.grad(loss, weights, allow_unused=True)
            results.append([loss, *(gradient for gradient in gradients if gradient is not None)])
        worst = max(worst, require(name, far(results[1], results[0]), FULL))
    return f"{', '.join(HIDDEN_LOSSES)}: at most {worst:.1g} from the CPU's"


def check_evaluation(device: torch.device) -> str:
    """Logits of a whole data set, put away while the next batch is under way."""
    features = random_features("token", np.random.default_rng(0).integers(3, 40, 300))
    model = tiny_model("token")
    expected = compute_logits(model, features, CPU)
    found = compute_logits(model.to(device), features, device)
    distance = require("logits", far([torch.from_numpy(found)], [torch.from_numpy(expected)]), FULL)
    return f"{len(features)} inputs: {distance:.1g} from the CPU's"


# --- training ---


def tiny_run(folder: Path, device: torch.device, **settings) -> Run:
    """A run of a few seconds on a device, with everything that a step can have."""
    settings = dict(teacher=True, dropout=0.1, losses=",".join(HIDDEN_LOSSES), accumulation=2) | settings
    run = make_run(folder, train_tokenizer(TEXTS, vocab_size=120), **settings)
    run.hidden_losses.to(device)
    run.live_teacher.to(device)
    return replace(run, device=device)


def check_no_wait(device: torch.device, folder: Path, amp: str, forbid: Callable[[str], None]) -> str:
    """No training step waits for the device. forbid: torch.cuda.set_sync_debug_mode, or what stands for it."""
    run, steps = tiny_run(folder, device, amp=amp), []
    real, read, often = loop.seed_step, bookkeeping.Bookkeeping.read_losses, bookkeeping.READ_EVERY[device.type]

    def strict(seed: int, step: int, rank: int) -> None:  # from the second step on: the first one allocates
        forbid("error" if step else "default")
        steps.append(step)
        real(seed, step, rank)

    def relaxed(books: bookkeeping.Bookkeeping) -> list[float]:
        forbid("default")
        return read(books)

    try:
        loop.seed_step, bookkeeping.Bookkeeping.read_losses = strict, relaxed
        bookkeeping.READ_EVERY[device.type] = 1000
        train_model(run)
    finally:
        forbid("default")
        loop.seed_step, bookkeeping.Bookkeeping.read_losses = real, read
        bookkeeping.READ_EVERY[device.type] = often
    return f"{len(steps)} steps with every hidden-state loss, --amp {amp}"


class Killed(Exception):
    """Stands for a signal that cannot be caught."""


def check_resume(device: torch.device, folder: Path) -> str:
    """A run that was killed after its first epoch ends as one that was not."""
    whole, part = (tiny_run(folder, device, epochs=2) for _ in range(2))
    expected = train_model(whole)
    real, saved = bookkeeping.save_state, []

    def dies(*arguments) -> None:
        real(*arguments)
        saved.append(1)
        if len(saved) == 2:  # before the first step, and after the first epoch
            raise Killed

    bookkeeping.save_state = dies
    try:
        train_model(part)
    except Killed:
        pass
    finally:
        bookkeeping.save_state = real
    assert len(saved) == 2, "the run was not killed"
    again = change_output(tiny_run(folder, device, epochs=2), part.spec.output)
    done = train_model(replace(again, resume=True))
    assert done.step == expected.step and done.epoch == 2, "not the same number of steps"
    distance = far([*again.model.parameters()], [*whole.model.parameters()])
    # On the CPU bit for bit; a GPU adds the gradients of the tables of words in any order.
    return f"weights differ by {require('weights', distance, 0.0 if device.type == 'cpu' else FULL):.1g} of their size"


# --- speed ---


def news_inputs(count: int, vocab_size: int, longest: int) -> EncodedInputs:
    """Random inputs as long as AG News' texts: 48 pieces in the middle, half of them between 38 and 57."""
    rng = np.random.default_rng(0)
    lengths = np.exp(rng.normal(np.log(48), 0.35, count)).astype(np.int64).clip(8, longest)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    tokens = rng.integers(0, vocab_size, starts[-1]).astype(np.int32)
    return EncodedInputs("sequence", [str(i) for i in range(count)], tokens, starts, rng.integers(0, 3, count))


def measure(device: torch.device, folder: Path, size: Size, beside: bool) -> tuple:
    """A row of the table: two epochs of a distillation, of which the second counts.

    beside: the teacher runs in every step, with losses on hidden states and relations; else its logits are kept.
    """
    seed_everything(0)
    shape = dict(head="sequence", labels=LABELS)
    teacher = Model(replace(size.teacher, **shape)).to(device).eval()
    student = Model(replace(size.student, **shape))
    features = news_inputs(size.inputs, size.student.vocab_size, min(128, size.student.max_positions))
    few = news_inputs(24, size.student.vocab_size, 32)
    run = make_run(folder, train_tokenizer(TEXTS, vocab_size=120))  # for all that is not measured
    config = TrainConfig(epochs=2, batch_size=size.batch_size, losses="hidden,relations" if beside else "")
    losses = make_hidden_losses(config, student.config, teacher.config)
    run = replace(run, spec=replace(run.spec, config=config), device=device, model=student, hidden_losses=losses)
    run = replace(run, train_inputs=features, dev_inputs=few, live_teacher=teacher if beside else None)
    dtype = amp_dtype(config.amp, device)
    if not beside:
        run.teacher_logits = compute_logits(teacher, features, device, dtype=dtype)
        teacher.cpu()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    run.matmul_rate = matmul_rate(device, dtype)
    last = train_model(run).history[-1]
    memory = f"{torch.cuda.max_memory_allocated() / 1e9:.1f}" if device.type == "cuda" else "-"
    rate = f"{run.matmul_rate / 1e12:.3g}"
    name = "teacher in every step, hidden and relations" if beside else "kept logits"
    share = f"{last['matmul_share']:.1%}"  # of the student's own products, with the teacher beside it too
    return (
        name,
        str(dtype or torch.float32).removeprefix("torch."),
        round(last["tokens_per_second"]),
        share,
        rate,
        memory,
    )


COLUMNS = ("BERT-base into DistilBERT", "in", "tokens/s", "share of matmul rate", "rate, TFLOP/s", "GB at most")


def checks(device: torch.device, folder: Path, size: Size) -> dict[str, Callable[[], str | tuple]]:
    """All checks, by name; what each returns is printed, tuples as rows of one table."""
    forbid = torch.cuda.set_sync_debug_mode if device.type == "cuda" else lambda mode: None
    mixed = torch.bfloat16
    return {
        "heads in float32": lambda: check_heads(device, None),
        "heads in bf16": lambda: check_heads(device, mixed),
        "hidden-state losses": lambda: check_hidden_losses(device),
        "evaluation": lambda: check_evaluation(device),
        "no step waits": lambda: check_no_wait(device, folder, "bf16", forbid),
        "no step waits, float32": lambda: check_no_wait(device, folder, "off", forbid),
        "resume": lambda: check_resume(device, folder),
        "speed, kept logits": lambda: measure(device, folder, size, beside=False),
        "speed, teacher beside": lambda: measure(device, folder, size, beside=True),
    }


def run_checks(device: torch.device, size: Size) -> int:
    """Run all checks and print what they found; 1 where one failed, else 0."""
    print(f"{describe(device)}", flush=True)
    rows, failed = [], []
    with tempfile.TemporaryDirectory() as scratch:
        for name, check in checks(device, Path(scratch), size).items():
            started = time.perf_counter()
            try:
                found = check()
                text = "measured" if isinstance(found, tuple) else found
                rows += [found] * isinstance(found, tuple)
            except Exception as error:  # whatever it is: the other checks run all the same
                failed.append(name)
                text = f"FAILED: {error}\n{traceback.format_exc()}"
            print(f"{name}: {text} ({time.perf_counter() - started:.1f} s)", flush=True)
    print(table(COLUMNS, rows))
    print(f"failed: {', '.join(failed)}" if failed else "all checks passed")
    return 1 if failed else 0


def main() -> int:
    """All checks on the CUDA device; NOTHING_CHECKED where there is none."""
    if not torch.cuda.is_available():
        print(f"PyTorch {torch.__version__} finds no CUDA device here: nothing was checked")
        return NOTHING_CHECKED
    return run_checks(torch.device("cuda"), LARGE)


if __name__ == "__main__":
    sys.exit(main())
