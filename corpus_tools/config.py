"""The `corpus` section of a configuration: everything that decides what is in the shards."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from pretrain.tasks import discourse_relation, ir_relevance
from pretrain.tasks.knowledge_masking import PHASES
from pretrain.tasks.spec import Settings


class Section(BaseModel):
    """A section of the configuration: immutable, unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


Line = Annotated[str, Field(pattern=r"^[^\r\n]*$")]
"""What stands in one line of a script, and cannot begin another."""


class SlurmConfig(Section):
    """What a Slurm job needs to be told; read where corpus.executor=slurm."""

    partition: Line = "cpu"
    time: Line = "24:00:00"
    """Longest time of one job."""
    qos: Line = ""
    cpus_per_task: int = Field(1, ge=1)
    mem_per_cpu_gb: int = Field(2, ge=1)
    tasks_per_job: int = Field(16, ge=1)
    """Tasks that one process does in turn: it loads tokenizer and lexicons once."""
    arguments: dict[Line, Line] = {}
    """Other options of sbatch, such as {account: lab}."""


class CorpusConfig(Section):
    name: str = "demo"
    """The corpus lies in corpora/<name>/."""
    seed: int = Field(0, ge=0)
    """Of what is drawn while a corpus is built, such as negatives, and of the frozen validation."""
    sources: list[str] = ["demo:en"]
    """Files, folders, globs (.txt .jsonl .parquet, .gz .zst), `datasets:NAME_OR_PATH`, or `demo:en`, `demo:zh`."""
    keys: dict[Literal["id", "title", "text"], str] = {}
    """Names of the fields in JSONL, Parquet and data sets, where they are not id, title and text."""
    clicks: list[str] = []
    """Click logs (.tsv .csv, .gz .zst) with the columns query, title, shown, clicked: the labels of ir_relevance.
    Without one they are pseudo-labels, made of the documents."""
    examined_only: bool = False
    """Of a query's skipped titles use only those shown above its last click: nobody may have seen the rest.
    Needs a column `position`."""
    grades: list[str] = []
    """Graded pairs (.tsv .csv .jsonl, .gz .zst) with query, title and grade (0 poor, 1 some, 2 very relevant; text_a,
    text_b and label are the same): the labels of ir_relevance."""
    relations: list[str] = []
    """Marked pairs (.tsv .csv .jsonl with sentence1, sentence2 and label) or DISRPT relation files (.rels): the labels
    of discourse_relation, instead of mined markers."""
    language: Literal["en", "zh"] = "en"
    segmenter: Literal["rjieba", "jieba"] = "rjieba"
    """Chinese words; English words come from the tokenizer's own splitting."""
    knowledge: list[str] | None = None
    """Where units come from, in order of precedence: lexicon, spacy, lac, classifier, names, phrases. None: [lexicon,
    names, phrases], the first where there are lexicons. Words are units where nothing else is. A tagger is better put
    before the lexicon; lac and spacy are slower than all the rest of a build."""
    lexicons: list[str] = []
    """Files or folders of entries (.txt .tsv, .gz .zst), one a line, what follows a tab is not read. They are entities,
    but phrases in files named phrases*. Entries are whole words; one in lower case is found in any case."""
    tagger: str | None = None
    """The model of `spacy` or `classifier`: its name or directory."""
    tokenizer: str = "train"
    """`train` a WordPiece on the corpus, or adopt one: a directory or tokenizer.json, a hub name, `demo:minilm`."""
    vocab_size: int = Field(16_000, ge=200)
    """Of a trained tokenizer."""
    lowercase: bool = True
    """Of a trained tokenizer. Capitalization needs it."""
    max_length: int = Field(128, ge=16)
    """Tokens in a sequence, [CLS] and [SEP] included."""
    max_segments: int = Field(4, ge=2, le=6)
    """m of sentence reordering; the encoder needs as many token types."""
    deduplicate: Literal["no", "exact", "minhash"] = "no"
    """Refuse documents whose text is, or nearly is, that of one before (datatrove)."""
    mask_share: float = Field(0.15, gt=0, lt=1)
    """Share of the tokens that knowledge masking predicts. This and the next are drawn in training: a finished corpus
    serves any."""
    mask_levels: Literal["mixed", "phases"] | dict[Literal["basic", "phrase", "entity"], float] = "mixed"
    """Which units make up that share. `mixed`: of all levels as they come. Shares, such as {basic: 0.5, phrase: 0.3,
    entity: 0.2}: phrases and entities as far as they reach, the rest single words (Chinese: characters). `phases`: in
    the first third of a task's budget words, then phrases, then entities (ERNIE 1.0). Validation is always `mixed`."""
    marker_cap: int = Field(200, ge=1)
    """Instances a shard keeps of one discourse marker."""
    validation_share: float = Field(0.05, gt=0, lt=1)
    """Share of the documents held out, by a hash of the document id."""
    min_tokens: int = Field(32, ge=1)
    """Shorter documents are refused."""
    max_document_mb: float = Field(10.0, gt=0)
    """Larger documents, or lines, are refused."""
    shard_mb: float = Field(4.0, gt=0)
    """Text in one shard. A shard is also the pool that negatives are drawn from."""
    executor: Literal["local", "slurm", "ray"] = "local"
    """What runs the build: processes of this machine, a Slurm cluster, or a Ray cluster."""
    slurm: SlurmConfig = SlurmConfig()

    @field_validator("mask_levels", mode="before")
    @classmethod
    def levels_fit(cls, levels: Any) -> Any:
        if levels in ("mixed", "phases"):
            return levels
        if not isinstance(levels, dict):
            raise ValueError("choose mixed, phases, or shares such as {basic: 0.5, phrase: 0.3, entity: 0.2}")
        for level, share in levels.items():
            if level not in ("basic", "phrase", "entity"):
                raise ValueError(f"unknown level {level!r}. Known: basic, phrase, entity.")
            if not isinstance(share, int | float) or not 0 <= share <= 1:
                raise ValueError(f"{level}={share!r} is no share. Give a number from 0 to 1.")
        total = sum(levels.values())
        if abs(total - 1) > 1e-6:
            raise ValueError(f"the shares of {', '.join(levels) or 'no level'} add up to {total:g}, not to 1.")
        return levels

    def settings(self, relations: Sequence[str] = ()) -> Settings:
        """`relations`: the classes of marked pairs, which only their files know."""
        return Settings(
            self.language,
            self.max_length,
            self.max_segments,
            self.mask_share,
            self.marker_cap,
            relations=tuple(relations),
        )

    def drawings(self, relations: Sequence[str] = ()) -> list[Settings]:
        """The settings of training, one after another, each for an equal part of the budget."""
        settings = self.settings(relations)
        if self.mask_levels == "mixed":
            return [settings]
        if self.mask_levels == "phases":
            return [replace(settings, levels=shares) for shares in PHASES]
        basic, phrases, entities = (self.mask_levels.get(level, 0.0) for level in ("basic", "phrase", "entity"))
        return [replace(settings, levels=(basic, phrases, entities))]

    def folder(self) -> Path:
        return Path("corpora") / self.name


