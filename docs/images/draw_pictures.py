"""Draws the pictures: `flow.svg` (one search at a glance, for the README) and, for the protocol page, `search.svg` (who sends what to whom)
and `chunk.svg` (how a score becomes a coefficient).

Run it after a change, `python docs/images/draw_pictures.py`; a test compares the files with what this draws. Invariants: every picture
brings its own light ground, so that it reads on a white page and on a dark one; text is text, in fonts that every machine has; no label
leaves its place when a font runs a tenth wider than expected.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Final

FONT: Final = "Helvetica, Arial, 'Liberation Sans', sans-serif"
NO_BREAK: Final = "\u00a0"
GROUND, INK, FAINT, LINE = "#fbfaf6", "#1d2733", "#55606d", "#c3bfb2"
BLUE, GREEN, PURPLE, BROWN = "#1b5a9e", "#23693f", "#6d3590", "#80520b"
BLUE_TINT, GREEN_TINT, PURPLE_TINT, BROWN_TINT = "#dfeaf6", "#dff0e4", "#eee2f5", "#f6e9d2"


def rich(words: str, size: float) -> str:
    """Words with `_{low}` and `^{high}` as shifted, smaller spans; every shift is taken back by the next span.

    Spaces do not break, because those beside a shift would be dropped.
    """
    out, lift = "", 0.0
    for kind, inner, run in re.findall(r"([_^])\{([^}]*)\}|([^_^]+|[_^])", words):
        wanted = {"_": 0.24 * size, "^": -0.34 * size, "": 0.0}[kind]
        shift = f' dy="{wanted - lift:g}"' if wanted != lift else ""
        smaller = f' font-size="{0.76 * size:g}"' if kind else ""
        out += f"<tspan{shift}{smaller}>{escape((inner or run).replace(' ', NO_BREAK))}</tspan>"
        lift = wanted
    return out


def plain(x: float, y: float, words: str, *, size: float = 14, colour: str = INK, anchor: str = "middle", bold: bool = False) -> str:
    """One line of text."""
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x:g}" y="{y:g}" font-size="{size:g}" text-anchor="{anchor}"{weight} fill="{colour}">{rich(words, size)}</text>\n'


def text(x: float, y: float, words: str, *, size: float = 14, colour: str = INK, anchor: str = "middle", bold: bool = False) -> str:
    """One line of text on a halo of the ground's colour, so that a line which passes behind does not strike it through."""
    letters = plain(x, y, words, size=size, colour=colour, anchor=anchor, bold=bold)
    halo = f'stroke="{GROUND}" stroke-width="5" stroke-linejoin="round" aria-hidden="true"'
    return letters.replace(f'fill="{colour}"', f'fill="{GROUND}" {halo}') + letters


def box(x: float, y: float, width: float, height: float, *, fill: str, stroke: str, radius: float = 6, dash: str = "") -> str:
    """A rounded rectangle."""
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    return (
        f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="{radius:g}" fill="{fill}" stroke="{stroke}"'
        f' stroke-width="1.4"{dashed}/>\n'
    )


def line(x1: float, y1: float, x2: float, y2: float, *, colour: str = LINE, width: float = 1.4, dash: str = "") -> str:
    """A straight line."""
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    return f'<line x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}" stroke="{colour}" stroke-width="{width:g}"{dashed}/>\n'


def arrow(x1: float, x2: float, y: float, colour: str, *, dash: str = "") -> str:
    """A level arrow from x1 to x2."""
    toward = 1 if x2 > x1 else -1
    tip, neck = x2 - 3 * toward, x2 - 13 * toward
    head = f'<polygon points="{tip:g},{y:g} {neck:g},{y - 5:g} {neck:g},{y + 5:g}" fill="{colour}"/>\n'
    return line(x1, y, neck, y, colour=colour, width=2, dash=dash) + head


