"""What a comparison found, to be read: a page, Markdown, and tables; the same findings give the same bytes.

The page is `page.html` with words, tables, data and Plotly put in. It asks for nothing outside itself, and its
Content-Security-Policy forbids it to; whatever findings hold is text, never markup or script.
"""

import csv
import json
import re
from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from html import escape
from importlib.resources import files
from io import StringIO
from pathlib import Path

from plotly.offline import get_plotlyjs

from pretrain.compare.pictures import COLOURS, colours, kind_of, write_pictures
from pretrain.compare.sections import (
    LEARNING_RATE,
    Block,
    Cell,
    Chart,
    Code,
    Section,
    Table,
    closing,
    found_with,
    opening,
)
from pretrain.compare.series import Findings, curves, order_words, orders_of, spoken


def write_report(findings: Findings, folder: Path) -> Path:
    """Write index.html, report.md, findings.json, tables/*.csv and pictures/*.svg. Returns the page."""
    page = folder / "index.html"
    (folder / "tables").mkdir(parents=True, exist_ok=True)
    (folder / "findings.json").write_text(json.dumps(findings, ensure_ascii=False, indent=1) + "\n", "utf-8")
    (folder / "report.md").write_text(as_markdown(findings), "utf-8")
    for name, make in TABLES.items():
        (folder / "tables" / f"{name}.csv").write_text(as_csv(make(findings)), "utf-8")
    write_pictures(findings, folder / "pictures")
    page.write_text(as_page(findings), "utf-8")
    return page


# ---- Markdown


def as_markdown(findings: Findings) -> str:
    several = len(findings["lr_spans"]) > 1
    parts = [f"# Comparison {plain(findings['name'])}"]
    parts += [markdown_section(section, 2) for section in opening(findings)]
    for spans in findings["lr_spans"]:
        parts += [f"## With the {LEARNING_RATE[spans]}"] * several
        parts += [markdown_section(section, 2 + several) for section in found_with(findings, spans)]
    parts += [markdown_section(section, 2) for section in closing(findings)]
    return "\n\n".join(parts) + "\n"


def markdown_section(section: Section, level: int) -> str:
    blocks = [markdown_block(block) for block in section.blocks if not isinstance(block, Chart)]
    charts = ["Drawn in index.html; the numbers are in tables/."] if len(blocks) < len(section.blocks) else []
    return "\n\n".join([f"{'#' * level} {section.title}", *blocks, *charts])


def markdown_block(block: Block) -> str:
    match block:
        case Table():
            return markdown_table(block)
        case Code(text):
            return "\n".join(f"    {line}" for line in text.splitlines())
        case list():
            return "\n".join(f"- {plain(line)}" for line in block)
    assert isinstance(block, str)
    return plain(block)


def markdown_table(table: Table) -> str:
    rule = ["---" if column < table.leading else "---:" for column in range(len(table.head))]
    rows = [table.head, rule, *([markdown_cell(cell) for cell in row] for row in table.rows)]
    lines = [f"| {' | '.join(plain(cell) for cell in row)} |" for row in rows[:1]]
    lines += [f"| {' | '.join(row)} |" for row in rows[1:]]
    return "\n".join([f"{plain(table.caption)}:", "", *lines])


def markdown_cell(cell: Cell) -> str:
    text = plain(cell.text) + (f" ({plain(cell.small)})" if cell.small else "")
    return f"**{text}**" if cell.strong else text


def plain(text: str) -> str:
    """Shown as it is written."""
    return re.sub(r"([\\`*_\[\]|])", r"\\\1", escape(text, quote=False))


# ---- HTML


