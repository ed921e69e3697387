"""The map of the book, and the style of its figures."""
import sys

import nbsync
import pytest

from conftest import ROOT
from specdec_nb.bookmap import PLACES, book_map


@pytest.mark.parametrize("before", ["", "import matplotlib.pyplot"])
def test_figures_wear_the_books_style_unless_there_is_an_rc_file(before, tool, tmp_path, monkeypatch):
    program = f"{before}\nfrom specdec_nb.bookmap import book_map\nimport sys\nbook_map('09')\nassert ('matplotlib' in sys.modules) == {bool(before)}\n" \
              "import matplotlib.pyplot as plt\nprint(plt.rcParams['axes.spines.top'])"
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("MATPLOTLIBRC", raising=False)
    assert tool(sys.executable, "-c", program, cwd=tmp_path).stdout == "False\n"
    (own := tmp_path/"matplotlibrc").write_text("axes.spines.top: True\n")
    monkeypatch.setenv("MATPLOTLIBRC", str(own))
    assert tool(sys.executable, "-c", program, cwd=tmp_path).stdout == "True\n"


def test_every_place_is_lit_by_its_chapters_and_by_no_other():
    numbers = {key.split("/")[-1].split("_")[0] for key in nbsync.notebooks()}
    for place, (_, _, chapters) in PLACES.items():
        for here in chapters.split():
            assert here in numbers, f"{place} lists chapter {here}, which the book has not"
            assert book_map(here)._repr_svg_().count('fill="#3a7d44"') == sum(here in c.split() for _, _, c in PLACES.values())
    assert book_map()._repr_svg_().count('fill="#3a7d44"') == 0
    with pytest.raises(ValueError, match="chapter '99' has no place"): book_map("99")
