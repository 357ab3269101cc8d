"""Layers of networks: x [batch, 4, 4, 4] in (-1, 1) to a tensor [batch, ...]; modules are made once for each dtype."""

import torch
from operations_base import constant, layer
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize, spectral_norm, weight_norm


def tokens(x):
    """[batch, 16, 4]."""
    return x.flatten(2).transpose(1, 2)


def heads(x):
    """[batch, 2 heads, 8 tokens, 4]."""
    return x.reshape(len(x), 2, 8, 4)


ALLOWED = torch.ones(8, 8, dtype=torch.bool).tril()


def attend(x, **options):
    return F.scaled_dot_product_attention(heads(x), heads(x.flip(1)) * 2, heads(x.exp()), **options)


class Symmetric(nn.Module):
    def forward(self, weight):
        return weight.triu() + weight.triu(1).mT


def symmetric():
    made = nn.Linear(4, 4)
    parametrize.register_parametrization(made, "weight", Symmetric())
    return made


def encoder(**options):
    return nn.TransformerEncoder(
        nn.TransformerEncoderLayer(4, 2, 8, batch_first=True, **options), 2, enable_nested_tensor=True
    )


def hooked(made):
    for part in made.modules():
        part.register_forward_hook(lambda *_: None)
    return made


def batch_normed(**options):
    made = nn.BatchNorm2d(4, **options)
    if made.running_mean is not None:
        made.running_mean.uniform_(-0.5, 0.5)
        made.running_var.uniform_(0.5, 1.5)
    return made


