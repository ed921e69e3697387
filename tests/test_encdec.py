"""Encoder-decoders as targets: `generate` equals `model.generate`, greedily and keyed, in batches, whoever drafts; what cannot be served is refused."""
import sys
import threading

import pytest
import torch
import transformers as hf

from drafters import Wild
from specdec_nb import Draft, generate
from specdec_nb.decoding.encdec import EncoderDecoderTarget, Source, chain_equals_steps, doors, told
from specdec_nb.models.hf import HFTarget
from specdec_nb.models.trials import tree_equals_paths
from specdec_nb.roles import as_target

pytestmark = pytest.mark.filterwarnings("ignore")
BART = dict(vocab_size=60, d_model=32, encoder_layers=1, decoder_layers=2, encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=48,
            decoder_ffn_dim=48, max_position_embeddings=64, pad_token_id=1, bos_token_id=0, eos_token_id=2, decoder_start_token_id=2, forced_eos_token_id=None)
T5 = dict(vocab_size=60, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_decoder_layers=2, num_heads=4, pad_token_id=0, eos_token_id=1, decoder_start_token_id=0)
LED = {**BART, "max_encoder_position_embeddings": 64, "max_decoder_position_embeddings": 64, "attention_window": 8}
GEMMA = dict(vocab_size=60, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=8,
             max_position_embeddings=64, sliding_window=6, query_pre_attn_scalar=8)
WHISPER = dict(BART, max_source_positions=20, max_target_positions=64, num_mel_bins=8, decoder_start_token_id=3, begin_suppress_tokens=None, suppress_tokens=None)
FAMILIES = {"Bart": (BART, True), "MBart": (BART, True), "Pegasus": (BART, True), "M2M100": (BART, True), "LED": (LED, True),
            "T5": (T5, True), "SwitchTransformers": ({**T5, "num_experts": 2}, True), "UMT5": (T5, False), "PegasusX": (BART, False),
            "T5Gemma": (dict(encoder=GEMMA, decoder=GEMMA, vocab_size=60), True)}


def build(kind, config):
    torch.manual_seed(0)
    model = kind(config).double().eval()
    for weight in model.parameters():
        if weight.dim() > 1: torch.nn.init.normal_(weight, std=.35)
    return model


def family(name, **changes):
    return build(getattr(hf, f"{name}ForConditionalGeneration"), getattr(hf, f"{name}Config")(**{**FAMILIES[name][0], **changes}))


def batch(model, left=False):
    g, pad = torch.Generator().manual_seed(1), model.config.pad_token_id or 0
    ids, mask = torch.full((3, 9), pad), torch.zeros(3, 9, dtype=torch.long)
    for b, n in enumerate((5, 9, 3)):
        at = slice(9 - n, 9) if left else slice(n)
        ids[b, at], mask[b, at] = torch.randint(3, 60, (n,), generator=g), 1
    return dict(input_ids=ids, attention_mask=mask)


def same(model, call, n=12, drafters=("lookup", "auto"), **options):
    options = dict(max_new_tokens=n, repetition_penalty=2.5) | options
    plain = model.generate(**call, **options, do_sample=False)
    truth = plain[0].tolist()
    assert len(set(plain.flatten().tolist())) > 5, "a model that repeats itself passes everything"
    for drafter in (*drafters, Wild(1, truth)):
        assert torch.equal(generate(model, **call, drafter=drafter, **options, do_sample=False), plain), drafter
    keyed = [generate(model, **call, drafter=d, **options, do_sample=True, seed=3) for d in ("none", Wild(2, truth))]
    assert torch.equal(*keyed)
    return plain


@pytest.mark.parametrize("name", FAMILIES)
def test_families(name):
    model = family(name)
    same(model, batch(model))
    target = as_target(model)
    assert target.branches == FAMILIES[name][1] and target.batches == (FAMILIES[name][1] and name != "LED")
    calls = dict(max_new_tokens=12, do_sample=False, no_repeat_ngram_size=50)          # rows that repeat themselves run ahead of the others
    assert torch.equal(generate(model, **batch(model), drafter="lookup", **calls), model.generate(**batch(model), **calls))


@pytest.mark.parametrize("drafter", ["suffix", "recycling", "lookahead", "pool", "reference", "rest"])
def test_drafters(drafter):
    for name in ("Bart", "T5"):
        model = family(name)
        same(model, batch(model, left=name == "T5"), drafters=(drafter,))


