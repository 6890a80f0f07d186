"""The proofs whose weights are hidden, PROTOCOL.md "Hidden weights", with its step numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256

from enclaveml.zk.batch import format as sizes
from enclaveml.zk.batch.format import P, VerificationKey, bits

from . import messages
from .masked import MaskedProver, combination, inner, transposed
from .masks import RoundMask, SaltedTree, field_elements, full_rank, raw
from .messages import coordinates, padded, spread
from .network import Network, tag
from .numbers import F, eq, eqs, lift, ones
from .rows import spaced, variables
from .trees import Tree, codeword


class Registered:
    """All layers' weights as they are registered: columns of length n_w, and their tree."""

    def __init__(self, network: Network, key: VerificationKey, seed: bytes) -> None:
        about, weight_rows = replace(key, roots=(bytes(32),)).to_bytes(), key.weight_rows
        values = b"".join(v.to_bytes(1, "little", signed=True) for matrix in network.weights for row in matrix for v in row)
        seed = sha256(b"enclaveml-batch-weights" + seed + len(about).to_bytes(8, "little") + about + values).digest()
        count = sum(len(matrix[0]) for matrix in network.weights)
        masks = transposed(field_elements(seed, "weights", weight_rows - key.cell_rows, count))
        cells = [padded(column, key.cell_rows) for number in range(len(network.weights)) for column in network.columns(number)]
        self.columns = [[*column, *below] for column, below in zip(cells, masks, strict=True)]
        data = raw(seed, "salts weights", 64 * weight_rows)
        self.salts = [data[i:i + 16] for i in range(0, len(data), 16)]
        self.tree = SaltedTree([codeword(column) for column in self.columns], self.salts)


def registered(network: Network, key: VerificationKey, weight_rows: int, seed: bytes) -> tuple[VerificationKey, Registered]:
    """The key with hidden weights of one that shows them, with masks, and what is behind its root."""
    key = replace(key, weight_rows=weight_rows, roots=(bytes(32),))
    found = Registered(network, key, seed)
    return replace(key, roots=(found.tree.root,)), found


#: An equation about entries of the masks' columns: factors by entry, and the sum.
Equation = tuple[dict[int, F], F]


class Rounds:
    """Where a polynomial's coefficients are among the entries, and what its sum and its values are of them."""

    def __init__(self, start: int, variables: int, degree: int) -> None:
        self.start, self.variables, self.degree = start, variables, degree
        self.end = start + 1 + variables * degree

    def mask(self, entries: list[F]) -> RoundMask:
        return RoundMask(entries[self.start:self.end], self.variables, self.degree)

    def total(self, factor: F | int = 1) -> dict[int, F]:
        size = F(2**self.variables)
        values = [size] + [size * pow(2, -1, P)] * (self.variables * self.degree)
        return {self.start + i: value * factor for i, value in enumerate(values)}

    def at(self, point: list[F], factor: F | int = 1) -> dict[int, F]:
        values = [F(1)] + [r**i for r in point for i in range(1, self.degree + 1)]
        return {self.start + i: value * factor for i, value in enumerate(values)}


def rounds_of(shapes: list[tuple[int, int]], singles: int) -> tuple[list[Rounds], int, int]:
    """Polynomials of so many variables and this degree one after the other, then single entries: where the polynomials and the first
    single are, and the length of the columns."""
    found, end = [], 0
    for count, degree in shapes:
        found.append(Rounds(end, count, degree))
        end = found[-1].end
    return found, end, max(sizes.ROUND_MASKS, sizes.power_of_two(end + singles + sizes.LEAST_MASKS))


def together(*parts: dict[int, F]) -> dict[int, F]:
    """Their sum."""
    found: dict[int, F] = {}
    for part in parts:
        for entry, factor in part.items():
            found[entry] = found.get(entry, F(0)) + factor
    return found


