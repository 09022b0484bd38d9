"""Wrong layers, as students hand them in."""

FIRST = "self.attention_layer_norm(x + self.dropout(a))"
SECOND = "self.output_layer_norm(h + self.dropout(f))"
BODY = f"""        h = {FIRST}
        f = self.intermediate_dense(h)
        f = self.activation(f)
        f = self.output_dense(f)
        return {SECOND}
"""


def body(first: str, second: str) -> tuple[str, str]:
    return BODY, BODY.replace(FIRST, first).replace(SECOND, second)


WRONG = [
    ("x + self.dropout(a)", "self.dropout(a)", "without the residual around attention"),
    ("h + self.dropout(f)", "self.dropout(f)", "without the residual around the feed-forward"),
    (*body("self.attention_layer_norm(self.dropout(a))", "self.output_layer_norm(self.dropout(f))"),
     "without both residuals"),
    (*body("x + self.attention_layer_norm(self.dropout(a))",
           "h + self.output_layer_norm(self.dropout(f))"), "residual is added after LayerNorm"),
    (BODY, "        h = x + self.dropout(self.attention_dense(self.self_attention("
     "self.attention_layer_norm(x), mask)))\n"
     "        f = self.activation(self.intermediate_dense(self.output_layer_norm(h)))\n"
     "        return h + self.dropout(self.output_dense(f))\n", "first sum into"),
    ("self.dropout(a)", "nn.functional.dropout(a, self.dropout.p)", "first sum into"),
    ("self.self_attention(x, mask)", "self.self_attention(x, mask, self.dropout.p)", "TypeError"),
    ("x + self.dropout(a)", "x.add_(self.dropout(a))", "changed its input `hidden_states`"),
    ("        x = hidden_states\n", "        x = hidden_states.detach()\n", "gradient of hidden_states"),
    ("return self.output", "self.output", "is a `return` missing"),
    ("        f = self.intermediate_dense(h)\n", "        f = self.intermediate_dense(self.dropout(h))\n",
     "share of 0 in h into intermediate_dense"),
    ("        f = self.activation(f)\n", "        f = self.dropout(self.activation(f))\n",
     "share of 0 in act(W_1 · h)"),
    ("        a = self.attention_dense(a)\n", "        a = self.dropout(self.attention_dense(a))\n",
     "share of 0 in what is added to x: yours 0.4"),
    ("        self.activation = ACTIVATIONS[activation]\n", "        self.activation = nn.ReLU()\n",
     "act(W_1 · h)"),
    ("num_heads, attention_dropout)", "num_heads, dropout)", "dropout of self_attention: yours 0.5"),
    ("self.self_attention(x, mask)", "self.self_attention(x, None if self.training else mask)",
     "output at real tokens in training mode"),
]