@pytest.mark.parametrize("name", ["Bart", "LED", "T5"])
def test_padding_before_a_decoders_text(name):
    "Where it moves positions it is refused, in a batch, too; elsewhere the text is the library's"
    model = family(name)
    begin, pad = model.generation_config.decoder_start_token_id, model.config.pad_token_id
    call = dict(batch(model), decoder_input_ids=torch.tensor([[begin, 5, 6], [pad, begin, 9], [begin, 7, 8]]), decoder_attention_mask=torch.tensor([[1, 1, 1], [0, 1, 1], [1, 1, 1]]))
    options = dict(max_new_tokens=8, do_sample=False, repetition_penalty=2.5)
    if name == "T5": assert torch.equal(generate(model, **call, **options), model.generate(**call, **options))
    else:
        with pytest.raises(ValueError, match="masked tokens on the left"): generate(model, **call, **options)


def test_marian():
    model = build(hf.MarianMTModel, hf.MarianConfig(**BART, decoder_vocab_size=60))
    same(model, batch(model))


def test_options_of_encoder_decoders():
    for name in ("Bart", "T5"):
        model = family(name)
        options = dict(forced_bos_token_id=7, forced_eos_token_id=9, decoder_start_token_id=4, encoder_repetition_penalty=1.2, encoder_no_repeat_ngram_size=2)
        call, options = batch(model), options | dict(max_length=10, do_sample=False)
        assert torch.equal(generate(model, **call, **options), model.generate(**call, **options))
        begun = call | dict(decoder_input_ids=torch.tensor([[4, 5, 6], [4, 7, 8], [4, 9, 9]]))
        same(model, begun)
        two = generate(model, **call, max_new_tokens=6, do_sample=True, num_return_sequences=2, seed=1)
        assert torch.equal(two, generate(model, **call, max_new_tokens=6, do_sample=True, num_return_sequences=2, seed=1, drafter="none")) and len(two) == 6


def test_at_the_end_of_what_a_decoder_reads():
    for name in ("Bart", "LED"):
        model = family(name, max_position_embeddings=24, max_decoder_position_embeddings=24)
        call = batch(model) | dict(decoder_input_ids=torch.randint(3, 60, (3, 14), generator=torch.Generator().manual_seed(2)))
        same(model, call, n=10)


def test_whisper_speech_and_pictures():
    g = torch.Generator().manual_seed(1)
    whisper = build(hf.WhisperForConditionalGeneration, hf.WhisperConfig(**WHISPER))
    whisper.generation_config.no_timestamps_token_id = 50
    sound = torch.randn(2, 8, 40, generator=g).double()
    plain = whisper.generate(sound, max_new_tokens=12, do_sample=False)
    for drafter in ("lookup", "recycling", Wild(1, plain[0].tolist())):
        assert torch.equal(generate(whisper, input_features=sound, drafter=drafter, max_new_tokens=12, do_sample=False), plain)
    assert as_target(whisper).branches
    speech = {k: v for k, v in BART.items() if "position" not in k} | dict(max_source_positions=40, max_target_positions=64, input_feat_per_channel=8,
                                                                           conv_kernel_sizes=(3,), num_conv_layers=1, conv_channels=16)
    model = build(hf.Speech2TextForConditionalGeneration, hf.Speech2TextConfig(**speech))
    same(model, dict(input_features=torch.randn(2, 30, 8, generator=g).double()))
    eyes = hf.ViTConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=48, image_size=8, patch_size=4)
    hand = hf.GPT2Config(vocab_size=60, n_embd=32, n_layer=2, n_head=4, n_positions=64, is_decoder=True, add_cross_attention=True, bos_token_id=0, eos_token_id=1)
    model = build(hf.VisionEncoderDecoderModel, hf.VisionEncoderDecoderConfig.from_encoder_decoder_configs(eyes, hand))
    for config in (model.config, model.generation_config): config.decoder_start_token_id, config.pad_token_id = 0, 1
    same(model, dict(pixel_values=torch.randn(2, 3, 8, 8, generator=g).double()))


def test_what_reads_one_token_a_call_is_refused():
    sizes = {k: v for k, v in BART.items() if k != "vocab_size"}
    model = build(hf.FSMTForConditionalGeneration, hf.FSMTConfig(langs=["a", "b"], src_vocab_size=60, tgt_vocab_size=60, **sizes))
    with pytest.raises(ValueError, match="FSMT.*several tokens in one call"): generate(model, **batch(model), max_new_tokens=3)
    model = family("Bart")
    with pytest.raises(ValueError, match="training mode"): generate(model.train(), **batch(model), max_new_tokens=3)
    with pytest.raises(ValueError, match="num_beams"): generate(model.eval(), **batch(model), max_new_tokens=3, num_beams=2)
    with pytest.raises(ValueError, match="past_key_values"): generate(model, input_ids=torch.tensor([[5, 6]]), past_key_values=hf.DynamicCache(), max_new_tokens=3)
    with pytest.raises(ValueError, match="a text of its own"): EncoderDecoderTarget(model).open([2])


