"""The claims that need no training: each runs in seconds. Criteria are from the papers, or from theory."""

from .claim import Claim, Criterion, Plot
from .looks import Against, Curve, FirstSteps, Isometry, Signal, Stream
from .studies import Initial
from .terms import At, Decades, Layers, Minus, Over, Slope

BARE = {"norm": "layernorm", "gated_mlp": False, "hidden_act": "relu"}
"""The block of the papers of 2015 to 2020: LayerNorm where there is one, a ReLU between two matrices."""
ALONE = "attention alone"

DEEPNORM_FLAT = Criterion("DeepNorm, 100 over 6 blocks: update", Over(
    At("accumulated_update", "deepnorm", 100), At("accumulated_update", "deepnorm", 6)), high=2)  # fmt: skip
POST_LN_GROWS = Criterion("Post-LN, 100 over 6 blocks: update", Over(
    At("accumulated_update", "post", 100), At("accumulated_update", "post", 6)), low=2)  # fmt: skip
AFTER_ONE_STEP = Plot(
    "accumulated_update", "after one step of gradient descent", "RMS of the change of the final states"
)

CLAIMS = (
    Claim(
        name="vanishing-gradients",
        says="Without skips the gradient vanishes on its way down; with skips it arrives",
        source="every introduction; He et al. 2015, arXiv:1512.03385; Veit et al. 2016, arXiv:1605.06431",
        paper="ResNet-110 on CIFAR-10: the gradient of long paths vanishes, 95 % of it comes from paths of 10 to 34 of "
              "54 units (Veit et al.)",
        number="vanishes",
        ours="6 to 200 blocks, 64 wide, Xavier, no norm on the skipless branch, 3 seeds; gradient at the embedding, "
             "plain over pre at equal depth, logarithm to base 10",
        study=Initial({"pre": "pre", "plain": "plain(norm=none)"}, (6, 24, 200), Signal(), seeds=3, model=BARE,
                      seconds=9),
        criteria=(
            Criterion("200 blocks, gradient at the embedding, plain over pre: decades",
                      Decades(Over(At("gradient_first", "plain", 200), At("gradient_first", "pre", 200))), high=-3),
            Criterion("pre, gradient at the embedding, 200 over 6 blocks: decades",
                      Decades(Over(At("gradient_first", "pre", 200), At("gradient_first", "pre", 6))), -1, 1),
        ),
        plots=(Plot("gradient_first", "at the embedding", "RMS of dL/dx"),
               Plot("gradient_last", "at the last block", "RMS of dL/dx")),
        sees="The gradient that is left at the embedding: without skips it falls with every block, down to what "
             "float32 cannot tell from zero.",
        shows_not="Not shown: that this is why plain networks fail, for with a norm in each branch the gradient need "
                  "not vanish (see vanishing-despite-norms).",
        settles="training plain networks whose gradient is kept alive by norms: recipes/sweeps/depth-ladder.yaml",
    ),
    Claim(
        name="vanishing-despite-norms",
        says="A norm in each branch does not replace the skip: the gradient vanishes all the same",
        source="the textbook claim, against He et al. 2015, arXiv:1512.03385, section 4.1, who doubt it",
        paper="plain-34 with BatchNorm on ImageNet: degraded (28.5 % error against 27.9 % of plain-18), though forward "
              "and backward signals do not vanish",
        number="healthy, by He et al.",
        ours="6 to 96 blocks, 64 wide, Xavier, f(norm(h)) without skip, 4 seeds; gradient at the embedding, plain over "
             "pre at equal depth, logarithm to base 10",
        study=Initial({"pre": "pre", "plain": "plain"}, (6, 24, 96), Signal(), seeds=4, model=BARE, seconds=9),
        criteria=(
            Criterion("96 blocks, gradient at the embedding, plain over pre: decades",
                      Decades(Over(At("gradient_first", "plain", 96), At("gradient_first", "pre", 96))), high=-3),
        ),
        plots=(Plot("gradient_first", "at the embedding", "RMS of dL/dx"),
               Plot("token_cosine", "are tokens alike? (1: all)", "cosine of two tokens", log_y=False)),
        sees="The same control with a norm in front of each branch: whether the gradient still dies, and what becomes "
             "of the tokens.",
        shows_not="Not shown: whether a gradient of healthy size points anywhere useful; when all tokens are alike it "
                  "cannot.",
        settles="more seeds, for they differ by decades; then training such networks: recipes/sweeps/depth-ladder.yaml",
    ),
    Claim(
        name="post-ln-gradient",
        says="At initialisation the last block's gradient does not shrink with depth under Post-LN, and falls as "
             "1/sqrt(L) under Pre-LN",
        source="Xiong et al. 2020, arXiv:2002.04745",
        paper="theorem 1: the gradient of the last feed-forward matrix is O(d sqrt(ln d)) for Post-LN and "
              "O(d sqrt(ln d / L)) for Pre-LN; IWSLT14 with 6-6 to 14-14 layers, about 1.6 and flat for Post-LN",
        number="exponents 0 and -0.5",
        ours="6, 12, 24, 48 blocks, 64 wide, LayerNorm, ReLU, Xavier, 5 seeds; exponent of the gradient's norm in L",
        study=Initial({"pre": "pre", "post": "post"}, (6, 12, 24, 48), Signal(), model=BARE, seconds=6),
        criteria=(
            Criterion("exponent of Post-LN", Slope("weight_last", "post"), -0.15, 0.15),
            Criterion("exponent of Pre-LN", Slope("weight_last", "pre"), -0.65, -0.35),
        ),
        plots=(Plot("weight_last", "the last MLP's output matrix", "norm of dL/dW"),),
        sees="Two lines over depth: flat where the norm stands after the sum, falling by half for each four times "
             "the depth where it stands in the branch.",
        shows_not="Not shown: that the larger gradient is what makes Post-LN need a warm-up; DeepNet blames the "
                  "size of the update (see deepnorm-update).",
        settles="nothing is left open at this size; 200 blocks would show where the law ends",
    ),
    Claim(
        name="pre-ln-variance",
        says="Under Pre-LN the stream's variance grows by between 1/2 and 3/2 with each block",
        source="Xiong et al. 2020, arXiv:2002.04745, lemma 2",
        paper="at initialisation (1 + l/2) d <= E|x_l|^2 <= (1 + 3l/2) d",
        number="0.5 to 1.5 a block",
        ours="6, 24, 96 blocks, 64 wide, LayerNorm, ReLU, Xavier, 5 seeds; growth of the mean square with each block",
        study=Initial({"pre": "pre"}, (6, 24, 96), Signal(), model=BARE, seconds=5),
        criteria=tuple(Criterion(f"growth with each block, {depth} blocks",
                                 At("power_per_block", "pre", depth), 0.5, 1.5)
                       for depth in (6, 24, 96)),
        plots=(Plot("rms_last", "the stream at the end", "RMS"),
               Plot("power_per_block", "growth of its square", "for each block", log_y=False)),
        sees="The stream grows as the square root of depth: each block adds about as much power as the one before.",
        shows_not="Not shown: trained models, whose branches do not stay at unit variance.",
        settles="the recorder's stream_rms of trained runs",
    ),
    Claim(
        name="deepnorm-update",
        says="DeepNorm bounds how far the first updates move the model, whatever the depth; under Post-LN it grows",
        source="Wang et al. 2022, arXiv:2203.00555",
        paper="figure 5: tiny 64-128-2 Transformers of 6-6 to 100-100 layers; the model update of Post-LN explodes in "
              "the first steps, that of DeepNet stays nearly constant",
        number="flat",
        ours="the same size, decoder only, 6, 12, 100 blocks, 2 steps of Adam at 1e-3 without warm-up, 3 seeds; RMS "
             "of the change of the final states at 100 blocks over that at 6",
        study=Initial({"post": "post", "deepnorm": "deepnorm"}, (6, 12, 100), FirstSteps(2, 1e-3), seeds=3,
                      model={**BARE, "intermediate_size": 128}, seconds=10),
        criteria=(DEEPNORM_FLAT, POST_LN_GROWS),
        plots=(Plot("accumulated_update", "after two steps of Adam", "RMS of the change of the final states"),),
        sees="How far two steps of the optimiser move what the model says, by depth.",
        shows_not="Not shown: what follows from a large first update, and a normalised output bounds how far it can "
                  "move at all.",
        settles="deepnorm-update-sgd, for the theory is one of gradient descent and Adam's first steps are as large as "
                "the rate wherever they go; then the first hundred steps of real text (accumulated_update)",
    ),
    Claim(
        name="deepnorm-update-sgd",
        says="Under gradient descent, as its theory has it, DeepNorm's first update does not grow with depth; that of "
             "Post-LN does",
        source="Wang et al. 2022, arXiv:2203.00555, theorems 4.1 to 4.3",
        paper="|Delta F| of a step of size eta is Theta(eta) whatever the depth, with DeepNorm's alpha and beta",
        number="flat",
        ours="64-128-2, decoder only, 6, 12, 100 blocks, 1 step of gradient descent at 0.1, 3 seeds; RMS of the change "
             "of the final states at 100 blocks over that at 6",
        study=Initial({"post": "post", "deepnorm": "deepnorm"}, (6, 12, 100), FirstSteps(1, 0.1, "SGD"), seeds=3,
                      model={**BARE, "intermediate_size": 128}, seconds=8),
        criteria=(DEEPNORM_FLAT, POST_LN_GROWS),
        plots=(AFTER_ONE_STEP,),
        sees="The same question with the optimiser that the theorem is about.",
        shows_not="Not shown: Adam, with which these models are trained (see deepnorm-update).",
        settles="deepnorm-update-matrices: the theorem leaves out the norms' gains, of which there are two for each "
                "block",
    ),
    Claim(
        name="deepnorm-update-matrices",
        says="DeepNorm's first step of gradient descent does not grow with depth where only matrices move",
        source="Wang et al. 2022, arXiv:2203.00555, theorems 4.1 to 4.3",
        paper="|Delta F| of a step of size eta is Theta(eta) whatever the depth; the theorems are of the branches' "
              "matrices",
        number="flat",
        ours="as deepnorm-update-sgd, with the norms' gains and biases held",
        study=Initial({"post": "post", "deepnorm": "deepnorm"}, (6, 12, 100), FirstSteps(1, 0.1, "SGD", gains=False),
                      seeds=3, model={**BARE, "intermediate_size": 128}, seconds=8),
        criteria=(DEEPNORM_FLAT,),
        plots=(AFTER_ONE_STEP,),
        sees="The same step with the norms' gains held: what of the growth was theirs.",
        shows_not="Not shown: training, in which gains do move.",
        settles="a step whose gains have a rate of 1/L",
    ),
    Claim(
        name="curse-of-depth-start",
        says="Under Pre-LN the late blocks hardly turn a stream that has grown; LayerNorm Scaling keeps it small",
        source="Sun et al. 2025 (the curse of depth), arXiv:2502.05795",
        paper="LLaMA-130M to 1B: output variance of Pre-LN grows with depth and its deep blocks become the identity; "
              "LNS bounds it; perplexity 26.73 to 25.76 at 130M",
        number="variance of LNS below that of Pre-LN",
        ours="48 blocks, 64 wide, RMSNorm, SwiGLU, Xavier, 5 seeds, no training: the stream's RMS at the end, and how "
             "far the last quarter of the blocks turns it against the first",
        study=Initial({"pre": "pre", "lns": "lns"}, (48,), Stream(("stream_rms", "angular_distance")), seconds=4),
        criteria=(
            Criterion("stream's RMS at the end, Pre-LN over LNS", Over(At("stream_rms", "pre", 48, 47),
                      At("stream_rms", "lns", 48, 47)), low=1.2),
            Criterion("Pre-LN: turn of the last quarter over that of the first",
                      Over(Layers("angular_distance", "pre", 48, 0.75, 1),
                           Layers("angular_distance", "pre", 48, 0, 0.25)),
                      high=0.5),
        ),
        plots=(Plot("stream_rms", "the stream after each block", "RMS", x="block", layers_at=48, log_x=False),
               Plot("angular_distance", "how far each block's MLP turns it", "share of half a turn", x="block",
                    layers_at=48, log_x=False)),
        sees="The stream of Pre-LN outgrows what its blocks write, so each turns it less than the one before.",
        shows_not="Not shown: that the same is true after training, nor that LNS gives its late blocks more to do: it "
                  "shrinks what they write as well.",
        settles="loss and lesions of trained models against Pre-LN with scaled initialisation",
    ),
    Claim(
        name="rezero-isometry",
        says="ReZero starts as an exact isometry at any depth: all singular values of its Jacobian are 1",
        source="Bachlechner et al. 2020, arXiv:2003.04887",
        paper="dynamical isometry at initialisation for any depth; Transformers of 120 layers train",
        number="1",
        ours="6, 24, 120 blocks, 64 wide, no norm as published, 3 seeds; by how much the transposed Jacobian stretches "
             "random vectors, least and most of three",
        study=Initial({"rezero": "rezero", "pre": "pre"}, (6, 24, 120), Isometry(3), seeds=3, seconds=8),
        criteria=tuple(Criterion(f"ReZero, {depth} blocks, {which}", At(f"stretch_{which}", "rezero", depth),
                                 1 - 1e-5, 1 + 1e-5) for depth in (6, 120) for which in ("least", "most")),
        plots=(Plot("stretch_least", "least stretched", "|J^T u| / |u|", log_y=False),
               Plot("stretch_most", "most stretched", "|J^T u| / |u|", log_y=False)),
        sees="ReZero passes every direction unchanged, since every branch starts at nought; Pre-LN does not.",
        shows_not="Not shown: that an isometry at the start trains faster; a scalar at zero also gives its branch no "
                  "gradient in the first step.",
        settles="steps to a given loss against a tuned Pre-LN",
    ),
    Claim(
        name="rank-collapse",
        says="Attention alone loses rank doubly exponentially with depth, and skips prevent it",
        source="Dong et al. 2021, arXiv:2103.03404",
        paper="self-attention without skips and MLPs converges to rank 1, |res| falling doubly exponentially (BERT, "
              "Albert, XLNet); with skips it does not",
        number="to 0 without skips",
        ours="attention only (the MLP's write is 0), no norm, causal, 64 wide, 2 to 12 blocks, Xavier, 5 seeds; the "
             "share of the stream that is not the mean token, logarithm to base 10",
        study=Initial(
            {ALONE: {"residual": {"attention": "plain(norm=none)", "mlp": "scaled(branch=0)"}},
             "with skips": {"residual": {"attention": "scaled(norm=none)", "mlp": "scaled(branch=0)"}}},
            (2, 4, 6, 8, 12), Stream(("dong_residual", "token_similarity")), model=BARE, seconds=3),
        criteria=(
            Criterion("without skips, 12 blocks over 2: decades lost",
                      Decades(Over(At("dong_residual", ALONE, 12, 11), At("dong_residual", ALONE, 2, 1))), high=-2),
            Criterion("with skips, 12 blocks over 2: decades",
                      Decades(Over(At("dong_residual", "with skips", 12, 11), At("dong_residual", "with skips", 2, 1))),
                      low=-0.5),
        ),
        plots=(Plot("dong_residual", "after each block of 12", "share that is not the mean token", x="block",
                    layers_at=12, log_x=False),
               Plot("token_similarity", "are tokens alike? (1: all)", "cosine", x="block", layers_at=12, log_x=False,
                    log_y=False)),
        sees="Without skips each attention averages the tokens once more, until nothing but their mean is left.",
        shows_not="Not shown: bidirectional attention as in the paper; a causal mask leaves the first token alone, "
                  "which slows the collapse.",
        settles="the same with a mask that lets every token see all, which this decoder does not have",
    ),
    Claim(
        name="plain-collapse",
        says="Without skips all tokens are alike after six blocks; identity, projection, gated, dense and U-Net skips "
             "keep them apart",
        source="He et al. 2015, arXiv:1512.03385; Srivastava et al. 2015, arXiv:1505.00387; Dong et al. 2021, "
               "arXiv:2103.03404",
        paper="plain networks stop training between 10 and 20 layers, highway networks train at 100 (MNIST)",
        number="collapse by 6 blocks",
        ours="6 and 12 blocks, 64 wide, RMSNorm, SwiGLU, Xavier, 8 seeds; cosine of two tokens at the end",
        study=Initial({kind: kind for kind in ("plain", "pre", "highway", "projection", "denseformer", "unet")},
                      (6, 12), Signal(), seeds=8, seconds=8),
        criteria=(
            Criterion("plain, 6 blocks: cosine", At("token_cosine", "plain", 6), low=0.95),
            *(Criterion(f"plain less {kind}, 6 blocks: cosine", Minus(At("token_cosine", "plain", 6),
                        At("token_cosine", kind, 6)), low=0.1)
              for kind in ("pre", "highway", "projection", "denseformer", "unet")),
        ),
        plots=(Plot("token_cosine", "are tokens alike? (1: all)", "cosine of two tokens", log_y=False),),
        sees="Each kind of skip that introductions name keeps tokens apart for longer than no skip at all.",
        shows_not="Not shown: that collapse at the start cannot be undone by training.",
        settles="more seeds for the bound of 0.95; then whether plain networks leave the unigram plateau: "
                "recipes/sweeps/depth-ladder.yaml",
    ),
    Claim(
        name="starts-as-pre",
        says="Hyper-connections and DenseFormer start as Pre-LN exactly",
        source="Zhu et al. 2024, arXiv:2409.19606; Pagliardini et al. 2024, arXiv:2402.02622",
        paper="static initialisation makes hyper-connections equivalent to Pre-Norm; DWA starts as the identity",
        number="0",
        ours="12 blocks, 64 wide, 3 seeds, float32; largest difference of a logit from Pre-LN's, as a share of the "
             "largest",
        study=Initial({"hyper(n=1)": "hyper(n=1)", "hyper(n=4)": "hyper(n=4)", "denseformer": "denseformer"}, (12,),
                      Against("pre"), seeds=3, seconds=4),
        criteria=tuple(Criterion(f"{kind}: difference", At("logit_difference", kind, 12), high=1e-4)
                       for kind in ("hyper(n=1)", "hyper(n=4)", "denseformer")),
        plots=(Plot("logit_difference", "from Pre-LN at the start", "share of the largest logit", log_x=False,
                    log_y=False),),
        sees="The differences are those of rounding: whatever these kinds gain or lose, they do not owe it to their "
             "start.",
        shows_not="Not shown: anything about training.",
        settles="nothing is left open",
    ),
    Claim(
        name="hyper-gain",
        says="Products of hyper-connections' mixing matrices are unbounded; on mHC's manifold they stay at 1",
        source="Xie et al. 2025 (mHC), arXiv:2512.24880",
        paper="27B model: composite gain of hyper-connections peaks at about 3000, of mHC at about 1.6",
        number="3000 against 1.6",
        ours="30 blocks (60 mixings), 64 wide, 4 streams, N(0, 0.3^2) added to every parameter of the connections, 3 "
             "seeds; largest absolute row sum of the product of all",
        study=Initial({"hyper": "hyper", "mhc": "mhc"}, (30,), Stream(("composite_gain.forward",), noise=0.3), seeds=3,
                      seconds=8),
        criteria=(
            Criterion("hyper-connections, composite gain: decades",
                      Decades(At("composite_gain.forward", "hyper", 30, 29)), low=1),
            Criterion("mHC: composite gain", At("composite_gain.forward", "mhc", 30, 29), 0.9, 1.6),
        ),
        plots=(Plot("composite_gain.forward", "of all mixings up to a block", "largest absolute row sum", x="block",
                    layers_at=30, log_x=False),),
        sees="The gain of a product of free matrices grows with every factor; that of doubly stochastic ones cannot.",
        shows_not="Not shown: how far training really moves them; the noise here is ours.",
        settles="composite_gain of trained runs, which the recorder keeps (zoo, hyper and mhc)",
    ),
    Claim(
        name="qk-norm-gain",
        says="Norms after the branch alone let the gain explode with depth; QK-norm with them prevents it",
        source="OLMo 2 2024, arXiv:2501.00656",
        paper="reordered norm and QK-norm together take the spike score of the gradient from 0.108 to 0.069; neither "
              "alone helps",
        number="0.108 to 0.069",
        ours="12 and 48 blocks, 64 wide, RMSNorm, SwiGLU, Xavier, res_post, 5 seeds; mean squared singular value from "
             "embedding to end, 48 blocks over 12, logarithm to base 10",
        study=Initial({"without": "res_post", "with qk-norm": {"residual": "res_post", "qk_norm": "projection"}},
                      (12, 24, 48), Signal(), seconds=5),
        criteria=(
            Criterion("without QK-norm, 48 over 12 blocks: decades", Decades(Over(At("gain", "without", 48),
                      At("gain", "without", 12))), low=1),
            Criterion("with QK-norm, 48 over 12 blocks: decades", Decades(Over(At("gain", "with qk-norm", 48),
                      At("gain", "with qk-norm", 12))), high=0.5),
        ),
        plots=(Plot("gain", "from the embedding to the end", "mean squared singular value"),),
        sees="How much a small change of the embedding is amplified by the whole stack, by depth.",
        shows_not="Not shown: spikes while training, which is what the paper counts.",
        settles="a sweep of res_post with and without qk_norm at 24 blocks and a short warm-up, spikes counted",
    ),
    Claim(
        name="landscape-start",
        says="Skips make the loss landscape smoother: less non-convex, with gradients that keep their direction",
        source="Li et al. 2018, arXiv:1712.09913; Santurkar et al. 2018, arXiv:1805.11604",
        paper="ResNet-56 without skips has a chaotic surface, with skips a convex one (ratio of the extreme "
              "eigenvalues), after training",
        number="convex with skips",
        ours="8 blocks, 32 wide, 3 seeds, at initialisation: |smallest| over largest eigenvalue of the Hessian, and "
             "the change of the gradient on a way of 1 % of the weights' length; plain over pre, logarithms to base 10",
        study=Initial({"pre": "pre", "plain": "plain"}, (8,), Curve(), seeds=3,
                      model={"hidden_size": 32, "vocab_size": 64}, seconds=10),
        criteria=(
            Criterion("non-convexity, plain over pre: decades", Decades(Over(At("non_convexity", "plain", 8),
                      At("non_convexity", "pre", 8))), low=0),
            Criterion("change of the gradient, plain over pre: decades", Decades(Over(At("gradient_change", "plain", 8),
                      At("gradient_change", "pre", 8))), low=0),
        ),
        plots=(Plot("non_convexity", "share of negative curvature", "|smallest| over largest eigenvalue", log_x=False),
               Plot("gradient_change", "does the gradient keep its word?", "change, share of the gradient",
                    log_x=False)),
        sees="Two numbers for smoothness that do not depend on the scale of the loss, before any training.",
        shows_not="Not shown: the trained network that the claim is about.",
        settles="more seeds, then the same numbers after training (the probes landscape and curvature of a run)",
    ),
)  # fmt: skip
