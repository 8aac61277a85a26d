"""A page to look at mined negatives: anchors and their negatives as thumbnails, all in one HTML file."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, Protocol

from fgvr.errors import RecordError
from fgvr.images import open_image
from fgvr.records import Record

SIDE = 176       # pixels of a thumbnail's longer side
QUALITY = 78     # of its JPEG

STYLE = """
:root{color-scheme:light dark;--page:#f6f6f4;--card:#fff;--ink:#1c1c1a;--soft:#6b6b66;--line:#e2e2dd;--bar:#c9481f;
--rail:#ecebe6}
@media(prefers-color-scheme:dark){:root{--page:#161614;--card:#20201d;--ink:#ecebe6;--soft:#9c9b94;--line:#34342f;
--bar:#f0764a;--rail:#34342f}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:1180px;padding:32px 24px 64px;background:var(--page);color:var(--ink);
font:15px/1.45 system-ui,sans-serif}
h1{font-size:24px;margin:0 0 4px;letter-spacing:-.01em}
.lead{color:var(--soft);margin:0 0 20px}
.facts{display:flex;flex-wrap:wrap;gap:8px;margin:0 0 28px;padding:0;list-style:none}
.facts li{background:var(--card);border:1px solid var(--line);border-radius:99px;padding:3px 12px;font-size:13px}
.facts b{font-variant-numeric:tabular-nums}
article{display:grid;grid-template-columns:230px 1fr;gap:20px;background:var(--card);border:1px solid var(--line);
border-radius:14px;padding:18px;margin:0 0 16px;break-inside:avoid}
figure{margin:0;min-width:0}
img,.none{display:block;width:100%;aspect-ratio:1;object-fit:cover;border-radius:8px;background:var(--rail)}
.none{display:grid;place-items:center;color:var(--soft);font-size:13px}
figcaption{margin-top:8px;overflow-wrap:anywhere}
.name{font-weight:600;display:block}
.id{color:var(--soft);font-size:12px;display:block}
.text{font-size:13px;color:var(--soft);margin-top:4px;display:-webkit-box;-webkit-line-clamp:3;-webkit-box-orient:vertical;
overflow:hidden}
.others{display:grid;grid-template-columns:repeat(auto-fill,minmax(170px,210px));gap:20px;align-content:start;
border-left:1px solid var(--line);padding-left:20px}
.meter{display:flex;align-items:center;gap:8px;margin-top:8px;font-size:13px;font-variant-numeric:tabular-nums}
.rail{flex:1;height:5px;border-radius:3px;background:var(--rail);overflow:hidden}
.rail i{display:block;height:100%;background:var(--bar)}
.few{color:var(--soft);align-self:center}
@media(max-width:680px){article{grid-template-columns:1fr}.others{border-left:0;padding-left:0;
grid-template-columns:repeat(auto-fill,minmax(110px,1fr))}}
"""


class Counts(Protocol):
    """What the page's head tells (fgvr.stages.mine.Report)."""

    anchors: int
    short: int
    removed: dict[str, int]
    paths: dict[str, str] | None


def page(mined: Sequence[Record], report: Counts, root: str | Path) -> str:
    """The page of some mined records, ordered by category.

    Args:
        report: the run's counts; its `paths` name the negatives' images.
        root: folder that image paths start from. An image that cannot be read is shown as a grey field.
    """
    seen: dict[str, str] = {}

    def picture(path: str | None) -> str:
        key = path or ""
        if key not in seen:
            seen[key] = _picture(root, path)
        return seen[key]

    paths: Mapping[str, str] = report.paths or {}
    cards = [_card(record, paths, picture) for record in sorted(mined, key=lambda r: (r["category"], r["id"]))]
    facts = [("anchors", report.anchors), ("shown", len(mined)), ("with too few negatives", report.short)]
    facts += [(f"pairs removed: {rule}", count) for rule, count in report.removed.items()]
    items = "".join(f"<li><b>{count:,}</b> {escape(name)}</li>" for name, count in facts)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Hard negatives</title>'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<style>{STYLE}</style></head><body><h1>Hard negatives</h1>"
        '<p class="lead">Left an image, right its negatives from other categories, hardest first, with their cosine '
        f'to it.</p><ul class="facts">{items}</ul>{"".join(cards)}</body></html>\n'
    )


def _card(record: Record, paths: Mapping[str, str], picture: Any) -> str:
    others = "".join(
        f"<figure>{picture(paths.get(other['id']))}{_meter(other['similarity'])}{_caption(other)}</figure>"
        for other in record["negatives"]
    )
    others = others or '<p class="few">No negatives: no other category was left.</p>'
    mine = f"<figure>{picture(record['image'])}{_caption(record)}</figure>"
    return f'<article>{mine}<div class="others">{others}</div></article>\n'


def _caption(record: Record) -> str:
    text = str(record.get("description", ""))
    return (
        f'<figcaption><span class="name">{escape(record["category"])}</span><span class="id">{escape(record["id"])}'
        f'</span><span class="text" title="{escape(text)}">{escape(text)}</span></figcaption>'
    )


def _meter(similarity: float) -> str:
    width = 100 * min(max(similarity, 0.0), 1.0)
    return f'<div class="meter"><span class="rail"><i style="width:{width:.1f}%"></i></span>{similarity:.4f}</div>'


def _picture(root: str | Path, path: str | None) -> str:
    try:
        if path is None:
            raise RecordError("no image")
        image = open_image(root, path, size=2 * SIDE)
    except RecordError:
        return '<div class="none">no image</div>'
    image.thumbnail((2 * SIDE, 2 * SIDE) if max(image.size) > 2 * SIDE else image.size)
    data = io.BytesIO()
    image.save(data, "JPEG", quality=QUALITY)
    return f'<img alt="" loading="lazy" src="data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}">'