def test_the_trials_can_fail():
    class Forgetful(EncoderDecoderTarget):
        "The padding token counts as a position of its own"
        def run(self, inputs, feeds):
            self.moody = []
            return super().run(inputs, feeds)
    model = family("M2M100")
    for kind, good in ((EncoderDecoderTarget, True), (Forgetful, False)):
        if good: assert kind(model).tried(chain_equals_steps)
        else:
            with pytest.raises(ValueError, match="one by one"): kind(model)
    target = EncoderDecoderTarget(family("Bart"))
    target.blank, target.doors = torch.randn(1, 7, 32).double(), []
    assert not tree_equals_paths(target)


def test_nothing_is_left_of_a_call():
    model = family("T5")
    same(model, batch(model))
    assert all(not m._forward_pre_hooks and not m._forward_hooks for m in model.modules())
    found = doors(model.decoder)
    with pytest.raises(RuntimeError, match="inside"):
        with told(found, torch.tensor([[0]]), torch.tensor([[0]])): raise RuntimeError("inside")
    assert found and all(not m._forward_pre_hooks for m, _ in found)


def test_a_source_is_read_once():
    model = family("Bart")
    reads, layers = [], []
    model.model.encoder.register_forward_hook(lambda *args: reads.append(1))
    model.model.decoder.layers[0].encoder_attn.k_proj.register_forward_hook(lambda *args: layers.append(1))
    as_target(model).branches
    reads.clear(), layers.clear()
    generate(model, input_ids=torch.tensor([[5, 6, 7]]), max_new_tokens=12, do_sample=False, drafter="lookup")
    assert len(reads) == 1 and len(layers) <= 2                   # trials before the call may have looked


def test_sources_together():
    one, two = Source(torch.ones(1, 3, 2)), Source(torch.ones(1, 2, 2), torch.tensor([[1, 0]]))
    assert Source.together([one, two]).mask.tolist() == [[1, 1, 1], [1, 0, 0]]
    assert Source.together([one, one]).mask is None
    assert issubclass(EncoderDecoderTarget, HFTarget) and Draft() is not None


def at_once(*calls):
    "What the calls return, each made in a thread of its own while the others run"
    found, switch = {}, sys.getswitchinterval()
    def work(i, call):
        try: found[i] = call()
        except Exception as e: found[i] = e
    threads = [threading.Thread(target=work, args=each) for each in enumerate(calls)]
    sys.setswitchinterval(1e-4)
    try:
        for t in threads: t.start()
        for t in threads: t.join()
    finally: sys.setswitchinterval(switch)
    return [found[i] for i in range(len(calls))]


@pytest.mark.parametrize("name", ["T5", "Bart"])
def test_threads_share_a_model(name):
    "What a thread tells the decoder of places holds for its own calls: neither for another speculative call, nor for a plain one"
    model, told_of = family(name), dict(max_new_tokens=7, do_sample=False, repetition_penalty=2.5)
    texts = [torch.randint(3, 60, (1, n), generator=torch.Generator().manual_seed(n)) for n in (5, 9, 7)]
    plain = [model.generate(ids, **told_of) for ids in texts]
    as_target(model).branches
    def ours(i, seed): return lambda: [generate(model, texts[i], drafter=Wild(seed + j, plain[i][0].tolist()), **told_of) for j in range(2)]
    found = at_once(ours(0, 1), ours(1, 9), lambda: [model.generate(texts[2], **told_of) for _ in range(4)])
    for wanted, texts_of in zip(plain, found):
        assert not isinstance(texts_of, Exception), texts_of
        assert all(torch.equal(wanted, text) for text in texts_of)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_threads_wait_for_a_trial():
    "A trial in one thread is not taken for passed in another; one that broke off is made again"
    model = family("PegasusX")
    texts = torch.randint(3, 60, (1, 7), generator=torch.Generator().manual_seed(1))
    told_of = dict(max_new_tokens=10, do_sample=False, repetition_penalty=2.5)
    plain = model.generate(texts, **told_of)
    for text in at_once(*[lambda i=i: generate(model, texts, drafter=Wild(i, plain[0].tolist()), **told_of) for i in range(2)]):
        assert torch.is_tensor(text) and torch.equal(text, plain), text
    target, calls = as_target(model), []
    def breaks(target):
        calls.append(1)
        if len(calls) == 1: raise KeyboardInterrupt
        return False
    with pytest.raises(KeyboardInterrupt): HFTarget.tried(target, breaks)
    assert not HFTarget.tried(target, breaks) and not HFTarget.tried(target, breaks) and len(calls) == 2
