import torch


def gram_matrix(gradients: torch.Tensor) -> torch.Tensor:
    rows = gradients.to(torch.float64)
    return torch.einsum("ip,jp->ij", rows, rows)


def cosines(gram: torch.Tensor) -> torch.Tensor:
    lengths = torch.sqrt(torch.diag(gram))
    products = torch.outer(lengths, lengths)
    is_zero = products == 0
    return (gram / products.masked_fill(is_zero, 1)).masked_fill(is_zero, 0)
