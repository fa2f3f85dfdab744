"""Where the numbers on the edges of a drawing stand, so that none covers another."""

import numpy as np
from scipy.spatial import KDTree

Place = tuple[float, float]

TRIES, ROUNDS, DISCS = 41, 6, 11


def along_edges(
    edges: list[tuple[Place, Place]], widths: list[float], height: float, gap: float, notes: list[Place]
) -> list[tuple[float, float, float]]:
    """A place for one number on each edge, turned along it: x, y of its middle and its angle in degrees.

    All in the same unit of length: `edges` from centre to centre of the units, `widths` of the numbers as
    written and their `height`, `gap` to be left free at both ends, `notes` points to keep clear of.

    A number is a chain of discs on its edge. Each in turn tries 41 places and takes the one where it is
    least covered by other numbers, notes and edges; after six rounds 36 edges have settled.
    """
    start, end = (np.array(points) for points in zip(*edges, strict=True))
    across = end - start
    length = np.linalg.norm(across, axis=1)
    half = np.array(widths) / 2
    margin = np.minimum((gap + half) / length, 0.5)
    tries = margin[:, None] + (1 - 2 * margin[:, None]) * np.linspace(0, 1, TRIES)
    along = tries[:, :, None] + np.linspace(-1, 1, DISCS) * (half / length)[:, None, None]
    discs = start[:, None, None] + along[..., None] * across[:, None, None]  # (edges, tries, discs, 2)

    cost = 0.05 * np.abs(tries - 0.5) + 50 * _cover(discs, np.array(notes).reshape(-1, 2), height)
    everyone = np.arange(len(edges))
    for index in everyone:
        others = everyone != index
        lines = start[others, None] + np.linspace(0.05, 0.95, 60)[:, None] * across[others, None]
        cost[index] += 3 * _cover(discs[index], lines.reshape(-1, 2), 0.6 * height)

    chosen = np.full(len(edges), TRIES // 2)
    for _ in range(ROUNDS):
        for index in everyone:
            others = everyone != index
            taken = discs[others, chosen[others]].reshape(-1, 2)
            chosen[index] = np.argmin(cost[index] + 50 * _cover(discs[index], taken, height))
    middle = start + tries[everyone, chosen][:, None] * across
    angles = np.degrees(np.arctan2(across[:, 1], across[:, 0]))
    return [(float(x), float(y), float(angle)) for (x, y), angle in zip(middle, angles, strict=True)]


def _cover(discs: np.ndarray, points: np.ndarray, reach: float) -> np.ndarray:
    """How deep `points` (n, 2) reach into `discs` (…, discs, 2), summed over the discs: (…)."""
    if not len(points):
        return np.zeros(discs.shape[:-2])
    distance = KDTree(points).query(discs, distance_upper_bound=reach)[0]
    depth: np.ndarray = np.maximum(0, reach - distance).sum(axis=-1)
    return depth
