"""The transformer encoder, bottom-up: each layer uses only those above it. Read it top to bottom.

The letters of shapes (other files add their own, such as K outcomes, W words or P pieces, and say so where they do):
B batch, S sequence, Q queries (S, or 1), D model width, H heads, W head width (D = H·W), F feed-forward width,
C classes, V vocabulary, P positions, L layers, U units of a loss, N examples. ΣS: the tokens of N inputs in all.

Layers take numbers, not configurations. They own their parameters and write out their maths; where
torch.nn.functional has the same formula as a fused kernel, the kernel does the arithmetic.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

ACTIVATIONS = {
    "gelu": F.gelu,  # x·Φ(x), Hendrycks & Gimpel 2016
    "gelu_new": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
}


def dropout(x: Tensor, p: float, training: bool = True) -> Tensor:
    """In training each number becomes 0 with probability p, and is divided by 1 − p otherwise (Srivastava et al. 2014).

    On the CPU p is rounded to a multiple of 2^-16: sixteen random bits for each number, four numbers from one draw,
    take a fifth of the time that PyTorch's kernel needs, which draws 64 bits for each.
    """
    if p == 0 or not training:
        return x
    if x.device.type != "cpu":
        return F.dropout(x, p)
    dropped = min(max(1, round(p * 2**16)), 2**16 - 1)  # of 2^16 equally likely values
    draws = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    bits = draws.view(torch.int16)[: x.numel()]  # -2^15 … 2^15 - 1
    keep = torch.ge(bits, dropped - 2**15, out=torch.empty(x.numel(), dtype=x.dtype))  # 0.0 or 1.0
    return x * keep.mul_(2**16 / (2**16 - dropped)).view(x.shape)


class InputEmbeddings(nn.Module):
    """Token ids to vectors, plus a vector for the segment a token belongs to (BERT: 0 question, 1 context).

    Example: vocab_size=30522, width=768: ids (2,16) -> (2,16,768).
    token_types=0 leaves the segments out (DistilBERT). scale multiplies the token's vector: the original transformer's
    sqrt(D) (Vaswani et al. 2017, section 3.4), without which fixed sinusoids drown it.
    """

    def __init__(self, vocab_size: int, width: int, token_types: int = 0, scale: float = 1.0):
        super().__init__()
        self.scale = scale
        self.word = nn.Embedding(vocab_size, width)  # V,D
        self.token_type = nn.Embedding(token_types, width) if token_types else None

    def forward(self, input_ids: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        """input_ids B,S (integers); token_type_ids B,S or None for all zero -> B,S,D"""
        x = self.word(input_ids)  # B,S -> B,S,D
        if self.scale != 1:
            x = x * self.scale
        if self.token_type is not None:
            # Row 0 broadcasts: cheaper than looking up the same row B·S times, and so is its gradient.
            x = x + (self.token_type.weight[0] if token_type_ids is None else self.token_type(token_type_ids))
        return x


def sinusoidal_table(positions: int, width: int) -> Tensor:
    """The fixed position vectors of Vaswani et al. 2017, section 3.5: P,D, float32.

    table[p, 2i] = sin(p / 10000^(2i/D)),  table[p, 2i+1] = cos(p / 10000^(2i/D))
    """
    # On the CPU whatever the default device is: a table made under torch.device("meta") would hold nothing.
    position = torch.arange(positions, dtype=torch.float64, device="cpu").unsqueeze(1)  # P,1
    even = torch.arange(0, width, 2, dtype=torch.float64, device="cpu")  # D/2 (rounded up)
    angle = position / 10000 ** (even / width)  # P,D/2
    table = torch.empty(positions, width, dtype=torch.float64, device="cpu")
    table[:, 0::2] = angle.sin()
    table[:, 1::2] = angle.cos()[:, : width // 2]
    return table.float()


class PositionalEncoding(nn.Module):
    """Adds a vector per position: a learned table (BERT) or fixed sinusoids (the original transformer)."""

    def __init__(self, positions: int, width: int, kind: str = "learned"):
        super().__init__()
        if kind == "learned":
            self.weight = nn.Parameter(torch.zeros(positions, width))  # P,D
        elif kind == "sinusoidal":
            # Not persistent: it can be computed again, so checkpoints do not carry it.
            self.register_buffer("weight", sinusoidal_table(positions, width), persistent=False)
        else:
            raise ValueError(f"unknown kind of positions: {kind!r}")

    def forward(self, x: Tensor) -> Tensor:
        """B,S,D -> B,S,D; ValueError where S is more than the table holds"""
        if x.size(1) > self.weight.size(0):
            raise ValueError(f"{x.size(1)} tokens, but there are only {self.weight.size(0)} positions")
        return x + self.weight[: x.size(1)]  # B,S,D + S,D


class LayerNormalization(nn.Module):
    """y = (x − mean) / sqrt(variance + ε) · weight + bias, over the last dimension (Ba et al. 2016).

    The variance is the biased one (divided by D). BERT's ε is 1e-12.
    """

    def __init__(self, width: int, epsilon: float = 1e-12):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))  # D
        self.bias = nn.Parameter(torch.zeros(width))  # D
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        """…,D -> …,D"""
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.epsilon)


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    dropout_p: float = 0.0,
    need_maps: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """softmax(Q·Kᵀ / sqrt(W)) · V: each query takes a weighted mean of the values (Vaswani et al. 2017, eq. 1).

    query       B,H,Q,W
    key, value  B,H,S,W
    mask        boolean, broadcastable to B,H,Q,S: True where a key may be looked at; None: everywhere
    dropout_p   probability with which an attention weight is zeroed (0 when evaluating)
    returns     B,H,Q,W and the attention maps B,H,Q,S (before dropout), which are None unless asked for

    Without maps PyTorch's fused kernel computes the same without ever storing B,H,Q,S. On the CPU it cannot drop any
    weights, and its backward pass in bf16 takes two to six times as long as that of the lines below. A query that may
    look at nothing looks at everything instead: so there is never a softmax over nothing (0/0), forward or backward.
    """
    if mask is not None:
        mask = mask | ~mask.any(dim=-1, keepdim=True)
    bf16_backward = query.dtype == torch.bfloat16 and query.requires_grad
    if not need_maps and (query.device.type != "cpu" or (dropout_p == 0 and not bf16_backward)):
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout_p), None
    # The queries are scaled, not the scores, of which there are more; these are masked in place.
    scores = query / math.sqrt(query.size(-1)) @ key.transpose(-2, -1)  # B,H,Q,W · B,H,W,S -> B,H,Q,S
    if mask is not None:
        scores += torch.zeros_like(mask, dtype=scores.dtype).masked_fill_(~mask, float("-inf"))
    maps = scores.softmax(dim=-1)
    return dropout(maps, dropout_p) @ value, maps if need_maps else None  # B,H,Q,S · B,H,S,W -> B,H,Q,W


def split_heads(x: Tensor, heads: int) -> Tensor:
    """B,S,D -> B,H,S,W"""
    x = x.view(x.size(0), x.size(1), heads, x.size(2) // heads)  # B,S,D -> B,S,H,W
    return x.transpose(1, 2)  # B,S,H,W -> B,H,S,W


def join_heads(x: Tensor) -> Tensor:
    """B,H,S,W -> B,S,D"""
    return x.transpose(1, 2).flatten(2)  # B,H,S,W -> B,S,H,W -> B,S,D


class MultiHeadAttention(nn.Module):
    """H attentions side by side, each in its own W-dimensional projection of the input.

    Example: width=768, heads=12: each head works on W=64 numbers; the results are joined and projected back.
    """

    def __init__(self, width: int, heads: int, dropout: float = 0.0):
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is not a multiple of {heads} heads")
        self.heads = heads
        self.dropout = dropout
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)
        self.stacked: nn.Module | None = None  # fast.py: one product in place of query, key and value
        self.keep: Callable | None = None  # takes what project() gives in a forward pass, where losses compare it

    def project(self, x: Tensor, memory: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x B,Q,D and memory B,S,D -> queries B,Q,D, keys B,S,D and values B,S,D, the heads side by side

        The one place where they are made: losses on them and the trace take them from here too.
        """
        if self.stacked is not None:
            return self.stacked(x, memory)
        return self.query(x), self.key(memory), self.value(memory)

    def forward(
        self, x: Tensor, memory: Tensor, mask: Tensor | None = None, need_maps: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """x B,Q,D looks at memory B,S,D (in self-attention x is that, or its first position); mask B,1,1,S

        returns B,Q,D and the maps B,H,Q,S, which are None unless asked for
        """
        parts = self.project(x, memory)
        if self.keep is not None:
            self.keep(parts)
        query, key, value = (split_heads(part, self.heads) for part in parts)
        dropout_p = self.dropout if self.training else 0.0
        y, maps = attention(query, key, value, mask, dropout_p, need_maps)
        return self.output(join_heads(y)), maps


class FeedForwardBlock(nn.Module):
    """Two linear maps with an activation between, applied to each position alone: D -> F -> D."""

    def __init__(self, width: int, inner_width: int, activation: str = "gelu"):
        super().__init__()
        self.inner = nn.Linear(width, inner_width)
        self.outer = nn.Linear(inner_width, width)
        self.activation = ACTIVATIONS[activation]

    def forward(self, x: Tensor) -> Tensor:
        """B,S,D -> B,S,D"""
        return self.outer(self.activation(self.inner(x)))  # B,S,D -> B,S,F -> B,S,D


class ResidualConnection(nn.Module):
    """The way around a sublayer, with its norm and dropout. The sublayer gets `before` of x, and makes y of it.

    post-norm (BERT):            norm(x + dropout(y)),  y = sublayer(x)
    pre-norm (norm_first=True):  x + dropout(y),        y = sublayer(norm(x))
    """

    def __init__(self, width: int, dropout: float = 0.0, norm_first: bool = False, epsilon: float = 1e-12):
        super().__init__()
        self.norm = LayerNormalization(width, epsilon)
        self.dropout = dropout
        self.norm_first = norm_first

    def before(self, x: Tensor) -> Tensor:
        """B,S,D -> B,S,D"""
        return self.norm(x) if self.norm_first else x

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """x B,S,D; y B,Q,D, of the first Q positions (Q = S but in a last block, see Encoder) -> B,Q,D"""
        x = x[:, : y.size(1)] + dropout(y, self.dropout, self.training)
        return x if self.norm_first else self.norm(x)


class EncoderBlock(nn.Module):
    """Self-attention, then feed-forward, each inside its residual connection."""

    def __init__(
        self,
        width: int,
        heads: int,
        inner_width: int,
        activation: str = "gelu",
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        norm_first: bool = False,
        epsilon: float = 1e-12,
    ):
        super().__init__()
        self.attention = MultiHeadAttention(width, heads, attention_dropout)
        self.attention_residual = ResidualConnection(width, dropout, norm_first, epsilon)
        self.feed_forward = FeedForwardBlock(width, inner_width, activation)
        self.feed_forward_residual = ResidualConnection(width, dropout, norm_first, epsilon)

    def forward(
        self, x: Tensor, mask: Tensor | None = None, need_maps: bool = False, first_only: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """x B,S,D; mask B,1,1,S -> B,Q,D and maps B,H,Q,S (None unless asked for); Q is 1 with first_only, else S"""
        seen = self.attention_residual.before(x)
        y, maps = self.attention(seen[:, :1] if first_only else seen, seen, mask, need_maps)
        x = self.attention_residual(x, y)
        y = self.feed_forward(self.feed_forward_residual.before(x))
        return self.feed_forward_residual(x, y), maps

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x B,S,D -> queries, keys and values of this block's attention, all heads side by side, each B,S,D"""
        seen = self.attention_residual.before(x)
        return self.attention.project(seen, seen)


class Encoder(nn.Module):
    """A stack of L blocks; with pre-norm a last norm follows, since nothing else bounds the sum."""

    def __init__(self, depth: int, width: int, norm_first: bool = False, epsilon: float = 1e-12, **block):
        super().__init__()
        self.blocks = nn.ModuleList(
            EncoderBlock(width, norm_first=norm_first, epsilon=epsilon, **block) for _ in range(depth)
        )
        self.final_norm = LayerNormalization(width, epsilon) if norm_first else None
        self.recompute = False  # gradient checkpointing (Chen et al. 2016): keep only the blocks' inputs in training

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        need_states: bool = False,
        need_maps: bool = False,
        first_only: bool = False,
    ) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """x B,S,D; mask B,S boolean, True at real tokens, or None where all are

        returns the output B,S,D, the L + 1 hidden states, each B,S,D (index 0 is the input, the last the output), and
        the L attention maps, each B,H,S,S. The two lists are empty unless asked for.

        first_only: the last block computes its first position alone, so the output and the last state are B,1,D, the
        last map B,H,1,S. Exact where only that position is used: its keys and values still come from all positions,
        everything after them is per position.
        """
        if mask is not None:
            mask = mask[:, None, None, :]  # B,S -> B,1,1,S: the same keys for every head and query
        hidden_states, attentions = [], []
        for i, block in enumerate(self.blocks):
            if need_states:
                hidden_states.append(x)
            last = i == len(self.blocks) - 1
            arguments = (x, mask, need_maps, first_only and last)
            if self.recompute and self.training:
                x, maps = checkpoint(block, *arguments, use_reentrant=False)
            else:
                x, maps = block(*arguments)
            if need_maps:
                attentions.append(maps)
        if self.final_norm is not None:
            x = self.final_norm(x)
        if need_states:
            hidden_states.append(x)
        return x, hidden_states, attentions
