"""The state of a job as ``enclaveml status`` shows it, whether it runs, was killed or has ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from enclaveml.progress import hours, significant, table

#: Row statuses that end a row; the others may still be given to another rank while the job runs.
ENDED = ("verified", "inconsistent", "unproved")


@dataclass(frozen=True)
class RankState:
    """One rank of one session. Seconds are running totals, None where nothing was told yet.

    capacity: its weight in the split; rows: answers gathered from it, of which ``verified`` were.
    """

    session: int
    rank: int
    node_id: str = ""
    host: str = ""
    device: str = ""
    capacity: float = 0.0
    rows: int = 0
    verified: int = 0
    proofs: int = 0
    rejections: int = 0
    seconds_inferring: float | None = None
    seconds_proving: float | None = None
    seconds_waiting: float | None = None
    fate: str = "ok"
    fate_reason: str = ""


@dataclass(frozen=True)
class JobState:
    """A job at one moment.

    state: a file status, or ``silent``: no end was written, and nothing for longer than the job would be
    quiet. source: what was read. rows_by_status: row status to number of rows, N in all. answers_ended of
    answers_wanted: rows times replicas. rate: rows a second (rows times replicas where they have some), over
    this session's last minutes; left: seconds at that rate; None where unknown. written: Unix time of the
    last record; quiet: seconds since. writer_here: a process of this machine has the journal open.
    """

    name: str
    source: str
    state: str
    exit_code: int | None
    message: str
    started: str
    finished: str
    sessions: int
    rows: int
    rows_by_status: Mapping[str, int]
    answers_ended: int
    answers_wanted: int
    rate: float | None
    left: float | None
    elapsed: float | None
    proofs_verified: int
    proofs_rejected: int
    verify_seconds: float
    rounds: int
    circuits: tuple[str, ...]
    ranks: tuple[RankState, ...]
    written: float | None = None
    quiet: float | None = None
    writer_here: bool = False
    notes: tuple[str, ...] = field(default=())

    @property
    def over(self) -> bool:
        """Whether there is nothing more to wait for."""
        return self.state != "running"

    def document(self) -> dict[str, Any]:
        """All of it, as JSON can hold it."""
        return asdict(self)


def line(state: JobState) -> str:
    """One line, for a log: ``running: 120/360 rows (33 %), 3 proofs, 0 rejected, 5.91 rows/s, 0:41 left``."""
    done = sum(state.rows_by_status.get(name, 0) for name in ENDED)
    share = f" ({100 * done // state.rows} %)" if state.rows else ""
    text = (f"{state.state}: {done}/{state.rows} rows{share}, {state.proofs_verified} proofs, "
            f"{state.proofs_rejected} rejected")
    if state.state == "running" and state.rate is not None:
        text += f", {significant(state.rate)} rows/s"
        if state.left:
            text += f", {hours(state.left)} left"
    ended = [rank for rank in state.ranks if rank.fate != "ok" and rank.session == state.sessions - 1]
    return text + "".join(f", rank {rank.rank} {rank.fate}" for rank in ended)


def text(state: JobState, detailed: bool = False) -> str:
    """The state for people, some ten lines; ``detailed`` adds a table with a line for each rank."""
    now = [rank for rank in state.ranks if rank.session == state.sessions - 1]
    lines = [f"{state.name}: {_headline(state)}"]
    counts = ", ".join(f"{n} {name}" for name, n in state.rows_by_status.items() if n)
    lines.append(f"rows      {state.rows}: {counts}")
    if state.answers_wanted != state.rows:
        lines.append(f"answers   {state.answers_ended} of {state.answers_wanted} (rows times replicas)")
    if state.state == "running":
        rate = "not known yet" if state.rate is None else f"{significant(state.rate)} rows/s"
        lines.append(f"rate      {rate}" + (f", {hours(state.left)} left" if state.left else ""))
    lines.append(f"proofs    {state.proofs_verified} verified, {state.proofs_rejected} rejected; rank 0 spent "
                 f"{significant(state.verify_seconds)} s on verifying")
    times = f"started {state.started}" + (f", ended {state.finished}" if state.finished else "")
    if state.elapsed is not None:
        times += f", {hours(state.elapsed)} in this session" if state.sessions > 1 else f", {hours(state.elapsed)}"
    lines.append(f"time      {times}; session {state.sessions}, {state.rounds} rounds complete")
    hosts = len({rank.host for rank in now})
    fates = {fate: sum(rank.fate == fate for rank in now) for fate in dict.fromkeys(r.fate for r in now)}
    lines.append(f"ranks     {len(now)} on {hosts} host{'' if hosts == 1 else 's'}: "
                 + ", ".join(f"{n} {fate}" for fate, n in fates.items()))
    if state.circuits:
        lines.append(f"circuit   {', '.join(circuit[:16] for circuit in state.circuits)}")
    for rank in state.ranks:
        if rank.fate != "ok":
            lines.append(f"{rank.fate:<9} rank {rank.rank} ({rank.node_id}): {(rank.fate_reason or '?').splitlines()[0]}")
    lines += [f"note      {note}" for note in state.notes]
    if detailed:
        lines += ["", _ranks(state.ranks, state.sessions)]
    return "\n".join(lines) + "\n"


def _headline(state: JobState) -> str:
    said = f": {state.message}" if state.message else ""
    code = "" if state.exit_code is None else f" (exit status {state.exit_code}){said}"
    if state.quiet is None:
        return state.state + code
    ago = f"last written {hours(state.quiet)} ago"
    if state.state == "silent":
        return (f"nothing was written for {hours(state.quiet)}, and no end: killed, or stuck. "
                "If it runs no more, go on with `enclaveml run JOB --resume`")
    return f"{state.state}{code}, {ago}" + (" by a process of this machine" if state.writer_here else "")


def _ranks(ranks: Sequence[RankState], sessions: int) -> str:
    heads = ["rank", "node", "host", "device", "capacity", "rows", "verified", "proofs", "rejected", "infer s",
             "prove s", "wait s", "fate"]
    several = sessions > 1
    return table(
        (["session"] if several else []) + heads,
        [
            ([r.session] if several else [])
            + [r.rank, r.node_id, r.host, r.device, r.capacity, r.rows, r.verified, r.proofs, r.rejections,
               r.seconds_inferring, r.seconds_proving, r.seconds_waiting, r.fate]
            for r in ranks
        ],
    )
