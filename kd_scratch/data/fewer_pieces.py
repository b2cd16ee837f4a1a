"""A tokenizer with a part of its pieces: what some texts need, and enough to spell every other word."""

import json

import numpy as np
from tokenizers import Tokenizer as Backend

from kd_scratch.data.tokenizer import Tokenizer


def fewer_pieces(tokenizer: Tokenizer, used: np.ndarray) -> tuple[Tokenizer, np.ndarray]:
    """The same tokenizer with fewer pieces, and the old number of each that it has.

    used: numbers of pieces. They are kept, with all added tokens, all single characters, and each piece that single
    characters cannot spell. The longest piece is always taken first, so a text of pieces that are used is cut as
    before, and a longer piece that is gone is spelled by shorter ones: no word that was known becomes unknown.
    Example: without ##ation, "distillation" is distill ##a ##t ##i ##o ##n, unless ##at or so is used.
    """
    content = json.loads(tokenizer.backend.to_str())
    vocab, prefix = content["model"]["vocab"], content["model"]["continuing_subword_prefix"]
    numbers = tokenizer.backend.get_vocab()
    names = {token["content"] for token in content["added_tokens"]} | {content["model"]["unk_token"]}
    names |= set(tokenizer.special.values()) & numbers.keys()
    wanted = set(used.tolist())

    def is_kept(piece: str) -> bool:
        return vocab[piece] in wanted or piece in names or not is_spelled(piece, vocab, prefix)

    kept = with_barriers({*filter(is_kept, filter(None, vocab))}, {*filter(None, vocab)} - names, prefix)
    kept = [*kept, *(name for name in names if name not in vocab)]
    kept.sort(key=lambda piece: (piece not in vocab, numbers[piece]))  # added ones last
    number_of = {piece: i for i, piece in enumerate(kept)}
    content["model"]["vocab"] = {piece: i for piece, i in number_of.items() if piece in vocab}
    for token in content["added_tokens"]:
        token["id"] = number_of[token["content"]]
    content["added_tokens"].sort(key=lambda token: token["id"])
    around = content["post_processor"]
    for end in ("sep", "cls"):  # BertProcessing
        if end in around:
            around[end][1] = number_of[around[end][0]]
    for token in around.get("special_tokens", {}).values():  # TemplateProcessing
        token["ids"] = [number_of[piece] for piece in token["tokens"]]
    backend = Backend.from_str(json.dumps(content))
    assert backend.get_vocab() == number_of
    same = ("max_length", "special", "whole", "has_token_types", "extra")
    small = Tokenizer(backend, **{name: getattr(tokenizer, name) for name in same})
    return small, np.array([numbers[piece] for piece in kept])


def with_barriers(kept: set[str], vocab: set[str], prefix: str) -> set[str]:
    """Pieces to keep, and those whose end another would run over where a character has no ##piece of its own.

    Of ab ##cd ##bc a ##b ##c, "abcd" is ab ##cd. Without ab it would be a ##bc, and then there is no ##d. So ab stays:
    its end begins a kept, longer ##bc. What goes is then spelled by pieces that end where it ended, and ##cd is met at
    its start, as before.
    """
    continuing = {piece: piece.removeprefix(prefix) for piece in vocab if piece.startswith(prefix)}
    if all(prefix + character in vocab for piece in vocab for character in continuing.get(piece, piece)[1:]):
        return kept  # as in every vocabulary that was learned: pieces are made of single characters

    def runs_on(piece: str) -> bool:
        characters = continuing.get(piece, piece)
        return any(characters[i:] in begun for i in range(1, len(characters)))

    more = kept
    while more:
        ends = [continuing[piece] for piece in kept & continuing.keys()]
        begun = {characters[:i] for characters in ends for i in range(1, len(characters))}
        more = set(filter(runs_on, vocab - kept))
        kept = kept | more
    return kept


def is_spelled(piece: str, vocab: dict[str, int], prefix: str) -> bool:
    """Whether a piece of several characters could be cut into single ones that are in the vocabulary."""
    continues = piece.startswith(prefix) and len(piece) > len(prefix)
    characters = piece.removeprefix(prefix) if continues else piece
    single = [(prefix if continues or i else "") + character for i, character in enumerate(characters)]
    return len(single) > 1 and all(character in vocab for character in single)
