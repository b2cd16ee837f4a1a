"""Questions made of a context's own sentences: a span is cut out, and a question word stands for it.

    We keep your data for 90 days.                 For how long do we keep your data?
    If you agree, the shop may send you offers.    When may the shop send you offers?
    Der Turm steht in Wien.                        Der Turm steht where?

After Lewis et al. 2019 (Unsupervised Question Answering by Cloze Translation), with cues of English for a parser; where
there are none, "what" stands where the span was. The answer is not kept: the teacher says what it is.
"""

import re
import zlib
from collections import deque
from collections.abc import Iterator, Sequence

import numpy as np

from kd_scratch.common.console import progress
from kd_scratch.data.rows import Concat, Subset
from kd_scratch.tasks.squad_file import Example

SEED = 11  # questions are the same in every run, so they are tokenized, and the teacher's logits computed, once
TRIES = 20  # for each question that is wanted: a text that says the same for ever gives fewer
MOST_WORDS = 22  # of a question, about; in pieces some 30
LONGEST_SPAN = 5  # words, where it is no clause

AUXILIARY = "may|can|will|must|should|could|would|might|shall|is|are|was|were|do|does|did|cannot"
PREPOSITION = """about|after|against|among|around|as|at|before|between|by|during|for|from|in|into|of|on|over|through|to|
towards|under|upon|via|with|within|without""".replace("\n", "")
DETERMINER = set("a an the this these those all each your our their its his her my any some other such".split())
OTHERS = """that every no not only also both and or but nor if i we when while where which who whom whose what how why
than then so because unless until once whether you he she it they us me him them here there been be being has have had
more most please example instance addition order well accordance connection etc time case event"""
FUNCTION = DETERMINER.union(AUXILIARY.split("|"), PREPOSITION.split("|"), OTHERS.split())  # words that are no answer
BEFORE_VERB = {*AUXILIARY.split("|"), *"be been being to not also we you they i who which that please".split()}
SUBJECT = "we|you|they|i|he|she|it"
AFTER_POOR = DETERMINER.union(SUBJECT.split("|"), ["that", "which", "who"])  # a verb is before them, or half a noun
PEOPLE = """part(y|ies)|partners?|compan(y|ies)|users?|advertisers?|child(ren)?|people|persons?|providers?|customers?|
members?|employees?|affiliates?|parents?|guardians?|visitors?|individuals?|officials?|vendors?""".replace("\n", "")
PURPOSE = """help|improve|provide|protect|make|ensure|prevent|allow|enable|comply|create|send|deliver|respond|verify|
enhance|determine|process|contact|better|keep|give|find|offer|serve|support|show|reach|understand""".replace("\n", "")
MONTH = "(?:January|February|March|April|May|June|July|August|September|October|November|December)"
DATE = rf"{MONTH} \d\d?, \d{{4}}|(?:\d\d? )?{MONTH} \d{{1,4}}|(?:1[5-9]|20)\d\d"
NUMBER = r"(?:\d(?:[\d.,]{0,12}\d)?|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirty|sixty|ninety)"
NAME = r"(?:(?:[A-Z]\.){2,}|(?!(?:The|This|Our|In|If|We|An|When|For|At|On|By|It|As)\b)[A-Z][\w'’&-]+)"
REST = r"\b[^,;:()]+(?=[.!?]*$|[,;:()])"  # of a clause
NO_PURPOSE = "".join(f"(?<!{word} )" for word in "us you able want wish right how helping".split())  # before "to"

