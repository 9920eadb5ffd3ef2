"""Export: a plain Hugging Face checkpoint of the last finished stage.

`AutoModel`, `AutoModelForMaskedLM` and `AutoTokenizer` load it offline, in the form that `pretrain.forms` finds for it.
The heads of the tasks other than masked LM lie beside it in task_heads.safetensors.
"""

import json
import shutil
from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from corpus_tools.labels import predicts
from corpus_tools.shards import read_manifest
from pretrain.checkpoint import write_tensors
from pretrain.config import Config
from pretrain.fold import Folding, fold_experts
from pretrain.forms import Form, form_of
from pretrain.model.model import TASK_IDS
from pretrain.run import last_finished
from pretrain.tasks import TASKS
from pretrain.tasks.spec import Head
from pretrain.train import load_finished


def export(config: Config) -> Path:
    """Write runs/<name>/export/ and return it. Raises ValueError where there is no stage that can be exported."""
    config.refuse_unexportable()
    model, tasks, state = load_finished(config, last_finished(config))
    folding = fold_experts(config, model, tasks) if config.sharing.place == "inside" else None
    folder = config.folder() / "export"
    aside = config.folder() / "export.part"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    masked = [task for task in tasks if TASKS[task].head is Head.MASKED_LM]
    form = form_of(model, masked)
    form.config.save_pretrained(aside)
    write_tensors(aside / "model.safetensors", form.tensors)
    heads = {
        f"{task}.{name}": parameter.detach().contiguous()
        for task in tasks
        if task not in masked
        for name, parameter in model.heads[task].named_parameters()
    }
    if heads:
        write_tensors(aside / "task_heads.safetensors", heads)
    manifest = read_manifest(config.corpus.folder())
    (aside / "tasks.json").write_text(
        json.dumps(
            {
                task: {
                    "task_type_id": TASK_IDS[task],
                    "head": TASKS[task].head,
                    "predicts": predicts(TASKS[task], manifest),
                    "labels": manifest["tasks"][task]["labels"],
                }
                | ({} if config.sharing.kind == "hard" else {"head_reads": head_reads(config, folding, task)})
                | ({"experts": about(folding)} if folding is not None and folding.task == task else {})
                for task in tasks
            },
            indent=1,
            ensure_ascii=False,
        )
        + "\n"
    )
    save_tokenizer(config.corpus.folder() / "tokenizer.json", manifest, form, aside)
    (aside / "README.md").write_text(model_card(config, manifest, form, state, folding))
    shutil.rmtree(folder, ignore_errors=True)
    aside.rename(folder)
    return folder


def head_reads(config: Config, folding: Folding | None, task: str) -> str:
    """What a head read in training and does not find in an export."""
    if folding is None:
        return dropped(config)
    if task != folding.task:
        return others_dropped(config, folding)
    kind = config.sharing.kind
    return f"states for which gates ({kind} inside the encoder) chose experts anew at every token, as none do here"


def dropped(config: Config) -> str:
    return (
        f"what sharing ({config.sharing.kind}) made of the encoder's states; that part is not exported, so a head "
        "predicts worse here than the validation says"
    )


def others_dropped(config: Config, folding: Folding) -> str:
    return (
        f"states for which the gates of its own task chose experts ({config.sharing.kind} inside the encoder); those "
        f"here are {folding.task}'s, so a head predicts worse here than the validation says"
    )


def about(folding: Folding) -> dict:
    """What became of the experts, for tasks.json."""
    kept = ("metric_name", "loss", "metric", "targets")
    return {
        "shares": {f"layer {number}": shares for number, shares in folding.shares.items()},
        "intermediate_size": dict(zip(("trained", "exported"), folding.widths, strict=True)),
        "validation": {
            way: {name: record[name] for name in kept}
            for way, record in (("trained", folding.gated), ("exported", folding.constant))
        },
    }


def experts_section(config: Config, folding: Folding) -> list[str]:
    """The same, for the model card."""
    (before, after), gated, constant = folding.widths, folding.gated, folding.constant
    return [
        "",
        "## Experts",
        "",
        f"In training the layers named below had experts beside their feed-forward part ({config.sharing.kind}). Those "
        f"that {folding.task} read are part of it here, which makes all layers wider "
        f"(intermediate_size {after:,}, {before:,} before), each multiplied by its mean share over the validation "
        "instances. Gates no longer choose anew at every token, and experts of other tasks are not exported. Layers "
        "count from 0.",
        "",
        "| layer | shares |",
        "| ---: | --- |",
        *(f"| {n} | {', '.join(f'{share:.3f}' for share in shares)} |" for n, shares in folding.shares.items()),
        "",
        f"| {folding.task} | loss | {gated['metric_name']} |",
        "| --- | ---: | ---: |",
        *(
            f"| {way} | {record['loss']:.4f} | {record['metric']:.4f} |"
            for way, record in (("with gates, as trained", gated), ("with constant shares, as exported", constant))
        ),
    ]


