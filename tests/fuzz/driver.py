"""Fuzz one target in this process: ``python driver.py ENGINE TARGET RUNS SECONDS SEEDS FOLDER``.

ENGINE is ``atheris`` (coverage-guided; libFuzzer's mutations) or ``hypothesis`` (edits drawn from strategies:
bytes replaced, cut, repeated, spliced from another seed, numbers set to extremes). SEEDS is a folder of valid
files; it ends after RUNS inputs, or SECONDS if they are over before. A finding ends the process with a traceback and the input, in hex; so does memory beyond the limit.
"""

from __future__ import annotations

import resource
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

#: Above what the process has after its imports, in bytes.
MEMORY_BYTES = 512 << 20
MOST_BYTES = 1 << 16

if sys.argv[1] == "atheris":
    import atheris

    # Not yaml: its strings compare wrongly once atheris has instrumented it ("'str' object has no attribute
    # 'prefix'", from code that does no such thing).
    with atheris.instrument_imports(include=["enclaveml"], enable_loader_override=False):
        from targets import TARGETS
else:
    from targets import TARGETS


def limit_memory() -> None:
    """No more address space than is taken now and MEMORY_BYTES: beyond it, MemoryError, which is a finding."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def by_hypothesis(one, seeds: list[bytes], runs: int, seconds: float) -> int:
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import strategies as st

    extremes = st.sampled_from([b"\0" * 8, b"\xff" * 8, b"\x7f" + b"\xff" * 7, b"\xff" * 4, b"\0" * 4, b"\x80", b"\x01",
                                b"-1", b"1e999", b"null", b"[]", b"{}", b'"', b"9" * 40, b"[" * 300, b"\n", b": "])
    edit = st.tuples(st.sampled_from(["put", "insert", "cut", "repeat", "splice"]), st.floats(0, 1), st.integers(1, 64),
                     st.one_of(extremes, st.binary(min_size=1, max_size=8)), st.integers(0, len(seeds) - 1))
    until, tried = time.monotonic() + seconds, 0
    limit_memory()

    @settings(max_examples=runs, deadline=None, database=None, phases=[Phase.generate], derandomize=True,
              suppress_health_check=list(HealthCheck))
    @given(st.integers(0, len(seeds) - 1), st.lists(edit, max_size=4))
    def test(number: int, edits: list) -> None:
        nonlocal tried
        if time.monotonic() > until:
            raise Enough
        data = seeds[number]
        for edit in edits:
            data = changed(data, *edit, seeds)
        tried += 1
        guarded(one, data[:MOST_BYTES])
    try:
        test()
    except Enough:
        pass
    return tried


class Enough(BaseException):
    """The time is over."""


def changed(data: bytes, how: str, where: float, size: int, piece: bytes, other: int, seeds: list[bytes]) -> bytes:
    at = int(where * len(data))
    if how == "put":
        return data[:at] + piece + data[at + len(piece):]
    if how == "insert":
        return data[:at] + piece + data[at:]
    if how == "cut":
        return data[:at] + data[at + size:]
    if how == "repeat":
        return data[:at] + data[at: at + size] * 2 + data[at + size:]
    return data[:at] + seeds[other][int(where * len(seeds[other])):]


def guarded(one, data: bytes) -> None:
    try:
        one(data)
    except BaseException:
        print(f"FOUND {len(data)} bytes: {data.hex()}", file=sys.stderr, flush=True)
        raise


def by_atheris(one, folder: Path, runs: int, seconds: float, work: Path) -> None:
    # libFuzzer goes by the peak, which a process has from the one that started it.
    taken = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    limit = f"-rss_limit_mb={(taken + MEMORY_BYTES) >> 20}"
    atheris.Setup([sys.argv[0], f"-runs={runs}", f"-max_total_time={seconds:g}", f"-max_len={MOST_BYTES}", "-seed=1", limit,
                   "-malloc_limit_mb=256", "-print_final_stats=1", f"-artifact_prefix={work}/", str(work / "corpus"),
                   str(folder)], lambda data: guarded(one, data))
    atheris.Fuzz()


def main() -> None:
    engine, target, runs, seconds = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
    folder, work = map(Path, sys.argv[5:7])
    one = TARGETS[target](work)
    (work / "corpus").mkdir(exist_ok=True)
    seeds = [path.read_bytes() for path in sorted(folder.iterdir())]
    for seed in seeds:
        one(seed)
    if engine == "atheris":
        by_atheris(one, folder, runs, seconds, work)
    else:
        print(f"tried {by_hypothesis(one, seeds, runs, seconds)} inputs")


if __name__ == "__main__":
    main()
