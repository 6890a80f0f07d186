"""Imports go one way, heavy libraries have one owner each, and nothing heavy is imported with the command line."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "enclaveml"

#: From the bottom to the top: a module imports from lines above its own only.
LEVELS = """
errors finding launcher merkle node_scratch round_size forecast_rounds zk.batch.constants
zk.batch.layer
zk.batch.format
log byte_reader options roster signals guard progress silence signature records results_schema sampling srs_file
sbatch_text
schema yaml_lines nonce input_key provenance shards watchdog claims
job_values job_files cluster
job_layers job_checks
job
capacity sbatch_nodes
comm devices hdf5 csv_table read_ahead
hdf5_probe together dataset_sources seal_leaves
seal
dataset_folder
datasets
journal_format answers
journal
journal_index heartbeat job_state
results_samples
job_tracker
resume results_check results_tables results_copy
results_reader
results
zk.interface zk.frames zk.scratch zk.keys zk.onnx_canonical
zk.batch.verify.rejection zk.batch.verify.element zk.batch.verify.field zk.batch.verify.merkle
zk.batch.verify.extension
zk.batch.verify.codeword zk.batch.verify.transcript zk.batch.verify.reader zk.batch.verify.multilinear
zk.batch.verify.sumcheck zk.batch.verify.wiring zk.batch.verify.opening zk.batch.verify.lookups zk.batch.verify.known_inputs
zk.batch.verify.layers zk.batch.verify.equations
zk.batch.verify.rows zk.batch.verify.masked zk.batch.verify.weights
zk.batch.verify.hidden zk.batch.verify.hidden_weights
zk.batch.verify.api
zk.batch.prove.memory zk.batch.prove.allocation zk.batch.prove.field zk.batch.prove.parallel zk.batch.prove.sha256
zk.batch.prove.chunks zk.batch.prove.tree zk.batch.prove.masks zk.batch.prove.rank zk.batch.prove.vectors
zk.batch.prove.extension_vectors zk.batch.prove.combination_kernel
zk.batch.prove.products zk.batch.prove.lookup_kernel zk.batch.prove.rows_kernel
zk.batch.prove.extension zk.batch.prove.code
zk.batch.prove.kernels zk.batch.prove.code_kernel zk.batch.prove.transcript zk.batch.prove.multilinear zk.batch.prove.polynomial
zk.batch.prove.encoding zk.batch.prove.round_masks zk.batch.prove.row_parts zk.batch.prove.wiring
zk.batch.prove.columns zk.batch.prove.commitment zk.batch.prove.inference zk.batch.prove.layers zk.batch.prove.linear
zk.batch.prove.lookup zk.batch.prove.rows zk.batch.prove.rows_chunks zk.batch.prove.rows_vectors
zk.batch.prove.weights zk.batch.prove.masked_opening zk.batch.prove.mask_entries
zk.batch.prove.helpers_chunks zk.batch.prove.helpers_vectors
zk.batch.prove.helpers_trial
zk.batch.prove.helpers
zk.batch.prove.proof zk.batch.prove.table zk.batch.prove.weights_range zk.batch.prove.masked_trees
zk.batch.prove.masked
zk.batch.prove.hidden zk.batch.prove.hidden_range
zk.batch.prove.api
zk.process zk.serve zk.rows zk.export
zk.pool zk.auditing zk.batch.patches zk.batch.files zk.batch.programs
zk.batch.integer zk.batch.float_model
zk.batch.rows_of_a_proof zk.verdict zk.batch.statement zk.batch.child zk.batch.check_child zk.batch.openings
zk.batch.activations zk.batch.compensate zk.batch.equalise zk.batch.algebra zk.batch.number_tables
zk.batch.calibrate zk.batch.nodes
zk.batch.curves
zk.batch.graph
zk.batch.quantise zk.batch.prover zk.batch.verifier
zk.batch.prepare zk.batch.audit zk.batch.examine
zk.batch.rebuild
zk.batch.system
zk.ezkl.cost zk.ezkl.document zk.ezkl.field zk.ezkl.files zk.ezkl.program
zk.ezkl.onnx_products
zk.ezkl.onnx_lean zk.ezkl.onnx_norms zk.ezkl.onnx_ids zk.ezkl.onnx_steps zk.ezkl.onnx_run zk.ezkl.advice zk.ezkl.onnx_bound
zk.ezkl.statement zk.ezkl.plan
zk.ezkl.child doctor_machine doctor_world
zk.ezkl.srs_reduce
zk.ezkl.srs zk.ezkl.tie zk.ezkl.bench
zk.ezkl.probes
zk.ezkl.tolerance
zk.ezkl.layouts
zk.ezkl.search zk.ezkl.prover zk.ezkl.verifier zk.ezkl.layers
zk.ezkl.plan_table
zk.ezkl.slices.cut zk.ezkl.slices.packed zk.ezkl.slices.format
zk.ezkl.slices.bench zk.ezkl.slices.prover zk.ezkl.slices.verifier
zk.ezkl.slices.plan
zk.ezkl.build zk.ezkl.examine
zk.ezkl.fallback zk.ezkl.slices.build
zk.ezkl.prepare zk.ezkl.rebuild zk.ezkl.audit zk.ezkl.budget
zk.ezkl.slices.prepare zk.ezkl.slices.rebuild zk.ezkl.slices.audit
zk.ezkl.system
zk.ezkl.slices.system
zk.systems
circuit_index forecast_costs
envelope combine inference weights model_class program_cache
checkpoints preprocess_function
preprocessing
job_vector flax_state model_package
combined models audit_report
audit_bundle audit_combined audit_limits audit_rows beacon
audit_draws
report_facts
report_words
report_plots report_tables
report_markup report_compared
report_html report_markdown
exchange_items ledger provers bundle_envelope slice_report
exchange
circuits
admission accounts pace
speeds draws
dispatch
bundles
copies
judging sharing
recheck joints
aggregator worker
loop rollcall distribute begin finish
run
prepare
check dryrun hash outcome sbatch audit status doctor report forecast
forecast_text
forecast_slurm
verbs
cli
__main__
"""
LEVEL = {name: i for i, line in enumerate(LEVELS.split("\n")) for name in line.split()}
PACKAGES = {"", "zk", "zk.batch", "zk.batch.prove", "zk.batch.verify", "zk.ezkl", "zk.ezkl.slices"}  # their __init__ hold nothing but a docstring and the version

#: Library to the modules that may import it, anywhere in their text.
OWNERS = {
    "mpi4py": {"comm"},
    "h5py": {"hdf5"},
    "ezkl": {"zk.ezkl.child"},
    "jax2onnx": {"zk.export"},
    "onnx": {"zk.batch.curves", "zk.batch.graph", "zk.batch.nodes", "zk.ezkl.onnx_bound", "zk.onnx_canonical", "zk.ezkl.onnx_ids", "zk.ezkl.onnx_steps", "zk.ezkl.onnx_lean", "zk.ezkl.onnx_norms", "zk.ezkl.onnx_products", "zk.ezkl.onnx_run", "zk.ezkl.advice", "zk.ezkl.layers", "zk.ezkl.slices.cut"},
    "safetensors": {"weights"},
    "cryptography": {"signature"},
    "numba": {"zk.batch.prove.code_kernel", "zk.batch.prove.combination_kernel", "zk.batch.prove.lookup_kernel", "zk.batch.prove.products",
              "zk.batch.prove.rows_kernel", "zk.batch.prove.sha256"},
    "llvmlite": {"zk.batch.prove.code_kernel", "zk.batch.prove.combination_kernel", "zk.batch.prove.extension_vectors",
                 "zk.batch.prove.lookup_kernel", "zk.batch.prove.products", "zk.batch.prove.rows_kernel", "zk.batch.prove.sha256",
                 "zk.batch.prove.vectors"},
    "tqdm": {"log", "progress"},
    "matplotlib": {"report_plots"},
    "yaml": {"yaml_lines", "job", "begin", "audit_rows"},
    "orbax": {"checkpoints"},
    "flax": {"checkpoints", "model_class", "flax_state", "models"},
    "jax": {"checkpoints", "zk.batch.child", "devices", "flax_state", "inference", "models", "program_cache", "zk.export",
            "zk.rows",
            "zk.batch.prove.api", "zk.batch.prove.field", "zk.batch.prove.inference", "zk.batch.prove.kernels",
            "zk.batch.prove.parallel"},
}
#: The batch prover is written in JAX: it runs in a child process, and nobody imports it but inside a function.
PROVER = "zk.batch.prove"
#: What only a run needs: never imported with a module, only inside its functions.
LAZY = {"jax", "jaxlib", "flax", "onnx", "jax2onnx", "safetensors", "orbax", "numba", "llvmlite"}


@dataclass(frozen=True)
class Import:
    """One import: ``name`` as it is spelt in full; ``at_once`` when importing the module does it."""

    name: str
    line: int
    at_once: bool


def modules() -> dict[str, Path]:
    """Every module by its name below the package; a package's __init__ by the package's."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        found[name.removesuffix("__init__").removesuffix(".")] = path
    return found


