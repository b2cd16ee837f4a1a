"""Hidden-state losses: a layer of the student against a layer of the teacher. One registry, HIDDEN_LOSSES.

A new loss is one function and one entry: flags, help, projections, preflight, trace and the study follow from it.

Each function returns a *sum* over the B inputs, for the caller to divide by the inputs of the whole optimizer step.
`real` B,S is True where a token is no padding; the letters of shapes stand at the top of nn/layers.py.
"""

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_scratch.common.errors import UserError
from kd_scratch.config import LARGEST, ModelConfig, TrainConfig
from kd_scratch.distillation.layer_map import (
    LayerMap,
    LayerPair,
    all_layers,
    blocks,
    check_layer_map,
    explicit,
    inner_blocks,
    last_block,
    listed,
    parse_layer_map,
)
from kd_scratch.distillation.units import LOWEST
from kd_scratch.nn.layers import split_heads
from kd_scratch.nn.model import Model

QKV = tuple[Tensor, Tensor, Tensor]  # queries, keys and values of a block, all heads side by side, B,S,D each


# --- what is compared ---


def mean_over_tokens(values: Tensor, real: Tensor) -> Tensor:
    """Σ_inputs of the mean over an input's real tokens.  B,S; B,S -> a scalar"""
    return (values.masked_fill(~real, 0.0).sum(dim=1) / real.sum(dim=1)).sum()


def hidden_mse(student: Tensor, teacher: Tensor, real: Tensor) -> Tensor:
    """Σ_inputs mean over tokens and width of (s − t)²  (TinyBERT: Jiao et al. 2020, equation 8).

    Hidden states B,S,D and B,S,D, the student's projected to the teacher's width; real B,S -> a scalar.
    """
    return mean_over_tokens((student - teacher).square().mean(dim=-1), real)


def hidden_cosine(student: Tensor, teacher: Tensor, real: Tensor) -> Tensor:
    """Σ_inputs mean over tokens of 1 − cos(s, t)  (DistilBERT: Sanh et al. 2019, section 2).

    Hidden states B,S,D and B,S,D, the student's projected to the teacher's width; real B,S -> a scalar.
    """
    return mean_over_tokens(1 - F.cosine_similarity(student, teacher, dim=-1), real)


def patient_mse(student: Tensor, teacher: Tensor, real: Tensor) -> Tensor:
    """Σ_inputs ‖ s / ‖s‖ − t / ‖t‖ ‖² of the states of [CLS]  (patient distillation: Sun et al. 2019, equation 7).

    Hidden states B,S,D and B,S,D, the student's projected to the teacher's width -> a scalar. `real` does not matter:
    [CLS] is never padding.
    """
    return (F.normalize(student[:, 0], dim=-1) - F.normalize(teacher[:, 0], dim=-1)).square().sum()  # B,D -> 1


def scaled_products(left: Tensor, right: Tensor, heads: int) -> Tensor:
    """L·Rᵀ / sqrt(W), head by head.  B,S,D and B,S,D -> B,H,S,S"""
    left = split_heads(left, heads)  # B,S,D -> B,H,S,W
    right = split_heads(right, heads)
    return left @ right.transpose(-2, -1) / math.sqrt(left.size(-1))  # B,H,S,W · B,H,W,S -> B,H,S,S


def attention_mse(student: Tensor, teacher: Tensor, real: Tensor) -> Tensor:
    """Σ_inputs mean over heads and pairs of real tokens of (s − t)²  (TinyBERT: Jiao et al. 2020, equation 7).

    Attention scores Q·Kᵀ / sqrt(W) before the softmax, as in the paper, B,H,S,S and B,H,S,S; real B,S -> a scalar.
    """
    pairs = real.unsqueeze(1) & real.unsqueeze(2)  # B,1,S and B,S,1 -> B,S,S
    squares = (student - teacher).square().mean(dim=1)  # B,H,S,S -> B,S,S
    return mean_over_tokens(squares.flatten(1), pairs.flatten(1))  # B,S,S -> B,S·S


