"""Write small, generated English data sets in the file formats of the real ones: for demos and tests without a network.

    python data_scripts/make_sample.py agnews --output data     # data/ag_news_csv/{train,dev,test}.csv, classes.txt
    python data_scripts/make_sample.py clinc --output data      # data/clinc150/data_full.json

Every sentence comes from the small grammars below; all names are put together from syllables. The same seed gives the
same bytes. No text occurs twice, in one split or across splits.

agnews: news items of 23 words on average, four equally frequent topics. What makes them hard, as real news is hard:
  - verbs are shared between topics, their objects decide ("wins the race for president / to buy / for the cup");
  - people and names of any topic do anything ("the striker loses 12 million on a property bet" is Business);
  - 40% of the rows have a side story from another topic, and no single word tells which of the two is the main one;
  - 16% of the stories lie between two topics and carry the likelier label in 65% of cases, the other in the rest, so
    no model can expect to be right on more than about 94% of the test rows;
  - 5% of the labels in train.csv are shuffled among themselves; 1% of the longer words have a typo.
  Expected counts with --rows 6000: train 6,000 (1,500 a class), dev 600 (150), test 2,000 (500).

clinc: short requests with 20 intents, some of them close neighbours, and out-of-scope requests labelled "oos".
  Expected counts with --rows 1500: train 1,500 (75 an intent), val 300 (15), test 440 (22), oos 75 / 75 / 150.
"""

import argparse
import csv
import io
import re
import sys
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # runs from a checkout that is not installed

from kd_scratch.files import UserError, make_folder, write_json, write_text  # noqa: E402

TOPICS = ("World", "Sports", "Business", "Sci/Tech")
BETWEEN = 0.16  # share of the stories that lie between two topics
LEAN = 0.65  # how often such a story carries the likelier of its two labels
SIDE_STORY = 0.4  # share of rows with a clause from another topic
SHUFFLED = 0.05  # share of the training rows whose labels are shuffled among themselves
TYPO, NEWLINE, MARKUP, NO_TITLE = 0.01, 0.08, 0.06, 0.02  # a word; a row; a row; a row