def save_tokenizer(path: Path, manifest: dict, form: Form, folder: Path) -> None:
    tokenizer = Tokenizer.from_file(str(path))
    ids = [(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ids
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=form.config.max_position_embeddings,
        model_input_names=form.inputs,
        do_lower_case=manifest["tokenizer"]["uncased"],
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        pad_token="[PAD]",
        mask_token="[MASK]",
    ).save_pretrained(folder)


def model_card(config: Config, manifest: dict, form: Form, state: dict, folding: Folding | None) -> str:
    """What went in and what came out, in Markdown."""
    shape, documents = form.config, manifest["documents"]
    begun = "Prior weights" if config.distill is None else "Student of"
    lines = [
        "---",
        f"language: {config.corpus.language}",
        "library_name: transformers",
        "pipeline_tag: fill-mask",
        "tags: [ernie, continual-pre-training, multi-task]",
        "---",
        f"# {config.name}",
        "",
        "A text encoder pre-trained by accumulating self-supervised tasks stage by stage (ERNIE 2.0, "
        "arXiv 1907.12412), made with cumul.",
        "",
        f"- Encoder: {shape.num_hidden_layers} layers × {shape.hidden_size}, {form.size / 1e6:.1f} M parameters, "
        f"vocabulary {shape.vocab_size:,}",
        f"- {begun}: {config.origin()[1] or 'none, trained from scratch'}",
        f"- Corpus: {', '.join(config.corpus.sources)}: {documents['used']:,} documents, "
        f"{manifest['tokens']['train']:,} training tokens",
        f"- Training: {state['run_step']:,} steps of {config.train.batch_size} instances, {state['tokens']:,} tokens "
        f"read, schedule {config.schedule.kind} over {config.schedule.over}",
        "",
        "## Stages (steps per task)",
        "",
        "| task | " + " | ".join(f"stage {number}" for number in range(1, state["stage"] + 1)) + " |",
        "| --- |" + " ---: |" * state["stage"],
    ]
    for task in config.tasks:
        steps = [str(stage.steps.get(task, "–")) for stage in config.stages()[: state["stage"]]]
        lines.append(f"| {task} | " + " | ".join(steps) + " |")
    lines += [
        "",
        "## Validation after the last stage",
        "",
        "| task | loss | metric | value | chance |",
        "| --- | ---: | --- | ---: | ---: |",
    ]
    for record in last_evaluation(config, state["stage"]):
        lines.append(
            f"| {record['task']} | {record['loss']:.3f} | {record['metric_name']} | {record['metric']:.3f} "
            f"| {record['chance']:.3f} |"
        )
    for task in config.tasks:
        if "labels_from" in manifest["tasks"][task]:
            lines += ["", f"`{task}`: {predicts(TASKS[task], manifest)}."]
    if folding is not None:
        lines += experts_section(config, folding)
    lines += [
        "",
        "## Use",
        "",
        "```python",
        "from transformers import AutoModel, AutoTokenizer",
        "",
        'tokenizer = AutoTokenizer.from_pretrained("export")',
        'model = AutoModel.from_pretrained("export")',
        "```",
        "",
        f"{form.note} The heads of the pre-training tasks are in task_heads.safetensors.",
        "",
    ]
    if folding is not None:
        lines += [f"Heads of other tasks than {folding.task} were trained on {others_dropped(config, folding)}.", ""]
    elif config.sharing.kind != "hard":
        lines += [f"The encoder is whole, but every head, that of masked LM too, was trained on {dropped(config)}.", ""]
    return "\n".join(lines)


def last_evaluation(config: Config, stage: int) -> list[dict]:
    """The newest evaluation record of each task after a stage."""
    newest = {}
    for line in (config.folder() / "metrics.jsonl").read_text().splitlines():
        record = json.loads(line)
        if record["kind"] == "evaluation" and record["stage"] == stage:
            newest[record["task"]] = record
    return list(newest.values())
