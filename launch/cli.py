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
    corpus = ensure_corpus(settings.corpus, settings.tasks, workers)
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
    nodes: Annotated[int | None, typer.Option(min=1, help="Plan for a cluster: its nodes,")] = None,
    gpus_per_node: Annotated[int, typer.Option(min=1, help="the GPUs of each,")] = 8,
    peak: Annotated[float, typer.Option(min=1, help="their TFLOP/s (dense bf16; H100 and H200: 989),")] = 989,
    mfu: Annotated[float, typer.Option(min=0.01, max=1, help="the share of it that is reached,")] = 0.4,
    network: Annotated[float, typer.Option(min=0.01, help="GB/s that a node sends to others (400 Gb/s: 50),")] = 50,
    disk: Annotated[float, typer.Option(min=0.01, help="and GB/s at which a checkpoint is written.")] = 1,
    deepspeed: Annotated[
        bool, typer.Option("--deepspeed", help="Only print DeepSpeed's JSON as we derive it.")
    ] = False,
) -> None:
    """Say what a run will take: stages, steps, tokens, parameters, operations, memory. Trains nothing."""
    import json

    from pretrain import plan
    from pretrain.config import load_config
    from pretrain.deepspeed_config import deepspeed_config
    from pretrain.report import make_console
    from pretrain.scale import Cluster

    settings = load_config(config, overrides or ())
    cluster = None
    if nodes is not None:
        cluster = Cluster(nodes, gpus_per_node, peak * 1e12, mfu, network * 1e9, disk * 1e9)
    ranks = processes if cluster is None else cluster.ranks
    derived = deepspeed_config(settings.train, ranks, gpu=cluster is not None)
    if deepspeed:
        typer.echo(json.dumps(derived, indent=2))
    else:
        make_console().print(plan.plan(settings, ranks, cluster))


@app.command()
def train(
    config: ConfigPath,
    overrides: Overrides = None,
    stage: Annotated[list[int] | None, typer.Option(min=1, help="Only this stage; may be repeated.")] = None,
    processes: Annotated[int, typer.Option(min=1, help="Ranks on this machine.")] = 1,
    hostfile: Annotated[
        Path | None, typer.Option(help="Train on these hosts, over ssh: a line `HOST slots=RANKS` for each.")
    ] = None,
    rendezvous: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Where hosts meet that are all started with this command.")
    ] = None,
    nodes: Annotated[str | None, typer.Option(metavar="MIN:MAX", help="With --rendezvous: how many hosts.")] = None,
    master_port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Where ranks meet; default: a free one.")
    ] = None,
) -> None:
    """Train the stages that are not finished; builds the corpus first where it is missing. Ctrl-C saves and stops."""
    from functools import partial

    from corpus_tools.build import ensure_corpus
    from corpus_tools.shards import read_manifest
    from launch import elastic, ranks
    from launch.system import check_port
    from pretrain.config import load_config
    from pretrain.plan import read_sizes
    from pretrain.run import Typed, claim_folder, finished, refuse_busy, wanted_stages

    if hostfile is not None and (rendezvous is not None or processes > 1):
        raise ValueError("--hostfile says which hosts and how many ranks: leave out --rendezvous and --processes.")
    if (rendezvous is None) != (nodes is None) or (rendezvous is not None and master_port is not None):
        raise ValueError("--rendezvous needs --nodes, and has the port: leave out --master-port.")
    settings = load_config(config, overrides or ())
    typed = Typed(config, overrides or [], stage or [], processes, hostfile, rendezvous, nodes, master_port)
    wanted = wanted_stages(settings, stage, typed)
    if master_port is not None and hostfile is None:
        check_port(master_port)
    if rendezvous is None:
        refuse_busy(settings)
    if not (settings.corpus.folder() / "manifest.json").exists():
        read_sizes(settings)  # so that weights which are not there are missed before a corpus is built
    claim_folder(settings)
    if rendezvous is None:
        ensure_corpus(settings.corpus, settings.tasks)
    else:
        read_manifest(settings.corpus.folder())
    interrupted = True
    if all(finished(settings, number) for number in wanted):
        typer.echo(f"nothing left to train; finished before: stage {', '.join(map(str, wanted))}")
    elif rendezvous is not None:
        interrupted = elastic.train_together(settings, typed, wanted)  # not by the file `stop`: Slurm would requeue
    elif processes == 1 and hostfile is None and not settings.launch.restarts:
        ranks.train_here(settings, typed, master_port or check_port(0))
    else:
        ranks.train_together(settings, typed, wanted, say=partial(typer.echo, err=True))
    typer.echo(f"run: {settings.folder()}")
    if interrupted and not all(finished(settings, number) for number in wanted):
        raise typer.Exit(INTERRUPTED)


