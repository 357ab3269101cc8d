"""Products of matrices, linear algebra and Fourier transforms: x [batch, 4, 4, 4] to a tensor [batch, ...]."""

import torch
from operations_base import constant
from torch.nn import functional as F


def each(f):
    return lambda x: torch.stack([f(row) for row in x])


def regular(x):
    """Matrices [batch, 4, 4] that are well conditioned."""
    return x[:, 0] + 3 * torch.diag(torch.arange(1, 5)).to(x)


def positive(x):
    """Symmetric positive definite matrices [batch, 4, 4] with distinct eigenvalues."""
    return x[:, 0] @ x[:, 0].mT * 0.3 + torch.diag(torch.arange(1, 5)).to(x)


def symmetric(x):
    return x[:, 0] + x[:, 0].mT + 3 * torch.diag(torch.arange(1, 5)).to(x)


WINDOW = torch.hann_window(8, dtype=torch.float64)

PRODUCTS = {
    "matmul": lambda x: x @ x.mT,
    "matmul with a constant": lambda x: constant(x, 5, 4) @ x,
    "matmul that broadcasts": lambda x: x[:, None, 0] @ x,
    "matmul with a vector": lambda x: x @ constant(x, 4),
    "matmul of vectors": each(lambda x: x.flatten() @ x.flatten().exp()),
    "mm of each": each(lambda x: torch.mm(x[0], x[1])),
    "mv of each": each(lambda x: torch.mv(x[0], x[1, 0])),
    "bmm": lambda x: torch.bmm(x[:, 0], x[:, 1]),
    "baddbmm": lambda x: torch.baddbmm(x[:, 0], x[:, 1], x[:, 2], beta=0.5, alpha=2),
    "addbmm of each": each(lambda x: torch.addbmm(x[0], x, x.flip(0))),
    "addmm": lambda x: torch.addmm(constant(x, 3), x.flatten(1), constant(x, 64, 3)),
    "addmm of each": each(lambda x: torch.addmm(x[0], x[1], x[2], beta=0.3)),
    "addmv of each": each(lambda x: torch.addmv(x[0, 0], x[1], x[2, 0])),
    "addr of each": each(lambda x: torch.addr(x[0], x[1, 0], x[2, 0])),
    "dot of each": each(lambda x: torch.dot(x[0, 0], x[1, 0]) * x),
    "inner": lambda x: torch.inner(x, constant(x, 5, 4)),
    "outer of each": each(lambda x: torch.outer(x[0, 0], x[1, 0])),
    "ger of each": each(lambda x: torch.ger(x[0, 0], x[1, 0])),
    "kron of each": each(lambda x: torch.kron(x[0], x[1])),
    "cross": lambda x: torch.cross(x[:, :3], x[:, 1:].exp(), dim=1),
    "linalg.cross": lambda x: torch.linalg.cross(x[..., :3], x[..., 1:].exp()),
    "tensordot": lambda x: torch.tensordot(x, constant(x, 4, 4, 5), 2),
    "tensordot by axes": lambda x: torch.tensordot(x, constant(x, 4, 3), ([1], [0])),
    "einsum": lambda x: torch.einsum("bchw,bdhw->bcd", x, x.exp()),
    "einsum of one": lambda x: torch.einsum("bchh->bc", x),
    "einsum of three": lambda x: torch.einsum("bcij,cjk,bcki->bik", x, constant(x, 4, 4, 4), x),
    "einsum with a constant": lambda x: torch.einsum("bchw,dc->bdhw", x, constant(x, 3, 4)),
    "einsum ellipsis": lambda x: torch.einsum("...ij,...jk->...ik", x, x),
    "vdot of each": each(lambda x: torch.vdot(x[0, 0], x[1, 0]) * x),
    "vecdot": lambda x: torch.linalg.vecdot(x, x.flip(1)),
    "chain_matmul of each": each(lambda x: torch.linalg.multi_dot([x[0], x[1], x[2]])),
    "matrix_power": lambda x: torch.linalg.matrix_power(x, 3),
    "matrix_power inverse": lambda x: torch.linalg.matrix_power(regular(x), -2),
    "cov of each": each(lambda x: torch.cov(x.flatten(1))),
    "corrcoef of each": each(lambda x: torch.corrcoef(x.flatten(1))),
    "vander": lambda x: torch.linalg.vander(x[:, 0, 0]),
    "Gram matrix": lambda x: x.flatten(2) @ x.flatten(2).mT / 16,
}