LINEAR = {
    "conv2d": lambda x: F.conv2d(x, constant(x, 5, 4, 3, 3), constant(x, 5), padding=1),
    "conv2d stride": lambda x: F.conv2d(x, constant(x, 5, 4, 3, 3), stride=2, padding=1),
    "conv2d dilation": lambda x: F.conv2d(x, constant(x, 5, 4, 2, 2), dilation=2),
    "conv2d groups": lambda x: F.conv2d(x, constant(x, 8, 2, 3, 3), groups=2, padding=1),
    "conv2d depthwise": lambda x: F.conv2d(x, constant(x, 4, 1, 3, 3), groups=4, padding=1),
    "conv2d same": lambda x: F.conv2d(x, constant(x, 5, 4, 3, 3), padding="same"),
    "conv2d valid": lambda x: F.conv2d(x, constant(x, 5, 4, 3, 3), padding="valid"),
    "conv2d same even": lambda x: F.conv2d(x, constant(x, 5, 4, 2, 4), padding="same"),
    "conv2d 1x1": lambda x: F.conv2d(x, constant(x, 6, 4, 1, 1)),
    "conv2d of each": lambda x: torch.stack([F.conv2d(row, constant(x, 5, 4, 3, 3)) for row in x]),
    "conv2d traced weight": lambda x: torch.stack(
        [F.conv2d(constant(x, 1, 4, 6, 6), row[:, :, :, None].permute(0, 1, 2, 3)) for row in x]
    ),
    "conv2d circular": layer(lambda: nn.Conv2d(4, 3, 3, padding=1, padding_mode="circular")),
    "conv2d reflect": layer(lambda: nn.Conv2d(4, 3, 3, padding=1, padding_mode="reflect")),
    "conv2d replicate": layer(lambda: nn.Conv2d(4, 3, 3, padding=1, padding_mode="replicate")),
    "conv1d": lambda x: F.conv1d(x.flatten(2), constant(x, 5, 4, 3), constant(x, 5), stride=2),
    "conv1d groups": lambda x: F.conv1d(x.flatten(2), constant(x, 4, 2, 3), groups=2, padding=2, dilation=2),
    "conv3d": lambda x: F.conv3d(x[:, None], constant(x, 3, 1, 3, 3, 3), padding=1),
    "conv_transpose2d": lambda x: F.conv_transpose2d(x, constant(x, 4, 3, 4, 4), constant(x, 3), stride=2, padding=1),
    "conv_transpose2d odd": lambda x: F.conv_transpose2d(x, constant(x, 4, 3, 3, 3), stride=2, output_padding=1),
    "conv_transpose2d groups": lambda x: F.conv_transpose2d(x, constant(x, 4, 3, 3, 3), groups=2, stride=2),
    "conv_transpose2d dilation": lambda x: F.conv_transpose2d(x, constant(x, 4, 3, 2, 2), dilation=2),
    "conv_transpose1d": lambda x: F.conv_transpose1d(x.flatten(2), constant(x, 4, 3, 4), stride=2, padding=1),
    "conv_transpose3d": lambda x: F.conv_transpose3d(x[:, None], constant(x, 1, 2, 2, 2, 2), stride=2),
    "modulated convolution": lambda x: modulated(x),
    "modulated transposed convolution": lambda x: modulated_up(x),
    "linear": lambda x: F.linear(x, constant(x, 5, 4), constant(x, 5)),
    "bilinear": lambda x: F.bilinear(x, x.flip(1), constant(x, 3, 4, 4)),
    "nn.Bilinear": lambda x: BILINEAR(x),
    "weight_norm old": layer(lambda: weight_norm(nn.Conv2d(4, 3, 3))),
    "spectral_norm old": layer(lambda: spectral_norm(nn.Conv2d(4, 3, 3))),
    "parametrizations.weight_norm": layer(lambda: parametrizations.weight_norm(nn.Conv2d(4, 3, 3))),
    "parametrizations.spectral_norm": layer(lambda: parametrizations.spectral_norm(nn.Linear(4, 4))),
    "parametrizations.orthogonal": layer(lambda: parametrizations.orthogonal(nn.Linear(4, 4))),
    "own parametrization": layer(symmetric),
    "traced weight norm": lambda x: torch.stack(
        [F.linear(constant(x, 3, 4), torch._weight_norm(row[0] + 2, row[1, :, :1], 0)) for row in x]
    ),
    "embedding times x": lambda x: F.embedding(torch.tensor([1, 3]), constant(x, 5, 4)) @ x,
    "embedding of a traced table": lambda x: torch.stack([F.embedding(torch.tensor([1, 3]), row[0]) for row in x]),
    "embedding_bag": lambda x: torch.stack(
        [F.embedding_bag(torch.tensor([[1, 3], [0, 1]]), row[0], mode="sum") for row in x]
    ),
    "embedding_bag mean": lambda x: torch.stack(
        [F.embedding_bag(torch.tensor([1, 3, 2]), row[0], torch.tensor([0, 1])) for row in x]
    ),
    "nn.Embedding": layer(lambda: nn.Embedding(6, 4), lambda made, x: made(torch.tensor([2])) * x),
    "EqualLinear": layer(lambda: nn.Linear(4, 4), lambda made, x: F.linear(x, made.weight * 0.5, made.bias * 2)),
    "MLP mapping": layer(lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.LeakyReLU(0.2), nn.Linear(8, 6))),
    "minibatch stddev of one": lambda x: torch.cat([x, x.std((1, 2, 3), keepdim=True).expand(-1, 1, 4, 4)], 1),
}
BILINEAR = layer(lambda: nn.Bilinear(4, 4, 3), lambda made, x: made(x, x.flip(2)))


def modulated(x):
    """StyleGAN2's: grouped, the weights modulated by the code and normalised."""
    style = x.mean((2, 3)) + 1
    weight = constant(x, 5, 4, 3, 3)[None] * style[:, None, :, None, None]
    weight = weight * (weight.square().sum((2, 3, 4), keepdim=True) + 1e-8).rsqrt()
    made = F.conv2d(x.reshape(1, -1, 4, 4), weight.reshape(-1, 4, 3, 3), padding=1, groups=len(x))
    return made.reshape(len(x), 5, 4, 4)


def modulated_up(x):
    style = x.mean((2, 3)) + 1
    weight = constant(x, 5, 4, 3, 3)[None] * style[:, None, :, None, None]
    weight = weight.transpose(1, 2).reshape(len(x) * 4, 5, 3, 3)
    made = F.conv_transpose2d(x.reshape(1, -1, 4, 4), weight, stride=2, groups=len(x))
    return made.reshape(len(x), 5, *made.shape[2:])


