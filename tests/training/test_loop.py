"""loop.py, trainer.py, bookkeeping.py and resume.py: the loop, its optimizer and schedule, and resuming."""

import signal
from dataclasses import replace

import numpy as np
import pytest
import torch

from kd_scratch.checkpoints.checkpoint import fingerprint, load_model
from kd_scratch.checkpoints.safetensors import CHECKSUM, is_intact, load_file
from kd_scratch.common.device import seed_step
from kd_scratch.common.errors import UserError
from kd_scratch.common.signals import Interruption, Stopped
from kd_scratch.common.timing import Clock
from kd_scratch.config import DataConfig, RunConfig, TrainConfig
from kd_scratch.data.batches import IGNORE, epoch_batches
from kd_scratch.distillation.hidden_losses import HIDDEN_LOSSES, make_hidden_losses
from kd_scratch.nn.layers import EncoderBlock
from kd_scratch.nn.model import forward_operations
from kd_scratch.tasks import TASKS
from kd_scratch.tasks import token_classification as conll
from kd_scratch.tasks.classification import Example
from kd_scratch.training import bookkeeping, loop
from kd_scratch.training.epochs import EpochPlan
from kd_scratch.training.examples import TrainingData
from kd_scratch.training.loop import add_gradients, train_model
from kd_scratch.training.optimizer import schedule
from kd_scratch.training.resume import STATE, Progress, changes, load_state, save_state
from kd_scratch.training.setup import Run, identify
from kd_scratch.training.spec import RunSpec
from kd_scratch.training.trainer import Trainer
from tests.conftest import TEXTS, tiny_model

LABELS = ("business", "space", "sport")
CPU = torch.device("cpu")
ALL_LOSSES = ",".join(HIDDEN_LOSSES)


def make_run(
    tmp_path, tokenizer, seed=0, teacher=False, dropout=0.0, output=None, identity=None, resume=False, **settings
) -> Run:
    """24 short texts whose label can be learned, a tiny model, a folder of its own unless one is given."""
    words = {
        "business": "shares of the brewery rose",
        "space": "a probe of the frozen moon",
        "sport": "the goalkeeper saved",
    }
    examples = [
        Example(f"x:{i}", words[label] + " again" * (i % 5) + " and " + TEXTS[i % 4][: 3 * i], label)
        for i, label in enumerate(LABELS * 8)
    ]
    task = TASKS["csv"]
    inputs = task.featurize(examples, tokenizer, LABELS, 32, DataConfig())
    shape = dict(vocab_size=tokenizer.vocab_size, init_std=0.1)
    shape |= dict.fromkeys(("dropout", "attention_dropout", "head_dropout"), dropout)
    model = tiny_model(labels=LABELS, seed=seed, **shape)
    settings = {"learning_rate": 3e-3, "epochs": 3, "batch_size": 8, "max_length": 32, "amp": "off"} | settings
    if output is None:
        output = tmp_path / f"run-{len(list(tmp_path.iterdir()))}"
        output.mkdir()
    spec = RunSpec("csv", tmp_path, "10%", "", output, config=TrainConfig(**settings), run=RunConfig(seed=seed))
    run = Run(
        spec=spec,
        task=task,
        device=CPU,
        data=TrainingData(task, examples, examples, LABELS, tokenizer, hashes={}, notes=[]),
        dev_inputs=inputs,
        model=model,
        teachers=[],
        hidden_losses=None,
        identity=identity or {},
        resume=resume,
        train_inputs=inputs,
    )
    if spec.config.losses:
        run.live_teacher = tiny_model(labels=LABELS, seed=9, vocab_size=tokenizer.vocab_size, width=24, depth=4)
        run.hidden_losses = make_hidden_losses(spec.config, model.config, run.live_teacher.config)
    if teacher:
        run.teacher_logits = np.random.default_rng(1).normal(size=(len(examples), 3)).astype(np.float32) * 3
    return run


def change(run: Run, **settings) -> Run:
    """The same run with other settings."""
    return replace(run, spec=replace(run.spec, config=replace(run.spec.config, **settings)))


