"""Claims of learning rates, speed and noise. Criteria are committed before the run that they judge."""

from .claim import Claim, Criterion, Plot
from .edge import FullBatch
from .swept import BLOCKS, RATE, Trained
from .terms import At, AtBest, Minus, Over, Sensitivity, Spread
from .trained_depth import LOSS, NAKED

OVER_RATES = Plot("loss", "held-out loss, clipped at that of the start", "nats per token", x="learning rate",
                  log_y=False)  # fmt: skip
RATES = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
PRORES = Trained(
    {"pre": {"model.residual": "pre"}, "shallow to deep": {"model.residual": "prores(warmup_steps=60)"},
     "deep to shallow": {"model.residual": "prores(warmup_steps=60, schedule=reverse)"},
     "post": {"model.residual": "post"},
     "post, shallow to deep": {"model.residual": "prores(warmup_steps=60, norm=post)"},
     "post, deep to shallow": {"model.residual": "prores(warmup_steps=60, norm=post, schedule=reverse)"}},
    {"laptop": (12,), "gpu": (12,)}, seeds=4, steps={"laptop": 300})  # fmt: skip
EDGE = {"hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 2, "tie_word_embeddings": False}

CLAIMS = (
    Claim(
        name="seed-noise",
        says="Runs that differ only in their seed end within a few thousandths of a nat",
        source="modded-nanogpt repository, record of 4 January 2025",
        paper="124M parameters, 80 runs: standard deviation 0.0019 nat at a loss of 3.28",
        number="0.0019",
        ours="4 blocks, 64 wide, bytes, 200 steps of 512 tokens, 8 seeds; standard deviation of the held-out loss",
        study=Trained({"pre": {"model.residual": "pre"}}, {"laptop": (4,), "gpu": (4,)}, seeds=8),
        criteria=(Criterion("standard deviation, nats", Spread(At("loss", "pre", 4)), high=0.03),),
        plots=(LOSS,),
        sees="The range of the final loss over seeds that change weights, data order and nothing else.",
        shows_not="Not shown: larger or longer runs, which scatter less.",
        settles="seed-noise-longer, then the size of the paper",
    ),
    Claim(
        name="seed-noise-longer",
        says="Seeds differ by more amid the drop after the unigram plateau than past it",
        source="the reason that we suppose where seed-noise fails; modded-nanogpt repository, record of 4 January 2025",
        paper="124M parameters, 80 runs: standard deviation 0.0019 nat at a loss of 3.28",
        number="0.0019",
        ours="as seed-noise, with 800 steps in place of 200, 8 seeds; standard deviation of the held-out loss",
        study=Trained({"pre": {"model.residual": "pre"}}, {"laptop": (4,), "gpu": (4,)}, seeds=8,
                      steps={"laptop": 800, "gpu": 8000}),
        criteria=(Criterion("standard deviation, nats", Spread(At("loss", "pre", 4)), high=0.03),),
        plots=(LOSS,),
        sees="The same eight seeds, four times as long.",
        shows_not="Not shown: larger models.",
        settles="the size of the paper",
    ),
    Claim(
        name="warm-up-sensitivity",
        says="A longer warm-up makes the loss less sensitive to the learning rate",
        source="Wortsman et al. 2023, arXiv:2309.14322, figure 5",
        paper="10M to 1.2B parameters: sensitivity falls as warm-up grows from 1,000 to 25,000 of 100,000 steps",
        number="falls",
        ours="pre, 6 blocks, 64 wide, 512 tokens a step, AdamW, 200 steps, the first 0, 33 or 100 of them warm-up, "
             "rates 1e-3 to 1e-1, 4 seeds; mean over rates of the clipped loss less the least",
        study=Trained({"no warm-up": {"schedule.warmup_steps": 0}, "33 steps": {"schedule.warmup_steps": 33},
                       "100 steps": {"schedule.warmup_steps": 100}},
                      {"laptop": RATES, "gpu": RATES}, seeds=4, x=RATE, base={BLOCKS: 6}),
        criteria=(
            Criterion("no warm-up less 100 steps: sensitivity",
                      Minus(Sensitivity("no warm-up"), Sensitivity("100 steps")), low=0),
        ),
        plots=(OVER_RATES,),
        sees="How far the loss rises away from the best rate, for three lengths of warm-up.",
        shows_not="Not shown: runs long enough for a warm-up not to cost a share of them.",
        settles="longer runs (--size gpu)",
    ),
    Claim(
        name="qk-norm-sensitivity",
        says="QK-norm makes the loss less sensitive to the learning rate",
        source="Wortsman et al. 2023, arXiv:2309.14322, figure 1",
        paper="10M to 1.2B parameters: with QK-norm and a z-loss models train at rates up to 0.3; without, the "
              "attention logits grow and the rate at which runs diverge falls with size",
        number="S falls",
        ours="pre, 6 blocks, 64 wide, 512 tokens a step, AdamW without decay, 200 steps, 30 of them warm-up, rates "
             "1e-3 to 3e-1, 4 seeds; mean over rates of the clipped loss less the least",
        study=Trained({"without": {"model.qk_norm": "none"}, "with qk-norm": {"model.qk_norm": "head"}},
                      {"laptop": (1e-3, 1e-2, 1e-1, 3e-1), "gpu": (1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1)}, seeds=4,
                      x=RATE, base={BLOCKS: 6, "optimizer.weight_decay": 0}, recorded=("attention_logit_max",)),
        criteria=(
            Criterion("without less with QK-norm: sensitivity", Minus(Sensitivity("without"),
                      Sensitivity("with qk-norm")), low=0),
        ),
        plots=(OVER_RATES,),
        sees="How far the loss rises away from the best rate, with and without the norm on queries and keys.",
        shows_not="Not shown: larger models, in which the attention logits are what fails first.",
        settles="two sizes and seven rates (--size gpu)",
    ),
    Claim(
        name="depth-sensitivity",
        says="Depth makes the loss more sensitive to the learning rate",
        source="Wortsman et al. 2023, arXiv:2309.14322, figure 9",
        paper="sensitivity grows faster with depth than with width (512 wide, or 6 layers)",
        number="depth before width",
        ours="GPU only: pre, 512 wide, 4, 8 and 16 blocks, five rates, 3 seeds; mean over rates of the clipped loss "
             "less the least",
        study=Trained({f"{n} blocks": {BLOCKS: n} for n in (4, 8, 16)}, {"gpu": RATES}, seeds=3, x=RATE),
        criteria=(Criterion("16 less 4 blocks: sensitivity", Minus(Sensitivity("16 blocks"), Sensitivity("4 blocks")),
                            low=0),),
        plots=(OVER_RATES,),
        sees="How far the loss rises away from the best rate, for three depths.",
        shows_not="Not shown: width.",
        settles="the same for three widths",
    ),
    Claim(
        name="rezero-speed",
        says="ReZero reaches a given loss in fewer steps than Pre-LN",
        source="Bachlechner et al. 2020, arXiv:2003.04887, table 1",
        paper="12 layers, enwik8, to 1.2 bits per byte: 8,800 steps of ReZero, 13,690 of Post-LN with warm-up, 17,765 "
              "of Pre-LN",
        number="0.50 of Pre-LN's steps",
        ours="12 blocks, 64 wide, 512 tokens a step, AdamW, 300 steps, each arm at the best of 1e-3, 3e-3, 1e-2 "
             "(chosen by the other seeds), 4 seeds; steps to a training loss of 2.7 nats",
        study=Trained({"pre": {"model.residual": "pre"}, "post": {"model.residual": "post"}, "rezero": NAKED},
                      {"laptop": (1e-3, 3e-3, 1e-2), "gpu": (3e-4, 1e-3, 3e-3)}, seeds=4, x=RATE, base={BLOCKS: 12},
                      bar=2.7, steps={"laptop": 300}),
        criteria=(
            Criterion("steps, ReZero over Pre-LN", Over(AtBest("steps_to_bar", "rezero", "steps_to_bar"),
                      AtBest("steps_to_bar", "pre", "steps_to_bar")), high=1),
        ),
        plots=(Plot("steps_to_bar", "steps to 2.7 nats", "steps", x="learning rate", log_y=False), OVER_RATES),
        sees="How many steps each takes to the same training loss, by learning rate; 300 where it was not reached.",
        shows_not="Not shown: where each ends; and ReZero here has larger, untied embeddings, which it needs.",
        settles="Pre-LN with the same embeddings; longer runs (--size gpu, with a bar of its own)",
    ),
    Claim(
        name="prores-order",
        says="Branches that set in from shallow to deep lower the loss; from deep to shallow they do not, and break "
             "Post-LN",
        source="Chen et al. 2026 (ProRes), arXiv:2603.05369",
        paper="350M, 24 blocks, 6B tokens: perplexity 15.21 to 14.41; the reverse order diverges with Post-LN",
        number="-0.054 nat",
        ours="12 blocks, 64 wide, 512 tokens a step, AdamW at 3e-3, 300 steps, branches whole after 60, 4 seeds; "
             "held-out loss",
        study=PRORES,
        criteria=(
            Criterion("shallow to deep less deep to shallow: nats",
                      Minus(At("loss", "shallow to deep", 12), At("loss", "deep to shallow", 12)), high=0),
            Criterion("shallow to deep less pre: nats", Minus(At("loss", "shallow to deep", 12), At("loss", "pre", 12)),
                      high=0),
            Criterion("post, deep to shallow less shallow to deep: nats",
                      Minus(At("loss", "post, deep to shallow", 12), At("loss", "post, shallow to deep", 12)), low=0.1),
        ),
        plots=(LOSS,),
        sees="Where each order of setting in ends, with the norm in the branch and after the sum.",
        shows_not="Not shown: the sizes of the paper; and 60 steps are a guess, as the paper's 1,000 a block fit its "
                  "runs.",
        settles="the warm-up's length, crossed with depth (--size gpu)",
    ),
    Claim(
        name="adaptive-edge",
        says="Full-batch Adam trains at the adaptive edge of stability: the preconditioned sharpness settles at 38 "
             "over the rate",
        source="Cohen et al. 2022, arXiv:2207.14484",
        paper="(2 + 2 b1) / (1 - b1) = 38 at b1 = 0.9, for CNNs, ResNets and a Transformer",
        number="1 of the edge",
        ours="2 blocks, 32 wide, bytes, one batch of 64 sequences of 32, Adam (0.9, 0.999) at 3e-4, 1e-3 and 3e-3, "
             "1,500 steps, 3 seeds; largest eigenvalue of P^-1 H times rate / 38, mean over the last third",
        study=FullBatch((3e-4, 1e-3, 3e-3), 3, {
            "laptop": EDGE | {"sequences": 64, "sequence_length": 32, "steps": 1500},
            "gpu": EDGE | {"hidden_size": 128, "num_hidden_layers": 4, "sequences": 64, "sequence_length": 128,
                           "steps": 5000}}, seconds=400),
        criteria=tuple(Criterion(f"rate {rate:g}: share of the edge", At("of_the_edge", "Adam", rate), 0.7, 1.3)
                       for rate in (3e-4, 1e-3, 3e-3)),
        plots=(Plot("of_the_edge", "preconditioned sharpness", "share of 38 / rate", x="learning rate", log_y=False),
               Plot("fell", "by how much the loss fell", "nats", x="learning rate", log_y=False)),
        sees="Where the sharpest direction settles, as a share of what the theory of an adaptive step says.",
        shows_not="Not shown: mini-batches, decay, schedules, clipping: all that the other runs here have.",
        settles="more steps for the lowest rate, which comes to its edge last",
    ),
)  # fmt: skip