NORMS = {
    "batch_norm eval": layer(lambda: batch_normed()),
    "batch_norm without affine": layer(lambda: batch_normed(affine=False)),
    "batch_norm 1d": layer(lambda: nn.BatchNorm1d(4), lambda made, x: made(x.flatten(2))),
    "batch_norm 3d": layer(lambda: nn.BatchNorm3d(4), lambda made, x: made(x[..., None])),
    "conditional batch_norm": layer(
        lambda: batch_normed(affine=False),
        lambda made, x: made(x) * (1 + x.mean((2, 3), keepdim=True)) + x.amax((2, 3), keepdim=True),
    ),
    "torch.batch_norm": lambda x: torch.batch_norm(
        x, None, None, constant(x, 4), constant(x, 4).abs() + 1, False, 0.1, 1e-5, False
    ),
    "layer_norm": lambda x: F.layer_norm(x, (4, 4), constant(x, 4, 4), constant(x, 4, 4)),
    "layer_norm last": layer(lambda: nn.LayerNorm(4)),
    "layer_norm without affine": lambda x: F.layer_norm(x, (4, 4, 4)),
    "group_norm": layer(lambda: nn.GroupNorm(2, 4)),
    "group_norm one": lambda x: F.group_norm(x, 1),
    "group_norm 1d": layer(lambda: nn.GroupNorm(2, 4), lambda made, x: made(x.flatten(2))),
    "group_norm of transposed tokens": layer(
        lambda: nn.GroupNorm(2, 4), lambda made, x: made(tokens(x).transpose(1, 2)).exp()
    ),
    "group_norm then view": layer(lambda: nn.GroupNorm(2, 4), lambda made, x: made(x).view(len(x), -1)),
    "group_norm of vectors": layer(lambda: nn.GroupNorm(2, 16), lambda made, x: made(x[:, 0].flatten(1))),
    "instance_norm": layer(lambda: nn.InstanceNorm2d(4, affine=True)),
    "instance_norm 1d": layer(lambda: nn.InstanceNorm1d(4), lambda made, x: made(x.flatten(2))),
    "F.instance_norm": lambda x: F.instance_norm(x),
    "AdaIN": lambda x: F.instance_norm(x) * (1 + x.mean((2, 3), keepdim=True)) + x.amax((2, 3), keepdim=True),
    "local_response_norm": lambda x: F.local_response_norm(x, 3),
    "rms_norm": lambda x: F.rms_norm(x, (4,), constant(x, 4)),
    "nn.RMSNorm": layer(lambda: nn.RMSNorm(4)),
    "PixelNorm": lambda x: x / torch.sqrt(torch.mean(x**2, dim=1, keepdim=True) + 1e-8),
    "demodulation": lambda x: x * torch.rsqrt(x.square().sum((1, 2, 3), keepdim=True) + 1e-8),
    "GRN": lambda x: x * (x.norm(dim=(2, 3), keepdim=True) / (x.norm(dim=(2, 3), keepdim=True).mean(1, True) + 1e-6)),
    "SPADE": lambda x: F.instance_norm(x) * F.conv2d(x, constant(x, 4, 4, 3, 3), padding=1),
}

