"""Each variant of a study with a learning rate of its own, chosen on dev from the same grid, with the first seed."""

import json
from pathlib import Path

import pytest

from kd_scratch.__main__ import main
from kd_scratch.commands.evidence import rate_list
from kd_scratch.common.errors import UserError
from kd_scratch.study import runner
from kd_scratch.study.spec import check_study
from kd_scratch.study.summary import about_rates
from kd_scratch.study.variants import BASELINE, SOFT, Variant, at_rate, best_rates
from tests.study.test_evidence import spec_of, study  # noqa: F401
from tests.study.test_variants import SPEC, combined


@pytest.fixture
def scores(monkeypatch):
    """Dev scores as this dictionary has them, by folder without its seed; the runs are real."""
    given, read_records = {}, runner.read_records

    def rewritten(runs, output, known):
        records = read_records(runs, output, known)
        return {path: r | {"best_score": given.get(path.name[:-2], 0.3)} for path, r in records.items()}

    monkeypatch.setattr(runner, "read_records", rewritten)
    return given


def runs_of(output: Path) -> set[str]:
    return {path.name for path in (output / "runs").iterdir()}


def of_all_seeds(*names: str, seeds=(0, 5)) -> set[str]:
    return {f"{name}-{seed}" for name in names for seed in seeds}


def test_each_variant_has_the_rate_that_is_best_on_dev_with_the_first_seed(study, scores, capsys, monkeypatch):  # noqa: F811
    folder, argv = study
    output = folder / "rates"
    argv = [*argv, "--output", str(output), "--jobs", "2", "--losses", "hidden,cosine", "--grid", "2,4x0.5"]
    rates, two = ["--learning-rates", "1e-3,2e-3"], ["--seeds", "0,5"]
    scores |= {"baseline-lr=0.002": 0.4, "soft-targets": 0.4, "hidden-lr=0.002": 0.5, "cosine-lr=0.002": 0.6}
    scores |= {"combined-hidden=1+cosine=1-lr=0.002": 0.7}
    assert main([*argv, *rates, *two]) == 0
    printed = capsys.readouterr().out
    assert "4 variants with 2 seeds, the first at 2 learning rates, and a grid of 2: 13 runs of 1 epochs" in printed
    assert (
        "learning rates, chosen on dev with seed 0: baseline 0.002, soft targets 0.001, hidden 0.002, cosi" in printed
    )
    assert "combined 0.002" in printed and "Best on dev: combined" in printed
    best = of_all_seeds("baseline-lr=0.002", "soft-targets", "hidden-lr=0.002", "cosine-lr=0.002")
    tried = of_all_seeds("baseline", "soft-targets-lr=0.002", "hidden", "cosine", "T=4-alpha=0.5", seeds=(0,))
    both = of_all_seeds("combined-hidden=1+cosine=1-lr=0.002") | {"combined-hidden=1+cosine=1-0"}
    assert runs_of(output) == best | tried | both, "the study's own rate has the folders that it always had"
    for name in runs_of(output):
        settings = json.loads((output / "runs" / name / "training.json").read_text())["settings"]
        assert settings["learning_rate"] == (0.002 if "lr=0.002" in name else 0.001), name
    tested = {path.parent.name for path in output.glob("runs/*/test.json")}
    assert tested == best | of_all_seeds("combined-hidden=1+cosine=1-lr=0.002") | {"T=4-alpha=0.5-0"}, "no other one"
    found = json.loads((output / "evidence.json").read_text())
    assert found["learning rates"][BASELINE] == {"0.001": 0.3, "0.002": 0.4}
    assert {name: row["learning rate"] for name, row in found["rows"].items()} == {
        BASELINE: 0.002, SOFT: 0.001, "hidden": 0.002, "cosine": 0.002, "combined": 0.002}  # fmt: skip
    assert found["variants"][BASELINE] == ["--learning-rate", "0.002"]
    highest = "baseline, hidden, cosine, combined: the best learning rate is the highest of the grid: try higher ones"
    assert f"- {highest}\n" in (output / "evidence.md").read_text() and highest in found["findings"]

    with monkeypatch.context() as patch:
        patch.setattr(runner, "start_train", None)
        assert main(found["command"]) == 0 and main([*argv, *rates, *two]) == 0
        assert json.loads((output / "evidence.json").read_text()) == found, "nothing is trained again"
    scores["soft-targets-lr=0.004"] = 0.5  # now only cosine is above soft targets
    before = runs_of(output)
    assert main([*argv, "--learning-rates", "1e-3,2e-3,4e-3", *two]) == 0
    more = of_all_seeds("baseline-lr=0.004", "hidden-lr=0.004", "cosine-lr=0.004", seeds=(0,))
    more |= of_all_seeds("soft-targets-lr=0.004") | {"T=4-alpha=0.5-lr=0.004-0"}
    assert runs_of(output) - before == more, "a grid of temperatures has the rate of soft targets"
    before = runs_of(output)
    assert main([*argv, *rates, "--seeds", "0,5,6"]) == 0
    assert runs_of(output) - before == {name[:-1] + "6" for name in best | both if name.endswith("-5")}

    capsys.readouterr()
    scores.clear()
    beside = [*argv[: argv.index("--output")], "--output", str(folder / "one"), "--losses", "hidden", "--seeds", "0"]
    assert main([*beside, "--beside", f"rates={output}"]) == 0
    rows = json.loads((folder / "one" / "evidence.json").read_text())["rows"]
    assert rows["rates: baseline"]["learning rate"] == 0.002 and rows[BASELINE]["learning rate"] == 0.001
    path = output / "runs" / "soft-targets-0" / "training.json"
    path.write_text(path.read_text().replace('"learning_rate": 0.001', '"learning_rate": 0.003'))
    assert main([*argv, *rates, *two]) == 2
    assert "soft-targets-0 and this command do not belong together: they had another --learning-rate" in (
        capsys.readouterr().err
    )


