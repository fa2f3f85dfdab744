"""Groups of images that belong together, such as those of one patient, or near-duplicates."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from relearn.model.data.dataset import LabelledImages
from relearn.model.data.splits import hash_sources, hash_with_salts
from relearn.model.images.decode_many import DIGEST_BYTES, compute_digest
from relearn.model.images.perceptual_hash import (
    MIN_HASHED_SIDE,
    THUMBNAIL_SHAPE,
    compute_perceptual_hashes,
    find_clusters,
)
from relearn.model.images.resize import ImageStyle, resize_batch

CHUNK_SIZE = 4096  # images hashed at a time
# Images that are alike by nature, such as X-rays in one pose, would be one group: then none are grouped.
MAX_CLUSTER_FRACTION, SMALL_CLUSTER = 0.1, 20


def assign_groups(
    splits: Mapping[str, LabelledImages],
    style: ImageStyle,
    names: Sequence[np.ndarray] | None = None,
    perceptual_hashes: Sequence[np.ndarray] | None = None,
) -> dict[str, LabelledImages]:
    """Return the splits with `sources` and `groups`.

    A group are the images of one name, str (n,) for each split; the name "" stands for none. Without `names`
    it is near-duplicates among photos, by `perceptual_hashes`, uint64 (n,) for each split, by default those
    of the pixels. Equal images are in one group in any case.
    """
    sources = np.concatenate([hash_sources(split) for split in splits.values()])
    if names is not None:
        keys = _hash_names(np.concatenate(names), sources)
    else:
        if perceptual_hashes is None:
            perceptual_hashes = [_hash_pixels(split.images, style) for split in splits.values()]
        keys = _cluster(np.concatenate(perceptual_hashes), sources)
    ends = np.cumsum([len(split) for split in splits.values()])[:-1]
    parts = zip(splits, np.split(sources, ends), np.split(keys, ends), strict=True)
    return {name: replace(splits[name], sources=own, groups=groups) for name, own, groups in parts}


def _hash_pixels(images: np.ndarray, style: ImageStyle) -> np.ndarray:
    """Return the perceptual hashes of images, uint64 (n,); 0 for drawings and small images."""
    hashes = np.zeros(len(images), np.uint64)
    if style == "photo" and min(images.shape[2:]) >= MIN_HASHED_SIDE:
        for start in range(0, len(images), CHUNK_SIZE):
            thumbnails = resize_batch(images[start : start + CHUNK_SIZE], THUMBNAIL_SHAPE)
            hashes[start : start + CHUNK_SIZE] = compute_perceptual_hashes(thumbnails)
    return hashes


def _cluster(perceptual_hashes: np.ndarray, sources: np.ndarray) -> np.ndarray:
    """Return the group of each image, uint64 (n, 2): that of its cluster, or of its source without one."""
    clusters = find_clusters(perceptual_hashes)
    _, inverse, counts = np.unique(clusters, return_inverse=True, return_counts=True)
    is_alike = counts[inverse] > max(SMALL_CLUSTER, MAX_CLUSTER_FRACTION * len(clusters))
    is_ungrouped = is_alike | (clusters == 0)
    return np.where(is_ungrouped[:, None], sources, hash_with_salts(clusters[:, None]))


def _hash_names(names: np.ndarray, sources: np.ndarray) -> np.ndarray:
    """Return the hashes of group names, uint64 (n, 2), or of the source of an image without a name.

    Groups that share an equal image are one: all have the smallest of these hashes.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    unique, inverse = np.unique(names, return_inverse=True)
    digests = b"".join(compute_digest(name.encode()) for name in unique.tolist())
    hashes = hash_with_salts(np.frombuffer(digests, np.uint8).reshape(-1, DIGEST_BYTES))
    keys = np.where((names == "")[:, None], sources, hashes[inverse])
    by_key, by_source = (np.unique(hashed[:, 0], return_inverse=True)[1] for hashed in (keys, sources))
    nodes = 2 * len(keys)
    links = coo_matrix((np.ones(len(keys), bool), (by_key, by_source + len(keys))), shape=(nodes, nodes))
    components = connected_components(links, directed=False)[1][by_key]
    order = np.lexsort((keys[:, 0], components))
    _, first, inverse = np.unique(components[order], return_index=True, return_inverse=True)
    joined = np.empty_like(keys)
    joined[order] = keys[order][first][inverse]
    return joined
