"""A cache that fills amid a draft."""
import pytest
import torch

from drafters import Oracle, Wild
from families import claimed as build
from specdec_nb import Law, Llama, Trace
from specdec_nb.decode import decode
from specdec_nb.models.kvcache import KVCache
from specdec_nb.models.state import LlamaTarget


@pytest.mark.parametrize("name", ["llama", "qwen3, mixed"])
def test_a_cache_that_fills_amid_a_draft_grows(name):
    llama, grown = Llama.from_hf(build(name, torch.float64)), []

    class Short(LlamaTarget):
        def new_cache(self):
            grown.append(cache := super().new_cache())
            cache.rows = cache.rows[..., :4, :]
            return cache

    def tokens(target, drafter): return Trace(decode(target, drafter, [3, 14, 15, 9, 26], limit=40, law=Law(temperature=0))).tokens
    plain = tokens(llama, "none")
    for drafter in ("none", Wild(1, [3, 14, 15, 9, 26, *plain]), Oracle([3, 14, 15, 9, 26, *plain])):
        assert tokens(Short(llama), drafter) == plain
    assert all(cache.rows.shape[3] >= 44 for cache in grown)

    class Forgets(KVCache):                                     # the control: a cache that grows and leaves its rows behind
        def expect(self, draft, old=0):
            before = self.rows
            super().expect(draft, old)
            if self.rows is not before: self.rows.zero_()
    Short.new_cache = lambda self: Forgets(3, 2, llama.head_dim, torch.float64, "cpu", 4, llama.config, llama.kinds)
    assert tokens(Short(llama), "none") != plain