@app.command()
def distill(
    config: ConfigPath,
    overrides: Overrides = None,
    processes: Annotated[int, typer.Option(min=1, help="Ranks on this machine.")] = 1,
    hostfile: Annotated[Path | None, typer.Option(help="Train on these hosts, over ssh.")] = None,
) -> None:
    """Train a student of `distill.teacher`, then export it: `train` and `export` in one. Ctrl-C saves and stops."""
    from pretrain.config import load_config

    if load_config(config, overrides or ()).distill is None:
        raise ValueError(f"{config} names no teacher. Add `distill: {{teacher: CHECKPOINT}}`, or use cumul train.")
    train(config, overrides, None, processes, hostfile, None, None, None)
    export(config, overrides)


@app.command()
def compare(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML file, such as configs/compare/demo.yaml.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings to override, run.SECTION.KEY too.")
    ] = None,
    at_once: Annotated[int, typer.Option(min=1, help="Runs at a time: they share cores, and each has a GPU.")] = 1,
    job: Annotated[int | None, typer.Option(min=1, help="Only this run, here: for a scheduler. See --list.")] = None,
    list_only: Annotated[bool, typer.Option("--list", help="Only list the runs: number, name, state.")] = False,
    prepare: Annotated[bool, typer.Option("--prepare", help="Build the corpus, then list the runs.")] = False,
    report_only: Annotated[bool, typer.Option("--report", help="Only write the report of what is there.")] = False,
) -> None:
    """Compare schedules: the same budget, weights and instances, over several seeds; ends with a report."""
    import shlex

    from corpus_tools.build import ensure_corpus
    from launch import compare as launcher
    from pretrain.compare.experiment import jobs, load_compare, shared_config
    from pretrain.compare.findings import find
    from pretrain.compare.report import write_report
    from pretrain.compare.runs import state_of

    settings = load_compare(config, overrides or ())
    planned, shared = jobs(settings), shared_config(settings)
    if job is not None and job > len(planned):
        raise ValueError(f"--job {job}: this comparison has {len(planned)} runs; --list names them")
    if job is not None and not (shared.corpus.folder() / "manifest.json").exists():  # many jobs must not build it
        raise ValueError(f"{shared.corpus.folder()} is not built. Build it first: cumul compare {config} --prepare")
    if not (list_only or report_only):
        ensure_corpus(shared.corpus, shared.tasks)
    if list_only or prepare:
        for number, run_of in enumerate(planned, 1):
            typer.echo(f"{number}\t{run_of.name}\t{state_of(settings, run_of)}")
        return
    going_on = True
    if job is not None:
        if not launcher.run_job(settings, planned[job - 1]):
            raise typer.Exit(INTERRUPTED)
        typer.echo(f"run: {planned[job - 1].config.folder()}")
        return
    if not report_only:
        going_on = launcher.run_all(settings, config, overrides or (), at_once, typer.echo)
        if going_on:
            launcher.fine_tune_beside(settings, typer.echo)
    typed = shlex.join(["cumul", "compare", str(config), *(overrides or ())])
    findings = find(settings, typed)
    missing = [found["name"] for found in findings["runs"] if found["state"] != "finished"]
    if missing:
        typer.echo(f"{len(missing)} of {len(planned)} runs are not finished; what follows is preliminary")
    for line in findings["conclusions"]:
        typer.echo(line)
    typer.echo(f"report: {write_report(findings, settings.folder() / 'report')}")
    if not going_on:
        raise typer.Exit(INTERRUPTED)


