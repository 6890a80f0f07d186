"""The proof of rows, PROTOCOL.md "The proof", with its step numbers."""

from __future__ import annotations

from enclaveml.zk.batch.format import Layer, VerificationKey, bits

from .messages import Prover, coordinates, padded, spread, u32
from .network import Network, Step, fingerprints, tag
from .numbers import F, eq, eqs, evaluate, lift, ones
from .trees import Tree, codeword


class RowsProver(Prover):
    """``prove`` gives the proof for inputs x [N][K]; y are the network's own unless ``outputs`` is overridden."""

    def __init__(self, network: Network, key: VerificationKey, nonce: bytes, x: list[list[int]]) -> None:
        super().__init__()
        self.network, self.key, self.nonce, self.x = network, key, nonce, x
        self.steps = self.infer()
        self.y = self.steps[-1].z

    def infer(self) -> list[Step]:
        """The hook: the values of every layer."""
        return self.network.run(self.x)

    def multiplicities(self) -> list[int]:
        """The hook: how often each entry is looked up."""
        places = {entry: place for place, entry in enumerate(fingerprints(self.key))}
        counts = [0] * len(places)
        for layer, step in zip(self.key.hidden, self.steps):
            for q_row, a_row, r_row in zip(step.q, step.a, step.r):
                for looked in [(q, a, tag(layer)) for q, a in zip(q_row, a_row)] + [(r, 0, layer.shift) for r in r_row]:
                    if looked in places:
                        counts[places[looked]] += 1
        return counts

    def statement(self) -> list[tuple[str, bytes]]:
        """Step 0: what is absorbed first."""
        return [("kind", b"rows"), ("key", self.key.to_bytes()), ("nonce", self.nonce),
                ("inputs", b"".join(v.to_bytes(2, "little", signed=True) for row in self.x for v in row)),
                ("outputs", b"".join(v.to_bytes(4, "little", signed=True) for row in self.y for v in row))]

    def prove(self) -> bytes:
        key = self.key
        for label, data in self.statement():
            self.absorb(label, data)
        if key.hidden:
            rho, phis, zs, claims = self.activations()
        else:
            rho, phis, zs, claims = self.draw("row", bits(key.rows)), [], [], []
        # 7.
        phis.append(self.draw("output", variables(key.layers[-1])))
        zs.append(evaluate([evaluate(spaced(key.layers[-1], row), phis[-1]) for row in self.y], rho))
        # 8.
        arrays = [self.x, *(step.a for step in self.steps[:-1])]
        at_rho = [[evaluate([row[u] for row in array], rho) for u in range(len(array[0]))] for array in arrays]
        kappas: dict[int, list[F]] = {}
        ws: dict[int, F] = {}
        later: dict[int, list[tuple[F, list[tuple[int, list[F]]]]]] = {}  # a layer's claims: of which arrays' features what
        for number in range(len(key.layers), 0, -1):
            layer, matrix, phi = key.layers[number - 1], self.matrix(number), phis[number - 1]
            over, below = phi[:bits(layer.positions)], phi[bits(layer.positions):]
            self.number, self.claim, later[number] = number, zs[number - 1], []
            if layer.residual is not None:
                source, exponent = layer.residual
                weights = [eq(phi, place) for place in places(layer)]
                added = inner(weights, at_rho[source])
                if source:
                    (added,) = self.tell("residual", [added])
                    later[number].append((added, [(source, weights)]))
                self.claim = self.claim - added * 2**exponent
            read = self.network.reads(number, len(at_rho[number - 1]))
            known, committed, inside = [], [], ones(over, layer.positions)
            for source, positions in read:
                for k in range(len(positions[0])):
                    cell = sum((eq(over, p) * sum((at_rho[source][u] for u in cells[k]), F(0)) for p, cells in enumerate(positions)), F(0))
                    known.append(F(0) if source else cell)
                    committed.append(cell if source else F(0))
            known += [inside, inside * 2**8, inside * 2**16]
            extended = padded([a + b for a, b in zip(known, [*committed, F(0), F(0), F(0)])], layer.length)
            weights = [evaluate([column[k] for column in matrix], below) for k in range(layer.length)]
            kappa = self.sumcheck([extended, weights], lambda v: v[0] * v[1], 2, "product", "inner")
            theta = [(source, [F(0)] * len(at_rho[source])) for source, _ in read]
            for part, (source, positions) in enumerate(read):
                start = sum(len(before[0]) for _, before in read[:part])
                for p, cells in enumerate(positions):
                    for k, cell in enumerate(cells):
                        for u in cell:
                            theta[part][1][u] = theta[part][1][u] + eq(over, p) * eq(kappa, start + k)
            theta = [(source, values) for source, values in theta if source]
            truth = [evaluate(weights, kappa)]
            if theta:
                truth.insert(0, sum((inner(values, at_rho[source]) for source, values in theta), F(0)))
            self.inner = evaluate(extended, kappa)  # for a hook that solves for a claim
            said = self.tell("product claims", truth)
            kappas[number], ws[number] = kappa, said[-1]
            if theta:
                later[number].insert(0, (said[0], theta))
        # 9.
        if key.hidden:
            (delta,) = self.draw("combine", 1)
            self.claim, power = F(0), F(1)
            quotients, helpers = [], []
            values = [[F(0)] * layer.features for layer in key.hidden]
            for number, layer in enumerate(key.hidden, 1):
                here = [eq(phis[number - 1], place) for place in places(layer)]
                for what, claim in enumerate(claims[number - 1]):
                    self.claim = self.claim + power * claim
                    theta = [power * value for value in here]
                    if what == 0:
                        quotients.append(theta)
                    elif what == 1:
                        values[number - 1] = [a + b for a, b in zip(values[number - 1], theta)]
                    else:
                        helpers += [part for value in theta for part in spread(value)]
                    power = power * delta
                for claim, read in later[number + 1]:
                    self.claim = self.claim + power * claim
                    for source, theta in read:
                        values[source - 1] = [a + power * b for a, b in zip(values[source - 1], theta, strict=True)]
                    power = power * delta
            columns = [theta for pair in zip(quotients, values) for part in pair for theta in part]
            self.open(self.trees, self.columns + self.helpers, rho, columns + helpers)
        # 10.
        for number, layer in enumerate(key.layers, 1):
            matrix = self.matrix(number)
            self.claim = ws[number]
            tree = self.weights_tree(number, matrix)
            below = phis[number - 1][bits(layer.positions):]
            self.open([tree], matrix, kappas[number], [eq(below, j) for j in range(layer.outputs)])
        return self.proof

    def matrix(self, number: int) -> list[list[int]]:
        """The hook: the columns of layer ``number``'s weights (from 1)."""
        return self.network.columns(number - 1)

    def weights_tree(self, number: int, matrix: list[list[int]]) -> Tree:
        """The hook: the tree that is opened for them."""
        return Tree(self.spoil(f"weights {number}", [codeword(column) for column in matrix]))

    def activations(self) -> tuple[list[F], list[list[F]], list[F], list[list[F]]]:
        """Steps 1 to 6: rho, the phi_l, the z_l(rho, phi_l), and for each layer the claims q, a, h."""
        key, n = self.key, bits(self.key.rows)
        # 1. to 3.
        self.columns = []
        for layer, step in zip(key.hidden, self.steps):
            self.columns += [[row[j] for row in step.q] for j in range(layer.features)]
            self.columns += [[row[j] for row in step.a] for j in range(layer.features)]
        self.trees = [self.commit("columns", self.columns)]
        counts = self.multiplicities()
        self.send("multiplicities", u32(counts))
        alpha, beta = self.draw("lookup", 2)
        self.lookup = alpha, beta
        hs = [[[(alpha - beta * beta * tag(layer) - q - beta * a).inverse() + (alpha - beta * beta * layer.shift - r).inverse()
                for q, a, r in zip(step.q[i], step.a[i], step.r[i])] for i in range(key.rows)]
              for layer, step in zip(key.hidden, self.steps)]
        self.helpers = [column for layer, h in zip(key.hidden, hs) for j in range(layer.features)
                        for column in coordinates([h[i][j] for i in range(key.rows)])]
        self.trees.append(self.commit("helpers", self.helpers))
        prints = [first + beta * second + beta * beta * third for first, second, third in fingerprints(key)]
        total = sum(((alpha - entry).inverse() * count for entry, count in zip(prints, counts) if count), F(0))
        # 4.
        drawn = self.draw("zerocheck", n + sum(variables(layer) for layer in key.hidden) + 2)
        tau, lam, mu = drawn[:n], drawn[-2], drawn[-1]
        sigmas, at = [], n
        for layer in key.hidden:
            sigmas.append(drawn[at:at + variables(layer)])
            at += len(sigmas[-1])
        # 5.
        cells = [(number, j) for number, layer in enumerate(key.hidden) for j in range(layer.features)]
        factors = [lam**number * eq(sigmas[number], places(key.hidden[number])[j]) for number, j in cells]
        heads = [alpha - beta * beta * tag(key.hidden[number]) for number, _ in cells]
        tails = [alpha - beta * beta * key.hidden[number].shift for number, _ in cells]
        tables = [eqs(tau)]
        for number, j in cells:
            step = self.steps[number]
            tables += [[row[j] for row in values] for values in (hs[number], step.q, step.a, step.r)]

        def summand(v: list[F]) -> F:
            zero, helper = F(0), F(0)
            for cell in range(len(cells)):
                h, q, a, r = v[1 + 4 * cell:5 + 4 * cell]
                left, right = heads[cell] - q - beta * a, tails[cell] - r
                zero = zero + factors[cell] * (h * left * right - left - right)
                helper = helper + h
            return v[0] * zero + mu * helper

        self.claim = mu * total
        rho = self.sumcheck(tables, summand, 4, "rows", "row")
        # 6.
        bound = [[[evaluate([row[j] for row in values], rho) for j in range(layer.features)]
                  for values in (h, step.q, step.a, step.r)] for layer, h, step in zip(key.hidden, hs, self.steps)]
        weight = sum((eq(tau, i) * eq(rho, i) for i in range(key.rows)), F(0))

        def feature(number: int):
            shift, table = key.hidden[number].shift, tag(key.hidden[number])

            def summand(v: list[F]) -> F:
                e, one, h, q, a, r = v
                left, right = (alpha - beta * beta * table) * one - q - beta * a, (alpha - beta * beta * shift) * one - r
                return weight * lam**number * e * (h * left * right - left - right) + mu * h

            return summand

        tables = []
        for number, layer in enumerate(key.hidden):
            vectors = [[1] * layer.features, *bound[number]]
            tables.append([eqs(sigmas[number]), *(spaced(layer, values) for values in vectors)])
        parts = [sum((feature(number)([lift(value) for value in values]) for values in zip(*table)), F(0))
                 for number, table in enumerate(tables)]
        parts = self.tell("layers", parts)
        phis, zs, claims = [], [], []
        for number, layer in enumerate(key.hidden):
            self.claim, self.number = parts[number], number + 1
            phi = self.sumcheck(tables[number], feature(number), 4, "features", "feature")
            at = [evaluate(table, phi) for table in tables[number]]
            h, q, a, r = at[2:]
            expected, at = feature(number), at[:2]
            self.expected = lambda q, a, h, r: expected([*at, h, q, a, r])  # for a hook that solves for a claim
            q, a, h, r = self.tell("claims", [q, a, h, r])
            phis.append(phi)
            zs.append(r + q * 2**layer.shift - at[1] * 2 ** (layer.shift - 1))
            claims.append([q, a, h])
        return rho, phis, zs, claims


def variables(layer: Layer) -> int:
    return bits(layer.positions) + bits(layer.outputs)


def places(layer: Layer) -> list[int]:
    """Of each feature its place among the values of its variables."""
    return [p * 2 ** bits(layer.outputs) + c for p in range(layer.positions) for c in range(layer.outputs)]


def spaced(layer: Layer, values: list) -> list:
    """Values of the features at their places, zeros between."""
    found = [0] * 2 ** variables(layer)
    for place, value in zip(places(layer), values, strict=True):
        found[place] = value
    return found


def inner(left: list[F], right: list[F]) -> F:
    return sum((a * b for a, b in zip(left, right, strict=True)), F(0))