def relation_kl(student: Tensor, teacher: Tensor, real: Tensor, heads: int) -> Tensor:
    """Σ_inputs mean over relation heads and real tokens of KL(R_t ‖ R_s), R = softmax(A·Aᵀ / sqrt(W)) over those.

    MiniLMv2 (Wang et al. 2021, section 3.1). A are all queries (or keys, or values) of a layer, B,S,D, cut into as many
    relation heads on both sides, however many heads (and whatever width) their attention has; real B,S -> a scalar.
    """
    padding = ~real[:, None, None, :]  # B,S -> B,1,1,S
    log_q, log_p = (
        scaled_products(x, x, heads).masked_fill(padding, LOWEST).log_softmax(dim=-1) for x in (student, teacher)
    )
    terms = F.kl_div(log_q, log_p, reduction="none", log_target=True)  # B,H,S,S
    return mean_over_tokens(terms.sum(dim=-1).mean(dim=1), real)  # B,H,S,S -> B,H,S -> B,S


def compare_scores(student: QKV, teacher: QKV, real: Tensor, heads: int) -> Tensor:
    """attention_mse of the scores that two blocks' queries and keys make -> a scalar"""
    student_scores, teacher_scores = (scaled_products(query, key, heads) for query, key, _ in (student, teacher))
    return attention_mse(student_scores, teacher_scores, real)


def compare_relations(student: QKV, teacher: QKV, real: Tensor, heads: int) -> Tensor:
    """The mean of relation_kl for queries with queries, keys with keys and values with values -> a scalar"""
    return 1 / 3 * sum(relation_kl(s, t, real, heads) for s, t in zip(student, teacher, strict=True))


# --- the registry ---


@dataclass(frozen=True)
class HiddenLoss:
    """One entry of the registry.

    compare(student, teacher, real) -> a scalar, of hidden states B,S,D after a layer, the student's in the teacher's
    width. With `compares_qkv` it is compare(student, teacher, real, heads), of the queries, keys and values of a block.
    """

    compare: Callable[..., Tensor]
    layers: Callable[[LayerMap, int], LayerMap]  # the layer map and the student's depth -> the pairs it compares
    weight: float  # where none is given
    paper: str
    summary: str  # for people: what is compared
    compares_qkv: bool = False  # it compares queries, keys and values instead of hidden states
    own_heads: bool = False  # it cuts them into the models' own heads, of which both must have as many
    #: Maps of H,S,S numbers that a pair keeps for the backward pass: one for each product of heads, mask, softmax and
    #: difference. For the estimate of memory alone; of queries, keys and values at least two are counted.
    score_maps: int = 0


HIDDEN_LOSSES: dict[str, HiddenLoss] = {
    "hidden": HiddenLoss(
        compare=hidden_mse,
        layers=all_layers,
        weight=1.0,
        paper="TinyBERT, Jiao et al. 2020",
        summary="mean square of the difference of hidden states, embeddings included",
    ),
    "attention": HiddenLoss(
        compare=compare_scores,
        layers=blocks,
        weight=0.1,
        paper="TinyBERT, Jiao et al. 2020",
        summary="mean square of the difference of attention scores; the same number of heads is needed",
        compares_qkv=True,
        own_heads=True,
        score_maps=2,
    ),
    "cosine": HiddenLoss(
        compare=hidden_cosine,
        layers=last_block,
        weight=1.0,
        paper="DistilBERT, Sanh et al. 2019",
        summary="1 − cosine of the states behind the last pair of --layer-map",
    ),
    "patient": HiddenLoss(
        compare=patient_mse,
        layers=inner_blocks,
        weight=10.0,
        paper="patient distillation, Sun et al. 2019",
        summary="square distance of the states of [CLS], each of length 1, after all layers but the student's last",
    ),
    "relations": HiddenLoss(
        compare=compare_relations,
        layers=last_block,
        weight=1.0,
        paper="MiniLMv2, Wang et al. 2021",
        summary="KL of the softmaxed products of queries with queries, keys with keys, values with values, "
        "in the blocks of the last pair of --layer-map",
        compares_qkv=True,
        score_maps=8,
    ),
}


