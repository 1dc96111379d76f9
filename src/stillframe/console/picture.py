"""The tree of a VM's snapshots as an SVG picture that stands for itself: no script, no reference, nothing to load."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape

from stillframe.console.words import Language, age, size
from stillframe.domain.layout import NOW, Item, Layout
from stillframe.domain.snapshot import SnapshotCard

STEP_X, STEP_Y = 208, 72
WIDTH, HEIGHT = 168, 52
MARGIN = 24
_TEXT_MAX = 20  # columns that fit a card; a Chinese character takes two

_STYLE = """
svg{--paper:#fff;--ink:#1c2430;--soft:#5b6675;--line:#9aa7b7;--card:#f4f6f9;--edge:#c6cfda;--now:#0b6b3a;--memory:#6a3fb5}
%s
rect.paper{fill:var(--paper)}
.card{fill:var(--card);stroke:var(--edge)}.head .card{stroke:var(--now);stroke-width:2}
.edge{fill:none;stroke:var(--line);stroke-width:1.5}
text{font:13px system-ui,-apple-system,"Segoe UI","Noto Sans CJK SC",sans-serif;fill:var(--ink)}
text.soft{font-size:11px;fill:var(--soft)}.memory{fill:var(--memory)}.now{fill:var(--now)}
"""
_DARK = (
    "svg{--paper:#12161c;--ink:#e6ebf2;--soft:#a3afbf;--line:#5d6b7d;--card:#1b222c;--edge:#38444f;"
    "--now:#4fd18b;--memory:#b497f0}"
)
_THEMES = {"light": "", "dark": _DARK, "auto": f"@media (prefers-color-scheme: dark){{{_DARK}}}"}

_WORDS: dict[Language, dict[str, str]] = {
    "en": {"now": "current state", "title": "Snapshots of {}", "folded": "{} snapshots", "changed": "{} changed",
           "unmeasured": "size not known", "memory": "with memory", "empty": "no snapshot yet"},
    "zh": {"now": "当前状态", "title": "{} 的快照", "folded": "{} 个快照", "changed": "已更改 {}",
           "unmeasured": "大小未知", "memory": "含内存", "empty": "暂无快照"},
}  # fmt: skip


@dataclass(frozen=True)
class Scene:
    """What is drawn. ``at``: Unix seconds from which ages count; ``head``: the snapshot that now descends from, or "";
    ``changed_bytes``: None where it is not known.
    """

    name: str
    layout: Layout
    cards: Mapping[str, SnapshotCard]
    head: str
    changed_bytes: int | None
    is_running: bool
    at: float


def draw(scene: Scene, *, theme: str = "auto", language: Language = "en") -> str:
    """The picture as the text of an SVG document. ``theme``: light, dark or auto (the viewer's)."""
    words = _WORDS[language]
    layout = scene.layout
    width = 2 * MARGIN + max(layout.depth - 1, 0) * STEP_X + WIDTH
    height = 2 * MARGIN + max(layout.lanes - 1, 0) * STEP_Y + HEIGHT
    title = escape(words["title"].format(_plain(scene.name)))
    places = {item.key: item for item in layout.items}
    opening = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'role="img" aria-label="{title}"><title>{title}</title><style>{_STYLE % _THEMES[theme]}</style>'
        f'<rect class="paper" width="{width}" height="{height}"/>'
    )
    parts = [_edge(places[item.parent], item) for item in layout.items if item.parent]
    parts += [_item(item, scene, language) for item in layout.items]
    return "".join([opening, *parts, "</svg>"])


def _place(item: Item) -> tuple[int, int]:
    return MARGIN + item.depth * STEP_X, MARGIN + item.lane * STEP_Y


def _edge(above: Item, item: Item) -> str:
    (x, y), (to_x, to_y) = _place(above), _place(item)
    start_x, start_y, end_y = x + WIDTH, y + HEIGHT // 2, to_y + HEIGHT // 2
    turn = start_x + (to_x - start_x) // 2
    way = f"H{to_x}" if start_y == end_y else f"H{turn}V{end_y}H{to_x}"
    return f'<path class="edge" d="M{start_x} {start_y}{way}"/>'


def _item(item: Item, scene: Scene, language: Language) -> str:
    words = _WORDS[language]
    if item.key == NOW:
        more = _changed(scene, words)
        mark = '<circle class="now" cx="14" cy="21" r="5"/>' if scene.is_running else ""
        return _card(item, "now-item", words["now"], more, mark)
    card = scene.cards[item.uuids[0]]
    if item.is_folded:
        last = scene.cards[item.uuids[-1]]
        more = f"{_cut(card.name, 9)} … {_cut(last.name, 9)}"
        return _card(item, "folded", words["folded"].format(len(item.uuids)), more, "")
    has_memory = card.memory is not None
    bytes_of = card.disk_bytes + (card.memory.size_bytes if card.memory else 0)
    more = f"{age(scene.at - card.ctime, language)} · {size(bytes_of)}"
    mark = (
        f'<circle class="memory" cx="14" cy="21" r="5"><title>{words["memory"]}</title></circle>' if has_memory else ""
    )
    return _card(item, "head" if card.uuid == scene.head else "", card.name, more, mark, full=True)


def _changed(scene: Scene, words: Mapping[str, str]) -> str:
    """What was written since; what descends from no snapshot may have some beside it all the same."""
    if not scene.cards:
        return words["empty"]
    if scene.changed_bytes is None:
        return words["unmeasured"]
    return words["changed"].format(size(scene.changed_bytes))


def _card(item: Item, css: str, first: str, second: str, mark: str, *, full: bool = False) -> str:
    x, y = _place(item)
    text_x = 26 if mark else 10
    whole = f"<title>{escape(_plain(first))}</title>" if full else ""
    shown = escape(_cut(first, _TEXT_MAX - (2 if mark else 0)))
    return (
        f'<g class="{css}" transform="translate({x} {y})"><rect class="card" width="{WIDTH}" height="{HEIGHT}" rx="6"/>'
        f'{mark}<text x="{text_x}" y="22">{shown}{whole}</text>'
        f'<text class="soft" x="10" y="41">{escape(second)}</text></g>'
    )


def _plain(text: str) -> str:
    """Names were checked when they were given; a name of a VM is libvirt's, and what XML cannot hold is no name."""
    return "".join(
        char if unicodedata.category(char) not in ("Cc", "Cs", "Co") and char not in "\ufffe\uffff" else "\ufffd"
        for char in text
    )


def _cut(text: str, columns: int) -> str:
    """As much as fits in so many columns, with "…" for the rest."""
    plain, used = _plain(text), 0
    for position, char in enumerate(plain):
        used += 2 if unicodedata.east_asian_width(char) in "WF" else 1
        if used > columns:
            return plain[: max(position - 1, 1)] + "…"
    return plain
