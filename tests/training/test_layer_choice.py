"""layer_choice.py: the student's layers, chosen by short runs on dev."""

import itertools
import json
import math
import os
import shutil
import signal
from contextlib import contextmanager

import pytest

import kd_scratch
from kd_scratch.__main__ import main
from kd_scratch.checkpoints.checkpoint import fingerprint, load_model, save_model
from kd_scratch.common.errors import UserError
from kd_scratch.data.tokenizer import load_tokenizer, train_tokenizer
from kd_scratch.training import layer_choice, loop
from kd_scratch.training.layer_choice import choices, num_choices, ranked
from kd_scratch.training.spec import layer_count
from tests.commands.test_commands import WORDS, write_csv
from tests.common.test_distributed import train as train_in_ranks
from tests.conftest import tiny_model

FAST = "--epochs 4 --batch-size 8 --learning-rate 3e-3 --max-length 24 --device cpu --threads 1 --warmup-steps 8"


def solid(text):
    """A text without blanks: a table breaks long lines, in the middle of a path too."""
    return "".join(text.split())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Data, and a classifier of three layers that may teach it too."""
    folder = tmp_path_factory.mktemp("layers")
    for name, rows in (("train", 48), ("dev", 60)):
        write_csv(folder / f"{name}.csv", rows, seed=rows)
    tokenizer = train_tokenizer([*WORDS.values(), "the a of and"], vocab_size=80)
    for name, labels in (("model", ("no", "yes", "maybe")), ("teacher", tuple(sorted(WORDS)))):
        save_model(tiny_model(labels=labels, vocab_size=tokenizer.vocab_size), folder / name)
        tokenizer.save(folder / name, max_length=24)
    return folder


def command(folder, output, *more) -> list[str]:
    """A `train`: 24 steps, whose short runs have 6."""
    paths = {"--train": "train.csv", "--dev": "dev.csv", "--model": "model", "--cache": "cache"}
    argv = ["train", "--task", "csv", *FAST.split(), "--output", str(output)]
    return argv + [str(word) for flag, name in paths.items() for word in (flag, folder / name)] + list(map(str, more))


AUTO = ("--init-layers", "auto:2", "--layer-steps", "6")


def record(output) -> dict:
    """What a run wrote of itself."""
    return json.loads((output / "training.json").read_text())


def known(output) -> dict:
    """What was written of the choice."""
    return json.loads((output / "layers.json").read_text())


# --- which choices are tried ---


def search(depth, count, score) -> list[tuple]:
    """The choices that are tried, where each has this score."""
    scores, tried = {}, []
    for layers in choices(depth, count, scores):
        tried.append(tuple(layers))
        scores[",".join(map(str, layers))] = score(tried[-1])
    return tried


@pytest.mark.parametrize("depth, count", [(6, 2), (6, 3), (12, 1), (12, 11), (24, 1), (2, 1)])
def test_of_few_choices_all_are_tried_in_order(depth, count):
    tried = search(depth, count, lambda layers: 0.0)
    assert tried == list(itertools.combinations(range(depth), count)) and len(tried) == num_choices(depth, count) <= 24


@pytest.mark.parametrize("depth, count", [(12, 2), (12, 3), (12, 6), (7, 3), (24, 22)])
def test_of_many_choices_evenly_spread_layers_are_bettered_one_at_a_time(depth, count):
    wanted = set(range(1, depth, 2)) if count < depth - 2 else set(range(2, depth))
    tried = search(depth, count, lambda layers: len(wanted & set(layers)))
    assert len(tried) == len(set(tried)) == num_choices(depth, count) == 1 + count * (depth - count)
    assert tried[0] == tuple(i * depth // count for i in range(count)) and math.comb(depth, count) > 24
    assert all(len(layers) == count and list(layers) == sorted(layers) for layers in tried)
    best = max(len(wanted & set(layers)) for layers in tried)
    assert best == min(count, len(wanted)), "which exchanges one by one can find"


def test_of_equal_choices_the_first_by_its_layers_is_best():
    assert ranked({"2,10": 0.5, "0,1": 0.4, "2,9": 0.5}) == [([2, 9], 0.5), ([2, 10], 0.5), ([0, 1], 0.4)]
    assert len(set(search(12, 2, lambda layers: 0.5))) == num_choices(12, 2)


def test_how_many_layers_are_chosen():
    assert [layer_count(text, 6) for text in ("auto", "auto:1", "auto:5")] == [3, 1, 5] and layer_count("auto", 3) == 1
    for text, depth in (("auto:6", 6), ("auto", 1)):
        with pytest.raises(UserError, match=f"--init-layers {text}: --model has {depth} layers"):
            layer_count(text, depth)


# --- the search ---


@pytest.fixture(scope="module")
def chosen(folder):
    """A run whose layers were chosen."""
    assert main(command(folder, folder / "chosen", *AUTO, "--teacher", folder / "teacher")) == 0
    return folder / "chosen"


def test_the_best_is_trained_as_if_its_layers_had_been_given(folder, chosen):
    found, scores = record(chosen)["layer choice"], known(chosen)["scores"]
    best = min(scores, key=lambda key: (-scores[key], key))
    assert set(scores) == {"0,1", "0,2", "1,2"} and known(chosen)["layers"] == list(map(int, best.split(",")))
    assert found == scores | {"steps": 6} and list(found)[:2] == ["steps", best], "the best first"
    given = command(folder, folder / "given", "--init-layers", best, "--teacher", folder / "teacher")
    assert main(given) == 0
    assert fingerprint(load_model(chosen)) == fingerprint(load_model(folder / "given"))
    one, two = record(chosen), record(folder / "given")
    assert {key for key in one if one[key] != two.get(key)} <= {
        "layer choice", "seconds", "seconds by phase", "history", "spent", "matmul rate",
    }  # fmt: skip
    assert one["seconds by phase"]["choosing layers"] > 0 and "layer choice" not in two


@pytest.mark.parametrize(
    "more",
    [["--layer-map", "own"], ["--layer-map", "last", "--alpha", "0"]],
    ids=["own", "last"],
)
def test_a_short_run_is_the_training_that_follows(folder, tmp_path, more):
    """Each score is that of a run with these layers, the short schedule, and one look at dev at its end."""
    more = ["--teacher", str(folder / "teacher"), "--losses", "hidden,relations", *more]
    assert main(command(folder, tmp_path / "auto", *AUTO, *more)) == 0
    for layers, score in known(tmp_path / "auto")["scores"].items():
        output = tmp_path / layers
        alone = ["--init-layers", layers, "--steps", "6", "--looks", "1", "--warmup-steps", "2"]
        assert main([*command(folder, output, *more), *alone]) == 0
        assert record(output)["best_score"] == score, layers


def test_nothing_but_the_scores_remains_of_the_search(chosen):
    names = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "vocab.txt"}
    assert {path.name for path in chosen.iterdir()} == names | {
        "training.json",
        "report.html",
        "layers.json",
        "README.md",
    }
    page, scores = (chosen / "report.html").read_text(), known(chosen)["scores"]
    assert all(f"layer choice: {layers}" in page for layers in scores)


def test_it_is_told_before_on_the_way_and_as_a_table(folder, tmp_path, capsys):
    assert main(command(folder, tmp_path / "run", *AUTO)) == 0
    printed, found = capsys.readouterr().out, known(tmp_path / "run")
    plan = f"2 of the 3 of {folder / 'model'} by their score on dev: all choices are tried, 3 short runs of 6 steps"
    assert solid(f"layers {plan}") in solid(printed) and f"choosing layers: {plan}\n" in printed
    assert "(1/3, about" in printed and "(3/3" in printed
    table = printed.split("layers  dev accuracy")[1].split("\n")[2:5]
    rows = [(line[:4].replace(" ", ""), float(line[4:])) for line in table]
    assert rows == sorted(rows, key=lambda row: (-row[1], row[0])) and dict(rows) == pytest.approx(
        found["scores"], abs=1e-4
    )
    best = ", ".join(map(str, found["layers"]))
    assert f"layers {best} of {folder / 'model'} become 0, 1: best of 3 on dev, see layers.json" in printed
    assert list(found["layers"]) == [int(n) for n in rows[0][0].split(",")]


def test_check_searches_nothing_and_says_what_would_be(folder, tmp_path, capsys):
    argv = command(folder, tmp_path / "run", "--init-layers", "auto", "--check")
    assert main(argv) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "dev: all choices are tried, 3 short runs of a tenth of all (or 50) steps" in printed
    save_model(tiny_model(depth=7, vocab_size=80), tmp_path / "deep")
    load_tokenizer(folder / "model").save(tmp_path / "deep", max_length=24)
    assert main([*argv, "--model", str(tmp_path / "deep"), "--layer-steps", "9"]) == 0
    how = "dev: a greedy search, from evenly spread ones on each in turn exchanged for every other, 13 short runs of 9"
    assert how in " ".join(capsys.readouterr().out.split())
    assert not (tmp_path / "run").exists()


def test_short_runs_have_a_tenth_of_the_steps_but_at_least_fifty_and_no_more_than_the_run(
    folder, tmp_path, monkeypatch
):
    assert (layer_choice.LEAST, layer_choice.SHARE) == (50, 10)
    monkeypatch.setattr(layer_choice, "LEAST", 3)
    for total, steps in ((2, 2), (20, 3), (49, 4)):
        output = tmp_path / f"{steps}"
        assert main(command(folder, output, "--init-layers", "auto:1", "--steps", total, "--looks", 1)) == 0
        assert record(output)["layer choice"]["steps"] == steps


def test_from_python(folder, tmp_path):
    settings = dict(epochs=1, max_length=24, layer_steps=3, cache=folder / "cache", device="cpu", threads=1)
    files = folder / "train.csv", folder / "dev.csv"
    done = kd_scratch.train("csv", *files, folder / "model", tmp_path / "run", init_layers="auto:1", **settings)
    assert done["layer choice"]["steps"] == 3 and load_model(tmp_path / "run").config.depth == 1


# --- stopped, gone on with, refused ---


@pytest.fixture
def stopping(monkeypatch):
    """A function: the search gets a signal while the short run of this number is scored. Gives the list of runs."""
    real, begun = layer_choice.score_dev, []

    def stop_at(number: int) -> list:
        def score_dev(trainer):
            begun.append(trainer.run.spec.init_layers)
            if len(begun) == number:
                os.kill(os.getpid(), signal.SIGTERM)
            return real(trainer)

        monkeypatch.setattr(layer_choice, "score_dev", score_dev)
        return begun

    return stop_at


@contextmanager
def a_signal_after_the_first_epoch():
    """The training, not the search, gets a signal."""
    real = loop.finish_epoch
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "finish_epoch", lambda *args: (real(*args), os.kill(os.getpid(), signal.SIGTERM)))
        yield


def test_a_stopped_search_goes_on_and_tries_nothing_twice(folder, chosen, tmp_path, stopping, capsys):
    argv, begun = command(folder, tmp_path / "run", *AUTO, "--teacher", folder / "teacher"), stopping(2)
    assert main(argv) == 128 + signal.SIGTERM
    assert "nothing is lost; " in (error := capsys.readouterr().err) and "--resume goes on" in error
    assert {path.name for path in (tmp_path / "run").iterdir() if path.suffix != ".tmp"} == {"layers.json"}
    assert len(known(tmp_path / "run")["scores"]) == 2
    assert main(argv) == 2 and "already holds a run; continue it with --resume" in capsys.readouterr().err
    assert main([*argv, "--resume"]) == 0
    assert begun == [(0, 1), (0, 2), (1, 2)]
    assert fingerprint(load_model(tmp_path / "run")) == fingerprint(load_model(chosen))
    assert main([*argv, "--resume"]) == 2 and "holds no unfinished run to resume" in capsys.readouterr().err


def test_a_greedy_search_that_is_stopped_takes_the_same_way_again(folder, tmp_path, stopping, monkeypatch):
    monkeypatch.setattr(layer_choice, "ALL", 2)
    argv, begun = command(folder, tmp_path / "run", "--init-layers", "auto:1", "--layer-steps", 4), stopping(2)
    assert main(argv) == 128 + signal.SIGTERM
    assert main([*argv, "--resume"]) == 0 and begun == [(0,), (1,), (2,)]
    assert len(known(tmp_path / "run")["scores"]) == 3


@pytest.mark.parametrize("stop", range(1, 13))
def test_wherever_a_greedy_search_of_several_layers_is_stopped_it_takes_the_same_way_again(stop):
    def search(scores, most):
        for layers in layer_choice.choices(7, 3, scores):
            name = layer_choice.layers_key(layers)
            if len(scores) == most and name not in scores:
                return scores
            scores[name] = sum(layers) % 5 / 10
        return scores

    whole = search({}, 99)
    assert len(whole) == layer_choice.num_choices(7, 3) and {name.count(",") for name in whole} == {2}
    assert search(search({}, stop), 99) == whole


def test_a_signal_in_a_short_run_ends_it_and_it_is_tried_again(folder, tmp_path, monkeypatch, capsys):
    real = layer_choice.train_epoch

    def train_epoch(trainer, books):
        if trainer.run.spec.init_layers == (0, 2):
            os.kill(os.getpid(), signal.SIGTERM)
        return real(trainer, books)

    argv = command(folder, tmp_path / "run", *AUTO)
    with monkeypatch.context() as patch:
        patch.setattr(layer_choice, "train_epoch", train_epoch)
        assert main(argv) == 128 + signal.SIGTERM
    assert list(known(tmp_path / "run")["scores"]) == ["0,1"] and "--resume goes on" in capsys.readouterr().err
    assert main([*argv, "--resume"]) == 0 and len(known(tmp_path / "run")["scores"]) == 3


def test_an_interrupted_run_goes_on_with_the_layers_that_were_chosen(folder, chosen, tmp_path, stopping, capsys):
    """Also where the state was not yet written, and where the settings of the short runs have changed since."""
    output = tmp_path / "run"
    output.mkdir()
    shutil.copy(chosen / "layers.json", output)
    argv, begun = command(folder, output, *AUTO, "--teacher", folder / "teacher", "--resume"), stopping(1)
    assert main([*argv, "--check"]) == 0
    layers = ", ".join(map(str, known(chosen)["layers"]))
    line = f"{layers} of {folder / 'model'} become 0, 1: best of 3 on dev, see layers.json"
    assert solid(line) in solid(capsys.readouterr().out)
    with a_signal_after_the_first_epoch():
        assert main(argv) == 128 + signal.SIGTERM
    assert main([*argv, "--layer-steps", "5"]) == 0 and not begun
    assert fingerprint(load_model(output)) == fingerprint(load_model(chosen))
    spent = [record(folder)["seconds by phase"]["choosing layers"] for folder in (output, chosen)]
    assert spent[0] == pytest.approx(spent[1]), "counted once"


def test_what_was_chosen_for_another_run_is_not_taken(folder, chosen, tmp_path, capsys):
    output = tmp_path / "run"
    output.mkdir()
    shutil.copy(chosen / "layers.json", output)
    argv = command(folder, output, *AUTO, "--teacher", folder / "teacher", "--resume")
    for flags, message in (
        (["--seed", "5"], "its short runs were others: seed was 0, is 5; "),
        (["--layer-steps", "7"], "short steps was 6, is 7; delete it, and the layers are chosen anew"),
        (["--alpha", "1"], "settings.alpha was 0.5, is 1.0"),
        (["--init-layers", "auto:1"], "is a choice of another number of layers; choose another --output"),
        (["--init-layers", "auto:3"], "--model has 3 layers; give fewer"),
        (["--init-layers", "auto:0"], "--model has 3 layers; give fewer"),
        (["--init-layers", "0;2"], "is not a list of layer numbers such as 0,2,4, nor auto:2"),
    ):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(layer_choice, "try_layers", None)
            try:
                status = main([*argv, *flags])
            except SystemExit as error:
                status = error.code
        assert status == 2 and message in capsys.readouterr().err, flags
    other = known(output) | {"scores": {"0,1": 1.0}, "layers": [0, 2]}
    for content in ("[]", '{"steps": 3}', json.dumps(other), json.dumps(other | {"scores": {"a": 1}})):
        (output / "layers.json").write_text(content)
        assert main(argv) == 2
        assert "layers.json: is no choice of layers; delete the folder and start again" in capsys.readouterr().err
    (output / "layers.json").unlink()
    assert main(argv) == 0, "deleted, they are chosen anew"


def test_a_run_that_was_begun_with_other_layers_is_not_gone_on_with(folder, tmp_path, stopping, capsys):
    """Given ones and chosen ones; nothing is tried in vain, and no choice is left beside a model of other layers."""
    given = command(folder, tmp_path / "given")
    with a_signal_after_the_first_epoch():
        assert main([*given, "--init-layers", "0,1"]) == 128 + signal.SIGTERM
    begun = stopping(1)
    assert main([*given, *AUTO, "--resume"]) == 2 and not begun and not (tmp_path / "given" / "layers.json").exists()
    cure = f"{tmp_path / 'given'}: began with layers that were given; give --init-layers as then"
    assert cure in capsys.readouterr().err
    assert main([*given, "--init-layers", "0,1", "--resume"]) == 0
    chosen = command(folder, tmp_path / "chosen")
    assert main([*chosen, *AUTO]) == 128 + signal.SIGTERM
    for layers in (["--init-layers", "0,1"], []):
        assert main([*chosen, *layers, "--resume"]) == 2
        error = capsys.readouterr().err
        assert "layers.json: layers were being chosen here (--init-layers auto); give that again, or del" in error
    (tmp_path / "chosen" / "layers.json").unlink()
    assert main([*chosen, "--init-layers", "0,1", "--resume"]) == 0


@pytest.mark.parametrize("more, message", [
    (["--init-layers", "auto:2", "--model", "tiny-student"], "--init-layers picks layers of a model directory"),
    (["--layer-steps", "9"], "--layer-steps is about --init-layers auto; leave it out"),
    (["--init-layers", "0", "--layer-steps", "9"], "--layer-steps is about --init-layers auto; leave it out"),
    (["--init-layers", "auto:2", "--layer-steps", "-1"], "--layer-steps must be 0 or more, not -1"),
])  # fmt: skip
def test_settings_that_do_not_go_with_it(folder, tmp_path, capsys, more, message):
    assert main([*command(folder, tmp_path / "run"), *more]) == 2 and message in capsys.readouterr().err


def test_a_list_that_is_none_from_python(folder, tmp_path):
    with pytest.raises(UserError, match="--init-layers auto:x: --model has 3 layers; give fewer, as in auto:1"):
        files = folder / "train.csv", folder / "dev.csv"
        kd_scratch.train("csv", *files, folder / "model", tmp_path / "run", init_layers="auto:x", device="cpu")


# --- several processes, and studies ---


@pytest.mark.slow
def test_two_processes_choose_what_one_does(folder, tmp_path):
    outputs = [tmp_path / f"run-{size}" for size in (1, 2)]
    for size, output in zip((1, 2), outputs, strict=True):
        more = ["--dropout", "0", "--losses", "hidden", "--teacher", folder / "teacher"]
        train_in_ranks(*[command(folder, output, *AUTO, *more)] * size)
    one, two = (known(output) for output in outputs)
    assert one["layers"] == two["layers"] and one["scores"] == pytest.approx(two["scores"], abs=0.02)
