"""The graph as a picture: an SVG of the entities that are mentioned most, and what is said between them.

Entities are circles, larger the more they are mentioned and coloured by type; what is said between two of them is one
line, dashed where they only appear together. The same knowledge gives the same bytes.
"""

from __future__ import annotations

import colorsys
import heapq
import math
import unicodedata
import zlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape, quoteattr

import networkx as nx  # type: ignore[import-untyped]

from orchestrator.batches.export import all_entities, all_relations, xml_text
from orchestrator.batches.knowledge import KnowledgeStore, KnownEntity
from orchestrator.errors import InvalidRequestError

__all__ = ["MAX_NODES", "draw_knowledge"]

MAX_NODES = 60
MOST_NODES = 400
SEED = 20260101

# Of the nodes of a picture of MAX_NODES; one of more grows.
_WIDTH, _HEIGHT = 1240, 860
_LEGEND = 170
_CAPTION = 40
_GAP = 6
_ROUNDS = 400
_MAX_LABEL = 32
_FONT = 13
_COLOURS = {
    "organization": "#4269d0",
    "person": "#ef7d3b",
    "place": "#3ca951",
    "technology": "#9467bd",
    "product": "#d6568f",
    "concept": "#8a7a5c",
    "date": "#6cc5b0",
    "code": "#5b8c8a",
    "name": "#8c8c8c",
}


@dataclass(frozen=True, slots=True)
class _Node:
    entity: KnownEntity
    label: str
    x: float
    y: float
    radius: float


@dataclass(frozen=True, slots=True)
class _Line:
    """What is said between two nodes, by their numbers."""

    one: int
    other: int
    said: tuple[str, ...]
    weight: int
    stated: bool


@dataclass(slots=True)
class _Box:
    """The room of a node and the label below it, by its middle."""

    x: float
    y: float
    width: float
    height: float


async def draw_knowledge(
    store: KnowledgeStore, organization: str, batch_id: str | None = None, *, max_nodes: int = MAX_NODES
) -> str:
    """An SVG document; it says how many entities and relations there are where it does not show all.

    Raises `InvalidRequestError` for `max_nodes` that are none, or more than anyone could read.
    """
    if not 1 <= max_nodes <= MOST_NODES:
        raise InvalidRequestError(f"a picture shows 1 to {MOST_NODES} entities, not {max_nodes}")
    total, entities = await _biggest(store, organization, batch_id, max_nodes)
    stated, lines = await _lines(store, organization, batch_id, entities)
    grown = math.sqrt(max(len(entities) / MAX_NODES, 1))
    size = _WIDTH * grown, _HEIGHT * grown
    nodes = _placed(entities, lines, size)
    caption = f"{len(nodes)} of {total} entities, those mentioned most" if len(nodes) < total else f"{total} entities"
    shown = sum(len(line.said) for line in lines)
    between = f"{shown} of {stated} relations" if shown < stated else f"{stated} relations"
    return _svg(nodes, lines, f"{caption}; {between}", size)


async def _biggest(
    store: KnowledgeStore, organization: str, batch_id: str | None, max_nodes: int
) -> tuple[int, list[KnownEntity]]:
    """How many entities there are, and those mentioned most."""
    total = 0
    kept: list[tuple[tuple[int, str, str, str], KnownEntity]] = []
    async for entity in all_entities(store, organization, batch_id):
        total += 1
        kept.append(((-entity.mentions, entity.name, entity.type, entity.entity_id), entity))
        if len(kept) >= 4 * max_nodes:
            kept = heapq.nsmallest(max_nodes, kept)
    return total, [entity for _, entity in heapq.nsmallest(max_nodes, kept)]


async def _lines(
    store: KnowledgeStore, organization: str, batch_id: str | None, entities: Sequence[KnownEntity]
) -> tuple[int, list[_Line]]:
    """How many relations there are, and the lines between these entities."""
    number = {entity.entity_id: position for position, entity in enumerate(entities)}
    total = 0
    said: defaultdict[tuple[int, int], list[tuple[str, int, bool]]] = defaultdict(list)
    async for relation in all_relations(store, organization, batch_id):
        total += 1
        one, other = number.get(relation.subject_id), number.get(relation.object_id)
        if one is not None and other is not None:
            sentence = f"{entities[one].name} {relation.predicate} {entities[other].name}"
            stated = relation.kind != "co_occurrence"
            said[min(one, other), max(one, other)].append((sentence, relation.evidence, stated))
    lines = [
        _Line(*ends, tuple(sorted(each for each, _, _ in of)), sum(n for _, n, _ in of), any(sure for _, _, sure in of))
        for ends, of in sorted(said.items())
    ]
    return total, lines


def _placed(entities: Sequence[KnownEntity], lines: Sequence[_Line], size: tuple[float, float]) -> list[_Node]:
    """The nodes at places where those that have to do with each other are close and no label covers another."""
    graph = nx.Graph()
    graph.add_nodes_from(range(len(entities)))
    for line in lines:
        graph.add_edge(line.one, line.other, weight=1 + math.log(max(line.weight, 1)))
    places = nx.spring_layout(graph, seed=SEED, iterations=200, weight="weight") if entities else {}
    most = max((entity.mentions for entity in entities), default=1)
    radii = [6 + 16 * math.sqrt(entity.mentions / max(most, 1)) for entity in entities]
    labels = [_label(entity.name) for entity in entities]
    across = _spread([float(places[each][0]) for each in range(len(entities))], size[0])
    down = _spread([float(places[each][1]) for each in range(len(entities))], size[1])
    boxes = [
        _Box(x, y, max(_text_width(label), 2 * radius) + _GAP, 2 * radius + 1.5 * _FONT + _GAP)
        for x, y, label, radius in zip(across, down, labels, radii, strict=True)
    ]
    _push_apart(boxes, size)
    return [
        _Node(entity, label, box.x, box.y - 0.75 * _FONT, radius)
        for entity, label, box, radius in zip(entities, labels, boxes, radii, strict=True)
    ]


