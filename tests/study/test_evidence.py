"""The command `evidence` from start to end: what it runs, goes on with, refuses and reports."""

import json
import os
import shutil
import signal
from dataclasses import replace

import pytest
import torch

import kd_scratch.study.results
from kd_scratch.__main__ import main, make_parser
from kd_scratch.checkpoints.checkpoint import fingerprint, load_config, load_model, save_model
from kd_scratch.commands.evidence import make_spec, parse_grid, seed_list
from kd_scratch.common import device
from kd_scratch.common.errors import UserError
from kd_scratch.common.signals import Stopped
from kd_scratch.data.tokenizer import load_tokenizer, train_tokenizer
from kd_scratch.evaluation import inference
from kd_scratch.study import runner
from kd_scratch.study.preparation import complete
from kd_scratch.study.results import Evaluator, read_facts, read_records
from kd_scratch.study.runner import run_study
from kd_scratch.study.spec import StudySpec, parse_flags
from kd_scratch.study.variants import BASELINE, SOFT, first_variants
from kd_scratch.training import layer_choice
from kd_scratch.training.examples import data_hashes
from tests.commands.test_commands import write_csv
from tests.conftest import tiny_model
from tests.cures.world import drop, stop

FAST = "--epochs 1 --batch-size 16 --learning-rate 1e-3 --max-length 24 --threads 1 --device cpu".split()


