"""The largest eigenvalues of a symmetric matrix, and their eigenvectors, from products with blocks of vectors.

The method is block Lanczos with full reorthogonalisation and thick restarts (Wu & Simon, SIAM J. Matrix Anal. Appl. 22,
2000), written as a Davidson method without preconditioner. Each step multiplies the principal directions of the
residuals of those wanted pairs that have not converged. Until the first pair converges, these directions span the
same space as block Lanczos (Morgan & Scott, SIAM J. Sci. Stat. Comput. 7, 1986; with restarts: Stathopoulos, Saad & Wu,
SIAM J. Sci. Comput. 19, 1998). After that the block shrinks, and no product is spent on converged or unwanted pairs.

Products may be float32 on any device. The basis, the products and the projected matrix are float64 on the CPU, where
decompositions are reliable. Their transfer and arithmetic cost little compared with a product.

Invariants: every product of a basis vector is kept, so a residual is computed from the pair itself rather than
estimated by a recurrence. The result depends only on the seed and the products. The search ends without an error for
any matrix.
Elsewhere: the products (`products`).
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pullback.metric.products import Product

BLOCK = 4
"""Vectors multiplied at once on a CPU. Smaller blocks need fewer products; larger blocks make each product cheaper."""
BLOCK_CUDA = 32
"""Vectors multiplied at once on a GPU, where a few vectors take as long as one."""
_SUBSPACE = 512
"""Default number of basis vectors before a restart. A restart costs extra products. 512 vectors of 4096 numbers and
their products take 34 MB."""
_ROOM = 24
"""Basis vectors kept in addition to the wanted ones: enough to search for copies of an eigenvalue."""
_OFTEN = 256
"""Up to this size the projected matrix is decomposed at every step, above it whenever it has grown by 5 per cent."""
_DEPENDENT = 1e-13
"""Directions smaller than this, relative to the matrix, are round-off of the projections."""
_PATIENCE = 6
"""Decompositions without progress after which the search stops, if residuals are at the products' round-off."""
_DOUBT = 1e-3
"""Allowed probability of overlooking a copy of an eigenvalue."""


@dataclass(frozen=True)
class KrylovResult:
    """The largest eigenpairs found. Tensors are float64 on the CPU.

    Attributes:
        eigenvalues: [k], descending. All tensors are NaN if a product was not finite. With fewer products than k, the
            last entries are NaN.
        eigenvectors: [k, n], orthonormal rows.
        residuals: ‖Hv − λv‖ / |λ₁| of each pair [k], from the products as computed. λ₁ is the eigenvalue of largest
            absolute value. 0 for the zero matrix.
        products: number of vectors multiplied.
        iterations: number of calls of the product.
        converged: whether every residual is within the tolerance, and the search for overlooked copies is finished.
    """

    eigenvalues: Tensor
    eigenvectors: Tensor
    residuals: Tensor
    products: int
    iterations: int
    converged: bool


