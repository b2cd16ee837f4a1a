"""Before a distillation: how much there is to gain, as far as runs that are there tell it."""

from kd_scratch.evaluation.advice import advice, chance_of, ingredients, is_baseline, quiet_record, same_dev
from kd_scratch.pages.records import RECORD
from kd_scratch.training.setup import Run


def about_gain(run: Run) -> str:
    """The dev scores of the (best) teacher and of the baseline, and what follows from them; "" where neither is known.

    A teacher is known by its training.json, a baseline by one in a folder beside the output; both only where dev was
    the same.
    """
    teachers = [record for path in run.spec.teachers if (record := quiet_record(path))]
    scores = [record["best_score"] for record in teachers if same_dev(record, run.identity)]
    if not scores:
        return ""
    beside = (quiet_record(path.parent) for path in run.spec.output.parent.glob(f"*/{RECORD}"))
    baselines = [record["best_score"] for record in beside if record and is_baseline(record, run.identity)]
    if not baselines:
        return f"the teacher has {100 * max(scores):.2f} on this dev; no baseline beside the output to compare it with"
    both = max(scores), max(baselines)
    return advice(*both, chance_of(both, len(run.data.dev_examples)), ingredients(run.identity, teachers, run.task))
