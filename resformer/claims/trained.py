"""The claims that need training: each is a sweep. Criteria are committed before the first run."""

from .claim import Claim, Criterion, Plot
from .studies import Trained
from .terms import At, Chance, Spread

NAKED = {"model.residual": "rezero", "model.embedding_initializer_range": 1.0, "model.tie_word_embeddings": False,
         "because": "without any norm a small embedding hides every branch"}  # fmt: skip

CLAIMS = (
    Claim(
        name="seed-noise",
        says="Runs that differ only in their seed end within a few thousandths of a nat",
        source="modded-nanogpt repository, record of 4 January 2025",
        paper="124M parameters, 80 runs: standard deviation 0.0019 nat at a loss of 3.28",
        number="0.0019",
        ours="4 blocks, 64 wide, bytes, 200 steps of 1,024 tokens, 8 seeds; standard deviation of the held-out loss",
        study=Trained({"pre": {"model.residual": "pre"}}, {"laptop": (4,), "gpu": (4,)}, 3e-3, seeds=8),
        criteria=(Criterion("standard deviation, nats", Spread(At("loss", "pre", 4)), high=0.03),),
        plots=(Plot("loss", "held-out loss", "nats per token", log_x=False, log_y=False),),
        sees="The range of the final loss over seeds that change weights, data order and nothing else.",
        shows_not="Not shown: larger or longer runs, which scatter less.",
        settles="the size of the paper",
    ),
    Claim(
        name="depth-that-trains",
        says="Much deeper networks can be trained with skips: plain ones stick where the others learn",
        source="Srivastava et al. 2015, arXiv:1505.00387; He et al. 2015, arXiv:1512.03385",
        paper="plain networks degrade by 20 layers, highway networks train at 50 and 100 (MNIST)",
        number="plain fails by 20",
        ours="4 and 24 blocks, 64 wide, AdamW at 3e-3, 30 steps of warm-up, 150 steps, 6 seeds; chance of a bad end",
        study=Trained(
            {"pre": {"model.residual": "pre"}, "plain": {"model.residual": "plain"},
             "post": {"model.residual": "post"}, "highway": {"model.residual": "highway"},
             "deepnorm": {"model.residual": "deepnorm"}, "rezero": NAKED},
            {"laptop": (4, 24), "gpu": (4, 24, 200)}, 3e-3, seeds=6, base={"train.max_steps": 150}),
        criteria=(
            Criterion("plain, 24 blocks: chance of a bad end", Chance("bad", "plain", 24), low=0.4),
            *(Criterion(f"{arm}, 24 blocks: chance of a bad end", Chance("bad", arm, 24), high=0.6)
              for arm in ("pre", "highway", "deepnorm", "rezero")),
        ),
        plots=(Plot("loss", "held-out loss", "nats per token", log_y=False),
               Plot("bad", "ended badly", "share of the runs", log_y=False)),
        sees="Where the loss of each kind stays at the unigram plateau, and how often.",
        shows_not="Not shown: what each would reach at its own best rate.",
        settles="recipes/sweeps/depth-ladder.yaml, which tunes the rate of each at every depth",
    ),
)  # fmt: skip
