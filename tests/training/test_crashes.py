"""A training run survives whatever is done to it: killed anywhere, refused by the disk anywhere, its files damaged.

`make torture` tries every operation of a whole run and hundreds of moments; `make test` tries some of each.
"""

import json
import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest

from kd_scratch.checkpoints.checkpoint import load_model, save_model
from kd_scratch.checkpoints.safetensors import is_intact, read_metadata, save_file
from kd_scratch.common import files
from kd_scratch.common.files import is_leftover, sha256_of_file
from kd_scratch.training import bookkeeping
from kd_scratch.training.optimizer import Stepper
from kd_scratch.training.resume import DAMAGED, PREVIOUS, STATE, Progress
from tests.conftest import TEXTS, TORTURE, tiny_model
from tests.forking import Finished
from tests.training.crashing import REFUSALS, kill_at, limit_at, operations, refuse_at, run, run_and_kill

KILLED = -signal.SIGKILL
MODEL_FILES = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "vocab.txt"]


class Bench:
    """A short distillation, and what it leaves when nothing happens to it."""

    def __init__(self, folder: Path, tokenizer):
        self.folder = folder
        labels = ("money", "sport")
        rows = [f"{labels[i % 2]},{TEXTS[1 + i % 2].replace(',', '')} {'again ' * (i % 5)}" for i in range(20)]
        (folder / "data.csv").write_text("label,text\n" + "\n".join(rows) + "\n")
        for name, seed in (("teacher", 1), ("base", 2)):
            save_model(tiny_model(labels=labels, seed=seed, depth=1, vocab_size=tokenizer.vocab_size), folder / name)
            tokenizer.save(folder / name, max_length=24)
        for name in ("first", "whole"):  # the first one is slower
            started = time.perf_counter()
            finished = run(self.argv(name))
            self.seconds = time.perf_counter() - started
            assert finished.status == 0, finished.text
        self.expected = self.left("whole")
        self.operations = operations(self.argv("watched"), folder / "operations.txt")
        assert self.left("watched") == self.expected
        assert self.expected["best"][0] == 2 and len(self.expected["losses"]) == 3, "kept twice; stopped early"

    def argv(self, name: str) -> list[str]:
        """A run with dropout, shuffling, accumulation, warm-up, early stopping and a teacher; --resume all the time."""
        flags = "--task csv --epochs 4 --batch-size 10 --accumulation 2 --learning-rate 1e-3 --warmup-steps 2"
        flags += " --alpha 0.3 --patience 1 --max-length 24 --dropout 0.1 --device cpu --threads 1 --resume"
        paths = {"train": "data.csv", "dev": "data.csv", "model": "base", "teacher": "teacher"}
        paths |= {"output": name, "cache": f"{name}-cache"}
        return ["train", *flags.split(), *(w for k, v in paths.items() for w in (f"--{k}", str(self.folder / v)))]

    def left(self, name: str) -> dict:
        """All that a finished run has left, but for times: hashes, losses, scores, names of files."""
        output, cache = self.folder / name, self.folder / f"{name}-cache"
        record = json.loads((output / "training.json").read_text())
        return {
            "weights": sha256_of_file(output / "model.safetensors"),
            "losses": [epoch["loss"] for epoch in record["history"]],
            "scores": [epoch["dev"] for epoch in record["history"]],
            "best": (record["best_epoch"], record["best_score"], record["best_sha256"]),
            "card": (output / "README.md").read_text().partition("<!--")[0].replace(f"# `{name}`", ""),
            "files": sorted(os.listdir(output)),
            "cache": sorted(os.listdir(cache)),
            "logits": [sha256_of_file(path) for path in sorted(cache.iterdir())],
        }

    def resume(self, name: str, states: tuple[str, ...] = (STATE, PREVIOUS)) -> None:
        """Whatever has happened: what is there is whole, the same command finishes the run, and nothing was lost."""
        output = self.folder / name
        for file in states:
            assert not (output / file).exists() or is_intact(output / file), file
        if (output / "model.safetensors").exists() and all((output / file).exists() for file in MODEL_FILES):
            load_model(output)
        done = (output / "training.json").exists() and not any((output / file).exists() for file in (STATE, PREVIOUS))
        if not done:
            finished = run(self.argv(name))
            assert finished.status == 0, finished.text
        assert self.left(name) == self.expected
        shutil.rmtree(output)
        shutil.rmtree(self.folder / f"{name}-cache")

    def steps_done(self, name: str) -> int:
        """The optimizer step at which a run would go on."""
        return json.loads(read_metadata(self.folder / name / STATE)["progress"])["step"]


