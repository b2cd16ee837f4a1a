"""Questions made of a context's own sentences: a span is cut out, and a question word stands for it.

    We keep your data for 90 days.                 We keep your data for how long?
    If you agree, the shop may send you offers.    When the shop may send you offers?

After Lewis et al. 2019 (Unsupervised Question Answering by Cloze Translation). The cues are of English; without one,
"what" stands there. The answer is not kept: the teacher says what it is.
"""

import re
import zlib
from collections.abc import Iterator, Sequence
from itertools import chain, islice, zip_longest

import numpy as np

from kd_scratch.common.console import progress
from kd_scratch.data.rows import Concat, Subset
from kd_scratch.data.tokenizer import Tokenizer
from kd_scratch.tasks.spans import CHARACTER, SOLID
from kd_scratch.tasks.squad_file import Example

SEED = 11  # questions are the same in every run, so they are tokenized, and asked of the teacher, once
FEWEST_WORDS = 4  # of a sentence that is asked about: headings have fewer
MOST_WORDS = 24  # of a question; in pieces some 32

DETERMINERS = set("a an the this these those all each any some no such your our their its his her my".split())
SUBJECTS = set("we you they i he she it that which who".split())
AUXILIARIES = set("may can will must should could would is are was were be been has have had do does".split())
BEFORE_VERB = SUBJECTS | AUXILIARIES | {"to", "not", "also", "please"}
PREPOSITIONS = set("about after as at before by during for from in into of on over through under with".split())
OTHERS = set("and but or nor only both well if when where while because so than how what there here us".split())
FUNCTION = DETERMINERS | BEFORE_VERB | PREPOSITIONS | OTHERS  # words that are no answer

MONTH = "(?:January|February|March|April|May|June|July|August|September|October|November|December)"
NUMBER = r"\b(?:\d(?:[\d.,]{0,12}\d)?|two|three|four|five|six|seven|eight|nine|ten|twelve|thirty)"
NAME = rf"(?=[A-Z])(?!(?i:{'|'.join(sorted(FUNCTION))})\b)\w[\w'’&-]+(?![\w-]|\.\w)"
CLAUSE = r"[^,;:()]+"  # the rest of it

#: What a span looks like, and what asks for it. Where there is none of them, "what" asks for a run of words.
CUES = {
    rf"\b(?:because|due to|in order to) {CLAUSE}": "why",
    rf"\bby \w+ing\b{CLAUSE}": "how",
    rf"^(?:If|When|Once|Unless|Until|After|Before) {CLAUSE},": "when",
    rf"(?<=\w )(?:if|when|once|unless|until) {CLAUSE}": "when",
    rf"\b(?:(?:in|on|since) )?(?:(?:\d\d? )?{MONTH} \d+(?:, \d{{4}})?|(?:1[5-9]|20)\d\d)\b(?![.,]\d)": "when",
    rf"{NUMBER} (?:second|minute|hour|day|week|month|year|decade)s?\b(?! old| of age)": "how long",
    rf"[$€£¥] ?{NUMBER}(?: [mb]illion)?|{NUMBER} ?(?:%|percent\b|dollars\b|euros\b)": "how much",
    rf"{NUMBER}(?= (?:\w+ )?[a-z]+s\b)": "how many",
    rf"(?:(?<=\bby )|\b(?:Mr|Mrs|Ms|Dr|President)\.? ){NAME}(?: {NAME})*": "who",
    rf"\b(?:(?i:the|this|our) )?{NAME}(?: (?:of )?(?:the )?{NAME})+": "what",
}

MARKS = rf"\s{SOLID}" + ',;:!?()"“”«»،؛؟…—|।'
WORD = re.compile(rf"{CHARACTER}|\d+(?:[.,]\d+)+|[^\W_{SOLID}](?:[^{MARKS}]*[^{MARKS}.'’/-])?")
BLANKS = re.compile(r"^\s+|(?<=[(\[“«\s])\s+|\s+(?=[)\],;:.”»]|$)")  # that no person would write
FULL_STOP = r"(?<!\b\w\.)(?<!Mr\.|Dr\.|Co\.)(?<!Mrs\.|Inc\.|Ltd\.)(?<=[.!?؟।…])"
SENTENCE_END = re.compile(rf"{FULL_STOP}[\"”’»)]* (?![a-z])|(?<=[。！？])|\n(?![a-z])| [•●▪■]")


