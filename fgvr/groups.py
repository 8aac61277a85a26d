"""Groups of categories that are each other's hard negatives, from mined records.

With s(c, d) the share of c's negatives that are of category d, two categories are as confusable as
m(c, d) = min(s(c, d), s(d, c)). Pairs are joined from the most confusable down (ties by name), as long as the joined
group keeps within `size` (Kruskal's algorithm with a bound: single linkage). What remains alone is a group of one.
Cost: C x negatives pairs, sorted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from fgvr.records import Record


def confusable(mined: Iterable[Record], size: int) -> list[Record]:
    """Group records `{group, categories, inside}`, by falling `inside`: the share of the group's negatives that are of
    a category of the group, in [0, 1].

    Args:
        mined: records with `category` and `negatives`.
        size: most categories in a group, >= 1.
    """
    pairs: Counter[tuple[str, str]] = Counter()
    names: set[str] = set()
    for record in mined:
        names |= {record["category"], *(negative["category"] for negative in record["negatives"])}
        pairs.update((record["category"], negative["category"]) for negative in record["negatives"])
    total: Counter[str] = Counter()
    for (name, _), count in pairs.items():
        total[name] += count
    mutual = [
        (-min(count / total[a], pairs[b, a] / total[b]), a, b)
        for (a, b), count in pairs.items()
        if a < b and pairs[b, a]
    ]
    member = {name: [name] for name in names}
    for _, a, b in sorted(mutual):
        one, other = member[a], member[b]
        if one is not other and len(one) + len(other) <= size:
            one += other
            member.update(dict.fromkeys(other, one))
    groups = {min(some): sorted(some) for some in member.values()}
    found = []
    for categories in groups.values():
        negatives = sum(total[name] for name in categories)
        within = sum(pairs[a, b] for a in categories for b in categories)
        found.append((round(within / negatives, 4) if negatives else 0.0, categories))
    found.sort(key=lambda group: (-group[0], group[1]))
    return [{"group": n, "categories": names, "inside": inside} for n, (inside, names) in enumerate(found)]