@pytest.fixture(scope="module")
def bench(tmp_path_factory, tokenizer):
    return Bench(tmp_path_factory.mktemp("crashes"), tokenizer)


def some(items: list, count: int) -> list:
    """All of them under torture, else so many, evenly spread."""
    return items if TORTURE else [items[i * len(items) // count] for i in range(count)]


def assert_one_line(finished: Finished, *fragments: str) -> None:
    """A refusal: exit status 2, one error line with these fragments in it, no traceback."""
    assert finished.status == 2, finished.text
    (line,) = [line for line in finished.text.splitlines() if line.startswith("error: ")]
    assert all(fragment in line for fragment in fragments), line
    assert "Traceback" not in finished.text


def test_a_whole_run_writes_state_weights_and_record_and_nothing_else_is_left(bench):
    assert bench.expected["files"] == sorted([*MODEL_FILES, "README.md", "report.html", "training.json"])
    renamed = [file for name, file in bench.operations if name == "replace"]
    assert sum(STATE in file for file in renamed) >= 4 and any("model.safetensors" in file for file in renamed)
    assert {name for name, _ in bench.operations} == {"write", "fsync", "replace", "unlink"}


def test_killed_before_any_write_fsync_rename_or_deletion_the_run_ends_the_same(bench):
    numbers = [i for i, (name, _) in enumerate(bench.operations) if name != "write"]
    writes = [i for i, (name, _) in enumerate(bench.operations) if name == "write"]
    for number in sorted([*some(numbers, 30), *some(writes, 6)]):
        assert run(bench.argv("killed"), kill_at(number)).status == KILLED, bench.operations[number]
        bench.resume("killed")


def test_killed_in_the_middle_of_any_write_the_run_ends_the_same(bench):
    for number in some([i for i, (name, _) in enumerate(bench.operations) if name == "write"], 10):
        assert run(bench.argv("torn"), kill_at(number, half=True)).status == KILLED
        bench.resume("torn")


def test_killed_at_random_moments_the_run_ends_the_same(bench):
    rng, count, kills = random.Random(0), 200 if TORTURE else 12, 0
    longest = bench.seconds
    for _ in range(count):
        killed = run_and_kill(bench.argv("shot"), rng.uniform(0, longest)).status == KILLED
        kills += killed
        longest *= 1 if killed else 0.7  # the machine has become faster since it was measured
        bench.resume("shot")
    assert kills > count / 3, "most had not ended by themselves"


def test_killed_again_and_again_the_run_still_ends_the_same_and_no_file_piles_up(bench):
    rng, output = random.Random(1), bench.folder / "often"
    output.mkdir()
    kills = 0
    while kills < (40 if TORTURE else 8):
        if run_and_kill(bench.argv("often"), rng.uniform(0.2, 1.0) * bench.seconds).status == 0:
            break
        kills += 1
        leftovers = [file.rsplit(".", 2)[0] for file in os.listdir(output) if is_leftover(file)]
        assert len(leftovers) == len(set(leftovers)), leftovers
    assert kills > 0
    bench.resume("often")


@pytest.mark.parametrize("for_good", [False, True], ids=["once", "from then on"])
def test_whatever_the_disk_refuses_is_one_line_and_nothing_is_lost(bench, for_good):
    """A full disk refuses once and lets us tidy up; one that has become read-only refuses everything that follows."""
    everything = [i for i, (name, _) in enumerate(bench.operations)]
    for turn, number in enumerate(some(everything, 20)):
        code = REFUSALS[turn % len(REFUSALS)]
        name, file = bench.operations[number]
        finished = run(bench.argv("refused"), refuse_at(number, code, for_good))
        if finished.status:
            assert_one_line(finished, os.strerror(code), str(bench.folder))
            if (bench.folder / "refused" / STATE).exists():
                assert "--resume" in finished.text
        else:  # what could not be deleted was only a leftover
            assert name == "unlink", (name, file)
        bench.resume("refused")


def saves(bench) -> list[int]:
    """The number of the first write of each saving of the state."""
    found, hidden_losses = [], False
    for number, (name, file) in enumerate(bench.operations):
        if name == "write" and STATE in file and not hidden_losses:
            found.append(number)
        hidden_losses = STATE in file if name == "write" else hidden_losses and name != "replace"
    return found


def test_a_file_that_may_not_grow_stops_the_run_with_the_last_state_intact(bench):
    """At every 4 KiB of a saving, by the kernel's own limit."""
    first = saves(bench)[2]
    run(bench.argv("sized"), kill_at(saves(bench)[3]))
    whole = (bench.folder / "sized" / STATE).stat().st_size
    bench.resume("sized")
    sizes = range(0, whole, 4096)
    assert len(sizes) > 10
    for size in some(list(sizes), 6):
        finished = run(bench.argv("limited"), limit_at(first, size))
        assert_one_line(finished, STATE, "File too large", "ulimit -f", "--resume")
        assert is_intact(bench.folder / "limited" / STATE)
        assert bench.steps_done("limited") == 1, "the state before that saving"
        bench.resume("limited")


def flip(path: Path, place: int) -> None:
    """Change a byte of a file in its place."""
    raw = bytearray(path.read_bytes())
    raw[place] ^= 1
    path.write_bytes(raw)


def interrupted(bench, name: str, save: int) -> Path:
    """The folder of a run that was killed before its so-manieth saving of the state."""
    assert run(bench.argv(name), kill_at(saves(bench)[save])).status == KILLED
    return bench.folder / name


def test_a_flipped_bit_in_the_newest_state_is_found_and_the_one_before_it_used(bench):
    output = interrupted(bench, "flipped", 4)
    raw, rng = (output / STATE).read_bytes(), random.Random(0)
    places = [0, 7, 8, 9, 500, *(len(raw) - n for n in (1, 32, 33)), *(rng.randrange(len(raw)) for _ in range(40))]
    for place in places:
        damaged = bytearray(raw)
        damaged[place] ^= 1 << rng.randrange(8)
        (output / STATE).write_bytes(damaged)
        assert not is_intact(output / STATE), place
    for length in (0, 1, 31, 32, 33, len(raw) - 1):
        (output / STATE).write_bytes(raw[:length])
        assert not is_intact(output / STATE), length
    (output / STATE).write_bytes(damaged)
    finished = run(bench.argv("flipped"))
    assert finished.status == 0 and f"{STATE} is damaged" in finished.text
    assert "going on from the one saved before it" in finished.text
    assert bench.left("flipped") == bench.expected


def test_where_both_states_are_damaged_the_run_is_refused(bench):
    output = interrupted(bench, "ruined", 4)
    for file in (STATE, PREVIOUS):
        flip(output / file, -40)
    before = sorted(os.listdir(output))
    assert_one_line(run(bench.argv("ruined")), STATE, "is damaged", "delete the folder and start again")
    assert sorted(os.listdir(output)) == before, "nothing is deleted"


def test_the_state_before_survives_a_damaged_one_even_when_killed_at_the_next_saving(bench):
    output = interrupted(bench, "twice", 4)
    flip(output / STATE, 200)
    for number in range(5):  # renames of the resumed run
        trial = bench.folder / "trial"
        shutil.copytree(output, trial)
        shutil.copytree(bench.folder / "twice-cache", bench.folder / "trial-cache")
        assert run(bench.argv("trial"), kill_at_rename(number)).status == KILLED
        assert any(is_intact(trial / file) for file in (STATE, PREVIOUS)), number
        bench.resume("trial", states=())


def kill_at_rename(number: int):
    """Kill the process before this rename."""
    seen = []

    def hook(count, name, file):
        seen.append(name)
        if name == "replace" and seen.count("replace") > number:
            os.kill(os.getpid(), signal.SIGKILL)

    return hook


def test_kept_weights_that_something_has_changed_are_not_passed_off_as_the_result(bench):
    """Neither where a run is resumed nor, if it happens while it runs, at its end."""
    output, last = interrupted(bench, "changed", len(saves(bench)) - 1), saves(bench)[-1]
    flip(output / "model.safetensors", -5)
    before = sorted(os.listdir(output))
    assert_one_line(run(bench.argv("changed")), "model.safetensors", "something has changed it")
    assert sorted(os.listdir(output)) == before

    def hook(count, name, file):
        if count == last:
            flip(bench.folder / "meanwhile" / "model.safetensors", -5)

    assert_one_line(run(bench.argv("meanwhile"), hook), "model.safetensors", "something has changed it since")
    assert bench.steps_done("meanwhile") == 6, "the state is still there"


def test_weights_newer_than_the_state_give_way_to_those_that_the_state_means(bench):
    """Killed between the weights of the second epoch and its state; done again, that epoch is no better any more."""
    output = interrupted(bench, "newer", 4)
    assert (output / "model.previous.safetensors").exists()
    finished = run([*bench.argv("newer"), "--learning-rate", "1e-9", "--force"])
    assert finished.status == 0 and "going on from the one kept before it" in finished.text
    record = json.loads((output / "training.json").read_text())
    assert record["best_epoch"] == 1 and record["best_sha256"] == sha256_of_file(output / "model.safetensors")
    assert sorted(os.listdir(output)) == bench.expected["files"]


def test_a_newest_state_that_cannot_be_read_is_as_good_as_damaged(bench, monkeypatch):
    output = interrupted(bench, "unreadable", 4)

    def broken(path, mode="r"):
        if Path(path) == output / STATE:
            raise OSError(5, "Input/output error")
        return open(path, mode)

    monkeypatch.setattr(files, "open", broken, raising=False)
    finished = run(bench.argv("unreadable"))
    assert finished.status == 0 and "going on from the one saved before it" in finished.text
    assert bench.left("unreadable") == bench.expected


def test_times_are_those_of_the_whole_run_and_a_finished_record_is_not_emptied(bench):
    """Killed after its record was written and before its state was deleted."""
    number = max(i for i, (name, file) in enumerate(bench.operations) if name == "fsync" and not file) + 1
    assert run(bench.argv("late"), kill_at(number)).status == KILLED
    path = bench.folder / "late" / "training.json"
    before = json.loads(path.read_text())["seconds by phase"]
    bench_left = run(bench.argv("late"))
    after = json.loads(path.read_text())["seconds by phase"]
    assert bench_left.status == 0 and {"forward", "backward", "optimizer"} <= before.keys()
    assert all(after[phase] >= before[phase] > 0 for phase in ("forward", "backward", "optimizer"))


LIES = [{"epoch": "x"}, {"epoch": -5}, {"losses": ["a"]}, {"seconds": "x"}, {"step": "1"}, {"step": 10**400},
        {"best_score": "z"}, {"batch": 1.5}, {"speed": 1}, {"history": {}}, {"step": True}]  # fmt: skip


def test_a_state_that_is_none_is_refused(bench):
    output = bench.folder / "odd"
    for metadata in (
        {},
        {"identity": "{}", "scaler": "{}"},
        {"identity": "[]", "progress": "{}", "scaler": "{}"},
        {"identity": "{}", "progress": '{"speed": 1}', "scaler": "{}"},
        {"identity": "{}", "progress": "not JSON", "scaler": "{}"},
        {"identity": "{}", "progress": "[" * 100_000, "scaler": "{}"},
        *({"identity": "{}", "progress": json.dumps(vars(Progress()) | lie), "scaler": "{}"} for lie in LIES),
    ):
        output.mkdir(exist_ok=True)
        save_file({}, output / STATE, metadata, checksum=True)
        assert_one_line(run(bench.argv("odd")), STATE, "is no training state")


def test_resume_with_nothing_there_begins_and_says_so(bench):
    (bench.folder / "fresh").mkdir()
    (bench.folder / "fresh" / f".{STATE}.host.1.tmp").write_text(
        "left by a process that was killed at its first saving"
    )
    finished = run(bench.argv("fresh"))
    assert finished.status == 0 and "nothing to resume" in finished.text
    finished = run(bench.argv("fresh"))
    assert_one_line(finished, "holds no unfinished run to resume")


def test_two_runs_cannot_write_into_one_folder(bench):
    output = bench.folder / "both"
    output.mkdir()
    with files.locked(output):
        assert_one_line(run(bench.argv("both")), "another process writes there")
    with files.locked(output):  # the lock has gone with its process
        pass
    bench.resume("both")


def test_what_is_not_ours_is_never_deleted(bench):
    """Neither files that look like what is left over, nor a newest state that could only not be read."""
    output = interrupted(bench, "mine", 4)
    (output / ".notes.tmp").write_text("precious")
    (output / ".x.tmp").mkdir()
    (output / STATE).write_bytes(b"unreadable now")
    finished = run(bench.argv("mine"), kill_at(1))
    assert (output / DAMAGED).read_bytes() == b"unreadable now", finished.text
    assert run(bench.argv("mine")).status == 0
    assert (output / ".notes.tmp").read_text() == "precious" and (output / ".x.tmp").is_dir()
    assert sorted(os.listdir(output)) == sorted([*bench.expected["files"], ".notes.tmp", ".x.tmp"])


def test_a_run_whose_other_files_are_gone_does_not_pass_for_finished(bench):
    output = interrupted(bench, "bare", len(saves(bench)) - 1)
    for name in ("config.json", "tokenizer.json", "vocab.txt"):  # the first is written again
        (output / name).unlink()
    assert_one_line(run(bench.argv("bare")), "bare: has no tokenizer.json and no vocab.txt")
    assert bench.steps_done("bare") == 6, "the state is still there"


def test_another_setting_is_refused_by_name_and_goes_on_by_force(bench):
    output = interrupted(bench, "forced", 3)
    other = [*bench.argv("forced"), "--learning-rate", "2e-3"]
    assert_one_line(run(other), "settings.learning_rate was 0.001, is 0.002; --force goes on")
    assert_one_line(run([*other, "--threads", "2"]), "settings.learning_rate", "threads was 1, is 2")
    finished = run([*other, "--force"])
    assert finished.status == 0 and "note: resumed by force: settings.learning_rate" in finished.text
    record = json.loads((output / "training.json").read_text())
    assert record["forced"] == ["settings.learning_rate was 0.001, is 0.002"]
    assert record["settings"]["learning_rate"] == 0.002
    assert bench.left("forced")["losses"] != bench.expected["losses"]


def test_force_cannot_take_epochs_for_looks(bench):
    """The progress counts either; one taken for the other gives another number of steps."""
    interrupted(bench, "looking", 3)
    argv = [*bench.argv("looking"), "--looks", "5"]
    why = "settings.looks was 0, is 5; not even --force can go on with other --looks"
    for force in ([], ["--force"]):
        assert_one_line(run([*argv, *force]), why)


def test_force_cannot_put_weights_into_another_model(bench, tokenizer):
    interrupted(bench, "misfit", 3)
    labels = ("money", "sport")
    other = tiny_model(labels=labels, depth=2, vocab_size=tokenizer.vocab_size)
    save_model(other, bench.folder / "deeper")
    tokenizer.save(bench.folder / "deeper", max_length=24)
    argv = [*bench.argv("misfit"), "--model", str(bench.folder / "deeper")]
    for force in ([], ["--force"]):
        assert_one_line(run([*argv, *force]), "not even --force can go on where other weights are trained")


def test_force_cannot_give_the_rows_of_a_table_to_other_words_or_labels(bench):
    """As many words and labels as before, so that all shapes fit."""
    output, data = interrupted(bench, "reworded", 3), bench.folder / "data.csv"
    original = data.read_text()
    state = (output / STATE).read_bytes()
    for old, new, what in (("goalkeeper", "bbbbbbbbb", "words"), ("money,", "honey,", "labels")):
        data.write_text(original.replace(old, new))
        finished = run([word for word in [*bench.argv("reworded"), "--force"] if "teacher" not in word])
        data.write_text(original)
        assert_one_line(finished, "not even --force can go on with other", what)
        assert (output / STATE).read_bytes() == state


def test_a_forced_run_of_fewer_steps_has_a_learning_rate_above_0_in_all_of_them(bench, monkeypatch):
    """The unfinished epoch begins anew, and the schedule ends where the steps end."""
    interrupted(bench, "fewer", 5)  # in the third of four epochs, after five of eight steps; now there is one an epoch
    real, rates = Stepper.step, bench.folder / "rates.txt"

    def noting(self, *arguments):
        result = real(self, *arguments)
        with open(rates, "a") as log:
            log.write(f"{self.optimizer.param_groups[0]['lr']}\n")
        return result

    monkeypatch.setattr(Stepper, "step", noting)
    assert run([*bench.argv("fewer"), "--batch-size", "20", "--force"]).status == 0
    found = [float(line) for line in rates.read_text().split()]
    assert found and all(rate > 0 for rate in found)


def test_force_needs_resume(bench):
    argv = [word for word in bench.argv("nothing") if word != "--resume"]
    assert_one_line(run([*argv, "--force"]), "--force is about --resume")
    assert not (bench.folder / "nothing").exists()


def test_a_folder_that_cannot_be_written_to_is_found_before_work_starts(bench):
    argv = [*bench.argv("x"), "--output", "/proc/nowhere"]
    assert_one_line(run(argv), "/proc/nowhere")


def test_with_the_cache_gone_the_teacher_is_asked_again_and_the_run_ends_the_same(bench):
    interrupted(bench, "live", 3)
    shutil.rmtree(bench.folder / "live-cache")
    bench.resume("live")


def test_killed_between_the_weights_and_the_state_of_the_first_epoch_the_run_ends_the_same(bench):
    """With the usual ten minutes between two savings: the first state was written before the first step."""
    renamed = []

    def hook(count, name, file):
        bookkeeping.SAVE_EVERY = 600
        if "training_state" in file and any(".config.json" in name for name in renamed):
            os.kill(os.getpid(), signal.SIGKILL)
        if name == "replace":
            renamed.append(file)

    assert run(bench.argv("early"), hook).status == KILLED
    assert bench.steps_done("early") == 0 and (bench.folder / "early" / "model.safetensors").exists()
    bench.resume("early")