LINALG = {
    "matrix_exp": lambda x: torch.matrix_exp(x),
    "inv": lambda x: torch.linalg.inv(regular(x)),
    "inverse": lambda x: regular(x).inverse(),
    "inv_ex": lambda x: torch.linalg.inv_ex(regular(x)).inverse,
    "pinv": lambda x: torch.linalg.pinv(regular(x)),
    "pinverse of each": each(lambda x: torch.pinverse(x.reshape(16, 4) + constant(x, 16, 4))),
    "det": lambda x: torch.linalg.det(regular(x)) / 50,
    "logdet": lambda x: torch.logdet(positive(x)),
    "slogdet": lambda x: torch.linalg.slogdet(regular(x)).logabsdet,
    "solve": lambda x: torch.linalg.solve(regular(x), x[:, 1]),
    "solve constant": lambda x: torch.linalg.solve(regular(constant(x, 1, 4, 4, 4)), x[:, 1]),
    "solve left": lambda x: torch.linalg.solve(regular(x), x[:, 1], left=False),
    "solve_triangular": lambda x: torch.linalg.solve_triangular(regular(x).triu(), x[:, 1], upper=True),
    "triangular_solve": lambda x: torch.triangular_solve(x[:, 1], regular(x).triu())[0],
    "lu_solve": lambda x: torch.linalg.lu_solve(*torch.linalg.lu_factor(regular(x)), x[:, 1]),
    "lu": lambda x: torch.linalg.lu(regular(x))[2],
    "cholesky": lambda x: torch.linalg.cholesky(positive(x)),
    "torch.cholesky": lambda x: torch.cholesky(positive(x)),
    "cholesky_ex": lambda x: torch.linalg.cholesky_ex(positive(x))[0],
    "cholesky_solve": lambda x: torch.cholesky_solve(x[:, 1], torch.linalg.cholesky(positive(x))),
    "cholesky_inverse": lambda x: torch.cholesky_inverse(torch.linalg.cholesky(positive(x))),
    "qr": lambda x: torch.linalg.qr(regular(x))[1],
    "qr q": lambda x: torch.linalg.qr(regular(x))[0],
    "svdvals": lambda x: torch.linalg.svdvals(regular(x)),
    "svd": lambda x: svd_low_rank(regular(x)),
    "torch.svd": lambda x: torch.svd(regular(x))[1],
    "eigvalsh": lambda x: torch.linalg.eigvalsh(symmetric(x)),
    "eigh": lambda x: torch.linalg.eigh(symmetric(x))[1].square(),
    "eigvals": lambda x: torch.linalg.eigvals(regular(x)).real,
    "eig": lambda x: torch.linalg.eig(regular(x))[1].abs(),
    "lstsq": lambda x: torch.linalg.lstsq(regular(x), x[:, 1]).solution,
    "householder_product": lambda x: torch.linalg.householder_product(x[:, 0], x[:, 1, 0]),
    "tensorinv of each": each(lambda x: torch.linalg.tensorinv(x.reshape(16, 4)[:4].reshape(4, 2, 2) + EYE.to(x), 1)),
    "tensorsolve of each": each(
        lambda x: torch.linalg.tensorsolve(x.reshape(16, 4)[:4].reshape(4, 2, 2) + EYE.to(x), x[1, 1])
    ),
    "matrix square root": lambda x: root(positive(x)),
    "whitening": lambda x: torch.linalg.solve_triangular(torch.linalg.cholesky(positive(x)), x[:, 1], upper=False),
    "Cayley": lambda x: torch.linalg.solve(EYE4.to(x) + x[:, 0] - x[:, 0].mT, EYE4.to(x) - x[:, 0] + x[:, 0].mT),
}
EYE4 = torch.eye(4, dtype=torch.float64)
EYE = 3 * EYE4.reshape(4, 2, 2)


def svd_low_rank(x):
    u, s, v = torch.linalg.svd(x)
    return (u[..., :2] * s[..., None, :2]) @ v[..., :2, :]


def root(x):
    values, vectors = torch.linalg.eigh(x)
    return (vectors * values.sqrt()[..., None, :]) @ vectors.mT