#: What a span looks like (the pattern's group, where it has one), and what asks for it.
RULES = {
    rf"(?<=\w )(?:in order to|because|due to){REST}": "why",
    rf"(?<=\w ){NO_PURPOSE}to (?:{PURPOSE}){REST}": "why",
    r"^(?:If|When|Once|Unless|Until|After|Before|Upon|Whenever|While) [^,;:()]+(?=, \w)": "when",
    rf"(?<=\w )(?:when|if|once|unless|until|whenever){REST}": "when",
    rf"(?<=\w )by (?:\w+ly )?\w+ing{REST}": "how",
    rf"\b(?:(?:in|on|since) )?(?:{DATE})\b(?![%.,]\d)": "when",
    rf"\b{NUMBER} (?:second|minute|hour|day|week|month|year|decade)s?\b(?! old| of age)": "how long",
    rf"[$€£¥] ?{NUMBER}(?: (?:m|b)illion)?|\b{NUMBER} ?(?:%|percent\b|dollars\b|euros\b)": "how much",
    rf"\b{NUMBER}(?= (?:\w+ )?[a-z]+s\b)": "how many",
    r"[\"“«「]([^\"“”«»「」]{3,80})[\"”»」]": "what",
    rf"\b(?:Mr|Mrs|Ms|Dr|President|Professor|Sir|King|Queen|Saint)\.? {NAME}(?: {NAME})*": "who",
    rf"(?:^|(?<=\bby )){NAME} {NAME}(?= (?!of\b|and\b|or\b|for\b|to\b)[a-z])": "who",
    rf"(?<=\w )in (?!Section|Article|Part\b)(?:the )?{NAME}(?: {NAME})*(?=[ ,.;]|$)": "where",
    rf"(?:^|(?<=[\w,] ))(?:(?:the|this|our|The|This|Our) )?{NAME}(?:(?: of| of the| and)? {NAME})+": "what",
}
RULES = {re.compile(pattern): word for pattern, word in RULES.items()}
CLAUSES = ("why", "when", "where", "how")  # ask for a clause with what begins it: no preposition stands before them
#: What may stand before a question: "If you agree, what …"; what begins a clause of which nothing is asked in front.
LEAD = re.compile(r"(?:\w+ly|How|If|When|In|For|As|With|Because|To|Upon|After|Once|By|From|At|On)\b[^,]{0,100}, (?=\w)")
OPEN = re.compile(r"\b(?:that|which|who|if|when|where|unless|by \w+ing)\b")

#: Of what is written without blanks (Thai to Khmer, Japanese, Chinese) each character counts as a word.
SOLID = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
MARKS = ',;:!?()"“”«»،؛؟…—|।'
WORD = re.compile(rf"[{SOLID}]|[^\W_{SOLID}](?:[^\s{SOLID}{MARKS}]*[^\s{SOLID}{MARKS}.'’/-])?")
SENTENCE_END = re.compile(r"(?<=[.!?؟।…])[\"”’»)\]]*\s(?![a-z])|(?<=[。！？])|\n(?![a-z])|\s[•●▪■]")
NO_END = re.compile(r"\b(?:\w|Mr|Mrs|Ms|Dr|Prof|St|Inc|Ltd|Co|Corp|No|vs|etc|al|cf|Sec|Art|Jr|Sr|U\.S|e\.g|i\.e)\.$")
BULLET = re.compile(r"^(?:[-*•·–—>#|]+\s*|\(?(?:\d{1,2}|[a-zA-Z]|[ivx]+)[.)]\s+)+")
PART = re.compile(r"(?s).{1,600}$|.{1,600}(?<=[,;:])(?=\s)|.{1,600}(?=\s)|.{1,600}")  # of what has no full stops


def add_questions(examples: Sequence[Example], most: int, longest: int) -> tuple[Sequence[Example], list[str]]:
    """The examples that have a question, behind them up to `most` new ones about each distinct context; and notes.

    longest: the most pieces of a question. A text of --unlabelled is an example without question.
    """
    first: dict[str, str] = {}  # by context: the id of its first example
    for example in examples:
        first.setdefault(example.context, example.id)
    asking = [i for i, example in enumerate(examples) if example.question or example.labelled]
    made, fewer = [], 0
    for context, name in progress(first.items(), desc="questions", unit="context"):
        found = make_questions(context, most, longest)
        made += [Example(f"{name}~c{n}", text, context, labelled=False) for n, text in enumerate(found, 1)]
        fewer += len(found) < most
    note = f"--cloze {most}: {len(made):,} questions made of {len(first):,} contexts: soft targets only"
    if fewer:
        note += f"; contexts too short for {most}: {fewer:,}"
    return Concat(Subset(examples, asking) if len(asking) < len(examples) else examples, made), [note]


