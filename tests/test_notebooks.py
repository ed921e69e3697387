"""Every notebook runs in a real kernel and shows what it stores, cells tagged `timing` excepted."""
import nbrun, nbsync, pytest


@pytest.mark.timeout(700)
@pytest.mark.parametrize("name", nbsync.notebooks())
def test_notebook(name):
    problem, _ = nbrun.run(nbsync.notebooks()[name], cell_timeout=120, nb_timeout=600)
    assert not problem, f"{name}\n{problem}"
