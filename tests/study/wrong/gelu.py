"""Wrong GELU, as students hand it in."""

BODY = "    phi = 0.5 * (1 + torch.erf(x / math.sqrt(2)))\n    return x * phi\n"

WRONG = [
    (BODY, "    return torch.nn.functional.gelu(x)\n", "gelu is what you are to write"),
    (BODY, "    return torch.nn.GELU()(x)\n", "GELU is what you are to write"),
    ("import torch\n", "import torch\nfrom torch.nn.functional import gelu as g\n",
     "gelu is what you are to write"),
    ("import torch\n", "import torch\nfrom torch.nn.functional import *\n", "name what you import"),
    (BODY, "    return torch.tensor([v * (1 + math.erf(v / 2**0.5)) / 2 for v in x.flatten().tolist()])"
     ".view(x.shape)\n", "type float64, expected float32"),
    (BODY, "    return torch.tensor([v * (1 + math.erf(v / 2**0.5)) / 2 for v in x.flatten().tolist()],"
     " dtype=x.dtype).view(x.shape)\n", "turned into a Python number"),
    ("    return x * phi\n", "    x.mul_(phi)\n    return x\n", "changed its input `x`"),
    ("    return x * phi\n", "    x * phi\n", "is a `return` missing"),
    ("    phi = ", "    if x.mean() > 0:\n        return x\n    phi = ", "gelu(x) − gelu(−x)"),
    (BODY, "    from scipy.stats import norm\n    return x * norm.cdf(x)\n", "an exercise may import"),
    ("0.5 * (1 + torch.erf(x / math.sqrt(2)))", "torch.special.ndtr(x)", None),
    ("    return x * phi\n", "    return x * phi\n\n\nprint(gelu(torch.ones(2)))\n", None),
    ("0.5 * (1 + torch.erf(x / math.sqrt(2)))", "torch.distributions.Normal(0.0, 1.0).cdf(x)", None),
    ("return x * phi", "return torch.where(x < -5, 0.0, x * phi)", "gelu of −5.5"),
]
