"""The weights proof, PROTOCOL.md "The weights proof"."""

from __future__ import annotations

from collections import Counter

from enclaveml.zk.batch.format import VerificationKey, bits

from .messages import Prover, coordinates, padded, spread, u32
from .network import Network
from .numbers import F, eq, eqs, evaluate
from .trees import Tree, codeword


class WeightsProver(Prover):
    """``prove`` gives the proof that the network's weights are int8."""

    def __init__(self, network: Network, key: VerificationKey) -> None:
        super().__init__()
        self.network, self.key = network, key

    def multiplicities(self) -> list[int]:
        """The hook: how often each of -128..127 is a weight."""
        matrices = [self.network.columns(number) for number in range(len(self.key.layers))]
        counts = Counter(value for matrix in matrices for column in matrix for value in column)
        return [counts[w] for w in range(-128, 128)]

    def prove(self) -> bytes:
        key = self.key
        self.absorb("kind", b"weights")
        self.absorb("key", key.to_bytes())
        self.send("multiplicities", u32(self.multiplicities()))
        # 1.
        (alpha,) = self.draw("lookup", 1)
        self.alpha = alpha
        matrices = [self.network.columns(number) for number in range(len(key.layers))]
        known = {w: (alpha - w).inverse() for w in {w for matrix in matrices for column in matrix for w in column}}
        gs = [[[known[w] for w in column] for column in matrix] for matrix in matrices]
        helpers = [[part for column in g for part in coordinates(column)] for g in gs]
        trees = [self.commit("helpers", columns) for columns in helpers]
        sums = self.tell("sums", [sum((v for column in g for v in column), F(0)) for g in gs])
        # 2.
        (mu,) = self.draw("mu", 1)
        for number, layer in enumerate(key.layers):
            matrix, g = matrices[number], gs[number]
            k, m = bits(layer.length), bits(layer.outputs)
            drawn = self.draw("zerocheck", k + m)
            # Cell (k, j) at k 2^m + j.
            one = padded([1] * layer.outputs, 2**m) * layer.length
            ws = [v for i in range(layer.length) for v in padded([column[i] for column in matrix], 2**m)]
            hs = [v for i in range(layer.length) for v in padded([column[i] for column in g], 2**m)]
            self.claim = mu * sums[number]
            point = self.sumcheck([eqs(drawn), one, ws, hs],
                                  lambda v: v[0] * (v[3] * (alpha * v[1] - v[2]) - v[1]) + mu * v[3], 3, "range", "range")
            kappa, phi = point[:k], point[k:]
            self.number, self.cell = number + 1, [evaluate(table, point) for table in (eqs(drawn), one)]
            self.mu = mu
            w, h = self.tell("claims", [evaluate(ws, point), evaluate(hs, point)])
            (delta,) = self.draw("combine", 1)
            self.claim = w + delta * h
            theta = [eq(phi, j) for j in range(layer.outputs)]
            theta += [value for j in range(layer.outputs) for value in spread(delta * eq(phi, j))]
            tree = Tree(self.spoil(f"weights {number + 1}", [codeword(column) for column in matrix]))
            self.open([tree, trees[number]], matrix + helpers[number], kappa, theta)
        return self.proof
