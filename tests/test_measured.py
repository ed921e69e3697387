"""Tables of measurements in terminals of every width."""
import pytest

from specdec_nb.bench.measured import table


def rows():
    return [dict(drafter=d, category=c, n=3, tokens=99, calls=50, tau=1.98, seconds=2., speedup=1.2, speedup_decoding=1.3, speedup_median=1.1,
                 n_identical=3, lossy=False, warm=False) for d in ("none", "recycling") for c in ("multi-turn", "all")]


@pytest.mark.parametrize("width", [100, 80, 60, 40, 30])
def test_narrow_terminals_drop_columns(width):
    import io
    from rich.console import Console
    console = Console(file=io.StringIO(), width=width, force_jupyter=False)
    console.print(table(rows(), None, width))
    shown = console.file.getvalue()
    assert "\u2026" not in shown and "recycling" in shown and "1.20" in shown and "3/3" in shown
    assert all(len(line) <= width for line in shown.splitlines())
    assert ("median" in shown) == (width == 100)
