"""The report in words and tables, whatever it is written as: Markdown or HTML.

A section is a title and blocks: a paragraph (str), a list (list of str), a table, charts, or code.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from pretrain.compare.series import (
    Findings,
    above_guessing,
    best,
    mean_matrix,
    order_words,
    orders_of,
    runs_of,
    spoken,
    trained_in,
)

UNKNOWN = "–"
ARMS = {
    "continual": "each group of tasks in a stage of its own, never to return",
    "joint": "all tasks at once, in one stage",
    "sequential": "every stage adds a group of tasks and goes on training the earlier ones",
    "pyramid": "every group by itself, then all pairs, and so on; in the end all together",
    "alone": "the first task alone, with the steps of all",
}
LEARNING_RATE = {"run": "learning rate over the run", "stage": "learning rate anew in every stage"}
TRANSFER = ("backward_transfer", "forgetting", "intransigence")


class Cell(NamedTuple):
    text: str
    small: str = ""
    strong: bool = False
    heat: float | None = None
    """0: as good as guessing; 1: perfect; negative: worse than guessing."""
    trained: bool = False


class Table(NamedTuple):
    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    measure: str = ""
    order: int = 0
    """Where not empty or 0: one of several tables of which the page shows one at a time."""
    leading: int = 1
    """Columns that hold words, not numbers."""
    kind: str = ""


class Chart(NamedTuple):
    kind: str
    """curves or downstream."""
    lr_spans: str
    measure: str = ""
    order: int = 0


class Code(NamedTuple):
    text: str


Block = str | list[str] | Table | Chart | Code


class Section(NamedTuple):
    title: str
    blocks: list[Block]


def opening(findings: Findings) -> list[Section]:
    return [
        Section(
            "Conclusions", [*unfinished(findings), list(findings["conclusions"]) or "There are no conclusions yet."]
        ),
        Section("What was compared", compared(findings)),
    ]


def found_with(findings: Findings, spans: str) -> list[Section]:
    """What was found with one policy of the learning rate."""
    return [
        Section("The arms after their last stage", arms(findings, spans)),
        Section("What was claimed beforehand", claims(findings, spans)),
        Section("Curves", curve_charts(findings, spans)),
        Section("What every stage did to every task", matrices(findings, spans)),
        Section("Downstream", downstream(findings, spans)),
        Section("Cost", [cost(findings, spans)]),
    ]


def closing(findings: Findings) -> list[Section]:
    return [
        Section("Runs", [runs(findings)]),
        Section(
            "How to reproduce it",
            [Code("\n".join(findings["reproduce"])), "The configuration:", Code(findings["configuration"])],
        ),
    ]


def unfinished(findings: Findings) -> list[str]:
    every = findings["runs"]
    names = [f"{run['name']} ({run['state']})" for run in every if run["state"] != "finished"]
    if not names:
        return []
    verb = "is" if len(names) == 1 else "are"
    return [f"{len(names)} of {len(every)} runs {verb} not finished: {', '.join(names)}."]


def compared(findings: Findings) -> list[Block]:
    seeds, orders = findings["seeds"], findings["orders"]
    groups = ", ".join(spoken(group) for group in findings["groups"])
    ordered = f" {orders} orders of these: " + "; ".join(order_words(findings, n) for n in orders_of(findings)) + "."
    rate = "at every step the same in all arms"
    if findings["lr_spans"] == ["stage"]:
        rate = "no: it begins anew in every stage, and the arms differ in their stages"
    elif len(findings["lr_spans"]) > 1:
        rate += ", but where it begins anew in every stage: then the arms differ, as they do in their stages"
    variants = findings["variants"]
    question = "spend the same budget in different orders. Which leaves the better encoder, and what is forgotten?"
    if variants:
        question = "and variants of one spend the same budget. Which leaves the better encoder, and what is forgotten?"
    return [
        f"Schedules {question}",
        [f"{arm}: {settings(variants[arm]) if arm in variants else ARMS[arm]}" for arm in findings["arms"]],
        f"Stages add, in this order: {groups}.{ordered if orders > 1 else ''} "
        f"{seeds} {'seeds' if seeds > 1 else 'seed: there are no intervals, and nothing can be tested'}"
        f"{' of every arm and order' if orders > 1 else ' of every arm' if seeds > 1 else ''}.",
        "Held equal:",
        [
            f"budget: {budget(findings)}",
            "tokens: the same instances, hence the same tokens of every task"
            + (", but for the arm alone" if "alone" in findings["arms"] else ""),
            "initial weights: of a seed, the same in all arms" + (", but for what only one has" if variants else ""),
            "instances: of a task and seed, the same in the same order, with the same masks",
            f"learning rate: {rate}",
        ],
        "Not held equal:",
        [
            *(
                ["what the variants set, as listed above; with it the time and the operations of a step"]
                if variants
                else []
            ),
            "dropout: it is drawn by the step, so a batch that comes at another step has another",
            "wall time: other work may have shared the machine",
        ],
    ]


def settings(tree: dict) -> str:
    """What a variant sets, as it would be typed; and nothing else."""
    return ", ".join(typed(tree)) or "as run has it"


def typed(tree: dict, section: str = "") -> Iterator[str]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from typed(value, f"{section}{key}.")
        else:
            yield f"{section}{key}={value}"


def budget(findings: Findings) -> str:
    spent = [(run["arm"], run["stages"]) for run in findings["runs"] if "stages" in run and run["arm"] != "alone"]
    each = {sum(stage.get(task, 0) for stage in stages) for _, stages in spent for task in findings["tasks"]}
    words = f"{min(each):,} steps of every task, " if len(each) == 1 else "the steps of every task, "
    alone = "; alone gives all to one task" if "alone" in findings["arms"] else ""
    return f"{words}whichever arm spends them{alone}"


def arms(findings: Findings, spans: str) -> list[Block]:
    found = {row["arm"]: row for row in findings["arms_found"] if row["lr_spans"] == spans}
    summary = [
        [Cell(arm), Cell(f"{row['runs']}"), *(estimate(row[key]) for key in ("average", *TRANSFER))]
        for arm, row in found.items()
    ]
    head = ["arm", "runs", "mean of the tasks", "backward transfer", "forgetting", "intransigence"]
    if not found:
        return ["No arm has a finished run."]
    undefined = [reason for arm, row in found.items() for reason in reasons(findings, spans, arm, row)]
    if single := [arm for arm, row in found.items() if any(value and None in value for value in row["last"].values())]:
        undefined.append(f"One finished seed has no interval: {', '.join(single)}.")
    return [
        Table("The mean of the tasks' metrics after the last stage, with 95 % intervals over seeds", head, summary),
        "Backward transfer: a task after the last stage minus after the first that trained it. Forgetting: its best "
        "before the last stage minus after it. Intransigence: trained jointly minus after its first stage. Means over "
        "the tasks for which they are defined; above 0, the first is good, the other two are bad.",
        *([undefined] if undefined else []),
        *[per_task(findings, found, measure) for measure in ("metric", "loss")],
    ]


def reasons(findings: Findings, spans: str, arm: str, row: dict) -> list[str]:
    """Why a value is missing."""
    stages = [run["stages"] for run in runs_of(findings, spans, 1, arm)]
    trained = {task for stage in (stages[0] if stages else []) for task in stage}
    said = []
    if row["average"] is None and len(trained) < len(findings["tasks"]):
        said.append(f"{arm} trains {', '.join(spoken(task) for task in trained)} only: there is no mean of the tasks.")
    if row["backward_transfer"] is None and stages and len(stages[0]) == 1:
        said.append(f"{arm} has one stage: nothing follows it, so backward transfer and forgetting are undefined.")
    if row["intransigence"] is None and row["average"] is not None and "joint" in findings["arms"]:
        said.append(f"{arm} has no intransigence: it needs a finished run of the arm joint of the same seed.")
    return said


def per_task(findings: Findings, found: dict[str, dict], measure: str) -> Table:
    values, guess = ("last", "chance") if measure == "metric" else ("last_loss", "loss")
    rows = [
        [
            Cell(spoken(task)),
            *([Cell(findings["metrics"][task]["name"])] if measure == "metric" else []),
            Cell(number(findings["metrics"][task][guess])),
            *(estimate(row[values][task]) for row in found.values()),
        ]
        for task in findings["tasks"]
        if task in findings["metrics"]
    ]
    head = ["task", *(["metric"] if measure == "metric" else []), "guessing", *found]
    what = "Metric" if measure == "metric" else "Loss, in nats,"
    return Table(f"{what} of every task after the last stage", head, rows, measure, leading=2 - (measure == "loss"))


def claims(findings: Findings, spans: str) -> list[Block]:
    mine = [claim for claim in findings["claims"] if claim["lr_spans"] == spans]
    if not mine:
        return ["Nothing was claimed: the tables describe, and test nothing."]
    measure = "the downstream tasks" if findings["primary"] == "downstream" else "the tasks' validation metrics"
    head = ["claim", "difference", "95 % interval", "p", "p after Holm", "seeds", "verdict"]
    rows = [
        [
            Cell(f"{claim['first']} − {claim['second']}"),
            Cell(signed(claim["difference"], 4)),
            Cell(interval(claim["low"], claim["high"], lambda bound: signed(bound, 4))),
            Cell(chance(claim["p"])),
            Cell(chance(claim["p_holm"])),
            Cell(f"{claim['seeds']}"),
            Cell(claim["verdict"]),
        ]
        for claim in mine
    ]
    count = len(findings["claims"])
    return [
        Table(f"Differences in the mean of {measure}, by a bootstrap over seeds and examples", head, rows),
        f"Holm's correction counts {count} claim{'s' if count > 1 else ''}, declared before anything ran. "
        "What is not in this table is description.",
    ]


def curve_charts(findings: Findings, spans: str) -> list[Block]:
    charts: list[Block] = [
        Chart("curves", spans, measure, order)
        for measure in ("loss", "metric")
        for order in orders_of(findings)
        if any(runs_of(findings, spans, order, arm) for arm in findings["arms"])
    ]
    if not charts:
        return ["No run is finished."]
    return [
        "Validation of every task over the tokens of all tasks. Thin: seeds; bold: their mean; dotted: guessing. A "
        "line begins in the first stage that trains its task. Point at a line, or choose an arm, to see its stage "
        "borders.",
        *charts,
    ]


def matrices(findings: Findings, spans: str) -> list[Block]:
    tables: list[Block] = [
        matrix(findings, mine, arm, measure, order)
        for measure in ("metric", "loss")
        for order in orders_of(findings)
        for arm in findings["arms"]
        if (mine := runs_of(findings, spans, order, arm))
    ]
    if not tables:
        return ["No run is finished."]
    return [
        "Rows are stages, columns tasks; means over seeds, and below them the change since the stage before. "
        "Underlined: trained in this stage. Colour runs from guessing (none) to perfect (full), so that tasks can be "
        "compared; orange is worse than guessing.",
        *tables,
    ]


def matrix(findings: Findings, mine: Sequence[dict], arm: str, measure: str, order: int) -> Table:
    tasks, values = findings["tasks"], mean_matrix(mine, measure)
    rows = []
    for place, (stage, row) in enumerate(zip(mine[0]["stages"], values, strict=False)):
        before = values[place - 1] if place else [None] * len(tasks)
        cells = [
            Cell(
                number(value),
                "" if value is None or earlier is None else signed(value - earlier),
                heat=None if value is None else above_guessing(findings, task, measure, value),
                trained=task in stage,
            )
            for task, value, earlier in zip(tasks, row, before, strict=True)
        ]
        name = " + ".join(spoken(group) for group in trained_in(findings, stage))
        rows.append([Cell(f"{place + 1}", name), *cells])
    several = findings["orders"] > 1
    caption = f"{arm}, {measure}" + (f", order {order}: {order_words(findings, order)}" if several else "")
    return Table(caption, ["stage", *map(spoken, tasks)], rows, measure, order if several else 0, kind="heat")


def downstream(findings: Findings, spans: str) -> list[Block]:
    rows = [row for row in findings["downstream"] if row["lr_spans"] in (spans, None)]
    if not rows:
        return ["There are no downstream results: none were asked for, or no run has all of them."]
    tasks = [
        [
            Cell(spoken(task)),
            Cell(about["metric"]),
            Cell(number(about["chance"])),
            Cell(f"{about['examples']:,}", about["split"]),
            *estimates([row["tasks"].get(task) for row in rows]),
        ]
        for task, about in findings["downstream_tasks"].items()
    ]
    mean = [Cell("mean"), Cell(""), Cell(""), Cell(""), *estimates([row["average"] for row in rows])]
    head = ["task", "metric", "guessing", "examples", *(row["arm"] for row in rows)]
    return [
        Table("Fine-tuned on downstream tasks, with 95 % intervals", head, [*tasks, mean], leading=2),
        "Intervals are over seeds of pre-training; of checkpoints beside the arms, over seeds of fine-tuning. Bold: "
        "the highest, where its interval lies above all others.",
        Chart("downstream", spans),
    ]


def cost(findings: Findings, spans: str) -> Table:
    rows = []
    for row in findings["arms_found"]:
        if row["lr_spans"] != spans:
            continue
        steps = {run["steps"] for run in runs_of(findings, spans, 1, row["arm"])}
        taken = f"{min(steps):,}" if len(steps) == 1 else UNKNOWN
        rows.append([
            Cell(row["arm"]), Cell(f"{row['runs']}"), Cell(taken), Cell(f"{row['tokens']:,.0f}"),
            Cell(f"{row['seconds'] / 3600:.2f}"), Cell(power(row["flops"])),
        ])  # fmt: skip
    return Table("Of one run, mean over runs", ["arm", "runs", "steps", "tokens", "hours", "FLOPs"], rows)


def runs(findings: Findings) -> Table:
    head = ["run", "arm", "state", "order", "learning rate", "seed", "steps", "tokens", "hours"]
    rows = [
        [
            *(Cell(str(run[key])) for key in ("name", "arm", "state", "order", "lr_spans", "seed")),
            Cell(f"{run['steps']:,}" if "steps" in run else UNKNOWN),
            Cell(f"{run['tokens']:,}" if "tokens" in run else UNKNOWN),
            Cell(f"{run['seconds'] / 3600:.2f}" if "seconds" in run else UNKNOWN),
        ]
        for run in findings["runs"]
    ]
    return Table("Every run of the comparison", head, rows, leading=3)


def estimates(values: Sequence[list | None]) -> list[Cell]:
    strongest = best(values)
    return [estimate(value)._replace(strong=place == strongest) for place, value in enumerate(values)]


def estimate(value: list | None) -> Cell:
    """A mean with its interval."""
    if value is None:
        return Cell(UNKNOWN)
    mean, low, high = value
    return Cell(number(mean), "" if low is None else interval(low, high, number))


def interval(low: float | None, high: float | None, shown: Callable[[float | None], str]) -> str:
    return UNKNOWN if low is None or high is None else f"{shown(low)} to {shown(high)}"


def number(value: float | None, digits: int = 3) -> str:
    """With a true minus; what is rounded to zero has no sign."""
    if value is None:
        return UNKNOWN
    rounded = round(value, digits) + 0.0
    return f"{rounded:.{digits}f}".replace("-", "−")


def signed(value: float | None, digits: int = 3) -> str:
    text = number(value, digits)
    return text if value is None or round(value, digits) <= 0 else f"+{text}"


def chance(p: float | None) -> str:
    return UNKNOWN if p is None else "< 0.001" if p < 0.001 else number(p)


def power(value: float) -> str:
    """1.4e13 as 1.4 × 10¹³."""
    digits, exponent = f"{value:.1e}".split("e")
    return f"{digits} × 10{str(int(exponent)).translate(str.maketrans('0123456789-', '⁰¹²³⁴⁵⁶⁷⁸⁹⁻'))}"
