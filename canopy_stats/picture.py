"""A matplotlib figure that a notebook shows by itself. Import it where a figure is drawn: it brings matplotlib."""

from __future__ import annotations

from io import BytesIO

from matplotlib.figure import Figure

_DPI = 144


class NotebookFigure(Figure):
    """A figure that stands as a picture below a notebook's cell, without pyplot and without magic."""

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        """PNG at 1.5 times the size that it is shown at, for screens of any density."""
        file = BytesIO()
        self.savefig(file, format="png", dpi=_DPI)
        return file.getvalue(), {"width": round(96 * self.get_figwidth())}
