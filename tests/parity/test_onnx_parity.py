"""ONNX files against the library of the format, ONNX Runtime, and the programs that look for such folders."""

import json
import random
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from kd_scratch.__main__ import main
from kd_scratch.checkpoints.checkpoint import load_model, take_layers
from kd_scratch.checkpoints.onnx_folder import FILES, export_onnx
from kd_scratch.checkpoints.onnx_format import as_bytes, model_parts
from kd_scratch.checkpoints.onnx_graph import graph_of
from kd_scratch.config import HEADS, DataConfig, ModelConfig
from kd_scratch.data.tokenizer import load_tokenizer
from kd_scratch.evaluation.evaluate import LoadedModel, evaluate, read_evaluation_set
from kd_scratch.nn import int8
from kd_scratch.nn.model import Model
from kd_scratch.tasks import TASKS
from tests.checkpoints.test_onnx import assert_near, batch, expected, of_text
from tests.conftest import EVERY_KIND, KINDS, TEXTS, TORTURE, tiny_model

pytestmark = pytest.mark.usefixtures("as_many_bits_as_a_graph")
onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
transformers = pytest.importorskip("transformers")

TOLERANCE = {
    "float32": 1e-4,
    "float16": 1e-2,
    "int8": 0.05,
}  # of the largest number; see tests/checkpoints/test_onnx.py
LABELS = [
    "",
    " ",
    "a",
    "日本語",
    'say "yes"',
    "it's\\n",
    "\n",
    "\0",
    "\u2028",
    "🙂" * 300,
    "<b>",
    "x" * 5000,
    "ß\u0301",
]


@pytest.fixture(autouse=True)
def one_scale_a_batch(as_a_new_process):
    """ONNX's own operator knows one scale for all of an input, and no others."""
    int8.use_scales("batch")


def usual_scales(head):
    """One a batch, or one a token where each token is decided."""
    int8.use_scales("auto" if head in ("token", "span") else "batch")


def opened(path, **settings):
    """A file in ONNX Runtime, with all of its optimizations, on one thread; whole sums do not overflow."""
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.x64quantprecision", "1")
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    for name, value in settings.items():
        setattr(options, name, value)
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def run(session, inputs):
    """The outputs by name."""
    values = session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})
    return {output.name: torch.from_numpy(value) for output, value in zip(session.get_outputs(), values, strict=True)}


@pytest.mark.parametrize("head", [*HEADS, None])
@EVERY_KIND
def test_onnx_runtime_computes_what_the_model_computes(kind, head, tokenizer, tmp_path):
    usual_scales(head)
    model = tiny_model(head, vocab_size=tokenizer.vocab_size, **KINDS[kind])
    for name, file in FILES.items():
        if name == "int8" and head == "mlm":
            continue
        export_onnx(model, tokenizer, 32, tmp_path / name, (name,))
        path = tmp_path / name / "onnx" / file
        onnx.checker.check_model(path, full_check=True)
        session = opened(path)
        for length in (9, 1, 40):
            inputs = {key: tensor[:, :length] for key, tensor in batch(model, max(9, length)).items()}
            wanted = expected(int8.quantize(model) if name == "int8" else model, inputs)
            assert_near(of_text(run(session, inputs), inputs, head), of_text(wanted, inputs, head), TOLERANCE[name])
        with pytest.raises(Exception, match="(?i)broadcast|dimension"):  # more tokens than positions
            run(session, batch(model, 41))


def test_a_real_checkpoint_gives_what_transformers_gives(minilm, tmp_path, capsys):
    """The folder's own tokenizer and config, as other programs open them, and the file, against the original."""
    assert main(["export", "--model", str(minilm), "--output", str(tmp_path / "out"), "--json"]) == 0
    [path] = (tmp_path / "out" / "onnx").iterdir()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    inputs = dict(tokenizer(TEXTS, padding=True, return_tensors="pt"))
    assert list(inputs) == ["input_ids", "token_type_ids", "attention_mask"]
    assert set(inputs) == {entry.name for entry in opened(path).get_inputs()}
    with torch.no_grad():
        wanted = transformers.AutoModel.from_pretrained(minilm).eval()(**inputs).last_hidden_state
    assert_near(run(opened(path), inputs), {"last_hidden_state": wanted}, 1e-4)