def spec_of(argv) -> StudySpec:
    """The study that a command line describes."""
    return make_spec(make_parser().parse_args(argv))


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Data, a teacher, and the flags of a study of them."""
    folder = tmp_path_factory.mktemp("study")
    files = {
        name: write_csv(folder / f"{name}.csv", n, seed=n) for name, n in (("train", 48), ("dev", 24), ("test", 30))
    }
    data = ["--task", "csv", "--train", files["train"], "--dev", files["dev"]]
    teacher, cache = str(folder / "teacher"), ["--cache", str(folder / "cache")]
    argv = ["train", *data, *FAST, *cache, "--vocab-size", "80", "--model", "tiny-student", "--output", teacher]
    assert main(argv) == 0
    common = [*data, *FAST, *cache, "--data", files["test"], "--teacher", teacher, "--model", teacher]
    return folder, ["evidence", *common]


def test_a_study_from_start_to_end_and_once_more(study, capsys, monkeypatch):
    folder, argv = study
    output = folder / "whole"
    argv = [*argv, "--output", str(output), "--seeds", "0,5", "--jobs", "2", "--losses", "hidden,relations=0.5",
            "--grid", "2,4x0.5"]  # fmt: skip
    assert main(argv) == 0
    assert torch.get_num_threads() == min(2, os.cpu_count()), "tests have what both jobs had"
    printed = capsys.readouterr().out
    assert "4 variants with 2 seeds and a grid of 2: 9 runs of 1 epochs" in printed and "Best on dev" in printed
    runs = {path.name for path in (output / "runs").iterdir()}
    wanted = {f"{name}-{seed}" for name in ("baseline", "soft-targets", "hidden", "relations") for seed in (0, 5)}
    assert (
        wanted | {"T=4-alpha=0.5-0"}
        <= runs
        <= wanted | {"T=4-alpha=0.5-0"} | {f"combined-hidden=1+relations=0.5-{seed}" for seed in (0, 5)}
    )
    records = {name: json.loads((output / "runs" / name / "training.json").read_text()) for name in runs}
    for key in ("initial weights", "train", "dev", "step", "tokenizer"):
        assert len({str(r[key]) for r in records.values()}) == 1, f"all have the same {key}"
    assert {name: r["seed"] for name, r in records.items()} == {name: int(name.rsplit("-", 1)[1]) for name in runs}
    assert records["baseline-0"]["teacher"] is None and records["relations-5"]["settings"]["losses"] == "relations=0.5"
    assert records["T=4-alpha=0.5-0"]["settings"]["temperature"] == 4
    found = json.loads((output / "evidence.json").read_text())
    written = (output / "evidence.json").read_bytes()
    assert main(found["command"]) == 0 and (output / "evidence.json").read_bytes() == written, "the command makes it"
    monkeypatch.setattr(runner, "start_train", None)
    monkeypatch.setattr(inference, "results", lambda *inputs, **more: pytest.fail("a model runs again"))
    assert main(argv) == 0
    assert json.loads((output / "evidence.json").read_text()) == found, "nothing is trained or tested again"
    with monkeypatch.context() as patch:
        noted = lambda *given: replace(read_facts(*given), notes=["t was trained on it"])  # noqa: E731
        patch.setattr(runner, "read_facts", noted)
        assert main(argv) == 0 and " t was trained on it.\n" in (output / "evidence.md").read_text()
    plan = json.loads((output / "study.json").read_text())
    plan["variants"]["hidden"].append("--keep-states")  # as of an older version, where that was given
    (output / "study.json").write_text(json.dumps(plan))
    for name, record in records.items():
        record["settings"]["keep_states"] = name.startswith("hidden")
        (output / "runs" / name / "training.json").write_text(json.dumps(record))
    assert main(argv) == 0 and json.loads((output / "evidence.json").read_text()) == found
    assert main([*argv, "--epochs", "2"]) == 2
    assert "this folder holds another study: --epochs was 1, is 2; choose another --output" in capsys.readouterr().err
    record = json.loads((output / "runs" / "hidden-5" / "training.json").read_text())
    (output / "runs" / "hidden-5" / "training.json").write_text(json.dumps(record | {"teacher": "another"}))
    assert main(argv) == 2
    error = capsys.readouterr().err
    assert "hidden-5 and this command do not belong together: they had another teacher; delete one" in error
    monkeypatch.setattr(Evaluator, "predict", lambda self, *more: pytest.fail("no teacher is tested before"))
    assert main(argv) == 2


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--init-layers 0,5", "--init-layers"),
        ("--max-length 999", "999"),
        ("--tokenizer TEACHER", "--tokenizer is for a size"),
        ("--norm-first", "--norm-first: the norms of a model directory stay"),
        ("--limit 0", "--limit 0: leaves"),
        ("--seeds 0,-1", "--seeds 0,-1: is not a list of different seeds"),
    ],
)
def test_what_no_run_could_begin_with_is_refused_before_teachers_are_tested(
    study, flags, message, tmp_path, capsys, monkeypatch
):
    folder, argv = study
    monkeypatch.setattr("kd_scratch.study.runner.Evaluator", lambda *more: pytest.fail("teachers are tested"))
    argv = [*argv, "--losses", "", "--output", str(tmp_path / "out")]
    assert main([*argv, *flags.replace("TEACHER", str(folder / "teacher")).split()]) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def other(study):
    """A finished study with one seed, and its command but for --output."""
    folder, argv = study
    argv = [*argv, "--seeds", "0", "--losses", "hidden"]
    assert main([*argv, "--output", str(folder / "other")]) == 0
    return folder / "other", argv


def test_a_study_beside_another_one(other, study, capsys):
    folder, small = other
    output = folder.parent / "here"
    argv = [*small, "--epochs", "2", "--output", str(output), "--beside", f"less={folder}"]
    assert main(argv) == 0
    assert "less: soft targets against soft targets here: " in capsys.readouterr().out
    found = json.loads((output / "evidence.json").read_text())
    assert {f"less: {name}" for name in (BASELINE, SOFT, "hidden")} < set(found["rows"])
    alone = json.loads((folder / "evidence.json").read_text())
    assert found["rows"]["less: hidden"]["by seed"] == alone["rows"]["hidden"]["by seed"]
    assert found["beside"] == {"less": alone["command"]}
    written = (output / "evidence.json").read_bytes()
    assert main(found["command"]) == 0 and (output / "evidence.json").read_bytes() == written, "the command makes it"


def test_a_study_beside_may_have_a_baseline_of_more_epochs(other, tmp_path):
    """As studies of text without labels had them before there was --steps."""
    folder, small = other
    shutil.copytree(folder, tmp_path / "older")
    path, result = tmp_path / "older" / "runs" / "baseline-0" / "training.json", tmp_path / "older" / "evidence.json"
    record = json.loads(path.read_text())
    older = json.loads(result.read_text())
    path.write_text(json.dumps(record | {"settings": record["settings"] | {"epochs": 20}}))
    older["variants"]["baseline"] = ["--epochs", "20"]
    result.write_text(json.dumps(older))
    assert main([*small, "--output", str(folder), "--beside", f"older={tmp_path / 'older'}"]) == 0
    assert "older: baseline" in (folder / "evidence.md").read_text()


def test_what_cannot_be_compared_is_refused_before_anything_is_trained(other, capsys, monkeypatch):
    folder, small = other
    monkeypatch.setattr(runner, "start_train", None)
    argv = [*small, "--output", str(folder.parent / "never")]

    def refused(*more):
        capsys.readouterr()
        assert main([*argv, *more]) == 2
        return capsys.readouterr().err

    beside = ("--beside", f"less={folder}")
    assert "there is no nowhere/evidence.json; give the --output of a study" in refused("--beside", "a=nowhere")
    assert "--beside: a name is used twice" in refused("--beside", f"a={folder}", "--beside", f"a={folder}")
    assert "give --seeds that both have" in refused(*beside, "--seeds", "0,1")
    assert "had another --limit" in refused(*beside, "--limit", "40")
    result = json.loads((folder / "evidence.json").read_text())
    variants = result["variants"]
    for odd in ([], {"variants": []}, result | {"command": "x"}, result | {"variants": variants | {"../x": []}},
                result | {"variants": variants | {SOFT: 3}}, result | {"variants": {SOFT: []}}):  # fmt: skip
        (folder / "evidence.json").write_text(json.dumps(odd))
        assert "evidence.json is not what a study writes" in refused(*beside), odd
    (folder / "evidence.json").write_text(json.dumps(result))
    path = folder / "runs" / "hidden-0" / "training.json"
    record = json.loads(path.read_text())
    for key in ("task", "train", "dev", "dev drawn by", "teacher", "torch"):
        path.write_text(json.dumps(record | {key: {"task": "agnews"}.get(key, "another")}))
        assert f"do not belong together: they had another {key}" in refused(*beside), key
    path.write_text(json.dumps(record | {"data settings": {"header": "no"}}))  # of a version that had no others
    assert "do not belong together: they had another --header" in refused(*beside)
    path.write_text(json.dumps(record | {"data settings": {}}))  # as if they were the defaults
    assert "do not belong together: they had another --null-threshold" in refused(*beside, "--null-threshold", "0.9")
    path.write_text("{}")
    assert "is not what `train` writes of a run" in refused(*beside)
    path.write_text(json.dumps(record))


def test_a_study_whose_files_have_changed_is_not_reported_as_one_of_the_new_ones(other, capsys, monkeypatch):
    folder, small = other
    monkeypatch.setattr(runner, "start_train", None)
    argv = [*small, "--output", str(folder)]
    for flag, file in (("train", "train.csv"), ("dev", "dev.csv")):
        path = folder.parent / file
        before = path.read_bytes()
        path.write_bytes(before + before.splitlines(keepends=True)[-1])
        assert main(argv) == 2
        assert f"and this command do not belong together: they had another {flag}" in capsys.readouterr().err
        path.write_bytes(before)
    assert main([*argv, "--data", str(folder.parent / "dev.csv")]) == 2
    assert "is what is trained or chosen on; give a test file" in capsys.readouterr().err


def test_runs_that_were_made_otherwise_are_not_put_into_one_table(other, capsys, monkeypatch):
    folder, small = other
    argv = [*small, "--output", str(folder)]
    path = folder / "runs" / "hidden-0" / "training.json"
    record = json.loads(path.read_text())
    settings = record["settings"]
    monkeypatch.setattr(runner, "start_train", None)
    for change, what in (
        ({"device": "cuda"}, "another device;"),
        ({"processes": 2}, "another processes;"),
        ({"numpy": "0.1"}, "another numpy;"),
        ({"tokenizers": "0.1"}, "another tokenizers;"),
        ({"settings": settings | {"epochs": 99}}, "another --epochs;"),
        ({"settings": settings | {"temperature": 9.0}}, "another --temperature;"),
        ({"settings": {key: settings[key] for key in settings.keys() - {"epochs"}}}, "another --epochs;"),
        ({"unlabelled": "abc"}, "another unlabelled;"),
        ({"token types": False}, "another token types;"),
        ({"seed": 7}, "hidden-0: its run is of --seed 7, not 0; delete the folder"),
    ):
        path.write_text(json.dumps(record | change))
        assert main(argv) == 2
        assert what in capsys.readouterr().err, what
    own = settings | {"layer_map": "1:1", "gradient_checkpointing": True}
    path.write_text(json.dumps(record | {"settings": own, "token types": None}))
    assert main(argv) == 0, "such settings are a variant's own, and older runs do not tell of token types"
    path.write_text(json.dumps(record))


@pytest.mark.parametrize(
    "what, now, older",
    [("numpy", '"numpy": "', '"numpy": "older '), ("--weight-decay", '"weight_decay": 0.01', '"weight_decay": 0.02')],
)
def test_a_study_of_older_libraries_or_defaults_is_shown_but_not_gone_on_with(
    other, capsys, monkeypatch, what, now, older
):
    folder, small = other
    argv = [*small, "--output", str(folder)]
    paths = list((folder / "runs").glob("*/training.json"))
    for path in paths:
        assert now in path.read_text()
        path.write_text(path.read_text().replace(now, older))
    assert main(argv) == 0
    monkeypatch.setattr(runner, "start_train", None)
    monkeypatch.setattr(Evaluator, "predict", lambda self, *more: pytest.fail("no teacher is tested before"))
    for more in (["--losses", "hidden,cosine"], ["--grid", "4x0.5"]):
        assert main([*argv, *more]) == 2
        assert f"and this command do not belong together: they had another {what}" in capsys.readouterr().err
    for path in paths:
        path.write_text(path.read_text().replace(older, now))


def test_a_study_is_the_same_from_another_folder(other, monkeypatch):
    """With files named from there, another cache, and the device by its name or not."""
    folder, small = other
    monkeypatch.setattr(runner, "start_train", None)
    monkeypatch.chdir(folder.parent)
    argv = [word.removeprefix(f"{folder.parent}/") for word in drop(small, "--device")]
    argv[argv.index("--cache") + 1] = "another-cache"
    assert main([*argv, "--output", folder.name]) == 0


def test_flags_that_no_run_could_take_are_refused_before_any(study, capsys, monkeypatch):
    folder, argv = study
    monkeypatch.setattr(runner, "start_train", None)
    for flags, why in (
        (["--teacher", ""], "--teacher is empty; give a name"),
        (["--labelled", "50%", "--alpha", "0"], "nothing is learned from the other texts"),
        (["--augment", "1", "--alpha", "0"], "--augment: only a teacher can teach"),
        (["--amp", "fp16"], "--amp fp16 needs a CUDA device"),
        (["--unlabelled", "text.txt", "--alpha", "0"], "--unlabelled: only a teacher can teach"),
        (["--unlabelled", "text.txt", "--steps", "9"], "text.txt: no such file"),
    ):
        assert main([*argv, "--output", str(folder / "no"), *flags]) == 2
        assert why in capsys.readouterr().err
        assert not (folder / "no").exists()


def test_results_that_are_damaged_are_found_anew(other, capsys):
    folder, small = other
    path = folder / "runs" / "hidden-0" / "test.json"
    written = json.loads(path.read_text())
    for damage in ([], written | {"found": [1]}, {"about": written["about"]}, written | {"found": {"score": 1.0}}):
        path.write_text(json.dumps(damage))
        assert main([*small, "--output", str(folder)]) == 0 and json.loads(path.read_text()) == written


def test_results_of_other_code_are_found_anew(other, monkeypatch):
    folder, small = other
    path = folder / "runs" / "hidden-0" / "test.json"
    written = json.loads(path.read_text())
    path.write_text(json.dumps(written | {"found": written["found"] | {"score": 0.125}}))
    again = [*small, "--output", str(folder)]
    assert main(again) == 0 and json.loads(path.read_text())["found"]["score"] == 0.125, "of the same code"
    monkeypatch.setattr(
        kd_scratch.study.results, "source_hash", lambda *modules, versions: "somebody has changed a metric"
    )
    assert main(again) == 0 and json.loads(path.read_text())["found"] == written["found"]
    monkeypatch.undo()
    assert main(again) == 0 and json.loads(path.read_text()) == written


def test_a_teacher_that_is_never_right_is_refused(other, capsys, monkeypatch):
    """Of one text with each of three labels in turn; where it is right, the study would begin."""
    folder, small = other

    def begin(*arguments):
        raise Stopped(signal.SIGTERM)

    monkeypatch.setattr(runner, "run_all", begin)
    path = folder.parent / "one.csv"
    argv, ends = [*small, "--output", str(folder.parent / "begun"), "--data", str(path)], []
    for label in ("space", "sport", "trade"):
        path.write_text(f"text,label\nmoon goal,{label}\n")
        ends.append(main(argv))
        assert ends[-1] != 2 or "has no accuracy at all on" in capsys.readouterr().err
    assert sorted(ends) == [2, 2, 128 + signal.SIGTERM]


def test_a_teacher_that_knows_the_test_file_is_named_and_a_baseline_may_have_another_temperature(study, tmp_path):
    folder, argv = study
    files = "--train", str(folder / "test.csv"), "--data", str(folder / "train.csv")
    spec = spec_of([*argv, *files, "--output", str(tmp_path)])
    facts = read_facts(spec, data_hashes(spec.run))
    (note,) = facts.notes
    assert note.startswith(f"{folder / 'teacher'} was trained on {folder / 'train.csv'}")
    runs = [(variant, 0) for variant in first_variants(spec)[:3]]
    for (variant, _), temperature, alpha in zip(runs, (4.0, 2.0, 4.0), (0.1, 0.5, 0.5), strict=True):
        run = variant.folder(tmp_path, 0)
        shutil.copytree(folder / "teacher", run)
        record = json.loads((run / "training.json").read_text()) | facts.known
        record["settings"] |= {"temperature": temperature, "alpha": alpha}
        record["teacher"] = None if variant.name == BASELINE else record["teacher"]
        (run / "training.json").write_text(json.dumps(record))
    assert len(read_records(runs[:2], tmp_path, facts.known)) == 2
    with pytest.raises(UserError, match="had another --temperature"):
        read_records(runs, tmp_path, facts.known)
    by_article = read_facts(spec, data_hashes(spec.run) | {"dev drawn by": "article"})
    with pytest.raises(UserError, match="this command do not belong together: they had another dev drawn by"):
        read_records(runs[:1], tmp_path, by_article.known)


def test_of_several_teachers_the_best_on_test_is_compared_with_whatever_their_order(study, tmp_path):
    """Each is right about the texts of one label, the other about half as many."""
    folder, argv = study
    for name, label in (("better", 0), ("worse", 1)):
        model = load_model(folder / "teacher")
        with torch.no_grad():
            model.head.classifier.weight.zero_()
            model.head.classifier.bias.copy_(torch.eye(3)[label])
        save_model(model, tmp_path / name)
        load_tokenizer(folder / "teacher").save(tmp_path / name, max_length=24)
    labels = load_config(tmp_path / "better").labels
    test = tmp_path / "test.csv"
    test.write_text("text,label\n" + f"a goal,{labels[0]}\n" * 2 + f"a goal,{labels[1]}\na goal,{labels[2]}\n")
    found = []
    for order in (("better", "worse"), ("worse", "better")):
        spec = spec_of([*argv, "--data", str(test), "--output", "x", "--teacher", *(str(tmp_path / n) for n in order)])
        evaluator = Evaluator(spec, read_facts(spec, data_hashes(spec.run)), torch.device("cpu"))
        found.append((evaluator.teacher_name, evaluator.teacher_figures["score"], evaluator.about["teacher"]))
    mark = fingerprint(load_model(tmp_path / "better"))
    assert found == [("teacher 1 of 2", 0.5, mark), ("teacher 2 of 2", 0.5, mark)]


def test_two_losses_that_help_on_dev_are_combined_in_runs_of_their_own(study, capsys, monkeypatch):
    """Dev scores are as we say; the runs are real."""
    folder, argv = study
    output = folder / "both"
    argv = [
        *argv,
        "--init-layers",
        "0",
        "--output",
        str(output),
        "--seeds",
        "0,1",
        "--jobs",
        "2",
        "--losses",
        "hidden,cosine=2",
    ]
    choice = {"layers": [0], "scores": {"0": 0.5}, "steps": 2, "seconds": 0.0, "identity": {}}
    output.mkdir()
    (output / "layers.json").write_text(json.dumps(choice))
    real = runner.read_records

    def rewritten(runs, output, known):
        records = real(runs, output, known)
        scores = {"baseline": 0.3, "soft": 0.4, "hidden": 0.5, "cosine": 0.6, "combined": 0.7}
        return {path: record | {"best_score": scores[path.name.split("-")[0]]} for path, record in records.items()}

    monkeypatch.setattr(runner, "read_records", rewritten)
    assert main(argv) == 0
    printed = capsys.readouterr().out
    assert (
        "above soft targets on dev by more than chance, so combined: hidden=1,cosine=2" in printed
        and "Best on dev: combined" in printed
    )
    assert "The students' layers were chosen on dev with soft targets" in printed
    record = json.loads((output / "runs" / "combined-hidden=1+cosine=2-0" / "training.json").read_text())
    assert record["settings"]["losses"] == "hidden=1,cosine=2" and record["parameters"] > 0


@pytest.mark.parametrize("more", [[], ["--init-layers", "0"]])
def test_a_study_without_losses_has_soft_targets_alone(study, more):
    """Also of the teacher's own layers, where the map of what is compared would be another one."""
    folder, argv = study
    teacher = argv[argv.index("--teacher") + 1]
    spec = spec_of([*argv, "--output", str(folder / "x"), "--model", teacher, *more, "--losses", ""])
    assert [variant.name for variant in first_variants(spec)] == [BASELINE, SOFT]


