"""How ranks ended: each that failed leaves a record, and the launcher tells the one that explains the others.

Records and logs of ranks lie in one folder, `logs`.
"""

import json
import time
import traceback
from pathlib import Path
from typing import NamedTuple

from corpus_tools.shards import aside
from pretrain.run import own_name, rank_log

MISTAKE, CRASH, LOST = "mistake", "crash", "lost"
"""The user's, the program's, or a consequence: other ranks were gone."""


class Ended(NamedTuple):
    rank: int
    host: str
    time: float
    kind: str
    message: str
    shared: bool = False

    def line(self) -> str:
        """For a person; what all ranks found is no rank's own."""
        return self.message if self.shared else f"rank {self.rank} on {self.host}: {self.message}"


def keep(logs: Path, rank: int, error: BaseException) -> None:
    """Leave the record, and the traceback in the log of this rank."""
    kind = LOST if isinstance(error, ConnectionError) else MISTAKE if isinstance(error, ValueError) else CRASH
    message = " ".join(str(error).split())
    if kind == CRASH and not isinstance(error, OSError):  # of a disk: says all, and may pass
        message = f"{type(error).__name__}: {message}. See {rank_log(logs, rank)}"
    rank_log(logs, rank).parent.mkdir(parents=True, exist_ok=True)
    with rank_log(logs, rank).open("a", encoding="utf-8") as log:
        log.write("".join(traceback.format_exception(error)))
    record = Ended(rank, own_name(), time.time(), kind, message)
    with aside(record_of(logs, rank)) as part:
        part.write_text(json.dumps(record._asdict()) + "\n")


def record_of(logs: Path, rank: int) -> Path:
    return rank_log(logs, rank).with_name(f"ended{rank}.json")


def all_of(logs: Path) -> list[Path]:
    return list(logs.glob("ended*.json"))


def clear(logs: Path, least: int = 0) -> None:
    """Forget the records of the ranks from `least` on."""
    for path in all_of(logs):
        if int(path.stem.removeprefix("ended")) >= least:
            path.unlink(missing_ok=True)


def cause(logs: Path) -> Ended | None:
    """The first record of a mistake or crash, else the first of a rank that lost others."""
    records = [Ended(**json.loads(path.read_text())) for path in all_of(logs)]
    first = min(records, key=lambda record: (record.kind == LOST, record.time), default=None)
    if first is None or first.kind != MISTAKE:
        return first
    return first._replace(shared=all(record.message == first.message for record in records))
