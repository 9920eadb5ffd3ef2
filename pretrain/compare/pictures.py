"""Findings as SVG files for documentation: small, without script, legible in light and dark."""

import math
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from itertools import cycle
from pathlib import Path
from textwrap import shorten
from typing import NamedTuple

from pretrain.compare.series import (
    Findings,
    above_guessing,
    curves,
    mean_matrix,
    runs_of,
    spoken,
    trained_in,
)

COLOURS = {
    "continual": ("#c2410c", "#ff9a5c"),
    "joint": ("#0b62b0", "#63b3f5"),
    "sequential": ("#007a5e", "#3fcfa4"),
    "pyramid": ("#9c3d86", "#e79bd3"),
    "alone": ("#75610a", "#d6bd45"),
}
"""Of every arm, on a light and a dark ground; told apart by those who do not see red, green or blue, too."""
MORE = (
    ("#b3261e", "#f28b82"),
    ("#5b4bb5", "#aba0f0"),
    ("#2e7d1f", "#8ccf7b"),
    ("#6d4c41", "#c4a294"),
    ("#00798c", "#5cc8d6"),
)
"""Of variants, after those of schedules."""
OTHER = ("#5b616b", "#a2a7b0")
"""Of checkpoints beside the arms."""
INK = {"ground": ("#ffffff", "#16181c"), "ink": ("#1d2025", "#e6e4df"), "soft": OTHER, "line": ("#dedbd3", "#343941")}
HEAT = {"cool": ("#2f7fc4", "#3f8fd6"), "warm": ("#e08a3c", "#c8742a")}
STRONGEST = 0.62
"""Opacity of a perfect cell: its number stays legible."""

WIDTH = 920
COLUMNS = 4
LEGEND = 7
"""Arms in a line."""
LEFT, TOP, RIGHT, BOTTOM = 46, 30, 12, 30
PANEL = 190


class Frame(NamedTuple):
    """Where numbers lie in a panel."""

    x: float
    y: float
    width: float
    height: float
    across: tuple[float, float]
    up: tuple[float, float]

    def at(self, x: float, y: float) -> tuple[float, float]:
        return self.right(x), self.above(y)

    def right(self, x: float) -> float:
        return self.x + self.width * share(x, *self.across)

    def above(self, y: float) -> float:
        return self.y + self.height * (1 - share(y, *self.up))


def share(value: float, low: float, high: float) -> float:
    return (value - low) / (high - low) if high > low else 0.5


def write_pictures(findings: Findings, folder: Path) -> list[Path]:
    """Write the curves, the stages, the claims and, where there are any, downstream results of every policy."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for spans in findings["lr_spans"]:
        suffix = f".{spans}" if len(findings["lr_spans"]) > 1 else ""
        for name, draw in DRAWN.items():
            if text := draw(findings, spans):
                written.append(folder / f"{name}{suffix}.svg")
                written[-1].write_text(text, "utf-8")
    return written


def loss_curves(findings: Findings, spans: str) -> str:
    return draw_curves(findings, spans, "loss")


def metric_curves(findings: Findings, spans: str) -> str:
    return draw_curves(findings, spans, "metric")


def draw_curves(findings: Findings, spans: str, measure: str) -> str:
    found = curves(findings, spans, 1)
    if not found:
        return ""
    parts, top = [*legend(found)], 16 + 18 * -(-len(found) // LEGEND)
    for place, task in enumerate(findings["tasks"]):
        mine = {arm: curve["tasks"][task] for arm, curve in found.items() if task in curve["tasks"]}
        if mine:
            parts += curve_panel(findings, task, measure, mine, *corner(place, top))
    height = top + PANEL * -(-len(findings["tasks"]) // COLUMNS)
    return svg(findings, height, f"{measure} of every task over tokens, by arm", parts)


def corner(place: int, top: float) -> tuple[float, float]:
    return place % COLUMNS * WIDTH / COLUMNS, top + place // COLUMNS * PANEL


def curve_panel(findings: Findings, task: str, measure: str, mine: dict, x: float, y: float) -> Iterator[str]:
    about = findings["metrics"][task]
    guess = about["chance" if measure == "metric" else "loss"]
    lines = [line for curve in mine.values() for line in curve["seeds"]]
    values = [guess, *(value for line in lines for value in line[measure])]
    frame = Frame(
        x + LEFT, y + TOP, WIDTH / COLUMNS - LEFT - RIGHT, PANEL - TOP - BOTTOM,
        (0, max(line["tokens"][-1] for line in lines)), padded(values),
    )  # fmt: skip
    unit = about["name"] if measure == "metric" else "loss"
    yield text(x + 10, y + 18, f"{spoken(task)} · {unit}", "ink")
    yield from axes(frame)
    yield polyline([frame.at(frame.across[0], guess), frame.at(frame.across[1], guess)], "soft", 1, 1, "2 3")
    for arm, curve in mine.items():
        for seed in curve["seeds"]:
            yield from curve_line(frame, seed, measure, arm, 0.8, 0.35)
    for arm, curve in mine.items():
        yield from curve_line(frame, curve["mean"], measure, arm, 2.2, 1)


def curve_line(frame: Frame, line: dict, measure: str, arm: str, width: float, opacity: float) -> Iterator[str]:
    points = [frame.at(*point) for point in zip(line["tokens"], line[measure], strict=True)]
    if len(points) == 1:
        yield dot(*points[0], kind_of(arm), width + 1, opacity)
    else:
        yield polyline(points, kind_of(arm), width, opacity)


def axes(frame: Frame) -> Iterator[str]:
    for value in ticks(*frame.up, 4):
        height = frame.above(value)
        yield polyline([(frame.x, height), (frame.x + frame.width, height)], "line", 0.7)
        yield text(frame.x - 5, height + 4, short(value), "soft", "end")
    for value in ticks(*frame.across, 4):
        yield text(frame.right(value), frame.y + frame.height + 15, short(value), "soft", "middle")


def stages(findings: Findings, spans: str) -> str:
    """Every task's metric after every stage."""
    arms = {arm: mine for arm in findings["arms"] if (mine := runs_of(findings, spans, 1, arm))}
    if not arms:
        return ""
    parts, y = [*slanted_heads(findings, 86)], 96.0
    for arm, mine in arms.items():
        parts += [text(8, y + 15, arm, f"ink {kind_of(arm)} strong")]
        for place, row in enumerate(mean_matrix(mine, "metric")):
            names = " + ".join(spoken(group) for group in trained_in(findings, mine[0]["stages"][place]))
            names = shorten(names, LETTERS, placeholder=" …")
            parts += [text(112, y + 16, f"{place + 1}", "ink", "end"), text(120, y + 16, names, "soft")]
            parts += heat_row(findings, row, mine[0]["stages"][place], y)
            y += 24
        y += 12
    return svg(findings, round(y), "metric of every task after every stage, by arm", parts)