def test_layers_are_chosen_with_the_threads_of_the_short_runs_that_are_there(study, tmp_path, capsys):
    """Also with other --jobs, and before there is any run."""
    spec = spec_of([*study[1], "--output", str(tmp_path), "--jobs", "1"])
    spec = replace(spec, run=replace(spec.run, run=replace(spec.run.run, threads=0)))
    choice = {"layers": [0], "scores": {"0": 0.5}, "steps": 1, "seconds": 1.0, "identity": {"threads": 37}}
    (tmp_path / "layers.json").write_text(json.dumps(choice))
    assert complete(spec).run.run.threads == 37
    assert "note: --threads is 37, as of the runs that are there" in capsys.readouterr().out


def deep_model(folder, tmp_path) -> str:
    """A folder with a model of three layers and the study's tokenizer."""
    save_model(tiny_model(vocab_size=80, labels=("space", "sport", "trade"), depth=3), tmp_path / "deep")
    load_tokenizer(folder / "teacher").save(tmp_path / "deep", max_length=24)
    return str(tmp_path / "deep")


def test_a_loss_that_is_not_possible_is_left_out_or_refused(study, tmp_path, capsys, monkeypatch):
    folder, argv = study
    args = [*argv, "--output", str(folder / "x"), "--layer-map", "1:1"]
    names = [variant.name for variant in first_variants(spec_of(args))]
    assert names == [BASELINE, SOFT, "hidden", "attention", "cosine", "relations"], "one layer: no inner one"
    assert "note: left out: --losses patient: no pair of layers" in capsys.readouterr().out
    assert main([*argv, "--output", str(folder / "x"), "--layer-map", "9:9"]) == 2
    assert "--layer-map: 9:9 is not possible" in capsys.readouterr().err, "no reason to leave all losses out"
    assert main([*args, "--losses", "patient"]) == 2
    assert "--losses patient: no pair of layers" in capsys.readouterr().err
    assert main([*argv, "--output", str(folder / "x"), "--jobs", "0"]) == 2
    monkeypatch.setattr(runner, "with_chosen_layers", None)
    deep = deep_model(folder, tmp_path)
    for more, error in ((["--grid", "0x0.5"], "--grid: --temperature must be more than 0"),
                        (["--losses", "patient", "--layer-map", "1:1"], "--losses patient: no pair of layers"),
                        (["--losses", "hidden", "--layer-map", "2:1"], "--layer-map: 2:1 is not "),
                        (["--layer-map", "2:1"], "--layer-map: 2:1 is not ")):  # fmt: skip
        assert main([*argv, "--output", str(folder / "x"), "--model", deep, "--init-layers", "auto:1", *more]) == 2
        assert error in capsys.readouterr().err, "before layers are chosen"