@pytest.mark.parametrize("kind", ["bert", "distilbert", "scratch"])
def test_transformers_opens_config_and_tokenizer(kind, tokenizer, tmp_path):
    labels = tuple(LABELS)
    model = int8.quantize(tiny_model("token", labels, vocab_size=tokenizer.vocab_size, **KINDS[kind]))
    export_onnx(model, tokenizer, 32, tmp_path)
    config = transformers.AutoConfig.from_pretrained(tmp_path)
    assert [config.id2label[i] for i in range(len(labels))] == list(labels)
    assert config.model_type == ("distilbert" if kind == "distilbert" else "bert")
    found = transformers.AutoTokenizer.from_pretrained(tmp_path)(TEXTS)
    assert found["input_ids"] == [encoding.ids for encoding in tokenizer.encode(TEXTS)]
    assert ("token_type_ids" in found) == (model.config.token_types > 0)
    entries = onnx.load(tmp_path / "onnx" / FILES["int8"]).metadata_props
    assert json.loads({entry.key: entry.value for entry in entries}["labels"]) == list(labels)


def test_the_optimizer_knows_what_it_sees(tokenizer, tmp_path):
    """Each product with a bias, GELU, scaling and every int8 product becomes one operator of its own."""
    model = tiny_model("token", vocab_size=tokenizer.vocab_size, depth=3)
    export_onnx(model, tokenizer, 32, tmp_path, ("float32", "float16", "int8"))
    found = {}
    for name, file in FILES.items():
        opened(tmp_path / "onnx" / file, optimized_model_filepath=str(tmp_path / "optimized.onnx"))
        found[name] = Counter(node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node)
    assert found["float32"] == found["float16"], "halves are cast when the file is opened"
    assert found["float32"]["BiasGelu"] == found["float32"]["FusedMatMul"] == found["int8"]["Gelu"] == 3
    assert found["int8"]["MatMulIntegerToFloat"] + found["int8"]["DynamicQuantizeMatMul"] == 3 * 6 + 1
    for counts in found.values():
        assert not {"Erf", "Div", "MatMulInteger", "Sqrt"} & set(counts)
    assert sum(found["float32"].values()) < 35 * 3


def test_tensors_beside_the_file_are_found(tokenizer, tmp_path):
    model = tiny_model(vocab_size=tokenizer.vocab_size, feed_forward=96)
    export_onnx(model, tokenizer, 32, tmp_path, ("float32", "int8"), limit=0)
    for name, file in (("float32", "model.onnx"), ("int8", "model_quantized.onnx")):
        assert (tmp_path / "onnx" / f"{file}_data").exists()
        onnx.checker.check_model(tmp_path / "onnx" / file, full_check=True)
        wanted = expected(int8.quantize(model) if name == "int8" else model, batch(model))
        assert_near(run(opened(tmp_path / "onnx" / file), batch(model)), wanted, TOLERANCE[name])


class AsModel(torch.nn.Module):
    """A file that takes the place of a model in an evaluation."""

    def __init__(self, path, config):
        super().__init__()
        self.session, self.config = opened(path), config

    def forward(self, input_ids, attention_mask, token_type_ids):
        """As Model.forward; what is None is filled in."""
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask.long()
        types = torch.zeros_like(input_ids) if token_type_ids is None else token_type_ids
        inputs = {"input_ids": input_ids, "attention_mask": mask, "token_type_ids": types}
        found = run(self.session, {entry.name: inputs[entry.name] for entry in self.session.get_inputs()})
        return SimpleNamespace(logits=found.get("logits", torch.stack([*found.values()], -1)))


