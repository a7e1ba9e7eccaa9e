"""Each metric of a stream against a loop over its definition, in float64."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import linregress

from resformer.stability import representation, signal
from resformer.stability.attention import statistics

X = torch.randn(2, 7, 5, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 2.0, 0.5, 9.0, 1.0])
Y = torch.randn(2, 7, 5, generator=torch.Generator().manual_seed(1))
TOKENS = [(X[b, t].double().numpy(), Y[b, t].double().numpy()) for b in range(2) for t in range(7)]


def cos(a, b):
    return float(a @ b / np.sqrt(a @ a) / np.sqrt(b @ b))


def test_rms_and_cosines():
    assert signal.rms(X).item() == pytest.approx(math.sqrt(sum(v * v for a, _ in TOKENS for v in a) / 70), rel=1e-6)
    assert signal.cosine(X, Y).item() == pytest.approx(np.mean([cos(a, b) for a, b in TOKENS]), rel=1e-5)
    angles = np.mean([math.acos(cos(a, b)) / math.pi for a, b in TOKENS])
    assert signal.angular_distance(X, Y).item() == pytest.approx(angles, rel=1e-5)
    assert signal.angular_distance(X, -X).item() == pytest.approx(1.0, abs=1e-3)


def test_token_similarity_is_over_pairs_of_different_tokens_of_a_sequence():
    pairs = [cos(X[b, i].double().numpy(), X[b, j].double().numpy())
             for b in range(2) for i in range(7) for j in range(7) if i != j]  # fmt: skip
    assert signal.token_similarity(X).item() == pytest.approx(np.mean(pairs), rel=1e-5)
    assert signal.token_similarity(X[:, :1].expand(-1, 7, -1)).item() == pytest.approx(1.0, abs=1e-5)


def test_dong_residual_is_zero_where_all_tokens_are_one():
    found = []
    for sequence in X.double().numpy():
        centred = sequence - sequence.mean(0)
        norms = [np.sqrt(np.abs(m).sum(0).max() * np.abs(m).sum(1).max()) for m in (centred, sequence)]
        found.append(norms[0] / norms[1])
    assert signal.dong_residual(X).item() == pytest.approx(np.mean(found), rel=1e-5)
    assert signal.dong_residual(X[:, :1].expand(-1, 7, -1)).item() == pytest.approx(0, abs=1e-6)


def test_kurtosis_runs_from_one_to_the_width():
    s = [math.sqrt(np.mean([a[j] ** 2 for a, _ in TOKENS])) for j in range(5)]
    expected = np.mean([v**4 for v in s]) / np.mean([v**2 for v in s]) ** 2
    assert signal.kurtosis(X).item() == pytest.approx(expected, rel=1e-5)
    assert signal.kurtosis(torch.ones(1, 3, 5)).item() == pytest.approx(1)
    assert signal.kurtosis(torch.eye(5)[0].expand(1, 3, 5)).item() == pytest.approx(5)


def test_outliers():
    ratios = np.mean([np.abs(a).max() / np.median(np.abs(a)) for a, _ in TOKENS])
    assert signal.max_median_ratio(X).item() == pytest.approx(ratios, rel=1e-5)
    massive = torch.full((1, 4, 5), 0.01)
    massive[0, 0, 0], massive[0, 1, 1], massive[0, 2, 2] = 150.0, -101.0, 99.0
    assert signal.massive_activations(massive).item() == 2  # 99 is below 100
    assert signal.massive_activations(massive * 100 + 50).item() == 0  # and here nothing is 1,000 times the median


@pytest.mark.parametrize("document_mask", [False, True])
def test_attention_statistics_against_a_loop(document_mask):
    """Grouped queries, 12 tokens; with a mask the second document starts at token 9 and has too few keys to count."""
    generator = torch.Generator().manual_seed(3)
    q, k = torch.randn(2, 4, 12, 6, generator=generator), torch.randn(2, 2, 12, 6, generator=generator)
    visible = np.tril(np.ones((12, 12), bool))
    mask = None
    if document_mask:
        visible[10:, :10] = False
        mask = torch.from_numpy(visible).expand(2, 1, 12, 12)
    largest, entropies, shares = -math.inf, [], {}
    for b in range(2):
        for h in range(4):
            for i in range(12):
                keys = [j for j in range(12) if visible[i, j]]
                logits = [float(q[b, h, i].double() @ k[b, h // 2, j].double()) / math.sqrt(6) for j in keys]
                largest = max(largest, *logits)
                weights = np.exp(logits) / np.exp(logits).sum()
                if len(keys) > 8:
                    entropies.append(-(weights * np.log(weights)).sum())
                    shares.setdefault(h, []).append(entropies[-1] / math.log(len(keys)))
    found = {name: value.item() for name, value in statistics(q, k, mask).items()}
    assert found["attention_logit_max"] == pytest.approx(largest, rel=1e-5)
    assert found["attention_entropy"] == pytest.approx(np.mean(entropies), rel=1e-5)
    assert found["attention_entropy_share"] == pytest.approx(
        np.mean([s for of in shares.values() for s in of]), rel=1e-5
    )
    assert found["attention_entropy_share_min"] == pytest.approx(min(map(np.mean, shares.values())), rel=1e-5)


def test_growth_fits_are_those_of_scipy():
    rms = torch.tensor([1.0, 1.3, 1.5, 2.2, 2.4, 4.0], dtype=torch.float64)
    found = {name: value.item() for name, value in signal.growth_fits(rms).items()}
    squares = rms.numpy() ** 2
    assert found["linear"] == pytest.approx(linregress(range(6), squares).rvalue ** 2)
    assert found["exponential"] == pytest.approx(linregress(range(6), np.log(squares)).rvalue ** 2)
    assert signal.growth_fits(1.1 ** torch.arange(9))["exponential"].item() == pytest.approx(1, abs=1e-6)
    assert all(value.isnan() for value in signal.growth_fits(torch.ones(5)).values())


def test_ratio_of_streams():
    each = [math.sqrt(np.mean([float(X[b, t, j]) ** 2 for b in range(2) for t in range(7)])) for j in range(5)]
    assert signal.stream_rms_ratio(X.unsqueeze(-1)).item() == pytest.approx(max(each) / min(each), rel=1e-5)


def test_what_the_stream_holds_against_loops_and_numpy():
    singular = np.linalg.svd(X.double().flatten(0, 1).numpy(), compute_uv=False)
    p = singular / singular.sum()
    assert representation.effective_rank(X).item() == pytest.approx(math.exp(-(p * np.log(p)).sum()), rel=1e-6)
    assert representation.effective_rank(torch.eye(5)[None]).item() == pytest.approx(5)
    pairs = [cos(X[0, i].double().numpy(), X[1, j].double().numpy()) for i in range(7) for j in range(7)]
    assert representation.anisotropy(X).item() == pytest.approx(np.mean(pairs), rel=1e-6)
    centre = np.eye(14) - 1 / 14  # CKA by its kernels
    one, two = (centre @ (x @ x.T) @ centre for x in (t.double().flatten(0, 1).numpy() for t in (X, Y)))
    cka = (one * two).sum() / math.sqrt((one * one).sum() * (two * two).sum())
    assert representation.linear_cka(X, Y).item() == pytest.approx(cka, rel=1e-6)


def test_amax_gain_against_numpy():
    mixing = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(4))
    matrices = [m.double().numpy() for m in mixing.flatten(0, 1)]
    found = {name: value.item() for name, value in signal.amax_gain(mixing).items()}
    assert found["forward"] == pytest.approx(np.mean([np.abs(m).sum(1).max() for m in matrices]), rel=1e-5)
    assert found["backward"] == pytest.approx(np.mean([np.abs(m).sum(0).max() for m in matrices]), rel=1e-5)
    logs = [np.abs(np.log(np.abs(m).sum(0))).max() for m in matrices]
    assert found["log_column"] == pytest.approx(np.mean(logs), rel=1e-5)
    second = [np.sort(np.abs(np.linalg.eigvals(m)))[-2] for m in matrices]
    assert found["second"] == pytest.approx(np.mean(second), rel=1e-4)


def test_a_mixing_that_is_not_finite_is_measured_as_such():
    mixing = torch.eye(3).repeat(2, 1, 1)
    mixing[1, 0, 0] = float("nan")
    assert torch.isnan(signal.amax_gain(mixing)["second"])