def test_a_teacher_with_another_tokenizer_is_noticed_before_anything_is_trained(study, tmp_path, capsys, monkeypatch):
    """Its soft targets are of use for whole texts; its layers and its tags say nothing of a student's other pieces."""
    folder, argv = study
    other = train_tokenizer(["moon goal market", "the a of and"], vocab_size=60)
    own = load_tokenizer(folder / "teacher")
    for name, labels, pieces in (("student", ("space", "sport", "trade"), other), ("tagger", ("O", "B-X"), other),
                                 ("teacher", ("O", "B-X"), own)):  # fmt: skip
        head = "sequence" if len(labels) == 3 else "token"
        save_model(tiny_model(head, labels=labels, vocab_size=pieces.vocab_size), tmp_path / name)
        pieces.save(tmp_path / name, max_length=24)
    argv = [*argv, "--seeds", "0", "--output", str(tmp_path / "out"), "--model", str(tmp_path / "student")]
    planned = []
    monkeypatch.setattr(runner, "run_all", lambda runs, *more: planned.append([v.name for v, _ in runs]) or stop())
    assert main(argv) == 130 and planned == [[BASELINE, SOFT]]
    assert f"note: without hidden-state losses: --teacher {folder / 'teacher'}: its t" in capsys.readouterr().out
    assert main([*argv, "--losses", ""]) == 130 and planned == [[BASELINE, SOFT]] * 2
    assert "without hidden-state losses" not in capsys.readouterr().out
    assert main([*argv, "--losses", "hidden"]) == 2
    assert "its tokenizer differs from the student's" in capsys.readouterr().err
    (tmp_path / "tags.txt").write_text("the B-X\nmoon O\n\n" * 9)
    tags = [str(tmp_path / "tags.txt"), "--teacher", str(tmp_path / "teacher"), "--model", str(tmp_path / "tagger")]
    assert main([*argv, "--task", "conll", "--losses", "", "--train", tags[0], "--dev", *tags]) == 2
    assert "its tokenizer differs from the student's" in capsys.readouterr().err and len(planned) == 2