def change_output(run: Run, output) -> Run:
    """The same run in another folder."""
    return replace(run, spec=replace(run.spec, output=output))


def gradients(run: Run, indices: np.ndarray) -> tuple[float, torch.Tensor]:
    """The loss of one batch, and all gradients as one vector."""
    trainer = Trainer(run)
    trainer.words.restore_table()
    trainer.network.train()
    trainer.student.zero_grad()
    loss = add_gradients(trainer, indices, Clock(CPU))
    return loss.item(), torch.cat([p.grad.flatten() for p in trainer.student.parameters() if p.grad is not None])


def test_training_learns_and_keeps_the_best_epoch(tmp_path, tokenizer):
    run = make_run(tmp_path, tokenizer, epochs=20, learning_rate=5e-3)
    done = train_model(run)
    assert done.history[-1]["loss"] < 0.5 * done.history[0]["loss"]
    assert done.best_score == max(h["dev"]["accuracy"] for h in done.history) > 0.9
    assert done.step == 20 * 3 and done.epoch == 20
    kept = load_model(run.spec.output)
    assert kept.config.labels == LABELS
    if done.best_epoch == done.epoch:
        assert fingerprint(kept) == fingerprint(run.model.eval())


def test_steps_end_in_the_middle_of_an_epoch(tmp_path, tokenizer, capsys):
    """24 texts in batches of 5: five steps make an epoch, and the learning rate falls to 0 at the last of seven."""
    run = make_run(tmp_path, tokenizer, batch_size=5, epochs=1, steps=7, learning_rate=1e-2)
    lengths, orders = (
        run.train_inputs.lengths,
        [epoch_batches(run.train_inputs.lengths, 5, run.spec.run.seed, e) for e in (0, 1)],
    )
    done = train_model(run)
    assert (done.step, done.epoch, len(done.history)) == (7, 2, 2)
    cut = int(lengths[np.concatenate(orders[1][:2])].sum())
    speeds = [h["tokens_per_second"] * h["seconds"] for h in done.history]
    assert speeds == pytest.approx([lengths.sum(), cut]) and cut < lengths.sum()
    said = capsys.readouterr().out
    assert "epoch 1/2: loss" in said and "epoch 2/2: loss" in said
    assert load_model(run.spec.output).config.labels == LABELS, "the cut epoch is scored, and one of both is kept"
    whole, same = make_run(tmp_path, tokenizer, epochs=2), make_run(tmp_path, tokenizer, epochs=1, steps=6)
    train_model(whole), train_model(same)
    assert fingerprint(whole.model) == fingerprint(same.model), "two epochs of three steps"


@pytest.mark.parametrize("losses", ["", "hidden"])
def test_with_hidden_state_losses_operations_are_those_of_the_whole_last_block(tmp_path, tokenizer, losses):
    """A text's label needs the first token of the last block alone, these losses all."""
    run = make_run(tmp_path, tokenizer, losses=losses, epochs=1)
    run.matmul_rate = 1e9
    [epoch] = train_model(run).history
    first_only, whole = (forward_operations(run.model.config, run.train_inputs.lengths, plain) for plain in (0, 1))
    forward = whole if losses else first_only
    assert epoch["matmul_share"] * epoch["seconds"] * 1e9 == pytest.approx(3 * forward) and whole > 1.1 * first_only


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(tmp_path, tokenizer):
    prints = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        run = make_run(tmp_path, tokenizer, seed=seed, dropout=0.1, epochs=1)
        train_model(run)
        prints.append(fingerprint(run.model))
    assert prints[0] == prints[1] != prints[2]