POOLS = {
    "avg_pool1d": lambda x: F.avg_pool1d(x.flatten(2), 3, 2),
    "avg_pool2d": lambda x: F.avg_pool2d(x, 2),
    "avg_pool2d padded": lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
    "avg_pool3d": lambda x: F.avg_pool3d(x[:, None], 2),
    "max_pool1d": lambda x: F.max_pool1d(x.flatten(2), 3, 2),
    "max_pool2d": lambda x: F.max_pool2d(x, 2),
    "max_pool2d overlapping": lambda x: F.max_pool2d(x, 3, 1, 1),
    "max_pool2d dilation": lambda x: F.max_pool2d(x, 2, 1, dilation=2),
    "max_pool2d ceil": lambda x: F.max_pool2d(x, 3, 2, ceil_mode=True),
    "max_pool3d": lambda x: F.max_pool3d(x[:, None], 2),
    "max_pool2d with indices": lambda x: F.max_pool2d(x, 2, return_indices=True)[0],
    "max_unpool2d": lambda x: F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2),
    "max_unpool1d": lambda x: F.max_unpool1d(*F.max_pool1d(x.flatten(2), 2, return_indices=True), 2),
    "max_unpool3d": lambda x: F.max_unpool3d(*F.max_pool3d(x[:, None], 2, return_indices=True), 2),
    "adaptive_avg_pool1d": lambda x: F.adaptive_avg_pool1d(x.flatten(2), 5),
    "adaptive_avg_pool2d": lambda x: F.adaptive_avg_pool2d(x, 3),
    "adaptive_avg_pool2d to one": lambda x: F.adaptive_avg_pool2d(x, 1) * x,
    "adaptive_avg_pool3d": lambda x: F.adaptive_avg_pool3d(x[:, None], 3),
    "adaptive_max_pool1d": lambda x: F.adaptive_max_pool1d(x.flatten(2), 5),
    "adaptive_max_pool2d": lambda x: F.adaptive_max_pool2d(x, 3),
    "adaptive_max_pool3d": lambda x: F.adaptive_max_pool3d(x[:, None], 3),
    "lp_pool1d": lambda x: F.lp_pool1d(x.flatten(2) + 1.5, 2.0, 2),
    "lp_pool2d": lambda x: F.lp_pool2d(x + 1.5, 3.0, 2),
    "fractional_max_pool2d": lambda x: F.fractional_max_pool2d(
        x, 2, output_size=2, _random_samples=torch.full((len(x), 4, 2), 0.3).to(x)
    ),
    # sampling
    "grid_sample": lambda x: F.grid_sample(x, constant(x, 1, 3, 3, 2).expand(len(x), -1, -1, -1), align_corners=False),
    "grid_sample nearest": lambda x: F.grid_sample(
        x, constant(x, 1, 3, 3, 2).expand(len(x), -1, -1, -1), "nearest", align_corners=True
    ),
    "grid_sample border": lambda x: F.grid_sample(
        x, 2 * constant(x, 1, 3, 3, 2).expand(len(x), -1, -1, -1), padding_mode="border", align_corners=True
    ),
    "grid_sample reflection": lambda x: F.grid_sample(
        x, 2 * constant(x, 1, 3, 3, 2).expand(len(x), -1, -1, -1), padding_mode="reflection", align_corners=False
    ),
    "grid_sample bicubic": lambda x: F.grid_sample(
        x, constant(x, 1, 3, 3, 2).expand(len(x), -1, -1, -1), "bicubic", align_corners=False
    ),
    "grid_sample 3d": lambda x: F.grid_sample(
        x[:, None], constant(x, 1, 2, 3, 3, 3).expand(len(x), -1, -1, -1, -1) / 2, align_corners=False
    ),
    "grid_sample with a traced grid": lambda x: F.grid_sample(
        constant(x, 1, 2, 6, 6).expand(len(x), -1, -1, -1), x[:, :2].permute(0, 2, 3, 1) * 0.8, align_corners=False
    ),
    "grid_sample, both traced": lambda x: F.grid_sample(
        x.exp(), x[:, :2].permute(0, 2, 3, 1) * 0.8, align_corners=True
    ),
    "grid_sample 3d with a traced grid": lambda x: F.grid_sample(
        constant(x, 1, 2, 4, 4, 4).expand(len(x), -1, -1, -1, -1),
        x[:, None, :3].permute(0, 1, 3, 4, 2) * 0.8,
        align_corners=False,
    ),
    "affine_grid": lambda x: F.affine_grid(x[:, 0, :2, :3], [len(x), 1, 3, 3], align_corners=False),
    "spatial transformer": lambda x: F.grid_sample(
        x.exp(), F.affine_grid(0.5 * x[:, 0, :2, :3], [len(x), 4, 3, 3], align_corners=False), align_corners=False
    ),
}

