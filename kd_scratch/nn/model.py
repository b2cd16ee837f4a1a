"""A whole model: embeddings, encoder, and one of four heads. BERT, DistilBERT and our own shapes are one class."""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_scratch.config import ModelConfig
from kd_scratch.nn.layers import ACTIVATIONS, Encoder, InputEmbeddings, LayerNormalization, PositionalEncoding, dropout


@dataclass
class ModelOutput:
    """The result of a forward pass. hidden_states and attentions are empty lists unless asked for; but a model without
    a head always gives its hidden states."""

    logits: Tensor | None  # sequence: B,C   token: B,S,C   span: B,S,2   mlm: U,V (see Model.forward)   no head: None
    hidden_states: list[Tensor]  # L + 1 of B,S,D; index 0 is the embedding output
    attentions: list[Tensor]  # L of B,H,S,S


class SequenceHead(nn.Module):
    """One distribution per text, from its first position ([CLS]): linear, activation, dropout, linear.

    BERT's activation is tanh, and it calls the first linear "pooler"; DistilBERT has ReLU and "pre_classifier".
    """

    def __init__(self, width: int, classes: int, dropout: float, activation):
        super().__init__()
        self.pooler = nn.Linear(width, width)
        self.classifier = nn.Linear(width, classes)
        self.activation = activation
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        """B,S,D -> B,C"""
        pooled = self.activation(self.pooler(x[:, 0]))  # B,S,D -> B,D
        return self.classifier(dropout(pooled, self.dropout, self.training))  # B,D -> B,C


class TokenHead(nn.Module):
    """C numbers per position. Tags: logits of C classes. Spans: C = 2, how well an answer starts and how well it ends
    here; their softmax is over the positions (see distillation/units.py).
    """

    def __init__(self, width: int, classes: int, dropout: float):
        super().__init__()
        self.classifier = nn.Linear(width, classes)
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        """B,S,D -> B,S,C"""
        return self.classifier(dropout(x, self.dropout, self.training))


class MaskedLMHead(nn.Module):
    """One distribution over the vocabulary per position: linear, activation, norm, product with the table of tokens.

    The table is the embeddings' own (Press & Wolf 2017); only a bias for each word is learned beside it.
    """

    def __init__(self, width: int, vocab_size: int, activation: str, epsilon: float):
        super().__init__()
        self.transform = nn.Linear(width, width)
        self.activation = ACTIVATIONS[activation]
        self.norm = LayerNormalization(width, epsilon)
        self.bias = nn.Parameter(torch.zeros(vocab_size))  # V

    def forward(self, x: Tensor, table: Tensor) -> Tensor:
        """x U,D; table V,D -> U,V"""
        return F.linear(self.norm(self.activation(self.transform(x))), table, self.bias)  # U,D · D,V -> U,V


def make_head(config: ModelConfig) -> nn.Module | None:
    """The head that a configuration asks for; None for a bare encoder."""
    if config.head is None:
        return None
    distilbert = config.model_type == "distilbert"
    if config.head == "mlm":
        return MaskedLMHead(config.width, config.vocab_size, config.activation, config.norm_epsilon)
    if config.head == "sequence":
        activation = F.relu if distilbert else torch.tanh
        return SequenceHead(config.width, config.classes, config.head_dropout, activation)
    # BERT's published span head has no dropout, DistilBERT's has.
    dropout = 0.0 if config.head == "span" and not distilbert else config.head_dropout
    return TokenHead(config.width, config.classes, dropout)


