"""What tests of many workers share: the files of a folder, and workers who do everything late, twice and backwards."""
from functools import partial
from pathlib import Path


def contents(folder): return {p.name: p.read_bytes() for p in sorted(Path(folder).iterdir())}


def badly(work, jobs, told, times=2):
    "All jobs at once, the last one first, each several times, and it is told from the beginning each time"
    for job in [*jobs][::-1]:
        for _ in range(times - 1): work(job, partial(told, job))
        yield job, work(job, partial(told, job))