@app.command()
def doctor(
    config: ConfigPath,
    overrides: Overrides = None,
    processes: Annotated[int, typer.Option(min=1, help="Ranks on this machine.")] = 1,
    hostfile: Annotated[Path | None, typer.Option(help="The hosts: a line `HOST slots=RANKS` for each.")] = None,
    master_port: Annotated[int | None, typer.Option(min=1, max=65535, help="Where ranks meet.")] = None,
) -> None:
    """Say in seconds whether the hosts of a run fit together and can talk. Trains nothing."""
    from functools import partial

    from launch.doctor import doctor
    from pretrain.config import load_config
    from pretrain.run import LAUNCHER, Typed, claim_folder, locked, refuse_busy

    settings = load_config(config, overrides or ())
    refuse_busy(settings)
    typed = Typed(config, overrides or [], processes=processes, hostfile=hostfile, master_port=master_port)
    with locked(settings, LAUNCHER):
        claim_folder(settings)
        found = doctor(settings, typed, partial(typer.echo, err=True))
    for line in found:
        typer.secho(line, fg=typer.colors.RED, err=True)
    if found:
        raise typer.Exit(1)
    typer.echo("all is well")


@app.command()
def evaluate(config: ConfigPath, overrides: Overrides = None) -> None:
    """Evaluate every task again, after every finished stage."""
    from launch.system import settle_accelerator
    from pretrain.config import load_config
    from pretrain.report import Report
    from pretrain.run import last_finished

    settings = load_config(config, overrides or ())
    last_finished(settings)
    settle_accelerator()
    from pretrain.train import evaluate

    with Report(settings) as report:
        evaluate(settings, report)


@app.command()
def export(config: ConfigPath, overrides: Overrides = None) -> None:
    """Write the last finished stage as a Hugging Face checkpoint."""
    from launch.system import settle_accelerator
    from pretrain.config import load_config

    settings = load_config(config, overrides or ())
    settle_accelerator()
    from pretrain.export import export

    typer.echo(f"checkpoint: {export(settings)}")


@app.command()
def results(config: ConfigPath, overrides: Overrides = None) -> None:
    """Print loss, metric and chance of every task after every stage."""
    from pretrain.config import load_config
    from pretrain.report import make_console, summary_table

    settings = load_config(config, overrides or ())
    make_console().print(summary_table(settings.folder()))


@app.command()
def finetune(
    suite: Annotated[Path, typer.Argument(metavar="SUITE", help="YAML file, such as configs/downstream/en.yaml.")],
    checkpoints: Annotated[
        list[str], typer.Argument(metavar="CHECKPOINT...", help="Directories, hub names, or demo:minilm.")
    ],
    data: Annotated[Path | None, typer.Option(metavar="ROOT", help="Below it lie the files of the tasks.")] = None,
    task: Annotated[list[str] | None, typer.Option(help="Only this task; may be repeated.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each task, from seeds 0, 1, …")] = 1,
    out: Annotated[Path, typer.Option(help="Where results are kept.")] = Path("finetuned"),
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="TASK.KEY=VALUE", help="Override; may be repeated.")
    ] = None,
    save: Annotated[bool, typer.Option("--save", help="Also write the fine-tuned models.")] = False,
    together: Annotated[
        bool, typer.Option("--together", help="One encoder on all tasks at once, then each task from it.")
    ] = False,
    processes: Annotated[int, typer.Option(min=1, help="With --together: its ranks on this machine.")] = 1,
) -> None:
    """Fine-tune checkpoints on downstream tasks and score them. Finished results are kept."""
    from launch.system import settle_accelerator

    if processes > 1 and not together:
        raise ValueError(f"--processes {processes} is for what is learnt together. Add --together, or leave it out.")
    settle_accelerator()
    from finetune.declare import load_suite, load_together
    from finetune.results import differences, table
    from finetune.suite import run_suite, run_together
    from launch.finetune import in_ranks
    from pretrain.report import make_console

    ranks = in_ranks(processes) if processes > 1 else None
    declared = load_suite(suite, set_ or ())
    settings = load_together(suite, set_ or ())
    found = []
    for checkpoint in checkpoints:
        if together:
            found.append(
                run_together(
                    declared, settings, checkpoint, data, range(seeds), out, task, typer.echo, save, in_ranks=ranks
                )
            )
        else:
            found.append(run_suite(declared, checkpoint, data, range(seeds), out, task, typer.echo, save))
    console = make_console()
    console.print(table([result for results in found for result in results]))
    for results in found if together else []:
        one_by_one = next((result.name for result in results if not result.together), None)
        if one_by_one is not None:
            console.print(differences(results, one_by_one))
    typer.echo(f"results: {out}")


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
