"""Claims of how deep a model can be and still train. Criteria are committed before the run that they judge."""

from typing import Any

from .claim import Claim, Criterion, Plot
from .swept import BLOCKS, WARMUP, Trained
from .terms import At, Chance, Decades, Minus, Over

NAKED = {"model.residual": "rezero", "model.embedding_initializer_range": 1.0, "model.tie_word_embeddings": False,
         "because": "without any norm a small embedding hides every branch"}  # fmt: skip
AS_IN_2020 = {"model.norm": "layernorm", "model.gated_mlp": False, "model.hidden_act": "relu",
              "model.initialization": "xavier", "model.embedding_initializer_range": 1.0,
              "model.tie_word_embeddings": False, "optimizer.max_grad_norm": 0,
              "optimizer.weight_decay": 0}  # fmt: skip
"""LayerNorm, ReLU, Xavier, Adam, no clipping."""
LEARNED = -0.1
"""Nats of ``excess`` below which a model has learned more than frequencies."""

KINDS = ("pre", "plain", "post", "highway", "deepnorm")
SIX: dict[str, dict[str, Any]] = {kind: {"model.residual": kind} for kind in KINDS} | {"rezero": NAKED}
LADDER = Trained(
    {**SIX, "highway(bias=-4)": {"model.residual": "highway(bias=-4)"},
     "post as in 2020": {"model.residual": "post", **AS_IN_2020, "because": "the block and the start of the papers"}},
    {"laptop": (4, 24), "gpu": (4, 24, 100)}, seeds=6, recorded=("stream_gradient_rms", "token_similarity"),
    steps={"laptop": 150})  # fmt: skip
FOUR = {kind: SIX[kind] for kind in ("pre", "plain", "deepnorm", "rezero")}
DEEP = Trained(FOUR, {"laptop": (200,), "gpu": (200,)}, seeds=3, base={"train.compile": True}, steps={"laptop": 150})
DEEP_FOR_LONGER = Trained({"pre": SIX["pre"]}, {"laptop": (200,), "gpu": (200,)}, seeds=3, base={"train.compile": True},
                          steps={"laptop": 450, "gpu": 6000})  # fmt: skip

LOSS = Plot("loss", "held-out loss", "nats per token", log_y=False)
FAILURES = Plot("failed", "ended stuck or diverged", "share of the runs", log_y=False, share=True)
EXCESS = Plot("excess", "held-out loss above the unigram entropy", "nats per token", log_y=False)
SMALL = "64 wide, bytes of Python's standard library, 512 tokens a step, AdamW at 3e-3"

