"""Knowledge distillation: the losses, each a short function with its paper.

Two families. The first compares what student and teacher say, by unit: whatever has one distribution of its own, which
is one text (sequence head), one word, at its first token (token head), one start and one end (span head), one hidden
word (mlm head). The second compares what happens inside them, by input. All are *sums*, over units or inputs, for the
caller to divide by how many the whole optimizer step has: so cutting a batch into parts changes nothing.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_scratch.common.files import UserError
from kd_scratch.config import ModelConfig
from kd_scratch.data.batches import IGNORE, UNLABELLED, Batch, EncodedInputs, num_masked
from kd_scratch.nn.layers import split_heads
from kd_scratch.nn.model import Model

# --- what they say: logits, by unit ---


def units(head: str, logits: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """A batch's logits and labels, cut into units: (U,K) logits over K outcomes, and (U,) labels.

    Student and teacher go through the same cut, so what is left out (padding, tokens that are no unit, positions
    outside the context) is left out of both distributions. A label may be UNLABELLED.
    """
    logits = logits.float()  # the loss is computed in full precision whatever the model ran in
    if head == "sequence":
        return logits, batch.labels  # B,C and B
    if head == "mlm":
        return logits, batch.labels.flatten().index_select(0, batch.counted)  # U,V and B,S -> B·S -> U
    if head == "token":
        tokens, labels = logits.flatten(0, 1), batch.labels.flatten()  # B,S,C -> B·S,C and B,S -> B·S
        return tokens.index_select(0, batch.counted), labels.index_select(0, batch.counted)  # U,C and U
    # A finite stand-in for −∞: outside the allowed positions both probabilities are exactly 0 and nothing is NaN,
    # not even after a division by a small temperature.
    lowest = -1e30
    allowed = batch.allowed.unsqueeze(-1)  # B,S,1
    start_end = logits.masked_fill(~allowed, lowest)  # B,S,2
    start_end, labels = (x.index_select(0, batch.counted) for x in (start_end, batch.labels))
    return start_end.transpose(1, 2).flatten(0, 1), labels.flatten()  # B,S,2 -> B,2,S -> 2B,S and B,2 -> 2B


def count_units(features: EncodedInputs, indices: np.ndarray) -> int:
    """How many units a batch of these inputs has, without building it."""
    if features.head == "mlm":
        words = [features.labels[features.starts[i] : features.starts[i + 1]] != IGNORE for i in indices]
        return sum(num_masked(int(which.sum())) for which in words)
    if features.head == "token":
        return sum(int((features.labels[features.starts[i] : features.starts[i + 1]] != IGNORE).sum()) for i in indices)
    return 2 * int((features.labels[indices, 0] != IGNORE).sum()) if features.head == "span" else len(indices)


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Σ_units −log softmax(z)[label].  logits U,K; labels U -> a scalar; an UNLABELLED unit adds nothing"""
    return F.cross_entropy(logits, labels, reduction="sum", ignore_index=UNLABELLED)


