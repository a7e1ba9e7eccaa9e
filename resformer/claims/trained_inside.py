"""Claims of what a trained model's stream carries. Criteria are committed before the run that they judge."""

from .claim import Claim, Criterion, Plot
from .looks import Curve
from .swept import Trained
from .terms import At, Decades, Layers, Minus, Over
from .trained_depth import LOSS
from .trained_looks import Lesions, Profile, Reads, Withheld

DENSE = ("denseformer", "concat", "unet", "attn_res")
READERS = Trained({"pre": {"model.residual": "pre"}, "highway": {"model.residual": "highway(bias=-4)"},
                   **{kind: {"model.residual": kind} for kind in DENSE}},
                  {"laptop": (12,), "gpu": (12,)}, seeds=4, looks=(Lesions(), Reads(), Withheld()),
                  steps={"laptop": 300})  # fmt: skip
CURSE = Trained({"pre": {"model.residual": "pre"}, "lns": {"model.residual": "lns"},
                 "pre, scaled start": {"model.residual": "pre", "model.initialization": "depth_scaled",
                                       "because": "the alternative of the paper"}},
                {"laptop": (24,), "gpu": (24,)}, seeds=4, recorded=("stream_rms", "angular_distance"),
                steps={"laptop": 300})  # fmt: skip
TURN = Plot("angular_distance", "how far each block turns the stream", "share of half a turn", x="block", log_x=False,
            log_y=False, layers_at=24)  # fmt: skip
READING = "12 blocks, 64 wide, 512 tokens a step, AdamW at 3e-3, 300 steps, 4 seeds"


def surroundings(depth: int) -> tuple[Plot, ...]:
    """The loss around the weights of models of so many blocks, and how smooth it is there."""
    return (
        Plot("loss_along", "along a filter-normalised direction (10: the trained weights)", "nats per token",
             x="place on the line", layers_at=depth, log_x=False, log_y=False),
        Plot("non_convexity", "share of negative curvature", "|smallest| over largest eigenvalue", log_x=False),
        Plot("gradient_change", "does the gradient keep its word?", "change, share of the gradient", log_x=False),
    )  # fmt: skip


def rougher(arm: str, depth: int) -> tuple[Criterion, ...]:
    """That an arm's landscape is less convex than that of pre, and its gradient changes faster."""
    return tuple(
        Criterion(f"{words}, {arm} over pre: decades", Decades(Over(At(metric, arm, depth), At(metric, "pre", depth))),
                  low=0)
        for words, metric in (("non-convexity", "non_convexity"), ("change of the gradient", "gradient_change"))
    )  # fmt: skip


