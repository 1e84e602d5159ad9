"""Factors: how many times as much one thing takes as another."""

from collections.abc import Mapping

from minildm.optional import require

from ._figures import BLUE, ORANGE
from ._pictures import Figure

_LOOKS = ((BLUE, "o", -0.13), (ORANGE, "D", 0.13))


def times_as_much(factors: Mapping[str, Mapping[str, float]], title: str = "", xlabel: str = "times as much") -> Figure:
    """A row for each quantity, on a logarithmic axis from 1, each factor with its number; returns the figure.

    factors: {series: {quantity: factor above 0}}, one series or two; a series may lack a quantity.
    Raises ValueError for no series or more than two, and for factors that are not above 0.
    """
    rows = list(dict.fromkeys(what for series in factors.values() for what in series))
    values = [value for series in factors.values() for value in series.values()]
    if not 0 < len(factors) <= len(_LOOKS) or not values or min(values) <= 0:
        raise ValueError(f"expected one or two series of factors above 0, got {dict(factors)}")
    figure, axis = require("matplotlib.pyplot").subplots(figsize=(8.6, 0.9 + 0.55 * len(rows)))
    for (name, series), (colour, mark, shift) in zip(factors.items(), _LOOKS, strict=False):
        places = [rows.index(what) + shift * (len(factors) > 1) for what in series]
        axis.hlines(places, 1, list(series.values()), color=colour, lw=4, alpha=0.3)
        axis.plot(list(series.values()), places, mark, ms=8, color=colour, label=name)
        for place, value in zip(places, series.values(), strict=True):
            words = f"{value:,.1f}" if value < 20 else f"{value:,.0f}"
            axis.annotate(words, (value, place), (9, 0), textcoords="offset points", va="center", fontsize=10)
    axis.set_yticks(range(len(rows)), rows)
    axis.set(xscale="log", ylim=(len(rows) - 0.5, -0.5), xlim=(min(0.9, *values), 3 * max(values)))
    if max(values) < 50:  # powers of ten alone would leave one number on the axis
        axis.xaxis.set_major_locator(require("matplotlib.ticker").LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_minor_formatter(require("matplotlib.ticker").NullFormatter())
    axis.xaxis.set_major_formatter(require("matplotlib.ticker").FuncFormatter(lambda x, _: f"{x:,.10g}"))
    axis.set(xlabel=xlabel, title=title)
    axis.axvline(1, color="0.5", lw=1)
    axis.grid(False, axis="y")
    if len(factors) > 1:
        axis.legend(loc="lower right")
    return figure
