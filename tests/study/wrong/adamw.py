"""Wrong AdamW, as students hand it in."""

WRONG = [
    ("    if correct_bias:\n        alpha = lr * math.sqrt(1 - beta2**t) / (1 - beta1**t)\n", "",
     "without bias correction"),
    ("    if correct_bias:\n", "    if True:\n", "correct_bias is ignored"),
    ("    beta1, beta2 = betas\n", "    beta1, beta2 = betas\n    t = t + 1\n", "off by one step"),
    ("math.sqrt(1 - beta2**t) ", "1 ", "only m is corrected"),
    ("m.copy_(beta1 * m + (1 - beta1) * g)", "m = beta1 * m + (1 - beta1) * g",
     "m: "),
    ("theta -= alpha * m", "theta = theta - alpha * m", "theta"),
    ("    m.copy_(", "    g = g.clamp(-10, 10)\n    m.copy_(", "m: 1 of 3 numbers differ"),
]