# One symbol a line, "symbol: alternative | alternative"; {symbol} stands for a random alternative of that symbol.
# X.who does X.does is a clear story of topic X, X.news a short name of one, and X.between a story that leans to X but
# may as well be filed under the next topic.
NEWS = """
head: Tor | Bel | Kas | Mor | Ven | Dal | Lun | Sor | Pel | Arn | Nim | Gal | Hos | Rik | Tam | Ult | Vosk | Zer | Quin
tail: via | mora | stan | dorf | enia | land | quay | haven | wick | gate | burg | una | ello | mark | field | ria
place: {head}{tail}
name: {head}{tail} | {head}{tail} | the {head}{tail} {group}
group: group | board | team | union | side | club | house | fund
n: two | three | five | six | eight | nine | 12 | 14 | 16 | 20 | 25 | 30 | 40 | 45 | 60 | 75 | 90
nth: second | third | fourth | fifth | seventh
day: Monday | Tuesday | Wednesday | Thursday | Friday | Saturday | Sunday
start: starts | begins | opens | resumes | joins
win: wins | takes | leads | enters | drops out of
fall: falls | slides | slips | drops
rise: rises | climbs | jumps | moves up
stop: halts | suspends | delays | calls off | puts off
back: backs | supports | defends | welcomes | rejects
blame: blames | points to | cites | plays down
who: {World.who} | {Sports.who} | {Business.who} | {Sci/Tech.who}
title: {name}: what we know | {day} briefing from {place} | {name} in the spotlight | Questions for {who}
    | A long week in {place} | {name} under pressure | Eyes on {place} | Late move by {name} | {who} speaks out
closing: a spokesman says on {day} | according to a report seen in {place} | a surprise to {who} and to {name}
    | as expected since {day} | to the relief of {who} | {n} days earlier than planned | witnesses in {place} say
    | a step that {who} calls overdue | despite doubts voiced by {who} | for the {nth} time in {n} months

World.who: the prime minister | a rebel leader | the envoy | the president | a UN official | the army chief
World.does: {start} peace talks with {who} in {place} | {fall} {n} points in an opinion poll in {place}
    | {win} the race for president of {place} | {stop} the aid convoy to {place} | {back} a draft treaty on {place}
    | {blame} rebels for the attack in {place} | {rise} in the polls on the eve of the {place} vote
    | loses {n} soldiers in a strike near {place} | signs a truce with {name} after {n} weeks
    | calls an early election in {place} | cuts off food to {n} camps | frees {n} hostages in exchange for safe passage
    | faces trial for war crimes in {place} | leads a rally against martial law in {place}
    | sends a {nth} patrol into the hills | breaks off ties with {place}
World.news: peace talks | border vote | hostage trial | election race | truce deal | army strike | aid convoy | raid
World.between: pledges {n} million for nuclear research in {place} | shuts down the internet in {place}
    | flies a spy satellite over {place} | signs a climate accord with {name} | bans gene research in {place}

Sports.who: the striker | the coach | the goalkeeper | the champion | a rookie pitcher | the captain
Sports.does: {start} the season against {name} in {place} | {fall} {n} points behind {name} in the league
    | {win} the race for the {place} cup | {stop} contract talks with a keeper | {back} a draft pick from {place}
    | {blame} the referee for the defeat in {place} | {rise} in the table on the eve of the {place} derby
    | loses {n} players to injury in {place} | calls up {n} uncapped players
    | signs a winger from {name} after {n} weeks | exchanges shirts with {who} after a fierce final
    | faces a ban for doping in {place} | leads a rally in the {nth} set
    | cuts {n} strokes off the course record in {place} | sends the {nth} penalty over the bar
    | launches a winning shot from {n} yards | holds {name} to a draw in extra time
Sports.news: cup talks | derby | doping trial | title race | transfer deal | late strike | league table | draft
Sports.between: boycotts the games in {place} | cancels a tour of {place} over security fears
    | meets ministers about the stadium riot in {place} | is held by police before the {place} match
    | carries the flag of {place} at a banned tournament | gives up the captaincy to run for parliament in {place}

Business.who: the insurer | the chief executive | a retail chain | the central bank | the airline | an oil trader
Business.does: {start} merger talks with {who} in {place} | {fall} {n} percent on the {place} exchange
    | {win} the race to buy {name} | {stop} the sale of a factory in {place} | {back} a draft budget in {place}
    | {blame} fuel costs for the loss in {place} | {rise} in trade on the eve of the {place} results
    | loses {n} million on a property bet in {place} | calls in auditors
    | signs a supply contract with {name} after {n} weeks | cuts {n} jobs in exchange for a loan
    | faces a fine for fixing prices in {place} | leads a rally in bank shares in {place}
    | cuts the dividend for the {nth} quarter | sends a {nth} warning to shareholders
    | launches a bond sale worth {n} million | breaks even in {place} | holds interest rates steady in {place}
Business.news: merger talks | share sale | pay trial | price race | takeover deal | pay strike | profit table | budget
Business.between: buys the stadium in {place} from {name} | sells a stake in the {place} football club
    | signs a shirt sponsor deal with {name} | bids {n} million for television rights to the {place} league
    | puts up ticket prices at the {place} racetrack | names a former player to the board in {place}

Sci/Tech.who: the chip designer | the astronomer | a software firm | the laboratory | a biologist | the phone maker
Sci/Tech.does: {start} tests of a quantum chip with {who} | {fall} {n} degrees short of the fusion record in {place}
    | {win} the race to map the genome of a moth | {stop} the launch of a probe from {place}
    | {back} a draft standard for browsers | {blame} a worm for the attack on servers in {place}
    | {rise} into orbit on the eve of the {place} eclipse | loses {n} hours of data in a crash near {place}
    | signs up {n} volunteers for a vaccine test in {place} | calls back a faulty update
    | finds {n} fossils in a cave near {place} | faces a flaw in the code of a console
    | leads a study of coral off {place} | breaks a cipher from {place}
    | cuts the memory use of a program by {n} percent | sends a {nth} rover to the crater
    | launches a handset with {n} sensors | holds an asteroid sample in {place}
Sci/Tech.news: chip talks | gene map | vaccine trial | space race | software deal | meteor strike | worm attack | probe
Sci/Tech.between: delays sales of a handset in {place} | licenses a drug patent to {name}
    | puts a chip plant in {place} on hold | cuts the price of a games console in {place}
    | sues {name} over a touch screen patent | spends {n} million on data centres in {place}
"""

# Which story is the main one: told by the conjunction, by the order of the clauses alone, or by a remark at the end.
FRAMES = (
    "{main} while {side}", "although {side}, {main}",
    "{main} just before {side}", "just before {side}, {main}",
    "{main} a day after {side}", "a day after {side}, {main}",
    "{main} and {side}, the former being the bigger news", "{side} and {main}, the latter being the bigger news",
)  # fmt: skip

