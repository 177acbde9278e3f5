"""Figures as text: three digits of a time, whole percents."""


def milliseconds(seconds: float) -> str:
    """In milliseconds, without the unit: "0.05", "1.23", "12.3", "123", "12,345"."""
    ms = seconds * 1e3
    return f"{ms:,.0f}" if ms >= 99.95 else f"{ms:.1f}" if ms >= 9.995 else f"{ms:.2f}"


def percent(share: float) -> str:
    return f"{100 * share:.0f} %"
