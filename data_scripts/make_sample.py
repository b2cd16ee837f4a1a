"""Write small, generated English data sets in the file formats of the real ones: for demos and tests without a network.

    python data_scripts/make_sample.py agnews --output data     # data/ag_news_csv/{train,dev,test}.csv, classes.txt
    python data_scripts/make_sample.py clinc --output data      # data/clinc150/data_full.json
    python data_scripts/make_sample.py squad --output data      # data/squad/{train,dev,test}.json
    python data_scripts/make_sample.py conll --output data      # data/conll2003/{train,valid,test}.txt

Every sentence comes from the small grammars in grammars.py; all names are put together from syllables. The same seed
gives the same bytes. No text, passage or document occurs twice, in one split or across splits.

agnews: news items of 23 words on average, four equally frequent topics. What makes them hard, as real news is hard:
  - verbs are shared between topics, their objects decide ("wins the race for president / to buy / for the cup");
  - people and names of any topic do anything ("the striker loses 12 million on a property bet" is Business);
  - 40% of the rows have a side story from another topic; only the order tells which of the two is the main one;
  - 6% of the stories lie between two topics and carry the likelier label in 65% of cases, the other in the rest, so
    no model can expect to be right on more than about 98% of the test rows;
  - 2% of the labels in train.csv are shuffled among themselves; 1% of the longer words have a typo.
  Expected counts with --rows 6000: train 6,000 (1,500 a class), dev 600 (150), test 2,000 (500).

clinc: short requests with 20 intents, some of them close neighbours, and out-of-scope requests labelled "oos".
  Expected counts with --rows 1500: train 1,500 (75 an intent), val 300 (15), test 440 (22), oos 75 / 75 / 150.

squad: passages about one or two buildings, with questions whose answers are spans of them, as in version 1.1. Where a
  passage tells the same kind of thing about both of its buildings, only the name in the question says which of the two
  is meant. The same question may be asked about other passages. 3% of the training questions point at the answer
  to another one.
  Expected counts with --rows 3000: train 3,000 questions, dev 300, test 1,000; 4 to a passage.

conll: documents of up to 8 sentences with persons, places, organisations and others (PER, LOC, ORG, MISC) in IOB2. A
  town is a place or its club, a family may be called like a town, and after the opening sentence people go by the
  family name alone. 3% of the entities in train.txt have another type.
  Expected counts with --rows 4000: train 4,000 sentences, valid 400, test 1,333.
"""

import argparse
import csv
import io
import re
import sys
from collections import Counter
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # runs from a checkout that is not installed

from data_scripts.grammars import (  # noqa: E402
    FACTS,
    INTENTS,
    NEWS,
    PASSAGE_WORDS,
    REQUEST_WORDS,
    STORY,
    expand,
    parse,
)
from kd_scratch.common.errors import UserError  # noqa: E402
from kd_scratch.common.files import make_folder, write_json, write_text  # noqa: E402

TOPICS = ("World", "Sports", "Business", "Sci/Tech")
BETWEEN = 0.06  # share of the stories that lie between two topics
LEAN = 0.65  # how often such a story carries the likelier of its two labels
SIDE_STORY = 0.4  # share of rows with a clause from another topic
SHUFFLED = 0.02  # share of the training rows whose labels are shuffled among themselves
TYPO, NEWLINE, MARKUP, NO_TITLE = 0.01, 0.08, 0.06, 0.02  # a word; a row; a row; a row
MISLABELLED = 0.03  # share of wrong training labels: another question's answer, another entity's type
ENTITY_TYPES = ("LOC", "MISC", "ORG", "PER")

# The main story comes first, whatever joins them.
FRAMES = ("{main} while {side}", "{main} just before {side}", "{main} a day after {side}", "{main} and {side}")


def with_typos(text: str, rng: Random) -> str:
    """Swap two inner letters in a few of the words."""
    words = text.split(" ")
    for i, word in enumerate(words):
        if len(word) > 4 and rng.random() < TYPO:
            at = rng.randrange(1, len(word) - 2)
            words[i] = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    return " ".join(words)


def shuffle_some_labels(labels: list, rng: Random) -> list:
    """Labels with a share of them permuted: noise that leaves the number of rows per class as it was."""
    noisy, chosen = list(labels), rng.sample(range(len(labels)), round(SHUFFLED * len(labels)))
    for here, there in zip(chosen, rng.sample(chosen, len(chosen)), strict=True):
        noisy[here] = labels[there]
    return noisy