NAMES = 420
"""Width of what stands left of a heat map."""
LETTERS = 48
"""Of a stage's name, that fit there; bold numbers show too what it trained."""


def slanted_heads(findings: Findings, y: float) -> Iterator[str]:
    for place, task in enumerate(findings["tasks"]):
        x = cell_left(findings, place) + 16
        turned = f'transform="rotate(-28 {x:.1f} {y:.1f})"'
        yield f'<text x="{x:.1f}" y="{y:.1f}" class="ink" {turned}>{escape(spoken(task))}</text>'


def cell_left(findings: Findings, place: int) -> float:
    return NAMES + place * (WIDTH - NAMES - 70) / len(findings["tasks"])


def heat_row(findings: Findings, row: Sequence[float | None], stage: dict, y: float) -> Iterator[str]:
    width = cell_left(findings, 1) - cell_left(findings, 0)
    for place, (task, value) in enumerate(zip(findings["tasks"], row, strict=True)):
        x = cell_left(findings, place)
        if value is None:
            yield text(x + width / 2, y + 16, "–", "soft", "middle")
            continue
        heat = above_guessing(findings, task, "metric", value)
        opacity = STRONGEST * min(1, abs(heat))
        kind = "cool" if heat >= 0 else "warm"
        size = f'width="{width - 2:.1f}" height="22"'
        yield f'<rect x="{x:.1f}" y="{y:.1f}" {size} class="{kind}" opacity="{opacity:.2f}"/>'
        yield text(x + width / 2, y + 15.5, f"{value:.3f}", "ink strong" if task in stage else "ink", "middle")


