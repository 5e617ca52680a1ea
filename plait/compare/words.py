"""Numbers and names as a report writes them."""

import re

from plait.metrics.table import ActionMetric, CategoryMetric, HoldingMetric, RetrievalMetric, metric_of

NOTHING, MINUS, TIMES = "\N{EN DASH}", "\N{MINUS SIGN}", "\N{MULTIPLICATION SIGN}"
PREFIXES = ("", "k", "M", "G", "T", "P", "E", "Z")


def metric_label(name: str) -> str:
    """How a metric is called in tables.

    Raises:
        ValueError: there is no such metric.

    >>> metric_label("ndcg@10"), metric_label("rmse:rating"), metric_label("log_loss:like")
    ('NDCG@10', 'RMSE rating', 'log-loss like')
    """
    metric, _, action = name.partition(":")
    _, at, length = metric.partition("@")
    return f"{metric_of(name).label}{at}{length} {action}".rstrip()


def meaning(name: str) -> str:
    """What a metric is, in a sentence or two: as its function says it.

    >>> meaning("ndcg@10").partition(",")[0]
    'Normalised discounted cumulative gain'
    """
    metric = metric_of(name)
    of_functions = RetrievalMetric | ActionMetric | HoldingMetric | CategoryMetric
    assert isinstance(metric, of_functions), "a table shows no losses"
    return " ".join((metric.function.__doc__ or "").partition("\n\n")[0].split())


def number(value: float | None, decimals: int = 4) -> str:
    """Fixed decimals, fewer from ten on, none from a thousand on; a dash for None.

    >>> number(0.18296), number(12.345), number(6040.0), number(None)
    ('0.1830', '12.35', '6,040', '–')
    """
    if value is None:
        return NOTHING
    size = abs(value)
    return f"{value:,.{decimals if size < 10 else min(decimals, 2) if size < 1000 else 0}f}"


def signed(value: float) -> str:
    """With its sign, and a minus that is one.

    >>> signed(0.0123), signed(-0.0123)
    ('+0.0123', '−0.0123')
    """
    return f"{MINUS if value < 0 else '+'}{number(abs(value))}"


def in_percent(part: float) -> str:
    """A part of a whole, in percent.

    >>> in_percent(0.0312), in_percent(1.0)
    ('3.1 %', '100.0 %')
    """
    return f"{100 * part:.1f} %"


def percent(change: float) -> str:
    """A relative change with its sign, in percent.

    >>> percent(0.0312), percent(-0.2)
    ('+3.1 %', '−20.0 %')
    """
    return f"{MINUS if change < 0 else '+'}{in_percent(abs(change))}"


def p_value(p: float) -> str:
    """Enough digits to compare with a level.

    >>> p_value(0.0004), p_value(0.031), p_value(0.6)
    ('p < 0.001', 'p = 0.031', 'p = 0.60')
    """
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"


def with_prefix(value: float, unit: str = "") -> str:
    """Three digits and an SI prefix.

    >>> with_prefix(4.2e15, "FLOP"), with_prefix(812.0), with_prefix(999_999.0)
    ('4.20 PFLOP', '812', '1.00 M')
    """
    power = 0
    while power + 1 < len(PREFIXES) and abs(value) >= 999.5 * 1000**power:
        power += 1
    scaled = value / 1000**power
    decimals = 0 if scaled >= 99.95 or (power == 0 and scaled == int(scaled)) else 1 if scaled >= 9.995 else 2
    return f"{scaled:.{decimals}f} {PREFIXES[power]}{unit}".rstrip()


def duration(seconds: float) -> str:
    """Seconds in the unit that a person would choose.

    >>> duration(7.3), duration(200.0), duration(3900.0)
    ('7.3 s', '3 min 20 s', '1 h 05 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min"


def times(ratio: float) -> str:
    """A ratio as a multiple.

    >>> times(0.4512), times(2.0)
    ('0.45×', '2.00×')
    """
    return f"{ratio:.2f}{TIMES}"


def folder_name(name: str) -> str:
    """A layout's name, or its notation, with only the characters that every file system takes.

    >>> folder_name("i[t] -> a[t]")
    'i_t_-_a_t'
    """
    return re.sub(r"[^\w+-]+", "_", name).strip("_")


def run_folder(name: str, seed: int) -> str:
    """Where a run lies, beside the page that tells of it.

    >>> run_folder("lac", 0)
    'runs/lac-seed0'
    """
    return f"runs/{folder_name(name)}-seed{seed}"