def news_item(rules: dict[str, list[str]], topic: str, rng: Random) -> tuple[str, str]:
    """(title, description) of one story; `topic` is its label."""
    k = TOPICS.index(topic)
    if rng.random() < BETWEEN:  # the story leans to this topic, or to the one before while being this one's after all
        leans_to = k if rng.random() < LEAN else (k - 1) % 4
        related, headline = {leans_to, (leans_to + 1) % 4}, None
        main = f"{{who}} {{{TOPICS[leans_to]}.between}}"
    else:
        related, headline = {k}, rng.choice([topic, rng.choice(TOPICS), None, None])
        main = clear_story(topic, rng)
    if rng.random() < SIDE_STORY:
        side = clear_story(rng.choice([TOPICS[j] for j in range(4) if j not in related]), rng)
        text = rng.choice(FRAMES).replace("{main}", main).replace("{side}", side)
    else:
        text = f"{main}, {{closing}}"
    title = f"{{{headline}.news}} in {{place}}" if headline else "{title}"
    title, text = (with_typos(expand(rules, template, rng), rng) for template in (title, text))
    return title[0].upper() + title[1:], text[0].upper() + text[1:] + "."


def clear_story(topic: str, rng: Random) -> str:
    """A template: somebody, not always of the topic's own people, does something that belongs to the topic."""
    return rng.choice(["{name}", "{who}", f"{{{topic}.who}}"]) + f" {{{topic}.does}}"


def as_scraped(title: str, text: str, rng: Random) -> tuple[str, str]:
    """What the real files carry from the web: HTML leftovers, a bare backslash for a newline, missing titles."""
    words = text.split(" ")
    at = rng.randrange(1, len(words) - 2)
    if rng.random() < MARKUP:
        form = rng.choice([" quot;{} quot;", "&lt;b&gt;{}&lt;/b&gt;", '"{}"', "{} #39;s", " #36;{}"])
        words[at] = form.format(words[at])
    glue = "\\" if rng.random() < NEWLINE else " "
    return "" if rng.random() < NO_TITLE else title, " ".join(words[:at]) + glue + " ".join(words[at:])


def request(rules: dict[str, list[str]], intent: str, rng: Random) -> str:
    """One short request in lower case, as people type them."""
    return " ".join(with_typos(expand(rules, f"{{{intent}}} {{end}}", rng), rng).split())


def fresh(make, seen: set[str], text=str):
    """The first thing from make() whose text is not yet in `seen`; adds that there. UserError where none turns up."""
    for _ in range(1000):
        made = make()
        key = re.sub(r"\W", "", text(made)).lower()
        if key not in seen:
            seen.add(key)
            return made
    raise UserError("--rows: the grammar has no more new sentences to give; ask for fewer rows")


def report(path: Path, labels: list[str], texts: list[str]) -> None:
    """Print what was written: rows, rows per class, words per row."""
    words = [len(text.split()) for text in texts]
    per_class = ", ".join(f"{label} {labels.count(label):,}" for label in sorted(set(labels)))
    print(
        f"{path}: {len(texts):,} rows, {min(words)}-{max(words)} words, mean {sum(words) / len(words):.1f}; {per_class}"
    )


