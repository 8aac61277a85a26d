"""Predictions and metrics in the forms of other tools: FOCI's results, lmms-eval's results and samples."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from fgvr import metrics
from fgvr.records import Record
from fgvr.stream import Bad, Item

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


class Writer:
    """Writes a run in one of the forms; predictions as they pass, so that they need not be kept.

    Args:
        form: foci, lmms-eval or lmms-eval-samples. write: takes bytes.
    Attributes:
        left_out: predictions that the form cannot hold: FOCI's holds choices and yes-or-no questions only.
    """

    def __init__(self, form: str, write: Callable[[bytes], Any]) -> None:
        self.form, self.write = form, write
        self.rows = self.left_out = 0

    def passing(self, items: Iterable[Item]) -> Iterator[Item]:
        """The items, each prediction written on its way."""
        make = {"foci": _foci, "lmms-eval-samples": _sample}.get(self.form)
        for item in items:
            if make is not None and not isinstance(item, Bad) and "prediction" in item and "metric" not in item:
                made = make(item)
                if made is None:
                    self.left_out += 1
                else:
                    self._row(made)
            yield item

    def _row(self, row: Record) -> None:
        from fgvr.stream import encode

        start = b"" if self.form != "foci" else b",\n" if self.rows else b'{"predictions":[\n'
        self.write(start + encode(row) + (b"" if self.form == "foci" else b"\n"))
        self.rows += 1

    def end(self, name: str, figures: Sequence[Record]) -> None:
        """Write what is known only in the end."""
        from fgvr.stream import encode

        if self.form == "lmms-eval":
            self.write(encode(_results(name, figures)) + b"\n")
        if self.form == "foci":
            kinds = [f for f in figures if f["kind"] in ("mcq", "yesno")]
            own = {f["metric"]: f["value"] for f in kinds[::-1]}  # the first kind's
            made = {"generation_failures": own.get("failure rate"), "accuracy": own.get("accuracy")}
            start = b'{"predictions":[' if not self.rows else b""
            self.write(start + b'\n],"metrics":' + encode(made) + b',"config":' + encode({"model": name}) + b"}\n")


def _raw(record: Record) -> str:
    """The reply; where options were scored, the letter of the best."""
    if isinstance(record.get("raw"), str):
        return record["raw"]
    options, said = record.get("options") or [], record["prediction"]
    return LETTERS[options.index(said)] if said in options else said or ""


def _foci(record: Record) -> Record | None:
    if record.get("kind") not in ("mcq", "yesno") or not record.get("options") or record.get("answer") is None:
        return None
    raw, said = _raw(record), record["prediction"]
    return {
        "image": record.get("image", record["id"]),
        "predicted": f"NA ### {raw}" if said is None else raw if record["kind"] == "yesno" else said,
        "predicted_raw": raw,
        "correct": record["answer"],
        "options": record["options"] if record["kind"] == "mcq" else [],
    }


def _sample(record: Record) -> Record:
    options, answer = record.get("options") or [], record.get("answer")
    lettered = record.get("kind") == "mcq" and answer in options
    doc = {"question": record.get("question"), **(dict(zip(LETTERS, options, strict=False)) if lettered else {})}
    return {
        "doc_id": record["id"],
        "doc": doc,
        "target": LETTERS[options.index(answer)] if lettered else answer or "",
        "resps": [[_raw(record)]],
        "filtered_resps": [_raw(record)],
        "exact_match": None if record["correct"] is None else float(record["correct"]),
    }


def _results(name: str, figures: Sequence[Record]) -> Record:
    """lmms-eval's results: one task a kind of question; what a figure is of (a position, a level) ends its name."""
    plain = {"kind", "metric", "value", "low", "high", "n"}
    results: dict[str, Record] = {}
    samples: dict[str, Record] = {}
    for record in figures:
        task = f"{name}_{record['kind']}"
        own = results.setdefault(task, {"alias": task})
        of = "".join(f" {value}" for key, value in record.items() if key not in plain)
        metric = f"{record['metric']}{of}".replace(",", "").replace(" ", "_")
        own[f"{metric},none"] = record["value"]
        if record["low"] is not None and record["high"] is not None:
            own[f"{metric}_stderr,none"] = (record["high"] - record["low"]) / (2 * metrics.Z95)
        if record["metric"] == "failure rate":
            samples[task] = {"original": record["n"], "effective": record["n"]}
    return {"results": results, "configs": {task: {"task": task} for task in results}, "n-samples": samples}
