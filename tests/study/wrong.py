"""Answers as students hand them in: exercise → edits of the right one, and what they are told.

None: right in another way, or harmless. An exercise's own `mistakes` are not repeated here.
"""

BY_BACKWARD = '''    optimizer.zero_grad()
    rows, losses = [], {}
    for name, batch in batches.items():
        loss = model.tasks[name].loss(model(name, batch), batch.labels)
        loss.backward()
        rows.append(torch.cat([p.grad.flatten() for p in model.encoder.parameters()]))
        model.encoder.zero_grad()
        losses[name] = loss.item()
    g = project(torch.stack(rows))
    start = 0
    for p in model.encoder.parameters():
        p.grad = g[start:start + p.numel()].reshape(p.shape)
        start += p.numel()
    optimizer.step()
    return losses
'''  # the rest of the right one, which follows, is not reached
SHARED = "    shared = list(model.encoder.parameters())\n"
POSITIONS = "torch.arange(seq).unsqueeze(0).repeat(batch, 1)"
DROPPED = "F.dropout(weights, dropout)"
HAND_DROPOUT = "(weights * (torch.rand_like(weights) >= dropout) / (1 - dropout))"
COSINES = "(gram / products.masked_fill(is_zero, 1)).masked_fill(is_zero, 0)"
BINARY = "    yes, no = F.logsigmoid(z), F.logsigmoid(-z)\n"
PEARSON = "float((x * y).sum() / np.sqrt((x**2).sum() * (y**2).sum()))"
STEP = "    optimizer.step()\n"