def picture(width: int, height: int, title: str, description: str, content: str) -> str:
    """The whole file."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img"'
        f' xml:space="preserve" aria-labelledby="title description" font-family="{FONT}">\n'
        f'<title id="title">{escape(title)}</title>\n<desc id="description">{escape(description)}</desc>\n'
        f"{box(1, 1, width - 2, height - 2, fill=GROUND, stroke=LINE, radius=12)}{content}</svg>\n"
    )


# --- the flow of messages ---------------------------------------------------------------------------------------------

REQUESTER, HOLDER, CUSTODIAN, LOG = 150.0, 430.0, 710.0, 940.0
COLOURS: Final = {REQUESTER: BLUE, HOLDER: GREEN, CUSTODIAN: PURPLE, LOG: BROWN}
TINTS: Final = {REQUESTER: BLUE_TINT, HOLDER: GREEN_TINT, CUSTODIAN: PURPLE_TINT, LOG: BROWN_TINT}
HEADS: Final = (
    (REQUESTER, "Requester", ("makes the probe,", "opens the answers")),
    (HOLDER, "Holder", ("one for each gallery;", "answers in ciphertext")),
    (CUSTODIAN, "Custodian", ("sees scores without names,", "releases the leads")),
    (LOG, "Log", ("public; cosigned", "by witnesses")),
)


class Flow:
    """Rows of a message diagram from top to bottom."""

    def __init__(self, top: float) -> None:
        self.y = top
        self.marks: list[str] = []

    def act(self, party: float, step: str, *lines: str, width: float = 236) -> None:
        """What a party does by itself, with the numbers of the page's steps."""
        height = 18 * len(lines) + 12
        left = party - width / 2
        mark = box(left, self.y, width, height, fill=TINTS[party], stroke=COLOURS[party])
        mark += box(left - 1, self.y - 10, 9 * len(step) + 14, 20, fill=COLOURS[party], stroke=COLOURS[party], radius=10)
        mark += plain(left - 1 + (9 * len(step) + 14) / 2, self.y + 5, step, size=13, colour="#ffffff", bold=True)
        for number, words in enumerate(lines):
            mark += plain(party, self.y + 23 + 18 * number, words, size=13.5)
        self.marks.append(mark)
        self.y += height + 32

    def send(self, sender: float, recipient: float, words: str, detail: str = "", *, also: float | None = None) -> None:
        """A message: an arrow, its words above it, a detail below. `also` is a second recipient on the way."""
        colour = COLOURS[sender]
        toward = 1 if recipient > sender else -1
        mark = arrow(sender + 4 * toward, recipient, self.y, colour, dash="9 5" if recipient == LOG else "")
        if also is not None:
            mark += arrow(also - 16 * toward, also, self.y, colour)
        # a long arrow carries its words in the gap beside its sender, where no other lifeline passes
        gap = {REQUESTER: HOLDER, HOLDER: CUSTODIAN if toward > 0 else REQUESTER, CUSTODIAN: LOG if toward > 0 else HOLDER}[sender]
        middle = (sender + gap) / 2
        mark += text(middle, self.y - 8, words, size=13.5, bold=True, colour=colour)
        if detail:
            mark += text(middle, self.y + 18, detail, size=12.5, colour=FAINT)
        self.marks.append(mark)
        self.y += 58 if detail else 44

    def space(self, height: float) -> None:
        """Room between two steps."""
        self.y += height