CLAIMS = (
    Claim(
        name="features-reused",
        says="Late blocks read what early ones wrote",
        source="Huang et al. 2016 (DenseNet), arXiv:1608.06993, figure 5; Pagliardini et al. 2024, arXiv:2402.02622; "
               "Ronneberger et al. 2015 (U-Net), arXiv:1505.04597",
        paper="all layers of a dense block spread their weights over many earlier ones; DenseFormer's late blocks put "
              "weight on the embedding",
        number="weight on early layers",
        ours=f"{READING}; share of what the last quarter of the sites reads that was written by the embedding and the "
             "first quarter, along the wiring alone",
        study=READERS,
        criteria=tuple(Criterion(f"{kind}: share of early writes", At("early_share", kind, 12), low=0.1)
                       for kind in DENSE),
        plots=(Plot("reach", "how many sites back each block's MLP reads (12 blocks)", "sites, mean", x="block",
                    layers_at=12, log_x=False, log_y=False),
               Plot("early_share", "read of the embedding and the first quarter", "share", log_x=False, log_y=False),
               Plot("last_share", "read of the site just before", "share", log_x=False, log_y=False)),
        sees="How far back each block reads, through its wiring, after training.",
        shows_not="Not shown: that what is read is used (see features-withheld), nor that a plain stream, which passes "
                  "all on, offers less.",
        settles="the weights over depth of longer runs (the probe reuse of a run)",
    ),
    Claim(
        name="features-withheld",
        says="The loss rises when late blocks are denied what early ones wrote",
        source="Huang et al. 2016, arXiv:1608.06993; Elhage et al. 2021 (a framework for Transformer circuits, "
               "transformer-circuits.pub repository)",
        paper="early features stay in the stream and are read by all later layers",
        number="used directly",
        ours=f"pre, {READING}; increase of the held-out loss where the last quarter of the blocks reads the mean over "
             "tokens in place of what the embedding and the first quarter wrote, against the quarter just before",
        study=READERS,
        criteria=(
            Criterion("early writes withheld: nats", At("withheld_early", "pre", 12), low=0.1),
            Criterion("early over recent: nats, ratio", Over(At("withheld_early", "pre", 12),
                      At("withheld_recent", "pre", 12)), low=1),
        ),
        plots=(Plot("withheld_early", "without early writes", "increase, nats", log_x=False, log_y=False),
               Plot("withheld_recent", "without the quarter before", "increase, nats", log_x=False, log_y=False)),
        sees="What the last blocks and the read-out lose when only later features reach them.",
        shows_not="Not shown: what would be lost after training anew without them.",
        settles="training with the early writes cut off",
    ),
    Claim(
        name="highway-lesions",
        says="Most blocks of a trained highway network can be dropped one at a time; the early ones matter most",
        source="Srivastava et al. 2015, arXiv:1507.06228, section 4.2",
        paper="MNIST, 50 layers: about 60 % can be lesioned without harm; CIFAR-100: early layers matter",
        number="60 % without harm",
        ours=f"highway (bias -4), {READING}; increase of the loss without a block's branches, first third over last; "
             "share of branches worth 0.01 nat or more",
        study=READERS,
        criteria=(
            Criterion("increase of the loss, first third over last: decades",
                      Decades(Over(Layers("lesion_increase", "highway", 12, 0, 1 / 3),
                                   Layers("lesion_increase", "highway", 12, 2 / 3, 1))), low=0),
            Criterion("share of useful branches", At("useful_share", "highway", 12), high=0.6),
        ),
        plots=(Plot("lesion_increase", "without a block's branches, one at a time (12 blocks)", "increase, nats",
                    x="block", layers_at=12, log_x=False, log_y=False),
               Plot("above_increase", "without all blocks above", "increase, nats", x="block", layers_at=12,
                    log_x=False, log_y=False)),
        sees="What each block is worth, by depth, for six wirings.",
        shows_not="Not shown: easy data, on which the 60 % were found; a language model has use for every block.",
        settles="longer runs; deeper ones, which have blocks to spare",
    ),
    Claim(
        name="landscape-trained",
        says="After training, too, skips make the loss landscape smoother",
        source="Li et al. 2018, arXiv:1712.09913; Santurkar et al. 2018, arXiv:1805.11604",
        paper="ResNet-56 without skips has a chaotic, non-convex surface around its minimum; with skips a smooth one",
        number="convex with skips",
        ours="8 blocks, 32 wide, 512 tokens a step, AdamW at 3e-3, 200 steps, 4 seeds; |smallest| over largest "
             "eigenvalue of the Hessian, and the change of the gradient on a way of 1 % of the weights' length; plain "
             "over pre",
        study=Trained({"pre": {"model.residual": "pre"}, "plain": {"model.residual": "plain"}},
                      {"laptop": (8,), "gpu": (8,)}, seeds=4, base={"model.hidden_size": 32},
                      looks=(Curve(), Profile())),
        criteria=rougher("plain", 8),
        plots=(*surroundings(8),
               Plot("sharpness", "largest eigenvalue of the Hessian", "lambda_max", log_x=False),
               Plot("trace", "its trace", "trace", log_x=False, log_y=False)),
        sees="The loss around the trained weights, and four numbers for how smooth it is there.",
        shows_not="Not shown: equal losses; the plain network ends where it has learned frequencies alone, and a "
                  "plateau is smooth in its own way.",
        settles="landscape-shallow: a depth at which the plain network may train as well",
    ),
    Claim(
        name="landscape-shallow",
        says="Where the plain network learns, too, skips still make its landscape smoother",
        source="the reason that we suppose where landscape-trained fails; Li et al. 2018, arXiv:1712.09913",
        paper="shallow ResNets have smooth surfaces with and without skips; the difference comes with depth",
        number="no difference when shallow",
        ours="2 blocks, 32 wide, 512 tokens a step, AdamW at 3e-3, 400 steps, 4 seeds; as landscape-trained",
        study=Trained({"pre": {"model.residual": "pre"}, "plain": {"model.residual": "plain"}},
                      {"laptop": (2,), "gpu": (2,)}, seeds=4, base={"model.hidden_size": 32},
                      looks=(Curve(), Profile()), steps={"laptop": 400}),
        criteria=rougher("plain", 2),
        plots=(*surroundings(2), LOSS),
        sees="The same numbers at two blocks, and the loss that each network reaches there.",
        shows_not="Not shown: deep networks, which the claim is about, and of which the plain ones do not learn here.",
        settles="landscape-half, for plain networks do not learn at 2 blocks either",
    ),
    Claim(
        name="landscape-half",
        says="Taking away the MLPs' skips alone makes the landscape rougher",
        source="the control that landscape-trained lacks, a network without skips that learns; Li et al. 2018, "
               "arXiv:1712.09913",
        paper="none: ours",
        number="none",
        ours="4 blocks, 32 wide, 512 tokens a step, AdamW at 3e-3, 400 steps, 4 seeds, skips around attention only; "
             "the numbers of landscape-trained",
        study=Trained({"pre": {"model.residual": "pre"},
                       "attention only": {"model.residual": {"attention": "pre", "mlp": "plain"}}},
                      {"laptop": (4,), "gpu": (4,)}, seeds=4, base={"model.hidden_size": 32},
                      looks=(Curve(), Profile()), steps={"laptop": 400}),
        criteria=(
            Criterion("skips around attention only: nats above the unigram entropy",
                      At("excess", "attention only", 4), high=-0.1),
            *rougher("attention only", 4),
        ),
        plots=(*surroundings(4), LOSS),
        sees="The same numbers for networks that have lost half of their skips.",
        shows_not="Not shown: equal losses, at which sharpness would compare.",
        settles="runs that are stopped at equal losses",
    ),
    Claim(
        name="curse-of-depth",
        says="After training, too, the late blocks of Pre-LN hardly turn a stream that has grown; LayerNorm Scaling "
             "keeps it small",
        source="Sun et al. 2025, arXiv:2502.05795",
        paper="LLaMA-130M to 1B: output variance of Pre-LN grows with depth, angular distances of deep blocks are near "
              "0",
        number="variance of LNS below that of Pre-LN",
        ours="24 blocks, 64 wide, 512 tokens a step, AdamW at 3e-3, 300 steps, 4 seeds; RMS of the stream at the end, "
             "and turn of the last quarter of the blocks over that of the first",
        study=CURSE,
        criteria=(
            Criterion("stream's RMS at the end, Pre-LN over LNS", Over(At("stream_rms", "pre", 24, 23),
                      At("stream_rms", "lns", 24, 23)), low=1.2),
            Criterion("Pre-LN: turn of the last quarter over that of the first",
                      Over(Layers("angular_distance", "pre", 24, 0.75, 1),
                           Layers("angular_distance", "pre", 24, 0, 0.25)), high=0.5),
        ),
        plots=(Plot("stream_rms", "the stream after each block (24)", "RMS", x="block", log_x=False, layers_at=24),
               TURN),
        sees="Whether the profile of the start (curse-of-depth-start) survives training.",
        shows_not="Not shown: billions of tokens, over which the curse is said to grow.",
        settles="a longer run (--size gpu)",
    ),
    Claim(
        name="lns-loss",
        says="LayerNorm Scaling lowers the loss of a deep Pre-LN model",
        source="Sun et al. 2025, arXiv:2502.05795",
        paper="130M, 2.2B tokens: perplexity 26.73 to 25.76 (0.037 nat); scaled initialisation 26.04",
        number="-0.037 nat",
        ours="24 blocks as in curse-of-depth; held-out loss, LNS less Pre-LN, at one rate",
        study=CURSE,
        criteria=(Criterion("LNS less Pre-LN: nats", Minus(At("loss", "lns", 24), At("loss", "pre", 24)), high=0),),
        plots=(LOSS, TURN),
        sees="Where the three end after 300 steps, at the same rate.",
        shows_not="Not shown: each at its own best rate, which decides such differences (recipes/sweeps/zoo.yaml).",
        settles="the zoo sweep, which tunes rates; --size gpu",
    ),
    Claim(
        name="hyper-gain-trained",
        says="Training drives the composite gain of hyper-connections up; that of mHC stays near 1",
        source="Xie et al. 2025 (mHC), arXiv:2512.24880",
        paper="27B model: composite gain of hyper-connections peaks at about 3,000, of mHC at about 1.6",
        number="3,000 against 1.6",
        ours="12 blocks (24 mixings), 64 wide, 4 streams, 512 tokens a step, AdamW at 3e-3, 200 steps, 3 seeds; "
             "largest absolute row sum of the product of all mixings",
        study=Trained({"hyper": {"model.residual": "hyper"}, "mhc": {"model.residual": "mhc"}},
                      {"laptop": (12,), "gpu": (12,)}, seeds=3, recorded=("composite_gain.forward",)),
        criteria=(
            Criterion("hyper-connections, composite gain: decades",
                      Decades(At("composite_gain.forward", "hyper", 12, 11)), low=0.3),
            Criterion("mHC: composite gain", At("composite_gain.forward", "mhc", 12, 11), 0.9, 1.6),
        ),
        plots=(Plot("composite_gain.forward", "of all mixings up to a block (12)", "largest absolute row sum",
                    x="block", layers_at=12, log_x=False),),
        sees="How far the product of the mixings has moved from 1 after a short training.",
        shows_not="Not shown: the steps and the size at which the paper saw it explode.",
        settles="thousands of steps (resformer/LOG.md has mhc at 5,000)",
    ),
    Claim(
        name="qk-norm-spikes",
        says="Norms after the branch with QK-norm make the gradient spike less than Pre-LN",
        source="OLMo 2 2024, arXiv:2501.00656",
        paper="the two together take the spike score of the gradient norm from 0.108 to 0.069; neither alone helps",
        number="0.108 to 0.069",
        ours="24 blocks, 64 wide, 512 tokens a step, AdamW at 1e-2, 5 steps of warm-up, 200 steps, 4 seeds; spikes of "
             "the gradient norm per 1,000 steps",
        study=Trained({"pre": {"model.residual": "pre"}, "res_post": {"model.residual": "res_post"},
                       "res_post with qk-norm": {"model.residual": "res_post", "model.qk_norm": "projection"}},
                      {"laptop": (24,), "gpu": (24,)}, seeds=4, learning_rate=1e-2, base={"schedule.warmup_steps": 5}),
        criteria=(
            Criterion("Pre-LN less both together: spikes per 1,000 steps", Minus(
                At("gradient_spikes", "pre", 24), At("gradient_spikes", "res_post with qk-norm", 24)), low=0),
        ),
        plots=(Plot("gradient_spikes", "spikes of the gradient norm", "per 1,000 steps", log_x=False, log_y=False),
               LOSS),
        sees="How often the gradient norm jumps by eight of its own deviations.",
        shows_not="Not shown: the spike score of the paper, which needs thousands of steps.",
        settles="5,000 steps (--size gpu)",
    ),
    Claim(
        name="denseformer-loss",
        says="Averages over depth lower the loss of a deep model, more than gains on its skips do",
        source="Pagliardini et al. 2024, arXiv:2402.02622, table 1",
        paper="48 blocks, OpenWebText2: perplexity 18.61 to 17.84 (0.042 nat); skips with gains 18.45; 3 seeds",
        number="-0.042 nat",
        ours="GPU only: 24 blocks, 256 wide, 4,000 steps of 32,768 tokens, 3 seeds; held-out loss",
        study=Trained({"pre": {"model.residual": "pre"}, "denseformer": {"model.residual": "denseformer"},
                       "skips with gains": {"model.residual": "scaled(learned=true)"}}, {"gpu": (24,)}, seeds=3,
                      learning_rate=1e-3, base={"model.hidden_size": 256, "model.num_attention_heads": 4},
                      steps={"gpu": 4000}),
        criteria=(
            Criterion("DenseFormer less Pre-LN: nats", Minus(At("loss", "denseformer", 24), At("loss", "pre", 24)),
                      high=0),
            Criterion("DenseFormer less gains: nats",
                      Minus(At("loss", "denseformer", 24), At("loss", "skips with gains", 24)), high=0),
        ),
        plots=(LOSS,),
        sees="Where the three end after the same tokens.",
        shows_not="Not shown: equal time; averages over depth cost some.",
        settles="a rate for each (recipes/sweeps/zoo-gpu.yaml)",
    ),
    Claim(
        name="hyper-loss",
        says="Hyper-connections need more than one stream to lower the loss",
        source="Zhu et al. 2024, arXiv:2409.19606, table 1",
        paper="OLMo-1B: loss 2.811, with one stream 2.819, with two 2.802, with four 2.781",
        number="-0.030 nat with four",
        ours="GPU only: 12 blocks, 512 wide, 4,000 steps of 32,768 tokens, 3 seeds; held-out loss",
        study=Trained({"pre": {"model.residual": "pre"}, **{f"hyper(n={n})": {"model.residual": f"hyper(n={n})"}
                                                            for n in (1, 2, 4)}},
                      {"gpu": (12,)}, seeds=3, learning_rate=1e-3, steps={"gpu": 4000}),
        criteria=(
            Criterion("four streams less Pre-LN: nats", Minus(At("loss", "hyper(n=4)", 12), At("loss", "pre", 12)),
                      high=0),
            Criterion("one stream less Pre-LN: nats", Minus(At("loss", "hyper(n=1)", 12), At("loss", "pre", 12)),
                      low=-0.005),
        ),
        plots=(LOSS,),
        sees="Where one, two and four streams end after the same tokens.",
        shows_not="Not shown: equal time, and the factor of 1.8 that the paper reports for a mixture of experts.",
        settles="recipes/sweeps/zoo-gpu.yaml, which tunes rates",
    ),
)  # fmt: skip