ATTENTION = {
    "sdpa": lambda x: attend(x),
    "sdpa causal": lambda x: attend(x, is_causal=True),
    "sdpa boolean mask": lambda x: attend(x, attn_mask=ALLOWED),
    "sdpa float mask": lambda x: attend(x, attn_mask=constant(x, 8, 8)),
    "sdpa traced mask": lambda x: attend(x, attn_mask=x.reshape(len(x), 1, 8, 8)),
    "sdpa scale": lambda x: attend(x, scale=0.3),
    "sdpa no dropout": lambda x: attend(x, dropout_p=0.0),
    "sdpa grouped queries": lambda x: F.scaled_dot_product_attention(
        x.reshape(len(x), 4, 4, 4), heads(x)[:, :, :4], heads(x.exp())[:, :, :4], enable_gqa=True
    ),
    "sdpa traced query": lambda x: F.scaled_dot_product_attention(
        heads(x), constant(x, 1, 2, 5, 4).expand(len(x), -1, -1, -1), constant(x, 1, 2, 5, 3).expand(len(x), -1, -1, -1)
    ),
    "sdpa traced keys": lambda x: F.scaled_dot_product_attention(
        constant(x, 1, 2, 5, 4).expand(len(x), -1, -1, -1), heads(x), heads(x)
    ),
    "sdpa of three axes": lambda x: F.scaled_dot_product_attention(tokens(x), tokens(x) * 2, tokens(x.exp())),
    "sdpa in its own context": lambda x: in_flash(x),
    "MultiheadAttention": layer(
        lambda: nn.MultiheadAttention(4, 2, batch_first=True),
        lambda made, x: made(tokens(x), tokens(x), tokens(x), need_weights=False)[0],
    ),
    "MultiheadAttention with weights": layer(
        lambda: nn.MultiheadAttention(4, 2, batch_first=True), lambda made, x: made(*[tokens(x)] * 3)[1]
    ),
    "MultiheadAttention sequence first": layer(
        lambda: nn.MultiheadAttention(4, 1),
        lambda made, x: made(*[tokens(x).transpose(0, 1)] * 3)[0].transpose(0, 1),
    ),
    "MultiheadAttention across": layer(
        lambda: nn.MultiheadAttention(4, 2, kdim=8, vdim=8, batch_first=True),
        lambda made, x: made(tokens(x), x.reshape(len(x), 8, 8), x.reshape(len(x), 8, 8))[0],
    ),
    "MultiheadAttention masked": layer(
        lambda: nn.MultiheadAttention(4, 2, batch_first=True, add_bias_kv=True, add_zero_attn=True),
        lambda made, x: made(*[tokens(x)[:, :8]] * 3, attn_mask=~ALLOWED, is_causal=False)[0],
    ),
    "MultiheadAttention padded": layer(
        lambda: nn.MultiheadAttention(4, 2, batch_first=True),
        lambda made, x: made(*[tokens(x)] * 3, key_padding_mask=(torch.arange(16) > 11).expand(len(x), -1))[0],
    ),
    "MultiheadAttention hooked": layer(
        lambda: hooked(nn.MultiheadAttention(4, 2, batch_first=True)), lambda made, x: made(*[tokens(x)] * 3)[0]
    ),
    "TransformerEncoderLayer": layer(
        lambda: nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), lambda made, x: made(tokens(x))
    ),
    "TransformerEncoder": layer(encoder, lambda made, x: made(tokens(x))),
    "TransformerEncoder gelu, norm first": layer(
        lambda: encoder(activation="gelu", norm_first=True), lambda made, x: made(tokens(x))
    ),
    "TransformerEncoder padded": layer(
        encoder,
        lambda made, x: made(tokens(x), src_key_padding_mask=(torch.arange(16) > 11).expand(len(x), -1))[:, :12],
    ),
    "TransformerEncoder causal": layer(
        encoder,
        lambda made, x: made(tokens(x), mask=nn.Transformer.generate_square_subsequent_mask(16).to(x), is_causal=True),
    ),
    "TransformerEncoder hooked": layer(lambda: hooked(encoder()), lambda made, x: made(tokens(x))),
    "TransformerDecoder": layer(
        lambda: nn.TransformerDecoder(nn.TransformerDecoderLayer(4, 2, 8, batch_first=True), 1),
        lambda made, x: made(tokens(x), tokens(x.exp())),
    ),
    "nn.Transformer": layer(
        lambda: nn.Transformer(4, 2, 1, 1, 8, batch_first=True), lambda made, x: made(tokens(x), tokens(x.exp()))
    ),
    "non-local block": lambda x: torch.bmm(
        torch.softmax(torch.bmm(x.flatten(2).transpose(1, 2), x.flatten(2)), -1), tokens(x)
    ),
    "linear attention": lambda x: (
        tokens(F.elu(x) + 1) @ (tokens(F.elu(x) + 1).mT @ tokens(x) / (1 + tokens(F.elu(x) + 1).sum(1)[..., None]))
    ),
    "attention by einsum": lambda x: torch.einsum(
        "bij,bjc->bic", torch.einsum("bic,bjc->bij", tokens(x), tokens(x)).softmax(-1), tokens(x)
    ),
    "rotary attention": lambda x: rotary(x),
}