MODULES = modules()


@cache
def imports(module: str) -> tuple[Import, ...]:
    """What a module imports, but for the sake of types alone."""
    path = MODULES[module]
    package = path.relative_to(PACKAGE.parent).parent.parts
    return tuple(_visit(ast.parse(path.read_text(encoding="utf-8")), package, True))


def _visit(node: ast.AST, package: tuple[str, ...], at_once: bool) -> Iterator[Import]:
    if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
        return
    if isinstance(node, ast.Import):
        yield from (Import(alias.name, node.lineno, at_once) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = ".".join((*package[: len(package) - node.level + 1], *filter(None, [node.module]))
                        if node.level else (node.module,))
        for alias in node.names:
            full = f"{base}.{alias.name}"
            yield Import(full if full.removeprefix("enclaveml.") in MODULES else base, node.lineno, at_once)
    inside = at_once and not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
    for child in ast.iter_child_nodes(node):
        yield from _visit(child, package, inside)


def own(name: str) -> str | None:
    """The name below the package of a module of ours; None for another one."""
    return name.removeprefix("enclaveml").removeprefix(".") if name.split(".")[0] == "enclaveml" else None


def loaded_with(module: str) -> set[str]:
    """Libraries that importing a module imports, directly or through others of ours."""
    seen, todo, libraries = set(), [module], set()
    while todo:
        if (one := todo.pop()) in seen:
            continue
        seen.add(one)
        for found in imports(one):
            if found.at_once:
                ours = own(found.name)
                libraries.add(found.name.split(".")[0]) if ours is None else todo.append(ours)
    return libraries


@pytest.mark.parametrize("module", sorted(set(MODULES) - PACKAGES))
def test_a_module_imports_from_below_only(module: str) -> None:
    assert module in LEVEL, f"give {module} a place in LEVELS"
    wrong = [f"line {found.line}: {name}" for found in imports(module)
             if (name := own(found.name)) is not None and name not in PACKAGES and LEVEL.get(name, len(LEVEL)) >= LEVEL[module]]
    assert wrong == []


@pytest.mark.parametrize("library", OWNERS)
def test_a_library_has_its_owner(library: str) -> None:
    users = {m for m in MODULES if any(f.name.split(".")[0] == library for f in imports(m))}
    assert users <= OWNERS[library]


@pytest.mark.parametrize("module", sorted(MODULES))
def test_what_only_a_run_needs_is_imported_inside_functions(module: str) -> None:
    if not module.startswith(f"{PROVER}."):
        assert [f for f in imports(module) if f.at_once and (f.name.split(".")[0] in LAZY or (own(f.name) or "").startswith(f"{PROVER}."))] == []


@pytest.mark.parametrize("module", [
    "cli", "job", "shards", "capacity", "cluster", "combine", "envelope", "options", "zk.interface", "dryrun", "hash",
    "outcome", "sbatch", "accounts", "dispatch", "aggregator", "ledger", "worker"])
def test_no_mpi_and_no_jax_come_with(module: str) -> None:
    allowed = {"mpi4py"} if module in ("aggregator", "dispatch", "worker") else set()  # through exchange, which trades by MPI
    assert loaded_with(module) & {"mpi4py", "ezkl", *LAZY} <= allowed


@pytest.mark.parametrize("module", ["cli", "job", "shards", "capacity", "cluster", "combine", "envelope", "journal",
                                    "zk.interface", "comm"])
def test_no_hdf5_comes_with(module: str) -> None:
    assert "h5py" not in loaded_with(module)


@pytest.mark.parametrize("module, libraries", [
    ("run", {"yaml", "h5py"}), ("models", {"yaml", "h5py"}), ("inference", {"yaml", "h5py"}), ("program_cache", {"yaml", "h5py"}),
    ("aggregator", {"h5py"}), ("begin", {"h5py"}), ("finish", {"h5py"})])
def test_no_rank_waits_for_them_before_its_first_row(module: str, libraries: set[str]) -> None:
    """Workers need no YAML, and nobody HDF5: rank 0 where its data are HDF5, and for the results at the end."""
    assert not loaded_with(module) & libraries


def test_the_order_is_that_of_the_design() -> None:
    story = "errors log job comm zk.ezkl.system models aggregator run dryrun cli".split()
    assert [LEVEL[name] for name in story] == sorted({LEVEL[name] for name in story})
    assert LEVEL["aggregator"] == LEVEL["worker"]


def test_the_reader_of_imports_sees_what_it_should() -> None:
    """The checks above are as good as this: names, relative names, functions, types."""
    text = ("import jax.numpy as jnp\nfrom . import hdf5\nfrom .errors import FormatError\n"
            "from enclaveml.zk.ezkl import field\nfrom typing import TYPE_CHECKING\n"
            "if TYPE_CHECKING:\n    import h5py\ndef f():\n    from enclaveml import shards\n")
    found = list(_visit(ast.parse(text), ("enclaveml",), True))
    assert [(f.name, f.line, f.at_once) for f in found] == [
        ("jax.numpy", 1, True), ("enclaveml.hdf5", 2, True), ("enclaveml.errors", 3, True),
        ("enclaveml.zk.ezkl.field", 4, True), ("typing", 5, True), ("enclaveml.shards", 9, False)]
    assert list(_visit(ast.parse("from ..errors import X"), ("enclaveml", "zk"), True)) == [
        Import("enclaveml.errors", 1, True)]
