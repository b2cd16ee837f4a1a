"""Cures for data files in forms that are no plain table in UTF-8."""

import gzip
import shlex
import subprocess
from pathlib import Path

from tests.cures.world import Cure, find, put

TEXT = "label,text\nsport,the goal of the team\ntrade,the bank\n"
OPEN_QUOTE = 'label,text\nsport,"the goal\ntrade,the bank\nsport,the team\ntrade,the market"\nsport,the coach\n'
BY_NAME = (
    "choose one with {}, by its name or, in a table, by its number (1: the first; without a header give all as numbers)"
)
NAMELESS = "the goal of the team,the cup of the team\nthe bank of the market,the trade of a bank\n"
TWO_TEXTS = "title,body\nthe goal,of the team\nthe bank,of the shares\n"
OPEN_QUOTE += "trade,the shares\n"


def holding(raw, name="data.csv"):
    """An `evaluate` on a file of these bytes."""

    def start(world):
        (world.folder / name).write_bytes(raw)
        return world.evaluate(data=world.folder / name)

    return start


def saved_as_csv(world, argv, line):
    """Another program saves the file in the line as CSV."""
    find("error: .*(as CSV)", line)
    return put(argv, "--data", world.write("saved.csv", TEXT))


def unpacked(world, argv, line):
    """The command in the line, with the file in the line."""
    path = find("error: (.*?): is compressed", line)
    subprocess.run([*shlex.split(find("unpack it first: (.*)", line)), path], check=True)
    return put(argv, "--data", path.removesuffix(".gz"))


def mended(pattern, text):
    """Follows "mend that line": the file in the line gets the text that it should have had."""
    return lambda world, argv, line: (
        find(pattern, line) and Path(find("error: (.*?): line", line)).write_text(text) and None
    )


