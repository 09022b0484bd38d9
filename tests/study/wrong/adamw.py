"""Wrong AdamW, as students hand it in."""

WRONG = [
    ("    if correct_bias:\n        alpha = lr * math.sqrt(1 - beta2**t) / (1 - beta1**t)\n", "",
     "without bias correction"),
    ("    if correct_bias:\n", "    if True:\n", "correct_bias is ignored"),
    ("    beta1, beta2 = betas\n", "    beta1, beta2 = betas\n    t = t + 1\n", "off by one step"),
    ("math.sqrt(1 - beta2**t) ", "1 ", "only m is corrected"),
    ("math.sqrt(1 - beta2**t)", "(1 - beta2**t)", "root in the bias correction"),
    ("(v.sqrt() + eps)", "torch.sqrt(v + eps)", "eps is inside the root"),
    ("    if correct_bias:\n        alpha = lr * math.sqrt(1 - beta2**t) / (1 - beta1**t)\n"
     "    theta -= alpha * m / (v.sqrt() + eps)\n",
     "    m_hat, v_hat = m, v\n    if correct_bias:\n        m_hat = m / (1 - beta1**t)\n"
     "        v_hat = v / (1 - beta2**t)\n    theta -= lr * m_hat / (v_hat.sqrt() + eps)\n",
     "as in torch.optim.AdamW"),
    ("    theta -= alpha * m / (v.sqrt() + eps)\n    theta -= lr * weight_decay * theta\n",
     "    theta -= lr * weight_decay * theta\n    theta -= alpha * m / (v.sqrt() + eps)\n",
     "decay comes before the step"),
    ("theta -= lr * weight_decay * theta", "theta -= weight_decay * theta", "not scaled by lr"),
    ("theta -= lr * weight_decay * theta", "theta -= alpha * weight_decay * theta",
     "scaled by α, the corrected step size"),
    ("    beta1, beta2 = betas\n", "    beta1, beta2 = betas\n    g = g + weight_decay * theta\n"
     "    weight_decay = 0\n", "That is Adam, not AdamW"),
    ("    theta -= lr * weight_decay * theta\n", "", "without weight decay"),
    ("beta2 * v + (1 - beta2) * g * g", "beta2 * v + (1 - beta2) * g", "averages the gradient"),
    ("theta -= alpha * m", "theta += alpha * m", "added, not subtracted"),
    ("theta -= alpha * m", "theta -= alpha * g", "is used instead of m"),
    ("beta1, beta2 = betas", "beta2, beta1 = betas", "are swapped"),
    ("m.copy_(beta1 * m + (1 - beta1) * g)", "m = beta1 * m + (1 - beta1) * g",
     "m: "),
    ("theta -= alpha * m", "theta = theta - alpha * m", "theta"),
    ("v.copy_(beta2 * v + (1 - beta2) * g * g)", "v.mul_(beta2).add_((1 - beta2) * g.pow_(2))",
     "g is squared in place"),
    ("    m.copy_(", "    g = g.clamp(-10, 10)\n    m.copy_(", "m: 1 of 3 numbers differ"),
]
