"""Documents written by the tests: sentences from templates, drawn by address, with titles, markers, names and case."""

import json
from pathlib import Path
from random import Random

SMALL = {"vocab_size": 500, "validation_share": 0.2, "max_length": 64, "min_tokens": 20}
"""Settings for a corpus of some thirty of these documents."""

TOPICS = ["rivers", "engines", "gardens", "markets", "planets", "castles", "violins", "bridges", "forests", "harbours"]
NAMES = ["Anna Keller", "Paul Marsh", "Lake Vendis", "Port Aldine", "Maria Ortega", "Mount Hale"]
VERBS = ["shaped", "crossed", "described", "measured", "repaired", "followed", "painted", "visited"]
THINGS = [
    "old walls",
    "long roads",
    "wooden boats",
    "bright windows",
    "narrow valleys",
    "small villages",
    "stone towers",
]
MARKERS = ["However, ", "Therefore, ", "For example, ", "Meanwhile, ", "In addition, "]

SUBJECTS = ["老人", "学生", "将军", "农民", "商人", "孩子", "医生", "诗人"]
ACTIONS = ["修理", "寻找", "描写", "参观", "保护", "研究", "收集", "讨论"]
OBJECTS = ["古老的城墙", "山上的寺庙", "河边的花园", "北京的街道", "祖先的故事", "新的方法", "长江的源头"]
JOINTS = ["但是，", "因此，", "于是，", "例如，", "", "", ""]


def english(name: str, paragraphs: int = 6, marked: float = 0.6) -> dict:
    rng = Random(name)
    topic = rng.choice(TOPICS)

    def sentence() -> str:
        start = rng.choice(MARKERS) if rng.random() < marked else ""
        subject = rng.choice([rng.choice(NAMES), f"the {topic} of {rng.choice(NAMES)}", f"many {rng.choice(TOPICS)}"])
        subject = subject if start else subject[0].upper() + subject[1:]
        year = rng.randint(1700, 2000)
        words = f"{start}{subject} {rng.choice(VERBS)} the {rng.choice(THINGS)} near {rng.choice(NAMES)} in {year}"
        while rng.random() < 0.45:
            other = rng.choice(THINGS)
            words += f", while {rng.choice(NAMES)} {rng.choice(VERBS)} the {other} and many {rng.choice(TOPICS)}"
        return f"{words}."

    text = "\n".join(" ".join(sentence() for _ in range(rng.randint(4, 8))) for _ in range(paragraphs))
    return {"id": name, "title": f"{topic.capitalize()} and {rng.choice(THINGS)} of {rng.choice(NAMES)}", "text": text}


def chinese(name: str, paragraphs: int = 6) -> dict:
    rng = Random(name)

    def sentence() -> str:
        one, two = (
            f"{rng.choice(SUBJECTS)}们{rng.choice(ACTIONS)}了",
            f"{rng.choice(SUBJECTS)}也{rng.choice(ACTIONS)}了它",
        )
        return f"{rng.choice(JOINTS)}{one}{rng.choice(OBJECTS)}，{two}。"

    text = "\n".join("".join(sentence() for _ in range(rng.randint(4, 8))) for _ in range(paragraphs))
    return {"id": name, "title": f"{rng.choice(SUBJECTS)}与{rng.choice(OBJECTS)}", "text": text}


def write_jsonl(path: Path, records: list[dict]) -> str:
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), "utf-8")
    return path.name