WRONG = {
    "embeddings": [
        ("return self.dropout(total)", "return total", "self.dropout was not called"),
        ("self.layer_norm = ", "self.LayerNorm = ", "has no attribute `layer_norm`"),
        ("self.word_embeddings(input_ids)", "self.word_embeddings.weight[input_ids]", None),
        ("total", "input", None),
        ("self.layer_norm(total)", "self.layer_norm.forward(total)", None),
        ("self.layer_norm(total)\n        return self.dropout(total)",
         "self.layer_norm(total.flatten(0, -2))\n"
         "        return self.dropout(total).view(*input_ids.shape, -1)", None),
    ],
    "attention": [
        (" / math.sqrt(query.shape[-1])", "", "without the division by √d"),
        ("key.transpose(-1, -2)", "key", "Expected size for first two dimensions"),
        ("    return F.dropout", "    F.dropout", "is a `return` missing"),
        ("torch.softmax(scores, dim=-1)", "scores.detach().softmax(-1)", "is something detached"),
        ("torch.softmax(scores, dim=-1)", "scores.long().softmax(-1)", "NotImplementedError: "),
        ("torch.softmax(scores, dim=-1)", "torch.softmax(scores.float(), dim=-1)",
         "weights has type float32, expected float64"),
        (DROPPED, f"{DROPPED}.float()", "float32 and float64 tensors are mixed"),
        (DROPPED, "F.dropout2d(weights, dropout)", "share of keys that all queries lose"),
        (DROPPED, "weights * F.dropout(torch.ones_like(weights[:, :1]), dropout)",
         "share of heads that lose the same"),
        (DROPPED, "weights * F.dropout(torch.ones_like(weights[:1]), dropout)",
         "share of sentences that lose the same"),
        ("return F.dropout", "if dropout > 0:\n        weights = attention_weights(query, key)\n"
         "    return F.dropout", "a weight that is kept"),
        ("return F.dropout", "if dropout == 0:\n        return weights @ value\n"
         "    return F.dropout", None),
        (DROPPED, HAND_DROPOUT, None),
        ("    weights = ", "    torch.manual_seed(0)\n    weights = ",
         "a second call drops the same"),
    ],
    "multi_head": [
        ("torch.stack(parts)", "parts", None),
        ("torch.stack(parts)", "torch.stack(parts, dim=1)", "dimensions are in the order"),
        ("out.reshape(batch, seq, hidden)", "out", "only the shape is wrong"),
        ("value, mask, p)", "value, None if self.training else mask, p)",
         "output at real tokens in training mode"),
        ("value, mask, p)", "value, mask, p) if self.training else attention(query, key, value, "
         "mask)", None),
        ("value, mask, p)\n", "value, mask if mask is None else mask[:, None, None], p)\n"
         "        if mask is not None:\n            return out.transpose(1, 2).flatten(2)\n",
         "shape of the output: yours"),
    ],
    "gelu": [
        ("return x * phi", "return torch.nn.functional.gelu(x)", "gelu is what you are to write"),
        ("import torch\n", "import torch\nfrom torch.nn.functional import *\n",
         "name what you import"),
        ("return x * phi", "return torch.tensor([v * (1 + math.erf(v / 2**0.5)) / 2 for v in "
         "x.flatten().tolist()]).view(x.shape)", "type float64, expected float32"),
        ("    phi", "    if x.mean() > 0:\n        return x\n    phi", "gelu(x) − gelu(−x)"),
        ("return x * phi", "return torch.where(x < -5, 0.0, x * phi)", "gelu of −5.5"),
        ("0.5 * (1 + torch.erf(x / math.sqrt(2)))", "torch.special.ndtr(x)", None),
    ],
    "layer_norm": [
        ("x.mean(dim=-1, keepdim=True)", "x.mean(dim=-1, keepdim=True).detach()", "gradient of x"),
        ("x.var(dim=-1, keepdim=True, unbiased=False)", "x.var(-1, correction=0)[..., None]", None),
    ],
    "layer": [
        ("self.dropout(a)", "nn.functional.dropout(a, self.dropout.p)", "first sum into"),
        ("x = hidden_states\n", "x = hidden_states.detach()\n", "gradient of hidden_states"),
        ("self.intermediate_dense(h)", "self.intermediate_dense(self.dropout(h))",
         "share of 0 in h into intermediate_dense"),
        ("self.activation(f)", "self.dropout(self.activation(f))", "share of 0 in act(W_1 · h)"),
        ("self.attention_dense(a)", "self.dropout(self.attention_dense(a))",
         "share of 0 in what is added to x: yours 0.4"),
        ("attention_dropout)\n", "dropout)\n", "dropout of self_attention: yours 0.5"),
        ("self.self_attention(x, mask)", "self.self_attention(x, None if self.training else mask)",
         "output at real tokens in training mode"),
        ("self.output_dense(f)", "self.output_dense(f.flatten(0, 1)).view_as(x)", None),
    ],
    "pooler": [
        ("(cls_states)\n", "(cls_states.mean(0, keepdim=True))\n", "output"),
        ("self.pooler_dense(cls_states)",
         "torch.addmm(self.pooler_dense.bias, cls_states, self.pooler_dense.weight.t())", None),
    ],
    "bert": [
        (POSITIONS, "torch.arange(batch).unsqueeze(0)", "shapes there: input_ids"),
        (POSITIONS, "torch.arange(batch * seq).view(batch, seq)", "position_ids into embeddings"),
        (POSITIONS, "torch.arange(seq)", None),
        ("layer(hidden, mask)", "layer.forward(hidden, mask)", None),
        ("attention_mask.bool()", "token_type_ids.bool()", "mask into layer 0"),
        ("attention_mask.bool()", "(1 - attention_mask) * -10000.0",
         "hidden = layer(hidden, mask)"),
        ("attention_mask.bool()",
         "attention_mask.bool() if (attention_mask == 0).any() else None", None),
        ("BertOutput(hidden, self.pool(cls))", "hidden, self.pool(cls)",
         "yours 'tuple', expected 'BertOutput'"),
        ("    cls = ", "    hidden = hidden * mask[:, :, None]\n    cls = ", None),
    ],
    "wordpiece": [
        ("prefix + rest[:length] not in vocabulary", "not vocabulary.get(prefix + rest[:length])",
         "pieces of unaffable"),
        ("        if length == 0:\n            return [UNKNOWN]\n", "", "does a loop run forever"),
        ("len(word) > MOST_CHARACTERS", "len(word) > MOST_CHARACTERS and word not in vocabulary",
         "of 101 times b"),
        ("return [UNKNOWN]\n    pieces", "return UNKNOWN\n    pieces", "yours is '[U'"),
        ("    rest = word\n", "    rest = word.lower()\n", "pieces of Film"),
        ("    rest = word\n", "    rest = word\n    vocabulary['##zz'] = 0\n",
         "the vocabulary is as it was"),
        ("    rest = word\n", "    rest = word\n    if word in vocabulary:\n"
         "        return [word]\n", None),
    ],
    "masking": [
        ("0 if n == 0 else max", "max", "how many of 0 words"),
        ("shown, positions, input_ids[positions]", "shown, positions", "yours returned tuple of 2"),
        ("    keys = torch.rand(len(input_ids), generator=generator)\n",
         "    torch.manual_seed(generator.initial_seed())\n    keys = torch.rand(len(input_ids))\n",
         "global generator is left alone"),
        ("    keys = ", "    generator = torch.Generator().manual_seed(generator.initial_seed())\n"
         "    keys = ", "the next call hides other tokens"),
        ("torch.randint(0, vocab_size, (int(swap.sum()),), generator=generator)",
         "int(torch.randint(0, vocab_size, (1,), generator=generator))",
         "among the random ones: yours 98,"),
        ("    keys[~allowed] = 2.0\n", "    keys[~allowed] = 2.0\n    keys[:2] += 2.0\n",
         "how often each of 6 words is chosen"),
        ("mask_id\n", "103\n", "share shown as [MASK]"),
        ("(dice >= HIDDEN) & (dice < HIDDEN + RANDOM)", "dice > 1 - RANDOM", None),
        ("keys.argsort()[:k]", "torch.stack([key.lt(keys).sum() for key in keys]).argsort("
         "descending=True)[:k]", None),  # compares each with each
    ],
    "adamw": [
        ("m.copy_(beta1 * m + (1 - beta1) * g)", "m = beta1 * m + (1 - beta1) * g",
         "nothing is written into the caller's m: an assignment"),
        ("theta -= alpha * m", "theta = theta - alpha * m",
         "nothing is written into the caller's θ"),
        ("    m.copy_(", "    g = g.clamp(-10, 10)\n    m.copy_(", "m: 1 of 3 numbers differ"),
    ],
    "gram": [
        ("gradients.to(torch.float64)", "gradients", "expected float64"),
        ("is_zero = products == 0", "is_zero = products < 1e-12", "cosines: 4 of 4 numbers differ"),
        (COSINES, "(gram / products).fill_diagonal_(1.0).nan_to_num()",
         "cosines: 1 of 9 numbers differ"),
        (COSINES, "(gram / products).nan_to_num()", None),
        ("torch.sqrt(torch.diag(gram))", "torch.sqrt(torch.diag(gram)).float()",
         "part of it is computed in float32"),
    ],
    "pcgrad": [
        ("        total = total + g\n", "        gradients[i] = g\n        total = total + g\n",
         "changed its input `gradients`"),
        ("gradients[i].clone()", "gradients[i]", None),
        ("for j in others:", "for j in [*others, i]:", None),
    ],
    "paper": [
        ("sum(projected)", "torch.stack(projected)", "has shape (2, 2), expected (2,)"),
        ("projected = []\n", "projected, gradients = [], gradients.clone()\n", None),
    ],
    "round_robin": [
        ("    for start in range(0, lengths[largest], batch_size):\n",
         "    start = 0\n    while True:\n", "number of steps: yours 400"),
        ("        yield step\n", "        yield step\n        step.clear()\n", "a step is {}"),
        ("        yield step\n", "        return step\n", "it returned dict; write a generator"),
        ("    return {name: max(1, length // n) for name, length in lengths.items()}\n",
         "    for name in lengths:\n        lengths[name] = max(1, lengths[name] // n)\n"
         "    return lengths\n", "lengths afterwards"),
        ("length // n)", "length / n)", "sizes, para: yours 24 (float), expected 24 (int)"),
        ("max(1, length // n)", "min(LARGEST_BATCH, max(1, length // n))", "sizes for "),
        ("islice(examples[name], sizes[name])", "islice(examples[name], min(sizes[name], 24))",
         "in each step"),
    ],
    "heads": [
        ("F.leaky_relu(self.first(x))", "self.first(F.leaky_relu(x))", "two layers on −2"),
        ("nn.Dropout(0.3)", "nn.Dropout(0.7)", "share of inputs that are dropped"),
        ("return self.linear(self.dropout(embeddings))",
         "return self.dropout(self.linear(self.dropout(embeddings)))",
         "OneLayerHead, share of outputs that are dropped alone"),
        ("nn.Linear(inputs, outputs)", "nn.Linear(outputs, inputs)", "shapes in OneLayerHead"),
        ("nn.Linear(inputs, outputs)\n", "nn.Linear(inputs, outputs)\n"
         "        nn.init.normal_(self.linear.weight, std=0.02)\n", "number of each matrix"),
        ("nn.Linear(hidden, outputs)\n", "nn.Linear(hidden, outputs)\n"
         "        nn.init.zeros_(self.last.weight)\n", "each matrix times √inputs, number 0"),
        ("nn.Linear(inputs, hidden)\n", "nn.Linear(inputs, hidden)\n"
         "        nn.init.zeros_(self.first.bias)\n", "first number of each bias"),
        ("nn.Dropout(0.3)", "nn.Dropout1d(0.3)", "OneLayerHead, share of sentences that lose both"),
        ("F.dropout(embeddings, 0.3, self.training)",
         "embeddings * F.dropout(torch.ones_like(embeddings[:, :1]), 0.3, self.training)",
         "TwoLayerHead, share of sentences that lose both"),
        ("F.dropout(x, 0.45, self.training)", "F.dropout1d(x, 0.45, self.training)",
         "share of inputs that"),
        ("x = F.leaky_relu(self.first(x))", "x = self.first(x)\n        x[x < 0] *= 0.01", None),
        ("self.first", "self.input", None),
    ],
    "losses": [
        ("labels.long()].mean()", "labels.long()]", "cross_entropy has shape (1,), expected ()"),
        ("labels.long()].mean()", "labels.long()].mean().item()",
         "returned float, expected a tensor"),
        ("logits - torch.logsumexp(logits, dim=1, keepdim=True)",
         "torch.log(torch.softmax(logits, 1) + 1e-9)", "cross_entropy, wrong"),
        (BINARY, "    p = torch.sigmoid(z).clamp(1e-7, 1 - 1e-7)\n"
         "    yes, no = p.log(), (1 - p).log()\n", "binary_cross_entropy, wrong"),
        (BINARY, "    yes = torch.where(z > 0, -torch.log(1 + torch.exp(-z)), z - torch.log(1 + "
         "torch.exp(z)))\n    no = yes - z\n", "gradient of logits"),
        (BINARY, "    yes = -F.softplus(-z)\n    no = -F.softplus(z)\n", None),
        ("((z - labels) ** 2)", "((z.clamp(0, 5) - labels) ** 2)", "mean_squared_error, "),
        ("(predictions == labels).mean()", "((predictions == 1) == (labels == 1)).mean()",
         "accuracy, n = "),
        ("return float((predictions == labels).mean())", "return 10**400",
         "yours 'a very large whole number'"),
        ("fn == 0:\n        return None", "fn == 0:\n        return 1.0", "yours 1, expected None"),
        ("return float((x * y)", "float((x * y)", "is a `return` missing"),
        ("float | None", "'Optional[float]'", None),
        (PEARSON, "float(np.corrcoef(x, y)[0, 1])", "corrcoef is what you are to write"),
        (PEARSON, "float((x * y).mean() / (x.std() * y.std()))", None),
        (PEARSON, "float((x * y).sum() / (np.sqrt((x**2).sum() * (y**2).sum()) + 1e-12))",
         "pearson of x / 10¹² and y"),
    ],
    "training_step": [
        (SHARED, BY_BACKWARD, None),
        ("import torch\n", "import torch\nfrom torch.nn.utils import vector_to_parameters\n", None),
        (STEP, "    torch.nn.utils.clip_grad_norm_(model.parameters(), 1e9)\n" + STEP, None),
        (SHARED, BY_BACKWARD.replace("model.encoder.zero_grad()", "optimizer.zero_grad()"),
         "gradients when optimizer.step is called, heads."),
        ("enumerate(batches.items())", "enumerate((n, batches[n]) for n in model.tasks)",
         "KeyError: 'para'"),
        ("        found = torch", "        loss = model.tasks[name].loss(model(name, batch), "
         "batch.labels)\n        found = torch", "forwards, sst: yours 2, expected 1"),
        ("encoder.parameters()", "encoder.layers.parameters()", "shape of what project gets"),
        ("        p.grad = g[start", "        p.data -= 0.1 * g[start", ".grad is None"),
        ("= loss.item()", "= loss.item() * len(batch.labels)", "losses, sts"),
        ("    return losses\n", "    return dict(reversed(losses.items()))\n", None),
        ("= loss.item()", "= loss.detach()", "yours a tensor of shape (), expected "),
    ],
    "final_layers": [
        ("    for parameter in model.parameters():\n        parameter.grad = None\n",
         "    optimizer.zero_grad()\n", None),
        ("    model.heads.train(heads_were)\n", "", "heads in training mode"),
        ("    sum(losses.values()).backward()\n", "    for loss in losses.values():\n        "
         "optimizer.zero_grad()\n        loss.backward()\n", "heads.sst.1.weight: .grad is None"),
        ("loss.item() for", "loss for", "yours a tensor of shape (), expected "),
        ("model.heads[name](embedded[name])", "model(name, batch)", "how they ran"),
        ("model.heads[name](", "model.heads[name].forward(", None),
        (STEP, STEP + "    for p in model.encoder.parameters():\n"
         "        p.grad = torch.zeros_like(p)\n", "that have a .grad afterwards"),
        ("    model.heads.train()\n", "", "where the heads were in eval mode"),
    ],
}