def test_the_baseline_makes_as_many_steps_as_variants_with_more_text(study, capsys):
    """Its labels are the same ones; the size of the model has the teacher's tokenizer in all variants."""
    folder, argv = study
    (folder / "more.txt").write_text("goal market moon\n" * 24)
    argv = [
        *argv,
        "--output",
        str(folder / "few"),
        "--seeds",
        "0",
        "--jobs",
        "2",
        "--losses",
        "hidden",
        "--limit",
        "40",
    ]
    argv[argv.index("--model") + 1] = "tiny-student"
    argv += ["--labelled", "50%", "--augment", "1", "--unlabelled", str(folder / "more.txt"), "--epochs", "2"]
    assert main(argv) == 0
    assert "tested on 30 examples" in capsys.readouterr().out, "--limit is for training"
    records = [
        json.loads((folder / "few" / "runs" / f"{n}-0" / "training.json").read_text())
        for n in ("baseline", "soft-targets", "hidden")
    ]
    assert [record["step"] for record in records] == [16] * 3  # twice 128 texts in 8 batches, though 20 of them are 2
    looks = [[look["steps"] for look in record["history"]] for record in records]
    assert looks == [[8, 8]] * 3, "all look at dev at the same steps"
    assert (
        len({record["tokenizer"] for record in records}) == len({record["initial weights"] for record in records}) == 1
    )
    found = json.loads((folder / "few" / "evidence.json").read_text())
    assert found["variants"]["baseline"] == ["--steps", "16", "--labelled", "50%"] and found["steps"] == [16]
    baseline, *_ = first_variants(spec_of([*argv, "--steps", "5"]))
    assert baseline.flags == {"--labelled": ["50%"]}, "all have these steps"
    assert main([*argv, "--output", str(folder / "fewer"), "--grid", "2x0,0.5"]) == 2
    assert "with an alpha of 0 nothing is learned from text without labels" in capsys.readouterr().err


