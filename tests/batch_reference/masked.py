"""The proof of rows with committed inputs, PROTOCOL.md "The masked proof", with its step numbers."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256

from enclaveml.zk.batch import format as sizes
from enclaveml.zk.batch.format import P, VerificationKey, bits

from . import messages
from .masks import RoundMask, SaltedTree, field_elements, full_rank, raw
from .messages import coordinates, padded, spread
from .network import Network, Step, fingerprints, tag
from .numbers import F, eq, eqs, interpolate, lift
from .rows import RowsProver, places, spaced, variables
from .trees import Tree, codeword


class MaskedProver(RowsProver):
    """``prove`` gives the proof for inputs x [N - m][K]. The attributes that ``finish`` works with, all at rho:

    bound: for each hidden layer the vectors h, q, a, r; given: what each layer is given; output: y of all rows.
    """

    def __init__(self, network: Network, key: VerificationKey, nonce: bytes, x: list[list[int]],
                 input_key: bytes = bytes(32), seed: bytes = bytes(32)) -> None:
        super().__init__(network, key, nonce, x)
        self.input_key, self.seed = input_key, seed

    # What it is made of.
    def masks(self, label: str, rows: int, columns: int) -> list[list[int]]:
        """The hook: random numbers [rows][columns]."""
        return field_elements(self.seed, label, rows, columns)

    def input_masks(self) -> list[list[int]]:
        """The hook: the inputs' mask rows."""
        seed = sha256(b"enclaveml-batch-inputs" + self.input_key + self.salt + self.nonce).digest()
        return field_elements(seed, "inputs", self.key.masks, self.key.width)

    def input_digest(self) -> bytes:
        """The hook: what is said of the inputs and their key."""
        data = b"".join(v.to_bytes(2, "little", signed=True) for row in self.x for v in row)
        return sha256(b"enclaveml-batch-input-digest" + self.input_key + self.salt + data).digest()

    def output_masks(self) -> list[list[int]]:
        """The hook: the outputs' mask rows."""
        return self.full[-1].z[-self.key.masks:]

    def rows_that_count(self) -> list[int]:
        """The hook: 1 for the rows over which step 5 adds up."""
        return [1] * self.key.real_rows + [0] * self.key.masks

    def reciprocals(self) -> list[F]:
        """The hook: 1 / (alpha - fingerprint) for each place of the multiplicities' matrix, 0 beyond the table."""
        rows, columns = sizes.table_shape(self.entries())
        alpha, beta = self.lookup
        prints = [first + beta * second + beta * beta * third for first, second, third in fingerprints(self.key)]
        return padded([(alpha - entry).inverse() for entry in prints], 2 * rows * columns)

    def round_masks(self) -> list[F]:
        """The hook: the coefficients that mask the rounds."""
        return [F(*row) for row in zip(*self.round_columns[:5])]

    def salts(self, label: str, count: int) -> list[bytes]:
        """The hook: a salt for each leaf."""
        data = raw(self.seed, f"salts {label}", 16 * count)
        return [data[16 * i:16 * i + 16] for i in range(count)]

    def statement(self) -> list[tuple[str, bytes]]:
        """Step 0."""
        return [("kind", b"rows masked"), ("key", self.key.to_bytes()), ("nonce", self.nonce),
                ("outputs", b"".join(v.to_bytes(4, "little", signed=True) for row in self.y for v in row))]

    def commit(self, label: str, columns: list[list[int]]) -> Tree:
        words = self.spoil(label, [codeword(column) for column in columns])
        tree = SaltedTree(words, self.salts(label, len(words[0])))
        self.send(label, tree.root)
        return tree

    def with_pads(self, label: str, columns: list[list[int]]) -> list[list[int]]:
        """The columns, and U and E behind them."""
        return columns + transposed(self.masks(f"pads {label}", len(columns[0]), 10))

    def mask_rows(self) -> None:
        """x, and every hidden layer's q, a, z, r and the last layer's z, with the mask rows below the real ones."""
        key, m = self.key, self.key.masks
        self.inputs = self.x + self.input_masks()
        self.full, arrays = [], [self.inputs[-m:]]
        for number, layer in enumerate(key.layers, 1):
            z = [[value % P for value in row] for row in self.network.sums(number, arrays)]
            step = self.steps[number - 1]
            if number == len(key.layers):
                self.full.append(Step(self.y + z))
                return
            q, a = self.masks(f"q {number}", m, layer.features), self.masks(f"a {number}", m, layer.features)
            r = [[(u + 2 ** (layer.shift - 1) - 2**layer.shift * v) % P for u, v in zip(us, vs)] for us, vs in zip(z, q)]
            self.full.append(Step(step.z + z, step.q + q, step.r + r, step.a + a))
            arrays.append(a)

    # The proof.
    def prove(self) -> bytes:
        start = self.state
        while True:
            for label, data in self.statement():
                self.absorb(label, data)
            self.salt = raw(self.seed, "input salt", 32)
            self.send("input salt", self.salt)
            self.send("inputs", self.input_digest())
            self.commit_rows()
            self.lookup = tuple(self.draw("lookup", 2))
            self.commit_helpers()
            self.zerocheck()
            self.row_rounds()
            self.finish()
            if self.hidden_enough():
                return self.proof
            self.seed, self.state, self.proof = sha256(self.seed).digest(), start, b""
            self.sent.clear(), self.drawn.clear()

    def commit_rows(self) -> None:
        """Step 1."""
        key = self.key
        self.mask_rows()
        self.columns = transposed(self.inputs)
        for step in self.full[:-1]:
            self.columns += transposed(step.q) + transposed(step.a)
        self.column_tree = self.commit("columns", self.columns)
        counts = self.multiplicities()
        rows, columns = sizes.table_shape(len(counts))
        counts = padded(counts, rows * columns)
        matrix = [counts[i * columns:(i + 1) * columns] for i in range(rows)]
        self.counts = matrix + self.masks("multiplicities", rows, columns)
        self.count_columns = self.with_pads("multiplicities", transposed(self.counts))
        self.count_tree = self.commit("multiplicities", self.count_columns)
        last = self.output_masks() + self.masks("outputs", key.masks, key.outputs)
        self.output_columns = self.with_pads("outputs", transposed(last))
        self.output_tree = self.commit("outputs", self.output_columns)
        self.round_columns = self.with_pads("masks", transposed(self.masks("masks", sizes.ROUND_MASKS, 5)))
        self.round_tree = self.commit("masks", self.round_columns)

    def commit_helpers(self) -> None:
        """Step 3."""
        alpha, beta = self.lookup
        self.helpers, self.hs = [], []
        for number, (layer, step) in enumerate(zip(self.key.hidden, self.full), 1):
            head, tail = alpha - beta * beta * tag(layer), alpha - beta * beta * layer.shift
            h = [[(head - q - beta * a).inverse() + (tail - r).inverse() for q, a, r in zip(*row)]
                 for row in zip(step.q[:-self.key.masks], step.a, step.r)]
            masks = self.masks(f"h {number}", self.key.masks, 5 * layer.features)
            h += [[F(*row[5 * j:5 * j + 5]) for j in range(layer.features)] for row in masks]
            self.hs.append(h)
            self.helpers += [column for j in range(layer.features) for column in coordinates([row[j] for row in h])]
        self.helpers = self.with_pads("columns", self.helpers)
        self.helper_tree = self.commit("helpers", self.helpers)

    def zerocheck(self) -> None:
        """Step 4."""
        key, n = self.key, bits(self.key.rows)
        drawn = self.draw("zerocheck", n + sum(variables(layer) for layer in key.hidden) + 2)
        self.tau, (self.lam, self.mu) = drawn[:n], drawn[-2:]
        self.sigmas, at = [], n
        for layer in key.hidden:
            self.sigmas.append(drawn[at:at + variables(layer)])
            at += len(self.sigmas[-1])

    def row_rounds(self) -> None:
        """Steps 5 and 5b: rho, entry (the table's point), what the two lead to, and the vectors at rho."""
        key, (alpha, beta) = self.key, self.lookup
        n, v = bits(key.rows), bits(len(self.counts) * len(self.counts[0]))
        coefficients = self.round_masks()
        rows_mask = RoundMask(coefficients[:4 * n + 1], n, 4)
        table_mask = RoundMask(coefficients[4 * n + 1:4 * n + 2 * v + 2], v, 2)
        table = [lift(value) for value in self.reciprocals()]
        counts = [count for row in self.counts for count in row]
        found = inner(table, counts)
        self.sums = self.tell("sums", [self.mu * found + rows_mask.total(), found + table_mask.total()])

        real = self.rows_that_count()
        tables: list[list] = [[value * keep for value, keep in zip(eqs(self.tau), real)], real]
        factors, heads, tails = [], [], []
        for number, layer in enumerate(key.hidden):
            for j in range(layer.features):
                factors.append(self.lam**number * eq(self.sigmas[number], places(layer)[j]))
                heads.append(alpha - beta * beta * tag(layer))
                tails.append(alpha - beta * beta * layer.shift)
                step = self.full[number]
                tables += [[row[j] for row in values] for values in (self.hs[number], step.q, step.a, step.r)]

        def summand(values: list[F]) -> F:
            zero, helper = F(0), F(0)
            for cell, (factor, head, tail) in enumerate(zip(factors, heads, tails)):
                h, q, a, r = values[2 + 4 * cell:6 + 4 * cell]
                left, right = head - q - beta * a, tail - r
                zero = zero + factor * (h * left * right - left - right)
                helper = helper + h
            return values[0] * zero + self.mu * (values[1] * helper)

        self.claim = self.sums[0]
        self.rho = self.masked_rounds(tables, summand, 4, "rows", "row", rows_mask)
        self.rows_claim, self.rows_mask = self.claim, rows_mask.bound
        self.claim = self.sums[1]
        self.entry = self.masked_rounds([table, counts], lambda v: v[0] * v[1], 2, "table", "entry", table_mask)
        self.table_claim = self.claim
        half = len(table) // 2  # the rows of masks are no entries
        self.reciprocal = inner(eqs(self.entry), table[:half])
        (self.count,) = self.tell("multiplicity", [inner(eqs(self.entry), counts)])

        at = eqs(self.rho)
        self.bound = [[vector(at, values) for values in (h, step.q, step.a, step.r)] for h, step in zip(self.hs, self.full)]
        self.given = [vector(at, self.inputs), *(vectors[2] for vectors in self.bound)]
        self.output = vector(at, self.full[-1].z)

    def masked_rounds(self, tables: list[list], summand: Callable, degree: int, message: str, challenge: str,
                      mask: RoundMask) -> list[F]:
        """As ``sumcheck``, with the mask's polynomial added."""
        point = []
        while mask.parts:
            half = len(tables[0]) // 2
            values = []
            for t in [0, *range(2, degree + 1)]:
                at = ([table[i] + (table[i + half] - table[i]) * t for table in tables] for i in range(half))
                values.append(sum((summand([lift(value) for value in row]) for row in at), mask.at(t)))
            first, *others = self.tell(message, values)
            (r,) = self.draw(challenge, 1)
            point.append(r)
            self.claim = interpolate([first, self.claim - first, *others], r)
            tables = [[(table[i + half] - table[i]) * r + table[i] for i in range(half)] for table in tables]
            mask.bind(r)
        return point

    def finish(self) -> None:
        """Steps 6 to 10, of bound, given, output and what is committed."""
        key = self.key
        # 6.
        tables = self.feature_tables()
        self.claim = self.rows_claim - self.rows_mask  # for a hook
        parts = self.tell("layers", [self.feature_sum(number, table) for number, table in enumerate(tables)])
        phis, zs, claims = [], [], []
        for number, layer in enumerate(key.hidden):
            self.claim, self.number = parts[number], number + 1
            phi = self.sumcheck(tables[number], self.feature(number), 4, "features", "feature")
            at = eqs(phi)
            expected, known = self.feature(number), [inner(at, tables[number][0]), inner(at, tables[number][1])]
            self.expected = lambda q, a, h, r: expected([*known, h, q, a, r])  # for a hook that solves for a claim
            h, q, a, r = (inner(at, spaced(layer, values)) for values in self.bound[number])
            q, a, h, r = self.tell("claims", [q, a, h, r])
            phis.append(phi)
            zs.append(r + q * 2**layer.shift - known[1] * 2 ** (layer.shift - 1))
            claims.append([q, a, h])

        # 7.
        last = key.layers[-1]
        phis.append(self.draw("output", variables(last)))
        zs += self.tell("output", [inner(eqs(phis[-1]), spaced(last, self.output))])

        # 8.
        kappas: dict[int, list[F]] = {}
        ws: dict[int, F] = {}
        later: dict[int, list[tuple[F, list[tuple[int, list[F]]]]]] = {}
        for number in range(len(key.layers), 0, -1):
            self.number, self.claim = number, zs[number - 1]
            added = self.residual(number, phis[number - 1])
            for claim, _ in added:
                self.claim = self.claim - claim * 2**key.layers[number - 1].residual[1]
            extended, weights = self.product_tables(number, phis[number - 1])
            kappa = self.sumcheck([extended, weights], lambda v: v[0] * v[1], 2, "product", "inner")
            parts_read = self.parts_read(number, phis[number - 1], kappa)
            self.inner = inner(eqs(kappa), extended)
            *said, ws[number] = self.tell("product claims", [*self.claims_of(parts_read), inner(eqs(kappa), weights)])
            later[number] = [*zip(said, parts_read), *added]
            kappas[number] = kappa

        # 9.
        (delta,) = self.draw("combine", 1)
        self.open_columns(eqs(self.rho), *self.combined(delta, phis, claims, later))
        weights, at, shown = self.outputs_opening(phis[-1])
        self.open_outputs(weights, at, zs[-1] - shown)
        split = bits(2 * sizes.table_shape(self.entries())[0])
        self.open_counts(eqs(self.entry[:split]), eqs(self.entry[split:]), self.count)
        self.open_rounds(*self.equations(delta, sum(parts, F(0))))

        # 10.
        for number, layer in enumerate(key.layers, 1):
            matrix = self.matrix(number)
            self.claim = ws[number]
            at = eqs(phis[number - 1][bits(layer.positions):])[:layer.outputs]
            self.open([self.weights_tree(number, matrix)], matrix, kappas[number], at)

    # Step 6.
    def factors(self) -> tuple[F, F]:
        """What the zero-check and mu's sum are multiplied with at rho: E(rho), and mu I(rho)."""
        high = bits(self.key.rows) - bits(self.key.masks)
        top, low = product(self.rho[:high]), self.rho[high:]
        weight = product([1 - a - b + 2 * a * b for a, b in zip(self.tau[high:], low)])
        weight = weight * (product([1 - a - b + 2 * a * b for a, b in zip(self.tau[:high], self.rho)])
                           - product(self.tau[:high]) * top)
        return weight, self.mu * (1 - top)

    def feature(self, number: int) -> Callable:
        """What is summed over a hidden layer's features, of eq, one, h, q, a, r."""
        (alpha, beta), (weight, mu) = self.lookup, self.factors()
        shift, table, scale = self.key.hidden[number].shift, tag(self.key.hidden[number]), weight * self.lam**number

        def summand(v: list[F]) -> F:
            e, one, h, q, a, r = v
            left, right = (alpha - beta * beta * table) * one - q - beta * a, (alpha - beta * beta * shift) * one - r
            return scale * e * (h * left * right - left - right) + mu * h

        return summand

    def feature_tables(self) -> list[list[list]]:
        return [[eqs(sigma), *(spaced(layer, values) for values in ([1] * layer.features, *vectors))]
                for layer, sigma, vectors in zip(self.key.hidden, self.sigmas, self.bound)]

    def feature_sum(self, number: int, table: list[list]) -> F:
        summand = self.feature(number)
        return sum((summand([lift(value) for value in values]) for values in zip(*table)), F(0))

    # Step 8.
    def residual(self, number: int, phi: list[F]) -> list[tuple[F, list[tuple[int, list[F]]]]]:
        """The claim of what layer ``number`` adds, said, with its places; none where it adds nothing."""
        layer = self.key.layers[number - 1]
        if layer.residual is None:
            return []
        source, at = layer.residual[0], eqs(phi)
        weights = [at[place] for place in places(layer)]
        (added,) = self.tell("residual", [inner(weights, self.given[source])])
        return [(added, [(source, weights)])]

    def product_tables(self, number: int, phi: list[F]) -> tuple[list[F], list[F]]:
        """A_l(k), and W_l(k, phi_c)."""
        layer, arrays = self.key.layers[number - 1], self.given
        over, below = eqs(phi[:bits(layer.positions)])[:layer.positions], eqs(phi[bits(layer.positions):])
        cells = [sum((e * sum((arrays[source][u] for u in patch[k]), F(0)) for e, patch in zip(over, positions)), F(0))
                 for source, positions in self.network.reads(number, len(arrays[number - 1])) for k in range(len(positions[0]))]
        inside, matrix = sum(over, F(0)), self.matrix(number)
        extended = padded([*cells, inside, inside * 2**8, inside * 2**16], layer.length)
        return extended, [inner(below, [column[k] for column in matrix]) for k in range(layer.length)]

    def parts_read(self, number: int, phi: list[F], kappa: list[F]) -> list[list[tuple[int, list[F]]]]:
        """What is read of the inputs, then what is read of hidden layers: a claim each."""
        layer, arrays, at = self.key.layers[number - 1], self.given, eqs(kappa)
        over = eqs(phi[:bits(layer.positions)])[:layer.positions]
        thetas, start = [], 0
        for source, positions in self.network.reads(number, len(arrays[number - 1])):
            theta = [F(0)] * len(arrays[source])
            for e, patch in zip(over, positions):
                for k, cell in enumerate(patch):
                    for u in cell:
                        theta[u] = theta[u] + e * at[start + k]
            start += len(positions[0])
            thetas.append((source, theta))
        return [part for part in ([t for t in thetas if not t[0]], [t for t in thetas if t[0]]) if part]

    def claims_of(self, parts_read: list[list[tuple[int, list[F]]]]) -> list[F]:
        return [sum((inner(theta, self.given[source]) for source, theta in part), F(0)) for part in parts_read]

    # Step 9.
    def combined(self, delta: F, phis: list[list[F]], claims: list[list[F]],
                 later: dict[int, list[tuple[F, list[tuple[int, list[F]]]]]]) -> tuple[list[F], F]:
        """theta of columns and helpers, and the claim."""
        key, value, power = self.key, F(0), F(1)
        thetas_of = [[F(0)] * len(array) for array in self.given]
        quotients, helpers = [], []

        def include(number: int) -> None:
            nonlocal value, power
            for claim, part in later[number]:
                value = value + power * claim
                for source, theta in part:
                    thetas_of[source] = [a + power * b for a, b in zip(thetas_of[source], theta)]
                power = power * delta

        include(1)
        for number, layer in enumerate(key.hidden, 1):
            at = eqs(phis[number - 1])
            here = [at[place] for place in places(layer)]
            powers = [power, power * delta, power * delta**2]
            value = sum((factor * claim for factor, claim in zip(powers, claims[number - 1])), value)
            quotients.append([powers[0] * e for e in here])
            thetas_of[number] = [a + powers[1] * e for a, e in zip(thetas_of[number], here)]
            helpers += [part for e in here for part in spread(powers[2] * e)]
            power = power * delta**3
            include(number + 1)
        columns = thetas_of[0] + [theta for pair in zip(quotients, thetas_of[1:]) for part in pair for theta in part]
        return columns + helpers, value

    def outputs_opening(self, phi: list[F]) -> tuple[list[F], list[F], F]:
        """w and theta of the outputs' opening, and what the real rows' outputs are at (rho, phi)."""
        key, last = self.key, self.key.layers[-1]
        high = bits(key.rows) - bits(key.masks)
        top, low = product(self.rho[:high]), eqs(self.rho[high:])
        weights = [top * e for e in low] + [F(0)] * key.masks
        at, rows = [eqs(phi)[place] for place in places(last)], eqs(self.rho)
        return weights, at, sum((rows[i] * inner(at, row) for i, row in enumerate(self.y)), F(0))

    def equations(self, delta: F, parts: F) -> tuple[list[F], F]:
        """What the coefficients of the rounds' masks are multiplied with, and what comes of it."""
        n, v = len(self.rho), len(self.entry)
        terms = [[F(2**n)] + [F(2 ** (n - 1))] * (4 * n), [F(2**v)] + [F(2 ** (v - 1))] * (2 * v)]
        first = terms[0] + [0 - self.mu * value for value in terms[1]]
        second = [F(0)] * len(terms[0]) + [F(1)] + [r**i for r in self.entry for i in (1, 2)]
        third = [F(1)] + [r**i for r in self.rho for i in (1, 2, 3, 4)]
        first, second, third = (padded(values, sizes.ROUND_MASKS) for values in (first, second, third))
        weights = [lift(a + delta * b + delta**2 * c) for a, b, c in zip(first, second, third)]
        value = self.sums[0] - self.mu * self.sums[1] + delta * (self.table_claim - self.count * self.reciprocal)
        return weights, value + delta**2 * (self.rows_claim - parts)

    def entries(self) -> int:
        """T."""
        return len(fingerprints(self.key))

    # Openings.
    def open_columns(self, weights: list[F], theta: list[F], value: F) -> None:
        self.open_masked([self.column_tree, self.helper_tree], self.columns + self.helpers, weights, theta, value)

    def open_outputs(self, weights: list[F], theta: list[F], value: F) -> None:
        self.open_masked([self.output_tree], self.output_columns, weights, theta, value)

    def open_counts(self, weights: list[F], theta: list[F], value: F) -> None:
        self.open_masked([self.count_tree], self.count_columns, weights, theta, value)

    def open_rounds(self, weights: list[F], value: F) -> None:
        self.open_masked([self.round_tree], self.round_columns, weights, spread(F(1)), value)

    def open_masked(self, trees: list[Tree], columns: list[list[int]], weights: list[F], theta: list[F], value: F) -> None:
        """Columns of all trees, the last ten U and E; ``value`` is claimed of the others."""
        count, n = len(theta), len(columns[0])
        u, e = ([F(*row) for row in zip(*columns[start:start + 5])] for start in (count, count + 5))
        combined = combination(theta, columns)
        self.claim, self.weights = value, weights  # for a hook
        (pad,) = self.tell("pad", [inner(weights, e)])
        *gamma, xi = self.draw("gamma", count + 6)
        self.goal = pad + xi * value
        others = combination(gamma, columns[:count] + columns[count + 5:])
        self.tell("proximity", [a + b for a, b in zip(u, others)])
        self.tell("evaluation", [a + xi * b for a, b in zip(e, combined)])
        positions = [word % (4 * n) for word in self.words("positions", messages.QUERIES)]
        self.drawn.append(("positions", positions))
        self.send("leaves", b"".join(tree.opened(position) for position in positions for tree in trees))

    def hidden_enough(self) -> bool:
        """Whether what the openings of columns and of multiplicities show of the mask rows is independent."""
        columns, _, counts, *_ = (positions for label, positions in self.drawn if label == "positions")
        rho, entry, m = eqs(self.rho), eqs(self.entry[:bits(len(self.counts))]), self.key.masks
        return (full_rank(columns, len(rho), rho[-m:])
                and full_rank(counts, len(entry), entry[len(entry) // 2:]))


def transposed(matrix: list[list]) -> list[list]:
    return [list(column) for column in zip(*matrix)]


def product(factors: list[F]) -> F:
    result = F(1)
    for factor in factors:
        result = result * factor
    return result


def inner(left: list, right: list) -> F:
    """Of the common length."""
    return sum((lift(a) * b for a, b in zip(left, right)), F(0))


def vector(at: list[F], values: list[list]) -> list[F]:
    """Of rows [N][M], each column's sum with weights ``at``."""
    return [inner(at, column) for column in transposed(values)]


def combination(factors: list[F], columns: list[list[int]]) -> list[F]:
    """sum_j factor_j C_j, row by row."""
    parts = [[factor.c[d] for factor in factors] for d in range(5)]
    return [F(*(sum(a * b for a, b in zip(part, row)) for part in parts)) for row in zip(*columns)]