class Hiding(MaskedProver):
    """What the proof of rows and that of weights share: masked rounds and openings, and equations about masks.

    Expects ``entries_of_masks``, the elements that mask rounds and openings; registered; pad_columns, pad_tree: the weights' pads.
    """

    registered: Registered

    def masked_sum(self, label: str, truths: list[F], masks: list[Rounds]) -> list[F]:
        """Say sums, each with the sum of what masks it."""
        return self.tell(label, [truth + mask.mask(self.entries_of_masks).total() for truth, mask in zip(truths, masks, strict=True)])

    def hidden_rounds(self, tables: list[list], summand: Callable, rounds: Rounds, message: str, challenge: str) -> list[F]:
        """Rounds from ``self.claim`` on; leaves there what is then expected."""
        return self.masked_rounds(tables, summand, rounds.degree, message, challenge, rounds.mask(self.entries_of_masks))

    def commit_pads(self) -> None:
        self.pad_columns = transposed(self.masks("pads weights", self.key.weight_rows, 10))
        self.pad_tree = self.commit("weight pads", self.pad_columns)

    def commit_masks(self, length: int) -> None:
        self.round_columns = self.with_pads("masks", transposed(self.masks("masks", length, 5)))
        self.round_tree = self.commit("masks", self.round_columns)
        self.entries_of_masks = [F(*row) for row in zip(*self.round_columns[:5])]

    def open_hidden(self, trees: list[Tree], columns: list[list[int]], weights: list[F], theta: list[F], single: int) -> tuple[F, F, F]:
        """A hidden opening, whose pad has an entry added: the pad, xi and <w, e>."""
        count, n = len(theta), len(columns[0])
        u, e = ([F(*row) for row in zip(*columns[start:start + 5])] for start in (count, count + 5))
        self.weights = []  # nothing for a hook to fit
        (pad,) = self.tell("pad", [inner(weights, e) + self.entries_of_masks[single]])
        *gamma, xi = self.draw("gamma", count + 6)
        others = combination(gamma, columns[:count] + columns[count + 5:])
        self.tell("proximity", [a + b for a, b in zip(u, others)])
        said = self.tell("evaluation", [a + xi * b for a, b in zip(e, combination(theta, columns))])
        positions = [word % (4 * n) for word in self.words("positions", messages.QUERIES)]
        self.drawn.append(("positions", positions))
        self.send("leaves", b"".join(tree.opened(position) for position in positions for tree in trees))
        return pad, xi, inner(weights, said)

    def open_registered(self, weights: list[F], theta: list[F], single: int) -> tuple[F, F, F]:
        return self.open_hidden([self.registered.tree, self.pad_tree], self.registered.columns + self.pad_columns, weights, theta, single)

    def open_equations(self, equations: list[Equation]) -> None:
        (epsilon,) = self.draw("equations", 1)
        length = len(self.round_columns[0])
        factors = together(*({i: f * epsilon**number for i, f in parts.items()} for number, (parts, _) in enumerate(equations)))
        value = sum((epsilon**number * value for number, (_, value) in enumerate(equations)), F(0))
        self.open_rounds([factors.get(i, F(0)) for i in range(length)], value)


