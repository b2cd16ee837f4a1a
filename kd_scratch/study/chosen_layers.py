"""The layers of a study's students, where they are chosen by measurement (--init-layers auto:2)."""

from dataclasses import replace

from kd_scratch.common.console import say
from kd_scratch.common.errors import UserError
from kd_scratch.common.files import locked, make_folder
from kd_scratch.study.spec import StudySpec
from kd_scratch.study.variants import soft_run
from kd_scratch.training.examples import encode_training_data
from kd_scratch.training.layer_choice import choose_layers, read_choice
from kd_scratch.training.resume import CHOICE
from kd_scratch.training.setup import set_up


def with_chosen_layers(spec: StudySpec) -> StudySpec:
    """The study with its students' layers, where these are to be chosen: once for all variants and seeds, by short runs
    with soft targets and the first seed. Where runs are there already, they began with what was chosen then.

    UserError where layers are given, and others were chosen in the study's folder.
    """
    if not spec.run.chooses_layers:
        choice = read_choice(spec.run.output)
        if choice and choice["layers"] != list(spec.run.init_layers):
            raise UserError(f"{spec.run.output / CHOICE}: is a choice of other layers; choose another --output")
        return spec
    say(f"layers, the same for all variants, are chosen with soft targets and seed {spec.seeds[0]}")
    output, run = make_folder(spec.run.output), soft_run(spec)
    ready = set_up(replace(run, run=replace(run.run, seed=spec.seeds[0])), resume=(output / CHOICE).is_file())
    ready.train_inputs = encode_training_data(ready.spec, ready.data)
    ready.resume = any((output / "runs").glob("*"))
    with locked(output):
        layers = choose_layers(ready).spec.init_layers
    config = replace(spec.run.config, layer_steps=0)
    return replace(spec, run=replace(spec.run, init_layers=layers, config=config))