def list_losses() -> str:
    """The losses that there are, for --help: "; hidden (1: mean square of … [TinyBERT, Jiao et al. 2020]), …"."""
    each = [f"{name} ({loss.weight:g}: {loss.summary} [{loss.paper}])" for name, loss in HIDDEN_LOSSES.items()]
    return f"; {', '.join(each)}".replace("%", "%%")  # as argparse wants it


def parse_losses(text: str) -> dict[str, float]:
    """The weight of each loss of --losses: "hidden,relations=0.5" -> {"hidden": 1.0, "relations": 0.5}

    Raises UserError for a name that is not in the registry, one that is there twice, and a weight that is none.
    """
    weights = {}
    for part in text.split(",") if text else ():
        name, equals, number = part.partition("=")
        if name not in HIDDEN_LOSSES:
            raise UserError(f"--losses {text}: {name!r} is not one of {', '.join(HIDDEN_LOSSES)}")
        if name in weights:
            raise UserError(f"--losses {text}: {name!r} is named twice")
        try:
            weights[name] = float(number) if equals else HIDDEN_LOSSES[name].weight
        except ValueError:
            weights[name] = -1.0
        if not 0 < weights[name] <= LARGEST:
            raise UserError(f"--losses {text}: the weight of {name} is {number!r}, a number above 0 is needed")
    return weights


# --- all of them together ---


class BothQKV(NamedTuple):
    """Queries, keys and values of blocks of both models, by layer."""

    student: dict[int, QKV]
    teacher: dict[int, QKV]


def all_qkv(model: Model, states: list[Tensor]) -> dict[int, QKV]:
    """Those of every block by its layer, each B,S,D: block l works on the state after layer l − 1."""
    return {layer: block.project(states[layer - 1]) for layer, block in enumerate(model.encoder.blocks, 1)}


class Term(NamedTuple):
    """One summand: a loss by name, between one layer of the student and one of the teacher."""

    name: str
    student_layer: int
    teacher_layer: int


