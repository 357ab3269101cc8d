"""Single operations that sum, order, and compare: x [batch, 4, 4, 4] in (-1, 1) to a tensor [batch, ...]."""

import torch
from operations_base import constant
from torch.nn import functional as F


def each(f):
    """A function of a single sample, done to each."""
    return lambda x: torch.stack([f(row) for row in x])


LABELS = torch.tensor([1, 0, 3, 2])

REDUCTIONS = {
    "sum": lambda x: x.exp().sum((2, 3)),
    "sum keepdim": lambda x: x.sum(1, keepdim=True) * x,
    "mean": lambda x: x.mean((2, 3)),
    "torch.mean": lambda x: torch.mean(x.exp(), dim=[1, 2]),
    "nansum": lambda x: x.exp().nansum(1),
    "nanmean": lambda x: x.exp().nanmean((2, 3)),
    "prod": lambda x: (x + 1.5).prod(1),
    "prod of each": each(lambda x: (x + 1.2).prod()),
    "var": lambda x: x.var((2, 3)),
    "var of one": lambda x: x.var(1, unbiased=False),
    "var correction": lambda x: torch.var(x, dim=(1, 2), correction=2),
    "std": lambda x: x.std((1, 2, 3)),
    "std keepdim": lambda x: (x - x.mean((2, 3), keepdim=True)) / (x.std((2, 3), keepdim=True) + 1e-5),
    "var_mean": lambda x: torch.cat(torch.var_mean(x, dim=(2, 3)), 1),
    "std_mean": lambda x: torch.cat(torch.std_mean(x, dim=(2, 3)), 1),
    "logsumexp": lambda x: x.logsumexp(1),
    "logcumsumexp": lambda x: x.logcumsumexp(1),
    "cumsum": lambda x: x.exp().cumsum(1),
    "cumprod": lambda x: (x + 1.5).cumprod(1),
    "cummax": lambda x: x.cummax(1).values,
    "cummin": lambda x: x.cummin(2)[0],
    "cumulative_trapezoid": lambda x: torch.cumulative_trapezoid(x.exp(), dim=1),
    "trapezoid": lambda x: torch.trapezoid(x.exp(), dim=2),
    "diff": lambda x: x.exp().diff(dim=1),
    "diff prepend": lambda x: torch.diff(x, dim=3, prepend=x[..., :1]),
    "gradient": lambda x: torch.gradient(x.exp(), dim=2)[0],
    "sort": lambda x: x.flatten(1).sort(1).values,
    "sort stable descending": lambda x: torch.sort(x, dim=3, descending=True, stable=True)[0],
    "msort of each": each(lambda x: torch.msort(x[0])),
    "topk": lambda x: x.flatten(1).topk(5, 1).values,
    "kthvalue": lambda x: x.flatten(1).kthvalue(7, 1).values,
    "median": lambda x: x.flatten(1).median(1).values,
    "median of each": each(lambda x: x.median()),
    "nanmedian": lambda x: x.flatten(1).nanmedian(1)[0],
    "mode": lambda x: x.flatten(1).mode(1).values,
    "quantile": lambda x: x.flatten(1).quantile(0.3, dim=1),
    "nanquantile": lambda x: x.flatten(1).nanquantile(torch.tensor([0.2, 0.7], dtype=x.dtype), dim=1).T,
    "max": lambda x: x.max(1).values,
    "max of each": each(lambda x: x.max()),
    "min": lambda x: x.min(2)[0],
    "amax": lambda x: x.amax((2, 3)),
    "amin": lambda x: x.amin(1),
    "aminmax": lambda x: torch.cat(torch.aminmax(x.flatten(2), dim=2), 1),
    "max keepdim": lambda x: x / (x.abs().max(1, keepdim=True)[0] + 1),
    "norm": lambda x: x.norm(dim=1),
    "norm p=1": lambda x: x.norm(1, dim=(2, 3)),
    "norm of each": each(lambda x: x.norm() * x),
    "norm fro": lambda x: torch.norm(x, p="fro", dim=(2, 3)),
    "norm inf": lambda x: x.norm(float("inf"), dim=1),
    "linalg.norm": lambda x: torch.linalg.norm(x, dim=(2, 3)),
    "linalg.norm nuc": lambda x: torch.linalg.norm(x + constant(x, 4, 4), "nuc", dim=(2, 3)),
    "linalg.vector_norm": lambda x: torch.linalg.vector_norm(x, 3, dim=(1, 2)),
    "linalg.matrix_norm": lambda x: torch.linalg.matrix_norm(x),
    "linalg.matrix_norm 2": lambda x: torch.linalg.matrix_norm(x + constant(x, 4, 4), 2),
    "renorm": each(lambda x: torch.renorm(x, 2, 0, 1.0)),
    "trace of each": each(lambda x: torch.trace(x[0]) * x[1]),
    "argmax as an index": lambda x: F.one_hot(x.flatten(2).argmax(2), 16).to(x) * x.flatten(2),
    "searchsorted as an index": lambda x: x.flatten(1).gather(
        1, torch.searchsorted(constant(x, 9).sort()[0], x[:, 0, 0])
    ),
    "count_nonzero as a factor": lambda x: x * torch.count_nonzero(x > 0, (1, 2, 3)).view(-1, 1, 1, 1) / 64,
    "histogram soft": lambda x: torch.exp(-((x.flatten(1)[:, :, None] - torch.linspace(-1, 1, 5).to(x)) ** 2)).sum(1),
    "bincount as a factor": each(lambda x: x * torch.bincount((x > 0).long().flatten(), minlength=2)[1] / 64),
    "segment_reduce": each(
        lambda x: torch.segment_reduce(x.flatten(), "sum", lengths=torch.tensor([20, 30, 14])).expand(2, -1)
    ),
    # distances and losses
    "cdist": lambda x: torch.cdist(x[:, 0], x[:, 1] + 2),
    "cdist p=1": lambda x: torch.cdist(x[:, 0], x[:, 1] + 2, p=1.0),
    "cdist by hand": lambda x: torch.cdist(x[:, 0], x[:, 1], compute_mode="donot_use_mm_for_euclid_dist"),
    "pdist of each": each(lambda x: torch.pdist(x[0])),
    "pairwise_distance": lambda x: F.pairwise_distance(x[:, 0], x[:, 1]),
    "cosine_similarity": lambda x: F.cosine_similarity(x, x.flip(1).exp(), dim=1),
    "F.mse_loss": lambda x: F.mse_loss(x, x.flip(1), reduction="none"),
    "F.mse_loss of each": each(lambda x: F.mse_loss(x, x.flip(0).exp())),
    "F.l1_loss": lambda x: F.l1_loss(x, x.flip(1) + 0.3, reduction="none"),
    "F.smooth_l1_loss": lambda x: F.smooth_l1_loss(x, x.flip(1).exp(), reduction="none"),
    "F.huber_loss": lambda x: F.huber_loss(x, x.flip(1).exp(), reduction="none", delta=0.5),
    "F.binary_cross_entropy": lambda x: F.binary_cross_entropy(
        torch.sigmoid(x), torch.sigmoid(constant(x, 4, 4)).expand_as(x), reduction="none"
    ),
    "F.binary_cross_entropy_with_logits": lambda x: F.binary_cross_entropy_with_logits(
        x, torch.sigmoid(x.flip(1)), reduction="none"
    ),
    "F.cross_entropy": lambda x: F.cross_entropy(x, LABELS.expand(len(x), 4, 4), reduction="none"),
    "F.cross_entropy smoothed": lambda x: F.cross_entropy(
        x, LABELS.expand(len(x), 4, 4), reduction="none", label_smoothing=0.1
    ),
    "F.cross_entropy soft": lambda x: F.cross_entropy(x, F.softmax(x.flip(1), 1), reduction="none"),
    "F.nll_loss": lambda x: F.nll_loss(F.log_softmax(x, 1), LABELS.expand(len(x), 4, 4), reduction="none"),
    "F.kl_div": lambda x: F.kl_div(F.log_softmax(x, 1), F.softmax(x.flip(1), 1), reduction="none"),
    "F.poisson_nll_loss": lambda x: F.poisson_nll_loss(x, constant(x, 4, 4).abs(), reduction="none"),
    "F.gaussian_nll_loss": lambda x: F.gaussian_nll_loss(x, x.flip(1), x.flip(2).exp(), reduction="none"),
    "F.soft_margin_loss": lambda x: F.soft_margin_loss(x, constant(x, 4, 4).sign().expand_as(x), reduction="none"),
    "F.margin_ranking_loss": lambda x: F.margin_ranking_loss(
        x, x.flip(1), x.new_ones(1, 1, 1, 1), 0.1, reduction="none"
    ),
    "F.hinge_embedding_loss": lambda x: F.hinge_embedding_loss(
        x, constant(x, 4, 4).sign().expand_as(x), reduction="none"
    ),
    "F.cosine_embedding_loss": lambda x: F.cosine_embedding_loss(
        x.flatten(1), x.flip(1).exp().flatten(1), x.new_ones(len(x)), reduction="none"
    ),
    "F.triplet_margin_loss": lambda x: F.triplet_margin_loss(x[:, 0], x[:, 1], x[:, 2], reduction="none"),
    "F.multi_margin_loss": lambda x: F.multi_margin_loss(x[:, 0, 0], LABELS[:1].expand(len(x)), reduction="none"),
    "F.multilabel_soft_margin_loss": lambda x: F.multilabel_soft_margin_loss(
        x[:, 0, 0], x.new_ones(len(x), 4), reduction="none"
    ),
    "F.multilabel_margin_loss": lambda x: F.multilabel_margin_loss(
        x[:, 0, 0], torch.tensor([[1, 2, -1, 0]]).expand(len(x), -1), reduction="none"
    ),
    "F.ctc_loss": lambda x: F.ctc_loss(
        F.log_softmax(x.flatten(2).permute(1, 0, 2), 2),
        torch.tensor([[1, 2]]).expand(len(x), -1),
        torch.full((len(x),), 4),
        torch.full((len(x),), 2),
        reduction="none",
    ),
}
