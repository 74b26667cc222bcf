"""A traced network as an SVG picture: boxes from the inputs at the top to the heads at the bottom. Knows no torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from lhtx.diagram.trace import Block, Shape, Trace

NARROWEST, TALL, ACROSS, DOWN, MARGIN = 230, 62, 28, 34, 28
"""Least width of a box, its height, the space between boxes, the margin; in pixels."""
LETTER = 7.6
"""Pixels that a letter in a box takes at most, on average."""
_STYLE = """
text { font-family: system-ui, 'Segoe UI', Helvetica, Arial, sans-serif; fill: #1c2230 }
.title { font-size: 18px; font-weight: 600 }
.note { font-size: 12px; fill: #667085 }
.name { font-size: 13px; font-weight: 600 }
.line { font-size: 12px; fill: #475467 }
.input rect { fill: #f2f4f7; stroke: #98a2b3 }
.block rect { fill: #eff5ff; stroke: #5b8def }
.head rect { fill: #fff4e8; stroke: #e8893a }
path { fill: none; stroke: #667085; stroke-width: 1.4; marker-end: url(#arrow) }
"""


@dataclass(frozen=True)
class _Box:
    name: str  # by which others are fed
    lines: tuple[str, ...]
    kind: str
    inputs: tuple[str, ...]


def draw(trace: Trace, data: str = "") -> str:
    """The SVG document. A box says its module's place and class, the shape that it gives and its parameters; `data` stands
    below the network's name and says what it is drawn for."""
    boxes = [_Box(name, (name, f"({sizes([shape])})"), "input", ()) for name, shape in trace.inputs.items()]
    fed = {name for block in trace.blocks for name in block.inputs}
    boxes += [_box(block, "block" if block.part.name in fed else "head") for block in trace.blocks]
    ranks = _ranks(boxes)
    places = _places(boxes, ranks)
    wide = max(NARROWEST, *(24 + LETTER * len(line) for box in boxes for line in box.lines))
    left = min(place for place, _ in places.values())
    columns = max(place for place, _ in places.values()) - left + 1
    bows = any(_passes_by(places[name], places[box.name]) for box in boxes for name in box.inputs)
    notes = [data] * bool(data) + [f"{trace.parameters:,} parameters"]
    if trace.loose:
        loose = ", ".join(f"{name} ({sizes([shape])})" for name, shape in trace.loose.items())
        notes.append(f"of which outside the boxes: {loose}")
    top = MARGIN + 24 + 18 * len(notes) + DOWN // 2
    words = max(6.4 * max(map(len, notes)), 11 * len(trace.network))
    width = round(max(columns * (wide + ACROSS) - ACROSS + 2 * MARGIN + 60 * bows, words + 2 * MARGIN))
    height = top + (max(ranks.values()) + 1) * (TALL + DOWN) - DOWN + MARGIN
    start = (width - (columns * (wide + ACROSS) - ACROSS)) / 2
    corners = {
        name: (start + (column - left) * (wide + ACROSS), top + rank * (TALL + DOWN)) for name, (column, rank) in places.items()
    }
    content = [f'<text class="title" x="{MARGIN}" y="{MARGIN + 14}">{escape(trace.network)}</text>']
    content += [
        f'<text class="note" x="{MARGIN}" y="{MARGIN + 36 + 18 * line}">{escape(note)}</text>'
        for line, note in enumerate(notes)
    ]
    for name, fed_by in ((box.name, box.inputs) for box in boxes):
        content += [_arrow(corners[n], corners[name], wide, _passes_by(places[n], places[name])) for n in fed_by]
    content += [_drawn(box, corners[box.name], wide) for box in boxes]
    marker = (
        '<marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<polygon points="0,0.5 8,4 0,7.5" fill="#667085"/></marker>'
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}">\n'
        f"<style>{_STYLE}</style>\n<defs>{marker}</defs>\n"
        f'<rect width="{width}" height="{height}" fill="white"/>\n' + "\n".join(content) + "\n</svg>\n"
    )


def sizes(shapes: Sequence[Shape]) -> str:
    """Shapes to be read: `8 × 14 × 14`, several with commas between them."""
    return ", ".join(" × ".join(map(str, shape)) for shape in shapes)


def _box(block: Block, kind: str) -> _Box:
    times = f"{block.times} × " if block.times > 1 else ""
    described = f"({sizes(block.part.shapes)}) · {times}{block.part.parameters:,} parameters"
    return _Box(block.part.name, (block.name, f"{times}{block.part.kind}", described), kind, block.inputs)


def _ranks(boxes: Sequence[_Box]) -> dict[str, int]:
    """Rows from the top: each box right above the first that it feeds, and the heads in the last row."""
    below: dict[str, int] = {}  # rows between a box and the bottom
    for box in reversed(boxes):  # in the order of calls, so what a box feeds has been seen
        below.setdefault(box.name, 0)
        for name in box.inputs:
            below[name] = max(below.get(name, 0), below[box.name] + 1)
    last = max(below.values())
    return {name: last - rows for name, rows in below.items()}


def _places(boxes: Sequence[_Box], ranks: Mapping[str, int]) -> dict[str, tuple[float, int]]:
    """Column and row of each box. What comes from the image stands in the middle, other branches to the right of it."""
    from_image = {"image"}
    for box in boxes:
        if from_image & set(box.inputs):
            from_image.add(box.name)
    places = {}
    for rank in set(ranks.values()):
        here = [box.name for box in boxes if ranks[box.name] == rank]
        middle = [name for name in here if name in from_image]
        for number, name in enumerate(middle):
            places[name] = (number - (len(middle) - 1) / 2, rank)
        for number, name in enumerate(name for name in here if name not in from_image):
            places[name] = ((len(middle) - 1) / 2 + 1 + number if middle else 1 + number, rank)
    return places


def _passes_by(source: tuple[float, int], target: tuple[float, int]) -> bool:
    """Whether the straight line would run through boxes between the two."""
    return target[1] - source[1] > 1 and source[0] == target[0]


def _arrow(source: tuple[float, float], target: tuple[float, float], wide: float, bow: bool) -> str:
    x1, y1, x2, y2 = source[0] + wide / 2, source[1] + TALL, target[0] + wide / 2, target[1] - 1
    if bow:
        side, y1, y2 = source[0], source[1] + TALL / 2, target[1] + TALL / 2
        return f'<path d="M {side} {y1} C {side - 46} {y1} {side - 46} {y2} {side - 2} {y2}"/>'
    middle = y2 - DOWN / 2
    return f'<path d="M {x1} {y1} C {x1} {max(middle, y1)} {x2} {min(middle, y2)} {x2} {y2}"/>'


def _drawn(box: _Box, corner: tuple[float, float], wide: float) -> str:
    x, y = corner
    texts = "".join(
        f'<text class="{"line" if row else "name"}" x="{x + 12}" y="{y + 19 + 17 * row}">{escape(text)}</text>'
        for row, text in enumerate(box.lines)
    )
    return f'<g class="{box.kind}"><rect x="{x}" y="{y}" width="{wide:g}" height="{TALL}" rx="7"/>{texts}</g>'