def _spread(values: Sequence[float], extent: float) -> list[float]:
    """The values over a range, half by where they are and half by their rank: a dense middle gets room."""
    order = sorted(range(len(values)), key=lambda each: (values[each], each))
    rank = {each: (position + 0.5) / len(values) for position, each in enumerate(order)}
    least = min(values, default=0.0)
    across = max(max(values, default=0.0) - least, 1e-9)
    return [extent * (0.5 * rank[each] + 0.5 * (value - least) / across) for each, value in enumerate(values)]


def _push_apart(boxes: Sequence[_Box], size: tuple[float, float]) -> None:
    """Move boxes that overlap away from each other, each step along the shorter way, until none do."""
    for _ in range(_ROUNDS):
        moved = False
        for number, one in enumerate(boxes):
            for other in boxes[:number]:
                moved |= _push(one, other)
        for box in boxes:
            box.x = min(max(box.x, box.width / 2), size[0] - box.width / 2)
            box.y = min(max(box.y, box.height / 2), size[1] - box.height / 2)
        if not moved:
            return


def _push(one: _Box, other: _Box) -> bool:
    across = (one.width + other.width) / 2 - abs(one.x - other.x)
    down = (one.height + other.height) / 2 - abs(one.y - other.y)
    if across <= 0.01 or down <= 0.01:
        return False
    if across < down:
        step = math.copysign(across / 2, one.x - other.x)
        one.x, other.x = one.x + step, other.x - step
    else:
        step = math.copysign(down / 2, one.y - other.y)
        one.y, other.y = one.y + step, other.y - step
    return True


def _svg(nodes: Sequence[_Node], lines: Sequence[_Line], caption: str, size: tuple[float, float]) -> str:
    width, height = round(size[0]) + _LEGEND, round(size[1]) + _CAPTION
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" role="img" aria-label={quoteattr(caption)} '
        f'font-family="Helvetica, Arial, sans-serif" font-size="{_FONT}">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        '<g id="relations" stroke="#9aa5b1">',
        *(_drawn_line(nodes[line.one], nodes[line.other], line) for line in lines),
        '</g>\n<g id="entities" stroke="#ffffff" stroke-width="1.5">',
        *(_drawn_node(node) for node in nodes),
        '</g>\n<g id="labels" fill="#1f2933" stroke="#ffffff" stroke-width="3" paint-order="stroke" '
        'stroke-linejoin="round" text-anchor="middle">',
        *(_drawn_label(node) for node in nodes),
        '</g>\n<g id="legend" fill="#1f2933">',
        *_legend(nodes, width - _LEGEND + 20),
        f'</g>\n<text id="caption" x="16" y="{height - 14}" fill="#52606d">{escape(caption)}</text>',
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _drawn_line(one: _Node, other: _Node, line: _Line) -> str:
    width = 1 + min(math.log(max(line.weight, 1)), 3)
    look = 'stroke-opacity="0.9"' if line.stated else 'stroke-opacity="0.5" stroke-dasharray="3 4"'
    return (
        f'<line x1="{one.x:.1f}" y1="{one.y:.1f}" x2="{other.x:.1f}" y2="{other.y:.1f}" '
        f'stroke-width="{width:.1f}" {look}><title>{escape(xml_text("; ".join(line.said)))}</title></line>'
    )


def _drawn_node(node: _Node) -> str:
    said = f"{node.entity.name} ({node.entity.type}), mentioned {node.entity.mentions} times"
    return (
        f'<circle cx="{node.x:.1f}" cy="{node.y:.1f}" r="{node.radius:.1f}" fill="{_colour(node.entity.type)}">'
        f"<title>{escape(xml_text(said))}</title></circle>"
    )


def _drawn_label(node: _Node) -> str:
    return f'<text x="{node.x:.1f}" y="{node.y + node.radius + _FONT:.1f}">{escape(node.label)}</text>'


def _legend(nodes: Sequence[_Node], x: int) -> list[str]:
    drawn = []
    for row, type_ in enumerate(sorted({node.entity.type for node in nodes})):
        y = 40 + 24 * row
        drawn.append(
            f'<circle cx="{x}" cy="{y}" r="7" fill="{_colour(type_)}"/>'
            f'<text x="{x + 14}" y="{y + 4}">{escape(_label(type_))}</text>'
        )
    return drawn


def _colour(type_: str) -> str:
    known = _COLOURS.get(type_)
    if known is not None:
        return known
    red, green, blue = colorsys.hls_to_rgb(zlib.crc32(type_.encode()) % 360 / 360, 0.55, 0.45)
    return f"#{round(red * 255):02x}{round(green * 255):02x}{round(blue * 255):02x}"


def _text_width(text: str) -> float:
    """About how wide a text is; a picture has no font to ask."""
    wide = sum(unicodedata.east_asian_width(letter) in "WF" for letter in text)
    capitals = sum(letter.isupper() or letter in "_@%mw" for letter in text)
    return _FONT * (0.56 * len(text) + 0.5 * wide + 0.2 * capitals)


def _label(name: str) -> str:
    shown = " ".join(xml_text(name).split())
    return shown if len(shown) <= _MAX_LABEL else shown[: _MAX_LABEL - 1] + "…"
