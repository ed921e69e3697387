"""Every drafter that needs no trained weights, where there is little room for a draft: one token, two, none by wish, the window's end."""
import pytest
import torch

from specdec_nb import Keyed, Law, Llama, ModelDrafter, PhrasePool, Trace
from specdec_nb.roles import make_drafter
from specdec_nb.decode import decode
from specdec_nb.drafters.recycling import Recycling, Successors
from specdec_nb.drafters.lookahead import Lookahead
from specdec_nb.drafters.copying import Rest
from specdec_nb.phrases.ouroboros import Ouroboros
from specdec_nb.trees.dag import GraphDrafter
from test_medusa import build

MODEL = Llama.from_hf(build(dtype=torch.float32, max_position_embeddings=24))
SMALL = Llama.from_hf(build(seed=1, layers=1, dtype=torch.float32, max_position_embeddings=24))
NAMED = ("lookup", "suffix", "reference", "rest", "pool", "recycling", "lookahead", "tuned", "auto", "layerskip")
MADE = {**{name: lambda name=name: make_drafter(name) for name in NAMED}, "model": lambda: ModelDrafter(SMALL), "model, tree": lambda: ModelDrafter(SMALL, tree=6),
        "ouroboros": lambda: Ouroboros(SMALL), "ouroboros, all": lambda: Ouroboros(SMALL, phrases=True, unsure=1, text=True), "gsd": lambda: GraphDrafter(SMALL)}
GREEDY = dict(law=Law(temperature=0), rng=Keyed(0))


@pytest.mark.parametrize("name", MADE)
def test_little_room(name):
    drafter, prompt = MADE[name](), [1, 2, 3, 1, 2]
    for options in (dict(limit=1), dict(limit=2), dict(limit=3), dict(limit=9, k=0), dict(limit=19), dict(limit=7)):
        if prompt and options["limit"] + len(prompt) > 24: options["limit"] = 24 - len(prompt)
        plain = Trace(decode(MODEL, "none", prompt, **GREEDY, **{k: v for k, v in options.items() if k != "k"})).tokens
        assert Trace(decode(MODEL, drafter, prompt, **GREEDY, **options)).tokens == plain, options
    assert Trace(decode(MODEL, drafter, [5], limit=4, **GREEDY)).tokens == Trace(decode(MODEL, "none", [5], limit=4, **GREEDY)).tokens


def test_the_last_row_is_learnt_under_its_own_word():
    "When there was no room for a draft, too"
    drafter = Recycling(prompt=False)
    trace = Trace(decode(MODEL, drafter, [3], limit=2, **GREEDY))
    for word, said in zip([3, *trace.tokens], trace.tokens): assert drafter.table.row(-2, word)[1][0] == said


def test_a_table_of_another_width():
    for width in (3, 12):
        drafter = Recycling(table=Successors(16, width))
        assert len(Trace(decode(MODEL, drafter, [1, 2, 3], limit=8, **GREEDY)).tokens) == 8 and drafter.asks.topk == width


def test_several_continuations_survive_a_short_one():
    pool = PhrasePool()
    for phrase in ([1, 5, 2], [1, 5, 3], [1, 5]): pool.add(phrase, "verified")
    assert pool.after([1]) == [(5, 3), (5, 2)] and len(pool) == 2
    pool.add([1, 5, 2, 7], "verified")
    assert pool.after([1]) == [(5, 2, 7), (5, 3)] and len(pool) == 2


def test_texts_of_one_token_are_no_datastore():
    rest = Rest(remember=1)
    for _ in range(3): assert len(Trace(decode(MODEL, rest, [1, 2], limit=4, **GREEDY)).tokens) == 4


def test_a_pool_with_long_keys_is_refused():
    with pytest.raises(ValueError, match="keys of 3 tokens, and an n-gram of n=3 must be longer"): Lookahead(n=3, pool=PhrasePool(key=3))


def test_a_header_that_lies_is_refused(tmp_path):
    "A flipped bit in what the datastore says of itself, not only in its text"
    from specdec_nb import Datastore
    path = Datastore.build([[1, 2, 3, 1, 2]], vocab_size=16).save(tmp_path / "store")
    assert Datastore.load(path).vocab_size == 16
    whole = bytearray(path.read_bytes())
    at = len(whole) - 4 * (len(Datastore.load(path).text) * 2 + 8) + 4 * 3       # the vocabulary's size
    whole[at] ^= 1
    path.write_bytes(whole)
    with pytest.raises(ValueError, match="wrong checksum"): Datastore.load(path)


def test_a_text_shorter_than_the_run():
    "Two continuations that agree in two tokens do not meet where four are asked for"
    from specdec_nb.trees.dag import TokenGraph
    graph = TokenGraph([9], repeat=3)
    a, b = graph.add(-1, 1, .5), graph.add(-1, 2, .5)
    c = graph.add(b, 1, .5)
    assert c is not None and graph.add(a, 5, .5) is not None and graph.add(c, 5, .5) is not None and graph.merged == 0


def test_strings_come_in_chains():
    from specdec_nb.drafters.vocabulary import StringBridge
    with pytest.raises(TypeError, match="tree"): StringBridge(SMALL, None, None, tree=4)