class HiddenLosses(nn.Module):
    """The weighted sum of some hidden-state losses, with the projections that are learned beside the student for them.

    Example: weights {"hidden": 1.0} and layers [(0, 0), (1, 2)] compare the embeddings with the teacher's embeddings,
    and the output of the student's first block with that of the teacher's second.
    Where the widths differ, a matrix for the embeddings and one for all blocks take the student's states to the
    teacher's width (TinyBERT's W_e and W_h). make_hidden_losses makes the usual layers, and those with a name.
    Raises UserError where a loss is not possible between these two models.
    """

    def __init__(self, weights: dict[str, float], layer_map: LayerMap, student: ModelConfig, teacher: ModelConfig):
        super().__init__()
        layer_map = [LayerPair(*pair) for pair in layer_map]
        check_layer_map(layer_map, student.depth, teacher.depth)
        self.weights = weights
        self.pairs: dict[str, LayerMap] = {}
        for name in weights:
            self.pairs[name] = HIDDEN_LOSSES[name].layers(layer_map, student.depth)
            if not self.pairs[name]:
                raise UserError(f"--losses {name}: no pair of layers is there for it, {listed(layer_map)} are given")
            if HIDDEN_LOSSES[name].own_heads and student.heads != teacher.heads:
                why = f"the student has {student.heads} heads, the teacher {teacher.heads}; relations works with any"
                raise UserError(f"--losses {name}: {why}")
        self.heads = teacher.heads
        self.relation_heads = math.gcd(teacher.heads, student.width)  # a divisor of both widths
        self.projections = nn.ModuleDict()
        if student.width != teacher.width:
            of_states = [term for term in self.terms() if not HIDDEN_LOSSES[term.name].compares_qkv]
            for name in sorted({_projection(term.student_layer) for term in of_states}):
                self.projections[name] = nn.Linear(student.width, teacher.width, bias=False)

    def forward(self, student_states: list[Tensor], teacher_states: list[Tensor], real: Tensor, qkv: BothQKV) -> Tensor:
        """Hidden states of student and teacher, each L+1 of B,S,D; real B,S; qkv of record_qkv -> a scalar"""
        values = zip(self.terms(), self.values(student_states, teacher_states, real, qkv), strict=True)
        return torch.stack([self.weights[term.name] * value for term, value in values]).sum()

    def values(
        self, student_states: list[Tensor], teacher_states: list[Tensor], real: Tensor, qkv: BothQKV
    ) -> list[Tensor]:
        """Each term's loss, a scalar without its weight, in the order of `terms`; arguments as of forward.

        All in full precision, whatever the models ran in. A state is projected once for all losses.
        """
        found: list[Tensor] = []
        projected: dict[int, Tensor] = {}
        with torch.autocast(real.device.type, enabled=False):
            for name, student_layer, teacher_layer in self.terms():
                loss = HIDDEN_LOSSES[name]
                if loss.compares_qkv:
                    sides = qkv.student[student_layer], qkv.teacher[teacher_layer]
                    student, teacher = (tuple(part.float() for part in side) for side in sides)
                    found.append(loss.compare(student, teacher, real, self.heads_of(name)))
                    continue
                if student_layer not in projected:
                    state = student_states[student_layer].float()
                    projected[student_layer] = self.project(state, student_layer)
                state = teacher_states[teacher_layer].float()
                found.append(loss.compare(projected[student_layer], state, real))
        return found

    @contextmanager
    def record_qkv(self, student: Model, teacher: Model) -> Iterator[BothQKV]:
        """The queries, keys and values that losses compare, taken from a forward pass of each of the two models.

        To make them again would take up to an eighth of a step.
        """
        terms = [term for term in self.terms() if HIDDEN_LOSSES[term.name].compares_qkv]
        recorded = BothQKV({}, {})
        for term in terms:
            for model, layer, of_model in zip((student, teacher), term[1:], recorded, strict=True):
                attention = model.encoder.blocks[layer - 1].attention
                attention.keep = functools.partial(of_model.__setitem__, layer)
        try:
            yield recorded
        finally:
            for block in (*student.encoder.blocks, *teacher.encoder.blocks):
                block.attention.keep = None

    def heads_of(self, name: str) -> int:
        """Into how many heads a loss cuts queries, keys and values."""
        return self.heads if HIDDEN_LOSSES[name].own_heads else self.relation_heads

    def project(self, state: Tensor, layer: int) -> Tensor:
        """A hidden state of the student in the teacher's width.  B,S,D -> B,S,D"""
        return self.projections[_projection(layer)](state) if self.projections else state

    def terms(self) -> list[Term]:
        """Every term of the sum."""
        return [Term(name, *pair) for name, pairs in self.pairs.items() for pair in pairs]

    def score_maps(self) -> int:
        """How many maps of H,S,S numbers are in memory at once for the losses that compare queries, keys and values."""
        losses = [HIDDEN_LOSSES[term.name] for term in self.terms()]
        return sum(max(loss.score_maps, 2 if loss.compares_qkv else 0) for loss in losses)

    def describe(self) -> str:
        """The terms in one line: "1 · hidden (0→0, 1→2, 2→4, 3→6) + 0.5 · relations (3→6)"."""
        parts = []
        for name, weight in self.weights.items():
            pairs = ", ".join(f"{pair.student}→{pair.teacher}" for pair in self.pairs[name])
            parts.append(f"{weight:g} · {name} ({pairs})")
        return " + ".join(parts)


def make_hidden_losses(
    config: TrainConfig, student: ModelConfig, teacher: ModelConfig, made_of: Sequence[int] = ()
) -> HiddenLosses | None:
    """The hidden-state losses of --losses and --layer-map between two models; None where there are none.

    made_of: as of layer_map.explicit. UserError where --layer-map is "own" and they are not known.
    """
    if not config.losses:
        return None
    layer_map = parse_layer_map(explicit(config.layer_map, student.depth, teacher.depth, made_of))
    return HiddenLosses(parse_losses(config.losses), layer_map, student, teacher)


def _projection(layer: int) -> str:
    """Which of the projections a layer's state goes through."""
    return "blocks" if layer else "embeddings"