def as_page(findings: Findings) -> str:
    template = files("pretrain.compare").joinpath("page.html").read_text("utf-8")
    plotly = get_plotlyjs()
    _, script = re.findall(r"<script>(.*?)</script>", template, re.DOTALL)
    parts = {
        "HASHES": f"{digest(plotly)} {digest(script)}",
        "TITLE": escape(findings["name"]),
        "COLOURS": "".join(
            f"--{kind_of(arm)}: light-dark({light}, {dark}); "
            for arm, (light, dark) in (COLOURS | colours(findings["arms"])).items()
        ),
        "BODY": body(findings),
        "DATA": embedded(chart_data(findings)),
        "PLOTLY": plotly,
    }
    return re.sub("@([A-Z]+)@", lambda place: parts[place[1]], template)


def digest(script: str) -> str:
    """What a Content-Security-Policy allows one inline script by."""
    return f"'sha256-{b64encode(sha256(script.encode()).digest()).decode()}'"


def embedded(data: object) -> str:
    return json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")  # ends no script


def chart_data(findings: Findings) -> dict:
    return {
        "arms": findings["arms"],
        "tasks": {task: {"words": spoken(task), **findings["metrics"].get(task, {})} for task in findings["tasks"]},
        "orders": {order: order_words(findings, order) for order in orders_of(findings)},
        "curves": {
            spans: {order: curves(findings, spans, order) for order in orders_of(findings)}
            for spans in findings["lr_spans"]
        },
        "downstream": {
            spans: [row for row in findings["downstream"] if row["lr_spans"] in (spans, None)]
            for spans in findings["lr_spans"]
        },
        "downstream_tasks": findings["downstream_tasks"],
    }


def body(findings: Findings) -> str:
    spans = findings["lr_spans"]
    panels = [panel(findings, one, len(spans) > 1) for one in spans]
    return "\n".join([
        *(html_section(section, 2) for section in opening(findings)),
        *([tabs(spans)] if len(spans) > 1 else []),
        *panels,
        *(html_section(section, 2) for section in closing(findings)),
    ])  # fmt: skip


def tabs(spans: Sequence[str]) -> str:
    buttons = [
        f'<button type="button" role="tab" id="tab-{one}" aria-controls="panel-{one}">{LEARNING_RATE[one]}</button>'
        for one in spans
    ]
    return f'<div role="tablist" aria-label="Learning rate">{"".join(buttons)}</div>'


def panel(findings: Findings, spans: str, several: bool) -> str:
    sections = "\n".join(html_section(section, 2 + several) for section in found_with(findings, spans))
    if not several:
        return sections
    title = f'<h2 class="paper">With the {LEARNING_RATE[spans]}</h2>'
    return f'<div role="tabpanel" id="panel-{spans}" aria-labelledby="tab-{spans}">{title}\n{sections}</div>'


def html_section(section: Section, level: int) -> str:
    blocks = "\n".join(html_block(block) for block in section.blocks)
    return f"<section>\n<h{level}>{escape(section.title)}</h{level}>\n{blocks}\n</section>"


def html_block(block: Block) -> str:
    match block:
        case Table():
            return html_table(block)
        case Chart():
            return f'<div class="charts {block.kind}"{choice(block)} data-spans="{block.lr_spans}"></div>'
        case Code(text):
            return f'<pre tabindex="0"><code>{escape(text)}</code></pre>'
        case list():
            return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in block)}</ul>"
    assert isinstance(block, str)
    return f"<p>{escape(block)}</p>"


def choice(block: Table | Chart) -> str:
    """By which the page shows one at a time of several."""
    measure = f' data-measure="{block.measure}"' if block.measure else ""
    return measure + (f' data-order="{block.order}"' if block.order else "")


def html_table(table: Table) -> str:
    head = "".join(f'<th scope="col"{words(at, table)}>{escape(name)}</th>' for at, name in enumerate(table.head))
    rows = "".join(f"<tr>{html_row(row, table)}</tr>\n" for row in table.rows)
    caption = escape(table.caption)
    return (
        f'<div class="wide {table.kind}"{choice(table)} tabindex="0">'
        f'<p class="caption">{caption}</p><table aria-label="{caption}">\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>{rows}</tbody></table></div>"
    )


