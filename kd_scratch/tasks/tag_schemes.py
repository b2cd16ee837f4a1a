"""What the labels of a model for named entities mean: tags in any of the usual ways of writing them.

Data and decisions are IOB2 everywhere in this program (conll_metric.py shows the schemes). Only a model's own
labels may be written otherwise, and only here they are translated, in both directions.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from kd_scratch.common.errors import UserError
from kd_scratch.tasks.conll_metric import ONLY_TYPE, SCHEMES, scheme_of_letters, to_iob2

#: How labels hold letter and type: B-PER or B_PER, b-per, PER-B, B alone, or PER alone, which is an I. All do it alike.
FORMS = tuple(
    re.compile(form)
    for form in (
        r"(?P<letter>[BIESLUMW])[-_](?P<type>.+)",
        r"(?P<letter>[bi])[-_](?P<type>.+)",
        r"(?P<type>.+)[-_](?P<letter>[BIESLUMW])",
        r"(?P<letter>[BIESLUMW])",
        r"(?P<type>.+)",
    )
)
#: Labels that training scripts give to what is no word, or to a word's later pieces. No word gets one.
HELPERS = set("X [CLS] [SEP] [PAD] PAD <PAD> <S> </S> <START> <STOP> <UNK> [UNK]".split())
NAMELESS = re.compile(r"LABEL_\d+")


@dataclass(frozen=True)
class TagScheme:
    """A model's labels as tags.

    TagScheme.of(("O", "I-PER", "I-LOC", "B-LOC", "X")) is IOB1, for there is no B of PER; X is a helper.
    """

    style: str  # one of SCHEMES, or IOB1, or IO (which has no B)
    tags: tuple[str | None, ...]  # of each label, as letter-type or O; None: a helper
    labels: dict[str, str]  # tag -> the model's label

    @classmethod
    def of(cls, labels: Sequence[str]) -> "TagScheme":
        """The scheme of these labels. UserError, with a cure, where they are no tags of entities."""
        named = [label for label in labels if label != "O" and label.upper() not in HELPERS]
        if any(map(NAMELESS.fullmatch, named)):
            cure = "write there what each number means, in the order of its training"
            raise UserError(f"id2label in config.json holds no names (LABEL_0, …); {cure}")
        form = next(form for form in FORMS if all(map(form.fullmatch, named)))
        typeless = set("BIESLUMW").intersection(named)  # letters without a type
        if form is FORMS[-1] and ("O" not in labels or typeless or any(map(FORMS[0].fullmatch, named))):
            odd = next(label for label in named if not FORMS[0].fullmatch(label))
            wanted = "tags of entities (O, and B- and I- with each type)"
            raise UserError(f"the model's labels are not {wanted}: {odd[:40]!r}; fine-tune it for this task first")
        by_label = {label: _tag(form.fullmatch(label)) for label in named} | {"O": "O"}
        return cls(
            _style({tag for tag in by_label.values() if tag != "O"}),
            tuple(by_label.get(label) for label in labels),
            {tag: label for label, tag in by_label.items() if label in labels},
        )

    @property
    def types(self) -> set[str]:
        """The types of entities."""
        return {tag[2:] for tag in self.tags if tag not in (None, "O")}

    @property
    def is_complete(self) -> bool:
        """Whether there is a label for every tag of the scheme: one can be taught to write it."""
        return {f"{letter}-{kind}" for letter in SCHEMES.get(self.style, "I") for kind in self.types} <= set(self.tags)

    def encode(self, tags: Sequence[str | None]) -> list[str | None]:
        """The label of each tag in IOB2. A tag without one stays, as the scheme writes it; so does None.

        In IOB1: ("B-LOC", "I-LOC", "B-LOC", "O") -> ["I-LOC", "I-LOC", "B-LOC", "O"]
        """
        written = []
        for previous, tag, following in zip(["O", *tags], tags, [*tags[1:], "O"], strict=False):
            if tag not in (None, "O"):
                begins, ends = tag[0] == "B", following != f"I{tag[1:]}"
                if self.style in SCHEMES:
                    letter = SCHEMES[self.style][3 if begins and ends else 0 if begins else 2 if ends else 1]
                else:
                    letter = "B" if begins and (previous or "O")[2:] == tag[2:] else "I"
                tag = letter + tag[1:]
            written.append(self.labels.get(tag, tag))
        return written

    def decode(self, places: Sequence[int]) -> tuple[str, ...]:
        """The tags in IOB2 of these labels, each given by its place in the list; none may be a helper's.

        They are read as the scorer reads them: the entities are the same in any scheme, also where the labels
        do not tell which one a model was trained with.
        """
        return to_iob2([self.tags[i] for i in places])


def _tag(match: re.Match) -> str:
    """The tag that a label writes."""
    parts = match.groupdict()
    return f"{parts.get('letter', 'I').upper()}-{parts.get('type', ONLY_TYPE)}"


def _style(tags: set[str]) -> str:
    """The scheme of a set of tags. UserError where there is none with all their letters."""
    letters = {tag[0] for tag in tags}
    if letters == {"I"}:
        return "IO"
    found = scheme_of_letters(letters)
    if found == "mixed":
        raise UserError(f"the model's labels mix schemes of tags: {', '.join(sorted(letters))} with the types")
    needs_b = {f"B{tag[1:]}" for tag in tags if tag[0] == "I"}
    return "IOB1" if found == "IOB2" and not needs_b <= tags else found