CLAIMS = (
    Claim(
        name="depth-that-trains",
        says="Much deeper networks can be trained with skips: plain ones stick where the others learn",
        source="Srivastava et al. 2015, arXiv:1505.00387; He et al. 2015, arXiv:1512.03385",
        paper="plain networks degrade by 20 layers, highway networks train at 50 and 100 (MNIST)",
        number="plain fails by 20",
        ours=f"4 and 24 blocks, {SMALL}, 30 steps of warm-up, 150 steps, 6 seeds; chance of ending stuck or diverged",
        study=LADDER,
        criteria=(
            Criterion("plain, 24 blocks: chance of failing", Chance("failed", "plain", 24), low=0.4),
            *(Criterion(f"{arm}, 24 blocks: chance of failing", Chance("failed", arm, 24), high=0.6)
              for arm in ("pre", "highway", "deepnorm", "rezero")),
        ),
        plots=(LOSS, FAILURES),
        sees="Where the loss of each kind stays at the unigram plateau, and how often.",
        shows_not="Not shown: what each would reach at its own best rate, or in more steps.",
        settles="recipes/sweeps/depth-ladder.yaml, which tunes the rate of each at every depth; for highway, "
                "highway-bias",
    ),
    Claim(
        name="highway-bias",
        says="A carry gate that starts further open lets a deep highway network train",
        source="Srivastava et al. 2015, arXiv:1505.00387, section 2.3",
        paper="biases of -1 to -10, more negative for deeper networks; 50 and 100 layers train",
        number="trains at 50 and 100",
        ours=f"24 blocks (48 gates: at a bias of -2 they carry 0.88^48 = 0.2 % of the embedding, at -4 42 %), {SMALL}, "
             "150 steps, 6 seeds; held-out loss",
        study=LADDER,
        criteria=(
            Criterion("24 blocks, bias of -4 less bias of -2: nats",
                      Minus(At("loss", "highway(bias=-4)", 24), At("loss", "highway", 24)), high=-0.05),
            Criterion("24 blocks, bias of -4: chance of failing", Chance("failed", "highway(bias=-4)", 24), high=0.6),
        ),
        plots=(LOSS, FAILURES),
        sees="The same network twice: all that differs is how far its gates are open at the start.",
        shows_not="Not shown: whether the gates end where they began.",
        settles="biases from -1 to -10 over depths",
    ),
    Claim(
        name="post-ln-depth",
        says="Post-LN trains when shallow and sticks when deep, where Pre-LN still learns",
        source="Wang et al. 2022, arXiv:2203.00555; Kim et al. 2025, arXiv:2502.02732",
        paper="Post-LN Transformers of 18-18 layers fail on IWSLT14; at 130M, lr 1e-3, 12 layers train and 24 end at a "
              "perplexity of 1,409 against 27",
        number="fails at 24",
        ours=f"4 and 24 blocks, {SMALL}, clipped at 1, 30 steps of warm-up, 150 steps, 6 seeds; chance of failing",
        study=LADDER,
        criteria=(
            Criterion("post, 24 blocks: chance of failing", Chance("failed", "post", 24), low=0.4),
            Criterion("post, 4 blocks: chance of failing", Chance("failed", "post", 4), high=0.6),
            Criterion("pre, 24 blocks: chance of failing", Chance("failed", "pre", 24), high=0.6),
        ),
        plots=(LOSS, FAILURES),
        sees="Post-LN against Pre-LN at two depths, with a modern block, a small normal start and clipped gradients.",
        shows_not="Not shown: the papers' own block and start (see post-ln-depth-2020), and higher rates.",
        settles="post-ln-depth-2020; recipes/sweeps/depth-ladder.yaml, where post ends badly at 0.01 from 5 blocks on",
    ),
    Claim(
        name="post-ln-depth-2020",
        says="With the block and the start of its time, and without clipping, Post-LN sticks when deep",
        source="Wang et al. 2022, arXiv:2203.00555; Xiong et al. 2020, arXiv:2002.04745",
        paper="18-18 layers fail on IWSLT14 (Xavier, ReLU, LayerNorm, Adam, no clipping)",
        number="fails at 18-18",
        ours=f"as post-ln-depth ({SMALL}), with LayerNorm, ReLU, Xavier, embeddings of unit variance, no clipping, no "
             "decay; 6 seeds",
        study=LADDER,
        criteria=(
            Criterion("24 blocks: chance of failing", Chance("failed", "post as in 2020", 24), low=0.4),
            Criterion("4 blocks: chance of failing", Chance("failed", "post as in 2020", 4), high=0.6),
        ),
        plots=(LOSS, FAILURES),
        sees="The same depths with what the papers used: whether the failure lies in where the norm stands alone.",
        shows_not="Not shown: encoders, cross-attention, a vocabulary of thousands.",
        settles="the rate, and the steps of warm-up, over which the papers' failures differ",
    ),
    Claim(
        name="vanishing-while-training",
        says="Without skips the gradient that reaches the embedding stays small while training, too",
        source="every introduction; He et al. 2015, arXiv:1512.03385",
        paper="degradation of deep plain networks, explained by gradients that vanish (which He et al. doubt)",
        number="vanishes",
        ours=f"24 blocks, f(norm(h)) without skip against pre, {SMALL}, after 150 steps, 6 seeds; RMS of the gradient "
             "at the embedding, and cosine of two tokens after the last block",
        study=LADDER,
        criteria=(
            Criterion("gradient at the embedding, plain over pre: decades",
                      Decades(Over(At("stream_gradient_rms", "plain", 24), At("stream_gradient_rms", "pre", 24))),
                      high=-1),
            Criterion("plain: cosine of two tokens after the last block", At("token_similarity", "plain", 24, 23),
                      low=0.9),
        ),
        plots=(Plot("stream_gradient_rms", "the gradient after each block (24)", "RMS of dL/dx", x="block",
                    layers_at=24, log_x=False),
               Plot("token_similarity", "are tokens alike? (1: all)", "cosine", x="block", layers_at=24, log_x=False,
                    log_y=False)),
        sees="What reaches each block after training: the gradient, and whether the tokens can still be told apart.",
        shows_not="Not shown: cause and effect; a network that has collapsed gives a gradient that is small and blind.",
        settles="the collapse at the start is plain-collapse; a start that keeps tokens apart without skips would tell",
    ),
    Claim(
        name="two-hundred-blocks",
        says="With skips a network of 200 blocks learns, without them it does not",
        source="He et al. 2015, arXiv:1512.03385 and 2016, arXiv:1603.05027",
        paper="ResNets of 110 and 1,001 layers train on CIFAR-10, plain ones degrade from 20 on",
        number="1,001 layers",
        ours=f"200 blocks, {SMALL}, 150 steps, 3 seeds; held-out loss less the unigram entropy",
        study=DEEP,
        criteria=(
            Criterion("plain: nats above the unigram entropy", At("excess", "plain", 200), low=LEARNED),
            Criterion("pre: nats above the unigram entropy", At("excess", "pre", 200), high=LEARNED),
        ),
        plots=(EXCESS, FAILURES),
        sees="Which kinds of 200 blocks have left the unigram plateau after 150 steps.",
        shows_not="Not shown: longer training; 77 thousand tokens are little.",
        settles="two-hundred-blocks-longer",
    ),
    Claim(
        name="two-hundred-blocks-longer",
        says="Pre-LN of 200 blocks only needs more steps than 150 to leave the unigram plateau",
        source="the reason that we suppose where two-hundred-blocks fails; He et al. 2016, arXiv:1603.05027",
        paper="none: ours",
        number="none",
        ours=f"200 blocks, {SMALL}, 450 steps, 3 seeds",
        study=DEEP_FOR_LONGER,
        criteria=(Criterion("pre: nats above the unigram entropy", At("excess", "pre", 200), high=LEARNED),),
        plots=(EXCESS,),
        sees="Whether the plateau is left at all.",
        shows_not="Not shown: another rate, or a start that is scaled with depth.",
        settles="the same with initialization: depth_scaled",
    ),
    Claim(
        name="deepnorm-deep",
        says="DeepNorm trains hundreds of layers",
        source="Wang et al. 2022, arXiv:2203.00555",
        paper="1,000 layers (2,500 sublayers) train on machine translation",
        number="1,000 layers",
        ours=f"200 blocks (400 sublayers), {SMALL}, 150 steps, 3 seeds; held-out loss less the unigram entropy",
        study=DEEP,
        criteria=(Criterion("nats above the unigram entropy", At("excess", "deepnorm", 200), high=LEARNED),),
        plots=(EXCESS,),
        sees="Whether 200 blocks of DeepNorm learn more than frequencies in 150 steps.",
        shows_not="Not shown: that depth helps; 4 blocks are better at this size.",
        settles="--size gpu, and 1,000 blocks",
    ),
    Claim(
        name="rezero-deep",
        says="ReZero trains language models of more than 100 layers",
        source="Bachlechner et al. 2020, arXiv:2003.04887",
        paper="Transformers of 64 and 128 layers train on enwik8, without norms and warm-up",
        number="128 layers",
        ours=f"200 blocks, no norm, {SMALL}, 150 steps, 3 seeds; held-out loss less the unigram entropy",
        study=DEEP,
        criteria=(Criterion("nats above the unigram entropy", At("excess", "rezero", 200), high=LEARNED),),
        plots=(EXCESS,),
        sees="Whether 200 blocks of ReZero learn more than frequencies in 150 steps.",
        shows_not="Not shown: that depth helps; 4 blocks are better at this size.",
        settles="--size gpu",
    ),
    Claim(
        name="warm-up",
        says="Post-LN needs a warm-up, Pre-LN does not",
        source="Xiong et al. 2020, arXiv:2002.04745",
        paper="IWSLT14, Adam at 1e-3: without warm-up Post-LN ends at 8.45 BLEU, with it at about 34; Pre-LN is the "
              "same without",
        number="8.45 against 34 BLEU",
        ours="12 blocks, LayerNorm, ReLU, Xavier, no clipping, 64 wide, 512 tokens a step, Adam at 1e-3, 300 steps, "
             "the first 0 or 100 of them warm-up, 6 seeds; held-out loss",
        study=Trained({"pre": {"model.residual": "pre"}, "post": {"model.residual": "post"}},
                      {"laptop": (0, 100), "gpu": (0, 100)}, seeds=6, x=WARMUP, learning_rate=1e-3,
                      base={**AS_IN_2020, BLOCKS: 12}, steps={"laptop": 300}),
        criteria=(
            Criterion("Post-LN, what warm-up gains: nats", Minus(At("loss", "post", 0), At("loss", "post", 100)),
                      low=0.1),
            Criterion("Pre-LN, what warm-up gains: nats", Minus(At("loss", "pre", 0), At("loss", "pre", 100)),
                      high=0.1),
        ),
        plots=(Plot("loss", "held-out loss", "nats per token", x="steps of warm-up", log_x=False, log_y=False),
               Plot("failed", "ended stuck or diverged", "share of the runs", x="steps of warm-up", log_x=False,
                    log_y=False, share=True)),
        sees="Two lines from no warm-up to a third of the run: steep where the first steps do harm.",
        shows_not="Not shown: other rates; a lower one needs less warm-up.",
        settles="warm-up crossed with rates and depths (--size gpu)",
    ),
)  # fmt: skip
