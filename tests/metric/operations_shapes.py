"""Single operations that rearrange, select, join and pad: x [batch, 4, 4, 4] in (-1, 1) to a tensor [batch, ...]."""

import torch
from operations_base import constant
from torch.nn import functional as F

PLACES = torch.tensor([2, 0, 3])


def whole(x, places):
    """Indices [n] for the channels of every sample, [batch, n, 4, 4]."""
    return places[None, :, None, None].expand(len(x), -1, 4, 4)


SHAPES = {
    "view": lambda x: x.contiguous().view(len(x), 8, 8).exp(),
    "view_as": lambda x: x.contiguous().view_as(x.new_zeros(len(x), 16, 4)).exp(),
    "reshape": lambda x: x.reshape(len(x), 2, 32).exp(),
    "reshape_as": lambda x: x.transpose(1, 3).reshape_as(x.new_zeros(len(x), 16, 4)),
    "contiguous then view": lambda x: x.transpose(1, 2).contiguous().view(len(x), -1),
    "clone then view": lambda x: x.permute(0, 2, 3, 1).clone(memory_format=torch.contiguous_format).view(len(x), -1),
    "channels_last then view": lambda x: channels_last(x).permute(0, 2, 3, 1).view(len(x), -1),
    "to channels_last": lambda x: x.to(memory_format=torch.channels_last).exp(),
    "channel shuffle": lambda x: x.view(len(x), 2, 2, 4, 4).transpose(1, 2).contiguous().view(len(x), 4, 4, 4).exp(),
    "pixel norm then view": lambda x: pixel_norm(x).view(len(x), -1),
    "upscale of PGGAN": lambda x: upscaled(x),
    "minibatch view": lambda x: (
        x.contiguous().view(len(x), 4, 1, 4, 1, 4).expand(-1, -1, 2, -1, 2, -1).reshape(len(x), -1)
    ),
    "flatten": lambda x: x.flatten(1).exp(),
    "unflatten": lambda x: x.flatten(1).unflatten(1, (4, 16)),
    "ravel of each": lambda x: torch.stack([row.ravel() for row in x]),
    "permute": lambda x: x.permute(0, 3, 1, 2).exp(),
    "torch.permute": lambda x: torch.permute(x, (0, 2, 3, 1)),
    "transpose": lambda x: x.transpose(1, 3),
    "swapaxes": lambda x: x.swapaxes(1, 2),
    "swapdims": lambda x: x.swapdims(1, 2),
    "moveaxis": lambda x: x.moveaxis(1, -1),
    "movedim": lambda x: x.movedim(3, 1),
    "mT": lambda x: x.mT.exp(),
    "adjoint": lambda x: x.adjoint(),
    "t of each": lambda x: torch.stack([row[0].t() for row in x]),
    "squeeze": lambda x: x[:, :1].squeeze(1),
    "unsqueeze": lambda x: x.unsqueeze(2),
    "expand": lambda x: x[:, :1].expand(-1, 3, -1, -1).exp(),
    "expand_as": lambda x: x[:, :, :1].expand_as(x),
    "broadcast_to": lambda x: torch.broadcast_to(x[:, :1], (len(x), 3, 4, 4)),
    "broadcast_tensors": lambda x: torch.broadcast_tensors(x[:, :1], x)[0] * x,
    "repeat": lambda x: x.repeat(1, 2, 1, 2),
    "tile": lambda x: x.tile(1, 2, 1, 1),
    "repeat_interleave": lambda x: x.repeat_interleave(2, dim=2),
    "repeat_interleave by counts": lambda x: x.repeat_interleave(torch.tensor([1, 2, 0, 1]), dim=1),
    "flip": lambda x: x.flip(1, 2),
    "fliplr": lambda x: torch.stack([torch.fliplr(row[0]) for row in x]),
    "flipud": lambda x: torch.stack([torch.flipud(row[0]) for row in x]),
    "roll": lambda x: x.roll((1, 2), (2, 3)),
    "rot90": lambda x: torch.rot90(x, 1, (2, 3)),
    "narrow": lambda x: x.narrow(1, 1, 2),
    "select": lambda x: x.select(1, 2),
    "slices": lambda x: x[:, 1:, ::2, -1],
    "ellipsis": lambda x: x[..., None, 1:3],
    "index by list": lambda x: x[:, [2, 0]],
    "index by tensor": lambda x: x[:, PLACES],
    "index by two tensors": lambda x: x[:, PLACES, PLACES.flip(0)],
    "index by mask": lambda x: x[:, :, constant(x, 4, 4) > 0],
    "index by an argmax": lambda x: x[torch.arange(len(x)), x.mean((2, 3)).argmax(1)],
    "index_select": lambda x: x.index_select(1, PLACES),
    "gather": lambda x: x.gather(1, whole(x, PLACES)),
    "take_along_dim": lambda x: torch.take_along_dim(x, x.argsort(1), 1),
    "take of each": lambda x: torch.stack([row.take(torch.tensor([3, 60, 7])) for row in x]),
    "masked_select of each": lambda x: torch.stack([row.masked_select(constant(x, 4, 4) > 0) for row in x]),
    "scatter": lambda x: x.scatter(1, whole(x, PLACES), x[:, :3].exp()),
    "scatter of a number": lambda x: x.scatter(1, whole(x, PLACES[:1]), 0.5),
    "scatter_add": lambda x: x.scatter_add(1, whole(x, PLACES), x[:, 1:].exp()),
    "scatter_reduce": lambda x: x.scatter_reduce(1, whole(x, PLACES), x[:, 1:].exp(), "sum"),
    "scatter_reduce amax": lambda x: x.scatter_reduce(1, whole(x, PLACES), x[:, 1:].exp(), "amax"),
    "index_add": lambda x: x.index_add(1, PLACES, x[:, 1:], alpha=2),
    "index_copy": lambda x: x.index_copy(1, PLACES, x[:, 1:].exp()),
    "index_fill": lambda x: x.index_fill(1, PLACES, 0.2),
    "index_put": lambda x: x.index_put((torch.arange(len(x)), torch.tensor(1)), x[:, 0].exp()),
    "index_put accumulate": lambda x: x.index_put(
        (torch.arange(len(x)), torch.tensor(1)), x[:, 0].exp(), accumulate=True
    ),
    "index_reduce": lambda x: x.index_reduce(1, PLACES, x[:, 1:] + 2, "prod"),
    "masked_scatter": lambda x: torch.stack(
        [row.masked_scatter(constant(x, 4, 4) > 0, row.flatten().exp()) for row in x]
    ),
    "select_scatter": lambda x: x.select_scatter(x[:, 0].exp(), 1, 2),
    "slice_scatter": lambda x: x.slice_scatter(x[:, :2].exp(), 1, 1, 3),
    "diagonal_scatter": lambda x: x.diagonal_scatter(x[..., 0].exp(), 0, 2, 3),
    "as_strided": lambda x: x.contiguous().as_strided((len(x), 10, 4), (64, 5, 2)),
    "diagonal": lambda x: x.diagonal(1, 2, 3),
    "diag_embed": lambda x: x[:, 0].diag_embed(),
    "diag of each": lambda x: torch.stack([torch.diag(row[0]) for row in x]),
    "diagflat of each": lambda x: torch.stack([torch.diagflat(row[0]) for row in x]),
    "block_diag of each": lambda x: torch.stack([torch.block_diag(row[0], row[1]) for row in x]),
    "tril": lambda x: x.tril() + x,
    "triu": lambda x: torch.triu(x, 1) + x,
    "tensor unfold": lambda x: x.unfold(3, 2, 1).exp(),
    "F.unfold": lambda x: F.unfold(x, 3, padding=1),
    "F.fold": lambda x: F.fold(F.unfold(x, 2).exp(), (4, 4), 2),
    "cat": lambda x: torch.cat([x, x.exp()], 1),
    "concat with constants": lambda x: torch.concat([x, constant(x, 1, 2, 4, 4).expand(len(x), -1, -1, -1)], 1),
    "concatenate": lambda x: torch.concatenate([x.exp(), x], axis=2),
    "stack": lambda x: torch.stack([x, x.exp()], 2),
    "hstack": lambda x: torch.hstack([x, x.exp()]),
    "vstack of each": lambda x: torch.stack([torch.vstack([row[0], row[1]]) for row in x]),
    "dstack": lambda x: torch.dstack([x, x.exp()]),
    "column_stack": lambda x: torch.column_stack([x.flatten(1), x[:, 0, :, 0].exp()]),
    "chunk": lambda x: torch.mul(*x.chunk(2, 1)),
    "split": lambda x: torch.cat([part.exp() for part in x.split([1, 3], 1)[::-1]], 1),
    "torch.split": lambda x: torch.split(x, 3, 1)[1].exp(),
    "tensor_split": lambda x: torch.tensor_split(x, (1, 2), 1)[2].exp(),
    "hsplit": lambda x: torch.hsplit(x, 2)[1].exp(),
    "dsplit": lambda x: torch.dsplit(x, 2)[0].exp(),
    "unbind": lambda x: torch.stack([part * index for index, part in enumerate(x.unbind(1))], 1),
    "unsafe_chunk": lambda x: x.unsafe_chunk(2, 1)[1].exp(),
    "iteration": lambda x: torch.stack([row.exp() for row in x]),
    "meshgrid of each": lambda x: torch.stack([torch.mul(*torch.meshgrid(r[0, 0], r[1, 1], indexing="ij")) for r in x]),
    "cartesian_prod of each": lambda x: torch.stack([torch.cartesian_prod(row[0, 0], row[1, 1]) for row in x]),
    "combinations of each": lambda x: torch.stack([torch.combinations(row[0, 0]) for row in x]),
    "atleast_3d": lambda x: torch.atleast_3d(x[:, 0, 0]).exp(),
    "pixel_shuffle": lambda x: F.pixel_shuffle(x.exp(), 2),
    "pixel_unshuffle": lambda x: F.pixel_unshuffle(x.exp(), 2),
    "F.channel_shuffle": lambda x: F.channel_shuffle(x, 2),
    # padding
    "pad constant": lambda x: F.pad(x, (1, 2, 0, 1)),
    "pad with a value": lambda x: F.pad(x, (1, 1, 1, 1), value=0.5),
    "pad negative": lambda x: F.pad(x, (-1, 0, 1, -1)),
    "pad channels": lambda x: F.pad(x, (0, 0, 0, 0, 1, 1)),
    "pad reflect": lambda x: F.pad(x, (1, 2, 1, 1), mode="reflect"),
    "pad replicate": lambda x: F.pad(x, (1, 2, 1, 1), mode="replicate"),
    "pad circular": lambda x: F.pad(x, (1, 2, 1, 1), mode="circular"),
    "pad reflect 1d": lambda x: F.pad(x.flatten(2), (2, 1), mode="reflect"),
    "pad replicate 1d": lambda x: F.pad(x.flatten(2), (2, 1), mode="replicate"),
    "pad replicate 3d": lambda x: F.pad(x[:, None], (1, 1, 1, 1, 1, 1), mode="replicate"),
    "pad reflect 3d": lambda x: F.pad(x[:, None], (1, 1, 1, 1, 1, 1), mode="reflect"),
    "pad circular 1d": lambda x: F.pad(x.flatten(2), (2, 1), mode="circular"),
    # resizing
    "interpolate nearest": lambda x: F.interpolate(x, scale_factor=2),
    "interpolate nearest odd": lambda x: F.interpolate(x, size=(7, 5)),
    "interpolate nearest-exact": lambda x: F.interpolate(x, scale_factor=1.5, mode="nearest-exact"),
    "interpolate bilinear": lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"),
    "interpolate bilinear corners": lambda x: F.interpolate(x, size=(7, 5), mode="bilinear", align_corners=True),
    "interpolate bilinear antialias": lambda x: F.interpolate(x, size=(3, 2), mode="bilinear", antialias=True),
    "interpolate bicubic": lambda x: F.interpolate(x, scale_factor=2, mode="bicubic"),
    "interpolate bicubic antialias": lambda x: F.interpolate(x, size=(3, 3), mode="bicubic", antialias=True),
    "interpolate area": lambda x: F.interpolate(x, size=(2, 2), mode="area"),
    "interpolate linear": lambda x: F.interpolate(x.flatten(2), scale_factor=2, mode="linear"),
    "interpolate nearest 1d": lambda x: F.interpolate(x.flatten(2), scale_factor=2),
    "interpolate trilinear": lambda x: F.interpolate(x[:, None], scale_factor=2, mode="trilinear"),
    "interpolate nearest 3d": lambda x: F.interpolate(x[:, None], scale_factor=2),
    "interpolate recompute": lambda x: F.interpolate(x, scale_factor=1.3, mode="bilinear", recompute_scale_factor=True),
    "nn.Upsample": lambda x: torch.nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)(x),
    # dtypes and constants
    "type_as": lambda x: x.type_as(constant(x, 1)).exp(),
    "to double and back": lambda x: x.double().exp().to(x.dtype),
    "zeros_like": lambda x: torch.zeros_like(x) + x.new_ones(1) * x + torch.full_like(x, 0.5) * x,
    "new_tensor": lambda x: x * x.new_tensor([1.0, 2.0, 3.0, 4.0]),
}


def channels_last(x):
    return x.exp().contiguous(memory_format=torch.channels_last)


def pixel_norm(x):
    return x * torch.rsqrt(torch.mean(x**2, dim=1, keepdim=True) + 1e-8)


def upscaled(x):
    """As PGGAN's and StyleGAN's own code."""
    y = x.contiguous().view(len(x), 4, 4, 1, 4, 1).repeat(1, 1, 1, 2, 1, 2)
    return y.contiguous().view(len(x), 4, 8, 8)