def downstream(findings: Findings, spans: str) -> str:
    rows = [row for row in findings["downstream"] if row["lr_spans"] in (spans, None)]
    if not rows:
        return ""
    panels = [*findings["downstream_tasks"], None]
    tall = 24 + 20 * len(rows) + TOP
    parts: list[str] = []
    for place, task in enumerate(panels):
        x, y = place % 3 * WIDTH / 3, place // 3 * tall
        values = [(row["arm"], row["average"] if task is None else row["tasks"].get(task)) for row in rows]
        about = findings["downstream_tasks"].get(task)
        title = "mean" if about is None else f"{spoken(str(task))} · {about['metric']}"
        guess = None if about is None else about["chance"]
        parts += dots(
            findings, values, title, guess, Frame(x + 118, y + TOP, WIDTH / 3 - 136, 20 * len(rows), (0, 1), (0, 1))
        )
    return svg(findings, tall * -(-len(panels) // 3), "downstream results by arm, with 95 % intervals", parts)


def claims(findings: Findings, spans: str) -> str:
    mine = [claim for claim in findings["claims"] if claim["lr_spans"] == spans and claim["difference"] is not None]
    if not mine:
        return ""
    values = [
        (f"{one['first']} − {one['second']}", [one[key] for key in ("difference", "low", "high")]) for one in mine
    ]
    title = "claimed differences, with 95 % intervals"
    frame = Frame(210, TOP, WIDTH - 240, 22 * len(mine), (0, 1), (0, 1))
    return svg(findings, round(frame.height) + TOP + 28, title, dots(findings, values, title, 0.0, frame))


def dots(
    findings: Findings, values: Sequence[tuple[str, list | None]], title: str, guess: float | None, frame: Frame
) -> Iterator[str]:
    """A line per name: mean and interval; a dotted line at what guessing, or no difference, would be."""
    known = [bound for _, estimate in values for bound in estimate or () if bound is not None]
    near = [] if guess is None else [guess]
    frame = frame._replace(across=padded([*known, *near]))
    yield text(frame.x, frame.y - 10, title, "ink")
    step = frame.height / len(values)
    for value in ticks(*frame.across, 4):
        x = frame.right(value)
        yield polyline([(x, frame.y), (x, frame.y + frame.height)], "line", 0.7)
        yield text(x, frame.y + frame.height + 14, short(value), "soft", "middle")
    for x in map(frame.right, near):
        yield polyline([(x, frame.y), (x, frame.y + frame.height)], "soft", 1.2, 1, "2 3")
    for place, (name, estimate) in enumerate(values):
        y, kind = frame.y + step * (place + 0.5), kind_of(name) if name in findings["arms"] else "other"
        yield text(frame.x - 8, y + 4, name, "ink", "end")
        if estimate is None:
            continue
        mean, low, high = estimate
        if low is not None:
            yield polyline([(frame.right(low), y), (frame.right(high), y)], kind, 2)
        yield dot(frame.right(mean), y, kind, 4)


def legend(arms: Iterable[str]) -> Iterator[str]:
    for place, arm in enumerate(arms):
        x, y = LEFT + place % LEGEND * 110, 18 + place // LEGEND * 18
        yield polyline([(x, y), (x + 22, y)], kind_of(arm), 2.6)
        yield text(x + 28, y + 4, arm, "ink")
    yield polyline([(WIDTH - 90, 18), (WIDTH - 68, 18)], "soft", 1, 1, "2 3")
    yield text(WIDTH - 62, 22, "guessing", "ink")


# ---- SVG


def colours(arms: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Of schedules always the same, of variants in the order in which they are listed."""
    variants = [arm for arm in arms if arm not in COLOURS]
    return {arm: COLOURS[arm] for arm in arms if arm in COLOURS} | dict(zip(variants, cycle(MORE)))


def kind_of(arm: str) -> str:
    """The class that colours an arm."""
    return f"arm-{arm}"


def svg(findings: Findings, height: int, title: str, parts: Iterable[str]) -> str:
    body = "\n".join(parts)
    size = f'width="{WIDTH}" height="{height}"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" {size}>\n'
        f"<title>{escape(title)}</title>\n<style>\n"
        "text { font: 12px system-ui, sans-serif; } .strong { font-weight: 650; }\n"
        "polyline { stroke-linejoin: round; }\n"
        f"{style(findings, 0)}\n@media (prefers-color-scheme: dark) {{\n{style(findings, 1)}\n}}\n</style>\n"
        f'<rect {size} class="ground"/>\n{body}\n</svg>\n'
    )


def style(findings: Findings, dark: int) -> str:
    arms = {kind_of(arm): pair for arm, pair in colours(findings["arms"]).items()}
    named = {**INK, **HEAT, **arms, "other": OTHER}
    rule = ".{0} {{ fill: {1}; }} polyline.{0} {{ fill: none; stroke: {1}; }}"
    return "\n".join(rule.format(name, pair[dark]) for name, pair in named.items())


def polyline(points: Iterable[tuple[float, float]], kind: str, width: float, opacity: float = 1, dash: str = "") -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    faint = f' opacity="{opacity:g}"' if opacity < 1 else ""
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    return f'<polyline points="{path}" class="{kind}" stroke-width="{width:g}"{faint}{dashed}/>'


def text(x: float, y: float, words: str, kind: str, anchor: str = "start") -> str:
    side = f' text-anchor="{anchor}"' if anchor != "start" else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}"{side}>{escape(words)}</text>'


def dot(x: float, y: float, kind: str, radius: float, opacity: float = 1) -> str:
    faint = f' opacity="{opacity:g}"' if opacity < 1 else ""
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}" class="{kind}"{faint}/>'


def padded(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    room = 0.06 * (high - low) or 0.5
    return low - room, high + room


def ticks(low: float, high: float, count: int) -> list[float]:
    """Round numbers between two, about as many as asked."""
    raw = (high - low) / count
    unit = 10 ** math.floor(math.log10(raw))
    step = unit * min((1, 2, 5, 10), key=lambda size: abs(size - raw / unit))
    return [n * step for n in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def short(value: float) -> str:
    """1500000 as 1.5M."""
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{unit}"
    return f"{value:.4g}".replace("-", "−")


DRAWN = {
    "loss": loss_curves,
    "metric": metric_curves,
    "stages": stages,
    "downstream": downstream,
    "claims": claims,
}