def html_row(row: Sequence[Cell], table: Table) -> str:
    return "".join(html_cell(at, cell, table) for at, cell in enumerate(row))


def words(at: int, table: Table) -> str:
    return ' class="words"' if at < table.leading else ""


def html_cell(at: int, cell: Cell, table: Table) -> str:
    text = escape(cell.text) + (f"<small>{escape(cell.small)}</small>" if cell.small else "")
    text = f"<strong>{text}</strong>" if cell.strong else text
    if at == 0:
        return f'<th scope="row" class="words">{text}</th>'
    if cell.heat is None:
        return f"<td{words(at, table)}>{text}</td>"
    kinds = " ".join(["warm"] * (cell.heat < 0) + ["trained"] * cell.trained)
    return f'<td class="{kinds}" style="--heat:{min(1, abs(cell.heat)):.0%}">{text}</td>'


# ---- CSV: numbers as they were found


def as_csv(rows: Iterator[dict]) -> str:
    listed, text = list(rows), StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(key for row in listed for key in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(listed)
    return text.getvalue()


def spread(name: str, estimate: Sequence | None) -> dict:
    """An estimate in three columns; empty: undefined."""
    return dict(zip((name, f"{name}_low", f"{name}_high"), estimate or (None, None, None), strict=True))


def arm_rows(findings: Findings) -> Iterator[dict]:
    for row in findings["arms_found"]:
        found = {key: row[key] for key in ("lr_spans", "arm", "runs", "tokens", "seconds", "flops")}
        for key in ("average", "backward_transfer", "forgetting", "intransigence"):
            found |= spread(key, row[key])
        yield found


def task_rows(findings: Findings) -> Iterator[dict]:
    for row in findings["arms_found"]:
        for task in findings["tasks"]:
            about = findings["metrics"].get(task, {})
            yield {
                "lr_spans": row["lr_spans"], "arm": row["arm"], "task": task, "metric_name": about.get("name"),
                "chance": about.get("chance"), **spread("metric", row["last"][task]),
                "loss_of_guessing": about.get("loss"), **spread("loss", row["last_loss"][task]),
            }  # fmt: skip


def matrix_rows(findings: Findings) -> Iterator[dict]:
    for run in findings["runs"]:
        for at, (metrics, losses) in enumerate(zip(run.get("metric", ()), run.get("loss", ()), strict=True)):
            for task, metric, loss in zip(findings["tasks"], metrics, losses, strict=True):
                steps = run["stages"][at].get(task, 0)
                found = {"steps": steps, "metric": metric, "loss": loss}
                yield {"run": run["name"], "stage": at + 1, "task": task} | found


def curve_rows(findings: Findings) -> Iterator[dict]:
    for run in findings["runs"]:
        for point in run.get("curve", ()):
            yield {"run": run["name"]} | dict(zip(("tokens", "stage", "task", "loss", "metric"), point, strict=True))


def downstream_rows(findings: Findings) -> Iterator[dict]:
    for row in findings["downstream"]:
        common = {key: row[key] for key in ("lr_spans", "arm", "runs")}
        for task, estimate in row["tasks"].items():
            yield common | {"task": task} | findings["downstream_tasks"][task] | spread("score", estimate)
        yield common | {"task": "mean"} | spread("score", row["average"])


def claim_rows(findings: Findings) -> Iterator[dict]:
    yield from findings["claims"]


def run_rows(findings: Findings) -> Iterator[dict]:
    told = ("name", "arm", "order", "lr_spans", "seed", "state", "steps", "tokens", "seconds", "flops")
    for run in findings["runs"]:
        yield {key: run.get(key) for key in told}


TABLES: dict[str, Callable[[Findings], Iterator[dict]]] = {
    "arms": arm_rows,
    "tasks": task_rows,
    "matrix": matrix_rows,
    "curves": curve_rows,
    "downstream": downstream_rows,
    "claims": claim_rows,
    "runs": run_rows,
}