def draw_search() -> str:
    """The message flow among requester, holder, custodian, broker and log."""
    flow = Flow(178)
    flow.act(REQUESTER, "1-3", "encrypts the probe under a new", "key; legal staff signs the grant")
    flow.send(REQUESTER, LOG, "entry: grant", "salted commitments, no case text")
    flow.send(REQUESTER, CUSTODIAN, "grant", "to every holder and custodian", also=HOLDER)
    flow.send(REQUESTER, HOLDER, "probe: b_{1} … b_{D}, b_{z}", "ciphertext; 1.71 MB for D = 512")
    flow.act(HOLDER, "4-8", "checks grant and log, scans,", "re-randomises, masks, rounds")
    flow.send(HOLDER, REQUESTER, "answer: a'', b''; order's seed", "27 bits a slot, every score masked")
    flow.send(HOLDER, CUSTODIAN, "mask seed, calibration places", "and the answer's and probe's digests")
    flow.send(HOLDER, LOG, "entry: answer")
    flow.act(REQUESTER, "9", "opens; every y is still masked;", "keeps its top 16 bits")
    flow.send(REQUESTER, CUSTODIAN, "Y16, in the answer's order", "no exact y ever leaves")
    flow.send(REQUESTER, LOG, "entry: opened scores")
    flow.act(CUSTODIAN, "10", "once, at the deadline: grant, log,", "masks off, calibration, threshold,", "cap over all holders together")
    flow.send(CUSTODIAN, LOG, "entry: release", "padded to the cap")
    flow.send(CUSTODIAN, HOLDER, "release index, position", "one size for every holder")
    flow.send(CUSTODIAN, REQUESTER, "release index, rank, band", "scores: to its legal office alone")
    flow.act(HOLDER, "11", "maps positions to records;", "a filler answers: withdrawn")
    flow.send(HOLDER, REQUESTER, "stubs, exactly cap slots", "handle, agency, day and age of picture")
    flow.act(REQUESTER, "12", "asks for one photograph,", "or sends a dummy")
    flow.send(REQUESTER, HOLDER, "disclosure request")
    flow.space(8)
    flow.send(HOLDER, REQUESTER, "photograph and record number", "if its legal staff agrees; 1 MiB either way")
    flow.send(HOLDER, LOG, "entry: disclosure")
    bottom = flow.y + 4

    marks = [plain(32, 35, "One search", size=19, bold=True, anchor="start")]
    legend = "numbers: steps of section 3   |   solid arrow: sealed to its recipient and signed   |   dashed arrow: entry of the public log"
    marks.append(plain(1022, 34, legend, size=12.5, anchor="end", colour=FAINT))
    frame = box(24, 128, 1002, bottom - 128 + 20, fill="none", stroke=FAINT, radius=10, dash="7 5")
    marks.append(frame)
    for party, name, lines in HEADS:
        marks.append(line(party, 112, party, bottom + 6, dash="2 5", width=1.6))
        width = 164 if party is LOG else 236
        marks.append(box(party - width / 2, 50, width, 62, fill=TINTS[party], stroke=COLOURS[party]))
        marks.append(plain(party, 69, name, size=15.5, bold=True, colour=COLOURS[party]))
        marks += [plain(party, 86 + 16 * number, words, size=12.5, colour=FAINT) for number, words in enumerate(lines)]
    # the broker is the frame that every arrow crosses
    caption = "Broker (mailbox and log): carries every arrow; sees sender, recipient, kind, length and time, and opens nothing"
    marks.append(text(525, 148, caption, size=13.5, bold=True, colour=FAINT))
    height = int(bottom + 62)
    marks += flow.marks
    foot = "Every act rests on a checkpoint of the log younger than 10 minutes, cosigned by two outside witnesses, one of them a custodian."
    marks.append(plain(525, height - 16, foot, size=12.5, colour=FAINT))
    return picture(
        1050,
        height,
        "The messages of one search",
        "Requester, holder, custodian and log stand side by side inside a frame that is the broker. The requester logs the grant and sends"
        " grant and probe. The holder answers the requester and sends the mask seed to the custodian. The requester sends rounded, still"
        " masked scores to the custodian. The custodian releases positions to the holder, ranks and bands to the requester. The holder"
        " sends stubs and, after a reviewed request, a photograph.",
        "".join(marks),
    )


# --- a chunk as polynomials --------------------------------------------------------------------------------------------

CELL, ROW = 46.0, 27.0
BOTH_TINT: Final = "#c9d9b8"
ROWS: Final = ("0", "1", "…", "j", "…", "1023")
COLUMNS: Final = ("1", "2", "…", "d", "…", "D")