def soft_targets(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T² · Σ_units KL(softmax(t/T) ‖ softmax(z/T))  (Hinton et al. 2015, section 2).

    student, teacher: logits z and t, U,K -> a scalar, 0 where they agree.

    T² keeps the gradient's size when T changes: for large T it tends to the gradient of ½ Σ (z−t)² / K on centred
    logits. An outcome that the teacher gives probability 0 adds nothing.
    """
    log_p = F.log_softmax(teacher / temperature, dim=-1)  # U,K
    log_q = F.log_softmax(student / temperature, dim=-1)  # U,K
    return temperature**2 * F.kl_div(log_q, log_p, reduction="sum", log_target=True)


def distillation_loss(student: Tensor, teacher: Tensor, labels: Tensor, temperature: float, alpha: float) -> Tensor:
    """(1−α) · cross-entropy with the labels + α · soft targets; a sum over units.  U,K; U,K; U -> a scalar"""
    hard = cross_entropy(student, labels) if alpha < 1 else 0.0
    soft = soft_targets(student, teacher, temperature) if alpha > 0 else 0.0
    return (1 - alpha) * hard + alpha * soft


# --- what happens inside: hidden states and attention, by input ---
#
# B inputs of S tokens, `real` B,S is True where a token is no padding; the teacher's width D may differ from the
# student's where the formula allows it.


def mean_over_tokens(values: Tensor, real: Tensor) -> Tensor:
    """Σ_inputs of the mean of an input's real tokens.  B,S; B,S -> a scalar"""
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


def patient_mse(student: Tensor, teacher: Tensor) -> Tensor:
    """Σ_inputs ‖ s / ‖s‖ − t / ‖t‖ ‖² of the states of [CLS]  (patient distillation: Sun et al. 2019, equation 7).

    Hidden states B,S,D and B,S,D, the student's projected to the teacher's width -> a scalar.
    """
    return (F.normalize(student[:, 0], dim=-1) - F.normalize(teacher[:, 0], dim=-1)).square().sum()  # B,D -> 1


def scaled_products(left: Tensor, right: Tensor, heads: int) -> Tensor:
    """L·Rᵀ / sqrt(W), head by head.  B,S,D and B,S,D -> B,H,S,S"""
    left, right = split_heads(left, heads), split_heads(right, heads)
    return left @ right.transpose(-2, -1) / math.sqrt(left.size(-1))  # B,H,S,W · B,H,W,S -> B,H,S,S


def attention_mse(student: Tensor, teacher: Tensor, real: Tensor) -> Tensor:
    """Σ_inputs mean over heads and pairs of real tokens of (s − t)²  (TinyBERT: Jiao et al. 2020, equation 7).

    Attention scores Q·Kᵀ / sqrt(W) before the softmax, as in the paper, B,H,S,S and B,H,S,S; real B,S -> a scalar.
    """
    pairs = real.unsqueeze(1) & real.unsqueeze(2)  # B,1,S and B,S,1 -> B,S,S
    squares = (student - teacher).square().mean(dim=1)  # B,H,S,S -> B,S,S
    return mean_over_tokens(squares.flatten(1), pairs.flatten(1))  # B,S,S -> B,S·S


def relation_kl(student: Tensor, teacher: Tensor, real: Tensor, heads: int) -> Tensor:
    """Σ_inputs mean over relation heads and tokens of KL(R_t ‖ R_s), R = softmax(A·Aᵀ / sqrt(W)) over the real tokens.

    MiniLMv2 (Wang et al. 2021, section 3.1). A are all queries (or keys, or values) of a layer, B,S,D, cut into as many
    relation heads on both sides, however many heads (and whatever width) their attention has; real B,S -> a scalar.
    """
    padding = ~real[:, None, None, :]  # B,S -> B,1,1,S
    log_q, log_p = (
        scaled_products(x, x, heads).masked_fill(padding, -1e30).log_softmax(dim=-1) for x in (student, teacher)
    )
    terms = F.kl_div(log_q, log_p, reduction="none", log_target=True)  # B,H,S,S
    return mean_over_tokens(terms.sum(dim=-1).mean(dim=1), real)  # B,H,S,S -> B,H,S -> B,S


# --- put together ---


def spread(depth: int, teacher_depth: int) -> list[tuple[int, int]]:
    """Layers of the student, and the teacher's that they learn from, evenly spread: 3 of 6 -> (0,0) (1,2) (2,4) (3,6).

    0 are the embeddings, as in hidden_states (Jiao et al. 2020, section 3.1).
    """
    return [(0, 0), *((layer, max(1, round(layer * teacher_depth / depth))) for layer in range(1, depth + 1))]


class HiddenLosses(nn.Module):
    """The weighted sum of the losses on what happens inside. It owns what is learned beside the student for them.

    Example: weights {"hidden": 1.0} and layers [(0, 0), (1, 2)] compare the embeddings with the teacher's embeddings,
    and what the student's first block gives with what the teacher's second gives.
    hidden: all pairs of layers; attention: all pairs of blocks; patient: those but the student's last, whose state the
    head sees (Sun et al. 2019, section 3.2); cosine and relations: the last pair.
    Where the widths differ, a matrix for the embeddings and one for all blocks take the student's states to the
    teacher's width (TinyBERT's W_e and W_h). Raises UserError where a loss is not possible between these two.
    """

    def __init__(
        self, weights: dict[str, float], layers: list[tuple[int, int]], student: ModelConfig, teacher_model: Model
    ):
        super().__init__()
        self.teacher = (teacher_model,)  # in a tuple: no part of what is trained, nor put into train mode
        teacher = teacher_model.config
        layers = layers or spread(student.depth, teacher.depth)
        for mine, its in layers:
            if mine > student.depth or its > teacher.depth or (mine == 0) != (its == 0):
                why = f"the student has layers 1 to {student.depth}, the teacher 1 to {teacher.depth}"
                raise UserError(f"--layer-map: {mine}:{its} is not possible: {why}; 0:0 are the embeddings")
        blocks = [pair for pair in layers if pair[0] > 0]
        inner = [pair for pair in blocks if pair[0] < student.depth]
        known = {
            "hidden": layers,
            "attention": blocks,
            "cosine": blocks[-1:],
            "patient": inner,
            "relations": blocks[-1:],
        }
        self.weights = weights
        self.pairs = {name: known[name] for name in weights}
        for name, pairs in self.pairs.items():
            if not pairs:
                raise UserError(f"--losses {name}: no pair of layers is there for it, {layers} are given")
        if "attention" in weights and student.heads != teacher.heads:
            why = f"the student has {student.heads} heads, the teacher {teacher.heads}; relations works with any"
            raise UserError(f"--losses attention: {why}")
        self.heads = teacher.heads
        self.relation_heads = math.gcd(teacher.heads, student.width)  # a divisor of both widths
        self.projections = nn.ModuleDict()
        if student.width != teacher.width:
            states = [pair for name in ("hidden", "cosine", "patient") for pair in self.pairs.get(name, ())]
            for name in sorted({_room(mine) for mine, _ in states}):
                self.projections[name] = nn.Linear(student.width, teacher.width, bias=False)

    def project(self, state: Tensor, layer: int) -> Tensor:
        """A hidden state of the student in the teacher's width.  B,S,D -> B,S,D"""
        return self.projections[_room(layer)](state) if self.projections else state

    def forward(self, student: Model, states: list[Tensor], its_states: dict[int, Tensor], real: Tensor) -> Tensor:
        """The student's hidden states, N+1 of B,S,D, the teacher's by layer (those of `needed`), real B,S -> a scalar

        Computed in full precision, whatever the models ran in.
        """
        with torch.autocast(real.device.type, enabled=False):
            terms = [self.term(*which, student, states, its_states, real) for which in self.terms()]
        return torch.stack(terms).sum()

    def term(
        self,
        name: str,
        layer: int,
        its_layer: int,
        student: Model,
        states: list[Tensor],
        its_states: dict[int, Tensor],
        real: Tensor,
    ) -> Tensor:
        """One weighted loss between one layer of the student and one of the teacher; a scalar."""
        (teacher,), weight = self.teacher, self.weights[name]
        if name in ("attention", "relations"):  # queries, keys and values of block l, between the states l − 1 and l
            s = student.encoder.blocks[layer - 1].project(states[layer - 1].float())
            with torch.no_grad():
                t = teacher.encoder.blocks[its_layer - 1].project(its_states[its_layer - 1].float())
            if name == "attention":
                return weight * attention_mse(*(scaled_products(*x[:2], self.heads) for x in (s, t)), real)
            # queries with queries, keys with keys, values with values: a third each
            return weight / 3 * sum(relation_kl(a, b, real, self.relation_heads) for a, b in zip(s, t, strict=True))
        s, t = self.project(states[layer].float(), layer), its_states[its_layer].float()
        if name == "patient":
            return weight * patient_mse(s, t)
        return weight * (hidden_mse if name == "hidden" else hidden_cosine)(s, t, real)

    def terms(self) -> list[tuple[str, int, int]]:
        """Every term of the sum: which loss, the student's layer, the teacher's."""
        return [(name, *pair) for name, pairs in self.pairs.items() for pair in pairs]

    def needed(self) -> list[int]:
        """Which of the teacher's hidden states are looked at."""
        return sorted({its - (name in ("attention", "relations")) for name, _, its in self.terms()})

    def describe(self) -> str:
        """The terms in one line: "1 · hidden (0→0, 1→2, 2→4, 3→6) + 0.5 · relations (3→6)"."""
        return " + ".join(
            f"{weight:g} · {name} ({', '.join(f'{mine}→{its}' for mine, its in self.pairs[name])})"
            for name, weight in self.weights.items()
        )


def _room(layer: int) -> str:
    """Which of the projections a layer's state goes through."""
    return "blocks" if layer else "embeddings"


class Student(nn.Module):
    """What a training step runs, and what it trains: a model, and the hidden-state losses where some were asked for.

    teacher: to be run beside the student, where its logits or hidden states were not computed beforehand.
    """

    def __init__(self, model: Model, hidden_losses: HiddenLosses | None = None, teacher: Model | None = None):
        super().__init__()
        self.model, self.hidden_losses = model, hidden_losses
        self.teacher = (teacher,)

    def forward(
        self, inputs: dict[str, Tensor | None], its_states: dict[int, Tensor] | None = None
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """A batch's inputs, and the teacher's hidden states where they are kept -> logits, the teacher's logits (None
        where it does not run), and the sum over inputs of the hidden-state losses (None where there are none)"""
        (teacher,), look = self.teacher, self.hidden_losses is not None
        output, taught, loss = self.model(**inputs, output_hidden_states=look), None, None
        if teacher is not None:
            with torch.no_grad():
                its_output = teacher(**inputs, output_hidden_states=look)
            taught, its_states = its_output.logits, dict(enumerate(its_output.hidden_states))
        if look:
            mask = inputs["attention_mask"]
            real = torch.ones_like(inputs["input_ids"], dtype=torch.bool) if mask is None else mask
            loss = self.hidden_losses(self.model, output.hidden_states, its_states, real)
        return output.logits, taught, loss
