"""Thumbnails of a report, each image once; what cannot be read is counted."""

from __future__ import annotations

import base64
import io
from pathlib import Path

from fgvr.errors import RecordError
from fgvr.images import open_image


class Pictures:
    """Thumbnails as data URIs.

    Attributes:
        uris: all so far. missing: the paths that could not be read, or whose folder is not known.
    """

    def __init__(self, side: int, quality: int = 72) -> None:
        self.side, self.quality = side, quality
        self.uris: list[str] = []
        self.missing: dict[str, str] = {}  # path -> why
        self._at: dict[tuple[str, str], int] = {}

    def __call__(self, root: Path | None, path: str | None) -> int | None:
        """The number of an image's thumbnail; None when there is none."""
        if not path:
            return None
        key = (str(root), path)
        if key not in self._at:
            try:
                if root is None:
                    raise RecordError("no --image-root")
                self.uris.append(self._thumbnail(root, path))
            except RecordError as error:
                self.missing[path] = str(error)
                return None
            self._at[key] = len(self.uris) - 1
        return self._at[key]

    def _thumbnail(self, root: Path, path: str) -> str:
        image = open_image(root, path, size=self.side)
        image.thumbnail((self.side, self.side))
        data = io.BytesIO()
        image.save(data, "JPEG", quality=self.quality)
        return f"data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}"
