"""The tree of a beam search: every hypothesis that was ever in the beam, and what became of it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from itda.batch import EOS
from itda.decode.search import Moment

LIVE, FINISHED, PRUNED = "live", "finished", "pruned"


@dataclass(frozen=True)
class Node:
    """One token that a beam wrote: `parent` is a number in the tree, -1 for the first tokens.

    `log_prob` is the model's own for this token, `total` the sum that the search ranked by, up to here. `state` is
    "live" where the hypothesis went on, "finished" at an eos that closed one, "pruned" where nothing went on.
    """

    token: int
    parent: int
    position: int
    log_prob: float
    total: float
    state: str


@dataclass(frozen=True)
class SearchTree:
    """All nodes of one sentence's search, parents before children."""

    nodes: tuple[Node, ...]

    def path(self, node: int) -> tuple[int, ...]:
        """The tokens from the first to this one."""
        tokens = list[int]()
        while node >= 0:
            tokens.append(self.nodes[node].token)
            node = self.nodes[node].parent
        return tuple(reversed(tokens))

    def children(self, node: int) -> tuple[int, ...]:
        """The numbers of the nodes that went on from this one; -1: the first tokens."""
        return tuple(number for number, one in enumerate(self.nodes) if one.parent == node)

    @property
    def finished(self) -> tuple[int, ...]:
        """The numbers of the nodes at which a hypothesis closed."""
        return tuple(number for number, one in enumerate(self.nodes) if one.state == FINISHED)


def grow(moments: Iterable[Moment], beams: int, groups: int) -> list[SearchTree]:
    """Watch a search to its end, and give the tree of each sentence; the groups of a sentence share its tree."""
    nodes: list[list[Node]] = [[] for _ in range(beams // groups)]
    rows: dict[int, list[int]] = {beam: [-1] for beam in range(beams)}  # the node that each row ends in
    for position, moment in enumerate(moments):
        step = moment.step
        host = [part.tolist() for part in (step.tokens, step.parents, step.totals, step.log_probs)]
        ends = step.closed.tolist(), step.eos_log_probs.tolist()
        for place, beam in enumerate(moment.alive.tolist()):
            tree, before = nodes[beam // groups], rows[beam]
            for row, total in enumerate(ends[0][place]):
                if total > -math.inf:
                    tree.append(Node(EOS, before[row], position, ends[1][place][row], total, FINISHED))
            rows[beam] = []
            for token, parent, total, log_prob in zip(*(part[place] for part in host), strict=True):
                if total > -math.inf:
                    tree.append(Node(token, before[parent], position, log_prob, total, LIVE))
                rows[beam].append(len(tree) - 1 if total > -math.inf else -1)
    return [SearchTree(tuple(_pruned(tree))) for tree in nodes]


def _pruned(nodes: list[Node]) -> Iterable[Node]:
    """Mark each node that nothing went on from."""
    parents = {node.parent for node in nodes}
    for number, one in enumerate(nodes):
        lost = one.state == LIVE and number not in parents
        yield Node(one.token, one.parent, one.position, one.log_prob, one.total, PRUNED if lost else one.state)
