"""Queries of retrieval with the networks that a method finds nearest, as pictures where the networks are images."""

from __future__ import annotations

import base64
import struct
import zlib
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ngbench.evaluation.exam import Scored
from ngbench.evaluation.retrieval import RetrievalExam
from ngbench.metrics.checks import MATE
from ngbench.metrics.retrieval import NEAR, RELATED, cosine_similarity
from ngbench.store import Zoo

NUM_QUERIES = 5
NUM_NEIGHBOURS = 7

GRADES = {MATE: ("◆", "itself, permuted"), NEAR: ("●", "near in function"), RELATED: ("○", "same {of}"), 0: ("✕", "neither")}
"""Sign and meaning of each grade of relevance, by what networks are related."""


def legend(of: str, *, are_images: bool) -> str:
    """What examples show.

    Args:
        of: What networks are related by.
        are_images: Whether they are shown as images.
    """
    signs = ", ".join(f"{sign} {meaning.format(of=of)}" for sign, meaning in GRADES.values())
    return f"{signs}. Below each: its {of}." if are_images else f"{signs}; {of}, number of the network, cosine to the query."


@dataclass(frozen=True)
class Found:
    """A network in an example.

    Args:
        name: Its id.
        number: Its id without the name of the zoo.
        label: Its class.
        grade: How relevant it is to the query; None for the query itself.
        cosine: To the query.
        image: As a data address; None where the network is no image.
    """

    name: str
    number: str
    label: str
    grade: int | None
    cosine: float
    image: str | None

    @property
    def sign(self) -> str:
        """Of its grade."""
        return "" if self.grade is None else GRADES[self.grade][0]

    @property
    def said(self) -> str:
        """All of it in words."""
        grade = "query" if self.grade is None else f"{GRADES[self.grade][1].format(of='class')}, cosine {self.cosine:.3f}"
        return f"{self.name}, class {self.label}: {grade}"


@dataclass(frozen=True)
class Examples:
    """Some queries of a method, each with its nearest networks, nearest first."""

    kind: ClassVar[str] = "examples"
    title: str
    rows: tuple[tuple[Found, tuple[Found, ...]], ...]

    @property
    def are_images(self) -> bool:
        """Whether all networks can be shown."""
        return all(query.image is not None for query, _ in self.rows)


def examples(title: str, exam: RetrievalExam, scored: Scored, images: np.ndarray | None) -> Examples:
    """The same queries of an exam for every method, of as many classes as there are.

    Args:
        title: Whose embeddings they are.
        exam: Of which the queries are.
        scored: Of one seed.
        images: As of `rendered`.
    """
    similarity = cosine_similarity(scored.values, scored.scrambled[0])
    names = exam.ids

    def found(query: int, entry: int, grade: int | None) -> Found:
        image = None if images is None else png(images[entry])
        number = names[entry].removeprefix(f"{exam.zoo.name}-")
        return Found(names[entry], number, exam.classes[exam.labels[entry]], grade, float(similarity[query, entry]), image)

    rows = []
    for query in _queries(exam.labels):
        nearest = np.argsort(-similarity[query], kind="stable")[:NUM_NEIGHBOURS].tolist()
        neighbours = tuple(found(query, entry, int(exam.grades[query, entry])) for entry in nearest)
        rows.append((found(query, query, None), neighbours))
    return Examples(title, tuple(rows))


def _queries(labels: np.ndarray) -> list[int]:
    """Positions of networks of different classes, spread over these, as far as there are so many."""
    classes = np.unique(labels)
    chosen = classes[np.linspace(0, len(classes) - 1, min(NUM_QUERIES, len(classes))).astype(int)]
    places = [np.flatnonzero(labels == label) for label in chosen]
    return [int(own[turn]) for turn in range(NUM_QUERIES) for own in places if turn < len(own)][:NUM_QUERIES]


def rendered(zoo: Zoo, rows: np.ndarray) -> np.ndarray | None:
    """Images of networks that represent some, float64 in [0, 1] ``[graphs, height, width, channels]``; None where they do not.

    Args:
        zoo: An open zoo.
        rows: Which networks.
    """
    from ngbench.zoo.images import load_corpus

    recipe = zoo.info.recipe or {}
    corpus = str(recipe.get("corpus"))
    if recipe.get("kind") != "inr" or corpus not in zoo.functional_names:
        return None
    _, channels, height, width = load_corpus(corpus)[0].shape
    return zoo.functional(corpus)[rows].astype(np.float64).clip(0, 1).reshape(-1, height, width, channels)


def png(image: np.ndarray) -> str:
    """An image in [0, 1], ``[height, width, channels]`` with one or three channels, as a data address (PNG, W3C 2003)."""
    height, width, channels = image.shape
    pixels = np.round(image * 255).astype(np.uint8)
    # each line begins with 0, its filter: none
    lines = np.pad(pixels.reshape(height, -1), ((0, 0), (1, 0)))
    header = struct.pack(">IIBBBBB", width, height, 8, 2 if channels == 3 else 0, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(lines.tobytes(), 9)), (b"IEND", b""))
    chunks = (struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in parts)
    return "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"".join(chunks)).decode()
