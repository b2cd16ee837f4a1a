"""A model as a folder of ONNX files, laid out as ONNX Runtime's libraries and the browser's look for it.

    config.json                    the labels; the shape, in BERT's keys
    tokenizer.json, tokenizer_config.json, vocab.txt, special_tokens_map.json
    onnx/model.onnx                float32
    onnx/model_fp16.onnx           float16
    onnx/model_quantized.onnx      int8
    onnx/…_data                    the tensors of a file that would have more than 2 GB

Inputs, all B,S in int64: input_ids, attention_mask (1 at real tokens), and where the model has them token_type_ids.
Outputs: logits, or of a model for question answering start_logits and end_logits; without a head last_hidden_state.
A file's own metadata repeat the labels (a JSON list), the shape (config.json's content) and the longest input.
"""

import json
from dataclasses import replace
from pathlib import Path

from kd_scratch.checkpoints.checkpoint import CONFIG
from kd_scratch.checkpoints.hf_layout import config_to_json
from kd_scratch.checkpoints.onnx_format import LIMIT, OPSET, save_graph
from kd_scratch.checkpoints.onnx_graph import graph_of
from kd_scratch.checkpoints.own_head import CLASSES
from kd_scratch.common.errors import UserError
from kd_scratch.common.files import check_new_folder, make_folder, write_json
from kd_scratch.config import ModelConfig
from kd_scratch.data.tokenizer import Tokenizer
from kd_scratch.nn import int8
from kd_scratch.nn.model import Model

FILES = {"float32": "model.onnx", "float16": "model_fp16.onnx", "int8": "model_quantized.onnx"}


def export_onnx(
    model: Model,
    tokenizer: Tokenizer,
    max_length: int,
    output: Path,
    precisions: tuple[str, ...] = (),
    source: str = "",
    limit: int = LIMIT,
) -> dict:
    """Write a model as a folder of ONNX files, and return what was written: for each precision files, bytes and nodes.

    model: on the CPU, not in its fast form. precisions: of FILES; (): the model's own, float32 or int8. An int8 model
    keeps its whole numbers, a float one is quantized (int8.quantize). limit: how many bytes of tensors a file may hold.
    UserError, before anything is written, for what cannot be exported, and where `output` holds something.
    """
    check_new_folder(output, *[source] * bool(source))
    precisions = tuple(dict.fromkeys(precisions)) or own_precision(model.config)
    try:
        models = {name: in_precision(model, name) for name in precisions}
    except UserError as error:
        raise UserError(f"{source or 'the model'}: {error}") from None
    config = config_of_others(model.config)
    onnx = make_folder(output / "onnx")
    tokenizer.save(output, max_length, token_types=model.config.token_types > 0)
    write_json(output / "special_tokens_map.json", {key: name for key, name in tokenizer.special.items() if name})
    files = {}
    for name, chosen in models.items():
        graph = graph_of(chosen.config, int8.to_tensors(chosen), half=name == "float16")
        metadata = {"labels": json.dumps(model.config.labels), "config": json.dumps(config)}
        metadata |= {"max_length": str(max_length), "precision": name}
        written = save_graph(graph, onnx / FILES[name], metadata, limit)
        files[name] = {
            "files": [str(path.relative_to(output)) for path in written],
            "bytes": sum(path.stat().st_size for path in written),
            "nodes": len(graph.nodes),
        }
    write_json(output / CONFIG, config)  # last: a folder without it is no model yet
    return {"model": source, "opset": OPSET, "inputs": [*graph.inputs], "outputs": [*graph.outputs], "files": files}


def own_precision(config: ModelConfig) -> tuple[str]:
    """The precision in which a model is exported where none is asked for."""
    return ("int8" if config.int8 else "float32",)


def in_precision(model: Model, precision: str) -> Model:
    """The model, or its int8 form. UserError where it has no such form, or none that can be computed with."""
    if precision not in FILES:
        raise UserError(f"--precision {precision}: there is none such; there are {', '.join(FILES)}")
    if precision == "int8":
        return model if model.config.int8 else int8.quantize(model)
    if model.config.int8:
        raise UserError("is an int8 model; give --precision int8, or the float model that it was made of")
    for name, tensor in int8.to_tensors(model).items():
        if not tensor.isfinite().all():
            raise UserError(f"{name}: holds numbers that are not finite; the model cannot be exported")
        if precision == "float16" and tensor.dim() > 1 and not tensor.half().isfinite().all():
            raise UserError(f"{name}: holds numbers above 65504, the largest of float16; give --precision float32")
    return model


def config_of_others(config: ModelConfig) -> dict:
    """The content of config.json. A shape of our own goes by the name of BERT, whose inputs and outputs it has.

    Other programs look up how to call a model by its model_type, and refuse one that they do not know; what it
    computes is in the graph.
    """
    raw = config_to_json(replace(config, int8=False))
    own = CLASSES["kd_scratch"]
    if raw["model_type"] == "kd_scratch":
        raw["model_type"] = "bert"
        raw["architectures"] = [name.replace(own, CLASSES["bert"]) for name in raw["architectures"]]
    return raw