def in_flash(x):
    """A generator that asks for a kernel of its own."""
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.FLASH_ATTENTION):
        return attend(x)


def rotary(x):
    t = tokens(x)
    angle = torch.arange(16).to(x)[:, None] * x.new_tensor([1.0, 0.1])
    a, b = t[..., ::2], t[..., 1::2]
    turned = torch.stack([a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()], -1).flatten(-2)
    return torch.softmax(turned @ turned.mT, -1) @ t


RECURRENT = {
    "RNNCell": layer(lambda: nn.RNNCell(16, 5), lambda made, x: made(x[:, 0].flatten(1))),
    "GRUCell": layer(lambda: nn.GRUCell(16, 5), lambda made, x: made(x[:, 0].flatten(1), made(x[:, 1].flatten(1)))),
    "LSTMCell": layer(lambda: nn.LSTMCell(16, 5), lambda made, x: torch.cat(made(x[:, 0].flatten(1)), 1)),
    "RNN": layer(lambda: nn.RNN(4, 5, batch_first=True), lambda made, x: made(tokens(x))[0]),
    "RNN relu": layer(lambda: nn.RNN(4, 5, nonlinearity="relu", batch_first=True), lambda made, x: made(tokens(x))[0]),
    "GRU": layer(lambda: nn.GRU(4, 5, batch_first=True), lambda made, x: made(tokens(x))[0]),
    "GRU of two layers": layer(
        lambda: nn.GRU(4, 5, 2, batch_first=True, bidirectional=True), lambda made, x: made(tokens(x))[0]
    ),
    "GRU state": layer(
        lambda: nn.GRU(4, 5),
        lambda made, x: made(tokens(x).transpose(0, 1), x.flatten(1)[None, :, :5].contiguous())[1][0],
    ),
    "LSTM": layer(lambda: nn.LSTM(4, 5, batch_first=True), lambda made, x: made(tokens(x))[0]),
    "LSTM of two layers": layer(
        lambda: nn.LSTM(4, 5, 2, batch_first=True, bidirectional=True), lambda made, x: made(tokens(x))[0]
    ),
    "LSTM with projections": layer(
        lambda: nn.LSTM(4, 5, proj_size=3, batch_first=True), lambda made, x: made(tokens(x))[0]
    ),
    "LSTM state": layer(lambda: nn.LSTM(4, 5), lambda made, x: torch.cat(made(tokens(x).transpose(0, 1))[1], 2)[0]),
}

NOISE = {
    "generator seeded in forward": lambda x: x * (1 + torch.randn(1, 1, 4, 4, generator=seeded()).to(x)),
    "torch.manual_seed under fork_rng": lambda x: under_fork(x, lambda: torch.randn(1, 4, 4, 4).to(x)),
    "randn_like under fork_rng": lambda x: under_fork(x, lambda: torch.randn_like(x[:1], dtype=torch.float32)),
    "rand under fork_rng": lambda x: under_fork(x, lambda: torch.rand(4, 4).to(x)),
    "normal_ in place": lambda x: (
        x * (1 + x.new_empty(1, 1, 4, 4, dtype=torch.float64).normal_(generator=seeded()).to(x))
    ),
    "noise behind a complex filter": lambda x: (
        torch.fft.ifft2(torch.fft.fft2(x) * (1 + torch.rand(1, 1, 4, 4, generator=seeded()).to(x))).real
    ),
    "permutation": lambda x: x[:, torch.randperm(4, generator=seeded())].exp(),
    "bernoulli mask": lambda x: x * torch.bernoulli(torch.full((4, 4), 0.5), generator=seeded()).to(x),
    "dropout under fork_rng": lambda x: torch.stack([under_fork(row, lambda r=row: F.dropout(r, 0.3)) for row in x]),
    "noise set into a buffer": lambda x: noise_written(x),
}


def seeded():
    return torch.Generator().manual_seed(7)


def under_fork(x, made):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return x * (1 + made())


def noise_written(x):
    canvas = torch.randn(4, 4, generator=seeded()).to(x).expand_as(x).clone()
    canvas[:, 1:3] = x[:, 1:3]
    return canvas * x