@pytest.mark.parametrize(
    ("task", "name", "limit"),
    [
        ("agnews", "ag_news_csv/test.csv", 200),
        ("conll", "conll2003/test.txt", 100),
        ("squad", "policyqa/test.json", 25),
    ],
)
def test_int8_files_are_as_near_to_the_float_model_as_ours_on_real_data(task, name, limit, minilm, real_data):
    """Where an activation lies halfway between two steps, the last bit of a float decides, and the rest follows: in a
    large batch, logits differ by a part of what rounding changes at all. Here of two layers of a real checkpoint.
    """
    usual_scales(TASKS[task].head)
    task, data = TASKS[task], DataConfig(limit=str(limit))
    examples = read_evaluation_set(task, real_data(name), "", data, say=lambda note: None).examples
    labels = tuple(task.label_list([])) if task.name == "agnews" else ("O", "B-PER", "B-LOC") * (task.name == "conll")
    torch.manual_seed(0)
    model = take_layers(load_model(minilm, task.head, labels, say=lambda note: None), [0, 3])
    small, tokenizer = int8.quantize(model), load_tokenizer(minilm)
    file = AsModel(
        b"".join(as_bytes(model_parts(graph_of(small.config, int8.to_tensors(small)), {}, {}))), small.config
    )

    def logits(model):
        return evaluate(LoadedModel(model, tokenizer, 128), task, examples, data, torch.device("cpu")).logits

    exact, ours, found = logits(model), logits(small), logits(file)
    noise = np.square(ours - exact).mean() ** 0.5
    assert 0 < noise < 0.2 * exact.std()
    assert np.square(found - exact).mean() ** 0.5 < 1.1 * noise and np.square(found - ours).mean() ** 0.5 < noise


# --- hostile ---


def random_config(draw: random.Random) -> ModelConfig:
    """A shape that a model can have, small and odd."""
    heads = draw.randint(1, 4)
    kind = draw.choice(["bert", "distilbert", "kd_scratch"])
    head = draw.choice([*HEADS, None])
    count = draw.randint(1, 6) if head in ("sequence", "token") else 0
    labels = [
        draw.choice(LABELS) + "".join(chr(draw.randint(1, 0xD7FF)) for _ in range(3)) + str(i) for i in range(count)
    ]
    return ModelConfig(
        model_type=kind,
        vocab_size=draw.randint(1, 40),
        width=heads * draw.choice([1, 2, 3, 8, 11, 16, 32]),
        heads=heads,
        depth=draw.randint(1, 3),
        feed_forward=draw.randint(1, 30),
        max_positions=draw.randint(1, 30),
        token_types=0 if kind == "distilbert" else draw.randint(0, 3),
        activation=draw.choice(["gelu", "gelu_new", "relu"]),
        positions=draw.choice(["learned", "sinusoidal"]) if kind == "kd_scratch" else "learned",
        norm_first=kind == "kd_scratch" and draw.random() < 0.5,
        norm_epsilon=10 ** draw.uniform(-12, -3),
        head=head,
        labels=tuple(labels),
    )


def test_whatever_the_shape_and_the_names_a_file_is_valid(monkeypatch):
    """`make torture`: 10,000 shapes."""
    monkeypatch.setattr(Model, "initialize", lambda model: None)  # takes most of the time, and is of no use here
    draw = random.Random(0)
    for round in range(10_000 if TORTURE else 60):
        config = random_config(draw)
        with torch.device("meta"):
            model = Model(config)
        precision = draw.choice(["float32", "float16"] + ["int8"] * (config.head != "mlm"))
        kinds = int8.tensors_of_int8_form(model) if precision == "int8" else model.state_dict()
        weights = {name: torch.ones(kind.shape, dtype=kind.dtype) for name, kind in kinds.items()}
        metadata = {"labels": json.dumps(config.labels), **{label: label for label in config.labels}}
        graph = graph_of(config, weights, half=precision == "float16")
        raw = b"".join(as_bytes(model_parts(graph, metadata, {})))
        onnx.checker.check_model(raw, full_check=True)
        if round % 20 == 0 and config.max_positions > 3:
            session = opened(raw)
            ids = np.zeros((2, 3), np.int64)
            session.run(None, {entry.name: ids for entry in session.get_inputs()})
