"""The command line. Every command reads a configuration file and `section.key=value` overrides, and nothing else.

What a command does not need is not imported: `--help` and `plan` answer at once, without torch. A mistake of the user
is one line on stderr and exit status 1 (usage: 2); Ctrl-C is 130. CUMUL_TRACEBACK=1 shows where an error was raised.
"""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
corpus_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
app.add_typer(corpus_app, name="corpus", help="Build a corpus, count it, look into it.")

INTERRUPTED = 130

ConfigPath = Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML file, such as configs/demo.yaml.")]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[SECTION.KEY=VALUE]...", help="Settings to override.")]


@app.callback()
def cumul() -> None:
    """Continual multi-task pre-training of text encoders."""


@corpus_app.command()
def build(
    config: ConfigPath,
    overrides: Overrides = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; default: one per core.")] = None,
) -> None:
    """Turn documents into labelled instances. Finished work is kept."""
    from corpus_tools.build import ensure_corpus
    from pretrain.config import load_config

    settings = load_config(config, overrides or ())
    corpus = ensure_corpus(settings.corpus, settings.tasks, settings.seed, workers)
    typer.echo(f"corpus: {corpus}")


@corpus_app.command()
def stats(
    config: ConfigPath,
    overrides: Overrides = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of tables.")] = False,
) -> None:
    """Count documents, tokens, instances and labels: what each task will see."""
    import json

    from corpus_tools.stats import collect, stats
    from pretrain.config import load_config
    from pretrain.report import make_console

    corpus = load_config(config, overrides or ()).corpus.folder()
    if as_json:
        typer.echo(json.dumps(collect(corpus), indent=1, ensure_ascii=False))
    else:
        make_console().print(stats(corpus))


@corpus_app.command()
def show(
    config: ConfigPath,
    overrides: Overrides = None,
    task: Annotated[str | None, typer.Option(help="One task; default: all.")] = None,
    count: Annotated[int | None, typer.Option(min=1, help="Instances of each task; default: 3, in a page 200.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Another seed shows other instances.")] = 0,
    html: Annotated[Path | None, typer.Option(metavar="PATH", help="Write one self-contained page instead.")] = None,
) -> None:
    """Show instances with their labels in words, here or as a page."""
    from corpus_tools.page import SAMPLE, page
    from corpus_tools.show import show
    from pretrain.config import load_config, one_of
    from pretrain.report import make_console

    settings = load_config(config, overrides or ())
    corpus = settings.corpus.folder()
    names = settings.tasks if task is None else [one_of(task, settings.tasks, "task")]
    if html is not None:
        html.write_text(page(corpus, names, count or SAMPLE, seed), "utf-8", newline="\n")
        typer.echo(f"page: {html}")
    else:
        for name in names:
            make_console().print(show(corpus, name, count or 3, seed))


@app.command()
def plan(
    config: ConfigPath,
    overrides: Overrides = None,
    processes: Annotated[int, typer.Option(min=1, help="Ranks that share the work.")] = 1,
) -> None:
    """Say what a run will take: stages, steps, tokens, parameters, operations, memory. Trains nothing."""
    from pretrain import plan
    from pretrain.config import load_config
    from pretrain.report import make_console

    make_console().print(plan.plan(load_config(config, overrides or ()), processes))


@app.command()
def train(
    config: ConfigPath,
    overrides: Overrides = None,
    stage: Annotated[list[int] | None, typer.Option(min=1, help="Only this stage; may be repeated.")] = None,
    processes: Annotated[int, typer.Option(min=1, help="Ranks on this machine.")] = 1,
    master_port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Where ranks meet; default: a free one.")
    ] = None,
) -> None:
    """Train the stages that are not finished; builds the corpus first where it is missing. Ctrl-C saves and stops."""
    from corpus_tools.build import ensure_corpus
    from launch import ranks
    from pretrain.config import load_config
    from pretrain.run import Typed, claim_folder, finished, wanted_stages

    settings = load_config(config, overrides or ())
    typed = Typed(config, overrides or [], stage or [], processes)
    wanted = wanted_stages(settings, stage, typed)
    port = ranks.free_port(master_port)
    claim_folder(settings)
    ensure_corpus(settings.corpus, settings.tasks, settings.seed)
    if all(finished(settings, number) for number in wanted):
        typer.echo(f"nothing left to train; finished before: stage {', '.join(map(str, wanted))}")
    elif processes == 1:
        ranks.train_here(typed, port)
    else:
        status = ranks.train_together(typed, port)
        if status:
            raise typer.Exit(status)
    typer.echo(f"run: {settings.folder()}")
    if not all(finished(settings, number) for number in wanted):
        raise typer.Exit(INTERRUPTED)


@app.command()
def evaluate(config: ConfigPath, overrides: Overrides = None) -> None:
    """Evaluate every task again, after every finished stage."""
    from launch import ranks
    from pretrain.config import load_config
    from pretrain.report import Report
    from pretrain.run import last_finished

    settings = load_config(config, overrides or ())
    last_finished(settings)
    ranks.settle_accelerator()
    from pretrain.train import evaluate

    with Report(settings) as report:
        evaluate(settings, report)


@app.command()
def export(config: ConfigPath, overrides: Overrides = None) -> None:
    """Write the last finished stage as a Hugging Face checkpoint."""
    from launch import ranks
    from pretrain.config import load_config

    settings = load_config(config, overrides or ())
    ranks.settle_accelerator()
    from pretrain.export import export

    typer.echo(f"checkpoint: {export(settings)}")


@app.command()
def results(config: ConfigPath, overrides: Overrides = None) -> None:
    """Print loss, metric and chance of every task after every stage."""
    from pretrain.config import load_config
    from pretrain.report import make_console, summary_table

    settings = load_config(config, overrides or ())
    make_console().print(summary_table(settings.folder()))


def main() -> None:
    """The entry point of `cumul`."""
    run(app)


def run(command) -> None:
    """Run a command, and turn its end into one line and an exit status."""
    try:
        command()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except (ValueError, OSError) as error:
        if os.environ.get("CUMUL_TRACEBACK"):
            raise
        typer.secho(f"error: {' '.join(str(error).split())}", fg=typer.colors.RED, err=True)
        sys.exit(1)
    except SystemExit as end:
        if end.code == INTERRUPTED:
            typer.echo("interrupted", err=True)
        raise