ROWS = [
    Cure("is a ZIP archive or an Excel workbook; save the sheet as CSV first", holding(b"PK\3\4..."), saved_as_csv),
    Cure("is an old Excel workbook; save the sheet as CSV first", holding(b"\xd0\xcf\x11\xe0..."), saved_as_csv),
    Cure("is a Parquet file; write it as CSV or JSON lines first", holding(b"PAR1..."), saved_as_csv),
    Cure(
        "is compressed with gzip; unpack it first: gunzip -k",
        holding(gzip.compress(TEXT.encode()), "data.csv.gz"),
        unpacked,
    ),
    Cure(
        "is an empty list; write its label, or delete the line",
        holding(b'{"text": "a goal", "label": "sport"}\n{"text": "a moon", "label": []}\n', "data.jsonl"),
        lambda w, argv, line: (
            find("(delete the line)", line)
            and put(argv, "--data", w.write("a.jsonl", '{"text": "a goal", "label": "sport"}\n'))
        ),
    ),
    Cure(
        "write the label alone",
        holding(TEXT.replace("sport", "['sport']").encode()),
        lambda w, argv, line: find("(write the label alone)", line) and put(argv, "--data", w.write("a.csv", TEXT)),
    ),
    Cure(
        "though others are: mend that line",
        holding((TEXT + "sport,the café\n").encode() + b"sport,the caf\xe9\n"),
        mended("(mend that line)", TEXT),
    ),
    Cure(
        "nor is the file plausible in cp1252: convert it",
        holding((TEXT + "sport,это мяч команды\n").encode("cp1251")),
        mended("(convert it)", TEXT + "sport,это мяч команды\n"),
    ),
    Cure(
        "nor is the file plausible in cp1252: convert it",
        holding((TEXT + "sport,это мяч команды\n").encode("cp1251")),
        lambda w, argv, line: put(argv, *find("such as (--encoding cp1251)", line).split()),
    ),
    Cure(
        "was the file cut? Mend that line, or name the file's encoding with --encoding",
        holding(TEXT.encode("utf-16")[:-1]),
        mended("(Mend that line)", TEXT),
    ),
    Cure(
        'give objects, as in {"text": …, "label": …}, one a line or in an array',
        holding(b'[["the goal", "sport"]]', "data.json"),
        lambda w, argv, line: put(
            argv,
            "--data",
            w.write("a.json", "[" + find("as in (.*?),? one a line", line).replace("…", '"sport"') + "]"),
        ),
    ),
    Cure(
        r"write a line end in it as \n, or was the file cut?",
        holding(b'[{"text": "the\ngoal", "label": "sport"}]', "data.json"),
        lambda w, argv, line: put(
            argv,
            "--data",
            w.write(
                "a.json", f'[{{"text": "the{find("write a line end in it as (..),", line)}goal", "label": "sport"}}]'
            ),
        ),
    ),
    *(
        Cure(
            BY_NAME,
            holding(b"label,stuff\nsport,the goal\n"),
            lambda w, argv, line, column=column: put(argv, find("choose one with (--[a-z-]+)", line), column),
        )
        for column in ("stuff", 2)
    ),
    Cure(
        BY_NAME,
        holding(b"kind,stuff\nsport,the goal\n"),
        lambda w, argv, line: put(
            put(argv, find("choose one with (--text-column)", line), "stuff"),
            find("and one with (--label-column), by its name", line),
            "kind",
        ),
    ),
    Cure(
        BY_NAME,
        holding(b"sport,the goal\ntrade,the bank\n"),
        lambda w, argv, line: (
            find("without a header (give all as numbers)", line)
            and put(put(argv, "--text-column", 2), "--label-column", 1)
        ),
    ),
    Cure(
        "text and label are both {}; choose another one with --label-column",
        lambda w: w.evaluate("--label-column", "text"),
        lambda w, argv, line: put(argv, find("another one with (--label-column)", line), "label"),
    ),
    Cure(
        "; put quotes around a text that holds {}",
        holding(b"label,text\nsport,the goal, the team\n"),
        mended("put (quotes around a text) that holds commas", 'label,text\nsport,"the goal, the team"\n'),
    ),
    Cure(
        '; write each \\" within a text as ""',
        holding(b'label,text\nsport,"the \\"goal\\" of the team"\n'),
        mended("(write each .*) within a text", 'label,text\nsport,"the ""goal"" of the team"\n'),
    ),
    *(
        Cure("the label is empty; give it one, or delete the row", holding(TEXT.encode() + b",the team\n"), follow)
        for follow in (
            mended("(give it one)", TEXT + "sport,the team\n"),
            lambda w, argv, line: (w.write("data.csv", TEXT), find("or (delete the row)", line)) and None,
        )
    ),
    *(
        Cure(
            "a quote is left open: close it, or write it twice to mean a character",
            holding(OPEN_QUOTE.encode()),
            mended(pattern, OPEN_QUOTE.replace('"the goal', quoted).replace('market"', "market")),
        )
        for pattern, quoted in {"(close it)": '"the goal"', "(write it twice)": '"""the goal"'}.items()
    ),
    Cure(
        "and none called {}; choose with {}",
        lambda w: w.train(task="agnews", dev="50%", train=w.write("four.csv", "1,a,the goal,x\n4,b,the bank,y\n" * 4)),
        lambda w, argv, line: put(
            put(argv, find("choose with (--text-column)", line), 3), find("and (--label-column)$", line), 1
        ),
    ),
    *(
        Cure(
            message,
            lambda w, text=text: w.train("--unlabelled", w.write("more.csv", text), teacher=w.base.model()),
            follow,
        )
        for message, text, follow in (
            (
                "Write {} for its name",
                TWO_TEXTS,
                lambda w, argv, line: (
                    w.write("more.csv", TWO_TEXTS.replace("title", find("Write (text) for", line))) and None
                ),
            ),
            (
                "Put a line of names above, one of them {}",
                NAMELESS,
                lambda w, argv, line: (
                    w.write("more.csv", f"title,{find('one of them (text);', line)}\n{NAMELESS}") and None
                ),
            ),
            (
                "which of these are the texts, {}? {}; or put each text on a line of a file called .txt",
                TWO_TEXTS,
                lambda w, argv, line: put(
                    argv, "--unlabelled", w.write(f"more{find('called (.txt)', line)}", "the goal\nthe bank\n")
                ),
            ),
        )
    ),
]