def settings_of(manifest: dict) -> Settings:
    """What the tasks of a finished corpus share; the classes of marked pairs are those that it was built with."""
    return CorpusConfig(**manifest["config"]).settings(relations_of(manifest))


def relations_of(manifest: dict) -> Sequence[str]:
    """The classes of marked pairs in a finished corpus; none where discourse relations were mined."""
    given = manifest["config"].get("relations")
    return manifest["tasks"][discourse_relation.NAME]["labels"] if given else ()


def refuse_unread(config: CorpusConfig, tasks: Sequence[str]) -> None:
    """Raises ValueError where labels are given that nothing would learn from, or twice for one task."""
    if config.clicks and config.grades:
        raise ValueError(
            f"corpus.clicks and corpus.grades both label {ir_relevance.NAME}. Choose one, and set the other to []."
        )
    if config.examined_only and not config.clicks:
        raise ValueError(
            "corpus.examined_only is about corpus.clicks, which names no log. Add one, or set it to false."
        )
    for setting, task in (
        ("clicks", ir_relevance.NAME), ("grades", ir_relevance.NAME), ("relations", discourse_relation.NAME)
    ):  # fmt: skip
        if getattr(config, setting) and task not in tasks:
            raise ValueError(f"corpus.{setting} feeds {task} alone. Add it to `tasks`, or set corpus.{setting}=[].")