def make_agnews(folder: str | Path, rows: int = 6000, seed: int = 0) -> None:
    """Write folder/ag_news_csv/{train.csv, dev.csv, test.csv, classes.txt}, in AG News' format.

    A row is "class","title","description" with class 1 to 4, all quoted, no header. rows: of train.csv; dev.csv gets a
    tenth of that, test.csv a third; in each, classes get the same number, give or take one. UserError for rows < 40.
    """
    if rows < 40:
        raise UserError(f"--rows {rows}: too few; give at least 40 (each class needs rows in each split)")
    folder, rng, rules = make_folder(Path(folder) / "ag_news_csv"), Random(f"agnews {seed}"), parse(NEWS)
    seen: set[str] = set()
    for split, count in (("train", rows), ("dev", rows // 10), ("test", rows // 3)):
        topics = [TOPICS[i % len(TOPICS)] for i in range(count)]
        rng.shuffle(topics)
        items = [fresh(lambda topic=topic: news_item(rules, topic, rng), seen) for topic in topics]
        items = [as_scraped(title, text, rng) for title, text in items]
        if split == "train":
            topics = shuffle_some_labels(topics, rng)
        file = io.StringIO()
        writer = csv.writer(file, quoting=csv.QUOTE_ALL, lineterminator="\n")
        writer.writerows((TOPICS.index(topic) + 1, *item) for topic, item in zip(topics, items, strict=True))
        write_text(folder / f"{split}.csv", file.getvalue())
        report(folder / f"{split}.csv", topics, [" ".join(item) for item in items])
    write_text(folder / "classes.txt", "".join(f"{topic}\n" for topic in TOPICS))


def make_clinc(folder: str | Path, rows: int = 1500, seed: int = 0) -> None:
    """Write folder/clinc150/data_full.json, in CLINC150's format: six splits of [text, intent] pairs.

    rows: of "train", spread evenly over the intents; "val" gets a fifth and "test" three tenths of that per intent, and
    the oos splits one, one and two times an intent's training rows. UserError where an intent would get less than 5.
    """
    rules = parse(INTENTS + REQUEST_WORDS)
    intents = list(parse(INTENTS))
    each = rows // len(intents)
    if each < 5:
        raise UserError(f"--rows {rows}: too few; give at least {5 * len(intents)} (5 for each intent)")
    folder, rng = make_folder(Path(folder) / "clinc150"), Random(f"clinc {seed}")
    seen: set[str] = set()
    wanted = {"train": intents * each, "val": intents * (each // 5), "test": intents * (each * 3 // 10)}
    wanted |= {"oos_train": ["oos"] * each, "oos_val": ["oos"] * each, "oos_test": ["oos"] * (2 * each)}
    splits = {}
    for split, labels in wanted.items():
        texts = [fresh(lambda label=label: request(rules, label, rng), seen) for label in labels]
        if split == "train":
            labels = shuffle_some_labels(labels, rng)
        splits[split] = [[text, label] for text, label in zip(texts, labels, strict=True)]
        report(folder / "data_full.json" / split, labels, texts)
    write_json(folder / "data_full.json", splits)


def passage(rules: dict[str, list[str]], rng: Random) -> tuple[str, list[tuple[str, str, int]]]:
    """A passage, and (question, answer, its place) for each of its facts."""
    things = sorted({expand(rules, "{x}", rng) for _ in range(rng.choice((1, 2, 2)))})
    shared = rng.sample(sorted(FACTS), rng.choice((2, 3)))  # told of each thing: only its name tells them apart
    facts = [(thing, kind) for thing in things for kind in shared]
    facts += [(rng.choice(things), kind) for kind in rng.sample(sorted(set(FACTS) - set(shared)), 2)]
    rng.shuffle(facts)
    text, questions = "", []
    for thing, kind in facts:
        statements, asked = ([choice.strip() for choice in choices.split(";")] for choices in FACTS[kind])
        sentence = expand({**rules, "x": [thing]}, rng.choice(statements), rng)
        first = int(sentence[0] == "[")
        sentence = sentence[:first] + sentence[first].upper() + sentence[first + 1 :]
        before, answer, after = re.split(r"[\[\]]", sentence)
        questions.append((rng.choice(asked).replace("{x}", thing), answer, len(text + before)))
        text += before + answer + after + ". "
        if rng.random() < 0.2:
            text += expand(rules, "{filler}", rng) + ". "
    return text.rstrip(), questions


def make_squad(folder: str | Path, rows: int = 3000, seed: int = 0) -> None:
    """Write folder/squad/{train,dev,test}.json, in the format of SQuAD 1.1: 4 questions to a passage.

    rows: questions of train.json; dev.json gets a tenth of that, test.json a third. UserError for rows < 40.
    """
    if rows < 40:
        raise UserError(f"--rows {rows}: too few; give at least 40 (a passage has 4 questions)")
    folder, rng, rules = make_folder(Path(folder) / "squad"), Random(f"squad {seed}"), parse(PASSAGE_WORDS)
    seen: set[str] = set()
    for split, count in (("train", rows), ("dev", rows // 10), ("test", rows // 3)):
        paragraphs, made = [], 0
        while made < count:
            context, questions = fresh(lambda: passage(rules, rng), seen, text=lambda made: made[0])
            qas = []
            asked = rng.sample(questions, min(4, len(questions), count - made))
            for i, (question, answer, start) in enumerate(asked):
                if split == "train" and rng.random() < MISLABELLED:
                    _, answer, start = asked[i - 1]
                answers = [{"text": answer, "answer_start": start}]
                qas.append({"id": f"{split}-{made + len(qas)}", "question": question, "answers": answers})
            made += len(qas)
            paragraphs.append({"context": context, "qas": qas})
        write_json(
            folder / f"{split}.json", {"version": "1.1", "data": [{"title": "sample", "paragraphs": paragraphs}]}
        )
        words = [len(paragraph["context"].split()) for paragraph in paragraphs]
        what = f"{made:,} questions, {len(words):,} passages of {min(words)}-{max(words)} words"
        print(f"{folder / f'{split}.json'}: {what}")


def story(rules: dict[str, list[str]], rng: Random) -> list[str]:
    """The sentences of one document, with entities in brackets, as in "[PER Ada Berg] flew to [LOC Torvia] ."."""
    people = [(expand(rules, "{first_name}", rng), expand(rules, "{family}", rng)) for _ in range(2)]
    cast = {f"t{i}": [expand(rules, "{name}", rng)] for i in (1, 2)}
    sentences = [expand(rules | cast, "{dateline}", rng)]
    for symbol in ["first"] + ["next"] * rng.randrange(1, 7):
        for i, (first, family) in enumerate(people, 1):
            cast[f"p{i}"] = [f"[PER {first} {family}]" if symbol == "first" else f"[PER {family}]"]
        sentences.append(expand(rules | cast, f"{{{symbol}}}", rng))
    return sentences


def tagged(sentence: str, rng: Random, wrong: float) -> list[tuple[str, str]]:
    """(word, tag in IOB2) of a sentence with brackets; a share of the entities gets a wrong type."""
    words = []
    for found in re.finditer(r"\[(\w+) ([^\]]+)\]|(\S+)", sentence):
        kind, entity, word = found.groups()
        if word:
            words.append((word, "O"))
            continue
        if rng.random() < wrong:
            kind = rng.choice([other for other in ENTITY_TYPES if other != kind])
        first, *others = entity.split(" ")
        words += [(first, f"B-{kind}"), *((other, f"I-{kind}") for other in others)]
    return words


def make_conll(folder: str | Path, rows: int = 4000, seed: int = 0) -> None:
    """Write folder/conll2003/{train,valid,test}.txt, in CoNLL-2003's four columns; the middle two hold nothing.

    rows: sentences of train.txt; valid.txt gets a tenth of that, test.txt a third. UserError for rows < 40.
    """
    if rows < 40:
        raise UserError(f"--rows {rows}: too few; give at least 40")
    folder, rng, rules = make_folder(Path(folder) / "conll2003"), Random(f"conll {seed}"), parse(STORY)
    seen: set[str] = set()
    for split, count in (("train", rows), ("valid", rows // 10), ("test", rows // 3)):
        lines, lengths, entities = [], [], Counter()
        while len(lengths) < count:
            lines += ["-DOCSTART- _ _ O", ""]
            for sentence in fresh(lambda: story(rules, rng), seen, text=" ".join)[: count - len(lengths)]:
                words = tagged(sentence, rng, MISLABELLED if split == "train" else 0)
                lengths.append(len(words))
                entities.update(tag[2:] for _, tag in words if tag[0] == "B")
                lines += [*(f"{word} _ _ {tag}" for word, tag in words), ""]
        path = folder / f"{split}.txt"
        write_text(path, "\n".join(lines) + "\n")
        per_type = ", ".join(f"{kind} {entities[kind]:,}" for kind in ENTITY_TYPES)
        print(f"{path}: {count:,} sentences, {min(lengths)}-{max(lengths)} words; entities: {per_type}")


#: Name on the command line -> (folder, rows, seed) -> files.
MAKERS = {"agnews": make_agnews, "clinc": make_clinc, "squad": make_squad, "conll": make_conll}


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns its exit status, 2 after a user's mistake."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", choices=MAKERS, help="whose format to write")
    parser.add_argument("--output", required=True, metavar="DIR", help="the folder to write into; made where missing")
    parser.add_argument(
        "--rows", type=int, metavar="N", help="training rows (agnews: 6000, clinc: 1500, squad: 3000, conll: 4000)"
    )
    parser.add_argument("--seed", type=int, default=0, help="same seed, same bytes (default: 0)")
    given = parser.parse_args(arguments)
    sizes = {} if given.rows is None else {"rows": given.rows}
    try:
        MAKERS[given.data](given.output, seed=given.seed, **sizes)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