class HiddenProver(Hiding):
    """``prove`` gives the proof of rows."""

    def __init__(self, network: Network, key: VerificationKey, registered: Registered, nonce: bytes, x: list[list[int]],
                 input_key: bytes = bytes(32), seed: bytes = bytes(32)) -> None:
        super().__init__(network, key, nonce, x, input_key, seed)
        self.registered = registered

    def statement(self) -> list[tuple[str, bytes]]:
        (_, _), *others = super().statement()
        return [("kind", b"rows hidden"), *others]

    def layout(self) -> int:
        """Where the masks are; the length of their columns."""
        key, hidden = self.key, len(self.key.hidden)
        rows, columns = sizes.table_shape(self.entries())
        shapes = [(bits(key.rows), 4), (bits(2 * rows * columns), 2)]
        shapes += [(variables(layer), 4) for layer in key.hidden] + [(bits(layer.length), 2) for layer in key.layers]
        found, self.single, length = rounds_of([*shapes, (bits(key.cell_rows), 2)], 2)
        self.of_rows, self.of_table, *found, self.of_weights = found
        self.of_features, self.of_products = found[:hidden], found[hidden:]
        return length

    def commit_rows(self) -> None:
        """Step 1."""
        super().commit_rows()
        self.commit_pads()

    def masks(self, label: str, rows: int, columns: int) -> list[list[int]]:
        """More of them mask rounds."""
        return super().masks(label, self.layout() if label == "masks" else rows, columns)

    def round_masks(self) -> list[F]:
        self.entries_of_masks = super().round_masks()
        return self.entries_of_masks

    def finish(self) -> None:
        """Steps 6 to 9."""
        key = self.key
        # 6.
        tables = self.feature_tables()
        sums = self.masked_sum("layers", [self.feature_sum(number, table) for number, table in enumerate(tables)], self.of_features)
        phis, claims, ends = [], [], []
        for number, layer in enumerate(key.hidden):
            self.claim = sums[number]
            phis.append(self.hidden_rounds(tables[number], self.feature(number), self.of_features[number], "features", "feature"))
            ends.append(self.claim)
            at, (h, q, a, _) = eqs(phis[-1]), self.bound[number]
            claims.append(self.tell("claims", [inner(at, spaced(layer, values)) for values in (q, a, h)]))
        # 7.
        phis.append(self.draw("output", variables(key.layers[-1])))
        # 8.
        product_sums, product_ends, factors, kappas, later, added = {}, {}, {}, {}, {}, {}
        for number in range(len(key.layers), 0, -1):
            layer, phi = key.layers[number - 1], phis[number - 1]
            residual = self.residual(number, phi)
            added[number] = sum((claim * 2**layer.residual[1] for claim, _ in residual), F(0))
            extended, weights = self.product_tables(number, phi)
            (self.claim,) = self.masked_sum("product sum", [inner(extended, weights)], [self.of_products[number - 1]])
            product_sums[number] = self.claim
            kappa = self.hidden_rounds([extended, weights], lambda v: v[0] * v[1], self.of_products[number - 1], "product", "inner")
            parts_read = self.parts_read(number, phi, kappa)
            said = self.tell("product claims", self.claims_of(parts_read))
            later[number] = [*zip(said, parts_read), *residual]
            at = eqs(kappa)
            inside = ones(phi[:bits(layer.positions)], layer.positions)
            limbs = at[layer.inputs] + at[layer.inputs + 1] * 2**8 + at[layer.inputs + 2] * 2**16
            factors[number], product_ends[number], kappas[number] = sum(said, inside * limbs), self.claim, kappa
        # 8b.
        (eta,) = self.draw("weights", 1)
        numbers = range(1, len(key.layers) + 1)
        points = {number: [F(0)] * (bits(key.cell_rows) - len(kappas[number])) + kappas[number] for number in numbers}
        belows = {number: eqs(phis[number - 1][bits(key.layers[number - 1].positions):]) for number in numbers}
        tables = []
        for number in numbers:
            scale, matrix = eta**(number - 1) * factors[number], self.matrix(number)
            tables.append([scale * e for e in eqs(points[number])])
            tables.append(padded([inner(belows[number], [column[k] for column in matrix]) for k in range(len(matrix[0]))], key.cell_rows))

        def products(v: list[F]) -> F:
            return sum((v[2 * i] * v[2 * i + 1] for i in range(len(v) // 2)), F(0))

        truth = sum((products([lift(value) for value in values]) for values in zip(*tables)), F(0))
        (weights_sum,) = self.masked_sum("weights sum", [truth], [self.of_weights])
        self.claim = weights_sum
        omicron = self.hidden_rounds(tables, products, self.of_weights, "weights", "weight")
        weights_end = self.claim
        # 9.
        (delta,) = self.draw("combine", 1)
        self.open_columns(eqs(self.rho), *self.combined(delta, phis, claims, later))
        weights, theta, shown = self.outputs_opening(phis[-1])
        y_pad, y_xi, y_value = self.open_outputs_hidden(weights, theta)
        split = bits(2 * sizes.table_shape(self.entries())[0])
        self.open_counts(eqs(self.entry[:split]), eqs(self.entry[split:]), self.count)
        at = eqs(omicron)
        theta = [eta**(number - 1) * factors[number] * inner(eqs(points[number]), at) * e
                 for number in numbers for e in belows[number][:key.layers[number - 1].outputs]]
        w_pad, w_xi, w_value = self.open_registered(padded(at, key.weight_rows), theta, self.single + 1)

        self.hidden_openings = [(y_pad, y_xi, y_value), (w_pad, w_xi, w_value)]  # for a test
        last = len(key.layers)
        equations: list[Equation] = [
            (together(self.of_rows.total(), self.of_table.total(0 - self.mu)), self.sums[0] - self.mu * self.sums[1]),
            (self.of_table.at(self.entry), self.table_claim - self.count * self.reciprocal),
            (together(self.of_rows.at(self.rho), *(mask.total(-1) for mask in self.of_features)), self.rows_claim - sum(sums, F(0)))]
        for number, layer in enumerate(key.hidden, 1):
            phi, (q, a, h), (alpha, beta), (weight, mu) = phis[number - 1], claims[number - 1], self.lookup, self.factors()
            one = inner(eqs(phi), spaced(layer, [1] * layer.features))
            left = (alpha - beta * beta * tag(layer)) * one - q - beta * a
            bracket = h * left - 1
            scale = weight * self.lam**(number - 1) * inner(eqs(self.sigmas[number - 1]), eqs(phi))
            slope = 0 - scale * bracket
            rest = scale * (bracket * ((alpha - beta * beta * layer.shift) * one) - left) + mu * h
            r = product_sums[number] + added[number] - q * 2**layer.shift + one * 2 ** (layer.shift - 1)  # but for the mask's sum
            equations.append((together(self.of_features[number - 1].at(phi), self.of_products[number - 1].total(0 - slope)),
                              ends[number - 1] - rest - slope * r))
        equations += [
            (together(self.of_weights.total(), *(self.of_products[number - 1].at(kappas[number], 0 - eta**(number - 1)) for number in numbers)),
             weights_sum - sum((eta**(number - 1) * product_ends[number] for number in numbers), F(0))),
            (together({self.single: F(1)}, self.of_products[-1].total(y_xi)),
             y_pad + y_xi * (product_sums[last] + added[last] - shown) - y_value),
            (together({self.single + 1: F(1)}, self.of_weights.at(omicron, w_xi)), w_pad + w_xi * weights_end - w_value)]
        self.open_equations(equations)

    def open_outputs_hidden(self, weights: list[F], theta: list[F]) -> tuple[F, F, F]:
        return self.open_hidden([self.output_tree], self.output_columns, weights, theta, self.single)


class HiddenWeightsProver(Hiding):
    """``prove`` gives the weights proof."""

    def __init__(self, key: VerificationKey, registered: Registered, seed: bytes = bytes(32)) -> None:
        messages.Prover.__init__(self)
        self.key, self.registered, self.seed = key, registered, seed

    def cells(self) -> list[list[int]]:
        """The hook: the columns' cells, and the rows of the helpers that mask them."""
        return [column[:self.key.helper_rows] for column in self.registered.columns]

    def multiplicities(self) -> list[int]:
        """The hook: how often each of -128..127 is a cell."""
        counts = Counter(value for column in self.cells() for value in column[:self.key.cell_rows])
        return [counts[w] for w in range(-128, 128)]

    def prove(self) -> bytes:
        start = self.state
        while True:
            self.absorb("kind", b"weights hidden")
            self.absorb("key", self.key.to_bytes())
            self.finish()
            if self.hidden_enough():
                return self.proof
            self.seed, self.state, self.proof = sha256(self.seed).digest(), start, b""
            self.sent.clear(), self.drawn.clear()

    def finish(self) -> None:
        key = self.key
        low, high, across = bits(key.cell_rows), bits(key.helper_rows), bits(key.weight_columns)
        rows, columns = sizes.table_shape(256)
        (of_range, of_table), single, length = rounds_of([(high + across, 3), (bits(2 * rows * columns), 2)], 1)
        # 0.
        self.commit_counts()
        self.commit_masks(length)
        self.commit_pads()
        # 1.
        (alpha,) = self.draw("lookup", 1)
        self.alpha = alpha
        self.commit_helpers()
        # 2.
        drawn = self.draw("zerocheck", low + across + 1)
        tau, mu = [F(0)] * (high - low) + drawn[:-1], drawn[-1]
        reciprocals = padded([(alpha - w).inverse() for w in range(-128, 128)], 2 * rows * columns)
        sums = self.masked_sum("sums", self.true_sums(mu, reciprocals), [of_range, of_table])
        self.claim = sums[0]
        point = self.range_rounds(tau, mu, of_range)
        range_end, self.claim = self.claim, sums[1]
        entry = self.hidden_rounds(*self.table_summand(reciprocals), of_table, "table", "entry")
        table_end, half = self.claim, rows * columns
        (count,) = self.tell("multiplicity", [self.count_at(entry)])
        (g,) = self.tell("claims", [self.helper_at(point)])
        # 3.
        kappa, phi, self.point_of_counts = point[:high], point[high:], entry
        self.kappa, theta = kappa, [eq(phi, j) for j in range(key.weight_columns)]
        self.open_helpers(eqs(kappa), [part for e in theta for part in spread(e)], g)
        split = bits(2 * rows)
        self.open_counts(eqs(entry[:split]), eqs(entry[split:]), count)
        one = sum(theta, F(0))
        scale = inner(eqs(tau), eqs(point))
        pad, xi, value = self.open_registered(padded(eqs(kappa), key.weight_rows), [0 - scale * g * e for e in theta], single)
        self.hidden_openings = [(pad, xi, value)]  # for a test
        inside = F(1)
        for r in kappa[:high - low]:
            inside = inside * (1 - r)
        left = range_end - scale * (alpha * g * one - one) - mu * inside * g
        self.open_equations([
            (together(of_range.total(), of_table.total(0 - mu)), sums[0] - mu * sums[1]),
            (of_table.at(entry), table_end - count * inner(eqs(entry), reciprocals[:half])),
            (together({single: F(1)}, of_range.at(point, xi)), pad + xi * left - value)])

    def commit_counts(self) -> None:
        rows, columns = sizes.table_shape(256)
        counts = self.multiplicities()
        self.counts = [counts[i * columns:(i + 1) * columns] for i in range(rows)] + self.masks("multiplicities", rows, columns)
        self.count_columns = self.with_pads("multiplicities", transposed(self.counts))
        self.count_tree = self.commit("multiplicities", self.count_columns)

    def commit_helpers(self) -> None:
        key = self.key
        masks = self.masks("helpers", key.helper_rows - key.cell_rows, 5 * key.weight_columns)
        self.g = [[(self.alpha - w).inverse() for w in column[:key.cell_rows]] + [F(*row[5 * j:5 * j + 5]) for row in masks]
                  for j, column in enumerate(self.cells())]
        self.helpers = self.with_pads("helpers", [part for column in self.g for part in coordinates(column)])
        self.helper_tree = self.commit("helpers", self.helpers)

    def true_sums(self, mu: F, reciprocals: list) -> list[F]:
        found = inner([lift(value) for value in reciprocals], [count for row in self.counts for count in row])
        return [mu * found, found]

    def range_rounds(self, tau: list[F], mu: F, mask: Rounds) -> list[F]:
        """The rounds over the cells, rows first."""
        key, alpha = self.key, self.alpha
        wide = 2 ** bits(key.weight_columns)

        def flat(columns: list[list]) -> list:
            return [value for i in range(key.helper_rows) for value in padded([column[i] for column in columns], wide)]

        one = padded([1] * key.weight_columns, wide) * key.helper_rows
        inside = [int(i < key.cell_rows) for i in range(key.helper_rows) for _ in range(wide)]
        e = [row * column for row in eqs(tau[:bits(key.helper_rows)]) for column in eqs(tau[bits(key.helper_rows):])]

        def summand(v: list[F]) -> F:
            e, one, inside, w, g = v
            return e * (g * (alpha * one - w) - one) + mu * (inside * g)

        return self.hidden_rounds([e, one, inside, flat(self.cells()), flat(self.g)], summand, mask, "range", "range")

    def table_summand(self, reciprocals: list) -> tuple[list[list], Callable]:
        return [[lift(value) for value in reciprocals], [count for row in self.counts for count in row]], lambda v: v[0] * v[1]

    def count_at(self, entry: list[F]) -> F:
        return inner(eqs(entry), [count for row in self.counts for count in row])

    def helper_at(self, point: list[F]) -> F:
        split = bits(self.key.helper_rows)
        rows = eqs(point[:split])
        return sum((eq(point[split:], j) * inner(rows, column) for j, column in enumerate(self.g)), F(0))

    def open_helpers(self, weights: list[F], theta: list[F], value: F) -> None:
        self.open_masked([self.helper_tree], self.helpers, weights, theta, value)

    def hidden_enough(self) -> bool:
        """Whether what the openings of helpers and of multiplicities show of the uniform rows is independent."""
        helpers, counts, *_ = (positions for label, positions in self.drawn if label == "positions")
        rows, entry = eqs(self.kappa), eqs(self.point_of_counts[:bits(len(self.counts))])
        return (full_rank(helpers, len(rows), rows[self.key.cell_rows:])
                and full_rank(counts, len(entry), entry[len(entry) // 2:]))