def test_flags_of_the_study(study, capsys):
    folder, argv = study
    assert seed_list("3,1") == [3, 1] and parse_grid("1,2x0.5") == ((1.0, 2.0), (0.5,))
    for function, wrong in ((seed_list, ("", "a", "1,")), (parse_grid, ("", "1", "1x2x3", "ax1", "1x"))):
        for text in wrong:
            with pytest.raises(Exception, match="is not"):
                function(text)
    assert main([*argv, "--output", str(folder / "no"), "--seeds", "1,1"]) == 2
    assert "--seeds 1,1: is not a list of different seeds" in capsys.readouterr().err


def test_a_study_from_python_is_that_of_the_command(other, monkeypatch):
    """It does what the command does, and its own command describes it."""
    folder, argv = other
    monkeypatch.setattr(runner, "start_train", None)
    spec = spec_of([*argv, "--output", str(folder)])
    written = (folder / "evidence.json").read_bytes()
    report = run_study(spec)
    assert json.loads(json.dumps(report.record)) == json.loads((folder / "evidence.json").read_bytes())
    assert f"Best on dev: {report.record['best on dev']}" in report.text
    again = spec_of(report.record["command"])
    assert replace(again, run=replace(again.run, config=spec.run.config), jobs=1) == spec
    assert again.run.config.losses == "hidden=1" and spec.run.config.losses == "hidden"
    before, now = (json.loads(text) for text in (written, (folder / "evidence.json").read_bytes()))
    assert before["rows"] == now["rows"]