def make_questions(context: str, most: int, longest: int = 64) -> list[str]:
    """Up to `most` distinct questions that the context answers, always the same ones. longest: in pieces.

    Sentences take turns in an order drawn at random, so that all parts of a context are asked about; headings last.
    """
    rng = np.random.default_rng([SEED, zlib.crc32(context.encode(errors="replace"))])
    parts = sentences(context)
    parts = sorted((parts[i] for i in rng.permutation(len(parts))), key=lambda part: len(part.split()) < 5)
    waiting = deque(questions_of(part, min(MOST_WORDS, longest // 2), rng) for part in parts)
    made: dict[str, str] = {}  # in lower case -> as it is
    tries = TRIES * most
    while waiting and tries and len(made) < most:
        source = waiting.popleft()
        if question := next(source, None):
            tries -= 1
            made.setdefault(question.lower(), question)
            waiting.append(source)
    return list(made.values())


def sentences(context: str) -> list[str]:
    """What may be one sentence each: split behind full stops, between lines, before bullets; long ones cut."""
    context = "\n".join(" ".join(line.split()) for line in context.splitlines() if line.strip())
    parts, start = [], 0
    for match in SENTENCE_END.finditer(context):
        if "\n" in match[0] or not NO_END.search(context[max(start, match.start() - 8) : match.start()]):
            parts.append(context[start : match.end()])
            start = match.end()
    parts.append(context[start:])
    clean = (BULLET.sub("", part.strip()) for part in parts)
    return [piece.replace("\n", " ").strip() for part in clean for piece in PART.findall(part)]


def questions_of(sentence: str, most_words: int, rng: np.random.Generator) -> Iterator[str]:
    """The questions that one sentence gives, those with a cue more often first."""
    words = list(WORD.finditer(sentence))
    if sentence.endswith("?") and len(words) > 2:  # the author asks, and goes on to say it
        yield sentence
        return
    found = [(rule.groups, word, match) for rule, word in RULES.items() for match in rule.finditer(sentence)]
    spans = [(*match.span(group), word, 0.0) for group, word, match in found] + [*runs(sentence, words, rng)]
    for i in np.argsort([later + rng.random() for *_, later in spans]):
        start, end, word, _ = spans[i]
        inside = sum(start <= word.start() < end for word in words)
        if inside and len(words) - inside >= 3 and (question := ask(sentence, start, end, word, most_words)):
            yield question


def runs(sentence: str, words: list[re.Match], rng: np.random.Generator) -> Iterator[tuple[int, int, str, float]]:
    """The runs of words that are no function words: start, end, question word, and how much later they come.

    Of long ones parts; without the verb where that shows; what may hold it, or is half of "right of access", last.
    """
    lower = [word[0].lower() for word in words] + ["", ""]  # behind the last word and before the first there is none
    is_english = not FUNCTION.isdisjoint(lower)
    start = 0
    for end in range(1, len(words) + 1):
        if end < len(words) and lower[end] not in FUNCTION and lower[start] not in FUNCTION:
            if not sentence[words[end - 1].end() : words[end].start()].strip():
                continue
        first, start = start, end
        if lower[first] in FUNCTION:
            continue
        before = first - 1 - (lower[first - 1] in DETERMINER)
        if lower[before] in BEFORE_VERB and before == first - 1:
            while first < end and lower[first].endswith("ly"):
                first += 1
            before = first
            first += 1
        is_first = before < 0 or LEAD.fullmatch(sentence[: words[min(before + 1, end - 1)].start()])
        if first >= end or (is_first and is_english and lower[end] not in AUXILIARY):
            continue
        later = 2.0 if "of" in (lower[before], lower[end]) or lower[end] in AFTER_POOR else 0.7
        parts = [(before + 1, end - 1)]
        if end - first > LONGEST_SPAN:
            ends = rng.integers(first, end, (end - first) // LONGEST_SPAN + 1)
            parts = [(max(first, last - int(rng.integers(LONGEST_SPAN - 1))), last) for last in ends.tolist()]
        for start_of_part, last in parts:
            word = "who" if re.fullmatch(PEOPLE, lower[last]) else "what"
            yield words[start_of_part].start(), words[last].end(), word, later


def ask(sentence: str, start: int, end: int, word: str, most_words: int) -> str:
    """The sentence as a question: the question word in front where it can be turned round, else where the span was.

    An empty string where that would be none: "why" in the middle of a sentence, "when" before what cannot be turned.
    """
    before, after = sentence[:start], sentence[end:].rstrip(" .;:,!?…。！？؟।")
    lead = match[0] if (match := LEAD.match(before)) else ""
    used = len(before.split())
    if used > most_words:
        before, lead = re.split(r"[,;:(] (?=.{40})", before.split(" ", used - most_words)[-1], maxsplit=1)[-1], ""
    before = re.sub(r"^(?:and|or|but|then) ", "", before)
    main, turned, after = before[len(lead) :], None, cut(after, max(most_words - used, most_words // 3))
    preposition = re.search(rf"(?i)\b(?:{PREPOSITION}) $", main)
    word = "whom" if preposition and word == "who" else word
    if not before.strip():
        after = after.lstrip(", ")
        turned = turn(after, len(after)) if word in CLAUSES else after
    elif word != "how many" and not re.search(r"(?:,|\band|\bor|\bas) $", main) and not re.match(",? (and|or) ", after):
        kept = main[: preposition.start()] if preposition else main
        turned = turn(kept + after.lstrip(), len(kept))
        word = f"{preposition[0].lower()}{word}" if preposition and turned and word not in CLAUSES else word
    if not turned and (word == "why" or not before.strip()):
        return ""
    text = f"{lead}{word} {turned}" if turned else f"{before} {word} {after}"
    text = re.sub(r"([\[(“«「])\s+|\s+(?=[\]),;.:”»」])|(?<=\s)\s+", r"\1", text).strip()
    return f"{text[:1].upper()}{text[1:]}?"


def turn(clause: str, limit: int) -> str | None:
    """ "The shop may send it" -> "may the shop send it", "We keep it" -> "do we keep it"; None where it is unclear how.
    limit: where the span was cut out."""
    noun = rf"(?:(?!{OPEN.pattern}|(?:to|{SUBJECT})\b)[\w'’./&-]+ ){{1,8}}?"
    match = re.match(rf"(?i)((?:{SUBJECT}) (?:also |\w+ly )?|{noun})({AUXILIARY})\b", clause)
    if OPEN.search(clause, match.end() if match else 0, limit):
        return None
    first = clause.split(" ", 1)[0]
    clause = clause[:1].lower() + clause[1:] if first.lower() in FUNCTION and first != "I" else clause
    if match and match.end() <= limit:
        return f"{match[2]} {clause[: match.end(1)]}{clause[match.end() :].lstrip()}"
    return f"do {clause}" if re.match(r"(?i)(?:we|you|they|i) (?!have\b|had\b)(?!\w+ed\b)\w+", clause) else None


def cut(text: str, most_words: int) -> str:
    """What fits of a text, without function words at its end."""
    words = list(WORD.finditer(text))
    if len(words) <= most_words:
        return text
    del words[most_words:]
    while words and words[-1][0].lower() in FUNCTION:
        words.pop()
    return text[: words[-1].end()] if words else ""
