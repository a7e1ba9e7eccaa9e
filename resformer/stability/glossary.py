"""The entries of the glossary: what every number that is written anywhere means. ``metrics.py`` looks them up."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

Level = Literal["model", "block", "site", "tensor"]


@dataclass(frozen=True)
class Range:
    """Values from ``low`` to ``high`` (None: no bound on that side) that ``source`` calls healthy."""

    low: float | None
    high: float | None
    source: str


@dataclass(frozen=True)
class Metric:
    """One number that resformer writes.

    Attributes:
        name: as it is written.
        title: in plain words, for an axis or a heading.
        unit: empty where it has none.
        formula: of x the stream at a site, f what the branch wrote there, W a matrix, g a gradient.
        source: authors, year, arXiv id; or that it is common practice, or defined here.
        reading: how to read it, one sentence.
        level: of what there is one value: the model, a block, a site (one branch and its connection), or a tensor, and
            then mostly of all parameters of a site and of the model too.
        healthy: where a source gives one; None is "nobody has said", not "anything goes".
        guides: values that are worth a line in a figure.
        family: whether ``name.part`` is a member: of a tensor class, a norm, a part of the connection.
    """

    name: str
    title: str
    unit: str
    formula: str
    source: str
    reading: str
    level: Level = "site"
    healthy: Range | None = None
    guides: tuple[float, ...] = ()
    family: bool = False


HERE, PRACTICE = "defined here", "common practice"
NATS = "nats per token"
DEEPNET = "Wang et al. 2022 (DeepNet), arXiv:2203.00555"
HE = "He et al. 2024, arXiv:2405.19279"
LESION = "Srivastava et al. 2015, arXiv:1505.00387; Sun et al. 2025, arXiv:2502.05795"
MCCANDLISH = "McCandlish et al. 2018, arXiv:1812.06162"
MHC = "Xie et al. 2025 (mHC), arXiv:2512.24880"
OLMO = "OLMo 2 2024, arXiv:2501.00656"
PROXIES = "Wortsman et al. 2023, arXiv:2309.14322"
XIONG = "Xiong et al. 2020, arXiv:2002.04745"
COHEN = "Cohen et al. 2022, arXiv:2207.14484"
GILMER = "Gilmer et al. 2021, arXiv:2110.04369"
DENSEFORMER = "Pagliardini et al. 2024 (DenseFormer), arXiv:2402.02622"
LENS = "nostalgebraist 2020; Belrose et al. 2023, arXiv:2303.08112"

site, block = partial(Metric, level="site"), partial(Metric, level="block")
model, tensor = partial(Metric, level="model"), partial(Metric, level="tensor", family=True)

# fmt: off
STREAM = (
    site("stream_rms", "RMS of the residual stream", "", "sqrt(mean(x^2))", XIONG,
         "Growth over depth drowns what later branches write; growth over steps comes before many divergences."),
    site("token_similarity", "cosine of two tokens of a sequence", "", "mean over i != j of cos(x_i, x_j)", PRACTICE,
         "Near 1 the stream has collapsed to one direction."),
    site("dong_residual", "distance from rank one", "", "|X - 1 m^T| / |X|, m the mean token, |.| the root of the "
         "largest column sum times the largest row sum", "Dong et al. 2021, arXiv:2103.03404",
         "0 where all tokens are the same."),
    site("kurtosis", "kurtosis over channels", "", "E_j[s_j^4] / E_j[s_j^2]^2, s_j the RMS of channel j", HE,
         "From 1, all channels alike, to the width, one channel has it all."),
    site("max_median_ratio", "largest over median channel", "", "mean over tokens of max_j|x_j| / median_j|x_j|", HE,
         "Large where few channels stand out, which low precision suffers from."),
    site("massive_activations", "massive activations", "elements", "count of |x| > 100 and > 1,000 times the median",
         "Sun et al. 2024, arXiv:2402.17762",
         "Above 0 some elements are outliers of the size that trained models show."),
    site("write_ratio", "change of the stream at a site", "", "RMS(x' - x) / RMS(x)", HERE,
         "0 where the site changes nothing; above 1 it overwrites the stream."),
    site("angular_distance", "turn of the stream", "share of pi", "arccos(cos(x, x')) / pi, mean over tokens",
         "Gromov et al. 2024, arXiv:2403.17887", "Near 0 the site or block is nearly redundant."),
    site("block_influence", "block influence", "", "1 - cos(x, x'), mean over tokens",
         "Men et al. 2024, arXiv:2403.03853", "Near 0 the site or block is nearly redundant."),
    site("read_rms", "RMS of what the branch reads", "", "RMS of the branch's input, after its norm", HERE,
         "The scale at which the branch works."),
    site("branch_rms", "RMS of what the branch writes", "", "RMS(f)", HERE,
         "The size of a write, whatever the stream."),
    site("branch_ratio", "branch over stream", "", "RMS(f) / RMS(x)", HERE,
         "Towards 0 the branch no longer matters; above 1 it overwrites the stream."),
    site("branch_cosine", "cosine of branch and stream", "", "cos(f, x), mean over tokens", HERE,
         "Below 0 the branch erases, above 0 it amplifies what is there."),
    site("branch_read_ratio", "branch over what it reads", "", "RMS(f) / RMS(what the site reads, before its norm)",
         HERE,
         "As branch_ratio, where a site reads something else than the stream."),
    site("branch_read_cosine", "cosine of branch and what it reads", "", "cos(f, what the site reads)", HERE,
         "As branch_cosine, where a site reads something else than the stream."),
    site("norm_input_rms", "RMS of a norm's input", "", "RMS of what the norm is given", DEEPNET,
         "A norm divides the gradient by this number: large means a vanishing gradient behind it.", family=True),
    site("internal", "part of the connection", "", "a gate, scale, map or weight over depth, as the class names it",
         "the paper of the kind", "What the connection has learned, or does to this batch.", family=True),
    site("stream_rms_ratio", "largest over smallest of the streams", "", "max RMS / min RMS over the streams of a site",
         HERE, "1 where all streams carry alike; large where one has it all."),
    site("mixing_gain", "gain of a stream mixing", "", "forward and backward: largest absolute row and column sum; "
         "log_column: largest |log column sum|; second: second largest |eigenvalue|", MHC,
         "forward and backward at 1 neither amplify; log_column above 0 shows what they hide: attenuation.",
         family=True),
    site("composite_gain", "gain of all mixings up to a site", "", "as mixing_gain, of the product of the matrices "
         "from the segment's start", MHC,
         "mHC reports up to 3,000 for hyper-connections and about 1.6 for itself at 27B.",
         family=True),
)
MODEL = (
    model("stream_growth_linear_r2", "fit of linear growth", "R squared", "of RMS(x_l)^2 against l", XIONG,
          "Near 1 each site adds the same variance, as pre-norm does at its start."),
    model("stream_growth_exponential_r2", "fit of exponential growth", "R squared", "of log RMS(x_l)^2 against l", HERE,
          "Near 1 each site multiplies the stream."),
    model("growth_exponent", "growth of the stream per block", "per block", "log(RMS(x_L) / RMS(x_0)) / L", OLMO,
          "0 neither vanishes nor explodes; OLMo 2 take the norm of the mean over tokens, here it is of RMS values.",
          guides=(0.0,)),
    model("gradient_growth_exponent", "growth of the gradient per block", "per block",
          "log(RMS(dL/dx_L) / RMS(dL/dx_0)) / L", OLMO, "0 neither vanishes nor explodes on its way down.",
          guides=(0.0,)),
    model("probe_loss", "loss on the probe batch", NATS, "mean cross-entropy on the fixed held-out batch", HERE,
          "Compares between variants and steps; a training batch does not."),
    model("log_z_mean", "log Z, mean", "nats", "mean of logsumexp(logits)", PROXIES,
          "Drifts away from 0 where output logits diverge; a z-loss pulls it back."),
    model("log_z_max", "log Z, largest", "nats", "largest logsumexp(logits)", PROXIES,
          "Drifts away from 0 where output logits diverge; a z-loss pulls it back."),
    model("logit_mean", "mean output logit", "", "mean of the logits", PROXIES,
          "Drifts to large negative values where output logits diverge."),
    model("accumulated_update", "how far the function has moved", "", "RMS(F(x; now) - F(x; start)) of final states",
          DEEPNET, "An explosion in the first steps is what makes deep post-norm fail."),
    model("one_step_update", "how far one step moves the function", "per learning rate",
          "RMS(F(x; after) - F(x; before)) / learning rate", DEEPNET,
          "Comparable over a schedule; a jump is a bad step."),
    model("gradient_first_last_ratio", "gradient of the first over the last block", "",
          "|dL/dW| of the MLP's output matrix, first block over last", XIONG,
          "Above 1 the lower blocks get more, below 1 the upper ones."),
    model("gradient_noise_trace", "noise of the gradient", "", "tr(Sigma) over sequences, unbiased", MCCANDLISH,
          "The numerator of the gradient noise scale, to be averaged over looks before the division."),
    model("gradient_noise_signal", "squared length of the true gradient", "", "|G|^2 without bias", MCCANDLISH,
          "The denominator of the gradient noise scale; negative where noise hides it."),
    model("gradient_noise_scale", "gradient noise scale", "sequences", "tr(Sigma) / |G|^2", MCCANDLISH,
          "Batches much larger than this bring little."),
    model("gradients_below_eps", "share of frozen parameters", "share of tensors",
          "share with RMS(g) < 10 eps of AdamW",
          f"{PROXIES}, section 3.4", "Above 0 is an alarm: beside eps such gradients no longer move their weights.",
          healthy=Range(None, 0.0, f"{PROXIES}, section 3.4: updates vanish as the gradient's RMS nears eps")),
    model("train_loss", "training loss", NATS, "mean cross-entropy of the step's batch", PRACTICE,
          "Of another batch at each step; spikes and divergence are judged on it."),
    model("train_gradient_norm", "gradient norm before clipping", "", "|g| of all parameters", PRACTICE,
          "A spike here often comes some steps before one of the loss."),
    model("clip_coefficient", "clipping factor", "", "min(1, max_grad_norm / |g|)", PRACTICE,
          "1 where nothing is clipped; small where clipping decides the step."),
)
TENSORS = (
    tensor("weight_rms", "RMS of a weight", "", "RMS(W)", PRACTICE, "Growth without end asks for weight decay."),
    tensor("gradient_norm", "norm of the gradient", "", "|g|", PRACTICE,
           "Its profile over depth shows where gradients vanish or explode."),
    tensor("gradient_rms", "RMS of the gradient", "", "sqrt(mean(g^2))", PROXIES,
           "As gradient_norm, whatever the size; near AdamW's eps the update shrinks."),
    tensor("gradient_snr", "signal over noise of the gradient", "", "|g|^2 / mean_k |g_k - g|^2 over sequences k",
           "Schneider et al. 2021 (Cockpit), arXiv:2102.06604", "Low where the sequences of a batch disagree."),
    tensor("coordinate_weights", "output change learned here", "", "RMS((W - W_0) x)",
           "Haas et al. 2025, arXiv:2505.22491; Yang et al. 2022, arXiv:2203.03466",
           "0 where a layer learns nothing, however much its input has moved."),
    tensor("coordinate_inputs", "output change carried up", "", "RMS(W_0 (x - x_0))",
           "Haas et al. 2025, arXiv:2505.22491; Yang et al. 2022, arXiv:2203.03466",
           "How much of a layer's change is what the layers below have changed."),
    tensor("update_to_weight", "update over weight", "", "RMS(change) / RMS(W)", PRACTICE,
           "About 1e-3 is the rule of thumb; far above, the learning rate is too high for that layer.", guides=(1e-3,)),
    tensor("update_gradient_cosine", "cosine of update and gradient", "", "cos(change, g)", PRACTICE,
           "-1 is plain descent; nearer 0, momentum and preconditioning decide."),
    tensor("update_cosine", "cosine of update and the one before", "", "cos(change, change of the step before)",
           PRACTICE,
           "Below 0 the weights swing from side to side."),
    tensor("rms_t", "staleness of the second moment", "", "sqrt(mean(g^2 / max(v, eps^2)))",
           "Wortsman et al. 2023 (StableAdamW), arXiv:2304.13013", "Above 1 v lags behind the gradient and the step is "
           "too large.", guides=(2.3,),
           healthy=Range(None, 2.3,
           "Wortsman et al. 2023, arXiv:2304.13013: an RMS spike from 2.3 on (quoted, not checked)")),
    site("stream_gradient_rms", "gradient at the stream", "", "RMS(dL/dx)", XIONG,
         "Flat over depth is ideal; compares between variants whatever their parameters."),
    site("branch_gradient_rms", "gradient at what the branch wrote", "", "RMS(dL/df)", HERE,
         "How much the loss listens to this branch."),
)
ATTENTION = (
    site("attention_logit_max", "largest attention logit", "", "max_ij <q_i, k_j> / sqrt(d)", PROXIES,
         "Growth without end comes before divergence: Wortsman et al. saw all runs beyond 1e4 diverge.",
         guides=(1e3, 1e4), healthy=Range(None, 1e3,
         f"{PROXIES}, section 3.3: 1e3 already hurts, beyond 1e4 all diverged")),
    site("attention_entropy", "attention entropy", "nats", "-sum_j A_ij log A_ij, mean over queries and heads",
         "Zhai et al. 2023, arXiv:2303.06296", "A collapse towards 0 goes with unstable training."),
    site("attention_entropy_share", "attention entropy, share of the largest", "", "entropy / log(keys), mean",
         "Zhai et al. 2023, arXiv:2303.06296", "1 looks everywhere alike, 0 at one key."),
    site("attention_entropy_share_min", "attention entropy of the lowest head", "", "smallest over heads of the share",
         "Zhai et al. 2023, arXiv:2303.06296", "0 where one head has collapsed to one key."),
)
INTERNALS = (
    site("internal.gate", "gate", "", "the kind's gate on this batch", "Srivastava et al. 2015, arXiv:1505.00387",
         "Open or closed: what it lets in of the branch, or keeps of the stream, by the kind's formula.", family=True),
    site("internal.carry", "carry gate", "", "what of the stream is kept", "Srivastava et al. 2015, arXiv:1505.00387",
         "1 keeps the stream whole.", family=True),
    site("internal.mixing", "stream mixing", "", "H[to, from], mean over tokens", MHC,
         "The identity leaves the streams apart.", family=True),
    site("internal.depth_attention", "attention over depth", "", "weight of each earlier write, mean over tokens",
         "the paper of the kind", "How much of each earlier write the site reads.", family=True),
)
PROBES = (
    site("lesion_increase", "what a branch is worth", NATS, "loss without the branch - loss", LESION,
         "Below 0.01 nat the branch would not be missed.", guides=(0.01,)),
    block("above_increase", "what all branches above are worth", NATS, "loss without any branch above the block - loss",
          "Veit et al. 2016, arXiv:1605.06431", "Where little is lost, short paths carry the model."),
    model("lesion_sum", "sum of all lesions", NATS, "sum of lesion_increase", HERE,
          "Far above the loss of an untrained model, branches depend on each other."),
    model("useful_share", "share of useful branches", "share of branches", "share with lesion_increase >= 0.01 nat",
          LESION, "1 where every branch would be missed."),
    block("lens_loss", "loss read after a block", NATS, "cross-entropy of head(norm(x))", LENS,
          "Falls evenly where blocks refine, late where the last ones decide."),
    block("lens_kl", "distance from the final prediction", "nats", "KL(final || after this block)", LENS,
          "0 from where nothing changes any more."),
    block("effective_rank", "effective rank", "directions", "exp(-sum p log p), p the shares of the singular values",
          "Roy and Vetterli 2007", "From 1, all on a line, to the width."),
    block("anisotropy", "cosine of tokens of different sequences", "", "mean cosine",
          "Ethayarajh 2019, arXiv:1909.00512", "Near 1 all tokens lie in a narrow cone."),
    block("cka", "likeness to the block before", "", "|Y^T X|^2 / (|X^T X| |Y^T Y|), centred",
          "Kornblith et al. 2019, arXiv:1905.00414", "1 where the block only turns the stream."),
    model("sharpness", "sharpness", "", "lambda_max(H)", "Cohen et al. 2021, arXiv:2103.00065",
          "Gradient descent swings beyond 2 / learning rate."),
    model("preconditioned_sharpness", "preconditioned sharpness", "", "lambda_max(P^-1 H), P = diag(sqrt(v) + eps)",
          COHEN,
          "An adaptive optimiser swings beyond 38 / learning rate (at b1 = 0.9)."),
    model("trace", "trace of the Hessian", "", "E v^T H v over random signs v", "Hutchinson 1989",
          "Small where it is flat."),
    model("edge", "edge of stability", "learning rate", "2 / lambda_max(H)", "Cohen et al. 2021, arXiv:2103.00065",
          "Above it plain gradient descent swings."),
    model("adaptive_edge", "adaptive edge of stability", "learning rate", "38 / lambda_max(P^-1 H)", COHEN,
          "Above it Adam's weights swing."),
    model("critical_learning_rate", "critical learning rate, gradient descent", "learning rate",
          "largest at which W - rate g has a lower loss", GILMER, "A cheap bound of the rates worth trying."),
    model("critical_adaptive_learning_rate", "critical learning rate, adaptive", "learning rate",
          "largest at which W - rate P^-1 g has a lower loss", GILMER, "A cheap bound of the rates worth trying."),
    model("landscape.loss", "loss along random directions", NATS, "L(W + a d1 + b d2), rows of d as long as W's",
          "Li et al. 2018, arXiv:1712.09913",
          "Qualitative: a norm makes the scale of the weights before it meaningless."),
    site("reuse.weight", "weight of a path", "", "|J^T u| / |u| from writer to reader, branches held", DENSEFORMER,
         "1 for every pair in a plain residual stack."),
    site("reuse.share", "share of what is read", "share", "weight times RMS of the write, over their sum", DENSEFORMER,
         "Where what a site reads comes from."),
    site("reuse.reach", "reach", "sites", "sum_j (i - j) w_ij / sum_j w_ij", DENSEFORMER,
         "How many sites back is read on average."),
    site("reuse.entropy", "entropy of the shares", "nats", "-sum share log share", DENSEFORMER,
         "0 where one write is all."),
    model("init.rms_first", "RMS of the embedding", "", "RMS(x_0)", XIONG, "1 is what the theory assumes."),
    model("init.rms_last", "RMS of the last stream", "", "RMS(x_L)", XIONG,
          "sqrt(1 + L/2) to sqrt(1 + 3L/2) for pre-norm with embeddings of unit variance."),
    model("init.token_cosine", "cosine of two tokens", "", "token_similarity of x_L", PRACTICE, "1: collapsed."),
    model("init.gain", "mean squared singular value", "", "E |J^T u|^2 / |u|^2 from the embedding to the final states",
          "Saxe et al. 2014, arXiv:1312.6120", "1 lets signals through as they are (dynamical isometry).",
          guides=(1.0,)),
    model("init.gradient_first", "gradient at the embedding", "", "RMS(dL/dx_0)", XIONG, "Flat over depth is ideal."),
    model("init.gradient_last", "gradient at the last site but one", "", "RMS(dL/dx)", XIONG,
          "Flat over depth is ideal."),
    model("init.weight_first", "gradient of the first MLP's output matrix", "", "|dL/dW|", XIONG,
          "Flat over depth is ideal."),
    model("init.weight_last", "gradient of the last MLP's output matrix", "", "|dL/dW|", XIONG,
          "Falls as L^-1/2 for pre-norm, stays for post-norm."),
    model("init.loss", "loss before training", NATS, "mean cross-entropy on random tokens", PRACTICE,
          "log of the vocabulary where nothing is known."),
)
RUN = (
    model("loss", "training loss", NATS, "as train_loss, at logged steps", PRACTICE, "Of another batch at each step."),
    model("val_loss", "held-out loss", NATS, "mean cross-entropy", PRACTICE, "What a run is judged by."),
    model("val_bits_per_byte", "held-out bits per byte", "bits per byte", "val_loss in bits, per byte of text",
          PRACTICE,
          "Compares between tokenizers, and with compressors."),
    model("lzma_bits_per_byte", "lzma", "bits per byte", "of the held-out text", PRACTICE, "A bar to get under."),
    model("zlib_bits_per_byte", "zlib -9", "bits per byte", "of the held-out text", PRACTICE, "A bar to get under."),
    model("unigram_entropy", "unigram entropy", NATS, "of the corpus' token histogram", PRACTICE,
          "A loss within 0.1 nat of it has learned frequencies alone: stuck."),
    model("initial_loss", "loss before the first update", NATS, "train_loss of step 1", PROXIES,
          "Where failed runs are clipped to in the learning-rate sensitivity."),
    model("learning_rate", "learning rate", "", "of the step", PRACTICE, "After warm-up and schedule."),
    model("grad_norm", "gradient norm before clipping", "", "|g| of all parameters", PRACTICE,
          "As train_gradient_norm."),
    model("clip_rate", "clip rate", "share of steps", "share with |g| > max_grad_norm", PRACTICE,
          "Comparing variants under clipping without it is meaningless."),
    model("spike", "spike", "", "1 where the loss or the gradient norm is a spike", HERE,
          "8 scaled median deviations above a robust line through the last 64 steps."),
    model("amplitude", "height of a spike", "units of the curve", "largest excess over the trend", HERE,
          "Nats for a loss."),
    model("area", "area of a spike", "units of the curve times steps", "excess until recovery", HERE, "What it cost."),
    model("recovery", "recovery from a spike", "steps", "until back within two scales of the trend", HERE,
          "None: never."),
    model("lead", "lead of the gradient's spike", "steps", "by which it came before the loss's", HERE,
          "None: it did not."),
    model("loss_events_per_1000_steps", "spikes of the loss", "per 1,000 steps",
          "events, neighbours within 10 steps as one",
          HERE, "A comparison is void where the baseline never spikes."),
    model("grad_norm_events_per_1000_steps", "spikes of the gradient norm", "per 1,000 steps",
          "events, neighbours within 10 steps as one", HERE, "A comparison is void where the baseline never spikes."),
    model("olmo2_score_loss_percent", "OLMo 2 spike score, loss", "%", "values 7 deviations off the last 1,000's mean",
          OLMO,
          "Blind on short runs; given from 5,000 steps on."),
    model("olmo2_score_grad_norm_percent", "OLMo 2 spike score, gradient norm", "%",
          "values 7 deviations off the last 1,000's mean", OLMO, "Blind on short runs; given from 5,000 steps on."),
    model("divergence_step", "divergence", "step", "first step of the excursion that never ended", HERE,
          "None: it did not."),
    model("end_state", "end state", "", "ok, spiked-recovered, degraded, stuck, diverged: the first that holds", HERE,
          "Stuck and diverged are failures."),
    model("skipped_updates", "updates skipped", "", "batches with a loss or gradient that was not finite", HERE,
          "0 is healthy."),
    model("rollbacks", "rollbacks", "", "returns to a checkpoint", HERE, "0 is healthy."),
    model("parameters", "parameters", "", "of the whole model", PRACTICE, "Variants of one size compare."),
    model("tokens", "tokens", "", "trained on so far", PRACTICE,
          "Variants compare at equal tokens, and at equal time."),
    model("floating_point_operations", "floating-point operations", "", "forward and backward, all tokens", PRACTICE,
          "Not the time: what moves memory costs too."),
    model("wall_seconds", "time", "s", "of training, evaluation and saving", PRACTICE, "Of this machine."),
    model("tokens_per_second", "tokens per second", "per s", "over the steps since the last line", PRACTICE,
          "Of this machine."),
)
# fmt: on