def grid(left: float, top: float) -> str:
    """The chunk's templates: a row for each slot, a column for each dimension; row j and column d stand out."""
    marks = ""
    for i, row in enumerate(ROWS):
        marks += text(left - 10, top + ROW * i + 18, row, size=12.5, colour=GREEN if row == "j" else FAINT, anchor="end", bold=row == "j")
        for k, column in enumerate(COLUMNS):
            fill = {(True, True): BOTH_TINT, (True, False): GREEN_TINT, (False, True): BLUE_TINT}.get(
                (row == "j", column == "d"), "#ffffff"
            )
            marks += box(left + CELL * k, top + ROW * i, CELL, ROW, fill=fill, stroke=LINE, radius=0)
            words = "…" if "…" in (row, column) else f"g_{{{row},{column}}}"
            marks += plain(left + CELL * (k + 0.5), top + ROW * i + 17, words, size=13.5, colour=FAINT if words == "…" else INK)
    for k, column in enumerate(COLUMNS):
        chosen = column == "d"
        marks += text(left + CELL * (k + 0.5), top - 8, column, size=12.5, colour=BLUE if chosen else FAINT, bold=chosen)
    return marks


def draw_chunk() -> str:
    """How 1,024 templates become D polynomials, and a score a coefficient."""
    marks = [plain(30, 36, "A chunk of N = 1,024 templates", size=15, bold=True, anchor="start")]
    marks.append(
        plain(30, 57, "one row for each slot, one column for each dimension, a byte each", size=12.5, colour=FAINT, anchor="start")
    )
    left, top = 74.0, 104.0
    marks += [grid(left, top), text(40, top - 8, "slot", size=12.5, colour=FAINT)]
    below = top + ROW * len(ROWS)
    marks.append(text(left + CELL * 3.5, below + 22, "column d", size=12.5, bold=True, colour=BLUE))

    middle = 420.0
    marks.append(plain(middle, 36, "D polynomials, each times one encrypted number", size=15, bold=True, anchor="start"))
    marks.append(plain(middle, 57, "a column's entries are the coefficients; m_{d} is a constant", size=12.5, colour=FAINT, anchor="start"))
    rows = (("1", top + 4), ("d", top + 62), ("D", top + 120))
    for name, y in rows:
        chosen = name == "d"
        marks.append(box(middle, y, 256, 38, fill=BLUE_TINT if chosen else "#ffffff", stroke=BLUE if chosen else LINE))
        words = f"P_{{{name}}} = g_{{0,{name}}} + g_{{1,{name}}} X + … + g_{{1023,{name}}} X^{{1023}}"
        marks.append(plain(middle + 128, y + 24, words, size=12.5, bold=chosen))
        marks.append(plain(middle + 270, y + 25, "×", size=16))
        marks.append(box(middle + 284, y, 76, 38, fill=PURPLE_TINT, stroke=PURPLE))
        marks.append(plain(middle + 322, y + 24, f"E(m_{{{name}}})", size=13.5, bold=True, colour=PURPLE))
    marks += [plain(middle + 128, y + 53, "+ …", size=13, colour=FAINT) for _, y in rows[:2]]
    marks.append(text(middle + 128, below + 22, "one for each dimension", size=12.5, bold=True, colour=BLUE))
    marks.append(text(middle + 322, below + 22, "the probe", size=12.5, bold=True, colour=PURPLE))

    right = 824.0
    marks.append(plain(right, 36, "One encrypted polynomial", size=15, bold=True, anchor="start"))
    marks.append(plain(right, 57, "its coefficient j is slot j's score", size=12.5, colour=FAINT, anchor="start"))
    marks.append(arrow(middle + 366, right - 2, top + ROW * 3, FAINT))
    for i, row in enumerate(ROWS):
        chosen = row == "j"
        marks.append(
            box(right, top + ROW * i, 196, ROW, fill=BOTH_TINT if chosen else "#ffffff", stroke=GREEN if chosen else LINE, radius=0)
        )
        words = {"…": row, "0": "score 0", "1": "score 1 · X"}.get(row) or f"score {row} · X^{{{row}}}"
        marks.append(plain(right + 98, top + ROW * i + 18, words, size=12.5, bold=chosen, colour=FAINT if row == "…" else INK))
    marks.append(text(right + 98, below + 22, "1,024 scores at once", size=12.5, bold=True, colour=GREEN))

    marks.append(box(30, below + 48, 990, 44, fill=GREEN_TINT, stroke=GREEN))
    formula = (
        "score j  =  m_{1} g_{j,1} + m_{2} g_{j,2} + … + m_{D} g_{j,D}  =  gamma × mu × cos(probe, template j), up to rounding and noise"
    )
    marks.append(plain(525, below + 75, formula, size=14.5, bold=True))
    return picture(
        1050,
        int(below + 112),
        "A chunk of templates as polynomials",
        "A grid of 1,024 rows, one for each slot, and D columns, one for each dimension. Each column is read as a polynomial and multiplied"
        " by the encryption of one number of the probe. The sum is one encrypted polynomial whose coefficient j is the score of slot j.",
        "".join(marks),
    )


