"""Which layer of the student is compared with which layer of the teacher."""

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from kd_scratch.common.errors import UserError


class LayerPair(NamedTuple):
    """A layer of the student and the layer of the teacher that it is compared with. 0: the embeddings."""

    student: int
    teacher: int


LayerMap = list[LayerPair]


def all_layers(layer_map: LayerMap, depth: int) -> LayerMap:
    """Every pair, the embeddings included."""
    return layer_map


def blocks(layer_map: LayerMap, depth: int) -> LayerMap:
    """All pairs but that of the embeddings."""
    return [pair for pair in layer_map if pair.student > 0]


def inner_blocks(layer_map: LayerMap, depth: int) -> LayerMap:
    """All blocks but the student's last, whose state the head sees (Sun et al. 2019, section 3.2)."""
    return [pair for pair in blocks(layer_map, depth) if pair.student < depth]


def last_block(layer_map: LayerMap, depth: int) -> LayerMap:
    """The last pair alone: the student's last layer that is mapped, and the teacher's that it is mapped to."""
    return blocks(layer_map, depth)[-1:]


# --- maps by name ---


def evenly_spread(depth: int, teacher_depth: int, made_of: Sequence[int] = ()) -> LayerMap:
    """A layer of the teacher for each of the student's: 3 of 6 -> (0,0) (1,2) (2,4) (3,6)  (Jiao et al. 2020, 3.1)."""
    spread = [LayerPair(layer, max(1, round(layer * teacher_depth / depth))) for layer in range(1, depth + 1)]
    return [LayerPair(0, 0), *spread]


def own_layers(depth: int, teacher_depth: int, made_of: Sequence[int]) -> LayerMap:
    """The layers that the student was made of: layers 0, 2 and 4 of 6 -> (0,0) (1,1) (2,3) (3,5).

    UserError where it was made of none that are known.
    """
    if not made_of:
        raise UserError("--layer-map own: the student is not made of a model of the teacher's depth; choose spread")
    return [LayerPair(0, 0), *(LayerPair(layer, of + 1) for layer, of in enumerate(made_of, 1))]


def last_layers(depth: int, teacher_depth: int, made_of: Sequence[int]) -> LayerMap:
    """The last layer of each alone: 3 of 6 -> (3,6)  (Wang et al. 2020, section 3.1)."""
    return [LayerPair(depth, teacher_depth)]


#: Names that --layer-map takes: student's depth, teacher's depth, what the student is made of (below) -> pairs.
LAYER_MAPS: dict[str, Callable[[int, int, Sequence[int]], LayerMap]] = {
    "spread": evenly_spread,
    "own": own_layers,
    "last": last_layers,
}


def usual_map(made_of: Sequence[int]) -> tuple[str, str]:
    """The map of a run that names none, and why: the student's own layers, where they are known (see `explicit`)."""
    if made_of:
        return "own", "each with the layer that it was made of"
    return "spread", "evenly spread, as --model is no model of the teacher's depth"


def explicit(text: str, depth: int, teacher_depth: int, made_of: Sequence[int]) -> str:
    """A --layer-map as pairs: "own" -> "0:0,1:1,2:3,3:5". Pairs stay as they are, "" is the usual map.

    made_of: which layers of a model of the teacher's depth, counted from 0, the student began with; empty: of none.
    """
    name = text or usual_map(made_of)[0]
    if name not in LAYER_MAPS:
        return text
    return listed(LAYER_MAPS[name](depth, teacher_depth, made_of)).replace(" ", "")


# --- maps by numbers ---


def parse_layer_map(text: str) -> LayerMap:
    """The pairs of --layer-map, sorted: "1:2,2:4" -> [(1, 2), (2, 4)]; [] for a name and for "".

    Raises UserError for anything else.
    """
    if text in LAYER_MAPS:
        return []
    if text and not re.fullmatch(r"\d{1,4}:\d{1,4}(,\d{1,4}:\d{1,4})*", text, re.ASCII):
        names = ", ".join(LAYER_MAPS)
        raise UserError(f"--layer-map {text}: is none of {names}, and no list of STUDENT:TEACHER such as 0:0,1:2,2:4")
    pairs = [LayerPair(*map(int, part.split(":"))) for part in text.split(",") if part]
    if len({pair.student for pair in pairs}) < len(pairs):
        raise UserError(f"--layer-map {text}: a layer of the student is there twice")
    return sorted(pairs)


def check_layer_map(layer_map: LayerMap, depth: int, teacher_depth: int) -> None:
    """UserError for a pair of layers that the two models do not have, or that mixes embeddings with a block."""
    for pair in layer_map:
        if pair.student > depth or pair.teacher > teacher_depth or (pair.student == 0) != (pair.teacher == 0):
            why = f"the student has layers 1 to {depth}, the teacher 1 to {teacher_depth}"
            raise UserError(
                f"--layer-map: {pair.student}:{pair.teacher} is not possible: {why}; 0:0 are the embeddings"
            )


def listed(layer_map: LayerMap) -> str:
    """ "0:0, 1:2" """
    return ", ".join(f"{pair.student}:{pair.teacher}" for pair in layer_map)