class Model(nn.Module):
    """ids -> embeddings + positions -> norm -> encoder -> head.

    Example: Model(ModelConfig(width=64, depth=2, heads=4, feed_forward=256, head="sequence", labels=("no", "yes"))) is
    a small BERT with random weights; model(ids).logits maps ids (8,32) to logits (8,2).
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        # Fixed sinusoids are of size 1 or so; the tokens' vectors are scaled up to that, as in Vaswani et al. 2017.
        scale = math.sqrt(config.width) if config.positions == "sinusoidal" else 1.0
        self.embeddings = InputEmbeddings(config.vocab_size, config.width, config.token_types, scale)
        self.positions = PositionalEncoding(config.max_positions, config.width, config.positions)
        self.embedding_norm = LayerNormalization(config.width, config.norm_epsilon)
        self.encoder = Encoder(
            config.depth,
            config.width,
            heads=config.heads,
            inner_width=config.feed_forward,
            activation=config.activation,
            dropout=config.dropout,
            attention_dropout=config.attention_dropout,
            norm_first=config.norm_first,
            epsilon=config.norm_epsilon,
        )
        self.head = make_head(config)
        self.initialize()
        self.packed_parameters = 0  # those that int8.py and fast.py keep in forms that are not among parameters()
        self.fast = False  # whether it is in the form of fast.py, which cannot be saved or trained

    def initialize(self) -> None:
        """BERT's initial weights: normal with deviation init_std for matrices and tables, zero biases, unit norms.

        Scaled token vectors start with deviation 1 / scale, so that they come out with 1.
        """
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=self.config.init_std)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        positions = getattr(self.positions, "weight", None)
        if isinstance(positions, nn.Parameter):  # learned ones
            nn.init.normal_(positions, std=self.config.init_std)
        if self.embeddings.scale != 1:
            nn.init.normal_(self.embeddings.word.weight, std=1 / self.embeddings.scale)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
        masked_positions: Tensor | None = None,
    ) -> ModelOutput:
        """input_ids B,S; attention_mask B,S, nonzero at real tokens (None: all); token_type_ids B,S (None: all 0)

        masked_positions: for a head for masked words: the U of the B·S positions that get logits (None: all).
        V logits for every position would take far more time and memory than the masked ones.
        """
        x = self.positions(self.embeddings(input_ids, token_type_ids))
        x = dropout(self.embedding_norm(x), self.config.dropout, self.training)
        # A sequence head looks at the first position only, so the last block need not compute the others.
        first_only = self.config.head == "sequence" and not (output_hidden_states or output_attentions)
        mask = None if attention_mask is None else attention_mask.bool()
        # A mask that hides nothing is dropped: in a short text it costs as much as the norms. (A GPU would have to be
        # waited for to know that.)
        if mask is not None and mask.device.type == "cpu" and mask.all():
            mask = None
        # In int8 padding becomes its text's first token: so it widens the range of no text that has one scale.
        if mask is not None and self.config.int8:
            x = torch.where(mask.unsqueeze(-1), x, x[:, :1])  # B,S,D
        need_states = output_hidden_states or self.head is None
        x, hidden_states, attentions = self.encoder(x, mask, need_states, output_attentions, first_only)
        if self.head is None:
            return ModelOutput(None, hidden_states, attentions)
        if self.config.head != "mlm":
            return ModelOutput(self.head(x), hidden_states, attentions)
        x = x.flatten(0, 1)  # B,S,D -> B·S,D
        if masked_positions is not None:
            x = x.index_select(0, masked_positions)  # B·S,D -> U,D
        return ModelOutput(self.head(x, self.embeddings.word.weight), hidden_states, attentions)

    def num_parameters(self) -> int:
        """How many parameters the model has, in whatever form it keeps them."""
        return sum(p.numel() for p in self.parameters()) + self.packed_parameters

    def count_as(self, parameters: int) -> None:
        """Set what num_parameters returns, now that some have left parameters()."""
        self.packed_parameters = parameters - sum(p.numel() for p in self.parameters())


def with_dropout(config: ModelConfig, dropout: float, attention: float = -1) -> ModelConfig:
    """The same shape with another dropout of the encoder's hidden states and attention weights (below 0: the same).

    The head keeps its own unless `dropout` is 0, which turns it off.
    """
    head = config.head_dropout if dropout else 0.0
    return replace(
        config, dropout=dropout, attention_dropout=dropout if attention < 0 else attention, head_dropout=head
    )


def forward_operations(config: ModelConfig, lengths: np.ndarray, plain: bool = False) -> float:
    """Floating-point operations of a forward pass over inputs of these lengths (tokens), without padding.

    Per block and token: 8·D² for query, key, value and output, 4·D·F for the feed-forward, 4·S·D for scores and sums
    over its S neighbours. Norms, softmax, activations and the head are small, but for 2·V·D per masked word. With a
    sequence head the last block needs keys and values of all tokens, all else of the first one only; `plain` counts it
    like the others. The backward pass takes twice as many.
    """
    inputs = len(lengths)
    tokens = int(lengths.sum())
    pairs = int(np.square(lengths, dtype=np.int64).sum())
    width = config.width
    inner = config.feed_forward
    block = tokens * (8 * width**2 + 4 * width * inner) + pairs * 4 * width
    if config.head == "mlm":
        return config.depth * block + 0.15 * tokens * 2 * config.vocab_size * width
    if config.head != "sequence" or plain:
        return config.depth * block
    last = tokens * 4 * width**2 + inputs * (4 * width**2 + 4 * width * inner) + tokens * 4 * width
    return (config.depth - 1) * block + last