# --- one search at a glance -------------------------------------------------------------------------------------------


def badge(x: float, y: float, step: int, colour: str) -> str:
    """A step's number on its arrow."""
    number = plain(x, y + 4.5, str(step), size=12.5, colour="#ffffff", bold=True)
    return box(x - 11, y - 11, 22, 22, fill=colour, stroke=colour, radius=11) + number


def upright(x: float, y1: float, y2: float, colour: str, *, dash: str = "") -> str:
    """An upright arrow from y1 to y2."""
    toward = 1 if y2 > y1 else -1
    tip, neck = y2 - 3 * toward, y2 - 13 * toward
    head = f'<polygon points="{x:g},{tip:g} {x - 5:g},{neck:g} {x + 5:g},{neck:g}" fill="{colour}"/>\n'
    return line(x, y1, x, neck, colour=colour, width=2, dash=dash) + head


def said(x: float, y: float, words: str, detail: str, colour: str, *, anchor: str = "middle") -> str:
    """What an arrow carries, above it, and what that means, below."""
    return text(x, y - 9, words, size=14, bold=True, colour=colour, anchor=anchor) + text(
        x, y + 18, detail, size=12.5, colour=FAINT, anchor=anchor
    )


def card(x: float, y: float, width: float, height: float, name: str, lines: tuple[str, ...], colour: str, fill: str) -> str:
    """A party and what it does."""
    marks = box(x, y, width, height, fill=fill, stroke=colour) + plain(x + width / 2, y + 25, name, size=15.5, bold=True, colour=colour)
    return marks + "".join(plain(x + width / 2, y + 46 + 18 * row, words, size=12.5, colour=FAINT) for row, words in enumerate(lines))