def test_a_name_that_is_no_text_is_one_line(capsys, tmp_path):
    assert main(["report", "--runs", "\udcff=x", "--output", str(tmp_path / "x.html")]) == 2
    error = capsys.readouterr().err
    assert "--runs" in error and "no such" not in error and error.count("\n") == 1


def test_a_stopped_study_prints_how_to_go_on(study, capsys, monkeypatch):
    folder, argv = study

    def stopped(*arguments):
        raise Stopped(signal.SIGTERM)

    monkeypatch.setattr(runner, "run_all", stopped)
    assert main([*argv, "--output", str(folder / "stopped")]) == 128 + signal.SIGTERM
    assert "stopped, nothing is lost; the same command goes on where it stopped" in capsys.readouterr().err


def test_a_study_keeps_its_threads_and_its_precision_whatever_the_machine(study, tmp_path, capsys, monkeypatch):
    """With other --jobs, on fewer cores, on a processor without bf16, where they are not given."""
    _, argv = study
    argv = [*drop(argv, "--threads"), "--seeds", "0", "--losses", "", "--output", str(tmp_path / "out")]
    monkeypatch.setattr(runner, "run_all", lambda *arguments: stop())
    for cores, bf16, jobs in ((8, ("is_available",), "2"), (3, (), "1")):
        monkeypatch.setattr(os, "cpu_count", lambda cores=cores: cores)
        monkeypatch.setattr(device, "HAS_BF16", bf16)
        assert main([*argv, "--jobs", jobs]) == 130
        plan = parse_flags(json.loads((tmp_path / "out" / "study.json").read_text())["flags"])
        assert (plan["--threads"], plan["--amp"]) == (["4"], ["bf16"]), cores
        (tmp_path / "out" / "runs" / "baseline-0").mkdir(parents=True, exist_ok=True)
    assert "--threads is 4, as of the runs that are there; for new ones it would be 3" in capsys.readouterr().out
    assert main([*argv, "--threads", "3", "--amp", "off"]) == 2
    assert "another study: --amp was bf16, is off, --threads was 4, is 3; choose" in capsys.readouterr().err


