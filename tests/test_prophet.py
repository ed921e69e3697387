"""The prophet: what its first code got wrong, each with a test that the wrong would fail."""
import pytest
import torch

from learners import WORDS, batch_of, build, changes_nothing, distances, network, shaken, texts
from specdec_nb import Law, Llama
from specdec_nb.decode import decode
from specdec_nb.learned.hydra import PathState
from specdec_nb.learned.prophet import PastReader, Prophet, ProphetDrafter
from specdec_nb.roles import as_target, read


@pytest.fixture(scope="module")
def model(): return build()

@pytest.fixture(scope="module")
def own(model): return Llama.from_hf(model)


def heard(drafter, target, prompt, limit=24, **settings):
    "Of each draft: the text it stands behind, and the states that it was made from"
    seen, rows = [], PastReader.rows
    class Listening(PastReader):
        def rows(self, group):
            seen.extend((state.pending, path, state.states.clone()) for state, path in group)
            return rows(self, group)
    drafter.reader = Listening
    drafter.bind(target)
    tokens = list(prompt)
    for step in decode(target, drafter, prompt, limit=limit, **settings):
        if seen: yield list(tokens), seen[0]
        tokens += step.verdict.tokens
        seen.clear()


@pytest.mark.parametrize("m", [1, 3, 0])
def test_a_prophet_starts_from_the_newest_states(model, m):
    "Each draft starts from the states of the text as it is then; the original's stay the prompt's"
    target, net = as_target(model), shaken(Prophet.of(model, WORDS, reach=3, m=m).join(as_target(model)))
    rounds = list(heard(ProphetDrafter(net, k=3, tree=6), target, [3, 1, 4], law=Law(temperature=0)))
    assert len(rounds) > 4
    stale = 0
    for text, (pending, path, states) in rounds:
        fresh = read(target.open(text, ProphetDrafter(net).asks)).prefilled.hidden[4].float()
        assert pending == text[-1] == path[0] and torch.allclose(states, fresh[-m:] if m else fresh, atol=1e-5)
        first = read(target.open(rounds[0][0], ProphetDrafter(net).asks)).prefilled.hidden[4].float()
        stale += not torch.allclose(states[-1], first[-1], atol=1e-3)
    assert stale >= len(rounds) - 1, "the prompt's state would have been another"


def test_a_prophets_feed_forward_part_is_applied(model):
    net = network("prophet", model)
    batch = batch_of(as_target(model), net, texts(9))
    rows = [r for r, _ in net.guessed(batch)]
    for block in net.blocks:
        before = block.down.weight.detach().clone()
        with torch.no_grad(): block.down.weight.zero_()
        assert all((a - b).abs().max() > .01 for a, (b, _) in zip(rows, net.guessed(batch))), "every row, in every layer"
        with torch.no_grad(): block.down.weight.copy_(before)
    net.zero_grad()
    net.loss(batch)[0].backward()
    assert all(w.grad is not None and float(w.grad.abs().max()) > 0 for name, w in net.named_parameters() if name != "unsaid"), "and learns"


def test_a_prophet_is_told_the_words_from_its_state_on(model, monkeypatch):
    "Words a place early, as in the original, are not what training computed"
    net, target, text = network("prophet", model), as_target(model), texts(9)[0]
    def worst(): return max(distances(target, net, ProphetDrafter(net, k=3, tree=0), text))
    assert worst() < 1e-4
    rows = PastReader.rows
    monkeypatch.setattr(PastReader, "rows", lambda self, group: rows(self, [(state, [text[-2], *path]) for state, path in group]))
    assert worst() > 1e-2


@pytest.mark.parametrize("m", [1, 3, 0])
def test_rows_of_other_lengths_are_no_company(model, m):
    "Requests that know one, two and seven states, asked together, get what each gets alone; padded and not masked, they would not"
    net = shaken(Prophet.of(model, WORDS, reach=3, m=m).join(as_target(model)))
    def states(lengths):
        for i, n in enumerate(lengths):
            state = PathState(None, m)
            state.learn([5, 6 + i], torch.randn(n, 32, generator=torch.Generator().manual_seed(i)))
            yield state
    from specdec_nb import Draft
    draft, lengths = Draft([1, 2, 3], [-1, 0, 0]), (1, 2, 7)
    together = PastReader(net.packed()).score([(s, draft) for s in states(lengths)])
    alone = [PastReader(net.packed()).score([(s, draft)])[0] for s in states(lengths)]
    assert all(torch.allclose(a.rows, b.rows, atol=1e-4) for a, b in zip(together, alone))
    [one] = list(states((1,)))
    padded, _ = one, one.learn([5, 6], torch.zeros(0, 32))
    padded.states = torch.cat([torch.zeros(2, 32), one.states])
    spoilt = PastReader(net.packed()).score([(padded, draft)])[0].rows
    assert torch.allclose(spoilt, alone[0].rows, atol=1e-4) == (m == 1), "a row that sees only its own state sees no padding"


@pytest.mark.parametrize("m, told", [(1, False), (0, True), (0, False)])
def test_the_ends_of_the_family(model, own, m, told):
    "One state and no words, all states, with words and without: exact, and training computes what drafting does"
    net = shaken(Prophet.of(model, WORDS, reach=3, m=m, told=told).join(as_target(model)))
    assert max(distances(as_target(model), net, ProphetDrafter(net, k=3, tree=0), texts(9)[0])) < 1e-4
    batch = batch_of(as_target(model), net, texts(9))
    moved = {**batch, "tokens": (batch["tokens"] + 1) % 16}
    assert [not torch.equal(a, b) for (a, _), (b, _) in zip(net.guessed(batch), net.guessed(moved))] == [told] * 3
    changes_nothing(model, own, lambda: [ProphetDrafter(net, k=3, tree=6)], requests=2)


def test_a_windows_states(model):
    "What happened m states ago is seen, and nothing before; with m = 1 only the state itself"
    for m in (1, 2, 3, 0):
        net = shaken(Prophet.of(model, WORDS, reach=2, m=m, depth=2).join(as_target(model)))
        states, told = torch.randn(1, 6, 32), torch.tensor([[3, 5]])
        def sees(u):
            other = states.clone()
            other[0, u] += 1
            return not torch.equal(net.after(other, told), net.after(states, told))
        assert [sees(u) for u in range(6)] == [u > 5 - m or not m for u in range(6)]
    for wrong in (dict(reach=0), dict(m=-1), dict(depth=0)):
        with pytest.raises(ValueError, match="need .*, got .*" + "=".join(f"{k}={v}" for k, v in wrong.items())): Prophet.of(model, WORDS, **wrong)
