"""What comes over the wire: prompts that are not read, stops between letters, messages that are refused."""
import json

import pytest

from served import BOUNDS, TOKENIZER
from specdec_nb.serving.wire import Refused, read_body, stops_at


def test_a_hundred_thousand_prompts_are_not_read():
    "There are too many, which can be known before"
    class Counting:
        asked = 0
        def __call__(self, text): self.asked += 1
    tokenizer, raw = Counting(), json.dumps(dict(prompt=["a"] * 100_000)).encode()
    with pytest.raises(Refused, match="at most 6 answers.*100000"): read_body(raw, "completion", tokenizer, 259, 512, BOUNDS)
    assert tokenizer.asked == 0


def test_a_stop_is_seen_across_what_is_no_text():
    "Special tokens stand between its letters, as many as you like"
    [ends] = stops_at(TOKENIZER, ("ab",), 1)
    a, b = TOKENIZER("ab").input_ids
    assert ends([9, a, *[257] * 50, b]) and not ends([a, *[257] * 50, b]) and not ends([9, b, *[257] * 50, a])


@pytest.mark.parametrize("raw, says", [(b'{"messages": [{"role": "tool", "content": "a"}]}', "role"), (b'{"messages": [{"role": "user", "content": "a", "name": "b"}]}', "name"),
    (b'{"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}', "text"), (b'{"messages": [{"role": "user", "content": "a"}], "top_logprobs": 2}', "needs logprobs"),
    (b'{"messages": [{"role": "user", "content": "a"}], "temperature": 0.001}', "0.01"), (b'{"messages": [{"role": "user", "content": "a"}], "response_format": {"type": "json_object"}}', "response_format"),
    (b'{"messages": [{"role": "user", "content": null}]}', "content is a text"), (b'{"messages": [{"role": "user", "content": [{"type": "text", "text": "a", "cache": 1}]}]}', "parts"),
    (b'{"messages": [{"role": "user", "content": "a"}], "store": 0}', "store"), (b'{"messages": [{"role": "user", "content": "a"}], "parallel_tool_calls": 1}', "parallel_tool_calls"),
    (b'{"messages": [{"role": "user", "content": "a"}], "logit_bias": {"05": 1}}', "token ids"), (b'{"messages": [{"role": "user", "content": "a"}], "logit_bias": {"1_0": 1}}', "token ids"),
    (b'{"messages": [{"role": "user", "content": "a"}], "stream_options": {"include_usage": true}}', "needs stream")])
def test_what_chat_refuses(raw, says):
    with pytest.raises(Refused, match=says): read_body(raw, "chat", TOKENIZER, 259, 512)
