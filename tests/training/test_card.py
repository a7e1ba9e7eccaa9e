"""A model's card says what it was told as text, whoever told it: no name breaks a table or becomes markup."""

import re

import markdown_it

from resformer import ResformerConfig
from resformer.training.card import card
from resformer.training.config import run_config

EVIL = "a|b`c`\n# heading <script>alert(1)</script><img src=http://t.example/x.png> ![p](http://t.example) *x*"
MODEL = ResformerConfig(vocab_size=257, hidden_size=32, num_hidden_layers=1, num_attention_heads=2)


def test_text_on_a_card_is_text():
    run = run_config({"data.source": EVIL, "data.tokenizer": EVIL})
    summary = {"residual": "pre", "parameters": 100, "val_loss": 2.5, "device": EVIL}
    text = card(summary, run, MODEL, verdicts=[f"In the sweep the arm {EVIL} is worse.", EVIL])
    page = markdown_it.MarkdownIt("commonmark").enable("table").render(text.split("\n---\n", 1)[1])
    assert not re.search("<(script|img|em|a)[ >]", page)
    assert re.findall("<h[1-6]>(.*)</h", page) == [
        "A language model with <code>pre</code> residual connections",
        "Load it", "Wiring", "Figures", "Verdicts", "Training",
    ]  # fmt: skip
    assert page.count("<table>") == 3 and page.count("<li>") == 2
    assert page.count("a|b`c` # heading &lt;script&gt;") == 5


def test_plain_words_on_a_card_stay_as_they_are():
    run, summary = run_config({"data.tokenizer": "bpe:2048"}), {"residual": "pre", "parameters": 100, "end_state": "ok"}
    text = card(summary, run, MODEL, verdicts=["post: worse (p 0.01)."])
    for line in (
        "| end state | ok |",
        "| `data.tokenizer` | `bpe:2048` |",
        "| text | stdlib |",
        "- post: worse (p 0.01).",
    ):
        assert line in text
