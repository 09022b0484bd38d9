"""The Gram matrix of the tasks' gradients, and their cosines."""

import numpy as np
import torch

from minbert_study.exercise import Exercise, check


def numpy_gram(gradients):
    """Every product by itself."""
    rows = gradients.detach().numpy().astype(np.float64)
    return torch.tensor([[float(np.dot(a, b)) for b in rows] for a in rows])


def numpy_cosines(gram):
    """Every cosine by itself; no gradient is zero."""
    K = gram.numpy()
    return torch.tensor([[K[i, j] / np.sqrt(K[i, i]) / np.sqrt(K[j, j]) for j in range(len(K))]
                         for i in range(len(K))])


@check()
def by_hand(part):
    """(3, 4) and (0, −10): their product is −40; with themselves they give 25 and 100."""
    return {"gram": part.gram_matrix(torch.tensor([[3.0, 4.0], [0.0, -10.0]]))}


@check()
def of_float32(part):
    """float32 gradients are multiplied and added in float64."""
    gradients = (torch.randn(3, 5000) + 3).float()  # float32 sums are off in the sixth digit
    return {"gram": part.gram_matrix(gradients)}


@check()
def cosines_by_hand(part):
    """Products of 25, −40 and 100 give the cosine −0.8."""
    return {"cosines": part.cosines(torch.tensor([[25.0, -40.0], [-40.0, 100.0]]))}


@check(against={"gram_matrix": numpy_gram, "cosines": numpy_cosines})
def every_pair(part):
    """Every pair of tasks gets its product and its cosine, for one task or for many."""
    found = {}
    for tasks, params in ((1, 4), (3, 7), (5, 2), (4, 1001)):
        gradients = torch.randn(tasks, params) * torch.arange(1, tasks + 1)[:, None]
        found[f"gram of {tasks} gradients of {params} numbers"] = part.gram_matrix(gradients)
        found[f"cosines of {tasks} gradients of {params} numbers"] = part.cosines(
            numpy_gram(gradients))
    return found


@check()
def huge(part):
    """Products and cosines of gradients near 1e30 are right: nothing overflows."""
    gradients = torch.tensor([[3e30, 4e30], [0.0, -1e31]], dtype=torch.float32)
    return {"gram over 1e60": part.gram_matrix(gradients) / 1e60,
            "cosines": part.cosines(torch.tensor([[25e60, -40e60], [-40e60, 100e60]])),
            # here the product of two squared lengths has 324 digits
            "cosines of gradients near 1e80":
                part.cosines(torch.tensor([[25e160, -40e160], [-40e160, 100e160]]))}


@check()
def tiny(part):
    """Products and cosines of gradients near 1e-30 are right: nothing becomes 0."""
    gradients = torch.tensor([[3e-30, 4e-30], [0.0, -1e-29]], dtype=torch.float32)
    return {"gram times 1e60": part.gram_matrix(gradients) * 1e60,
            "cosines": part.cosines(torch.tensor([[25e-60, -40e-60], [-40e-60, 100e-60]])),
            "cosines of gradients near 1e-90":
                part.cosines(torch.tensor([[25e-180, -40e-180], [-40e-180, 100e-180]]))}


@check()
def zero(part):
    """With a zero gradient the cosines are right: its own are 0, even with itself."""
    gram = torch.tensor([[25.0, 0.0, -40.0], [0.0, 0.0, 0.0], [-40.0, 0.0, 100.0]])
    return {"cosines": part.cosines(gram),
            "cosines of nothing but zeros": part.cosines(torch.zeros(2, 2))}


@check()
def scale(part):
    """Cosines are right for any lengths, and reversing one of two gradients changes the sign."""
    gradients = torch.randn(3, 6)
    factors = torch.tensor([100.0, 0.01, -7.0])
    return {f"cosines, {name}": part.cosines(numpy_gram(each))
            for name, each in (("first", gradients),
                               ("times 100, 0.01 and −7", gradients * factors[:, None]))}


EXERCISE = Exercise(
    title="Gram matrix and cosines",
    places=("optim.surgery:gram_matrix", "optim.surgery:cosines"),
    forbidden=("corrcoef", "cosine_similarity", "cov"),
    mistakes=(
        ("when products are computed in float32 and converted to float64 afterwards. Convert G "
         "first.", "piece = as_float64(piece)\n        gram = gram + piece @ piece.T",
         "gram = gram + (piece @ piece.T).double()"),
        ("when Gᵀ G is computed. A task is a row, so K is G Gᵀ.",
         "gram = gram + piece @ piece.T\n    return gram.cpu()",
         "gram = piece.T @ piece\n    return gram.cpu()"),
        ("when products are averaged over the parameters. K sums them.",
         "return gram.cpu()", "return gram.cpu() / gradients.shape[1]"),
        ("when the mean of each gradient is subtracted first. That gives correlations, not "
         "cosines.", "piece = as_float64(piece)\n        gram",
         "piece = as_float64(piece - piece.mean(1, keepdim=True))\n        gram"),
        ("when a zero gradient is divided by its length: 0/0 is NaN. The cosine must be 0 there.",
         "torch.where(scale > 0, gram / scale, 0.0)", "gram / scale"),
        ("when the root is taken of the product K_ii K_jj, which can overflow or become 0. Take "
         "the roots first, then multiply.", "scale = norms[:, None] * norms[None, :]",
         "scale = (gram.diagonal()[:, None] * gram.diagonal()[None, :]).sqrt()"),
        ("without the roots: products are divided by ‖g_i‖² ‖g_j‖².",
         "clamp(min=0).sqrt()\n    scale", "clamp(min=0)\n    scale"),
        ("when products are divided by ‖g_i‖² alone, not by ‖g_i‖ ‖g_j‖.",
         "scale = norms[:, None] * norms[None, :]",
         "scale = (norms * norms)[:, None].expand_as(gram)"),
        ("when products are divided by ‖g_j‖² alone, not by ‖g_i‖ ‖g_j‖.",
         "scale = norms[:, None] * norms[None, :]",
         "scale = (norms * norms)[None, :].expand_as(gram)"),
        *(("when a small number like 1e-8 is added to the lengths, so short gradients seem "
           "orthogonal. Check for 0 instead.", "scale = norms[:, None] * norms[None, :]",
           f"scale = norms[:, None] * norms[None, :] + {small}")
          for small in (1e-8, 1e-12)),
        ("when the sign is lost, so conflicts look like agreement.",
         "gram / scale, 0.0", "gram.abs() / scale, 0.0"),
    ),
    hints=(
        "Which operation gives the product of every row with every row? Which dtype does it need?",
        "G in float64, times its transpose. For the cosines, take the roots of the diagonal first "
        "and multiply them for all pairs. Divide only where that product is above 0.",
        "G = gradients.double(); K = G @ G.T. norms = gram.diagonal().sqrt(); scale = "
        "norms[:, None] * norms[None, :]; torch.where(scale > 0, gram / scale, zeros).",
    ),
)
