"""World's collectives, for every count that matters, 0 among them."""

from __future__ import annotations

import time

import numpy as np
from checks import main

from enclaveml import comm
from enclaveml.comm import World
from enclaveml.errors import EnvironmentFault, JobError, RemoteFailure
from enclaveml.together import is_agreed, together

world = World.start()
P = world.size


def check_scatter_and_gather_are_inverse_for_uneven_counts_and_zero() -> None:
    for counts in ([(3 * p + 1) % 5 for p in range(P)], [0] * P, [7] + [0] * (P - 1), [0] * (P - 1) + [7]):
        for shape, dtype in (((), np.int64), ((3,), np.float32), ((2, 4), np.int32), ((1,), np.uint8)):
            n = sum(counts)
            rows = np.arange(n * int(np.prod(shape)), dtype=dtype).reshape(n, *shape)
            mine = world.scatter_rows(rows if world.is_root else None, counts, shape, np.dtype(dtype), "a check")
            start = sum(counts[: world.rank])
            assert (mine == rows[start: start + counts[world.rank]]).all()
            back = world.gather_rows(mine, counts, "a check")
            assert (back is None) != world.is_root
            if world.is_root:
                assert back.dtype == rows.dtype and back.shape == rows.shape and (back == rows).all()


def check_gather_bytes_keeps_the_order_and_empty_ones() -> None:
    got = world.gather_bytes(b"x" * (5 * world.rank), "a check")
    assert got == ([b"x" * (5 * r) for r in range(P)] if world.is_root else [])
    assert world.gather_bytes(b"", "a check") == ([b""] * P if world.is_root else [])


def check_bcast_is_cut_into_chunks() -> None:
    size = comm.CHUNK_BYTES + 12345
    data = (np.arange(size) % 251).astype(np.uint8).tobytes()
    assert world.bcast_bytes(data if world.is_root else None, "a check") == data
    assert world.bcast_bytes(b"" if world.is_root else None, "a check") == b""


def check_who_waits_for_others_works_meanwhile_but_not_while_many_bytes_move() -> None:
    slow, begun = P - 1, 0

    def work() -> bool:
        nonlocal begun
        begun += 1
        if begun == 3 and world.is_root and P > 1:
            world.comm.send("three", slow, tag=5)
        return begun < 4  # then nothing is left, and it waits

    world.spare = work
    if world.rank == slow and P > 1:
        world.comm.recv(source=0, tag=5)  # it comes when rank 0 has found work three times
    assert world.allgather_array(np.array([world.rank]), "a check")[:, 0].tolist() == list(range(P))
    assert not world.is_root or P == 1 or begun >= 3
    begun = 0
    if world.rank == slow:
        time.sleep(0.1)
    assert (world.bcast_array(np.full(comm.BULK_BYTES + 1, 7, np.uint8), "a check") == 7).all()
    assert begun == 0
    world.spare = lambda: False


def check_local_ranks_count_up_on_a_node() -> None:
    assert world.ranks_on_node == P and world.local_rank == world.rank
    assert world.node_leaders() == (0,)


def check_a_failure_on_one_rank_fails_all_and_rank_0_knows_why() -> None:
    bad = P - 1
    try:
        with together(world, "a check"):
            if world.rank == bad:
                raise JobError("no such thing")
    except (JobError, RemoteFailure) as error:
        assert error.exit_code == 2 and is_agreed(error)
        if world.is_root and bad != 0:
            assert str(error) == f"rank {bad} ({world.host}) failed in a check:\nJobError: no such thing"
    else:
        raise AssertionError("nobody failed")


def check_a_bug_on_one_rank_brings_its_traceback() -> None:
    try:
        with together(world, "a check"):
            if world.rank == P - 1:
                raise ZeroDivisionError("a bug")
    except RemoteFailure as error:
        assert error.exit_code == 1
        assert not world.is_root or "Traceback" in str(error) and "ZeroDivisionError: a bug" in str(error)
    except ZeroDivisionError as error:
        assert is_agreed(error) and P == 1


def check_a_wait_has_a_bound() -> None:
    if P == 1:
        return
    if world.rank == 0:
        world.patience_s = 0.3
        try:
            world.allgather_array(np.zeros(1), "a collective that others come late to")
        except EnvironmentFault as error:
            assert str(error) == (
                f"rank 0 ({world.host}) waited 0 s in a collective that others come late to for the other ranks "
                f"{list(range(1, P))}: one of them is stuck. The job can be resumed"
            )
        else:
            raise AssertionError("no bound")
        finally:
            world.patience_s = comm.PATIENCE_S
        # A real run ends by MPI_Abort here. A program that goes on has to see its request through:
        # with MPICH the others' part of the collective waits for this rank to move it.
        for request, _ in world._orphans:
            request.Wait()
    else:
        import time

        time.sleep(1)
        world.allgather_array(np.zeros(1), "the late one")


main(globals())