INTENTS = """
alarm: {do} set an alarm for {time} | {do} wake me up at {time} {day} | make sure i'm up by {time} {day}
    | i have to get up at {time} so set something | {do} set something for {time} | what time is my alarm {day}
timer: {do} set a timer for {n} minutes | {do} count down {n} minutes for the {food}
    | how long is left on my {food} timer | {do} start the clock for {n} minutes | {do} set something for {n} minutes
reminder: {do} remind me to {chore} {day} | don't let me forget to {chore} at {time} | {do} set a reminder for {time}
    | {do} set something for {time} | what did i ask you to remind me of {day}
calendar: what is on my calendar {day} | {do} put the meeting at {time} on my calendar | am i free {day} at {time}
    | {do} move my {time} meeting to {day} | how many meetings are there {day}
weather: will it rain in {city} {day} | what's it like outside in {city} | how cold will {city} be {day}
    | {do} give me the forecast for {day} | is {city} any good {day}
play_music: {do} play some {music} | i feel like hearing {music} {day} | {do} put on {music} for the {food} party
    | let me hear that {music} song again | {do} start my {music} playlist
next_song: {do} skip this {music} song | i don't like this {music} so play another one
    | {do} go on to the next {music} track | next {music} track | {do} change the song to other {music}
balance: how much is in my {account} account | what's left in {account} {day} | {do} tell me my {account} balance
    | how much can i still spend from {account} | {do} check on my {account} account
transactions: what did i spend on {food} {day} | {do} list what i bought {day} | {do} check on my {account} account
    | who took {money} from my {account} account | where did the {money} in {account} go
transfer: {do} move {money} from {account} to my other account | {do} send {money} to my {kin}
    | my {kin} needs {money} {day} | i owe my {kin} {money} so send it | {do} pay {money} {day}
pay_bill: {do} pay my {bill} bill {day} | {do} pay {money} {day} | i want the {bill} bill settled from {account}
    | {do} take care of the {bill} bill {day} | get the {bill} paid before {day}
freeze_account: {do} freeze my {account} account | {do} lock {account} until {day}
book_flight: {do} book a flight to {city} {day} | i need to fly from {city} to {city}
    | {do} find me a seat to {city} {day} | {do} get me to {city} by {day} | {do} book me something in {city}
flight_status: is the {time} flight to {city} on time | when does my plane to {city} land
    | {do} check on my flight to {city} | when will my {kin} land in {city}
book_hotel: {do} book a room in {city} {day} | i need somewhere to sleep in {city}
    | {do} find a hotel in {city} for {n} nights | {do} book me something in {city}
directions: how do i get to {city} | {do} show me the way to {city} | which road goes to {city}
    | {do} get me to {city} by {day} | where do i turn for {city}
traffic: how is the road to {city} {day} | how long is the drive to {city} at {time} | is it busy on the way to {city}
    | will i be stuck going to {city} {day} | is {city} any good {day}
book_table: {do} book a table for {n} {day} | {do} get us a {food} place at {time}
    | can we eat {food} in {city} at {time} | {n} of us want {food} {day} | {do} book me something in {city}
recipe: how do i make {food} | what goes into {food} for {n} | {do} find me a recipe for {food}
    | teach me to make {food} | what can i make with {food} {day}
shopping_list: {do} put {food} on my shopping list | we are out of {food} | i need {food} and {food} from the shop
    | {do} take {food} off the list | what can i make with {food} {day}
"""
REQUEST_WORDS = """
oos: who invented {food} | why do people in {city} like {food} | is {music} older than {music}
    | what does a banker in {city} earn | {do} write a poem about {food} | who won the race in {city} {day}
    | how do planes stay up | what is the best school in {city} | do cats eat {food} | how do clocks keep {time} right
do: | | please | can you | could you | would you | i want you to | i need you to | hey | go ahead and | you should
end: | | | | please | thanks | if you can | quickly
time: five | six | seven | eight | nine | ten | noon | half past six | quarter to eight | 6 30 | 7 15 | midnight
n: two | three | four | five | six | eight | ten | twelve | fifteen
day: today | tomorrow | tonight | on monday | on tuesday | on wednesday | on thursday | on friday | this weekend
city: {head}{tail}
head: tor | bel | kas | mor | ven | dal | lun | sor | pel | arn | nim | gal
tail: via | mora | dorf | enia | quay | haven | wick | gate | burg | una
chore: call my {kin} | water the plants | buy {food} | take out the trash | pay the {bill} bill | feed the cat
kin: sister | brother | mother | father | aunt | neighbor | boss | roommate
food: rice | lentil soup | pancakes | pizza | noodles | apple pie | bean stew | fish | curry | potato salad | cheese
    | tacos
music: jazz | folk | rock | opera | blues | techno | country | choir | reggae | piano
account: checking | savings | joint | travel | business | holiday
bill: water | phone | gas | power | internet | heating | cable | rent
money: {n} dollars | {n} hundred dollars | {n} thousand dollars | 40 dollars | 75 dollars | 120 dollars
"""


def parse(grammar: str) -> dict[str, list[str]]:
    """Symbol -> its alternatives. A line that starts with a space goes on where the line before stopped."""
    lines = re.sub(r"\n+ +", " ", grammar).split("\n")
    pairs = (line.split(":", 1) for line in lines if line)
    return {symbol: [choice.strip() for choice in choices.split("|")] for symbol, choices in pairs}


def expand(rules: dict[str, list[str]], template: str, rng: Random) -> str:
    """The template with every {symbol} replaced by a random alternative, and those in it likewise."""
    return re.sub(r"\{([\w/.]+)\}", lambda found: expand(rules, rng.choice(rules[found[1]]), rng), template)


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


def fresh(make, seen: set[str]):
    """The first thing from make() whose text is not yet in `seen`; adds it there. UserError where none turns up."""
    for _ in range(1000):
        made = make()
        key = re.sub(r"\W", "", str(made)).lower()
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


MAKERS = {"agnews": make_agnews, "clinc": make_clinc}  # name on the command line -> (folder, rows, seed) -> files


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns its exit status, 2 after a user's mistake."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", choices=MAKERS, help="whose format to write")
    parser.add_argument("--output", required=True, metavar="DIR", help="the folder to write into; made where missing")
    parser.add_argument("--rows", type=int, metavar="N", help="training rows (agnews: 6000, clinc: 1500)")
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
