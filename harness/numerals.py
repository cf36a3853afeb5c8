"""Numbers as tables print them. Pure."""

from harness.means import Statistic


def spread(value: Statistic | None) -> str:
    """'91.00 ± 1.00 (3)': mean, sample standard deviation, count; empty where there is nothing."""
    if value is None:
        return ""
    if value.std is None:
        return f"{value.mean:.2f} (n=1)"
    return f"{value.mean:.2f} ± {value.std:.2f} ({value.n})"


def digits(value: float) -> str:
    """Three significant digits, an exponent only below 0.001."""
    if value == 0:
        return "0"
    if abs(value) < 0.001:
        return f"{value:.1e}"
    decimals = next((places for limit, places in ((100, 0), (10, 1), (1, 2), (0.1, 3)) if abs(value) >= limit), 4)
    return f"{value:.{decimals}f}"


def large(value: float) -> str:
    """The same with a letter for thousands, millions and so on: '1.25 M'."""
    for limit, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{digits(value / limit)} {letter}"
    return digits(value)


def setting(value: object) -> str:
    """A value of a configuration."""
    return f"{value:.6g}" if isinstance(value, float) else str(value)