def top_eigenpairs(
    product: Product,
    n: int,
    k: int,
    *,
    block: int | None = None,
    tolerance: float = 1e-6,
    max_products: int | None = None,
    largest_subspace: int | None = None,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> KrylovResult:
    """The k largest (algebraically) eigenvalues of a symmetric matrix, and their eigenvectors.

    Args:
        product: maps V [p, n] to HV [p, n].
        n: size of the matrix, at least 1.
        k: number of wanted pairs, 1 to n.
        block: largest number of vectors multiplied at once; by default 4 on a CPU and 32 on a GPU. An eigenvalue of
            higher multiplicity is still found completely, at the cost of extra products.
        tolerance: largest residual, relative to λ₁. float32 products reach 1e-7 to 1e-6. If they cannot reach the
            tolerance, the search ends at the smallest residuals they allow.
        max_products: largest number of vectors multiplied, at least 1; 2n by default (n suffice without a restart).
        largest_subspace: basis vectors kept before a restart; by default 512 or 3k, whichever is larger. At least
            k + 24 and k + 2 block are kept. Each takes 16 n bytes.
        seed: seed of the random start.
        dtype: dtype of the vectors that are multiplied.
        device: device of the vectors that are multiplied.

    Returns:
        The pairs found, converged or not.

    Raises:
        ValueError: an argument is out of its range.
    """
    if block is None:
        block = BLOCK_CUDA if torch.device(device).type == "cuda" else BLOCK
    max_products = 2 * n if max_products is None else max_products
    if not 1 <= k <= n:
        raise ValueError(f"between 1 and {n} eigenpairs of a {n} × {n} matrix can be had, not {k}")
    if block < 1 or max_products < 1 or not tolerance >= 0:
        raise ValueError(
            f"a block and a number of products of at least 1, and a tolerance not below 0, are needed, not {block}, "
            f"{max_products} and {tolerance}"
        )
    capacity = subspace_size(n, k, block, largest_subspace)
    search = _Search(n, k, block, tolerance, capacity, seed)
    products = iterations = 0
    while not search.over:
        vectors = search.next_block(max_products - products)
        images = product(vectors.to(device, dtype)).detach().to("cpu", torch.float64)
        products += len(vectors)
        iterations += 1
        if not bool(images.isfinite().all()):
            nothing = torch.full((k, n), torch.nan, dtype=torch.float64)
            return KrylovResult(nothing[:, 0].clone(), nothing, nothing[:, 0].clone(), products, iterations, False)
        search.take(vectors, images, last=products >= max_products)
    return KrylovResult(*search.pairs(), products, iterations, search.converged)


def subspace_size(n: int, k: int, block: int = BLOCK_CUDA, largest: int | None = None) -> int:
    """Number of basis vectors that a search for k of n eigenpairs holds before a restart; see `top_eigenpairs`."""
    return min(n, max(largest or max(_SUBSPACE, 3 * k), k + _ROOM, k + 2 * block))


class _Subspace:
    """An orthonormal basis (rows), the products of its vectors, and the projected matrix as computed."""

    def __init__(self, capacity: int, n: int) -> None:
        self._basis = torch.empty(capacity, n, dtype=torch.float64)
        self._images = torch.empty(capacity, n, dtype=torch.float64)
        self._projected = torch.empty(capacity, capacity, dtype=torch.float64)
        self.size = 0

    @property
    def basis(self) -> Tensor:
        return self._basis[: self.size]

    @property
    def images(self) -> Tensor:
        return self._images[: self.size]

    @property
    def projected(self) -> Tensor:
        return self._projected[: self.size, : self.size]

    def append(self, vectors: Tensor, images: Tensor) -> None:
        old, self.size = self.size, self.size + len(vectors)
        self._basis[old : self.size] = vectors
        self._images[old : self.size] = images
        self.projected[:, old:] = self.basis @ images.T
        self.projected[old:, :old] = vectors @ self.images[:old].T

    def decompose(self) -> tuple[Tensor, Tensor]:
        """Ritz values, descending, and the coefficients of the Ritz vectors as rows."""
        ascending, columns = torch.linalg.eigh((self.projected + self.projected.T) / 2)
        return ascending.flip(0), columns.flip(1).T

    def noise(self) -> float:
        """Norm of the round-off in a product of a unit vector, from the asymmetry of the projected matrix P.

        If the round-off has a random direction, each entry of P has an error of 1/√n of its norm. The size² entries of
        P − Pᵀ have errors √2 times as large.
        """
        skew = float((self.projected - self.projected.T).norm())
        return skew / self.size * math.sqrt(self.basis.shape[1] / 2)

    def errors(self, values: Tensor, coefficients: Tensor) -> Tensor:
        """Hv − λv of Ritz pairs, one per row."""
        return coefficients @ self.images - values[:, None] * (coefficients @ self.basis)

    def directions(self, candidates: Tensor, floor: float, most: int) -> Tensor:
        """Orthonormal directions of the candidates, orthogonal to the basis; at most `most`, largest first.

        Args:
            candidates: [p, n].
            floor: directions in which the candidates are not larger than this are dropped.
            most: largest number of directions.
        """
        rest = candidates - (candidates @ self.basis.T) @ self.basis
        _, sizes, rows = torch.linalg.svd(rest, full_matrices=False)
        rows = rows[:most][sizes[:most] > floor]
        # The first projection leaves round-off of the large directions in the small ones, so project once more.
        rows = rows - (rows @ self.basis.T) @ self.basis
        orthonormal: Tensor = torch.linalg.qr(rows.T)[0].T
        return orthonormal

    def restart(self, coefficients: Tensor) -> None:
        """Replace the basis by these combinations of its vectors (orthonormal rows)."""
        basis, images = coefficients @ self.basis, coefficients @ self.images
        projected = coefficients @ self.projected @ coefficients.T
        self.size = len(coefficients)
        self.basis[:], self.images[:], self.projected[:] = basis, images, projected


class _Search:
    """State between two products: the next vectors to multiply, and whether the search is over."""

    def __init__(self, n: int, k: int, block: int, tolerance: float, capacity: int, seed: int) -> None:
        self.over = self.converged = False
        self._n, self._k, self._block, self._tolerance, self._capacity = n, k, block, tolerance, capacity
        self._stream = torch.Generator().manual_seed(seed)
        self._space = _Subspace(capacity, n)
        self._candidates = torch.empty(0, n, dtype=torch.float64)
        self._drawn = 0
        """Number of random start vectors. Krylov vectors from d of them contain d copies of any eigenvalue."""
        self._chain: int | None = None
        """Basis index at which the search for overlooked copies begins, while there is such a search."""
        self._values = self._coefficients = self._residuals = torch.empty(0)
        self._decomposed = 0
        self._scale = 0.0
        self._reachable = tolerance
        """The tolerance, or the larger residual that the round-off of the products allows."""
        self._best, self._waited = math.inf, 0

    def next_block(self, most: int) -> Tensor:
        """The vectors to multiply next [p, n], p from 1 to `most`."""
        space = self._space
        most = min(most, self._block, self._n - space.size)
        # A direction that changes a residual by less than half the tolerance is not worth a product, unless a search
        # for copies is under way.
        floor = _DEPENDENT if self._chain is not None else max(_DEPENDENT, self._reachable / 2)
        vectors = space.directions(self._candidates, floor * self._scale, most)
        while len(vectors) == 0:  # at the start, in a search for copies, and if the subspace is invariant
            drawn = torch.randn(most, self._n, generator=self._stream, dtype=torch.float64)
            vectors = space.directions(drawn, 0.0, most)
            self._drawn = self._drawn or len(vectors)
        if space.size + len(vectors) > self._capacity:
            space.restart(self._coefficients[: self._k + (self._capacity - self._k) // 3])
            self._decomposed, self._chain = space.size, None
        return vectors

    def take(self, vectors: Tensor, images: Tensor, last: bool) -> None:
        """Add vectors and their products, and choose the next step. `last`: no further products are allowed."""
        space = self._space
        space.append(vectors, images)
        self._scale = max(self._scale, float(images.norm(dim=1).max()))
        ended = last or space.size == self._n
        full = space.size + self._block > self._capacity
        due = space.size >= self._k and (space.size <= _OFTEN or space.size >= 1.05 * self._decomposed)
        if not (due or full or ended or self._chain is not None):
            self._candidates = images  # the next Lanczos block, without computing residuals
            return
        self._values, self._coefficients = space.decompose()
        self._decomposed = space.size
        self._scale = float(self._values.abs().max())
        errors = space.errors(self._values[: self._k], self._coefficients[: self._k])
        self._residuals = (errors / (self._scale or 1.0)).norm(dim=1)  # divide first, since squares may underflow
        if self._stalled():
            self._reachable = 2 * float(self._residuals.max())
        unfinished = self._residuals > self._reachable
        if space.size < self._k or bool(unfinished.any()):
            self._chain, self._candidates = None, errors[unfinished]
            self.over = ended
            return
        chain = self._overlooked()
        self.converged = chain == "none" and bool((self._residuals <= self._tolerance).all())
        self.over = chain == "none" or ended
        if chain == "open":
            self._candidates = images
        else:
            self._chain, self._candidates = space.size, images[:0]

    def pairs(self) -> tuple[Tensor, Tensor, Tensor]:
        """Eigenvalues, eigenvectors and residuals; NaN for pairs that the products did not suffice for."""
        vectors = self._coefficients[: self._k] @ self._space.basis
        vectors = vectors / vectors.norm(dim=1, keepdim=True)
        found = torch.cat([self._values[: self._k, None], self._residuals[:, None], vectors], dim=1)
        every = torch.full((self._k, found.shape[1]), torch.nan, dtype=found.dtype)
        every[: len(found)] = found
        return every[:, 0].clone(), every[:, 2:].clone(), every[:, 1].clone()

    def _stalled(self) -> bool:
        """Whether the residuals are at the level of the products' round-off and no longer shrink."""
        worst = float(self._residuals.max())
        if worst <= self._reachable or worst < 0.7 * self._best:
            self._best, self._waited = worst, 0
        else:
            self._waited += 1
        return self._waited >= _PATIENCE and worst * self._scale <= 10 * self._space.noise()

    def _overlooked(self) -> Literal["none", "open", "some"]:
        """Whether copies of a wanted eigenvalue were overlooked: "none", "some" (start a sequence) or "open" (go on).

        Krylov vectors of d random vectors contain d vectors of every eigenspace. So doubt arises only if d consecutive
        values agree within the tolerance. (The vectors of a cluster a few tolerances wide converge before its values
        can be distinguished.) The doubt matters only if smaller values are wanted too.
        In that case a Krylov sequence starts from random vectors orthogonal to all known ones. It runs until its
        largest Ritz value would be larger if there were another copy. By Kuczyński & Woźniakowski (SIAM J. Matrix
        Anal. Appl. 13, 1992), after q steps from one random vector that value is within a fraction ε of the largest
        eigenvalue, except with probability 1.648 √n exp(−√ε (2q − 1)). The sequence also ends when it finds a copy.
        """
        space, wanted, d = self._space, self._values[: self._k], self._drawn
        if space.size == self._n or d >= self._k:
            return "none"
        near = max(2 * self._reachable * self._scale, 10 * self._block**0.5 * space.noise())
        smallest = wanted[d - 1 :]
        doubtful = smallest[(wanted[: self._k - d + 1] - smallest <= d * near) & (smallest > wanted[-1] + near)]
        if len(doubtful) == 0:
            return "none"
        if self._chain is None or space.size == self._chain:
            return "some"
        part = space.projected[self._chain :, self._chain :]
        largest = float(torch.linalg.eigvalsh((part + part.T) / 2)[-1])
        lowest, sought = min(0.0, float(self._values[-1])), float(doubtful[-1]) - near
        if largest >= sought:
            return "some"
        share = (sought - largest) / max(sought - lowest, sought - largest)
        width = min(self._block, space.size - self._chain)
        steps = (space.size - self._chain) / width
        # logarithms, because a small fraction with a wide block would overflow
        failure = width * (math.log(1.648 * self._n**0.5) - share**0.5 * (2 * steps - 1))
        return "none" if failure <= math.log(_DOUBT) else "open"