def add_questions(
    examples: Sequence[Example], most: int, longest: int, tokenizer: Tokenizer
) -> tuple[Sequence[Example], list[str]]:
    """The examples that have a question, behind them up to `most` new ones about each context; and notes.

    longest: the most pieces of a question, special ones not counted; longer ones are not asked. A text of --unlabelled
    is an example without question.
    """
    first: dict[str, str] = {}  # by context: the id of its first example
    for example in examples:
        first.setdefault(example.context, example.id)
    asking = [i for i, example in enumerate(examples) if example.question.strip() or example.labelled]
    made, fewer = [], 0
    for context, name in progress(first.items(), desc="questions", unit="context"):
        found = make_questions(context, 2 * most, longest)  # some may be too long
        lengths = [len(encoding.ids) - 2 for encoding in tokenizer.encode(found)]  # without [CLS] and [SEP]
        found = [text for text, length in zip(found, lengths, strict=True) if length <= longest][:most]
        made += [Example(f"{name}~c{n}", text, context, labelled=False) for n, text in enumerate(found, 1)]
        fewer += len(found) < most
    note = f"--cloze {most}: {len(made):,} questions made of {len(first):,} contexts: learned from the teacher alone"
    if fewer:
        note += f"; contexts that gave fewer than {most}: {fewer:,}"
    return Concat(Subset(examples, asking) if len(asking) < len(examples) else examples, made), [note]


def make_questions(context: str, most: int, longest: int = 64) -> list[str]:
    """Up to `most` distinct questions that the context answers, always the same ones. longest: in pieces, of which a
    word has two or so; longer ones may be among them.

    Sentences take turns in an order drawn at random, so that all parts of a context are asked about.
    """
    rng = np.random.default_rng([SEED, zlib.crc32(context.encode(errors="replace"))])
    parts = [part for part in sentences(context) if len(WORD.findall(part)) >= FEWEST_WORDS]
    drawn = [parts[i] for i in rng.permutation(len(parts))[: 10 * most]]  # of a book not all
    turns = zip_longest(*(questions_of(part, max(4, min(MOST_WORDS, longest // 2)), rng) for part in drawn))
    made = islice(filter(None, chain.from_iterable(turns)), 5 * most)
    return list({question.lower(): question for question in made}.values())[:most]


def sentences(context: str) -> list[str]:
    """What may be one sentence each: split behind full stops and between lines; long ones cut."""
    lines = "\n".join(" ".join(line.split()) for line in context.splitlines() if line.strip())
    parts = (part.replace("\n", " ").lstrip("-*•●▪■·–>#| ") for part in SENTENCE_END.split(lines))
    return [piece.strip() for part in parts for piece in re.findall(".{1,600}(?: |$)|.{1,600}", part)]


def questions_of(sentence: str, most_words: int, rng: np.random.Generator) -> Iterator[str]:
    """The questions that one sentence gives, in an order drawn at random, those with a cue first."""
    if sentence.endswith("?"):  # the author asks, and goes on to say it
        yield sentence
    sentence = sentence.rstrip(" .;:,!?…。！？؟।")
    cued = [(*match.span(), word) for cue, word in CUES.items() for match in re.finditer(cue, sentence)]
    others = [(*span, "what") for span in runs(sentence)]
    for start, end, word in [found[i] for found in (cued, others) for i in rng.permutation(len(found))]:
        before, after = shorten(sentence[:start], sentence[end:], most_words)
        if len(WORD.findall(f"{before} {after}")) >= FEWEST_WORDS - 1:
            text = BLANKS.sub("", f"{before} {word} {after}")
            yield f"{text[:1].upper()}{text[1:]}?"


def runs(sentence: str) -> Iterator[tuple[int, int]]:
    """Start and end of what may be a noun: words that are no function words, at most four, with their article."""
    tokens = list(re.finditer(rf"{WORD.pattern}|\S", sentence))
    lower = [token[0].lower() for token in tokens] + [""]  # before the first word and behind the last is none
    marks = "".join("x" if word[:1].isalnum() and word not in FUNCTION else "." for word in lower)
    for run in re.finditer("x{1,4}", marks):
        first, end = run.span()
        first += lower[first - 1] in BEFORE_VERB  # "we collect names": the verb stays
        first -= lower[first - 1] in DETERMINERS
        ends_in_noun = lower[end] not in DETERMINERS | SUBJECTS | {"of"}  # "shops send | the", "right | of access"
        if 0 < first < end and ends_in_noun:  # the first words of a sentence may hold its verb
            yield tokens[first].start(), tokens[end - 1].end()


def shorten(before: str, after: str, most_words: int) -> tuple[str, str]:
    """What stays beside a span: so many words, three quarters of them before it at most, there from a comma on."""
    front, back = list(WORD.finditer(before)), list(WORD.finditer(after))
    room = most_words * 3 // 4
    if len(front) > room:
        before = re.sub(r"^[^,;:]*[,;:] (?=.{40})", "", before[front[-room].start() :])
    room = most_words - min(room, len(front))
    if len(back) > room:
        while room > 1 and back[room - 1][0].lower() in FUNCTION:
            room -= 1
        after = after[: back[room - 1].end()]
    return before, after