def test_a_bad_loss_is_found_at_its_step_though_losses_are_read_later(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setitem(bookkeeping.READ_EVERY, "cpu", 50)
    run = make_run(tmp_path, tokenizer, batch_size=1, learning_rate=1e-6)
    fourth = epoch_batches(run.train_inputs.lengths, 1, run.spec.run.seed, 0)[3]
    run.teacher_logits = np.zeros((24, 3), np.float32)
    run.teacher_logits[fourth] = float("nan")
    with pytest.raises(UserError, match=rf"not a finite number at step 4, .* {run.train_inputs.ids[int(fourth[0])]}$"):
        train_model(run)


def test_each_step_draws_other_random_numbers_and_the_same_ones_again():
    """They are a function of (seed, step, process), whatever has been drawn before."""
    drawn = {}
    for seed, step, rank in ((0, 0, 0), (0, 1, 0), (1, 0, 0), (0, 0, 1), (0, 0, 0)):
        torch.rand(step + 3)
        seed_step(seed, step, rank)
        numbers = torch.rand(5)
        assert torch.equal(drawn.setdefault((seed, step, rank), numbers), numbers)
    assert len({tuple(numbers.tolist()) for numbers in drawn.values()}) == 4


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("amp", ["bf16", "fp16", "off"])
@pytest.mark.parametrize("teacher", [False, True])
def test_no_step_waits_for_a_cuda_device(tmp_path, tokenizer, monkeypatch, amp, teacher):
    monkeypatch.setitem(bookkeeping.READ_EVERY, "cuda", 1000)
    run = replace(make_run(tmp_path, tokenizer, teacher=teacher, dropout=0.1, amp=amp), device=torch.device("cuda"))
    real = loop.seed_step

    def strict(*arguments):  # from the second step on: the first one allocates
        torch.cuda.set_sync_debug_mode("error" if arguments[1] else "default")
        real(*arguments)

    def relaxed(*arguments):
        torch.cuda.set_sync_debug_mode("default")
        return read(*arguments)

    read = bookkeeping.Bookkeeping.read_losses
    monkeypatch.setattr(loop, "seed_step", strict)
    monkeypatch.setattr(bookkeeping.Bookkeeping, "read_losses", relaxed)
    assert train_model(run).history[-1]["loss"] > 0


def test_frozen_embeddings_stay_and_all_else_learns(tmp_path, tokenizer):
    run = make_run(tmp_path, tokenizer, freeze_embeddings=True, epochs=2)
    before = {name: tensor.clone() for name, tensor in run.model.state_dict().items()}
    train_model(run)
    for name, tensor in run.model.state_dict().items():
        frozen = name.startswith("embeddings.") or name.startswith("positions.")
        assert torch.equal(tensor, before[name]) == frozen, name
    assert not any("embeddings.word" in name for name in load_file(run.spec.output / STATE))
    resumed = replace(run, model=make_run(tmp_path, tokenizer).model, resume=True)
    assert train_model(resumed).epoch == 2
    assert fingerprint(resumed.model) == fingerprint(run.model)


def test_gradient_checkpointing_changes_nothing_but_the_memory(tmp_path, tokenizer, monkeypatch):
    """Not even with dropout: what is computed again drops the same."""
    computed = []
    block = EncoderBlock.forward
    monkeypatch.setattr(EncoderBlock, "forward", lambda self, *a: (computed.append(1), block(self, *a))[1])
    runs, counts, identities = [], [], []
    for flag in (False, True):
        computed.clear()
        run = make_run(tmp_path, tokenizer, dropout=0.2, epochs=2, gradient_checkpointing=flag)
        identities.append(identify(run))
        runs.append((train_model(run).history, fingerprint(run.model)))
        counts.append(len(computed))
    assert [h["loss"] for h in runs[0][0]] == [h["loss"] for h in runs[1][0]]
    assert runs[0][1] == runs[1][1]
    steps = 2 * 3 * 3  # epochs, batches, blocks
    assert counts[1] - counts[0] == steps, "each block was computed twice in each step"
    assert changes(*identities) == [], "so a run that had too little memory goes on with it"


@pytest.mark.parametrize(("teacher", "losses"), [(False, ""), (True, ""), (True, ALL_LOSSES)])
@pytest.mark.parametrize("parts", [2, 4])
def test_accumulation_gives_the_gradient_of_the_large_batch(tmp_path, tokenizer, teacher, losses, parts):
    whole = make_run(tmp_path, tokenizer, teacher=teacher, losses=losses)
    cut = change(whole, accumulation=parts)
    indices = np.array([3, 0, 7, 11, 20, 5, 1, 2])
    loss, gradient = gradients(whole, indices)
    loss_cut, gradient_cut = gradients(cut, indices)
    assert loss_cut == pytest.approx(loss, rel=1e-5)
    torch.testing.assert_close(gradient_cut, gradient, rtol=1e-4, atol=1e-6)


def test_accumulation_leaves_a_whole_run_the_same(tmp_path, tokenizer):
    runs = [
        train_model(make_run(tmp_path, tokenizer, accumulation=n, batch_size=10)) for n in (1, 5)
    ]  # last batch: 4 of 10
    np.testing.assert_allclose(*[[h["loss"] for h in run.history] for run in runs], rtol=1e-4)


def test_the_distilled_run_differs_from_the_baseline_by_its_loss_alone(tmp_path, tokenizer):
    """Same initial weights, same batches, same number of steps: alpha=0 with a teacher is the baseline, bit for bit."""
    baseline = make_run(tmp_path, tokenizer, dropout=0.1)
    distilled = make_run(tmp_path, tokenizer, dropout=0.1, teacher=True, alpha=0.0)
    assert fingerprint(baseline.model) == fingerprint(distilled.model)
    for run in (baseline, distilled):
        torch.manual_seed(5)
        train_model(run)
    assert fingerprint(baseline.model) == fingerprint(distilled.model)


def test_soft_targets_reach_the_student(tmp_path, tokenizer):
    """With alpha=1 the student takes over what the teacher says, whatever the labels say."""
    run = make_run(tmp_path, tokenizer, teacher=True, alpha=1.0, temperature=1.0, epochs=60, learning_rate=5e-3)
    wrong = (run.train_inputs.labels + 1) % 3  # a teacher that is always wrong in the same way
    run.teacher_logits = (8 * np.eye(3)[wrong]).astype(np.float32)
    done = train_model(run)
    assert done.history[-1]["dev"]["accuracy"] < 0.1


def test_the_teachers_logits_follow_the_examples_through_the_shuffling(tmp_path, tokenizer, monkeypatch):
    run = make_run(tmp_path, tokenizer, teacher=True)
    seen = []

    def spy(student, teacher, labels, temperature, alpha):
        seen.append(teacher)
        return student.sum() * 0

    monkeypatch.setattr(loop, "distillation_loss", spy)
    train_model(change(run, epochs=2))
    batches = [b for epoch in (0, 1) for b in epoch_batches(run.train_inputs.lengths, 8, run.spec.run.seed, epoch)]
    for indices, teacher in zip(batches, seen, strict=True):
        np.testing.assert_array_equal(teacher.numpy(), run.teacher_logits[indices])


@pytest.mark.parametrize(("looks", "steps"), [(4, [3, 3, 4, 4]), (1, [14]), (14, [1] * 14), (99, [1] * 14)])
def test_looks_are_at_equal_distances_and_change_nothing_else(tmp_path, tokenizer, looks, steps):
    """24 texts in batches of 5: five steps make an epoch, --steps 14 makes nearly three of them."""
    usual = make_run(tmp_path, tokenizer, batch_size=5, steps=14, learning_rate=1e-2)
    whole = train_model(usual)
    run = make_run(tmp_path, tokenizer, batch_size=5, steps=14, learning_rate=1e-2, looks=looks)
    done = train_model(run)
    assert [h["steps"] for h in done.history] == steps and done.step == 14
    assert fingerprint(run.model) == fingerprint(usual.model), "the same batches in the same order"
    tokens = [round(h["tokens_per_second"] * h["seconds"]) for h in done.history]
    assert sum(tokens) == sum(round(h["tokens_per_second"] * h["seconds"]) for h in whole.history)


def test_the_optimizer_sees_the_scheduled_learning_rate(tmp_path, tokenizer, monkeypatch):
    run = make_run(tmp_path, tokenizer, warmup_steps=4, epochs=2)
    rates = []
    step = torch.optim.AdamW.step
    monkeypatch.setattr(
        torch.optim.AdamW, "step", lambda self: (rates.append(self.param_groups[0]["lr"]), step(self))[1]
    )
    train_model(run)
    np.testing.assert_allclose(rates, [3e-3 * schedule(i, 6, 4) for i in range(6)])


def test_early_stopping_counts_epochs_without_a_better_score(tmp_path, tokenizer):
    done = train_model(make_run(tmp_path, tokenizer, epochs=50, patience=2))
    assert done.epoch < 50
    assert done.epoch - done.best_epoch == 2


def test_a_loss_that_is_not_finite_stops_before_the_step_and_names_the_examples(tmp_path, tokenizer):
    run = make_run(tmp_path, tokenizer)
    with torch.no_grad():
        run.model.head.classifier.bias[0] = float("nan")
    before = run.model.encoder.blocks[0].feed_forward.inner.weight.clone()
    with pytest.raises(UserError, match=r"the loss or its gradient is not a finite number at step 1, ") as caught:
        train_model(run)
    first = epoch_batches(run.train_inputs.lengths, 8, run.spec.run.seed, 0)[0]
    assert str(caught.value).endswith(f"its examples: {', '.join(run.train_inputs.ids[i] for i in first)}")
    assert torch.equal(before, run.model.encoder.blocks[0].feed_forward.inner.weight)


def test_a_loss_that_is_not_finite_leaves_the_last_good_state_and_weights(tmp_path, tokenizer, monkeypatch):
    """In the third epoch; by force the run can go on from the second with a lower learning rate."""
    run, real = make_run(tmp_path, tokenizer), loop.distillation_loss
    monkeypatch.setattr(loop, "distillation_loss", lambda *a: real(*a) * (float("inf") if infinite else 1))
    infinite, steps, backward_ = False, [], loop.add_gradients

    def counted(*arguments):
        nonlocal infinite
        steps.append(1)
        infinite = len(steps) == 8
        return backward_(*arguments)

    monkeypatch.setattr(loop, "add_gradients", counted)
    with pytest.raises(UserError, match="not a finite number at step 8, which was not taken"):
        train_model(run)
    assert is_intact(run.spec.output / STATE) and load_model(run.spec.output)
    run.identity = {"learning rate": 1e-3}
    again = make_run(tmp_path, tokenizer, learning_rate=1e-3, output=run.spec.output, identity=run.identity)
    done = train_model(replace(again, resume=True), force=True)
    assert done.epoch == 3 and done.forced == ["learning rate was None, is 0.001"]
    assert len(steps) == 8 + 3, "the two epochs before were not done again"


def test_bf16_trains_on_the_cpu_too_and_ends_near_float32(tmp_path, tokenizer):
    full, mixed = (train_model(make_run(tmp_path, tokenizer, amp=amp)).history[-1]["loss"] for amp in ("off", "bf16"))
    assert mixed == pytest.approx(full, rel=0.05) and mixed != full


class Interrupted(Exception):
    pass


def kill_at_saving(monkeypatch, run, saves):
    """Train a run until its state has been saved so many times, as if it were killed there."""
    real, count = bookkeeping.save_state, []

    def dies(*arguments):
        real(*arguments)
        count.append(1)
        if len(count) == saves:
            raise Interrupted

    monkeypatch.setattr(bookkeeping, "save_state", dies)
    with pytest.raises(Interrupted):
        train_model(run)
    monkeypatch.setattr(bookkeeping, "save_state", real)


def assert_same_state(one: Run, other: Run) -> None:
    """Weights and moments, bit for bit. (The checksum differs: it covers the times too.)"""
    states = [load_file(run.spec.output / STATE) for run in (one, other)]
    assert states[0].keys() == states[1].keys() and len(states[0]) > 10
    for name, tensor in states[0].items():
        assert name == CHECKSUM or torch.equal(tensor, states[1][name]), name


@pytest.mark.parametrize(("teacher", "losses"), [(False, ""), (True, ""), (True, ALL_LOSSES)])
def test_a_resumed_run_ends_bit_equal_to_an_uninterrupted_one(tmp_path, tokenizer, monkeypatch, teacher, losses):
    def new_run():
        torch.manual_seed(3)
        settings = dict(epochs=4, accumulation=2, warmup_steps=3, losses=losses)
        return make_run(tmp_path, tokenizer, dropout=0.1, teacher=teacher, **settings)

    whole = new_run()
    torch.manual_seed(3)
    expected = train_model(whole)
    part = new_run()
    torch.manual_seed(3)
    real = EpochPlan.batches

    def dies_in_the_third_epoch(plan, epoch):
        if epoch == 2:
            raise Interrupted
        return real(plan, epoch)

    monkeypatch.setattr(EpochPlan, "batches", dies_in_the_third_epoch)
    with pytest.raises(Interrupted):
        train_model(part)
    monkeypatch.setattr(EpochPlan, "batches", real)
    torch.manual_seed(99)  # a new process knows nothing of the old one's generator
    again = change_output(new_run(), part.spec.output)
    with torch.no_grad():
        learned = again.hidden_losses.parameters() if losses else ()
        for parameter in (*again.model.encoder.parameters(), *again.model.head.parameters(), *learned):
            parameter.add_(1)  # the saved ones must replace them
    done = train_model(replace(again, resume=True))
    assert fingerprint(again.model) == fingerprint(whole.model)
    assert [h["loss"] for h in done.history] == [h["loss"] for h in expected.history]
    assert (done.best_epoch, done.best_score) == (expected.best_epoch, expected.best_score)
    assert_same_state(whole, again)


@pytest.mark.parametrize(
    "saves, steps, looks", [*((n, 0, 0) for n in range(1, 11)), (6, 5, 0), (8, 8, 0), (3, 0, 2), (5, 0, 2), (6, 8, 4)]
)
def test_a_run_killed_after_any_step_ends_bit_equal_too(tmp_path, tokenizer, monkeypatch, saves, steps, looks):
    """State is saved before the first step and after each; with dropout, accumulation, a teacher, early stopping."""

    def new_run():
        torch.manual_seed(3)
        settings = dict(epochs=3, steps=steps, looks=looks, accumulation=2, warmup_steps=3, patience=2)
        return make_run(tmp_path, tokenizer, dropout=0.1, teacher=True, **settings)

    monkeypatch.setattr(bookkeeping, "SAVE_EVERY", -1)
    whole, part = new_run(), new_run()
    expected = train_model(whole)
    kill_at_saving(monkeypatch, part, saves)
    again = change_output(new_run(), part.spec.output)
    done = train_model(replace(again, resume=True))
    assert fingerprint(again.model) == fingerprint(whole.model)
    assert [(h["loss"], h["dev"]) for h in done.history] == [(h["loss"], h["dev"]) for h in expected.history]
    assert_same_state(whole, again)


@pytest.fixture
def signals_not_ignored():
    """SIGINT and SIGTERM as in a terminal, wherever the tests run."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_signal_that_is_ignored_stays_ignored(signals_not_ignored):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with Interruption() as interruption:
        signal.raise_signal(signal.SIGINT)
    assert interruption.signal == 0


@pytest.mark.usefixtures("signals_not_ignored")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_step_and_saves_it(tmp_path, tokenizer, monkeypatch, number):
    run, real = make_run(tmp_path, tokenizer), loop.add_gradients
    before = signal.getsignal(number)

    def signalled(*arguments):
        if len(steps) == 4:
            signal.raise_signal(number)
        steps.append(1)
        return real(*arguments)

    steps: list[int] = []
    monkeypatch.setattr(loop, "add_gradients", signalled)
    with pytest.raises(Stopped) as stopped:
        train_model(run)
    assert stopped.value.signal == number and len(steps) == 5
    assert signal.getsignal(number) is before
    again = make_run(tmp_path, tokenizer, output=run.spec.output)
    done = train_model(replace(again, resume=True))
    assert len(steps) == 9 and done.step == 9, "nothing is done twice"
    whole = make_run(tmp_path, tokenizer)
    train_model(whole)
    assert fingerprint(again.model) == fingerprint(whole.model)


def test_a_second_signal_acts_at_once(signals_not_ignored):
    with pytest.raises(KeyboardInterrupt), Interruption() as interruption:
        signal.raise_signal(signal.SIGINT)
        assert interruption.signal == signal.SIGINT
        signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("made", [2, 5])
def test_by_force_no_fewer_steps_can_be_asked_for_than_were_made(tmp_path, tokenizer, monkeypatch, made):
    run, real, steps = make_run(tmp_path, tokenizer), loop.add_gradients, []

    def stopped(*arguments):
        if len(steps) == made:
            raise Interrupted
        steps.append(1)
        return real(*arguments)

    monkeypatch.setattr(bookkeeping, "SAVE_EVERY", -1)
    monkeypatch.setattr(loop, "add_gradients", stopped)
    run.identity = {"steps": 0}
    with pytest.raises(Interrupted):
        train_model(run)
    monkeypatch.setattr(loop, "add_gradients", real)
    for fewer in (1, made):
        other = make_run(tmp_path, tokenizer, steps=fewer, output=run.spec.output, identity={"steps": fewer})
        with pytest.raises(UserError, match=f"its run has made {made} steps already; give more --epochs or --steps"):
            train_model(replace(other, resume=True), force=True)
    more = make_run(tmp_path, tokenizer, steps=made + 1, output=run.spec.output, identity={"steps": made + 1})
    assert train_model(replace(more, resume=True), force=True).step == made + 1


def test_resume_refuses_another_run_and_says_what_differs(tmp_path, tokenizer):
    run = make_run(tmp_path, tokenizer, epochs=1)
    run.identity = {"seed": 0, "task": "csv"}
    train_model(run)
    run.identity = {"seed": 1, "task": "csv"}
    with pytest.raises(UserError, match="cannot resume, this is another run: seed was 0, is 1; --force"):
        train_model(replace(run, resume=True))


def test_a_batch_in_which_nothing_has_a_label_has_a_loss_of_0_and_no_gradient(tmp_path, tokenizer):
    """Its loss is a sum over no units, divided by their number: not 0 / 0."""
    run = make_run(tmp_path, tokenizer)
    sentence = conll.Example("x:1", ("Ada", "slept"), ("O", "O"), "")
    run.task, labels = TASKS["conll"], ("O", "B-LOC", "I-LOC")
    run.train_inputs = run.task.featurize([sentence], tokenizer, labels, 32, DataConfig())
    run.train_inputs.labels[:] = IGNORE
    run.model = tiny_model(labels=labels, head="token", vocab_size=tokenizer.vocab_size)
    for teacher in (None, np.ones((len(run.train_inputs.tokens), len(labels)), np.float32)):
        run.teacher_logits = teacher
        loss, gradient = gradients(run, np.array([0]))
        assert loss == 0 and not gradient.any()


def test_the_scale_of_half_precision_is_kept_and_may_be_new(tmp_path, tokenizer):
    run = make_run(tmp_path, tokenizer)
    optimizer = torch.optim.AdamW(run.model.parameters())
    scalers = [torch.amp.GradScaler("cpu", init_scale=128.0, enabled=enabled) for enabled in (True, False)]
    for scaler, expected in zip(scalers, (128.0, 64.0), strict=True):
        save_state(run.spec.output, run.model, optimizer, scaler, Progress(), {})
        fresh = torch.amp.GradScaler("cpu", init_scale=64.0)
        load_state(run.spec.output, run.model, optimizer, fresh, {})
        assert fresh.get_scale() == expected


@pytest.mark.usefixtures("signals_not_ignored")
@pytest.mark.parametrize("batch_size", [8, 24])
def test_a_signal_in_the_last_batch_of_an_epoch_ends_the_run_behind_it(tmp_path, tokenizer, monkeypatch, batch_size):
    """As always, where an epoch has one batch."""
    run, real = make_run(tmp_path, tokenizer, batch_size=batch_size), loop.add_gradients
    steps, last = [], 24 // batch_size

    def signalled(*arguments):
        steps.append(1)
        if len(steps) == last:
            signal.raise_signal(signal.SIGTERM)
        return real(*arguments)

    monkeypatch.setattr(loop, "add_gradients", signalled)
    with pytest.raises(Stopped):
        train_model(run)
    assert len(steps) == last
    done = train_model(
        replace(make_run(tmp_path, tokenizer, batch_size=batch_size, output=run.spec.output), resume=True)
    )
    assert done.epoch == 3 and len(steps) == 3 * last, "nothing is done twice"
