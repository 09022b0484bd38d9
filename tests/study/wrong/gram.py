"""Wrong Gram matrices and cosines, as students hand them in."""

WRONG = [
    ("gradients.to(torch.float64)", "gradients", "expected float64"),
    ('    rows = gradients.to(torch.float64)\n    return torch.einsum("ip,jp->ij", rows, rows)',
     "    return (gradients @ gradients.T).double()", "Convert G first"),
    ('"ip,jp->ij"', '"pi,pj->ij"', "A task is a row"),
    ('torch.einsum("ip,jp->ij", rows, rows)', "(rows @ rows.T) / rows.shape[1]",
     "averaged over the parameters"),
    ("gradients.to(torch.float64)", "torch.nn.functional.normalize(gradients.double(), dim=1)",
     "gram: 4 of 4 numbers differ"),
    ("is_zero = products == 0", "is_zero = products < 1e-12",
     "cosines: 4 of 4 numbers differ"),
    ("masked_fill(is_zero, 0)", "masked_fill(is_zero, 1)", "cosines: 5 of 9 numbers differ"),
    ("    lengths", "    gram /= gram.max()\n    lengths", "changed its input `gram`"),
    ("(gram / products.masked_fill(is_zero, 1)).masked_fill(is_zero, 0)",
     "(gram / products).nan_to_num()", None),
    ("(gram / products.masked_fill(is_zero, 1)).masked_fill(is_zero, 0)",
     "(gram / products).fill_diagonal_(1.0).nan_to_num()", "cosines: 1 of 9 numbers differ"),
    ("torch.sqrt(torch.diag(gram))", "torch.sqrt(torch.diag(gram)).float()",
     "part of it is computed in float32"),
]