def draw_flow() -> str:
    """The requester's side at the left, holders at the right, the broker's log above, the custodian below; eight numbered steps."""
    left, right, top, bottom = 300.0, 750.0, 282.0, 506.0
    marks = [plain(32, 38, "One search", size=19, bold=True, anchor="start")]
    legend = "solid arrow: a message through the broker, sealed to its recipient and signed   |   dashed arrow: an entry of the public log"
    marks.append(plain(1020, 37, legend, size=12.5, anchor="end", colour=FAINT))
    carries = ("carries every message and opens none; other agencies' witnesses cosign the log, anybody may read it",)
    marks.append(card(30, 58, 990, 62, "Broker and log", carries, BROWN, BROWN_TINT))

    reviews = ("sees case, order and still;", "is never the investigator")
    marks.append(card(30, 152, 186, 76, "Legal reviewer", reviews, BLUE, "#ffffff"))
    asks = (
        "one department's node",
        "",
        "encrypts one still's face under",
        "a key made for this search;",
        "opens answers, whose scores",
        "are still masked;",
        "then destroys the key",
    )
    marks.append(card(30, top, 270, bottom - top, "Requester", asks, BLUE, BLUE_TINT))
    marks.append(upright(123, 228, top, BLUE) + badge(123, 250, 1, BLUE))
    marks.append(text(142, 255, "grant", size=14, bold=True, colour=BLUE, anchor="start"))
    marks.append(upright(258, top, 120, BLUE, dash="9 5") + badge(258, 232, 2, BLUE))
    marks.append(text(276, 205, "log", size=14, bold=True, colour=BLUE, anchor="start"))
    marks.append(text(276, 223, "no entry, no search", size=12.5, colour=FAINT, anchor="start"))

    for shift in (14, 7):
        marks.append(box(right + shift, 156 + shift, 256, bottom - 156 - shift, fill="#ffffff", stroke=GREEN))
    answers = (
        "the other departments' nodes,",
        "each with its own gallery",
        "",
        "verify grant and log, ask",
        "their own policy;",
        "",
        "scan the encrypted probe,",
        "mask every score;",
        "",
        "map positions to records;",
        "",
        "their own legal staff decides",
        "about every photograph",
    )
    marks.append(card(right, 156, 256, bottom - 156, "Holders", answers, GREEN, GREEN_TINT))
    marks.append(upright(955, 156, 120, GREEN, dash="9 5"))

    middle = (left + right) / 2
    for step, y, toward_holder, words, detail in (
        (3, 314.0, True, "probe", "ciphertext, with the sealed grant"),
        (4, 370.0, False, "answer", "ciphertext of masked scores"),
        (7, 426.0, False, "stubs", "of each lead: agency, day of the picture"),
        (8, 482.0, False, "disclosure", "photograph and record number, on request"),
    ):
        start, end, colour = (left, right, BLUE) if toward_holder else (right, left, GREEN)
        marks.append(arrow(start, end, y, colour) + badge(start + (26 if toward_holder else -26), y, step, colour))
        marks.append(said(middle, y, words, detail, colour))

    into, out, edges = 566.0, 622.0, (352.0, 698.0)
    releases = (
        "an oversight body of another jurisdiction:",
        "takes the masks off, sees scores without",
        "names, releases at most the cap, once",
    )
    marks.append(card(edges[0], 540, edges[1] - edges[0], 104, "Custodian", releases, PURPLE, PURPLE_TINT))
    marks.append(line(210, bottom, 210, into, colour=BLUE, width=2) + arrow(210, edges[0], into, BLUE) + badge(210, 538, 5, BLUE))
    marks.append(text(228, into - 9, "opened scores", size=14, bold=True, colour=BLUE, anchor="start"))
    marks.append(line(840, bottom, 840, into, colour=GREEN, width=2) + arrow(840, edges[1], into, GREEN) + badge(840, 538, 4, GREEN))
    marks.append(text(822, into - 9, "mask seeds", size=14, bold=True, colour=GREEN, anchor="end"))
    marks.append(line(edges[0], out, 100, out, colour=PURPLE, width=2) + upright(100, out, bottom, PURPLE) + badge(100, 580, 6, PURPLE))
    marks.append(said(120, out, "release", "ranks and bands; no score", PURPLE, anchor="start"))
    marks.append(line(edges[1], out, 950, out, colour=PURPLE, width=2) + upright(950, out, bottom, PURPLE) + badge(950, 580, 6, PURPLE))
    marks.append(said(930, out, "release", "positions; no rank, no score", PURPLE, anchor="end"))
    return picture(
        1050,
        664,
        "One search at a glance",
        "Requester with its legal reviewer at the left, holders at the right, broker and public log above, custodian below. 1 the"
        " reviewer signs the grant. 2 the grant is entered into the log. 3 the requester sends the encrypted probe to the holders. 4"
        " the holders answer with masked scores, and send the mask seeds to the custodian. 5 the requester sends the opened, still"
        " masked scores to the custodian. 6 the custodian releases ranks and bands to the requester, positions to the holders. 7 the"
        " holders send stubs. 8 on request, and if its own legal staff agrees, a holder discloses a photograph.",
        "".join(marks),
    )


def pictures() -> Mapping[str, str]:
    """File names and contents."""
    return {"flow.svg": draw_flow(), "search.svg": draw_search(), "chunk.svg": draw_chunk()}


if __name__ == "__main__":
    for name, content in pictures().items():
        (Path(__file__).parent / name).write_text(content, encoding="utf-8")