FOURIER = {
    "fft": lambda x: torch.view_as_real(torch.fft.fft(x)),
    "ifft": lambda x: torch.fft.ifft(x).imag,
    "fft2": lambda x: torch.fft.fft2(x).real,
    "ifft2": lambda x: torch.fft.ifft2(x).abs(),
    "fftn": lambda x: torch.view_as_real(torch.fft.fftn(x, dim=(1, 2, 3))),
    "ifftn": lambda x: torch.fft.ifftn(torch.fft.fftn(x, dim=(1, 2, 3)) * 0.5, dim=(1, 2, 3)).real,
    "rfft": lambda x: torch.view_as_real(torch.fft.rfft(x)),
    "irfft": lambda x: torch.fft.irfft(torch.complex(x, x.flip(1)), n=6),
    "rfft2": lambda x: torch.fft.rfft2(x).abs(),
    "irfft2": lambda x: torch.fft.irfft2(torch.fft.rfft2(x) * constant(x, 4, 3), s=(4, 4)),
    "rfftn": lambda x: torch.fft.rfftn(x, dim=(1, 2)).real,
    "irfftn": lambda x: torch.fft.irfftn(torch.fft.rfftn(x, dim=(1, 2)), s=(4, 4), dim=(1, 2)),
    "hfft": lambda x: torch.fft.hfft(torch.complex(x, x.flip(1))),
    "ihfft": lambda x: torch.fft.ihfft(x).imag,
    "fft ortho": lambda x: torch.fft.fft(x, norm="ortho").imag,
    "fft of another length": lambda x: torch.fft.fft(x, n=6).real,
    "fftshift": lambda x: torch.fft.fftshift(x, dim=(2, 3)),
    "ifftshift": lambda x: torch.fft.ifftshift(torch.fft.fft2(x), dim=(2, 3)).real,
    "spectral filter": lambda x: torch.fft.irfft2(torch.fft.rfft2(x) * torch.complex(*constant(x, 2, 4, 3)), s=(4, 4)),
    "amplitude and phase": lambda x: torch.polar(torch.fft.fft2(x).abs(), torch.fft.fft2(x).angle()).imag,
    "convolution by fft": lambda x: torch.fft.irfft2(torch.fft.rfft2(x) * torch.fft.rfft2(x.exp()), s=(4, 4)),
    "stft": lambda x: torch.view_as_real(torch.stft(x.flatten(1), 8, 4, window=WINDOW.to(x), return_complex=True)),
    "istft": lambda x: torch.istft(
        torch.stft(x.flatten(1), 8, 2, window=WINDOW.to(x), return_complex=True) * 0.7, 8, 2, window=WINDOW.to(x)
    ),
    "positional features": lambda x: torch.cat([torch.sin(x * 2**k) for k in range(3)], 1),
    "Fourier features": lambda x: torch.cat([(f := x.flatten(1) @ constant(x, 64, 5)).sin(), f.cos()], 1),
    "volume rendering": lambda x: rendered(x),
    "blur": lambda x: F.conv2d(x, constant(x, 1, 1, 3, 3).abs().expand(4, -1, -1, -1), groups=4),
    "upfirdn": lambda x: upfirdn(x),
    "haar wavelet": lambda x: torch.cat(
        [x[..., ::2, ::2] + x[..., 1::2, 1::2], x[..., ::2, 1::2] - x[..., 1::2, ::2].exp()], 1
    ),
    "gumbel softmax by hand": lambda x: F.softmax((x + constant(x, 4, 4)) / 0.5, 1),
    "invertible 1x1": lambda x: F.conv2d(x, torch.linalg.inv(regular(constant(x, 1, 4, 4, 4))[0])[..., None, None]),
    "coupling": lambda x: torch.cat([x[:, :2], x[:, 2:] * torch.exp(torch.tanh(x[:, :2])) + x[:, :2]], 1),
}


def rendered(x):
    """Colours along a ray, weighted by what is left of the light (NeRF)."""
    density = F.softplus(x[:, 0])
    alpha = 1 - torch.exp(-density)
    left = torch.cumprod(torch.cat([torch.ones_like(alpha[..., :1]), 1 - alpha + 1e-10], -1), -1)[..., :-1]
    return ((alpha * left)[:, None] * torch.sigmoid(x[:, 1:])).sum(-1)


def upfirdn(x):
    """StyleGAN2's upsampling in plain torch: zeros between pixels, padding, then a filter."""
    batch, channels, height, width = x.shape
    y = x.reshape(batch, channels, height, 1, width, 1)
    y = F.pad(y, [0, 1, 0, 0, 0, 1]).reshape(batch, channels, height * 2, width * 2)
    y = F.pad(y, [2, 1, 2, 1])
    kernel = torch.outer(*[x.new_tensor([1.0, 3, 3, 1])] * 2)[None, None] / 16
    return F.conv2d(y, kernel.repeat(channels, 1, 1, 1), groups=channels)
