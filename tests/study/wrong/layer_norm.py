"""Wrong layer norm, as students hand it in."""

WRONG = [
    (", unbiased=False", "", "divided by n − 1"),
    ("torch.sqrt(var + eps)", "(torch.sqrt(var) + eps)", "eps is outside the root"),
    ("torch.sqrt(var + eps)", "(x.std(dim=-1, keepdim=True) + eps)",
     "outside the root, and the variance is divided by n − 1"),
    ("var + eps", "var", "without eps"),
    (", keepdim=True", "", "RuntimeError"),
    ("    mean = ", "    x -= x.mean(dim=-1, keepdim=True)\n    mean = ", "changed its input `x`"),
    ("    mean = x.mean(dim=-1, keepdim=True)\n", "    mean = x.mean(dim=-1, keepdim=True).detach()\n",
     "gradient of x"),
    ("    return weight", "    weight", "is a `return` missing"),
    ("    return weight * (x - mean) / torch.sqrt(var + eps) + bias\n",
     "    return torch.nn.functional.layer_norm(x, weight.shape, weight, bias, eps)\n",
     "is what you are to write"),
    ("    return weight * (x - mean) / torch.sqrt(var + eps) + bias\n",
     "    return torch.layer_norm(x, weight.shape, weight, bias, eps)\n", "is what you are to write"),
    ("    mean = ", "    x = x.float()\n    mean = ", "float32"),
    ("x.var(dim=-1, keepdim=True, unbiased=False)", "x.var(-1, correction=0)[..., None]", None),
]
