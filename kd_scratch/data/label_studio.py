"""Tasks of Label Studio, exported with all that it knows (its JSON), as its short export (JSON-MIN) has them.

    {"id": 7, "data": {"text": "EU rejects German call"}, "annotations": [{"result": [{"from_name": "label",
     "type": "labels", "value": {"start": 0, "end": 2, "text": "EU", "labels": ["ORG"]}}]}], …}

becomes {"text": "EU rejects German call", "label": [{"start": 0, "end": 2, "text": "EU", "labels": ["ORG"]}], …}.
"""

import json
from contextlib import suppress


def without_wrapping(text: str) -> str:
    """An object of JSON on one line, in the short form where it is such a task; else as it is.

    Of several annotations the first counts that is not cancelled; where all are, the task gets the answer "ignore".
    """
    if '"annotations"' not in text or '"data"' not in text:
        return text
    with suppress(ValueError, TypeError, KeyError, AttributeError, RecursionError):
        task = json.loads(text)
        return json.dumps(short_form(task["data"], task["annotations"]))
    return text


def short_form(data: dict, annotations: list[dict]) -> dict:
    """The fields of a task, and under the name of what was to be filled in what was: a list of marked places, or of a
    choice what was chosen. ({} where nobody has looked at it.)"""
    kept = [annotation for annotation in annotations if not annotation.get("was_cancelled")]
    found: dict[str, object] = {}
    if annotations:
        found["annotation_id"] = annotations[0].get("id")
    if annotations and not kept:
        found["answer"] = "ignore"
    for part in kept[0]["result"] if kept else ():
        value, name = part["value"], part["from_name"]
        if part["type"] == "choices":
            found[name] = value["choices"][0] if len(value["choices"]) == 1 else value
        elif "start" in value:
            found.setdefault(name, []).append(value)
    return data | found