def test_layers_are_chosen_once_for_all_variants(study, tmp_path, capsys, monkeypatch):
    """By short runs with soft targets and the first seed; the plan holds what was chosen, which is taken then."""
    folder, argv = study
    argv = [*argv, "--model", deep_model(folder, tmp_path), "--init-layers", "auto:1", "--layer-steps", "2",
            "--losses", "cosine", "--layer-map", "last", "--seeds", "4,5"]  # fmt: skip
    argv += ["--output", str(tmp_path / "out")]
    tried, real = [], layer_choice.try_layers

    def try_layers(run, *more):
        tried.append((run.spec.run.seed, run.spec.config.losses, len(run.spec.teachers)))
        real(run, *more)

    monkeypatch.setattr(layer_choice, "try_layers", try_layers)
    (tmp_path / "other.csv").write_text("text,label\na goal,zzz\n")
    assert main([*argv, "--data", str(tmp_path / "other.csv")]) == 2 and not tried
    assert main([*argv, "--beside", f"a={tmp_path}"]) == 2 and not tried
    capsys.readouterr()
    monkeypatch.setattr(runner, "run_all", lambda *arguments: stop())
    assert main(argv) == 130 and "the same command goes on" in capsys.readouterr().err
    assert tried == [(4, "", 1)] * 3
    chosen = str(json.loads((tmp_path / "out" / "layers.json").read_text())["layers"][0])
    plan = json.loads((tmp_path / "out" / "study.json").read_text())["flags"]
    assert plan[plan.index("--init-layers") + 1] == chosen and "--layer-steps" not in plan
    assert main(argv) == 130 and len(tried) == 3, "what was found is taken"
    capsys.readouterr()
    assert main([*argv, "--seeds", "5,4"]) == 2
    assert "seed was 4, is 5; delete it, and the layers are chosen anew" in capsys.readouterr().err
    (tmp_path / "out" / "runs" / "baseline-4").mkdir(parents=True)
    assert main([*argv, "--seeds", "5,4"]) == 130 and len(tried) == 3, "what the runs began with is taken"
    assert json.loads((tmp_path / "out" / "study.json").read_text())["flags"] == plan
    assert main([*argv, "--init-layers", "auto:2"]) == 2
    assert "is a choice of another number of layers; choose another --output" in capsys.readouterr().err


def test_a_teacher_of_other_labels_is_refused_before_anything_is_trained(tmp_path, tokenizer, capsys):
    """A distilled student would get its labels, the baseline those of the data, and the two could not be compared."""
    for number, name in enumerate(("train", "dev", "test"), 7):
        (tmp_path / f"{name}.txt").write_text("the B-LOC\nfox I-LOC\njumps O\n\n" * number)
    save_model(tiny_model("token", labels=("B-LOC", "I-LOC", "O"), vocab_size=tokenizer.vocab_size), tmp_path / "same")
    other = tiny_model("token", labels=("I-LOC", "S-LOC", "E-LOC", "B-LOC", "O"), vocab_size=tokenizer.vocab_size)
    save_model(other, tmp_path / "other")
    for name in ("same", "other"):
        tokenizer.save(tmp_path / name, 24, token_types=False)
    argv = ["evidence", "--task", "conll", "--train", tmp_path / "train.txt", "--dev", tmp_path / "dev.txt", *FAST]
    argv += ["--data", tmp_path / "test.txt", "--seeds", "0", "--losses", "", "--cache", tmp_path / "cache"]
    refused = {
        "same": "same: has no f1 at all",
        "other": "other: has labels that the data have not, or writes its tags",
    }
    for name, message in refused.items():
        of_it = [*argv, "--teacher", tmp_path / name, "--model", tmp_path / name, "--output", tmp_path / "study"]
        assert main(list(map(str, of_it))) == 2
        assert message in capsys.readouterr().err and not (tmp_path / "study").exists()