def test_the_folders_of_rates_are_all_different(tmp_path):
    variants = [Variant(BASELINE), Variant(SOFT), combined("hidden=1,cosine=1"), combined(f"{'long' * 30}=1,b=1")]
    rates = (1e-3, 1e-5, 1.0000001e-5, 2e-05, 3e-4)
    names = [at_rate(v, rate, 1e-3).folder(tmp_path, seed).name for v in variants for rate in rates for seed in (0, 1)]
    assert len(set(names)) == len(names) and max(map(len, names)) < 130
    assert at_rate(variants[0], 1e-5, 1e-3).folder(tmp_path, 1).name == "baseline-lr=1e-05-1"
    assert at_rate(variants[1], 1e-3, 1e-3) == variants[1], "of the study's own rate nothing need be said"


def test_of_equally_good_rates_the_smaller_is_chosen():
    dev = {"a": {4e-4: 0.5, 1e-4: 0.5, 2e-4: 0.4}, "b": {4e-4: 0.5, 1e-4: 0.4, 2e-4: 0.5}, "c": {1e-4: 0.1}}
    assert best_rates(dev) == {"a": 1e-4, "b": 2e-4, "c": 1e-4}


def test_a_best_rate_at_an_end_of_the_grid_is_named():
    dev = {"a": {1e-4: 0.1, 2e-4: 0.2, 4e-4: 0.3}, "b": {1e-4: 0.1, 2e-4: 0.2, 4e-4: 0.1},
           "c": {1e-4: 0.2, 2e-4: 0.1, 4e-4: 0.1}, "d": {1e-4: 0.1, 2e-4: 0.1, 4e-4: 0.3}}  # fmt: skip
    assert about_rates(dev) == [
        "a, d: the best learning rate is the highest of the grid: try higher ones",
        "c: the best learning rate is the lowest of the grid: try lower ones",
    ]
    inside = {"a": {1e-4: 0.1, 2e-4: 0.2, 4e-4: 0.1}}
    assert about_rates(inside) == [], "no other rate is known to be better"
    one = ["all variants had one learning rate: --learning-rates gives each its own"]
    assert about_rates({"a": {1e-4: 0.1}}) == about_rates({}) == one


def test_rates_that_are_none_are_refused(study, capsys, monkeypatch):  # noqa: F811
    folder, argv = study
    monkeypatch.setattr(runner, "start_train", None)
    assert rate_list("1e-4,2e-4") == [1e-4, 2e-4]
    for text in ("", "a", "1e-4,"):
        with pytest.raises(Exception, match="is not a list of learning rates such as 1e-4,2e-4"):
            rate_list(text)
    for text, why in (
        ("1e-3,0.001", "--learning-rates 0.001,0.001: is not a list of different rates such as 1e-4,2e-4"),
        ("1e-3,0", "--learning-rate must be more than 0, not 0.0"),
        ("1e-3,nan", "--learning-rate must be more than 0, not nan"),
        ("2e-3,4e-3", "--learning-rate 0.001: is not among --learning-rates 0.002,0.004; leave it out"),
    ):
        assert main([*argv, "--output", str(folder / "no"), "--learning-rates", text]) == 2
        assert why in capsys.readouterr().err
    with pytest.raises(UserError, match="different rates"):
        check_study(spec_of([*argv, "--output", "x", "--learning-rates", "2e-3,2e-3"]))
    assert SPEC.learning_rates == () and SPEC.seeds == (0, 1, 2, 3, 4)
